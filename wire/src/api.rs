//! What the router says over its local socket, and what the commands print with `--json`.
//!
//! Field names are stable; fields are added, never renamed or removed. The published schema, docs/api.schema.json, is
//! made from these types by the test in `schema`.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod schema;

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// The address space in short; none before this host is a member.
    pub ipam: Option<IpamSummary>,
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
    /// What the host's packet filters do to frames between pods and what was done about it, in words.
    pub firewall: Vec<String>,
    /// Seconds since the router started.
    pub uptime_s: u64,
    /// Whether this host owns addresses and votes.
    pub role: NodeRole,
    /// How the disk that holds the state does.
    pub disk: DiskStatus,
    /// What this host passed on for others since the router started.
    pub relayed: Relayed,
    /// What the cluster wants encrypted.
    #[serde(default)]
    pub encrypt: EncryptionStatus,
}

/// Whether a host owns addresses and votes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// It does.
    Owner,
    /// It never votes, owns nothing, and lives on lent addresses.
    Observer,
}

/// The disk that holds the state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DiskStatus {
    /// Calls of fsync and fdatasync since the router started.
    pub syncs: u64,
    /// Microseconds that the last one took, once there was one.
    pub last_sync_us: Option<u64>,
    /// Median of the last ones, in microseconds.
    pub median_sync_us: Option<u64>,
    /// True when they take so long that addresses are given out once they are written, and synced afterwards.
    pub slow: bool,
}

/// Where a node stands towards a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ClusterStatus {
    /// No cluster yet: waits for a peer that admits this node.
    AwaitingAdmission,
    /// A member.
    Member {
        /// Genesis id, 64 hexadecimal digits.
        genesis: String,
        /// Addresses that pods get.
        #[cfg_attr(test, schemars(with = "schema::Network"))]
        range: IpNet,
        /// Members known, this node included.
        members: u32,
    },
    /// No cluster yet: makes one together with other hosts.
    Agreeing {
        /// Hosts that make it together, this one included.
        expected: u32,
        /// Nicknames of those that are there, this host's first.
        there: Vec<String>,
        /// What is waited for, in words.
        reason: String,
        /// Hosts that were told something else and do not count, and what differs, in words.
        differing: Vec<String>,
    },
}

/// One peer as this node sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PeerStatus {
    /// The peer, 64 hexadecimal digits.
    pub node: String,
    /// Its nickname; empty while unknown.
    pub name: String,
    /// State of the mesh link.
    pub mesh: LinkState,
    /// Round-trip time over the mesh link in microseconds, once measured.
    pub mesh_rtt_us: Option<u64>,
    /// How frames travel: `fastpath` through the kernels of both hosts, unencrypted; `sleeve` straight to it; `relay` through
    /// another host; or `none`.
    pub mode: String,
    /// Why, in words.
    pub reason: String,
    /// True when frames to this peer are encrypted.
    pub encrypted: bool,
    /// Cipher of the session, once there is one.
    pub cipher: Option<String>,
    /// Largest MTU for pods that the path to it carries unfragmented, in octets of IP packet, by what both hosts say of
    /// their interfaces; none before it has said so.
    pub mtu: Option<u16>,
    /// Where its datagrams are sent: to itself or, in mode `relay`, to the relay.
    pub endpoint: Option<SocketAddr>,
    /// Largest IP packet that is known to reach it, in octets.
    pub path_mtu: Option<u16>,
    /// Seconds since the mode last changed.
    pub since_s: u64,
    /// Frames and octets of frames sent to and received from it since the router started.
    pub traffic: Traffic,
    /// Since when no host has heard of it; none while one does, and without `--remove-after`.
    #[serde(default)]
    pub silence: Option<SilenceStatus>,
    /// In mode `relay`: nickname of the host that passes its datagrams on, or the short form of that host's id.
    pub relay: Option<String>,
    /// The way through the kernel, whether it is used or not; none before anything is known of it.
    #[serde(default)]
    pub fastpath: Option<FastpathStatus>,
}

/// The way to a peer through the kernels of both hosts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FastpathStatus {
    /// Where it stands.
    pub state: FastpathState,
    /// Why it is not used, in words; none while it is.
    pub why: Option<String>,
    /// Where frames go, while it is used.
    pub address: Option<IpAddr>,
    /// Seconds since frames began, or ceased, to go this way.
    pub since_s: u64,
    /// How often they have begun or ceased since the router started.
    pub flips: u64,
    /// Microseconds from a probe to its answer, smoothed, once one was answered.
    pub rtt_us: Option<u64>,
    /// Probes lately sent, at most 64,
    pub probes: u32,
    /// and those of them that had no answer within a second.
    pub probes_lost: u32,
}

