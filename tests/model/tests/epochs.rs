//! Model 1: deciding epochs. A wants C removed, B wants A removed, and C wants D added; who cannot have that wants
//! something else.

use weft_model::cast::Cast;
use weft_model::cluster::Cluster;
use weft_model::plan::{Epochs, Flaw, Plan, adds, removes};
use weft_model::properties::ONE_EPOCH;
use weft_model::search::{Bound, Found, search};
use weft_wire::ipam::Epoch;

fn wants(cast: &Cast, host: usize) -> Vec<Epoch> {
    match host {
        0 => vec![removes(cast, &[2], 0), adds(cast, 3)],
        1 => vec![removes(cast, &[0], 1), adds(cast, 3)],
        _ => vec![adds(cast, 3), removes(cast, &[1], 2)],
    }
}

/// So many ballots for each of so many epochs, and one crash, right after a sync or also before it.
fn run(name: &str, ballots: u8, count: u32, is_sync_seen: bool, flaw: Flaw) -> Found {
    let plan = Plan {
        hosts: 3,
        members: 3,
        epochs: Epochs::Voted {
            wants,
            ballots,
            count,
        },
        transfers: 0,
        crashes: 1,
        losses: u8::from(flaw == Flaw::ResumeWithoutDisk),
        is_sync_seen,
        vouch: None,
        may_split: false,
        is_every_order: false,
        flaw,
    };
    search(name, Cluster::new(plan), Bound::None)
}

fn must_hold(name: &str, ballots: u8, count: u32, is_sync_seen: bool) {
    let found = run(name, ballots, count, is_sync_seen, Flaw::None);
    found.must_hold();
    assert!(found.is_exhausted);
}

#[test]
fn each_of_two_epochs_is_decided_in_one_way() {
    must_hold("two epochs", 2, 2, false);
}

#[test]
fn a_crash_before_a_sync_decides_nothing_twice() {
    must_hold("one epoch, crash before sync", 2, 1, true);
}

#[test]
#[ignore = "minutes"]
fn each_of_two_epochs_is_decided_in_one_way_with_a_crash_before_a_sync() {
    must_hold("two epochs, crash before sync", 2, 2, true);
}

#[test]
#[ignore = "minutes"]
fn three_ballots_decide_each_epoch_in_one_way() {
    must_hold("three ballots", 3, 1, false);
}

#[test]
fn a_record_sent_before_it_is_durable_decides_twice() {
    run("sent before sync", 2, 1, true, Flaw::SendBeforeSync).must_break(ONE_EPOCH);
}

#[test]
fn a_voter_that_goes_on_without_its_disk_decides_twice() {
    run("resumed without its disk", 2, 1, false, Flaw::ResumeWithoutDisk).must_break(ONE_EPOCH);
}

#[test]
fn hosts_that_decide_without_a_majority_decide_twice() {
    run("no majority", 2, 1, false, Flaw::NoMajority).must_break(ONE_EPOCH);
}
