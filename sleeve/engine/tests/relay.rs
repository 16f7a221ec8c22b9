//! What the engine passes on for others, and what it sends and takes by relay, seen from bare sockets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use common::{Host, PATIENCE, await_value, frame, keys, with_each_engine};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use weft_kernel::Namespace;
use weft_sleeve::{Cipher, ForwardingTable, NextHops, PeerPath, Relaying};
use weft_sleeve_engine::{EngineChoice, EngineEvent};
use weft_wire::datagram::{
    FLAG_BY_RELAY, HEADER_LEN, Header, Kind, Meta, ProbeBody, RELAY_SHIM_LEN, RelayShim, nonce,
};
use weft_wire::{DropReason, Mac, NodeId, PeerHash, SessionIndex};

const POD: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
const FAR: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
/// Neighbours of the host, and one behind the second of them.
const NEAR: [NodeId; 2] = [NodeId([2; 32]), NodeId([3; 32])];
const BEHIND: NodeId = NodeId([4; 32]);
const LOCAL: SessionIndex = SessionIndex(100);
const REMOTE: SessionIndex = SessionIndex(200);
const SEND: [u8; 32] = [11; 32];
const RECEIVE: [u8; 32] = [22; 32];

/// A host, and the sockets of its two neighbours. It has a session with each of them and, by the second, with
/// [`BEHIND`], whose index is [`LOCAL`].
struct Scene {
    host: Host,
    near: [UdpSocket; 2],
}

impl Scene {
    fn new(choice: EngineChoice) -> Self {
        let namespace = Namespace::new().unwrap();
        let host = Host::new(&namespace, 1, 1_400, "127.0.0.1:0".parse().unwrap(), choice);
        let socket = || {
            let socket = namespace.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let scene = Self {
            near: [socket(), socket()],
            host,
        };
        let chacha = Cipher::ChaCha20Poly1305;
        let install = |keys| scene.host.engine.install(&keys).unwrap();
        install(keys(NEAR[0], chacha, 1, 1, 1, 2));
        install(keys(NEAR[1], chacha, 2, 2, 3, 4));
        install(keys(BEHIND, chacha, LOCAL.0, REMOTE.0, SEND[0], RECEIVE[0]));
        let [a, b] = scene.addresses();
        let row = |peer: NodeId, session, endpoint, by_relay| PeerPath {
            peer,
            hash: peer.peer_hash(),
            session: Some(session),
            endpoint: Some(endpoint),
            by_relay,
            datagram: 1_452,
        };
        let mut table = ForwardingTable::empty(scene.host.node.peer_hash());
        table.peers = vec![
            row(NEAR[0], SessionIndex(1), a, false),
            row(NEAR[1], SessionIndex(2), b, false),
            row(BEHIND, LOCAL, b, true),
        ];
        table.macs = [(FAR, 2)].into();
        let next = |first| NextHops { first, second: None };
        table.relaying = Arc::new(Relaying {
            neighbours: [a, b].into(),
            next: [
                (NEAR[0].peer_hash(), next(a)),
                (NEAR[1].peer_hash(), next(b)),
                (BEHIND.peer_hash(), next(b)),
            ]
            .into(),
        });
        scene.host.engine.publish(&table);
        scene
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [0, 1].map(|n: usize| self.near[n].local_addr().unwrap())
    }

    fn send(&self, from: usize, datagram: &[u8]) {
        let sent = self.near[from].send_to(datagram, self.host.address).unwrap();
        assert_eq!(sent, datagram.len());
    }

    /// The next datagram that a neighbour gets.
    fn receive(&self, at: usize) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let (length, from) = self.near[at].recv_from(&mut buffer).expect("no datagram came");
        assert_eq!(from, self.host.address);
        buffer.truncate(length);
        buffer
    }
}

fn shim(hop_limit: u8, source: PeerHash, destination: PeerHash) -> Vec<u8> {
    let shim = RelayShim {
        hop_limit,
        destination,
        source,
    };
    shim.to_bytes().to_vec()
}

/// A datagram that says of itself that it is relayed, and that nobody could open.
fn sealed_for_others(length: usize) -> Vec<u8> {
    let header = Header {
        flags: FLAG_BY_RELAY,
        ..Header::new(Kind::Data, SessionIndex(7), 9)
    };
    let mut datagram = header.to_bytes().to_vec();
    datagram.resize(length, 0x5a);
    datagram
}

/// A datagram of [`BEHIND`] to the host.
fn sealed(kind: Kind, flags: u8, counter: u64, content: &[u8]) -> Vec<u8> {
    let header = Header {
        flags,
        ..Header::new(kind, LOCAL, counter)
    };
    let aad = header.to_bytes();
    let payload = Payload {
        msg: content,
        aad: &aad,
    };
    let sealed = ChaCha20Poly1305::new(&RECEIVE.into())
        .encrypt(&nonce(counter).into(), payload)
        .unwrap();
    [&aad[..], &sealed].concat()
}

fn from_behind(host: &Host, datagram: &[u8]) -> Vec<u8> {
    [&shim(3, BEHIND.peer_hash(), host.node.peer_hash())[..], datagram].concat()
}

