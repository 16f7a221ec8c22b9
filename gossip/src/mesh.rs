//! The machine: its configuration, inputs, outputs and events, and the loop that drives its parts.

use crate::conn::Conn;
use crate::dial::Dialer;
use crate::durable::{DurableState, StateError};
use crate::handshake::{KeyRole, Keyring};
use crate::join::Durability;
use crate::liveness::LinksPublisher;
use crate::membership::Membership;
use crate::pass::Passing;
use crate::register::RegisterMap;
use crate::topology::Topology;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use weft_wire::envelope::{KindNumber, RegisterKey, Stamp};
use weft_wire::record::{Admission, Body, Genesis, PeerRecord};
use weft_wire::{ClusterSecret, Envelope, GenesisId, NodeId, NodeKey, NoiseKeypair, Psk, RejectReason, Time};

/// Connections open at once: more than a host of a large cluster needs (10 links) or of a small one (31
/// links, twice while both ends dial), and little memory.
pub const CONNECTIONS_MAX: usize = 256;
/// Accepted connections from one IP address whose handshake is not finished: a host restarting in a tight
/// loop stays below it, a flood does not.
pub const HANDSHAKES_PER_IP_MAX: usize = 32;
/// A connection attempt that takes longer has failed: three retransmissions of a SYN (RFC 6298 §2).
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A closing connection waits so long for its last words to be written.
pub const LINGER: Duration = Duration::from_secs(1);
/// A frame that the kernel has not taken for so long: the other end reads nothing.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Waits for the disk, the other end's or our own, between Hello, Welcome and Joined.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Kinds of records that this host writes itself.
pub const OWN_KINDS_MAX: usize = 64;

/// Names one connection. The machine numbers those it dials, the shell those it accepts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ConnId {
    /// Dialled by this host; the number comes from [`Output::Dial`].
    Dialled(u64),
    /// Accepted by this host; the number comes from the shell and is never used again.
    Accepted(u64),
}

/// Names one request to store the state; grows with each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PersistToken(pub u64);

/// Who this host is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Signs records and certifies the Noise key; its public half is the NodeId.
    pub key: NodeKey,
    /// Static key of the handshakes.
    pub noise: NoiseKeypair,
    /// Durable, and higher at each start.
    pub incarnation: u64,
    /// Fresh at each start.
    pub boot_nonce: u64,
    /// Nickname, at most 63 octets without control characters; what is too much is cut off.
    pub name: String,
}

/// What a mesh starts from.
pub struct MeshConfig {
    /// Who this host is.
    pub identity: Identity,
    /// Key of the join token, if this host has one: asks for admission with it, and admits others.
    pub token: Option<Psk>,
    /// What was stored before, or [`DurableState::founded`]; `None` waits for admission.
    pub durable: Option<DurableState>,
    /// Addresses that the operator named: `host`, `host:port`, `address` or `address:port`.
    pub targets: Vec<String>,
    /// Capability bits of the Hello.
    pub capabilities: u64,
    /// 32 fresh random octets.
    pub seed: [u8; 32],
}

/// What happened outside.
#[derive(Debug)]
pub enum Input {
    /// A dialled connection is open.
    Dialled {
        /// From [`Output::Dial`].
        conn: ConnId,
        /// The address that answered.
        remote: SocketAddr,
    },
    /// A dialled connection could not be opened.
    DialFailed {
        /// From [`Output::Dial`].
        conn: ConnId,
        /// Why, for people.
        why: String,
    },
    /// Somebody connected.
    Accepted {
        /// A new [`ConnId::Accepted`].
        conn: ConnId,
        /// Address of the other end.
        from: SocketAddr,
    },
    /// A frame arrived, without its length.
    Frame {
        /// Where.
        conn: ConnId,
        /// The octets behind the length.
        bytes: Vec<u8>,
    },
    /// The kernel has taken the last frame sent on this connection.
    Written {
        /// Which connection.
        conn: ConnId,
    },
    /// The connection broke or the other end closed it.
    Closed {
        /// Which connection.
        conn: ConnId,
    },
    /// The operator names an address.
    AddTarget(String),
    /// The operator takes an address back; an open link to it stays.
    RemoveTarget(String),
    /// This host's record of one kind has a new body. It is stamped and signed here, as soon as this host is
    /// a member.
    SetRecord {
        /// Which kind; not the admission's.
        kind: KindNumber,
        /// The encoded record.
        body: Vec<u8>,
    },
    /// Say this to one member, over the link to it or over those of others. Best effort: it is lost when no links lead there,
    /// when one of them breaks, or when too many wait.
    SendTo {
        /// To whom.
        to: NodeId,
        /// At most [`weft_wire::mesh::PASSED_MAX`] octets.
        bytes: Vec<u8>,
    },
    /// These members were removed from the cluster, as its members have decided; also those of before, at the start.
    Removed(BTreeSet<NodeId>),
    /// Let newcomers in, as from the start, or let nobody in.
    SetAdmitting(bool),
    /// Capability bits of the Hello from now on.
    SetCapabilities(u64),
    /// A state is durable, and with it all states before.
    Persisted(PersistToken),
    /// Say this to one host over the link of [`MeshEvent::Gathered`]. It is lost only together with the link.
    Agree {
        /// To whom.
        to: NodeId,
        /// 1 to [`weft_wire::mesh::AGREEMENT_MAX`] octets.
        bytes: Vec<u8>,
    },
    /// This host founds this cluster, with all other founders that the genesis names. Ignored by a member.
    Found {
        /// The cluster.
        genesis: Genesis,
        /// Its first secret.
        secret: ClusterSecret,
    },
    /// Say goodbye to everybody and dial no more.
    Shutdown,
    /// Time passed: a deadline of [`Mesh::poll_timeout`] is there.
    Tick,
}

