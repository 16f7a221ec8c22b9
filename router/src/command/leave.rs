//! `weft down --leave`: the host goes for good, and its part of the range goes to the others.

use crate::api::client::Client;
use crate::cli::DownArgs;
use anyhow::{Context, bail};
use std::time::{Duration, Instant};
use weft_wire::api::{FreeRequest, IpamStatus, LeaveEnd, LeaveStatus, Pod, PodAddresses};

/// Handing on is looked at this often.
const POLL: Duration = Duration::from_millis(250);
/// Who leaves by force is given so long to be out by a decision of the others: a try takes two seconds at most.
const DEPART_PATIENCE: Duration = Duration::from_secs(5);

/// Hands on what can be, then ends the router and puts its identity aside. Returns what became of the addresses, and
/// where the identity is.
pub(super) fn leave(args: &DownArgs, client: &Client, pods: &[Pod]) -> anyhow::Result<(LeaveStatus, String)> {
    let ipam: IpamStatus = super::block_on(super::ASKING, async { client.get("/v1/ipam").await })?;
    let mut ids: Vec<&str> = ipam.used.iter().map(|used| used.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    if !ids.is_empty() && !args.force {
        bail!(
            "addresses are still held here for {}. Give them back first (`weft detach`, or `weft ipam free` for what was \
             given out by hand), or let --force do it",
            ids.join(", ")
        );
    }
    for pod in pods {
        weft_kernel::attach::detach(&pod.id)?;
    }
    for id in ids {
        let request = FreeRequest {
            id: id.to_owned(),
            address: None,
        };
        super::block_on(super::ASKING, async {
            let freed: PodAddresses = client.post("/v1/pods/free", &request).await?;
            Ok(freed)
        })?;
    }
    let progress = async || {
        let status = ask(client, "/v1/leave").await.ok()?;
        Some(status.waits_for.join("; "))
    };
    let deadline = Instant::now() + Duration::from_secs(args.deadline);
    let leaving = wait(client, "/v1/leave", deadline);
    let mut status = super::block_on_watched("leaving the cluster", progress, leaving)?;
    if !status.done && !status.removed {
        if !args.force {
            super::block_on(super::ASKING, client.post_empty("/v1/stay"))?;
            bail!(
                "this host could not leave properly within {} s: {}. It stays a member and nothing is lost: run it again, \
                 or leave with --force; then another host takes what it has once a majority has removed it, which they do \
                 by themselves when enough of them are connected, or by `weft peer remove`",
                args.deadline,
                status.waits_for.join("; ")
            );
        }
        let departing = wait(client, "/v1/leave/depart", Instant::now() + DEPART_PATIENCE);
        status = super::block_on_watched("leaving the cluster", progress, departing)?;
    }
    let answer = super::block_on("waiting for the router to stop", client.end("/v1/leave/end"))?
        .context("the router ended while it was leaving: start it, and run `weft down --leave` again")?;
    let end: LeaveEnd = serde_json::from_slice(&answer)
        .context("the router's answer cannot be read: is it of another version?")?;
    Ok((status, end.identity_kept_at))
}

/// Begins, or goes on; how far it is.
async fn ask(client: &Client, path: &str) -> anyhow::Result<LeaveStatus> {
    let answer = client.post_empty(path).await?;
    serde_json::from_slice(&answer).context("the router's answer cannot be read: is it of another version?")
}

/// Until nothing is left to wait for, or the deadline.
async fn wait(client: &Client, path: &str, deadline: Instant) -> anyhow::Result<LeaveStatus> {
    loop {
        let status = ask(client, path).await?;
        if status.done || Instant::now() >= deadline {
            return Ok(status);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What became of the addresses, in words.
pub(super) fn words(status: &LeaveStatus, identity: &str) -> String {
    let mut words = format!("; {} addresses were handed to the other hosts", status.handed);
    for rest in status.stays.iter().chain(&status.waits_for) {
        words.push_str("\nnot handed on: ");
        words.push_str(rest);
    }
    if status.removed {
        words.push_str("\nthe other hosts go on without it: it is no member any longer");
    } else if status.handed > 0 {
        words.push_str(
            "\nit still counts as a voter: a majority of the others removes it as soon as they are connected; if they still \
             list it then, `weft peer remove` on one of them ends that",
        );
    }
    words.push_str("\nthe host's former identity is kept as ");
    words.push_str(identity);
    words
}
