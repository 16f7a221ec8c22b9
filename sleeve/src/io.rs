//! What goes into the core and what comes out.

use crate::keys::{Cipher, ProofKeys, SessionKeys};
use crate::path_mtu::Probe;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use weft_wire::id::NoiseKeypair;
use weft_wire::{ClusterSecret, DropReason, GenesisId, NodeId, NoisePublic, SessionIndex, Time};

/// This node, as it is for the whole life of the process.
pub struct LocalNode {
    /// Our identity.
    pub node: NodeId,
    /// Our Noise static key pair.
    pub noise: NoiseKeypair,
    /// Our identity's signature over the public half: `NodeKey::certify_noise_static`.
    pub certificate: [u8; 64],
    /// Cluster we are a member of.
    pub genesis: GenesisId,
    /// Durable number of this start of the process; grows with each.
    pub incarnation: u64,
    /// Ciphers we accept, the preferred one first. The shell knows whether the processor has AES instructions.
    pub ciphers: Vec<Cipher>,
}

/// What the core must know of a member to talk to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Noise static key of its signed peer record. Handshakes with another one are refused.
    pub noise_static: NoisePublic,
    /// Where it says it listens, best first; those beyond `weft_wire::limits::ENDPOINTS_MAX` are ignored.
    pub endpoints: Vec<SocketAddr>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The cluster secrets, the current one first, then the previous one; more are ignored.
    Secrets(&'a [ClusterSecret]),
    /// This node is a member, and this is what is known of it. Sessions that stand are not touched.
    UpsertPeer(NodeId, PeerInfo),
    /// This node is no longer a member: its sessions end. A failure detector's verdict is no reason to say this.
    RemovePeer(NodeId),
    /// A session with this member is to be kept up, as with [`Input::Connect`], though no frame waits for it. The end with
    /// the higher node id leaves the other a moment to begin.
    Keep(NodeId),
    /// Routes lead to this peer through these others, the best first; those beyond [`RELAYS_MAX`](crate::timing::RELAYS_MAX) are ignored. That there
    /// are any says that it is alive.
    Relays {
        /// The peer.
        peer: NodeId,
        /// Peers that pass datagrams on to it.
        relays: Vec<NodeId>,
    },
    /// Traffic for this peer is waiting. From now on a session with it is kept up: an attempt that is
    /// not answered is repeated without end, every ten seconds at last. Saying it again does no harm; for a node
    /// that is no member it does nothing.
    Connect(NodeId),
    /// An INIT, RESP or COOKIE datagram arrived, or a RELAY datagram with one of them for this node.
    Datagram {
        /// Address it came from.
        from: SocketAddr,
        /// The UDP payload.
        bytes: &'a [u8],
    },
    /// The first datagram opened under a session that is installed and not selected yet.
    Opened {
        /// The session.
        local: SessionIndex,
        /// Address the datagram came from; `None` when it came by relay.
        from: Option<SocketAddr>,
    },
    /// A datagram that opened, and was not relayed, came from another address than the peer's endpoint.
    Roamed {
        /// The session.
        local: SessionIndex,
        /// The new address.
        from: SocketAddr,
    },
    /// A datagram came for a session that is not installed.
    UnknownIndex {
        /// Address it came from.
        from: SocketAddr,
    },
    /// What an installed session has done so far, for each session about once a second, and at once when `sent`
    /// reaches a power of two from 2^20 on.
    Activity {
        /// The session.
        local: SessionIndex,
        /// Datagrams sealed under it since it was installed, keepalives included: the next counter.
        sent: u64,
        /// Datagrams opened under it since it was installed, keepalives included.
        received: u64,
        /// Of those sealed, the ones that carried frames or pieces of frames.
        frames: u64,
        /// Of these, the datagrams longer than [`path_mtu::FLOOR`]: a path that shrinks loses them first.
        ///
        /// [`path_mtu::FLOOR`]: crate::path_mtu::FLOOR
        large: u64,
        /// Of those opened, the ones that came by relay.
        relayed: u64,
    },
    /// The engine has passed something on for these neighbours, from them or to them: their sessions are in use, though
    /// nothing travels under them.
    Relayed(&'a [SocketAddr]),
    /// A probe that [`Output::Probe`] asked for was answered.
    ProbeAnswered {
        /// The session.
        local: SessionIndex,
        /// The probe.
        probe: Probe,
    },
    /// The local kernel refused a probe for its size.
    ProbeRefused {
        /// The session.
        local: SessionIndex,
        /// The probe.
        probe: Probe,
    },
    /// The local kernel refused a datagram that carried a frame for its size.
    TooBig {
        /// The session.
        local: SessionIndex,
        /// Octets of the datagram.
        size: u16,
    },
    /// The time that `poll_timeout` named has come.
    Timeout,
}

/// Something to do. To be done in the order in which it comes out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// The UDP payload.
        bytes: Vec<u8>,
    },
    /// Receive under this session from now on. At most [`crate::INSTALLED_MAX`] are installed at once.
    Install(SessionKeys),
    /// What both ends of this session say to each other on another path carries a MAC under one of these keys. Comes just
    /// before [`Output::Install`]; good until [`Output::Remove`].
    Proof {
        /// The session.
        local: SessionIndex,
        /// The other end.
        peer: NodeId,
        /// The keys.
        keys: ProofKeys,
    },
    /// Send to this peer under this session from now on; the one before it stays installed for receiving.
    Select {
        /// The peer.
        peer: NodeId,
        /// The session.
        local: SessionIndex,
    },
    /// Send to this peer this way from now on.
    Way {
        /// The peer.
        peer: NodeId,
        /// How.
        way: Way,
    },
    /// Forget this session and wipe its keys.
    Remove {
        /// The session.
        local: SessionIndex,
    },
    /// Seal and send one KEEPALIVE under this session.
    Keepalive {
        /// The session.
        local: SessionIndex,
    },
    /// Seal and send one PROBE under this session that fills so many octets of UDP payload. An answer, or the kernel's
    /// refusal, comes back as an input.
    Probe {
        /// The session.
        local: SessionIndex,
        /// Number and size.
        probe: Probe,
    },
    /// Datagrams to this peer may have at most so many octets from now on; before the first, [`path_mtu::BASE`].
    ///
    /// [`path_mtu::BASE`]: crate::path_mtu::BASE
    PathMtu {
        /// The peer.
        peer: NodeId,
        /// Octets of UDP payload.
        datagram: u16,
    },
    /// Frames can travel to this peer, or do so with another cipher than before.
    Up {
        /// The peer.
        peer: NodeId,
        /// Cipher of the session.
        cipher: Cipher,
    },
    /// Frames can no longer travel to this peer.
    Down {
        /// The peer.
        peer: NodeId,
        /// Why.
        why: DownReason,
    },
    /// Something was dropped or refused: count it. The address is the sender's, where there is one.
    Dropped(DropReason, Option<SocketAddr>),
}

