//! Every datagram that must not count is refused, for the right reason, and changes nothing.

use crate::lab::*;
use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;
use weft_sleeve::message::*;
use weft_sleeve::*;
use weft_wire::datagram::{HEADER_LEN, Kind};
use weft_wire::{DropReason, GenesisId, NodeKey};

/// Where an attacker sends from.
fn elsewhere() -> SocketAddr {
    "203.0.113.99:9".parse().unwrap()
}

/// What one datagram is refused for.
fn refusal(world: &mut World, i: usize, bytes: &[u8]) -> Option<DropReason> {
    let outputs = world.deliver(i, elsewhere(), bytes);
    let reasons: Vec<DropReason> = outputs
        .iter()
        .filter_map(|o| match o {
            Output::Dropped(reason, from) => {
                assert_eq!(*from, Some(elsewhere()));
                Some(*reason)
            }
            _ => None,
        })
        .collect();
    assert!(reasons.len() <= 1);
    reasons.first().copied()
}

/// A host that has sent an INIT that nobody got, and that INIT.
fn initiation(n: u8) -> (World, Vec<u8>) {
    let mut world = World::new(n);
    world.filter = Box::new(|_, _| false);
    world.connect(0, 1);
    let init = world.sent_by(0, Kind::Init)[0].bytes.clone();
    (world, init)
}

/// The same, with the RESP that nobody got.
fn response() -> (World, Vec<u8>) {
    let (mut world, init) = initiation(2);
    let from = world.hosts[0].address;
    world.deliver(1, from, &init);
    let resp = world.sent_by(1, Kind::Resp)[0].bytes.clone();
    (world, resp)
}

/// The same, with a COOKIE that nobody got.
fn cookie() -> (World, Vec<u8>) {
    let (mut world, init) = initiation(2);
    while world.sent_by(1, Kind::Cookie).is_empty() {
        world.deliver(1, elsewhere(), &init);
    }
    let cookie = world.sent_by(1, Kind::Cookie)[0].bytes.clone();
    (world, cookie)
}

/// What a flipped kind octet is refused for: read as another kind, the datagram has the wrong length.
fn other_kind(octet: u8, length: usize) -> DropReason {
    let exact = match Kind::from_octet(octet) {
        None => return DropReason::UnknownKind,
        Some(Kind::Init) => INIT_LEN,
        Some(Kind::Resp) => RESP_LEN,
        Some(Kind::Cookie) => COOKIE_LEN,
        Some(_) => return DropReason::KindNotServed,
    };
    if length < exact {
        DropReason::DatagramTooShort
    } else {
        DropReason::BadHandshake
    }
}

