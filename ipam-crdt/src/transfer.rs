//! Slots that change hands: asking, granting, accepting, and believing what others were granted.
//!
//! Ownership changes only by a grant that the owner whom this host knows has signed for the very next version.
//! What a record claims beyond that is a gap; its grants are fetched, and until they are there it is not believed.

use crate::io::{Event, FreezeReason};
use crate::ipam::{Ipam, REFUSED_PAUSE, RETRY_INTERVAL, Standing, Unproved};
use crate::message::{AskId, GRANTS_PER_MESSAGE, MESSAGE_MAX, Message, RUNS_PER_QUESTION, Refusal};
use crate::reclaim::is_reclaim_signed;
use crate::rules;
use crate::state::{Change, Held};
use crate::subnet::Span;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::ipam::{
    GIVEN_MAX, GRANT_CHAIN_MAX, GRANT_LEN_MAX, GRANT_RUNS_MAX, Grant, GrantId, SLOT_RUNS_MAX, SlotRun,
    SlotsRecord, Version,
};
use weft_wire::reclaim::Proof;
use weft_wire::{NodeId, Time, codec};

/// Longest pause between two questions for the proof of one claim.
const PROOF_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Slots of one claim that are compared in search of a conflict, at a time.
const CONFLICT_SLOTS_MAX: usize = 4_096;

impl Ipam {
    /// Answers a question for slots.
    pub(crate) fn on_ask_space(&mut self, from: NodeId, ask: AskId, need: u32, room: u32, span: Span) {
        let before: Vec<Grant> = self
            .state
            .given()
            .values()
            .filter(|grant| grant.to == from)
            .cloned()
            .collect();
        if !before.is_empty() {
            // It has not got what it asked for last.
            for grant in before {
                self.send_grant(grant);
            }
            return;
        }
        self.on_offer_taken(from);
        match self.choose(from, need, room, span) {
            Ok(runs) => {
                let slots = runs.iter().map(|run| run.count).sum();
                let grant = Grant::sign(&self.key, &self.genesis, from, runs);
                let ended = rules::loans_ended(&self.state, &grant, self.space.slot_size());
                for change in rules::granted(&grant).into_iter().chain(ended) {
                    self.change(change);
                }
                self.end_rest_of(&grant.runs);
                self.own_runs = self.state.table().runs_of(&self.node);
                self.on_handed(slots);
                self.event(Event::Gave { to: from, slots });
                self.event(Event::OwnersChanged);
                self.send_grant(grant);
            }
            Err(why) => self.send(from, &Message::Refuse { ask, why }),
        }
    }

    /// Which slots of `span` to hand over, with the versions that they will have: about half of what is wholly free, and of
    /// the whole range, to a host that has none, an even share at most.
    fn choose(&self, to: NodeId, need: u32, room: u32, span: Span) -> Result<Vec<SlotRun>, Refusal> {
        match self.standing {
            Standing::AwaitingConfirmation(_) => return Err(Refusal::NotConfirmed),
            Standing::Frozen(_) => return Err(Refusal::Frozen),
            Standing::Confirmed => {}
        }
        if !self.state.members().contains(&to) {
            return Err(Refusal::NotInEpoch);
        }
        // One run may be split off the middle of another, which leaves this host with one more.
        // A host that leaves will soon have none.
        let own_room = SLOT_RUNS_MAX
            .saturating_sub(self.own_runs.len())
            .max(usize::from(self.leaving.is_some()));
        let runs = GRANT_RUNS_MAX.min(room as usize).min(own_room);
        if runs == 0 {
            return Err(Refusal::NoRoom);
        }
        if self.state.given().len() >= GIVEN_MAX {
            return Err(Refusal::Busy);
        }
        if let Some(resting) = self.resting_slots_for(&to, need, span) {
            return Ok(resting);
        }
        let is_whole = span == self.space.whole().span();
        let surplus = self.pool.empty_slots_in(span);
        let owned_by_it = self.state.table().all_runs().filter(|(_, owner, _)| *owner == to);
        let has = owned_by_it.map(|(run, ..)| run.count).sum::<u32>();
        let hosts = (self.state.members().len() as u32).max(self.expected);
        let share = (self.space.slots() / hosts).saturating_sub(has);
        // A host that only wants to have some never gets the last one: it would be asked back for at once.
        let half = if need == 0 {
            surplus / 2
        } else {
            surplus.div_ceil(2)
        };
        let fair = if is_whole && has == 0 && share > 0 {
            self.fair(share, surplus, half)
        } else {
            half
        };
        let slots = self
            .leave_share()
            .unwrap_or(fair.max(need.min(half)).max(need.min(1)));
        let lent = if is_whole {
            self.slots_lent_to(&to, runs)
        } else {
            Vec::new()
        };
        let mut chosen = self.with_proofs_that_fit(lent);
        if chosen.is_empty() {
            let empty = self
                .pool
                .take_empty(slots, runs, GRANT_CHAIN_MAX, span, &self.state);
            chosen = self.with_proofs_that_fit(empty);
        }
        rules::grantable(&self.state, &self.node, &to, self.space.slot_size(), &chosen)
    }

