//! What somebody on the path, a stranger and a member that lies can do to an engine: each attack by name, what it is
//! counted as, and that a good frame passes after it. docs/design/sleeve.md lists them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use common::peer::{FAR, LOCAL, PEER, POD, Peer, RECEIVE, data, flood, host_and_peer, sealed, socket};
use common::tcp::{SuperFrame, read_tcp};
use common::{Host, frame, keys, with_each_engine};
use weft_sleeve::locate::{Known, Locator};
use weft_sleeve::replay::WINDOW;
use weft_sleeve::segment::{GSO_ECN, GSO_TCP6, GSO_UDP};
use weft_sleeve::timing::HANDSHAKES_PER_SECOND;
use weft_sleeve::{Cipher, ForwardingTable, Input, LocalNode, Output, PeerInfo, PeerPath, Sleeve};
use weft_sleeve_engine::{EngineChoice, EngineEvent};
use weft_wire::datagram::{FLAG_BY_RELAY, HEADER_LEN, Header, Kind, Meta, TAG_LEN, nonce};
use weft_wire::id::NoiseKeypair;
use weft_wire::{ClusterSecret, DropReason, GenesisId, Mac, NodeId, NodeKey, SessionIndex, Time};

/// IEEE 802 local experimental ethertype.
const EXPERIMENTAL: &[u8] = &[0x88, 0xb5];

with_each_engine!(
    replay,
    reorder_beyond_the_window,
    bit_flips,
    truncation,
    reflection,
    another_cipher_or_version,
    a_spoofed_source,
    a_member_as_another,
    lies_about_slices,
    lies_about_whole_super_frames,
    lies_about_checksums,
    slices_with_different_headers,
    slices_that_promise_the_longest_packet,
    more_frames_of_a_flow_than_a_packet_holds,
    a_flood_of_handshakes,
);

fn good() -> Vec<u8> {
    frame(POD, FAR, EXPERIMENTAL, 60)
}

/// Each datagram is dropped for its reason and none of them reaches the pod; the next good frame does.
fn each_is_dropped(host: &mut Host, peer: &mut Peer, attacks: &[(String, DropReason, Vec<u8>)]) {
    let count = |reason| host.engine.counters().drops[reason as usize];
    for (name, reason, datagram) in attacks {
        let before = count(*reason);
        peer.send(datagram);
        // Counted before the next datagram is looked at.
        let end = std::time::Instant::now() + common::PATIENCE;
        while count(*reason) == before {
            assert!(
                std::time::Instant::now() < end,
                "{name} is not dropped as {reason:?}: {:?}",
                host.drops()
            );
            std::thread::yield_now();
        }
    }
    peer.send_frame(host);
    let mut expected = BTreeMap::new();
    for (_, reason, _) in attacks {
        *expected.entry(*reason).or_insert(0) += 1;
    }
    assert_eq!(host.drops().into_iter().collect::<BTreeMap<_, _>>(), expected);
}

/// All that was recorded is sent again, in order and backwards, from the peer's address and from another.
fn replay(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let frames: Vec<_> = (0..50u8)
        .map(|n| frame(POD, FAR, &[0x88, 0xb5, n], 60 + usize::from(n)))
        .collect();
    let recorded: Vec<_> = frames
        .iter()
        .map(|frame| peer.datagram(Kind::Data, &data(frame)))
        .collect();
    for (datagram, frame) in recorded.iter().zip(&frames) {
        peer.send(datagram);
        assert_eq!(host.read(), *frame);
    }
    let home = std::mem::replace(&mut peer.socket, socket(&peer.namespace));
    recorded.iter().for_each(|datagram| peer.send(datagram));
    peer.socket = home;
    recorded.iter().rev().for_each(|datagram| peer.send(datagram));
    peer.send_frame(&mut host);
    host.await_drops(&[(DropReason::Replayed, 100)]);
    let roamed = |event: &EngineEvent| matches!(event, EngineEvent::Roamed { .. });
    assert!(!host.pending_events().iter().any(roamed));
}

