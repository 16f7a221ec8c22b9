//! The node: gossip, sleeve and address space composed into one machine that knows no clock, socket or file.
//!
//! The router's daemon feeds [`Input`]s and does what the [`Output`]s say; a simulator can do the same.
//!
//! | module | what it holds |
//! |---|---|
//! | [`node`] | [`Node`]: routes what one core says to the others |
//! | [`io`] | its inputs and outputs |
//! | `agreement` | making a cluster together with other hosts that have none |
//! | `addresses` | what it asks of the address space, and hears of it |
//! | `places` | where addresses live by what hosts agree on, for the forwarding table |
//! | [`multicast`] | to which groups pods of this host listen, and where frames of groups go |
//! | `relays` | who relays for whom: routes for the sleeve and the forwarding table |
//! | [`check`] | what it has to say when the address space is checked |
//! | `contested` | addresses of this host that another one uses too |
//! | [`again`] | how this host becomes a new member, while its pods run on |
//! | `claims` | how it asks for the addresses that they have |
//! | `removed` | what becomes of members that were removed |
//! | `foreign` | hosts of other clusters, and which side yields |
//! | `removals` | hosts that are to be removed: which ones are meant, and how far it is |
//! | `fastpath` | which peers' frames go through the kernel, and what the kernel is to hold for that |
//! | `families` | which peers have no version of IP in common with this host |
//! | `leave` | how far a host that leaves has come, in words |
//! | [`silence`] | members that nobody has heard of, and when this host asks to go on without them |
//! | [`macs`] | where MAC addresses live, as learned from traffic |
//! | [`report`] | the node's part of the status |
//!
//! Packets do not pass through here: the engine gets sessions and an immutable forwarding table.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

extern crate alloc;

mod addresses;
pub mod again;
mod agreement;
pub mod check;
mod claims;
mod contested;
mod families;
mod fastpath;
mod foreign;
pub mod io;
mod leave;
pub mod macs;
pub mod multicast;
pub mod node;
mod places;
mod relays;
mod removals;
mod removed;
pub mod report;
pub mod silence;

pub use fastpath::FastpathConfig;
pub use io::{EngineCommand, Input, MeshCommand, Notice, Output};
pub use node::{Node, NodeConfig};
