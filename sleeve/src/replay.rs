//! Which counters of a session were seen: the sliding window of RFC 6479, exact to the bit.

use alloc::boxed::Box;
use alloc::vec;
use weft_wire::DropReason;

/// Counters that the window spans. 8 Gbit/s is some 700,000 datagrams a second: the window outlasts a switch
/// between paths that differ by 90 ms.
pub const WINDOW: u64 = 1 << 16;
const WORDS: usize = (WINDOW / 64) as usize;

/// Why a counter is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplayError {
    /// It was seen before.
    #[error("the counter was seen before")]
    Replayed,
    /// It is older than the window: whether it was seen is no longer known.
    #[error("the counter is older than the replay window")]
    TooOld,
}

impl From<ReplayError> for DropReason {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Replayed => DropReason::Replayed,
            ReplayError::TooOld => DropReason::TooOld,
        }
    }
}

/// The counters seen of one session and direction.
///
/// Ask [`check`](Self::check) before opening a datagram and [`commit`](Self::commit) after it opened: a forged
/// datagram must not move the window.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Bit `c % WINDOW` is set when counter `c`, of the last `WINDOW` up to `newest`, was seen.
    seen: Box<[u64]>,
    newest: Option<u64>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self {
            seen: vec![0; WORDS].into_boxed_slice(),
            newest: None,
        }
    }

    /// Greatest counter seen.
    pub const fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// Whether a datagram with this counter may be opened.
    pub fn check(&self, counter: u64) -> Result<(), ReplayError> {
        match self.newest {
            None => Ok(()),
            Some(newest) if counter > newest => Ok(()),
            Some(newest) if newest - counter >= WINDOW => Err(ReplayError::TooOld),
            Some(_) => {
                let (word, bit) = position(counter);
                if self.seen[word] & bit == 0 {
                    Ok(())
                } else {
                    Err(ReplayError::Replayed)
                }
            }
        }
    }

    /// Notes a counter whose datagram opened. Checks again, so that of two workers with the same datagram only
    /// one passes it on.
    pub fn commit(&mut self, counter: u64) -> Result<(), ReplayError> {
        self.check(counter)?;
        match self.newest {
            Some(newest) if counter <= newest => {}
            Some(newest) => {
                self.clear(newest, counter);
                self.newest = Some(counter);
            }
            None => self.newest = Some(counter),
        }
        let (word, bit) = position(counter);
        self.seen[word] |= bit;
        Ok(())
    }

    /// Clears the bits of the counters after `old` up to and including `new`.
    fn clear(&mut self, old: u64, new: u64) {
        if new - old >= WINDOW {
            self.seen.fill(0);
            return;
        }
        let mut at = old + 1;
        while at <= new {
            let (word, _) = position(at);
            let low = at % 64;
            let last = new.min(at | 63);
            let width = last - at + 1;
            let mask = if width == 64 {
                u64::MAX
            } else {
                ((1 << width) - 1) << low
            };
            self.seen[word] &= !mask;
            let Some(next) = last.checked_add(1) else {
                return;
            };
            at = next;
        }
    }
}

/// Word and bit of a counter; the word is below `WORDS` by the remainder.
const fn position(counter: u64) -> (usize, u64) {
    let slot = counter % WINDOW;
    ((slot / 64) as usize, 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Says in the plainest way what the window must do.
    #[derive(Default)]
    struct Naive(BTreeSet<u64>);

    impl Naive {
        fn commit(&mut self, counter: u64) -> Result<(), ReplayError> {
            if self
                .0
                .last()
                .is_some_and(|newest| newest.saturating_sub(counter) >= WINDOW)
            {
                return Err(ReplayError::TooOld);
            }
            if self.0.insert(counter) {
                Ok(())
            } else {
                Err(ReplayError::Replayed)
            }
        }
    }

    /// Steps of every size, forward and back, around the edges of words and of the window.
    fn step() -> impl Strategy<Value = i64> {
        let window = WINDOW as i64;
        prop_oneof![
            8 => -3i64..4,
            4 => -130i64..130,
            2 => (window - 66)..(window + 66),
            2 => (-window - 66)..(-window + 66),
            1 => -3 * window..3 * window,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn it_agrees_with_the_naive_set(
            start in prop_oneof![Just(0u64), 0..200_000u64, Just(u64::MAX - 100)],
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let (mut window, mut naive) = (ReplayWindow::new(), Naive::default());
            let mut at = start;
            for step in steps {
                at = at.saturating_add_signed(step);
                let expected = naive.commit(at);
                prop_assert_eq!(window.check(at), expected);
                prop_assert_eq!(window.commit(at), expected);
            }
        }
    }

    #[test]
    fn a_check_alone_changes_nothing() {
        let window = ReplayWindow::new();
        assert_eq!(window.check(1 << 40), Ok(()));
        assert_eq!(window.newest(), None);
        assert_eq!(window.check(0), Ok(()));
    }

    #[test]
    fn the_edges_of_the_window_are_exact() {
        let mut window = ReplayWindow::new();
        assert_eq!(window.commit(WINDOW), Ok(()));
        assert_eq!(window.check(0), Err(ReplayError::TooOld));
        assert_eq!(window.commit(1), Ok(()));
        assert_eq!(window.commit(1), Err(ReplayError::Replayed));
        assert_eq!(window.commit(u64::MAX), Ok(()));
        assert_eq!(window.commit(u64::MAX), Err(ReplayError::Replayed));
        assert_eq!(window.check(u64::MAX - WINDOW), Err(ReplayError::TooOld));
        assert_eq!(window.check(u64::MAX - WINDOW + 1), Ok(()));
    }
}
