//! What may happen in a model, and which rule is left out.

use crate::cast::Cast;
use weft_wire::ipam::Epoch;

/// A rule that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flaw {
    /// All rules hold.
    #[default]
    None,
    /// R2: what is sent leaves before what it says is durable.
    SendBeforeSync,
    /// R3: a host that has lost its disk goes on under its old identity.
    ResumeWithoutDisk,
    /// R6: a host that accepts its own proposal takes it for decided.
    NoMajority,
    /// R6: a host takes a slot that is not its own, and nobody was removed.
    PlainTakeover,
    /// R6: the reclaimer takes the slot by its own signature, without those of the other members.
    OneSidedPromise,
    /// R6: a member signs that a slot is nobody's, and takes it afterwards from a donor that is still there.
    SignWithoutPromise,
    /// R6: a host owns slots before an epoch contains it.
    StrangersOwn,
}

/// Where epochs come from.
pub enum Epochs {
    /// An oracle decides them: for each one, what it may be.
    Decided(Vec<Vec<Epoch>>),
    /// The hosts vote.
    Voted {
        /// What a host proposes, the first that is possible.
        wants: fn(&Cast, usize) -> Vec<Epoch>,
        /// Ballots for each epoch.
        ballots: u8,
        /// How many epochs.
        count: u32,
    },
}

/// Whether somebody may vouch that hosts are off for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vouch {
    /// Of hosts that are.
    True,
    /// At any time, also of hosts that are alive.
    Blind,
}

/// What may happen.
pub struct Plan {
    /// How many hosts act.
    pub hosts: usize,
    /// How many of them are members from the start; A owns the slot.
    pub members: usize,
    /// Where epochs come from.
    pub epochs: Epochs,
    /// How often the slot changes hands.
    pub transfers: u8,
    /// Hosts that die and come back.
    pub crashes: u8,
    /// Hosts that lose their disks.
    pub losses: u8,
    /// Ballots under which somebody vouches for what they remove; `None` for no such ballots.
    pub vouch: Option<Vouch>,
    /// True where the vouch can split the cluster: two hosts may own the slot then, and have to notice.
    pub may_split: bool,
    /// True to let written and synced be two moments.
    pub is_sync_seen: bool,
    /// True to let steps that nobody sees come in every order.
    pub is_every_order: bool,
    /// What is left out.
    pub flaw: Flaw,
}

fn nothing() -> Epoch {
    Epoch {
        number: 0,
        parent: [0; 32],
        added: Vec::new(),
        removed: Vec::new(),
        reclaimer: None,
        fenced: false,
    }
}

/// An epoch without these hosts, whose slots that host takes.
pub fn removes(cast: &Cast, who: &[usize], reclaimer: usize) -> Epoch {
    let mut removed: Vec<_> = who.iter().map(|host| cast.id(*host)).collect();
    removed.sort();
    Epoch {
        removed,
        reclaimer: Some(cast.id(reclaimer)),
        ..nothing()
    }
}

/// An epoch with one host more.
pub fn adds(cast: &Cast, who: usize) -> Epoch {
    Epoch {
        added: vec![cast.id(who)],
        ..nothing()
    }
}

/// An epoch without these hosts under a ballot with a vouch that they are off; that host takes their slots.
pub fn fences(cast: &Cast, who: &[usize], reclaimer: usize) -> Epoch {
    Epoch {
        fenced: true,
        ..removes(cast, who, reclaimer)
    }
}