/// Where to connect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DialTarget {
    /// A name to resolve, with its port: `host:port`.
    Name(String),
    /// An address.
    Address(SocketAddr),
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Open a connection; answer with [`Input::Dialled`] or [`Input::DialFailed`].
    Dial {
        /// Its name from now on.
        conn: ConnId,
        /// Where to.
        to: DialTarget,
    },
    /// Write a frame behind its length; answer with [`Input::Written`].
    Send {
        /// Where.
        conn: ConnId,
        /// At most 65,535 octets.
        frame: Vec<u8>,
    },
    /// Close the connection, or stop dialling it; nothing more is said about it.
    Close {
        /// Which connection.
        conn: ConnId,
    },
    /// Store the state; answer with [`Input::Persisted`].
    Persist {
        /// Names the request.
        token: PersistToken,
        /// What to store in place of what was stored before.
        state: DurableState,
    },
    /// For the node, for status and for the log.
    Event(MeshEvent),
}

/// What the rest of the router may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MeshEvent {
    /// This host has become a member, and that is durable.
    Joined {
        /// The cluster.
        genesis: Genesis,
    },
    /// This host has let another in, and that is durable.
    Admitted {
        /// The new member.
        node: NodeId,
        /// Its nickname.
        name: String,
    },
    /// A link stands to a host that holds the token, has no cluster either, and takes part in agreeing on one. It may take
    /// the place of an earlier one; what was said on that may be lost.
    Gathered {
        /// That host.
        node: NodeId,
        /// Its nickname.
        name: String,
    },
    /// The last link to such a host is gone.
    Parted {
        /// That host.
        node: NodeId,
        /// Why.
        reason: RejectReason,
    },
    /// A host without a cluster said this to this one, which has none either.
    Agreement {
        /// Who.
        from: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// The first link to a member stands.
    PeerUp {
        /// The member.
        node: NodeId,
        /// Its nickname.
        name: String,
    },
    /// The last link to a member is gone. A verdict about the mesh link, not about the path of its data.
    PeerDown {
        /// The member.
        node: NodeId,
        /// Why.
        reason: RejectReason,
    },
    /// A register holds a new record, this host's own included.
    RecordChanged {
        /// Which.
        key: RegisterKey,
    },
    /// A connection was refused, by this host or by the other.
    LinkRefused {
        /// Address of the other end, where known.
        remote: Option<SocketAddr>,
        /// The target of the operator that was dialled, if it was one.
        target: Option<String>,
        /// The other end, if it got so far as to say.
        node: Option<NodeId>,
        /// Why.
        reason: RejectReason,
    },
    /// A host of another cluster was met.
    Foreign {
        /// That host.
        node: NodeId,
        /// Its address, where known.
        remote: Option<SocketAddr>,
        /// True when this host dialled it there.
        is_dialled: bool,
        /// Its cluster.
        genesis: GenesisId,
        /// Capability bits of its Hello, and of the one that this host said or says to it.
        capabilities: [u64; 2],
        /// True when both hold the same join token.
        has_token: bool,
    },
    /// A member said this to this host, over its own link or signed over those of others.
    Direct {
        /// Who.
        from: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// A removed host shows its vote, from which can be seen what it knows. It is in no register.
    RecordOfRemoved(Envelope),
    /// Two processes use one identity: the state directory of `node` was copied.
    CopiedIdentity {
        /// Whose identity; this host's own if it is equal to its id.
        node: NodeId,
        /// Address of the connection that showed it, where known.
        remote: Option<SocketAddr>,
    },
    /// An [`Input::SetRecord`] was not taken.
    RecordRefused {
        /// Which kind.
        kind: KindNumber,
        /// Why, in words.
        why: &'static str,
    },
}

/// A record that this host writes.
struct OwnRecord {
    version: u64,
    body: Vec<u8>,
}

/// The gossip machine of one host.
///
/// Its methods are spread over the files of this crate by subject; the fields are shared by them.
pub struct Mesh {
    pub(crate) identity: Identity,
    pub(crate) node: NodeId,
    /// Our signature over our Noise static key: one for all Hellos.
    pub(crate) certificate: [u8; 64],
    pub(crate) token: Option<Psk>,
    pub(crate) capabilities: u64,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) membership: Option<Membership>,
    pub(crate) keyring: Keyring,
    pub(crate) registers: RegisterMap,
    pub(crate) topology: Topology,
    own: BTreeMap<KindNumber, OwnRecord>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) dialer: Dialer,
    pub(crate) durability: Durability,
    pub(crate) publisher: LinksPublisher,
    pub(crate) refusals: [u64; RejectReason::COUNT],
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) stopping: bool,
    /// Members that were removed, with what they last said of themselves: people go on calling them by their nicknames.
    pub(crate) removed: BTreeMap<NodeId, Option<Envelope>>,
    /// What goes to members over the links of others.
    pub(crate) passing: Passing,
    /// Newcomers are let in.
    pub(crate) is_admitting: bool,
}

