//! Model 2: a slot that changes hands. Epochs are decided by an oracle.

use weft_model::cast::Cast;
use weft_model::cluster::Cluster;
use weft_model::plan::{Epochs, Flaw, Plan, adds, removes};
use weft_model::properties::ONE_ALLOCATES;
use weft_model::search::{Bound, Found, search};
use weft_wire::ipam::Epoch;

fn cast() -> Cast {
    Cast::new(4)
}

/// B and C are alike, so A and B stand for all.
fn one_removal() -> Vec<Vec<Epoch>> {
    let cast = cast();
    vec![vec![
        removes(&cast, &[0], 1),
        removes(&cast, &[1], 0),
        removes(&cast, &[1], 2),
    ]]
}

fn plan(epochs: Vec<Vec<Epoch>>, flaw: Flaw) -> Plan {
    Plan {
        hosts: 3,
        members: 3,
        epochs: Epochs::Decided(epochs),
        transfers: 3,
        crashes: 2,
        losses: 0,
        is_sync_seen: true,
        vouch: None,
        may_split: false,
        is_every_order: false,
        flaw,
    }
}

fn must_hold(name: &str, plan: Plan) {
    let found = search(name, Cluster::new(plan), Bound::None);
    found.must_hold();
    assert!(found.is_exhausted);
}

fn must_break(name: &str, plan: Plan) -> Found {
    let found = search(name, Cluster::new(plan), Bound::None);
    found.must_break(ONE_ALLOCATES);
    found
}

#[test]
fn a_slot_has_one_owner() {
    must_hold("a slot", plan(vec![], Flaw::None));
}

#[test]
fn a_slot_of_a_removed_host_has_one_owner() {
    must_hold("a slot, one removal", plan(one_removal(), Flaw::None));
}

/// What is on disks and was said is the same with the orders that the search leaves out.
#[test]
fn steps_that_nobody_sees_can_be_put_off() {
    let epochs = vec![vec![removes(&cast(), &[0], 1)]];
    let mut cluster = Cluster::new(Plan {
        transfers: 2,
        crashes: 1,
        ..plan(epochs, Flaw::None)
    });
    let fewer = cluster.settled_states();
    cluster.plan.is_every_order = true;
    let all = cluster.settled_states();
    println!("{} states with all on disk", all.len());
    assert!(all.len() > 1_000);
    assert!(all == fewer, "{} and {}", all.len(), fewer.len());
}

#[test]
fn a_grant_sent_before_it_is_durable_is_a_duplicate() {
    must_break("sent before sync", plan(vec![], Flaw::SendBeforeSync));
}

#[test]
fn a_host_that_goes_on_without_its_disk_is_a_duplicate() {
    let plan = Plan {
        losses: 1,
        crashes: 0,
        ..plan(vec![], Flaw::ResumeWithoutDisk)
    };
    must_break("resumed without its disk", plan);
}

#[test]
fn a_takeover_without_a_removal_is_a_duplicate() {
    must_break("plain takeover", plan(vec![], Flaw::PlainTakeover));
}

#[test]
fn a_promise_of_one_is_a_duplicate() {
    let plan = Plan {
        crashes: 0,
        ..plan(one_removal(), Flaw::OneSidedPromise)
    };
    must_break("one-sided promise", plan);
}

#[test]
fn a_newcomer_that_owns_slots_before_its_epoch_is_a_duplicate() {
    let cast = cast();
    let epochs = vec![vec![removes(&cast, &[0], 1)], vec![adds(&cast, 3)]];
    let plan = Plan {
        hosts: 4,
        crashes: 0,
        transfers: 2,
        ..plan(epochs, Flaw::StrangersOwn)
    };
    must_break("a newcomer that owns slots before its epoch", plan);
}

/// Four members: a donor, a recipient, a reclaimer, and one that is removed.
fn four(transfers: u8, crashes: u8, is_sync_seen: bool, epochs: Vec<Vec<Epoch>>) -> Plan {
    Plan {
        hosts: 4,
        members: 4,
        transfers,
        crashes,
        is_sync_seen,
        ..plan(epochs, Flaw::None)
    }
}

#[test]
fn a_slot_that_is_under_way_during_a_removal_has_one_owner() {
    let cast = cast();
    let epochs = vec![vec![
        removes(&cast, &[0], 1),
        removes(&cast, &[1], 0),
        removes(&cast, &[1], 2),
    ]];
    must_hold("four members, one removal", four(2, 1, false, epochs));
}

#[test]
fn a_signature_without_a_promise_is_a_duplicate() {
    let epochs = vec![vec![removes(&cast(), &[1], 2)]];
    let plan = Plan {
        flaw: Flaw::SignWithoutPromise,
        ..four(2, 0, false, epochs)
    };
    must_break("a signature without a promise", plan);
}

#[test]
fn a_reclaimer_that_is_removed_itself_is_followed_by_another() {
    let cast = cast();
    let epochs = vec![
        vec![removes(&cast, &[0], 1), removes(&cast, &[3], 1)],
        vec![removes(&cast, &[1], 2)],
    ];
    must_hold("the reclaimer is removed", four(1, 1, false, epochs));
}

#[test]
fn a_host_that_joins_during_a_removal_harms_nothing() {
    let cast = cast();
    let (removal, join) = (removes(&cast, &[0], 1), adds(&cast, 3));
    let epochs = vec![vec![removal.clone(), join.clone()], vec![removal, join]];
    must_hold(
        "a host joins",
        Plan {
            members: 3,
            ..four(2, 1, false, epochs)
        },
    );
}
