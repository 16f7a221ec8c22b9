//! Taking back the slots of removed hosts: the host that the epoch names asks every member, and each member answers.
//!
//! What a member may sign, and what is believed without having asked, is in [`rules`]; why two hosts cannot both come
//! out of it as the owner is in `docs/design/ipam.md`.

use crate::epoch::{count_signed, majority};
use crate::io::Event;
use crate::ipam::{Ipam, RETRY_INTERVAL, SILENCE, Standing};
use crate::message::{KEPT_MAX, Message, RUNS_PER_QUESTION};
use crate::removal::RECLAIM_REST;
use crate::rules;
use crate::state::{Change, Held, IpamState};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::ipam::{LentRecord, SLOT_RUNS_MAX, SlotRun};
use weft_wire::reclaim::{MISSING_MAX, RECLAIM_RUNS_MAX, Reclaim, ReclaimRecord, reclaim_message};
use weft_wire::record::Signature64;
use weft_wire::{GenesisId, NodeId, Time};

/// A host in no epoch has so long to say which addresses of removed hosts its pods have borrowed; the members' word is
/// awaited as long as it takes.
const BORROWERS_GRACE: Duration = Duration::from_secs(3);

/// One question to all members, and what they have answered.
struct Asking {
    epoch: u32,
    runs: Vec<SlotRun>,
    since: Time,
    signed: BTreeMap<NodeId, Signature64>,
    /// Of members, and of others that have answered.
    kept: BTreeMap<NodeId, Vec<u32>>,
}

/// A slot that a member does not give away.
struct Contested {
    until: Time,
    by: NodeId,
    run: SlotRun,
}

/// What the reclaimer is about.
pub(crate) struct Reclaiming {
    asking: Option<Asking>,
    contested: Vec<Contested>,
    due: Time,
    /// What it last said about its progress.
    told: ReclaimRecord,
}

impl Reclaiming {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            asking: None,
            contested: Vec::new(),
            due: now,
            told: ReclaimRecord::default(),
        }
    }
}

/// True when a majority of the members of the epoch have signed a reclaim, and it is of the host that they chose.
pub fn is_reclaim_signed(reclaim: &Reclaim, state: &IpamState, genesis: &GenesisId) -> bool {
    let epoch = reclaim.epoch();
    let Some(hash) = state.hash_of(epoch) else {
        return false;
    };
    let members = state.members_at(epoch);
    let message = reclaim_message(genesis, &hash, &reclaim.to, &reclaim.runs);
    rules::reclaimer_at(state, epoch) == Some(reclaim.to)
        && count_signed(&members, &reclaim.votes, &message, majority(&members), |_| true)
}

impl Ipam {
    /// True while this host is the one that takes slots back.
    pub(crate) fn is_reclaimer(&self) -> bool {
        !self.state.gone().is_empty()
            && self.state.members().contains(&self.node)
            && rules::reclaimer_at(&self.state, self.state.epoch()) == Some(self.node)
    }

    /// Slots of hosts that are gone, or that nobody says to be its own.
    fn orphans(&self) -> Vec<SlotRun> {
        self.with_claims(|claims| rules::orphans(&self.state, &self.node, claims))
    }

    fn with_claims<T>(&self, use_them: impl FnOnce(rules::Claims) -> T) -> T {
        let since = rules::last_removal(&self.state);
        use_them(&|host| {
            let (epoch, runs) = self.peers.get(host)?.claim.as_ref()?;
            (*epoch >= since).then_some(runs.as_slice())
        })
    }

    /// When the reclaimer goes on.
    pub(crate) fn reclaim_deadline(&self) -> Option<Time> {
        (self.is_reclaimer() && self.standing == Standing::Confirmed).then_some(self.reclaiming.due)
    }

    /// What has changed may leave slots without an owner, or tell of one: the reclaimer looks again by then.
    pub(crate) fn look_for_orphans(&mut self, by: Time) {
        if self.is_reclaimer() {
            self.reclaiming.due = self.reclaiming.due.min(by);
        }
    }

