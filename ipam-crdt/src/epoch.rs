//! The chain of memberships: one Paxos decision (Lamport, "Paxos Made Simple", §2) for each epoch.
//!
//! Ballots are gossip records: every voter's record says what it promised and accepted last, and what it proposes. A
//! proposer that finds its ballot promised by a majority proposes the value of the highest ballot accepted
//! among them, or its own; a value accepted by a majority under one ballot is decided. The signatures of that
//! majority are the certificate by which anybody else believes it.

use crate::message::Decided;
use crate::state::{IpamState, Vote};
use alloc::collections::BTreeMap;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use weft_wire::ipam::{
    Accepted, Ballot, EPOCH_CHANGES_MAX, Epoch, Proposal, VOTERS_MAX, VoteRecord, vote_message,
};
use weft_wire::{GenesisId, NodeId, NodeKey};

/// Members that make a majority.
pub fn majority(members: &BTreeSet<NodeId>) -> usize {
    members.len() / 2 + 1
}

/// Why a decided epoch that was heard of is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EpochError {
    /// It does not follow the latest one known.
    #[error("the epoch does not follow the one that is known")]
    NotNext,
    /// Its members are not what an epoch may change.
    #[error("the epoch adds a member, removes a stranger, or has too many members")]
    Members,
    /// Fewer than a majority of valid votes.
    #[error("the epoch is not proved by a majority")]
    NoMajority,
}

/// Checks that an epoch may follow the state's latest one.
pub fn check_next(epoch: &Epoch, state: &IpamState) -> Result<(), EpochError> {
    if epoch.number != state.epoch() + 1 || epoch.parent != state.epoch_hash() {
        return Err(EpochError::NotNext);
    }
    let members = state.members();
    let added_ok = epoch.added.iter().all(|node| !members.contains(node));
    let removed_ok = epoch.removed.iter().all(|node| members.contains(node));
    let after = members.len() + epoch.added.len();
    let reclaimer_ok = epoch
        .reclaimer
        .is_none_or(|node| members.contains(&node) && !epoch.removed.contains(&node));
    let some_left = epoch.removed.len() < members.len();
    if epoch.is_within_bounds() && added_ok && removed_ok && reclaimer_ok && some_left && after <= VOTERS_MAX
    {
        Ok(())
    } else {
        Err(EpochError::Members)
    }
}

/// Checks a decided epoch with its certificate against the state.
pub fn check_decided(decided: &Decided, state: &IpamState, genesis: &GenesisId) -> Result<(), EpochError> {
    check_next(&decided.epoch, state)?;
    let voters: Vec<&NodeId> = state.members().iter().collect();
    let message = vote_message(genesis, &decided.ballot, &decided.epoch);
    let mut counted = BTreeSet::new();
    for (index, signature) in &decided.votes {
        let Some(voter) = voters.get(usize::from(*index)) else {
            continue;
        };
        if !counted.contains(index) && voter.verify(&message, &(*signature).into()) {
            counted.insert(*index);
        }
        if counted.len() >= majority(state.members()) {
            return Ok(());
        }
    }
    Err(EpochError::NoMajority)
}

/// What the records of all voters say about the next epoch, as one host sees them.
#[derive(Clone, Debug, Default)]
pub struct Votes {
    records: BTreeMap<NodeId, VoteRecord>,
}

impl Votes {
    /// The latest record of a host.
    pub fn insert(&mut self, node: NodeId, record: VoteRecord) {
        self.records.insert(node, record);
    }