/// What was overtaken by a whole window is too old, and by one datagram less is not.
fn reorder_beyond_the_window(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let late = |counter| sealed(Header::new(Kind::Data, LOCAL, counter), &data(&good()));
    peer.counter = WINDOW;
    peer.send_frame(&mut host);
    // The newest is WINDOW + 1: the window holds it and the WINDOW - 1 before it.
    peer.send(&late(1));
    peer.send(&late(2));
    assert_eq!(host.read(), good());
    peer.send(&late(2));
    peer.send(&late(0));
    peer.send_frame(&mut host);
    host.await_drops(&[(DropReason::Replayed, 1), (DropReason::TooOld, 2)]);
}

/// Every bit of the clear header, and one of every octet behind it.
fn bit_flips(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    peer.counter = 1 << 20;
    let whole = peer.datagram(Kind::Data, &data(&good()));
    let header = (0..HEADER_LEN * 8).map(|bit| (bit / 8, 1 << (bit % 8)));
    let sealed_part = (HEADER_LEN..whole.len()).map(|octet| (octet, 0x10));
    let mut attacks = Vec::new();
    for (octet, mask) in header.chain(sealed_part) {
        let mut flipped = whole.clone();
        flipped[octet] ^= mask;
        let reason = match octet {
            0 => match Kind::from_octet(flipped[0]) {
                None => DropReason::UnknownKind,
                // Read as a handshake: the router refuses it.
                Some(Kind::Resp) => {
                    peer.send(&flipped);
                    continue;
                }
                Some(_) => DropReason::BadSeal,
            },
            2 | 3 => DropReason::UnknownNetwork,
            4..8 => DropReason::UnknownIndex,
            _ => DropReason::BadSeal,
        };
        attacks.push((format!("octet {octet} ^ {mask:#x}"), reason, flipped));
    }
    peer.counter = 0;
    each_is_dropped(&mut host, &mut peer, &attacks);
    // None of them has moved the window, or used up the number.
    peer.send(&whole);
    assert_eq!(host.read(), good());
    let from = peer.socket.local_addr().unwrap();
    let mut events = host.pending_events();
    events.dedup();
    assert!(matches!(&events[0], EngineEvent::Handshake { bytes, .. } if bytes.len() == whole.len()));
    let rest = [
        EngineEvent::UnknownIndex { from },
        EngineEvent::Opened {
            local: LOCAL,
            from: Some(from),
        },
        EngineEvent::Learned { mac: FAR, peer: PEER },
    ];
    assert_eq!(events[1..], rest);
}

fn truncation(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let whole = peer.datagram(Kind::Data, &data(&good()));
    let attacks: Vec<_> = (0..whole.len())
        .map(|length| {
            let reason = if length < HEADER_LEN + TAG_LEN {
                DropReason::DatagramTooShort
            } else {
                DropReason::BadSeal
            };
            (format!("{length} octets"), reason, whole[..length].to_vec())
        })
        .collect();
    each_is_dropped(&mut host, &mut peer, &attacks);
    let longer = [&whole[..], &[0]].concat();
    peer.send(&longer);
    peer.send(&whole);
    assert_eq!(host.read(), good());
}

/// The engine's own datagrams come back to it, as they are and with the index of its session.
fn reflection(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    host.write(&frame(FAR, POD, EXPERIMENTAL, 60));
    let unicast = peer.receive();
    host.write(&frame(Mac::BROADCAST, POD, EXPERIMENTAL, 60));
    let broadcast = peer.receive();
    host.engine.keepalive(LOCAL);
    let mut attacks = Vec::new();
    for own in [unicast, broadcast, peer.receive()] {
        let mut ours = own.clone();
        ours[4..8].copy_from_slice(&LOCAL.0.to_be_bytes());
        attacks.push(("as it is".to_owned(), DropReason::UnknownIndex, own));
        attacks.push(("with our index".to_owned(), DropReason::BadSeal, ours));
    }
    each_is_dropped(&mut host, &mut peer, &attacks);
}

