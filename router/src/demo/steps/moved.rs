//! A pod's address moves to another host, and is reached there at once.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{Outcome, Progress, Stage, Step};

const PATIENCE: Duration = Duration::from_secs(10);
/// Outside of what the stage gives its pods.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 32, 200, 1);

pub(super) const STEP: Step = Step {
    what: "address moves to another host",
    expected: "reached at its new place",
    take,
};

fn take(stage: &Stage, progress: &Progress) -> anyhow::Result<Outcome> {
    let (watcher, _) = stage.far_pods()?;
    let [.., new, old] = stage.routers.as_slice() else {
        anyhow::bail!("there are not two routers");
    };
    let address = IpAddr::V4(ADDRESS);
    let first = old.host().pod("mover", address)?;
    watcher
        .ping_until(address, PATIENCE)
        .context("it does not answer at its first place")?;
    progress.detail(&format!("from {} to {}", old.host().name(), new.host().name()));
    let begin = Instant::now();
    first.detach()?;
    let second = new.host().pod("mover", address)?;
    watcher
        .ping_until(address, PATIENCE)
        .context("it does not answer at its new place")?;
    let elapsed = begin.elapsed();
    second.detach()?;
    Ok(Outcome {
        expected: format!(
            "{ADDRESS} answers on {} as it did on {}",
            new.host().name(),
            old.host().name()
        ),
        seen: format!(
            "answers; detached, attached and reached in {:.0} ms",
            elapsed.as_secs_f64() * 1e3
        ),
        passed: true,
    })
}
