//! What goes into the node and what comes out.

use crate::again::{Beginning, Token};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use weft_fastpath::View;
use weft_gossip::{ConnId, DialTarget, DurableState, PersistToken};
use weft_ipam_crdt::genesis::AgreementState;
use weft_ipam_crdt::{Change, Claim, RequestId};
use weft_sleeve::door::DoorKeys;
use weft_sleeve::{Cipher, DownReason, ForwardingTable, Probe, SessionKeys};
use weft_wire::api::{Adopted, ApiError, PodPlan};
use weft_wire::fastpath::{Encryption, Settings};
use weft_wire::group::Listening;
use weft_wire::{DropReason, GenesisId, Mac, NodeId, RejectReason, SessionIndex};

/// Something that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A mesh connection, the operator, or the disk.
    Mesh(weft_gossip::Input),
    /// An INIT, RESP or COOKIE datagram arrived, or a RELAY datagram with one of them.
    Handshake {
        /// Address it came from.
        from: SocketAddr,
        /// The UDP payload.
        bytes: &'a [u8],
    },
    /// The first datagram opened under a session.
    Opened {
        /// The session.
        local: SessionIndex,
        /// Address the datagram came from; `None` when it came by relay.
        from: Option<SocketAddr>,
    },
    /// An authenticated datagram came from a new address.
    Roamed {
        /// The session.
        local: SessionIndex,
        /// The new address.
        from: SocketAddr,
    },
    /// A datagram named a session that is not installed.
    UnknownIndex {
        /// Address it came from.
        from: SocketAddr,
    },
    /// A frame waits for a session with this peer.
    Wanted {
        /// The peer.
        peer: NodeId,
    },
    /// Frames from this address come from this peer.
    Learned {
        /// The address.
        mac: Mac,
        /// The peer.
        peer: NodeId,
    },
    /// A frame from this address came from a port of this host's bridge, although frames to it go to a peer.
    Local {
        /// The address.
        mac: Mac,
    },
    /// To which multicast groups pods of this host listen now. Said for the first time when the kernel was asked at the start.
    Listening(Listening),
    /// At the start, before anything else: what the kernel was found to send by VXLAN, address by address with the outer
    /// address it goes to, as an earlier process of this host had wanted it. It goes on until the node knows better.
    KernelFound {
        /// Addresses, and where frames to them go.
        entries: Vec<(Mac, IpAddr)>,
        /// There are VXLAN devices.
        has_vxlan: bool,
    },
    /// The kernel is as the last [`Output::Kernel`] wants it, and has VXLAN devices, or has none.
    KernelFollows {
        /// It has some.
        has_vxlan: bool,
    },
    /// The kernel has lately sent frames to these addresses by VXLAN.
    KernelUsed(Vec<Mac>),
    /// A frame came in by one of the probe devices.
    KernelProbe(&'a [u8]),
    /// A frame of a pod went by the sleeve to this address, which weft made, and to this peer by its slot.
    Sent {
        /// The address.
        mac: Mac,
        /// The peer.
        peer: NodeId,
    },
    /// The operator says what is encrypted in this cluster.
    SetEncryption(Encryption),
    /// The operator or a pod wants something of the address space.
    Ipam(weft_ipam_crdt::Request),
    /// The operator wants the hosts of this cluster to become members of another one.
    Adopt {
        /// A host there, `HOST:PORT`; one that was met when `None`.
        target: Option<String>,
        /// Its join token; the one of this cluster when `None`.
        token: Option<Token>,
    },
    /// Members that nobody has heard of for so long shall be removed, if a majority is for it; none shall be when `None`, as
    /// from the start. Times outside [`crate::silence::REMOVE_AFTER_MIN`] and its like are brought within.
    RemoveAfter(Option<Duration>),
    /// What [`Output::BeginAgain`] said is durable, and with it all writes before.
    BeganAgain,
    /// Everything up to this write of [`Output::PersistAgreement`] is durable.
    AgreementPersisted(u64),
    /// Everything up to this write of the address state is durable.
    IpamPersisted(weft_ipam_crdt::PersistToken),
    /// Everything up to this write of the address state is written, and being synced by a disk that is slow.
    IpamWritten(weft_ipam_crdt::PersistToken),
    /// What a session has done so far, once a second.
    Activity {
        /// The session.
        local: SessionIndex,
        /// Datagrams sealed under it.
        sent: u64,
        /// Datagrams opened under it.
        received: u64,
        /// Of those sealed, the ones that carried frames.
        frames: u64,
        /// Of these, the datagrams longer than `weft_sleeve::path_mtu::FLOOR`.
        large: u64,
        /// Of those opened, the ones that came by relay.
        relayed: u64,
    },
    /// For these neighbours, to them or from them, something was relayed within the last second or two.
    Relayed(Vec<SocketAddr>),
    /// A probe was answered.
    ProbeAnswered {
        /// The session.
        local: SessionIndex,
        /// The probe.
        probe: Probe,
    },
    /// The kernel refused a probe for its size.
    ProbeRefused {
        /// The session.
        local: SessionIndex,
        /// The probe.
        probe: Probe,
    },
    /// The kernel refused a datagram with a frame for its size.
    TooBig {
        /// The session.
        local: SessionIndex,
        /// Octets of the datagram.
        size: u16,
    },
    /// The time that `poll_timeout` named has come.
    Timeout,
}

