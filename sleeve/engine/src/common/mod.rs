//! What every engine is made of.
//!
//! | module | what it holds |
//! |---|---|
//! | [`shared`] | socket, sessions and tables: what all workers and the control thread use |
//! | [`probes`] | questions about the path, and answers to those of peers |
//! | [`inlet`] | from a datagram to the frame in it: every check that all engines make |
//! | [`doorway`] | handshakes on their way to the control thread |
//! | [`intake`] | the first questions to every frame that a port of the bridge sent |
//! | [`outlet`] | the socket as a sending worker sees it |
//! | [`relay`] | datagrams of others, passed on unread |
//! | [`pieces`] | frames larger than the path |
//! | [`workers`] | the threads, and their end |

pub(crate) mod doorway;
pub(crate) mod inlet;
pub(crate) mod intake;
pub(crate) mod outlet;
pub(crate) mod pieces;
mod probes;
pub(crate) mod relay;
pub(crate) mod shared;
pub(crate) mod workers;

use weft_kernel::link;

use crate::engine::EngineError;

/// Whether there is a TAP device of this name. The kernel would make a missing one, which nobody wired.
pub(crate) fn check_tap(name: &str) -> Result<(), EngineError> {
    let found = link::find(name)?.ok_or_else(|| EngineError::NoTap { name: name.into() })?;
    match found.kind.as_deref() {
        Some("tun") => Ok(()),
        _ => Err(EngineError::NotATap { name: name.into() }),
    }
}