    /// A host whose record is about a later epoch than `number`: it knows decisions that we do not.
    pub fn ahead_of(&self, number: u32) -> impl Iterator<Item = NodeId> + '_ {
        self.records
            .iter()
            .filter(move |(_, r)| r.number > number)
            .map(|(node, _)| *node)
    }

    /// Hosts that ask to be added.
    pub fn candidates(&self, state: &IpamState, admitted: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let room = VOTERS_MAX
            .saturating_sub(state.members().len())
            .min(EPOCH_CHANGES_MAX);
        let wants = self
            .records
            .iter()
            .filter(|(_, record)| record.wants)
            .map(|(node, _)| *node);
        wants
            .filter(|node| admitted.contains(node) && !state.members().contains(node))
            .take(room)
            .collect()
    }

    fn of_voters<'a>(
        &'a self,
        state: &'a IpamState,
    ) -> impl Iterator<Item = (&'a NodeId, &'a VoteRecord)> + 'a {
        let next = state.epoch() + 1;
        let voters = self
            .records
            .iter()
            .filter(|(node, _)| state.members().contains(*node));
        voters.filter(move |(_, record)| record.number == next)
    }

    /// This host's next vote, if what others propose changes it.
    pub fn next_vote(&self, state: &IpamState) -> Option<Vote> {
        let mut vote = state.vote().clone();
        for (node, record) in self.of_voters(state) {
            let Some(Proposal { ballot, value }) = &record.proposal else {
                continue;
            };
            if ballot.proposer != *node || Some(*ballot) < vote.promised {
                continue;
            }
            vote.promised = Some(*ballot);
            if let Some(epoch) = value
                && check_next(epoch, state).is_ok()
            {
                vote.accepted = Some((*ballot, epoch.clone()));
            }
        }
        (vote != *state.vote()).then_some(vote)
    }

    /// What to propose now under `ballot`: the value, once a majority has promised. `Err` names a higher ballot
    /// that somebody has promised: this try is over.
    pub fn promised(&self, state: &IpamState, ballot: Ballot, own: &Epoch) -> Result<Option<Epoch>, Ballot> {
        let mut count = 0;
        let mut best: Option<&Accepted> = None;
        for (_, record) in self.of_voters(state) {
            match record.promised {
                Some(other) if other > ballot => return Err(other),
                Some(other) if other == ballot => count += 1,
                _ => continue,
            }
            if let Some(accepted) = &record.accepted
                && best.is_none_or(|best| accepted.ballot > best.ballot)
            {
                best = Some(accepted);
            }
        }
        if count < majority(state.members()) {
            return Ok(None);
        }
        Ok(Some(
            best.map_or_else(|| own.clone(), |accepted| accepted.epoch.clone()),
        ))
    }

    /// The decision, once a majority has accepted one value under one ballot.
    pub fn decided(&self, state: &IpamState, genesis: &GenesisId) -> Option<Decided> {
        let mut tally: BTreeMap<(Ballot, [u8; 32]), Vec<&NodeId>> = BTreeMap::new();
        for (node, record) in self.of_voters(state) {
            if let Some(accepted) = &record.accepted {
                tally
                    .entry((accepted.ballot, accepted.epoch.hash()))
                    .or_default()
                    .push(node);
            }
        }
        let enough = tally
            .into_values()
            .find(|nodes| nodes.len() >= majority(state.members()))?;
        let first = self.records.get(*enough.first()?)?.accepted.as_ref()?;
        let position = |node: &NodeId| state.members().iter().position(|other| other == node);
        let votes = enough.iter().filter_map(|node| {
            let accepted = self.records.get(*node)?.accepted.as_ref()?;
            Some((u16::try_from(position(node)?).ok()?, accepted.signature))
        });
        let decided = Decided {
            epoch: first.epoch.clone(),
            ballot: first.ballot,
            votes: votes.collect(),
        };
        check_decided(&decided, state, genesis).ok().map(|()| decided)
    }
}

/// The record of a vote.
pub fn vote_record(
    state: &IpamState,
    key: &NodeKey,
    genesis: &GenesisId,
    wants: bool,
    proposal: Option<Proposal>,
) -> VoteRecord {
    let vote = state.vote();
    let accepted = vote.accepted.as_ref().map(|(ballot, epoch)| Accepted {
        ballot: *ballot,
        epoch: epoch.clone(),
        signature: key.sign(&vote_message(genesis, ballot, epoch)).into(),
    });
    VoteRecord {
        number: state.epoch() + 1,
        wants,
        promised: vote.promised,
        accepted,
        proposal,
    }
}