impl Mesh {
    /// A machine at its start; a first [`Input::Tick`] sets it going.
    pub fn new(config: MeshConfig) -> Result<Self, StateError> {
        let node = config.identity.key.id();
        let mut mesh = Self {
            node,
            certificate: config
                .identity
                .key
                .certify_noise_static(&config.identity.noise.public()),
            keyring: Keyring::new(config.token.clone().map(|psk| (KeyRole::Token, psk))),
            identity: Identity {
                name: crate::hello::printable_name(&config.identity.name),
                ..config.identity
            },
            token: config.token,
            capabilities: config.capabilities,
            rng: ChaCha20Rng::from_seed(config.seed),
            membership: None,
            registers: RegisterMap::new(),
            topology: Topology::default(),
            own: BTreeMap::new(),
            conns: BTreeMap::new(),
            dialer: Dialer::default(),
            durability: Durability::default(),
            publisher: LinksPublisher::default(),
            refusals: [0; RejectReason::COUNT],
            outputs: VecDeque::new(),
            stopping: false,
            removed: BTreeMap::new(),
            passing: Passing::default(),
            is_admitting: true,
        };
        for target in config.targets {
            mesh.dialer.add_target(target);
        }
        if let Some(state) = config.durable {
            let membership = state.membership()?;
            if !membership.is_member(&node) {
                return Err(StateError::NotAMember);
            }
            mesh.adopt(membership);
            for record in state.peers() {
                // A record that no longer checks is as good as one that was never stored.
                if record.key().kind == PeerRecord::KIND && record.key().owner != node {
                    mesh.accept_own(record);
                }
            }
        }
        Ok(mesh)
    }

