//! A host that goes for good hands its part of the range to the others first.
//!
//! It offers its wholly free slots to the members of the epoch in turn; one that takes the offer asks for slots as ever, so a
//! slot goes only to a host that is there and has room for it. What cannot be handed on (slots with addresses that
//! others have borrowed, slots that have changed hands too often) is what an epoch without this host gives to another.

use crate::asks::SPACE_ASKS_MAX;
use crate::ipam::{ASK_TIMEOUT, Asked, Ipam, SILENCE, Standing};
use crate::message::Message;
use crate::state::Held;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use weft_wire::ipam::{GIVEN_MAX, GRANT_CHAIN_MAX, SLOT_RUNS_MAX};
use weft_wire::{NodeId, Time};

/// A host on its way out.
pub(crate) struct Leave {
    /// Members that this round has not offered anything yet.
    round: Vec<NodeId>,
    /// Offers that nobody has answered, and until when they may be.
    offered: Vec<(NodeId, Time)>,
    /// Members that let an offer pass, and have not asked for anything since.
    silent: BTreeSet<NodeId>,
    /// Slots that were granted since it began.
    handed: u64,
    /// The next round begins then at the earliest, or at once if somebody took something in this one.
    round_due: Time,
    was_taken: bool,
}

/// Where handing on stands. Addresses are counted by the slots that they are in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaving {
    /// Addresses in slots that were granted to others.
    pub handed: u64,
    /// Addresses in slots that are free and still to be granted.
    pub left: u64,
    /// Addresses in slots that were granted and whose new owner has not said that it has them.
    pub unconfirmed: u64,
    /// Single addresses that rest; their slots can be granted afterwards.
    pub resting: u64,
    /// Single borrowed addresses on their way back.
    pub returning: u64,
    /// Single addresses that pods have.
    pub used: u64,
    /// Single addresses that other hosts have borrowed. They keep them; an epoch without this host gives the slots to
    /// another one.
    pub lent: u64,
    /// Addresses in slots that nobody can take, since they have changed hands too often.
    pub stuck: u64,
    /// Members that were offered slots and do not answer.
    pub silent: Vec<NodeId>,
    /// There is nobody to hand anything to.
    pub is_alone: bool,
}

impl Leaving {
    /// True when all is handed on that can be.
    pub fn is_done(&self) -> bool {
        let waits = self.left + self.unconfirmed + self.resting;
        self.used + self.returning == 0 && (waits == 0 || self.is_alone)
    }
}

impl Ipam {
    /// Begins to leave, or goes on with it.
    pub(crate) fn begin_leaving(&mut self, now: Time) {
        if self.leaving.is_some() {
            return;
        }
        self.leaving = Some(Leave {
            round: Vec::new(),
            offered: Vec::new(),
            silent: BTreeSet::new(),
            handed: 0,
            round_due: now,
            was_taken: false,
        });
        self.insert_own_vote();
        self.serve_waiting(now);
    }

    /// Stays after all. What was handed on stays where it is.
    pub(crate) fn stop_leaving(&mut self) {
        self.leaving = None;
        self.insert_own_vote();
    }

    /// Offers slots to those whose turn it is.
    pub(crate) fn drive_leave(&mut self, now: Time) {
        let Some(leave) = &mut self.leaving else { return };
        let (late, open): (Vec<_>, Vec<_>) = leave.offered.iter().partition(|(_, until)| *until <= now);
        leave.offered = open;
        leave.silent.extend(late.into_iter().map(|(node, _)| node));
        if self.standing != Standing::Confirmed || !self.has_slot_to_hand_on() {
            return;
        }
        let others = self.heirs();
        let Some(leave) = &mut self.leaving else { return };
        let is_due = leave.was_taken || leave.round_due <= now;
        if leave.round.is_empty() && leave.offered.is_empty() && is_due {
            // Those who were silent are asked again only when nobody else is there.
            let awake: Vec<NodeId> = others
                .iter()
                .copied()
                .filter(|node| !leave.silent.contains(node))
                .collect();
            leave.round = if awake.is_empty() { others } else { awake };
            leave.round_due = now + SILENCE;
            leave.was_taken = false;
        }
        loop {
            let given = self.state.given().len();
            let Some(leave) = &self.leaving else { return };
            if given + leave.offered.len() >= GIVEN_MAX {
                return;
            }
            let Some(to) = self.one_of(&leave.round.clone()) else {
                return;
            };
            if let Some(leave) = &mut self.leaving {
                leave.round.retain(|node| *node != to);
                leave.offered.push((to, now + ASK_TIMEOUT));
            }
            self.send(to, &Message::Offer);
        }
    }

