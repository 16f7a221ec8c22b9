//! Our views of frames against pnet's, which were written by others.

use pnet_packet::Packet as _;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use proptest::prelude::*;
use weft_wire::Mac;
use weft_wire::mtu::ETHERNET_HEADER;

proptest! {
    #[test]
    fn addresses_of_any_frame_are_those_that_pnet_reads(frame in proptest::collection::vec(any::<u8>(), 0..64)) {
        let theirs = EthernetPacket::new(&frame);
        prop_assert_eq!(Mac::destination(&frame), theirs.as_ref().map(|p| Mac(p.get_destination().octets())));
        prop_assert_eq!(Mac::source(&frame), theirs.as_ref().map(|p| Mac(p.get_source().octets())));
    }

    #[test]
    fn a_frame_that_pnet_builds_reads_back(
        destination in any::<[u8; 6]>(), source in any::<[u8; 6]>(), payload in proptest::collection::vec(any::<u8>(), 0..64)
    ) {
        let mut bytes = vec![0; ETHERNET_HEADER + payload.len()];
        let mut frame = MutableEthernetPacket::new(&mut bytes).unwrap();
        frame.set_destination(destination.into());
        frame.set_source(source.into());
        frame.set_ethertype(EtherTypes::Arp);
        frame.set_payload(&payload);
        let whole = frame.packet().to_vec();
        prop_assert_eq!(Mac::destination(&whole), Some(Mac(destination)));
        prop_assert_eq!(Mac::source(&whole), Some(Mac(source)));
        let theirs = EthernetPacket::new(&whole).unwrap().get_destination();
        prop_assert_eq!(Mac(destination).is_group(), theirs.is_multicast() || theirs.is_broadcast());
    }
}
