//! The commands that ask a running router or the kernel, one file each.

pub(crate) mod attach;
mod check;
pub(crate) mod down;
pub(crate) mod ipam;
mod leave;
mod owners;
mod progress;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod token;

use crate::api::client::Client;
use anyhow::Context;
use serde::Serialize;
use weft_wire::api::{IpamStatus, PodPlan, PodRequest};

/// Bridge of every host.
pub(crate) const BRIDGE: &str = "weft";
/// Shown while a router takes long to answer.
pub(crate) const ASKING: &str = "waiting for the router's answer";
/// TAP of every host: frames that the router delivers.
pub(crate) const TAP: &str = "weft-tap";

/// Runs a command that only asks: one thread is enough. `what` it does is shown when it takes long.
pub(crate) fn block_on<T>(what: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    block_on_watched(what, async || None, work)
}

/// As [`block_on`], with words on where it stands.
pub(crate) fn block_on_watched<T>(
    what: &str,
    detail: impl AsyncFn() -> Option<String>,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no async runtime")?
        .block_on(progress::shown(what, detail, work))
}

/// Gets an address, and shows what it waits for.
pub(crate) fn allocate(client: &Client, request: &PodRequest) -> anyhow::Result<PodPlan> {
    let reason = async || {
        let status: IpamStatus = client.get("/v1/ipam").await.ok()?;
        let waiting = status
            .waiting
            .into_iter()
            .find(|waiting| waiting.id == request.id);
        waiting.map(|waiting| waiting.reason)
    };
    block_on_watched("waiting for an address", reason, client.post("/v1/pods", request))
}

/// Prints an answer: as JSON, or in words.
pub(crate) fn print(is_json: bool, answer: &impl Serialize, words: &str) -> anyhow::Result<()> {
    match is_json {
        true => println!("{}", serde_json::to_string_pretty(answer)?),
        false => println!("{words}"),
    }
    Ok(())
}
