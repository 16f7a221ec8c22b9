//! Messages between members that have no link to each other: others pass them on.
//!
//! A link proves who its other end is, and not who is behind that, so such a message carries the signature of its sender. It
//! goes where the published links lead, host by host, and each host decides anew: a message that meets a link which has
//! just broken is lost, as it may be, and whoever sent it asks again. A host passes one message on for one that it received, never
//! back to where it came from, and the hops are counted: so there is no storm whatever the hosts believe of their links.

use crate::conn::{Conn, PASS_QUEUE_MAX};
use crate::membership::Membership;
use crate::mesh::{ConnId, Mesh, MeshEvent};
use crate::routes::Routes;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::envelope::RegisterKey;
use weft_wire::mesh::{DIRECT_MAX, PASSED_MAX, Passed};
use weft_wire::record::{Body, PeerRecord};
use weft_wire::{DropReason, NodeId, Time};

/// Routes are found again at most so often: while many hosts start their links change all the time.
const ROUTES_INTERVAL: Duration = Duration::from_millis(200);

/// The routes that were needed last, what they were made from, and what was not passed on.
#[derive(Default)]
pub(crate) struct Passing {
    topology: u64,
    usable: BTreeSet<NodeId>,
    routes: Routes,
    /// When routes may be found again.
    earliest: Time,
    drops: BTreeMap<DropReason, u64>,
}

impl Passing {
    fn count(&mut self, reason: DropReason) {
        let count = self.drops.entry(reason).or_default();
        *count = count.saturating_add(1);
    }
}

impl Mesh {
    /// Says something to one member: over the link to it, or over those of others.
    pub(crate) fn send_to(&mut self, now: Time, to: &NodeId, bytes: Vec<u8>) {
        let link = self.ups_to(to).map(|(id, _)| id).next();
        if let Some(up) = link.and_then(|id| self.conns.get_mut(&id)).and_then(Conn::up_mut) {
            if bytes.len() <= DIRECT_MAX {
                up.say(bytes);
            }
            return;
        }
        let is_member = |membership: &&Membership| membership.is_member(to) && !self.removed.contains_key(to);
        let Some(genesis) = self.membership.as_ref().filter(is_member).map(Membership::id) else {
            return;
        };
        // Without a route nothing is signed: a member that is down for long is asked again and again.
        if bytes.len() > PASSED_MAX || self.hop_towards(now, to, None).is_none() {
            return;
        }
        let passed = Passed::sign(
            &self.identity.key,
            &genesis,
            *to,
            self.identity.incarnation,
            bytes,
        );
        self.pass_on(now, passed, None);
    }

    /// A neighbour has passed something on.
    pub(crate) fn on_passed(&mut self, now: Time, id: ConnId, passed: Passed) {
        let Some(neighbour) = self.conns.get(&id).and_then(Conn::peer).map(|peer| peer.node) else {
            return;
        };
        let is_member = |node: &NodeId| {
            let membership = self.membership.as_ref();
            membership.is_some_and(|m| m.is_member(node)) && !self.removed.contains_key(node)
        };
        if !is_member(&neighbour) || !is_member(&passed.from) || passed.from == self.node {
            return self.passing.count(DropReason::PassForged);
        }
        if passed.to != self.node {
            let Some(hops) = passed.hops.checked_sub(1) else {
                return self.passing.count(DropReason::PassHopLimit);
            };
            return self.pass_on(now, Passed { hops, ..passed }, Some(neighbour));
        }
        let genesis = self.membership.as_ref().map(Membership::id);
        if genesis.is_none_or(|genesis| !passed.is_signed(&genesis)) {
            return self.passing.count(DropReason::PassForged);
        }
        let key = RegisterKey {
            kind: PeerRecord::KIND,
            owner: passed.from,
        };
        let newest = self.registers.get(&key).map(|record| record.stamp().incarnation);
        if newest.is_some_and(|newest| passed.incarnation < newest) {
            return self.passing.count(DropReason::PassStale);
        }
        let Passed { from, bytes, .. } = passed;
        self.event(MeshEvent::Direct { from, bytes });
    }

    /// Queues a message for its next hop.
    fn pass_on(&mut self, now: Time, passed: Passed, from: Option<NodeId>) {
        let hop = self.hop_towards(now, &passed.to, from);
        let link = hop.and_then(|hop| self.ups_to(&hop).map(|(id, _)| id).next());
        let Some(up) = link.and_then(|id| self.conns.get_mut(&id)).and_then(Conn::up_mut) else {
            return self.passing.count(DropReason::PassNoRoute);
        };
        let is_full = up.passing.len() >= PASS_QUEUE_MAX;
        if is_full {
            up.passing.pop_front();
        }
        up.passing.push_back(passed);
        if is_full {
            self.passing.count(DropReason::PassQueueFull);
        }
    }

    /// The neighbour that leads to a member, other than the one that a message came from.
    fn hop_towards(&mut self, now: Time, to: &NodeId, from: Option<NodeId>) -> Option<NodeId> {
        if self.removed.contains_key(to) {
            return None;
        }
        if self.is_linked(to) {
            return Some(*to);
        }
        let topology = self.topology.version();
        if now >= self.passing.earliest {
            let usable = self.linked();
            if topology != self.passing.topology || usable != self.passing.usable {
                self.passing.routes = self.routes(&usable);
                self.passing.earliest = now + ROUTES_INTERVAL;
                (self.passing.topology, self.passing.usable) = (topology, usable);
            }
        }
        let hops = self.passing.routes.get(to)?.iter();
        let mut hops = hops.filter(|hop| Some(**hop) != from && self.is_linked(hop));
        hops.next().copied()
    }

    /// The members to which links stand.
    fn linked(&self) -> BTreeSet<NodeId> {
        let peers = self
            .conns
            .values()
            .filter_map(Conn::up)
            .map(|up| up.session.peer.node);
        peers.filter(|node| !self.removed.contains_key(node)).collect()
    }

    /// The members to whom something can be said: over the links to them, or over those of others.
    pub fn in_reach(&self) -> BTreeSet<NodeId> {
        let linked = self.linked();
        let others = self.routes(&linked);
        others.into_keys().chain(linked).collect()
    }

    /// Messages of others that were not passed on or not taken, by reason.
    pub fn pass_drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.passing.drops
    }
}
