//! Routes of the main table.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::link;
use crate::netlink::Netlink;

/// A unicast route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; prefix length 0 is the default route.
    pub destination: IpNet,
    /// The router to send to; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub interface: Option<u32>,
}

impl Route {
    /// Whether this is a default route.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

/// Adds the default route by `gateway`. An equal one is left as it is.
///
/// # Errors
/// [`Error::Conflict`] when there is a default route to elsewhere.
pub fn add_default(interface: &str, gateway: IpAddr) -> Result<()> {
    let destination = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    add(interface, destination, Some(gateway))
}

/// Adds a route to `destination` by an interface, through `gateway` if one is given. An equal one is left as it is.
///
/// # Errors
/// [`Error::Conflict`] when the destination is routed elsewhere; `ENETUNREACH` when the gateway is not on the link.
pub fn add(interface: &str, destination: IpNet, gateway: Option<IpAddr>) -> Result<()> {
    let index = link::get(interface)?.index;
    let destination = destination.trunc();
    let wanted = Route {
        destination,
        gateway,
        interface: Some(index),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family(&destination);
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if gateway.is_some() || matches!(destination, IpNet::V6(_)) {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message
        .attributes
        .push(RouteAttribute::Destination(destination.addr().into()));
    message.attributes.push(RouteAttribute::Oif(index));
    message
        .attributes
        .extend(gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
    let result = Netlink::open()?.execute(
        RouteNetlinkMessage::NewRoute(message),
        NLM_F_CREATE | NLM_F_EXCL,
        || match gateway {
            Some(ip) => format!("add a route to {destination} through {ip} on {interface}"),
            None => format!("add a route to {destination} on {interface}"),
        },
    );
    let Err(Error::Refused {
        errno: Errno::EXIST, ..
    }) = result
    else {
        return result;
    };
    match list()?.into_iter().find(|route| route.destination == destination) {
        Some(found) if found != wanted => Err(Error::Conflict {
            what: format!("the route to {destination}"),
            found: describe(&found),
            wanted: describe(&wanted),
        }),
        _ => Ok(()),
    }
}

/// The unicast routes of the main table, IPv4 first.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list() -> Result<Vec<Route>> {
    let mut netlink = Netlink::open()?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = netlink.dump(RouteNetlinkMessage::GetRoute(message), || {
            "list the routes".into()
        })?;
        routes.extend(answers.into_iter().filter_map(parse));
    }
    Ok(routes)
}

fn family(net: &IpNet) -> AddressFamily {
    match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

fn describe(route: &Route) -> String {
    let interface = route
        .interface
        .map_or_else(|| "several interfaces".into(), |i| format!("interface index {i}"));
    match route.gateway {
        Some(ip) => format!("through {ip} on {interface}"),
        None => format!("on {interface}"),
    }
}

fn parse(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let header = message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpNet::V4(Ipv4Net::default()).addr(),
        AddressFamily::Inet6 => IpNet::V6(Ipv6Net::default()).addr(),
        _ => return None,
    };
    let (mut destination, mut gateway, mut interface) = (any, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(&address)?,
            RouteAttribute::Gateway(address) => gateway = ip(&address),
            RouteAttribute::Oif(index) => interface = Some(index),
            _ => {}
        }
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(Route {
        destination,
        gateway,
        interface,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
