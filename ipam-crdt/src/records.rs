//! Records and messages of others, this host's own records, and its part in the epochs.

use crate::epoch::{Votes, check_decided, positions_of, vote_record};
use crate::io::{Event, FreezeReason, Role};
use crate::ipam::{Ipam, Proposing, RETRY_INTERVAL, Standing};
use crate::message::{Decided, MESSAGE_MAX, Message};
use crate::state::{Change, Vote};
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::envelope::Stamp;
use weft_wire::ipam::{
    Ballot, Epoch, ExceptionsRecord, LentRecord, Off, Proposal, SLOT_RUNS_MAX, SlotsRecord, VoteRecord,
};
use weft_wire::reclaim::{Proof, ReclaimRecord};
use weft_wire::record::Body;
use weft_wire::{Envelope, NodeId, Time, codec};

/// At most one epoch in this time: newcomers that come together are added together.
pub(crate) const EPOCH_INTERVAL: Duration = Duration::from_secs(1);
/// The first voter proposes at once, each one behind it this much later, up to sixteen times.
const RANK_DELAY: Duration = Duration::from_millis(100);
/// A try that is not decided after this is given up.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the next question for epochs.
pub(crate) const EPOCHS_PAUSE: Duration = Duration::from_millis(300);
/// Hosts that are asked to confirm the incarnation at a time.
const CONFIRMERS: usize = 3;

impl Ipam {
    pub(crate) fn on_record(&mut self, now: Time, envelope: &Envelope) {
        let (key, stamp) = (envelope.key(), envelope.stamp());
        let owner = key.owner;
        if self.is_gone(&owner) {
            return self.on_record_of_gone(now, envelope);
        }
        let is_ok = if key.kind == SlotsRecord::KIND {
            SlotsRecord::from_envelope(envelope)
                .map(|record| self.on_slots_record(now, owner, stamp, record))
                .is_ok()
        } else if owner == self.node {
            true
        } else if key.kind == LentRecord::KIND {
            LentRecord::from_envelope(envelope)
                .map(|record| {
                    self.peers.entry(owner).or_default().lent = record;
                    self.places.elsewhere += 1;
                    self.event(Event::OwnersChanged);
                })
                .is_ok()
        } else if key.kind == VoteRecord::KIND {
            VoteRecord::from_envelope(envelope)
                .map(|record| {
                    self.look_for_fork(now, owner, &record);
                    self.votes.insert(owner, record);
                })
                .is_ok()
        } else if key.kind == ReclaimRecord::KIND {
            ReclaimRecord::from_envelope(envelope)
                .map(|record| self.peers.entry(owner).or_default().reclaim = Some(record))
                .is_ok()
        } else if key.kind == ExceptionsRecord::KIND {
            ExceptionsRecord::from_envelope(envelope)
                .map(|record| {
                    self.peers.entry(owner).or_default().exceptions = record.entries;
                    self.places.elsewhere += 1;
                    self.event(Event::OwnersChanged);
                })
                .is_ok()
        } else {
            true
        };
        if !is_ok {
            self.event(Event::Misbehaved {
                node: owner,
                why: "a malformed record",
            });
        }
    }

    /// Of a removed host, two things are heard: that it has decided otherwise, and where the addresses are that it lent.
    fn on_record_of_gone(&mut self, now: Time, envelope: &Envelope) {
        let owner = envelope.key().owner;
        if let Ok(record) = VoteRecord::from_envelope(envelope) {
            self.look_for_fork(now, owner, &record);
        } else if let Ok(record) = LentRecord::from_envelope(envelope) {
            self.peers.entry(owner).or_default().lent = record;
            self.places.elsewhere += 1;
            self.event(Event::OwnersChanged);
        }
    }

    /// A removed host may ask for epochs, so that it learns of its removal, and may show its own.
    pub(crate) fn on_message_of_gone(&mut self, now: Time, from: NodeId, message: Message) {
        match message {
            Message::AskEpochs { after } => self.on_ask_epochs(from, after),
            Message::Epochs(epochs) => self.compare_epochs(now, from, &epochs),
            _ => {}
        }
    }

