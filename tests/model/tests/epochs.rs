//! Model 1: deciding epochs.

use weft_model::epochs::{AGREEMENT, Epochs, Flaw, Limits};
use weft_model::search::{Bound, Found, search};

/// Two ballots for each of two epochs, and one crash right after a sync.
const TWO_EPOCHS: Limits = Limits {
    ballots: 2,
    epochs: 2,
    crashes: 1,
    is_sync_seen: false,
};
/// One epoch, with a crash between a write and its sync.
const ONE_EPOCH: Limits = Limits {
    ballots: 2,
    epochs: 1,
    crashes: 1,
    is_sync_seen: true,
};

fn run(name: &str, limits: Limits, flaw: Flaw) -> Found {
    search(name, Epochs::new(limits, flaw), Bound::None)
}

fn must_hold(name: &str, limits: Limits) {
    let found = run(name, limits, Flaw::None);
    found.must_hold();
    assert!(found.is_exhausted);
}

#[test]
fn each_of_two_epochs_is_decided_in_one_way() {
    must_hold("two epochs", TWO_EPOCHS);
}

#[test]
fn a_crash_before_a_sync_decides_nothing_twice() {
    must_hold("one epoch, crash before sync", ONE_EPOCH);
}

#[test]
#[ignore = "minutes"]
fn each_of_two_epochs_is_decided_in_one_way_with_a_crash_before_a_sync() {
    let is_sync_seen = true;
    must_hold(
        "two epochs, crash before sync",
        Limits {
            is_sync_seen,
            ..TWO_EPOCHS
        },
    );
}

#[test]
#[ignore = "minutes"]
fn three_ballots_decide_each_epoch_in_one_way() {
    must_hold(
        "three ballots",
        Limits {
            ballots: 3,
            epochs: 1,
            ..TWO_EPOCHS
        },
    );
}

#[test]
fn a_record_sent_before_it_is_durable_decides_twice() {
    run("sent before sync", ONE_EPOCH, Flaw::SendBeforeSync).must_break(AGREEMENT);
}

#[test]
fn a_voter_that_goes_on_without_its_disk_decides_twice() {
    run("resumed without its disk", ONE_EPOCH, Flaw::ResumeWithoutDisk).must_break(AGREEMENT);
}

#[test]
fn hosts_that_decide_without_a_majority_decide_twice() {
    run("no majority", ONE_EPOCH, Flaw::NoMajority).must_break(AGREEMENT);
}
