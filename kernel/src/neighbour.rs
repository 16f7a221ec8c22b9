//! `struct ndmsg` (linux/neighbour.h): what forwarding databases, VXLAN destinations and neighbours are told with; and permanent
//! neighbours of an interface.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rustix::io::Errno;

use crate::batch::{Batch, Request};
use crate::error::Result;
use crate::nla::{Attributes, attribute};
use crate::{DisplayMac, MacAddr, link};

pub(crate) const NEW: u16 = libc::RTM_NEWNEIGH;
pub(crate) const DELETE: u16 = libc::RTM_DELNEIGH;
pub(crate) const GET: u16 = libc::RTM_GETNEIGH;
/// `NUD_REACHABLE` and its kin.
pub(crate) const NOARP: u16 = 0x40;
pub(crate) const PERMANENT: u16 = 0x80;
/// `NTF_SELF` and its kin.
pub(crate) const SELF: u8 = 0x02;
pub(crate) const MASTER: u8 = 0x04;
pub(crate) const STICKY: u8 = 0x40;
pub(crate) const NDA_DST: u16 = 1;
pub(crate) const NDA_LLADDR: u16 = 2;
pub(crate) const NDA_CACHEINFO: u16 = 3;
pub(crate) const NDA_VLAN: u16 = 5;
pub(crate) const NDA_IFINDEX: u16 = 8;
pub(crate) const NDA_MASTER: u16 = 9;
/// The kernel tells ages in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// What `struct ndmsg` says, and where its attributes begin.
pub(crate) struct Head {
    pub(crate) interface: u32,
    pub(crate) state: u16,
    pub(crate) flags: u8,
}

impl Head {
    pub(crate) fn write(&self, family: u8) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0];
        bytes.extend(self.interface.to_ne_bytes());
        bytes.extend(self.state.to_ne_bytes());
        bytes.extend([self.flags, 0]);
        bytes
    }

    pub(crate) fn read(body: &[u8]) -> Option<(Self, &[u8])> {
        let (head, attributes) = body.split_first_chunk::<12>()?;
        let [_, _, _, _, i0, i1, i2, i3, s0, s1, flags, _] = *head;
        let head = Self {
            interface: u32::from_ne_bytes([i0, i1, i2, i3]),
            state: u16::from_ne_bytes([s0, s1]),
            flags,
        };
        Some((head, attributes))
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(crate) fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4.or(v6).ok()
}

pub(crate) fn mac(attributes: &[u8]) -> Option<MacAddr> {
    attribute(attributes, NDA_LLADDR)?.try_into().ok()
}

/// How long ago an entry was last used to send, from `struct nda_cacheinfo`.
pub(crate) fn unused_for(attributes: &[u8]) -> Option<Duration> {
    let info = attribute(attributes, NDA_CACHEINFO)?;
    let used = u32::from_ne_bytes(info.get(4..8)?.try_into().ok()?);
    Some(TICK * used)
}

/// Ties IPv4 addresses to Ethernet addresses on an interface, for ever. What was known of them before is replaced.
///
/// # Errors
/// When the interface does not exist, or the kernel refuses an address.
pub fn replace(interface: &str, neighbours: &[(Ipv4Addr, MacAddr)]) -> Result<()> {
    let head = Head {
        interface: link::get(interface)?.index,
        state: PERMANENT,
        flags: 0,
    };
    let request = |(address, mac): &(Ipv4Addr, MacAddr)| Request {
        kind: NEW,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        head: head.write(libc::AF_INET as u8),
        attributes: Attributes::default()
            .put(NDA_DST, &address.octets())
            .put(NDA_LLADDR, mac),
    };
    let requests: Vec<Request> = neighbours.iter().map(request).collect();
    let name = |index: usize| {
        neighbours.get(index).map_or_else(String::new, |(address, mac)| {
            format!("make {} the neighbour {address} of {interface}", DisplayMac(*mac))
        })
    };
    Batch::open()?.execute(&requests, &[], name)
}

/// Removes what is known of addresses on an interface. Those that are not known are passed over.
///
/// # Errors
/// When the interface does not exist, or the kernel refuses.
pub fn delete(interface: &str, addresses: &[Ipv4Addr]) -> Result<()> {
    let head = Head {
        interface: link::get(interface)?.index,
        state: 0,
        flags: 0,
    };
    let request = |address: &Ipv4Addr| Request {
        kind: DELETE,
        flags: 0,
        head: head.write(libc::AF_INET as u8),
        attributes: Attributes::default().put(NDA_DST, &address.octets()),
    };
    let requests: Vec<Request> = addresses.iter().map(request).collect();
    Batch::open()?.execute(&requests, &[Errno::NOENT], |_| {
        format!("remove neighbours of {interface}")
    })
}

/// The permanent IPv4 neighbours of an interface.
///
/// # Errors
/// When the interface does not exist, or the kernel cannot be asked.
pub fn permanent(interface: &str) -> Result<Vec<(Ipv4Addr, MacAddr)>> {
    let index = link::get(interface)?.index;
    let request = Request {
        kind: GET,
        flags: 0,
        head: Head {
            interface: 0,
            state: 0,
            flags: 0,
        }
        .write(libc::AF_INET as u8),
        attributes: Attributes::default().put(NDA_IFINDEX, &index.to_ne_bytes()),
    };
    let take = |found: &mut Vec<(Ipv4Addr, MacAddr)>, _: u16, body: &[u8]| {
        let Some((head, attributes)) = Head::read(body) else {
            return;
        };
        let ip = attribute(attributes, NDA_DST).and_then(address);
        if let (Some(IpAddr::V4(ip)), Some(mac)) = (ip, mac(attributes))
            && head.interface == index
            && head.state & PERMANENT != 0
        {
            found.push((ip, mac));
        }
    };
    Batch::open()?.dump(&request, Vec::new, take, || {
        format!("read the neighbours of {interface}")
    })
}
