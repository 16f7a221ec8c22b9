//! Every pod reaches every other.

use std::time::{Duration, Instant};

use weft_lab::Error;

use super::{Outcome, Progress, Stage, Step};

/// For all pairs together: the first packet between two hosts may have to wait for a handshake.
const PATIENCE: Duration = Duration::from_secs(30);
/// For each pair that is left when that is over.
const LAST_CHANCE: Duration = Duration::from_millis(100);

pub(super) const STEP: Step = Step {
    what: "ping, every pod to every pod",
    expected: "every pair answers",
    take,
};

fn take(stage: &Stage, progress: &Progress) -> anyhow::Result<Outcome> {
    let end = Instant::now() + PATIENCE;
    let (mut times, mut silent) = (Vec::new(), Vec::new());
    for from in &stage.pods {
        for to in stage.pods.iter().filter(|to| to.name() != from.name()) {
            let pair = format!("{} to {}", from.name(), to.name());
            progress.detail(&pair);
            let left = end.saturating_duration_since(Instant::now()).max(LAST_CHANCE);
            match from.ping_until(to.address()?, left) {
                Ok(time) => times.push(time),
                Err(Error::TimedOut { .. }) => silent.push(pair),
                Err(other) => return Err(other.into()),
            }
        }
    }
    let pairs = times.len() + silent.len();
    times.sort();
    let mut seen = format!("{} of {pairs}", times.len());
    if let Some(median) = times.get(times.len() / 2) {
        seen.push_str(&format!(", median {:.2} ms", median.as_secs_f64() * 1e3));
    }
    if let Some(first) = silent.first() {
        seen.push_str(&format!("; silent: {first}"));
    }
    Ok(Outcome {
        expected: format!("{pairs} of {pairs} pairs answer"),
        seen,
        passed: silent.is_empty() && pairs > 0,
    })
}