/// Something to do, in the order in which it comes out.
#[derive(Debug)]
pub enum Output {
    /// For the TCP shell.
    Mesh(MeshCommand),
    /// Make the state durable, then say `weft_gossip::Input::Persisted`.
    Persist {
        /// Names this write.
        token: PersistToken,
        /// What to write.
        state: DurableState,
    },
    /// Make this host's part in an agreement durable, in place of what was stored of it, then say
    /// [`Input::AgreementPersisted`].
    PersistAgreement {
        /// Names this write.
        token: u64,
        /// What to write.
        state: Box<AgreementState>,
    },
    /// Append these changes of the address state to the log, in order, then say [`Input::IpamPersisted`].
    PersistIpam {
        /// Names this write.
        token: weft_ipam_crdt::PersistToken,
        /// What to append.
        changes: Vec<Change>,
    },
    /// Make this what the host is, by one write in place of all that was stored, then say [`Input::BeganAgain`]. What was
    /// stored is kept aside for the operator.
    BeginAgain(Box<Beginning>),
    /// Store these claims in place of those that were stored. Nothing waits for it.
    PersistClaims(Vec<Claim>),
    /// The answer to [`Input::Adopt`]; a success is durable.
    Adopted(Result<Adopted, String>),
    /// The answer to [`weft_ipam_crdt::Request::Allocate`] or [`weft_ipam_crdt::Request::Claim`]; a success is durable.
    Allocated {
        /// Of which request.
        request: RequestId,
        /// How to wire the pod, or why it gets no address.
        result: Result<PodPlan, ApiError>,
    },
    /// The answer to [`weft_ipam_crdt::Request::Free`]; durable.
    Freed {
        /// Of which request.
        request: RequestId,
        /// What was freed.
        addresses: Vec<IpAddr>,
    },
    /// The answer to [`weft_ipam_crdt::Request::Remove`] and [`weft_ipam_crdt::Request::Keep`]; the wish is durable.
    Removal {
        /// Of which request.
        request: RequestId,
        /// Why it is none, in words.
        result: Result<(), String>,
    },
    /// For the engine.
    Engine(EngineCommand),
    /// The kernel shall be as follows from this.
    Kernel(Box<View>),
    /// Send this frame by the probe device for outer addresses of this family; a loss shows.
    KernelProbe {
        /// The outer address that the device has for it.
        to: IpAddr,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Store these settings in place of those that were stored.
    PersistSettings(Settings),
    /// For the log.
    Notice(Notice),
}

/// What the TCP shell is told.
#[derive(Debug)]
pub enum MeshCommand {
    /// Open a connection.
    Dial {
        /// Names the connection from now on.
        conn: ConnId,
        /// Where to.
        to: DialTarget,
    },
    /// Write one frame.
    Send {
        /// The connection.
        conn: ConnId,
        /// The frame, without its length.
        frame: Vec<u8>,
    },
    /// Write what was handed over before, then close.
    Close {
        /// The connection.
        conn: ConnId,
    },
}

/// What the engine is told.
#[derive(Debug)]
pub enum EngineCommand {
    /// Receive under this session.
    Install(SessionKeys),
    /// Forget this session.
    Remove(SessionIndex),
    /// Use this table.
    Publish(ForwardingTable),
    /// Handshakes are for the cores with these keys.
    Guard(Vec<DoorKeys>),
    /// Send a complete datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// The UDP payload.
        bytes: Vec<u8>,
    },
    /// Seal and send one keepalive.
    Keepalive(SessionIndex),
    /// Seal and send one probe.
    Probe(SessionIndex, Probe),
}

