//! The kernel's part of forwarding, as a pure function of what the node knows.
//!
//! One Linux bridge per host connects the pods. Its forwarding database alone decides, frame by
//! frame, where a frame goes: to a pod, or to the TAP, from which the router takes and delivers it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`state`] | [`KernelState`]: bridge, TAP, its port and entries; [`Change`]s and what they do |
//! | [`plan`] | [`View`] → [`desired`] state; [`delta`] from the state that is to the one that should be |
//! | [`firewall`] | what the host's packet filters do to frames between pods, and the rules that let them pass |
//!
//! The driver reads the actual state, computes the delta, applies it and reads again. Nothing here
//! knows how; nothing here is asynchronous or stateful.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

extern crate alloc;

pub mod firewall;
pub mod plan;
pub mod state;

pub use plan::{View, delta, desired};
pub use state::{Bridge, Change, KernelState, Port, PortFlags, Tap, TapLink};
