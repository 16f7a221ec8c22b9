//! A deterministic cluster: many real [`weft_node::Node`]s in one thread, and around each the worst shell, network and
//! disk that a seed can think of.
//!
//! Everything follows from a scenario (a file) and one seed; equal seeds give equal events, octet for octet, which
//! a hash over all of them shows. Invariants are checked after every event.
//!
//! | module | what it holds |
//! |---|---|
//! | [`scenario`] | what a scenario file says |
//! | [`mod@run`] | one run from its seed to an outcome or a failure with the command that replays it |
//! | [`world`] | the loop: takes the next event, gives it to a node, does what comes out |
//! | `actions` | what a node's outputs do to the world |
//! | `queue` | events in order of time |
//! | `dice` | random choices, one independent row for each subject |
//! | [`host`] | a host: its disk, its process, its clock |
//! | `disk` | writes that take time and are lost in a crash |
//! | [`engine`] | sessions and frames as the data-path engine handles them, without the cryptography |
//! | `relay` | datagrams that hosts pass on for others |
//! | `network` | delay, loss, duplication, reordering and partitions |
//! | `tcp` | connections of the mesh |
//! | `faults` | what goes wrong, when, and how it ends |
//! | `operators` | hosts that are removed, fenced, adopted or leave |
//! | [`happenings`] | what came about, counted |
//! | [`invariants`] | what must hold after every event, one module for each subject |
//! | `liveness` | what must hold again once nothing goes wrong any more |
//! | `record` | the hash over all events, and the lines of a trace |
//! | [`sabotage`] | shells that are broken on purpose, to see that the invariants notice |
#![forbid(unsafe_code)]

mod actions;
mod dice;
mod disk;
pub mod engine;
mod faults;
pub mod happenings;
pub mod host;
pub mod invariants;
mod liveness;
mod network;
mod operators;
mod queue;
mod record;
mod relay;
mod requests;
pub mod run;
pub mod sabotage;
pub mod scenario;
mod tcp;
pub mod world;

pub use run::{Failure, Outcome, run, run_printing};
pub use sabotage::Sabotage;
pub use scenario::Scenario;
