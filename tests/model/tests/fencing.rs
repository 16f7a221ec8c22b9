//! Model 3 with a vouch: somebody says that hosts are off for good, and only the votes of the others count.

use weft_model::cast::Cast;
use weft_model::cluster::Cluster;
use weft_model::plan::{Epochs, Flaw, Plan, Vouch, adds, fences, removes};
use weft_model::search::{Bound, Found, search};
use weft_wire::ipam::Epoch;

type Wants = fn(&Cast, usize) -> Vec<Epoch>;

fn plan(hosts: usize, members: usize, wants: Wants, vouch: Vouch) -> Plan {
    Plan {
        hosts,
        members,
        epochs: Epochs::Voted {
            wants,
            ballots: 2,
            count: 1,
        },
        transfers: 1,
        crashes: 0,
        losses: 0,
        vouch: Some(vouch),
        may_split: false,
        is_sync_seen: false,
        is_every_order: false,
        flaw: Flaw::None,
    }
}

fn must_hold(name: &str, plan: Plan) -> Found {
    let found = search(name, Cluster::new(plan), Bound::None);
    found.must_hold();
    assert!(found.is_exhausted);
    found
}

/// Each of two wants the other removed.
fn each_other(cast: &Cast, host: usize) -> Vec<Epoch> {
    let other = 1 - host;
    vec![removes(cast, &[other], host), fences(cast, &[other], host)]
}

#[test]
fn one_of_two_goes_on_when_the_other_is_dead() {
    let plan = Plan {
        transfers: 3,
        crashes: 1,
        ..plan(2, 2, each_other, Vouch::True)
    };
    must_hold("one of two is dead", plan);
}

/// C, for which D would do as well, wants A removed; A and B vouch for C and D.
fn half(cast: &Cast, host: usize) -> Vec<Epoch> {
    match host {
        0 | 1 => vec![fences(cast, &[2, 3], host)],
        2 => vec![removes(cast, &[0], 2)],
        _ => vec![],
    }
}

#[test]
fn half_of_four_go_on_when_the_others_are_dead() {
    let plan = Plan {
        transfers: 0,
        ..plan(4, 4, half, Vouch::True)
    };
    must_hold("two of four are dead", plan);
}

#[test]
#[ignore = "minutes"]
fn half_of_four_go_on_with_a_slot_when_the_others_are_dead() {
    must_hold("two of four are dead, one grant", plan(4, 4, half, Vouch::True));
}

#[test]
fn two_that_vouch_for_each_other_and_live_are_split_and_freeze() {
    let plan = Plan {
        may_split: true,
        ..plan(2, 2, each_other, Vouch::Blind)
    };
    let found = must_hold("two that vouch for each other", plan);
    print!("{}", found.examples());
}

/// B, for which C would do as well, adds D.
fn fewer_than_half(cast: &Cast, host: usize) -> Vec<Epoch> {
    match host {
        0 => vec![fences(cast, &[1, 2], 0)],
        1 => vec![adds(cast, 3)],
        _ => vec![],
    }
}

/// B and C decide that D is a member, die, and A decides without them.
#[test]
fn a_newcomer_of_whom_only_the_dead_knew_is_split_off_and_freezes() {
    let plan = Plan {
        transfers: 2,
        may_split: true,
        ..plan(4, 3, fewer_than_half, Vouch::True)
    };
    let found = must_hold("a newcomer of whom only the dead knew", plan);
    print!("{}", found.examples());
}
