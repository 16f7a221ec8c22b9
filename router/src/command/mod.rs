//! The commands that ask a running router or the kernel, one file each.

pub(crate) mod attach;
pub(crate) mod down;
pub(crate) mod ipam;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod token;

use anyhow::Context;

/// Bridge of every host.
pub(crate) const BRIDGE: &str = "weft";
/// TAP of every host: frames that the router delivers.
pub(crate) const TAP: &str = "weft-tap";

/// Runs a command that only asks: one thread is enough.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no async runtime")?
        .block_on(work)
}
