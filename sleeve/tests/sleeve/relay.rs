//! Two hosts that cannot reach each other, through others.

use crate::lab::*;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use weft_sleeve::timing::*;
use weft_sleeve::*;
use weft_wire::DropReason;
use weft_wire::datagram::{FLAG_BY_RELAY, Kind, RELAY_SHIM_LEN, RelayShim};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Pairs of hosts between which nothing passes, in this direction.
type Cuts = Arc<Mutex<BTreeSet<(SocketAddr, SocketAddr)>>>;

/// Hosts 0 and 1, and relays from 2 on that both can reach; what is cut can be changed later.
fn apart(n: u8) -> (World, Cuts) {
    let mut world = World::new(n);
    let cuts = Cuts::default();
    let filter = Arc::clone(&cuts);
    world.filter = Box::new(move |_, flight| !filter.lock().unwrap().contains(&(flight.from, flight.to)));
    cut(&world, &cuts, 0, 1);
    cut(&world, &cuts, 1, 0);
    for relay in 2..usize::from(n) {
        world.connect(0, relay);
        world.connect(1, relay);
    }
    world.run(SECOND);
    (world, cuts)
}

fn pair(world: &World, i: usize, j: usize) -> (SocketAddr, SocketAddr) {
    (world.hosts[i].address, world.hosts[j].address)
}

fn cut(world: &World, cuts: &Cuts, i: usize, j: usize) {
    cuts.lock().unwrap().insert(pair(world, i, j));
}

fn heal(world: &World, cuts: &Cuts, i: usize, j: usize) {
    cuts.lock().unwrap().remove(&pair(world, i, j));
}

/// Tells hosts 0 and 1 of routes to one another.
fn route(world: &mut World, relays: &[usize]) {
    let relays: Vec<_> = relays.iter().map(|i| world.id(*i)).collect();
    for (i, j) in [(0, 1), (1, 0)] {
        let (peer, relays) = (world.id(j), relays.clone());
        world.input(i, Input::Relays { peer, relays });
    }
}

fn way(world: &World, i: usize, j: usize) -> Option<Way> {
    world.hosts[i].ways.get(&world.id(j)).copied()
}

fn by(world: &World, relay: usize) -> Option<Way> {
    Some(Way::Relay(world.id(relay)))
}

fn straight(world: &World, j: usize) -> Option<Way> {
    Some(Way::Direct(world.hosts[j].address))
}

/// Hosts 0 and 1 with a session through host 2.
fn relayed(n: u8) -> (World, Cuts) {
    let (mut world, cuts) = apart(n);
    let relays: Vec<usize> = (2..usize::from(n)).collect();
    route(&mut world, &relays);
    world.connect(0, 1);
    world.run(SECOND * 3);
    assert!(world.is_joined(0, 1), "{:?}", world.state(0, 1));
    for (i, j) in [(0, 1), (1, 0)] {
        assert_eq!(way(&world, i, j), by(&world, 2));
    }
    (world, cuts)
}

/// Frames each way every 100 ms; says how many were lost.
fn lost(world: &mut World, time: Duration) -> (u64, u64) {
    let before = (world.frames(1, 0), world.frames(0, 1));
    let sent = world.run_with_traffic(time, 0, 1);
    world.run(ms(50));
    let came = (world.frames(1, 0) - before.0, world.frames(0, 1) - before.1);
    (sent.0 - came.0, sent.1 - came.1)
}

