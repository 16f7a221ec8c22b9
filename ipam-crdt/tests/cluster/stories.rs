//! Single stories.

use crate::world::{Faults, World};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use weft_ipam_crdt::ipam::RETRY_INTERVAL;
use weft_ipam_crdt::message::{AskId, Message, Wish};
use weft_ipam_crdt::{AllocError, Event, Held, Input, Lookup, PersistToken, Role, WaitReason};
use weft_wire::ipam::{Grant, SlotRun, SlotsRecord, Version};
use weft_wire::reclaim::Proof;
use weft_wire::record::Body;
use weft_wire::{NodeId, codec};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn owned(world: &World, host: usize) -> u32 {
    let id = world.id(host);
    world
        .state(host)
        .table()
        .runs_of(&id)
        .iter()
        .map(|run| run.count)
        .sum()
}

pub(crate) fn started(range: &str, hosts: usize, expected: u32) -> World {
    let mut world = World::new(1, range, hosts, expected);
    for host in 0..hosts {
        world.start(host);
    }
    world.run(5 * SECOND);
    world
}

#[test]
fn three_hosts_get_a_third_each() {
    let world = started("10.32.0.0/12", 3, 3);
    for host in 0..3 {
        assert!(
            (21_800..=21_900).contains(&world.owned(host)),
            "{}",
            world.owned(host)
        );
    }
    assert!(world.is_converged());
    assert_eq!(world.state(0).members().len(), 3);
}

#[test]
fn a_lone_founder_answers_at_once_and_the_same_id_gets_the_same_address() {
    let mut world = World::new(1, "10.32.0.0/24", 1, 1);
    world.start(0);
    let first = world.allocate(0, "a");
    let second = world.allocate(0, "a");
    world.run(Duration::from_millis(10));
    let answers = &world.hosts[0].answers;
    assert_eq!(
        answers[&first].as_ref().unwrap().address.to_string(),
        "10.32.0.1/24"
    );
    assert_eq!(answers[&first], answers[&second]);
    world.crash(0);
    world.start(0);
    let third = world.allocate(0, "a");
    world.run(Duration::from_millis(10));
    assert_eq!(
        world.hosts[0].answers[&third]
            .as_ref()
            .unwrap()
            .address
            .to_string(),
        "10.32.0.1/24"
    );
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let mut world = World::new(1, "10.32.0.0/24", 1, 1);
    world.start(0);
    let request = world.allocate(0, "a");
    assert!(!world.hosts[0].answers.contains_key(&request));
    world.run(Duration::from_millis(10));
    assert!(world.hosts[0].answers.contains_key(&request));
}

#[test]
fn a_freed_address_rests_even_across_a_restart() {
    let mut world = World::new(1, "10.32.0.0/29", 1, 1);
    world.start(0);
    for at in 0..6 {
        world.allocate(0, &format!("pod-{at}"));
    }
    world.run(SECOND);
    world.free(0, "pod-3");
    world.run(50 * SECOND);
    world.crash(0);
    world.start(0);
    let early = world.allocate(0, "late");
    world.run(11 * SECOND);
    assert!(matches!(
        world.hosts[0].answers[&early],
        Err(AllocError::Deadline { .. })
    ));
    world.run(50 * SECOND);
    let late = world.allocate(0, "late");
    world.run(SECOND);
    assert_eq!(
        world.hosts[0].answers[&late]
            .as_ref()
            .unwrap()
            .address
            .to_string(),
        "10.32.0.4/29"
    );
}

#[test]
fn an_observer_lives_on_lent_addresses_and_gives_them_back() {
    let mut world = World::new(1, "10.32.0.0/24", 2, 1);
    world.hosts[1].role = Role::Observer;
    world.start(0);
    world.start(1);
    world.run(3 * SECOND);
    assert_eq!(world.state(0).members().len(), 1);
    let request = world.allocate(1, "pod");
    world.run(SECOND);
    let allocation = world.hosts[1].answers[&request].clone().unwrap();
    assert_eq!(allocation.lender, Some(world.id(0)));
    let claim = world.claim(0, "thief", &allocation.address.addr().to_string());
    world.run(SECOND);
    assert!(matches!(
        world.hosts[0].answers[&claim],
        Err(AllocError::InUse { .. })
    ));
    world.free(1, "pod");
    world.run(SECOND);
    assert!(world.state(1).addresses().is_empty());
    world.run(61 * SECOND);
    assert!(world.state(0).addresses().is_empty());
}

