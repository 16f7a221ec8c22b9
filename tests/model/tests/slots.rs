//! Model 2: a slot that changes hands. Epochs are decided by an oracle.

use weft_model::cluster::Cluster;
use weft_model::plan::{Epochs, Flaw, Plan};
use weft_model::properties::ONE_ALLOCATES;
use weft_model::search::{Bound, Found, search};

fn plan(flaw: Flaw) -> Plan {
    Plan {
        hosts: 3,
        epochs: Epochs::Decided(Vec::new()),
        transfers: 3,
        crashes: 2,
        losses: 0,
        is_sync_seen: true,
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
    must_hold("a slot", plan(Flaw::None));
}

#[test]
fn a_grant_sent_before_it_is_durable_is_a_duplicate() {
    must_break("sent before sync", plan(Flaw::SendBeforeSync));
}

#[test]
fn a_host_that_goes_on_without_its_disk_is_a_duplicate() {
    let plan = Plan {
        losses: 1,
        crashes: 0,
        ..plan(Flaw::ResumeWithoutDisk)
    };
    must_break("resumed without its disk", plan);
}

#[test]
fn a_takeover_without_a_removal_is_a_duplicate() {
    must_break("plain takeover", plan(Flaw::PlainTakeover));
}
