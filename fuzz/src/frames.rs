//! Super-frames and pieces of frames from a member that lies.

use crate::bytes::Bytes;
use pnet_packet::ipv4::{self, Ipv4Packet};
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::tcp::{self, TcpPacket};
use pnet_packet::udp::{self, UdpPacket};
use std::collections::BTreeMap;
use std::time::Duration;
use weft_sleeve::Reassembler;
use weft_sleeve::fragment::{
    CONTENT_MAX, Cut, PIECE_OVERHEAD, PIECES_MAX, Piece, REASSEMBLY_TIMEOUT, TOTAL_OCTETS, cut,
};
use weft_sleeve::segment::{
    FRAMES_MAX, GSO_TCP4, GSO_TCP6, GSO_UDP, HEADERS_MAX, Headers, NEEDS_CHECKSUM, expand, fits,
};
use weft_wire::datagram::{FragPrefix, META_LEN, Meta};
use weft_wire::{DropReason, NodeId, SessionIndex, Time};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A flow of TCP or UDP, and one thing that it sends.
struct Flow {
    is_tcp: bool,
    is_v6: bool,
    l3: usize,
    l4: usize,
    headers: usize,
    segment: usize,
    payload: usize,
    sequence: u32,
}

impl Flow {
    fn read(data: &mut Bytes<'_>) -> Self {
        let shape = data.u8();
        let (is_tcp, is_v6) = (shape & 1 != 0, shape & 2 != 0);
        let l3 = 14 + 4 * usize::from(shape >> 2 & 3).min(2);
        let l4 = l3 + if is_v6 { 40 } else { 20 };
        let options = if is_tcp {
            usize::from(shape >> 4).min(10) * 4
        } else {
            0
        };
        let headers = l4 + if is_tcp { 20 + options } else { 8 };
        Self {
            is_tcp,
            is_v6,
            l3,
            l4,
            headers,
            segment: usize::from(data.u16() % 2_000) + 1,
            payload: usize::from(data.u16() % 20_000) + 1,
            sequence: data.u32(),
        }
    }

    fn octet(at: usize) -> u8 {
        (at % 251) as u8 ^ (at >> 8) as u8
    }

    fn payload(&self) -> Vec<u8> {
        (0..self.payload).map(Self::octet).collect()
    }

