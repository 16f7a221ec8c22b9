//! How the membership of a host that leaves ends: by the members' decision, at whatever moment something dies.

use crate::stories::started;
use crate::world::{BAD, World};
use std::time::Duration;
use weft_ipam_crdt::{Departure, Held, Input, Lookup, Request, WaitReason};

const SECOND: Duration = Duration::from_secs(1);

fn leave(world: &mut World, host: usize) {
    world.give(host, Input::Request(Request::Leave));
}

fn departure(world: &World, host: usize) -> Departure {
    world.ipam(host).leaving().expect("it leaves").departure
}

fn address(host: u8, slot: u8, at: u8) -> String {
    // Each of three hosts has a third of 10.32.0.0/12, and slots have 16 addresses.
    format!("10.{}.0.{}", 32 + 6 * host, slot * 16 + at)
}

fn offset(text: &str, world: &World) -> u32 {
    world.offset(text.parse().unwrap())
}

#[test]
fn the_last_vote_may_be_the_leavers_own_and_it_stays_until_that_is_known() {
    for seed in 0..30 {
        let mut world = World::new(seed, "10.32.0.0/24", 2, 2);
        world.faults = BAD;
        for host in 0..2 {
            world.start(host);
        }
        world.run(10 * SECOND);
        leave(&mut world, 1);
        let mut waited = 0;
        while !world.ipam(1).leaving().unwrap().is_done() {
            world.run(Duration::from_millis(1));
            waited += 1;
            assert!(waited < 60_000, "seed {seed}: {:?}", world.ipam(1).leaving());
        }
        // It dies at once. Of two members none could decide without it.
        world.crash(1);
        world.run(10 * SECOND);
        assert_eq!(world.state(0).members().len(), 1, "seed {seed}");
        assert_eq!(world.owned(0), 256, "seed {seed}");
        assert_eq!(world.ipam(0).removals(), [], "seed {seed}");
    }
}

#[test]
fn without_a_majority_it_names_whose_votes_are_missing_and_may_stay() {
    let mut world = started("10.32.0.0/24", 4, 4);
    world.sides = vec![0, 1, 1, 0];
    leave(&mut world, 3);
    world.run(20 * SECOND);
    let left = world.ipam(3).leaving().unwrap();
    assert!(left.is_handed_on() && !left.is_done(), "{left:?}");
    let mut others = vec![world.id(1), world.id(2)];
    others.sort();
    let waits = Departure::AwaitingMajority {
        needed: 3,
        missing: others,
    };
    assert_eq!(left.departure, waits);
    world.give(3, Input::Request(Request::Stay));
    world.run(SECOND);
    world.sides = vec![0; 4];
    world.run(10 * SECOND);
    assert_eq!(world.removed(), [].into());
    let request = world.allocate(3, "back");
    world.run(3 * SECOND);
    assert!(world.hosts[3].answers[&request].is_ok());
}

