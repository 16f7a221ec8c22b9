//! Packets as large as a pod may send, and far larger ones, which its kernel cuts to pieces.

use std::time::Duration;

use weft_kernel::link;
use weft_lab::PingPlan;

use super::{Outcome, Progress, Stage, Step};

/// Headers of IPv4 and of ICMP in front of the payload of an echo.
const HEADERS: usize = 20 + 8;
/// A jumbo frame's worth: some seven pieces.
const JUMBO: usize = 8972;
const COUNT: u16 = 20;

pub(super) const STEP: Step = Step {
    what: "jumbo ping",
    expected: "the largest packets arrive",
    take,
};

fn take(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let (from, to) = stage.far_pods()?;
    let mtu = from.namespace().run(|| link::get(from.interface()))??.mtu;
    let full = usize::try_from(mtu)?.saturating_sub(HEADERS);
    let answered = |payload| -> anyhow::Result<u16> {
        let plan = PingPlan {
            count: COUNT,
            payload,
            patience: Duration::from_secs(5),
            ..PingPlan::default()
        };
        let report = from.ping_with(to.address()?, &plan)?;
        Ok(report.sent - report.lost())
    };
    let (whole, in_pieces) = (answered(full)?, answered(JUMBO)?);
    Ok(Outcome {
        expected: format!("{COUNT} of {COUNT} with {full} B, and with {JUMBO} B"),
        seen: format!("{whole} and {in_pieces} answered"),
        passed: (whole, in_pieces) == (COUNT, COUNT),
    })
}
