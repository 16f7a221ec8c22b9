//! What a host must find again after a restart, as a value that grows by [`Change`]s.
//!
//! The machine never alters its state in another way, so a log of changes behind a snapshot is the whole state.

use crate::message::Decided;
use crate::space::AddressSpace;
use crate::table::{Register, SlotTable, first_share};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use weft_wire::codec::{self, DecodeError};
use weft_wire::ipam::{Ballot, Epoch, Grant, GrantId, Off, SlotRun, Version};
use weft_wire::reclaim::Proof;
use weft_wire::record::Genesis;
use weft_wire::{GenesisId, NodeId};

/// Longest encoded state: 65,536 registers, as many addresses with ids of 256 octets, and the epochs.
pub const STATE_MAX: usize = 128 << 20;

/// What an address is held for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Held {
    /// A pod has it; the slot is this host's.
    Pod(String),
    /// It was freed, and rests before anybody gets it.
    Resting,
    /// Another host has it.
    Lent {
        /// Which.
        to: NodeId,
        /// Number of the loan.
        number: u32,
        /// The question that it answers.
        ask: crate::message::AskId,
    },
    /// A pod has it; another host owns the slot.
    Borrowed {
        /// That host.
        from: NodeId,
        /// Number of the loan.
        number: u32,
        /// The pod.
        id: String,
    },
    /// It was borrowed; the lender has not said that it is back.
    Returning {
        /// The lender.
        from: NodeId,
        /// Number of the loan.
        number: u32,
    },
    /// It was lent to a host that was removed, and that may be alive and use it: it rests much longer.
    Abandoned,
}

/// This host's word in deciding one epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Vote {
    /// Accepts nothing below.
    pub promised: Option<Ballot>,
    /// What it accepted last, under which ballot, and whose votes do not count under it.
    pub accepted: Option<(Ballot, Off, Epoch)>,
}

/// One step of the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// These slots have this owner.
    Slots {
        /// The slots and their version.
        run: SlotRun,
        /// Who owns them.
        owner: NodeId,
        /// True when another owner of this version is known.
        is_frozen: bool,
    },
    /// A grant or reclaim is kept, as part of the proof of slots of this host.
    Chain(Proof),
    /// It proves no slot of this host any longer.
    Unchain(GrantId),
    /// This host gave a grant.
    Given(Grant),
    /// Its recipient has it.
    Accepted(GrantId),
    /// What an address, named by its offset in the range, is held for.
    Address(u32, Option<Held>),
    /// The next vote.
    Voted(Vote),
    /// An epoch was decided; the vote for it is over.
    Decided(Decided),
    /// The highest incarnation seen of a member, and with it the highest serial.
    Seen(NodeId, u64, u64),
    /// Which of its pod's addresses one is, counted from 0 for the first; lasts as long as the pod has it.
    Turn(u32, u32),
    /// Somebody wants this host removed, and vouches that it is off or not; or no longer.
    Wish(NodeId, Option<bool>),
    /// These slots, from the first so many, were taken back from a removed host that may be alive, and rest; or no longer.
    Rest {
        /// First of the slots.
        first: u32,
        /// How many.
        count: u32,
        /// False when the rest is over.
        rests: bool,
    },
    /// This host has signed that nobody owns these slots, and with it that it takes no grant of them below this version.
    Promised(SlotRun),
}

/// Why a stored state cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// The octets are no state.
    #[error("the stored address state is damaged ({0}); restore it, or remove it to join as a new host")]
    Encoding(DecodeError),
    /// It belongs to another cluster.
    #[error("the stored address state belongs to cluster {stored}, not to {expected}; restore the right one")]
    Foreign {
        /// Cluster of the state.
        stored: GenesisId,
        /// Cluster of this host.
        expected: GenesisId,
    },
    /// Its slots do not cover the range.
    #[error(
        "the stored address state has {stored} slots where the range has {expected}; restore the right one"
    )]
    Slots {
        /// Slots in the state.
        stored: u32,
        /// Slots of the range.
        expected: u32,
    },
    /// The genesis cannot be used.
    #[error("{0}")]
    Range(crate::space::RangeError),
}

