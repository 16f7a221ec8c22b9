//! What the sleeve adds to a pod's packet, and the pod MTU that follows.
//!
//! All figures are octets.

use crate::datagram::{HEADER_LEN, META_LEN, RELAY_SHIM_LEN, TAG_LEN};

/// Ethernet header of the pod's frame: two addresses and the ethertype.
pub const ETHERNET_HEADER: usize = 14;
/// One IEEE 802.1Q tag in the pod's frame.
pub const VLAN_TAG: usize = 4;
/// IPv4 header of the underlay, without options (RFC 791 §3.1).
pub const IPV4_HEADER: usize = 20;
/// IPv6 header of the underlay (RFC 8200 §3): the larger of the two IP versions.
pub const IPV6_HEADER: usize = 40;
/// UDP header of the underlay.
pub const UDP_HEADER: usize = 8;

/// The most that a single DATA datagram adds to the IP packet of a pod: the underlay's IPv6 and UDP headers,
/// the relay shim, the clear header, the sealed meta, the frame's Ethernet header with one VLAN tag, and the
/// AEAD tag. A direct FLOOD datagram carries 16 octets more and no shim, which is less.
pub const OVERHEAD: usize =
    IPV6_HEADER + UDP_HEADER + RELAY_SHIM_LEN + HEADER_LEN + META_LEN + ETHERNET_HEADER + VLAN_TAG + TAG_LEN;

const _: () = assert!(
    crate::datagram::FLOOD_PREFIX_LEN <= RELAY_SHIM_LEN,
    "OVERHEAD must cover a direct FLOOD"
);

/// Pod MTU never exceeds this unless the operator raises it.
pub const POD_MTU_CAP: usize = 1500;
/// IPv6 requires every link to carry this much (RFC 8200 §5); a pod MTU below it would break IPv6 pods.
pub const POD_MTU_MIN: usize = 1280;

/// The pod MTU on the smallest known underlay: `min(1500, underlay) - OVERHEAD`, and never below [`POD_MTU_MIN`].
///
/// On an underlay under 1414 the largest frames of a pod so need two datagrams each, which costs speed; a smaller
/// MTU would cost the pods IPv6.
pub const fn pod_mtu(smallest_underlay: usize) -> usize {
    let whole = whole_mtu(smallest_underlay);
    if whole < POD_MTU_MIN { POD_MTU_MIN } else { whole }
}

/// The largest MTU of pods, on an underlay of [`POD_MTU_CAP`] at most, with which every frame goes whole over this underlay.
pub const fn whole_mtu(underlay: usize) -> usize {
    let capped = if underlay < POD_MTU_CAP {
        underlay
    } else {
        POD_MTU_CAP
    };
    capped.saturating_sub(OVERHEAD)
}

/// Octets that UDP and IP put around a datagram to this address.
pub const fn underlay_headers(to: &core::net::SocketAddr) -> usize {
    let is_ipv4 = match to.ip() {
        core::net::IpAddr::V4(_) => true,
        core::net::IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    UDP_HEADER + if is_ipv4 { IPV4_HEADER } else { IPV6_HEADER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_ipv4() {
        for (to, headers) in [
            ("192.0.2.1:1", 28),
            ("[::ffff:192.0.2.1]:1", 28),
            ("[2001:db8::1]:1", 48),
        ] {
            assert_eq!(underlay_headers(&to.parse().unwrap()), headers, "{to}");
        }
    }

    #[test]
    fn overhead_is_the_sum_of_the_real_headers() {
        assert_eq!(OVERHEAD, 134);
        assert_eq!(pod_mtu(1500), 1366);
        assert_eq!(pod_mtu(9000), 1366);
        assert_eq!(pod_mtu(1414), 1280);
        assert_eq!(pod_mtu(1413), 1280);
        assert_eq!(pod_mtu(68), 1280);
        assert_eq!((whole_mtu(1500), whole_mtu(1280), whole_mtu(68)), (1366, 1146, 0));
    }
}