#[test]
fn the_straight_way_is_tried_first_and_then_the_relay_by_turns() {
    let (mut world, _) = apart(3);
    world.connect(0, 1);
    world.run(SECOND * 5);
    assert_eq!(
        world.state(0, 1),
        PeerState::AwaitingResponse,
        "no route is known"
    );
    assert_eq!(world.sent_by(0, Kind::Relay).len(), 0);

    let (mut world, _) = apart(3);
    let (us, them) = (world.id(0), world.id(1));
    route(&mut world, &[2]);
    world.connect(0, 1);
    let init = |world: &World| {
        let to = world.hosts[1].address;
        world.sent_by(0, Kind::Init).iter().filter(|f| f.to == to).count()
    };
    while world.sent_by(0, Kind::Relay).is_empty() {
        world.run(ms(10));
    }
    assert_eq!(init(&world), DIRECT_TRIES as usize);
    let flight = world.sent_by(0, Kind::Relay)[0].clone();
    assert_eq!(flight.to, world.hosts[2].address);
    let (shim, inner) = RelayShim::split(&flight.bytes).unwrap();
    assert_eq!(
        (shim.source, shim.destination),
        (us.peer_hash(), them.peer_hash())
    );
    assert_eq!(shim.hop_limit, weft_wire::limits::RELAY_HOPS_MAX);
    assert_eq!((inner[0], inner[1]), (Kind::Init as u8, FLAG_BY_RELAY));
    world.run(ms(100));
    assert!(world.is_joined(0, 1));
    assert_eq!(world.hosts[2].frames.len(), 0, "the relay has no keys");
}

#[test]
fn frames_travel_both_ways_and_the_relay_is_never_taken_for_the_peer() {
    let (mut world, _) = relayed(3);
    assert_eq!(lost(&mut world, SECOND * 20), (0, 0));
    assert!(world.hosts[2].relayed > 400);
    for (i, j) in [(0, 1), (1, 0)] {
        let view = world.hosts[i].sleeve.peer(&world.id(j)).unwrap();
        assert_eq!((view.relay, view.endpoint), (Some(world.id(2)), None));
        assert_eq!(view.state, PeerState::Established);
        let relay = world.hosts[i].sleeve.peer(&world.id(2)).unwrap();
        assert_eq!(relay.endpoint, Some(world.hosts[2].address));
    }
}

#[test]
fn a_session_by_relay_is_renewed_by_relay() {
    let (mut world, _) = relayed(3);
    let before = world.hosts[0].session(world.id(1));
    assert_eq!(lost(&mut world, SECOND * 150), (0, 0));
    assert!(world.is_joined(0, 1));
    assert_ne!(world.hosts[0].session(world.id(1)), before);
    assert_eq!(way(&world, 0, 1), by(&world, 2));
}

#[test]
fn the_straight_way_is_taken_again_when_it_works_and_no_frame_is_lost() {
    let (mut world, cuts) = relayed(3);
    world.run(SECOND * 40);
    // One direction is not enough.
    heal(&world, &cuts, 0, 1);
    assert_eq!(lost(&mut world, SECOND * 30), (0, 0));
    assert_eq!(
        (way(&world, 0, 1), way(&world, 1, 0)),
        (by(&world, 2), by(&world, 2))
    );
    heal(&world, &cuts, 1, 0);
    assert_eq!(lost(&mut world, CHECK_MAX + CHECK_PATIENCE), (0, 0));
    assert_eq!(
        (way(&world, 0, 1), way(&world, 1, 0)),
        (straight(&world, 1), straight(&world, 0))
    );
    assert!(world.is_joined(0, 1));
    let passed = world.hosts[2].relayed;
    assert_eq!(lost(&mut world, SECOND * 10), (0, 0));
    assert_eq!(world.hosts[2].relayed, passed, "nothing goes by relay any longer");
}

/// Hosts 0 and 1 with a session straight, and relays from 2 on.
fn straight_pair(n: u8) -> (World, Cuts) {
    let (mut world, cuts) = apart(n);
    heal(&world, &cuts, 0, 1);
    heal(&world, &cuts, 1, 0);
    let relays: Vec<usize> = (2..usize::from(n)).collect();
    route(&mut world, &relays);
    world.connect(0, 1);
    world.run(SECOND);
    assert_eq!(way(&world, 0, 1), straight(&world, 1));
    (world, cuts)
}