#[test]
fn an_address_of_another_hosts_slot_can_be_claimed_if_it_is_free() {
    let mut world = started("10.32.0.0/24", 2, 2);
    let theirs = world.allocate(0, "theirs");
    world.run(SECOND);
    let taken = world.hosts[0].answers[&theirs]
        .as_ref()
        .unwrap()
        .address
        .addr()
        .to_string();
    let (a, b) = (world.claim(1, "a", &taken), world.claim(1, "b", "10.32.0.40"));
    let c = world.claim(1, "c", "10.32.0.255");
    world.run(SECOND / 2);
    assert!(
        !world.hosts[1].answers.contains_key(&a),
        "it may be on its way back"
    );
    world.run(SECOND);
    assert!(matches!(
        world.hosts[1].answers[&a],
        Err(AllocError::TakenElsewhere { .. })
    ));
    assert_eq!(world.answer(1, b).unwrap(), "10.32.0.40/24");
    assert!(matches!(world.hosts[1].answers[&c], Err(AllocError::Address(_))));
}

#[test]
fn a_partitioned_host_goes_on_with_what_it_owns() {
    let mut world = started("10.32.0.0/24", 3, 3);
    world.sides = vec![0, 1, 2];
    let requests: Vec<_> = (0..3)
        .map(|host| (host, world.allocate(host, &format!("pod-{host}"))))
        .collect();
    world.run(SECOND);
    for (host, request) in requests {
        assert!(world.hosts[host].answers[&request].is_ok());
    }
    assert_eq!(world.told().len(), 3);
}

#[test]
fn after_a_start_alone_only_slots_in_use_are_used() {
    let mut world = started("10.32.0.0/24", 2, 2);
    world.allocate(1, "before");
    world.run(SECOND);
    world.crash(1);
    world.sides = vec![0, 1];
    world.start(1);
    let (same, other) = (world.allocate(1, "before"), world.allocate(1, "after"));
    world.run(11 * SECOND);
    assert!(world.hosts[1].answers[&same].is_ok());
    assert!(matches!(
        world.hosts[1].answers[&other],
        Err(AllocError::Deadline { .. })
    ));
    world.sides = vec![0, 0];
    let other = world.allocate(1, "after");
    world.run(3 * SECOND);
    assert!(world.hosts[1].answers[&other].is_ok());
}

#[test]
fn a_link_that_comes_up_confirms_at_once() {
    let mut world = started("10.32.0.0/24", 2, 2);
    world.allocate(1, "before");
    world.run(SECOND);
    world.crash(1);
    world.sides = vec![0, 1];
    world.start(1);
    // In between two retries.
    world.run(RETRY_INTERVAL + RETRY_INTERVAL / 4);
    let request = world.allocate(1, "after");
    world.run(RETRY_INTERVAL / 4);
    assert_eq!(
        world.ipam(1).waiting().collect::<Vec<_>>(),
        [("after", WaitReason::Confirmation)]
    );
    world.sides = vec![0, 0];
    world.link_up(0, 1);
    world.run(Duration::from_millis(20));
    assert!(world.hosts[1].answers[&request].is_ok());
    assert_eq!(world.ipam(1).hindrance(), None);
}

#[test]
fn what_nobody_waits_for_any_longer_is_given_to_nobody() {
    let mut world = started("10.32.0.0/24", 2, 2);
    let theirs = Lookup::Host(world.id(0));
    let address = (1..255).map(|at| IpAddr::from([10, 32, 0, at]));
    let address = { address }
        .find(|address| world.ipam(1).lookup(*address) == theirs)
        .unwrap();
    let request = world.claim(1, "gone", &address.to_string());
    // The question is on its way when its answer is no longer wanted.
    assert_eq!(
        world.ipam(1).waiting().collect::<Vec<_>>(),
        [("gone", WaitReason::Loan(world.id(0)))]
    );
    world.cancel(1, request);
    assert_eq!(world.ipam(1).waiting().count(), 0);
    world.run(5 * SECOND);
    assert_eq!(world.hosts[1].answers[&request], Err(AllocError::Cancelled));
    assert!(world.state(1).addresses().is_empty());
    let offset = world.ipam(0).state().addresses().keys().next().copied();
    assert!(offset.is_some(), "it was lent, came back and rests");
    assert_eq!(world.state(0).addresses()[&offset.unwrap()], Held::Resting);
}

