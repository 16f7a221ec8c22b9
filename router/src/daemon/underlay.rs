//! At which addresses this host can be reached, and with which MTU.

use crate::command::{BRIDGE, TAP};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use weft_kernel::link::{self, Link};
use weft_kernel::{Result, addr};
use weft_wire::limits::ENDPOINTS_MAX;

/// What is known of the networks between hosts.
pub(super) struct Underlay {
    /// Where others reach this host, best first.
    pub(super) endpoints: Vec<SocketAddr>,
    /// Smallest MTU of the interfaces that carry these addresses.
    pub(super) mtu: u16,
    /// Every address of this host, with the port on which it listens.
    own: Vec<SocketAddr>,
}

impl Underlay {
    /// Whether a peer, as HOST:PORT, is an address of this host. A name is looked up only when it is dialled.
    pub(super) fn is_own(&self, peer: &str) -> bool {
        peer.parse().is_ok_and(|address| self.own.contains(&address))
    }
}

/// MTU that is assumed where no interface tells one: Ethernet's.
const MTU_UNKNOWN: u32 = 1_500;

/// Looks at the interfaces of this namespace. `listen` limits it to one address, `advertise` goes before all of it.
pub(super) fn find(listen: Option<IpAddr>, advertise: &[SocketAddr], port: u16) -> Result<Underlay> {
    let mut found: Vec<(IpAddr, u32)> = Vec::new();
    for link in link::list()?.iter().filter(|link| link.up && !is_own(link)) {
        for address in addr::list(&link.name)? {
            found.push((address.address.addr(), link.mtu));
        }
    }
    let listened = |ip: &IpAddr| listen.is_none_or(|listen| listen.is_unspecified() || listen == *ip);
    let own = found.iter().map(|(ip, _)| SocketAddr::new(*ip, port)).chain(
        // The interface of loopback is left out above.
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].map(|ip: IpAddr| SocketAddr::new(ip, port)),
    );
    let own = own.collect();
    let mut usable: Vec<(IpAddr, u32)> = found
        .into_iter()
        .filter(|(ip, _)| is_reachable(*ip) && listened(ip))
        .collect();
    // IPv4 first: it is what most underlays carry for sure; the order within a version is the kernel's.
    usable.sort_by_key(|(ip, _)| ip.is_ipv6());
    let mtu = usable.iter().map(|(_, mtu)| *mtu).min().unwrap_or(MTU_UNKNOWN);
    let endpoints = match advertise {
        [] => usable
            .iter()
            .map(|(ip, _)| SocketAddr::new(*ip, port))
            .take(ENDPOINTS_MAX)
            .collect(),
        named => named.to_vec(),
    };
    Ok(Underlay {
        endpoints,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        own,
    })
}

/// True for weft's own devices: an overlay is not reached through itself.
fn is_own(link: &Link) -> bool {
    link.name == BRIDGE || link.name == TAP || link.name == "lo"
}

/// True when another host could use the address: loopback and link-local ones mean something here only.
fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mean_something_here_only_are_left_out() {
        for (text, reachable) in [
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("192.168.0.1", true),
            ("fe80::1", false),
            ("::1", false),
            ("2001:db8::1", true),
            ("fd00::1", true),
        ] {
            assert_eq!(is_reachable(text.parse().unwrap()), reachable, "{text}");
        }
    }
}
