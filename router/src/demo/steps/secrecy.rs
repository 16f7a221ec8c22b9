//! The file goes once more, while everything on the underlay and in the sending pod is recorded. A text
//! that stands in every kilobyte of the file is searched for in both.

use super::super::size;
use super::super::stage::NEEDLE;
use super::{Outcome, Progress, Stage, Step};

pub(super) const STEP: Step = Step {
    what: "known text on the underlay",
    expected: "not found, while the pod's own capture shows it",
    take,
};

fn take(stage: &Stage, progress: &Progress) -> anyhow::Result<Outcome> {
    let (from, to) = stage.far_pods()?;
    let total = stage.content.len() as u64;
    let (underlay, control) = (
        from.host().record(NEEDLE, stage.content.len())?,
        from.record(NEEDLE, stage.content.len())?,
    );
    let transfer = from.tcp_send_watched(to, &stage.content, &|done| progress.bytes(done, total))?;
    let (underlay, control) = (underlay.stop()?, control.stop()?);
    let mut seen = format!(
        "{} times in {}; in the pod {} times",
        underlay.found,
        size::show(underlay.bytes),
        control.found
    );
    if underlay.missed > 0 {
        seen.push_str(&format!("; {} frames went by unseen", underlay.missed));
    }
    if !transfer.is_intact() {
        seen.push_str("; the file was damaged");
    }
    Ok(Outcome {
        expected: format!("0 times in at least {}", size::show(total)),
        seen,
        passed: transfer.is_intact() && underlay.bytes >= total && underlay.found == 0 && control.found > 0,
    })
}
