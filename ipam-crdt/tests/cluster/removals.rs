//! Hosts that are removed, and what becomes of their slots.

use crate::stories::{owned, started};
use crate::world::World;
use std::time::Duration;
use weft_ipam_crdt::check::Finding;
use weft_ipam_crdt::message::{AskId, Message};
use weft_ipam_crdt::subnet::Span;
use weft_ipam_crdt::{
    AllocError, Event, FreezeReason, Held, Input, RECLAIM_REST, RemovalError, RemovalPhase, Role, rules,
};
use weft_wire::envelope::Stamp;
use weft_wire::ipam::{Grant, SlotRun, SlotsRecord, Version};
use weft_wire::reclaim::{Proof, Reclaim, reclaim_message};
use weft_wire::record::Body;
use weft_wire::{Envelope, NodeId};

const SECOND: Duration = Duration::from_secs(1);

/// Slots that belong to a host, as another one knows.
fn owned_by(world: &World, host: usize, as_known_by: usize) -> u32 {
    let id = world.id(host);
    let runs = world.state(as_known_by).table().runs_of(&id);
    runs.iter().map(|run| run.count).sum()
}

fn first_slot(world: &World, host: usize) -> SlotRun {
    let run = world.state(host).table().runs_of(&world.id(host))[0];
    SlotRun { count: 1, ..run }
}

fn next(run: SlotRun, epoch: u32) -> SlotRun {
    let seq = run.version.seq + 1;
    SlotRun {
        version: Version { epoch, seq },
        ..run
    }
}

/// Who takes slots back.
fn reclaimer(world: &World, as_known_by: usize) -> usize {
    let state = world.state(as_known_by);
    let reclaimer = rules::reclaimer_at(state, state.epoch()).unwrap();
    (0..world.hosts.len())
        .find(|host| world.id(*host) == reclaimer)
        .unwrap()
}

fn has_event(world: &World, host: usize, is: impl Fn(&Event) -> bool) -> bool {
    world.events.iter().any(|(at, event)| *at == host && is(event))
}

/// All slots belong to hosts that are members, in everybody's table.
fn all_slots_are_owned(world: &World, hosts: &[usize]) {
    for host in hosts {
        let state = world.state(*host);
        for (run, owner, is_frozen) in state.table().all_runs() {
            assert!(
                state.members().contains(&owner) && !is_frozen,
                "host {host}: {run:?} belongs to {owner}, frozen: {is_frozen}"
            );
        }
        assert_eq!(world.ipam(*host).removals(), [], "host {host}");
    }
}

