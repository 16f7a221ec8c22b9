//! Arbitrary octets for everything that a peer, a pod, a file or a user can reach.
//!
//! A *target* is a plain function of octets that panics when an invariant breaks; it runs with the ordinary
//! toolchain. `tests/corpus.rs` feeds it what is committed below `corpus/`; `./run TARGET` lets libFuzzer, guided by
//! the coverage of the project's own packages, look for more.
//!
//! | module | what it holds |
//! |---|---|
//! | [`bytes`] | [`bytes::Bytes`]: reads the octets as numbers and strings |
//! | [`wire`] | datagram headers, the record envelope, record bodies, texts |
//! | [`frames`] | super-frames, their slices, and pieces of frames |
//! | [`message`] | messages of the mesh, and what members say to each other directly |
//! | [`api`] | JSON bodies of the local API |
//! | [`stored`] | what gossip and ipam-crdt find again after a restart |
//! | [`mesh`] | the mesh machine against a peer with keys, and one without |
//! | [`sleeve`] | two sleeve machines on a hostile network, and a hostile member |
//! | [`ipam`] | two address machines on a hostile network, with a hostile member and disks that crash |
#![forbid(unsafe_code)]

pub mod api;
pub mod bytes;
pub mod frames;
pub mod ipam;
pub mod mesh;
pub mod message;
pub mod sleeve;
pub mod stored;
pub mod wire;

/// One thing to be fed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its folder of the corpus.
    pub name: &'static str,
    /// Takes any octets; panics when an invariant breaks.
    pub run: fn(&[u8]),
    /// Valid inputs, from which the engine starts.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that the engine tries, in octets.
    pub max_len: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("datagram", wire::datagram, wire::datagram_seeds, 128),
    target("super-frame", frames::super_frame, frames::super_frame_seeds, 400),
    target("fragments", frames::fragments, frames::fragments_seeds, 400),
    target("record", wire::record, wire::record_seeds, 5_000),
    target("text", wire::text, wire::text_seeds, 128),
    target("mesh-message", message::mesh, message::mesh_seeds, 5_000),
    target("ipam-message", message::ipam, message::ipam_seeds, 5_000),
    target("api", api::json, api::json_seeds, 2_000),
    target("stored", stored::stored, stored::stored_seeds, 5_000),
    target("mesh", mesh::machine, mesh::machine_seeds, 1_000),
    target("sleeve", sleeve::machine, sleeve::machine_seeds, 1_000),
    target("ipam", ipam::machine, ipam::machine_seeds, 1_000),
];

/// The target of a name.
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>, max_len: usize) -> Target {
    Target {
        name,
        run,
        seeds,
        max_len,
    }
}
