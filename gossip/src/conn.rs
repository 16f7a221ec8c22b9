//! One connection: its stage, named by what is awaited, and its outbox.

use crate::dial::Goal;
use crate::handshake::{AwaitingConfirmation, AwaitingHello, AwaitingResponse, KeyRole, Transport};
use crate::liveness::Rtt;
use crate::membership::FOUNDER_RANK;
use crate::summary::Summaries;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use weft_wire::envelope::RegisterKey;
use weft_wire::limits::LINK_TIMEOUT;
use weft_wire::mesh::{Hello, Message, Passed};
use weft_wire::record::{Admission, Body};
use weft_wire::{Envelope, GenesisId, NodeId, Time};

use crate::mesh::WRITE_TIMEOUT;

/// Who opened a connection, and what for.
pub(crate) enum Origin {
    Dialled { goal: Goal, key: KeyRole, dial: u64 },
    Accepted,
}

/// The other end, as its Hello says.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) genesis: Option<GenesisId>,
    pub(crate) incarnation: u64,
    pub(crate) boot_nonce: u64,
    /// The initiator's dial number, whichever end that is.
    pub(crate) dial: u64,
}

impl PeerInfo {
    pub(crate) fn new(hello: &Hello, origin: &Origin) -> Self {
        Self {
            node: hello.node,
            name: hello.name.clone(),
            genesis: hello.genesis,
            incarnation: hello.incarnation,
            boot_nonce: hello.boot_nonce,
            dial: match origin {
                Origin::Dialled { dial, .. } => *dial,
                Origin::Accepted => hello.dial,
            },
        }
    }
}

/// A finished handshake.
pub(crate) struct Session {
    pub(crate) transport: Transport,
    pub(crate) peer: PeerInfo,
}

/// What a connection waits for.
pub(crate) enum Stage {
    /// To be opened.
    Connecting,
    /// Message 1.
    AwaitingInitiation,
    /// Message 2.
    AwaitingResponse(Box<AwaitingResponse>),
    /// Message 3.
    AwaitingHello(Box<AwaitingHello>),
    /// The responder's Hello.
    AwaitingConfirmation(Box<AwaitingConfirmation>),
    /// The initiator's first message, which proves that it has our Hello.
    AwaitingProof(Box<Session>),
    /// Our disk: then the newcomer gets its Welcome.
    AwaitingAdmission(Box<Session>),
    /// A Welcome.
    AwaitingWelcome(Box<Session>),
    /// Our disk: then we are a member.
    AwaitingMembership(Box<Session>),
    /// The newcomer's Joined.
    AwaitingJoined(Box<Session>),
    /// A cluster, on which both ends have still to agree.
    AwaitingCluster(Box<Gathering>),
    /// Nothing: the link stands.
    Up(Box<Up>),
    /// Nothing, within one step of the machine: what is over, or being moved on.
    Ended(Option<Box<Transport>>),
    /// The last words to be written.
    Closing(Option<Box<Transport>>),
}

/// A key that waits to be sent. Admissions go first, those nearest to the founder before the others, so that
/// the receiver can check each as it comes.
pub(crate) type DirtyKey = (u64, RegisterKey);

/// State of a standing link.
pub(crate) struct Up {
    pub(crate) session: Session,
    pub(crate) since: Time,
    pub(crate) last_heard: Time,
    /// True once the other end has shown that the link stands there too.
    pub(crate) mutual: bool,
    pub(crate) rtt: Rtt,
    pub(crate) heartbeat_due: Time,
    /// `sent` of the last heartbeat that arrived, and when.
    pub(crate) last_heartbeat: Option<(u64, Time)>,
    /// Keys whose records the other end may not have. A set: however slowly the other end reads, it never
    /// grows beyond the number of registers.
    pub(crate) dirty: BTreeSet<DirtyKey>,
    /// Keys of records that the other end may soon have from somebody else, or show to have; a set, as above.
    pub(crate) later: BTreeMap<RegisterKey, Later>,
    /// Some of them have no time yet; the machine's next step gives it.
    pub(crate) later_is_new: bool,
    /// When the first of them is looked at.
    pub(crate) later_due: Time,
    /// Direct messages that wait, at most [`DIRECT_QUEUE_MAX`].
    pub(crate) direct: VecDeque<Vec<u8>>,
    /// Messages that this host passes on, or that others are to pass on for it, at most [`PASS_QUEUE_MAX`].
    pub(crate) passing: VecDeque<Passed>,
    /// Fingerprints, ours and the other end's, at the last heartbeat that arrived.
    pub(crate) fingerprints: Option<([u8; 16], [u8; 16])>,
    /// Heartbeats in a row whose fingerprint differed while both ends stood still, with nothing left to send.
    pub(crate) mismatches: u8,
    /// Heartbeats in a row whose fingerprint differed.
    pub(crate) differences: u8,
    /// Not to summarise again before this time.
    pub(crate) resync_after: Time,
    /// Grows with each useless resynchronisation.
    pub(crate) resync_wait: Duration,
    /// What both ends say of all that they hold.
    pub(crate) summaries: Summaries,
}