/// What the host sent to [`BEHIND`], opened.
fn opened(host: &Host, relayed: &[u8], kind: Kind, counter: u64) -> Vec<u8> {
    let (clear, datagram) = relayed.split_at(RELAY_SHIM_LEN);
    assert_eq!(clear, shim(8, host.node.peer_hash(), BEHIND.peer_hash()));
    let (aad, msg) = datagram.split_at(HEADER_LEN);
    let header = Header {
        flags: FLAG_BY_RELAY,
        ..Header::new(kind, REMOTE, counter)
    };
    assert_eq!(Header::parse(datagram), Ok(header));
    ChaCha20Poly1305::new(&SEND.into())
        .decrypt(&nonce(counter).into(), Payload { msg, aad })
        .unwrap()
}

with_each_engine!(
    a_neighbours_datagram_goes_on_unread_with_one_hop_less,
    what_came_at_once_goes_on_at_once,
    each_refusal_is_counted_under_its_reason,
    frames_and_signs_of_life_leave_by_relay_behind_a_shim,
    what_comes_by_relay_is_taken_and_the_relay_is_not_learned,
);

fn a_neighbours_datagram_goes_on_unread_with_one_hop_less(choice: EngineChoice) {
    let scene = Scene::new(choice);
    let inner = sealed_for_others(900);
    for (from, to, destination) in [(0, 1, NEAR[1]), (1, 0, NEAR[0]), (0, 1, BEHIND)] {
        let source = NodeId([77; 32]).peer_hash();
        scene.send(
            from,
            &[shim(5, source, destination.peer_hash()), inner.clone()].concat(),
        );
        let passed = scene.receive(to);
        assert_eq!(
            passed,
            [shim(4, source, destination.peer_hash()), inner.clone()].concat()
        );
    }
    assert_eq!(scene.host.drops(), []);
    let relayed = || {
        let relayed = scene.host.engine.counters().relayed;
        (relayed.datagrams, relayed.octets)
    };
    await_value(relayed, &(3, 3 * 920));
    let mut used = scene.host.engine.counters().relayed_for;
    used.sort_unstable();
    let mut expected = scene.addresses();
    expected.sort_unstable();
    assert_eq!(used, expected);
}

fn what_came_at_once_goes_on_at_once(choice: EngineChoice) {
    let scene = Scene::new(choice);
    let [_, b] = scene.addresses();
    let one = [
        shim(8, NEAR[0].peer_hash(), NEAR[1].peer_hash()),
        sealed_for_others(1_180),
    ]
    .concat();
    // The last of a run may be shorter, and after it comes one for the host itself.
    let mut run = one.repeat(29);
    run.extend(&one[..700]);
    let sender = UdpSocketState::new((&scene.near[0]).into()).unwrap();
    let receiver = UdpSocketState::new((&scene.near[1]).into()).unwrap();
    let transmit = Transmit {
        destination: scene.host.address,
        ecn: None,
        contents: &run,
        segment_size: Some(one.len()),
        src_ip: None,
    };
    sender.try_send((&scene.near[0]).into(), &transmit).unwrap();
    scene.near[1].set_nonblocking(false).unwrap();
    let (mut got, mut reads) = (Vec::<u8>::new(), 0);
    while got.len() < run.len() {
        let mut buffer = vec![0; 65_536];
        let mut metas = [RecvMeta::default()];
        receiver
            .recv(
                (&scene.near[1]).into(),
                &mut [IoSliceMut::new(&mut buffer)],
                &mut metas,
            )
            .expect("datagrams are missing");
        got.extend(&buffer[..metas[0].len]);
        reads += 1;
    }
    let mut expected = run;
    expected
        .chunks_mut(one.len())
        .for_each(|datagram| datagram[1] = 7);
    assert!(got == expected);
    assert!(reads <= 2, "{reads} reads for 30 datagrams to {b}");
    await_value(|| scene.host.engine.counters().relayed.datagrams, &30);
    assert_eq!(scene.host.drops(), []);
}

