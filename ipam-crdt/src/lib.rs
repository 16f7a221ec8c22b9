//! The address space of a cluster: who owns which slots of it, who has which address, and which MAC address belongs
//! to each. No two members ever give the same address out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`space`] | [`AddressSpace`]: the range, its slots, offsets, and the first and last address that pods get |
//! | [`mac`] | the weft MAC, from which the address can be read back |
//! | [`subnet`] | [`Subnet`]: a part of the range with its own first and last address |
//! | [`table`] | the slot registers and their join |
//! | [`rules`] | by which rules a slot changes its owner, as functions of the state |
//! | [`pool`] | the allocator: what is free in this host's slots |
//! | [`state`] | what must survive a restart, as a value that grows by changes |
//! | [`places`] | where addresses live, as a whole: what a forwarding plane is made from |
//! | [`check`] | whether the rules hold, counted again, and what to do where one does not |
//! | [`claim`] | addresses of pods that run while their host becomes a new member |
//! | [`summary`] | what it tells about itself, for status |
//! | [`epoch`] | the chain of memberships, each decided by a majority of the one before |
//! | [`removal`] | hosts that are removed: the wish, what a decision changes, and how far it is |
//! | [`reclaim`] | taking back the slots of removed hosts |
//! | [`genesis`] | agreement among hosts that are started together, before there is a cluster |
//! | [`message`] | what one member says to another directly |
//! | [`io`] | inputs, outputs, answers and events of the machine |
//! | [`ipam`] | [`Ipam`]: the machine |
//!
//! Private parts of the machine: `requests` (allocate, claim, free), `transfer` (slots that change hands), `lend`
//! (single addresses), `asks` (whom to ask for what is missing), `leave` (a host that goes for good), `depart` (how its
//! membership ends), `records` (records and messages of others, and this host's own), `fork` (two chains of epochs).
//!
//! # The contract with the shell
//!
//! * [`Output::Persist`]: append the changes to a log, in order; say [`Input::Persisted`] once they are durable. After a
//!   restart, [`IpamState::apply`] them to the last snapshot. Everything that depends on a write comes out only
//!   after that, so whatever came out may be acted on at once.
//! * [`Output::Publish`]: this host's gossip record of that kind. It may carry the record as soon as it comes out.
//! * [`Output::Send`]: a message of at most [`message::MESSAGE_MAX`] octets to one member. Losing, doubling and
//!   reordering it is allowed; lying about who sent it is not.
//!
//! No clock, no socket, no file, no random source.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

extern crate alloc;

mod asks;
pub mod check;
pub mod claim;
mod depart;
pub mod epoch;
mod fork;
pub mod genesis;
pub mod io;
pub mod ipam;
mod leave;
mod lend;
pub mod mac;
pub mod message;
pub mod places;
pub mod pool;
pub mod reclaim;
mod records;
mod regrant;
pub mod removal;
mod requests;
pub mod rules;
pub mod space;
pub mod state;
pub mod subnet;
pub mod summary;
pub mod table;
mod transfer;

pub use claim::{Answered, Claim, Claims};
pub use depart::Departure;
pub use io::{
    AllocError, Allocation, Event, FreezeReason, Input, IpamConfig, Lookup, Output, PersistToken, Request,
    RequestId, Role, WaitReason, Wanted,
};
pub use ipam::{ADDRESSES_MAX, ALLOCATE_DEADLINE, DEADLINE_MAX, ID_MAX, Ipam, REST, WAITING_MAX};
pub use leave::Leaving;
pub use places::{Elsewhere, OwnerRun, PlacesVersion};
pub use removal::{RECLAIM_REST, Removal, RemovalError, RemovalPhase};
pub use space::{AddressError, AddressSpace, RangeError, Slot};
pub use state::{Change, Held, IpamState, StateError};
pub use subnet::{Span, Subnet, SubnetError};
