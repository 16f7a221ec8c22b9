//! Straight or by relay: which way datagrams to a peer take, and when another one.
//!
//! A way is taken once it was proved both ways: by a handshake that was answered on it. The straight way is left for
//! one that answers when what is sent on it is not answered (`doubt`), and for an unproved route by relay when nothing
//! has come on it for [`SILENT_AFTER`]; then the session stays the same. While a relay is in use the straight way is
//! tried again and again, with initiations of their own: an answer makes a new session there, and what is still under
//! way by relay opens under the one before it.

use crate::io::{Output, Way};
use crate::machine::Sleeve;
use crate::peer::{Handshake, Peer};
use crate::shared::Shared;
use crate::timing::*;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use weft_wire::{NodeId, Time};

/// Where a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// To the peer, straight.
    Address(SocketAddr),
    /// To this relay at its address.
    Relay(NodeId, SocketAddr),
}

/// How a peer was reached, and by whom else it could be.
pub(crate) struct Ways {
    /// Where it was last heard from without a relay, authenticated.
    pub(crate) endpoint: Option<SocketAddr>,
    /// The relay in use, and its address.
    pub(crate) relay: Option<(NodeId, SocketAddr)>,
    /// Peers by which routes lead to it, the best first.
    relays: Vec<NodeId>,
    /// Of these, those through which nothing came.
    failed: Vec<NodeId>,
    /// When a datagram of it came last without a relay.
    pub(crate) heard: Time,
    /// Since when the relay is in use.
    since: Time,
    /// Since when the straight way is in use, or was last.
    pub(crate) straight_since: Option<Time>,
    /// Pause before the straight way is first tried again after it was left.
    hold: Duration,
    /// It sends by relay, which it would not if it could reach us.
    follows: bool,
    /// No other way is looked for before this.
    not_before: Time,
    /// When the straight way is tried next while a relay is in use, and the pause before that.
    check_at: Time,
    check_pause: Duration,
    is_check_repeated: bool,
    /// The last initiation went by relay.
    was_relayed: bool,
    /// Initiations since the last answer: straight, and by relay.
    straight: usize,
    relayed: usize,
}

impl Ways {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            endpoint: None,
            relay: None,
            relays: Vec::new(),
            failed: Vec::new(),
            heard: now,
            since: now,
            straight_since: None,
            hold: CHECK_MIN,
            follows: false,
            not_before: Time::ZERO,
            check_at: Time::NEVER,
            check_pause: CHECK_MIN,
            is_check_repeated: false,
            was_relayed: false,
            straight: 0,
            relayed: 0,
        }
    }

    /// A session stands: what was tried before is forgotten.
    pub(crate) fn answered(&mut self) {
        (self.was_relayed, self.straight, self.relayed) = (false, 0, 0);
    }

    /// Something came: straight, by relay, or both.
    pub(crate) fn note(&mut self, now: Time, straight: bool, by_relay: bool) {
        if straight {
            (self.heard, self.follows) = (now, false);
        } else if by_relay && self.relay.is_none() && now.since(self.heard) >= FOLLOW_AFTER {
            self.follows = true;
        }
    }

    /// The straight way is left: one that soon breaks again is given more time to heal each time.
    fn left_straight(&mut self, now: Time) {
        let is_unsteady = self
            .straight_since
            .is_some_and(|since| now.since(since) < STEADY_AFTER);
        self.hold = if is_unsteady {
            (self.hold * 2).min(STEADY_AFTER)
        } else {
            CHECK_MIN
        };
    }

    /// The straight way may be another one: it is tried soon.
    pub(crate) fn check_soon(&mut self, now: Time) {
        self.check_pause = CHECK_MIN;
        self.check_at = self.check_at.min(now + CHECK_MIN);
    }

    /// The try that is under way is made again at once: the peer asked for a cookie.
    pub(crate) fn check_again(&mut self) {
        self.is_check_repeated = true;
    }

    /// When the straight way is to be tried.
    pub(crate) fn check_at(&self) -> Time {
        match self.relay {
            Some(_) => self.check_at,
            None => Time::NEVER,
        }
    }

    /// Nothing answered on the straight way.
    pub(crate) fn check_failed(&mut self, now: Time) {
        if core::mem::take(&mut self.is_check_repeated) {
            self.check_at = now;
            return;
        }
        self.check_at = now + self.check_pause;
        self.check_pause = (self.check_pause * 2).min(CHECK_MAX);
    }
}

impl Peer {
    /// True while the session in use goes by relay and nothing comes.
    pub(crate) fn is_relay_silent(&self, now: Time) -> bool {
        self.ways.relay.is_some() && now.since(self.heard) >= RELAY_SILENT_AFTER
    }

    /// When another way is to be looked for.
    pub(crate) fn way_due(&self) -> Time {
        let ways = &self.ways;
        let due = match &ways.relay {
            _ if self.current.is_none() || ways.relays.is_empty() => return Time::NEVER,
            None if ways.follows => Time::ZERO,
            None => ways.heard + SILENT_AFTER,
            Some((relay, _)) if !ways.relays.contains(relay) => Time::ZERO,
            Some(_) => self.heard.max(ways.since) + RELAY_SILENT_AFTER,
        };
        due.max(ways.not_before)
    }

