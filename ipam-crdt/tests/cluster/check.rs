//! What a check finds: nothing where the rules hold, and each thing that a spoilt disk or a lost host leaves.

use crate::world::World;
use std::time::Duration;
use weft_ipam_crdt::check::Finding;
use weft_ipam_crdt::ipam::REST;
use weft_ipam_crdt::message::AskId;
use weft_ipam_crdt::{Change, FreezeReason, Held, Input, Role};
use weft_wire::ipam::{SlotRun, Version};

const SECOND: Duration = Duration::from_secs(1);
const ASK: AskId = AskId {
    incarnation: 1,
    count: 9_000,
};

fn started(hosts: usize) -> World {
    let mut world = World::new(1, "10.32.0.0/24", hosts, hosts as u32);
    for host in 0..hosts {
        world.start(host);
    }
    world.run(5 * SECOND);
    world
}

/// The last free slot that a host owns, with its version; slots of this range have one address each.
fn slot_of(world: &World, host: usize) -> SlotRun {
    let runs = world.state(host).table().runs_of(&world.id(host));
    let taken = world.state(host).addresses();
    let mut slots = runs.iter().flat_map(|run| {
        run.slots().map(|first| SlotRun {
            first,
            count: 1,
            version: run.version,
        })
    });
    slots
        .rfind(|slot| (1..255).contains(&slot.first) && !taken.contains_key(&slot.first))
        .unwrap()
}

fn kinds(world: &World, host: usize) -> Vec<&'static str> {
    let name = |node: &weft_wire::NodeId| node.short();
    let found = world.findings(host);
    for finding in &found {
        assert!(!finding.what(&name).is_empty() && !finding.cure(&name).is_empty());
    }
    found.iter().map(Finding::kind).collect()
}

/// Spoils the disk of the first host while it is down, and says what it finds once it is up again.
fn after(world: &mut World, changes: &[Change]) -> Vec<&'static str> {
    world.crash(0);
    for change in changes {
        world.spoil(0, change);
    }
    world.start(0);
    world.run(5 * SECOND);
    kinds(world, 0)
}

#[test]
fn a_busy_and_then_quiet_cluster_has_no_findings() {
    let mut world = World::new(7, "10.32.0.0/26", 4, 4);
    world.hosts[3].role = Role::Observer;
    for host in 0..4 {
        world.start(host);
    }
    world.run(5 * SECOND);
    // More than the first has, so that slots move and addresses are lent; the observer only borrows.
    for pod in 0..30 {
        world.allocate(0, &format!("a{pod}"));
        world.run(SECOND / 10);
    }
    for pod in 0..4 {
        world.allocate(3, &format!("o{pod}"));
    }
    world.run(5 * SECOND);
    for pod in 0..10 {
        world.free(0, &format!("a{pod}"));
    }
    world.free(3, "o0");
    for wait in [5 * SECOND, REST + 5 * SECOND] {
        world.run(wait);
        for host in 0..4 {
            assert_eq!(world.findings(host), [], "host {host}");
        }
    }
    assert!(
        world
            .state(3)
            .addresses()
            .values()
            .any(|held| matches!(held, Held::Borrowed { .. }))
    );
}

#[test]
fn addresses_that_a_host_may_not_hold_are_found() {
    let mut world = started(2);
    let (own, foreign) = (slot_of(&world, 0).first, slot_of(&world, 1).first);
    let pod = |offset: u32| Change::Address(offset, Some(Held::Pod("web".into())));
    assert_eq!(after(&mut world, &[pod(own)]), Vec::<&str>::new());
    assert_eq!(after(&mut world, &[pod(foreign)]), ["in-foreign-slot"]);
    assert_eq!(
        after(&mut world, &[Change::Address(foreign, Some(Held::Resting))]),
        ["kept-in-foreign-slot"]
    );
    let gone = [Change::Address(foreign, None), pod(0), pod(255)];
    assert_eq!(after(&mut world, &gone), ["no-pods-address"; 2]);
}

#[test]
fn loans_with_one_end_are_found() {
    let mut world = started(2);
    let (lender, stranger) = (world.id(1), weft_wire::NodeId([0xee; 32]));
    // The lender has published that it lends nothing only once it has lent something.
    world.claim(0, "real", &format!("10.32.0.{}", slot_of(&world, 1).first));
    world.run(5 * SECOND);
    let (own, foreign) = (slot_of(&world, 0).first, slot_of(&world, 1).first);
    assert_eq!(kinds(&world, 0), Vec::<&str>::new());
    let borrowed = |from, number| {
        let id = "web".into();
        Change::Address(foreign, Some(Held::Borrowed { from, number, id }))
    };
    assert_eq!(after(&mut world, &[borrowed(lender, 77)]), ["loan-unknown"]);
    assert_eq!(after(&mut world, &[borrowed(stranger, 77)]), ["lender-gone"]);
    let lent = Held::Lent {
        to: stranger,
        number: 1,
        ask: ASK,
    };
    let changes = [Change::Address(foreign, None), Change::Address(own, Some(lent))];
    assert_eq!(after(&mut world, &changes), ["lent-to-stranger"]);
}

#[test]
fn registers_that_no_record_bears_out_are_found() {
    let mut world = started(2);
    world.conflicts_expected = true;
    let (mine, other) = (slot_of(&world, 0), slot_of(&world, 1));
    let to = |run: SlotRun, host: usize, more: u32, is_frozen: bool| Change::Slots {
        run: SlotRun {
            version: Version {
                seq: run.version.seq + more,
                ..run.version
            },
            ..run
        },
        owner: world.id(host),
        is_frozen,
    };
    // Each leaves the last as it is.
    let disowned = to(mine, 1, 1, false);
    let frozen = to(slot_of(&world, 1), 1, 0, true);
    world.crash(0);
    world.spoil(0, &disowned);
    world.start(0);
    world.run(5 * SECOND);
    assert!(kinds(&world, 0).contains(&"disowned"));
    // What the first host took away from itself, the second knows as the first's.
    assert!(kinds(&world, 1).contains(&"disowned"));
    world.crash(0);
    world.spoil(0, &frozen);
    world.start(0);
    world.run(5 * SECOND);
    assert!(kinds(&world, 0).contains(&"frozen"), "{:?}", kinds(&world, 0));
    assert!(world.state(0).table().get(other.first).unwrap().is_frozen);
    world.give(1, Input::Freeze(FreezeReason::CopiedIdentity));
    assert!(kinds(&world, 1).contains(&"host-frozen"));
}
