//! A file goes from the first host to the last, and is the same there.

use super::super::size;
use super::{Outcome, Progress, Stage, Step};

pub(super) const STEP: Step = Step {
    what: "file over TCP between hosts",
    expected: "the same SHA-256 at both ends",
    take,
};

fn take(stage: &Stage, progress: &Progress) -> anyhow::Result<Outcome> {
    let (from, to) = stage.far_pods()?;
    let total = stage.content.len() as u64;
    let transfer = from.tcp_send_watched(to, &stage.content, &|done| progress.bytes(done, total))?;
    let speed = transfer.gbit_per_second();
    Ok(Outcome {
        expected: format!("{}, SHA-256 {}", size::show(total), short(&transfer.sent)),
        seen: format!(
            "{}, {}, {speed:.2} Gbit/s",
            size::show(transfer.bytes),
            short(&transfer.arrived)
        ),
        passed: transfer.is_intact() && transfer.bytes == total,
    })
}

/// The beginning of a hash, for people; the comparison is of the whole.
fn short(hash: &[u8; 32]) -> String {
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
