//! The hosts are cut in two halves. Both go on giving out addresses; together again, no address is there twice.

use std::time::Duration;

use anyhow::Context as _;
use weft_lab::{Api, Host, Router};
use weft_wire::api::LinkState;

use super::given::{give_out, in_use, in_words};
use super::{Outcome, Progress, Stage, Step};

/// For noticing that hosts are silent, and for dialling them again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Addresses that each host gives out: at once, then when the other half is known to be away, then together again.
const EACH: usize = 25;

pub(super) const STEP: Step = Step {
    what: "network cut in two, then healed",
    expected: "both halves give out addresses, none twice",
    take,
};

fn take(stage: &Stage, progress: &Progress) -> anyhow::Result<Outcome> {
    let hosts: Vec<&Host> = stage.routers.iter().map(Router::host).collect();
    let (near, far) = hosts.split_at(hosts.len() / 2);
    let underlay = near
        .first()
        .and_then(|host| host.underlays().first())
        .context("the hosts have no underlay")?;
    for router in &stage.routers {
        router.wait_until("it owns a part of the range", PATIENCE, |status| {
            owns_space(router, &status.node)
        })?;
    }
    underlay.partition(near, far)?;
    progress.detail("cut in two");
    let unnoticed = give_out(stage, "cut", EACH)?;
    for (number, router) in stage.routers.iter().enumerate() {
        let half = if number < near.len() { near } else { far };
        progress.detail(&format!("{} notices", router.host().name()));
        router.wait_until("the other half is away", PATIENCE, |status| {
            let up = status.peers.iter().filter(|peer| peer.mesh == LinkState::Up);
            up.count() == half.len() - 1
        })?;
    }
    let apart = give_out(stage, "apart", EACH)?;
    underlay.heal()?;
    for router in &stage.routers {
        progress.detail(&format!("{} meets the others again", router.host().name()));
        router.wait_for_mesh(hosts.len() - 1, PATIENCE)?;
    }
    let together = give_out(stage, "healed", EACH)?;

    let (all, different) = in_use(stage)?;
    let wanted = hosts.len() * EACH;
    Ok(Outcome {
        expected: format!("{} while cut, {wanted} afterwards, none twice", 2 * wanted),
        seen: format!(
            "{} while cut, {} afterwards; in use {}",
            unnoticed.len() + apart.len(),
            together.len(),
            in_words(all, different)
        ),
        passed: [unnoticed, apart, together]
            .iter()
            .all(|given| given.len() == wanted)
            && all == different,
    })
}

/// Whether the router has addresses of its own: at first it lives on single ones that others lend.
fn owns_space(router: &Router, node: &str) -> bool {
    let status = Api::connect(router.host()).and_then(|mut api| api.ipam());
    status.is_ok_and(|status| status.ranges.iter().any(|range| range.owner == node))
}
