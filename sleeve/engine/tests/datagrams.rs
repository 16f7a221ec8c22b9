//! What the engine makes of datagrams, seen from a peer that is a bare socket.
//!
//! The peer seals with another cryptography library than the engine's, so that both must agree.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use common::peer::{FAR, LOCAL, PEER, POD, REMOTE, SEND, data, flood, host_and_peer, piece, sealed, socket};
use common::{PATIENCE, await_value, frame, with_each_engine};
use weft_sleeve::replay::WINDOW;
use weft_sleeve_engine::{EngineChoice, EngineEvent};
use weft_wire::datagram::{FloodPrefix, HEADER_LEN, Header, Kind, Meta, ProbeBody, nonce};
use weft_wire::{DropReason, Mac, SessionIndex};

with_each_engine!(
    the_engine_seals_as_another_library_opens,
    each_bad_datagram_is_dropped_for_its_reason,
    pieces_in_any_order_make_the_frame_and_what_is_missing_is_given_up,
    a_probe_is_answered_with_a_small_datagram,
    handshakes_pass_unread,
    a_peer_that_moves_is_reported,
    datagrams_that_the_kernel_joined_are_taken_apart,
    a_full_queue_is_counted_and_the_news_comes_again,
);

fn the_engine_seals_as_another_library_opens(engine: EngineChoice) {
    let (host, peer) = host_and_peer(engine);
    let unicast = frame(FAR, POD, &[0x88, 0xb5], 100);
    let broadcast = frame(Mac::BROADCAST, POD, &[0x88, 0xb5], 100);
    host.write(&unicast);
    let first = peer.receive();
    host.write(&broadcast);
    let second = peer.receive();
    host.engine.keepalive(LOCAL);
    let third = peer.receive();
    host.engine
        .send(peer.socket.local_addr().unwrap(), b"a handshake");
    assert_eq!(peer.receive(), b"a handshake");

    let cipher = ChaCha20Poly1305::new(&SEND.into());
    let open = |datagram: &[u8], kind, counter| {
        let (aad, msg) = datagram.split_at(HEADER_LEN);
        assert_eq!(Header::parse(datagram), Ok(Header::new(kind, REMOTE, counter)));
        cipher
            .decrypt(&nonce(counter).into(), Payload { msg, aad })
            .unwrap()
    };
    assert_eq!(open(&first, Kind::Data, 0), data(&unicast));
    let content = open(&second, Kind::Flood, 1);
    let (meta, rest) = Meta::split(&content).unwrap();
    let (prefix, inner) = FloodPrefix::split(rest).unwrap();
    assert_eq!(
        (meta, prefix.origin, inner),
        (Meta::default(), host.node.peer_hash(), &broadcast[..])
    );
    assert_eq!(open(&third, Kind::Keepalive, 2), b"");
    assert_eq!(host.drops(), []);
}

