//! One run, from its seed to an outcome or to a failure with the command that replays it.

use crate::happenings::Tally;
use crate::invariants::Violation;
use crate::record::Lines;
use crate::sabotage::Sabotage;
use crate::scenario::Scenario;
use crate::world::World;
use clap::ValueEnum as _;
use std::fmt;
use weft_wire::Time;
use weft_wire::id::hex;

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// BLAKE2s over everything that happened, in order.
    pub hash: [u8; 32],
    /// How much happened.
    pub events: u64,
    /// When all was well.
    pub ended: Time,
    /// Frames that the pods sent.
    pub frames: u64,
    /// Frames that reached a host; a flooded one counts once for each.
    pub delivered: u64,
    /// Addresses handed out.
    pub given: u64,
    /// Faults that occurred, and what came of them.
    pub tally: Tally,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "well after {:.1} s; {} events, {} frames sent, {} delivered, {} addresses given; {}; hash {}",
            self.ended.since_start().as_secs_f64(),
            self.events,
            self.frames,
            self.delivered,
            self.given,
            self.tally,
            hex(&self.hash[..8])
        )
    }
}

/// A violated invariant, with all that is needed to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// What was broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// When.
    pub at: Time,
    /// What was violated.
    pub violation: Violation,
    /// The last events before it.
    pub lines: Vec<String>,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation {
            invariant,
            host,
            what,
        } = &self.violation;
        for line in &self.lines {
            writeln!(f, "  {line}")?;
        }
        writeln!(
            f,
            "scenario {} seed {} at {:.6} s: invariant \"{invariant}\" violated at host{host}: {what}",
            self.scenario,
            self.seed,
            self.at.since_start().as_secs_f64()
        )?;
        write!(
            f,
            "replay it with: cargo run -p weft-sim -- {} --seed {}",
            self.scenario, self.seed
        )?;
        match self.sabotage.and_then(|sabotage| sabotage.to_possible_value()) {
            Some(value) => write!(f, " --sabotage {} --trace", value.get_name()),
            None => write!(f, " --trace"),
        }
    }
}

/// Runs a scenario with a seed.
///
/// # Errors
/// An invariant is violated. The run is then repeated to collect the last events.
pub fn run(scenario: &Scenario, seed: u64, sabotage: Option<Sabotage>) -> Result<Outcome, Box<Failure>> {
    run_with(scenario, seed, sabotage, Lines::None)
        .or_else(|_| run_with(scenario, seed, sabotage, Lines::Last))
}

/// As [`run`], and prints every event.
///
/// # Errors
/// An invariant is violated.
pub fn run_printing(
    scenario: &Scenario,
    seed: u64,
    sabotage: Option<Sabotage>,
) -> Result<Outcome, Box<Failure>> {
    run_with(scenario, seed, sabotage, Lines::Print)
}

fn run_with(
    scenario: &Scenario,
    seed: u64,
    sabotage: Option<Sabotage>,
    lines: Lines,
) -> Result<Outcome, Box<Failure>> {
    weft_wire::recall::begin();
    let mut world = World::new(scenario, seed, sabotage, lines);
    let result = world.run();
    let (at, events, frames, delivered) = (world.now, world.record.count, world.frames, world.delivered);
    let (hash, lines) = world.record.finish();
    match result {
        Ok(()) => Ok(Outcome {
            hash,
            events,
            ended: at,
            frames,
            delivered,
            given: world.requests.given,
            tally: world.tally,
        }),
        Err(violation) => Err(Box::new(Failure {
            scenario: scenario.name.clone(),
            seed,
            sabotage,
            at,
            violation,
            lines,
        })),
    }
}
