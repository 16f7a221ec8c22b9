//! The kernel state that the fastpath owns.
//!
//! Times are in hundredths of a second, as the kernel counts them for bridges. Attribute names and
//! meanings: ip-link(8) and bridge(8). What is read may be anything; what is desired is always whole.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::{IpAddr, Ipv4Addr};

use weft_wire::Mac;

use crate::view::Vni;

/// Everything in the kernel that belongs to the fastpath of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// The bridge; `None` when there is none.
    pub bridge: Option<Bridge>,
    /// The router's TAP; `None` when there is none.
    pub tap: Option<Tap>,
    /// VXLAN devices.
    pub vxlan: BTreeMap<Device, VxlanDevice>,
    /// Addresses that lead to a port of ours, by the bridge's forwarding table. A device's own address is not among them.
    pub entries: BTreeMap<Mac, Entry>,
    /// Permanent neighbours of the bridge: the kernel answers ARP requests for them.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// Groups that go to a port of ours, and whether for ever. None counts while snooping is off.
    pub groups: BTreeMap<Registration, Lasting>,
    /// The table of the packet filter that says whose VXLAN is let in; `None` when there is none.
    pub fence: Option<Fence>,
}

/// A version of IP, of outer addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The version of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A VXLAN device. A device has outer addresses of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// A port of the bridge: carries frames of pods.
    Data(Family),
    /// Not in the bridge: carries probes.
    Probe(Family),
}

impl Device {
    /// All there can be.
    pub const ALL: [Self; 4] = [
        Self::Data(Family::V4),
        Self::Data(Family::V6),
        Self::Probe(Family::V4),
        Self::Probe(Family::V6),
    ];

    /// The port that it is.
    #[must_use]
    pub fn port(self) -> Option<Port> {
        match self {
            Self::Data(family) => Some(Port::Vxlan(family)),
            Self::Probe(_) => None,
        }
    }
}

/// A port of the bridge that leads to other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// The TAP.
    Tap,
    /// The device of pods' frames for this version.
    Vxlan(Family),
}

impl Port {
    /// All there can be.
    pub const ALL: [Self; 3] = [Self::Tap, Self::Vxlan(Family::V4), Self::Vxlan(Family::V6)];
}

/// A bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Largest payload in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// IGMP and MLD decide where multicast goes.
    pub multicast_snooping: bool,
    /// The bridge asks who listens.
    pub multicast_querier: bool,
    /// In which version of IGMP (RFC 3376 is 3).
    pub igmp_version: u8,
    /// In which version of MLD (RFC 3810 is 2).
    pub mld_version: u8,
    /// The kernel runs the spanning tree protocol.
    pub spanning_tree: bool,
    /// How long a new port waits before it forwards.
    pub forward_delay: u32,
    /// How long an address learned from a pod's traffic is kept.
    pub ageing: u32,
    /// The VLAN of untagged frames on new ports; 0 is none.
    pub default_pvid: u16,
    /// The bridge has IPv6 addresses of its own and speaks for itself.
    pub ipv6: bool,
}

/// The TAP. It is persistent, so port and entries stay while no process holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The device.
    pub link: Link,
    /// Administratively up.
    pub up: bool,
    /// Flags of its port; `None` while it is not a port of *our* bridge.
    pub port: Option<PortFlags>,
}

/// What a device has whether or not it is a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Largest payload in bytes.
    pub mtu: u32,
    /// It has IPv6 addresses of its own and speaks for itself.
    pub ipv6: bool,
}

/// A VXLAN device with all that goes when it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// What is said when it is made.
    pub tunnel: Tunnel,
    /// The device.
    pub link: Link,
    /// Frames come in by it only if the packet filter marked them.
    pub gate: bool,
    /// Administratively up.
    pub up: bool,
    /// Flags of its port; `None` while it is not a port of our bridge.
    pub port: Option<PortFlags>,
    /// Where it sends frames to an address.
    pub destinations: BTreeMap<Mac, Destination>,
    /// Where it sends frames to a group, and whether as ours are.
    pub listeners: BTreeMap<Listener, Lasting>,
}

/// What a VXLAN device is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Network number; `None` for one that stands for many.
    pub vni: Option<Vni>,
    /// UDP port, here and there.
    pub port: u16,
    /// Outer packets say that they must not be fragmented.
    pub keep_whole: bool,
    /// Everything else is as weft makes it: no learning, no default destination, no extension.
    pub plain: bool,
}

/// Where a VXLAN device sends frames to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To this host, for ever, with port and number of the device.
    To(IpAddr),
    /// As weft never asks for: several hosts, another port or number, a nexthop, an end.
    Odd,
}

/// An entry of the bridge's forwarding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it leads.
    pub port: Port,
    /// It is static and sticky: it neither ages nor moves when the address appears on another port. Found `false` at times, for
    /// entries that were learned, or are static only; never desired so.
    pub fixed: bool,
}

/// A group at a port of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// The port.
    pub port: Port,
    /// The group.
    pub group: IpAddr,
    /// Only what this source sends; never desired.
    pub source: Option<IpAddr>,
}

/// A host to which a VXLAN device sends frames of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The group.
    pub group: IpAddr,
    /// Only what this source sends; never desired.
    pub source: Option<IpAddr>,
    /// Outer address of the host.
    pub host: IpAddr,
}

/// Whether an entry for a group is as weft makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// It stays until it is removed, and has nothing unusual.
    Permanent,
    /// It ends by itself, or differs otherwise; never desired.
    Otherwise,
}

/// Whether a port is taken to lead to a multicast router, which gets the frames of every group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MulticastRouter {
    /// Never.
    Never,
    /// While queries come in by it.
    Learned,
    /// Always.
    Always,
}

/// How the bridge treats a port. [`Default`] is what the kernel gives a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    /// Source addresses seen here are learned.
    pub learning: bool,
    /// No frame passes between two isolated ports.
    pub isolated: bool,
    /// Unknown unicast goes out here.
    pub unicast_flood: bool,
    /// Broadcast goes out here.
    pub broadcast_flood: bool,
    /// Unregistered multicast goes out here.
    pub multicast_flood: bool,
    /// Whether the frames of every group go out here.
    pub multicast_router: MulticastRouter,
    /// The bridge answers ARP and ND in place of hosts behind this port.
    pub neighbour_suppression: bool,
    /// A frame may leave by the port it came in.
    pub hairpin: bool,
}

impl Default for PortFlags {
    fn default() -> Self {
        Self {
            learning: true,
            isolated: false,
            unicast_flood: true,
            broadcast_flood: true,
            multicast_flood: true,
            multicast_router: MulticastRouter::Learned,
            neighbour_suppression: false,
            hairpin: false,
        }
    }
}

/// The table of our own in the packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Its rules; `None` when they are not as weft makes them, for whatever reason.
    pub rules: Option<Rules>,
    /// Outer sources whose VXLAN is let in.
    pub accepted: BTreeSet<IpAddr>,
}

/// What rules of the fence depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// UDP port of VXLAN.
    pub port: u16,
    /// Ports of this host that nobody reaches by the bridge.
    pub closed: BTreeSet<u16>,
}
