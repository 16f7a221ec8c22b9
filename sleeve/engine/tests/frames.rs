//! Frames cross between two hosts as they are.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::sync_channel;

use common::{
    A, B, Host, IPV4, IPV6, PATIENCE, TAP, await_value, frame, keys, start, two_hosts, with_each_engine,
};
use pnet_datalink::{Channel, Config, channel};
use weft_kernel::{Namespace, link};
use weft_sleeve::{Cipher, ForwardingTable, PeerPath, Probe};
use weft_sleeve_engine::{Engine, EngineChoice, EngineConfig, EngineError, EngineEvent, PlainEngine};
use weft_wire::api::Traffic;
use weft_wire::datagram::{FLOOD_PREFIX_LEN, HEADER_LEN, META_LEN, TAG_LEN};
use weft_wire::{DropReason, Mac, NodeId, PeerHash, SessionIndex};

/// IEEE 802 local experimental ethertype.
const EXPERIMENTAL: &[u8] = &[0x88, 0xb5];
/// UDP and IPv4 headers of the underlay.
const IPV4_UDP: usize = 28;

with_each_engine!(
    frames_cross_over_ipv4,
    frames_cross_over_ipv6,
    frames_cross_between_dual_stack_sockets,
    a_bare_header_crosses,
    the_longest_frame_of_an_ordinary_path_crosses_whole,
    the_longest_frame_of_the_largest_path_crosses_whole,
    what_the_kernel_refuses_goes_in_pieces,
    probes_are_answered_refused_or_lost,
    frames_wait_for_session_endpoint_and_table,
    a_stopped_engine_leaves_its_tap_to_the_next,
    a_wrong_tap_is_refused_by_name,
    a_removed_tap_is_reported_once,
);

#[test]
fn frames_cross_between_different_engines() {
    let (fast, plain) = (EngineChoice::Best, EngineChoice::Plain);
    for engines in [[fast, plain], [plain, fast]] {
        all_shapes_cross(two_hosts(engines, Cipher::Aes256Gcm, 1_500, 1_400, IPV4, IPV4));
    }
}

/// Frames of every shape cross in both directions, and nothing is dropped.
fn all_shapes_cross([mut one, mut other]: [Host; 2]) {
    let group = Mac([0x33, 0x33, 0, 0, 0, 9]);
    let vlan: &[u8] = &[0x81, 0x00, 0x60, 0x05, 0x88, 0xb5];
    // A whole IPv6 header but for the addresses: where the bridge hands frames to the packet filter
    // (bridge-nf-call-ip6tables), the kernel drops malformed ones.
    let ipv6: &[u8] = &[0x86, 0xdd, 0x60, 0, 0, 0, 0x04, 0xca, 59, 64];
    let double: &[u8] = &[0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x20, 0x05, 0x08, 0x00];
    let (mut frames, mut octets) = (0, 0);
    let mut sought = Vec::new();
    for (then, lengths) in [
        (EXPERIMENTAL, &[15, 60, 61, 1_000, 1_380][..]),
        (&[0x08, 0x06], &[60]),
        (&[0x00, 0x26], &[60]),
        (ipv6, &[1_280]),
        (vlan, &[64, 1_380]),
        (double, &[68]),
    ] {
        for &length in lengths {
            // Each length another one: only a few frames to one unknown address are sent to everybody.
            let unknown = Mac([2, 0, then.len() as u8, then[0], (length >> 8) as u8, length as u8]);
            sought.push(unknown);
            for destination in [B, Mac::BROADCAST, group, unknown] {
                let forth = frame(destination, A, then, length);
                one.write(&forth);
                assert_eq!(other.read(), forth);
                let back = frame(if destination == B { A } else { destination }, B, then, length);
                other.write(&back);
                assert_eq!(one.read(), back);
                frames += 1;
                octets += length as u64;
            }
        }
    }
    for (host, peer) in [(&one, &other), (&other, &one)] {
        assert_eq!(host.drops(), []);
        let expected = Traffic {
            tx_frames: frames,
            tx_bytes: octets,
            rx_frames: frames,
            rx_bytes: octets,
            ..Traffic::default()
        };
        host.await_traffic(peer.node, expected);
        let counters = host.engine.counters();
        assert!(
            counters
                .sessions
                .values()
                .all(|s| s.sent == frames && s.received == frames)
        );
    }
    let learned: Vec<_> = other.pending_events();
    let opened = EngineEvent::Opened {
        local: SessionIndex(200),
        from: Some(IPV4[0].parse().unwrap()),
    };
    let opened6 = EngineEvent::Opened {
        local: SessionIndex(200),
        from: Some(IPV6[0].parse().unwrap()),
    };
    assert!(learned[0] == opened || learned[0] == opened6, "{learned:?}");
    let from = EngineEvent::Learned {
        mac: A,
        peer: one.node,
    };
    // The other end does not know where these live, so it asks for each.
    let asked = sought.into_iter().map(|mac| EngineEvent::Sought {
        local: SessionIndex(200),
        mac,
    });
    let expected: Vec<_> = std::iter::once(from).chain(asked).collect();
    assert_eq!(learned[1..], expected);
}

