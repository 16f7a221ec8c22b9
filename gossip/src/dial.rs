//! Whom to dial, when, and with which key.
//!
//! Two lists: the addresses that the operator named, and the members whose records say where they listen. Each entry is
//! dialled while no link to the node behind it stands, with waits that double up to half a minute.

use crate::conn::{Conn, Origin, Stage};
use crate::handshake::KeyRole;
use crate::membership::Membership;
use crate::mesh::{ConnId, DIAL_TIMEOUT, DialTarget, Mesh, Output};
use crate::status::DialFailure;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use weft_wire::limits::{DEFAULT_PORT, FULL_MESH_MAX};
use weft_wire::record::{Body, PeerRecord};
use weft_wire::{NodeId, RejectReason, Time};

/// Wait after the first failure; it doubles with each further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest wait of a host without a cluster that met another one: both wait for the same founder.
const BACKOFF_NO_CLUSTER: Duration = Duration::from_secs(2);
/// A link that stood for less is counted as a failed attempt, so that a flapping one is not redialled at once.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// In a full mesh each end of a pair dials the other, and of two links that of the lower id would stand: the higher id
/// leaves the other so long to dial first. It is time for the three round trips after which a dialled host knows who
/// calls, on paths of up to 150 ms; and where the other cannot dial, half a second without this one link harms nobody.
pub const YIELD: Duration = Duration::from_millis(500);
/// Dials in progress at once.
const DIALS_MAX: usize = 32;
/// Links that a host of a cluster beyond [`FULL_MESH_MAX`] opens: random graphs of this degree stay connected
/// with half of the hosts dead.
pub const MESH_DEGREE: usize = 10;
/// Addresses remembered as this host's own.
const OWN_ADDRESSES_MAX: usize = 64;
/// Addresses that an operator may name.
pub const TARGETS_MAX: usize = 256;

/// What a connection was dialled for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Goal {
    Target(String),
    Peer(NodeId),
}

/// The history of one goal.
#[derive(Clone, Debug)]
pub(crate) struct Attempts {
    /// Failures since the last link that stood for a while.
    pub(crate) failures: u32,
    /// Not to be dialled before.
    pub(crate) due: Time,
    /// The attempt in progress.
    pub(crate) conn: Option<ConnId>,
    /// Key of the next attempt of a member; others have only the token.
    pub(crate) key: KeyRole,
    /// Who answered last.
    pub(crate) node: Option<NodeId>,
    /// Why the last attempt failed; `None` after a success.
    pub(crate) failure: Option<DialFailure>,
    /// Which of the peer's endpoints comes next.
    next_endpoint: usize,
    /// Never to be dialled again: it is this host.
    pub(crate) halted: bool,
}

impl Attempts {
    fn new(node: Option<NodeId>) -> Self {
        Self {
            failures: 0,
            due: Time::ZERO,
            conn: None,
            key: KeyRole::Cluster,
            node,
            failure: None,
            next_endpoint: 0,
            halted: false,
        }
    }
}

/// Both lists.
#[derive(Default)]
pub(crate) struct Dialer {
    /// What the operator named.
    pub(crate) targets: BTreeMap<String, Attempts>,
    peers: BTreeMap<NodeId, Attempts>,
    own_addresses: BTreeSet<SocketAddr>,
    /// When something is to be dialled; long ago when that must be found out.
    due: Time,
    /// Dials of this process so far; numbers connections and Hellos.
    pub(crate) dials: u64,
}

impl Dialer {
    /// Something has changed that decides whom to dial.
    pub(crate) fn look_again(&mut self) {
        self.due = Time::ZERO;
    }

    pub(crate) fn add_target(&mut self, target: String) {
        if self.targets.len() < TARGETS_MAX {
            self.targets.entry(target).or_insert_with(|| Attempts::new(None));
        }
    }

    pub(crate) fn remove_target(&mut self, target: &str) {
        self.targets.remove(target);
    }

    /// From now on a member is dialled once this time has come.
    fn meet(&mut self, node: NodeId, due: Time) {
        let new = || Attempts {
            due,
            ..Attempts::new(Some(node))
        };
        self.peers.entry(node).or_insert_with(new);
    }

