//! What the kernel holds, as the core describes it.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_fastpath::state::{
    self, Destination, Entry, Lasting, Link as FoundLink, Listener, Registration, Tap, Tunnel, VxlanDevice,
};
use weft_fastpath::{Bridge, Device, Family, KernelState, Port, PortFlags, Vni};
use weft_kernel::link::{self, BridgeAttributes, Link, MulticastRouter};
use weft_kernel::{fdb, gate, listeners, mdb, neighbour};
use weft_wire::Mac;

use crate::driver::{Driver, Error, Result};
use crate::fence;

/// The core counts bridge times in hundredths of a second.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// The interfaces of ours that there are.
struct Links {
    bridge: Option<(Link, BridgeAttributes)>,
    tap: Option<Link>,
    vxlan: BTreeMap<Device, Link>,
}

impl Links {
    fn find(driver: &Driver) -> Result<Self> {
        let mut links: BTreeMap<String, Link> = link::list()?
            .into_iter()
            .map(|link| (link.name.clone(), link))
            .collect();
        let bridge = links.remove(driver.bridge());
        let tap = links.remove(driver.tap());
        let mut vxlan = BTreeMap::new();
        for device in Device::ALL {
            if let Some(link) = links.remove(&driver.device(device)) {
                if link.tunnel.is_none() {
                    return Err(wrong_kind(&link, "VXLAN device"));
                }
                vxlan.insert(device, link);
            }
        }
        if let Some(tap) = tap.as_ref().filter(|tap| tap.kind.as_deref() != Some("tun")) {
            return Err(wrong_kind(tap, "TAP"));
        }
        let bridge = match bridge {
            Some(link) => match link.bridge {
                Some(attributes) => Some((link, attributes)),
                None => return Err(wrong_kind(&link, "bridge")),
            },
            None => None,
        };
        Ok(Self { bridge, tap, vxlan })
    }

    /// Flags of a port of our bridge.
    fn port(&self, link: &Link) -> Option<PortFlags> {
        let (bridge, _) = self.bridge.as_ref()?;
        let is_port = link.master == Some(bridge.index);
        link.port.as_ref().filter(|_| is_port).map(from_kernel)
    }

    /// The ports of our bridge, by index.
    fn ports(&self) -> BTreeMap<u32, Port> {
        let vxlan = self.vxlan.iter();
        vxlan
            .filter_map(|(device, link)| Some((device.port()?, link)))
            .chain(self.tap.as_ref().map(|tap| (Port::Tap, tap)))
            .filter(|(_, link)| self.port(link).is_some())
            .map(|(port, link)| (link.index, port))
            .collect()
    }
}

impl Driver {
    /// The state the kernel is in.
    ///
    /// # Errors
    /// When it cannot be read, or a device of ours is of another kind.
    pub fn read(&self) -> Result<KernelState> {
        let links = Links::find(self)?;
        let mut state = KernelState::default();
        if let Some(tap) = &links.tap {
            state.tap = Some(Tap {
                link: read_link(tap)?,
                up: tap.up,
                port: links.port(tap),
            });
        }
        for (device, link) in &links.vxlan {
            state
                .vxlan
                .insert(*device, read_device(*device, link, links.port(link))?);
        }
        if let Some((link, attributes)) = &links.bridge {
            state.bridge = Some(read_bridge(link, attributes)?);
            let neighbours = neighbour::permanent(&link.name)?;
            state.neighbours = neighbours.into_iter().map(|(ip, mac)| (ip, Mac(mac))).collect();
        }
        self.read_entries(&links, &mut state)?;
        read_groups(&links, &mut state)?;
        state.fence = fence::read(self.bridge())?;
        Ok(state)
    }

