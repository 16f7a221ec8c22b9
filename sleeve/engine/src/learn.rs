//! Which source addresses were reported lately.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use weft_wire::limits::LEARNED_MACS_MAX;
use weft_wire::{Mac, NodeId};

/// An address in use is reported again after this time, so that whoever keeps it knows that it lives.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// One that the table does not have is reported again after this time: the router may have forgotten it meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A full memory is searched for old entries no more often than this.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// Remembers what was reported, at most [`LEARNED_MACS_MAX`] addresses.
pub(crate) struct Learner {
    reported: HashMap<Mac, (NodeId, Instant)>,
    purged: Option<Instant>,
}

impl Learner {
    pub(crate) fn new() -> Self {
        // Room for all from the start: no allocation while packets flow.
        Self {
            reported: HashMap::with_capacity(LEARNED_MACS_MAX),
            purged: None,
        }
    }

    /// Calls `report` if frames with source `mac` from `peer` are news; they stay news when it returns false.
    /// `is_known` says whether the table has the address there.
    pub(crate) fn saw(
        &mut self,
        mac: Mac,
        peer: NodeId,
        is_known: bool,
        now: Instant,
        report: impl FnOnce() -> bool,
    ) {
        if let Some((reported, at)) = self.reported.get_mut(&mac) {
            let interval = if is_known { REPORT_INTERVAL } else { RETRY_INTERVAL };
            let fresh = now.saturating_duration_since(*at) < interval;
            if !(fresh && *reported == peer) && report() {
                (*reported, *at) = (peer, now);
            }
        } else if self.has_room(now) && report() {
            self.reported.insert(mac, (peer, now));
        }
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.reported.len() < LEARNED_MACS_MAX {
            return true;
        }
        if self
            .purged
            .is_none_or(|at| now.saturating_duration_since(at) >= PURGE_INTERVAL)
        {
            self.purged = Some(now);
            self.reported
                .retain(|_, (_, at)| now.saturating_duration_since(*at) < REPORT_INTERVAL);
        }
        self.reported.len() < LEARNED_MACS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    fn reports(learner: &mut Learner, mac: Mac, peer: NodeId, now: Instant) -> bool {
        let mut called = false;
        learner.saw(mac, peer, true, now, || {
            called = true;
            true
        });
        called
    }

    #[test]
    fn new_moved_and_old_addresses_are_news() {
        let mut learner = Learner::new();
        let now = Instant::now();
        assert!(reports(&mut learner, mac(1), A, now));
        assert!(!reports(&mut learner, mac(1), A, now));
        assert!(reports(&mut learner, mac(1), B, now));
        assert!(!reports(&mut learner, mac(1), B, now + REPORT_INTERVAL / 2));
        assert!(reports(&mut learner, mac(1), B, now + REPORT_INTERVAL));
    }

    #[test]
    fn what_the_table_lost_is_reported_again() {
        let mut learner = Learner::new();
        let now = Instant::now();
        let mut reports = |is_known, now| {
            let mut called = false;
            learner.saw(mac(1), A, is_known, now, || {
                called = true;
                true
            });
            called
        };
        assert!(reports(false, now));
        assert!(!reports(false, now + RETRY_INTERVAL / 2));
        assert!(!reports(true, now + RETRY_INTERVAL));
        assert!(reports(false, now + RETRY_INTERVAL));
    }

    #[test]
    fn a_lost_report_is_repeated() {
        let mut learner = Learner::new();
        let now = Instant::now();
        learner.saw(mac(1), A, true, now, || false);
        assert!(reports(&mut learner, mac(1), A, now));
        learner.saw(mac(1), B, true, now, || false);
        assert!(reports(&mut learner, mac(1), B, now));
    }

    #[test]
    fn the_memory_is_bounded_and_old_entries_make_room() {
        let mut learner = Learner::new();
        let now = Instant::now();
        for n in 0..LEARNED_MACS_MAX as u32 {
            assert!(reports(&mut learner, mac(n), A, now));
        }
        assert!(!reports(&mut learner, mac(u32::MAX), A, now));
        assert_eq!(learner.reported.len(), LEARNED_MACS_MAX);
        assert!(reports(&mut learner, mac(u32::MAX), A, now + REPORT_INTERVAL));
        assert_eq!(learner.reported.len(), 1);
    }
}
