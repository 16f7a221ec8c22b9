//! Removing hosts: the wish, what its decision changes here, and how far each removal is.
//!
//! A wish is durable, and part of this host's vote record, so whoever proposes the next epoch takes it up. Nothing is
//! final before a majority of the members has decided. What follows for the slots of the removed is in
//! [`reclaim`](crate::reclaim).

use crate::epoch::{positions_of, votes_needed};
use crate::io::{Event, FreezeReason, Output, RequestId};
use crate::ipam::{Ipam, Standing};
use crate::message::{AskId, Message};
use crate::rules;
use crate::state::{Change, Held};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::ipam::{Ballot, EPOCH_CHANGES_MAX, Epoch, GrantId, Off};
use weft_wire::{NodeId, Time};

/// Slots of a removed host that nobody has vouched for rest so long before they are used: that host may be alive behind a
/// partition, and its pods go on until it learns that it was removed.
pub const RECLAIM_REST: Duration = Duration::from_secs(24 * 3_600);

/// Why a host is not asked to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RemovalError {
    /// A host cannot take itself out of the cluster.
    #[error("this host cannot remove itself; ask for it on another host")]
    Itself,
    /// Nobody knows such a host.
    #[error("host {0} is no member of this cluster")]
    Stranger(NodeId),
    /// There are too many at once.
    #[error("at most {EPOCH_CHANGES_MAX} hosts can be removed at a time")]
    TooMany,
    /// An epoch needs a member that decides it.
    #[error(
        "these are all the hosts that could decide it: no member of the cluster's latest epoch would be left. Found a new cluster with the hosts that remain"
    )]
    NobodyLeft,
    /// This host has no say any longer.
    #[error("{0}")]
    Frozen(FreezeReason),
}

/// A removal that is not finished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removal {
    /// The hosts.
    pub hosts: Vec<NodeId>,
    /// True when somebody has vouched that they are off for good.
    pub fenced: bool,
    /// What it waits for.
    pub phase: RemovalPhase,
}

/// What a removal waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemovalPhase {
    /// The decision: more members must vote.
    AwaitingMajority {
        /// Votes that decide.
        needed: usize,
        /// Members whose votes count and have not come yet.
        missing: Vec<NodeId>,
    },
    /// It is decided; every member must say that it has none of their slots.
    AwaitingPromises {
        /// The epoch that is decided.
        epoch: u32,
        /// Who takes the slots.
        reclaimer: NodeId,
        /// Members that have not said so, as far as the reclaimer tells.
        missing: Vec<NodeId>,
        /// How many more have not.
        more: u16,
        /// Slots that have no owner yet.
        slots: u32,
    },
}

impl Ipam {
    /// Every host that was removed, and by which epoch. None of them is a member ever again.
    pub fn removed(&self) -> &BTreeMap<NodeId, u32> {
        self.state.gone()
    }

    /// True when this host itself was removed, and knows it.
    pub fn is_removed(&self) -> bool {
        self.state.gone().contains_key(&self.node)
    }

    /// Somebody wants hosts removed, or no longer.
    pub(crate) fn on_remove(&mut self, hosts: &[NodeId], wish: Option<bool>, request: RequestId) {
        let result = self.check_wish(hosts);
        if result.is_ok() {
            for host in hosts {
                let before = self.state.wishes().get(host).copied();
                // Who has vouched once has vouched; a wish without is no revocation.
                let after = wish.map(|fenced| fenced || before == Some(true));
                if before != after && !self.state.gone().contains_key(host) {
                    self.change(Change::Wish(*host, after));
                }
            }
            self.insert_own_vote();
        }
        self.stage(Output::Removal { request, result });
    }

    fn check_wish(&self, hosts: &[NodeId]) -> Result<(), RemovalError> {
        if let Standing::Frozen(reason) = self.standing {
            return Err(RemovalError::Frozen(reason));
        }
        if hosts.contains(&self.node) {
            return Err(RemovalError::Itself);
        }
        let is_known = |host: &NodeId| {
            self.members.contains(host) || self.state.members().contains(host) || self.is_gone(host)
        };
        if let Some(stranger) = hosts.iter().find(|host| !is_known(host)) {
            return Err(RemovalError::Stranger(*stranger));
        }
        let open = hosts.iter().filter(|host| !self.is_gone(host));
        let all: BTreeSet<&NodeId> = open.chain(self.state.wishes().keys()).collect();
        if all.len() > EPOCH_CHANGES_MAX {
            return Err(RemovalError::TooMany);
        }
        if self.state.members().iter().all(|node| all.contains(node)) {
            return Err(RemovalError::NobodyLeft);
        }
        Ok(())
    }

    pub(crate) fn is_gone(&self, host: &NodeId) -> bool {
        self.state.gone().contains_key(host)
    }

