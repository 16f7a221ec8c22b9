//! The kernel's part of forwarding, as a pure function of what the node knows.
//!
//! One Linux bridge per host connects the pods. Its forwarding database alone decides, frame by
//! frame, where a frame goes: to a pod, to the TAP, from which the router takes and delivers it, or to
//! another host by VXLAN, which no program of this host sees.
//!
//! | module | what it holds |
//! |---|---|
//! | [`view`] | [`View`]: what the node says |
//! | [`state`] | [`KernelState`]: devices, ports, entries, groups, the table in the packet filter |
//! | [`plan`] | from a view to the [`desired`] state |
//! | [`change`] | [`Change`]: the steps there are, and what each does |
//! | [`delta`](mod@delta) | [`delta()`]: which steps, in which order; [`step`]: from one view to the next |
//! | [`policy`] | which pairs of hosts may exchange frames unencrypted, and why others may not |
//! | [`probe`] | the frames by which two kernels find out whether they reach each other |
//! | [`path`] | whether frames to one peer go through the kernel: a machine a peer |
//! | [`firewall`] | what the host's packet filters do to frames between pods, and the rules that let them pass |
//!
//! The driver reads the actual state, computes the delta, applies it and reads again. Nothing here
//! knows how; nothing here is asynchronous or stateful.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

extern crate alloc;

pub mod change;
pub mod delta;
pub mod firewall;
pub mod path;
pub mod plan;
pub mod policy;
pub mod probe;
pub mod state;
pub mod view;

pub use change::Change;
pub use delta::{delta, step};
pub use plan::desired;
pub use state::{Bridge, Device, Family, KernelState, Port, PortFlags};
pub use view::{Listeners, Snooping, Via, View, Vni, Vxlan};
pub use weft_wire::Group;