    fn on_slots_record(&mut self, now: Time, owner: NodeId, stamp: Stamp, record: SlotsRecord) {
        if owner == self.node {
            let is_later = stamp.incarnation > self.incarnation
                || (stamp.incarnation < self.incarnation && record.serial > self.start_serial);
            if is_later {
                self.freeze(FreezeReason::RolledBack);
            }
            return;
        }
        if (stamp.incarnation, record.serial) > self.state.seen(&owner) {
            self.change(Change::Seen(owner, stamp.incarnation, record.serial));
        }
        self.on_slots(now, owner, record);
        self.look_for_orphans(now + RETRY_INTERVAL);
    }

    pub(crate) fn on_message(&mut self, now: Time, from: NodeId, message: Message) {
        self.silent.remove(&from);
        match message {
            Message::Confirm { incarnation, .. } => {
                let (seen, serial) = self.state.seen(&from);
                self.send(
                    from,
                    &Message::Confirmed {
                        of: incarnation,
                        incarnation: seen,
                        serial,
                    },
                );
            }
            Message::Confirmed {
                of,
                incarnation,
                serial,
            } => self.on_confirmed(of, incarnation, serial),
            Message::AskSpace {
                ask,
                need,
                room,
                span,
            } => self.on_ask_space(from, ask, need, room, span),
            Message::Grant { grant, chain } => self.on_grant(now, from, grant, chain),
            Message::GrantAccepted(id) => self.on_grant_accepted(from, id),
            Message::AskLoan { ask, wish } => self.on_ask_loan(from, ask, wish),
            Message::Lend { ask, offset, number } => self.on_lend(now, from, ask, offset, number),
            Message::Return { offset, number } => self.on_return(now, from, offset, number),
            Message::Returned { offset, number } => self.on_returned(from, offset, number),
            Message::Refuse { ask, why } => self.on_refuse(now, from, ask, why),
            Message::AskChain(runs) => self.on_ask_chain(from, &runs),
            Message::Chain(grants) => self.on_chain(now, from, &grants),
            Message::AskEpochs { after } => self.on_ask_epochs(from, after),
            Message::Epochs(epochs) => self.on_epochs(now, from, epochs),
            Message::Offer => self.on_offer(now, from),
            Message::AskReclaim { epoch, runs } => self.on_ask_reclaim(from, epoch, runs),
            Message::ReclaimSigned {
                epoch,
                runs,
                signature,
                kept,
            } => self.on_reclaim_signed(now, from, (epoch, runs), signature, kept),
            Message::ReclaimRefused { epoch, against } => {
                self.on_reclaim_refused(now, from, epoch, against);
            }
        }
    }

    fn on_confirmed(&mut self, of: u64, incarnation: u64, serial: u64) {
        if of != self.incarnation || !matches!(self.standing, Standing::AwaitingConfirmation(_)) {
            return;
        }
        // Nothing is published before the confirmation, so what was seen is of an earlier start.
        if incarnation >= self.incarnation || serial > self.start_serial {
            self.freeze(FreezeReason::RolledBack);
        } else {
            self.standing = Standing::Confirmed;
            self.event(Event::Confirmed);
        }
    }

    pub(crate) fn on_ask_epochs(&mut self, from: NodeId, after: u32) {
        let mut room = MESSAGE_MAX / 2;
        let mut epochs: Vec<Decided> = Vec::new();
        for decided in self.state.epochs().iter().skip(after as usize) {
            let size = codec::encode(decided).len();
            if size > room && !epochs.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            epochs.push(decided.clone());
        }
        if !epochs.is_empty() {
            self.send(from, &Message::Epochs(epochs));
        }
    }

    fn on_epochs(&mut self, now: Time, from: NodeId, epochs: Vec<Decided>) {
        self.compare_epochs(now, from, &epochs);
        for decided in epochs
            .into_iter()
            .filter(|decided| decided.epoch.number > self.state.epoch())
            .collect::<Vec<_>>()
        {
            if decided.epoch.number != self.state.epoch() + 1 {
                break;
            }
            if decided.epoch.parent != self.state.epoch_hash() {
                // It follows another epoch of the same number as ours.
                self.compare(now, from, 0);
                break;
            }
            if check_decided(&decided, &self.state, &self.genesis).is_err() {
                return self.event(Event::Misbehaved {
                    node: from,
                    why: "an epoch without a majority of votes",
                });
            }
            self.decide(now, decided);
        }
        self.epochs_ask_due = now;
    }

