//! How other systems have come to give one address twice, or to lose addresses; each as a story that ends well here.

use crate::stories::{owned, started};
use crate::world::World;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use weft_ipam_crdt::message::Message;
use weft_ipam_crdt::{AllocError, Event, Input, REST};
use weft_wire::GenesisId;
use weft_wire::ipam::{Grant, SlotRun, Version};

const SECOND: Duration = Duration::from_secs(1);

/// Addresses that a host has told its pods.
fn told(world: &World, host: usize) -> BTreeSet<IpAddr> {
    world.hosts[host].told.values().flatten().copied().collect()
}

fn allocate(world: &mut World, host: usize, pods: usize, name: &str) {
    for at in 0..pods {
        world.allocate(host, &format!("{name}-{at}"));
    }
    world.run(SECOND);
}

/// The allocator starts again, finds no pods in its list, and gives their addresses out once more.
#[test]
fn a_restart_forgets_nothing() {
    let mut world = started("10.32.0.0/24", 3, 3);
    allocate(&mut world, 1, 20, "before");
    let before = told(&world, 1);
    world.crash(1);
    world.start(1);
    allocate(&mut world, 1, 20, "after");
    let all = told(&world, 1);
    assert_eq!((before.len(), all.len()), (20, 40));
    assert!(before.is_subset(&all));
}

/// A host reads an old copy of who owns what, and acts on it.
#[test]
fn an_old_table_gives_nobody_anything() {
    let mut world = started("10.32.0.0/24", 3, 1);
    let was = world.state(0).table().clone();
    // While host 2 hears nothing, host 1 gets more of what host 0 has.
    world.sides = vec![0, 0, 1];
    allocate(&mut world, 1, 110, "pod");
    world.run(5 * SECOND);
    let moved =
        |slot: &u32| was.get(*slot).unwrap().owner != world.state(0).table().get(*slot).unwrap().owner;
    let slot = (1..255).find(moved).expect("a slot has moved");
    let address = format!("10.32.0.{slot}");
    assert_eq!(
        world.state(2).table().get(slot),
        was.get(slot),
        "it knows the old table only"
    );
    let alone = world.claim(2, "old", &address);
    world.run(11 * SECOND);
    assert!(matches!(
        world.hosts[2].answers[&alone],
        Err(AllocError::Deadline { .. })
    ));
    world.sides = vec![0; 3];
    world.claim(2, "new", &address);
    world.claim(1, "new", &address);
    world.run(5 * SECOND);
    let holders = (0..3).filter(|host| told(&world, *host).contains(&address.parse().unwrap()));
    assert_eq!(holders.count(), 1);
}

/// A host comes back with the name of before and without what it had done under it.
#[test]
fn an_identity_without_its_memory_gives_nothing_out() {
    let mut world = started("10.32.0.0/24", 2, 1);
    let old = world.disk(0);
    allocate(&mut world, 1, 200, "pod");
    world.run(5 * SECOND);
    world.conflicts_expected = true;
    world.crash(0);
    world.hosts[0].told.clear();
    world.set_disk(0, old);
    world.start(0);
    world.run(5 * SECOND);
    let request = world.allocate(0, "new");
    world.run(SECOND);
    assert!(matches!(
        world.hosts[0].answers[&request],
        Err(AllocError::Frozen(_))
    ));
}

/// A freed address goes to the next pod while others still send to the last one; or it does so after a restart.
#[test]
fn an_address_is_not_given_again_at_once_nor_after_a_restart() {
    let mut world = World::new(1, "10.32.0.0/29", 1, 1);
    world.start(0);
    allocate(&mut world, 0, 6, "pod");
    let freed = *world.hosts[0].told["pod-2"].first().unwrap();
    world.free(0, "pod-2");
    world.run(SECOND);
    world.crash(0);
    world.start(0);
    let early = world.allocate(0, "next");
    world.run(REST - SECOND);
    assert!(world.hosts[0].answers[&early].is_err());
    let late = world.allocate(0, "next");
    world.run(2 * SECOND);
    assert_eq!(
        world.hosts[0].answers[&late].as_ref().unwrap().address.addr(),
        freed
    );
}

/// Hosts that are gone keep most of the range from those that are left.
#[test]
fn what_the_dead_held_is_used_by_the_living() {
    let mut world = started("10.32.0.0/24", 3, 3);
    world.crash(1);
    world.crash(2);
    assert!(owned(&world, 0) < 90);
    world.remove(0, &[1, 2], true);
    world.run(20 * SECOND);
    allocate(&mut world, 0, 250, "pod");
    world.run(12 * SECOND);
    assert!(told(&world, 0).len() >= 250, "{}", told(&world, 0).len());
}

/// Two clusters that were founded apart are merged, and every slot has two owners.
#[test]
fn what_was_signed_in_another_cluster_moves_nothing() {
    let mut world = started("10.32.0.0/24", 2, 1);
    world.conflicts_expected = true;
    let (before, run) = (
        world.state(1).table().clone(),
        world.state(0).table().runs_of(&world.id(0))[0],
    );
    let version = Version {
        epoch: world.state(0).epoch(),
        seq: run.version.seq + 1,
    };
    let runs = vec![SlotRun {
        count: 1,
        version,
        ..run
    }];
    let foreign = Grant::sign(&world.hosts[0].key, &GenesisId([9; 32]), world.id(1), runs);
    let (from, chain) = (world.id(0), vec![]);
    let bytes = Message::Grant {
        grant: foreign,
        chain,
    }
    .encode();
    world.give(1, Input::Message { from, bytes });
    assert_eq!(*world.state(1).table(), before);
    let is_named = |(host, event): &(usize, Event)| *host == 1 && matches!(event, Event::Misbehaved { .. });
    assert!(world.events.iter().any(is_named));
}

/// One range is cut at two places at once, and the copies of who has what never agree again.
#[test]
fn ranges_cut_on_both_sides_of_a_partition_agree_after_the_heal() {
    let mut world = started("10.32.0.0/22", 4, 1);
    world.sides = vec![0, 0, 1, 1];
    for host in 0..4 {
        allocate(&mut world, host, 150, &format!("pod{host}"));
    }
    world.run(12 * SECOND);
    world.sides = vec![0; 4];
    world.run(20 * SECOND);
    assert!(world.is_converged());
    let all: Vec<IpAddr> = (0..4).flat_map(|host| told(&world, host)).collect();
    assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len());
}

/// Two hosts take over the addresses of a third one, each by itself (Weave 3310).
#[test]
fn a_takeover_by_two_leaves_one_owner() {
    let mut world = started("10.32.0.0/24", 4, 4);
    world.crash(3);
    world.remove(0, &[3], true);
    world.remove(1, &[3], true);
    world.remove(2, &[3], true);
    world.run(20 * SECOND);
    assert!(world.is_converged());
    let owners: Vec<u32> = (0..3).map(|host| owned(&world, host)).collect();
    assert_eq!(owners.iter().sum::<u32>(), 256, "{owners:?}");
    for host in 0..3 {
        allocate(&mut world, host, 80, &format!("pod{host}"));
    }
    world.run(12 * SECOND);
    let all: Vec<IpAddr> = (0..3).flat_map(|host| told(&world, host)).collect();
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (240, 240));
}
