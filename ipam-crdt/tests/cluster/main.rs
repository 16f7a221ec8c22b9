//! Several machines under one virtual clock: a network that loses, doubles, reorders and parts, disks that forget
//! what was not synced, hosts that die at any moment. After every step the invariants are checked.

#![allow(clippy::unwrap_used)]

mod addresses;
mod check;
mod departure;
mod failures;
mod faults;
mod leave;
mod regrant;
mod removals;
mod stories;
mod world;
