//! What goes into the machine and what comes out.

use crate::removal::RemovalError;
use crate::space::{AddressError, AddressSpace};
use crate::state::{Change, IpamState};
use crate::subnet::SubnetError;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;
use ipnet::IpNet;
use weft_wire::envelope::KindNumber;
use weft_wire::ipam::Exception;
use weft_wire::record::Genesis;
use weft_wire::{Envelope, NodeId, NodeKey};

/// Names one request of the shell; the answer carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RequestId(pub u64);

/// Names one write; grows with each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct PersistToken(pub u64);

/// Whether this host wants slots of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// It asks to be added to the next epoch, owns slots and votes.
    #[default]
    Owner,
    /// It never votes and lives on lent addresses.
    Observer,
}

/// What a machine starts from.
pub struct IpamConfig {
    /// This host.
    pub node: NodeId,
    /// Its key, to sign grants and votes.
    pub key: NodeKey,
    /// The range of the cluster.
    pub space: AddressSpace,
    /// What the founder laid down.
    pub genesis: Genesis,
    /// Durable, and higher at each start.
    pub incarnation: u64,
    /// [`IpamState::genesis`] at the first start, later what the changes have made of it.
    pub durable: IpamState,
    /// Hosts among which the range shall be divided evenly at first; 1 when nobody said.
    pub expected: u32,
    /// Whether it wants slots.
    pub role: Role,
    /// 32 fresh random octets.
    pub seed: [u8; 32],
}

/// Which address a pod shall have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// This one; any when `None`.
    pub address: Option<IpAddr>,
    /// It is one of this part of the range, whose prefix length it gets; the whole range when `None`.
    pub subnet: Option<IpNet>,
}

/// What somebody on this host wants of the address space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// A pod needs an address. The same id gets the same address.
    Allocate {
        /// The pod.
        id: String,
        /// Comes back in the answer.
        request: RequestId,
    },
    /// A pod needs, or has, this address.
    Claim {
        /// The pod.
        id: String,
        /// The address.
        address: IpAddr,
        /// Comes back in the answer.
        request: RequestId,
    },
    /// A pod needs an address of a subnet, or in a certain time. The same question gets the same address; questions
    /// for different subnets or addresses get further ones, up to [`crate::ADDRESSES_MAX`] a pod.
    AllocateIn {
        /// The pod.
        id: String,
        /// Which.
        wanted: Wanted,
        /// How long it may take, at most [`crate::DEADLINE_MAX`]; [`crate::ALLOCATE_DEADLINE`] when `None`.
        within: Option<Duration>,
        /// Comes back in the answer.
        request: RequestId,
    },
    /// A pod is gone, or one of its addresses.
    Free {
        /// The pod.
        id: String,
        /// This address only; all when `None`.
        address: Option<IpAddr>,
        /// Comes back in [`Output::Freed`].
        request: RequestId,
    },
    /// These hosts shall be removed from the cluster.
    Remove {
        /// Which; at most [`weft_wire::ipam::EPOCH_CHANGES_MAX`] at a time.
        hosts: Vec<NodeId>,
        /// Somebody vouches that they are off for good: their votes are not needed, and their slots need not rest.
        fenced: bool,
        /// Comes back in [`Output::Removal`].
        request: RequestId,
    },
    /// These hosts shall stay after all. What is decided already, or asked for on another host, goes on.
    Keep {
        /// Which.
        hosts: Vec<NodeId>,
        /// Comes back in [`Output::Removal`].
        request: RequestId,
    },
    /// Nobody waits for this answer any longer: if the request still waits, it gets no address, and
    /// [`AllocError::Cancelled`] for an answer.
    Cancel(RequestId),
    /// Write what is not written yet, although nothing waits for it.
    Flush,
    /// This host goes for good: give nothing out, and hand on what it has. [`crate::Ipam::leaving`] says how far it is.
    Leave,
    /// It stays after all; what was handed on is the others'.
    Stay,
    /// A host that leaves has waited long enough: the members are asked to go on without it, whatever it has still to hand on.
    Depart,
    /// These hosts have been silent for so long that the shell wants them removed, as long as this list names them: it
    /// replaces the one before, and is not stored. Nobody vouches for anything.
    RemoveSilent(BTreeSet<NodeId>),
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// The shell wants something.
    Request(Request),
    /// Announce something that lives on this host although no slot says so, or take that back.
    SetException {
        /// What.
        what: Exception,
        /// False takes it back.
        present: bool,
    },
    /// A record changed in the gossip map. Its signature was checked and its owner is a member.
    Record(Envelope),
    /// A member said this, see [`crate::message::Message`].
    Message {
        /// Who, as the mesh has authenticated it.
        from: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Everything up to this write is durable.
    Persisted(PersistToken),
    /// Everything up to this write would outlive this process, but not a loss of power: on a disk that is slow to sync,
    /// what a pod waits for may leave now. Whatever leaves the host still waits for [`Input::Persisted`].
    Written(PersistToken),
    /// The members of the cluster, this host included; at the start and after each change.
    MembersChanged(Vec<NodeId>),
    /// This member can be reached from now on: what waits for it need not wait for the next retry.
    PeerUp(NodeId),
    /// Stop allocating: the host's identity is in doubt.
    Freeze(FreezeReason),
    /// The time that `poll_timeout` named has come.
    Tick,
}