    /// Who could take over: the other members of the epoch.
    fn heirs(&self) -> Vec<NodeId> {
        let members = self.state.members().iter();
        members.copied().filter(|node| *node != self.node).collect()
    }

    fn has_slot_to_hand_on(&self) -> bool {
        let span = self.space.whole().span();
        !self
            .pool
            .take_empty(1, 1, GRANT_CHAIN_MAX, span, &self.state)
            .is_empty()
    }

    /// When leaving needs attention.
    pub(crate) fn leave_deadline(&self) -> Option<Time> {
        let leave = self.leaving.as_ref()?;
        let offers = leave.offered.iter().map(|(_, until)| *until).min();
        let waits_for_round = leave.round.is_empty()
            && self.standing == Standing::Confirmed
            && !self.heirs().is_empty()
            && self.has_slot_to_hand_on();
        offers.or(waits_for_round.then_some(leave.round_due))
    }

    /// How many slots go to whoever asks now; `None` for a host that stays.
    pub(crate) fn leave_share(&self) -> Option<u32> {
        let leave = self.leaving.as_ref()?;
        // The one that asks, and those whose turn comes after it.
        let takers = 1 + leave.round.len() + leave.offered.len();
        Some(self.pool.empty_slots().div_ceil(takers as u32).max(1))
    }

    /// Somebody asks for slots, whether it was offered any or not.
    pub(crate) fn on_offer_taken(&mut self, from: NodeId) {
        if let Some(leave) = &mut self.leaving {
            leave.offered.retain(|(node, _)| *node != from);
            leave.round.retain(|node| *node != from);
            leave.silent.remove(&from);
        }
    }

    /// Slots were granted.
    pub(crate) fn on_handed(&mut self, slots: u32) {
        if let Some(leave) = &mut self.leaving {
            leave.handed += u64::from(slots);
            leave.was_taken = true;
        }
    }

    /// A host that leaves offers its slots.
    pub(crate) fn on_offer(&mut self, now: Time, from: NodeId) {
        let room = SLOT_RUNS_MAX.saturating_sub(self.own_runs.len());
        let is_able = self.standing == Standing::Confirmed
            && self.leaving.is_none()
            && room > 0
            && self.space_asks.len() < SPACE_ASKS_MAX
            && self.state.members().contains(&self.node)
            && self.state.members().contains(&from)
            && self.space_asks.iter().all(|asked| asked.to != from);
        if !is_able {
            return;
        }
        let (ask, span) = (self.next_ask(), self.space.whole().span());
        self.space_asks.push(Asked {
            to: from,
            ask,
            deadline: now + ASK_TIMEOUT,
            span,
        });
        self.send(
            from,
            &Message::AskSpace {
                ask,
                need: 1,
                room: room as u32,
                span,
            },
        );
    }

    /// Where leaving stands; `None` for a host that stays.
    pub fn leaving(&self) -> Option<Leaving> {
        let leave = self.leaving.as_ref()?;
        let size = u64::from(self.space.slot_size());
        let mut leaving = Leaving {
            handed: leave.handed * size,
            left: 0,
            unconfirmed: 0,
            resting: 0,
            returning: 0,
            used: 0,
            lent: 0,
            stuck: 0,
            silent: leave.silent.iter().copied().collect(),
            is_alone: self.heirs().is_empty(),
        };
        for held in self.state.addresses().values() {
            let count = match held {
                Held::Pod(_) | Held::Borrowed { .. } => &mut leaving.used,
                Held::Resting | Held::Abandoned => &mut leaving.resting,
                Held::Lent { .. } => &mut leaving.lent,
                Held::Returning { .. } => &mut leaving.returning,
            };
            *count += 1;
        }
        let given = self.state.given().values().flat_map(|grant| &grant.runs);
        leaving.unconfirmed = given.map(|run| u64::from(run.count)).sum::<u64>() * size;
        let span = self.space.whole().span();
        let slots = self.space.slots();
        let free = self
            .pool
            .take_empty(slots, slots as usize, GRANT_CHAIN_MAX, span, &self.state);
        let free = free.iter().map(|run| u64::from(run.count)).sum::<u64>();
        leaving.left = free * size;
        leaving.stuck = u64::from(self.pool.empty_slots()).saturating_sub(free) * size;
        Some(leaving)
    }
}
