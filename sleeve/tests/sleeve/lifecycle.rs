//! Sessions come up, are renewed, move, and end as the crate's documentation says.

use crate::lab::*;
use proptest::prelude::*;
use std::time::Duration;
use weft_sleeve::timing::*;
use weft_sleeve::*;
use weft_wire::datagram::Kind;
use weft_wire::limits::SESSIONS_MAX;
use weft_wire::{DropReason, NodeId, NoisePublic, Time};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn one_handshake_carries_frames_both_ways() {
    let mut world = World::new(2);
    assert_eq!(world.state(0, 1), PeerState::Idle);
    world.connect(0, 1);
    assert_eq!(world.state(0, 1), PeerState::AwaitingResponse);
    assert!(!world.frame(0, 1), "nothing to send under before the response");
    world.run(ms(11));
    // The initiator may send after one round trip, the responder after one and a half.
    assert_eq!(world.state(0, 1), PeerState::Established);
    assert_eq!(world.state(1, 0), PeerState::AwaitingInitiator);
    assert!(!world.frame(1, 0));
    world.run(ms(5));
    assert!(world.is_joined(0, 1));
    assert!(world.frame(0, 1) && world.frame(1, 0));
    world.run(ms(5));
    assert_eq!((world.frames(0, 1), world.frames(1, 0)), (1, 1));
    for (i, j) in [(0, 1), (1, 0)] {
        let up = Output::Up {
            peer: world.id(j),
            cipher: Cipher::Aes256Gcm,
        };
        assert_eq!(world.hosts[i].count(|o| *o == up), 1);
        let view = world.hosts[i].sleeve.peer(&world.id(j)).unwrap();
        assert_eq!(view.endpoint, Some(world.hosts[j].address));
        assert_eq!((view.unanswered, view.last_error), (0, None));
    }
}

#[test]
fn the_responder_chooses_among_what_is_offered() {
    use Cipher::*;
    for (initiator, responder, chosen) in [
        (
            vec![Aes256Gcm, ChaCha20Poly1305],
            vec![ChaCha20Poly1305, Aes256Gcm],
            Some(ChaCha20Poly1305),
        ),
        (
            vec![ChaCha20Poly1305],
            vec![Aes256Gcm, ChaCha20Poly1305],
            Some(ChaCha20Poly1305),
        ),
        (
            vec![ChaCha20Poly1305, Aes256Gcm],
            vec![Aes256Gcm],
            Some(Aes256Gcm),
        ),
        (vec![ChaCha20Poly1305], vec![Aes256Gcm], None),
    ] {
        let mut world = World::new(2);
        for (i, ciphers) in [(0, initiator), (1, responder)] {
            world.hosts[i].ciphers = ciphers;
            world.restart(i);
        }
        world.connect(0, 1);
        world.run(SECOND);
        let view = world.hosts[0].sleeve.peer(&world.id(1)).unwrap();
        assert_eq!(view.cipher, chosen);
        assert_eq!(world.is_joined(0, 1), chosen.is_some());
        if chosen.is_none() {
            assert!(world.hosts[1].drops(DropReason::NoCommonCipher) > 0);
            let view = world.hosts[1].sleeve.peer(&world.id(0)).unwrap();
            assert_eq!(view.last_error, Some(DropReason::NoCommonCipher));
        }
    }
}

#[test]
fn of_crossing_initiations_that_of_the_lower_node_stands() {
    let mut world = World::new(2);
    world.connect(0, 1);
    world.connect(1, 0);
    world.run(SECOND);
    assert!(world.is_joined(0, 1));
    assert_eq!(world.hosts[0].drops(DropReason::CrossingInitiation), 1);
    assert_eq!(world.hosts[1].drops(DropReason::CrossingInitiation), 0);
    assert_eq!(world.sent_by(0, Kind::Resp).len(), 0);
    assert_eq!(world.sent_by(1, Kind::Resp).len(), 1);
    assert_eq!((world.hosts[0].installed(), world.hosts[1].installed()), (1, 1));
}