/// State of a link between two hosts without a cluster.
pub(crate) struct Gathering {
    pub(crate) session: Session,
    pub(crate) since: Time,
    pub(crate) last_heard: Time,
    pub(crate) heartbeat_due: Time,
    /// Messages that wait, at most [`GATHERING_QUEUE_MAX`].
    pub(crate) outbox: VecDeque<Vec<u8>>,
}

/// Messages that wait on a link between two hosts without a cluster. Each answers one of the other end, which speaks when
/// something happens: an end with more of them waiting does not read.
pub(crate) const GATHERING_QUEUE_MAX: usize = 64;

/// Direct messages that wait on one link; the oldest goes first when it is full. Those who send them repeat what is not
/// answered, so old ones are worth least.
pub(crate) const DIRECT_QUEUE_MAX: usize = 64;

/// Messages that wait on one link to be passed on; the oldest goes first when it is full. They wait behind what this host says to
/// the other end, so that nobody can push that out.
pub(crate) const PASS_QUEUE_MAX: usize = 64;

/// A record that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Later {
    pub(crate) unless: Unless,
    /// How long; set by the machine's next step.
    pub(crate) until: Option<Time>,
}

/// Why a record that waits may not have to be sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Unless {
    /// Its writer may have a link to the other end by then; or the other end shows it.
    Heard,
    /// The other end may show it.
    Shown,
}

impl Up {
    /// Queues a direct message.
    pub(crate) fn say(&mut self, bytes: Vec<u8>) {
        if self.direct.len() >= DIRECT_QUEUE_MAX {
            self.direct.pop_front();
        }
        self.direct.push_back(bytes);
    }

    /// Marks a record to be sent.
    pub(crate) fn mark(&mut self, envelope: &Envelope) {
        let key = envelope.key();
        if key.kind == Admission::KIND {
            self.unmark(&key);
            let version = envelope.stamp().version.min(FOUNDER_RANK);
            self.dirty.insert((FOUNDER_RANK - version, key));
        } else {
            self.dirty.insert((u64::MAX, key));
        }
    }

    /// Records that wait; one that is both to be sent and looked at later counts once.
    pub(crate) fn pending(&self) -> usize {
        if self.dirty.is_empty() {
            return self.later.len();
        }
        let later = self.later.keys().filter(|key| !self.is_marked(key));
        self.dirty.len() + later.count()
    }

    fn is_marked(&self, key: &RegisterKey) -> bool {
        if key.kind == Admission::KIND {
            (0..=FOUNDER_RANK).any(|order| self.dirty.contains(&(order, *key)))
        } else {
            self.dirty.contains(&(u64::MAX, *key))
        }
    }

    /// Marks a record to be sent in a while.
    pub(crate) fn mark_later(&mut self, key: RegisterKey, unless: Unless) {
        let until = None;
        let held = self.later.entry(key).or_insert(Later { unless, until });
        held.unless = held.unless.max(unless);
        self.later_is_new |= held.until.is_none();
    }

    /// Looks at a record that waits as if it had just come.
    pub(crate) fn look_again(&mut self, key: &RegisterKey) {
        if let Some(held) = self.later.get_mut(key) {
            held.until = None;
            self.later_is_new = true;
        }
    }

    /// Takes out what has waited long enough.
    pub(crate) fn take_due(&mut self, now: Time) -> Vec<(RegisterKey, Unless)> {
        let is_due = |later: &Later| later.until.is_some_and(|until| until <= now);
        let due = self.later.iter().filter(|(_, later)| is_due(later));
        let due: Vec<_> = due.map(|(key, later)| (*key, later.unless)).collect();
        for (key, _) in &due {
            self.later.remove(key);
        }
        self.later_due = self.first_later();
        due
    }

    /// When the first of those that wait is to be looked at.
    pub(crate) fn first_later(&self) -> Time {
        let times = self.later.values().filter_map(|later| later.until);
        times.min().unwrap_or(Time::NEVER)
    }

    /// The other end has what we have.
    pub(crate) fn unmark(&mut self, key: &RegisterKey) {
        self.later.remove(key);
        if key.kind == Admission::KIND {
            for order in 0..=FOUNDER_RANK {
                self.dirty.remove(&(order, *key));
            }
        } else {
            self.dirty.remove(&(u64::MAX, *key));
        }
    }
}

/// A frame to be written before any record.
pub(crate) enum Control {
    /// A handshake message or a refusal.
    Raw(Vec<u8>),
    /// To be sealed when its turn comes.
    Message(Box<Message>),
}

