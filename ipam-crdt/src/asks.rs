//! Whom to ask for what is missing here.
//!
//! Whole slots are asked for first, of hosts that own some where they are wanted. Single addresses are borrowed when no slot
//! can move; an address that somebody names is borrowed first, because a slot for each would scatter what hosts own.

use crate::io::AllocError;
use crate::ipam::{
    ASK_TIMEOUT, Asked, BUSY_PAUSE, Ipam, Pause, REFUSED_PAUSE, RETURN_PAUSE, SILENCE, Standing,
};
use crate::message::{AskId, Message, Refusal, Wish};
use crate::requests::is_over;
use crate::subnet::Span;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use weft_wire::ipam::{GRANT_RUNS_MAX, SLOT_RUNS_MAX, SlotRun, Version};
use weft_wire::{NodeId, Time};

/// Hosts that are asked for slots at once: each may answer with as many runs as one grant holds.
pub(crate) const SPACE_ASKS_MAX: usize = 4;

impl Ipam {
    /// True when this host may own slots and has none.
    pub(crate) fn is_without_slots(&self) -> bool {
        self.own_runs.is_empty() && self.leaving.is_none() && self.state.members().contains(&self.node)
    }

    /// Asks others for what is missing here.
    pub(crate) fn drive_asks(&mut self, now: Time) {
        self.expire_asks(now);
        self.space_pause.retain(|_, pause| pause.until > now);
        self.loan_pause.retain(|_, until| *until > now);
        self.silent.retain(|_, until| *until > now);
        if self.standing != Standing::Confirmed {
            return;
        }
        let mut wanted: BTreeMap<Span, u32> = BTreeMap::new();
        if self.is_without_slots() {
            wanted.insert(self.space.whole().span(), 0);
        }
        let seekers = self.waiting.iter();
        for waiting in seekers.filter(|waiting| waiting.want.named.is_none() || waiting.is_unlendable) {
            *wanted.entry(waiting.want.span()).or_default() += 1;
        }
        let mut hopeful = BTreeSet::new();
        for (span, count) in wanted {
            if self.seek_space(now, span, count) {
                hopeful.insert(span);
            }
        }
        self.ask_loans(now, &hopeful);
    }

    /// Who owns slots with an address in `span`, and how many.
    fn owners_in(&self, span: Span) -> BTreeMap<NodeId, u32> {
        let slots = span.slots(self.space.slot_size());
        let run = SlotRun {
            first: *slots.start(),
            count: (slots.end() + 1).saturating_sub(*slots.start()),
            version: Version::default(),
        };
        let mut owners: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (_, count, register) in self.state.table().registers_in(&run) {
            if !register.is_frozen && register.owner != self.node {
                *owners.entry(register.owner).or_default() += count;
            }
        }
        owners
    }

    /// Asks somebody for slots in `span`, for so many requests. True when some may come, so that nothing is borrowed yet.
    fn seek_space(&mut self, now: Time, span: Span, wanted: u32) -> bool {
        if !self.state.members().contains(&self.node) {
            return false;
        }
        if self.space_asks.iter().any(|asked| asked.span == span) {
            return true;
        }
        let promised = self.space_asks.len() * GRANT_RUNS_MAX;
        let room = SLOT_RUNS_MAX.saturating_sub(self.own_runs.len() + promised);
        if room == 0 {
            return promised > 0;
        }
        // What is free does not tell of slots that rest, and that go to who names an address in them.
        let is_named = span.first == span.last;
        // In the whole range, who has most to give; in a part of it, who owns most of that.
        let is_whole = span == self.space.whole().span();
        let hosts: Vec<(NodeId, u32)> = if is_whole {
            let members = self.state.members().iter();
            members.map(|node| (*node, self.free_of(node).0)).collect()
        } else {
            self.owners_in(span).into_iter().collect()
        };
        let (mut best, mut most): (Vec<NodeId>, u32) = (Vec::new(), 0);
        // The most that somebody has who is not to be asked just now.
        let mut later: Option<u32> = None;
        for (node, weight) in hosts {
            // Who needs none now leaves the last one to those who do.
            let least = 1 + u32::from(wanted == 0);
            let is_able = node != self.node
                && (is_named || self.free_of(&node).0 >= least)
                && self.state.members().contains(&node)
                && !self.silent.contains_key(&node);
            if !is_able {
                continue;
            }
            let pause = self.space_pause.get(&(node, span));
            if self.space_asks.iter().any(|asked| asked.to == node)
                || pause.is_some_and(|pause| pause.is_busy)
            {
                later = later.max(Some(weight));
            } else if pause.is_none() && weight >= most {
                if weight > most {
                    best.clear();
                }
                most = weight;
                best.push(node);
            }
        }
        // Little that can be had at once is no reason to leave the host alone that has much.
        if later > Some(most) || (!best.is_empty() && self.space_asks.len() >= SPACE_ASKS_MAX) {
            return true;
        }
        let Some(to) = self.one_of(&best) else {
            return later.is_some();
        };
        let need = match is_named {
            true => self.unlendable_slots(&to),
            false => wanted.div_ceil(self.space.slot_size()),
        };
        let ask = self.next_ask();
        self.space_asks.push(Asked {
            to,
            ask,
            deadline: now + ASK_TIMEOUT,
            span,
        });
        self.send(
            to,
            &Message::AskSpace {
                ask,
                need,
                room: room as u32,
                span,
            },
        );
        true
    }

    /// What a host says it has, as bit lengths: wholly free slots, free addresses.
    fn free_of(&self, node: &NodeId) -> (u32, u32) {
        let free = self.peers.get(node).and_then(|peer| peer.free);
        free.map_or((0, 0), |(slots, addresses)| (slots.into(), addresses.into()))
    }