/// What the session has not agreed on is not taken: the right key with the other cipher, and another header version, which
/// would be another network. Reserved flags are under the seal, and ignored.
fn another_cipher_or_version(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let header = peer.header(Kind::Data).to_bytes();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &RECEIVE).unwrap());
    let mut content = data(&good());
    let nonce = Nonce::assume_unique_for_key(nonce(peer.counter));
    key.seal_in_place_append_tag(nonce, Aad::from(&header), &mut content)
        .unwrap();
    let other_cipher = [&header[..], &content].concat();
    let networks = [1, 0x0100, 0xffff].map(|network| {
        let header = Header {
            network,
            ..peer.header(Kind::Data)
        };
        let datagram = sealed(header, &data(&good()));
        (format!("network {network}"), DropReason::UnknownNetwork, datagram)
    });
    let mut attacks = vec![("AES-256-GCM".to_owned(), DropReason::BadSeal, other_cipher)];
    attacks.extend(networks);
    each_is_dropped(&mut host, &mut peer, &attacks);
    let flagged = Header {
        flags: 0xfe,
        ..peer.header(Kind::Data)
    };
    peer.send(&sealed(flagged, &data(&good())));
    assert_eq!(host.read(), good());
}

/// Somebody else sends under the session's index, and what a relay passes on comes from the relay's address: neither
/// moves the peer, and frames for it go where they went.
fn a_spoofed_source(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    peer.send_frame(&mut host);
    let stranger = Peer {
        namespace: peer.namespace.clone(),
        socket: socket(&peer.namespace),
        ..peer
    };
    let mut forged = peer.datagram(Kind::Data, &data(&good()));
    forged[40] ^= 1;
    for _ in 0..10 {
        stranger.send(&forged);
    }
    let relayed = Header {
        flags: FLAG_BY_RELAY,
        ..peer.header(Kind::Data)
    };
    stranger.send(&sealed(relayed, &data(&good())));
    assert_eq!(host.read(), good());
    host.await_drops(&[(DropReason::BadSeal, 10)]);
    host.write(&frame(FAR, POD, EXPERIMENTAL, 60));
    assert_eq!(Header::parse(&peer.receive()).unwrap().kind, Kind::Data);
    let roamed = |event: &EngineEvent| matches!(event, EngineEvent::Roamed { .. });
    assert!(!host.pending_events().iter().any(roamed));
}

const OTHER: NodeId = NodeId([3; 32]);
const OTHERS: SessionIndex = SessionIndex(101);

/// A weft MAC of the cluster of [`a_member_as_another`]: ten addresses belong to each of this host, the peer and the other.
const fn weft(offset: u8) -> Mac {
    Mac([2, 7, 0, 0, 0, offset])
}

/// A member floods in another's name, seals under another's session, and sends with source addresses that are another's.
fn a_member_as_another(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let other = Peer {
        namespace: peer.namespace.clone(),
        socket: socket(&peer.namespace),
        ..peer
    };
    host.engine
        .install(&keys(OTHER, Cipher::ChaCha20Poly1305, OTHERS.0, 201, 33, 44))
        .unwrap();
    let mut table = ForwardingTable::empty(host.node.peer_hash());
    table.peers = [(PEER, LOCAL, &peer), (OTHER, OTHERS, &other)]
        .map(|(id, session, at)| PeerPath {
            peer: id,
            hash: id.peer_hash(),
            session: Some(session),
            endpoint: Some(at.socket.local_addr().unwrap()),
            datagram: 1_472,
            by_relay: false,
        })
        .into();
    table.locator = Some(Arc::new(Locator::new(Known {
        genesis: GenesisId([7; 32]),
        node: host.node,
        range: "10.32.0.0/24".parse().unwrap(),
        slot_size: 10,
        owners: vec![(0, Some(host.node)), (1, Some(PEER)), (2, Some(OTHER))],
        addresses: BTreeMap::new(),
        macs: BTreeMap::new(),
    })));
    host.engine.publish(&table);

    let broadcast = frame(Mac::BROADCAST, FAR, EXPERIMENTAL, 60);
    let in_anothers_name = peer.datagram(Kind::Flood, &flood(OTHER.peer_hash(), &broadcast));
    let own = peer.header(Kind::Data);
    let under_anothers_session = sealed(Header { index: OTHERS, ..own }, &data(&good()));
    let attacks = [
        ("origin".to_owned(), DropReason::BadContent, in_anothers_name),
        ("session".to_owned(), DropReason::BadSeal, under_anothers_session),
    ];
    each_is_dropped(&mut host, &mut peer, &attacks);

    // The address of a pod of this host, to one and to all: the bridge would take the pod for one behind the TAP device.
    let pods_own = frame(POD, weft(5), EXPERIMENTAL, 60);
    let to_all = frame(Mac::BROADCAST, weft(5), EXPERIMENTAL, 60);
    let attacks = [
        peer.datagram(Kind::Data, &data(&pods_own)),
        peer.datagram(Kind::Flood, &flood(PEER.peer_hash(), &to_all)),
    ];
    attacks.iter().for_each(|datagram| peer.send(datagram));
    peer.send_frame(&mut host);
    let counted = || host.engine.counters().drops[DropReason::SourceIsHere as usize];
    common::await_value(counted, &2);

    // The address of a pod of the other host: frames for it go to the other host, as its slot says.
    let spoofing = frame(POD, weft(25), EXPERIMENTAL, 60);
    let datagram = peer.datagram(Kind::Data, &data(&spoofing));
    peer.send(&datagram);
    assert_eq!(host.read(), spoofing);
    host.write(&frame(weft(25), POD, EXPERIMENTAL, 60));
    assert_eq!(Header::parse(&other.receive()).unwrap().index, SessionIndex(201));
}

