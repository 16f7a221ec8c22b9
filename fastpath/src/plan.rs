//! From what the node knows to what the kernel should hold.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;

use weft_wire::Mac;

use crate::state::{
    Bridge, Destination, Device, Entry, Family, Fence, KernelState, Lasting, Link, Listener, MulticastRouter,
    Port, PortFlags, Registration, Rules, Tap, Tunnel, VxlanDevice,
};
use crate::view::{Snooping, Via, View, Vxlan};

/// Five minutes, in hundredths of a second: the kernel's own value, and longer than hosts keep ARP entries unused.
const AGEING: u32 = 30_000;

/// Flags of the TAP's port.
const TAP_PORT: PortFlags = PortFlags {
    // Where a remote address is, the router knows; a frame from the TAP must not teach otherwise.
    learning: false,
    // Ports to other hosts never exchange frames: what one brings, no other takes out again.
    isolated: true,
    // What the kernel does not know, the router delivers.
    unicast_flood: true,
    broadcast_flood: true,
    multicast_flood: true,
    multicast_router: MulticastRouter::Never,
    // Suppression would swallow gratuitous ARP and the probes of address detection.
    neighbour_suppression: false,
    hairpin: false,
};

/// Flags of a VXLAN port: it carries what has an entry, and nothing else, so that the router alone decides about broadcast.
const VXLAN_PORT: PortFlags = PortFlags {
    unicast_flood: false,
    broadcast_flood: false,
    multicast_flood: false,
    // ARP requests for what is behind it are answered by the bridge.
    neighbour_suppression: true,
    ..TAP_PORT
};

/// The kernel state of a host with this view.
///
/// Addresses that cannot be one host's (group addresses, all zero) are left out: the kernel would refuse them, and nothing
/// is ever sent *from* them. What is to go by a device that is not there goes by the TAP.
#[must_use]
pub fn desired(view: &View) -> KernelState {
    let mut state = KernelState {
        bridge: Some(bridge(view)),
        tap: Some(Tap {
            link: link(view.mtu),
            up: true,
            port: Some(PortFlags {
                multicast_router: match view.snooping {
                    Snooping::OnWithRouter => MulticastRouter::Always,
                    Snooping::On | Snooping::Off => MulticastRouter::Never,
                },
                ..TAP_PORT
            }),
        }),
        fence: view.vxlan.as_ref().map(fence),
        ..KernelState::default()
    };
    let ways = Ways::new(view);
    if let Some(vxlan) = &view.vxlan {
        state.vxlan = devices(view, vxlan);
    }
    // The maps are in order already, so building these costs no comparison.
    let remote = view.remote.iter().filter(|(mac, _)| mac.is_valid_source());
    state.entries = remote
        .clone()
        .map(|(mac, via)| (*mac, ways.entry(*via)))
        .collect();
    for (device, found) in &mut state.vxlan {
        found.destinations = match device {
            Device::Data(family) => remote
                .clone()
                .filter_map(|(mac, via)| {
                    let (goes, host) = ways.tunnel(*via)?;
                    (goes == *family).then_some((*mac, Destination::To(host)))
                })
                .collect(),
            Device::Probe(family) => view
                .vxlan
                .iter()
                .flat_map(|vxlan| &vxlan.probes)
                .filter(|(mac, host)| mac.is_valid_source() && is_of(**host, *family))
                .map(|(mac, host)| (*mac, Destination::To(*host)))
                .collect(),
        };
    }
    state.neighbours = view
        .neighbours
        .iter()
        .filter(|(_, mac)| ways.answers_for(view, **mac))
        .map(|(address, mac)| (*address, *mac))
        .collect();
    if view.snooping != Snooping::Off {
        groups(view, &ways, &mut state);
    }
    state
}

/// Which devices a view asks for; where addresses therefore lead.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ways {
    ipv4: bool,
    ipv6: bool,
}

impl Ways {
    pub(crate) fn new(view: &View) -> Self {
        let vxlan = view.vxlan.as_ref();
        Self {
            ipv4: vxlan.is_some_and(|vxlan| vxlan.ipv4),
            ipv6: vxlan.is_some_and(|vxlan| vxlan.ipv6),
        }
    }

    /// The device that takes a frame there, and the outer address; `None` when the router delivers.
    pub(crate) fn tunnel(self, via: Via) -> Option<(Family, IpAddr)> {
        match via {
            Via::Kernel(host) if self.leads_to(host) => Some((Family::of(host), host)),
            Via::Kernel(_) | Via::Router => None,
        }
    }

    fn leads_to(self, host: IpAddr) -> bool {
        (is_of(host, Family::V4) && self.ipv4) || (is_of(host, Family::V6) && self.ipv6)
    }

    pub(crate) fn port(self, via: Via) -> Port {
        self.tunnel(via)
            .map_or(Port::Tap, |(family, _)| Port::Vxlan(family))
    }

    fn entry(self, via: Via) -> Entry {
        Entry {
            port: self.port(via),
            fixed: true,
        }
    }

    pub(crate) fn answers_for(self, view: &View, mac: Mac) -> bool {
        let via = view.remote.get(&mac).filter(|_| mac.is_valid_source());
        via.is_some_and(|via| self.tunnel(*via).is_some())
    }
}

/// An outer address of that version to which a datagram for one host can go.
pub(crate) fn is_of(host: IpAddr, family: Family) -> bool {
    let broadcast = matches!(host, IpAddr::V4(v4) if v4.is_broadcast());
    Family::of(host) == family && !host.is_multicast() && !host.is_unspecified() && !broadcast
}

fn link(mtu: u32) -> Link {
    // The device is no host: it must not solicit or report into the overlay.
    Link { mtu, ipv6: false }
}

