//! The steps, in the order in which they are taken. Each is one file and one line of the table.

mod addresses;
mod broadcast;
mod ethertype;
mod file;
mod given;
mod killed;
mod large;
mod moved;
mod multicast;
mod partition;
mod pings;
mod relayed;
mod secrecy;
mod sessions;
mod stranger;

use super::progress::Progress;
use super::report::Row;
use super::stage::Stage;

/// What is to be done, and what for.
pub(super) struct Step {
    /// What is tried, in a few words.
    pub(super) what: &'static str,
    /// What should be seen, for a step that cannot say more because it failed on the way.
    pub(super) expected: &'static str,
    /// Does it.
    pub(super) take: fn(&Stage, &Progress) -> anyhow::Result<Outcome>,
}

/// What a step came to.
pub(super) struct Outcome {
    /// What should be seen.
    pub(super) expected: String,
    /// What was seen.
    pub(super) seen: String,
    /// Whether that is as it should be.
    pub(super) passed: bool,
}

impl Outcome {
    pub(super) fn row(self, what: &str) -> Row {
        Row {
            what: what.to_owned(),
            expected: self.expected,
            seen: self.seen,
            passed: self.passed,
            error: None,
        }
    }
}

/// Every step after the hosts have joined.
pub(super) const ALL: [Step; 16] = [
    pings::STEP,
    sessions::STEP,
    file::STEP,
    large::STEP,
    broadcast::STEP,
    multicast::STEP,
    multicast::ONE_HOST_STEP,
    multicast::DISCOVERY_STEP,
    ethertype::STEP,
    secrecy::STEP,
    addresses::STEP,
    moved::STEP,
    relayed::STEP,
    killed::STEP,
    partition::STEP,
    stranger::STEP,
];