#[test]
fn without_a_frame_that_waits_the_lower_node_alone_initiates() {
    let mut world = World::new(2);
    let ids = [world.id(0), world.id(1)];
    world.input(0, Input::Keep(ids[1]));
    world.input(1, Input::Keep(ids[0]));
    assert_eq!(world.state(0, 1), PeerState::AwaitingResponse);
    assert_eq!(world.state(1, 0), PeerState::AwaitingInitiation);
    world.run(SECOND);
    assert!(world.is_joined(0, 1));
    let sent = |i| world.sent_by(i, Kind::Init).len();
    assert_eq!((sent(0), sent(1)), (1, 0));
}

#[test]
fn the_higher_node_waits_for_the_lower_only_a_moment_and_with_a_frame_not_at_all() {
    for frame_waits in [false, true] {
        let mut world = World::new(2);
        let lower = world.id(0);
        world.input(1, Input::Keep(lower));
        world.run(ms(100));
        assert_eq!(world.sent_by(1, Kind::Init).len(), 0);
        if frame_waits {
            world.connect(1, 0);
            assert_eq!(world.sent_by(1, Kind::Init).len(), 1);
        }
        world.input(1, Input::Keep(lower));
        world.run(YIELD - ms(1) - ms(100));
        assert_eq!(world.is_joined(0, 1), frame_waits);
        world.run(ms(100));
        assert!(world.is_joined(0, 1));
        assert_eq!(world.sent_by(1, Kind::Init).len(), 1);
    }
}

#[test]
fn a_crossing_initiation_shows_the_lower_node_where_to_go() {
    // The lower node knows a wrong address of the higher one, which alone can reach the other.
    let mut world = World::new(2);
    let info = PeerInfo {
        noise_static: world.hosts[1].noise.public(),
        endpoints: vec!["198.51.100.9:1".parse().unwrap()],
    };
    let id = world.id(1);
    world.input(0, Input::UpsertPeer(id, info));
    world.connect(0, 1);
    world.run(Duration::from_secs(20));
    assert_eq!(world.state(0, 1), PeerState::AwaitingResponse);
    world.connect(1, 0);
    world.run(Duration::from_secs(2));
    assert!(world.is_joined(0, 1));
}

#[test]
fn lost_handshake_datagrams_are_made_up_for() {
    for (kind, lost) in [(Kind::Init, 1), (Kind::Init, 4), (Kind::Resp, 1), (Kind::Resp, 4)] {
        let mut world = World::new(2);
        let mut left = lost;
        world.filter = Box::new(move |_, flight| {
            let drop = flight.kind() == Some(kind) && left > 0;
            left -= u32::from(drop);
            !drop
        });
        world.connect(0, 1);
        world.run(Duration::from_secs(4));
        assert!(world.is_joined(0, 1), "{lost} lost of {kind:?}");
        assert_eq!(world.sent_by(0, Kind::Init).len(), lost as usize + 1);
    }
}

#[test]
fn pauses_grow_to_their_limit_and_attempts_do_not_end() {
    let mut world = World::new(2);
    world.filter = Box::new(|_, _| false);
    world.connect(0, 1);
    world.run(Duration::from_secs(600));
    let times: Vec<Time> = world.hosts[0]
        .log
        .iter()
        .filter(|(_, o)| matches!(o, Output::Send { .. }))
        .map(|(at, _)| *at)
        .collect();
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    let mut limit = RETRY_MIN;
    for pause in &pauses {
        assert!(
            *pause <= limit && *pause > limit * 3 / 4 - ms(1),
            "{pause:?} against {limit:?}"
        );
        limit = (limit * 2).min(RETRY_MAX);
    }
    assert!(pauses.len() > 60);
    world.filter = Box::new(|_, _| true);
    world.run(RETRY_MAX + SECOND);
    assert!(world.is_joined(0, 1));
}