    /// An epoch that removes hosts was decided.
    pub(crate) fn on_removed(&mut self, now: Time, epoch: &Epoch) {
        for host in &epoch.removed {
            self.members.remove(host);
            self.votes.forget(host);
            self.unproved.remove(host);
            if let Some(peer) = self.peers.get_mut(host) {
                // What it lends is still the best word on where those addresses are.
                (peer.free, peer.claim, peer.exceptions) = (None, None, Vec::new());
            }
        }
        self.places.elsewhere += 1;
        let gone = self.state.gone();
        let is_open = |asked: &crate::ipam::Asked| !gone.contains_key(&asked.to);
        self.space_asks.retain(is_open);
        self.loan_asks.retain(is_open);
        let held: Vec<(u32, Held)> = self
            .state
            .addresses()
            .iter()
            .map(|(offset, held)| (*offset, held.clone()))
            .collect();
        for (offset, held) in held {
            match held {
                Held::Lent { to, .. } if epoch.removed.contains(&to) && epoch.fenced => {
                    self.rest(now, offset)
                }
                Held::Lent { to, .. } if epoch.removed.contains(&to) => {
                    self.change(Change::Address(offset, Some(Held::Abandoned)));
                    self.resting.insert((now + RECLAIM_REST, offset));
                }
                // Nobody will say that it is back.
                Held::Returning { from, .. } if self.is_gone(&from) => {
                    self.change(Change::Address(offset, None));
                }
                _ => {}
            }
        }
        // The others need to hear what this host owns as of this epoch.
        self.slots_changed = true;
        self.look_for_orphans(now);
        self.event(Event::Removed(epoch.removed.clone()));
        self.event(Event::OwnersChanged);
        if self.is_removed() {
            self.freeze(FreezeReason::Removed);
        }
    }