/// One connection.
pub(crate) struct Conn {
    pub(crate) opened: Time,
    /// When the present stage has lasted too long; unused while the link is up.
    pub(crate) deadline: Time,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) origin: Origin,
    pub(crate) stage: Stage,
    /// At most one handshake message, then Hello, Welcome or Joined, then Goodbye: each stage adds one.
    pub(crate) control: VecDeque<Control>,
    /// Since when a frame waits for the kernel.
    pub(crate) in_flight: Option<Time>,
}

impl Conn {
    pub(crate) fn new(now: Time, limit: Duration, origin: Origin, stage: Stage) -> Self {
        Self {
            opened: now,
            deadline: now + limit,
            remote: None,
            origin,
            stage,
            control: VecDeque::new(),
            in_flight: None,
        }
    }

    /// Takes the stage out, to put another in.
    pub(crate) fn take_stage(&mut self) -> Stage {
        core::mem::replace(&mut self.stage, Stage::Ended(None))
    }

    pub(crate) fn say(&mut self, message: Message) {
        self.control.push_back(Control::Message(Box::new(message)));
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.stage {
            Stage::AwaitingProof(s)
            | Stage::AwaitingAdmission(s)
            | Stage::AwaitingWelcome(s)
            | Stage::AwaitingMembership(s)
            | Stage::AwaitingJoined(s) => Some(s),
            Stage::AwaitingCluster(gathering) => Some(&gathering.session),
            Stage::Up(up) => Some(&up.session),
            _ => None,
        }
    }

    /// The other end, from its Hello to the moment of closing.
    pub(crate) fn peer(&self) -> Option<&PeerInfo> {
        self.session().map(|s| &s.peer)
    }

    pub(crate) fn up(&self) -> Option<&Up> {
        match &self.stage {
            Stage::Up(up) => Some(up),
            _ => None,
        }
    }

    pub(crate) fn up_mut(&mut self) -> Option<&mut Up> {
        match &mut self.stage {
            Stage::Up(up) => Some(up),
            _ => None,
        }
    }

    /// True from acceptance until the other end has proved that it holds a key.
    pub(crate) fn is_unproved_guest(&self) -> bool {
        matches!(self.origin, Origin::Accepted)
            && matches!(
                self.stage,
                Stage::AwaitingInitiation
                    | Stage::AwaitingHello(_)
                    | Stage::AwaitingProof(_)
                    | Stage::Closing(_)
            )
    }

    /// Seals a message with the keys of the connection, once it has some.
    pub(crate) fn seal(&mut self, message: &Message) -> Option<Vec<u8>> {
        let transport = match &mut self.stage {
            Stage::AwaitingProof(s)
            | Stage::AwaitingAdmission(s)
            | Stage::AwaitingWelcome(s)
            | Stage::AwaitingMembership(s)
            | Stage::AwaitingJoined(s) => &mut s.transport,
            Stage::AwaitingCluster(gathering) => &mut gathering.session.transport,
            Stage::Up(up) => &mut up.session.transport,
            Stage::Closing(Some(transport)) | Stage::Ended(Some(transport)) => transport,
            _ => return None,
        };
        transport.seal(&message.encode()).ok()
    }

    /// When the connection is given up if nothing happens.
    pub(crate) fn expires(&self) -> Time {
        match &self.stage {
            Stage::Up(up) => {
                let written = self.in_flight.map_or(Time::NEVER, |since| since + WRITE_TIMEOUT);
                written.min(up.last_heard + LINK_TIMEOUT)
            }
            Stage::AwaitingCluster(gathering) => gathering.last_heard + LINK_TIMEOUT,
            _ => self.deadline,
        }
    }

    /// True when the shell could be given a frame of this connection, or its end.
    pub(crate) fn has_words(&self, now: Time) -> bool {
        self.in_flight.is_none()
            && (!self.control.is_empty()
                || match &self.stage {
                    Stage::Up(up) => {
                        up.heartbeat_due <= now
                            || up.summaries.is_due()
                            || !up.direct.is_empty()
                            || !up.passing.is_empty()
                            || !up.dirty.is_empty()
                    }
                    Stage::AwaitingCluster(gathering) => {
                        gathering.heartbeat_due <= now || !gathering.outbox.is_empty()
                    }
                    Stage::Closing(_) => true,
                    _ => false,
                })
    }

    /// When something is to be done for this connection.
    pub(crate) fn next_deadline(&self) -> Time {
        match &self.stage {
            Stage::Up(up) => {
                let heartbeat = match self.in_flight {
                    None => up.heartbeat_due,
                    Some(_) => Time::NEVER,
                };
                self.expires().min(heartbeat).min(up.later_due)
            }
            Stage::AwaitingCluster(gathering) if self.in_flight.is_none() => {
                self.expires().min(gathering.heartbeat_due)
            }
            _ => self.expires(),
        }
    }
}