fn bridge(view: &View) -> Bridge {
    let snooping = view.snooping != Snooping::Off;
    Bridge {
        mtu: view.mtu,
        up: true,
        multicast_snooping: snooping,
        // Nobody else asks, and listeners answer only when asked.
        multicast_querier: snooping,
        // Joins for one source count with these only.
        igmp_version: 3,
        mld_version: 2,
        // The overlay has no loops of its own making, and a pod must be reachable at once.
        spanning_tree: false,
        forward_delay: 0,
        ageing: AGEING,
        // With a VLAN, the kernel keeps each entry twice.
        default_pvid: 0,
        // The bridge is no host: it must not solicit or report into the overlay.
        ipv6: false,
    }
}

fn devices(view: &View, vxlan: &Vxlan) -> BTreeMap<Device, VxlanDevice> {
    let wanted = |device: &Device| match device {
        Device::Data(Family::V4) | Device::Probe(Family::V4) => vxlan.ipv4,
        Device::Data(Family::V6) | Device::Probe(Family::V6) => vxlan.ipv6,
    };
    let device = |device: Device| {
        let is_probe = matches!(device, Device::Probe(_));
        let made = VxlanDevice {
            tunnel: Tunnel {
                vni: Some(if is_probe { vxlan.probe_vni } else { vxlan.data_vni }),
                port: vxlan.port,
                // A probe tells whether the path carries its size; a pod's frame had better arrive in fragments than not.
                keep_whole: is_probe,
                plain: true,
            },
            link: link(if is_probe { vxlan.mtu } else { view.mtu }),
            gate: true,
            up: true,
            port: (!is_probe).then_some(VXLAN_PORT),
            destinations: BTreeMap::new(),
            listeners: BTreeMap::new(),
        };
        (device, made)
    };
    Device::ALL.into_iter().filter(wanted).map(device).collect()
}

fn fence(vxlan: &Vxlan) -> Fence {
    Fence {
        rules: Some(Rules {
            port: vxlan.port,
            closed: vxlan.closed.clone(),
        }),
        accepted: accepted(vxlan),
    }
}

/// Sources that can be one host's.
pub(crate) fn accepted(vxlan: &Vxlan) -> BTreeSet<IpAddr> {
    let sources = vxlan.accepted.iter().copied();
    sources
        .filter(|source| is_of(*source, Family::of(*source)))
        .collect()
}

fn groups(view: &View, ways: &Ways, state: &mut KernelState) {
    let registrable = view.groups.iter().filter(|(group, _)| !group.is_for_everybody());
    for (group, listeners) in registrable {
        let (group, source) = (group.address(), None);
        let mut ports = BTreeSet::new();
        if listeners.router {
            ports.insert(Port::Tap);
        }
        for host in &listeners.kernel {
            let via = Via::Kernel(*host);
            ports.insert(ways.port(via));
            if let Some((family, host)) = ways.tunnel(via)
                && let Some(device) = state.vxlan.get_mut(&Device::Data(family))
            {
                let listener = Listener { group, source, host };
                device.listeners.insert(listener, Lasting::Permanent);
            }
        }
        for port in ports {
            let registration = Registration { port, group, source };
            state.groups.insert(registration, Lasting::Permanent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Listeners, Vni};
    use core::net::Ipv4Addr;
    use weft_wire::Group;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn vxlan(ipv4: bool) -> Vxlan {
        Vxlan {
            port: 6784,
            data_vni: Vni::new(5).unwrap(),
            probe_vni: Vni::new(6).unwrap(),
            ipv4,
            ipv6: true,
            accepted: [HOST, "0.0.0.0".parse().unwrap()].into(),
            probes: [(mac(9), HOST)].into(),
            mtu: 1430,
            closed: [6783].into(),
        }
    }

    #[test]
    fn group_addresses_get_no_entry() {
        let remote = [Mac::BROADCAST, Mac([0; 6]), mac(1)].map(|mac| (mac, Via::Router));
        let state = desired(&View {
            remote: remote.into(),
            ..View::new(1400)
        });
        assert_eq!(state.entries.into_keys().collect::<Vec<_>>(), [mac(1)]);
    }

    #[test]
    fn what_has_no_device_goes_by_the_tap() {
        let group = Group::new("239.1.1.1".parse().unwrap()).unwrap();
        let listeners = Listeners {
            router: false,
            kernel: [HOST].into(),
        };
        let view = |vxlan| View {
            remote: [(mac(1), Via::Kernel(HOST))].into(),
            neighbours: [(Ipv4Addr::new(10, 0, 0, 1), mac(1))].into(),
            groups: [(group, listeners.clone())].into(),
            snooping: Snooping::On,
            vxlan,
            ..View::new(1400)
        };
        for (vxlan, expected) in [
            (None, Port::Tap),
            (Some(vxlan(false)), Port::Tap),
            (Some(vxlan(true)), Port::Vxlan(Family::V4)),
        ] {
            let state = desired(&view(vxlan));
            assert_eq!(state.entries.get(&mac(1)).map(|entry| entry.port), Some(expected));
            assert_eq!(state.neighbours.is_empty(), expected == Port::Tap);
            let ports = state.groups.keys().map(|registration| registration.port);
            assert_eq!(ports.collect::<Vec<_>>(), [expected]);
            let device = state.vxlan.get(&Device::Data(Family::V4));
            assert_eq!(
                device.map_or(0, |device| device.listeners.len() + device.destinations.len()),
                if expected == Port::Tap { 0 } else { 2 }
            );
        }
        let fence = desired(&view(Some(vxlan(true)))).fence.unwrap();
        assert_eq!(fence.accepted, [HOST].into());
    }
}
