//! The sleeve against itself: hosts with real keys in virtual time, over a network that loses, repeats and reorders.
//!
//! `lab` is the network and the engine; the other files are tests by subject. `vectors` holds the code to the
//! octets of `docs/design/wire-vectors.txt`.

// Clippy exempts `#[test]` functions only; everything here is one or serves one.
#![allow(clippy::unwrap_used)]

mod lab;
mod lifecycle;
mod load;
mod path_mtu;
mod refusals;
mod relay;
mod segment;
mod vectors;