fn frames_cross_over_ipv4(engine: EngineChoice) {
    all_shapes_cross(two_hosts(engine, Cipher::Aes256Gcm, 1_500, 1_400, IPV4, IPV4));
}

fn frames_cross_over_ipv6(engine: EngineChoice) {
    all_shapes_cross(two_hosts(
        engine,
        Cipher::ChaCha20Poly1305,
        1_500,
        1_400,
        IPV6,
        IPV6,
    ));
}

fn frames_cross_between_dual_stack_sockets(engine: EngineChoice) {
    let any = ["[::]:6783", "[::]:6783"];
    all_shapes_cross(two_hosts(engine, Cipher::Aes256Gcm, 1_500, 1_400, any, IPV4));
    all_shapes_cross(two_hosts(engine, Cipher::Aes256Gcm, 1_500, 1_400, any, IPV6));
    all_shapes_cross(two_hosts(
        engine,
        Cipher::Aes256Gcm,
        1_500,
        1_400,
        [any[0], IPV4[1]],
        IPV4,
    ));
}

/// An Ethernet header and nothing behind it. The kernel's bridge does not pass such a frame, so it is put onto the
/// engine's own device, and seen there at the other host.
fn a_bare_header_crosses(engine: EngineChoice) {
    let [one, other] = two_hosts(engine, Cipher::Aes256Gcm, 1_500, 1_400, IPV4, IPV4);
    let open = |host: &Host| {
        let config = Config {
            read_timeout: Some(PATIENCE),
            ..Config::default()
        };
        let opened = host.namespace.run(|| {
            let interfaces = pnet_datalink::interfaces();
            channel(interfaces.iter().find(|i| i.name == TAP).unwrap(), config)
        });
        match opened.unwrap().unwrap() {
            Channel::Ethernet(sender, receiver) => (sender, receiver),
            _ => panic!("another kind of channel"),
        }
    };
    let (mut sender, _) = open(&one);
    let (_, mut receiver) = open(&other);
    let bare = frame(B, A, EXPERIMENTAL, 14);
    sender.send_to(&bare, None).unwrap().unwrap();
    assert_eq!(receiver.next().unwrap(), bare);
    assert_eq!((one.drops(), other.drops()), (vec![], vec![]));
}

/// The longest frame that fits goes whole, and one octet more goes in pieces: datagrams are never fragmented.
fn the_edge_is_exact(engine: EngineChoice, underlay: u32, mtu: u32, path: usize) {
    let [one, mut other] = two_hosts(engine, Cipher::Aes256Gcm, underlay, mtu, IPV4, IPV4);
    let there = Some(IPV4[1].parse().unwrap());
    let limit = u16::try_from(path - IPV4_UDP).unwrap();
    one.publish_path(other.node, Some(100), there, &[B], limit);
    let data = path - IPV4_UDP - HEADER_LEN - META_LEN - TAG_LEN;
    for (at, (destination, fits)) in (1..).zip([(B, data), (Mac::BROADCAST, data - FLOOD_PREFIX_LEN)]) {
        for length in [fits, fits + 1] {
            let frame = frame(destination, A, EXPERIMENTAL, length);
            one.write(&frame);
            assert_eq!(other.read(), frame);
        }
        let counted = || {
            let counters = one.engine.counters();
            let session = counters.sessions[&SessionIndex(100)];
            let fragmented = counters.peers[&other.node].tx_fragmented;
            (fragmented, session.frames, session.large)
        };
        // One datagram, and two; counted a moment after they have left.
        await_value(counted, &(at, at * 3, at * 3));
    }
    assert_eq!((one.drops(), other.drops()), (vec![], vec![]));
    assert_eq!(one.pending_events(), [], "the kernel refused nothing");
}

fn the_longest_frame_of_an_ordinary_path_crosses_whole(engine: EngineChoice) {
    the_edge_is_exact(engine, 1_500, 1_500, 1_500);
}

