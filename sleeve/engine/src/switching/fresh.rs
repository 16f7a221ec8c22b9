//! What was learned since the table was published.
//!
//! Learning goes by way of the router, which takes a moment. A sender that has just had its answer must not find its
//! frames treated as frames to an unknown address meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_sleeve::ForwardingTable;
use weft_wire::{Mac, NodeId};

/// Until then the table has it, or the router did not want it.
const KEPT: Duration = Duration::from_secs(2);
/// Addresses at once. More are learned in two seconds only by somebody who makes them up.
const ADDRESSES_MAX: usize = 1_024;

/// Foreign MAC addresses that were learned a moment ago.
#[derive(Default)]
pub(crate) struct Fresh {
    learned: Mutex<BTreeMap<Mac, (NodeId, Instant)>>,
    /// How many there are: the workers take no lock while there are none, which is nearly always.
    count: AtomicUsize,
}

impl Fresh {
    /// Notes that frames from `mac` come from `peer`.
    pub(crate) fn learn(&self, mac: Mac, peer: NodeId, now: Instant) {
        let mut learned = self.lock();
        if learned.len() >= ADDRESSES_MAX {
            learned.retain(|_, (_, at)| now.saturating_duration_since(*at) < KEPT);
        }
        if learned.len() < ADDRESSES_MAX || learned.contains_key(&mac) {
            learned.insert(mac, (peer, now));
        }
        self.count.store(learned.len(), Relaxed);
    }

    /// The peer behind which an address was seen a moment ago.
    pub(crate) fn find(&self, mac: Mac, now: Instant) -> Option<NodeId> {
        if self.is_empty() {
            return None;
        }
        self.lock()
            .get(&mac)
            .filter(|(_, at)| now.saturating_duration_since(*at) < KEPT)
            .map(|(peer, _)| *peer)
    }

    /// Forgets an address: it lives on this host now.
    pub(crate) fn forget(&self, mac: Mac) {
        if !self.is_empty() {
            let mut learned = self.lock();
            learned.remove(&mac);
            self.count.store(learned.len(), Relaxed);
        }
    }

    /// Forgets what a new table says as well, and what is old.
    pub(crate) fn published(&self, table: &ForwardingTable, now: Instant) {
        if self.is_empty() {
            return;
        }
        let mut learned = self.lock();
        learned.retain(|mac, (peer, at)| {
            let row = table
                .macs
                .get(mac)
                .and_then(|at| table.peers.get(usize::from(*at)));
            row.is_none_or(|row| row.peer != *peer) && now.saturating_duration_since(*at) < KEPT
        });
        self.count.store(learned.len(), Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Mac, (NodeId, Instant)>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_sleeve::PeerPath;
    use weft_wire::PeerHash;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([6, 0, a, b, c, d])
    }

    #[test]
    fn what_was_learned_holds_until_the_table_has_it() {
        let fresh = Fresh::default();
        let now = Instant::now();
        let mut table = ForwardingTable::empty(PeerHash([0; 8]));
        table.peers = vec![PeerPath {
            peer: A,
            hash: A.peer_hash(),
            session: None,
            endpoint: None,
            by_relay: false,
            datagram: 1_232,
        }];
        table.macs = [(mac(1), 0)].into();
        fresh.learn(mac(1), B, now);
        fresh.learn(mac(2), A, now);
        fresh.published(&table, now);
        assert_eq!(
            fresh.find(mac(1), now),
            Some(B),
            "the table is older than the move"
        );
        assert_eq!(fresh.find(mac(2), now), Some(A));
        fresh.forget(mac(2));
        assert_eq!(fresh.find(mac(2), now), None);
        fresh.learn(mac(1), A, now);
        fresh.published(&table, now);
        assert_eq!(fresh.find(mac(1), now), None, "the table says it");
        fresh.learn(mac(1), B, now);
        assert_eq!(fresh.find(mac(1), now + KEPT), None, "nobody wanted it");
    }

    #[test]
    fn it_is_bounded() {
        let fresh = Fresh::default();
        let now = Instant::now();
        for n in 0..2 * ADDRESSES_MAX as u32 {
            fresh.learn(mac(n), A, now);
        }
        assert_eq!(fresh.lock().len(), ADDRESSES_MAX);
        fresh.learn(mac(0), B, now);
        assert_eq!(fresh.find(mac(0), now), Some(B), "known ones may still move");
        fresh.learn(mac(u32::MAX), A, now + KEPT);
        assert_eq!(fresh.lock().len(), 1);
    }
}