/// How often the hosts have taken another way to each other.
fn ways_taken(world: &World) -> usize {
    let taken = |i: usize, j: usize| {
        let id = world.id(j);
        world.hosts[i].count(|o| matches!(o, Output::Way { peer, .. } if *peer == id))
    };
    taken(0, 1) + taken(1, 0)
}

/// Frames from host 0 to host 1 alone, every 100 ms; says how many were lost.
fn lost_one_way(world: &mut World, time: Duration) -> u64 {
    let before = world.frames(1, 0);
    let end = world.now + time;
    let mut sent = 0;
    while world.now < end {
        sent += u64::from(world.frame(0, 1));
        world.run(ms(100));
    }
    world.run(ms(50));
    // One that was late before may have come now.
    sent.saturating_sub(world.frames(1, 0) - before)
}

/// Directions that break at once.
const BREAKS: [&[(usize, usize)]; 3] = [&[(0, 1), (1, 0)], &[(0, 1)], &[(1, 0)]];

#[test]
fn a_straight_way_that_breaks_is_left_within_five_seconds() {
    for broken in BREAKS {
        // Breaks at all times between two looks at the traffic.
        for after in [0, 20, 500, 990] {
            let (mut world, cuts) = straight_pair(3);
            assert_eq!(lost(&mut world, SECOND * 10 + ms(after)), (0, 0));
            for (i, j) in broken {
                cut(&world, &cuts, *i, *j);
            }
            world.run_with_traffic(SECOND * 5, 0, 1);
            for (i, j) in [(0, 1), (1, 0)] {
                assert_eq!(way(&world, i, j), by(&world, 2), "{i} to {j} of {broken:?}");
            }
            assert_eq!(lost(&mut world, SECOND * 20), (0, 0), "{broken:?}");
            let down = |o: &Output| matches!(o, Output::Down { .. });
            assert_eq!(world.hosts[0].count(down) + world.hosts[1].count(down), 0);
            for (i, j) in broken {
                heal(&world, &cuts, *i, *j);
            }
            assert_eq!(lost(&mut world, CHECK_MAX + SECOND * 2), (0, 0), "{broken:?}");
            assert_eq!(
                (way(&world, 0, 1), way(&world, 1, 0)),
                (straight(&world, 1), straight(&world, 0))
            );
        }
    }
}

#[test]
fn traffic_that_nobody_answers_notices_it_too() {
    for broken in BREAKS {
        let (mut world, cuts) = straight_pair(3);
        assert_eq!(lost_one_way(&mut world, SECOND * 10), 0);
        for (i, j) in broken {
            cut(&world, &cuts, *i, *j);
        }
        lost_one_way(&mut world, SECOND * 5);
        assert_eq!(way(&world, 0, 1), by(&world, 2), "{broken:?}");
        assert_eq!(lost_one_way(&mut world, SECOND * 20), 0, "{broken:?}");
    }
}

#[test]
fn another_address_of_the_peer_is_as_good_as_a_relay() {
    let (mut world, cuts) = straight_pair(2);
    for (i, j) in [(0, 1), (1, 0)] {
        let mut info = world.hosts[j].info();
        info.endpoints.push(world.hosts[j].second);
        let id = world.id(j);
        world.input(i, Input::UpsertPeer(id, info));
    }
    assert_eq!(lost(&mut world, SECOND * 10), (0, 0));
    assert_eq!(way(&world, 0, 1), straight(&world, 1));
    cut(&world, &cuts, 0, 1);
    world.run_with_traffic(SECOND * 5, 0, 1);
    let second = |j: usize| Some(Way::Direct(world.hosts[j].second));
    assert_eq!((way(&world, 0, 1), way(&world, 1, 0)), (second(1), second(0)));
    assert_eq!(lost(&mut world, SECOND * 20), (0, 0));
}

