//! A frame of a type that no IP stack knows arrives bit for bit.

use std::time::Duration;

use weft_lab::frames;

use super::super::stage::NEEDLE;
use super::{Outcome, Progress, Stage, Step};

const PATIENCE: Duration = Duration::from_secs(5);
/// For local experiments (IEEE 802).
const ETHERTYPE: u16 = 0x88b5;

pub(super) const STEP: Step = Step {
    what: "frame of type 0x88b5",
    expected: "bit for bit",
    take,
};

fn take(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let (from, to) = stage.far_pods()?;
    let payload: Vec<u8> = NEEDLE
        .iter()
        .copied()
        .cycle()
        .zip(0_u8..=255)
        .map(|(a, b)| a ^ b)
        .collect();
    let frame = frames::build(to.mac()?, from.mac()?, ETHERTYPE, &payload);
    let mut ear = to.listen(|frame| frame.ethertype() == ETHERTYPE)?;
    from.send_frame(&frame)?;
    let heard = ear.expect(1, PATIENCE)?;
    let same = heard == [frame.clone()];
    Ok(Outcome {
        expected: format!("{} B, bit for bit", frame.len()),
        seen: match (heard, same) {
            ([one], true) => format!("{} B, bit for bit", one.len()),
            ([one], false) => format!("{} B, changed", one.len()),
            (several, _) => format!("{} frames", several.len()),
        },
        passed: same,
    })
}
