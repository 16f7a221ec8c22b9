//! What a scenario file says. All times are virtual.

use crate::disk;
use crate::happenings::Happening;
use crate::invariants::Violation;
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use weft_wire::limits::FOUNDERS_MAX;

/// One scenario: who there is, what the network is like, and what goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of the file without its ending.
    #[serde(skip)]
    pub name: String,
    /// What it is for, in a sentence.
    pub about: String,
    /// Hosts of the cluster; the first founds it, or the first ones together.
    pub hosts: usize,
    /// So many of them make the cluster together, each told how many they are; the others are let in.
    #[serde(default = "one")]
    pub founders: usize,
    /// The last so many hosts are not there from the beginning: each comes with a newcomer fault.
    #[serde(default)]
    pub late: usize,
    /// So many hosts before those are a cluster of their own at first, made by the first of them.
    #[serde(default)]
    pub others: usize,
    /// Hosts that come with another token and must never get in.
    #[serde(default)]
    pub strangers: usize,
    /// Range of the addresses.
    #[serde(default = "default_range")]
    pub range: IpNet,
    /// Pods on each host.
    pub pods: u8,
    /// How long faults happen, in seconds.
    pub lasts_s: f64,
    /// Within this time after the last fault all must be well, in seconds.
    pub settles_s: f64,
    /// Hosts start at a random moment of the first seconds.
    pub starts_within_s: f64,
    /// The hosts are a cluster already: each has the disk that it had at the end of a run in which nothing went wrong, and
    /// all start together, as after a power cut.
    #[serde(default)]
    pub established: bool,
    /// Seeds of an ordinary test run, counted from 0.
    pub seeds: u64,
    /// The network between the hosts.
    pub network: Network,
    /// Every host's disk.
    pub disk: Disk,
    /// What the pods send.
    pub traffic: Traffic,
    /// What goes wrong.
    #[serde(default)]
    pub fault: Vec<Fault>,
    /// What must come about over the seeds of a test run, beside every fault that is named.
    #[serde(default)]
    pub brings: Vec<Happening>,
    /// Disks of the established cluster, made once.
    #[serde(skip)]
    pub(crate) disks: Arc<OnceLock<Result<Vec<disk::Disk>, Violation>>>,
}

fn one() -> usize {
    1
}

/// The program's default.
fn default_range() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 32, 0, 0), 12))
}

/// How datagrams and segments travel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Shortest and longest one-way delay; each pair of hosts has one of its own.
    pub delay_ms: [f64; 2],
    /// Up to this much is added to each datagram's delay.
    pub jitter_ms: f64,
    /// Part of the datagrams that gets lost.
    pub loss: f64,
    /// Part that arrives twice.
    pub duplicate: f64,
    /// Part that is overtaken by others: it takes up to 100 ms longer.
    pub reorder: f64,
    /// Largest IP packet that it carries; larger ones vanish. An interface takes 1,500.
    #[serde(default = "default_carries")]
    pub carries: u16,
}

/// Less than interfaces take, so that the path MTU has to be searched for.
fn default_carries() -> u16 {
    1_450
}

impl Network {
    /// Octets of UDP payload over IPv4 that it carries.
    pub fn datagram_max(&self) -> u16 {
        self.carries - 28
    }
}

/// How long a write takes to be durable.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Shortest and longest.
    pub sync_ms: [f64; 2],
}

/// What the pods send.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Each pod sends a frame so often on average.
    pub every_ms: f64,
    /// Part of the frames that goes to everybody.
    pub broadcast: f64,
    /// Part of the questions for an address by which somebody starts a pod of a host that is, or shall be, removed elsewhere, under
    /// the address that it has there.
    #[serde(default)]
    pub moved: f64,
}

/// One kind of thing that goes wrong, at given times or again and again.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Mean time between two of them, in seconds.
    pub every_s: Option<f64>,
    /// Exact times, in seconds.
    #[serde(default)]
    pub at_s: Vec<f64>,
    /// It comes about only when the run is made longer: within [`Scenario::lasts_s`] it cannot.
    #[serde(default)]
    pub in_longer_runs: bool,
    /// How long each lasts, shortest and longest, in seconds.
    #[serde(default)]
    pub lasts_s: [f64; 2],
    /// What a cut keeps away.
    #[serde(default)]
    pub carrier: Carrier,
    /// Loss during bad weather.
    #[serde(default)]
    pub loss: f64,
}

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// A router process is killed; the kernel under it says so to its peers. It starts again at the end.
    Kill,
    /// A host loses power: nobody is told, writes under way may be lost.
    Power,
    /// A host loses power and its disk, and comes back as a new node with the same address.
    Wipe,
    /// A process stands still, as a virtual machine does that is moved.
    Pause,
    /// A disk takes no writes, as a full one does: they wait until it does, and a crash loses them.
    Full,
    /// The hosts fall into two groups that do not hear each other.
    Split,
    /// Some hosts are not heard by others, but hear them.
    OneWay,
    /// More datagrams get lost.
    Weather,
    /// A host has another address from now on.
    Move,
    /// A connection of the mesh is reset.
    Reset,
    /// A host loses power and is removed meanwhile. It comes back with its disk, and learns that it is out.
    RemoveDead,
    /// A host that runs is removed.
    RemoveLive,
    /// The hosts fall into two groups, and on both sides somebody removes hosts of the other.
    RemoveApart,
    /// Up to half of the members burn, and somebody vouches for that and removes them. The machines come back as new hosts.
    Fence,
    /// The next host that takes slots of removed hosts back is killed before it has them, and now and then removed itself.
    KillReclaimer,
    /// A host that was not there before comes while the next removal is under way.
    Newcomer,
    /// A host of the other cluster meets this one, and later all of them adopt it.
    Adopt,
    /// A host hands on what it has and goes; the machine comes back as a new host.
    Leave,
    /// As soon as the first founder is a member it is cut off, and all the others lose power for a moment.
    FirstAlone,
}