/// Where the way through the kernel stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FastpathState {
    /// It is not used; frames go by the sleeve.
    SleeveOnly,
    /// It is being tried.
    Probing,
    /// It is used.
    Fastpath,
    /// It is used, and proofs that it works are missing.
    Degraded,
    /// It is used, and the peer's router is silent on every way.
    RouterSilent,
}

/// What the cluster wants encrypted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EncryptionStatus {
    /// The setting in force, as this host knows it.
    pub setting: EncryptionSetting,
    /// The host where it was set; none when it never was.
    pub set_by: Option<String>,
    /// Hosts that do not yet do what it says, by name.
    pub pending: Vec<String>,
}

/// Body of `POST /v1/encryption`: what to encrypt from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EncryptionRequest {
    /// `auto` or `all`.
    pub setting: EncryptionSetting,
}

/// Which traffic between hosts is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EncryptionSetting {
    /// All but that of pairs of hosts on networks taken for trusted.
    #[default]
    Auto,
    /// All.
    All,
}

/// A member that no host has heard of, as far as this one knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SilenceStatus {
    /// Seconds since it was last heard of, or since the router started.
    pub silent_s: u64,
    /// How many of them count: those while this host was connected with a majority of the members.
    pub counted_s: u64,
    /// Seconds until this host asks for its removal, 0 once it does; none while this host is not connected with a majority.
    pub removed_in_s: Option<u64>,
}

/// What this host passed on for others, unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Relayed {
    /// Datagrams.
    pub datagrams: u64,
    /// Octets of their UDP payload.
    pub octets: u64,
}

/// Counters of frames, without the sleeve's own octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Traffic {
    /// Frames sent.
    pub tx_frames: u64,
    /// Octets of frames sent.
    pub tx_bytes: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Octets of frames received.
    pub rx_bytes: u64,
    /// Of the frames sent, those that were larger than the path and went in pieces.
    pub tx_fragmented: u64,
    /// Of the frames received, those that came in pieces.
    pub rx_reassembled: u64,
}

/// State of the mesh link to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TargetStatus {
    /// As it was named.
    pub target: String,
    /// Why it is not connected, in words.
    pub reason: String,
}

/// A pod attached on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Pod {
    /// Name under which it was attached.
    pub id: String,
    /// Address with its prefix length; the MAC address follows from it.
    #[cfg_attr(test, schemars(with = "schema::Network"))]
    pub address: IpNet,
    /// MAC address of its interface.
    pub mac: String,
    /// Its further addresses, in the order in which they were asked for.
    #[cfg_attr(test, schemars(with = "Vec<schema::Network>"))]
    #[serde(default)]
    pub further: Vec<IpNet>,
}

/// `POST /v1/pods`: an address for a pod; the same question gets the same one again; root only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PodRequest {
    /// Name of the pod, for example its namespace path or container id.
    pub id: String,
    /// The address it shall have; weft chooses one when this is left out.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The part of the range of which it shall be, with its prefix length; the whole range when this is left out. A pod
    /// can have an address of each of several subnets.
    #[cfg_attr(test, schemars(with = "Option<schema::Network>"))]
    #[serde(default)]
    pub subnet: Option<IpNet>,
    /// How long it may take, in milliseconds, 60,000 at most; 10,000 when this is left out.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// `POST /v1/pods/free`: a pod is gone, or one of its addresses; root only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FreeRequest {
    /// Name of the pod.
    pub id: String,
    /// This address only; all of the pod's when it is left out.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// Addresses of a pod: answer to `POST /v1/pods/free`, with what was freed, and to `GET /v1/pods/{id}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PodAddresses {
    /// Name of the pod.
    pub id: String,
    /// Its addresses, in order.
    pub addresses: Vec<IpAddr>,
}

/// `GET /v1/addresses/{address}`: where an address lives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AddressPlace {
    /// The address.
    pub address: IpAddr,
    /// Where it lives, in words.
    pub place: String,
}

/// `GET /v1/multicast`: which hosts get the frames of which multicast groups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MulticastStatus {
    /// Groups to which pods listen, in order. Those that are for everybody, 224.0.0.0/24 and ff02::/16, are not listed.
    pub groups: Vec<GroupStatus>,
    /// Hosts that get the frames of every group, this one first.
    pub everything: Vec<EverythingStatus>,
}

/// A multicast group to which pods listen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GroupStatus {
    /// Its address.
    pub group: IpAddr,
    /// True when pods of this host listen.
    pub here: bool,
    /// Nicknames of the other hosts whose pods listen, or short forms of their ids, in order.
    pub hosts: Vec<String>,
}