    /// This member is not to be dialled any longer.
    pub(crate) fn forget_peer(&mut self, node: &NodeId) {
        self.peers.remove(node);
    }

    fn attempts(&mut self, goal: &Goal) -> Option<&mut Attempts> {
        match goal {
            Goal::Target(text) => self.targets.get_mut(text),
            Goal::Peer(node) => self.peers.get_mut(node),
        }
    }

    fn of_conn(&mut self, conns: &BTreeMap<ConnId, Conn>, id: ConnId) -> Option<&mut Attempts> {
        match &conns.get(&id)?.origin {
            Origin::Dialled { goal, .. } => self.attempts(goal),
            Origin::Accepted => None,
        }
    }

    /// The dialled end said who it is.
    pub(crate) fn answered(&mut self, conns: &BTreeMap<ConnId, Conn>, id: ConnId, node: NodeId) {
        if let Some(attempts) = self.of_conn(conns, id) {
            attempts.node = Some(node);
        }
    }

    /// A link stands: its goal is reached.
    pub(crate) fn linked(&mut self, conns: &BTreeMap<ConnId, Conn>, id: ConnId, node: NodeId) {
        if let Some(attempts) = self.of_conn(conns, id) {
            attempts.conn = None;
            attempts.failure = None;
            attempts.node = Some(node);
        }
    }

    fn in_progress(&self) -> usize {
        let all = self.targets.values().chain(self.peers.values());
        all.filter(|a| a.conn.is_some()).count()
    }
}

/// The operator's text as an address, or as a name with a port.
pub fn parse_target(text: &str) -> DialTarget {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return DialTarget::Address(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return DialTarget::Address(SocketAddr::new(ip, DEFAULT_PORT));
    }
    let has_port = text
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    DialTarget::Name(if has_port {
        text.to_string()
    } else {
        format!("{text}:{DEFAULT_PORT}")
    })
}

impl Mesh {
    /// Numbers of dials so far, this process's former meshes included.
    pub fn dials(&self) -> u64 {
        self.dialer.dials
    }

    /// Numbers dials from here on: two meshes of one process have no connection's name in common.
    pub fn number_dials_from(&mut self, number: u64) {
        self.dialer.dials = self.dialer.dials.max(number);
    }

    fn backoff(&mut self, failures: u32, longest: Duration) -> Duration {
        let base = BACKOFF_MIN
            .saturating_mul(1 << failures.saturating_sub(1).min(16))
            .min(longest);
        base * 3 / 4 + self.jitter(base / 2)
    }

    /// Every goal that could be dialled, with the time from which on.
    fn dialable(&self) -> Vec<(Goal, Time)> {
        if self.stopping || self.dialer.in_progress() >= DIALS_MAX {
            return Vec::new();
        }
        let busy: BTreeSet<NodeId> = self.conns.values().filter_map(|c| Some(c.peer()?.node)).collect();
        let mut out = Vec::new();
        let mut claimed = BTreeSet::new();
        for (text, attempts) in &self.dialer.targets {
            if let (Some(node), Some(_)) = (attempts.node, attempts.conn) {
                claimed.insert(node);
            }
            let reached = attempts.node.is_some_and(|node| busy.contains(&node));
            if !attempts.halted && !reached && attempts.conn.is_none() {
                out.push((Goal::Target(text.clone()), attempts.due));
            }
        }
        let Some(membership) = &self.membership else {
            return out;
        };
        let missing = if membership.member_count() <= FULL_MESH_MAX {
            usize::MAX
        } else {
            MESH_DEGREE.saturating_sub(busy.len() + self.dialer.in_progress())
        };
        // From this host's own id upwards and around: in a large cluster everybody links to its successors,
        // which makes one connected ring.
        let records: Vec<NodeId> = self
            .registers
            .of_kind(PeerRecord::KIND)
            .map(|e| e.key().owner)
            .collect();
        let split = records.partition_point(|node| *node <= self.node);
        let around = records[split..].iter().chain(&records[..split]);
        let peers = around
            .filter(|node| **node != self.node && !busy.contains(node) && !claimed.contains(node))
            .filter_map(|node| match self.dialer.peers.get(node) {
                Some(attempts) if attempts.conn.is_some() => None,
                Some(attempts) => Some((Goal::Peer(*node), attempts.due)),
                None => Some((Goal::Peer(*node), Time::ZERO)),
            });
        out.extend(peers.take(missing));
        out
    }

