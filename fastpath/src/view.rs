//! What decides the kernel state of a host: the node says it, and nothing else does.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::{IpAddr, Ipv4Addr};

use weft_wire::{Group, Mac};

/// What the node knows that decides the kernel state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The pod MTU in bytes.
    pub mtu: u32,
    /// Every address in use on another host, and how it is reached.
    pub remote: BTreeMap<Mac, Via>,
    /// ARP requests for these are answered by the kernel of this host. It does so only while the MAC is [`Via::Kernel`].
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// Groups that have listeners on other hosts. Those that are for everybody cannot be registered and count as absent.
    pub groups: BTreeMap<Group, Listeners>,
    /// Whether groups are told apart at all.
    pub snooping: Snooping,
    /// VXLAN devices; with `None` there is none, and no rule of ours in a table of our own.
    pub vxlan: Option<Vxlan>,
}

impl View {
    /// A view of a host that knows of no other, with this pod MTU in bytes.
    #[must_use]
    pub fn new(mtu: u32) -> Self {
        Self {
            mtu,
            remote: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            groups: BTreeMap::new(),
            snooping: Snooping::Off,
            vxlan: None,
        }
    }
}

/// How an address on another host is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By the TAP: the router delivers.
    Router,
    /// By VXLAN to this outer address. Where the device for it is missing, by the TAP.
    Kernel(IpAddr),
}

/// Whether the bridge tells groups apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snooping {
    /// A registered group goes where its listeners are.
    On,
    /// The same, and the router gets the frames of every group: another host wants them all.
    OnWithRouter,
    /// Every group goes to all pods and to the router.
    Off,
}

/// The VXLAN devices of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// UDP port, the same at all hosts.
    pub port: u16,
    /// The network number of pods' frames.
    pub data_vni: Vni,
    /// That of probes; another one.
    pub probe_vni: Vni,
    /// Devices for outer addresses of IPv4 are there.
    pub ipv4: bool,
    /// And for those of IPv6.
    pub ipv6: bool,
    /// Outer sources whose frames are let in.
    pub accepted: BTreeSet<IpAddr>,
    /// Probe addresses of peers, and where their probes go.
    pub probes: BTreeMap<Mac, IpAddr>,
    /// Largest payload of a probe in bytes.
    pub mtu: u32,
    /// Ports of this host, TCP and UDP, that nobody reaches by the bridge: those of mesh and sleeve.
    pub closed: BTreeSet<u16>,
}

/// A VXLAN network number (RFC 7348, section 5): 24 bits, not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// `None` for 0, and for what has more than 24 bits.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (1..1 << 24).contains(&number).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Who listens to a group on other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Hosts that the router sends to.
    pub router: bool,
    /// Outer addresses of hosts that the kernel sends to.
    pub kernel: BTreeSet<IpAddr>,
}