impl FaultKind {
    /// True when it takes a host out of its cluster, so that everybody else has to notice.
    pub(crate) fn removes(self) -> bool {
        matches!(
            self,
            Self::RemoveDead | Self::RemoveLive | Self::RemoveApart | Self::Fence | Self::Leave | Self::Adopt
        )
    }
}

/// Which traffic a cut keeps away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// All of it.
    #[default]
    All,
    /// TCP alone.
    Mesh,
    /// UDP alone.
    Sleeve,
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No file.
    #[error(
        "cannot read the scenario {path}: {source}; name a file, or one of tests/sim/scenarios without its ending"
    )]
    Read {
        /// Where it was looked for.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not what a scenario looks like.
    #[error("the scenario {path} is malformed: {source}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong and where.
        source: Box<toml::de::Error>,
    },
    /// Numbers that make no sense.
    #[error("the scenario {name}: {what}")]
    Senseless {
        /// The scenario.
        name: String,
        /// A sentence.
        what: &'static str,
    },
}

/// Folder of the project's scenarios.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
/// Hosts of one run: the addresses and pods are numbered with two octets.
pub const HOSTS_MAX: usize = 2_000;

/// How long an established cluster has grown, in seconds: until all hosts are members and own addresses.
const GROWS_S: f64 = 12.0;

impl Scenario {
    /// The scenario of a file, or of the project's folder when only a name is given.
    ///
    /// # Errors
    /// There is no such file, or it does not describe a scenario.
    pub fn load(name_or_path: &str) -> Result<Self, ScenarioError> {
        let path = match name_or_path.ends_with(".toml") {
            true => name_or_path.to_owned(),
            false => format!("{FOLDER}/{name_or_path}.toml"),
        };
        let text = std::fs::read_to_string(&path).map_err(|source| ScenarioError::Read {
            path: path.clone(),
            source,
        })?;
        let mut scenario: Self = toml::from_str(&text).map_err(|source| ScenarioError::Parse {
            path: path.clone(),
            source: Box::new(source),
        })?;
        scenario.name = name_or_path.to_owned();
        scenario.check()?;
        Ok(scenario)
    }

    /// True when hosts are taken out of their cluster.
    pub(crate) fn removes(&self) -> bool {
        self.fault.iter().any(|fault| fault.kind.removes())
    }

    /// The first host of the other cluster; the number of all hosts when there is none.
    pub(crate) fn first_other(&self) -> usize {
        self.hosts - self.late - self.others
    }

    /// The first host that comes late.
    pub(crate) fn first_late(&self) -> usize {
        self.hosts - self.late
    }

    /// The same hosts in good weather, from the founding on.
    pub(crate) fn in_good_weather(&self) -> Self {
        let mut calm = self.clone();
        calm.established = false;
        calm.strangers = 0;
        calm.fault.clear();
        calm.lasts_s = GROWS_S;
        calm.disks = Arc::default();
        calm
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let is_part = |part: f64| (0.0..1.0).contains(&part);
        let network = &self.network;
        let is_named = |kind| self.fault.iter().any(|fault| fault.kind == kind);
        let what = if self.late + self.others >= self.hosts {
            "late and others are some of the hosts"
        } else if (self.others > 0) != is_named(FaultKind::Adopt) || (self.others > 0 && self.founders > 1) {
            "the fault adopt needs others, and one founder, and others need it"
        } else if (self.late > 0) != is_named(FaultKind::Newcomer) {
            "the fault newcomer needs hosts that come late, and they need it"
        } else if self.hosts < 2 || self.hosts + self.strangers > HOSTS_MAX {
            "there must be 2 to 2,000 hosts"
        } else if !(1..=self.hosts.min(FOUNDERS_MAX)).contains(&self.founders) {
            "founders are some of the hosts, at most 64"
        } else if ![
            network.loss,
            network.duplicate,
            network.reorder,
            self.traffic.broadcast,
            self.traffic.moved,
        ]
        .into_iter()
        .chain(self.fault.iter().map(|fault| fault.loss))
        .all(is_part)
        {
            "loss, duplicate, reorder, broadcast and moved are parts: from 0 to below 1"
        } else if self
            .fault
            .iter()
            .any(|f| f.every_s.is_none() == f.at_s.is_empty())
        {
            "a fault has either every_s or at_s"
        } else if self
            .fault
            .iter()
            .any(|f| f.every_s.is_some_and(|every| every < 0.1))
        {
            "every_s of a fault is at least 0.1"
        } else if !(1_280..=1_500).contains(&network.carries) {
            "carries is 1280 to 1500"
        } else if self.pods == 0 || self.traffic.every_ms < 1.0 {
            "there must be a pod on each host that sends at most once a millisecond"
        } else if ![self.lasts_s, self.settles_s]
            .iter()
            .all(|s| (1.0..=86_400.0).contains(s))
        {
            "lasts_s and settles_s are 1 s to a day"
        } else {
            return Ok(());
        };
        Err(ScenarioError::Senseless {
            name: self.name.clone(),
            what,
        })
    }
}

/// Names of the project's scenarios, in alphabetical order.
///
/// # Errors
/// The folder cannot be read.
pub fn names() -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(FOLDER)? {
        let file = entry?.file_name();
        names.extend(
            file.to_str()
                .and_then(|name| name.strip_suffix(".toml"))
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}
