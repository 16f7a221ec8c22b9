//! Model 3, further: the hosts vote on all that can come at once with a removal, and a slot changes hands meanwhile.

use weft_model::cast::Cast;
use weft_model::cluster::Cluster;
use weft_model::plan::{Epochs, Flaw, Plan, adds, removes};
use weft_model::search::{Bound, search};
use weft_wire::ipam::Epoch;

type Wants = fn(&Cast, usize) -> Vec<Epoch>;

fn plan(hosts: usize, members: usize, wants: Wants, ballots: u8, count: u32) -> Plan {
    Plan {
        hosts,
        members,
        epochs: Epochs::Voted {
            wants,
            ballots,
            count,
        },
        transfers: 1,
        crashes: 0,
        losses: 0,
        is_sync_seen: false,
        vouch: None,
        may_split: false,
        is_every_order: false,
        flaw: Flaw::None,
    }
}

fn must_hold(name: &str, plan: Plan, bound: Bound) {
    let found = search(name, Cluster::new(plan), bound);
    found.must_hold();
}

/// B removes A, which owns the slot, and C adds D; who cannot have that wants the other's.
fn join_and_removal(cast: &Cast, host: usize) -> Vec<Epoch> {
    match host {
        1 => vec![removes(cast, &[0], 1)],
        2 => vec![adds(cast, 3)],
        _ => vec![],
    }
}

#[test]
fn a_join_and_a_removal_are_voted_on_at_once() {
    must_hold(
        "a join and a removal, voted on",
        plan(4, 3, join_and_removal, 1, 2),
        Bound::Steps(13),
    );
}

#[test]
#[ignore = "minutes"]
fn a_join_and_a_removal_are_voted_on_at_once_further_on() {
    let plan = Plan {
        transfers: 2,
        crashes: 1,
        ..plan(4, 3, join_and_removal, 2, 2)
    };
    must_hold(
        "a join and a removal, voted on, one crash",
        plan,
        Bound::Steps(13),
    );
}

/// B removes A for itself; C removes B, the reclaimer, for itself.
fn reclaimer_removed(cast: &Cast, host: usize) -> Vec<Epoch> {
    match host {
        1 => vec![removes(cast, &[0], 1)],
        2 => vec![removes(cast, &[1], 2)],
        _ => vec![],
    }
}

/// A reclaimer that dies for good does nothing from some moment on: that is one of the orders that are tried.
#[test]
fn a_reclaimer_that_dies_is_voted_out() {
    let plan = plan(3, 3, reclaimer_removed, 1, 2);
    must_hold("a reclaimer is voted out", plan, Bound::Steps(14));
}

#[test]
#[ignore = "minutes"]
fn a_reclaimer_that_dies_is_voted_out_further_on() {
    let plan = Plan {
        transfers: 2,
        crashes: 1,
        ..plan(3, 3, reclaimer_removed, 1, 2)
    };
    must_hold(
        "a reclaimer is voted out, two grants, one crash",
        plan,
        Bound::Steps(14),
    );
}

/// C and D remove A, each for itself; A and B remove D.
fn two_sides(cast: &Cast, host: usize) -> Vec<Epoch> {
    match host {
        0 | 1 => vec![removes(cast, &[3], host)],
        _ => vec![removes(cast, &[0], host)],
    }
}

#[test]
fn two_sides_of_four_remove_each_other() {
    must_hold("two sides of four", plan(4, 4, two_sides, 1, 1), Bound::Steps(12));
}

#[test]
#[ignore = "minutes"]
fn two_sides_of_four_remove_each_other_further_on() {
    let plan = Plan {
        crashes: 1,
        ..plan(4, 4, two_sides, 2, 1)
    };
    must_hold("two sides of four, one crash", plan, Bound::Steps(14));
}
