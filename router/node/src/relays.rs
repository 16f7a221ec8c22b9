//! Who relays for whom: routes from gossip for the sleeve, and for the forwarding table what this host passes on.

use crate::io::{Notice, Output};
use crate::node::{Node, Path};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use weft_gossip::Routes;
use weft_sleeve::{NextHops, Relaying, Way};
use weft_wire::{NodeId, Time};

/// Routes are found again at most so often: while many hosts start their links change all the time.
const ROUTES_INTERVAL: Duration = Duration::from_millis(200);

/// The routes of this moment, and what they were made from.
#[derive(Default)]
pub(crate) struct Relays {
    topology: u64,
    usable: BTreeSet<NodeId>,
    routes: Routes,
    relaying: Arc<Relaying>,
    /// Paths may have changed.
    is_stale: bool,
    /// When routes may be found again.
    earliest: Time,
    /// They are to be found again then.
    is_waiting: bool,
}

impl Relays {
    /// A path has changed.
    pub(crate) fn look_again(&mut self) {
        self.is_stale = true;
    }

    pub(crate) fn relaying(&self) -> Arc<Relaying> {
        Arc::clone(&self.relaying)
    }

    /// When routes that are out of date are due.
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.is_waiting.then_some(self.earliest)
    }
}

impl Path {
    /// Frames go this way from now on.
    pub(crate) fn take_way(&mut self, now: Time, way: Way) {
        if self.relay.is_some() != matches!(way, Way::Relay(_)) {
            self.since = now;
        }
        match way {
            Way::Direct(endpoint) => (self.endpoint, self.relay) = (Some(endpoint), None),
            Way::Relay(relay) => self.relay = Some(relay),
        }
    }

    /// Where the peer is, while frames go there without a relay under a session of this membership.
    pub(crate) fn direct(&self, membership: u32) -> Option<SocketAddr> {
        self.endpoint
            .filter(|_| self.session.is_some() && self.relay.is_none() && self.membership == membership)
    }
}

impl Node {
    /// Frames to a peer go this way from now on.
    pub(crate) fn on_way(&mut self, now: Time, peer: NodeId, way: Way) {
        let before = self.paths.get(&peer).and_then(|path| path.relay);
        self.change_path(peer, |path| path.take_way(now, way));
        let relay = match way {
            Way::Direct(_) => None,
            Way::Relay(relay) => Some(relay),
        };
        if relay != before {
            self.outputs.push_back(Output::Notice(Notice::Way {
                peer,
                name: self.name_of(&peer),
                relay: relay.map(|relay| self.name_of(&relay)),
            }));
        }
    }

    /// Where datagrams to a peer go: its address or its relay's. A relay that is not reached straight any more is sent to
    /// all the same, until the sleeve has found another way: a frame that may arrive beats one that is dropped.
    pub(crate) fn next_hop(&self, path: &Path) -> Option<SocketAddr> {
        match path.relay {
            Some(relay) => self.paths.get(&relay)?.endpoint,
            None => path.endpoint,
        }
    }

    /// Follows links and paths: tells the sleeve of other routes, and says whether the table has another part.
    pub(crate) fn follow_routes(&mut self, now: Time) -> bool {
        let topology = self.mesh.topology_version();
        let is_old = self.relays.is_stale || topology != self.relays.topology;
        self.relays.is_waiting = is_old && now < self.relays.earliest;
        if self.member.is_none() || !is_old || self.relays.is_waiting {
            return false;
        }
        self.relays.is_stale = false;
        let membership = self.membership;
        let direct = |(peer, path): (&NodeId, &Path)| path.direct(membership).map(|_| *peer);
        let usable: BTreeSet<NodeId> = self.paths.iter().filter_map(direct).collect();
        let is_same = topology == self.relays.topology && usable == self.relays.usable;
        if !is_same {
            self.relays.earliest = now + ROUTES_INTERVAL;
            let routes = self.mesh.routes(&usable);
            let old = core::mem::replace(&mut self.relays.routes, routes);
            (self.relays.topology, self.relays.usable) = (topology, usable);
            for (peer, relays) in self.other_relays(&old) {
                self.sleeve(now, weft_sleeve::Input::Relays { peer, relays });
            }
        }
        let relaying = self.relaying_of_now();
        let has_changed = relaying != *self.relays.relaying;
        if has_changed {
            self.relays.relaying = Arc::new(relaying);
        }
        has_changed
    }

    /// The relays to each peer for which they are others than by the old routes.
    fn other_relays(&self, old: &Routes) -> Vec<(NodeId, Vec<NodeId>)> {
        let none = Vec::new();
        let of = |routes: &Routes, peer: &NodeId| routes.get(peer).unwrap_or(&none).clone();
        let changed = |peer: &&NodeId| of(old, peer) != of(&self.relays.routes, peer);
        let peers = self.paths.keys().filter(changed);
        peers.map(|peer| (*peer, of(&self.relays.routes, peer))).collect()
    }

    /// A peer that is new: the routes to it are known already.
    pub(crate) fn tell_relays(&mut self, now: Time, peer: NodeId) {
        if let Some(relays) = self.relays.routes.get(&peer).cloned() {
            self.sleeve(now, weft_sleeve::Input::Relays { peer, relays });
        }
    }

    fn relaying_of_now(&self) -> Relaying {
        let address = |node: &NodeId| self.paths.get(node)?.direct(self.membership);
        let next: BTreeMap<_, _> = self
            .relays
            .routes
            .iter()
            .filter_map(|(host, hops)| {
                // Whom this host reaches itself gets it from this host.
                let own = hops.contains(host).then(|| address(host)).flatten();
                let mut hops = hops.iter().filter_map(address);
                let next = match own {
                    Some(first) => NextHops { first, second: None },
                    None => NextHops {
                        first: hops.next()?,
                        second: hops.next(),
                    },
                };
                Some((host.peer_hash(), next))
            })
            .collect();
        Relaying {
            neighbours: (self.paths.values())
                .filter_map(|path| path.direct(self.membership))
                .collect(),
            next,
        }
    }
}
