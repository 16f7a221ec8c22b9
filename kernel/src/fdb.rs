//! The forwarding database of a bridge: which port leads to which Ethernet address.
//!
//! weft's own entries are *static* (they do not age) and *sticky*: a static entry alone is still
//! moved when a frame with that source address comes in by another port; a sticky one is not.
//! Replacing is one atomic step, so no frame is flooded between the old and the new port.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::netlink::Netlink;
use crate::{DisplayMac, MacAddr, link};

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

/// Makes `port` the way to each address of `macs`, by static sticky entries. Entries that lead
/// elsewhere are replaced.
///
/// # Errors
/// When the interface is not a bridge port, or an address is not one of a single host. Addresses
/// before the refused one are in place.
pub fn replace(port: &str, macs: &[MacAddr]) -> Result<()> {
    let index = link::get(port)?.index;
    let mut netlink = Netlink::open()?;
    for mac in macs {
        let mut message = message(index, *mac);
        message.header.state = NeighbourState::Noarp;
        message.header.flags |= NeighbourFlags::Sticky;
        netlink.execute(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("make {port} the way to {}", DisplayMac(*mac)),
        )?;
    }
    Ok(())
}

/// Removes the entries that lead to `macs` by `port`. Those that do not exist are passed over.
///
/// # Errors
/// When the interface does not exist or the kernel refuses.
pub fn delete(port: &str, macs: &[MacAddr]) -> Result<()> {
    let index = link::get(port)?.index;
    let mut netlink = Netlink::open()?;
    for mac in macs {
        let result = netlink.execute(RouteNetlinkMessage::DelNeighbour(message(index, *mac)), 0, || {
            format!("remove {} from {port}", DisplayMac(*mac))
        });
        match result {
            Ok(())
            | Err(Error::Refused {
                errno: Errno::NOENT, ..
            }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Every entry of a bridge.
///
/// # Errors
/// When the bridge does not exist.
pub fn dump(bridge: &str) -> Result<Vec<Entry>> {
    let index = link::get(bridge)?.index;
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.attributes.push(NeighbourAttribute::Controller(index));
    let answers = Netlink::open()?.dump(RouteNetlinkMessage::GetNeighbour(message), || {
        format!("read the forwarding database of {bridge}")
    })?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| parse(answer, index))
        .collect())
}

fn message(port: u32, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    message.header.flags = NeighbourFlags::Controller;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message
}

fn parse(message: RouteNetlinkMessage, bridge: u32) -> Option<Entry> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    let (mut mac, mut vlan, mut owner) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            NeighbourAttribute::Vlan(id) => vlan = Some(id),
            NeighbourAttribute::Controller(index) => owner = Some(index),
            _ => {}
        }
    }
    // A device's own filter list (multicast addresses it listens to) comes without an owner.
    if owner != Some(bridge) {
        return None;
    }
    let kind = match message.header.state {
        NeighbourState::Permanent => EntryKind::Local,
        NeighbourState::Noarp if message.header.flags.contains(NeighbourFlags::Sticky) => EntryKind::Sticky,
        NeighbourState::Noarp => EntryKind::Static,
        _ => EntryKind::Learned,
    };
    Some(Entry {
        mac: mac?,
        port: message.header.ifindex,
        kind,
        vlan,
    })
}