/// A datagram with content that the sender's own key has sealed.
fn lie(peer: &mut Peer, kind: Kind, meta: Meta, bytes: &[u8]) -> Vec<u8> {
    peer.datagram(kind, &[&meta.to_bytes()[..], bytes].concat())
}

/// What meta and headers may claim that is not so, of a slice or of a whole super-frame of TCP over IPv4.
fn lies(whole: &SuperFrame) -> Vec<(&'static str, Meta, Vec<u8>)> {
    let mut lies = Vec::new();
    let mut meta = |name, change: &dyn Fn(&mut Meta)| {
        let mut meta = whole.meta;
        change(&mut meta);
        lies.push((name, meta, whole.template.clone()));
    };
    meta("segments of nothing", &|m| m.gso_size = 0);
    meta("segments of one octet", &|m| m.gso_size = 1);
    meta("no checksum", &|m| m.flags = 0);
    meta("no type", &|m| m.gso_type = 2);
    meta("fragments of UDP", &|m| m.gso_type = 3);
    meta("an unknown type", &|m| m.gso_type = 0x7f);
    meta("another IP", &|m| m.gso_type = GSO_TCP6);
    meta("another transport", &|m| m.gso_type = GSO_UDP);
    meta("UDP that slows down", &|m| m.gso_type = GSO_UDP | GSO_ECN);
    meta("the checksum of nothing", &|m| m.csum_start = 0);
    meta("the checksum of IP", &|m| m.csum_start = 14);
    meta("a checksum behind the end", &|m| m.csum_start = u16::MAX);
    meta("the place of UDP's checksum", &|m| m.csum_offset = 6);
    meta("a place behind the end", &|m| m.csum_offset = u16::MAX);
    meta("shorter headers", &|m| m.header_len -= 1);
    meta("longer headers", &|m| m.header_len += 1);
    meta("headers longer than all", &|m| m.header_len = u16::MAX);
    let mut headers = |name, at: usize, octets: &[u8]| {
        let mut template = whole.template.clone();
        template[at..at + octets.len()].copy_from_slice(octets);
        lies.push((name, whole.meta, template));
    };
    headers("an ethertype that is not IP", 12, &[0x88, 0xb5]);
    headers("a VLAN tag that is none", 12, &[0x81, 0x00]);
    headers("IPv6 without its header", 12, &[0x86, 0xdd]);
    headers("IP of version 6", 14, &[0x65]);
    headers("an IP header of 16 octets", 14, &[0x44]);
    headers("an IP header of 60 octets", 14, &[0x4f]);
    headers("a packet of nothing", 16, &[0, 0]);
    headers("a packet of its headers", 16, &[0, 40]);
    headers("a fragment", 20, &[0x20, 0]);
    headers("a later fragment", 20, &[0, 9]);
    headers("ICMP", 23, &[1]);
    headers("a TCP header of 16 octets", 46, &[0x40]);
    headers("a TCP header of 60 octets", 46, &[0xf0]);
    lies
}