    /// Asks for what is to be taken back.
    pub(crate) fn drive_reclaim(&mut self, now: Time) {
        if !self.is_reclaimer() || self.standing != Standing::Confirmed {
            self.reclaiming.asking = None;
            return;
        }
        if now < self.reclaiming.due {
            return;
        }
        self.reclaiming
            .contested
            .retain(|contested| contested.until > now);
        // Each turn but the last takes slots, so this ends.
        loop {
            let orphans = self.orphans();
            let is_over = orphans.is_empty() && self.reclaiming.contested.is_empty();
            self.reclaiming.due = if is_over {
                Time::NEVER
            } else {
                now + RETRY_INTERVAL
            };
            let epoch = self.state.epoch();
            let goes_on = self.reclaiming.asking.as_ref().is_some_and(|asking| {
                asking.epoch == epoch && asking.runs.iter().all(|run| is_covered(run, &orphans))
            });
            if !goes_on {
                self.reclaiming.asking = self.next_question(now, &orphans);
            }
            self.send_questions();
            if !self.take_back(now) {
                return self.tell_progress(&orphans);
            }
        }
    }

    /// What can be asked for at once: what nobody has refused of late, as far as this host's own record has room.
    fn next_question(&mut self, now: Time, orphans: &[SlotRun]) -> Option<Asking> {
        let room = SLOT_RUNS_MAX
            .saturating_sub(self.own_runs.len())
            .min(RECLAIM_RUNS_MAX);
        let mut runs = without(orphans, &self.reclaiming.contested);
        runs.truncate(room);
        // Its own grants under way are in the way as those of others are.
        if let Err(against) = self.judge(&runs) {
            let own = against.into_iter().map(|run| Contested {
                until: now,
                by: self.node,
                run,
            });
            runs = without(&runs, &own.collect::<Vec<_>>());
        }
        let first = runs.first()?;
        let epoch = first.version.epoch;
        let signature = self.sign_reclaim(&self.node.clone(), &runs);
        Some(Asking {
            epoch,
            runs,
            since: now,
            signed: BTreeMap::from([(self.node, signature)]),
            kept: BTreeMap::new(),
        })
    }

    fn judge(&self, runs: &[SlotRun]) -> Result<(), Vec<SlotRun>> {
        self.with_claims(|claims| rules::judge_reclaim(&self.state, &self.node, runs, claims))
    }

    /// The signature, after the promise that goes with it.
    fn sign_reclaim(&mut self, to: &NodeId, runs: &[SlotRun]) -> Signature64 {
        for change in rules::signed(&self.state, runs) {
            self.change(change);
        }
        let message = reclaim_message(&self.genesis, &self.state.epoch_hash(), to, runs);
        self.key.sign(&message).into()
    }

    fn send_questions(&mut self) {
        let Some(asking) = &self.reclaiming.asking else {
            return;
        };
        let message = Message::AskReclaim {
            epoch: asking.epoch,
            runs: asking.runs.clone(),
        };
        let voters = self
            .state
            .members()
            .iter()
            .filter(|node| !asking.signed.contains_key(node));
        let others = self
            .members
            .iter()
            .filter(|node| !self.state.members().contains(node) && !asking.kept.contains_key(node));
        for to in voters.chain(others).copied().collect::<Vec<_>>() {
            self.send(to, &message);
        }
    }

    /// The reclaimer wants a signature.
    pub(crate) fn on_ask_reclaim(&mut self, from: NodeId, epoch: u32, runs: Vec<SlotRun>) {
        let own = self.state.epoch();
        if epoch > own {
            return self.send(from, &Message::AskEpochs { after: own });
        }
        if epoch < own {
            return self.on_ask_epochs(from, epoch);
        }
        let is_first = |run: &SlotRun| run.version.epoch == epoch && run.version.seq == 0;
        if rules::reclaimer_at(&self.state, epoch) != Some(from) || !runs.iter().all(is_first) {
            return self.event(Event::Misbehaved {
                node: from,
                why: "a question for slots that it may not take back",
            });
        }
        let kept = self.borrowed_in(&runs);
        if kept.len() > KEPT_MAX {
            return;
        }
        if !self.state.members().contains(&self.node) {
            return self.send(
                from,
                &Message::ReclaimSigned {
                    epoch,
                    runs,
                    signature: None,
                    kept,
                },
            );
        }
        // A host whose disk may have been set back cannot say what it has not taken.
        if self.standing != Standing::Confirmed {
            return;
        }
        match self.judge(&runs) {
            Ok(()) => {
                let signature = Some(self.sign_reclaim(&from, &runs));
                self.send(
                    from,
                    &Message::ReclaimSigned {
                        epoch,
                        runs,
                        signature,
                        kept,
                    },
                );
            }
            Err(mut against) => {
                against.truncate(RECLAIM_RUNS_MAX);
                self.send(from, &Message::ReclaimRefused { epoch, against });
            }
        }
    }

