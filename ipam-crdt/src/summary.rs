//! What the machine tells about itself, for status.

use crate::io::{AllocError, WaitReason};
use crate::ipam::{Ipam, Standing};
use crate::state::Held;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use weft_wire::NodeId;

/// A stretch of neighbouring slots with one owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnedRange {
    /// Its first address.
    pub first: IpAddr,
    /// Its last address.
    pub last: IpAddr,
    /// Who owns it.
    pub owner: NodeId,
    /// R7: nothing is given out from it.
    pub is_frozen: bool,
}

/// The address space as this host sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Ranges in order of address.
    pub ranges: Vec<OwnedRange>,
    /// Addresses that its pods have, in order, with the pod.
    pub used: Vec<(IpAddr, String)>,
    /// How many there are of each kind.
    pub counts: Counts,
    /// Number of the membership epoch.
    pub epoch: u32,
    /// Members of that epoch.
    pub epoch_members: u64,
}

/// Addresses by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// In this host's slots, the first and the last of the range included.
    pub owned: u64,
    /// That this host can give out at once.
    pub free: u64,
    /// That its pods have, the borrowed ones included.
    pub used: u64,
    /// Of this host's slots, that others have borrowed.
    pub lent: u64,
    /// Of others' slots, that pods of this host have.
    pub borrowed: u64,
    /// Freed, and resting before they are given out again.
    pub resting: u64,
}

/// What one host owns of the range, as far as this host knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// The host.
    pub node: NodeId,
    /// Addresses in its slots.
    pub addresses: u64,
    /// Of these, those in slots that two hosts claim (R7).
    pub frozen: u64,
    /// Addresses that can be given out at once: exactly for this host, at least so many for another.
    pub free: u64,
    /// Its addresses that others have borrowed.
    pub lent: u64,
    /// Others' addresses that it has borrowed.
    pub borrowed: u64,
}

impl Ipam {
    /// What every host holds that owns, lends or borrows anything, or may own something; in order of the ids.
    pub fn holdings(&self) -> Vec<Holding> {
        let mut holdings: BTreeMap<NodeId, Holding> = BTreeMap::new();
        let none = |node: NodeId| Holding {
            node,
            addresses: 0,
            frozen: 0,
            free: 0,
            lent: 0,
            borrowed: 0,
        };
        for node in self.state.members().iter().chain(&self.members) {
            holdings.insert(*node, none(*node));
        }
        for (run, owner, is_frozen) in self.state.table().all_runs() {
            let holding = holdings.entry(owner).or_insert_with(|| none(owner));
            let addresses = u64::from(run.count) * u64::from(self.space.slot_size());
            holding.addresses += addresses;
            holding.frozen += if is_frozen { addresses } else { 0 };
        }
        for (node, peer) in &self.peers {
            let lent = peer.lent.loans.len() as u64;
            // A bit length: 0 is none, n is 2^(n-1) at least.
            let free = peer.free.and_then(|(_, bits)| bits.checked_sub(1));
            if let Some(holding) = holdings.get_mut(node) {
                holding.lent = lent;
                holding.free = free.and_then(|bits| 1u64.checked_shl(bits.into())).unwrap_or(0);
            }
            for loan in peer.lent.loans.iter() {
                let borrower = peer.lent.borrowers.get(usize::from(loan.borrower));
                if let Some(holding) = borrower.and_then(|borrower| holdings.get_mut(borrower)) {
                    holding.borrowed += 1;
                }
            }
        }
        for held in self.state.addresses().values() {
            if let Held::Lent { to, .. } = held
                && let Some(holding) = holdings.get_mut(to)
            {
                holding.borrowed += 1;
            }
        }
        let counts = self.counts();
        if let Some(own) = holdings.get_mut(&self.node) {
            (own.free, own.lent, own.borrowed) = (counts.free, counts.lent, counts.borrowed);
        }
        holdings.into_values().collect()
    }

    /// The address space as this host sees it.
    pub fn summary(&self) -> Summary {
        let size = self.space.slot_size();
        let range = |first: u32, count: u32| {
            let begin = self.space.address(first.checked_mul(size)?)?;
            let last = first
                .checked_add(count)?
                .checked_mul(size)
                .map_or(u32::MAX, |next| next.saturating_sub(1));
            Some((begin, self.space.address(last)?))
        };
        let mut ranges: Vec<OwnedRange> = Vec::new();
        let mut end = None;
        for (run, owner, is_frozen) in self.state.table().all_runs() {
            let Some((first, last)) = range(run.first, run.count) else {
                continue;
            };
            match ranges.last_mut() {
                // Versions differ where slots came by different ways; people care for owners.
                Some(before)
                    if before.owner == owner && before.is_frozen == is_frozen && end == Some(run.first) =>
                {
                    before.last = last;
                }
                _ => ranges.push(OwnedRange {
                    first,
                    last,
                    owner,
                    is_frozen,
                }),
            }
            end = Some(run.slots().end);
        }
        let mut used = Vec::new();
        for (offset, held) in self.state.addresses() {
            if let Held::Pod(id) | Held::Borrowed { id, .. } = held
                && let Some(address) = self.space.address(*offset)
            {
                used.push((address, id.clone()));
            }
        }
        Summary {
            ranges,
            used,
            counts: self.counts(),
            epoch: self.state.epoch(),
            epoch_members: self.state.members().len() as u64,
        }
    }

    /// How many addresses there are of each kind, without listing any.
    pub fn counts(&self) -> Counts {
        let slots: u64 = self.own_runs.iter().map(|run| u64::from(run.count)).sum();
        let mut counts = Counts {
            owned: slots * u64::from(self.space.slot_size()),
            free: self.pool.free_addresses(),
            used: 0,
            lent: 0,
            borrowed: 0,
            resting: self.resting.len() as u64,
        };
        for held in self.state.addresses().values() {
            match held {
                Held::Pod(_) => counts.used += 1,
                Held::Borrowed { .. } => {
                    (counts.used, counts.borrowed) = (counts.used + 1, counts.borrowed + 1)
                }
                Held::Lent { .. } => counts.lent += 1,
                Held::Returning { .. } | Held::Resting | Held::Abandoned => {}
            }
        }
        counts
    }

    /// Why nothing, or less, is given out.
    pub fn hindrance(&self) -> Option<String> {
        let leaving = || self.leaving.as_ref().map(|_| AllocError::Leaving.to_string());
        self.standing_hindrance().or_else(leaving)
    }

    /// Why this host may not do all that the owner of slots may.
    pub fn standing_hindrance(&self) -> Option<String> {
        match &self.standing {
            Standing::Confirmed => None,
            Standing::AwaitingConfirmation(_) => Some(WaitReason::Confirmation.to_string()),
            Standing::Frozen(reason) => Some(reason.to_string()),
        }
    }
}