fn refused(attacks: Vec<(String, Vec<u8>)>) -> Vec<(String, DropReason, Vec<u8>)> {
    attacks
        .into_iter()
        .map(|(name, datagram)| (name, DropReason::BadContent, datagram))
        .collect()
}

fn lies_about_slices(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let whole = SuperFrame::new(3_000, 1_000);
    let slices: Vec<_> = whole.payload.chunks(1_200).collect();
    let mut attacks = Vec::new();
    for (name, meta, template) in lies(&whole) {
        for (segment, slice) in (0..).zip(&slices) {
            let meta = Meta {
                segment,
                segments: 3,
                ..meta
            };
            let datagram = lie(&mut peer, Kind::Data, meta, &[&template, *slice].concat());
            attacks.push((format!("slice {segment}: {name}"), datagram));
        }
    }
    let mut place = |name: &str, segment, segments, length: usize| {
        let meta = Meta {
            segment,
            segments,
            ..whole.meta
        };
        let slice = vec![0; length];
        let datagram = lie(
            &mut peer,
            Kind::Data,
            meta,
            &[&whole.template, &slice[..]].concat(),
        );
        attacks.push((name.to_owned(), datagram));
    };
    place("one behind the last", 3, 3, 1_200);
    place("far behind the last", u16::MAX, 3, 1_200);
    place("the last of as many as can be", u16::MAX, u16::MAX, 1);
    place("the first of as many as can be", 0, u16::MAX, 1);
    place("too few slices", 0, 2, 1_200);
    place("too many slices", 0, 4, 1_200);
    place("a last one that is too short", 2, 3, 599);
    place("a last one that is too long", 2, 3, 1_201);
    place("a first one that is the whole", 0, 2, 3_000);
    place("nothing", 1, 3, 0);
    // Slices of UDP hold whole segments.
    let datagrams = SuperFrame::udp(3_000, 1_000);
    let meta = Meta {
        segments: 3,
        ..datagrams.meta
    };
    let bytes = [&datagrams.template[..], &[0; 1_200]].concat();
    attacks.push((
        "a part of a datagram".to_owned(),
        lie(&mut peer, Kind::Data, meta, &bytes),
    ));
    each_is_dropped(&mut host, &mut peer, &refused(attacks));
}

fn lies_about_whole_super_frames(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let whole = SuperFrame::new(3_000, 1_000);
    let mut attacks = Vec::new();
    for (name, meta, template) in lies(&whole) {
        let frame = [&template[..], &whole.payload].concat();
        attacks.push((name.to_owned(), lie(&mut peer, Kind::Data, meta, &frame)));
        let flooded = [&flood(PEER.peer_hash(), &frame)[16..]].concat();
        attacks.push((
            format!("to all: {name}"),
            lie(&mut peer, Kind::Flood, meta, &flooded),
        ));
    }
    for length in [0, 1, 2_999, 3_001] {
        let frame = [&whole.template[..], &vec![0; length]].concat();
        attacks.push((
            format!("{length} octets"),
            lie(&mut peer, Kind::Data, whole.meta, &frame),
        ));
    }
    let slice = Meta {
        segments: 2,
        ..whole.meta
    };
    let flooded = flood(
        PEER.peer_hash(),
        &[&whole.template[..], &whole.payload[..1_500]].concat(),
    );
    attacks.push((
        "a slice to all".to_owned(),
        lie(&mut peer, Kind::Flood, slice, &flooded[16..]),
    ));
    each_is_dropped(&mut host, &mut peer, &refused(attacks));
}

/// The checksum of a single frame that is to be filled in where it cannot be.
fn lies_about_checksums(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let mut attacks = Vec::new();
    for (start, offset) in [
        (0, 0),
        (13, 0),
        (14, 45),
        (59, 0),
        (58, 1),
        (60, 0),
        (u16::MAX, 0),
        (14, u16::MAX),
        (u16::MAX, u16::MAX),
    ] {
        let meta = Meta {
            flags: 1,
            csum_start: start,
            csum_offset: offset,
            ..Meta::default()
        };
        attacks.push((
            format!("{start} {offset}"),
            lie(&mut peer, Kind::Data, meta, &good()),
        ));
        let flooded = flood(PEER.peer_hash(), &good());
        attacks.push((
            format!("to all: {start} {offset}"),
            lie(&mut peer, Kind::Flood, meta, &flooded[16..]),
        ));
    }
    each_is_dropped(&mut host, &mut peer, &refused(attacks));
}

