//! The multicast database of a VXLAN device: to which hosts it sends frames of which groups. Linux has it since 6.4.
//!
//! The messages are those of a bridge's multicast database (linux/if_bridge.h), with outer addresses beside the groups.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use rustix::io::Errno;

use crate::batch::{Batch, Request};
use crate::error::Result;
use crate::link;
use crate::neighbour;
use crate::nla::{Attributes, attribute, attributes};

const NEW: u16 = 84;
const DELETE: u16 = 85;
const GET: u16 = 86;
/// `struct br_port_msg`: the family, three octets between, the index of the device.
const HEAD: usize = 8;
/// `struct br_mdb_entry`: port, state, flags, VLAN, 16 octets of address, protocol in network order, two octets behind.
const ENTRY: usize = 28;
const PERMANENT: u8 = 1;
const SET_ENTRY: u16 = 1;
const SET_ATTRIBUTES: u16 = 2;
const SET_SOURCE: u16 = 1;
const SET_HOST: u16 = 5;
const DATABASE: u16 = 1;
const DATABASE_ENTRY: u16 = 1;
const ENTRY_INFO: u16 = 1;
const INFO_SOURCE_LIST: u16 = 2;
const INFO_MODE: u16 = 3;
const INFO_SOURCE: u16 = 4;
const INFO_HOST: u16 = 6;
const INFO_PORT: u16 = 7;
const INFO_VNI: u16 = 8;
const INFO_INTERFACE: u16 = 9;
/// `MCAST_EXCLUDE`: all sources but those listed.
const EXCLUDE: u8 = 0;

/// A host to which a device sends frames of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The group.
    pub group: IpAddr,
    /// Only what this source sends.
    pub source: Option<IpAddr>,
    /// Outer address of the host.
    pub host: IpAddr,
    /// For ever, from all sources, with port and number of the device.
    pub plain: bool,
}

/// Has a VXLAN device send frames of a group to a host, for ever. What is there already stays.
///
/// # Errors
/// When the device does not exist, the group cannot be one, or the kernel has no such database.
pub fn add(device: &str, group: IpAddr, host: IpAddr) -> Result<()> {
    change(device, NEW, NLM_F_CREATE, group, None, host, &[Errno::EXIST])
}

/// Ends that. What is not there is passed over.
///
/// # Errors
/// When the device does not exist, or the kernel refuses.
pub fn delete(device: &str, group: IpAddr, source: Option<IpAddr>, host: IpAddr) -> Result<()> {
    change(device, DELETE, 0, group, source, host, &[Errno::NOENT])
}

fn change(
    device: &str,
    kind: u16,
    flags: u16,
    group: IpAddr,
    source: Option<IpAddr>,
    host: IpAddr,
    passed_over: &[Errno],
) -> Result<()> {
    let index = link::get(device)?.index;
    let mut entry = index.to_ne_bytes().to_vec();
    entry.extend([PERMANENT, 0, 0, 0]);
    entry.extend(neighbour::octets(group));
    entry.resize(24, 0);
    entry.extend(protocol(group));
    entry.resize(ENTRY, 0);
    let mut more = Attributes::default();
    if let Some(source) = source {
        more = more.put(SET_SOURCE, &neighbour::octets(source));
    }
    more = more.put(SET_HOST, &neighbour::octets(host));
    let request = Request {
        kind,
        flags,
        head: head(index),
        attributes: Attributes::default()
            .put(SET_ENTRY, &entry)
            .nest(SET_ATTRIBUTES, more),
    };
    Batch::open()?.execute(&[request], passed_over, |_| {
        let verb = if kind == NEW { "send" } else { "no longer send" };
        format!("have {device} {verb} frames of {group} to {host}")
    })
}

/// Everything in the database of a VXLAN device. Nothing where the kernel has none.
///
/// # Errors
/// When the device does not exist, or the kernel cannot be asked.
pub fn read(device: &str) -> Result<Vec<Listener>> {
    let index = link::get(device)?.index;
    let request = Request {
        kind: GET,
        flags: 0,
        head: head(0),
        attributes: Attributes::default(),
    };
    let take = |found: &mut Vec<Listener>, _: u16, body: &[u8]| {
        let Some((head, rest)) = body.split_at_checked(HEAD) else {
            return;
        };
        if head[4..8] != index.to_ne_bytes() {
            return;
        }
        let database = attribute(rest, DATABASE).unwrap_or_default();
        for (_, entry) in attributes(database).filter(|(kind, _)| *kind == DATABASE_ENTRY) {
            let infos = attributes(entry).filter(|(kind, _)| *kind == ENTRY_INFO);
            found.extend(infos.filter_map(|(_, info)| listener(info)));
        }
    };
    Batch::open()?.dump(&request, Vec::new, take, || {
        format!("read the multicast database of {device}")
    })
}

fn head(index: u32) -> Vec<u8> {
    let mut bytes = vec![libc::AF_BRIDGE as u8, 0, 0, 0];
    bytes.extend(index.to_ne_bytes());
    bytes
}

fn protocol(group: IpAddr) -> [u8; 2] {
    match group {
        IpAddr::V4(_) => [0x08, 0x00],
        IpAddr::V6(_) => [0x86, 0xdd],
    }
}

fn listener(info: &[u8]) -> Option<Listener> {
    let (entry, rest) = info.split_first_chunk::<ENTRY>()?;
    let length = if entry[24..26] == protocol(IpAddr::from([0; 4])) {
        4
    } else {
        16
    };
    let has = |kind| attribute(rest, kind).is_some();
    let mode = attribute(rest, INFO_MODE).and_then(|mode| mode.first());
    Some(Listener {
        group: neighbour::address(entry.get(8..8 + length)?)?,
        source: attribute(rest, INFO_SOURCE).and_then(neighbour::address),
        host: neighbour::address(attribute(rest, INFO_HOST)?)?,
        plain: entry[4] == PERMANENT
            && ![INFO_SOURCE_LIST, INFO_PORT, INFO_VNI, INFO_INTERFACE]
                .into_iter()
                .any(has)
            && mode.is_none_or(|mode| *mode == EXCLUDE),
    })
}
