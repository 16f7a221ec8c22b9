//! Which records go where.
//!
//! A host sends what it writes on each of its links. Others pass a record on only to hosts that do not hear its writer
//! themselves: in a full mesh a change costs one frame for each host, not one for each pair. What gets lost with a
//! breaking link is sent again when the writer's links record says that the link is gone. All else is found by
//! fingerprints: where they differ at the start of a link, or later while both ends stand still, each end says what it
//! holds (`summary`), and the other sends what that leaves out.

use crate::conn::{Conn, Unless, Up};
use crate::mesh::{ConnId, Mesh, MeshEvent};
use crate::register::Outcome;
use crate::topology::Topology;
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::envelope::RegisterKey;
use weft_wire::limits::RECORDS_PER_MESSAGE;
use weft_wire::mesh::Message;
use weft_wire::record::{Admission, Body, LinksRecord, PeerRecord};
use weft_wire::{Envelope, NodeId, RejectReason, Time};

/// So long a record waits that the other end may soon have from somebody else, or show to have. Meanwhile others that go
/// the same way come together, and most need not be sent at all. Over the few hops of a mesh people do not notice.
const LATER: Duration = Duration::from_millis(50);
/// So long at most a record waits whose writer has just started and not yet said who hears it, which it does
/// [`GATHER`](crate::liveness::GATHER) after its first link. Else every host would pass the record on to every other.
const LATER_UNKNOWN: Duration = Duration::from_millis(1_500);
/// Heartbeats in a row that may differ while both ends stand still before all is compared again.
const MISMATCHES_MAX: u8 = 2;
/// Heartbeats in a row that may differ while something changes all the time: in a busy cluster a change is often
/// under way when fingerprints are compared, but a record that got lost must not wait for quiet for ever.
const DIFFERENCES_MAX: u8 = 10;
/// Longest wait between two resynchronisations of one link that do not help: two hosts that disagree for good
/// (one has reached a quota) must not fill the link.
const RESYNC_WAIT_MAX: Duration = Duration::from_secs(60);

impl Mesh {
    /// A register has a new record, which came by `from`.
    pub(crate) fn note_change(&mut self, key: RegisterKey, from: Option<ConnId>) {
        let Some(envelope) = self.registers.get(&key) else {
            return;
        };
        let writer = writer(envelope);
        let incarnation = envelope.stamp().incarnation;
        for (id, conn) in &mut self.conns {
            let Some(up) = conn.up_mut() else {
                continue;
            };
            let node = &up.session.peer.node;
            if !Self::may_send(self.removed.contains_key(node), &self.node, &key) {
                continue;
            }
            if Some(*id) == from {
                up.unmark(&key);
            } else if writer == self.node {
                up.mark(envelope);
            } else if !self.topology.hears(node, &writer, incarnation) {
                up.mark_later(key, Unless::Heard);
            }
        }
        if key.kind == LinksRecord::KIND {
            self.note_links(key.owner);
        }
        if key.kind == Admission::KIND || key.kind == PeerRecord::KIND {
            self.durability.is_stale = true;
            self.dialer.look_again();
        }
        self.event(MeshEvent::RecordChanged { key });
    }

    /// A host's links have changed: who is no longer its neighbour may have missed something.
    fn note_links(&mut self, host: NodeId) {
        let key = RegisterKey {
            kind: LinksRecord::KIND,
            owner: host,
        };
        let Some(envelope) = self.registers.get(&key) else {
            return;
        };
        let Ok(record) = LinksRecord::from_envelope(envelope) else {
            return;
        };
        let lost = self.topology.update(host, envelope.stamp().incarnation, &record);
        for up in self.conns.values_mut().filter_map(Conn::up_mut) {
            for envelope in self.registers.of_owner(&host) {
                up.look_again(&envelope.key());
            }
        }
        if lost.is_empty() || host == self.node {
            return;
        }
        for up in self.conns.values_mut().filter_map(Conn::up_mut) {
            let node = &up.session.peer.node;
            if lost.binary_search(node).is_ok() && !self.removed.contains_key(node) {
                for envelope in self.registers.of_owner(&host) {
                    up.mark_later(envelope.key(), Unless::Shown);
                }
            }
        }
    }

