//! The invariants notice what they are for: each shell that is broken on purpose is caught, by the right one.

use weft_sim::{Sabotage, Scenario, run};

/// A seed may pass by luck: the fault has to meet the moment that it breaks.
const SEEDS: u64 = 8;

fn caught(scenario: &str, sabotage: Sabotage) -> (&'static str, String) {
    let scenario = Scenario::load(scenario).unwrap_or_else(|error| panic!("{error}"));
    for seed in 0..SEEDS {
        if let Err(failure) = run(&scenario, seed, Some(sabotage)) {
            assert!(!failure.lines.is_empty(), "the last events belong to a failure");
            return (failure.violation.invariant, failure.to_string());
        }
    }
    panic!("{sabotage:?} was not noticed with {SEEDS} seeds")
}

#[test]
fn each_broken_shell_is_caught_by_its_invariant() {
    for sabotage in Sabotage::ALL {
        let (scenario, invariants) = match sabotage {
            Sabotage::EarlyPersisted => ("crashes", &["durable"][..]),
            // Others may notice the lost write first: then the host freezes itself, for a reason that it must not have.
            Sabotage::EarlyAnswer => ("crashes", &["addresses", "members"][..]),
            Sabotage::ReusedCounter => ("calm", &["counters"][..]),
            Sabotage::NoReplayWindow => ("rough", &["frames"][..]),
            Sabotage::SameIncarnation => ("crashes", &["members"][..]),
            Sabotage::VerdictCutsPath => ("verdicts", &["paths"][..]),
            Sabotage::LeakedToken => ("rough", &["members"][..]),
            Sabotage::WrongPeer => ("calm", &["frames"][..]),
            Sabotage::EarlyPromise => ("first_alone", &["members"][..]),
            Sabotage::PlainTakeover => ("removals", &["addresses"][..]),
            Sabotage::Unremoved => ("removals", &["addresses"][..]),
        };
        let by = caught(scenario, sabotage).0;
        assert!(invariants.contains(&by), "{sabotage:?} was caught by {by}");
    }
}

#[test]
fn a_failure_says_how_to_see_it_again() {
    let (_, text) = caught("calm", Sabotage::WrongPeer);
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(
        last,
        "replay it with: cargo run -p weft-sim -- calm --seed 0 --sabotage wrong-peer --trace"
    );
    assert!(text.contains("scenario calm seed 0 at "), "{text}");
}