    fn decide(&mut self, now: Time, decided: Decided) {
        let epoch = decided.epoch.clone();
        self.change(Change::Decided(decided));
        self.proposing = None;
        self.propose_due = None;
        self.epoch_due = now + EPOCH_INTERVAL;
        for unproved in self.unproved.values_mut() {
            unproved.due = now;
        }
        let (number, members) = (self.state.epoch(), self.state.members().len());
        self.event(Event::Epoch { number, members });
        if !epoch.removed.is_empty() {
            self.on_removed(now, &epoch);
        }
        self.insert_own_vote();
    }

    pub(crate) fn own_vote_record(&self) -> VoteRecord {
        let proposal = self.proposing.as_ref().map(|p| Proposal {
            ballot: p.ballot,
            off: p.off.clone(),
            value: p.value.clone(),
        });
        let wants = self.role == Role::Owner
            && self.leaving.is_none()
            && !self.state.members().contains(&self.node)
            && !self.is_removed();
        let mut record = vote_record(&self.state, &self.key, &self.genesis, wants, proposal);
        self.add_passing_wishes(&mut record.wishes);
        record
    }

    pub(crate) fn insert_own_vote(&mut self) {
        let record = self.own_vote_record();
        self.votes.insert(self.node, record);
        self.votes_changed = true;
    }

    /// This host's part in deciding the next epoch.
    pub(crate) fn drive_epochs(&mut self, now: Time) {
        if now >= self.epochs_ask_due {
            let ahead: Vec<NodeId> = self.votes.ahead_of(self.state.epoch() + 1).collect();
            if let Some(to) = self.one_of(&ahead) {
                self.epochs_ask_due = now + EPOCHS_PAUSE;
                self.send(
                    to,
                    &Message::AskEpochs {
                        after: self.state.epoch(),
                    },
                );
            }
        }
        if self
            .proposing
            .as_ref()
            .is_some_and(|proposing| proposing.deadline <= now)
        {
            self.give_up_proposal(now);
        }
        // Each turn moves the vote, the proposal or the epoch forward, so this ends.
        loop {
            let before = self.state.vote().clone();
            if let Some(decided) = self.votes.decided(&self.state, &self.genesis) {
                self.decide(now, decided);
                continue;
            }
            if !self.state.members().contains(&self.node) {
                return;
            }
            if let Some(vote) = self.votes.next_vote(&self.state) {
                self.change(Change::Voted(vote));
                self.insert_own_vote();
            }
            let moved = self.propose(now);
            if !moved && *self.state.vote() == before {
                return;
            }
        }
    }

    /// Starts a try, or moves it on. True when it did.
    fn propose(&mut self, now: Time) -> bool {
        match &self.proposing {
            Some(proposing) => {
                let (ballot, off, own) = (proposing.ballot, proposing.off.clone(), proposing.own.clone());
                if proposing.value.is_some() {
                    return false;
                }
                let wished = self.votes.removals(&self.state, &self.node).0;
                if !own.removed.iter().all(|host| wished.contains(host)) {
                    // Nobody wants it any longer, or somebody vouches for some of them by now.
                    self.give_up_proposal(now);
                    return false;
                }
                match self.votes.promised(&self.state, (ballot, &off), &own) {
                    Err(_) => {
                        self.give_up_proposal(now);
                        false
                    }
                    Ok(None) => false,
                    Ok(Some(value)) => {
                        if let Some(proposing) = &mut self.proposing {
                            proposing.value = Some(value);
                        }
                        self.insert_own_vote();
                        true
                    }
                }
            }
            None => {
                // Nobody proposes to remove itself; others do, and others it goes on to propose. Who leaves is not
                // to become the one that takes slots back.
                let (removed, fenced) = match self.leaving {
                    None => self.votes.removals(&self.state, &self.node),
                    Some(_) => (Vec::new(), false),
                };
                let mut added = self.votes.candidates(&self.state, &self.members);
                // Other votes count for a fenced epoch than for one that adds.
                added.retain(|node| !fenced && !removed.contains(node));
                if added.is_empty() && removed.is_empty() {
                    self.propose_due = None;
                    return false;
                }
                let due = match self.propose_due {
                    Some(due) => due,
                    None => {
                        let rank = self
                            .state
                            .members()
                            .iter()
                            .position(|node| *node == self.node)
                            .unwrap_or(0);
                        let wait = RANK_DELAY * rank.min(16) as u32;
                        let due = self.epoch_due.max(now) + wait + self.jitter(RANK_DELAY / 4);
                        self.propose_due = Some(due);
                        due
                    }
                };
                if due > now {
                    return false;
                }
                self.start_proposal(now, added, removed, fenced);
                true
            }
        }
    }