fn answer(world: &World, host: usize, request: weft_ipam_crdt::RequestId) -> String {
    match &world.hosts[host].answers[&request] {
        Ok(allocation) => allocation.address.addr().to_string(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_dead_hosts_slots_are_taken_back_and_used_at_once_when_it_is_fenced() {
    let mut world = started("10.32.0.0/24", 3, 3);
    world.allocate(2, "lost");
    world.run(SECOND);
    let before = owned_by(&world, 2, 0);
    assert!(before > 80);
    world.crash(2);
    let request = world.remove(0, &[2], true);
    world.run(3 * SECOND);
    assert_eq!(world.hosts[0].removals[&request], Ok(()));
    all_slots_are_owned(&world, &[0, 1]);
    assert!(world.is_converged());
    assert_eq!(owned_by(&world, 0, 1) + owned_by(&world, 1, 0), 256);
    for host in [0, 1] {
        let removed = Event::Removed(vec![world.id(2)]);
        assert!(has_event(&world, host, |event| *event == removed));
        assert!(world.ipam(host).removed().contains_key(&world.id(2)));
    }
    // Every address can be had.
    let requests: Vec<_> = (0..254)
        .map(|at| world.allocate(at % 2, &format!("pod-{at}")))
        .collect();
    world.run(9 * SECOND);
    for (at, request) in requests.iter().enumerate() {
        assert!(world.hosts[at % 2].answers[request].is_ok(), "{at}");
    }
    assert!(world.state(0).resting_slots().is_empty());
}

#[test]
fn slots_of_a_host_that_may_be_alive_rest_a_day_even_across_a_restart() {
    let mut world = started("10.32.0.0/28", 3, 3);
    let theirs = first_slot(&world, 2).first;
    world.crash(2);
    world.remove(0, &[2], false);
    world.run(3 * SECOND);
    all_slots_are_owned(&world, &[0, 1]);
    let heir = reclaimer(&world, 0);
    let resting = world.state(heir).resting_slots();
    // The last address of the range goes to no pod.
    let rests = resting.iter().filter(|slot| **slot < 15).count();
    assert!(rests >= 3, "{rests}");
    // Whoever takes any gets none of them, and they are granted to nobody.
    let requests: Vec<_> = (0..14)
        .map(|at| world.allocate(at % 2, &format!("pod-{at}")))
        .collect();
    world.run(11 * SECOND);
    let failed = { requests.iter().enumerate() }.filter(|(at, r)| world.hosts[at % 2].answers[*r].is_err());
    assert_eq!(failed.count(), rests);
    // Whoever names one gets it, here and from elsewhere.
    let here = world.claim(0, "named", &format!("10.32.0.{theirs}"));
    let there = world.claim(1, "named", &format!("10.32.0.{}", theirs + 1));
    world.run(SECOND);
    answer(&world, 0, here);
    answer(&world, 1, there);
    world.run(RECLAIM_REST - 60 * SECOND);
    let early = world.allocate(heir, "early");
    world.run(11 * SECOND);
    assert!(world.hosts[heir].answers[&early].is_err());
    world.crash(heir);
    world.start(heir);
    world.run(RECLAIM_REST - 60 * SECOND);
    assert!(
        !world.state(heir).resting_slots().is_empty(),
        "the rest begins anew"
    );
    world.run(120 * SECOND);
    assert!(world.state(heir).resting_slots().is_empty());
    let late = world.allocate(heir, "late");
    world.run(SECOND);
    answer(&world, heir, late);
}

#[test]
fn what_was_taken_back_is_used_after_all_else() {
    let mut world = started("10.32.0.0/24", 2, 2);
    // The founder has the lower half.
    world.crash(0);
    world.remove(1, &[0], true);
    world.run(3 * SECOND);
    all_slots_are_owned(&world, &[1]);
    let request = world.allocate(1, "pod");
    world.run(SECOND);
    let offset: u8 = answer(&world, 1, request)
        .rsplit('.')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(offset >= 128, "{offset}");
}

#[test]
fn a_minority_removes_nobody_and_says_who_is_missing() {
    let mut world = started("10.32.0.0/24", 3, 3);
    world.sides = vec![0, 1, 1];
    world.remove(0, &[1, 2], false);
    world.run(60 * SECOND);
    assert!(world.removed().is_empty());
    let removals = world.ipam(0).removals();
    let [removal] = &removals[..] else {
        panic!("{removals:?}")
    };
    assert!(!removal.fenced && removal.hosts.len() == 2);
    let RemovalPhase::AwaitingMajority { needed, missing } = &removal.phase else {
        panic!("{removal:?}")
    };
    let mut others = vec![world.id(1), world.id(2)];
    others.sort();
    assert_eq!((*needed, missing), (2, &others));
    // It is taken back before the heal, and so nothing comes of it.
    world.keep(0, &[1, 2]);
    world.run(SECOND);
    assert_eq!(world.ipam(0).removals(), []);
    world.sides = vec![0; 3];
    world.run(10 * SECOND);
    assert!(world.removed().is_empty());
}

#[test]
fn a_wish_of_the_minority_comes_true_after_the_heal_and_survives_a_restart() {
    let mut world = started("10.32.0.0/24", 3, 3);
    world.sides = vec![0, 1, 2];
    world.remove(0, &[2], false);
    world.run(SECOND);
    world.crash(0);
    world.start(0);
    world.run(10 * SECOND);
    assert!(world.removed().is_empty());
    world.sides = vec![0; 3];
    world.run(10 * SECOND);
    assert_eq!(world.removed(), [world.id(2)].into());
    all_slots_are_owned(&world, &[0, 1]);
}

#[test]
fn both_sides_of_a_partition_remove_each_other_and_the_majority_prevails() {
    let mut world = started("10.32.0.0/24", 5, 5);
    let before = world.allocate(0, "before");
    world.run(SECOND);
    world.sides = vec![0, 0, 1, 1, 1];
    world.remove(0, &[2, 3, 4], false);
    world.remove(3, &[0, 1], false);
    world.run(20 * SECOND);
    assert_eq!(world.state(0).gone().len(), 0);
    assert_eq!(world.state(2).gone().len(), 2);
    all_slots_are_owned(&world, &[2, 3, 4]);
    // The minority goes on with what it owns, until it hears of it.
    let meanwhile = world.allocate(1, "meanwhile");
    world.run(SECOND);
    answer(&world, 1, meanwhile);
    world.sides = vec![0; 5];
    world.run(10 * SECOND);
    assert_eq!(world.removed(), [world.id(0), world.id(1)].into());
    for host in [0, 1] {
        assert!(world.ipam(host).is_removed());
        assert!(has_event(&world, host, |event| *event
            == Event::Frozen(FreezeReason::Removed)));
        let request = world.allocate(host, "late");
        world.run(SECOND);
        let frozen = Err(AllocError::Frozen(FreezeReason::Removed));
        assert_eq!(world.hosts[host].answers[&request], frozen);
    }
    // Its pods keep what they have, over a restart too, and it stays frozen.
    let address = answer(&world, 0, before);
    world.crash(0);
    world.start(0);
    let again = world.allocate(0, "before");
    world.run(SECOND);
    assert_eq!(answer(&world, 0, again), address);
    assert!(world.ipam(0).hindrance().is_some());
    all_slots_are_owned(&world, &[2, 3, 4]);
}

#[test]
fn two_removals_at_once_end_in_one_history() {
    let mut world = started("10.32.0.0/24", 5, 5);
    world.crash(3);
    world.crash(4);
    world.remove(0, &[3], false);
    world.remove(1, &[4], false);
    world.run(10 * SECOND);
    assert_eq!(world.removed(), [world.id(3), world.id(4)].into());
    all_slots_are_owned(&world, &[0, 1, 2]);
    assert!(world.is_converged());
    // And of one host by two, one of whom vouches.
    world.crash(2);
    world.remove(0, &[2], false);
    world.remove(1, &[2], true);
    world.run(10 * SECOND);
    assert_eq!(world.state(0).members().len(), 2);
    all_slots_are_owned(&world, &[0, 1]);
    assert!(world.is_converged());
}

/// Four hosts of which the last is removed while nobody can finish it: host 2 is cut off, and the reclaimer that was
/// chosen is named.
fn half_way() -> (World, usize) {
    let mut world = started("10.32.0.0/24", 5, 5);
    world.crash(4);
    world.sides = vec![0, 0, 0, 1, 0];
    world.remove(0, &[4], false);
    world.run(5 * SECOND);
    assert_eq!(world.removed(), [world.id(4)].into());
    let reclaimer = reclaimer(&world, 0);
    assert!(owned_by(&world, 4, 0) > 0);
    for host in 0..3 {
        let removals = world.ipam(host).removals();
        let RemovalPhase::AwaitingPromises { missing, slots, .. } = &removals[0].phase else {
            panic!("{removals:?}")
        };
        assert_eq!((missing, *slots > 0), (&vec![world.id(3)], true), "host {host}");
    }
    (world, reclaimer)
}

#[test]
fn a_reclaimer_that_is_restarted_goes_on() {
    let (mut world, reclaimer) = half_way();
    world.crash(reclaimer);
    world.run(SECOND);
    world.start(reclaimer);
    world.sides = vec![0; 5];
    world.run(10 * SECOND);
    all_slots_are_owned(&world, &[0, 1, 2, 3]);
    assert!(owned(&world, reclaimer) > 60, "{}", owned(&world, reclaimer));
    assert!(world.is_converged());
}

#[test]
fn a_reclaimer_that_dies_is_removed_itself_and_another_one_takes_all() {
    let (mut world, reclaimer) = half_way();
    world.crash(reclaimer);
    let asker = (0..3).find(|host| *host != reclaimer).unwrap();
    world.sides = vec![0; 5];
    world.run(5 * SECOND);
    assert!(owned_by(&world, 4, asker) > 0, "nobody else takes them unasked");
    world.remove(asker, &[reclaimer], false);
    world.run(10 * SECOND);
    let left: Vec<usize> = (0..4).filter(|host| *host != reclaimer).collect();
    all_slots_are_owned(&world, &left);
    assert!(world.is_converged());
    assert!(left.contains(&self::reclaimer(&world, asker)));
}

#[test]
fn a_reclaimer_that_dies_after_it_took_the_slots_and_gave_some_on_leaves_those_alone() {
    let mut world = started("10.32.0.0/24", 4, 4);
    world.crash(3);
    world.remove(0, &[3], true);
    world.run(5 * SECOND);
    let reclaimer = reclaimer(&world, 0);
    let other = (0..3).find(|host| *host != reclaimer).unwrap();
    // So many pods elsewhere that it hands some of them on.
    let mut requests = Vec::new();
    for at in 0..240 {
        requests.push(world.allocate(other, &format!("pod-{at}")));
        world.run(SECOND / 20);
    }
    world.run(12 * SECOND);
    assert!(
        requests
            .iter()
            .all(|request| world.hosts[other].answers[request].is_ok())
    );
    let proofs: Vec<&Proof> = world.state(other).chain().values().collect();
    assert!(
        proofs.iter().any(|proof| matches!(proof, Proof::Reclaim(_))),
        "{proofs:?}"
    );
    world.crash(reclaimer);
    world.remove(other, &[reclaimer], true);
    world.run(10 * SECOND);
    let left: Vec<usize> = (0..3).filter(|host| *host != reclaimer).collect();
    all_slots_are_owned(&world, &left);
    assert!(world.is_converged());
}

#[test]
fn a_newcomer_that_only_the_removed_host_knew_keeps_its_addresses() {
    let mut world = World::new(1, "10.32.0.0/24", 4, 1);
    for host in 0..3 {
        world.start(host);
    }
    world.run(5 * SECOND);
    world.sides = vec![0, 0, 1, 1];
    world.start(3);
    let request = world.allocate(3, "pod");
    world.run(9 * SECOND);
    let address = answer(&world, 3, request);
    assert_eq!(world.state(3).members().len(), 3, "nobody could add it");
    world.remove(0, &[2], true);
    world.run(10 * SECOND);
    all_slots_are_owned(&world, &[0, 1]);
    world.crash(2);
    world.sides = vec![0; 4];
    world.run(20 * SECOND);
    assert!(world.state(3).members().contains(&world.id(3)));
    all_slots_are_owned(&world, &[0, 1, 3]);
    let again = world.allocate(3, "pod");
    world.run(SECOND);
    assert_eq!(answer(&world, 3, again), address);
    assert!(!has_event(&world, 3, |event| matches!(
        event,
        Event::Clash { .. }
    )));
    let offset = world.state(3).addresses().iter().next().unwrap();
    let Held::Borrowed { from, .. } = offset.1 else {
        panic!("{offset:?}")
    };
    assert_ne!(*from, world.id(2), "the new owner lends it now");
}

#[test]
fn an_address_that_a_stranded_borrower_lost_is_reported() {
    let mut world = World::new(1, "10.32.0.0/28", 3, 1);
    world.hosts[2].role = Role::Observer;
    world.start(0);
    world.start(1);
    world.run(5 * SECOND);
    // The observer borrows where only host 1 hears of it.
    world.sides = vec![0, 1, 1];
    world.start(2);
    let request = world.allocate(2, "pod");
    world.run(5 * SECOND);
    let address = answer(&world, 2, request);
    world.crash(1);
    world.sides = vec![0, 1, 2];
    world.remove(0, &[1], true);
    world.run(10 * SECOND);
    all_slots_are_owned(&world, &[0]);
    // Its slots are used at once, as somebody has vouched. The observer is no member of an epoch, and nobody could know.
    world.conflicts_expected = true;
    let taken = world.claim(0, "other", &address);
    world.run(SECOND);
    answer(&world, 0, taken);
    world.sides = vec![0; 3];
    world.run(10 * SECOND);
    let owner = world.id(0);
    let is_it = |event: &Event| {
        matches!(event, Event::Clash { address: a, id, owner: o }
            if a.to_string() == address && id == "pod" && *o == owner)
    };
    let clashes = world.events.iter().filter(|(at, event)| *at == 2 && is_it(event));
    assert_eq!(clashes.count(), 1);
}

/// A grant of one slot of host 2 to host 1, and the record in which host 2 tells of it.
fn grant_to_host_1(world: &World) -> (Grant, Envelope) {
    let (key, id) = (&world.hosts[2].key, world.id(2));
    let slot = first_slot(world, 2);
    let epoch = world.state(2).epoch();
    let grant = Grant::sign(key, &world.genesis_id(), world.id(1), vec![next(slot, epoch)]);
    let mut runs = world.state(2).table().runs_of(&id);
    runs[0].first += 1;
    runs[0].count -= 1;
    let record = SlotsRecord {
        serial: 1_000,
        epoch,
        free_slots: 0,
        free_addresses: 0,
        runs,
        given: vec![grant.clone()],
        proofs: vec![],
    };
    let stamp = Stamp {
        incarnation: 1,
        version: 1_000,
    };
    (grant, record.to_envelope(key, id, stamp).unwrap())
}

#[test]
fn a_grant_in_flight_out_of_a_removed_host_is_taken_by_nobody_and_its_slot_is_found() {
    // Whether the reclaimer has heard of the grant or not.
    for heard in [[true, false], [false, true], [true, true]] {
        let mut world = started("10.32.0.0/24", 4, 4);
        world.crash(2);
        let (grant, record) = grant_to_host_1(&world);
        let slot = grant.runs[0].first;
        for (host, heard) in [(0, heard[0]), (3, heard[1])] {
            if heard {
                world.give(host, Input::Record(record.clone()));
                assert_eq!(world.state(host).table().get(slot).unwrap().owner, world.id(1));
            }
        }
        world.remove(0, &[2], true);
        world.run(SECOND);
        assert_eq!(world.removed(), [world.id(2)].into());
        // It comes late, straight and through the record.
        let from = world.id(2);
        let chain: Vec<Proof> = world.state(2).chain().values().cloned().collect();
        let bytes = Message::Grant { grant, chain }.encode();
        world.give(1, Input::Message { from, bytes });
        world.give(1, Input::Record(record));
        world.run(15 * SECOND);
        assert!(owned_by(&world, 1, 1) > 0);
        all_slots_are_owned(&world, &[0, 1, 3]);
        assert!(world.is_converged(), "{heard:?}");
        let owner = world.state(0).table().get(slot).unwrap().owner;
        assert_eq!(owner, world.id(reclaimer(&world, 0)), "{heard:?}");
    }
}

#[test]
fn a_grant_that_was_taken_before_the_removal_stands() {
    let mut world = started("10.32.0.0/24", 4, 4);
    let (grant, _) = grant_to_host_1(&world);
    let slot = grant.runs[0].first;
    let from = world.id(2);
    let chain: Vec<Proof> = world.state(2).chain().values().cloned().collect();
    world.crash(2);
    // Nobody hears of it before the decision.
    world.sides = vec![0, 1, 0, 0];
    let bytes = Message::Grant { grant, chain }.encode();
    world.give(1, Input::Message { from, bytes });
    world.run(SECOND);
    assert_eq!(world.state(1).table().get(slot).unwrap().owner, world.id(1));
    world.remove(0, &[2], false);
    world.run(3 * SECOND);
    assert!(world.removed().is_empty(), "two of four decide nothing");
    world.sides = vec![0; 4];
    world.run(15 * SECOND);
    all_slots_are_owned(&world, &[0, 1, 3]);
    for host in [0, 1, 3] {
        assert_eq!(world.state(host).table().get(slot).unwrap().owner, world.id(1));
    }
    assert!(world.is_converged());
}

#[test]
fn a_grant_to_a_removed_host_comes_back() {
    let mut world = started("10.32.0.0/24", 3, 3);
    // Host 2 asks for more and dies before the answer.
    world.crash(2);
    let (id, ask) = (
        world.id(2),
        AskId {
            incarnation: 9,
            count: 1,
        },
    );
    let bytes = Message::AskSpace {
        ask,
        need: 4,
        room: 9,
        span: Span { first: 0, last: 255 },
    }
    .encode();
    world.give(1, Input::Message { from: id, bytes });
    world.run(SECOND);
    assert_eq!(world.state(1).given().len(), 1);
    world.remove(0, &[2], true);
    world.run(15 * SECOND);
    all_slots_are_owned(&world, &[0, 1]);
    assert!(
        world.state(1).given().is_empty(),
        "it is forgotten once the slots are somebody's"
    );
    assert!(world.is_converged());
}

#[test]
fn owners_differ_after_a_disk_was_lost_right_after_a_grant_and_the_removal_ends_that() {
    let mut world = started("10.32.0.0/24", 4, 4);
    let [lost, donor] = [world.id(2), world.id(1)];
    // Host 2 takes what host 1 grants it and says so to host 1, of which nobody else hears. Then its disk is gone, before it
    // has told anybody in a record.
    world.crash(2);
    world.sides = vec![0, 1, 0, 0];
    let ask = AskId {
        incarnation: 9,
        count: 1,
    };
    let bytes = Message::AskSpace {
        ask,
        need: 4,
        room: 9,
        span: Span { first: 0, last: 255 },
    }
    .encode();
    world.give(1, Input::Message { from: lost, bytes });
    world.run(Duration::from_millis(5));
    let (id, grant) = world.state(1).given().iter().next().unwrap();
    let (id, slot) = (*id, grant.runs[0].first);
    let bytes = Message::GrantAccepted(id).encode();
    world.give(1, Input::Message { from: lost, bytes });
    world.run(SECOND);
    world.sides = vec![0; 4];
    world.run(10 * SECOND);

    let owner = |world: &World, host: usize| world.state(host).table().get(slot).unwrap().owner;
    assert_eq!([0, 1, 3].map(|host| owner(&world, host)), [donor, lost, donor]);
    // Nobody gives the slot out, and whoever looks is told whose word is missing.
    let address = world.space.address(slot).unwrap();
    let is_it = |finding: &Finding| {
        matches!(finding, Finding::Disowned { slots, owner }
            if *owner == donor && slots.first <= address && address <= slots.last)
    };
    for host in [0, 3] {
        let findings = world.findings(host);
        assert!(findings.iter().any(is_it), "{findings:?}");
    }

    world.remove(0, &[2], false);
    world.run(15 * SECOND);
    assert_eq!(world.removed(), [lost].into());
    all_slots_are_owned(&world, &[0, 1, 3]);
    assert!(world.is_converged());
    let taken = reclaimer(&world, 0);
    assert_eq!(owner(&world, 0), world.id(taken));
    for host in [0, 1, 3] {
        assert!(!world.findings(host).iter().any(is_it));
    }
}

#[test]
fn what_a_removed_host_lent_stays_with_its_borrowers() {
    for fenced in [true, false] {
        let mut world = World::new(1, "10.32.0.0/24", 4, 2);
        world.hosts[2].role = Role::Observer;
        for host in 0..4 {
            world.start(host);
        }
        world.run(5 * SECOND);
        let theirs = first_slot(&world, 1).first;
        // A member and an observer have borrowed of host 1, by name.
        let a = world.claim(0, "a", &format!("10.32.0.{}", theirs + 1));
        let b = world.claim(2, "b", &format!("10.32.0.{}", theirs + 2));
        let freed = world.claim(2, "freed", &format!("10.32.0.{}", theirs + 3));
        world.run(SECOND);
        answer(&world, 2, freed);
        let (a, b) = (answer(&world, 0, a), answer(&world, 2, b));
        world.crash(1);
        world.free(2, "freed");
        world.remove(3, &[1], fenced);
        world.run(10 * SECOND);
        all_slots_are_owned(&world, &[0, 2, 3]);
        for (host, id, address) in [(0, "a", &a), (2, "b", &b)] {
            let again = world.allocate(host, id);
            world.run(SECOND);
            assert_eq!(&answer(&world, host, again), address);
        }
        // Nobody else gets them, and they come back to the new owner.
        let thief = world.claim(3, "thief", &b);
        world.run(3 * SECOND);
        assert!(world.hosts[3].answers[&thief].is_err());
        world.free(2, "b");
        world.run(3 * SECOND);
        assert!(world.state(2).addresses().is_empty());
        let heir = world.claim(3, "heir", &b);
        world.run(3 * SECOND);
        assert_eq!(answer(&world, 3, heir), b);
    }
}

#[test]
fn what_was_lent_to_a_removed_host_rests_before_it_is_used_again() {
    for fenced in [true, false] {
        let mut world = started("10.32.0.0/28", 3, 3);
        let mine = first_slot(&world, 0).first + 1;
        let lent = world.claim(2, "pod", &format!("10.32.0.{mine}"));
        world.run(SECOND);
        answer(&world, 2, lent);
        world.crash(2);
        world.remove(0, &[2], fenced);
        world.run(5 * SECOND);
        all_slots_are_owned(&world, &[0, 1]);
        let held = world.state(0).addresses().get(&mine).cloned();
        let expected = if fenced { Held::Resting } else { Held::Abandoned };
        assert_eq!(held, Some(expected));
        world.run(if fenced { 61 * SECOND } else { RECLAIM_REST });
        assert_eq!(world.state(0).addresses().get(&mine), None);
    }
}

#[test]
fn one_of_two_removes_the_other_only_by_a_vouch() {
    let mut world = started("10.32.0.0/24", 2, 2);
    world.crash(1);
    world.remove(0, &[1], false);
    world.run(30 * SECOND);
    assert!(world.removed().is_empty());
    world.remove(0, &[1], true);
    world.run(10 * SECOND);
    assert_eq!(owned(&world, 0), 256);
    all_slots_are_owned(&world, &[0]);
}

#[test]
fn two_halves_that_vouch_against_each_other_stop_when_they_meet() {
    let mut world = started("10.32.0.0/24", 4, 4);
    world.sides = vec![0, 0, 1, 1];
    world.conflicts_expected = true;
    world.remove(0, &[2, 3], true);
    world.remove(2, &[0, 1], true);
    world.run(10 * SECOND);
    for host in [0, 2] {
        assert_eq!(
            world.state(host).members().len(),
            2,
            "a false vouch splits the cluster"
        );
    }
    world.sides = vec![0; 4];
    world.run(10 * SECOND);
    for host in 0..4 {
        assert!(
            has_event(&world, host, |event| matches!(event, Event::Split { .. })),
            "host {host}"
        );
        let request = world.allocate(host, "late");
        world.run(SECOND);
        let frozen = Err(AllocError::Frozen(FreezeReason::Split));
        assert_eq!(world.hosts[host].answers[&request], frozen);
    }
}

#[test]
fn a_vouch_gets_over_a_decision_that_needs_the_dead() {
    let mut world = World::new(1, "10.32.0.0/24", 3, 1);
    world.start(0);
    world.start(1);
    world.run(5 * SECOND);
    assert_eq!(world.state(0).members().len(), 2);
    // One of them proposes to add host 2; the other promises, and dies when the proposer has accepted and it has not.
    let (lower, upper) = if world.id(0) < world.id(1) { (0, 1) } else { (1, 0) };
    world.start(2);
    let is_caught = |world: &World| {
        let (proposer, other) = (world.state(lower), world.state(upper));
        proposer.vote().accepted.is_some() && proposer.epoch() == 1 && other.vote().accepted.is_none()
    };
    for _ in 0..50_000 {
        world.run(Duration::from_micros(100));
        if is_caught(&world) {
            break;
        }
    }
    assert!(is_caught(&world), "it was too fast to be caught");
    world.crash(upper);
    world.run(10 * SECOND);
    assert_eq!(world.state(lower).epoch(), 1, "one of two decides nothing");
    world.remove(lower, &[upper], true);
    world.run(20 * SECOND);
    assert_eq!(world.removed(), [world.id(upper)].into());
    assert_eq!(
        world.state(lower).members().len(),
        2,
        "and host 2 was added afterwards"
    );
    all_slots_are_owned(&world, &[lower, 2]);
}

#[test]
fn a_newcomer_after_the_founder_was_removed_learns_who_owns_what() {
    let mut world = World::new(1, "10.32.0.0/24", 4, 3);
    for host in 0..3 {
        world.start(host);
    }
    world.run(5 * SECOND);
    world.crash(0);
    world.remove(1, &[0], true);
    world.run(5 * SECOND);
    all_slots_are_owned(&world, &[1, 2]);
    world.start(3);
    world.run(10 * SECOND);
    all_slots_are_owned(&world, &[1, 2, 3]);
    assert!(world.is_converged());
    assert!(owned(&world, 3) > 0);
}

#[test]
fn nobody_removes_itself_a_stranger_or_more_than_an_epoch_holds() {
    let mut world = started("10.32.0.0/24", 2, 2);
    let request = world.remove(0, &[0], false);
    world.run(SECOND);
    assert_eq!(world.hosts[0].removals[&request], Err(RemovalError::Itself));
    let stranger = NodeId([9; 32]);
    let request = weft_ipam_crdt::RequestId(1_000);
    let hosts = vec![stranger];
    world.give(
        0,
        Input::Request(weft_ipam_crdt::Request::Remove {
            hosts,
            fenced: true,
            request,
        }),
    );
    world.run(SECOND);
    assert_eq!(
        world.hosts[0].removals[&request],
        Err(RemovalError::Stranger(stranger))
    );
}

#[test]
fn an_observer_that_is_in_no_epoch_can_be_removed_and_asks_for_removals() {
    let mut world = World::new(1, "10.32.0.0/24", 4, 1);
    world.hosts[2].role = Role::Observer;
    world.hosts[3].role = Role::Observer;
    for host in 0..4 {
        world.start(host);
    }
    world.run(5 * SECOND);
    world.crash(3);
    world.remove(2, &[3], false);
    world.run(5 * SECOND);
    assert_eq!(world.removed(), [world.id(3)].into());
    assert_eq!(world.state(0).members().len(), 2);
    for host in 0..3 {
        assert_eq!(world.ipam(host).removals(), []);
    }
}

#[test]
fn a_reclaim_is_believed_with_the_names_of_a_majority_only() {
    let (mut world, liar) = half_way();
    world.conflicts_expected = true;
    let victim = (0..3).find(|host| *host != liar).unwrap();
    let (reclaimer, epoch) = (world.id(liar), world.state(liar).epoch());
    let theirs = world.state(victim).table().runs_of(&world.id(4))[0];
    let theirs = SlotRun { count: 1, ..theirs };
    // It signs for itself, claims the other's slot too, and counts its own signature twice.
    let own = first_slot(&world, victim);
    let version = Version { epoch, seq: 0 };
    let hash = world.state(liar).epoch_hash();
    for slot in [theirs, own] {
        let runs = vec![SlotRun { version, ..slot }];
        let message = reclaim_message(&world.genesis_id(), &hash, &reclaimer, &runs);
        let signature = world.hosts[liar].key.sign(&message).into();
        let position = world
            .state(liar)
            .members()
            .iter()
            .position(|id| *id == reclaimer)
            .unwrap() as u16;
        let all = (0..4).map(|position| (position, signature)).collect();
        for votes in [vec![], vec![(position, signature); 4], all] {
            let forged = Proof::Reclaim(Reclaim {
                to: reclaimer,
                runs: runs.clone(),
                votes,
            });
            let before = world.state(victim).table().get(slot.first).unwrap();
            let bytes = Message::Chain(vec![forged]).encode();
            let from = reclaimer;
            world.give(victim, Input::Message { from, bytes });
            let after = world.state(victim).table().get(slot.first).unwrap();
            assert_eq!(before, after);
        }
        assert!(has_event(&world, victim, |event| matches!(
            event,
            Event::Misbehaved { .. }
        )));
    }
    // Nor does an honest member sign its own slot away, or that of another.
    let claims = |_: &NodeId| None;
    let runs = vec![SlotRun { version, ..own }];
    assert!(rules::judge_reclaim(world.state(victim), &world.id(victim), &runs, &claims).is_err());
}