/// An address that a pod has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allocation {
    /// The pod.
    pub id: String,
    /// Its address, with the prefix length of the subnet that was asked for, else of the range.
    pub address: IpNet,
    /// The owner of the slot, when that is another host.
    pub lender: Option<NodeId>,
}

/// Why this host gives nothing out any longer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum FreezeReason {
    /// Others have seen later states of this host.
    #[error(
        "this host's state is older than what others have seen of it: it was restored from a copy. Remove it, and join as a new host"
    )]
    RolledBack,
    /// Two processes use one identity.
    #[error("two hosts use this host's identity. Stop one, remove its state, and let it join as a new host")]
    CopiedIdentity,
    /// It is becoming a member of another cluster.
    #[error("this host joins another cluster just now: ask again in a moment")]
    Leaving,
    /// The others have removed this host.
    #[error(
        "this host was removed from the cluster. Its pods go on; it gives no address out any longer. Remove its state, and let it join as a new host"
    )]
    Removed,
    /// Two parts of the cluster have removed each other.
    #[error(
        "another part of this cluster is alive and has decided otherwise about its members: two hosts or more were removed with --fenced while they were not off. Keep one part, and let the hosts of the other join it as new hosts"
    )]
    Split,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WaitReason {
    /// R3: a peer must confirm the incarnation first.
    #[error("this host has just started, and no other host has confirmed yet that its state is the latest")]
    Confirmation,
    /// R6: this host owns no slots before an epoch contains it, and nobody has lent it an address.
    #[error(
        "this host is in no membership epoch yet (a majority of the members must be reachable), and nobody has lent it an address"
    )]
    Epoch,
    /// The owner of the address was removed.
    #[error(
        "its owner was removed from the cluster, and its address space is not taken back yet (`weft ipam` says what that waits for)"
    )]
    Reclaim,
    /// It has asked this host for slots.
    #[error("waiting for {0} to hand over address space")]
    Space(NodeId),
    /// It has asked this host for one address.
    #[error("waiting for {0} to lend an address")]
    Loan(NodeId),
    /// Everybody who can be reached has refused, or nobody can be reached.
    #[error("no address is free here, and no reachable host has one to spare")]
    NothingFree,
    /// The same of a subnet.
    #[error("no address of {0} is free here, and no reachable host that owns a part of it has one to spare")]
    NothingFreeIn(IpNet),
    /// This host was asked, and its silence is waited out before it is asked again.
    #[error(
        "{0}, whose address space it is, does not answer: bring it back, or remove it from the cluster if it is gone for good"
    )]
    Silent(NodeId),
}