fn the_longest_frame_of_the_largest_path_crosses_whole(engine: EngineChoice) {
    the_edge_is_exact(engine, 65_535, 65_521, 65_535);
}

/// The device shrinks under a table that has not heard of it: no frame is lost, and the router hears of it once.
fn what_the_kernel_refuses_goes_in_pieces(engine: EngineChoice) {
    for listen in [IPV4, IPV6] {
        let [one, mut other] = two_hosts(engine, Cipher::Aes256Gcm, 1_500, 1_500, listen, listen);
        let there = Some(listen[1].parse().unwrap());
        one.publish_path(other.node, Some(100), there, &[B], 1_472);
        let shrink = |mtu| {
            one.namespace
                .run(|| link::set_mtu("under", mtu).unwrap())
                .unwrap()
        };
        let cross = |other: &mut Host| {
            for destination in [B, Mac::BROADCAST] {
                for length in [1_380, 60, 1_514] {
                    let frame = frame(destination, A, EXPERIMENTAL, length);
                    one.write(&frame);
                    assert_eq!(other.read(), frame);
                }
            }
        };
        shrink(1_400);
        cross(&mut other);
        let too_big = |size| EngineEvent::TooBig {
            local: SessionIndex(100),
            size,
        };
        let first = (1_380 + HEADER_LEN + META_LEN + TAG_LEN) as u16;
        assert_eq!(one.pending_events(), [too_big(first)]);
        if listen == IPV4 {
            // Less than the base; an IPv6 link cannot be so small.
            one.publish_path(other.node, Some(100), there, &[B], 1_232);
            shrink(700);
            cross(&mut other);
            assert_eq!(one.pending_events(), [too_big(1_232)]);
        }
        assert_eq!((one.drops(), other.drops()), (vec![], vec![]));
    }
}

fn probes_are_answered_refused_or_lost(engine: EngineChoice) {
    let [mut one, mut other] = two_hosts(engine, Cipher::Aes256Gcm, 1_500, 1_400, IPV4, IPV4);
    let local = SessionIndex(100);
    let probe = |number, size| Probe { number, size };
    one.engine.probe(local, probe(1, 1_472));
    let answered = EngineEvent::ProbeAnswered {
        local,
        probe: probe(1, 1_472),
    };
    assert_eq!(
        other.event(),
        EngineEvent::Opened {
            local: SessionIndex(200),
            from: Some(IPV4[0].parse().unwrap())
        }
    );
    assert_eq!(
        one.event(),
        EngineEvent::Opened {
            local,
            from: Some(IPV4[1].parse().unwrap())
        }
    );
    assert_eq!(one.event(), answered);
    one.engine.probe(local, probe(2, 1_473));
    let refused = EngineEvent::ProbeRefused {
        local,
        probe: probe(2, 1_473),
    };
    assert_eq!(one.event(), refused);
    // The far end of the cable takes less, and says nothing: the veth device drops what is longer.
    other
        .namespace
        .run(|| link::set_mtu("under", 1_400).unwrap())
        .unwrap();
    one.engine.probe(local, probe(3, 1_472));
    one.engine.probe(local, probe(4, 1_300));
    let answered = EngineEvent::ProbeAnswered {
        local,
        probe: probe(4, 1_300),
    };
    assert_eq!(one.event(), answered);
    let counters = one.engine.counters().sessions[&local];
    assert_eq!((counters.sent, counters.frames), (4, 0));
    one.engine.probe(SessionIndex(999), probe(1, 100));
    one.await_drops(&[(DropReason::NoSession, 1)]);
    // Frames pass as before.
    let last = frame(B, A, EXPERIMENTAL, 60);
    one.write(&last);
    assert_eq!(other.read(), last);
    let back = frame(A, B, EXPERIMENTAL, 60);
    other.write(&back);
    assert_eq!(one.read(), back);
}