    fn start_proposal(&mut self, now: Time, added: Vec<NodeId>, removed: Vec<NodeId>, fenced: bool) {
        let vote = self.state.vote().clone();
        let round = vote.promised.map_or(0, |ballot| ballot.round).saturating_add(1);
        let ballot = Ballot {
            round,
            proposer: self.node,
        };
        let off = match fenced {
            true => positions_of(self.state.members(), &removed),
            false => Off::new(),
        };
        let own = Epoch {
            number: self.state.epoch() + 1,
            parent: self.state.epoch_hash(),
            added,
            // Whoever proposes is there, which cannot be said of others.
            reclaimer: (!removed.is_empty()).then_some(self.node),
            removed,
            fenced,
        };
        // The promise to itself makes the ballot durable before anybody hears of it, so none is used twice.
        self.change(Change::Voted(Vote {
            promised: Some(ballot),
            ..vote
        }));
        self.proposing = Some(Proposing {
            ballot,
            off,
            own,
            value: None,
            deadline: now + PROPOSAL_TIMEOUT,
        });
        self.insert_own_vote();
    }

    fn give_up_proposal(&mut self, now: Time) {
        self.proposing = None;
        let pause = Duration::from_millis(200) + self.jitter(Duration::from_secs(1));
        self.propose_due = Some(now + pause);
        self.insert_own_vote();
    }

    /// When the epochs need attention.
    pub(crate) fn epoch_deadline(&self) -> Option<Time> {
        let proposing = self.proposing.as_ref().map(|proposing| proposing.deadline);
        let start = self.propose_due.filter(|_| self.proposing.is_none());
        let behind = self
            .votes
            .ahead_of(self.state.epoch() + 1)
            .next()
            .map(|_| self.epochs_ask_due);
        proposing.into_iter().chain(start).chain(behind).min()
    }

    /// True when something must be sent again from time to time.
    pub(crate) fn has_retries(&self) -> bool {
        matches!(self.standing, Standing::AwaitingConfirmation(_))
            || !self.state.given().is_empty()
            || !self.to_return().is_empty()
            || !self.orphaned_loans().is_empty()
    }

    /// Sends again what nobody has acknowledged.
    pub(crate) fn retry(&mut self) {
        if matches!(self.standing, Standing::AwaitingConfirmation(_)) {
            let mut others = self.others();
            for _ in 0..CONFIRMERS {
                let Some(to) = self.one_of(&others) else { break };
                others.retain(|node| *node != to);
                self.ask_confirmation(to);
            }
        }
        for (to, offset, number) in self.to_return() {
            self.send(to, &Message::Return { offset, number });
        }
        self.retry_transfers();
        self.renew_loans();
    }

    /// A member can be reached: one confirmation is enough, so a host that has just started need not wait for a retry.
    pub(crate) fn on_peer_up(&mut self, peer: NodeId) {
        if matches!(self.standing, Standing::AwaitingConfirmation(_)) && self.members.contains(&peer) {
            self.ask_confirmation(peer);
        }
    }

    fn ask_confirmation(&mut self, to: NodeId) {
        let (incarnation, serial) = (self.incarnation, self.start_serial);
        self.send(to, &Message::Confirm { incarnation, serial });
    }

    /// The record of what this host owns.
    pub(crate) fn slots_record(&self) -> SlotsRecord {
        let mut record = SlotsRecord {
            serial: self.state.serial(),
            epoch: self.state.epoch(),
            free_slots: self.hints.0,
            free_addresses: self.hints.1,
            runs: self.own_runs.iter().take(SLOT_RUNS_MAX).copied().collect(),
            given: self.state.given().values().cloned().collect(),
            proofs: Vec::new(),
        };
        let mut proofs: Vec<&Proof> = self.state.chain().values().collect();
        proofs.sort_by_key(|proof| core::cmp::Reverse(proof.runs().first().map(|run| run.version)));
        for proof in proofs {
            if proof.cost() <= record.room() {
                record.proofs.push(proof.clone());
            }
        }
        record
    }

    /// What others say about the next epoch, for tests and the status.
    pub fn votes(&self) -> &Votes {
        &self.votes
    }
}

const _: () = assert!(PROPOSAL_TIMEOUT.as_millis() > RETRY_INTERVAL.as_millis());
