//! Models of small clusters, in which every order of events is tried.
//!
//! What the hosts do is what is shipped: the functions of `weft-ipam-crdt` that decide, checked or called as the machine calls
//! them. What is modelled is what surrounds them: disks that lose what was not synced, hosts that die, and a
//! network that loses, doubles and reorders.
#![forbid(unsafe_code)]

pub mod cast;
pub mod cluster;
pub mod founding;
pub mod intern;
pub mod meaning;
pub mod network;
pub mod plan;
pub mod properties;
pub mod search;
pub mod slots;
pub mod voting;
