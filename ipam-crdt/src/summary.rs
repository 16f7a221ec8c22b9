//! What the machine tells about itself, for status.

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
    /// Addresses that this host can give out at once.
    pub free: u64,
    /// Addresses that its pods have, with the pod.
    pub used: Vec<(IpAddr, String)>,
    /// Addresses of this host's slots that others have borrowed.
    pub lent: u64,
    /// Addresses of others' slots that pods of this host have.
    pub borrowed: u64,
    /// Freed addresses that rest before they are given out again.
    pub resting: u64,
    /// Requests that wait for an address.
    pub waiting: u64,
    /// Number of the membership epoch.
    pub epoch: u32,
    /// Members of that epoch.
    pub epoch_members: u64,
    /// Why nothing, or less, is given out, in words.
    pub hindrance: Option<String>,
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
        let mut used = BTreeMap::new();
        let (mut lent, mut borrowed) = (0, 0);
        for (offset, held) in self.state.addresses() {
            match held {
                Held::Lent { .. } => lent += 1,
                Held::Borrowed { .. } => borrowed += 1,
                Held::Pod(_) | Held::Returning { .. } | Held::Resting => {}
            }
            let pod = self
                .ids
                .iter()
                .find(|(_, offsets)| offsets.contains(offset))
                .map(|(id, _)| id.clone());
            if let (Some(address), Some(pod)) = (self.space.address(*offset), pod) {
                used.insert(address, pod);
            }
        }
        Summary {
            ranges,
            free: self.pool.free_addresses(),
            used: used.into_iter().collect(),
            lent,
            borrowed,
            resting: self.resting.len() as u64,
            waiting: self.waiting.len() as u64,
            epoch: self.state.epoch(),
            epoch_members: self.state.members().len() as u64,
            hindrance: match &self.standing {
                Standing::Confirmed => None,
                Standing::AwaitingConfirmation(_) => Some(crate::io::WaitReason::Confirmation.to_string()),
                Standing::Frozen(reason) => Some(reason.to_string()),
            },
        }
    }
}