    /// Takes one input; `now` never goes back.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.may_change_dials(&input) {
            self.dialer.look_again();
        }
        match input {
            Input::Dialled { conn, remote } => self.on_dialled(now, conn, remote),
            Input::DialFailed { conn, why } => self.on_dial_failed(now, conn, why),
            Input::Accepted { conn, from } => self.on_accepted(now, conn, from),
            Input::Frame { conn, bytes } => self.on_frame(now, conn, &bytes),
            Input::Written { conn } => self.on_written(conn),
            Input::Closed { conn } => self.on_closed(now, conn),
            Input::AddTarget(target) => self.dialer.add_target(target),
            Input::RemoveTarget(target) => self.dialer.remove_target(&target),
            Input::SetRecord { kind, body } => self.set_record(kind, body),
            Input::SendTo { to, bytes } => self.send_to(now, &to, bytes),
            Input::Removed(nodes) => self.on_removed(&nodes),
            Input::SetAdmitting(is_admitting) => self.is_admitting = is_admitting,
            Input::SetCapabilities(capabilities) => self.capabilities = capabilities,
            Input::Persisted(token) => self.on_persisted(now, token),
            Input::Agree { to, bytes } => self.agree(now, &to, bytes),
            Input::Found { genesis, secret } => self.found(genesis, secret),
            Input::Shutdown => self.on_shutdown(now),
            Input::Tick => {}
        }
        self.advance(now);
    }

    /// False for what comes all the time and leaves connections, targets and members as they are. What such an input
    /// does change says so itself.
    fn may_change_dials(&self, input: &Input) -> bool {
        match input {
            Input::Written { .. } | Input::SetRecord { .. } | Input::SendTo { .. } | Input::Tick => false,
            Input::SetAdmitting(_) | Input::SetCapabilities(_) => false,
            Input::Frame { conn, .. } => self.conns.get(conn).is_none_or(|conn| conn.up().is_none()),
            _ => true,
        }
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back with [`Input::Tick`] if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Time> {
        let conns = self.conns.values().map(Conn::next_deadline);
        let others = [
            self.dial_deadline(),
            self.durability.deadline(),
            self.publish_deadline(),
        ];
        conns.chain(others).min().filter(|time| *time < Time::NEVER)
    }

    /// Everything that is due at `now`.
    fn advance(&mut self, now: Time) {
        self.expire(now);
        if !self.stopping {
            self.dial_due(now);
            self.publish_links(now);
        }
        self.persist_due(now);
        self.later_due(now);
        let ready: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.has_words(now))
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            self.pump(now, id);
        }
    }

    pub(crate) fn event(&mut self, event: MeshEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    /// A random fraction of `range`.
    pub(crate) fn jitter(&mut self, range: Duration) -> Duration {
        let nanos = u64::try_from(range.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.next_u64() % nanos.max(1))
    }

    /// Makes this host act as a member: keys, admissions as records, own records signed.
    pub(crate) fn adopt(&mut self, membership: Membership) {
        self.keyring = membership.keyring(self.token.as_ref());
        self.dialer.look_again();
        self.publisher.look_again();
        let admissions: Vec<Envelope> = membership.admissions().into_iter().cloned().collect();
        self.membership = Some(membership);
        for admission in admissions {
            self.accept_own(admission);
        }
        let kinds: Vec<KindNumber> = self.own.keys().copied().collect();
        for kind in kinds {
            self.write_own(kind);
        }
    }

    /// Joins a record from the state file or from this host itself.
    pub(crate) fn accept_own(&mut self, envelope: Envelope) {
        let key = envelope.key();
        let Some(membership) = &mut self.membership else {
            return;
        };
        if let Ok(crate::register::Outcome::Changed) = self.registers.accept(envelope, membership) {
            self.note_change(key, None);
        }
    }

    /// Sets this host's record of one kind.
    pub(crate) fn set_record(&mut self, kind: KindNumber, body: Vec<u8>) {
        let refusal = if kind == Admission::KIND {
            Some("admissions are written by the host that admits")
        } else if body.len() > weft_wire::limits::RECORD_BODY_MAX {
            Some("the body is longer than a record may be")
        } else if self.own.len() >= OWN_KINDS_MAX && !self.own.contains_key(&kind) {
            Some("too many kinds of records")
        } else {
            None
        };
        if let Some(why) = refusal {
            return self.event(MeshEvent::RecordRefused { kind, why });
        }
        match self.own.get_mut(&kind) {
            Some(own) if own.body == body => return,
            Some(own) => own.body = body,
            None => {
                self.own.insert(kind, OwnRecord { version: 0, body });
            }
        }
        self.write_own(kind);
    }

    /// Signs this host's record of one kind with the next version and joins it.
    fn write_own(&mut self, kind: KindNumber) {
        let (Some(own), Some(membership)) = (self.own.get_mut(&kind), &mut self.membership) else {
            return;
        };
        own.version += 1;
        let key = RegisterKey {
            kind,
            owner: self.node,
        };
        let stamp = Stamp {
            incarnation: self.identity.incarnation,
            version: own.version,
        };
        let written = Envelope::sign(&self.identity.key, kind, self.node, stamp, &own.body)
            .map_err(|_| "the body is longer than a record may be")
            .and_then(|envelope| {
                self.registers
                    .accept(envelope, membership)
                    .map_err(|_| "the body is out of bounds or over the quota of unknown kinds")
            });
        match written {
            Ok(crate::register::Outcome::Changed) => self.note_change(key, None),
            // Only another process with this identity can have written a newer one.
            Ok(_) => self.event(MeshEvent::CopiedIdentity {
                node: self.node,
                remote: None,
            }),
            Err(why) => self.event(MeshEvent::RecordRefused { kind, why }),
        }
    }

    /// The newest stamp that this process gave its own record of one kind.
    pub(crate) fn own_stamp(&self, kind: KindNumber) -> Stamp {
        Stamp {
            incarnation: self.identity.incarnation,
            version: self.own.get(&kind).map_or(0, |own| own.version),
        }
    }
}
