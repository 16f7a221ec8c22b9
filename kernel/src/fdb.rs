//! The forwarding database of a bridge: which port leads to which Ethernet address.
//!
//! weft's own entries are *static* (they do not age) and *sticky*: a static entry alone is still
//! moved when a frame with that source address comes in by another port; a sticky one is not.
//! Replacing is one atomic step, so no frame is flooded between the old and the new port.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rustix::io::Errno;

use crate::batch::{Batch, Request};
use crate::error::Result;
use crate::neighbour::{self, Head};
use crate::nla::{Attributes, attribute};
use crate::{DisplayMac, MacAddr, link};

const FAMILY: u8 = libc::AF_BRIDGE as u8;

/// How an entry came to be and how long it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Learned from traffic; it ages.
    Learned,
    /// Put there; it does not age, but moves when the address appears on another port.
    Static,
    /// Put there; it does not age and does not move.
    Sticky,
    /// The address is the bridge's or the port's own; frames to it are for this host.
    Local,
}

/// An entry of a bridge's forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The Ethernet address.
    pub mac: MacAddr,
    /// Index of the port.
    pub port: u32,
    /// Its kind.
    pub kind: EntryKind,
    /// The VLAN it is valid for; `None` is untagged.
    pub vlan: Option<u16>,
}

/// Where a VXLAN device sends frames to one Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The Ethernet address.
    pub mac: MacAddr,
    /// Index of the device.
    pub device: u32,
    /// The outer address; `None` when it is not one address for ever, with port and number of the device.
    pub host: Option<IpAddr>,
    /// How long ago a frame went there last, or the entry was made.
    pub unused_for: Duration,
}

/// What a forwarding database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// Entries of the bridge.
    pub entries: Vec<Entry>,
    /// Entries of VXLAN devices; of one with several outer addresses, several.
    pub destinations: Vec<Destination>,
}

/// Makes `port` the way to each address of `macs`, by static sticky entries. Entries that lead
/// elsewhere are replaced.
///
/// # Errors
/// When the interface is not a bridge port, or an address is not one of a single host. The others may be in place.
pub fn replace(port: &str, macs: &[MacAddr]) -> Result<()> {
    let head = Head {
        interface: link::get(port)?.index,
        state: neighbour::NOARP,
        flags: neighbour::MASTER | neighbour::STICKY,
    };
    let requests = macs.iter().map(|mac| Request {
        kind: neighbour::NEW,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        head: head.write(FAMILY),
        attributes: Attributes::default().put(neighbour::NDA_LLADDR, mac),
    });
    let requests: Vec<Request> = requests.collect();
    Batch::open()?.execute(&requests, &[], |index| {
        let mac = macs.get(index).copied().unwrap_or_default();
        format!("make {port} the way to {}", DisplayMac(mac))
    })
}

/// Removes the entries that lead to `macs` by `port`. Those that do not exist are passed over.
///
/// # Errors
/// When the interface does not exist or the kernel refuses.
pub fn delete(port: &str, macs: &[MacAddr]) -> Result<()> {
    remove(port, macs, neighbour::MASTER)
}

/// Has a VXLAN device send frames to each address to its outer address, for ever. A destination that there is already is replaced
/// in one step.
///
/// # Errors
/// `EAFNOSUPPORT` when the device has outer addresses of the other version. Others may be in place.
pub fn set_destinations(device: &str, destinations: &[(MacAddr, IpAddr)]) -> Result<()> {
    let head = Head {
        interface: link::get(device)?.index,
        state: neighbour::PERMANENT,
        flags: neighbour::SELF,
    };
    let requests = destinations.iter().map(|(mac, host)| Request {
        kind: neighbour::NEW,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        head: head.write(FAMILY),
        attributes: Attributes::default()
            .put(neighbour::NDA_LLADDR, mac)
            .put(neighbour::NDA_DST, &neighbour::octets(*host)),
    });
    let requests: Vec<Request> = requests.collect();
    Batch::open()?.execute(&requests, &[], |index| {
        destinations.get(index).map_or_else(String::new, |(mac, host)| {
            format!("have {device} send frames for {} to {host}", DisplayMac(*mac))
        })
    })
}

