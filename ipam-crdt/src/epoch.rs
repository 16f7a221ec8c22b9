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
    Accepted, Ballot, EPOCH_CHANGES_MAX, Epoch, Off, Proposal, VOTERS_MAX, VoteRecord, Wish, vote_message,
};
use weft_wire::record::Signature64;
use weft_wire::{GenesisId, NodeId, NodeKey};

/// Members that make a majority.
pub fn majority(members: &BTreeSet<NodeId>) -> usize {
    members.len() / 2 + 1
}

/// The members whose votes count under a ballot: all but those that somebody vouches to be off.
fn electorate<'a>(
    members: &'a BTreeSet<NodeId>,
    off: &'a [u16],
) -> impl Iterator<Item = &'a NodeId> + use<'a> {
    let all = members.iter().zip(0u16..);
    all.filter(|(_, position)| off.binary_search(position).is_err())
        .map(|(node, _)| node)
}

/// How many of `electorate` decide.
pub fn votes_needed(members: &BTreeSet<NodeId>, off: &[u16]) -> usize {
    electorate(members, off).count() / 2 + 1
}

/// How many of [`electorate`] must have promised a ballot before a value is proposed under it.
///
/// Where hosts are vouched to be off these are more than decide. A value may have been accepted by a majority of all
/// members before those went off; so many promises meet each such majority, unless it was among the vouched for
/// alone, and then all the others are asked.
fn promises_needed(members: &BTreeSet<NodeId>, off: &[u16]) -> usize {
    let left = electorate(members, off).count();
    let meets_all = members.len() - majority(members) + 1;
    votes_needed(members, off).max(meets_all.min(left))
}

/// The positions of hosts among the members.
pub fn positions_of(members: &BTreeSet<NodeId>, hosts: &[NodeId]) -> Off {
    let all = members.iter().zip(0u16..);
    all.filter(|(node, _)| hosts.contains(node))
        .map(|(_, position)| position)
        .collect()
}

/// Why a decided epoch that was heard of is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EpochError {
    /// It does not follow the latest one known.
    #[error("the epoch does not follow the one that is known")]
    NotNext,
    /// Its members are not what an epoch may change.
    #[error("the epoch adds a member or a removed host, removes somebody twice, or has too many members")]
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
    check_members(epoch, state.members(), state.gone())
}

/// Checks what an epoch changes. A host that is in no epoch can be removed as well, and one that was removed never
/// comes back. The reclaimer is a member that stays, so somebody always does.
fn check_members(
    epoch: &Epoch,
    members: &BTreeSet<NodeId>,
    gone: &BTreeMap<NodeId, u32>,
) -> Result<(), EpochError> {
    let is_gone = |node: &NodeId| gone.get(node).is_some_and(|since| *since < epoch.number);
    let added_ok = epoch
        .added
        .iter()
        .all(|node| !members.contains(node) && !is_gone(node) && !epoch.removed.contains(node));
    let removed_ok = !epoch.removed.iter().any(is_gone);
    let after = members.len() + epoch.added.len();
    let reclaimer_ok = epoch
        .reclaimer
        .is_none_or(|node| members.contains(&node) && !epoch.removed.contains(&node));
    if epoch.is_within_bounds() && added_ok && removed_ok && reclaimer_ok && after <= VOTERS_MAX {
        Ok(())
    } else {
        Err(EpochError::Members)
    }
}

/// Checks a decided epoch with its certificate against the state.
pub fn check_decided(decided: &Decided, state: &IpamState, genesis: &GenesisId) -> Result<(), EpochError> {
    check_next(&decided.epoch, state)?;
    check_votes(decided, state.members(), genesis)
}

fn check_votes(decided: &Decided, members: &BTreeSet<NodeId>, genesis: &GenesisId) -> Result<(), EpochError> {
    let message = vote_message(genesis, &decided.ballot, &decided.off, &decided.epoch);
    let counting: BTreeSet<&NodeId> = electorate(members, &decided.off).collect();
    let needed = votes_needed(members, &decided.off);
    if count_signed(members, &decided.votes, &message, needed, |voter| {
        counting.contains(voter)
    }) {
        Ok(())
    } else {
        Err(EpochError::NoMajority)
    }
}

/// True when so many different members, by their positions in the order of the ids, have signed a message.
pub(crate) fn count_signed(
    members: &BTreeSet<NodeId>,
    votes: &[(u16, Signature64)],
    message: &[u8; 32],
    needed: usize,
    counts: impl Fn(&NodeId) -> bool,
) -> bool {
    let voters: Vec<&NodeId> = members.iter().collect();
    let mut counted = BTreeSet::new();
    for (index, signature) in votes {
        if counted.len() >= needed {
            break;
        }
        let Some(voter) = voters.get(usize::from(*index)).filter(|voter| counts(voter)) else {
            continue;
        };
        if !counted.contains(index) && voter.verify(message, &(*signature).into()) {
            counted.insert(*index);
        }
    }
    counted.len() >= needed
}