/// Slices that arrive as one, with numbers in a row, and each with other headers: every one is a part of what its own
/// headers say, and none of another.
fn slices_with_different_headers(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let whole = SuperFrame::new(3_600, 1_000);
    // Source, number and time to live of IP, its sender, ports, sequence, flags, window: what a pod would notice.
    for at in [7, 18, 22, 26, 34, 38, 47, 48] {
        let mut other = whole.template.clone();
        other[at] ^= 0x08;
        other[24..26].fill(0);
        let sum = common::tcp::checksum(&other[14..34]);
        other[24..26].copy_from_slice(&sum.to_be_bytes());
        let datagrams: Vec<_> = (0..)
            .zip(whole.payload.chunks(1_200))
            .map(|(segment, slice)| {
                let meta = Meta {
                    segment,
                    segments: 3,
                    ..whole.meta
                };
                let template = if segment == 1 { &other } else { &whole.template };
                lie(&mut peer, Kind::Data, meta, &[template, slice].concat())
            })
            .collect();
        peer.send_at_once(&datagrams);
        let mut begin = 0;
        while begin < whole.payload.len() {
            let segment = begin / 1_200;
            let template = if segment == 1 { &other } else { &whole.template };
            let frame = host.read();
            // Of another sender, the sum of the pseudo header is not his: only the receiving kernel may judge that.
            let payload = frame[54..].to_vec();
            assert_eq!(frame[..12], template[..12], "octet {at}");
            assert_eq!(frame[34..38], template[34..38], "octet {at}");
            let sequence = u32::from_be_bytes(template[38..42].try_into().unwrap());
            assert_eq!(
                frame[38..42],
                sequence.wrapping_add(begin as u32).to_be_bytes(),
                "octet {at}"
            );
            assert_eq!(payload, whole.payload[begin..begin + payload.len()], "octet {at}");
            assert_eq!(
                usize::from(frame[16]) << 8 | usize::from(frame[17]),
                frame.len() - 14
            );
            begin += payload.len();
        }
    }
    assert_eq!(host.drops(), []);
}

/// Slices of a packet of 65,535 octets, more of them than it has, each with a number in its row: what is in it
/// arrives, and what is behind its end is refused.
fn slices_that_promise_the_longest_packet(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let whole = SuperFrame::new(65_535 - 40, 1_000);
    let slices: Vec<_> = whole.payload.chunks(1_200).collect();
    let segments = slices.len() as u16;
    let mut datagrams = Vec::new();
    for segment in 0..segments + 5 {
        let meta = Meta {
            segment,
            segments: segments.max(segment + 1),
            ..whole.meta
        };
        let slice = slices.get(usize::from(segment)).unwrap_or(&slices[0]);
        datagrams.push(lie(
            &mut peer,
            Kind::Data,
            meta,
            &[&whole.template, *slice].concat(),
        ));
    }
    // All in a run must be as long as the first, but for the last.
    let (inside, behind) = datagrams.split_at(slices.len());
    for run in inside.chunks(40) {
        peer.send_at_once(run);
    }
    behind.iter().for_each(|datagram| peer.send(datagram));
    let mut arrived = Vec::new();
    while arrived.len() < whole.payload.len() {
        let (sequence, payload) = read_tcp(&host.read());
        assert_eq!(sequence, whole.sequence.wrapping_add(arrived.len() as u32));
        arrived.extend_from_slice(&payload);
    }
    assert_eq!(arrived, whole.payload);
    host.await_drops(&[(DropReason::BadContent, 5)]);
    peer.send_frame(&mut host);
}