    /// Asks for loans on behalf of the requests that wait, but of those for which slots may come.
    fn ask_loans(&mut self, now: Time, hopeful: &BTreeSet<Span>) {
        for at in 0..self.waiting.len() {
            let (want, asked) = (self.waiting[at].want, self.waiting[at].ask);
            let span = want.span();
            if asked.is_some_and(|ask| self.loan_asks.iter().any(|other| other.ask == ask)) {
                continue;
            }
            if hopeful.contains(&span) && (want.named.is_none() || self.waiting[at].is_unlendable) {
                continue;
            }
            self.waiting[at].is_unlendable = false;
            let to = match want.named {
                None => self.lender(span),
                Some(offset) => {
                    let register = self.state.table().get(offset / self.space.slot_size());
                    let owner = register.map(|register| register.owner);
                    owner.filter(|owner| {
                        *owner != self.node && !self.is_paused(owner, span) && !self.is_gone(owner)
                    })
                }
            };
            let Some(to) = to else { continue };
            let ask = self.next_ask();
            self.waiting[at].ask = Some(ask);
            self.loan_asks.push(Asked {
                to,
                ask,
                deadline: now + ASK_TIMEOUT,
                span,
            });
            let wish = want.named.map_or(Wish::In(span), Wish::This);
            self.send(to, &Message::AskLoan { ask, wish });
        }
    }

    fn is_paused(&self, node: &NodeId, span: Span) -> bool {
        self.silent.contains_key(node) || self.loan_pause.contains_key(&(*node, span))
    }

    /// The host that is likeliest to lend an address of `span`.
    fn lender(&mut self, span: Span) -> Option<NodeId> {
        let is_whole = span == self.space.whole().span();
        let hosts: Vec<(NodeId, u32)> = if is_whole {
            let members = self.members.iter().filter(|node| **node != self.node);
            members.map(|node| (*node, self.free_of(node).1)).collect()
        } else {
            self.owners_in(span).into_iter().collect()
        };
        // What the founder has may not have been heard of yet.
        let is_able = |node: &NodeId| {
            self.members.contains(node)
                && (self.free_of(node).1 > 0 || self.state.founders().contains(node))
                && !self.is_paused(node, span)
        };
        let able: Vec<(NodeId, u32)> = hosts.into_iter().filter(|(node, _)| is_able(node)).collect();
        let most = able.iter().map(|(_, weight)| *weight).max()?;
        let best: Vec<NodeId> = able
            .into_iter()
            .filter(|(_, weight)| *weight == most)
            .map(|(node, _)| node)
            .collect();
        self.one_of(&best)
    }

    /// Gives up questions that are not answered.
    fn expire_asks(&mut self, now: Time) {
        let is_late = |asked: &Asked| asked.deadline <= now;
        let (late, open): (Vec<Asked>, _) = core::mem::take(&mut self.space_asks)
            .into_iter()
            .partition(is_late);
        self.space_asks = open;
        for Asked { to, span, .. } in late {
            self.silent.insert(to, now + SILENCE);
            for waiting in self
                .waiting
                .iter_mut()
                .filter(|waiting| waiting.want.span() == span)
            {
                waiting.silent = Some(to);
            }
        }
        let (late, open): (Vec<Asked>, _) = core::mem::take(&mut self.loan_asks)
            .into_iter()
            .partition(is_late);
        self.loan_asks = open;
        for Asked { to, ask, .. } in late {
            self.silent.insert(to, now + SILENCE);
            for waiting in self.waiting.iter_mut().filter(|waiting| waiting.ask == Some(ask)) {
                (waiting.ask, waiting.silent) = (None, Some(to));
            }
        }
    }

    /// A question was refused.
    pub(crate) fn on_refuse(&mut self, now: Time, from: NodeId, ask: AskId, why: Refusal) {
        if why == Refusal::AddressTaken && self.on_renewal_refused(from, ask) {
            return;
        }
        let is_it = |asked: &Asked| asked.ask == ask && asked.to == from;
        if let Some(at) = self.space_asks.iter().position(is_it) {
            let span = self.space_asks.swap_remove(at).span;
            let is_busy = why == Refusal::Busy;
            // Those who were turned away together do not come back together.
            let until = now
                + if is_busy {
                    BUSY_PAUSE + self.jitter(4 * BUSY_PAUSE)
                } else {
                    REFUSED_PAUSE
                };
            self.space_pause.insert((from, span), Pause { until, is_busy });
            return;
        }
        let Some(at) = self.loan_asks.iter().position(is_it) else {
            return;
        };
        let span = self.loan_asks.swap_remove(at).span;
        let Some(at) = self.waiting.iter().position(|waiting| waiting.ask == Some(ask)) else {
            return;
        };
        let Some(waiting) = self.waiting.get_mut(at) else {
            return;
        };
        waiting.ask = None;
        waiting.silent = None;
        waiting.is_unlendable = why == Refusal::TooManyLoans && waiting.want.named.is_some();
        let is_given_up = why == Refusal::AddressTaken && is_over(waiting.grace, now);
        let named = waiting.want.named.filter(|_| is_given_up);
        // It may come back, or is this host's own loan on its way back.
        let pause = match why {
            Refusal::AddressTaken | Refusal::Busy if !is_given_up => RETURN_PAUSE,
            _ => REFUSED_PAUSE,
        };
        self.loan_pause.insert((from, span), now + pause);
        if let Some(address) = named.and_then(|offset| self.space.address(offset)) {
            let waiting = self.waiting.swap_remove(at);
            self.answer(
                waiting.request,
                Err(AllocError::TakenElsewhere { address, owner: from }),
            );
        }
    }
}
