//! All hosts give out addresses at the same time, and no two the same.

use std::collections::BTreeSet;

use super::given::{give_out, in_words};
use super::{Outcome, Progress, Stage, Step};

/// Addresses that each host gives out.
const EACH: usize = 50;

pub(super) const STEP: Step = Step {
    what: "addresses from all hosts at once",
    expected: "none twice",
    take,
};

fn take(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let given = give_out(stage, "together", EACH)?;
    let same = give_out(stage, "together", EACH)? == given;
    let different = given.iter().collect::<BTreeSet<_>>().len();
    let wanted = stage.routers.len() * EACH;
    Ok(Outcome {
        expected: format!("{wanted}, none twice; the same when asked again"),
        seen: format!(
            "{}; {} when asked again",
            in_words(given.len(), different),
            if same { "the same" } else { "others" }
        ),
        passed: same && different == wanted,
    })
}
