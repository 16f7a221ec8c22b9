//! What the machine tells about itself, for status.

use crate::io::WaitReason;
use crate::ipam::{Ipam, Standing};
use crate::state::Held;
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

impl Ipam {
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
        match &self.standing {
            Standing::Confirmed => None,
            Standing::AwaitingConfirmation(_) => Some(WaitReason::Confirmation.to_string()),
            Standing::Frozen(reason) => Some(reason.to_string()),
        }
    }
}