    /// An even share, unless that would leave this host with less than its own.
    fn fair(&self, share: u32, surplus: u32, half: u32) -> u32 {
        if surplus >= 2 * share {
            share
        } else {
            half.min(share)
        }
    }

    fn send_grant(&mut self, grant: Grant) {
        let mut chain = self.chain_of(&grant.runs, Some(grant.id()));
        keep_what_fits(&mut chain);
        self.send(grant.to, &Message::Grant { grant, chain });
    }

    /// Leaves out runs until the proofs of the others fit one message, without which the recipient could not take them.
    pub(crate) fn with_proofs_that_fit(&self, mut runs: Vec<SlotRun>) -> Vec<SlotRun> {
        loop {
            let all = self.chain_of(&runs, None);
            let mut fitting = all.clone();
            keep_what_fits(&mut fitting);
            if fitting.len() == all.len() || runs.pop().is_none() {
                return runs;
            }
        }
    }

    /// The proofs behind some slots, those first that come first.
    fn chain_of(&self, runs: &[SlotRun], except: Option<GrantId>) -> Vec<Proof> {
        let chain = self.state.chain();
        let given = self.state.given().iter();
        let given = given.map(|(id, grant)| (*id, Proof::Grant(grant.clone())));
        let kept = chain.iter().map(|(id, proof)| (*id, proof.clone())).chain(given);
        let mut proofs: Vec<Proof> = kept
            .filter(|(id, proof)| Some(*id) != except && proof.covers(runs))
            .filter(|(_, proof)| !rules::is_spent(proof, runs, chain.values()))
            .map(|(_, proof)| proof)
            .collect();
        proofs.sort_by_key(|proof| proof.runs().first().map(|run| run.version));
        proofs
    }

    /// A grant arrived, from whom it may.
    pub(crate) fn on_grant(&mut self, now: Time, from: NodeId, grant: Grant, chain: Vec<Proof>) {
        let (id, runs, to) = (grant.id(), grant.runs.clone(), grant.to);
        let epoch = runs.iter().map(|run| run.version.epoch).max().unwrap_or(0);
        let mut proofs = chain;
        proofs.push(Proof::Grant(grant));
        self.merge_proofs(now, from, &proofs);
        if to != self.node {
            return;
        }
        if self.knows(&runs) {
            self.send(from, &Message::GrantAccepted(id));
            self.space_asks.retain(|asked| asked.to != from);
        } else if epoch > self.state.epoch() {
            self.send(
                from,
                &Message::AskEpochs {
                    after: self.state.epoch(),
                },
            );
        } else {
            self.send(from, &Message::AskChain(runs));
        }
    }

    /// True when the registers of these slots are at these versions or beyond, or never will be here.
    fn knows(&self, runs: &[SlotRun]) -> bool {
        rules::is_settled(&self.state, runs)
    }