fn each_refusal_is_counted_under_its_reason(choice: EngineChoice) {
    let scene = Scene::new(choice);
    let own = scene.host.node.peer_hash();
    let [near, far] = NEAR.map(|node| node.peer_hash());
    let inner = sealed_for_others(60);
    let nested = [shim(8, near, far), sealed_for_others(60)].concat();
    let mut unmarked = inner.clone();
    unmarked[1] = 0;
    let relayed =
        |hops, source, destination, inner: &[u8]| [shim(hops, source, destination), inner.to_vec()].concat();
    for (reason, datagram) in [
        (DropReason::RelayHopLimit, relayed(0, near, far, &inner)),
        (
            DropReason::RelayNoRoute,
            relayed(8, near, PeerHash([9; 8]), &inner),
        ),
        (DropReason::RelayLoop, relayed(8, near, near, &inner)),
        (DropReason::RelayLoop, relayed(8, own, far, &inner)),
        (DropReason::RelayBadInner, relayed(8, near, far, &nested)),
        (DropReason::RelayBadInner, relayed(8, near, far, &unmarked)),
        (DropReason::RelayBadInner, relayed(8, near, far, &inner[..15])),
        (DropReason::RelayBadInner, relayed(8, near, own, &nested)),
        (DropReason::RelayBadInner, relayed(8, near, own, &unmarked)),
        (DropReason::RelayBadInner, relayed(8, near, own, &inner[..15])),
        (DropReason::UnknownIndex, relayed(8, near, own, &inner)),
        (DropReason::DatagramTooShort, shim(8, near, far)[..19].to_vec()),
    ] {
        let before: BTreeMap<_, _> = scene.host.drops().into_iter().collect();
        scene.send(0, &datagram);
        let mut expected = before.clone();
        *expected.entry(reason).or_default() += 1;
        await_value(|| scene.host.drops().into_iter().collect(), &expected);
    }
    // Whoever is no neighbour is not served, not even to reach the host itself, whatever it knows.
    let stranger = scene
        .host
        .namespace
        .run(|| UdpSocket::bind("127.0.0.1:0").unwrap())
        .unwrap();
    for destination in [far, own] {
        let datagram = relayed(8, near, destination, &inner);
        stranger.send_to(&datagram, scene.host.address).unwrap();
    }
    let refused = || scene.host.engine.counters().drops[DropReason::RelayNotANeighbour as usize];
    await_value(refused, &2);
    assert_eq!(scene.host.engine.counters().relayed.datagrams, 0);
    // An unknown index behind a relay says nothing of the relay.
    assert_eq!(scene.host.pending_events(), []);
}

fn frames_and_signs_of_life_leave_by_relay_behind_a_shim(choice: EngineChoice) {
    let scene = Scene::new(choice);
    let unicast = frame(FAR, POD, &[0x88, 0xb5], 100);
    scene.host.write(&unicast);
    let content = [&Meta::default().to_bytes()[..], &unicast].concat();
    assert_eq!(opened(&scene.host, &scene.receive(1), Kind::Data, 0), content);
    scene.host.engine.keepalive(LOCAL);
    assert_eq!(opened(&scene.host, &scene.receive(1), Kind::Keepalive, 1), b"");
    let probe = weft_sleeve::Probe {
        number: 5,
        size: 1_000,
    };
    scene.host.engine.probe(LOCAL, probe);
    let asked = scene.receive(1);
    assert_eq!(asked.len(), 1_000 + RELAY_SHIM_LEN);
    opened(&scene.host, &asked, Kind::Probe, 2);
    // A frame for everybody goes once to each: straight to both neighbours, and by relay.
    let broadcast = frame(Mac::BROADCAST, POD, &[0x88, 0xb5], 100);
    scene.host.write(&broadcast);
    assert_eq!(scene.receive(0)[0], Kind::Flood as u8);
    let two = [scene.receive(1), scene.receive(1)];
    assert_eq!(two[0][0], Kind::Flood as u8);
    opened(&scene.host, &two[1], Kind::Flood, 3);
    assert_eq!(scene.host.drops(), []);
}

fn what_comes_by_relay_is_taken_and_the_relay_is_not_learned(choice: EngineChoice) {
    let mut scene = Scene::new(choice);
    let [a, b] = scene.addresses();
    let frame = frame(POD, FAR, &[0x88, 0xb5], 60);
    let content = [&Meta::default().to_bytes()[..], &frame].concat();
    // By the other neighbour than the one to whom the host sends: that is its own affair.
    for (counter, from) in [(0, 1), (1, 0)] {
        let datagram = sealed(Kind::Data, FLAG_BY_RELAY, counter, &content);
        scene.send(from, &from_behind(&scene.host, &datagram));
        assert_eq!(scene.host.read(), frame);
    }
    let first = scene.host.event();
    assert_eq!(
        first,
        EngineEvent::Opened {
            local: LOCAL,
            from: None
        }
    );
    assert_eq!(scene.host.engine.counters().sessions[&LOCAL].relayed, 2);
    // Straight from an address: that is news.
    let datagram = sealed(Kind::Data, 0, 2, &content);
    scene.send(0, &datagram);
    assert_eq!(scene.host.read(), frame);
    assert_eq!(
        scene.host.event(),
        EngineEvent::Roamed {
            local: LOCAL,
            from: a
        }
    );
    // A probe is answered to where it came from, by relay.
    let body = ProbeBody {
        number: 9,
        size: 32 + 16,
    };
    let probe = sealed(Kind::Probe, FLAG_BY_RELAY, 3, &body.to_bytes());
    scene.send(0, &from_behind(&scene.host, &probe));
    assert_eq!(
        opened(&scene.host, &scene.receive(0), Kind::ProbeAck, 0),
        body.to_bytes()
    );
    // A handshake goes to the control thread as it came.
    let init = [
        &Header {
            flags: FLAG_BY_RELAY,
            ..Header::new(Kind::Init, SessionIndex(9), 3)
        }
        .to_bytes()[..],
        b"unread",
    ]
    .concat();
    let bytes = from_behind(&scene.host, &init);
    scene.send(1, &bytes);
    assert_eq!(scene.host.event(), EngineEvent::Handshake { from: b, bytes });
    assert_eq!(scene.host.drops(), []);
}