#[test]
fn a_leaver_that_dies_before_the_decision_is_out_by_its_last_word_and_one_that_starts_again_is_not() {
    for starts_again in [false, true] {
        let mut world = started("10.32.0.0/24", 4, 4);
        world.sides = vec![0, 1, 1, 0];
        leave(&mut world, 3);
        world.run(10 * SECOND);
        world.crash(3);
        if starts_again {
            world.start(3);
            world.run(SECOND);
        }
        world.sides = vec![0; 4];
        world.run(10 * SECOND);
        let expected = if starts_again { vec![] } else { vec![world.id(3)] };
        assert_eq!(world.removed().into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(world.ipam(0).removals(), []);
    }
}

#[test]
fn two_of_three_leave_at_once_and_the_third_has_all() {
    for seed in 0..10 {
        let mut world = World::new(seed, "10.32.0.0/24", 3, 3);
        world.faults = BAD;
        for host in 0..3 {
            world.start(host);
        }
        world.run(20 * SECOND);
        leave(&mut world, 0);
        leave(&mut world, 2);
        world.run(60 * SECOND);
        for host in [0, 2] {
            assert_eq!(
                departure(&world, host),
                Departure::Known,
                "seed {seed}, host {host}"
            );
        }
        assert_eq!(world.state(1).members().len(), 1, "seed {seed}");
        assert_eq!(world.owned(1), 256, "seed {seed}");
    }
}

#[test]
fn who_is_told_to_go_at_once_is_out_with_what_it_has() {
    let mut world = started("10.32.0.0/24", 3, 3);
    world.allocate(2, "pod");
    world.run(SECOND);
    leave(&mut world, 2);
    world.run(5 * SECOND);
    assert_eq!(
        departure(&world, 2),
        Departure::AwaitingHandover,
        "a pod has an address"
    );
    world.give(2, Input::Request(Request::Depart));
    world.run(5 * SECOND);
    assert_eq!(departure(&world, 2), Departure::Known);
    assert_eq!(world.owned(0) + world.owned(1), 256);
    // The address rests: its pod may be there still.
    assert_eq!(
        world.state(0).resting_slots().len() + world.state(1).resting_slots().len(),
        1
    );
}

#[test]
fn hosts_that_are_silent_are_removed_by_a_majority_and_not_when_they_are_heard_of() {
    let mut world = started("10.32.0.0/24", 5, 5);
    let silent = |world: &mut World, at: usize, hosts: &[usize]| {
        let hosts = hosts.iter().map(|host| world.id(*host)).collect();
        world.give(at, Input::Request(Request::RemoveSilent(hosts)));
    };
    world.sides = vec![0, 0, 1, 1, 1];
    // A minority decides nothing, and takes it back.
    silent(&mut world, 0, &[2, 3, 4]);
    world.run(10 * SECOND);
    assert_eq!(world.ipam(1).removals().len(), 1);
    silent(&mut world, 0, &[]);
    world.run(SECOND);
    assert_eq!(world.ipam(1).removals(), []);
    // It is not stored.
    silent(&mut world, 0, &[4]);
    world.run(SECOND);
    world.crash(0);
    world.start(0);
    world.run(SECOND);
    world.sides = vec![0; 5];
    world.run(10 * SECOND);
    assert_eq!(world.removed(), [].into());
    // Several ask for the same.
    world.crash(4);
    for host in 0..4 {
        silent(&mut world, host, &[4]);
    }
    world.run(10 * SECOND);
    assert_eq!(world.removed(), [world.id(4)].into());
    assert_eq!(
        world
            .state(0)
            .epochs()
            .iter()
            .filter(|d| !d.epoch.removed.is_empty())
            .count(),
        1
    );
}

#[test]
fn slots_with_lent_addresses_go_to_their_only_borrower() {
    let mut world = started("10.32.0.0/12", 3, 3);
    // Of the founder's slots: one is lent to b alone, one to c alone, one to both.
    let claims = [
        (1, "b1", address(0, 2, 1)),
        (1, "b2", address(0, 2, 9)),
        (2, "c1", address(0, 3, 1)),
        (1, "b3", address(0, 4, 1)),
        (2, "c2", address(0, 4, 2)),
    ];
    for (host, id, address) in &claims {
        let request = world.claim(*host, id, address);
        world.run(SECOND);
        assert!(world.answer(*host, request).is_ok());
    }
    assert_eq!(world.ipam(0).counts().lent, 5);
    leave(&mut world, 0);
    world.run(10 * SECOND);
    let left = world.ipam(0).leaving().unwrap();
    assert!(left.is_done(), "{left:?}");
    assert_eq!((left.lent, left.silent.len()), (2, 0), "{left:?}");
    let owner = |world: &World, slot| world.state(2).table().get(slot).unwrap().owner;
    assert_eq!(owner(&world, 2), world.id(1));
    assert_eq!(owner(&world, 3), world.id(2));
    let is_pod = |world: &World, host: usize, text: &str| {
        matches!(
            world.state(host).addresses().get(&offset(text, world)),
            Some(Held::Pod(_))
        )
    };
    for (host, id, text) in &claims[..3] {
        assert!(is_pod(&world, *host, text), "{id}");
    }
    // What both had borrowed of is taken back with the loans noted, since the founder is out.
    assert!(world.ipam(0).is_removed());
    assert!([1, 2].contains(&(0..3).find(|host| world.id(*host) == owner(&world, 4)).unwrap()));
    for host in [1, 2] {
        assert_eq!(world.findings(host), [], "host {host}");
    }
    for (host, _, text) in &claims {
        let place = world.ipam(3 - host).lookup(text.parse().unwrap());
        assert_eq!(place, Lookup::Host(world.id(*host)), "{text}");
    }
    // It is an address like any other of its host now.
    world.free(1, "b1");
    world.run(SECOND);
    assert_eq!(
        world.state(1).addresses().get(&offset(&claims[0].2, &world)),
        Some(&Held::Resting)
    );
}

#[test]
fn a_borrower_that_does_not_answer_holds_nothing_up_and_keeps_its_addresses() {
    let mut world = started("10.32.0.0/12", 4, 4);
    let text = "10.32.0.33";
    let request = world.claim(1, "pod", text);
    world.run(SECOND);
    assert!(world.answer(1, request).is_ok());
    world.sides = vec![0, 1, 0, 0];
    leave(&mut world, 0);
    world.run(20 * SECOND);
    let left = world.ipam(0).leaving().unwrap();
    assert!(left.is_done() && left.lent == 1, "{left:?}");
    // All members must say that they have none of the slots, so it waits for the borrower.
    assert_eq!(world.ipam(2).removals().len(), 1);
    world.sides = vec![0; 4];
    world.run(20 * SECOND);
    assert_eq!(world.ipam(2).removals(), []);
    assert_eq!(
        world.ipam(1).lookup(text.parse().unwrap()),
        Lookup::Local("pod".into())
    );
    assert_eq!(
        world.ipam(3).lookup(text.parse().unwrap()),
        Lookup::Host(world.id(1))
    );
    assert_eq!(world.findings(1), []);
}

/// Pods come and go on addresses of the leaver's slots, hosts die and start again, messages are lost and doubled. The world
/// looks after each step that no two hosts have one address, and at each start that no host has forgotten one.
#[test]
fn nobody_has_an_address_twice_while_slots_with_loans_are_handed_on() {
    let mut moved = 0;
    for seed in 0..15 {
        let mut world = World::new(seed, "10.32.0.0/12", 3, 3);
        world.faults = BAD;
        for host in 0..3 {
            world.start(host);
        }
        world.run(15 * SECOND);
        let mut pods = 0;
        // So few addresses that both hosts want the same ones, most of a slot's by one host.
        let mut claim = |world: &mut World| {
            let (slot, at) = (world.below(4) as u8, world.below(3) as u8);
            let usual = 1 + usize::from(slot % 2);
            let host = if world.below(3) > 0 { usual } else { 3 - usual };
            pods += 1;
            world.claim(host, &format!("p{pods}"), &address(0, slot, 1 + at));
        };
        for _ in 0..12 {
            claim(&mut world);
            let pause = world.below(200);
            world.run(Duration::from_millis(pause));
        }
        leave(&mut world, 0);
        for _ in 0..60 {
            match world.below(12) {
                0..=6 => claim(&mut world),
                7 | 8 => {
                    let (host, all) = (1 + world.below(2) as usize, world.below(64));
                    let ids: Vec<String> = world.hosts[host].told.keys().cloned().collect();
                    if let Some(id) = ids.get(all as usize % ids.len().max(1)) {
                        world.free(host, id);
                    }
                }
                9 => {
                    let host = world.below(3) as usize;
                    world.crash(host);
                    let pause = world.below(300);
                    world.run(Duration::from_millis(pause));
                    world.start(host);
                    if host == 0 && !world.ipam(0).is_removed() {
                        leave(&mut world, 0);
                    }
                }
                _ => {}
            }
            let pause = world.below(150);
            world.run(Duration::from_millis(pause));
        }
        world.run(150 * SECOND);
        // Whoever owns a slot now gives out all that it believes to be free of it.
        for (slot, at) in (0..4).flat_map(|slot| (1..16).map(move |at| (slot, at))) {
            for host in [1, 2] {
                world.claim(host, &format!("late-{host}-{slot}-{at}"), &address(0, slot, at));
            }
        }
        world.run(20 * SECOND);
        assert_eq!(world.state(1).members().len(), 2, "seed {seed}");
        assert!(world.is_converged(), "seed {seed}");
        assert_eq!(world.ipam(1).removals(), [], "seed {seed}");
        for host in [1, 2] {
            assert_eq!(world.findings(host), [], "seed {seed}");
            assert!(
                world
                    .ipam(host)
                    .waiting()
                    .all(|(_, why)| why != WaitReason::Reclaim),
                "seed {seed}"
            );
        }
        moved += (0..4)
            .filter(|slot| {
                let register = world.state(1).table().get(*slot).unwrap();
                register.version.seq > 0
                    && world
                        .state(1)
                        .addresses()
                        .range(slot * 16..slot * 16 + 16)
                        .next()
                        .is_some()
            })
            .count();
    }
    assert!(moved > 6, "too few slots went with loans: {moved}");
}
