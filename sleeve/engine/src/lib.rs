//! The workers that carry frames between the TAP device and the UDP socket.
//!
//! Nothing here decides: sessions are installed and forwarding tables are published by the router, and what the
//! workers see that somebody must act on leaves as [`EngineEvent`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`engine`] | the [`Engine`] trait: what every engine does, and its events, errors and counters |
//! | [`choose`] | which engine runs |
//! | [`fast`] | [`FastEngine`]: frames of 64 KiB, runs of datagrams; needs a TAP device with virtio-net headers |
//! | [`plain`] | [`PlainEngine`]: one frame a read, one frame a datagram; runs wherever there is a TAP device |
//! | `common` | what every engine is made of: socket, checks of what arrives, pieces, threads |
//! | `session` | keys, counters and replay window of one session |
//! | `view` | what the workers read on each packet: sessions and forwarding table, swapped as one |
//! | `switching` | what the workers decide beyond the table: rates, what was just learned, loops |
//! | `tally` | counters of drops and traffic, and the rate-limited log lines |
//! | `learn` | which source addresses were reported lately |
//! | `limit` | at most one event of a kind a second |
//! | [`measure`] | the sessions of two ends, for whoever measures what sealing and opening cost |
//! | `address` | IPv4 addresses on IPv6 sockets |
#![forbid(unsafe_code)]

mod address;
pub mod choose;
mod common;
pub mod engine;
pub mod fast;
mod learn;
mod limit;
pub mod measure;
pub mod plain;
mod session;
mod switching;
mod tally;
mod view;

pub use choose::{EngineChoice, start};
pub use engine::{
    Counters, Engine, EngineConfig, EngineDescription, EngineError, EngineEvent, EventSink, Joined,
    LOOP_PROBE_INTERVAL, SessionCounters,
};
pub use fast::FastEngine;
pub use plain::{FrameDevice, PlainEngine};