    pub(crate) fn dial_deadline(&self) -> Time {
        if self.stopping {
            Time::NEVER
        } else {
            self.dialer.due
        }
    }

    pub(crate) fn dial_due(&mut self, now: Time) {
        if now < self.dialer.due {
            return;
        }
        self.meet_members(now);
        for (goal, due) in self.dialable() {
            if due <= now && self.dialer.in_progress() < DIALS_MAX {
                self.dial(now, goal);
            }
        }
        let due = self.dialable().into_iter().map(|(_, due)| due).min();
        self.dialer.due = due.unwrap_or(Time::NEVER);
    }

    /// How much later than the other end this one dials.
    fn head_start(&self, of: &NodeId) -> Duration {
        let everybody_dials = |m: &Membership| m.member_count() <= FULL_MESH_MAX;
        if *of < self.node && self.membership.as_ref().is_some_and(everybody_dials) {
            YIELD
        } else {
            Duration::ZERO
        }
    }

    /// Lets members of which this host has just heard dial first, where their links would stand.
    fn meet_members(&mut self, now: Time) {
        let all = self.registers.of_kind(PeerRecord::KIND).map(|e| e.key().owner);
        let new: Vec<NodeId> = all
            .filter(|node| *node < self.node && !self.dialer.peers.contains_key(node))
            .collect();
        for node in new {
            let due = now + self.head_start(&node);
            self.dialer.meet(node, due);
        }
    }

    fn dial(&mut self, now: Time, goal: Goal) {
        let to = match &goal {
            Goal::Target(text) => Some(parse_target(text)),
            Goal::Peer(node) => {
                self.dialer.meet(*node, now);
                self.next_endpoint(node).map(DialTarget::Address)
            }
        };
        let member = self.membership.is_some();
        let Some(attempts) = self.dialer.attempts(&goal) else {
            return;
        };
        let key = if member { attempts.key } else { KeyRole::Token };
        let Some(to) = to else {
            attempts.due = now + BACKOFF_MAX;
            return;
        };
        if self.keyring.get(key).is_none() {
            attempts.failure = Some(DialFailure::NoKey);
            attempts.due = now + BACKOFF_MAX;
            return;
        }
        self.dialer.dials += 1;
        let (dial, conn) = (self.dialer.dials, ConnId::Dialled(self.dialer.dials));
        if let Some(attempts) = self.dialer.attempts(&goal) {
            attempts.conn = Some(conn);
        }
        let origin = Origin::Dialled { goal, key, dial };
        self.conns
            .insert(conn, Conn::new(now, DIAL_TIMEOUT, origin, Stage::Connecting));
        self.outputs.push_back(Output::Dial { conn, to });
    }

    /// The peer's endpoints one after the other, without those that turned out to be this host.
    fn next_endpoint(&mut self, node: &NodeId) -> Option<SocketAddr> {
        let record = self.peer_record(node)?;
        let attempts = self.dialer.peers.get_mut(node)?;
        let others: Vec<SocketAddr> = record
            .endpoints
            .into_iter()
            .filter(|e| !self.dialer.own_addresses.contains(e))
            .collect();
        let chosen = others.get(attempts.next_endpoint.checked_rem(others.len())?)?;
        attempts.next_endpoint = attempts.next_endpoint.wrapping_add(1);
        Some(*chosen)
    }

    pub(crate) fn on_dial_failed(&mut self, now: Time, id: ConnId, why: String) {
        if let Some(conn) = self.conns.get(&id)
            && matches!(conn.stage, Stage::Connecting)
            && let Some(Conn {
                origin: Origin::Dialled { goal, .. },
                ..
            }) = self.conns.remove(&id)
        {
            self.dialer.look_again();
            self.attempt_failed(now, &goal, DialFailure::Connect(why), BACKOFF_MAX);
        }
    }

