//! Two parts of one cluster that have decided apart.
//!
//! A majority of all members cannot decide twice. A fenced removal counts only the members that it leaves, so two parts
//! that fence each other, both alive, end with two epochs of one number. Hosts notice by the hash in each other's
//! vote records, fetch the other chain, and stop giving addresses out: which part is right, only people know.

use crate::epoch::is_split;
use crate::io::{Event, FreezeReason};
use crate::ipam::Ipam;
use crate::message::{Decided, Message};
use crate::records::EPOCHS_PAUSE;
use weft_wire::ipam::VoteRecord;
use weft_wire::{NodeId, Time};

/// A comparison of this host's chain of epochs with that of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Comparing {
    /// `None` once it is over: then the pause before the next one.
    with: Option<NodeId>,
    /// Up to this epoch they are the same.
    same: u32,
    due: Time,
}

impl Ipam {
    /// Looks whether a host's vote record follows this host's chain of epochs, and has the chains compared if not.
    pub(crate) fn look_for_fork(&mut self, now: Time, owner: NodeId, record: &VoteRecord) {
        let before = record.number.saturating_sub(1);
        // A host that was removed and has decided more than this one has most likely decided apart.
        let is_other = match self.state.hash_of(before) {
            Some(hash) => hash != record.parent,
            None => self.is_gone(&owner),
        };
        if is_other {
            self.compare(now, owner, 0);
        }
    }

    /// Compares the chains behind this epoch, unless a comparison is under way.
    pub(crate) fn compare(&mut self, now: Time, with: NodeId, same: u32) {
        if self.comparing.is_none_or(|comparing| comparing.due <= now) {
            self.go_on_comparing(now, with, same);
        }
    }

    fn go_on_comparing(&mut self, now: Time, with: NodeId, same: u32) {
        self.comparing = Some(Comparing {
            with: Some(with),
            same,
            due: now + EPOCHS_PAUSE,
        });
        self.send(with, &Message::AskEpochs { after: same });
    }

    /// Epochs arrived that this host has decided as well, or decided otherwise.
    pub(crate) fn compare_epochs(&mut self, now: Time, from: NodeId, epochs: &[Decided]) {
        let Some(comparing) = self
            .comparing
            .as_mut()
            .filter(|comparing| comparing.with == Some(from))
        else {
            return;
        };
        comparing.with = None;
        let comparing = *comparing;
        let mut same = comparing.same;
        for decided in epochs {
            let number = decided.epoch.number;
            if number != same + 1 {
                continue;
            }
            if self.state.hash_of(number) == Some(decided.epoch.hash()) {
                same = number;
                continue;
            }
            if is_split(decided, &self.state, &self.genesis) {
                self.event(Event::Split { number, with: from });
                self.freeze(FreezeReason::Split);
            }
            return;
        }
        if same > comparing.same && same < self.state.epoch() {
            self.go_on_comparing(now, from, same);
        }
    }
}
