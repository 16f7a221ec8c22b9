//! The network: what was said, what leaves a host, and what of it can still make a difference.

use crate::cluster::{Cluster, State};
use crate::intern::Id;
use crate::plan::Flaw;
use crate::slots::{Disowned, Sent};
use weft_ipam_crdt::IpamState;
use weft_ipam_crdt::message::Decided;
use weft_wire::ipam::VoteRecord;
use weft_wire::reclaim::Reclaim;

/// What was said.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Net {
    /// Vote records of each host, in order.
    pub said: Vec<Vec<Id<VoteRecord>>>,
    /// Epochs with their proofs.
    pub proofs: Vec<Id<Decided>>,
    /// Grants.
    pub grants: Vec<Id<Sent>>,
    /// Grants whose recipients have said that they have them.
    pub accepted: Vec<Id<Sent>>,
    /// Hosts that have said in an epoch, the latest of each, that the slot is not theirs.
    pub disowned: Vec<(usize, u32)>,
    /// Hosts that ask the members of an epoch for the slot.
    pub asked: Vec<(Tip, usize)>,
    /// Members that have signed what was asked in an epoch.
    pub signed: Vec<(Tip, usize)>,
    /// The slot was taken back.
    pub reclaims: Vec<Id<Reclaim>>,
}

/// An epoch, by its number and its hash.
pub type Tip = (u32, Id<[u8; 32]>);

/// Puts something into an ordered list, once.
pub(crate) fn add<T: Ord + Copy>(list: &mut Vec<T>, what: T) {
    if let Err(at) = list.binary_search(&what) {
        list.insert(at, what);
    }
}

impl Cluster {
    /// All that follows at once for a host: its own conclusions, and what leaves it (R2: once it is durable).
    pub(crate) fn settle(&self, state: &mut State, host: usize, before: Id<IpamState>) {
        let is_voting = !state.net.said.is_empty();
        let mut record = None;
        if is_voting {
            let read = self.read(state, &state.hosts[host].heard);
            let moved = self
                .voting
                .advance(&self.cast, host, state.hosts[host].part, read);
            state.hosts[host].part = moved.part;
            record = Some(moved.record);
        }
        let at = &mut state.hosts[host];
        // Without further crashes, written and not yet synced cannot be told from late.
        if !self.plan.is_sync_seen || state.left.crashes == 0 {
            at.durable = at.part.memory;
        }
        let (durable, memory) = (at.durable, at.part.memory);
        if durable == memory || self.plan.flaw == Flaw::SendBeforeSync {
            if let Some(record) = record.filter(|record| state.net.said[host].last() != Some(record)) {
                state.net.said[host].push(record);
            }
            if memory != before {
                self.send(state, host, memory);
            }
        }
        self.forget(state, host);
        self.acknowledge(state);
        self.expire(state);
    }

    /// What a host sends because of what is in this state of it.
    fn send(&self, state: &mut State, host: usize, sent: Id<IpamState>) {
        if !state.net.said.is_empty() {
            for decided in self.voting.states.get(sent).epochs().iter().skip(1) {
                let proof = self.voting.proved(decided.clone());
                add(&mut state.net.proofs, proof);
            }
        }
        for grant in self.slots.sends(sent) {
            add(&mut state.net.grants, grant);
        }
        let (version, owner) = self.slots.register(sent);
        let (tip, epoch) = (self.tip(sent), self.epoch(sent));
        let is_asked = state.net.asked.iter().any(|(asked, _)| *asked == tip);
        if self.slots.promised(sent).epoch == epoch && epoch > 0 && is_asked {
            add(&mut state.net.signed, (tip, host));
        }
        if owner != host && self.plan.transfers > 0 && self.slots.last_removal(sent) > 0 {
            state.net.disowned.retain(|(other, _)| *other != host);
            add(&mut state.net.disowned, (host, epoch));
        }
        if owner == host && version.seq == 0 && version.epoch > 0 {
            let reclaim = self.slots.own_reclaim(sent);
            reclaim
                .into_iter()
                .for_each(|reclaim| add(&mut state.net.reclaims, reclaim));
        }
    }