#[test]
fn an_initiator_shows_its_session_again_when_the_first_sign_is_lost() {
    let mut world = World::new(2);
    let mut left = 2;
    world.filter = Box::new(move |_, flight| {
        let drop = flight.kind() == Some(Kind::Keepalive) && left > 0;
        left -= u32::from(drop);
        !drop
    });
    world.connect(0, 1);
    world.run(ms(2_000));
    assert!(world.is_joined(0, 1), "with no traffic, and two keepalives lost");
}

#[test]
fn every_address_of_a_peer_is_tried() {
    let mut world = World::new(2);
    let mut info = world.hosts[1].info();
    info.endpoints.insert(0, "198.51.100.1:1".parse().unwrap());
    info.endpoints.insert(1, "198.51.100.2:1".parse().unwrap());
    let id = world.id(1);
    world.input(0, Input::UpsertPeer(id, info));
    world.connect(0, 1);
    world.run(SECOND);
    assert!(world.is_joined(0, 1));
}

#[test]
fn a_peer_without_an_address_is_called_when_one_becomes_known() {
    let mut world = World::new(2);
    let (id, info) = (world.id(1), world.hosts[1].info());
    let nowhere = PeerInfo {
        endpoints: Vec::new(),
        ..info.clone()
    };
    world.input(0, Input::UpsertPeer(id, nowhere));
    world.connect(0, 1);
    assert_eq!(world.state(0, 1), PeerState::AwaitingEndpoint);
    assert_eq!(world.hosts[0].sleeve.poll_timeout(), None);
    world.input(0, Input::UpsertPeer(id, info));
    world.run(SECOND);
    assert!(world.is_joined(0, 1));
}

#[test]
fn without_a_secret_nothing_is_sent_and_with_one_it_is() {
    let mut world = World::new(2);
    world.input(0, Input::Secrets(&[]));
    world.connect(0, 1);
    assert_eq!(world.state(0, 1), PeerState::AwaitingChance);
    assert!(world.sent.is_empty());
    world.input(0, Input::Secrets(&[secret(1)]));
    world.run(SECOND);
    assert!(world.is_joined(0, 1));
}

#[test]
fn a_rotation_of_the_secret_is_bridged_in_every_order() {
    let (old, new) = (secret(1), secret(2));
    let both = [new.clone(), old.clone()];
    for (initiator, responder, joins) in [
        (&both[..], &both[..], true),
        (&both[..], &both[1..], true),
        (&both[1..], &both[..], true),
        (&both[..1], &both[1..], false),
    ] {
        let mut world = World::new(2);
        world.input(0, Input::Secrets(initiator));
        world.input(1, Input::Secrets(responder));
        world.connect(0, 1);
        world.run(Duration::from_secs(3));
        assert_eq!(world.is_joined(0, 1), joins);
        assert_eq!(
            world.hosts[1].drops(DropReason::UnknownKeyId) == 0,
            initiator[0] == responder[0] || initiator.len() == 1 && joins
        );
    }
}

#[test]
fn a_restarted_responder_is_back_with_the_first_frame() {
    let mut world = World::joined();
    world.restart(1);
    assert!(world.frame(0, 1), "the initiator does not know yet");
    world.run(ms(100));
    assert!(world.is_joined(0, 1));
    // The old session is kept for what is in flight, then removed.
    assert_eq!(world.hosts[0].installed(), 2);
    world.run(PREVIOUS_KEPT);
    assert_eq!(world.hosts[0].installed(), 1);
    assert_eq!(world.hosts[0].count(|o| matches!(o, Output::Down { .. })), 0);
}

#[test]
fn a_restarted_initiator_is_back_with_the_first_frame_of_its_peer() {
    let mut world = World::joined();
    world.restart(0);
    assert!(world.frame(1, 0));
    world.run(ms(100));
    assert!(world.is_joined(0, 1));
    assert!(world.frame(0, 1) && world.frame(1, 0));
    world.run(ms(100));
    assert_eq!((world.frames(0, 1), world.frames(1, 0)), (1, 1));
}