/// The state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpamState {
    genesis: GenesisId,
    founders: Vec<NodeId>,
    table: SlotTable,
    chain: BTreeMap<GrantId, Proof>,
    given: BTreeMap<GrantId, Grant>,
    addresses: BTreeMap<u32, Held>,
    vote: Vote,
    epochs: Vec<Decided>,
    members: BTreeSet<NodeId>,
    gone: BTreeMap<NodeId, u32>,
    seen: BTreeMap<NodeId, (u64, u64)>,
    serial: u64,
    loans: u32,
    turns: BTreeMap<u32, u32>,
    wishes: BTreeMap<NodeId, bool>,
    rests: BTreeSet<u32>,
    promised: BTreeMap<u32, Version>,
}

/// The state as octets hold it.
#[derive(Serialize, Deserialize)]
struct Stored {
    genesis: GenesisId,
    slots: Vec<(SlotRun, NodeId, bool)>,
    chain: Vec<Proof>,
    given: Vec<Grant>,
    addresses: Vec<(u32, Held)>,
    vote: Vote,
    epochs: Vec<Decided>,
    seen: Vec<(NodeId, u64, u64)>,
    serial: u64,
    loans: u32,
    turns: Vec<(u32, u32)>,
    wishes: Vec<(NodeId, bool)>,
    rests: Vec<u32>,
    promised: Vec<SlotRun>,
}

impl IpamState {
    /// The state of every host of a new cluster: the founders own all slots and are the members of epoch 0.
    ///
    /// # Errors
    /// The genesis names a range that cannot be used.
    pub fn genesis(genesis: &Genesis) -> Result<Self, StateError> {
        let space = AddressSpace::of_genesis(genesis).map_err(StateError::Range)?;
        Ok(Self {
            genesis: genesis.id(),
            founders: genesis.founders.clone(),
            table: SlotTable::genesis(space.slots(), &genesis.founders),
            chain: BTreeMap::new(),
            given: BTreeMap::new(),
            addresses: BTreeMap::new(),
            vote: Vote::default(),
            epochs: Vec::new(),
            members: genesis.founders.iter().copied().collect(),
            gone: BTreeMap::new(),
            seen: BTreeMap::new(),
            serial: 0,
            loans: 0,
            turns: BTreeMap::new(),
            wishes: BTreeMap::new(),
            rests: BTreeSet::new(),
            promised: BTreeMap::new(),
        })
    }

    fn join(&mut self, run: &SlotRun, owner: NodeId, is_frozen: bool) {
        // A damaged log may name billions of slots behind the end.
        for slot in run.first..run.slots().end.min(self.table.len()) {
            let register = Register {
                version: run.version,
                owner,
                is_frozen,
            };
            self.table.join(slot, register);
            if self.promised(slot) <= run.version {
                self.promised.remove(&slot);
            }
        }
    }

    /// Takes one step.
    pub fn apply(&mut self, change: &Change) {
        self.serial = self.serial.saturating_add(1);
        match change {
            Change::Slots {
                run,
                owner,
                is_frozen,
            } => self.join(run, *owner, *is_frozen),
            Change::Chain(proof) => {
                self.chain.insert(proof.id(), proof.clone());
            }
            Change::Unchain(id) => {
                self.chain.remove(id);
            }
            Change::Given(grant) => {
                // In one step: a log that is torn behind this has not moved slots of which nobody is told.
                for run in &grant.runs {
                    self.join(run, grant.to, false);
                }
                self.given.insert(grant.id(), grant.clone());
            }
            Change::Accepted(id) => {
                self.given.remove(id);
            }
            Change::Address(offset, held) => {
                if let Some(Held::Lent { number, .. }) = held {
                    self.loans = self.loans.max(*number);
                }
                if !matches!(held, Some(Held::Pod(_) | Held::Borrowed { .. })) {
                    self.turns.remove(offset);
                }
                match held {
                    Some(held) => self.addresses.insert(*offset, held.clone()),
                    None => self.addresses.remove(offset),
                };
            }
            Change::Voted(vote) => self.vote = vote.clone(),
            Change::Decided(decided) => {
                if decided.epoch.number == self.epoch() + 1 {
                    self.vote = Vote::default();
                    self.take_members(&decided.epoch);
                    self.epochs.push(decided.clone());
                }
            }
            Change::Seen(node, incarnation, serial) => {
                let seen = self.seen.entry(*node).or_default();
                *seen = (*seen).max((*incarnation, *serial));
            }
            Change::Turn(offset, turn) => {
                self.turns.insert(*offset, *turn);
            }
            Change::Promised(run) => {
                for slot in run.first..run.slots().end.min(self.table.len()) {
                    let promised = self.promised.entry(slot).or_default();
                    *promised = (*promised).max(run.version);
                }
            }
            Change::Wish(host, wish) => {
                match wish {
                    Some(fenced) => self.wishes.insert(*host, *fenced),
                    None => self.wishes.remove(host),
                };
            }
            Change::Rest { first, count, rests } => {
                for slot in *first..first.saturating_add(*count).min(self.table.len()) {
                    if *rests {
                        self.rests.insert(slot);
                    } else {
                        self.rests.remove(&slot);
                    }
                }
            }
        }
    }