    /// Sends this way from now on.
    pub(crate) fn take_way(&mut self, now: Time, target: Target, shared: &mut Shared) {
        match target {
            Target::Address(endpoint) => self.move_to(now, endpoint, shared),
            Target::Relay(relay, address) => {
                match self.ways.relay.replace((relay, address)) {
                    Some((used, _)) if used == relay => return,
                    Some(_) => {}
                    None => self.ways.left_straight(now),
                }
                self.ways.since = now;
                self.ways.follows = false;
                self.ways.check_pause = CHECK_MIN;
                self.ways.check_at = now + self.ways.hold;
                self.restart_path(now);
                let way = Way::Relay(relay);
                shared.push(Output::Way { peer: self.node, way });
            }
        }
    }

    /// Where to send the next initiation, and which of the cluster secrets it is made with: every address or relay with
    /// the first one, then with the next. `relays` are those that can be reached.
    pub(crate) fn next_target(
        &mut self,
        now: Time,
        relays: &[(NodeId, SocketAddr)],
        is_check: bool,
    ) -> Option<(Target, usize)> {
        let candidates = self.candidates();
        let is_in_vain = self.is_silent(now) || self.doubt.is_founded();
        let is_relay_preferred = self.ways.relay.is_some() || self.current.is_some() && is_in_vain;
        let may_relay =
            !is_check && (is_relay_preferred || self.tries >= DIRECT_TRIES || candidates.is_empty());
        let ways = &mut self.ways;
        // By turns: the straight way is never given up.
        let by_relay = may_relay && !relays.is_empty() && (!ways.was_relayed || candidates.is_empty());
        ways.was_relayed = by_relay;
        let (target, round) = if by_relay {
            let (relay, address) = *relays.get(ways.relayed % relays.len())?;
            let round = ways.relayed / relays.len();
            ways.relayed = ways.relayed.wrapping_add(1);
            (Target::Relay(relay, address), round)
        } else {
            let all = candidates.len().max(1);
            let round = ways.straight / all;
            let address = candidates.get(ways.straight % all).copied().map(Target::Address);
            let target = self.hint.or(address)?;
            if self.hint.is_none() {
                ways.straight = ways.straight.wrapping_add(1);
            }
            (target, round)
        };
        Some((self.hint.take().unwrap_or(target), round))
    }
}

impl Sleeve {
    /// The address of a peer that can be sent to straight and is heard.
    pub(crate) fn relay_address(&self, now: Time, relay: &NodeId) -> Option<SocketAddr> {
        let peer = self.peers.get(relay)?;
        let can_relay = peer.current.is_some() && peer.ways.relay.is_none() && !peer.is_silent(now);
        peer.ways.endpoint.filter(|_| can_relay)
    }

    /// The peer that can relay and is at this address.
    pub(crate) fn relay_at(&self, now: Time, address: SocketAddr) -> Option<NodeId> {
        let all = (address, NodeId([0; 32]))..=(address, NodeId([0xff; 32]));
        let nodes = self.shared.known.range(all).map(|(_, node)| *node);
        nodes
            .into_iter()
            .find(|node| self.relay_address(now, node) == Some(address))
    }

    /// The relays to a peer that can be reached; those through which nothing came last.
    pub(crate) fn relays_to(&self, now: Time, node: &NodeId) -> Vec<(NodeId, SocketAddr)> {
        let Some(peer) = self.peers.get(node) else {
            return Vec::new();
        };
        let ways = &peer.ways;
        let reachable = ways
            .relays
            .iter()
            .filter_map(|relay| Some((*relay, self.relay_address(now, relay)?)));
        let (failed, mut good): (Vec<_>, Vec<_>) =
            reachable.partition(|(relay, _)| ways.failed.contains(relay));
        good.extend(failed);
        good
    }

    /// Routes lead to a peer by these others.
    pub(crate) fn set_relays(&mut self, now: Time, node: NodeId, mut relays: Vec<NodeId>) {
        let us = self.shared.local.node;
        relays.retain(|relay| *relay != node && *relay != us);
        relays.truncate(RELAYS_MAX);
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let ways = &mut peer.ways;
        if ways.relays == relays {
            return;
        }
        ways.failed.retain(|relay| relays.contains(relay));
        ways.not_before = Time::ZERO;
        let is_first = ways.relays.is_empty();
        ways.relays = relays;
        match &mut peer.handshake {
            Handshake::AwaitingChance { until } => *until = now,
            Handshake::AwaitingResponse(attempt) if is_first && peer.tries >= DIRECT_TRIES => {
                let earliest = peer.last_init.map_or(now, |last| last + HINT_INTERVAL);
                attempt.retry_at = attempt.retry_at.min(earliest);
            }
            _ => {}
        }
        self.serve(now, node);
    }

    /// Takes another way to a peer where the one in use is silent.
    pub(crate) fn steer(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.way_due() <= now) else {
            return;
        };
        let ways = &mut peer.ways;
        let used = ways.relay.map(|(relay, _)| relay);
        if let Some(relay) = used.filter(|relay| ways.relays.contains(relay)) {
            ways.failed.retain(|failed| *failed != relay);
            ways.failed.push(relay);
        }
        let next = self.relays_to(now, &node).into_iter().next();
        let next = next.filter(|(relay, _)| Some(*relay) != used);
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        match next {
            Some((relay, address)) => {
                peer.take_way(now, Target::Relay(relay, address), &mut self.shared);
                // The other end shall hear it soon, and follow.
                peer.show(now, &mut self.shared);
            }
            None => peer.ways.not_before = now + RELAY_PAUSE,
        }
    }
}
