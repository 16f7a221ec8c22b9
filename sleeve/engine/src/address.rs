//! IPv4 addresses on IPv6 sockets (RFC 4291 §2.5.5.2).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The form in which addresses are compared and reported: IPv4 as IPv4, no flow label, and a scope only where
/// the address needs one.
pub(crate) fn normal(address: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(v6) = address else {
        return address;
    };
    if let Some(v4) = v6.ip().to_ipv4_mapped() {
        return SocketAddr::new(IpAddr::V4(v4), v6.port());
    }
    let scope = if v6.ip().is_unicast_link_local() {
        v6.scope_id()
    } else {
        0
    };
    SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope))
}

/// The form that an IPv6 socket takes.
pub(crate) fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_come_back_as_ipv4() {
        let v4: SocketAddr = "192.0.2.7:6783".parse().unwrap();
        assert_eq!(mapped(v4), "[::ffff:192.0.2.7]:6783".parse().unwrap());
        assert_eq!(normal(mapped(v4)), v4);
        assert_eq!(normal(v4), v4);
    }

    #[test]
    fn scope_is_kept_for_link_local_addresses_only() {
        let local = SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 9, 3);
        assert_eq!(
            normal(local.into()),
            SocketAddrV6::new(*local.ip(), 1, 0, 3).into()
        );
        let global = SocketAddrV6::new("2001:db8::1".parse().unwrap(), 1, 9, 3);
        assert_eq!(
            normal(global.into()),
            SocketAddrV6::new(*global.ip(), 1, 0, 0).into()
        );
        assert_eq!(mapped(global.into()), global.into());
    }
}