#[test]
fn a_minority_adds_nobody_and_its_newcomers_borrow() {
    let mut world = World::new(1, "10.32.0.0/24", 4, 1);
    for host in 0..3 {
        world.start(host);
    }
    world.run(5 * SECOND);
    assert_eq!(world.state(0).members().len(), 3);
    world.sides = vec![0, 1, 1, 0];
    world.start(3);
    let request = world.allocate(3, "pod");
    world.run(5 * SECOND);
    for host in [0, 3] {
        assert!(
            !world.state(host).members().contains(&world.id(3)),
            "a minority added a host"
        );
    }
    assert!(
        world.hosts[3]
            .answers
            .get(&request)
            .is_none_or(|answer| answer.as_ref().is_ok_and(|a| a.lender.is_some()))
    );
    world.sides = vec![0; 4];
    world.run(10 * SECOND);
    assert_eq!(world.state(3).members().len(), 4);
    assert!(world.owned(3) > 0);
}

#[test]
fn a_disk_that_was_set_back_freezes_its_host() {
    let mut world = started("10.32.0.0/24", 2, 1);
    let old = world.disk(1);
    // So many that what it tells the others about its free addresses changes, and with it the serial they saw.
    for at in 0..100 {
        world.allocate(1, &format!("pod-{at}"));
    }
    world.run(5 * SECOND);
    world.conflicts_expected = true;
    world.crash(1);
    world.hosts[1].told.clear();
    world.set_disk(1, old);
    world.start(1);
    world.run(5 * SECOND);
    assert!(
        world
            .events
            .iter()
            .any(|(host, event)| *host == 1 && matches!(event, Event::Frozen(_)))
    );
    let request = world.allocate(1, "pod");
    world.run(SECOND);
    assert!(matches!(
        world.hosts[1].answers[&request],
        Err(AllocError::Frozen(_))
    ));
}

/// What a host says by which it claims slots with these proofs.
fn claim_of(runs: Vec<SlotRun>, proofs: Vec<Grant>) -> Vec<u8> {
    codec::encode(&SlotsRecord {
        serial: 1_000,
        epoch: 0,
        free_slots: 0,
        free_addresses: 0,
        runs,
        given: vec![],
        proofs: proofs.into_iter().map(Proof::Grant).collect(),
    })
}

fn run_at(first: u32, epoch: u32, seq: u32) -> SlotRun {
    SlotRun {
        first,
        count: 1,
        version: Version { epoch, seq },
    }
}

#[test]
fn a_claim_without_a_chain_is_not_believed() {
    let mut world = started("10.32.0.0/24", 3, 3);
    world.conflicts_expected = true;
    let (founder, liar) = (world.id(0), world.id(1));
    let before = world.state(2).clone();
    let slot = world.state(0).table().runs_of(&founder)[0].first + 5;
    let epoch = before.epoch();
    // By itself, by its own grant to itself, and by a grant in the founder's name with its own signature.
    let own = Grant::sign(
        &world.hosts[1].key,
        &world.genesis_id(),
        liar,
        vec![run_at(slot, epoch, 1)],
    );
    let forged = Grant {
        from: founder,
        ..own.clone()
    };
    for proofs in [vec![], vec![own], vec![forged]] {
        world.lie(
            1,
            SlotsRecord::KIND,
            claim_of(vec![run_at(slot, epoch, 1)], proofs),
        );
        world.run(3 * SECOND);
        assert_eq!(world.state(2).table().get(slot), before.table().get(slot));
    }
}

