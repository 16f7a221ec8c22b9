//! Two hosts that cannot reach each other over UDP: a third one passes on what they send, and cannot read it.

use std::time::Duration;

use anyhow::Context as _;
use weft_lab::{Content, Error, Router};
use weft_wire::api::PeerStatus;

use super::super::size;
use super::{Outcome, Progress, Stage, Step};

/// For the mesh after a restart, for the tries of the straight way, and for the straight way back.
const PATIENCE: Duration = Duration::from_secs(30);
/// Octets of the file.
const LENGTH: usize = 4 << 20;

pub(super) const STEP: Step = Step {
    what: "two hosts that cannot reach each other",
    expected: "a file arrives through a third host; straight again when they can",
    take,
};

fn take(stage: &Stage, progress: &Progress) -> anyhow::Result<Outcome> {
    let (first, last) = stage
        .routers
        .first()
        .zip(stage.routers.last())
        .context("there are no routers")?;
    if stage.routers.len() < 3 {
        return Ok(not_tried("there are two hosts only"));
    }
    let firewall = first.host().firewall();
    for address in [last.host().ipv4()?, last.host().ipv6()?] {
        match firewall.drop_udp_with(address) {
            Err(Error::MissingProgram { program, .. }) => {
                return Ok(not_tried(&format!("the program {program} is missing")));
            }
            dropped => dropped?,
        }
    }
    // Sessions that stand would be kept for 15 s: a router that starts has none.
    last.restart()?;
    let names = [last.host().name(), first.host().name()];
    progress.detail(&format!("{} looks for a way to {}", names[1], names[0]));
    let mut relay = String::new();
    for (router, other) in [(first, names[0]), (last, names[1])] {
        let status = router.wait_until("the other is relayed", PATIENCE, |status| {
            mode(&status.peers, other) == Some("relay")
        })?;
        let peer = status.peers.iter().find(|peer| peer.name == other);
        relay = peer.and_then(|peer| peer.relay.clone()).unwrap_or_default();
    }
    let (from, to) = stage.far_pods()?;
    from.ping_until(to.address()?, PATIENCE)?;
    let through: Vec<&Router> = stage
        .routers
        .iter()
        .filter(|r| r.host().name() == relay)
        .collect();
    let passed_on = || -> anyhow::Result<u64> {
        let relay = through.first().context("the relay is none of the hosts")?;
        Ok(relay.status()?.relayed.octets)
    };
    let before = passed_on()?;
    let sent = from.tcp_send(to, &Content::random(LENGTH, 5))?;
    let relayed = passed_on()? - before;
    firewall.clear()?;
    progress.detail("the straight way is free again");
    for (router, other) in [(first, names[0]), (last, names[1])] {
        router.wait_until("the straight way is back", PATIENCE, |status| {
            mode(&status.peers, other) == Some("sleeve")
        })?;
    }
    from.ping_until(to.address()?, PATIENCE)?;
    Ok(Outcome {
        expected: format!(
            "{} intact through a third host, then straight",
            size::show(LENGTH as u64)
        ),
        seen: format!(
            "{} {} via {relay}, which passed on {}; then straight",
            size::show(sent.bytes),
            if sent.is_intact() { "intact" } else { "damaged" },
            size::show(relayed)
        ),
        passed: sent.is_intact() && relayed >= LENGTH as u64,
    })
}

fn mode<'a>(peers: &'a [PeerStatus], name: &str) -> Option<&'a str> {
    let peer = peers.iter().find(|peer| peer.name == name)?;
    Some(&peer.mode)
}

fn not_tried(why: &str) -> Outcome {
    Outcome {
        expected: STEP.expected.to_owned(),
        seen: format!("not tried: {why}"),
        passed: true,
    }
}
