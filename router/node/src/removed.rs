//! Members that were removed: others, or this host itself.
//!
//! The members decide it, by an epoch. It closes no session: what carries frames between this host and a removed one stays
//! until it ends by itself, and is then not made again. A host that learns of its own removal comes back as a new one.

use crate::again::Why;
use crate::node::Node;
use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::SocketAddr;
use weft_wire::record::{Body, PeerRecord};
use weft_wire::{NodeId, Time};

/// Members that a removed host asks to be let in.
const ASKED_MAX: usize = 16;

impl Node {
    /// An epoch was decided, or many at the start: the members may have decided to go on without some hosts.
    pub(crate) fn on_epoch(&mut self, now: Time) {
        let epochs = self.member.iter().flat_map(|member| member.ipam.state().epochs());
        let removed: BTreeSet<NodeId> = epochs
            .flat_map(|decided| decided.epoch.removed.iter().copied())
            .collect();
        if removed.is_empty() {
            return;
        }
        self.mesh
            .handle(now, weft_gossip::Input::Removed(removed.clone()));
        for peer in &removed {
            if self.paths.get(peer).is_none_or(|path| path.session.is_none()) {
                self.end_removed(now, *peer);
            }
        }
        if removed.contains(&self.id()) {
            self.is_removed = true;
            self.on_own_removal(now, &removed);
        }
    }

    /// No session with a removed host carries frames any longer, and none is made.
    pub(crate) fn end_removed(&mut self, now: Time, peer: NodeId) {
        self.forget_path(&peer);
        self.sleeve(now, weft_sleeve::Input::RemovePeer(peer));
    }

    /// The members have decided to go on without this host: it is to come back as a new one.
    fn on_own_removal(&mut self, now: Time, removed: &BTreeSet<NodeId>) {
        // Who goes for good has asked for it, and does not come back.
        if self.goes_for_good() || self.is_leaving() || self.comes_back() {
            return;
        }
        if self.config.token.is_none() {
            return self.warn(
                "this host was removed from the cluster, and has no join token to come back with. Its pods run on; \
                 `weft ipam adopt --peer HOST --token-file FILE` lets it join again"
                    .into(),
            );
        }
        self.warn(
            "this host was removed from the cluster. It joins again by itself, as a new host, and asks for the \
             addresses of its pods, which run on"
                .into(),
        );
        let own = self.id();
        let others = self.mesh.registers().of_kind(PeerRecord::KIND);
        let endpoints: Vec<SocketAddr> = others
            .filter(|record| record.key().owner != own && !removed.contains(&record.key().owner))
            .filter_map(|record| PeerRecord::from_envelope(record).ok()?.endpoints.first().copied())
            .take(ASKED_MAX)
            .collect();
        let mut targets = self.targets();
        targets.extend(endpoints.iter().map(ToString::to_string));
        self.begin_again(now, Why::Removed, None, targets);
    }
}