#[test]
fn datagrams_of_unknown_sessions_make_us_initiate_at_most_once_a_second() {
    let mut world = World::new(2);
    world.filter = Box::new(|_, _| false);
    let (from, stranger) = (world.hosts[1].address, "198.51.100.1:9".parse().unwrap());
    for _ in 0..500 {
        world.input(0, Input::UnknownIndex { from });
        world.input(0, Input::UnknownIndex { from: stranger });
        world.run(ms(10));
    }
    let times: Vec<Time> = world.hosts[0]
        .log
        .iter()
        .filter(|(_, o)| matches!(o, Output::Send { .. }))
        .map(|(at, _)| *at)
        .collect();
    // 5 s: the hints of each second, and the repetitions of the first attempt.
    assert!((5..=12).contains(&times.len()), "{} initiations", times.len());
    assert!(world.sent.iter().all(|f| f.to == from));
}

#[test]
fn a_session_that_is_heard_ignores_unknown_indexes() {
    let mut world = World::joined();
    let before = world.sent.len();
    let from = world.hosts[1].address;
    world.input(0, Input::UnknownIndex { from });
    assert_eq!(world.sent.len(), before);
}

#[test]
fn a_host_that_moves_is_followed() {
    let mut world = World::joined();
    let moved = "203.0.113.5:40000".parse().unwrap();
    world.hosts[0].address = moved;
    world.frame(0, 1);
    world.run(ms(5));
    let view = world.hosts[1].sleeve.peer(&world.id(0)).unwrap();
    assert_eq!(view.endpoint, Some(moved));
    world.frame(1, 0);
    world.run(ms(5));
    assert_eq!(world.frames(0, 1), 1);
    // And it is known under the new address, when it later uses a session that we do not hold.
    assert_eq!(world.hosts[1].count(|o| matches!(o, Output::Way { .. })), 2);
}

#[test]
fn sessions_are_renewed_in_time_without_losing_a_frame() {
    let mut world = World::joined();
    let sent = world.run_with_traffic(Duration::from_secs(400), 0, 1);
    world.run(ms(5));
    assert_eq!((world.frames(1, 0), world.frames(0, 1)), sent);
    assert!(sent.0 >= 4_000 && sent.1 >= 4_000);
    let (inits, others) = (
        world.sent_by(0, Kind::Init).len(),
        world.sent_by(1, Kind::Init).len(),
    );
    assert_eq!((inits, others), (4, 0), "every 120 s, by the initiator");
    let ups = world.hosts[0].count(|o| matches!(o, Output::Up { .. }));
    assert_eq!(ups, 1, "a renewal is no news");
    assert!(world.is_joined(0, 1));
    world.run(Duration::from_secs(15));
    assert_eq!((world.hosts[0].installed(), world.hosts[1].installed()), (1, 1));
}

#[test]
fn sessions_are_renewed_by_count() {
    for (end, count, initiates) in [
        (0, REKEY_AFTER_DATAGRAMS - 1, false),
        (0, REKEY_AFTER_DATAGRAMS, true),
        (1, REKEY_AFTER_DATAGRAMS, false),
        (1, REKEY_AFTER_DATAGRAMS * 9 / 8, true),
    ] {
        let mut world = World::joined();
        let before = world.hosts[end].session(world.id(1 - end));
        world.skip_counters(end, 1 - end, count);
        world.report();
        world.run(ms(500));
        let after = world.hosts[end].session(world.id(1 - end));
        assert_eq!(before != after, initiates, "end {end} at {count}");
        assert!(world.is_joined(0, 1));
    }
}