    /// Takes every grant and reclaim that is the next step of a register, until none is left.
    pub(crate) fn merge_proofs(&mut self, now: Time, by: NodeId, proofs: &[Proof]) {
        let mut checked: BTreeMap<usize, bool> = BTreeMap::new();
        for _ in 0..=GRANT_CHAIN_MAX {
            let mut progress = false;
            for (index, proof) in proofs.iter().enumerate() {
                let next = match proof {
                    Proof::Grant(grant) => rules::next_steps(&self.state, &self.node, grant),
                    Proof::Reclaim(reclaim) => rules::reclaim_steps(&self.state, reclaim),
                };
                if next.is_empty() {
                    continue;
                }
                if !*checked.entry(index).or_insert_with(|| self.is_genuine(proof)) {
                    self.event(Event::Misbehaved {
                        node: by,
                        why: "a grant or reclaim with a false signature",
                    });
                    continue;
                }
                match proof {
                    Proof::Grant(grant) if grant.to == self.node && !self.can_take(grant, proofs) => continue,
                    Proof::Grant(grant) => self.take_steps(now, grant, &next, proofs),
                    Proof::Reclaim(reclaim) => self.follow_reclaim(reclaim, &next),
                }
                progress = true;
            }
            if !progress {
                break;
            }
        }
    }

    /// True when the signatures of a proof are what they should be.
    fn is_genuine(&self, proof: &Proof) -> bool {
        match proof {
            Proof::Grant(grant) => grant.is_signed(&self.genesis),
            Proof::Reclaim(reclaim) => is_reclaim_signed(reclaim, &self.state, &self.genesis),
        }
    }

    /// True when this host could prove afterwards that it owns what the grant gives, and its record has room.
    fn can_take(&self, grant: &Grant, proofs: &[Proof]) -> bool {
        let known: Vec<&Proof> = proofs.iter().chain(self.state.chain().values()).collect();
        rules::can_take(&self.state, self.own_runs.len(), grant, &known)
    }

    fn take_steps(&mut self, now: Time, grant: &Grant, steps: &[SlotRun], proofs: &[Proof]) {
        if grant.from == self.node {
            // This host signed it and does not remember: its disk was set back.
            self.freeze(FreezeReason::RolledBack);
        }
        let is_mine = grant.to == self.node;
        let kept: Vec<&Proof> = proofs
            .iter()
            .filter(|other| is_mine && other.covers(&grant.runs) && self.is_genuine(other))
            .collect();
        let changes = rules::taken(&self.state, grant, steps, &kept);
        if is_mine {
            // Before the slots, so that a log that is torn between has none that does not rest.
            self.rest_again(now, grant, steps);
        }
        for change in changes {
            self.change(change);
        }
        self.event(Event::OwnersChanged);
        if !is_mine {
            return;
        }
        self.own_runs = self.state.table().runs_of(&self.node);
        self.keep_borrowed(now, steps);
        let slots = steps.iter().map(|run| run.count).sum();
        self.event(Event::Received {
            from: grant.from,
            slots,
        });
    }

    /// Loans end where this host becomes the owner: the slot moved, so the lender has ended them.
    pub(crate) fn keep_borrowed(&mut self, now: Time, runs: &[SlotRun]) {
        let size = self.space.slot_size();
        for run in runs {
            let first = run.first * size;
            let last = (run.slots().end - 1) * size + (size - 1);
            let held: Vec<(u32, Held)> = self
                .state
                .addresses()
                .range(first..=last)
                .map(|(offset, held)| (*offset, held.clone()))
                .collect();
            for (offset, held) in held {
                match held {
                    Held::Borrowed { id, .. } => self.change(Change::Address(offset, Some(Held::Pod(id)))),
                    Held::Returning { .. } => self.rest(now, offset),
                    Held::Pod(_) | Held::Resting | Held::Abandoned | Held::Lent { .. } => {}
                }
            }
        }
    }

    /// A recipient has a grant.
    pub(crate) fn on_grant_accepted(&mut self, from: NodeId, id: GrantId) {
        if self.state.given().get(&id).is_some_and(|grant| grant.to == from) {
            self.change(Change::Accepted(id));
        }
    }

