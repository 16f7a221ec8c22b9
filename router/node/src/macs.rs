//! Where MAC addresses live, as traffic taught it.

use alloc::collections::BTreeMap;
use core::time::Duration;
use weft_wire::limits::LEARNED_MACS_MAX;
use weft_wire::{Mac, NodeId, Time};

/// An address from which nothing came for so long is forgotten: the ageing time of an IEEE 802.1Q bridge (§8.8.3).
/// The engine repeats what it sees once a minute.
pub const AGEING: Duration = Duration::from_secs(300);
/// How often ageing is looked at.
pub const AGEING_INTERVAL: Duration = Duration::from_secs(15);

struct Entry {
    peer: NodeId,
    seen: Time,
}

/// Addresses behind other hosts, at most [`LEARNED_MACS_MAX`]: for foreign ones the only word on where they live, for
/// weft MACs the list of those in use, which the bridge shall send to the TAP.
#[derive(Default)]
pub struct MacTable {
    entries: BTreeMap<Mac, Entry>,
    refused: u64,
}

impl MacTable {
    /// Notes that frames from `mac` come from `peer`. True when that changes where frames to it go.
    ///
    /// In a full table a new address is not learned: frames to it are flooded, which is right, only dearer.
    pub fn learn(&mut self, now: Time, mac: Mac, peer: NodeId) -> bool {
        if !mac.is_valid_source() {
            return false;
        }
        let full = self.entries.len() >= LEARNED_MACS_MAX;
        match self.entries.get_mut(&mac) {
            Some(entry) => {
                let moved = entry.peer != peer;
                *entry = Entry { peer, seen: now };
                moved
            }
            None if full => {
                self.refused = self.refused.saturating_add(1);
                false
            }
            None => {
                self.entries.insert(mac, Entry { peer, seen: now });
                true
            }
        }
    }

    /// Notes that the kernel sends frames to this address; behind which peer it lives, if that is known.
    pub fn touch(&mut self, now: Time, mac: Mac) -> Option<NodeId> {
        let entry = self.entries.get_mut(&mac)?;
        entry.seen = now;
        Some(entry.peer)
    }

    /// Forgets an address: it lives on this host now. True when it was known.
    pub fn forget(&mut self, mac: Mac) -> bool {
        self.entries.remove(&mac).is_some()
    }

    /// Forgets every address for which `is_stale` holds. True when there was one.
    pub fn forget_all(&mut self, is_stale: impl Fn(Mac) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|mac, _| !is_stale(*mac));
        self.entries.len() != before
    }

    /// Forgets what is older than [`AGEING`]. True when something was.
    pub fn age(&mut self, now: Time) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| now.since(entry.seen) < AGEING);
        self.entries.len() != before
    }

    /// Every address with the peer behind which it lives, in order of address.
    pub fn iter(&self) -> impl Iterator<Item = (Mac, NodeId)> + '_ {
        self.entries.iter().map(|(mac, entry)| (*mac, entry.peer))
    }

    /// How many addresses were not learned because the table was full.
    pub fn refused(&self) -> u64 {
        self.refused
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

    #[test]
    fn an_address_is_learned_moves_and_ages() {
        let mut table = MacTable::default();
        let t0 = Time::ZERO;
        assert!(table.learn(t0, mac(1), A));
        assert!(!table.learn(t0 + AGEING / 2, mac(1), A), "nothing new");
        assert!(!table.age(t0 + AGEING), "it was seen again in between");
        assert!(table.learn(t0 + AGEING, mac(1), B), "it moved");
        assert_eq!(table.iter().collect::<Vec<_>>(), [(mac(1), B)]);
        assert_eq!(table.touch(t0 + AGEING * 3 / 2, mac(1)), Some(B));
        assert_eq!(table.touch(t0, mac(2)), None);
        assert!(!table.age(t0 + AGEING * 2), "the kernel sends frames there");
        assert!(table.age(t0 + AGEING * 3));
        assert_eq!(table.iter().count(), 0);
        assert!(!table.learn(t0, Mac::BROADCAST, A), "a group address is nobody's");
    }

    #[test]
    fn a_full_table_keeps_what_it_has() {
        let mut table = MacTable::default();
        for n in 0..LEARNED_MACS_MAX as u32 + 10 {
            table.learn(Time::ZERO, mac(n), A);
        }
        assert_eq!(table.iter().count(), LEARNED_MACS_MAX);
        assert_eq!(table.refused(), 10);
        assert!(table.learn(Time::ZERO, mac(3), B), "known ones may still move");
        assert!(table.forget(mac(3)) && !table.forget(mac(3)));
        assert!(table.learn(Time::ZERO, mac(u32::MAX), A), "there is room again");
        assert!(table.forget_all(|other| other == mac(5)) && !table.forget_all(|other| other == mac(5)));
    }
}
