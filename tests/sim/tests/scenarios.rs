//! Every scenario over some seeds, each run twice: no invariant is violated, and the same seed gives the same events.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use weft_sim::happenings::Tally;
use weft_sim::{Scenario, run, scenario};

/// Seeds of the long search, over the small scenarios together.
const LONG_SEEDS: u64 = 1_000;
/// Seeds of the largest scenario, which takes many times as long as the others.
const CHAOS_SEEDS: u64 = 50;

fn load(name: &str) -> Scenario {
    Scenario::load(name).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a seed twice; what came about in it.
fn twice(scenario: &Scenario, seed: u64) -> Tally {
    let first = run(scenario, seed, None).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert!(first.delivered > 0, "no frame was ever delivered");
    assert!(first.given > 0, "no address was ever given");
    let second = run(scenario, seed, None).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert_eq!(
        first, second,
        "scenario {} seed {seed} is not deterministic",
        scenario.name
    );
    first.tally
}

/// Runs the seeds of an ordinary test run.
fn some_seeds(name: &str) {
    let scenario = load(name);
    many_seeds(&scenario, scenario.seeds);
}

/// Runs these seeds on all processors. What the scenario names must have come about in one of them at least: a scenario
/// whose faults no longer find a victim tests nothing.
fn many_seeds(scenario: &Scenario, seeds: u64) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let all = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let tally = twice(scenario, seed);
                    all.lock().expect("no seed fails while it counts").join(&tally);
                }
            });
        }
    });
    let all = all.into_inner().expect("no seed fails while it counts");
    println!("{} over {seeds} seeds: {all}", scenario.name);
    // The first of a kind comes after half of its mean time at the earliest.
    let fits = |every: f64| every / 2.0 < scenario.lasts_s;
    for fault in &scenario.fault {
        let (name, kind) = (&scenario.name, fault.kind);
        if fault.in_longer_runs {
            let comes = !fault.at_s.is_empty() || fault.every_s.is_some_and(fits);
            assert!(!comes, "{name}: {kind:?} can come about, so it is waited for");
            continue;
        }
        assert!(all.times(kind) > 0, "{name}: {kind:?} never occurred; {all}");
    }
    for what in &scenario.brings {
        let name = &scenario.name;
        assert!(all.of(*what) > 0, "{name}: {what:?} never came about; {all}");
    }
}

macro_rules! scenarios {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                some_seeds(stringify!($name));
            }
        )*

        #[test]
        fn every_file_has_its_test() {
            let mut tested = vec![$(stringify!($name)),*];
            tested.sort_unstable();
            assert_eq!(scenario::names().expect("the folder of scenarios"), tested);
        }
    };
}

scenarios!(
    calm,
    rough,
    crashes,
    partitions,
    verdicts,
    moves,
    founders,
    slow_founders,
    first_alone,
    removals,
    meetings,
    leaves,
    siege,
    chaos,
    twenty
);

#[test]
#[ignore = "long: a thousand seeds over the small scenarios"]
fn a_thousand_seeds() {
    let names: Vec<String> = scenario::names().expect("the folder of scenarios");
    let small: Vec<&String> = names
        .iter()
        .filter(|name| !["chaos", "twenty"].contains(&name.as_str()))
        .collect();
    for name in &small {
        many_seeds(&load(name), LONG_SEEDS.div_ceil(small.len() as u64));
    }
}

#[test]
#[ignore = "long: twenty hosts that join while everything goes wrong"]
fn seeds_of_chaos() {
    many_seeds(&load("chaos"), CHAOS_SEEDS);
}
