//! Super-frames, against a segmenter that builds every frame anew with another library.

use pnet_packet::MutablePacket;
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, Ipv4Flags, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::tcp::{self, MutableTcpPacket, TcpPacket};
use pnet_packet::udp::{self, MutableUdpPacket, UdpPacket};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use weft_sleeve::segment::{
    GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP, HEADERS_MAX, Headers, NEEDS_CHECKSUM, complete_checksum, expand,
};
use weft_wire::DropReason;
use weft_wire::datagram::Meta;

const FROM4: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);
const TO4: Ipv4Addr = Ipv4Addr::new(10, 47, 255, 254);
const FROM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const TO6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xffff, 1, 2, 3, 4, 5, 6);
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// A flow of TCP or UDP, and one thing that it sends.
#[derive(Clone, Debug)]
struct Flow {
    is_tcp: bool,
    is_v6: bool,
    tags: usize,
    /// Octets of TCP options, a multiple of four.
    options: usize,
    id: u16,
    dont_fragment: bool,
    sequence: u32,
    flags: u8,
    payload: Vec<u8>,
    segment: usize,
}

impl Flow {
    fn l3(&self) -> usize {
        14 + 4 * self.tags
    }

    fn l4(&self) -> usize {
        self.l3() + if self.is_v6 { 40 } else { 20 }
    }

    fn headers(&self) -> usize {
        self.l4() + if self.is_tcp { 20 + self.options } else { 8 }
    }

    /// One frame with the payload from `begin` to `end`, made from nothing, with its checksum.
    fn frame(&self, begin: usize, end: usize, id: u16) -> Vec<u8> {
        let (l3, l4, headers) = (self.l3(), self.l4(), self.headers());
        let mut frame = vec![0; headers + end - begin];
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa]);
        let ip = if self.is_v6 { 0x86dd } else { 0x0800 };
        let types = [&[0x8100_u16; 2][..self.tags], &[ip]].concat();
        for (tag, kind) in types.iter().enumerate() {
            frame[12 + 4 * tag..14 + 4 * tag].copy_from_slice(&kind.to_be_bytes());
            if tag < self.tags {
                frame[15 + 4 * tag] = 5 + tag as u8;
            }
        }
        let protocol = if self.is_tcp {
            IpNextHeaderProtocols::Tcp
        } else {
            IpNextHeaderProtocols::Udp
        };
        if self.is_v6 {
            let mut ip = MutableIpv6Packet::new(&mut frame[l3..]).unwrap();
            ip.set_version(6);
            ip.set_traffic_class(2);
            ip.set_flow_label(0x7_1234);
            ip.set_payload_length((headers - l4 + end - begin) as u16);
            ip.set_next_header(protocol);
            ip.set_hop_limit(64);
            ip.set_source(FROM6);
            ip.set_destination(TO6);
        } else {
            let mut ip = MutableIpv4Packet::new(&mut frame[l3..]).unwrap();
            ip.set_version(4);
            ip.set_header_length(5);
            ip.set_total_length((headers - l3 + end - begin) as u16);
            ip.set_identification(id);
            ip.set_flags(if self.dont_fragment {
                Ipv4Flags::DontFragment
            } else {
                0
            });
            ip.set_ttl(64);
            ip.set_next_level_protocol(protocol);
            ip.set_source(FROM4);
            ip.set_destination(TO4);
            ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
        }
        let payload = &self.payload[begin..end];
        if self.is_tcp {
            let mut segment = MutableTcpPacket::new(&mut frame[l4..]).unwrap();
            segment.set_source(40_000);
            segment.set_destination(5_201);
            segment.set_sequence(self.sequence.wrapping_add(begin as u32));
            segment.set_acknowledgement(77);
            segment.set_data_offset(5 + (self.options / 4) as u8);
            segment.set_window(501);
            let mut flags = self.flags;
            if end < self.payload.len() {
                flags &= !(FIN | PSH);
            }
            if begin > 0 {
                flags &= !CWR;
            }
            segment.set_flags(flags);
            segment.packet_mut()[20..20 + self.options].fill(1);
            segment.set_payload(payload);
            let sum = if self.is_v6 {
                tcp::ipv6_checksum(&segment.to_immutable(), &FROM6, &TO6)
            } else {
                tcp::ipv4_checksum(&segment.to_immutable(), &FROM4, &TO4)
            };
            segment.set_checksum(sum);
        } else {
            let mut datagram = MutableUdpPacket::new(&mut frame[l4..]).unwrap();
            datagram.set_source(40_000);
            datagram.set_destination(5_201);
            datagram.set_length((8 + payload.len()) as u16);
            datagram.set_payload(payload);
            let sum = if self.is_v6 {
                udp::ipv6_checksum(&datagram.to_immutable(), &FROM6, &TO6)
            } else {
                udp::ipv4_checksum(&datagram.to_immutable(), &FROM4, &TO4)
            };
            datagram.set_checksum(if sum == 0 { 0xffff } else { sum });
        }
        frame
    }

    /// The frames that a network without offloads would see.
    fn segments(&self) -> Vec<Vec<u8>> {
        let cuts = (0..self.payload.len()).step_by(self.segment);
        (self.id..)
            .zip(cuts)
            .map(|(id, at)| self.frame(at, self.payload.len().min(at + self.segment), id))
            .collect()
    }

    /// As a kernel with offloads hands it over: the checksum field holds the sum of the pseudo header.
    fn unfinished(&self, begin: usize, end: usize, id: u16) -> Vec<u8> {
        let mut frame = self.frame(begin, end, id);
        let (l4, at) = (self.l4(), self.l4() + if self.is_tcp { 16 } else { 6 });
        let addresses = if self.is_v6 {
            frame[l4 - 32..l4].to_vec()
        } else {
            frame[l4 - 8..l4].to_vec()
        };
        let length = (frame.len() - l4) as u32;
        let mut sum = addresses
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum::<u32>()
            + if self.is_tcp { 6 } else { 17 }
            + length;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[at..at + 2].copy_from_slice(&(sum as u16).to_be_bytes());
        frame
    }

    fn super_frame(&self) -> (Meta, Vec<u8>) {
        let ecn = if self.is_tcp && self.flags & CWR != 0 {
            GSO_ECN
        } else {
            0
        };
        let gso_type = match (self.is_tcp, self.is_v6) {
            (true, false) => GSO_TCP4 | ecn,
            (true, true) => GSO_TCP6 | ecn,
            (false, _) => GSO_UDP,
        };
        let meta = Meta {
            gso_type,
            gso_size: self.segment as u16,
            header_len: self.headers() as u16,
            ..self.meta()
        };
        (meta, self.unfinished(0, self.payload.len(), self.id))
    }

    fn meta(&self) -> Meta {
        Meta {
            flags: NEEDS_CHECKSUM,
            csum_start: self.l4() as u16,
            csum_offset: if self.is_tcp { 16 } else { 6 },
            ..Meta::default()
        }
    }
}