#[test]
fn an_unanswered_renewal_cuts_nothing_until_the_counters_are_used_up() {
    let mut world = World::joined();
    world.filter = Box::new(|_, flight| !matches!(flight.kind(), Some(Kind::Init | Kind::Resp)));
    let sent = world.run_with_traffic(Duration::from_secs(600), 0, 1);
    world.run(ms(5));
    assert_eq!((world.frames(1, 0), world.frames(0, 1)), sent);
    assert_eq!(sent.0, 6_000);
    assert_eq!(world.state(0, 1), PeerState::Established);
    world.skip_counters(0, 1, COUNTER_LIMIT);
    assert!(!world.frame(0, 1), "the engine seals no more");
    world.report();
    let down = Output::Down {
        peer: world.id(1),
        why: DownReason::CountersExhausted,
    };
    assert_eq!(world.hosts[0].count(|o| *o == down), 1);
    assert_eq!(world.hosts[0].installed(), 0);
    world.filter = Box::new(|_, _| true);
    world.run(RETRY_MAX + SECOND);
    assert!(world.is_joined(0, 1));
}

#[test]
fn silence_repeats_the_handshake_then_ends_the_session_and_heals() {
    let mut world = World::joined();
    world.filter = Box::new(|_, _| false);
    let inits = world.sent_by(0, Kind::Init).len();
    world.run(SILENT_AFTER - SECOND);
    assert_eq!(world.state(0, 1), PeerState::Established);
    assert_eq!(world.sent_by(0, Kind::Init).len(), inits, "nobody has asked");
    world.run_with_traffic(Duration::from_secs(3), 0, 1);
    assert_eq!(world.state(0, 1), PeerState::Silent);
    assert!(world.sent_by(0, Kind::Init).len() > inits);
    assert!(world.frame(0, 1), "the session is still in use");
    world.run(DEAD_AFTER);
    let down = Output::Down {
        peer: world.id(1),
        why: DownReason::Silent,
    };
    assert_eq!(world.hosts[0].count(|o| *o == down), 1);
    assert_eq!(world.state(0, 1), PeerState::AwaitingResponse);
    world.run(Duration::from_secs(3600));
    world.filter = Box::new(|_, _| true);
    world.run(RETRY_MAX + SECOND);
    assert!(world.is_joined(0, 1));
}

#[test]
fn an_idle_session_stays_with_one_keepalive_in_five_seconds() {
    let mut world = World::joined();
    let before = world.sent.len();
    world.run(Duration::from_secs(60));
    let keepalives = world.sent_by(0, Kind::Keepalive).len();
    assert!((9..=15).contains(&keepalives), "{keepalives} in 60 s");
    assert!(world.sent.len() - before < 30);
    assert!(world.is_joined(0, 1));
    assert_eq!(world.state(0, 1), PeerState::Established);
}

#[test]
fn a_removed_peer_has_no_session_and_gets_none() {
    let mut world = World::joined();
    let id = world.id(0);
    world.input(1, Input::RemovePeer(id));
    let down = Output::Down {
        peer: id,
        why: DownReason::Removed,
    };
    assert_eq!(world.hosts[1].count(|o| *o == down), 1);
    assert_eq!(world.hosts[1].installed(), 0);
    assert_eq!(world.hosts[1].sleeve.poll_timeout(), None);
    world.run(Duration::from_secs(60));
    assert!(world.hosts[1].drops(DropReason::NotAMember) > 0);
    assert_eq!(world.hosts[1].installed(), 0);
}