/// Why a request got no address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AllocError {
    /// The id is empty or longer than [`crate::ID_MAX`].
    #[error("a pod's id has 1 to {} octets", crate::ID_MAX)]
    BadId,
    /// No pod can have the address.
    #[error("{0}")]
    Address(AddressError),
    /// The address is taken on this host.
    #[error("address {address} is in use by {by} on this host")]
    InUse {
        /// The address.
        address: IpAddr,
        /// Its pod, or what else holds it.
        by: String,
    },
    /// The owner of its slot says that the address is taken.
    #[error("address {address} is in use or at rest; {owner} keeps it")]
    TakenElsewhere {
        /// The address.
        address: IpAddr,
        /// Owner of its slot.
        owner: NodeId,
    },
    /// No pod can get an address of the subnet.
    #[error("{0}")]
    Subnet(SubnetError),
    /// The pod has as many addresses as one can have.
    #[error("{0} has {most} addresses, which is the most: free one first", most = crate::ADDRESSES_MAX)]
    TooManyAddresses(String),
    /// A request shall wait for longer than any may.
    #[error("a request for an address waits for {} s at most", crate::DEADLINE_MAX.as_secs())]
    TooLong,
    /// Nothing came within the deadline.
    #[error("no address within {within:?}: {why}")]
    Deadline {
        /// What it waited for last.
        why: WaitReason,
        /// How long it could wait.
        within: Duration,
    },
    /// Too many requests wait.
    #[error("more than {} requests wait for addresses", crate::WAITING_MAX)]
    TooManyWaiting,
    /// Allocation is frozen.
    #[error("{0}")]
    Frozen(FreezeReason),
    /// The pod was freed while it waited.
    #[error("the pod was freed while it waited")]
    Freed,
    /// The host is leaving.
    #[error("this host is leaving the cluster and gives out no addresses: `weft down --leave` was asked for")]
    Leaving,
    /// Whoever asked has gone.
    #[error("whoever asked has gone")]
    Cancelled,
}

/// Something worth knowing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// R7: a slot has two owners at one version. It is frozen here; data flows on.
    Conflict {
        /// First of its slots and their number.
        slots: (u32, u32),
        /// The owner that was known.
        held: NodeId,
        /// The other one, with a complete chain of grants.
        other: NodeId,
    },
    /// This host allocates no longer.
    Frozen(FreezeReason),
    /// R3: a peer has confirmed this host's incarnation.
    Confirmed,
    /// This host owns more slots.
    Received {
        /// From whom.
        from: NodeId,
        /// How many.
        slots: u32,
    },
    /// This host handed slots over.
    Gave {
        /// To whom.
        to: NodeId,
        /// How many.
        slots: u32,
    },
    /// An epoch was decided.
    Epoch {
        /// Its number.
        number: u32,
        /// Its members.
        members: usize,
    },
    /// An epoch was decided that removes these hosts.
    Removed(Vec<NodeId>),
    /// This host has taken slots of removed hosts back.
    Reclaimed {
        /// How many.
        slots: u32,
    },
    /// A pod has borrowed an address of a host that was removed, and the new owner of its slot has given it away.
    Clash {
        /// The address.
        address: IpAddr,
        /// The pod.
        id: String,
        /// The new owner.
        owner: NodeId,
    },
    /// Two epochs of this number are proved: two parts of the cluster have decided apart.
    Split {
        /// Number of the epoch.
        number: u32,
        /// A host of the other part.
        with: NodeId,
    },
    /// A member's record, message or grant is malformed or not proved; it changes nothing.
    Misbehaved {
        /// Who.
        node: NodeId,
        /// What, in words.
        why: &'static str,
    },
    /// The owner or the borrower of these slots has changed: cached answers about them are stale.
    OwnersChanged,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// The answer to a request for an address; a success is durable.
    Answer {
        /// Of which request.
        request: RequestId,
        /// The address, or why there is none.
        result: Result<Allocation, AllocError>,
    },
    /// The answer to [`Request::Free`]; durable.
    Freed {
        /// Of which request.
        request: RequestId,
        /// What was freed; empty when the pod had nothing.
        addresses: Vec<IpAddr>,
    },
    /// The answer to [`Request::Remove`] and [`Request::Keep`]; the wish is durable, and far from being decided.
    Removal {
        /// Of which request.
        request: RequestId,
        /// Why it is none.
        result: Result<(), RemovalError>,
    },
    /// Append these to the log, in the order of the tokens, then say [`Input::Persisted`].
    Persist {
        /// Names this write.
        token: PersistToken,
        /// What to append.
        changes: Vec<Change>,
    },
    /// This host's gossip record of one kind has this body.
    Publish {
        /// Which kind.
        kind: KindNumber,
        /// The encoded record.
        body: Vec<u8>,
    },
    /// Carry this to one member, if it can be reached.
    Send {
        /// To whom.
        to: NodeId,
        /// A [`crate::message::Message`].
        bytes: Vec<u8>,
    },
    /// For the log and the status.
    Event(Event),
}

/// Where an address lives, as far as slots and exceptions tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// A pod of this host has it.
    Local(String),
    /// It lives on this host, if anywhere.
    Here,
    /// It lives on this member, if anywhere.
    Host(NodeId),
    /// R7: two hosts claim its slot.
    Frozen,
    /// It is outside the range, and no host announces it.
    Unknown,
}