    /// A record of what another host owns.
    pub(crate) fn on_slots(&mut self, now: Time, owner: NodeId, record: SlotsRecord) {
        let was_given: Vec<GrantId> = self
            .state
            .given()
            .iter()
            .filter(|(_, g)| g.to == owner)
            .map(|(id, _)| *id)
            .collect();
        for id in was_given {
            let covers = |step: &SlotRun| {
                step.slots().all(|slot| {
                    record
                        .runs
                        .iter()
                        .any(|run| run.slots().contains(&slot) && run.version == step.version)
                })
            };
            if self
                .state
                .given()
                .get(&id)
                .is_some_and(|grant| grant.runs.iter().all(covers))
            {
                self.change(Change::Accepted(id));
            }
        }
        let peer = self.peers.entry(owner).or_default();
        peer.claim = Some((record.epoch, record.runs.clone()));
        let free = Some((record.free_slots, record.free_addresses));
        if peer.free != free {
            peer.free = free;
            self.space_pause.retain(|(node, _), _| *node != owner);
            self.loan_pause.retain(|(node, _), _| *node != owner);
            self.silent.remove(&owner);
        }
        let mut proofs = record.proofs;
        proofs.extend(record.given.iter().cloned().map(Proof::Grant));
        self.merge_proofs(now, owner, &proofs);
        for grant in record.given {
            if grant.to == self.node && !self.knows(&grant.runs) {
                self.send(owner, &Message::AskChain(grant.runs));
            }
        }
        self.unproved.remove(&owner);
        if !self.gap(owner, &record.runs).is_empty() {
            let unproved = Unproved {
                runs: record.runs,
                due: now,
                pause: Duration::from_millis(100),
            };
            self.unproved.insert(owner, unproved);
        }
    }

    /// The parts of a claim that the registers do not bear out: later than what is held, or of another owner.
    fn gap(&self, owner: NodeId, claim: &[SlotRun]) -> Vec<SlotRun> {
        let mut gap: Vec<SlotRun> = Vec::new();
        for run in claim {
            for (first, count, register) in self.state.table().registers_in(run) {
                let is_other =
                    register.version == run.version && register.owner != owner && !register.is_frozen;
                if register.version >= run.version && !is_other {
                    continue;
                }
                match gap.last_mut() {
                    Some(last) if last.slots().end == first && last.version == run.version => {
                        last.count += count
                    }
                    _ => gap.push(SlotRun {
                        first,
                        count,
                        version: run.version,
                    }),
                }
            }
        }
        gap
    }

    /// Asks for the proofs that are due.
    pub(crate) fn drive_proofs(&mut self, now: Time) {
        let due: Vec<NodeId> = self
            .unproved
            .iter()
            .filter(|(_, unproved)| unproved.due <= now)
            .map(|(node, _)| *node)
            .collect();
        for node in due {
            let Some(unproved) = self.unproved.get_mut(&node) else {
                continue;
            };
            unproved.due = now + unproved.pause;
            unproved.pause = (unproved.pause * 2).min(PROOF_PAUSE_MAX);
            let claim = unproved.runs.clone();
            let mut gap = self.gap(node, &claim);
            if gap.is_empty() {
                self.unproved.remove(&node);
                continue;
            }
            gap.truncate(RUNS_PER_QUESTION);
            if gap.iter().any(|run| run.version.epoch > self.state.epoch()) {
                self.send(
                    node,
                    &Message::AskEpochs {
                        after: self.state.epoch(),
                    },
                );
            }
            self.send(node, &Message::AskChain(gap));
        }
    }

    /// Somebody wants a proof.
    pub(crate) fn on_ask_chain(&mut self, from: NodeId, runs: &[SlotRun]) {
        let mut proofs = self.chain_of(runs, None);
        keep_what_fits(&mut proofs);
        if !proofs.is_empty() {
            self.send(from, &Message::Chain(proofs));
        }
    }

