//! Membership and gossip of the TCP mesh, as a pure state machine.
//!
//! No clock, no socket, no file, no random source: time is an argument, randomness grows from a seed, and
//! what has to be done comes out as values. [`mesh::Mesh`] is the whole machine; the other modules are its
//! parts and can be used and tested alone.
//!
//! | module | what it holds |
//! |---|---|
//! | [`token`] | join tokens: what admits a newcomer |
//! | [`handshake`] | the Noise XXpsk3 handshake of a link, one type for each thing that is awaited |
//! | [`membership`] | who is a member, and the chain of signatures that proves it |
//! | [`durable`] | what a host must find again after a restart |
//! | [`register`] | the map of records: one register for each (kind, owner) |
//! | [`dial`] | whom to dial, when, with which key |
//! | [`mesh`] | the machine: its inputs, outputs and events |
//! | [`status`] | what the machine tells about its links and targets |
//! | [`routes`] | which neighbours lead to which hosts, over the links that all publish |
//!
//! Private parts of the machine: `conn` (one connection: its stage and its outbox), `links` (the stages
//! of a connection, the rule that leaves one a pair), `hello` (what a Hello says and proves), `join` (admission, with its waits for the disk),
//! `gather` (links between hosts that have still to agree on a cluster),
//! `removed` (members that were removed), `pass` (messages that others pass on), `dissemination` (which records go where), `summary` (what each end holds),
//! `topology` (who is whose neighbour), `liveness` (heartbeats, round-trip
//! times, the published links).
//!
//! # The contract with the shell
//!
//! * Feed [`mesh::Input`]s with a clock reading that never goes back, then take [`mesh::Output`]s until there
//!   are none, then sleep until [`mesh::Mesh::poll_timeout`] or the next input.
//! * After [`mesh::Output::Send`] no further frame leaves for that connection until
//!   [`mesh::Input::Written`]: this is the back-pressure. The shell writes the length (2 octets, big-endian)
//!   before each frame.
//! * [`mesh::Output::Close`] is the last word about a connection: the shell writes what it was given before,
//!   closes, and needs not report it.
//! * [`mesh::Output::Persist`] is answered by [`mesh::Input::Persisted`] once the state is on disk. What
//!   depends on it leaves only then. A later state replaces an earlier one.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

extern crate alloc;

mod conn;
pub mod dial;
mod dissemination;
pub mod durable;
mod gather;
pub mod handshake;
mod hello;
mod join;
mod links;
mod liveness;
pub mod membership;
pub mod mesh;
mod pass;
pub mod register;
mod removed;
pub mod routes;
pub mod status;
mod summary;
pub mod token;
mod topology;

pub use durable::{DurableState, StateError};
pub use membership::Membership;
pub use mesh::{ConnId, DialTarget, Identity, Input, Mesh, MeshConfig, MeshEvent, Output, PersistToken};
pub use register::RegisterMap;
pub use routes::Routes;
pub use token::{JoinToken, TokenError};
