//! Slots that rest and go back to the host whose pods have addresses in them.
//!
//! A host that was removed while it was alive comes back as a new one and claims its pods' addresses by name. They are lent to it, and
//! who lends as much as it may hands over the slots themselves, though they rest. The rest goes with them: whoever takes such a slot
//! gives nothing out of it for as long, but to who names an address.

use crate::ipam::Ipam;
use crate::pool::next_versions;
use crate::removal::RECLAIM_REST;
use crate::rules;
use crate::state::Change;
use crate::subnet::Span;
use alloc::vec::Vec;
use weft_wire::ipam::{Grant, SlotRun};
use weft_wire::{NodeId, Time};

impl Ipam {
    /// How many slots to ask `of` for, which lends none of its addresses any more: as many as hold what is waited for.
    pub(crate) fn unlendable_slots(&self, of: &NodeId) -> u32 {
        let size = self.space.slot_size();
        let mut slots: Vec<u32> = self
            .waiting
            .iter()
            .filter(|waiting| waiting.is_unlendable)
            .filter_map(|waiting| Some(waiting.want.named? / size))
            .filter(|slot| {
                self.state
                    .table()
                    .get(*slot)
                    .is_some_and(|register| register.owner == *of)
            })
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots.len() as u32
    }

    /// What to hand to `to`, which names the one address of `span`: the slot of it and, up to `need` in all, those behind it, as far
    /// as they rest here; with the versions that they will have.
    pub(crate) fn resting_slots_for(&self, to: &NodeId, need: u32, span: Span) -> Option<Vec<SlotRun>> {
        if span.first != span.last {
            return None;
        }
        let size = self.space.slot_size();
        let run = rules::resting_for(&self.state, &self.node, to, size, span.first / size, need.max(1))?;
        let fitting = self.with_proofs_that_fit(alloc::vec![run]);
        (!fitting.is_empty()).then(|| next_versions(&fitting, self.state.epoch()))
    }

    /// This host is about to take slots that may have rested where they were: they rest here, unless it has asked for any slots, of
    /// which none is granted that rests.
    pub(crate) fn rest_again(&mut self, now: Time, grant: &Grant, steps: &[SlotRun]) {
        let is_general =
            |asked: &crate::ipam::Asked| asked.to == grant.from && asked.span.first != asked.span.last;
        if self.space_asks.iter().any(is_general) {
            return;
        }
        for run in rules::resting_again(&self.state, steps) {
            let SlotRun { first, count, .. } = run;
            self.forget_rest(run);
            self.change(Change::Rest {
                first,
                count,
                rests: true,
            });
            self.slot_rests.push_back((now + RECLAIM_REST, first, count));
        }
    }

    /// These slots have gone to another host, and their rest with them.
    pub(crate) fn end_rest_of(&mut self, runs: &[SlotRun]) {
        for run in runs {
            if self.state.resting_slots().range(run.slots()).next().is_some() {
                self.forget_rest(*run);
                self.change(Change::Rest {
                    first: run.first,
                    count: run.count,
                    rests: false,
                });
            }
        }
    }

    /// What is noted of the ends of these slots' rest holds no longer.
    fn forget_rest(&mut self, run: SlotRun) {
        let cut = run.slots();
        let parts = self.slot_rests.iter().flat_map(|(until, first, count)| {
            let end = first + count;
            let before = (*first, end.min(cut.start));
            let after = ((*first).max(cut.end), end);
            [before, after].map(|(first, end)| (*until, first, end.saturating_sub(first)))
        });
        self.slot_rests = parts.filter(|(_, _, count)| *count > 0).collect();
    }
}
