//! A host that comes with another token is refused, by name, and nobody else notices.

use std::time::Duration;

use anyhow::Context as _;
use weft_wire::api::ClusterStatus;

use super::{Outcome, Progress, Stage, Step};

const PATIENCE: Duration = Duration::from_secs(15);

pub(super) const STEP: Step = Step {
    what: "host with a wrong token",
    expected: "refused, with the reason",
    take,
};

fn take(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let founder = stage.routers.first().context("there are no routers")?;
    let peer = founder.host().ipv4()?.to_string();
    let token = stage.wrong_token.display().to_string();
    let stranger = stage.stranger.up(["--peer", &peer, "--token-file", &token])?;
    let named = |reason: &str| reason.contains("token");
    let status = stranger.wait_until("it is told why", PATIENCE, |status| {
        status.targets.iter().any(|target| named(&target.reason))
    })?;
    founder.wait_until("it has counted the refusal", PATIENCE, |status| {
        !status.refusals.is_empty()
    })?;
    let others = founder.wait_for_mesh(stage.routers.len() - 1, PATIENCE)?;
    let outside = status.cluster == ClusterStatus::AwaitingAdmission;
    let reason = status
        .targets
        .into_iter()
        .map(|target| target.reason)
        .find(|reason| named(reason));
    stranger.stop()?;
    Ok(Outcome {
        expected: "not let in, told why; the others stay together".into(),
        seen: format!(
            "{}; it reads: {}",
            if outside { "not let in" } else { "let in" },
            reason.unwrap_or_default()
        ),
        passed: outside && others.peers.len() + 1 == stage.routers.len(),
    })
}
