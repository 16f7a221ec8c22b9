//! What came about in a run, counted: a scenario that no longer brings about what it is for is noticed.

use crate::scenario::FaultKind;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// Something that follows from faults, if all goes as it should.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// A host was removed.
    Removed,
    /// A host was removed that somebody had vouched for.
    Fenced,
    /// Both sides of a partition had asked for a removal before it healed.
    AskedApart,
    /// Slots of removed hosts were taken back.
    Reclaimed,
    /// A host came back as a new one, or changed its cluster.
    BeganAgain,
    /// A pod that ran all the time has its address again, under its host's new name.
    Claimed,
    /// Such a claim was refused for a while or for good.
    Refused,
    /// An address was given out that a pod of a removed host has which was alive and did not know it yet.
    Overlap,
    /// Two clusters met.
    Met,
    /// A host went over to the other cluster.
    Adopted,
    /// A host went after it had handed on what it had.
    Left,
}

/// How often what came about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    faults: BTreeMap<FaultKind, u64>,
    happenings: BTreeMap<Happening, u64>,
}

impl Tally {
    pub(crate) fn fault(&mut self, kind: FaultKind) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn add(&mut self, happening: Happening, times: u64) {
        if times > 0 {
            *self.happenings.entry(happening).or_default() += times;
        }
    }

    /// Adds what came about in another run.
    pub fn join(&mut self, other: &Self) {
        for (kind, times) in &other.faults {
            *self.faults.entry(*kind).or_default() += times;
        }
        for (happening, times) in &other.happenings {
            self.add(*happening, *times);
        }
    }

    /// How often a fault occurred.
    pub fn times(&self, kind: FaultKind) -> u64 {
        self.faults.get(&kind).copied().unwrap_or_default()
    }

    /// How often something came about.
    pub fn of(&self, happening: Happening) -> u64 {
        self.happenings.get(&happening).copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.faults.iter().map(|(kind, n)| format!("{kind:?} {n}"));
        let happenings = self.happenings.iter().map(|(what, n)| format!("{what:?} {n}"));
        let all: Vec<String> = faults.chain(happenings).collect();
        match all.is_empty() {
            true => f.write_str("nothing went wrong"),
            false => f.write_str(&all.join(", ")),
        }
    }
}
