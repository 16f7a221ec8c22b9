//! The address space of a cluster: which addresses it has, how they are cut into slots, and which MAC address
//! belongs to each.
//!
//! | module | what it holds |
//! |---|---|
//! | [`space`] | [`AddressSpace`]: the range, its slots, offsets, and the first and last address that pods get |
//! | [`mac`] | the weft MAC, from which the address can be read back |
//!
//! No clock, no socket, no file, no random source.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

pub mod mac;
pub mod space;

pub use space::{AddressError, AddressSpace, RangeError, Slot};
