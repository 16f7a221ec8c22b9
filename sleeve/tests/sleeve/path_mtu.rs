//! What a path carries is found out under the sessions, and kept as long as the path is the same.

use crate::lab::*;
use std::time::Duration;
use weft_sleeve::path_mtu::{BASE, CONFIRM_AFTER};
use weft_sleeve::timing::*;
use weft_sleeve::*;
use weft_wire::datagram::Kind;

/// What host 0 was told that datagrams to host 1 may have.
fn size(world: &World) -> Option<u16> {
    world.hosts[0].datagrams.get(&world.id(1)).copied()
}

/// Two hosts with a session, and frames that only a path of some size carries.
fn joined() -> World {
    let mut world = World::joined();
    world.frame_len = 1_000;
    world
}

fn probes(world: &World) -> usize {
    world
        .sent
        .iter()
        .filter(|flight| flight.kind() == Some(Kind::Probe))
        .count()
}

#[test]
fn a_new_session_finds_the_usual_size_within_round_trips() {
    let mut world = World::new(2);
    world.connect(0, 1);
    assert_eq!(size(&world), None, "the base is meant");
    world.run(Duration::from_millis(60));
    assert_eq!(size(&world), Some(1_472));
    let view = world.hosts[0].sleeve.peer(&world.id(1)).unwrap();
    assert_eq!(view.path_mtu, Some(1_500));
    world.run(Duration::from_secs(60));
    assert_eq!((size(&world), world.hosts[1].datagrams.len()), (Some(1_472), 1));
}

#[test]
fn a_path_that_shrinks_is_noticed_under_traffic_and_a_rekey_keeps_what_was_found() {
    let mut world = joined();
    world.run(SECOND);
    world.carries = 1_400;
    world.run_with_traffic(CONFIRM_AFTER + Duration::from_secs(3), 0, 1);
    world.run(Duration::from_secs(10));
    let found = size(&world).unwrap();
    assert!((1_356..=1_372).contains(&found), "{found}");
    let session = world.hosts[0].session(world.id(1));
    world.run_with_traffic(REKEY_AFTER + Duration::from_secs(10), 0, 1);
    assert_ne!(world.hosts[0].session(world.id(1)), session);
    assert_eq!(size(&world), Some(found));
}

#[test]
fn a_new_address_is_a_new_path() {
    let mut world = joined();
    world.run(SECOND);
    assert_eq!(size(&world), Some(1_472));
    world.carries = 1_300;
    world.hosts[1].address = ([198, 51, 100, 9], 6783).into();
    world.run_with_traffic(Duration::from_millis(100), 1, 0);
    assert_eq!(size(&world), Some(BASE));
    world.run(Duration::from_secs(10));
    assert!((1_256..=1_272).contains(&size(&world).unwrap()));
}

#[test]
fn what_the_kernel_refuses_counts_at_once() {
    let mut world = joined();
    world.run(SECOND);
    (world.carries, world.interface) = (1_400, 1_400);
    let (local, _) = world.hosts[0].session(world.id(1)).unwrap();
    world.input(0, Input::TooBig { local, size: 1_472 });
    assert_eq!(size(&world), Some(BASE));
    world.run(SECOND);
    assert!((1_356..=1_372).contains(&size(&world).unwrap()));
}

#[test]
fn idle_ends_do_not_keep_each_other_probing() {
    let mut world = joined();
    world.run_with_traffic(Duration::from_secs(10), 0, 1);
    world.run(Duration::from_secs(5));
    let before = probes(&world);
    world.run(Duration::from_secs(300));
    assert_eq!(probes(&world), before);
    // Small frames pass any path, and are no reason to ask.
    world.frame_len = 60;
    world.run_with_traffic(Duration::from_secs(10), 0, 1);
    assert_eq!(probes(&world), before);
    assert_eq!(world.state(0, 1), PeerState::Established);
}