    /// Looks at what has waited long enough, and sends what must be sent.
    pub(crate) fn later_due(&mut self, now: Time) {
        for up in self.conns.values_mut().filter_map(Conn::up_mut) {
            if core::mem::take(&mut up.later_is_new) {
                for (key, later) in up.later.iter_mut().filter(|(_, later)| later.until.is_none()) {
                    let held = self.registers.get(key);
                    let wait = held.map_or(LATER, |envelope| self.topology.wait(envelope, later.unless));
                    later.until = Some(now + wait);
                }
                up.later_due = up.first_later();
            }
            if now < up.later_due {
                continue;
            }
            for (key, unless) in up.take_due(now) {
                let Some(envelope) = self.registers.get(&key) else {
                    continue;
                };
                let (node, incarnation) = (&up.session.peer.node, envelope.stamp().incarnation);
                if unless != Unless::Heard || !self.topology.hears(node, &writer(envelope), incarnation) {
                    up.mark(envelope);
                }
            }
        }
    }

    pub(crate) fn on_records(&mut self, now: Time, id: ConnId, records: Vec<Envelope>) {
        let peer = self.conns.get(&id).and_then(Conn::peer).map(|peer| peer.node);
        if let Some(peer) = peer.filter(|peer| self.removed.contains_key(peer)) {
            return self.on_records_of_removed(&peer, records);
        }
        for envelope in records {
            let key = envelope.key();
            if self.is_of_removed(&key) {
                continue;
            }
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

    /// Compares the other end's fingerprint with ours.
    pub(crate) fn compare(&mut self, now: Time, id: ConnId, theirs: &[u8; 16]) {
        let ours = self.registers.fingerprint();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let idle = conn.in_flight.is_none();
        let Some(up) = conn.up_mut() else {
            return;
        };
        let seen = up.fingerprints.replace((ours, *theirs));
        if ours == *theirs {
            up.mismatches = 0;
            up.differences = 0;
            up.resync_wait = Duration::ZERO;
            return;
        }
        if seen.is_none() {
            return self.begin_exchange(id);
        }
        up.differences = up.differences.saturating_add(1);
        let still = seen == up.fingerprints && up.dirty.is_empty() && up.later.is_empty() && idle;
        up.mismatches = if still { up.mismatches.saturating_add(1) } else { 0 };
        let is_due = up.mismatches >= MISMATCHES_MAX || up.differences >= DIFFERENCES_MAX;
        if is_due && now >= up.resync_after {
            up.mismatches = 0;
            up.differences = 0;
            up.resync_wait = (up.resync_wait * 2).clamp(Duration::from_secs(1), RESYNC_WAIT_MAX);
            up.resync_after = now + up.resync_wait;
            self.begin_exchange(id);
        }
    }

    /// Both ends come here at the same time, and say what they hold. A member that was removed only gets the one record
    /// that tells it so.
    pub(crate) fn begin_exchange(&mut self, id: ConnId) {
        let Some(up) = self.conns.get_mut(&id).and_then(Conn::up_mut) else {
            return;
        };
        if self.removed.contains_key(&up.session.peer.node) {
            let own = self.registers.of_owner(&self.node);
            for envelope in own.filter(|envelope| Self::may_send(true, &self.node, &envelope.key())) {
                up.mark(envelope);
            }
        } else {
            up.summaries.begin();
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

impl Topology {
    /// How long a record of another host waits.
    fn wait(&self, envelope: &Envelope, unless: Unless) -> Duration {
        let incarnation = envelope.stamp().incarnation;
        // Others find a newcomer by its admission, which has incarnation 0, and by the records of its first process.
        let is_newcomers = incarnation <= 1;
        match unless {
            Unless::Heard if !is_newcomers && !self.knows(&writer(envelope), incarnation) => LATER_UNKNOWN,
            Unless::Heard | Unless::Shown => LATER,
        }
    }
}

/// Who wrote a record, and so sends it to its neighbours: the owner, but for an admission the host that admitted.
fn writer(envelope: &Envelope) -> NodeId {
    Admission::from_envelope(envelope).map_or(envelope.key().owner, |admission| admission.admitter)
}