/// How datagrams travel to a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// Straight to this address of its.
    Direct(SocketAddr),
    /// To this other peer, which passes them on. They travel straight to that one.
    Relay(NodeId),
}

/// Why frames can no longer travel to a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DownReason {
    /// Nothing was heard from it for three minutes, on any path.
    Silent,
    /// All counters of the session were used before it could be rekeyed.
    CountersExhausted,
    /// The session table was full, and this peer the one idle for longest.
    Evicted,
    /// It is no longer a member.
    Removed,
}

impl DownReason {
    /// What it means, in a sentence, for people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Silent => "Nothing was heard from it for three minutes.",
            Self::CountersExhausted => "All counters of the session were used before it could be rekeyed.",
            Self::Evicted => "The session table was full and this session idle for longest.",
            Self::Removed => "It is no longer a member.",
        }
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// Where the session with a peer stands, named by what it awaits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PeerState {
    /// Nobody asked for a session.
    Idle,
    /// A session is wanted, and no address of the peer is known.
    AwaitingEndpoint,
    /// A session is wanted, and no cluster secret is known or the session table is full.
    AwaitingChance,
    /// The other end is left a moment to send INIT first: of two that cross its own would stand.
    AwaitingInitiation,
    /// INIT was sent.
    AwaitingResponse,
    /// RESP was sent; the initiator has not yet used the session.
    AwaitingInitiator,
    /// Frames travel.
    Established,
    /// Frames are sent, and nothing has been heard for 15 s; the handshake is being repeated.
    Silent,
}

impl PeerState {
    /// What it means, in words, for people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Idle => "no session asked for",
            Self::AwaitingEndpoint => "no address known",
            Self::AwaitingChance => "no cluster secret yet, or too many sessions in use",
            Self::AwaitingInitiation => "the other end is left a moment to begin the handshake",
            Self::AwaitingResponse => "handshake sent, no answer yet",
            Self::AwaitingInitiator => "handshake answered, waiting for the first datagram",
            Self::Established => "session established",
            Self::Silent => "session established, nothing heard for 15 s",
        }
    }
}

/// One peer, for status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// The peer.
    pub node: NodeId,
    /// Where its session stands.
    pub state: PeerState,
    /// When it came to stand there.
    pub since: Time,
    /// Where it was heard from last without a relay: datagrams to it go there unless there is one.
    pub endpoint: Option<SocketAddr>,
    /// The peer that passes datagrams on to it, while it cannot be reached without.
    pub relay: Option<NodeId>,
    /// Largest IP packet that is known to reach it, while there is a session.
    pub path_mtu: Option<u16>,
    /// Session that is used for sending.
    pub session: Option<SessionIndex>,
    /// Its cipher.
    pub cipher: Option<Cipher>,
    /// When the handshake of that session was finished.
    pub established: Option<Time>,
    /// Initiations sent since the last answer.
    pub unanswered: u32,
    /// Why the last handshake with it failed; cleared when one succeeds.
    pub last_error: Option<DropReason>,
}