/// A host that gets the frames of every group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EverythingStatus {
    /// Its nickname, or the short form of its id.
    pub host: String,
    /// True for this host.
    pub here: bool,
    /// Why, in words.
    pub reason: String,
}

/// `GET /v1/ipam`: the address space as this host sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IpamStatus {
    /// Addresses that pods get.
    #[cfg_attr(test, schemars(with = "schema::Network"))]
    pub range: IpNet,
    /// Addresses in one slot.
    pub slot_size: u32,
    /// Stretches of the range by owner, in order.
    pub ranges: Vec<IpamRange>,
    /// Addresses in the slots that this host owns.
    pub owned: u64,
    /// Addresses that this host can give out at once.
    pub free: u64,
    /// Addresses that pods of this host have.
    pub used: Vec<UsedAddress>,
    /// Single addresses that others have borrowed from this host.
    pub lent: u64,
    /// Single addresses that this host has borrowed.
    pub borrowed: u64,
    /// Freed addresses that rest before they are given out again.
    pub resting: u64,
    /// Requests that wait for an address, oldest first.
    pub waiting: Vec<WaitingRequest>,
    /// Number of the membership epoch.
    pub epoch: u32,
    /// Members of that epoch.
    pub epoch_members: u64,
    /// Why nothing, or less, is given out, in words.
    pub hindrance: Option<String>,
    /// Addresses in the whole range.
    pub total: u64,
    /// Who owns how much: this host first, then those out of reach, then the others, each by how much they own.
    pub owners: Vec<IpamOwner>,
    /// Addresses that pods of this host have from before it began again, and that this cluster has not given it.
    #[serde(default)]
    pub unclaimed: Vec<Unclaimed>,
    /// Removals of hosts that are not finished.
    #[serde(default)]
    pub removals: Vec<RemovalStatus>,
    /// Hosts that were removed, in order of their ids.
    #[serde(default)]
    pub removed: Vec<HostName>,
    /// Addresses that pods of this host had before it began again, that this cluster has given it since the router
    /// started, and that the pods still have. Those that it has not are in `unclaimed`.
    #[serde(default)]
    pub kept: Vec<UsedAddress>,
}

/// A host by id and nickname.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostName {
    /// The host, 64 hexadecimal digits.
    pub node: String,
    /// Its nickname, or the first digits of its id where that is not known.
    pub name: String,
}

/// A removal of hosts that is not finished.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemovalStatus {
    /// The hosts.
    pub hosts: Vec<HostName>,
    /// True when somebody has vouched that they are off for good.
    pub fenced: bool,
    /// The membership epoch that removes them; none before a majority has decided it.
    pub epoch: Option<u32>,
    /// Slots of theirs that nobody has taken over yet; 0 before it is decided.
    pub slots: u32,
    /// Members whose vote, or whose word that they have none of the slots, is missing.
    pub missing: Vec<HostName>,
    /// What it waits for, in words.
    pub waits_for: String,
}

/// `POST /v1/peers/remove`: these hosts shall be removed from the cluster; root only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemoveRequest {
    /// Nicknames, ids, or first digits of ids, eight at least.
    pub hosts: Vec<String>,
    /// Vouch that they are off for good: their votes do not count, and their addresses are given out at once.
    #[serde(default)]
    pub fenced: bool,
    /// Also hosts that are connected just now.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/peers/keep`: these hosts shall stay after all; root only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KeepRequest {
    /// As for [`RemoveRequest::hosts`].
    pub hosts: Vec<String>,
}

/// Answer to `POST /v1/peers/remove` and `POST /v1/peers/keep`: the wish is durable; `removals` of `GET /v1/ipam` says how
/// it goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemovalAsked {
    /// The hosts.
    pub hosts: Vec<HostName>,
}

/// What `weft peer remove --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemovalDone {
    /// The hosts.
    pub hosts: Vec<HostName>,
    /// True when they are removed and all their slots have a new owner; false with `--no-wait`, when that is still to come.
    pub done: bool,
}

/// What one host owns of the range.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IpamOwner {
    /// The host, 64 hexadecimal digits.
    pub node: String,
    /// Its nickname.
    pub name: String,
    /// True for this host.
    pub here: bool,
    /// True when it is in the membership epoch: it may own slots, and votes.
    pub voter: bool,
    /// Addresses in its slots.
    pub addresses: u64,
    /// Of these, those in slots that two hosts claim, from which nothing is given out.
    pub frozen: u64,
    /// Addresses that can be given out at once. Another host says only so much: it has at least as many.
    pub free: u64,
    /// Its single addresses that other hosts have.
    pub lent: u64,
    /// Single addresses of other hosts that it has.
    pub borrowed: u64,
    /// True when it can be reached now.
    pub reachable: bool,
    /// Seconds since it was reached last, or since this router started; none while it can be reached.
    pub silent_s: Option<u64>,
}

