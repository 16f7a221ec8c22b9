//! What must hold after every event. One module for each subject; a new subject is a new module and a line in
//! [`Invariants::new`].
//!
//! | module | what must hold |
//! |---|---|
//! | [`addresses`] | no address is given to two pods, or held by two members of one epoch |
//! | [`counters`] | no counter is used twice under one key |
//! | [`frames`] | a frame arrives at most once, as it was sent, and where it belongs |
//! | [`tables`] | forwarding tables name members and never the host itself |
//! | [`paths`] | no verdict takes away a path that works |
//! | [`members`] | one cluster, and nobody in it without a chain of admissions |
//! | [`epochs`] | each epoch is one decision of a majority, and removes nobody that nobody has named |
//! | [`durable`] | what others were told survives a crash |
//! | [`bounds`] | nothing grows without limit, and the contract with the shell is kept |

pub mod addresses;
pub mod bounds;
pub mod counters;
pub mod durable;
pub mod epochs;
pub mod frames;
pub mod members;
pub mod paths;
pub mod tables;

use crate::engine::{Frame, Sealed};
use crate::host::Host;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use weft_gossip::ConnId;
use weft_node::Notice;
use weft_sleeve::ForwardingTable;
use weft_wire::datagram::Kind;
use weft_wire::{GenesisId, NodeId, SessionIndex, Time};

/// Something that a host did or that was done to it.
pub enum Seen<'a> {
    /// Its router began to run.
    Started {
        /// Who it is.
        id: NodeId,
        /// Number of this start.
        incarnation: u64,
        /// It found a state on its disk.
        has_state: bool,
    },
    /// Its disk is gone; what was on it.
    Wiped {
        /// Who it was.
        id: NodeId,
        /// Its state.
        state: Option<Vec<u8>>,
    },
    /// The host is another one from now on, and its pods run on.
    Began {
        /// Who it was.
        old: NodeId,
    },
    /// Something has reached its disk.
    Synced,
    /// The host gave a pod an address.
    Given {
        /// The pod.
        id: &'a str,
        /// The address.
        address: IpAddr,
        /// When it was asked for.
        asked: Time,
    },
    /// A pod is gone, and its addresses with it.
    Left {
        /// The pod.
        id: &'a str,
    },
    /// A pod handed over a frame.
    Sent(&'a Frame),
    /// The engine sealed a datagram.
    Sealed(&'a Sealed),
    /// A frame reached this host's pods.
    Delivered(&'a Frame, Kind),
    /// A session was installed under an index that was free, or not.
    Installed {
        /// Its index.
        local: SessionIndex,
        /// True as it must be.
        was_free: bool,
    },
    /// A session was removed.
    Removed(SessionIndex),
    /// The node publishes a table; the engine has still the one before.
    Published(&'a ForwardingTable),
    /// The node hands over a frame for the mesh.
    MeshFrame {
        /// The connection.
        conn: ConnId,
        /// The frame before it is not written.
        is_early: bool,
    },
    /// The node has something to say.
    Said(&'a Notice),
    /// The node has put out everything for one input: so much.
    Settled {
        /// Outputs.
        outputs: usize,
    },
    /// A timer fired again, without a pause since the last one.
    Spun {
        /// How often in a row.
        times: u32,
    },
}

/// Where and when.
pub struct Scene<'a> {
    /// The time.
    pub now: Time,
    /// The host.
    pub host: usize,
    /// All hosts.
    pub hosts: &'a [Host],
    /// The one cluster, once there is one.
    pub genesis: Option<GenesisId>,
    /// The other cluster, where two meet.
    pub other: Option<GenesisId>,
    /// Hosts whose removal somebody has asked for, and whether somebody has vouched for them.
    pub named: &'a BTreeMap<NodeId, bool>,
    /// Hosts that were removed, by what any host says.
    pub removed: &'a BTreeSet<NodeId>,
    /// Octets of UDP payload that the network carries.
    pub carried: u16,
}

impl Scene<'_> {
    /// The host itself.
    pub fn this(&self) -> &Host {
        &self.hosts[self.host]
    }
}

/// One subject.
pub trait Invariant {
    /// Its name, as failures give it.
    fn name(&self) -> &'static str;

    /// Looks at what is seen; a sentence when it must not be.
    ///
    /// # Errors
    /// What is wrong.
    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String>;
}

/// What was violated, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Name of the invariant.
    pub invariant: &'static str,
    /// The host.
    pub host: usize,
    /// A sentence.
    pub what: String,
}

/// All subjects.
pub struct Invariants(Vec<Box<dyn Invariant>>);

impl Invariants {
    /// Every subject, having seen nothing.
    #[expect(
        clippy::new_without_default,
        reason = "an empty set of invariants is nothing to fall back to"
    )]
    pub fn new() -> Self {
        Self(vec![
            Box::new(addresses::Addresses::default()),
            Box::new(counters::Counters::default()),
            Box::new(frames::Frames::default()),
            Box::new(tables::Tables::default()),
            Box::new(paths::Paths::default()),
            Box::new(members::Members::default()),
            Box::new(durable::Durable::default()),
            Box::new(epochs::Epochs::default()),
            Box::new(bounds::Bounds::default()),
        ])
    }

    /// Shows it to all; the first that objects wins.
    pub fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Option<Violation> {
        self.0.iter_mut().find_map(|invariant| {
            let what = invariant.see(scene, seen).err()?;
            Some(Violation {
                invariant: invariant.name(),
                host: scene.host,
                what,
            })
        })
    }
}