fn each_bad_datagram_is_dropped_for_its_reason(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let good = frame(POD, FAR, &[0x88, 0xb5], 60);
    let replayed = peer.datagram(Kind::Data, &data(&good));
    peer.send(&replayed);
    assert_eq!(host.read(), good);

    let mut garbled = peer.datagram(Kind::Data, &data(&good));
    garbled[30] ^= 1;
    let old = sealed(Header::new(Kind::Data, LOCAL, 0), &data(&good));
    // Moves the window past the counter 0.
    let newer = sealed(Header::new(Kind::Keepalive, LOCAL, WINDOW), b"");
    let elsewhere = sealed(
        Header {
            network: 1,
            ..peer.header(Kind::Data)
        },
        &data(&good),
    );
    let unknown = sealed(
        Header {
            index: SessionIndex(7),
            ..peer.header(Kind::Data)
        },
        &data(&good),
    );
    let slice = Meta {
        segments: 2,
        header_len: 14,
        gso_size: 1,
        ..Meta::default()
    };
    let checksum = Meta {
        flags: 1,
        ..Meta::default()
    };
    let group_source = frame(POD, Mac::BROADCAST, &[0x88, 0xb5], 60);
    let no_source = frame(POD, Mac([0; 6]), &[0x88, 0xb5], 60);
    let bad: Vec<(DropReason, Vec<u8>)> = vec![
        (DropReason::DatagramTooShort, vec![]),
        (DropReason::DatagramTooShort, vec![Kind::Data as u8; 15]),
        (
            DropReason::DatagramTooShort,
            Header::new(Kind::Data, LOCAL, 9).to_bytes().to_vec(),
        ),
        (DropReason::UnknownKind, vec![0x40; 60]),
        (DropReason::BadContent, peer.datagram(Kind::Frag, &[0; 15])),
        (DropReason::BadFragment, peer.datagram(Kind::Frag, &[0; 60])),
        (
            DropReason::BadFragment,
            peer.datagram(Kind::FloodFrag, &piece(1, 50, 60, &good[..20])),
        ),
        (
            DropReason::OversizeFrame,
            peer.datagram(Kind::Frag, &piece(1, 0, u32::MAX, &good)),
        ),
        // Whole, and still no frame.
        (
            DropReason::RuntFrame,
            peer.datagram(Kind::Frag, &piece(1, 0, 13, &good[..13])),
        ),
        (
            DropReason::BadContent,
            peer.datagram(Kind::FloodFrag, &piece(1, 0, 13, &good[..13])),
        ),
        (DropReason::BadContent, peer.datagram(Kind::Probe, &[0; 60])),
        (DropReason::BadContent, peer.datagram(Kind::ProbeAck, &[0; 60])),
        (DropReason::NotAwaited, peer.datagram(Kind::ProbeAck, &[0; 16])),
        (DropReason::RelayNotANeighbour, vec![Kind::Relay as u8; 60]),
        (DropReason::DatagramTooShort, vec![Kind::Relay as u8; 19]),
        (
            DropReason::BadContent,
            peer.datagram(Kind::Data, &[&slice.to_bytes()[..], &good].concat()),
        ),
        (
            DropReason::BadContent,
            peer.datagram(Kind::Data, &[&checksum.to_bytes()[..], &good].concat()),
        ),
        (DropReason::UnknownNetwork, elsewhere),
        (DropReason::UnknownIndex, unknown.clone()),
        (DropReason::UnknownIndex, unknown),
        (DropReason::BadSeal, garbled),
        (DropReason::Replayed, replayed),
        (DropReason::BadContent, peer.datagram(Kind::Data, &[0; 15])),
        (
            DropReason::BadContent,
            peer.datagram(Kind::Flood, &flood(host.node.peer_hash(), &good)),
        ),
        (DropReason::BadContent, peer.datagram(Kind::Keepalive, b"x")),
        (
            DropReason::RuntFrame,
            peer.datagram(Kind::Data, &data(&good[..13])),
        ),
        (
            DropReason::RuntFrame,
            peer.datagram(Kind::Flood, &flood(PEER.peer_hash(), &good[..13])),
        ),
        (
            DropReason::InvalidSource,
            peer.datagram(Kind::Data, &data(&group_source)),
        ),
        (
            DropReason::InvalidSource,
            peer.datagram(Kind::Data, &data(&no_source)),
        ),
        (DropReason::BadHandshake, large_init()),
    ];
    for (_, datagram) in &bad {
        peer.send(datagram);
    }
    peer.send(&newer);
    peer.send(&old);
    peer.counter = WINDOW;
    peer.send_frame(&mut host);

    let mut expected = vec![(DropReason::TooOld, 1)];
    for (reason, _) in &bad {
        match expected.iter_mut().find(|(known, _)| known == reason) {
            Some((_, count)) => *count += 1,
            None => expected.push((*reason, 1)),
        }
    }
    expected.sort();
    assert_eq!(host.drops(), expected);
    let from = peer.socket.local_addr().unwrap();
    assert_eq!(
        host.pending_events(),
        [
            EngineEvent::Opened {
                local: LOCAL,
                from: Some(from)
            },
            EngineEvent::Learned { mac: FAR, peer: PEER },
            EngineEvent::UnknownIndex { from },
        ]
    );
}

fn pieces_in_any_order_make_the_frame_and_what_is_missing_is_given_up(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let unicast = frame(POD, FAR, &[0x88, 0xb5], 1_300);
    let broadcast = frame(Mac::BROADCAST, FAR, &[0x88, 0xb5], 1_300);
    let prefix = FloodPrefix {
        origin: PEER.peer_hash(),
        sequence: 1,
    };
    let flooded = [&prefix.to_bytes()[..], &broadcast].concat();
    let foreign = [&host.node.peer_hash().0[..], &flooded[8..]].concat();
    let mut send = |kind, number, content: &[u8], order: &[usize]| {
        let parts: Vec<_> = content.chunks(500).collect();
        for &at in order {
            let body = piece(number, at as u32 * 500, content.len() as u32, parts[at]);
            let datagram = peer.datagram(kind, &body);
            peer.send(&datagram);
        }
    };
    // The first of frame 9 comes last, and the middle of frame 8 never.
    send(Kind::Frag, 9, &unicast, &[2, 1]);
    send(Kind::Frag, 8, &unicast, &[0, 2, 2]);
    send(Kind::FloodFrag, 7, &flooded, &[1, 0, 2]);
    assert_eq!(host.read(), broadcast);
    send(Kind::Frag, 9, &unicast, &[0]);
    assert_eq!(host.read(), unicast);
    // Nobody may flood in another's name.
    send(Kind::FloodFrag, 6, &foreign, &[0, 1, 2]);
    // Another kind than the pieces before it.
    send(Kind::FloodFrag, 8, &unicast, &[1]);
    host.await_drops(&[
        (DropReason::BadContent, 1),
        (DropReason::BadFragment, 1),
        (DropReason::OverlappingFragment, 1),
        (DropReason::ReassemblyTimeout, 1),
    ]);
    let counted = || {
        let peer = host.engine.counters().peers[&PEER];
        (peer.rx_frames, peer.rx_reassembled)
    };
    await_value(counted, &(2, 2));
}

