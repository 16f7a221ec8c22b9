//! What every engine does, whatever it is made of.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};

use weft_sleeve::door::DoorKeys;
use weft_sleeve::{ForwardingTable, Probe, SessionKeys};
use weft_wire::api::{Relayed, Traffic};
use weft_wire::{DropReason, Mac, NodeId, PeerHash, SessionIndex};

pub use crate::switching::LOOP_PROBE_INTERVAL;

/// Carries frames between a TAP device and the peers, under the sessions and the table that it is given.
///
/// Every call returns at once and may come from any thread. Dropping the engine stops it.
pub trait Engine: Send + Sync {
    /// From now on datagrams to `keys.local` are opened, and frames may be sent under it once a table names it.
    ///
    /// The same keys must never be installed twice, not even after [`Engine::remove`]: the counters would begin
    /// anew and repeat nonces.
    ///
    /// # Errors
    /// [`EngineError::IndexInUse`], [`EngineError::TooManySessions`].
    fn install(&self, keys: &SessionKeys) -> Result<(), EngineError>;

    /// Forgets a session; one that is not there is no error.
    fn remove(&self, local: SessionIndex);

    /// Replaces the forwarding table, as a whole.
    fn publish(&self, table: &ForwardingTable);

    /// From now on handshakes are for the cores with these keys, and a flood of them ends before it becomes events
    /// ([`weft_sleeve::door`]). Before, all of them are events.
    fn guard(&self, cores: Vec<DoorKeys>);

    /// Sends a complete datagram: a handshake message.
    fn send(&self, to: SocketAddr, datagram: &[u8]);

    /// Sends one KEEPALIVE under a session, to where the table says that its peer is reached.
    fn keepalive(&self, local: SessionIndex);

    /// Sends one PROBE under a session, to where the table says that its peer is reached. What comes of it is an event:
    /// [`EngineEvent::ProbeAnswered`], [`EngineEvent::ProbeRefused`], or none.
    fn probe(&self, local: SessionIndex, probe: Probe);

    /// Sends one frame from this address under a session, to nobody: the peer learns from it that the address lives here. Its
    /// bridge passes it to no port.
    fn announce(&self, local: SessionIndex, mac: Mac);

    /// Sends one probe of the loop guard into the bridge; to be called every [`LOOP_PROBE_INTERVAL`].
    fn probe_for_loops(&self);

    /// Everything counted so far.
    fn counters(&self) -> Counters;

    /// What kind of engine this is and what it lacks here.
    fn description(&self) -> EngineDescription;

    /// Stops the workers and returns when they have ended.
    fn stop(self: Box<Self>) {
        drop(self);
    }
}

/// What an engine needs to start. The TAP device is looked up in the network namespace of the calling thread.
pub struct EngineConfig {
    /// Name of the TAP device; it exists already, and stays when the engine stops.
    pub tap: String,
    /// The sleeve's socket, bound. The engine makes it non-blocking and forbids fragmentation on it.
    pub socket: UdpSocket,
    /// Where events go.
    pub events: EventSink,
}

/// Takes an event and returns at once; `false` when the queue behind it is full, and the event is lost.
pub type EventSink = Box<dyn Fn(EngineEvent) -> bool + Send + Sync>;

/// What the workers saw and somebody must act on. Addresses are never IPv4-mapped IPv6 addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineEvent {
    /// An INIT, RESP or COOKIE datagram, complete and unchecked; one that came by relay with its shim.
    Handshake {
        /// Where it came from.
        from: SocketAddr,
        /// Its octets, at most [`HANDSHAKE_MAX`] and the shim.
        bytes: Vec<u8>,
    },
    /// The first datagram that opened under a session.
    Opened {
        /// The session.
        local: SessionIndex,
        /// Where the datagram came from; `None` when it came by relay.
        from: Option<SocketAddr>,
    },
    /// A datagram that opened came directly from another address than the table's endpoint for that peer.
    /// Reported once per address, and at most once a second per session.
    Roamed {
        /// The session.
        local: SessionIndex,
        /// Where the datagram came from.
        from: SocketAddr,
    },
    /// A datagram names a session that is not installed. Not authenticated; at most once a second per sender.
    UnknownIndex {
        /// Where it came from.
        from: SocketAddr,
    },
    /// Frames with this source address come from this peer. Reported when new, when moved, and once a minute.
    Learned {
        /// Source address of the frame.
        mac: Mac,
        /// The peer that sent it.
        peer: NodeId,
    },
    /// A frame with this source address came from a port of this host's bridge, and the table has the address behind a
    /// peer. At most once a second per address.
    Local {
        /// Source address of the frame.
        mac: Mac,
    },
    /// A frame of this host went to this address, which weft made, and to this peer, that has it by its slot; the table
    /// does not have it among those in use. At most once a second per address.
    Sent {
        /// Destination address of the frame.
        mac: Mac,
        /// The peer.
        peer: NodeId,
    },
    /// A peer has sent a frame to every host, since it does not know where this address lives, which weft did not make. At
    /// most once a second per address.
    Sought {
        /// The session that the frame came under.
        local: SessionIndex,
        /// Destination address of the frame.
        mac: Mac,
    },
    /// A frame for this peer was dropped because no session to it has an endpoint. At most once a second per peer.
    Wanted {
        /// The peer.
        peer: NodeId,
    },
    /// The last probe under this session was answered. Reported once.
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
    /// The kernel refused a datagram with a frame for its size; the frame was sent in smaller pieces. Reported once
    /// for each size that the table names.
    TooBig {
        /// The session.
        local: SessionIndex,
        /// Octets of the datagram.
        size: u16,
    },
    /// The engine carries no more frames.
    Failed {
        /// A sentence: what happened, and the cure.
        what: String,
    },
}

