//! VXLAN devices (RFC 7348; `IFLA_VXLAN_*` of linux/if_link.h).

use std::net::IpAddr;

use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan};

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