/// `GET /v1/ipam/check`: whether the address space, the kernel and the disk agree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IpamCheck {
    /// What was found, the worst first.
    pub findings: Vec<IpamFinding>,
    /// Pods whose interfaces were looked at.
    pub pods: u64,
    /// Addresses held on this host, for pods or otherwise, that were looked at.
    pub addresses: u64,
    /// Other hosts whose records were compared.
    pub hosts: u64,
    /// Parts of the check that could not be done, and why, in words.
    pub unchecked: Vec<String>,
}

/// Something that `weft ipam check` found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IpamFinding {
    /// Which kind of finding: words joined by hyphens, the same for each of its kind.
    pub kind: String,
    /// True when something is wrong; false when somebody may want to know.
    pub wrong: bool,
    /// What was found, in words.
    pub what: String,
    /// What to do, in words.
    pub cure: String,
}

/// An address that a pod has and that the cluster has not given to this host: the pod keeps it and runs on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unclaimed {
    /// The address.
    pub address: IpAddr,
    /// Name of the pod.
    pub id: String,
    /// Why it is not this host's, in words; none while it is being asked for.
    pub refusal: Option<String>,
    /// The host that has it, or that owns what it lies in; none while that is not known.
    #[serde(default)]
    pub holder: Option<HostName>,
}

/// `POST /v1/ipam/adopt`: leave this cluster for another one, with all hosts of this one; root only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AdoptRequest {
    /// A host of the other cluster, `HOST` or `HOST:PORT`; when it is left out, one that was met.
    #[serde(default)]
    pub peer: Option<String>,
    /// Join token of the other cluster; when it is left out, the one of this cluster.
    #[serde(default)]
    pub token: Option<String>,
}

/// Answer to `POST /v1/ipam/adopt`, once this host is a member there and that is durable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Adopted {
    /// Genesis id of the cluster that was left.
    pub left: String,
    /// Genesis id of the cluster that was joined.
    pub joined: String,
    /// This host's new node id.
    pub node: String,
    /// Addresses of running pods that it now asks the other cluster for.
    pub claims: u64,
}

/// The address space in short.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IpamSummary {
    /// Addresses in the slots that this host owns.
    pub owned: u64,
    /// Addresses that this host can give out at once.
    pub free: u64,
    /// Addresses that pods of this host have.
    pub used: u64,
    /// Single addresses that others have borrowed from this host.
    pub lent: u64,
    /// Single addresses that this host has borrowed.
    pub borrowed: u64,
    /// Freed addresses that rest before they are given out again.
    pub resting: u64,
    /// Requests that wait for an address, oldest first.
    pub waiting: Vec<WaitingRequest>,
    /// Why nothing, or less, is given out, in words.
    pub hindrance: Option<String>,
}

/// A request that waits for an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WaitingRequest {
    /// Name of the pod.
    pub id: String,
    /// What it waits for, in words.
    pub reason: String,
}

/// A stretch of the range with one owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IpamRange {
    /// First address.
    pub first: IpAddr,
    /// Last address.
    pub last: IpAddr,
    /// Owner, 64 hexadecimal digits.
    pub owner: String,
    /// The owner's nickname.
    pub owner_name: String,
    /// True when two hosts claim it and nothing is given out from it.
    pub frozen: bool,
}

/// An address that a pod of this host has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UsedAddress {
    /// The address.
    pub address: IpAddr,
    /// Name of the pod.
    pub id: String,
}

/// Answer to `POST /v1/pods`: how to wire the pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PodPlan {
    /// Address with the prefix length of the subnet that was asked for, else of the range.
    #[cfg_attr(test, schemars(with = "schema::Network"))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TargetRequest {
    /// `HOST` or `HOST:PORT`.
    pub target: String,
}

/// Answer to `POST /v1/connect` and `POST /v1/forget`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Target {
    /// The address with its port, as `targets` of the status names it.
    pub target: String,
}

/// What `weft detach --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Detached {
    /// Name of the pod.
    pub id: String,
    /// True when it was attached; false when only its address was left to give back.
    pub was_attached: bool,
    /// Addresses that were given back.
    pub freed: Vec<IpAddr>,
    /// Why its addresses stay reserved, when the router could not be told.
    pub reserved_because: Option<String>,
}

