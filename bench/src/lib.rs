//! What weft's parts cost, measured on this machine: `cargo bench -p bench -- AREA`. README.md says how to read it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`area`] | the areas, and running those that were named |
//! | [`figure`] | [`Figure`]: one number, of several runs |
//! | [`machine`] | what else the machine was doing |
//! | [`report`] | the table and the JSON |
//! | [`ipam`] | addresses: allocation in the core, through the store, and merging |
#![forbid(unsafe_code)]

pub mod area;
pub mod figure;
pub mod ipam;
pub mod machine;
pub mod report;

pub use area::Area;
pub use figure::Figure;
