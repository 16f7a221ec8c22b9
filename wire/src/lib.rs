//! weft's shared vocabulary: what two packages, or two hosts, must agree on.
//!
//! No clock, no socket, no file, no random source: every type here is a value.
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`] | node, genesis, key and session identifiers, and the Ed25519 identity behind [`NodeId`] |
//! | [`hash`] | the one hash of the project (BLAKE2s-256), always with a domain |
//! | [`noise`] | the Noise patterns, and the resolver that takes its randomness from outside |
//! | [`secret`] | the cluster secret and the keys that follow from it |
//! | [`time`] | [`Time`], the monotonic clock reading that shells pass in |
//! | [`mac`] | [`Mac`] addresses |
//! | [`mtu`] | the sleeve's overhead and the pod MTU that follows from it |
//! | [`datagram`] | byte layouts of every sleeve datagram |
//! | [`mesh`] | messages of the TCP mesh |
//! | [`envelope`] | the signed envelope that every gossiped record travels in |
//! | [`record`] | the bodies of the records, one kind a type |
//! | [`group`] | multicast groups, and the record of those to which a host's pods listen |
//! | [`adopt`] | the record by which the hosts of one cluster move to another |
//! | [`fastpath`] | the record by which hosts agree whether frames between them may travel unencrypted, in the kernel |
//! | [`codec`] | the only file that calls bincode |
//! | [`ipam`] | the records by which hosts agree who may give out which addresses |
//! | [`reclaim`] | the statement by which the slots of removed hosts get a new owner |
//! | [`limits`] | every bound that more than one package must know |
//! | [`reason`] | one variant for each reason to drop a datagram or refuse a peer |
//! | [`recall`] | results of curve operations, remembered: for simulators, with the feature of this name |
//! | [`api`] | what the router says over its local socket |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

extern crate alloc;

pub mod adopt;
pub mod api;
pub mod codec;
pub mod datagram;
pub mod envelope;
pub mod fastpath;
pub mod group;
pub mod hash;
pub mod id;
pub mod ipam;
pub mod limits;
pub mod mac;
pub mod mesh;
pub mod mtu;
pub mod noise;
pub mod reason;
pub mod recall;
pub mod reclaim;
pub mod record;
pub mod secret;
pub mod time;

pub use envelope::Envelope;
pub use group::Group;
pub use id::{GenesisId, KeyId, NodeId, NodeKey, NoiseKeypair, NoisePublic, PeerHash, SessionIndex};
pub use mac::Mac;
pub use reason::{DropReason, RejectReason};
pub use secret::{ClusterSecret, Psk};
pub use time::Time;
