//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::link;
use crate::netlink::Netlink;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub index: u32,
    /// The address and the length of its prefix.
    pub address: IpNet,
    /// Duplicate address detection runs; the address cannot be used yet (IPv6, RFC 4862).
    pub tentative: bool,
}

/// Adds an address, usable at once: duplicate address detection is off for it, since weft
/// gives no address out twice. An equal one is left as it is.
///
/// # Errors
/// [`Error::Conflict`] when the interface has the address with another prefix length.
pub fn add(interface: &str, address: IpNet) -> Result<()> {
    let index = link::get(interface)?.index;
    let mut message = message(index, address);
    message
        .attributes
        .push(AddressAttribute::Flags(AddressFlags::Nodad));
    let result = Netlink::open()?.execute(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
        || format!("add the address {address} to {interface}"),
    );
    let Err(Error::Refused {
        errno: Errno::EXIST, ..
    }) = result
    else {
        return result;
    };
    match list(interface)?
        .into_iter()
        .find(|found| found.address.addr() == address.addr())
    {
        Some(found) if found.address != address => Err(Error::Conflict {
            what: format!("the address {} on {interface}", address.addr()),
            found: found.address.to_string(),
            wanted: address.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Removes an address; `false` when the interface did not have it.
///
/// # Errors
/// When the interface does not exist or the kernel refuses.
pub fn remove(interface: &str, address: IpNet) -> Result<bool> {
    let index = link::get(interface)?.index;
    let result = Netlink::open()?.execute(
        RouteNetlinkMessage::DelAddress(message(index, address)),
        0,
        || format!("remove the address {address} from {interface}"),
    );
    match result {
        Ok(()) => Ok(true),
        Err(Error::Refused {
            errno: Errno::ADDRNOTAVAIL,
            ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The addresses of one interface.
///
/// # Errors
/// When it does not exist.
pub fn list(interface: &str) -> Result<Vec<Address>> {
    let index = link::get(interface)?.index;
    let mut message = AddressMessage::default();
    message.header.index = index;
    let answers = Netlink::open()?.dump(RouteNetlinkMessage::GetAddress(message), || {
        format!("list the addresses of {interface}")
    })?;
    Ok(answers
        .into_iter()
        .filter_map(parse)
        .filter(|address| address.index == index)
        .collect())
}

/// The addresses of one interface in the namespace that this one knows by `namespace`, in this one when `None`. None
/// when either is gone.
pub(crate) fn list_in(namespace: Option<i32>, index: u32) -> Result<Vec<Address>> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    if let Some(id) = namespace {
        message.attributes.push(AddressAttribute::TargetNetNsId(id));
    }
    let answers = Netlink::open()?.dump(RouteNetlinkMessage::GetAddress(message), || {
        format!("list the addresses of interface {index} of a pod")
    });
    match answers {
        Ok(answers) => Ok(answers
            .into_iter()
            .filter_map(parse)
            .filter(|address| address.index == index)
            .collect()),
        Err(Error::Refused {
            errno: Errno::NODEV | Errno::INVAL,
            ..
        }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    if let IpNet::V4(net) = address
        && net.prefix_len() < 31
    {
        message
            .attributes
            .push(AddressAttribute::Broadcast(net.broadcast()));
    }
    message
}

fn parse(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let (mut local, mut plain, mut tentative) = (None::<IpAddr>, None, false);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => plain = Some(ip),
            AddressAttribute::Flags(flags) => tentative = flags.contains(AddressFlags::Tentative),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other side, and IFA_LOCAL is ours.
    let address = IpNet::new(local.or(plain)?, message.header.prefix_len).ok()?;
    Some(Address {
        index: message.header.index,
        address,
        tentative,
    })
}
