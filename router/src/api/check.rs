//! `GET /v1/ipam/check`: asks node, kernel and disk, and compares.

use super::server::{Api, Refusal, no_cluster};
use crate::command::BRIDGE;
use crate::daemon::{Check, Request};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use std::time::Duration;
use weft_kernel::inspect;
use weft_store::Difference;
use weft_wire::api::{IpamCheck, IpamFinding};

/// What is under way while it is looked at is over after this: addresses that were given out and are being put on their
/// pods, records that travel.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the state file may take to be read.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// Looks once more at whatever is found: only what stays is told.
pub(super) async fn check(State(api): State<Api>) -> Result<Response, Refusal> {
    let (mut found, mut file) = look(&api).await?;
    if !found.findings.is_empty() || file.is_some() {
        tokio::time::sleep(SETTLE).await;
        let (again, file_again) = look(&api).await?;
        let before = std::mem::replace(&mut found, again).findings;
        found.findings.retain(|finding| before.contains(finding));
        file = match (file, file_again) {
            // What was under way when the first look came.
            (Some(Difference::Memory { .. }), None) => None,
            // A file that is mended when it is found is found once only.
            (first, second) => second.or(first),
        };
    }
    found.findings.extend(file.map(|difference| IpamFinding {
        kind: "state-file".to_owned(),
        wrong: true,
        what: format!("the state on disk was not the one in memory: {difference}"),
        cure: "look for what changes the state directory, and at the disk (`dmesg`); if it is found again, restart the \
               router"
            .to_owned(),
    }));
    found.findings.sort_by_key(|finding| !finding.wrong);
    Ok(Json(found).into_response())
}

/// One look, and what the state file has that memory has not.
async fn look(api: &Api) -> Result<(IpamCheck, Option<Difference>), Refusal> {
    let mut unchecked = Vec::new();
    let mut not = |what: &str, why: String| unchecked.push(format!("{what}: {why}"));
    let ports = match tokio::task::spawn_blocking(|| inspect::ports(BRIDGE)).await {
        Ok(Ok(ports)) => Some(ports),
        Ok(Err(error)) => {
            not("the pods", error.to_string());
            None
        }
        Err(error) => {
            not("the pods", error.to_string());
            None
        }
    };
    let asked = ports.as_deref().map(crate::check::addresses).unwrap_or_default();
    let answer = api.ask(|answer| Request::Check(asked, answer)).await?;
    let Check { node, disk } = answer.ok_or_else(no_cluster)?;
    let mut findings = node.findings.clone();
    if let Some(ports) = &ports {
        findings.extend(crate::check::compare(&node, ports, BRIDGE));
    }
    let file = "the state file";
    let mut difference = None;
    match disk {
        Err(why) => not(file, why),
        Ok(answered) => match tokio::time::timeout(DISK_PATIENCE, answered).await {
            Ok(Ok(compared)) => difference = compared.err(),
            Ok(Err(_)) => not(file, "the router is stopping".to_owned()),
            Err(_) => not(
                file,
                format!("the disk did not answer within {} s", DISK_PATIENCE.as_secs()),
            ),
        },
    }
    let found = IpamCheck {
        findings,
        pods: ports.map_or(0, |ports| ports.len() as u64),
        addresses: node.addresses,
        hosts: node.hosts,
        unchecked,
    };
    Ok((found, difference))
}