    fn read_entries(&self, links: &Links, state: &mut KernelState) -> Result<()> {
        let ports = links.ports();
        let mut destinations = Vec::new();
        if !ports.is_empty() {
            let database = fdb::read(self.bridge())?;
            for entry in &database.entries {
                if let Some(port) = ports.get(&entry.port)
                    && entry.vlan.is_none()
                    && entry.kind != fdb::EntryKind::Local
                {
                    let (port, fixed) = (*port, entry.kind == fdb::EntryKind::Sticky);
                    state.entries.insert(Mac(entry.mac), Entry { port, fixed });
                }
            }
            destinations = database.destinations;
        }
        for link in links
            .vxlan
            .values()
            .filter(|link| !ports.contains_key(&link.index))
        {
            destinations.extend(fdb::destinations(&link.name)?);
        }
        for (device, link) in &links.vxlan {
            let found = destinations
                .iter()
                .filter(|destination| destination.device == link.index);
            if let Some(state) = state.vxlan.get_mut(device) {
                state.destinations = by_address(found);
            }
        }
        Ok(())
    }

    /// Addresses to which the kernel sends pods' frames by itself, and where; whatever sets them.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn found(&self) -> Result<Found> {
        let mut found = Found::default();
        for destination in self.data_destinations(&mut found.has_vxlan)? {
            found
                .entries
                .extend(destination.host.map(|host| (Mac(destination.mac), host)));
        }
        Ok(found)
    }

    /// Addresses to which the kernel has sent a frame by itself within this time, or whose entry is younger.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn used_within(&self, time: Duration) -> Result<Vec<Mac>> {
        let destinations = self.data_destinations(&mut false)?;
        let used = destinations
            .iter()
            .filter(|destination| destination.unused_for <= time);
        Ok(used.map(|destination| Mac(destination.mac)).collect())
    }

    fn data_destinations(&self, has_vxlan: &mut bool) -> Result<Vec<fdb::Destination>> {
        let mut destinations = Vec::new();
        for family in [Family::V4, Family::V6] {
            let name = self.device(Device::Data(family));
            if link::find(&name)?.is_some_and(|link| link.tunnel.is_some()) {
                *has_vxlan = true;
                destinations.extend(fdb::destinations(&name)?);
            }
        }
        Ok(destinations)
    }
}

/// What is in the kernel before anything was asked of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Addresses to which the kernel sends frames by VXLAN, with the outer addresses.
    pub entries: Vec<(Mac, std::net::IpAddr)>,
    /// There is a VXLAN device for pods' frames.
    pub has_vxlan: bool,
}

fn by_address<'a>(found: impl Iterator<Item = &'a fdb::Destination>) -> BTreeMap<Mac, Destination> {
    let mut destinations = BTreeMap::new();
    for destination in found {
        let mac = Mac(destination.mac);
        // Only what is one host's has one destination.
        let host = destination.host.filter(|_| mac.is_valid_source());
        destinations
            .entry(mac)
            .and_modify(|known| *known = Destination::Odd)
            .or_insert(host.map_or(Destination::Odd, Destination::To));
    }
    destinations
}

fn read_device(device: Device, link: &Link, port: Option<PortFlags>) -> Result<VxlanDevice> {
    let Some(found) = link.tunnel else {
        return Err(wrong_kind(link, "VXLAN device"));
    };
    let has_listeners = matches!(device, Device::Data(_));
    Ok(VxlanDevice {
        tunnel: Tunnel {
            vni: Vni::new(found.tunnel.id),
            port: found.tunnel.port,
            keep_whole: found.tunnel.keep_whole,
            // The kernel does not tell which version of IP a device is for.
            plain: found.plain && link.alias.as_deref() == Some(alias(device)),
        },
        link: read_link(link)?,
        gate: gate::is_closed(&link.name, fence::MARK)?,
        up: link.up,
        port,
        destinations: BTreeMap::new(),
        listeners: if has_listeners {
            read_listeners(link)?
        } else {
            BTreeMap::new()
        },
    })
}