fn frames_wait_for_session_endpoint_and_table(engine: EngineChoice) {
    let [mut one, mut other] = two_hosts(engine, Cipher::Aes256Gcm, 1_500, 1_400, IPV4, IPV4);
    let there = IPV4[1].parse().unwrap();
    one.publish(other.node, None, Some(there), &[B]);
    one.write(&frame(B, A, EXPERIMENTAL, 60));
    assert_eq!(one.event(), EngineEvent::Wanted { peer: other.node });
    one.publish(other.node, Some(100), None, &[B]);
    one.write(&frame(Mac::BROADCAST, A, EXPERIMENTAL, 60));
    one.await_drops(&[(DropReason::NoSession, 2)]);
    one.publish(other.node, Some(100), Some(there), &[B]);
    let last = frame(B, A, EXPERIMENTAL, 60);
    one.write(&last);
    assert_eq!(other.read(), last);

    one.engine.keepalive(SessionIndex(100));
    one.engine.keepalive(SessionIndex(999));
    one.await_drops(&[(DropReason::NoSession, 3)]);
    let back = frame(A, B, EXPERIMENTAL, 60);
    other.write(&back);
    assert_eq!(one.read(), back);
    // The keepalive came before the frame that answered it could be read.
    assert_eq!(one.engine.counters().sessions[&SessionIndex(100)].sent, 2);

    one.engine.remove(SessionIndex(100));
    one.write(&last);
    one.await_drops(&[(DropReason::NoSession, 4)]);
    assert!(matches!(
        other
            .engine
            .install(&keys(one.node, Cipher::Aes256Gcm, 200, 1, 1, 1)),
        Err(EngineError::IndexInUse { .. })
    ));
}

fn a_stopped_engine_leaves_its_tap_to_the_next(engine: EngineChoice) {
    let namespace = Namespace::new().unwrap();
    let host = Host::new(&namespace, 1, 1_400, "127.0.0.1:0".parse().unwrap(), engine);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let second = namespace.run(|| start(engine, any).0).unwrap();
    let Err(error @ EngineError::OpenTap { .. }) = second else {
        panic!("two engines hold one TAP device")
    };
    assert!(error.to_string().contains("another process holds it"), "{error}");
    let began = std::time::Instant::now();
    host.engine.stop();
    assert!(
        began.elapsed() < PATIENCE / 10,
        "stopping took {:?}",
        began.elapsed()
    );
    assert!(namespace.run(|| link::find(TAP).unwrap().is_some()).unwrap());
    namespace.run(|| start(engine, any).0).unwrap().unwrap();
}

fn a_wrong_tap_is_refused_by_name(engine: EngineChoice) {
    let namespace = Namespace::new().unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let started = || namespace.run(|| start(engine, any).0.err().unwrap()).unwrap();
    assert!(matches!(started(), EngineError::NoTap { name } if name == TAP));
    assert!(
        namespace.run(|| link::find(TAP).unwrap().is_none()).unwrap(),
        "it was made in passing"
    );
    namespace
        .run(|| link::create_bridge(TAP, &Default::default()).unwrap())
        .unwrap();
    assert!(matches!(started(), EngineError::NotATap { name } if name == TAP));
}

fn a_removed_tap_is_reported_once(engine: EngineChoice) {
    let namespace = Namespace::new().unwrap();
    let host = Host::new(&namespace, 1, 1_400, "127.0.0.1:0".parse().unwrap(), engine);
    assert!(namespace.run(|| link::delete(TAP).unwrap()).unwrap());
    let EngineEvent::Failed { what } = host.event() else {
        panic!("another event")
    };
    assert!(what.contains(TAP) && what.contains("restart"), "{what}");
    assert!(host.engine.description().degradations.contains(&what));
    let began = std::time::Instant::now();
    host.engine.stop();
    assert!(began.elapsed() < PATIENCE / 10);
}

/// What no kernel hands over: a frame of nothing, one shorter than its header, one longer than any. Each is dropped under
/// its reason, and the next frame is served.
#[test]
fn frames_of_impossible_lengths_are_dropped_by_name() {
    let (ours, kernel) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let (sender, events) = sync_channel(16);
    let config = EngineConfig {
        tap: TAP.into(),
        socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
        events: Box::new(move |event| sender.try_send(event).is_ok()),
    };
    let engine = PlainEngine::start_on(ours, config).unwrap();
    let peer = NodeId([7; 32]);
    let mut table = ForwardingTable::empty(PeerHash([1; 8]));
    table.peers.push(PeerPath {
        peer,
        hash: peer.peer_hash(),
        session: None,
        endpoint: None,
        by_relay: false,
        datagram: 1_400,
    });
    table.macs.insert(B, 0);
    engine.publish(&table);
    for length in [0, 13, 70_000] {
        kernel.send(&vec![0xff; length]).unwrap();
    }
    kernel.send(&frame(B, A, EXPERIMENTAL, 60)).unwrap();
    assert_eq!(
        events.recv_timeout(PATIENCE).unwrap(),
        EngineEvent::Wanted { peer }
    );
    let dropped = |reason: DropReason| engine.counters().drops[reason as usize];
    await_value(
        || {
            [
                DropReason::RuntFrame,
                DropReason::OversizeFrame,
                DropReason::NoSession,
            ]
            .map(dropped)
        },
        &[2, 1, 1],
    );
}
