//! What the machine tells about itself.

use crate::conn::{Conn, Origin, Stage, Up};
use crate::membership::Membership;
use crate::mesh::{ConnId, Mesh};
use crate::register::RegisterMap;
use crate::routes::Routes;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use weft_wire::record::PeerRecord;
use weft_wire::{NodeId, RejectReason, Time};

/// Who opened a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// This host.
    Outbound,
    /// The other end.
    Inbound,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LinkStage {
    /// Being opened.
    Connecting,
    /// In the Noise handshake, or waiting for the other end's Hello.
    Handshaking,
    /// One end admits the other, or both agree on a cluster.
    Joining,
    /// The link stands.
    Up,
    /// Last words are being written.
    Closing,
}

/// One connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkStatus {
    /// Its name.
    pub conn: ConnId,
    /// The other end, once it has said who it is.
    pub node: Option<NodeId>,
    /// Nickname of the other end; empty until it has said it.
    pub name: String,
    /// Who opened it.
    pub direction: Direction,
    /// Address of the other end, once connected.
    pub remote: Option<SocketAddr>,
    /// How far it has come.
    pub stage: LinkStage,
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Since when it is up, or since when it exists.
    pub since: Time,
    /// Records that wait to be sent on it.
    pub pending: usize,
}

/// Why a target is not connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DialFailure {
    /// The connection could not be opened.
    Connect(String),
    /// Neither a token nor a cluster: nothing to shake hands with.
    NoKey,
    /// Refused, by either end.
    Refused(RejectReason),
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => f.write_str(why),
            Self::NoKey => f.write_str("This host has no token and belongs to no cluster."),
            Self::Refused(reason) => write!(f, "{reason}"),
        }
    }
}

/// An address that the operator named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetStatus {
    /// As it was named.
    pub target: String,
    /// Who answered there last.
    pub node: Option<NodeId>,
    /// True while a link to that node stands, also one over which a cluster is agreed on.
    pub connected: bool,
    /// Why the last attempt failed, if the last one did.
    pub failure: Option<DialFailure>,
    /// False when it is never dialled again: it leads to this host itself.
    pub retried: bool,
}

impl Mesh {
    /// This host.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The cluster, once this host is a member.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// All members known, this host included, without those that were removed; none before it has joined.
    pub fn members(&self) -> Vec<NodeId> {
        let all = self.membership.iter().flat_map(Membership::members);
        all.filter(|node| !self.removed.contains_key(node)).collect()
    }

    /// All records held.
    pub fn registers(&self) -> &RegisterMap {
        &self.registers
    }

    /// What `node` says of itself.
    pub fn peer_record(&self, node: &NodeId) -> Option<PeerRecord> {
        self.registers.body(node)
    }

    /// True while a link to `node` stands.
    pub fn is_linked(&self, node: &NodeId) -> bool {
        self.ups_to(node).next().is_some()
    }

    /// Another number whenever a host has published other links than before.
    pub fn topology_version(&self) -> u64 {
        self.topology.version()
    }

    /// Which neighbours lead to which hosts over the published links, as far as `usable` contains them: those that this
    /// host can send to without a relay. Hosts that were removed are on no route.
    pub fn routes(&self, usable: &BTreeSet<NodeId>) -> Routes {
        let mut routes = self.topology.routes(&self.node, usable);
        routes.retain(|host, _| !self.removed.contains_key(host));
        routes
    }

    /// Every connection, in the order of their names.
    pub fn links(&self) -> Vec<LinkStatus> {
        self.conns
            .iter()
            .map(|(id, conn)| LinkStatus {
                conn: *id,
                node: conn.peer().map(|p| p.node),
                name: conn.peer().map(|p| p.name.clone()).unwrap_or_default(),
                direction: match conn.origin {
                    Origin::Dialled { .. } => Direction::Outbound,
                    Origin::Accepted => Direction::Inbound,
                },
                remote: conn.remote,
                stage: match &conn.stage {
                    Stage::Connecting => LinkStage::Connecting,
                    Stage::AwaitingInitiation
                    | Stage::AwaitingResponse(_)
                    | Stage::AwaitingHello(_)
                    | Stage::AwaitingConfirmation(_)
                    | Stage::AwaitingProof(_) => LinkStage::Handshaking,
                    Stage::AwaitingAdmission(_)
                    | Stage::AwaitingWelcome(_)
                    | Stage::AwaitingMembership(_)
                    | Stage::AwaitingJoined(_)
                    | Stage::AwaitingCluster(_) => LinkStage::Joining,
                    Stage::Up(_) => LinkStage::Up,
                    Stage::Ended(_) | Stage::Closing(_) => LinkStage::Closing,
                },
                rtt: conn.up().and_then(|up| up.rtt.smoothed()),
                since: conn.up().map_or(conn.opened, |up| up.since),
                pending: conn.up().map_or(0, Up::pending),
            })
            .collect()
    }

    /// The operator's addresses, in alphabetical order.
    pub fn targets(&self) -> Vec<TargetStatus> {
        self.dialer
            .targets
            .iter()
            .map(|(target, attempts)| TargetStatus {
                target: target.clone(),
                node: attempts.node,
                connected: attempts
                    .node
                    .is_some_and(|node| self.is_linked(&node) || self.is_gathered(&node)),
                failure: attempts.failure.clone(),
                retried: !attempts.halted,
            })
            .collect()
    }

    /// Connections of all stages.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// The most records that wait on one link.
    pub fn pending_max(&self) -> usize {
        let pending = self.conns.values().filter_map(Conn::up).map(Up::pending);
        pending.max().unwrap_or(0)
    }

    /// How many connections were refused or closed for each reason; index with `reason as usize`.
    pub fn refusals(&self) -> &[u64; RejectReason::COUNT] {
        &self.refusals
    }
}