/// What somebody may want to read in the log.
#[derive(Debug)]
pub enum Notice {
    /// This node became a member, or is one since it started.
    Joined {
        /// The cluster.
        genesis: GenesisId,
    },
    /// How far the hosts are that make a cluster together: a sentence.
    Gathering(String),
    /// This node let another one in.
    Admitted {
        /// The new member.
        peer: NodeId,
        /// Its nickname.
        name: String,
    },
    /// A mesh link is up.
    LinkUp {
        /// The peer.
        peer: NodeId,
        /// Its nickname, when known.
        name: String,
    },
    /// The last mesh link to a peer is down.
    LinkDown {
        /// The peer.
        peer: NodeId,
        /// Its nickname, when known.
        name: String,
        /// Why.
        reason: RejectReason,
    },
    /// A mesh connection was refused, by either side.
    LinkRefused {
        /// Whom it was with, as far as that is known.
        with: String,
        /// Why.
        reason: RejectReason,
    },
    /// A peer of another cluster was met.
    Foreign {
        /// Its cluster.
        genesis: GenesisId,
        /// Who, which two clusters, and the cure.
        sentence: String,
    },
    /// This host is a new member, of this cluster or another one.
    BeganAgain {
        /// Its new id.
        node: NodeId,
        /// The cluster before.
        left: Option<GenesisId>,
        /// The cluster now.
        joined: GenesisId,
        /// Addresses of running pods that it asks for.
        claims: usize,
    },
    /// A running pod keeps the address that it had before this host began again.
    Kept {
        /// The pod.
        id: String,
        /// Its address.
        address: core::net::IpAddr,
    },
    /// An address of a running pod is not this host's.
    Unclaimed {
        /// Which, why, and the cure.
        sentence: String,
    },
    /// Frames can travel to a peer.
    SleeveUp {
        /// The peer.
        peer: NodeId,
        /// Its nickname, when known.
        name: String,
        /// Cipher of the session.
        cipher: Cipher,
    },
    /// Frames to a peer go another way than before: by relay or another one, or straight again.
    Way {
        /// The peer.
        peer: NodeId,
        /// Its nickname, when known.
        name: String,
        /// Who passes them on; `None` when nobody does.
        relay: Option<String>,
    },
    /// Frames to a peer go through the kernel, or no longer.
    Fastpath {
        /// The peer.
        peer: NodeId,
        /// Its nickname, when known.
        name: String,
        /// Which, and why.
        sentence: String,
    },
    /// The cluster's setting on encryption is another one: a sentence.
    Encryption(String),
    /// Frames can no longer travel to a peer.
    SleeveDown {
        /// The peer.
        peer: NodeId,
        /// Its nickname, when known.
        name: String,
        /// Why.
        why: DownReason,
    },
    /// Slots were received or given, or an epoch was decided.
    Ipam(weft_ipam_crdt::Event),
    /// Nobody has heard of a member for as long as the operator said: its removal is asked for.
    Silent {
        /// The member.
        peer: NodeId,
        /// Its nickname, when known.
        name: String,
    },
    /// A sentence that somebody should read; it stays in the status.
    Warning(String),
    /// A datagram of the handshake was dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Whose it was.
        from: Option<SocketAddr>,
    },
}