fn expanded(meta: &Meta, bytes: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut frames = Vec::new();
    expand(meta, bytes, &mut Vec::new(), |frame| {
        frames.push(frame.to_vec());
        Ok(())
    })?;
    Ok(frames)
}

fn flows() -> impl Strategy<Value = Flow> {
    let shape = (any::<bool>(), any::<bool>(), 0..=2usize, 0..=10usize);
    let numbers = (any::<u16>(), any::<bool>(), any::<u32>(), any::<u8>());
    let size = (1..6_000usize, 1..1_500usize, any::<u8>());
    (shape, numbers, size).prop_map(|(shape, numbers, (length, segment, seed))| Flow {
        is_tcp: shape.0,
        is_v6: shape.1,
        tags: shape.2,
        options: shape.3 * 4,
        id: numbers.0 & 0x7fff,
        dont_fragment: numbers.1,
        sequence: numbers.2,
        flags: (numbers.3 & (FIN | PSH | CWR)) | ACK,
        payload: (0..length).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect(),
        segment,
    })
}

proptest! {
    #[test]
    fn a_super_frame_is_the_frames_that_a_naive_segmenter_makes(flow in flows()) {
        let (meta, frame) = flow.super_frame();
        let headers = Headers::of(&meta, &frame).unwrap();
        prop_assert_eq!(headers.len(), flow.headers());
        prop_assert_eq!(headers.payload(), flow.payload.len());
        prop_assert_eq!(headers.frames(headers.payload()), flow.segments().len() as u64);
        prop_assert_eq!(expanded(&meta, &frame), Ok(flow.segments()));
    }

    /// Slices of any size, some lost, the others written in runs: what is left is exactly what was sent, in frames that are
    /// right, and each says of itself what is true.
    #[test]
    fn what_arrives_of_the_slices_is_what_was_sent(flow in flows(), room in 100..3_000usize, lost in any::<u64>()) {
        let (meta, frame) = flow.super_frame();
        let headers = Headers::of(&meta, &frame).unwrap();
        let Some(slices) = headers.slices(room) else {
            prop_assert!(!flow.is_tcp && flow.segment > room);
            return Ok(());
        };
        prop_assume!(slices.count > 1);
        let (template, payload) = frame.split_at(headers.len());
        prop_assert_eq!(usize::from(slices.count), payload.len().div_ceil(slices.size));
        // Runs: where they begin, and their octets.
        let (mut runs, mut is_open) = (Vec::<(usize, Vec<u8>)>::new(), false);
        let mut arrived = vec![false; payload.len()];
        for (at, slice) in payload.chunks(slices.size).enumerate() {
            if lost >> (at % 64) & 1 == 1 {
                is_open = false;
                continue;
            }
            let meta = Meta { segment: at as u16, segments: slices.count, ..meta };
            let begin = headers.place(&meta, slice.len()).unwrap();
            prop_assert_eq!(begin, at * slices.size);
            arrived[begin..begin + slice.len()].fill(true);
            match runs.last_mut().filter(|_| is_open) {
                Some((_, run)) => run.extend_from_slice(slice),
                None => runs.push((begin, slice.to_vec())),
            }
            is_open = true;
            // Alone, as a host without offloads takes it.
            for frame in expanded(&meta, &[template, slice].concat()).unwrap() {
                check(&flow, &frame)?;
            }
        }
        let mut seen = vec![false; payload.len()];
        for (begin, run) in runs {
            let mut written = template.to_vec();
            if headers.is_whole(begin, run.len()) {
                prop_assert_eq!(headers.meta(begin, run.len()).gso_type, if flow.payload.len() > flow.segment { meta.gso_type } else { 0 });
            } else {
                headers.retell(&mut written, begin, run.len());
            }
            let meta = headers.meta(begin, run.len());
            prop_assert_eq!(meta.gso_type & GSO_ECN != 0, begin == 0 && meta.gso_type != 0 && flow.is_tcp && flow.flags & CWR != 0);
            written.extend_from_slice(&run);
            if meta.gso_type != 0 {
                let again = Headers::of(&meta, &written).unwrap();
                prop_assert_eq!((again.len(), again.payload(), again.segment()), (headers.len(), run.len(), flow.segment));
            }
            let mut at = begin;
            for frame in expanded(&meta, &written).unwrap() {
                let len = frame.len() - headers.len();
                check(&flow, &frame)?;
                prop_assert!(len <= flow.segment);
                prop_assert_eq!(&frame[headers.len()..], &flow.payload[at..at + len]);
                if flow.is_tcp {
                    let segment = TcpPacket::new(&frame[flow.l4()..]).unwrap();
                    prop_assert_eq!(segment.get_sequence(), flow.sequence.wrapping_add(at as u32));
                    let mut flags = flow.flags;
                    if at + len < flow.payload.len() {
                        flags &= !(FIN | PSH);
                    }
                    if at > 0 {
                        flags &= !CWR;
                    }
                    prop_assert_eq!(segment.get_flags(), flags);
                } else {
                    prop_assert!(at.is_multiple_of(flow.segment));
                }
                seen[at..at + len].fill(true);
                at += len;
            }
        }
        prop_assert_eq!(seen, arrived);
    }

    #[test]
    fn datagrams_of_one_flow_are_joined_and_come_apart_as_they_were(
        flow in flows(), count in 2..10usize, last in 1..1_500usize, is_numbered: bool
    ) {
        let length = flow.segment * (count - 1) + last.min(flow.segment);
        let payload = (0..length).map(|at| at as u8).collect();
        let flow = Flow { is_tcp: false, payload, dont_fragment: flow.dont_fragment || !is_numbered, ..flow };
        let id = |at: usize| if is_numbered { flow.id + at as u16 } else { flow.id };
        let cuts: Vec<_> = (0..length).step_by(flow.segment).map(|at| (at, length.min(at + flow.segment))).collect();
        let frames: Vec<_> = cuts.iter().enumerate().map(|(at, (from, to))| flow.unfinished(*from, *to, id(at))).collect();
        let meta = flow.meta();
        let first = Headers::of_datagram(&meta, &frames[0]).unwrap();
        let mut joined = frames[0].clone();
        for (at, frame) in frames.iter().enumerate().skip(1) {
            let next = Headers::of_datagram(&meta, frame).unwrap();
            prop_assert!(first.takes(&frames[0], at, &next, &frame[..next.len()]));
            joined.extend_from_slice(&frame[next.len()..]);
        }
        first.retell(&mut joined, 0, length);
        let mut expected = Vec::new();
        for (at, frame) in frames.iter().enumerate() {
            let mut frame = frame.clone();
            if !flow.is_v6 && !is_numbered {
                // Who forbids fragments has no use for the number, and it is counted on.
                frame[flow.l3() + 4..flow.l3() + 6].copy_from_slice(&(flow.id + at as u16).to_be_bytes());
                frame[flow.l3() + 10..flow.l3() + 12].fill(0);
                let sum = ipv4::checksum(&Ipv4Packet::new(&frame[flow.l3()..]).unwrap());
                frame[flow.l3() + 10..flow.l3() + 12].copy_from_slice(&sum.to_be_bytes());
            }
            complete_checksum(&mut frame, meta.csum_start, meta.csum_offset).unwrap();
            expected.push(frame);
        }
        prop_assert_eq!(expanded(&first.meta(0, length), &joined), Ok(expected));
    }

    #[test]
    fn one_that_differs_is_not_joined(flow in flows(), octet in 0..50usize, bit in 0..8u32) {
        let flow = Flow { is_tcp: false, options: 0, payload: vec![7; flow.segment], ..flow };
        let frame = flow.unfinished(0, flow.segment, flow.id);
        let meta = flow.meta();
        let first = Headers::of_datagram(&meta, &frame).unwrap();
        let following = flow.unfinished(0, flow.segment, flow.id + 1);
        let next = Headers::of_datagram(&meta, &following).unwrap();
        prop_assert!(first.takes(&frame, 1, &next, &following));
        let octet = octet % flow.headers();
        let mut other = following.clone();
        other[octet] ^= 1 << bit;
        // Only the number and the sum of IPv4 may differ, where fragments are forbidden.
        let l3 = flow.l3();
        let may_differ = !flow.is_v6
            && ((flow.dont_fragment && (l3 + 4..l3 + 6).contains(&octet)) || (l3 + 10..l3 + 12).contains(&octet));
        let takes = Headers::of_datagram(&meta, &other)
            .is_some_and(|next| first.takes(&frame, 1, &next, &other));
        prop_assert_eq!(takes, may_differ, "octet {}", octet);
    }

    #[test]
    fn no_octets_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), meta in any::<[u8; 16]>(), flow in flows(), damage in any::<[u16; 3]>()) {
        let (meta, _) = Meta::split(&meta).unwrap();
        all_of_it(&meta, &mut bytes);
        let (right, mut frame) = flow.super_frame();
        for word in damage {
            let at = usize::from(word) % flow.headers();
            frame[at] ^= (word >> 8) as u8;
        }
        all_of_it(&meta, &mut frame);
        for segments in [0, 1, meta.segments] {
            all_of_it(&Meta { segment: meta.segment, segments, ..right }, &mut frame);
        }
    }
}