#[test]
fn a_way_that_is_slow_or_loses_much_is_not_left() {
    // Of ten datagrams one is lost each way; or they take up to 0.8 s more.
    for (spread, loss) in [(ms(20), 100), (ms(300), 50), (ms(800), 0)] {
        let (mut world, _) = straight_pair(3);
        let before = ways_taken(&world);
        (world.spread, world.loss) = (spread, loss);
        for _ in 0..30 {
            lost_one_way(&mut world, SECOND * 5);
            world.run_with_traffic(SECOND * 5, 0, 1);
        }
        assert_eq!(ways_taken(&world), before, "{spread:?} {loss}");
        assert_eq!(way(&world, 0, 1), straight(&world, 1));
    }
}

#[test]
fn a_peer_that_is_held_up_is_reached_straight_when_it_goes_on() {
    for pause in [ms(1_700), ms(2_500), SECOND * 4, SECOND * 8] {
        let (mut world, _) = straight_pair(3);
        let before = ways_taken(&world);
        for held in [1, 0, 1] {
            world.hosts[held].held_until = world.now + pause;
            world.run_with_traffic(pause + SECOND * 7 + ms(330), 0, 1);
        }
        assert_eq!(ways_taken(&world), before, "{pause:?}");
        assert_eq!(lost(&mut world, SECOND * 5), (0, 0));
        assert!(world.is_joined(0, 1));
    }
}

#[test]
fn a_straight_way_that_comes_and_goes_is_not_followed_each_time() {
    let (mut world, cuts) = straight_pair(3);
    let before = ways_taken(&world);
    for _ in 0..30 {
        world.run_with_traffic(SECOND * 8, 0, 1);
        cut(&world, &cuts, 0, 1);
        cut(&world, &cuts, 1, 0);
        world.run_with_traffic(SECOND * 8, 0, 1);
        heal(&world, &cuts, 0, 1);
        heal(&world, &cuts, 1, 0);
    }
    // Each of both leaves and comes back: without patience 30 times.
    let taken = ways_taken(&world) - before;
    assert!(taken <= 4 * 12, "{taken}");
    world.run_with_traffic(STEADY_AFTER + CHECK_MAX + SECOND * 2, 0, 1);
    assert_eq!(way(&world, 0, 1), straight(&world, 1));
}

#[test]
fn a_dead_relay_is_replaced_within_five_seconds() {
    // It is dead for both, or passes nothing on in one direction only.
    for dead in [
        vec![(0, 2), (1, 2), (2, 0), (2, 1)],
        vec![(2, 0)],
        vec![(1, 2)],
        vec![(2, 1)],
    ] {
        let (mut world, cuts) = relayed(4);
        lost(&mut world, SECOND * 3 + ms(300));
        for (i, j) in &dead {
            cut(&world, &cuts, *i, *j);
        }
        world.run_with_traffic(SECOND * 5, 0, 1);
        assert_eq!(lost(&mut world, SECOND * 20), (0, 0), "{dead:?}");
        let ways = [(0, 1), (1, 0)].map(|(i, j)| way(&world, i, j));
        assert!(ways.contains(&by(&world, 3)), "{dead:?}");
        assert!(world.is_joined(0, 1));
    }
}

#[test]
fn a_relay_that_is_on_no_route_any_longer_is_left_at_once_if_there_is_another() {
    let (mut world, _) = relayed(4);
    route(&mut world, &[3]);
    assert_eq!(
        (way(&world, 0, 1), way(&world, 1, 0)),
        (by(&world, 3), by(&world, 3))
    );
    assert_eq!(lost(&mut world, SECOND * 5), (0, 0));
    // What gossip says cuts nothing that works.
    route(&mut world, &[]);
    assert_eq!(lost(&mut world, SECOND * 30), (0, 0));
    assert_eq!(way(&world, 0, 1), by(&world, 3));
    // A better one is no reason to leave one that works.
    route(&mut world, &[2, 3]);
    assert_eq!(lost(&mut world, SECOND * 5), (0, 0));
    assert_eq!(way(&world, 0, 1), by(&world, 3));
}

