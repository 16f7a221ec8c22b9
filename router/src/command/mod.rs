//! The commands that ask a running router or the kernel, one file each.

pub(crate) mod attach;
mod check;
pub(crate) mod down;
pub(crate) mod encrypt;
mod from_before;
pub(crate) mod ipam;
mod leave;
pub(crate) mod multicast;
mod owners;
pub(crate) mod peer;
mod progress;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod token;

use crate::api::client::Client;
use crate::cli::Patience;
use anyhow::Context;
use ipnet::IpNet;
use serde::Serialize;
use std::net::IpAddr;
use weft_wire::api::{FreeRequest, IpamStatus, PodAddresses, PodPlan, PodRequest};

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

/// What is asked for an address.
pub(crate) fn pod_request(
    id: &str,
    address: Option<IpAddr>,
    subnet: Option<IpNet>,
    patience: &Patience,
) -> PodRequest {
    PodRequest {
        id: id.to_owned(),
        address,
        subnet,
        timeout_ms: patience
            .timeout
            .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
    }
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

/// What a pod was given, and can give back.
pub(crate) struct Given<'a> {
    client: &'a Client,
    id: &'a str,
    before: Vec<IpAddr>,
    pub(crate) plans: Vec<PodPlan>,
}

impl<'a> Given<'a> {
    /// Gets all of these addresses for one pod, or none.
    pub(crate) fn all(client: &'a Client, id: &'a str, requests: &[PodRequest]) -> anyhow::Result<Self> {
        let path = format!("/v1/pods/{}", ipam::percent_encoded(id));
        let before: PodAddresses = block_on(ASKING, client.get(&path))?;
        let mut given = Self {
            client,
            id,
            before: before.addresses,
            plans: Vec::new(),
        };
        for request in requests {
            match allocate(client, request) {
                Ok(plan) => given.plans.push(plan),
                Err(error) => return Err(given.give_back(error)),
            }
        }
        Ok(given)
    }

    /// Frees what the pod did not have before; the error says so when that fails.
    pub(crate) fn give_back(self, error: anyhow::Error) -> anyhow::Error {
        let new = self.plans.iter().map(|plan| plan.address.addr());
        for address in new.filter(|address| !self.before.contains(address)) {
            let request = FreeRequest {
                id: self.id.to_owned(),
                address: Some(address),
            };
            let freed: anyhow::Result<PodAddresses> =
                block_on(ASKING, self.client.post("/v1/pods/free", &request));
            if let Err(why) = freed {
                let id = self.id;
                return error.context(format!(
                    "{address} stays reserved until `weft ipam free {id}`: {why:#}"
                ));
            }
        }
        error
    }
}

/// Prints an answer: as JSON, or in words.
pub(crate) fn print(is_json: bool, answer: &impl Serialize, words: &str) -> anyhow::Result<()> {
    match is_json {
        true => println!("{}", serde_json::to_string_pretty(answer)?),
        false => println!("{words}"),
    }
    Ok(())
}
