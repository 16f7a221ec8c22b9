//! A host that goes for good hands its part of the range to the others first.
//!
//! It offers its wholly free slots to the members of the epoch in turn; one that takes the offer asks for slots as ever, so a
//! slot goes only to a host that is there and has room for it. A slot whose addresses are all lent to one member goes to
//! that one, with the addresses. When all is handed on that can be, the members are asked to go on without this host
//! ([`depart`](crate::depart)); what is left (slots with addresses of several borrowers, slots that have changed hands
//! too often) is what that epoch gives to another one.

use crate::asks::SPACE_ASKS_MAX;
use crate::depart::Departure;
use crate::ipam::{ASK_TIMEOUT, Asked, Ipam, SILENCE, Standing};
use crate::message::Message;
use crate::rules;
use crate::state::Held;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use weft_wire::ipam::{GIVEN_MAX, GRANT_CHAIN_MAX, SLOT_RUNS_MAX, SlotRun};
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
    /// The members are asked to go on without this host.
    pub(crate) asks_removal: bool,
}

/// Where handing on stands. Addresses are counted by the slots that they are in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaving {
    /// Addresses in slots that were granted to others.
    pub handed: u64,
    /// Addresses in slots that are free, or lent to one member, and still to be granted.
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
    /// Where the decision to go on without this host stands.
    pub departure: Departure,
}

impl Leaving {
    /// True when all is handed on that can be.
    pub fn is_handed_on(&self) -> bool {
        let waits = self.left + self.unconfirmed + self.resting;
        self.used + self.returning == 0 && (waits == 0 || self.is_alone)
    }

    /// True when nothing is left to wait for: the members go on without this host, or there are none.
    pub fn is_done(&self) -> bool {
        self.departure == Departure::Known || (self.is_alone && self.is_handed_on())
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
            asks_removal: false,
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
        if self.standing != Standing::Confirmed {
            return;
        }
        let asks_removal = leave.asks_removal;
        let others = self.takers();
        if !asks_removal && self.leaving().is_some_and(|leaving| leaving.is_handed_on()) {
            self.ask_for_removal();
        }
        if others.is_empty() {
            return;
        }
        let Some(leave) = &mut self.leaving else { return };
        let is_due = leave.was_taken || leave.round_due <= now;
        leave.round.retain(|node| others.contains(node));
        if leave.round.is_empty() && leave.offered.is_empty() && is_due {
            // Those who were silent are asked again only when nobody else is there.
            let awake: Vec<NodeId> = others
                .iter()
                .copied()
                .filter(|node| !leave.silent.contains(node))
                .collect();
            leave.round = if awake.is_empty() { others.clone() } else { awake };
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

    /// Who could take something now: everybody while there are free slots, then those that have borrowed. Who has not
    /// confirmed what it was granted last gets nothing more meanwhile.
    fn takers(&self) -> Vec<NodeId> {
        let span = self.space.whole().span();
        let find = || self.pool.take_empty(1, 1, GRANT_CHAIN_MAX, span, &self.state);
        let has_empty = self.pool.empty_slots() > 0 && !find().is_empty();
        let mut takers = match has_empty {
            true => self.heirs(),
            false => self.slots_of_borrowers().into_keys().collect(),
        };
        takers.retain(|node| self.state.given().values().all(|grant| grant.to != *node));
        takers
    }

    /// Slots of which every held address is lent, and to one member: they can go to that one.
    fn slots_of_borrowers(&self) -> BTreeMap<NodeId, Vec<SlotRun>> {
        let size = self.space.slot_size();
        let mut slots: BTreeMap<u32, Option<NodeId>> = BTreeMap::new();
        for (offset, held) in self.state.addresses() {
            let borrower = match held {
                Held::Lent { to, .. } => Some(*to),
                _ => None,
            };
            let of_slot = slots.entry(offset / size).or_insert(borrower);
            *of_slot = of_slot.filter(|to| Some(*to) == borrower);
        }
        let mut out: BTreeMap<NodeId, Vec<SlotRun>> = BTreeMap::new();
        for (slot, borrower) in slots {
            let (Some(to), Some(register)) = (borrower, self.state.table().get(slot)) else {
                continue;
            };
            let run = SlotRun {
                first: slot,
                count: 1,
                version: register.version,
            };
            if rules::may_grant(&self.state, &self.node, &to, size, &run).is_err() {
                continue;
            }
            let runs = out.entry(to).or_default();
            match runs.last_mut() {
                Some(last) if last.slots().end == slot && last.version == run.version => last.count += 1,
                _ => runs.push(run),
            }
        }
        out
    }

    /// What a host that leaves gives to whoever asks before it gives free slots: those whose addresses it has lent to it.
    pub(crate) fn slots_lent_to(&self, to: &NodeId, runs: usize) -> Vec<SlotRun> {
        let mut slots = match &self.leaving {
            Some(_) => self.slots_of_borrowers().remove(to).unwrap_or_default(),
            None => Vec::new(),
        };
        slots.truncate(runs);
        slots
    }

    /// When leaving needs attention.
    pub(crate) fn leave_deadline(&self) -> Option<Time> {
        let leave = self.leaving.as_ref()?;
        let offers = leave.offered.iter().map(|(_, until)| *until).min();
        let waits_for_round =
            leave.round.is_empty() && self.standing == Standing::Confirmed && !self.takers().is_empty();
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
            departure: self.departure(),
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
        // Whoever has borrowed and does not answer keeps its addresses by the epoch without this host.
        for (_, runs) in { self.slots_of_borrowers() }
            .iter()
            .filter(|(to, _)| !leave.silent.contains(to))
        {
            leaving.left += runs.iter().map(|run| u64::from(run.count)).sum::<u64>() * size;
        }
        leaving.stuck = u64::from(self.pool.empty_slots()).saturating_sub(free) * size;
        Some(leaving)
    }
}