/// True when an epoch that contradicts one of this chain is proved as well: two parts of the cluster have decided
/// apart, which takes a vouch for hosts that were not off.
pub fn is_split(decided: &Decided, state: &IpamState, genesis: &GenesisId) -> bool {
    let number = decided.epoch.number;
    let Some(before) = number.checked_sub(1) else {
        return false;
    };
    let is_fork = state
        .hash_of(number)
        .is_some_and(|hash| hash != decided.epoch.hash())
        && state.hash_of(before) == Some(decided.epoch.parent);
    let members = state.members_at(before);
    is_fork
        && check_members(&decided.epoch, &members, state.gone()).is_ok()
        && check_votes(decided, &members, genesis).is_ok()
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
            .filter(|node| !state.gone().contains_key(node))
            .take(room)
            .collect()
    }

    /// Hosts without `node` that some member wants removed, and that are not yet, and whether somebody vouches that they
    /// are off. Those that are vouched for come first, and alone: an epoch is fenced or not as a whole.
    pub fn removals(&self, state: &IpamState, node: &NodeId) -> (Vec<NodeId>, bool) {
        let wishes = self.records.values().flat_map(|record| &record.wishes);
        let open: BTreeSet<&Wish> = wishes
            .filter(|wish| wish.host != *node && !state.gone().contains_key(&wish.host))
            .collect();
        let fenced = open.iter().any(|wish| wish.fenced);
        let hosts: BTreeSet<NodeId> = open
            .iter()
            .filter(|wish| wish.fenced == fenced)
            .map(|wish| wish.host)
            .collect();
        (hosts.into_iter().take(EPOCH_CHANGES_MAX).collect(), fenced)
    }

    /// A host was removed: its word counts no longer.
    pub fn forget(&mut self, node: &NodeId) {
        self.records.remove(node);
    }

    /// The latest record of a host.
    pub fn of(&self, node: &NodeId) -> Option<&VoteRecord> {
        self.records.get(node)
    }

    /// Every record of a host that has not been removed.
    pub fn all(&self) -> impl Iterator<Item = (&NodeId, &VoteRecord)> {
        self.records.iter()
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
            let Some(Proposal { ballot, off, value }) = &record.proposal else {
                continue;
            };
            if ballot.proposer != *node || Some(*ballot) < vote.promised {
                continue;
            }
            vote.promised = Some(*ballot);
            if let Some(epoch) = value
                && check_next(epoch, state).is_ok()
            {
                vote.accepted = Some((*ballot, off.clone(), epoch.clone()));
            }
        }
        (vote != *state.vote()).then_some(vote)
    }

    /// What to propose now under `ballot`: the value, once a majority has promised. `Err` names a higher ballot
    /// that somebody has promised: this try is over.
    ///
    /// # Errors
    /// That ballot.
    pub fn promised(
        &self,
        state: &IpamState,
        (ballot, off): (Ballot, &[u16]),
        own: &Epoch,
    ) -> Result<Option<Epoch>, Ballot> {
        let mut count = 0;
        let mut best: Option<&Accepted> = None;
        let counting: BTreeSet<&NodeId> = electorate(state.members(), off).collect();
        for (node, record) in self.of_voters(state) {
            let counts = counting.contains(node);
            match record.promised {
                Some(other) if other > ballot && counts => return Err(other),
                Some(other) if other == ballot && counts => count += 1,
                // Who is off promises nothing any longer; what it was seen to accept may have been decided.
                _ if !counts => {}
                _ => continue,
            }
            if let Some(accepted) = &record.accepted
                && accepted.ballot < ballot
                && best.is_none_or(|best| accepted.ballot > best.ballot)
            {
                best = Some(accepted);
            }
        }
        if count < promises_needed(state.members(), off) {
            return Ok(None);
        }
        Ok(Some(
            best.map_or_else(|| own.clone(), |accepted| accepted.epoch.clone()),
        ))
    }

    /// The decision, once a majority has accepted one value under one ballot.
    pub fn decided(&self, state: &IpamState, genesis: &GenesisId) -> Option<Decided> {
        type Value<'a> = (Ballot, &'a [u16], [u8; 32]);
        let mut tally: BTreeMap<Value, Vec<&NodeId>> = BTreeMap::new();
        for (node, record) in self.of_voters(state) {
            if let Some(accepted) = &record.accepted {
                tally
                    .entry((accepted.ballot, &accepted.off, accepted.epoch.hash()))
                    .or_default()
                    .push(node);
            }
        }
        let (_, enough) = tally.into_iter().find(|((_, off, _), nodes)| {
            let counting: BTreeSet<&NodeId> = electorate(state.members(), off).collect();
            let count = nodes.iter().filter(|node| counting.contains(*node)).count();
            count >= votes_needed(state.members(), off)
        })?;
        let first = self.records.get(*enough.first()?)?.accepted.as_ref()?;
        let position = |node: &NodeId| state.members().iter().position(|other| other == node);
        let votes = enough.iter().filter_map(|node| {
            let accepted = self.records.get(*node)?.accepted.as_ref()?;
            Some((u16::try_from(position(node)?).ok()?, accepted.signature))
        });
        let decided = Decided {
            epoch: first.epoch.clone(),
            ballot: first.ballot,
            off: first.off.clone(),
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
    let accepted = vote.accepted.as_ref().map(|(ballot, off, epoch)| Accepted {
        ballot: *ballot,
        off: off.clone(),
        epoch: epoch.clone(),
        signature: key.sign(&vote_message(genesis, ballot, off, epoch)).into(),
    });
    VoteRecord {
        number: state.epoch() + 1,
        parent: state.epoch_hash(),
        wants,
        wishes: state
            .wishes()
            .iter()
            .map(|(host, fenced)| Wish {
                host: *host,
                fenced: *fenced,
            })
            .collect(),
        promised: vote.promised,
        accepted,
        proposal,
    }
}
