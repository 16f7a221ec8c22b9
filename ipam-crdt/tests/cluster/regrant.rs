//! More addresses of a removed host than can be lent: its slots go back to it, and rest on.

use crate::stories::owned;
use crate::world::World;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use weft_ipam_crdt::{AllocError, Held, RECLAIM_REST, rules};
use weft_wire::ipam::LENT_MAX;

const SECOND: Duration = Duration::from_secs(1);

/// Host 2 had this many pods, was removed by the others, and its pods' addresses are about to be claimed by host 3.
fn removed_with(range: &str, pods: usize, fenced: bool) -> (World, BTreeMap<String, IpAddr>) {
    let mut world = World::new(1, range, 4, 3);
    for host in 0..3 {
        world.start(host);
    }
    world.run(5 * SECOND);
    let requests: Vec<_> = (0..pods)
        .map(|at| {
            let id = format!("pod-{at}");
            (world.allocate(2, &id), id)
        })
        .collect();
    world.run(5 * SECOND);
    let had = requests
        .into_iter()
        .map(|(request, id)| {
            let answer = world.hosts[2].answers[&request].as_ref().unwrap();
            (id, answer.address.addr())
        })
        .collect();
    world.crash(2);
    world.remove(0, &[2], fenced);
    world.run(10 * SECOND);
    assert!(world.state(0).gone().contains_key(&world.id(2)));
    world.start(3);
    world.run(5 * SECOND);
    assert!(world.state(3).members().contains(&world.id(3)));
    (world, had)
}

fn heir(world: &World) -> usize {
    let state = world.state(0);
    let heir = rules::reclaimer_at(state, state.epoch()).unwrap();
    (0..4).find(|host| world.id(*host) == heir).unwrap()
}

fn lent(world: &World, host: usize) -> usize {
    let held = world.state(host).addresses().values();
    held.filter(|held| matches!(held, Held::Lent { .. })).count()
}

#[test]
fn all_of_six_hundred_pods_keep_their_addresses() {
    // Slots of one address, and of sixteen.
    for range in ["10.32.0.0/16", "10.32.0.0/12"] {
        let (mut world, had) = removed_with(range, 600, false);
        let heir = heir(&world);
        let before = owned(&world, 3);
        let claims: Vec<_> = had
            .iter()
            .map(|(id, address)| world.claim(3, id, &address.to_string()))
            .collect();
        world.run(9 * SECOND);
        for (request, (id, address)) in claims.iter().zip(&had) {
            let answer = world.hosts[3].answers[request].as_ref();
            assert_eq!(answer.map(|a| a.address.addr()), Ok(*address), "{range}, {id}");
        }
        assert!(lent(&world, heir) <= LENT_MAX);
        assert!(owned(&world, 3) > before, "{range}: no slot came back");
        world.run(5 * SECOND);
        assert!(world.is_converged());
        for host in [0, 1, 3] {
            assert_eq!(world.findings(host), [], "host {host}");
        }

        // What came back rests there: nobody who takes any address gets one, also after a restart.
        let size = if range.ends_with("16") { 1 } else { 16 };
        let came_back = world.state(3).resting_slots().clone();
        assert!(!came_back.is_empty());
        world.crash(3);
        world.start(3);
        world.run(5 * SECOND);
        assert_eq!(world.state(3).resting_slots(), &came_back);
        let address = format!("any of {range}");
        let any = world.allocate(3, &address);
        world.run(SECOND);
        let given = world.hosts[3].answers[&any].as_ref().unwrap().address.addr();
        assert!(
            !came_back.contains(&(world.offset(given) / size)),
            "{given} rests"
        );
        // After a day it is as any other.
        world.run(RECLAIM_REST);
        assert!(world.state(3).resting_slots().is_empty());
    }
}

#[test]
fn what_the_others_have_given_away_stays_theirs_and_its_slot_with_them() {
    let (mut world, had) = removed_with("10.32.0.0/12", 600, false);
    let heir = heir(&world);
    let (id, taken) = had.iter().nth(300).unwrap();
    let other = world.claim(1 - heir, "other", &taken.to_string());
    world.run(SECOND);
    assert!(world.hosts[1 - heir].answers[&other].is_ok());
    let claims: BTreeMap<&String, _> = had
        .iter()
        .map(|(id, address)| (id, world.claim(3, id, &address.to_string())))
        .collect();
    world.run(11 * SECOND);
    for (id_of, request) in &claims {
        match &world.hosts[3].answers[request] {
            Ok(_) => assert_ne!(*id_of, id),
            Err(AllocError::TakenElsewhere { address, .. }) => assert_eq!(address, taken),
            Err(error) => panic!("{id_of}: {error}"),
        }
    }
    // The slot with that address cannot go, and the other fifteen in it are lent.
    let slot = world.offset(*taken) / 16;
    let owner = world.state(3).table().get(slot).unwrap().owner;
    assert_eq!(owner, world.id(heir));
}

#[test]
fn vouched_for_slots_do_not_rest_wherever_they_go() {
    let (mut world, had) = removed_with("10.32.0.0/16", 400, true);
    for (id, address) in &had {
        world.claim(3, id, &address.to_string());
    }
    world.run(9 * SECOND);
    for host in [0, 1, 3] {
        assert!(world.state(host).resting_slots().is_empty(), "host {host}");
    }
}