#[test]
fn an_owner_that_grants_a_slot_twice_freezes_it() {
    let mut world = started("10.32.0.0/24", 3, 3);
    world.conflicts_expected = true;
    let founder = world.id(0);
    let slot = world.state(0).table().runs_of(&founder)[0].first + 5;
    let epoch = world.state(0).epoch();
    for to in [1, 2] {
        let grant = Grant::sign(
            &world.hosts[0].key,
            &world.genesis_id(),
            world.id(to),
            vec![run_at(slot, epoch, 1)],
        );
        let bytes = Message::Grant { grant, chain: vec![] }.encode();
        world.give(to, Input::Message { from: founder, bytes });
    }
    world.run(10 * SECOND);
    for host in [1, 2] {
        assert!(
            world.state(host).table().get(slot).unwrap().is_frozen,
            "host {host}"
        );
        assert!(
            world
                .events
                .iter()
                .any(|(at, e)| *at == host && matches!(e, Event::Conflict { .. }))
        );
    }
    let address = format!("10.32.0.{slot}");
    let ipam = world.hosts[1].ipam.as_ref().unwrap();
    assert_eq!(ipam.lookup(address.parse().unwrap()), Lookup::Frozen);
    // Neither host gives an address of it out.
    for host in [1, 2] {
        let request = world.claim(host, "pod", &address);
        world.run(11 * SECOND);
        assert!(world.hosts[host].answers[&request].is_err());
    }
    // The founder sees its own signature under grants that it does not remember.
    assert!(
        world
            .events
            .iter()
            .any(|(at, e)| *at == 0 && matches!(e, Event::Frozen(_)))
    );
}

#[test]
fn lookups_name_the_pod_the_borrower_or_the_owner() {
    let mut world = World::new(1, "10.32.0.0/24", 3, 1);
    world.hosts[1].role = Role::Observer;
    world.hosts[2].role = Role::Observer;
    for host in 0..3 {
        world.start(host);
    }
    world.run(3 * SECOND);
    let request = world.allocate(1, "pod");
    world.run(SECOND);
    let lent = world.hosts[1].answers[&request].as_ref().unwrap().address.addr();
    let at = |world: &World, host: usize, address| world.hosts[host].ipam.as_ref().unwrap().lookup(address);
    assert_eq!(at(&world, 1, lent), Lookup::Local("pod".into()));
    assert_eq!(at(&world, 0, lent), Lookup::Host(world.id(1)));
    assert_eq!(at(&world, 2, lent), Lookup::Host(world.id(1)));
    let other = "10.32.0.200".parse().unwrap();
    assert_eq!(at(&world, 0, other), Lookup::Here);
    assert_eq!(at(&world, 2, other), Lookup::Host(world.id(0)));
    assert_eq!(at(&world, 2, "192.0.2.1".parse().unwrap()), Lookup::Unknown);
}

#[test]
fn no_message_of_a_member_makes_a_host_panic() {
    let mut world = started("10.32.0.0/24", 2, 2);
    world.conflicts_expected = true;
    let from: NodeId = world.id(1);
    for length in 0..40usize {
        for _ in 0..200 {
            let bytes = (0..length).map(|_| world.below(20) as u8).collect();
            world.give(0, Input::Message { from, bytes });
        }
    }
    world.run(SECOND);
}

#[test]
fn only_the_borrower_ends_a_loan_and_only_by_its_number() {
    let mut world = World::new(1, "10.32.0.0/24", 3, 1);
    world.hosts[1].role = Role::Observer;
    world.hosts[2].role = Role::Observer;
    for host in 0..3 {
        world.start(host);
    }
    world.run(3 * SECOND);
    world.allocate(1, "pod");
    world.run(SECOND);
    let (&offset, lent) = world.state(0).addresses().first_key_value().unwrap();
    let lent = lent.clone();
    let Held::Lent { number, .. } = lent else {
        panic!("{lent:?}")
    };
    for (from, number) in [(1, number + 1), (1, number - 1), (2, number)] {
        let from = world.id(from);
        let bytes = Message::Return { offset, number }.encode();
        world.give(0, Input::Message { from, bytes });
        assert_eq!(world.state(0).addresses().get(&offset), Some(&lent));
    }
    // A loan that answers no open question is not taken.
    let from = world.id(0);
    let ask = AskId {
        incarnation: 1,
        count: 1,
    };
    let bytes = Message::Lend {
        ask,
        offset: 40,
        number: 9,
    }
    .encode();
    world.give(1, Input::Message { from, bytes });
    assert_eq!(world.state(1).addresses().get(&40), None);
}

