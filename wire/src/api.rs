//! What the router says over its local socket: the bodies of requests and answers, JSON on the wire.
//!
//! Field names are stable; fields are added, never renamed or removed.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// This node, 64 hexadecimal digits.
    pub node: String,
    /// Nickname.
    pub name: String,
    /// Where the node stands towards a cluster.
    pub cluster: ClusterStatus,
    /// In words: which peers are encrypted.
    pub encryption: String,
    /// MTU for pods, in octets of IP packet.
    pub pod_mtu: u16,
    /// Engine that carries frames: `plain`.
    pub engine: String,
    /// Where this host listens.
    pub endpoints: Vec<SocketAddr>,
    /// Peers known, whether reachable or not, sorted by name and id.
    pub peers: Vec<PeerStatus>,
    /// Pods attached on this host.
    pub pods: Vec<Pod>,
    /// Addresses that the operator named and that are not connected, with the last reason.
    pub targets: Vec<TargetStatus>,
    /// Frames and datagrams dropped, by reason; reasons with no drop are left out.
    pub drops: BTreeMap<String, u64>,
    /// Mesh connections refused or closed, by reason; reasons with none are left out.
    pub refusals: BTreeMap<String, u64>,
    /// Sentences that somebody should read.
    pub warnings: Vec<String>,
    /// Seconds since the router started.
    pub uptime_s: u64,
}

/// Where a node stands towards a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ClusterStatus {
    /// No cluster yet: waits for a peer that admits this node.
    AwaitingAdmission,
    /// A member.
    Member {
        /// Genesis id, 64 hexadecimal digits.
        genesis: String,
        /// Addresses that pods get.
        range: IpNet,
        /// Members known, this node included.
        members: u32,
    },
}

/// One peer as this node sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer, 64 hexadecimal digits.
    pub node: String,
    /// Its nickname; empty while unknown.
    pub name: String,
    /// State of the mesh link.
    pub mesh: LinkState,
    /// Round-trip time over the mesh link in microseconds, once measured.
    pub mesh_rtt_us: Option<u64>,
    /// How frames travel: `sleeve` or `none`.
    pub mode: String,
    /// Why, in words.
    pub reason: String,
    /// True when frames to this peer are encrypted.
    pub encrypted: bool,
    /// Cipher of the session, once there is one.
    pub cipher: Option<String>,
    /// Where its datagrams are sent.
    pub endpoint: Option<SocketAddr>,
    /// Seconds since the mode last changed.
    pub since_s: u64,
    /// Frames and octets of frames sent to and received from it since the router started.
    pub traffic: Traffic,
}

/// Counters of frames, without the sleeve's own octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames sent.
    pub tx_frames: u64,
    /// Octets of frames sent.
    pub tx_bytes: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Octets of frames received.
    pub rx_bytes: u64,
}

/// State of the mesh link to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// Up.
    Up,
    /// Being dialled.
    Connecting,
    /// Down, next try is waited for.
    Down,
}

/// An address that the operator named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetStatus {
    /// As it was named.
    pub target: String,
    /// Why it is not connected, in words.
    pub reason: String,
}

/// A pod attached on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// Name under which it was attached.
    pub id: String,
    /// Address with the prefix length of the range.
    pub address: IpNet,
    /// MAC address of its interface.
    pub mac: String,
}

/// `POST /v1/pods`: asks what a pod gets; root only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodRequest {
    /// Name of the pod, for example its namespace path or container id.
    pub id: String,
    /// The address it shall have.
    pub address: IpAddr,
}

/// Answer to [`PodRequest`]: how to wire the pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodPlan {
    /// Address with the prefix length of the range.
    pub address: IpNet,
    /// MAC address for the pod's interface.
    pub mac: String,
    /// MTU of the pod's interface.
    pub mtu: u16,
    /// Bridge that the host end joins.
    pub bridge: String,
}

/// `POST /v1/connect` and `POST /v1/forget`: an address at which a member listens; root only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetRequest {
    /// `HOST` or `HOST:PORT`.
    pub target: String,
}

/// Answer with any 4xx or 5xx status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiError {
    /// What is wrong, where, and the cure.
    pub error: String,
}