    fn attempt_failed(&mut self, now: Time, goal: &Goal, failure: DialFailure, longest: Duration) {
        let failures = self
            .dialer
            .attempts(goal)
            .map_or(0, |a| a.failures)
            .saturating_add(1);
        let wait = self.backoff(failures, longest);
        if let Some(attempts) = self.dialer.attempts(goal) {
            attempts.failures = failures;
            attempts.due = now + wait;
            attempts.conn = None;
            attempts.failure = Some(failure);
        }
    }

    /// A dialled connection ended before it was a link.
    pub(crate) fn dial_refused(
        &mut self,
        now: Time,
        id: ConnId,
        goal: &Goal,
        remote: Option<SocketAddr>,
        reason: RejectReason,
    ) {
        if self.dialer.attempts(goal).is_none_or(|a| a.conn != Some(id)) {
            return;
        }
        let longest = match reason {
            RejectReason::NoCluster => BACKOFF_NO_CLUSTER,
            _ => BACKOFF_MAX,
        };
        self.attempt_failed(now, goal, DialFailure::Refused(reason), longest);
        let (member, has_token) = (self.membership.is_some(), self.token.is_some());
        let Some(attempts) = self.dialer.attempts(goal) else {
            return;
        };
        match reason {
            // The other connection of the pair stands: this is success.
            RejectReason::Duplicate => attempts.failure = None,
            RejectReason::ForeignCluster => attempts.due = now + BACKOFF_MAX,
            RejectReason::UnknownKey if member && has_token => {
                attempts.key = match attempts.key {
                    KeyRole::Token => KeyRole::Cluster,
                    KeyRole::Cluster | KeyRole::PreviousCluster => KeyRole::Token,
                };
            }
            RejectReason::SelfConnection => {
                attempts.halted = matches!(goal, Goal::Target(_));
                if let Some(address) = remote
                    && self.dialer.own_addresses.len() < OWN_ADDRESSES_MAX
                {
                    self.dialer.own_addresses.insert(address);
                }
            }
            _ => {}
        }
    }

    /// The last link to a node is gone: everything that leads there is dialled again.
    pub(crate) fn link_lost(&mut self, now: Time, node: NodeId, lived: Duration, reason: RejectReason) {
        let wait = self.backoff(1, BACKOFF_MAX);
        let later = self.backoff(6, BACKOFF_MAX);
        let lead = self.head_start(&node);
        let targets = self.dialer.targets.values_mut().map(|a| (a, Duration::ZERO));
        let peers = self.dialer.peers.values_mut().map(|a| (a, lead));
        for (attempts, lead) in targets.chain(peers).filter(|(a, _)| a.node == Some(node)) {
            if lived >= STABLE_AFTER {
                attempts.failures = 0;
                attempts.due = now + wait + lead;
            } else {
                attempts.failures = attempts.failures.saturating_add(1);
                attempts.due = now + lead + if attempts.failures > 3 { later } else { wait };
            }
            attempts.failure = Some(DialFailure::Refused(reason));
            if reason == RejectReason::Agreed {
                // No failure: the next link is one of a cluster.
                (attempts.failures, attempts.due, attempts.failure) = (0, now, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses_or_names_with_a_port() {
        let address = |t: &str| DialTarget::Address(t.parse().unwrap());
        assert_eq!(parse_target("192.0.2.1"), address("192.0.2.1:6783"));
        assert_eq!(parse_target("192.0.2.1:7"), address("192.0.2.1:7"));
        assert_eq!(parse_target("2001:db8::1"), address("[2001:db8::1]:6783"));
        assert_eq!(parse_target("[2001:db8::1]"), address("[2001:db8::1]:6783"));
        assert_eq!(parse_target("[2001:db8::1]:9"), address("[2001:db8::1]:9"));
        assert_eq!(parse_target("host"), DialTarget::Name("host:6783".into()));
        assert_eq!(parse_target("host:70"), DialTarget::Name("host:70".into()));
    }
}