    /// Meta and headers as a kernel with offloads hands them over.
    fn super_frame(&self) -> (Meta, Vec<u8>) {
        let mut headers = vec![0; self.headers];
        headers[..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa]);
        let mut put = |at: usize, octets: &[u8]| headers[at..at + octets.len()].copy_from_slice(octets);
        for tag in (12..self.l3 - 2).step_by(4) {
            put(tag, &[0x81, 0, 0, 5]);
        }
        let behind_ip = self.headers - self.l4 + self.payload;
        let protocol = if self.is_tcp { TCP } else { UDP };
        let (addresses, kind) = if self.is_v6 {
            put(self.l3 - 2, &[0x86, 0xdd, 0x60]);
            put(self.l3 + 4, &(behind_ip as u16).to_be_bytes());
            put(self.l3 + 6, &[protocol, 64, 0xfd, 1, 2, 3]);
            put(self.l3 + 24, &[0xfd, 4, 5, 6]);
            (self.l3 + 8..self.l4, GSO_TCP6)
        } else {
            put(self.l3 - 2, &[0x08, 0, 0x45]);
            put(self.l3 + 2, &((20 + behind_ip) as u16).to_be_bytes());
            put(self.l3 + 4, &[0xff, 0xfe, 0x40, 0, 64, protocol]);
            put(self.l3 + 12, &[10, 32, 0, 1, 10, 32, 0, 2]);
            (self.l3 + 12..self.l4, GSO_TCP4)
        };
        put(self.l4, &[0x9c, 0x40, 0x14, 0x51]);
        let checksum = if self.is_tcp {
            put(self.l4 + 4, &self.sequence.to_be_bytes());
            put(
                self.l4 + 12,
                &[((self.headers - self.l4) / 4) as u8 * 16, 0x99, 1, 1],
            );
            16
        } else {
            put(self.l4 + 4, &(behind_ip as u16).to_be_bytes());
            6
        };
        let pseudo = headers[addresses]
            .chunks(2)
            .map(|word| usize::from(word[0]) * 256 + usize::from(word[1]))
            .sum::<usize>()
            + usize::from(protocol)
            + behind_ip;
        // Twice: the first carry may bring another.
        let pseudo = (pseudo & 0xffff) + (pseudo >> 16);
        let pseudo = (pseudo & 0xffff) + (pseudo >> 16);
        headers[self.l4 + checksum..][..2].copy_from_slice(&(pseudo as u16).to_be_bytes());
        if !self.is_v6 {
            let sum = ipv4::checksum(&Ipv4Packet::new(&headers[self.l3..]).expect("a whole header"));
            headers[self.l3 + 10..self.l3 + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let meta = Meta {
            flags: NEEDS_CHECKSUM,
            gso_type: if self.is_tcp { kind } else { GSO_UDP },
            header_len: self.headers as u16,
            gso_size: self.segment as u16,
            csum_start: self.l4 as u16,
            csum_offset: checksum as u16,
            ..Meta::default()
        };
        (meta, headers)
    }

    /// The place in the payload of a frame, with everything in it that another library can check.
    fn check(&self, frame: &[u8], begin: usize) -> usize {
        let (ip, transport) = (&frame[self.l3..], &frame[self.l4..]);
        let v4 = Ipv4Packet::new(ip).filter(|_| !self.is_v6);
        let v6 = Ipv6Packet::new(ip).filter(|_| self.is_v6);
        if let Some(ip) = &v4 {
            assert_eq!(usize::from(ip.get_total_length()), frame.len() - self.l3);
            assert_eq!(ip.get_checksum(), ipv4::checksum(ip));
            let number = begin.div_ceil(self.segment) as u16;
            assert_eq!(ip.get_identification(), 0xfffe_u16.wrapping_add(number));
        }
        if let Some(ip) = &v6 {
            assert_eq!(usize::from(ip.get_payload_length()), frame.len() - self.l4);
        }
        let (told, right) = if self.is_tcp {
            let segment = TcpPacket::new(transport).expect("a whole header");
            assert_eq!(segment.get_sequence(), self.sequence.wrapping_add(begin as u32));
            let (from_v4, from_v6) = (
                v4.map(|ip| tcp::ipv4_checksum(&segment, &ip.get_source(), &ip.get_destination())),
                v6.map(|ip| tcp::ipv6_checksum(&segment, &ip.get_source(), &ip.get_destination())),
            );
            (segment.get_checksum(), from_v4.or(from_v6))
        } else {
            let datagram = UdpPacket::new(transport).expect("a whole header");
            assert_eq!(usize::from(datagram.get_length()), transport.len());
            let (from_v4, from_v6) = (
                v4.map(|ip| udp::ipv4_checksum(&datagram, &ip.get_source(), &ip.get_destination())),
                v6.map(|ip| udp::ipv6_checksum(&datagram, &ip.get_source(), &ip.get_destination())),
            );
            (datagram.get_checksum(), from_v4.or(from_v6))
        };
        let right = right.expect("one of the two versions");
        assert!(
            told == right || (told, right) == (0xffff, 0),
            "{told:#x} {right:#x}"
        );
        let payload = &frame[self.headers..];
        assert!(!payload.is_empty() && payload.len() <= self.segment);
        for (at, octet) in (begin..).zip(payload) {
            assert_eq!(*octet, Self::octet(at));
        }
        begin + payload.len()
    }
}

/// What a frame, super-frame or slice stands for, and that all that is said of it beforehand is so.
fn expanded(meta: &Meta, bytes: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut frames = Vec::new();
    let result = expand(meta, bytes, &mut Vec::new(), |frame| {
        frames.push(frame.to_vec());
        Ok(())
    });
    assert_eq!(result.is_ok() && frames.len() <= FRAMES_MAX, fits(meta, bytes));
    result?;
    Ok(frames)
}

/// A super-frame that a member says it has cut: any meta before any octets (first octet 0), a right one that was damaged (1),
/// one whose slices arrive in part (2), or single frames of UDP that might be joined (3).
pub fn super_frame(data: &[u8]) {
    let mut data = Bytes(data);
    match data.u8() % 4 {
        0 => {
            if let Some((meta, bytes)) = Meta::split(data.0) {
                anything(&meta, bytes);
            }
        }
        1 => {
            let flow = Flow::read(&mut data);
            let (meta, headers) = flow.super_frame();
            let length = usize::from(data.u16()).min(flow.payload);
            let mut whole = [&meta.to_bytes()[..], &headers, &flow.payload()[..length]].concat();
            while !data.is_empty() {
                let at = data.below(META_LEN + flow.headers);
                whole[at] ^= data.u8();
            }
            if let Some((meta, bytes)) = Meta::split(&whole) {
                anything(&meta, bytes);
            }
        }
        2 => slices(&Flow::read(&mut data), &mut data),
        _ => datagrams(&Flow::read(&mut data), &mut data),
    }
}

/// Whatever meta and octets are: nothing panics, no frame is longer than it says, and the payload is neither more nor
/// less than what came.
fn anything(meta: &Meta, bytes: &[u8]) {
    if let Some(headers) = Headers::of_datagram(meta, bytes) {
        assert!(headers.takes(bytes, 0, &headers, &bytes[..headers.len()]));
        assert_eq!(headers.len() + headers.payload(), bytes.len());
    }
    let frames = expanded(meta, bytes);
    let Some(headers) = Headers::of(meta, bytes) else {
        assert!(frames.is_err() || (meta.gso_type == 0 && meta.segments <= 1));
        return;
    };
    assert!(headers.len() <= HEADERS_MAX && headers.len() <= bytes.len() && headers.payload() > 0);
    let (template, payload) = bytes.split_at(headers.len());
    let Ok(frames) = frames else {
        return;
    };
    let begin = headers.place(meta, payload.len()).expect("it was taken apart");
    assert!(begin + payload.len() <= headers.payload());
    assert_eq!(frames.len() as u64, headers.frames(payload.len()));
    let mut put_together = Vec::new();
    for frame in &frames {
        assert!(frame.len() <= headers.len() + headers.segment());
        let l3 = usize::from(meta.csum_start)
            - if frame_is_v4(template) {
                ip_header(template)
            } else {
                40
            };
        if frame_is_v4(template) {
            let ip = Ipv4Packet::new(&frame[l3..]).expect("a whole header");
            assert_eq!(usize::from(ip.get_total_length()), frame.len() - l3);
        }
        put_together.extend_from_slice(&frame[headers.len()..]);
    }
    assert_eq!(put_together, payload);
    // As one frame, as a host with offloads writes it.
    let mut one = bytes.to_vec();
    if !headers.is_whole(begin, payload.len()) {
        headers.retell(&mut one, begin, payload.len());
    }
    let meta = headers.meta(begin, payload.len());
    assert_eq!(fits(&meta, &one), frames.len() <= FRAMES_MAX);
}

/// Where the type of what is carried stands, behind up to two VLAN tags.
fn ethertype_at(headers: &[u8]) -> usize {
    let mut at = 12;
    for _ in 0..2 {
        if matches!(headers[at..at + 2], [0x81, 0x00] | [0x88, 0xa8]) {
            at += 4;
        }
    }
    at
}

fn frame_is_v4(headers: &[u8]) -> bool {
    let at = ethertype_at(headers);
    headers[at..at + 2] == [0x08, 0x00]
}

fn ip_header(headers: &[u8]) -> usize {
    usize::from(headers[ethertype_at(headers) + 2] & 15) * 4
}

/// Slices of any size, some lost, the others written in runs.
fn slices(flow: &Flow, data: &mut Bytes<'_>) {
    let (meta, template) = flow.super_frame();
    let payload = flow.payload();
    let whole = [&template[..], &payload].concat();
    let headers = Headers::of(&meta, &whole).expect("it is right");
    assert_eq!((headers.len(), headers.payload()), (flow.headers, flow.payload));
    let mut at = 0;
    for frame in expanded(&meta, &whole).expect("it is right") {
        at = flow.check(&frame, at);
    }
    assert_eq!(at, flow.payload);
    let room = usize::from(data.u16() % 3_000);
    let Some(slices) = headers.slices(room) else {
        assert!(room == 0 || (!flow.is_tcp && room < flow.segment));
        return;
    };
    assert!(slices.size <= room);
    assert_eq!(usize::from(slices.count), flow.payload.div_ceil(slices.size));
    let mut run: Option<(usize, usize)> = None;
    let lost: Vec<bool> = (0..slices.count).map(|_| data.coin()).collect();
    for ((segment, slice), lost) in (0..).zip(payload.chunks(slices.size)).zip(lost) {
        let meta = Meta {
            segment,
            segments: slices.count,
            ..meta
        };
        let begin = headers.place(&meta, slice.len()).expect("it is a slice of it");
        assert_eq!(begin, usize::from(segment) * slices.size);
        if lost {
            if let Some(run) = run.take() {
                written(flow, &headers, &template, &payload, run);
            }
            continue;
        }
        let mut at = begin;
        for frame in expanded(&meta, &[&template, slice].concat()).expect("it is a slice of it") {
            at = flow.check(&frame, at);
        }
        assert_eq!(at, begin + slice.len());
        run = Some(run.map_or((begin, at), |(first, _)| (first, at)));
    }
    if let Some(run) = run {
        written(flow, &headers, &template, &payload, run);
    }
}

/// A part of a super-frame as the engine hands it to the kernel, and as the kernel cuts it.
fn written(flow: &Flow, headers: &Headers, template: &[u8], payload: &[u8], (begin, end): (usize, usize)) {
    let mut frame = template.to_vec();
    if !headers.is_whole(begin, end - begin) {
        headers.retell(&mut frame, begin, end - begin);
    }
    frame.extend_from_slice(&payload[begin..end]);
    let mut at = begin;
    for frame in expanded(&headers.meta(begin, end - begin), &frame).expect("it is right") {
        at = flow.check(&frame, at);
    }
    assert_eq!(at, end);
}

/// Frames of one flow of UDP, some of them damaged: those that are joined come apart as they were.
fn datagrams(flow: &Flow, data: &mut Bytes<'_>) {
    let flow = Flow {
        is_tcp: false,
        headers: flow.l4 + 8,
        payload: flow.segment,
        ..*flow
    };
    let (meta, template) = flow.super_frame();
    let meta = Meta {
        gso_type: 0,
        gso_size: 0,
        ..meta
    };
    let first = [&template[..], &flow.payload()].concat();
    let headers = Headers::of_datagram(&meta, &first).expect("it is right");
    let (mut joined, mut parts) = (first.clone(), vec![first.clone()]);
    let mut is_closed = false;
    while !data.is_empty() && !is_closed {
        let length = usize::from(data.u16()) % (flow.segment + 2) + 1;
        let shorter = Flow {
            payload: length,
            ..flow
        };
        let mut next = [&shorter.super_frame().1[..], &shorter.payload()].concat();
        let at = data.below(flow.headers);
        next[at] ^= data.u8();
        let Some(read) = Headers::of_datagram(&meta, &next) else {
            continue;
        };
        if !headers.takes(&first, parts.len(), &read, &next[..read.len()]) {
            continue;
        }
        assert!(length <= flow.segment);
        is_closed = length < flow.segment;
        joined.extend_from_slice(&next[flow.headers..]);
        parts.push(next);
    }
    let length = joined.len() - flow.headers;
    if length + flow.headers > usize::from(u16::MAX) {
        return;
    }
    headers.retell(&mut joined, 0, length);
    let frames = expanded(&headers.meta(0, length), &joined).expect("it is right");
    assert_eq!(frames.len(), parts.len());
    for (frame, part) in frames.iter().zip(&parts) {
        let mut expected = part.clone();
        if !flow.is_v6 {
            // The number is counted on, and the sum follows.
            expected[flow.l3 + 4..flow.l3 + 6].copy_from_slice(&frame[flow.l3 + 4..flow.l3 + 6]);
            expected[flow.l3 + 10..flow.l3 + 12].fill(0);
            let sum = ipv4::checksum(&Ipv4Packet::new(&expected[flow.l3..]).expect("a whole header"));
            expected[flow.l3 + 10..flow.l3 + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let single = expanded(&meta, &expected).expect("it is a frame");
        assert_eq!(*frame, single[0]);
    }
}

/// Right ones of every shape.
pub fn super_frame_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for shape in [0b0000_0000, 0b0000_0001, 0b0000_0010, 0b0011_0111, 0b0000_1000] {
        let flow = [shape, 0x03, 0xe8, 0x13, 0x88, 0xff, 0xff, 0xf0, 0];
        let (meta, headers) = Flow::read(&mut Bytes(&flow)).super_frame();
        seeds.push([&[0][..], &meta.to_bytes(), &headers, &[7; 30]].concat());
        seeds.push([&[1][..], &flow, &[0x13, 0x88, 10, 1]].concat());
        seeds.push([&[2][..], &flow, &[0x05, 0, 0, 0, 1, 0, 0]].concat());
        seeds.push(
            [
                &[3][..],
                &flow,
                &[0x03, 0xe8, 0, 0, 0x03, 0xe8, 20, 0, 0, 9, 0, 0],
            ]
            .concat(),
        );
    }
    seeds
}

/// The pieces of one frame that were sent: kind, length, place and filling.
type Sent = Vec<(Cut, u32, usize, usize, u8)>;

/// Octet `at` of frame `number`; members that lie fill it in other ways.
fn filling(number: u64, at: usize, way: u8) -> u8 {
    (at as u64)
        .wrapping_mul(7)
        .wrapping_add(number.wrapping_mul(13))
        .wrapping_add(u64::from(way) * 101) as u8
}

/// Pieces of frames from three members, against a memory of all that was ever sent.
pub fn fragments(data: &[u8]) {
    let mut data = Bytes(data);
    let mut reassembler = Reassembler::new();
    let mut now = Time::ZERO;
    let mut sent: BTreeMap<(NodeId, SessionIndex, u64), Sent> = BTreeMap::new();
    let mut fresh = 1 << 32;
    while !data.is_empty() {
        let op = data.u8();
        let peer = NodeId([op >> 6; 32]);
        let session = SessionIndex(u32::from(op >> 5 & 1));
        let cut_as = if op >> 4 & 1 == 0 { Cut::Frame } else { Cut::Flood };
        match op & 7 {
            // All pieces of a frame, in another order.
            0 | 1 => {
                let (length, datagram) = (data.u16(), usize::from(data.u16() % 9_000));
                fresh += 1;
                let turned = data.below(256);
                let pieces = whole(length.into(), datagram, fresh, turned, |prefix, octets| {
                    let piece = Piece {
                        peer,
                        session,
                        cut: cut_as,
                        prefix,
                        octets,
                    };
                    reassembler.insert(now, piece)
                });
                assert!(pieces <= PIECES_MAX);
            }
            // Time passes.
            2 => {
                now = now + Duration::from_millis(u64::from(data.u8()) * 8);
                reassembler.expire(now);
                assert!(reassembler.poll_timeout().is_none_or(|at| at > now));
            }
            // One piece, as somebody likes it.
            _ => {
                let way = op >> 3 & 1;
                let number = u64::from(data.u8() % 8);
                let length = match data.u16() {
                    0xffff => u32::MAX,
                    length => u32::from(length) + if number == 7 { 40 } else { 0 },
                };
                let (offset, octets) = (u32::from(data.u16()), usize::from(data.u16() % 9_000));
                let (from, to) = (offset as usize, offset as usize + octets);
                let prefix = FragPrefix {
                    frame: number,
                    offset,
                    length,
                };
                let octets: Vec<u8> = (from..to).map(|at| filling(number, at, way)).collect();
                sent.entry((peer, session, number))
                    .or_default()
                    .push((cut_as, length, from, to, way));
                let piece = Piece {
                    peer,
                    session,
                    cut: cut_as,
                    prefix,
                    octets: &octets,
                };
                match reassembler.insert(now, piece) {
                    Ok(Some(whole)) => {
                        assert_eq!(whole.len(), length as usize);
                        let sent = &sent[&(peer, session, number)];
                        check_whole(&whole, number, sent, cut_as, length);
                    }
                    Ok(None) => assert!(reassembler.octets() > 0),
                    Err(DropReason::OversizeFrame) => assert!(length as usize > CONTENT_MAX),
                    Err(DropReason::BadFragment | DropReason::OverlappingFragment) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        assert!(reassembler.octets() <= TOTAL_OCTETS);
        assert_eq!(reassembler.octets() == 0, reassembler.poll_timeout().is_none());
        assert!(
            reassembler
                .poll_timeout()
                .is_none_or(|at| at <= now + REASSEMBLY_TIMEOUT)
        );
    }
    reassembler.expire(now + REASSEMBLY_TIMEOUT);
    assert_eq!(reassembler.octets(), 0);
}

/// Hands the pieces of a frame to `insert`, beginning with another than the first; the last one makes it whole.
fn whole(
    length: usize,
    datagram: usize,
    number: u64,
    turned: usize,
    mut insert: impl FnMut(FragPrefix, &[u8]) -> Result<Option<Vec<u8>>, DropReason>,
) -> usize {
    let content: Vec<u8> = (0..length).map(|at| filling(number, at, 0)).collect();
    let Some(places) = cut(length, datagram) else {
        let room = datagram.saturating_sub(PIECE_OVERHEAD);
        assert!(length == 0 || room == 0 || length.div_ceil(room) > PIECES_MAX);
        return 0;
    };
    let mut places: Vec<_> = places.collect();
    assert_eq!((places[0].0, places[places.len() - 1].1), (0, length));
    assert!(places.windows(2).all(|two| two[0].1 == two[1].0));
    assert!(
        places
            .iter()
            .all(|(from, to)| from < to && to - from + PIECE_OVERHEAD <= datagram)
    );
    let count = places.len();
    places.rotate_left(turned % count);
    for (at, (from, to)) in places.into_iter().enumerate() {
        let prefix = FragPrefix {
            frame: number,
            offset: from as u32,
            length: length as u32,
        };
        let taken = insert(prefix, &content[from..to]);
        let expected = (at + 1 == count).then(|| content.clone());
        assert_eq!(taken, Ok(expected), "piece {at} of {count}");
    }
    count
}

/// Each octet of a frame was sent for its place in it, by its sender.
fn check_whole(whole: &[u8], number: u64, sent: &Sent, cut: Cut, length: u32) {
    let mut right = vec![false; whole.len()];
    for (_, _, from, to, way) in sent.iter().filter(|piece| (piece.0, piece.1) == (cut, length)) {
        for at in *from..*to.min(&whole.len()) {
            right[at] |= whole[at] == filling(number, at, *way);
        }
    }
    assert!(right.iter().all(|right| *right));
}

/// Whole frames, and frames with a gap, an overlap and a lie.
pub fn fragments_seeds() -> Vec<Vec<u8>> {
    let piece = |op: u8, number: u8, length: u16, from: u16, octets: u16| {
        let numbers = [length, from, octets].map(u16::to_be_bytes).concat();
        [&[op, number][..], &numbers].concat()
    };
    vec![
        vec![0, 0x05, 0xdc, 0x02, 0, 1, 0x40, 0xff, 0xff, 0x05, 0, 9],
        [
            piece(3, 1, 900, 0, 300),
            piece(3, 1, 900, 600, 300),
            piece(3, 1, 900, 300, 300),
        ]
        .concat(),
        [
            piece(3, 1, 900, 0, 300),
            piece(11, 1, 900, 299, 300),
            piece(19, 1, 900, 300, 600),
        ]
        .concat(),
        [
            piece(3, 7, 0xfffe, 0, 8_000),
            vec![2, 126],
            piece(3, 7, 0xfffe, 8_000, 8_000),
        ]
        .concat(),
        piece(3, 1, 0xffff, 0, 10),
    ]
}
