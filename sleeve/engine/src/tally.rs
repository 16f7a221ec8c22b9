//! Counters of drops and traffic, and the log lines that go with drops.

use std::array;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use weft_wire::DropReason;
use weft_wire::api::Traffic;

/// One counter per reason, and when its last line was logged.
pub(crate) struct Tally {
    drops: [AtomicU64; DropReason::COUNT],
    /// Second since `start` in which the reason was last logged, plus one; 0 for never.
    logged: [AtomicU64; DropReason::COUNT],
    start: Instant,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            drops: array::from_fn(|_| AtomicU64::new(0)),
            logged: array::from_fn(|_| AtomicU64::new(0)),
            start: Instant::now(),
        }
    }

    /// Counts a drop and logs it, at most once a second per reason. `other` is the far end, where there is one.
    pub(crate) fn drop(&self, reason: DropReason, other: Option<SocketAddr>) {
        self.drop_many(reason, 1, other);
    }

    /// The same for several at once.
    pub(crate) fn drop_many(&self, reason: DropReason, count: u64, other: Option<SocketAddr>) {
        let (Some(drops), Some(logged)) = (self.drops.get(reason as usize), self.logged.get(reason as usize))
        else {
            return;
        };
        let total = drops.fetch_add(count, Relaxed) + count;
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let second = self.start.elapsed().as_secs() + 1;
        if logged.swap(second, Relaxed) != second {
            let other = other.map(tracing::field::display);
            tracing::debug!(
                reason = reason.label(),
                total,
                other,
                "dropped: {}",
                reason.describe()
            );
        }
    }

    pub(crate) fn drops(&self) -> [u64; DropReason::COUNT] {
        array::from_fn(|i| self.drops.get(i).map_or(0, |n| n.load(Relaxed)))
    }
}

/// Frames exchanged with one peer, under all its sessions.
#[derive(Default)]
pub(crate) struct PeerTraffic {
    tx_frames: AtomicU64,
    tx_bytes: AtomicU64,
    rx_frames: AtomicU64,
    rx_bytes: AtomicU64,
    tx_fragmented: AtomicU64,
    rx_reassembled: AtomicU64,
}

impl PeerTraffic {
    pub(crate) fn sent(&self, frames: u64, octets: usize) {
        self.tx_frames.fetch_add(frames, Relaxed);
        self.tx_bytes.fetch_add(octets as u64, Relaxed);
    }

    pub(crate) fn received(&self, frames: u64, octets: usize) {
        self.rx_frames.fetch_add(frames, Relaxed);
        self.rx_bytes.fetch_add(octets as u64, Relaxed);
    }

    /// A frame that was counted as sent went in pieces.
    pub(crate) fn fragmented(&self) {
        self.tx_fragmented.fetch_add(1, Relaxed);
    }

    /// A frame that was counted as received came in pieces.
    pub(crate) fn reassembled(&self) {
        self.rx_reassembled.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> Traffic {
        Traffic {
            tx_frames: self.tx_frames.load(Relaxed),
            tx_bytes: self.tx_bytes.load(Relaxed),
            rx_frames: self.rx_frames.load(Relaxed),
            rx_bytes: self.rx_bytes.load(Relaxed),
            tx_fragmented: self.tx_fragmented.load(Relaxed),
            rx_reassembled: self.rx_reassembled.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let tally = Tally::new();
        for (times, reason) in DropReason::ALL.iter().enumerate() {
            for _ in 0..times {
                tally.drop(*reason, None);
            }
        }
        let expected: [u64; DropReason::COUNT] = array::from_fn(|i| i as u64);
        assert_eq!(tally.drops(), expected);
    }
}
