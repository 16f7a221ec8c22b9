//! What a frame asks of the neighbourhood: ARP (RFC 826, RFC 5227) and IPv6 neighbour discovery (RFC 4861).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = 14;
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet, IPv4, and the lengths of their addresses: the only ARP there is on an Ethernet.
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_LEN: usize = 28;
const ARP_REQUEST: [u8; 2] = [0, 1];
const IPV6_HEADER: usize = 40;
const ICMPV6: u8 = 58;
const NEIGHBOR_SOLICITATION: u8 = 135;
/// A solicitation up to and with its target.
const SOLICITATION_LEN: usize = 24;
/// A packet that a router passed on cannot be neighbour discovery (RFC 4861 §7.1.1).
const HOP_LIMIT: u8 = 255;

/// The address whose owner a frame asks to answer: the target of an ARP request or a neighbour solicitation, address
/// probes included. `None` for every other frame, and for gratuitous ARP, which asks nobody and tells everybody.
///
/// Frames with a VLAN tag ask nothing here: what lives in a VLAN inside the overlay is not weft's to know.
pub fn target(frame: &[u8]) -> Option<IpAddr> {
    let (header, packet) = frame.split_at_checked(ETHERNET)?;
    match header.get(12..14)? {
        kind if kind == TYPE_ARP => arp_target(packet).map(IpAddr::V4),
        kind if kind == TYPE_IPV6 => neighbour_target(packet).map(IpAddr::V6),
        _ => None,
    }
}

fn arp_target(packet: &[u8]) -> Option<Ipv4Addr> {
    let packet = packet.get(..ARP_LEN)?;
    if packet[..6] != ARP_ETHERNET_IPV4 || packet[6..8] != ARP_REQUEST {
        return None;
    }
    let (sender, target) = (&packet[14..18], &packet[24..28]);
    if sender == target {
        return None;
    }
    <[u8; 4]>::try_from(target).ok().map(Ipv4Addr::from)
}

fn neighbour_target(packet: &[u8]) -> Option<Ipv6Addr> {
    let packet = packet.get(..IPV6_HEADER + SOLICITATION_LEN)?;
    let (header, message) = packet.split_at(IPV6_HEADER);
    let is_solicitation = header[0] >> 4 == 6
        && header[6] == ICMPV6
        && header[7] == HOP_LIMIT
        && message[..2] == [NEIGHBOR_SOLICITATION, 0];
    if !is_solicitation {
        return None;
    }
    let target = <[u8; 16]>::try_from(&message[8..24]).ok()?;
    Some(Ipv6Addr::from(target)).filter(|target| !target.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet_packet::MutablePacket as _;
    use pnet_packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, MutableArpPacket};
    use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
    use pnet_packet::icmpv6::ndp::{MutableNeighborAdvertPacket, MutableNeighborSolicitPacket};
    use pnet_packet::icmpv6::{Icmpv6Code, Icmpv6Type, Icmpv6Types};
    use pnet_packet::ip::IpNextHeaderProtocols;
    use pnet_packet::ipv6::MutableIpv6Packet;
    use proptest::prelude::*;

    fn ethernet(kind: EtherType, payload: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut frame = vec![0xff; ETHERNET + payload];
        frame[ETHERNET..].fill(0);
        let mut packet = MutableEthernetPacket::new(&mut frame).unwrap();
        packet.set_ethertype(kind);
        fill(packet.payload_mut());
        frame
    }

    fn arp(operation: ArpOperation, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        ethernet(EtherTypes::Arp, 46, |octets| {
            let mut arp = MutableArpPacket::new(octets).unwrap();
            arp.set_hardware_type(ArpHardwareTypes::Ethernet);
            arp.set_protocol_type(EtherTypes::Ipv4);
            arp.set_hw_addr_len(6);
            arp.set_proto_addr_len(4);
            arp.set_operation(operation);
            arp.set_sender_proto_addr(sender);
            arp.set_target_proto_addr(target);
        })
    }

    fn icmpv6(kind: Icmpv6Type, hop_limit: u8, target: Ipv6Addr) -> Vec<u8> {
        ethernet(EtherTypes::Ipv6, IPV6_HEADER + 32, |octets| {
            let mut ip = MutableIpv6Packet::new(octets).unwrap();
            ip.set_version(6);
            ip.set_payload_length(32);
            ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
            ip.set_hop_limit(hop_limit);
            if kind == Icmpv6Types::NeighborSolicit {
                let mut message = MutableNeighborSolicitPacket::new(ip.payload_mut()).unwrap();
                message.set_icmpv6_type(kind);
                message.set_icmpv6_code(Icmpv6Code(0));
                message.set_target_addr(target);
            } else {
                let mut message = MutableNeighborAdvertPacket::new(ip.payload_mut()).unwrap();
                message.set_icmpv6_type(kind);
                message.set_icmpv6_code(Icmpv6Code(0));
                message.set_target_addr(target);
            }
        })
    }

    const ZERO: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const A: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 2);

    #[test]
    fn requests_and_probes_have_a_target_and_announcements_none() {
        assert_eq!(target(&arp(ArpOperations::Request, A, B)), Some(B.into()));
        assert_eq!(
            target(&arp(ArpOperations::Request, ZERO, B)),
            Some(B.into()),
            "a probe"
        );
        assert_eq!(target(&arp(ArpOperations::Request, B, B)), None, "gratuitous");
        assert_eq!(target(&arp(ArpOperations::Reply, A, B)), None);
        let six: Ipv6Addr = "fd00::7".parse().unwrap();
        assert_eq!(
            target(&icmpv6(Icmpv6Types::NeighborSolicit, 255, six)),
            Some(six.into())
        );
        assert_eq!(
            target(&icmpv6(Icmpv6Types::NeighborSolicit, 254, six)),
            None,
            "it was routed"
        );
        assert_eq!(target(&icmpv6(Icmpv6Types::NeighborAdvert, 255, six)), None);
        let group = "ff02::1".parse().unwrap();
        assert_eq!(target(&icmpv6(Icmpv6Types::NeighborSolicit, 255, group)), None);
    }

    #[test]
    fn other_hardware_other_types_and_tags_ask_nothing() {
        let good = arp(ArpOperations::Request, A, B);
        for at in 12..ETHERNET + 8 {
            let mut other = good.clone();
            other[at] ^= 0x55;
            assert_eq!(target(&other), None, "octet {at}");
        }
        let tagged = [&good[..12], &[0x81, 0, 0, 5], &good[12..]].concat();
        assert_eq!(target(&tagged), None);
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic_and_no_cut_frame_asks(
            octets in proptest::collection::vec(any::<u8>(), 0..120), a: [u8; 4], b: [u8; 4], six: [u8; 16], cut in 0usize..78,
        ) {
            let _ = target(&octets);
            let frame = arp(ArpOperations::Request, a.into(), b.into());
            prop_assert_eq!(target(&frame), (a != b).then(|| IpAddr::from(b)));
            prop_assert_eq!(target(&frame[..cut.min(ETHERNET + ARP_LEN - 1)]), None);
            let frame = icmpv6(Icmpv6Types::NeighborSolicit, 255, six.into());
            let wanted = Ipv6Addr::from(six);
            prop_assert_eq!(target(&frame), (!wanted.is_multicast()).then_some(IpAddr::V6(wanted)));
            prop_assert_eq!(target(&frame[..cut.min(ETHERNET + IPV6_HEADER + SOLICITATION_LEN - 1)]), None);
        }
    }
}
