//! Which records go where.
//!
//! A changed record is marked on every link except the one it came from. A link that finds the other end's
//! fingerprint different at its start, or twice in a row with nothing left to send, marks everything.

use crate::conn::{Conn, Up};
use crate::mesh::{ConnId, Mesh, MeshEvent};
use crate::register::Outcome;
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::envelope::RegisterKey;
use weft_wire::limits::RECORDS_PER_MESSAGE;
use weft_wire::mesh::{DIRECT_MAX, Message};
use weft_wire::record::{Admission, Body, PeerRecord};
use weft_wire::{Envelope, NodeId, RejectReason, Time};

/// Heartbeats in a row that may differ before everything is sent again: one may cross a change.
const MISMATCHES_MAX: u8 = 2;
/// Longest wait between two resynchronisations of one link that do not help: two hosts that disagree for good
/// (one has reached a quota) must not fill the link.
const RESYNC_WAIT_MAX: Duration = Duration::from_secs(60);

impl Mesh {
    /// A register has a new record, which came by `from`.
    pub(crate) fn note_change(&mut self, key: RegisterKey, from: Option<ConnId>) {
        let Some(envelope) = self.registers.get(&key) else {
            return;
        };
        for (id, conn) in &mut self.conns {
            if let Some(up) = conn.up_mut() {
                if Some(*id) == from {
                    up.unmark(&key);
                } else {
                    up.mark(envelope);
                }
            }
        }
        if key.kind == Admission::KIND || key.kind == PeerRecord::KIND {
            self.durability.is_stale = true;
        }
        self.event(MeshEvent::RecordChanged { key });
    }

    pub(crate) fn on_records(&mut self, now: Time, id: ConnId, records: Vec<Envelope>) {
        for envelope in records {
            let key = envelope.key();
            let copied = self.shows_copy(&envelope);
            let Some(membership) = &mut self.membership else {
                return;
            };
            match self.registers.accept(envelope, membership) {
                Ok(Outcome::Changed) => {
                    self.note_change(key, Some(id));
                    if copied {
                        let remote = self.conns.get(&id).and_then(|c| c.remote);
                        self.event(MeshEvent::CopiedIdentity {
                            node: key.owner,
                            remote,
                        });
                    }
                }
                Ok(outcome) => {
                    let held = self.registers.get(&key);
                    if let (Some(up), Some(held)) = (self.conns.get_mut(&id).and_then(Conn::up_mut), held) {
                        match outcome {
                            // The other end is behind.
                            Outcome::Older => up.mark(held),
                            Outcome::Known | Outcome::Changed => up.unmark(&key),
                        }
                    }
                }
                Err(error) if error.is_senders_fault() => {
                    return self.close(now, id, RejectReason::BadRecord);
                }
                Err(_) => self.refusals[RejectReason::BadRecord as usize] += 1,
            }
        }
    }

    /// True when a record can only come from a second process with its owner's identity: one of this host that it
    /// has not written, or one that names another boot nonce at the same incarnation.
    fn shows_copy(&self, envelope: &Envelope) -> bool {
        let (key, stamp) = (envelope.key(), envelope.stamp());
        if key.owner == self.node {
            return key.kind != Admission::KIND && stamp > self.own_stamp(key.kind);
        }
        if key.kind != PeerRecord::KIND {
            return false;
        }
        let (Some(held), Ok(new)) = (self.registers.get(&key), PeerRecord::from_envelope(envelope)) else {
            return false;
        };
        held.stamp().incarnation == stamp.incarnation
            && PeerRecord::from_envelope(held).is_ok_and(|held| held.boot_nonce != new.boot_nonce)
    }

    /// Queues a direct message on a link to one member, if one stands.
    pub(crate) fn send_to(&mut self, to: &NodeId, bytes: Vec<u8>) {
        let link = self.ups_to(to).map(|(id, _)| id).next();
        if bytes.len() > DIRECT_MAX {
            return;
        }
        if let Some(up) = link.and_then(|id| self.conns.get_mut(&id)).and_then(Conn::up_mut) {
            up.say(bytes);
        }
    }

    /// Compares the other end's fingerprint with ours.
    pub(crate) fn compare(&mut self, now: Time, id: ConnId, theirs: &[u8; 16]) {
        let equal = *theirs == self.registers.fingerprint();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let idle = conn.in_flight.is_none();
        let Some(up) = conn.up_mut() else {
            return;
        };
        let first = !core::mem::replace(&mut up.compared, true);
        if equal {
            up.mismatches = 0;
            up.resync_wait = Duration::ZERO;
            return;
        }
        if first {
            return self.mark_all(id);
        }
        if !up.dirty.is_empty() || !idle {
            up.mismatches = 0;
            return;
        }
        up.mismatches = up.mismatches.saturating_add(1);
        if up.mismatches >= MISMATCHES_MAX && now >= up.resync_after {
            up.mismatches = 0;
            up.resync_wait = (up.resync_wait * 2).clamp(Duration::from_secs(1), RESYNC_WAIT_MAX);
            up.resync_after = now + up.resync_wait;
            self.mark_all(id);
        }
    }

    fn mark_all(&mut self, id: ConnId) {
        if let Some(up) = self.conns.get_mut(&id).and_then(Conn::up_mut) {
            for (_, envelope) in self.registers.iter() {
                up.mark(envelope);
            }
        }
    }

    /// The next records for a link, taken off its list.
    pub(crate) fn next_records(registers: &crate::register::RegisterMap, up: &mut Up) -> Option<Message> {
        let mut records = Vec::new();
        while records.len() < RECORDS_PER_MESSAGE
            && let Some((_, key)) = up.dirty.pop_first()
        {
            records.extend(registers.get(&key).cloned());
        }
        (!records.is_empty()).then_some(Message::Records(records))
    }
}
