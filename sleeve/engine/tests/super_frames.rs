//! Super-frames cross between two hosts, whatever engines they run, and the pod sees frames that are right in every octet.
//!
//! The pod that receives is a device without offloads: what reaches it has been cut, and summed, by its kernel. So a
//! wrong length, number or pseudo header in what the engine writes shows up here, against another library.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr};

use common::{A, B, Host, IPV4, PATIENCE, two_hosts};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::tcp::{self, MutableTcpPacket, TcpPacket};
use pnet_packet::udp::{self, MutableUdpPacket, UdpPacket};
use weft_kernel::link;
use weft_kernel::tap::{self, Offload, VnetHeader, VnetTap};
use weft_sleeve::Cipher;
use weft_sleeve_engine::EngineChoice::{self, Best, Plain};
use weft_wire::SessionIndex;

const FROM4: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);
const TO4: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 2);
const FROM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const TO6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const SEQUENCE: u32 = u32::MAX - 10_000;
const PSH_ACK: u8 = 0x18;

/// What is sent: of which protocols, with how many VLAN tags, and in segments of which size.
#[derive(Clone, Copy, Debug)]
struct Shape {
    is_tcp: bool,
    is_v6: bool,
    tags: usize,
    payload: usize,
    segment: usize,
}

impl Shape {
    fn l3(&self) -> usize {
        14 + 4 * self.tags
    }

    fn l4(&self) -> usize {
        self.l3() + if self.is_v6 { 40 } else { 20 }
    }

    fn headers(&self) -> usize {
        self.l4() + if self.is_tcp { 20 } else { 8 }
    }

    fn octets(&self) -> Vec<u8> {
        (0..self.payload).map(|at| (at % 251) as u8).collect()
    }

    /// The super-frame as a kernel with offloads makes it.
    fn frame(&self) -> (VnetHeader, Vec<u8>) {
        let (l3, l4, headers) = (self.l3(), self.l4(), self.headers());
        let mut frame = vec![0; headers];
        frame.extend(self.octets());
        frame[..6].copy_from_slice(&B.0);
        frame[6..12].copy_from_slice(&A.0);
        let kind: u16 = if self.is_v6 { 0x86dd } else { 0x0800 };
        for tag in 0..self.tags {
            frame[12 + 4 * tag..16 + 4 * tag].copy_from_slice(&[0x81, 0, 0x20, 5]);
        }
        frame[l3 - 2..l3].copy_from_slice(&kind.to_be_bytes());
        let protocol = if self.is_tcp {
            IpNextHeaderProtocols::Tcp
        } else {
            IpNextHeaderProtocols::Udp
        };
        let length = (headers - l4 + self.payload) as u16;
        if self.is_v6 {
            let mut ip = MutableIpv6Packet::new(&mut frame[l3..]).unwrap();
            ip.set_version(6);
            ip.set_payload_length(length);
            ip.set_next_header(protocol);
            ip.set_hop_limit(64);
            ip.set_source(FROM6);
            ip.set_destination(TO6);
        } else {
            let mut ip = MutableIpv4Packet::new(&mut frame[l3..]).unwrap();
            ip.set_version(4);
            ip.set_header_length(5);
            ip.set_total_length(20 + length);
            ip.set_identification(7);
            ip.set_ttl(64);
            ip.set_next_level_protocol(protocol);
            ip.set_source(FROM4);
            ip.set_destination(TO4);
            ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
        }
        // Of a packet that is nothing but its pseudo header, another library sums just that.
        let csum_offset = if self.is_tcp {
            let mut segment = MutableTcpPacket::new(&mut frame[l4..]).unwrap();
            segment.set_source(40_000);
            segment.set_destination(5_201);
            segment.set_sequence(SEQUENCE);
            segment.set_data_offset(5);
            segment.set_flags(PSH_ACK);
            segment.set_window(500);
            16
        } else {
            let mut datagram = MutableUdpPacket::new(&mut frame[l4..]).unwrap();
            datagram.set_source(40_000);
            datagram.set_destination(5_201);
            datagram.set_length(length);
            6
        };
        let addresses = if self.is_v6 {
            &frame[l4 - 32..l4]
        } else {
            &frame[l4 - 8..l4]
        };
        let words = addresses
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum = words.sum::<u32>() + u32::from(protocol.0) + u32::from(length);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[l4 + csum_offset..l4 + csum_offset + 2].copy_from_slice(&(sum as u16).to_be_bytes());
        let gso_type = match (self.is_tcp, self.is_v6) {
            _ if self.payload <= self.segment => 0,
            (true, false) => 1,
            (true, true) => 4,
            (false, _) => 5,
        };
        let vnet = VnetHeader {
            flags: 1,
            gso_type,
            header_len: headers as u16,
            gso_size: if gso_type == 0 { 0 } else { self.segment as u16 },
            csum_start: l4 as u16,
            csum_offset: csum_offset as u16,
        };
        (vnet, frame)
    }