    /// The recipient of a grant says that it is settled.
    fn acknowledge(&self, state: &mut State) {
        for sent in &state.net.grants {
            let to = &state.hosts[self.cast.host(&self.slots.sent.get(*sent).grant.to)];
            let known = match self.plan.flaw {
                Flaw::SendBeforeSync => to.part.memory,
                _ => to.durable,
            };
            if !to.is_lost && self.slots.is_settled(known, *sent) {
                add(&mut state.net.accepted, *sent);
            }
        }
    }

    /// Forgets what can reach nobody any longer: everybody it is for knows as much, and will after a crash.
    fn expire(&self, state: &mut State) {
        let there = state.hosts.iter().filter(|host| !host.is_lost);
        let versions = there.map(|host| self.slots.register(host.durable).0);
        let Some(known) = versions.min() else {
            return;
        };
        let net = &mut state.net;
        net.grants.retain(|sent| self.slots.version_of(*sent) > known);
        net.reclaims
            .retain(|reclaim| self.slots.reclaimed_at(*reclaim) > known);
        let hosts = &state.hosts;
        net.accepted.retain(|sent| {
            let donor = &hosts[self.cast.host(&self.slots.sent.get(*sent).grant.from)];
            !donor.is_lost && self.slots.hear_accepted(donor.durable, *sent).is_some()
        });
        let past = |tip: Tip, to: usize| self.epoch(hosts[to].durable) > tip.0 || hosts[to].is_lost;
        let asked = net.asked.iter().filter(|(tip, to)| past(*tip, *to));
        let over: Vec<Tip> = asked.map(|(tip, _)| *tip).collect();
        net.asked.retain(|(tip, _)| !over.contains(tip));
        net.signed.retain(|(tip, _)| !over.contains(tip));
    }

    /// Hosts that have disowned the slot since the last removal that this state knows.
    pub(crate) fn disowned(&self, state: &State, memory: Id<IpamState>) -> Disowned {
        let since = self.slots.last_removal(memory);
        let said = state.net.disowned.iter().filter(|(_, epoch)| *epoch >= since);
        said.fold(0, |bits, (host, _)| bits | 1 << host)
    }

    /// How many of a host's first records are about epochs up to this one, and say nothing to whoever knows it.
    fn past(&self, state: &State, writer: usize, epoch: u32) -> u8 {
        let number = |record: &Id<VoteRecord>| {
            self.number_of
                .of(record, || self.voting.records.get(*record).number)
        };
        let said = state.net.said[writer].iter();
        said.take_while(|record| number(record) <= epoch).count() as u8
    }

    /// Drops what can make no difference any longer: records that count as heard because of what their reader knows,
    /// and what every host has left behind.
    fn forget(&self, state: &mut State, host: usize) {
        if state.net.said.is_empty() {
            return;
        }
        let epoch = self.epoch(state.hosts[host].part.memory);
        for writer in 0..state.net.said.len() {
            let past = self.past(state, writer, epoch);
            let heard = &mut state.hosts[host].heard[writer];
            *heard = if writer == host { 0 } else { (*heard).max(past) };
        }
        // The dead read nothing.
        let known = state.hosts.iter().map(|host| match host.is_lost {
            true => u32::MAX,
            false => self.epoch(host.durable),
        });
        let known: Vec<u32> = known.collect();
        let by_all = known.iter().copied().min().unwrap_or(0).min(self.last_epoch());
        for left in state.left.ballots.iter_mut().take(by_all as usize - 1) {
            *left = 0;
        }
        // Where a cluster can split, an epoch of the past is news to whoever has decided otherwise.
        if self.plan.vouch.is_none() {
            let number = |proof: &Id<Decided>| self.voting.decided.get(*proof).epoch.number;
            state.net.proofs.retain(|proof| number(proof) > by_all);
        }
        for writer in 0..state.net.said.len() {
            let others = known.iter().enumerate().filter(|(reader, _)| *reader != writer);
            let by_others = others
                .map(|(_, epoch)| *epoch)
                .min()
                .unwrap_or(0)
                .min(self.last_epoch());
            let last = state.net.said[writer].len() as u8 - 1;
            let past = self.past(state, writer, by_others).min(last);
            state.net.said[writer].drain(..usize::from(past));
            for reader in &mut state.hosts {
                reader.heard[writer] = reader.heard[writer].saturating_sub(past);
            }
        }
    }
}