#[test]
fn the_table_is_full_of_sessions_in_use_and_has_room_when_one_is_idle() {
    let mut world = World::new(2);
    let peer = |n: usize| {
        let mut id = [0xee; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        NodeId(id)
    };
    let add = |world: &mut World, n: usize| {
        let info = PeerInfo {
            noise_static: NoisePublic([9; 32]),
            endpoints: vec!["198.51.100.1:1".parse().unwrap()],
        };
        world.input(0, Input::UpsertPeer(peer(n), info));
        world.input(0, Input::Connect(peer(n)));
    };
    world.connect(0, 1);
    world.run(SECOND);
    for n in 1..SESSIONS_MAX {
        add(&mut world, n);
    }
    assert_eq!(world.hosts[0].drops(DropReason::SessionTableFull), 0);
    add(&mut world, SESSIONS_MAX);
    assert_eq!(world.hosts[0].drops(DropReason::SessionTableFull), 1);
    let state = |world: &World, n| world.hosts[0].sleeve.peer(&peer(n)).unwrap().state;
    assert_eq!(state(&world, SESSIONS_MAX), PeerState::AwaitingChance);
    // An initiation of somebody else is refused too, and costs nobody a session.
    let mut third = World::new(3);
    let newcomer = third.hosts.remove(2);
    world.hosts.push(newcomer);
    world.hosts[2].address = "192.0.2.77:1".parse().unwrap();
    for (i, j) in [(0, 2), (2, 0)] {
        let (id, info) = (world.id(j), world.hosts[j].info());
        world.input(i, Input::UpsertPeer(id, info));
    }
    world.connect(2, 0);
    world.run(SECOND);
    assert_eq!(world.state(0, 2), PeerState::Idle);
    assert!(world.hosts[0].drops(DropReason::SessionTableFull) > 1);
    // Traffic with one peer, for others: it is a relay. Nobody wants the others: the oldest attempts make room.
    for _ in 0..40 {
        let neighbours = [world.hosts[1].address];
        world.input(0, Input::Relayed(&neighbours));
        world.run(SECOND);
    }
    assert!(world.is_joined(0, 1), "the one in use stays");
    assert!(world.is_joined(0, 2));
    assert_eq!(state(&world, SESSIONS_MAX), PeerState::AwaitingResponse);
}

#[test]
fn the_same_seed_gives_the_same_octets() {
    let run = || {
        let mut world = World::seeded(3, 5);
        (world.loss, world.repeat, world.spread) = (200, 100, ms(80));
        world.connect(0, 1);
        world.connect(1, 2);
        world.connect(2, 0);
        world.run(Duration::from_secs(300));
        world
            .sent
            .iter()
            .map(|f| (f.from, f.to, f.bytes.clone()))
            .collect::<Vec<_>>()
    };
    let (a, b) = (run(), run());
    assert!(a.len() > 100);
    assert!(a == b);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// The lab checks at each step that no nonce comes twice, that only installed sessions are used, and that no
    /// timer is stuck. Afterwards the network works again, and so must every pair.
    #[test]
    fn whatever_the_network_does_sessions_come_back(
        seed: u64,
        loss in 0u32..600,
        repeat in 0u32..400,
        spread in 0u64..2_000,
        events in proptest::collection::vec((0usize..3, 0usize..3, 0u8..4, 0u64..20_000), 0..20),
    ) {
        let mut world = World::seeded(3, seed);
        (world.loss, world.repeat, world.spread) = (loss, repeat, ms(spread));
        for (i, j) in [(0, 1), (1, 2), (0, 2)] {
            world.connect(i, j);
        }
        for (i, j, event, pause) in events {
            match event {
                0 => world.restart(i),
                1 => world.hosts[i].address.set_port(1_000 + (pause % 5) as u16),
                2 if i != j => world.connect(i, j),
                _ => { world.frame(i, j); }
            }
            world.run(ms(pause));
        }
        (world.loss, world.repeat, world.spread) = (0, 0, ms(20));
        for i in 0..3 {
            world.introduce(i);
            for j in 0..3 {
                if i != j {
                    world.connect(i, j);
                }
            }
        }
        // Longer than silence is noticed in, and than the longest pause.
        world.run(Duration::from_secs(45));
        for (i, j) in [(0, 1), (1, 2), (0, 2)] {
            prop_assert!(world.is_joined(i, j), "{i} and {j}: {:?} {:?}", world.state(i, j), world.state(j, i));
            let before = (world.frames(i, j), world.frames(j, i));
            prop_assert!(world.frame(i, j) && world.frame(j, i));
            world.run(ms(100));
            prop_assert_eq!((world.frames(i, j), world.frames(j, i)), (before.0 + 1, before.1 + 1));
        }
    }
}