    /// Reads what reaches the pod until all octets are there, in order, and holds every frame against what it must be.
    fn check(&self, host: &mut Host) {
        let (l3, l4, headers) = (self.l3(), self.l4(), self.headers());
        let expected = self.octets();
        let mut at = 0;
        while at < expected.len() {
            let frame = host.read();
            assert_eq!(frame[..12], [B.0, A.0].concat(), "{self:?}");
            let len = frame.len() - headers;
            assert!(
                len > 0 && len <= self.segment,
                "{len} octets in a segment: {self:?}"
            );
            assert_eq!(frame[headers..], expected[at..at + len], "{self:?} at {at}");
            if self.is_v6 {
                let ip = Ipv6Packet::new(&frame[l3..]).unwrap();
                assert_eq!(usize::from(ip.get_payload_length()), frame.len() - l4);
            } else {
                let ip = Ipv4Packet::new(&frame[l3..]).unwrap();
                assert_eq!(usize::from(ip.get_total_length()), frame.len() - l3);
                assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
            }
            let (is, must_be) = if self.is_tcp {
                let segment = TcpPacket::new(&frame[l4..]).unwrap();
                assert_eq!(segment.get_sequence(), SEQUENCE.wrapping_add(at as u32));
                let flags = if at + len == expected.len() { PSH_ACK } else { 0x10 };
                assert_eq!(segment.get_flags(), flags, "{self:?} at {at}");
                let sum = if self.is_v6 {
                    tcp::ipv6_checksum(&segment, &FROM6, &TO6)
                } else {
                    tcp::ipv4_checksum(&segment, &FROM4, &TO4)
                };
                (segment.get_checksum(), sum)
            } else {
                let datagram = UdpPacket::new(&frame[l4..]).unwrap();
                assert_eq!(usize::from(datagram.get_length()), frame.len() - l4);
                assert!(
                    at.is_multiple_of(self.segment),
                    "a datagram was cut elsewhere than its sender cut it"
                );
                let sum = if self.is_v6 {
                    udp::ipv6_checksum(&datagram, &FROM6, &TO6)
                } else {
                    udp::ipv4_checksum(&datagram, &FROM4, &TO4)
                };
                (datagram.get_checksum(), sum)
            };
            assert!(
                is == must_be || (is, must_be) == (0xffff, 0),
                "{self:?} at {at}: {is:x}, not {must_be:x}"
            );
            at += len;
        }
    }
}

/// A port of the host's bridge that writes super-frames.
fn port(host: &Host, mtu: u32) -> VnetTap {
    let opened = host.namespace.run(|| {
        tap::create_persistent("src").unwrap();
        let port = VnetTap::open("src").unwrap();
        link::set_mtu("src", mtu).unwrap();
        link::set_master("src", Some("br")).unwrap();
        link::set_ipv6("src", false).unwrap();
        link::set_up("src").unwrap();
        assert!(link::wait_forwarding("src", PATIENCE).unwrap());
        port
    });
    let port = opened.unwrap();
    assert_eq!(
        port.offload(),
        Offload::TcpAndUdp,
        "the kernel has no UDP segmentation for TAP devices (Linux 6.2)"
    );
    port
}

/// Everything crosses a path of this size, and nothing is dropped.
fn all_cross(engines: [EngineChoice; 2], datagram: u16) {
    let [one, mut other] = two_hosts(engines, Cipher::Aes256Gcm, 1_500, 1_500, IPV4, IPV4);
    let there = Some(IPV4[1].parse().unwrap());
    one.publish_path(other.node, Some(100), there, &[B], datagram);
    let port = port(&one, 1_500);
    for is_tcp in [true, false] {
        for is_v6 in [false, true] {
            for (tags, payload, segment) in [
                (0, 1_000, 1_300),
                (0, 700, 300),
                (0, 20_000, 1_300),
                (1, 9_001, 1_000),
                (2, 60_000, 1_200),
                // More than one datagram may stand for.
                (0, 6_000, 8),
            ] {
                // As many segments as the kernel cuts one super-frame of UDP into.
                if !is_tcp && payload > 64 * segment {
                    continue;
                }
                let shape = Shape {
                    is_tcp,
                    is_v6,
                    tags,
                    payload,
                    segment,
                };
                let (vnet, frame) = shape.frame();
                port.write(&[IoSlice::new(&vnet.to_bytes()), IoSlice::new(&frame)])
                    .unwrap();
                shape.check(&mut other);
            }
        }
    }
    assert_eq!((one.drops(), other.drops()), (vec![], vec![]));
    let sent = one.engine.counters().sessions[&SessionIndex(100)];
    assert!(sent.frames > 20, "{sent:?}");
}

#[test]
fn between_fast_engines() {
    all_cross([Best, Best], 1_472);
}

#[test]
fn from_fast_to_plain() {
    all_cross([Best, Plain], 1_472);
}

#[test]
fn from_plain_to_fast() {
    all_cross([Plain, Best], 1_472);
}

/// Full segments of UDP do not fit and go in pieces; TCP is cut to what fits.
#[test]
fn over_a_small_path() {
    all_cross([Best, Best], 1_232);
    all_cross([Best, Plain], 512);
}