/// Has a VXLAN device send frames to these addresses nowhere. What it has no destination for is passed over.
///
/// # Errors
/// When the interface does not exist or the kernel refuses.
pub fn delete_destinations(device: &str, macs: &[MacAddr]) -> Result<()> {
    remove(device, macs, neighbour::SELF)
}

fn remove(interface: &str, macs: &[MacAddr], flags: u8) -> Result<()> {
    let head = Head {
        interface: link::get(interface)?.index,
        state: 0,
        flags,
    };
    let requests = macs.iter().map(|mac| Request {
        kind: neighbour::DELETE,
        flags: 0,
        head: head.write(FAMILY),
        attributes: Attributes::default().put(neighbour::NDA_LLADDR, mac),
    });
    let requests: Vec<Request> = requests.collect();
    Batch::open()?.execute(&requests, &[Errno::NOENT], |index| {
        let mac = macs.get(index).copied().unwrap_or_default();
        format!("remove {} from {interface}", DisplayMac(mac))
    })
}

/// Every entry of a bridge.
///
/// # Errors
/// When the bridge does not exist.
pub fn dump(bridge: &str) -> Result<Vec<Entry>> {
    Ok(read(bridge)?.entries)
}

/// Every entry of a bridge, and every destination of its ports that are VXLAN devices.
///
/// # Errors
/// When the bridge does not exist.
pub fn read(bridge: &str) -> Result<Database> {
    let index = link::get(bridge)?.index;
    let filter = Attributes::default().put(neighbour::NDA_MASTER, &index.to_ne_bytes());
    database(0, filter, index, bridge)
}

/// Every destination of one VXLAN device, whether it is a port or not.
///
/// # Errors
/// When it does not exist.
pub fn destinations(device: &str) -> Result<Vec<Destination>> {
    let index = link::get(device)?.index;
    Ok(database(index, Attributes::default(), 0, device)?.destinations)
}

fn database(interface: u32, filter: Attributes, bridge: u32, name: &str) -> Result<Database> {
    let head = Head {
        interface,
        state: 0,
        flags: 0,
    };
    let request = Request {
        kind: neighbour::GET,
        flags: 0,
        head: head.write(FAMILY),
        attributes: filter,
    };
    let take = |found: &mut Database, _: u16, body: &[u8]| {
        take_entry(found, bridge, body);
    };
    Batch::open()?.dump(&request, Database::default, take, || {
        format!("read the forwarding database of {name}")
    })
}

fn take_entry(found: &mut Database, bridge: u32, body: &[u8]) -> Option<()> {
    let (head, attributes) = Head::read(body)?;
    let mac = neighbour::mac(attributes)?;
    let owner = attribute(attributes, neighbour::NDA_MASTER);
    if let Some(owner) = owner {
        if owner != bridge.to_ne_bytes() {
            return None;
        }
        let vlan = attribute(attributes, neighbour::NDA_VLAN).and_then(|vlan| vlan.try_into().ok());
        let kind = if head.state & neighbour::PERMANENT != 0 {
            EntryKind::Local
        } else if head.state & neighbour::NOARP == 0 {
            EntryKind::Learned
        } else if head.flags & neighbour::STICKY != 0 {
            EntryKind::Sticky
        } else {
            EntryKind::Static
        };
        found.entries.push(Entry {
            mac,
            port: head.interface,
            kind,
            vlan: vlan.map(u16::from_ne_bytes),
        });
    } else {
        // A device's own filter list (multicast addresses it listens to) has no age; a nexthop has no address.
        let unused_for = neighbour::unused_for(attributes)?;
        let host = attribute(attributes, neighbour::NDA_DST).and_then(neighbour::address);
        let is_odd = head.state & neighbour::PERMANENT == 0
            || [PORT, VNI, neighbour::NDA_IFINDEX, NEXTHOP]
                .iter()
                .any(|kind| attribute(attributes, *kind).is_some());
        found.destinations.push(Destination {
            mac,
            device: head.interface,
            host: host.filter(|_| !is_odd),
            unused_for,
        });
    }
    Some(())
}

/// `NDA_PORT`, `NDA_VNI` and `NDA_NH_ID`: told only where they differ from what the device has.
const PORT: u16 = 6;
const VNI: u16 = 7;
const NEXTHOP: u16 = 13;