/// A frame of the flow with everything in it that can be checked.
fn check(flow: &Flow, frame: &[u8]) -> Result<(), TestCaseError> {
    let (l3, l4) = (flow.l3(), flow.l4());
    if flow.is_v6 {
        let ip = Ipv6Packet::new(&frame[l3..]).unwrap();
        prop_assert_eq!(usize::from(ip.get_payload_length()), frame.len() - l4);
    } else {
        let ip = Ipv4Packet::new(&frame[l3..]).unwrap();
        prop_assert_eq!(usize::from(ip.get_total_length()), frame.len() - l3);
        prop_assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
    }
    if flow.is_tcp {
        let segment = TcpPacket::new(&frame[l4..]).unwrap();
        let sum = if flow.is_v6 {
            tcp::ipv6_checksum(&segment, &FROM6, &TO6)
        } else {
            tcp::ipv4_checksum(&segment, &FROM4, &TO4)
        };
        prop_assert!(segment.get_checksum() == sum || (segment.get_checksum(), sum) == (0xffff, 0));
    } else {
        let datagram = UdpPacket::new(&frame[l4..]).unwrap();
        prop_assert_eq!(usize::from(datagram.get_length()), frame.len() - l4);
        let sum = if flow.is_v6 {
            udp::ipv6_checksum(&datagram, &FROM6, &TO6)
        } else {
            udp::ipv4_checksum(&datagram, &FROM4, &TO4)
        };
        prop_assert!(datagram.get_checksum() == sum || (datagram.get_checksum(), sum) == (0xffff, 0));
    }
    Ok(())
}

/// Everything that can be done with octets from a peer. Where they are headers, another library agrees.
fn all_of_it(meta: &Meta, bytes: &mut [u8]) {
    let _ = expanded(meta, bytes);
    let _ = complete_checksum(bytes, meta.csum_start, meta.csum_offset);
    if let Some(headers) = Headers::of_datagram(meta, bytes) {
        headers.takes(bytes, 1, &headers, bytes);
    }
    let Some(headers) = Headers::of(meta, bytes) else {
        return;
    };
    assert!(headers.len() <= HEADERS_MAX && headers.len() <= bytes.len() && headers.payload() > 0);
    let l4 = &bytes[usize::from(meta.csum_start)..];
    let expected = match meta.gso_type & !GSO_ECN {
        GSO_UDP => 8,
        _ => usize::from(TcpPacket::new(l4).unwrap().get_data_offset()) * 4,
    };
    assert_eq!(headers.len(), usize::from(meta.csum_start) + expected);
    for len in [1, headers.segment(), headers.payload()] {
        if let Some(begin) = headers.place(meta, len) {
            assert!(begin + len <= headers.payload());
            headers.retell(bytes, begin, len);
            let _ = headers.meta(begin, len);
        }
        let _ = headers.slices(len);
    }
}