#[test]
fn a_cookie_is_asked_for_and_given_by_relay() {
    let (mut world, _) = apart(3);
    route(&mut world, &[2]);
    // As many handshakes as are served without one.
    let flood = World::joined().sent_by(0, Kind::Init)[0].bytes.clone();
    let elsewhere: SocketAddr = "203.0.113.99:9".parse().unwrap();
    world.connect(0, 1);
    while world.sent_by(0, Kind::Relay).is_empty() {
        world.run(ms(1));
    }
    // Just before it arrives.
    world.run(ms(9));
    while world.hosts[1].drops(DropReason::CookieRequired) == 0 {
        world.deliver(1, elsewhere, &flood);
    }
    world.run(ms(200));
    assert!(world.is_joined(0, 1));
    let kinds: Vec<_> = world
        .sent_by(1, Kind::Relay)
        .iter()
        .map(|f| f.bytes[RELAY_SHIM_LEN])
        .collect();
    assert_eq!(kinds[..2], [Kind::Cookie as u8, Kind::Resp as u8]);
}

#[test]
fn what_a_relay_can_have_changed_is_refused() {
    let (mut world, _) = apart(3);
    route(&mut world, &[2]);
    world.connect(0, 1);
    while world.sent_by(0, Kind::Relay).is_empty() {
        world.run(ms(1));
    }
    let relay = world.hosts[2].address;
    let good = world.sent_by(0, Kind::Relay)[0].bytes.clone();
    let mut refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let outputs = world.input(
            1,
            Input::Datagram {
                from: relay,
                bytes: &bytes,
            },
        );
        match outputs[..] {
            [Output::Dropped(reason, _)] => reason,
            _ => panic!("{outputs:?}"),
        }
    };
    let flags = RELAY_SHIM_LEN + 1;
    assert_eq!(
        refused(&|b| b[4] ^= 1),
        DropReason::KindNotServed,
        "for another host"
    );
    assert_eq!(refused(&|b| b.truncate(19)), DropReason::DatagramTooShort);
    assert_eq!(
        refused(&|b| b.truncate(RELAY_SHIM_LEN)),
        DropReason::RelayBadInner
    );
    assert_eq!(refused(&|b| b[flags] = 0), DropReason::RelayBadInner);
    assert_eq!(
        refused(&|b| b[RELAY_SHIM_LEN] = Kind::Data as u8),
        DropReason::KindNotServed
    );
    assert_eq!(
        refused(&|b| drop(b.drain(..RELAY_SHIM_LEN - 4))),
        DropReason::UnknownKind
    );
    // Out of its shim it is still marked; marked otherwise it does not decrypt.
    let stripped = good[RELAY_SHIM_LEN..].to_vec();
    let mut unmarked = stripped.clone();
    unmarked[1] = 0;
    assert_eq!(
        world
            .input(
                1,
                Input::Datagram {
                    from: relay,
                    bytes: &unmarked
                }
            )
            .len(),
        1
    );
    assert_eq!(world.hosts[1].drops(DropReason::BadMac1), 1);
    world.input(
        1,
        Input::Datagram {
            from: relay,
            bytes: &stripped,
        },
    );
    assert_eq!(world.state(1, 0), PeerState::AwaitingInitiator);
    assert_eq!(world.hosts[1].sleeve.peer(&world.id(0)).unwrap().endpoint, None);
}

#[test]
fn a_path_by_relay_leaves_room_for_the_shim() {
    for carries in [1_500, 1_280] {
        let (mut world, _) = apart(3);
        world.carries = carries;
        route(&mut world, &[2]);
        world.connect(0, 1);
        world.run(SECOND * 10);
        let view = world.hosts[0].sleeve.peer(&world.id(1)).unwrap();
        let found = usize::from(view.path_mtu.unwrap());
        assert!(found <= carries && found + 16 > carries, "{found} of {carries}");
        let datagram = usize::from(world.hosts[0].datagrams[&world.id(1)]);
        assert_eq!(datagram + RELAY_SHIM_LEN + 28, found);
    }
}
