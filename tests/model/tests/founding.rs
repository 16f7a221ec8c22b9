//! Model 4: a genesis on which hosts agree, and hosts that come late.

use weft_model::founding::{Flaw, Founding, ONE_GENESIS, Plan};
use weft_model::search::{Bound, Found, search};

/// Two decide, and there is a third.
fn plan(flaw: Flaw) -> Plan {
    Plan {
        hosts: 3,
        expected: 2,
        apart: None,
        tries: 2,
        crashes: 0,
        losses: 0,
        is_sync_seen: false,
        flaw,
    }
}

fn must_hold(name: &str, plan: Plan) -> Found {
    let found = search(name, Founding::new(plan), Bound::None);
    found.must_hold();
    assert!(found.is_exhausted);
    found
}

#[test]
fn two_agree_and_a_third_comes_at_any_time() {
    must_hold("two agree, one comes late", plan(Flaw::None));
}

#[test]
fn two_agree_and_one_dies_on_the_way() {
    let plan = Plan {
        crashes: 1,
        tries: 1,
        ..plan(Flaw::None)
    };
    must_hold("two agree, one comes late, one crash", plan);
}

#[test]
#[ignore = "minutes"]
fn two_agree_and_one_dies_before_or_after_a_sync() {
    let plan = Plan {
        crashes: 1,
        is_sync_seen: true,
        ..plan(Flaw::None)
    };
    let found = search(
        "two agree, crash before or after a sync",
        Founding::new(plan),
        Bound::Steps(16),
    );
    assert!(found.broken.is_empty(), "{}", found.story());
}

#[test]
fn a_founder_that_goes_on_without_its_disk_makes_two() {
    let plan = Plan {
        apart: Some((0, 2)),
        losses: 1,
        ..plan(Flaw::ResumeWithoutDisk)
    };
    search(
        "founding, resumed without its disk",
        Founding::new(plan),
        Bound::None,
    )
    .must_break(ONE_GENESIS);
}