    /// Addresses of these slots that pods of this host have borrowed.
    fn borrowed_in(&self, runs: &[SlotRun]) -> Vec<u32> {
        let size = self.space.slot_size();
        let is_in = |offset: u32| runs.iter().any(|run| run.slots().contains(&(offset / size)));
        let held = self.state.addresses().iter();
        let borrowed = held.filter(|(_, held)| matches!(held, Held::Borrowed { .. }));
        borrowed
            .map(|(offset, _)| *offset)
            .filter(|offset| is_in(*offset))
            .collect()
    }

    /// A member has signed, or a host in no epoch has said what it keeps.
    pub(crate) fn on_reclaim_signed(
        &mut self,
        now: Time,
        from: NodeId,
        (epoch, runs): (u32, Vec<SlotRun>),
        signature: Option<Signature64>,
        kept: Vec<u32>,
    ) {
        let is_voter = self.state.members().contains(&from);
        let is_asked = |asking: &Asking| asking.epoch == epoch && asking.runs == runs;
        if epoch != self.state.epoch() || !self.reclaiming.asking.as_ref().is_some_and(is_asked) {
            return;
        }
        if is_voter {
            let message = reclaim_message(&self.genesis, &self.state.epoch_hash(), &self.node, &runs);
            let Some(signature) = signature.filter(|s| from.verify(&message, &(*s).into())) else {
                return self.event(Event::Misbehaved {
                    node: from,
                    why: "a false signature under slots that are taken back",
                });
            };
            if let Some(asking) = &mut self.reclaiming.asking {
                asking.signed.insert(from, signature);
            }
        }
        if let Some(asking) = &mut self.reclaiming.asking {
            asking.kept.insert(from, kept);
        }
        self.take_back(now);
    }

    /// A member has something against it.
    pub(crate) fn on_reclaim_refused(&mut self, now: Time, from: NodeId, epoch: u32, against: Vec<SlotRun>) {
        let is_asked = self
            .reclaiming
            .asking
            .as_ref()
            .is_some_and(|asking| asking.epoch == epoch);
        if !is_asked || epoch != self.state.epoch() || !self.state.members().contains(&from) {
            return;
        }
        for run in against.chunks(RUNS_PER_QUESTION) {
            self.send(from, &Message::AskChain(run.to_vec()));
        }
        let contested = against.into_iter().map(|run| Contested {
            until: now + SILENCE,
            by: from,
            run,
        });
        self.reclaiming.contested.retain(|contested| contested.by != from);
        self.reclaiming.contested.extend(contested);
        self.reclaiming.asking = None;
        self.reclaiming.due = now;
    }

    /// Takes the slots, once every member has signed and those in no epoch have had their time. True when it did.
    fn take_back(&mut self, now: Time) -> bool {
        let voters = self.state.members();
        let mut others = self.members.iter().filter(|node| !voters.contains(node));
        let Some(asking) = self.reclaiming.asking.take_if(|asking| {
            let has_all = voters.iter().all(|node| asking.signed.contains_key(node));
            let heard = others.all(|node| asking.kept.contains_key(node));
            has_all && (heard || now >= asking.since + BORROWERS_GRACE)
        }) else {
            return false;
        };
        let kept = self.kept_by_others(&asking);
        let position = |node: &NodeId| voters.iter().position(|other| other == node);
        let votes = asking
            .signed
            .iter()
            .filter_map(|(node, signature)| Some((u16::try_from(position(node)?).ok()?, *signature)));
        let reclaim = Reclaim {
            to: self.node,
            votes: votes.take(majority(voters)).collect(),
            runs: asking.runs,
        };
        for change in rules::reclaimed(&self.state, &reclaim, &kept) {
            if let Change::Rest {
                first,
                count,
                rests: true,
            } = change
            {
                self.slot_rests.push_back((now + RECLAIM_REST, first, count));
            }
            self.change(change);
        }
        self.own_runs = self.state.table().runs_of(&self.node);
        self.keep_borrowed(now, &reclaim.runs);
        self.lent_changed = true;
        self.reclaiming.due = now;
        let slots = reclaim.runs.iter().map(|run| run.count).sum();
        self.event(Event::Reclaimed { slots });
        self.event(Event::OwnersChanged);
        true
    }

