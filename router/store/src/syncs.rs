//! How long the disk takes to make something durable, and whether that is too long to wait for.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A disk whose syncs take longer is slow: whoever starts pods would notice.
pub const SLOW_ABOVE: Duration = Duration::from_millis(5);
/// A slow one is no longer when its syncs take less than this, well below [`SLOW_ABOVE`]: one near the limit must not
/// change back and forth.
pub const FAST_BELOW: Duration = Duration::from_millis(2);
/// Syncs of which the median counts: one that met something else on the disk says nothing.
pub const MEASURED: usize = 15;

/// What is known of the syncs of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncReport {
    /// Calls of fsync and fdatasync that the kernel has answered with success since the store was opened.
    pub count: u64,
    /// How long the last one took.
    pub last: Option<Duration>,
    /// Median of the last [`MEASURED`].
    pub median: Option<Duration>,
    /// True when they take too long to be waited for.
    pub is_slow: bool,
}

#[derive(Debug, Default)]
struct Measured {
    report: SyncReport,
    recent: VecDeque<Duration>,
}

impl Measured {
    /// Takes one more into account.
    fn add(&mut self, took: Duration) {
        if self.recent.len() == MEASURED {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied();
        let limit = if self.report.is_slow {
            FAST_BELOW
        } else {
            SLOW_ABOVE
        };
        self.report = SyncReport {
            count: self.report.count + 1,
            last: Some(took),
            median,
            // Fewer say nothing of the disk.
            is_slow: self.recent.len() == MEASURED && median > Some(limit),
        };
    }
}

/// Counts and measures the syncs of a store, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Syncs(Arc<Mutex<Measured>>);

impl Syncs {
    /// Calls of fsync and fdatasync that the kernel has answered with success since the store was opened.
    pub fn so_far(&self) -> u64 {
        self.report().count
    }

    /// All that is known.
    pub fn report(&self) -> SyncReport {
        self.lock().report
    }

    /// Does one sync and measures it.
    pub(crate) fn measured(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let begin = Instant::now();
        sync()?;
        self.lock().add(begin.elapsed());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(measured: &mut Measured, count: usize, took: Duration) -> bool {
        for _ in 0..count {
            measured.add(took);
        }
        measured.report.is_slow
    }

    #[test]
    fn a_disk_is_slow_when_most_of_its_syncs_are_and_fast_when_they_are_well_below() {
        let mut measured = Measured::default();
        assert!(!after(&mut measured, MEASURED - 1, 20 * MS), "too few to tell");
        assert!(after(&mut measured, 1, 20 * MS));
        // Just below the limit it stays as it is, from either side.
        assert!(after(&mut measured, MEASURED, 4 * MS));
        assert!(!after(&mut measured, MEASURED, MS));
        assert!(!after(&mut measured, MEASURED, 4 * MS));
        // Single ones do not count.
        assert!(!after(&mut measured, MEASURED / 2, 900 * MS));
        assert_eq!(measured.report.median, Some(4 * MS));
        assert_eq!(measured.report.last, Some(900 * MS));
        assert!(after(&mut measured, 1, 900 * MS));
    }
}