/// Flips each bit of the header in turn. The core itself is asked: what an engine passes to it may be anything.
fn flip_header(world: &mut World, i: usize, good: &[u8], expected: impl Fn(usize) -> DropReason) {
    for bit in 0..HEADER_LEN * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let reason = match bit / 8 {
            0 => other_kind(bytes[0], bytes.len()),
            2 | 3 => DropReason::UnknownNetwork,
            octet => expected(octet),
        };
        let outputs = world.input(
            i,
            Input::Datagram {
                from: elsewhere(),
                bytes: &bytes,
            },
        );
        assert_eq!(outputs, [Output::Dropped(reason, Some(elsewhere()))], "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_of_an_init_is_refused() {
    let (mut world, init) = initiation(2);
    flip_header(&mut world, 1, &init, |octet| match octet {
        8.. => DropReason::UnknownKeyId,
        _ => DropReason::BadMac1,
    });
    for octet in HEADER_LEN..INIT_LEN - MAC_LEN {
        let mut bytes = init.clone();
        bytes[octet] ^= 0x80;
        assert_eq!(
            refusal(&mut world, 1, &bytes),
            Some(DropReason::BadMac1),
            "octet {octet}"
        );
    }
    assert_eq!(refusal(&mut world, 1, &init), None, "unharmed it is served");
}

#[test]
fn every_flipped_bit_of_a_resp_is_refused() {
    let (mut world, resp) = response();
    flip_header(&mut world, 0, &resp, |octet| match octet {
        4..8 => DropReason::NotAwaited,
        _ => DropReason::BadMac1,
    });
    for octet in HEADER_LEN..RESP_LEN - MAC_LEN {
        let mut bytes = resp.clone();
        bytes[octet] ^= 0x80;
        assert_eq!(
            refusal(&mut world, 0, &bytes),
            Some(DropReason::BadMac1),
            "octet {octet}"
        );
    }
    assert_eq!(
        refusal(&mut world, 0, &resp),
        None,
        "the attempt still waits for it"
    );
    assert_eq!(refusal(&mut world, 0, &resp), Some(DropReason::NotAwaited));
}

#[test]
fn every_flipped_bit_of_a_cookie_is_refused() {
    let (mut world, cookie) = cookie();
    flip_header(&mut world, 0, &cookie, |octet| match octet {
        4..8 => DropReason::NotAwaited,
        _ => DropReason::BadHandshake,
    });
    for octet in HEADER_LEN..COOKIE_LEN {
        let mut bytes = cookie.clone();
        bytes[octet] ^= 0x80;
        assert_eq!(
            refusal(&mut world, 0, &bytes),
            Some(DropReason::BadHandshake),
            "octet {octet}"
        );
    }
    assert_eq!(refusal(&mut world, 0, &cookie), None);
}

#[test]
fn what_mac1_cannot_hold_against_an_insider_the_transcript_does() {
    // A member knows the cluster secret and can make mac1 right again after changing what it passes on.
    let again = |bytes: &mut Vec<u8>, to: &weft_wire::NodeId| {
        let at = bytes.len() - 2 * MAC_LEN;
        let mac1 = weft_wire::hash::mac16(&secret(1).mac1_key(to), &[&bytes[..at]]);
        bytes[at..at + MAC_LEN].copy_from_slice(&mac1);
    };
    let (mut world, init) = initiation(2);
    let to = world.id(1);
    for octet in [1, 4, 7, 16, 48, 100, 200, INIT_LEN - 2 * MAC_LEN - 1] {
        let mut bytes = init.clone();
        bytes[octet] ^= 1;
        again(&mut bytes, &to);
        assert_eq!(
            refusal(&mut world, 1, &bytes),
            Some(DropReason::BadHandshake),
            "octet {octet}"
        );
    }
    let (mut world, resp) = response();
    let to = world.id(0);
    for octet in [16, 60, RESP_LEN - 2 * MAC_LEN - 1] {
        let mut bytes = resp.clone();
        bytes[octet] ^= 1;
        again(&mut bytes, &to);
        assert_eq!(
            refusal(&mut world, 0, &bytes),
            Some(DropReason::BadHandshake),
            "octet {octet}"
        );
    }
    assert_eq!(
        refusal(&mut world, 0, &resp),
        None,
        "a forged answer does not end the attempt"
    );
    for octet in [1, 8, 12] {
        let (mut world, mut resp) = response();
        resp[octet] ^= 1;
        again(&mut resp, &world.id(0));
        assert_eq!(
            refusal(&mut world, 0, &resp),
            Some(DropReason::BadHandshake),
            "octet {octet}"
        );
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let (mut world, init) = initiation(2);
    let longer = [&init[..], &[0]].concat();
    assert_eq!(refusal(&mut world, 1, &longer), Some(DropReason::BadHandshake));
    for length in 0..INIT_LEN {
        assert_eq!(
            refusal(&mut world, 1, &init[..length]),
            Some(DropReason::DatagramTooShort)
        );
    }
    let (mut world, cookie) = cookie();
    assert_eq!(
        refusal(&mut world, 0, &cookie[..COOKIE_LEN - 1]),
        Some(DropReason::DatagramTooShort)
    );
    let longer = [&cookie[..], &[0]].concat();
    assert_eq!(refusal(&mut world, 0, &longer), Some(DropReason::BadHandshake));
}

#[test]
fn a_replayed_init_is_stale_and_after_a_restart_leads_nowhere() {
    let mut world = World::joined();
    let init = world.sent_by(0, Kind::Init)[0].bytes.clone();
    assert_eq!(refusal(&mut world, 1, &init), Some(DropReason::StaleInitiation));
    // The restarted responder has forgotten the numbers it saw. It answers, and hears no more.
    world.restart(1);
    world.filter = Box::new(|_, _| false);
    let ups = world.hosts[1].count(|o| matches!(o, Output::Up { .. }));
    assert_eq!(refusal(&mut world, 1, &init), None);
    assert_eq!(world.state(1, 0), PeerState::AwaitingInitiator);
    assert_eq!(refusal(&mut world, 1, &init), Some(DropReason::StaleInitiation));
    world.run(timing::OFFER_KEPT + SECOND);
    assert_eq!(world.state(1, 0), PeerState::Idle);
    assert_eq!(world.hosts[1].installed(), 0);
    assert_eq!(world.hosts[1].count(|o| matches!(o, Output::Up { .. })), ups);
}

#[test]
fn a_replay_never_displaces_a_session_that_works() {
    // An initiation that the responder did not get in its time, delivered after a later one.
    let mut world = World::new(2);
    world.filter = Box::new(|at, _| at >= weft_wire::Time::ZERO + Duration::from_millis(100));
    world.connect(0, 1);
    world.run(SECOND);
    assert!(world.is_joined(0, 1));
    let before = world.hosts[1].session(world.id(0));
    let kept_back = world.sent_by(0, Kind::Init)[0].bytes.clone();
    assert_eq!(
        refusal(&mut world, 1, &kept_back),
        Some(DropReason::StaleInitiation)
    );
    assert_eq!(world.hosts[1].session(world.id(0)), before);
    assert_eq!(world.hosts[1].installed(), 1);
}

#[test]
fn an_init_for_another_host_is_refused() {
    let (mut world, init) = initiation(3);
    assert_eq!(refusal(&mut world, 2, &init), Some(DropReason::BadMac1));
    assert_eq!(
        refusal(&mut world, 0, &init),
        Some(DropReason::BadMac1),
        "its own, reflected"
    );
}

#[test]
fn a_host_with_another_secret_is_refused() {
    let mut world = World::new(2);
    world.input(0, Input::Secrets(&[secret(2)]));
    world.connect(0, 1);
    world.run(SECOND);
    assert!(world.hosts[1].drops(DropReason::UnknownKeyId) > 0);
    // Even if it guesses the key id.
    let mut init = world.sent_by(0, Kind::Init)[0].bytes.clone();
    init[8..16].copy_from_slice(&secret(1).psk(weft_wire::secret::Protocol::Sleeve).id.0);
    assert_eq!(refusal(&mut world, 1, &init), Some(DropReason::BadMac1));
}

/// What host 1 refuses host 0 for, after `change` to host 0 and its restart.
fn refused_after(change: impl FnOnce(&mut World)) -> Vec<DropReason> {
    let mut world = World::new(2);
    change(&mut world);
    world.connect(0, 1);
    world.run(Duration::from_millis(100));
    assert_eq!(world.hosts[1].installed(), 0);
    assert!(world.sent_by(1, Kind::Resp).is_empty());
    world.hosts[1]
        .log
        .iter()
        .filter_map(|(_, o)| {
            if let Output::Dropped(reason, _) = o {
                Some(*reason)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn a_host_of_another_cluster_is_refused() {
    let reasons = refused_after(|world| {
        world.hosts[0].genesis = GenesisId([8; 32]);
        world.restart(0);
    });
    assert_eq!(reasons, [DropReason::ForeignCluster]);
}

#[test]
fn a_host_that_is_no_member_is_refused() {
    let reasons = refused_after(|world| {
        let id = world.id(0);
        world.input(1, Input::RemovePeer(id));
    });
    assert_eq!(reasons, [DropReason::NotAMember]);
}

#[test]
fn a_host_with_another_noise_key_than_its_record_says_is_refused() {
    let reasons = refused_after(|world| {
        world.hosts[0].noise = weft_wire::NoiseKeypair::from_secret([99; 32]).unwrap();
        world.restart(0);
    });
    assert_eq!(reasons, [DropReason::NotAMember]);
}

#[test]
fn a_forged_certificate_is_refused() {
    // Host 2 says that it is host 0, with a certificate that host 2 signed.
    let mut world = World::new(3);
    let (liar, victim) = (NodeKey::from_seed([77; 32]), world.id(0));
    let noise = weft_wire::NoiseKeypair::from_secret([98; 32]).unwrap();
    let local = LocalNode {
        node: victim,
        certificate: liar.certify_noise_static(&noise.public()),
        noise,
        genesis: GenesisId([7; 32]),
        incarnation: 9,
        ciphers: Cipher::ALL.to_vec(),
    };
    let mut sleeve = Sleeve::new(local, [3; 32]);
    sleeve.handle(world.now, Input::Secrets(&[secret(1)]));
    let target = world.id(1);
    sleeve.handle(world.now, Input::UpsertPeer(target, world.hosts[1].info()));
    sleeve.handle(world.now, Input::Connect(target));
    let Some(Output::Send { bytes, .. }) = sleeve.poll_output() else {
        panic!("nothing was sent");
    };
    assert_eq!(refusal(&mut world, 1, &bytes), Some(DropReason::BadCertificate));
    assert_eq!(world.hosts[1].installed(), 0);
}

#[test]
fn kinds_of_the_engine_and_unknown_ones_are_refused() {
    let mut world = World::new(2);
    for octet in 0..=255u8 {
        let reason = match Kind::from_octet(octet) {
            None => DropReason::UnknownKind,
            Some(Kind::Init | Kind::Resp | Kind::Cookie | Kind::Relay) => DropReason::DatagramTooShort,
            Some(_) => DropReason::KindNotServed,
        };
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = octet;
        let from = elsewhere();
        let outputs = world.input(1, Input::Datagram { from, bytes: &bytes });
        assert_eq!(outputs, [Output::Dropped(reason, Some(from))]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn random_octets_never_panic_and_never_pay_off(
        octet in prop_oneof![any::<u8>(), Just(0x10), Just(0x11), Just(0x12)],
        mut bytes in proptest::collection::vec(any::<u8>(), 1..400),
        exact in any::<bool>(),
    ) {
        let (mut world, _) = initiation(2);
        bytes[0] = octet;
        if exact {
            let length = match octet { 0x10 => INIT_LEN, 0x11 => RESP_LEN, _ => COOKIE_LEN };
            bytes.resize(length, 0);
            // The index of the attempt that waits, so that the checks behind it are reached.
            let index = world.sent_by(0, Kind::Init)[0].bytes[4..8].to_vec();
            bytes[2..4].fill(0);
            bytes[4..8].copy_from_slice(&index);
        }
        for i in 0..2 {
            let outputs = world.deliver(i, elsewhere(), &bytes);
            let paid = outputs.iter().any(|o| matches!(o, Output::Send { .. } | Output::Install(_)));
            prop_assert!(!paid);
        }
    }

    #[test]
    fn engine_reports_about_sessions_that_never_were_do_nothing(index: u32, sent: u64, received: u64) {
        let mut world = World::joined();
        let local = weft_wire::SessionIndex(index);
        let ours = world.hosts[0].session(world.id(1)).map(|(local, _)| local);
        prop_assume!(Some(local) != ours);
        for input in [
            Input::Activity { local, sent, received, frames: sent, large: sent, relayed: received },
            Input::ProbeAnswered { local, probe: Probe { number: received, size: 1_472 } },
            Input::ProbeRefused { local, probe: Probe { number: received, size: 1_472 } },
            Input::TooBig { local, size: 1_472 },
            Input::Opened { local, from: Some(elsewhere()) },
            Input::Roamed { local, from: elsewhere() },
        ] {
            prop_assert_eq!(world.input(0, input), vec![]);
        }
    }
}