/// Frames of UDP that could all be joined, and together are longer than any packet.
fn more_frames_of_a_flow_than_a_packet_holds(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let whole = SuperFrame::udp(1_300, 1_300);
    let meta = Meta {
        gso_type: 0,
        gso_size: 0,
        ..whole.meta
    };
    let payload = |n: u8| vec![n; 1_300];
    let datagrams: Vec<_> = (0..120)
        .map(|n| {
            let frame = [&whole.template[..], &payload(n)].concat();
            lie(&mut peer, Kind::Data, meta, &frame)
        })
        .collect();
    for run in datagrams.chunks(40) {
        peer.send_at_once(run);
    }
    for n in 0..120 {
        let frame = host.read();
        assert_eq!(frame.len(), whole.template.len() + 1_300);
        assert_eq!(frame[whole.template.len()..], payload(n));
    }
    assert_eq!(host.drops(), []);
}

/// A core of a host of the cluster of [`a_flood_of_handshakes`].
fn core_of(n: u8) -> (NodeId, NoiseKeypair, Sleeve) {
    let key = NodeKey::from_seed([n; 32]);
    let noise = NoiseKeypair::from_secret([n + 100; 32]).unwrap();
    let local = LocalNode {
        node: key.id(),
        certificate: key.certify_noise_static(&noise.public()),
        noise: noise.clone(),
        genesis: GenesisId([7; 32]),
        incarnation: 1,
        ciphers: Cipher::ALL.to_vec(),
    };
    let mut core = Sleeve::new(local, [n; 32]);
    let secret = ClusterSecret {
        number: 1,
        key: [9; 32],
    };
    core.handle(Time::ZERO, Input::Secrets(&[secret]));
    (key.id(), noise, core)
}

/// True copies of an initiation, and garbled ones: the control thread gets what it serves without a cookie, the rest is
/// answered or dropped by the engine, and frames pass.
fn a_flood_of_handshakes(engine: EngineChoice) {
    const COPIES: u64 = 1_500;
    let (mut host, mut peer) = host_and_peer(engine);
    let (_, _, mut there) = core_of(1);
    let (node, noise, mut here) = core_of(2);
    let info = PeerInfo {
        noise_static: noise.public(),
        endpoints: vec![host.address],
    };
    there.handle(Time::ZERO, Input::UpsertPeer(node, info));
    there.handle(Time::ZERO, Input::Connect(node));
    let outputs = std::iter::from_fn(|| there.poll_output());
    let mut sent = outputs.filter_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes),
        _ => None,
    });
    let init = sent.next().unwrap();
    let mut garbled = init.clone();
    garbled[50] ^= 1;
    host.engine.guard(vec![here.door_keys(Time::ZERO)]);
    let stranger = socket(&peer.namespace);
    let (mut cookies, mut octets) = (0, [0; 2_000]);
    for n in 0..COPIES {
        stranger.send_to(&init, host.address).unwrap();
        stranger.send_to(&garbled, host.address).unwrap();
        if n % 50 == 0 {
            peer.send_frame(&mut host);
        }
    }
    peer.send_frame(&mut host);
    let events = host.pending_events();
    let is_init =
        |event: &&EngineEvent| matches!(event, EngineEvent::Handshake { bytes, .. } if *bytes == init);
    let passed = events.iter().filter(is_init).count() as u64;
    stranger.set_nonblocking(true).unwrap();
    while let Ok((length, from)) = stranger.recv_from(&mut octets) {
        assert_eq!((from, octets[0]), (host.address, Kind::Cookie as u8));
        assert!(length < init.len());
        cookies += 1;
    }
    let dropped: BTreeMap<_, _> = host.drops().into_iter().collect();
    let count = |reason| dropped.get(&reason).copied().unwrap_or_default();
    assert_eq!(count(DropReason::BadMac1), COPIES);
    let asked = count(DropReason::CookieRequired);
    assert_eq!(
        passed + asked + count(DropReason::CookieRate),
        COPIES,
        "{dropped:?}"
    );
    assert!(passed >= u64::from(HANDSHAKES_PER_SECOND));
    // Its socket may not hold all of them.
    assert!(cookies > 100 && cookies <= asked, "{cookies} {dropped:?}");
    assert_eq!(count(DropReason::ControlQueueFull), 0);
}
