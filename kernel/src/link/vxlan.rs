//! VXLAN devices (RFC 7348; `IFLA_VXLAN_*` of linux/if_link.h).

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, VxlanDf};

use super::{check_name, create};
use crate::error::Result;

/// A VXLAN device between two addresses. What is not said here is as the kernel has it by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network's number, of 24 bits.
    pub id: u32,
    /// Source address of what it sends.
    pub local: IpAddr,
    /// Where it sends what it has learned no place of.
    pub remote: IpAddr,
    /// UDP port at both ends.
    pub port: u16,
}

/// A VXLAN device that sends only where it is told, one Ethernet address at a time: it learns nothing and has no default
/// destination. What is not said here is as the kernel has it by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The network's number, of 24 bits.
    pub id: u32,
    /// UDP port at both ends.
    pub port: u16,
    /// Outer packets say that they must not be fragmented.
    pub keep_whole: bool,
}

/// A VXLAN device that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundTunnel {
    /// What it has of a [`Tunnel`].
    pub tunnel: Tunnel,
    /// It is as [`create_tunnel`] makes it in everything else. The version of outer addresses is not among what the kernel tells.
    pub plain: bool,
}

impl FoundTunnel {
    pub(super) fn parse(attributes: &[InfoVxlan]) -> Self {
        let mut found = Self {
            tunnel: Tunnel {
                id: 0,
                port: 0,
                keep_whole: false,
            },
            plain: true,
        };
        for attribute in attributes {
            let is_plain = match attribute {
                InfoVxlan::Id(id) => {
                    found.tunnel.id = *id;
                    true
                }
                InfoVxlan::Port(port) => {
                    found.tunnel.port = *port;
                    true
                }
                InfoVxlan::Df(VxlanDf::Unset) => true,
                InfoVxlan::Df(df) => {
                    found.tunnel.keep_whole = true;
                    *df == VxlanDf::Set
                }
                InfoVxlan::UDPCsum(on) | InfoVxlan::Localbypass(on) => *on,
                InfoVxlan::Learning(on)
                | InfoVxlan::Proxy(on)
                | InfoVxlan::Rsc(on)
                | InfoVxlan::L2Miss(on)
                | InfoVxlan::L3Miss(on)
                | InfoVxlan::CollectMetadata(on)
                | InfoVxlan::UDPZeroCsumTX(on)
                | InfoVxlan::UDPZeroCsumRX(on)
                | InfoVxlan::RemCsumTX(on)
                | InfoVxlan::RemCsumRX(on)
                | InfoVxlan::Vnifilter(on)
                | InfoVxlan::McRoute(on) => !on,
                InfoVxlan::Tos(value) | InfoVxlan::Ttl(value) | InfoVxlan::TtlInherit(value) => *value == 0,
                InfoVxlan::Link(value) | InfoVxlan::Label(value) | InfoVxlan::Limit(value) => *value == 0,
                InfoVxlan::Group(_)
                | InfoVxlan::Group6(_)
                | InfoVxlan::Local(_)
                | InfoVxlan::Local6(_)
                | InfoVxlan::Gbp
                | InfoVxlan::Gpe
                | InfoVxlan::RemCsumNoPartial => false,
                // Ages of what is learned, source ports, reserved bits, and what newer kernels tell.
                _ => true,
            };
            found.plain &= is_plain;
        }
        found
    }
}

/// Makes a VXLAN device, which is down.
///
/// # Errors
/// `EEXIST` when the name or the combination of number and port is taken; `EINVAL` when the addresses are of two families.
pub fn create_vxlan(name: &str, vxlan: &Vxlan) -> Result<()> {
    check_name(name)?;
    let local = match vxlan.local {
        IpAddr::V4(address) => InfoVxlan::Local(address),
        IpAddr::V6(address) => InfoVxlan::Local6(address),
    };
    // The attribute is named after multicast groups, and takes one address as well.
    let remote = match vxlan.remote {
        IpAddr::V4(address) => InfoVxlan::Group(address),
        IpAddr::V6(address) => InfoVxlan::Group6(address),
    };
    let attributes = vec![
        InfoVxlan::Id(vxlan.id),
        local,
        remote,
        InfoVxlan::Port(vxlan.port),
    ];
    create(
        name,
        InfoKind::Vxlan,
        Some(InfoData::Vxlan(attributes)),
        Vec::new(),
    )
}

/// Makes a VXLAN device that sends only where it is told, for outer addresses of IPv6 or of IPv4, with this MTU in bytes. It is down.
/// One device of each version may have the same number and port.
///
/// # Errors
/// `EEXIST` when the name or the combination of number, port and version is taken.
pub fn create_tunnel(name: &str, tunnel: &Tunnel, ipv6: bool, mtu: u32) -> Result<()> {
    check_name(name)?;
    let mut attributes = vec![
        InfoVxlan::Id(tunnel.id),
        InfoVxlan::Port(tunnel.port),
        InfoVxlan::Learning(false),
        InfoVxlan::Df(if tunnel.keep_whole {
            VxlanDf::Set
        } else {
            VxlanDf::Unset
        }),
    ];
    if ipv6 {
        // No address in particular: the kernel chooses, as for any other packet.
        attributes.push(InfoVxlan::Local6(Ipv6Addr::UNSPECIFIED));
    }
    create(
        name,
        InfoKind::Vxlan,
        Some(InfoData::Vxlan(attributes)),
        vec![LinkAttribute::Mtu(mtu)],
    )
}
