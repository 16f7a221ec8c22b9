//! Members that were removed.
//!
//! Nothing that such a host writes is merged or passed on, and it is not dialled. Links from it are taken, since it may
//! not know yet: over them go direct messages, and the one record of either end that shows which decisions it knows.
//! Its admission stays, so that those whom it admitted stay members.

use crate::conn::Conn;
use crate::mesh::{ConnId, Mesh, MeshEvent};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use weft_wire::envelope::RegisterKey;
use weft_wire::ipam::VoteRecord;
use weft_wire::record::{Admission, Body, PeerRecord};
use weft_wire::{Envelope, NodeId};

impl Mesh {
    /// These hosts are members no longer, and never again.
    pub(crate) fn on_removed(&mut self, nodes: &BTreeSet<NodeId>) {
        for node in nodes {
            if *node == self.node || self.removed.contains_key(node) {
                continue;
            }
            let key = RegisterKey {
                kind: PeerRecord::KIND,
                owner: *node,
            };
            self.removed.insert(*node, self.registers.get(&key).cloned());
            self.dialer.forget_peer(node);
            for key in self.registers.forget(node) {
                for up in self.conns.values_mut().filter_map(Conn::up_mut) {
                    up.unmark(&key);
                }
            }
            self.durability.is_stale = true;
        }
        let gone: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| {
                conn.up()
                    .is_some_and(|up| self.removed.contains_key(&up.session.peer.node))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(up) = self.conns.get_mut(&id).and_then(Conn::up_mut) {
                up.later.clear();
                up.dirty.clear();
            }
            // It may be one that does not know: this is how it sees that there is something to ask for.
            self.begin_exchange(id);
        }
        self.dialer.look_again();
    }

    /// True when this host was removed.
    pub fn is_removed(&self, node: &NodeId) -> bool {
        self.removed.contains_key(node)
    }

    /// The nickname that a removed host had.
    pub fn removed_name(&self, node: &NodeId) -> Option<String> {
        let record = self.removed.get(node)?.as_ref()?;
        let record = PeerRecord::from_envelope(record).ok()?;
        Some(record.name).filter(|name| !name.is_empty())
    }

    /// True when a record may go to this host: all, unless it was removed.
    pub(crate) fn may_send(removed: bool, own: &NodeId, key: &RegisterKey) -> bool {
        !removed || (key.kind == VoteRecord::KIND && key.owner == *own)
    }

    /// Takes what a removed host sends: its own vote is shown, nothing is kept.
    pub(crate) fn on_records_of_removed(&mut self, peer: &NodeId, records: Vec<Envelope>) {
        for envelope in records {
            let key = envelope.key();
            if key.kind == VoteRecord::KIND && key.owner == *peer && envelope.is_signed_by(peer) {
                self.event(MeshEvent::RecordOfRemoved(envelope));
            }
        }
    }

    /// True for a record that is no longer merged, whoever brings it.
    pub(crate) fn is_of_removed(&self, key: &RegisterKey) -> bool {
        key.kind != Admission::KIND && self.removed.contains_key(&key.owner)
    }
}
