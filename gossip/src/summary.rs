//! What each end of a link says of all that it holds, when fingerprints show that this is not the same at both.
//!
//! A summary has eight octets for each record. The other end sends the records that it holds and the summary does not
//! have, and only those: two hosts that differ in one record of thousands exchange that one.

use crate::conn::Conn;
use crate::mesh::{ConnId, Mesh};
use crate::register::RegisterMap;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::Time;
use weft_wire::mesh::{Message, SUMMARY_MAX, Summary};

/// Records that one summary is meant for: half of what it can hold, as owners do not spread evenly.
const RECORDS_PER_SUMMARY: usize = SUMMARY_MAX / 2;
/// On one link everything is summarised, and summaries are listened to, at most so often: each makes a host look at every
/// record that it holds.
const INTERVAL: Duration = Duration::from_millis(500);

/// Where one link stands with what both ends say of all that they hold.
#[derive(Default)]
pub(crate) struct Summaries {
    /// The first octet of the owners that are to be summarised next.
    next: Option<u8>,
    /// When ours began last.
    begun: Option<Time>,
    /// The first octet that the other end's next summary must begin with: none is answered twice.
    awaited: u16,
    /// When the other end's began last.
    heard: Option<Time>,
}

impl Summaries {
    /// From now on everything is summarised.
    pub(crate) fn begin(&mut self) {
        self.next = Some(0);
    }

    pub(crate) fn is_due(&self) -> bool {
        self.next.is_some()
    }

    /// The next message.
    pub(crate) fn next(&mut self, now: Time, registers: &RegisterMap) -> Option<Message> {
        let first = self.next.take()?;
        if first == 0 {
            self.begun = Some(now);
        }
        let last = u16::from(first) + width(registers.len()) - 1;
        let last = u8::try_from(last).unwrap_or(u8::MAX);
        self.next = last.checked_add(1);
        let digests = digests(registers, first, last).map(|(_, digest)| digest);
        // What is left out here is sent to us although we have it.
        let digests = digests.take(SUMMARY_MAX).collect();
        Some(Message::Summary(Summary { first, last, digests }))
    }

    /// True when a summary is to be answered.
    fn listens(&mut self, now: Time, summary: &Summary) -> bool {
        let is_soon = |then: Time| now.since(then) < INTERVAL;
        let (first, last) = (u16::from(summary.first), u16::from(summary.last));
        if first == 0 && !self.heard.is_some_and(is_soon) {
            self.heard = Some(now);
        } else if first == 0 || first != self.awaited {
            return false;
        }
        self.awaited = last + 1;
        first <= last
    }
}

/// For how many first octets of owners one summary is.
fn width(records: usize) -> u16 {
    let summaries = records.div_ceil(RECORDS_PER_SUMMARY).clamp(1, 256);
    // 1 to 256.
    256 / summaries as u16
}

/// The digests of the owners from one first octet to another.
fn digests(
    registers: &RegisterMap,
    first: u8,
    last: u8,
) -> impl Iterator<Item = (&weft_wire::envelope::RegisterKey, [u8; 8])> {
    registers
        .digests()
        .filter(move |(key, _)| (first..=last).contains(&key.owner.0[0]))
}

impl Mesh {
    /// The other end holds this: what we hold beside it is sent, and when it holds more than we do we say so.
    pub(crate) fn on_summary(&mut self, now: Time, id: ConnId, summary: &Summary) {
        let Some(up) = self.conns.get_mut(&id).and_then(Conn::up_mut) else {
            return;
        };
        if !up.summaries.listens(now, summary) {
            return;
        }
        let is_removed = self.removed.contains_key(&up.session.peer.node);
        let theirs: BTreeSet<[u8; 8]> = summary.digests.iter().copied().collect();
        let mut common = 0;
        let mut missing = Vec::new();
        for (key, digest) in digests(&self.registers, summary.first, summary.last) {
            if theirs.contains(&digest) {
                common += 1;
                up.unmark(key);
            } else if Self::may_send(is_removed, &self.node, key) {
                missing.extend(self.registers.get(key));
            }
        }
        for envelope in missing {
            up.mark(envelope);
        }
        let is_soon = |then: Time| now.since(then) < INTERVAL;
        if common < theirs.len() && !up.summaries.is_due() && !up.summaries.begun.is_some_and(is_soon) {
            up.summaries.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::tests::{cluster, founder};
    use weft_wire::envelope::{KindNumber, Stamp};
    use weft_wire::{Envelope, NodeKey};

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    /// A record of each of so many owners.
    fn registers(owners: u8) -> RegisterMap {
        let keys: Vec<NodeKey> = (10..10 + owners).map(|n| NodeKey::from_seed([n; 32])).collect();
        let (mut membership, mut registers) = (cluster(&keys), RegisterMap::new());
        let stamp = Stamp {
            incarnation: 1,
            version: 1,
        };
        for key in keys.iter().chain([&founder()]) {
            let record = Envelope::sign(key, KindNumber(100), key.id(), stamp, b"").unwrap();
            registers.accept(record, &mut membership).unwrap();
        }
        registers
    }

    #[test]
    fn together_the_messages_tell_of_every_record_once() {
        let registers = registers(40);
        let mut summaries = Summaries::default();
        summaries.begin();
        let Some(Message::Summary(all)) = summaries.next(at(0), &registers) else {
            panic!("nothing is said");
        };
        assert_eq!((all.first, all.last, all.digests.len()), (0, 255, 41));
        assert!(!summaries.is_due());
        let mut parts: Vec<[u8; 8]> = Vec::new();
        for (first, last) in [(0, 99), (100, 100), (101, 255)] {
            parts.extend(digests(&registers, first, last).map(|(_, digest)| digest));
        }
        assert_eq!(
            parts.iter().collect::<BTreeSet<_>>(),
            all.digests.iter().collect()
        );
        assert_eq!(parts.len(), 41);
    }

    #[test]
    fn the_largest_map_fits() {
        assert_eq!((width(usize::MAX), width(0)), (1, 256));
        let all = weft_wire::limits::OWNERS_MAX * 8;
        assert!(all / 256 * usize::from(width(all)) <= SUMMARY_MAX);
    }

    #[test]
    fn no_part_is_answered_twice_and_none_out_of_turn() {
        let part = |first, last| Summary {
            first,
            last,
            digests: Vec::new(),
        };
        let mut summaries = Summaries::default();
        assert!(!summaries.listens(at(0), &part(5, 9)), "nothing has begun");
        assert!(summaries.listens(at(0), &part(0, 127)));
        assert!(!summaries.listens(at(1), &part(0, 127)), "again");
        assert!(!summaries.listens(at(1), &part(129, 255)), "one is left out");
        assert!(summaries.listens(at(1), &part(128, 255)));
        assert!(!summaries.listens(at(2), &part(128, 255)), "again");
        assert!(summaries.listens(at(600), &part(0, 255)), "the next time");
        assert!(!summaries.listens(at(1_200), &part(9, 0)), "backwards");
    }
}
