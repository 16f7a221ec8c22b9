//! The multicast database of a bridge: which ports lead to listeners of which groups.
//!
//! Message layout: `linux/if_bridge.h`. The messages are read and written here octet by octet: netlink-packet-route has none for
//! them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlaBuffer,
    NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::link;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct br_port_msg`: the family, three octets between, the index of the bridge.
const PORT_MESSAGE: usize = 8;
/// `struct br_mdb_entry`: port, state, flags, VLAN, 16 octets of address, protocol in network order, two octets behind.
const ENTRY: usize = 28;
const RTM_NEWMDB: u16 = 84;
const RTM_GETMDB: u16 = 86;
const MDBA_MDB: u16 = 1;
const MDBA_ROUTER: u16 = 2;
const MDBA_MDB_ENTRY: u16 = 1;
const MDBA_MDB_ENTRY_INFO: u16 = 1;
const MDBA_ROUTER_PORT: u16 = 1;
/// Not to this port: a source that its listeners have excluded.
const MDB_FLAGS_BLOCKED: u8 = 1 << 3;
const MDB_PERMANENT: u8 = 1;
/// The group of route-netlink's notifications about multicast databases, RTNLGRP_MDB.
pub const EVENTS_GROUP: u32 = 26;
/// Made by the kernel from an entry for all sources.
const MDB_FLAGS_STAR_EXCL: u8 = 1 << 2;
const MDBE_ATTR_SOURCE: u16 = 1;
const MDBA_MDB_EATTR_SOURCE: u16 = 4;
const MDBA_SET_ENTRY: u16 = 1;
const MDBA_SET_ENTRY_ATTRS: u16 = 2;
const RTM_DELMDB: u16 = 85;
/// Set in types of attributes that hold attributes.
const NESTED: u16 = 0x8000;
const NLA_TYPE: u16 = 0x3fff;
/// The kernel sends dumps in pieces of at most 32 KiB; twice that leaves room for one odd message.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A dump that a change underneath has spoilt is asked for again this often.
const DUMP_ATTEMPTS: usize = 8;

/// A group that leads to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// Index of the port; the bridge's own when the host itself listens.
    pub port: u32,
    /// The group.
    pub group: IpAddr,
    /// Only what this source sends.
    pub source: Option<IpAddr>,
    /// Put there; it does not end when nobody says that he listens.
    pub permanent: bool,
}

/// What a bridge knows of listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// Groups by port, of VLANs and sources alike: each pair once at least.
    pub registrations: Vec<Registration>,
    /// Indexes of ports that lead to multicast routers, which get the frames of every group.
    pub routers: Vec<u32>,
}

/// Reads the database of a bridge, or of a VXLAN device.
///
/// # Errors
/// When the interface does not exist, or the database changes faster than it can be read.
pub fn dump(bridge: &str) -> Result<Database> {
    let index = link::get(bridge)?.index;
    let action = || format!("read the multicast database of {bridge}");
    let failed = |source| Error::io(action(), source);
    let socket = connect().map_err(failed)?;
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    for attempt in 1..=DUMP_ATTEMPTS as u32 {
        // The kernel knows no filter by bridge here.
        let request = message(RTM_GETMDB, NLM_F_REQUEST | NLM_F_DUMP, attempt, 0, &[]);
        socket.send(&request, 0).map_err(failed)?;
        let mut found = Database::default();
        if answers(&socket, attempt, &mut buffer, &action, |body| {
            found.add(index, body)
        })? {
            return Ok(found);
        }
    }
    Err(Error::Malformed {
        action: action(),
        reason: "it changes faster than it can be read".into(),
    })
}

/// Takes the parts of a dump; false when a change has spoilt it.
fn answers(
    socket: &Socket,
    sequence: u32,
    buffer: &mut Vec<u8>,
    action: &impl Fn() -> String,
    mut part: impl FnMut(&[u8]),
) -> Result<bool> {
    let mut whole = true;
    loop {
        buffer.clear();
        match socket.recv(buffer, 0) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io(action(), e)),
            Ok(_) => {}
        }
        for message in messages(buffer).filter(|message| message.sequence == sequence) {
            whole &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                NLMSG_DONE => return Ok(whole),
                NLMSG_ERROR => {
                    let code = message
                        .body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    if code == 0 {
                        return Ok(whole);
                    }
                    return Err(Error::Refused {
                        action: action(),
                        errno: Errno::from_raw_os_error(code.wrapping_abs()),
                        detail: String::new(),
                    });
                }
                // A dump answers in the words of its question.
                RTM_NEWMDB | RTM_GETMDB => part(message.body),
                _ => {}
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = rest.split_at_checked(HEADER)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body,
        })
    })
}

impl Database {
    /// Adds what a message says of the bridge with this index.
    fn add(&mut self, bridge: u32, body: &[u8]) {
        let Some((header, attributes)) = body.split_at_checked(PORT_MESSAGE) else {
            return;
        };
        if header[4..8] != bridge.to_ne_bytes() {
            return;
        }
        for attribute in children(attributes) {
            match attribute.kind() & NLA_TYPE {
                MDBA_MDB => {
                    let entries =
                        children(attribute.value()).filter(|a| a.kind() & NLA_TYPE == MDBA_MDB_ENTRY);
                    for entry in entries {
                        let infos = children(entry.value());
                        let infos = infos.filter(|a| a.kind() & NLA_TYPE == MDBA_MDB_ENTRY_INFO);
                        self.registrations
                            .extend(infos.filter_map(|info| registration(info.value())));
                    }
                }
                MDBA_ROUTER => {
                    let ports =
                        children(attribute.value()).filter(|a| a.kind() & NLA_TYPE == MDBA_ROUTER_PORT);
                    let index =
                        |port: NlaBuffer<&[u8]>| Some(u32::from_ne_bytes(*port.value().first_chunk()?));
                    self.routers.extend(ports.filter_map(index));
                }
                _ => {}
            }
        }
    }
}

fn children(attributes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(attributes).map_while(std::result::Result::ok)
}

/// `None` for what is no group of IP, or leads nowhere.
fn registration(entry: &[u8]) -> Option<Registration> {
    let (entry, attributes) = entry.split_first_chunk::<ENTRY>()?;
    let group = match [entry[24], entry[25]] {
        [0x08, 0x00] => IpAddr::V4(Ipv4Addr::from(*entry[8..].first_chunk::<4>()?)),
        [0x86, 0xdd] => IpAddr::V6(Ipv6Addr::from(*entry[8..].first_chunk::<16>()?)),
        _ => return None,
    };
    let mut attributes = children(attributes).filter(|a| a.kind() & NLA_TYPE == MDBA_MDB_EATTR_SOURCE);
    let source = attributes.find_map(|source| address(source.value()));
    let counts = entry[5] & (MDB_FLAGS_BLOCKED | MDB_FLAGS_STAR_EXCL) == 0;
    (group.is_multicast() && counts).then_some(Registration {
        port: u32::from_ne_bytes(*entry.first_chunk()?),
        group,
        source,
        permanent: entry[4] == MDB_PERMANENT,
    })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

/// Has a bridge send the frames of a group to a port, whoever sends them, until [`delete`]. An entry that is there stays.
///
/// # Errors
/// When `port` is no port of the bridge, or the group is one that cannot be registered.
pub fn add(bridge: &str, port: &str, group: IpAddr) -> Result<()> {
    let entry = set_entry(link::get(port)?.index, group);
    let attributes = attribute(MDBA_SET_ENTRY, &entry);
    match change(RTM_NEWMDB, NLM_F_CREATE, bridge, &attributes, || {
        format!("have {bridge} send frames of {group} to {port}")
    }) {
        Err(Error::Refused {
            errno: Errno::EXIST, ..
        }) => Ok(()),
        other => other,
    }
}

/// Ends that, and what a port got by memberships. What is not there is passed over.
///
/// # Errors
/// When `port` does not exist, or the kernel refuses.
pub fn delete(bridge: &str, port: &str, group: IpAddr, source: Option<IpAddr>) -> Result<()> {
    let mut attributes = attribute(MDBA_SET_ENTRY, &set_entry(link::get(port)?.index, group));
    if let Some(source) = source {
        let source = match source {
            IpAddr::V4(source) => attribute(MDBE_ATTR_SOURCE, &source.octets()),
            IpAddr::V6(source) => attribute(MDBE_ATTR_SOURCE, &source.octets()),
        };
        attributes.extend(attribute(MDBA_SET_ENTRY_ATTRS | NESTED, &source));
    }
    match change(RTM_DELMDB, 0, bridge, &attributes, || {
        format!("have {bridge} send frames of {group} no longer to {port}")
    }) {
        // Older kernels say the second.
        Err(Error::Refused {
            errno: Errno::NOENT | Errno::INVAL,
            ..
        }) => Ok(()),
        other => other,
    }
}

/// `struct br_mdb_entry` for ever.
fn set_entry(port: u32, group: IpAddr) -> Vec<u8> {
    let mut entry = port.to_ne_bytes().to_vec();
    entry.extend([MDB_PERMANENT, 0, 0, 0]);
    let kind: [u8; 2] = match group {
        IpAddr::V4(group) => {
            entry.extend(group.octets());
            [0x08, 0x00]
        }
        IpAddr::V6(group) => {
            entry.extend(group.octets());
            [0x86, 0xdd]
        }
    };
    entry.resize(24, 0);
    entry.extend(kind);
    entry.resize(ENTRY, 0);
    entry
}

/// An attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut octets = (4 + value.len() as u16).to_ne_bytes().to_vec();
    octets.extend(kind.to_ne_bytes());
    octets.extend(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// Changes an entry and waits for the answer.
fn change(kind: u16, flags: u16, bridge: &str, attributes: &[u8], action: impl Fn() -> String) -> Result<()> {
    let index = link::get(bridge)?.index;
    let failed = |source| Error::io(action(), source);
    let socket = connect().map_err(failed)?;
    let request = message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, index, attributes);
    socket.send(&request, 0).map_err(failed)?;
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    answers(&socket, 1, &mut buffer, &action, |_| {}).map(drop)
}

fn connect() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn message(kind: u16, flags: u16, sequence: u32, bridge: u32, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + PORT_MESSAGE + attributes.len();
    let mut request = (length as u32).to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend([0; 4]);
    request.extend([libc::AF_BRIDGE as u8, 0, 0, 0]);
    request.extend(bridge.to_ne_bytes());
    request.extend(attributes);
    request
}

/// The kernel's notifications about multicast databases, for a thread that waits.
#[derive(Debug)]
pub struct Events(Socket);

impl Events {
    /// From here on no change is missed.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            socket.add_membership(EVENTS_GROUP)?;
            Ok::<_, std::io::Error>(socket)
        };
        open()
            .map(Self)
            .map_err(|e| Error::io("listen to changes of multicast databases", e))
    }

    /// Waits for a change, at most for `timeout`. False when there was none.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        crate::process::readable(&self.0, timeout)
            .map_err(|e| Error::io("listen to changes of multicast databases", e))
    }

    /// Forgets what has happened so far, which [`dump`] now shows. False when nothing has.
    ///
    /// # Errors
    /// When the socket is of no use any longer.
    pub fn drain(&self) -> Result<bool> {
        let mut scratch = [0; 1];
        let mut changed = false;
        loop {
            match self.0.recv(&mut scratch.as_mut_slice(), 0) {
                Ok(_) => changed = true,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(changed),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // Events were lost, which is one more event.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(e) => return Err(Error::io("listen to changes of multicast databases", e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(port: u32, state: u8, flags: u8, address: &[u8], protocol: [u8; 2]) -> Vec<u8> {
        let mut octets = port.to_ne_bytes().to_vec();
        octets.extend([state, flags, 0, 0]);
        octets.extend(address);
        octets.resize(24, 0);
        octets.extend(protocol);
        octets.extend([0, 0]);
        octets
    }

    #[test]
    fn a_message_is_read_for_its_bridge_only() {
        let group = [239, 1, 1, 1];
        let six: [u8; 16] = "ff15::7".parse::<Ipv6Addr>().unwrap().octets();
        let infos = [
            entry(5, 0, 0, &group, [8, 0]),
            entry(6, 1, 0, &six, [0x86, 0xdd]),
            entry(7, 0, MDB_FLAGS_BLOCKED, &group, [8, 0]),
            entry(8, 1, 0, &[1, 0, 0x5e, 0, 0, 1], [0, 0]),
        ];
        let infos = infos.map(|info| attribute(MDBA_MDB_ENTRY_INFO, &info)).concat();
        let entries = attribute(MDBA_MDB_ENTRY | 0x8000, &infos);
        let routers = attribute(MDBA_ROUTER_PORT, &9_u32.to_ne_bytes());
        let body = [
            &[libc::AF_BRIDGE as u8, 0, 0, 0][..],
            &3_u32.to_ne_bytes(),
            &attribute(MDBA_MDB, &entries),
            &attribute(MDBA_ROUTER, &routers),
        ]
        .concat();
        let mut found = Database::default();
        found.add(4, &body);
        assert_eq!(found, Database::default());
        found.add(3, &body);
        let one = |port, group: &str, permanent| Registration {
            port,
            group: group.parse().unwrap(),
            source: None,
            permanent,
        };
        assert_eq!(
            found.registrations,
            [one(5, "239.1.1.1", false), one(6, "ff15::7", true)]
        );
        assert_eq!(found.routers, [9]);
        // Cut anywhere, it says less.
        for length in 0..body.len() {
            let mut cut = Database::default();
            cut.add(3, &body[..length]);
            assert!(cut.registrations.len() <= 2 && cut.routers.len() <= 1);
        }
    }
}
