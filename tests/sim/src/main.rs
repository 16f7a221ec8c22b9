//! `weft-sim`: runs scenarios, and replays what failed.
#![forbid(unsafe_code)]

use anyhow::bail;
use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;
use weft_sim::{Sabotage, Scenario, run, run_printing, scenario};

/// Runs a scenario of the simulator: many nodes in one thread, decided by one seed.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  weft-sim --list\n  weft-sim crashes --seed 7 --trace\n  weft-sim crashes --seeds 1000"
)]
struct Arguments {
    /// A scenario by its name, or the path of a file that ends in .toml.
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// The seed of one run.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run so many seeds, from --seed on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Run each seed twice and compare the hashes.
    #[arg(long)]
    twice: bool,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Break the shell on purpose.
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match simulate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn simulate() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some(name) = &arguments.scenario else {
        for name in scenario::names()? {
            println!("{name:<12} {}", Scenario::load(&name)?.about);
        }
        return Ok(());
    };
    let scenario = Scenario::load(name)?;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let begun = Instant::now();
        let outcome = match arguments.trace {
            true => run_printing(&scenario, seed, arguments.sabotage),
            false => run(&scenario, seed, arguments.sabotage),
        }
        .map_err(|failure| *failure)?;
        if arguments.twice && run(&scenario, seed, arguments.sabotage).ok().as_ref() != Some(&outcome) {
            bail!(
                "seed {seed} came to something else the second time: something reads a clock, a random source or an address"
            );
        }
        println!("seed {seed}: {outcome} ({:.2} s)", begun.elapsed().as_secs_f64());
    }
    Ok(())
}
