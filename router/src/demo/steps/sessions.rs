//! Every pair of hosts has an encrypted session.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_lab::router::is_up;

use super::{Outcome, Progress, Stage, Step};

/// The pings have made the sessions; what is left is to see them.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const STEP: Step = Step {
    what: "sessions between hosts",
    expected: "all encrypted",
    take,
};

fn take(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let others = stage.routers.len() - 1;
    let (mut encrypted, mut ciphers) = (0, BTreeSet::new());
    for router in &stage.routers {
        let status = router.wait_for_peers(others, PATIENCE)?;
        let up = status.peers.iter().filter(|peer| is_up(peer));
        encrypted += up.clone().count();
        ciphers.extend(up.filter_map(|peer| peer.cipher.clone()));
    }
    // Each session is seen from both ends.
    let wanted = stage.routers.len() * others;
    let ciphers: Vec<_> = ciphers.into_iter().collect();
    Ok(Outcome {
        expected: format!("{} of {} encrypted", wanted / 2, wanted / 2),
        seen: format!("{} of {}, {}", encrypted / 2, wanted / 2, ciphers.join(" and ")),
        passed: encrypted == wanted,
    })
}