    fn take_members(&mut self, epoch: &Epoch) {
        self.members.extend(epoch.added.iter().copied());
        for removed in &epoch.removed {
            self.members.remove(removed);
            self.gone.entry(*removed).or_insert(epoch.number);
            self.wishes.remove(removed);
        }
    }

    /// Octets for a snapshot.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&Stored {
            genesis: self.genesis,
            slots: self.table.all_runs().collect(),
            chain: self.chain.values().cloned().collect(),
            given: self.given.values().cloned().collect(),
            addresses: self
                .addresses
                .iter()
                .map(|(offset, held)| (*offset, held.clone()))
                .collect(),
            vote: self.vote.clone(),
            epochs: self.epochs.clone(),
            seen: self.seen.iter().map(|(node, (i, s))| (*node, *i, *s)).collect(),
            serial: self.serial,
            loans: self.loans,
            turns: self.turns.iter().map(|(offset, turn)| (*offset, *turn)).collect(),
            wishes: self
                .wishes
                .iter()
                .map(|(host, fenced)| (*host, *fenced))
                .collect(),
            rests: self.rests.iter().copied().collect(),
            promised: self.promised_runs(),
        })
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// The octets are no state, or one of another cluster.
    pub fn decode(bytes: &[u8], genesis: &Genesis) -> Result<Self, StateError> {
        let stored: Stored = codec::decode::<_, STATE_MAX>(bytes).map_err(StateError::Encoding)?;
        let mut state = Self::genesis(genesis)?;
        if stored.genesis != state.genesis {
            return Err(StateError::Foreign {
                stored: stored.genesis,
                expected: state.genesis,
            });
        }
        let covered = stored
            .slots
            .iter()
            .fold(0u32, |sum, (run, ..)| sum.saturating_add(run.count));
        if covered != state.table.len() {
            return Err(StateError::Slots {
                stored: covered,
                expected: state.table.len(),
            });
        }
        for (run, owner, is_frozen) in &stored.slots {
            for slot in run.slots() {
                let register = Register {
                    version: run.version,
                    owner: *owner,
                    is_frozen: *is_frozen,
                };
                state.table.join(slot, register);
            }
        }
        state.chain = stored
            .chain
            .into_iter()
            .map(|proof| (proof.id(), proof))
            .collect();
        state.given = stored
            .given
            .into_iter()
            .map(|grant| (grant.id(), grant))
            .collect();
        state.addresses = stored.addresses.into_iter().collect();
        for decided in &stored.epochs {
            state.take_members(&decided.epoch);
        }
        state.epochs = stored.epochs;
        state.vote = stored.vote;
        state.seen = stored
            .seen
            .into_iter()
            .map(|(node, i, s)| (node, (i, s)))
            .collect();
        (state.serial, state.loans) = (stored.serial, stored.loans);
        state.turns = stored.turns.into_iter().collect();
        state.wishes = stored.wishes.into_iter().collect();
        state.rests = stored.rests.into_iter().collect();
        let promised = stored
            .promised
            .iter()
            .filter(|run| run.slots().end <= state.table.len());
        state.promised = promised
            .flat_map(|run| run.slots().map(|slot| (slot, run.version)))
            .collect();
        Ok(state)
    }

    /// Name of the cluster.
    pub fn genesis_id(&self) -> GenesisId {
        self.genesis
    }

    /// The hosts that founded the cluster.
    pub fn founders(&self) -> &[NodeId] {
        &self.founders
    }

    /// Who owned a slot at version 0; `None` behind the end.
    pub fn first_owner(&self, slot: u32) -> Option<NodeId> {
        let share = first_share(self.table.len(), self.founders.len(), slot);
        self.founders.get(share as usize).copied()
    }

    /// The slot registers.
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    /// Every address that is not simply free, by offset.
    pub fn addresses(&self) -> &BTreeMap<u32, Held> {
        &self.addresses
    }

    /// Grants and reclaims behind this host's slots.
    pub fn chain(&self) -> &BTreeMap<GrantId, Proof> {
        &self.chain
    }

    /// Grants of this host that are not accepted yet.
    pub fn given(&self) -> &BTreeMap<GrantId, Grant> {
        &self.given
    }

    /// This host's vote for the next epoch.
    pub fn vote(&self) -> &Vote {
        &self.vote
    }

    /// Decided epochs from number 1 on.
    pub fn epochs(&self) -> &[Decided] {
        &self.epochs
    }

    /// Number of the latest decided epoch; 0 is the founders alone.
    pub fn epoch(&self) -> u32 {
        self.epochs.len() as u32
    }

    /// What the next epoch must name as its parent.
    pub fn epoch_hash(&self) -> [u8; 32] {
        self.epochs
            .last()
            .map_or(self.genesis.0, |decided| decided.epoch.hash())
    }

    /// [`Self::epoch_hash`] as it was at this epoch; `None` for one that is not decided.
    pub fn hash_of(&self, epoch: u32) -> Option<[u8; 32]> {
        match epoch.checked_sub(1) {
            None => Some(self.genesis.0),
            Some(at) => self.epochs.get(at as usize).map(|decided| decided.epoch.hash()),
        }
    }

    /// [`Self::members`] as they were at this epoch.
    pub fn members_at(&self, epoch: u32) -> BTreeSet<NodeId> {
        let mut members: BTreeSet<NodeId> = self.founders.iter().copied().collect();
        for decided in self.epochs.iter().take(epoch as usize) {
            members.extend(decided.epoch.added.iter().copied());
            members.retain(|node| !decided.epoch.removed.contains(node));
        }
        members
    }

    /// Hosts that somebody wants removed and that are not yet; true where somebody vouches that they are off for good.
    pub fn wishes(&self) -> &BTreeMap<NodeId, bool> {
        &self.wishes
    }

    /// The version below which this host takes no grant of a slot, because it has signed that the slot is nobody's.
    pub fn promised(&self, slot: u32) -> Version {
        self.promised.get(&slot).copied().unwrap_or_default()
    }

    fn promised_runs(&self) -> Vec<SlotRun> {
        let mut runs: Vec<SlotRun> = Vec::new();
        for (slot, version) in &self.promised {
            match runs.last_mut() {
                Some(last) if last.slots().end == *slot && last.version == *version => last.count += 1,
                _ => runs.push(SlotRun {
                    first: *slot,
                    count: 1,
                    version: *version,
                }),
            }
        }
        runs
    }

    /// Slots that were taken back from removed hosts and rest.
    pub fn resting_slots(&self) -> &BTreeSet<u32> {
        &self.rests
    }

    /// Who may own slots, and votes.
    pub fn members(&self) -> &BTreeSet<NodeId> {
        &self.members
    }

    /// Every host that an epoch has removed, and which; none of them ever comes back.
    pub fn gone(&self) -> &BTreeMap<NodeId, u32> {
        &self.gone
    }

    /// Highest (incarnation, serial) seen of a member.
    pub fn seen(&self, node: &NodeId) -> (u64, u64) {
        self.seen.get(node).copied().unwrap_or_default()
    }

    /// How many changes made this state.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Highest number that a loan of this host had.
    pub fn loans(&self) -> u32 {
        self.loans
    }

    /// Which of its pod's addresses one is: lower for one that the pod has had for longer.
    pub fn turn(&self, offset: u32) -> u32 {
        self.turns.get(&offset).copied().unwrap_or_default()
    }
}
