//! Super-frames over IPv4 as a kernel hands them over, and what is in the frames that come out of them.

use weft_sleeve::segment::{GSO_TCP4, GSO_UDP, NEEDS_CHECKSUM};
use weft_wire::datagram::Meta;

use super::peer::{FAR, POD};

/// Headers and payload of a frame from [`FAR`] to [`POD`] that stands for many.
pub(crate) struct SuperFrame {
    pub(crate) meta: Meta,
    pub(crate) template: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) sequence: u32,
}

impl SuperFrame {
    /// Of TCP: `length` octets of payload, cut into segments of `segment`.
    pub(crate) fn new(length: usize, segment: u16) -> Self {
        let sequence = 0xffff_f000;
        let mut tcp = [0; 20];
        tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x14, 0x51]);
        tcp[4..8].copy_from_slice(&u32::to_be_bytes(sequence));
        tcp[12..16].copy_from_slice(&[0x50, 0x18, 1, 0xf5]);
        Self::of(6, &tcp, 16, GSO_TCP4, sequence, length, segment)
    }

    /// Of UDP.
    pub(crate) fn udp(length: usize, segment: u16) -> Self {
        let mut udp = [0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 0];
        udp[4..6].copy_from_slice(&((8 + length) as u16).to_be_bytes());
        Self::of(17, &udp, 6, GSO_UDP, 0, length, segment)
    }

    fn of(
        protocol: u8,
        transport: &[u8],
        checksum_at: usize,
        gso_type: u8,
        sequence: u32,
        length: usize,
        segment: u16,
    ) -> Self {
        let total = (20 + transport.len() + length) as u16;
        let mut ip = [
            0x45, 0, 0, 0, 1, 0, 0x40, 0, 64, protocol, 0, 0, 10, 32, 0, 1, 10, 32, 0, 2,
        ];
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut template = [&POD.0[..], &FAR.0, &[0x08, 0], &ip, transport].concat();
        let pseudo = !checksum(&pseudo_header(&ip, transport.len() + length));
        template[34 + checksum_at..][..2].copy_from_slice(&pseudo.to_be_bytes());
        let meta = Meta {
            flags: NEEDS_CHECKSUM,
            gso_type,
            header_len: template.len() as u16,
            gso_size: segment,
            csum_start: 34,
            csum_offset: checksum_at as u16,
            ..Meta::default()
        };
        Self {
            meta,
            template,
            payload: (0..length).map(|at| (at % 251) as u8 ^ (at >> 8) as u8).collect(),
            sequence,
        }
    }
}

fn pseudo_header(ip: &[u8], length: usize) -> Vec<u8> {
    [&ip[12..20], &[0, ip[9]], &(length as u16).to_be_bytes()].concat()
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(octets: &[u8]) -> u16 {
    let words = octets
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.map(u64::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sequence number and payload of a frame of TCP, with everything in it that can be checked.
pub(crate) fn read_tcp(frame: &[u8]) -> (u32, Vec<u8>) {
    let ip = &frame[14..34];
    assert_eq!(usize::from(ip[2]) << 8 | usize::from(ip[3]), frame.len() - 14);
    assert_eq!(checksum(ip), 0, "the checksum of IP");
    let covered = [&pseudo_header(ip, frame.len() - 34), &frame[34..]].concat();
    assert_eq!(checksum(&covered), 0, "the checksum of TCP");
    let sequence = u32::from_be_bytes(frame[38..42].try_into().expect("four octets"));
    (sequence, frame[54..].to_vec())
}