/// What `weft down --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TakenDown {
    /// True when a router was running and was stopped.
    pub was_running: bool,
    /// The bridge that was removed, with all its ports.
    pub bridge: String,
    /// Names of the pods that were detached by force.
    pub detached: Vec<String>,
    /// What became of the host's part of the range; none without `--leave`.
    pub left: Option<LeaveStatus>,
    /// Where the host's former identity is kept; none without `--leave`.
    pub identity_kept_at: Option<String>,
}

/// `POST /v1/leave`: how far a host that leaves has come with handing on its part of the range.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LeaveStatus {
    /// True when there is nothing left to wait for: the other hosts go on without this one, and know it; or there are none.
    pub done: bool,
    /// Addresses that other hosts own now.
    pub handed: u64,
    /// Addresses that are free and still to be handed on.
    pub left: u64,
    /// Addresses that were handed on, and whose new owner has not said that it has them.
    pub unconfirmed: u64,
    /// Freed addresses that rest, and can be handed on afterwards.
    pub resting: u64,
    /// Borrowed addresses on their way back.
    pub returning: u64,
    /// Addresses that pods still have.
    pub used: u64,
    /// Addresses that other hosts have borrowed.
    pub lent: u64,
    /// What it waits for, in words.
    pub waits_for: Vec<String>,
    /// What cannot be handed on and why, in words.
    pub stays: Vec<String>,
    /// True when the members have decided to go on without this host.
    #[serde(default)]
    pub removed: bool,
}

/// Answer to `POST /v1/leave/end`: the router stops, and its identity cannot come back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LeaveEnd {
    /// Where the identity is kept.
    pub identity_kept_at: String,
}

/// What `weft token --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Token {
    /// The join token; whoever has it can join.
    pub token: String,
}

/// Answer with any 4xx or 5xx status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ApiError {
    /// What is wrong, where, and the cure.
    pub error: String,
    /// The same in a word, for programs.
    #[serde(default)]
    pub reason: ErrorReason,
}

impl ApiError {
    /// A refusal for a reason, with its sentence.
    pub fn new(reason: ErrorReason, error: impl Into<String>) -> Self {
        let error = error.into();
        Self { error, reason }
    }
}

/// Why a request is refused. Words are added; a program that does not know one goes by the status.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ErrorReason {
    /// The request is none: no JSON of its shape, or a value in it that is none of its kind.
    Malformed,
    /// Only root may ask for it.
    Forbidden,
    /// This router has no such call.
    UnknownCall,
    /// What is named is not there.
    NotFound,
    /// This host belongs to no cluster yet.
    NoCluster,
    /// A pod's name is empty or too long.
    BadId,
    /// No pod can have the address.
    BadAddress,
    /// No pod can have an address of the subnet.
    BadSubnet,
    /// The time to wait is longer than any may be.
    BadTimeout,
    /// Somebody else has the address.
    AddressTaken,
    /// The pod has as many addresses as one can have.
    TooManyAddresses,
    /// No address came in time: none is free, or a host that was asked did not answer.
    NoAddress,
    /// As many requests wait as may.
    TooManyRequests,
    /// This host gives no addresses out before somebody has put it in order.
    Frozen,
    /// This host is just joining another cluster.
    JoiningAnother,
    /// This host is leaving its cluster.
    Leaving,
    /// The request was taken back while it waited: its pod is gone, or whoever asked.
    Withdrawn,
    /// The state cannot be written to the disk.
    Unwritable,
    /// The hosts that are named cannot be removed or kept.
    NotRemovable,
    /// The other cluster did not let this host in.
    NotAdopted,
    /// The router is stopping.
    Stopping,
    /// Something went wrong in the router.
    Internal,
    /// One that this version does not know, or none.
    #[default]
    #[serde(other)]
    Other,
}

impl ErrorReason {
    /// True when the same request may succeed later, without anybody changing it or this host.
    pub const fn may_pass(self) -> bool {
        match self {
            Self::NoCluster
            | Self::NoAddress
            | Self::TooManyRequests
            | Self::JoiningAnother
            | Self::Unwritable
            | Self::Stopping
            | Self::Internal => true,
            Self::Malformed
            | Self::Forbidden
            | Self::UnknownCall
            | Self::NotFound
            | Self::BadId
            | Self::BadAddress
            | Self::BadSubnet
            | Self::BadTimeout
            | Self::AddressTaken
            | Self::TooManyAddresses
            | Self::Frozen
            | Self::Leaving
            | Self::Withdrawn
            | Self::NotRemovable
            | Self::NotAdopted
            | Self::Other => false,
        }
    }
}