/// Octets of the longest datagram that is passed on as [`EngineEvent::Handshake`]: a handshake message must fit
/// the smallest path of IPv6 (RFC 8200 §5).
pub const HANDSHAKE_MAX: usize = 1_280;

/// Everything that an engine counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Drops since the engine started; `drops[r as usize]` for reason `r`.
    pub drops: [u64; DropReason::COUNT],
    /// Frames exchanged with each peer since the engine started.
    pub peers: BTreeMap<NodeId, Traffic>,
    /// Datagrams of each session that is installed.
    pub sessions: BTreeMap<SessionIndex, SessionCounters>,
    /// With whom this host is joined outside the overlay.
    pub joined: Vec<Joined>,
    /// What was passed on for others.
    pub relayed: Relayed,
    /// The neighbours for whom, to them or from them, that was within the last two seconds.
    pub relayed_for: Vec<SocketAddr>,
}

/// A second way between two bridges of the overlay, or between two ports of one, as the loop guard found it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Joined {
    /// The other host; this one when two of its own ports lead to one another.
    pub host: PeerHash,
    /// Source address of that host's probes: the bridge has it at the port by which they came in.
    pub probe: Mac,
}

/// Datagrams of one session since it was installed, of every kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionCounters {
    /// Counters used for sealing.
    pub sent: u64,
    /// Of those, the ones for frames and pieces of frames.
    pub frames: u64,
    /// Of those, the datagrams longer than [`weft_sleeve::path_mtu::FLOOR`].
    pub large: u64,
    /// Datagrams that opened and were no replay.
    pub received: u64,
    /// Of those, the ones that came by relay.
    pub relayed: u64,
}

/// What kind of engine this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineDescription {
    /// Short name, as in the status.
    pub name: &'static str,
    /// Sentences on what works less well here than it could, and how to change that.
    pub degradations: Vec<String>,
}

/// Why an engine does not start or does not take a session.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The TAP device is missing.
    #[error("there is no TAP device {name} in this network namespace: make it before the engine starts")]
    NoTap {
        /// Name of the device.
        name: String,
    },
    /// The interface is something else.
    #[error("the interface {name} is no TAP device: remove it, or choose another name")]
    NotATap {
        /// Name of the interface.
        name: String,
    },
    /// The TAP device cannot be opened.
    #[error("cannot open the TAP device {name}: {source}{}", open_cure(.source))]
    OpenTap {
        /// Name of the device.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket refuses an option that the engine cannot do without.
    #[error("cannot prepare the sleeve's UDP socket: {0}")]
    Socket(#[source] io::Error),
    /// A worker cannot be started.
    #[error("cannot start a worker of the engine: {0}")]
    Worker(#[source] io::Error),
    /// The kernel cannot be asked.
    #[error(transparent)]
    Kernel(#[from] weft_kernel::Error),
    /// The cryptography library refuses the keys.
    #[error("the cryptography library refuses the keys of a session: its start-up self-test may have failed")]
    Keys,
    /// A session with this index is installed.
    #[error("a session with the index {index:?} is installed already: choose another index")]
    IndexInUse {
        /// The index.
        index: SessionIndex,
    },
    /// As many sessions as the engine holds are installed.
    #[error("{limit} sessions are installed, as many as the engine holds: remove an idle one first")]
    TooManySessions {
        /// The limit.
        limit: usize,
    },
}

impl EngineError {
    /// Why a TAP device cannot be opened.
    pub(crate) fn of_tap(name: &str, error: weft_kernel::Error) -> Self {
        match error {
            weft_kernel::Error::Io { source, .. } => Self::OpenTap {
                name: name.into(),
                source,
            },
            other => Self::Kernel(other),
        }
    }
}

fn open_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ResourceBusy => "; another process holds it: stop that router first",
        io::ErrorKind::PermissionDenied => "; CAP_NET_ADMIN is needed: run as root",
        io::ErrorKind::NotFound => {
            "; /dev/net/tun is missing: pass it to the container or load the tun module"
        }
        _ => "",
    }
}
