//! Model 3: epochs that the hosts decide themselves, and a slot that changes hands meanwhile.

use weft_model::cast::Cast;
use weft_model::cluster::Cluster;
use weft_model::plan::{Epochs, Flaw, Plan, removes};
use weft_model::properties::{ONE_ALLOCATES, ONE_EPOCH};
use weft_model::search::{Bound, search};
use weft_wire::ipam::Epoch;

/// Two halves of a cluster remove each other.
fn each_other(cast: &Cast, host: usize) -> Vec<Epoch> {
    match host {
        0 => vec![removes(cast, &[1], 0)],
        1 => vec![removes(cast, &[0], 1)],
        _ => vec![removes(cast, &[0], 2)],
    }
}

fn plan(transfers: u8, crashes: u8, flaw: Flaw) -> Plan {
    Plan {
        hosts: 3,
        members: 3,
        epochs: Epochs::Voted {
            wants: each_other,
            ballots: 2,
            count: 1,
        },
        transfers,
        crashes,
        losses: 0,
        is_sync_seen: false,
        vouch: None,
        may_split: false,
        is_every_order: false,
        flaw,
    }
}

#[test]
fn two_removals_at_once_leave_one_owner() {
    let found = search(
        "two removals at once",
        Cluster::new(plan(1, 0, Flaw::None)),
        Bound::None,
    );
    found.must_hold();
    assert!(found.is_exhausted);
}

#[test]
fn two_removals_at_once_with_a_crash_leave_one_owner() {
    let bound = Bound::Steps(9);
    search(
        "two removals at once, one crash",
        Cluster::new(plan(2, 1, Flaw::None)),
        bound,
    )
    .must_hold();
}

#[test]
#[ignore = "minutes"]
fn two_removals_at_once_leave_one_owner_further_on() {
    let bound = Bound::Steps(14);
    search(
        "two removals at once, one crash, further on",
        Cluster::new(plan(2, 1, Flaw::None)),
        bound,
    )
    .must_hold();
}

#[test]
fn removals_without_a_majority_split_the_cluster() {
    search(
        "removal without majority, two epochs",
        Cluster::new(plan(0, 0, Flaw::NoMajority)),
        Bound::None,
    )
    .must_break(ONE_EPOCH);
}

#[test]
fn a_removal_without_a_majority_is_a_duplicate() {
    search(
        "removal without majority",
        Cluster::new(plan(1, 0, Flaw::NoMajority)).only(ONE_ALLOCATES),
        Bound::None,
    )
    .must_break(ONE_ALLOCATES);
}