    /// A grant whose recipient was removed stays, so that the others learn where the slots went, until they are taken
    /// back.
    pub(crate) fn drop_grants_to_the_gone(&mut self) {
        let given = self.state.given().iter();
        let is_over = |slots: &weft_wire::ipam::SlotRun| {
            let mut registers = self.state.table().registers_in(slots);
            registers.all(|(_, _, register)| register.version > slots.version)
        };
        let over: Vec<GrantId> = given
            .filter(|(_, grant)| self.is_gone(&grant.to) && grant.runs.iter().all(is_over))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.change(Change::Accepted(id));
        }
    }

    /// Slots whose rest is over are used like others, after all others.
    pub(crate) fn end_rests(&mut self, now: Time) {
        while let Some((_, first, count)) = self.slot_rests.pop_front_if(|(until, ..)| *until <= now) {
            self.change(Change::Rest {
                first,
                count,
                rests: false,
            });
        }
    }

    /// Addresses that pods of this host have borrowed from hosts that are gone, and who owns their slots now.
    pub(crate) fn orphaned_loans(&self) -> Vec<(u32, NodeId)> {
        if self.state.gone().is_empty() {
            return Vec::new();
        }
        let held = self.state.addresses().iter();
        let orphaned = held.filter(
            |(_, held)| matches!(held, Held::Borrowed { from, .. } if self.state.gone().contains_key(from)),
        );
        orphaned
            .filter_map(|(offset, _)| {
                let register = self.state.table().get(offset / self.space.slot_size())?;
                let owner = register.owner;
                (owner != self.node && !self.is_gone(&owner)).then_some((*offset, owner))
            })
            .collect()
    }

    /// Lets pods keep what they have borrowed from a removed host: the new owner of the slot lends it on.
    ///
    /// It has noted the loan if it knew of it when it took the slot; else it is asked.
    pub(crate) fn renew_loans(&mut self) {
        let orphaned = self.orphaned_loans();
        self.renewals
            .retain(|offset, (_, to)| orphaned.contains(&(*offset, *to)));
        for (offset, owner) in orphaned {
            if let Some(number) = self.listed_loan(offset, &owner) {
                self.take_renewal(offset, owner, number);
                continue;
            }
            let ask = match self.renewals.get(&offset) {
                Some((ask, _)) => *ask,
                None => self.next_ask(),
            };
            let is_refused = ask == REFUSED;
            if !is_refused {
                self.renewals.insert(offset, (ask, owner));
                self.send(
                    owner,
                    &Message::AskLoan {
                        ask,
                        wish: crate::message::Wish::This(offset),
                    },
                );
            }
        }
    }

    /// Number of the loan of this address to this host, by the lender's record.
    fn listed_loan(&self, offset: u32, lender: &NodeId) -> Option<u32> {
        let lent = &self.peers.get(lender)?.lent;
        let at = lent
            .loans
            .binary_search_by_key(&offset, |loan| loan.offset)
            .ok()?;
        let loan = lent.loans.get(at)?;
        let borrower = lent.borrowers.get(usize::from(loan.borrower))?;
        (*borrower == self.node).then_some(loan.number)
    }

    pub(crate) fn take_renewal(&mut self, offset: u32, from: NodeId, number: u32) {
        self.renewals.remove(&offset);
        if let Some(Held::Borrowed { id, .. }) = self.state.addresses().get(&offset) {
            let id = id.clone();
            self.change(Change::Address(offset, Some(Held::Borrowed { from, number, id })));
        }
    }

    /// True when a loan is the answer to [`Self::renew_loans`].
    pub(crate) fn is_renewal(&mut self, from: NodeId, ask: AskId, offset: u32, number: u32) -> bool {
        let is_it = self.renewals.get(&offset) == Some(&(ask, from));
        if is_it {
            self.take_renewal(offset, from, number);
        }
        is_it
    }

    /// The new owner of a slot has given an address of it away that a pod of this host has borrowed from the old one.
    pub(crate) fn on_renewal_refused(&mut self, from: NodeId, ask: AskId) -> bool {
        let found = self.renewals.iter().find(|(_, asked)| **asked == (ask, from));
        let Some(offset) = found.map(|(offset, _)| *offset) else {
            return false;
        };
        self.renewals.insert(offset, (REFUSED, from));
        if let Some(Held::Borrowed { id, .. }) = self.state.addresses().get(&offset)
            && let Some(address) = self.space.address(offset)
        {
            let id = id.clone();
            self.event(Event::Clash {
                address,
                id,
                owner: from,
            });
        }
        true
    }

    /// Removals that are not finished, those first that are decided.
    pub fn removals(&self) -> Vec<Removal> {
        let mut out: Vec<Removal> = self.slots_to_take_back().into_iter().collect();
        let wishes = self.votes.all().flat_map(|(_, record)| &record.wishes);
        let mut open: BTreeMap<NodeId, bool> = BTreeMap::new();
        for wish in wishes.filter(|wish| !self.is_gone(&wish.host)) {
            *open.entry(wish.host).or_default() |= wish.fenced;
        }
        for fenced in [true, false] {
            let hosts: Vec<NodeId> = open
                .iter()
                .filter(|(_, other)| **other == fenced)
                .map(|(host, _)| *host)
                .collect();
            if !hosts.is_empty() {
                let (needed, missing) = self.missing_votes(&hosts, fenced);
                out.push(Removal {
                    hosts,
                    fenced,
                    phase: RemovalPhase::AwaitingMajority { needed, missing },
                });
            }
        }
        out
    }

    fn slots_to_take_back(&self) -> Option<Removal> {
        let reclaimer = rules::reclaimer_at(&self.state, self.state.epoch())?;
        let mut hosts: BTreeSet<NodeId> = BTreeSet::new();
        let mut slots = 0;
        for (run, owner, is_frozen) in self.state.table().all_runs() {
            if self.is_gone(&owner) && !is_frozen {
                hosts.insert(owner);
                slots += run.count;
            }
        }
        let (missing, more) = if reclaimer == self.node {
            slots = self.orphaned_slots();
            (self.missing_signers(), 0)
        } else {
            let told = self.peers.get(&reclaimer).and_then(|peer| peer.reclaim.as_ref());
            let told = told.filter(|told| told.epoch == self.state.epoch() && told.slots > 0);
            told.map_or((Vec::new(), 0), |told| (told.missing.clone(), told.more))
        };
        let fenced = |host: &NodeId| {
            let epoch = self
                .state
                .gone()
                .get(host)
                .and_then(|number| number.checked_sub(1));
            let decided = epoch.and_then(|at| self.state.epochs().get(at as usize));
            decided.is_some_and(|decided| decided.epoch.fenced)
        };
        (slots > 0).then(|| Removal {
            fenced: hosts.iter().all(fenced),
            hosts: hosts.into_iter().collect(),
            phase: RemovalPhase::AwaitingPromises {
                epoch: rules::last_removal(&self.state),
                reclaimer,
                missing,
                more,
                slots,
            },
        })
    }

    /// Votes that decide a removal, and whose are not there yet: for the proposal that has come farthest.
    pub(crate) fn missing_votes(&self, hosts: &[NodeId], fenced: bool) -> (usize, Vec<NodeId>) {
        let next = self.state.epoch() + 1;
        let current = |node: &NodeId| self.votes.of(node).filter(|record| record.number == next);
        let voters = self.state.members();
        let off = match fenced {
            true => positions_of(voters, hosts),
            false => Off::new(),
        };
        // What this host has promised last is what it has proposed, or what it has seen proposed.
        let latest: Option<Ballot> = voters.iter().filter_map(|node| current(node)?.promised).max();
        let has_voted = |node: &NodeId| {
            let promised = current(node).and_then(|record| record.promised);
            *node == self.node || (latest.is_some() && promised == latest)
        };
        let is_nobody_left = voters.iter().all(|node| hosts.contains(node));
        let counts = |node: &&NodeId| is_nobody_left || !(fenced && hosts.contains(node));
        let missing = voters.iter().filter(counts).filter(|node| !has_voted(node));
        (votes_needed(voters, &off), missing.copied().collect())
    }
}

/// In place of a question for a loan that was refused: it is not asked again.
const REFUSED: AskId = AskId {
    incarnation: 0,
    count: u64::MAX,
};
