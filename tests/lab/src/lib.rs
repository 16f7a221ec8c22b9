//! A laboratory for networks on one machine: hosts, pods, switches, NAT boxes, firewalls and wires
//! that lose packets, all of it real kernel objects in namespaces of their own.
//!
//! ```no_run
//! # fn main() -> Result<(), weft_lab::Error> {
//! use std::time::Duration;
//! use weft_lab::{Impairment, Lab};
//!
//! let lab = Lab::new("story")?;
//! let wire = lab.wire(Impairment { loss: 0.05, ..Impairment::seeded(7) })?;
//! let (a, b) = (lab.host("a").on(&wire).build()?, lab.host("b").on(&wire).build()?);
//! let router = a.up(["--found"])?;
//! router.wait_until("it runs", Duration::from_secs(5), |status| status.peers.is_empty())?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`lab`] | [`Lab`]: names, the folder for files, the interrupt that ends every wait |
//! | [`underlay`] | [`Underlay`]: what hosts are plugged into, and how it is partitioned |
//! | [`switch`] | [`Switch`]: a kernel bridge; fast |
//! | [`crossover`] | [`Crossover`]: a cable between two hosts; fastest
//! | [`wire`] | [`Wire`]: a switch in userspace that delays, loses, reorders and doubles |
//! | [`host`] | [`Host`]: a namespace with one or more interfaces, where `weft` runs |
//! | [`router`] | [`Router`]: a running `weft up` |
//! | `cluster` | [`Lab::cluster`]: hosts on one switch, in one mesh |
//! | `ask` | [`Host::ask`], [`Host::ipam`]: its router's commands, and its address space
//! | [`api`] | [`Api`]: a connection to its socket, for thousands of requests |
//! | [`schema`] | [`Schema`]: docs/api.schema.json, and whether an answer is exactly what it says |
//! | [`program`] | where the `weft` binary is, and running it with a bound |
//! | [`pod`] | [`Pod`]: a namespace attached with `weft attach` |
//! | [`plug`] | what a user plugs into the overlay's bridge by hand: devices, cables |
//! | [`station`] | [`Station`]: what hosts and pods have in common, and what traffic they can make |
//! | [`ping`], [`transfer`], [`frames`] | that traffic: echoes, TCP with hashes, raw frames |
//! | [`stream`] | [`Stream`]: a TCP connection that goes on while a story happens |
//! | [`multicast`] | [`Listener`]: a socket in a group; [`TapWatch`]: what reaches a host |
//! | [`recording`] | everything an interface carries, counted and searched for a text |
//! | [`firewall`], [`nat`] | packet filters; the only modules that need an external program, `nft` |
//!
//! Nothing outlives its handle: namespaces die with their descriptors, children die with this
//! process whatever ends it, and the folder goes with the [`Lab`] and everything made in it.
#![forbid(unsafe_code)]

pub mod api;
mod ask;
mod cluster;
pub mod crossover;
mod error;
pub mod firewall;
pub mod frames;
pub mod host;
pub mod lab;
pub mod multicast;
pub mod nat;
pub mod ping;
pub mod plug;
pub mod pod;
pub mod program;
pub mod recording;
pub mod router;
pub mod schema;
pub mod station;
pub mod stream;
pub mod switch;
pub mod transfer;
pub mod underlay;
pub mod wire;

pub use api::Api;
pub use crossover::Crossover;
pub use error::{Error, Result};
pub use firewall::Firewall;
pub use frames::{Ear, Frame};
pub use host::{Host, HostBuilder};
pub use lab::Lab;
pub use multicast::{Listener, TapWatch};
pub use nat::NatBox;
pub use ping::{PingPlan, PingReport};
pub use plug::Cable;
pub use pod::Pod;
pub use program::Output;
pub use recording::{Recorded, Recording};
pub use router::Router;
pub use schema::Schema;
pub use station::Station;
pub use stream::Stream;
pub use switch::Switch;
pub use transfer::{Content, Transfer};
pub use underlay::Underlay;
pub use wire::{Impairment, Wire, WireCounters};