    /// A proof arrived.
    pub(crate) fn on_chain(&mut self, now: Time, from: NodeId, proofs: &[Proof]) {
        self.merge_proofs(now, from, proofs);
        let Some(unproved) = self.unproved.get(&from) else {
            return;
        };
        let claim = unproved.runs.clone();
        self.find_conflicts(from, &claim, proofs);
        let gap = self.gap(from, &claim);
        if gap.is_empty() {
            self.unproved.remove(&from);
        } else if gap.len() > RUNS_PER_QUESTION
            && let Some(unproved) = self.unproved.get_mut(&from)
        {
            unproved.due = now;
        }
    }

    /// R7: a claim at the version that is held, of another owner, with a complete chain from genesis, freezes the slot.
    fn find_conflicts(&mut self, claimant: NodeId, claim: &[SlotRun], proofs: &[Proof]) {
        let table = self.state.table();
        let is_other = |slot: &u32, run: &SlotRun| {
            table
                .get(*slot)
                .is_some_and(|r| r.version == run.version && r.owner != claimant && !r.is_frozen)
        };
        let slots = claim.iter().flat_map(|run| {
            run.slots()
                .filter(|slot| is_other(slot, run))
                .map(move |s| (s, run))
        });
        let slots: Vec<(u32, Version)> = slots
            .map(|(slot, run)| (slot, run.version))
            .take(CONFLICT_SLOTS_MAX)
            .collect();
        if slots.is_empty() {
            return;
        }
        let signed: Vec<&Proof> = proofs.iter().filter(|proof| self.is_genuine(proof)).collect();
        for (slot, version) in slots {
            let at = rules::proved(&self.state, &signed, slot, version);
            let held = self.state.table().get(slot).map(|register| register.owner);
            if at == (version, claimant)
                && let Some(held) = held
            {
                let run = SlotRun {
                    first: slot,
                    count: 1,
                    version,
                };
                self.change(Change::Slots {
                    run,
                    owner: claimant,
                    is_frozen: true,
                });
                self.event(Event::Conflict {
                    slots: (slot, 1),
                    held,
                    other: claimant,
                });
            }
        }
    }

    /// Sends again what nobody has acknowledged, and drops proofs that prove nothing any longer.
    pub(crate) fn retry_transfers(&mut self) {
        self.drop_grants_to_the_gone();
        let given = self.state.given().values();
        let given = given.filter(|grant| !self.state.gone().contains_key(&grant.to));
        for grant in given.cloned().collect::<Vec<Grant>>() {
            self.send_grant(grant);
        }
        let mut needed = self.own_runs.clone();
        needed.extend(
            self.state
                .given()
                .values()
                .flat_map(|grant| grant.runs.iter().copied()),
        );
        let chain = self.state.chain();
        let spent = chain
            .iter()
            .filter(|(_, proof)| rules::is_spent(proof, &needed, chain.values()));
        let spent: Vec<GrantId> = spent.map(|(id, _)| *id).collect();
        for id in spent {
            self.change(Change::Unchain(id));
        }
    }

    /// One of several equally good hosts.
    pub(crate) fn one_of(&mut self, hosts: &[NodeId]) -> Option<NodeId> {
        let at = self.jitter(Duration::from_nanos(hosts.len() as u64)).as_nanos() as usize;
        hosts.get(at).copied()
    }

    /// Every host that is known to be in an epoch or a member, without this one.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        let all: BTreeSet<NodeId> = self
            .members
            .iter()
            .copied()
            .filter(|node| *node != self.node)
            .collect();
        all.into_iter().collect()
    }
}

/// Leaves out of a chain what one message has no room for.
fn keep_what_fits(proofs: &mut Vec<Proof>) {
    proofs.truncate(GRANTS_PER_MESSAGE);
    // What is around them in the message: a grant at most, and its envelope.
    let mut used = GRANT_LEN_MAX + 64;
    let fitting = proofs.iter().take_while(|proof| {
        used += codec::encode(proof).len();
        used <= MESSAGE_MAX
    });
    let fitting = fitting.count();
    proofs.truncate(fitting);
}

const _: () = assert!(
    REFUSED_PAUSE.as_millis() < RETRY_INTERVAL.as_millis(),
    "a refusal is shorter than a silence"
);