#[test]
fn a_loan_whose_message_was_lost_comes_back_and_is_lent_again() {
    let mut world = started("10.32.0.0/24", 2, 2);
    let theirs = Lookup::Host(world.id(0));
    let address = (1..255).map(|at| IpAddr::from([10, 32, 0, at]));
    let address = { address }
        .find(|address| world.ipam(1).lookup(*address) == theirs)
        .unwrap();
    let request = world.claim(1, "moved", &address.to_string());
    // The question is on its way, and its answer is lost; nothing is heard for long.
    world.faults.loss_percent = 100;
    world.run(SECOND + SECOND / 2);
    let mut held = world.state(0).addresses().values();
    assert!(held.any(|held| matches!(held, Held::Lent { .. })));
    assert!(world.state(1).addresses().is_empty());
    // The next question brings back what answered the one before, while nothing else tells of it.
    world.faults.loss_percent = 0;
    let ask = AskId {
        incarnation: 1,
        count: 1_000,
    };
    let offset = *world.state(0).addresses().first_key_value().unwrap().0;
    let wish = Wish::This(offset);
    let (from, bytes) = (world.id(1), Message::AskLoan { ask, wish }.encode());
    world.give(0, Input::Message { from, bytes });
    world.run(Duration::from_millis(10));
    assert_eq!(world.answer(1, request).unwrap(), format!("{address}/24"));
}

/// On a network on which answers come later than anybody waits for them, in any order, twice or not at all, a claim may take long;
/// it is never told that somebody else has an address which nobody has.
#[test]
fn a_free_address_is_never_refused_as_taken_however_late_answers_come() {
    for seed in 0..20 {
        let mut world = World::new(seed, "10.32.0.0/24", 2, 2);
        world.start(0);
        world.start(1);
        world.run(5 * SECOND);
        let theirs = Lookup::Host(world.id(0));
        let addresses = (1..255).map(|at| IpAddr::from([10, 32, 0, at]));
        let addresses = addresses.filter(|address| world.ipam(1).lookup(*address) == theirs);
        let mut open: BTreeMap<_, _> = addresses
            .take(20)
            .map(|address| (format!("pod-{address}"), address))
            .collect();
        world.faults = Faults {
            loss_percent: 10,
            double_percent: 10,
            delay_max_ms: 1_500,
            sync_max_ms: 40,
        };
        let mut late = 0;
        for _ in 0..20 {
            let claim =
                |(id, address): (&String, &IpAddr)| (id.clone(), world.claim(1, id, &address.to_string()));
            let requests: Vec<_> = open.iter().map(claim).collect();
            world.run(11 * SECOND);
            for (id, request) in requests {
                match &world.hosts[1].answers[&request] {
                    Ok(_) => drop(open.remove(&id)),
                    Err(AllocError::Deadline { .. }) => late += 1,
                    Err(other) => panic!("seed {seed}, {id}: {other}"),
                }
            }
        }
        assert!(open.is_empty(), "seed {seed}: {open:?}, {late} late");
    }
}

#[test]
fn a_slow_disk_holds_back_what_leaves_the_host_and_no_answer() {
    let mut world = World::new(1, "10.32.0.0/24", 2, 2);
    world.faults.sync_max_ms = 0;
    world.start(0);
    world.run(SECOND);
    // From here on nothing becomes durable within the test.
    world.faults.sync_max_ms = 1 << 40;
    let request = world.allocate(0, "web");
    world.run(SECOND);
    assert!(!world.hosts[0].answers.contains_key(&request));
    world.give(0, Input::Written(PersistToken(u64::MAX)));
    assert!(world.hosts[0].answers[&request].is_ok());
    // The next one is answered as soon as it is written.
    let next = world.allocate(0, "db");
    world.run(SECOND);
    assert!(world.hosts[0].answers[&next].is_ok());
    // What another host would build on is not told.
    let (ask, wish) = (
        AskId {
            incarnation: 1,
            count: 1,
        },
        Wish::This(77),
    );
    let (from, sent) = (world.id(1), world.sent);
    let bytes = Message::AskLoan { ask, wish }.encode();
    world.give(0, Input::Message { from, bytes });
    world.run(SECOND);
    let lent = world.state(0).addresses().get(&77);
    assert!(matches!(lent, Some(Held::Lent { .. })), "{lent:?}");
    assert_eq!(world.sent, sent, "a loan left before it was durable");
}
