//! A broadcast reaches every other pod, once.

use std::time::Duration;

use anyhow::Context as _;
use weft_lab::frames;

use super::{Outcome, Progress, Stage, Step};

const PATIENCE: Duration = Duration::from_secs(5);
/// A second copy would come by another way within this time.
const QUIET: Duration = Duration::from_millis(300);
/// For local experiments (IEEE 802). The other such number is that of the probes that look for loops.
const ETHERTYPE: u16 = 0x88b5;

pub(super) const STEP: Step = Step {
    what: "broadcast",
    expected: "once at every other pod",
    take,
};

fn take(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let (from, others) = stage.pods.split_first().context("there are no pods")?;
    let frame = frames::build(frames::BROADCAST, from.mac()?, ETHERTYPE, &[0xb0; 200]);
    let mut ears = others
        .iter()
        .map(|pod| pod.listen(|frame| frame.ethertype() == ETHERTYPE))
        .collect::<Result<Vec<_>, _>>()?;
    from.send_frame(&frame)?;
    let mut quiet = QUIET;
    let mut once = 0;
    for ear in &mut ears {
        ear.expect(1, PATIENCE)?;
        // While the first is listened to, the others hear too; what they heard waits for them.
        let heard = ear.until_quiet(std::mem::take(&mut quiet))?;
        once += usize::from(heard == [frame.clone()]);
    }
    Ok(Outcome {
        expected: format!("once at each of {} pods", others.len()),
        seen: format!("once, and unchanged, at {once}"),
        passed: once == others.len(),
    })
}