fn a_probe_is_answered_with_a_small_datagram(engine: EngineChoice) {
    let (host, mut peer) = host_and_peer(engine);
    let body = ProbeBody {
        number: 77,
        size: 1_400,
    };
    let mut content = body.to_bytes().to_vec();
    content.resize(1_400 - HEADER_LEN - 16, 0);
    let datagram = peer.datagram(Kind::Probe, &content);
    peer.send(&datagram);
    let answer = peer.receive();
    assert_eq!(Header::parse(&answer), Ok(Header::new(Kind::ProbeAck, REMOTE, 0)));
    let (aad, msg) = answer.split_at(HEADER_LEN);
    let opened = ChaCha20Poly1305::new(&SEND.into()).decrypt(&nonce(0).into(), Payload { msg, aad });
    assert_eq!(opened.unwrap(), body.to_bytes());
    assert_eq!(host.drops(), []);
}

fn large_init() -> Vec<u8> {
    let header = Header::new(Kind::Init, SessionIndex(1), 0).to_bytes();
    [
        &header[..],
        &[0; weft_sleeve_engine::engine::HANDSHAKE_MAX + 1 - HEADER_LEN],
    ]
    .concat()
}

fn handshakes_pass_unread(engine: EngineChoice) {
    let (host, peer) = host_and_peer(engine);
    let from = peer.socket.local_addr().unwrap();
    for kind in [Kind::Init, Kind::Resp, Kind::Cookie] {
        let bytes = [&Header::new(kind, SessionIndex(9), 3).to_bytes()[..], b"unread"].concat();
        peer.send(&bytes);
        assert_eq!(host.event(), EngineEvent::Handshake { from, bytes });
    }
    assert_eq!(host.drops(), []);
}

fn a_peer_that_moves_is_reported(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    peer.send_frame(&mut host);
    let home = peer.socket.local_addr().unwrap();
    assert_eq!(
        host.event(),
        EngineEvent::Opened {
            local: LOCAL,
            from: Some(home)
        }
    );
    peer.socket = socket(&peer.namespace);
    let away = peer.socket.local_addr().unwrap();
    // The report may wait for the interval since the last one to pass.
    let end = std::time::Instant::now() + PATIENCE;
    let roamed = loop {
        peer.send_frame(&mut host);
        let event = host
            .pending_events()
            .into_iter()
            .find(|e| matches!(e, EngineEvent::Roamed { .. }));
        assert!(std::time::Instant::now() < end, "the move is not reported");
        if let Some(event) = event {
            break event;
        }
    };
    assert_eq!(
        roamed,
        EngineEvent::Roamed {
            local: LOCAL,
            from: away
        }
    );
    host.publish(PEER, Some(LOCAL.0), Some(away), &[FAR]);
    host.write(&frame(FAR, POD, &[0x88, 0xb5], 60));
    assert_eq!(
        Header::parse(&peer.receive()),
        Ok(Header::new(Kind::Data, REMOTE, 0))
    );
}

fn datagrams_that_the_kernel_joined_are_taken_apart(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let frames: Vec<_> = (0..20u8)
        .map(|n| frame(POD, FAR, &[0x88, 0xb5, n], 300))
        .collect();
    let datagrams: Vec<_> = frames
        .iter()
        .map(|frame| peer.datagram(Kind::Data, &data(frame)))
        .collect();
    peer.send_at_once(&datagrams);
    for frame in frames {
        assert_eq!(host.read(), frame);
    }
    assert_eq!(host.drops(), []);
}

fn a_full_queue_is_counted_and_the_news_comes_again(engine: EngineChoice) {
    let (mut host, mut peer) = host_and_peer(engine);
    let from = peer.socket.local_addr().unwrap();
    let init = Header::new(Kind::Init, SessionIndex(9), 3).to_bytes();
    // The queue of these tests holds 1,024 events.
    for _ in 0..1_024 {
        peer.send(&init);
    }
    peer.send_frame(&mut host);
    // The session opened and an address was learned, and there was no room for either.
    assert_eq!(host.drops(), [(DropReason::ControlQueueFull, 2)]);
    assert_eq!(host.pending_events().len(), 1_024);
    peer.send_frame(&mut host);
    assert_eq!(
        host.pending_events(),
        [
            EngineEvent::Opened {
                local: LOCAL,
                from: Some(from)
            },
            EngineEvent::Learned { mac: FAR, peer: PEER }
        ]
    );
}
