//! A router is killed under a running transfer and started again. The transfer does not notice more than
//! a pause, and the router is who it was.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use weft_lab::{Api, Content, Pod, Router, Transfer};

use super::super::size;
use super::{Outcome, Progress, Stage, Step};

/// For the first packet, and for the mesh after the restart.
const PATIENCE: Duration = Duration::from_secs(20);
/// So much that, when the first quarter has arrived, sockets and devices cannot hold the rest.
const LENGTH: usize = 32 << 20;

pub(super) const STEP: Step = Step {
    what: "router killed (SIGKILL) in a transfer",
    expected: "the file arrives; identity and addresses are the same",
    take,
};

fn take(stage: &Stage, progress: &Progress) -> anyhow::Result<Outcome> {
    let (first, last) = stage
        .routers
        .first()
        .zip(stage.routers.last())
        .context("there are no routers")?;
    let (from, to) = (first.host().pod_any("sender")?, last.host().pod_any("receiver")?);
    from.ping_until(to.address()?, PATIENCE)?;
    let before = who_and_what(last)?;
    let (transfer, killed_at) = send_and_kill(&from, &to, last, progress)?;
    last.wait_for_mesh(stage.routers.len() - 1, PATIENCE)?;
    // Another host confirms that its state is the latest; until then it gives out next to nothing.
    last.wait_until("its state is confirmed", PATIENCE, |_| gives_out(last))?;
    let after = who_and_what(last)?;
    for pod in [&from, &to] {
        pod.detach()?;
    }
    let (same_node, same_addresses) = (before.0 == after.0, before.1 == after.1);
    Ok(Outcome {
        expected: format!(
            "{} intact; same identity and addresses",
            size::show(LENGTH as u64)
        ),
        seen: format!(
            "killed after {}; {} {}; {} identity, {} {} addresses",
            size::show(killed_at),
            size::show(transfer.bytes),
            if transfer.is_intact() { "intact" } else { "damaged" },
            if same_node { "same" } else { "other" },
            if same_addresses { "same" } else { "other" },
            after.1.len()
        ),
        passed: transfer.is_intact() && same_node && same_addresses && killed_at < transfer.bytes,
    })
}

/// Whether nothing keeps the router from giving out addresses.
fn gives_out(router: &Router) -> bool {
    let status = Api::connect(router.host()).and_then(|mut api| api.ipam());
    status.is_ok_and(|status| status.hindrance.is_none())
}

/// The node, and the addresses that it has given out, each with its pod.
fn who_and_what(router: &Router) -> weft_lab::Result<(String, Vec<(IpAddr, String)>)> {
    let node = router.status()?.node;
    let used = Api::connect(router.host())?.ipam()?.used;
    Ok((
        node,
        used.into_iter().map(|used| (used.address, used.id)).collect(),
    ))
}

/// Sends a file, and kills and restarts the router when a quarter of it has arrived. Also tells how much that was.
fn send_and_kill(
    from: &Pod,
    to: &Pod,
    router: &Router,
    progress: &Progress,
) -> anyhow::Result<(Transfer, u64)> {
    let total = LENGTH as u64;
    let killed = Mutex::new(None);
    let transfer = from.tcp_send_watched(to, &Content::random(LENGTH, 1), &|done| {
        progress.bytes(done, total);
        let mut killed = killed.lock().unwrap_or_else(PoisonError::into_inner);
        if done >= total / 4 && killed.is_none() {
            *killed = Some((done, router.kill().and_then(|()| router.restart())));
        }
    })?;
    let killed = killed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (done, result) = killed.context("the router was not killed")?;
    result?;
    Ok((transfer, done))
}
