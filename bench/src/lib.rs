//! What weft's parts cost, measured on this machine: `cargo bench -p bench -- AREA`. README.md says how to read it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`area`] | the areas, and running those that were named |
//! | [`figure`] | [`Figure`]: one number, of several runs |
//! | [`goal`] | [`Goal`]: what a number should be |
//! | [`machine`] | what else the machine was doing |
//! | [`report`] | the tables and the JSON |
//! | [`chart`] | the same as a picture |
//! | [`archive`] | runs as files, and what the last one said |
//! | [`ipam`] | addresses: allocation in the core, through the store, and merging |
//! | [`sleeve`] | pod to pod: weft beside the kernel's VXLAN and other tunnels |
//!
//! `src/bin/naive-sleeve.rs` is one of those other tunnels: the yardstick. `src/bin/engine-memory.rs` is an engine whose
//! memory is measured.
#![forbid(unsafe_code)]

pub mod archive;
pub mod area;
pub mod chart;
pub mod figure;
pub mod goal;
pub mod ipam;
pub mod machine;
pub mod report;
pub mod sleeve;

pub use area::{Area, Plan};
pub use figure::Figure;
pub use goal::Goal;