    /// Which addresses of the slots stay with whom: by the borrowers' own word, and of those that have not answered by
    /// what the removed hosts' records list.
    fn kept_by_others(&self, asking: &Asking) -> Vec<(u32, NodeId)> {
        let size = self.space.slot_size();
        let is_in = |offset: &u32| {
            asking
                .runs
                .iter()
                .any(|run| run.slots().contains(&(offset / size)))
        };
        let mut kept: BTreeMap<u32, NodeId> = BTreeMap::new();
        for lent in self
            .state
            .gone()
            .keys()
            .filter_map(|node| self.peers.get(node))
            .map(|peer| &peer.lent)
        {
            let LentRecord { borrowers, loans } = lent;
            for loan in loans {
                let borrower = borrowers.get(usize::from(loan.borrower));
                let Some(borrower) = borrower.filter(|node| **node != self.node) else {
                    continue;
                };
                let has_answered =
                    asking.kept.contains_key(borrower) || self.state.gone().contains_key(borrower);
                if !has_answered && is_in(&loan.offset) {
                    kept.insert(loan.offset, *borrower);
                }
            }
        }
        for (node, offsets) in &asking.kept {
            kept.extend(
                offsets
                    .iter()
                    .filter(|offset| is_in(offset))
                    .map(|offset| (*offset, *node)),
            );
        }
        kept.into_iter().collect()
    }

    /// A reclaim of another host, or one that this host has forgotten, moves these slots.
    pub(crate) fn follow_reclaim(&mut self, reclaim: &Reclaim, steps: &[SlotRun]) {
        if reclaim.to == self.node {
            // It never leaves before it is durable: the disk was set back.
            self.freeze(crate::io::FreezeReason::RolledBack);
        }
        let is_member = self.state.members().contains(&self.node);
        for run in steps {
            let parts: Vec<(u32, u32, NodeId)> = self
                .state
                .table()
                .registers_in(run)
                .map(|(first, count, register)| (first, count, register.owner))
                .collect();
            for (first, count, owner) in parts {
                // This host has signed nothing of the kind: it is R7's case.
                let is_taken = owner == self.node && is_member;
                self.change(Change::Slots {
                    run: SlotRun { first, count, ..*run },
                    owner: reclaim.to,
                    is_frozen: is_taken,
                });
                if is_taken {
                    self.event(Event::Conflict {
                        slots: (first, count),
                        held: owner,
                        other: reclaim.to,
                    });
                }
            }
        }
        self.event(Event::OwnersChanged);
    }

    /// Says how far it is, for the others' status.
    fn tell_progress(&mut self, orphans: &[SlotRun]) {
        let missing = self.missing_signers();
        let record = ReclaimRecord {
            epoch: self.state.epoch(),
            slots: orphans.iter().map(|run| run.count).sum(),
            more: missing
                .len()
                .saturating_sub(MISSING_MAX)
                .min(usize::from(u16::MAX)) as u16,
            missing: missing.into_iter().take(MISSING_MAX).collect(),
        };
        let is_idle = record.slots == 0 && self.reclaiming.told.slots == 0;
        if record != self.reclaiming.told && !is_idle {
            self.reclaiming.told = record.clone();
            self.publish_body(&record);
        }
    }

    /// Members that have not signed what is asked for, or that refuse some of it.
    pub(crate) fn missing_signers(&self) -> Vec<NodeId> {
        let contesting = self.reclaiming.contested.iter().map(|contested| contested.by);
        let mut missing: BTreeSet<NodeId> = contesting.collect();
        if let Some(asking) = &self.reclaiming.asking {
            let voters = self.state.members().iter();
            missing.extend(voters.filter(|node| !asking.signed.contains_key(node)));
        }
        missing.into_iter().collect()
    }

    /// How many slots of removed hosts this host has yet to take back.
    pub(crate) fn orphaned_slots(&self) -> u32 {
        self.orphans().iter().map(|run| run.count).sum()
    }
}

/// True when the slots of a run are all in these runs, which are in order and do not touch.
fn is_covered(run: &SlotRun, by: &[SlotRun]) -> bool {
    by.iter()
        .any(|other| other.first <= run.first && run.slots().end <= other.slots().end)
}

/// The parts of runs that nobody contests.
fn without(runs: &[SlotRun], contested: &[Contested]) -> Vec<SlotRun> {
    let mut left: Vec<SlotRun> = runs.to_vec();
    for Contested { run: cut, .. } in contested {
        let parts = left.iter().flat_map(|run| {
            let before = run.first..run.slots().end.min(cut.first);
            let after = run.first.max(cut.slots().end)..run.slots().end;
            [before, after].map(|part| (part.start, part.end, run.version))
        });
        left = parts
            .filter(|(first, end, _)| first < end)
            .map(|(first, end, version)| SlotRun {
                first,
                count: end - first,
                version,
            })
            .collect();
    }
    left
}