fn read_listeners(link: &Link) -> Result<BTreeMap<Listener, Lasting>> {
    let found = listeners::read(&link.name)?.into_iter();
    Ok(found
        .map(|found| {
            let listener = Listener {
                group: found.group,
                source: found.source,
                host: found.host,
            };
            (listener, lasting(found.plain && found.source.is_none()))
        })
        .collect())
}

fn read_groups(links: &Links, state: &mut KernelState) -> Result<()> {
    let Some((bridge, attributes)) = &links.bridge else {
        return Ok(());
    };
    // Without snooping nobody looks at them, and the kernel takes no changes.
    if !attributes.mcast_snooping {
        return Ok(());
    }
    let ports = links.ports();
    for found in mdb::dump(&bridge.name)?.registrations {
        if let Some(port) = ports.get(&found.port) {
            let registration = Registration {
                port: *port,
                group: found.group,
                source: found.source,
            };
            state.groups.insert(registration, lasting(found.permanent));
        }
    }
    Ok(())
}

fn lasting(permanent: bool) -> Lasting {
    if permanent {
        Lasting::Permanent
    } else {
        Lasting::Otherwise
    }
}

/// What a device of ours is called in words; it tells devices for IPv4 and IPv6 apart.
pub(crate) fn alias(device: Device) -> &'static str {
    match device {
        Device::Data(Family::V4) => "weft: frames of pods over IPv4",
        Device::Data(Family::V6) => "weft: frames of pods over IPv6",
        Device::Probe(Family::V4) => "weft: probes over IPv4",
        Device::Probe(Family::V6) => "weft: probes over IPv6",
    }
}

fn read_link(link: &Link) -> Result<FoundLink> {
    Ok(FoundLink {
        mtu: link.mtu,
        ipv6: weft_kernel::sysctl::ipv6_enabled(&link.name)?,
    })
}

fn read_bridge(link: &Link, attributes: &BridgeAttributes) -> Result<Bridge> {
    Ok(Bridge {
        mtu: link.mtu,
        up: link.up,
        multicast_snooping: attributes.mcast_snooping,
        multicast_querier: attributes.mcast_querier,
        igmp_version: attributes.igmp_version,
        mld_version: attributes.mld_version,
        spanning_tree: attributes.stp,
        forward_delay: ticks(attributes.forward_delay),
        ageing: ticks(attributes.ageing),
        default_pvid: attributes.default_pvid,
        ipv6: weft_kernel::sysctl::ipv6_enabled(&link.name)?,
    })
}

pub(crate) fn wrong_kind(link: &Link, wanted: &'static str) -> Error {
    Error::WrongKind {
        name: link.name.clone(),
        found: link.kind.clone().unwrap_or_else(|| "hardware".into()),
        wanted,
    }
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}

pub(crate) fn to_kernel(flags: &PortFlags) -> link::PortFlags {
    link::PortFlags {
        learning: flags.learning,
        isolated: flags.isolated,
        flood: flags.unicast_flood,
        bcast_flood: flags.broadcast_flood,
        mcast_flood: flags.multicast_flood,
        mcast_router: match flags.multicast_router {
            state::MulticastRouter::Never => MulticastRouter::Never,
            state::MulticastRouter::Learned => MulticastRouter::Learned,
            state::MulticastRouter::Always => MulticastRouter::Always,
        },
        neigh_suppress: flags.neighbour_suppression,
        hairpin: flags.hairpin,
    }
}

fn from_kernel(flags: &link::PortFlags) -> PortFlags {
    PortFlags {
        learning: flags.learning,
        isolated: flags.isolated,
        unicast_flood: flags.flood,
        broadcast_flood: flags.bcast_flood,
        multicast_flood: flags.mcast_flood,
        multicast_router: match flags.mcast_router {
            MulticastRouter::Never => state::MulticastRouter::Never,
            MulticastRouter::Learned => state::MulticastRouter::Learned,
            MulticastRouter::Always => state::MulticastRouter::Always,
        },
        neighbour_suppression: flags.neigh_suppress,
        hairpin: flags.hairpin,
    }
}
