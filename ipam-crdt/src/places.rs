//! Where addresses live, as a whole: what a forwarding plane is made from, and when it is stale.

use crate::ipam::Ipam;
use crate::state::Held;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use weft_wire::ipam::Exception;
use weft_wire::{Mac, NodeId};

/// Neighbouring slots of one owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerRun {
    /// Number of the first slot.
    pub first: u32,
    /// How many; at least 1.
    pub count: u32,
    /// Who owns them; `None` where two hosts claim them.
    pub owner: Option<NodeId>,
}

/// How often the answers of [`Ipam::owner_runs`] and [`Ipam::elsewhere`] may have changed. Answers taken at the same
/// counts are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PlacesVersion {
    /// Changes of slot owners.
    pub owners: u64,
    /// Changes of what lives elsewhere than its slot says.
    pub elsewhere: u64,
}

/// What lives on a host although no slot says so.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Elsewhere {
    /// Addresses that are lent, claimed, static or virtual.
    pub addresses: BTreeMap<IpAddr, NodeId>,
    /// MAC addresses that a host announces.
    pub macs: BTreeMap<Mac, NodeId>,
}

impl Ipam {
    /// Says whether answers that were taken earlier still hold.
    pub fn places_version(&self) -> PlacesVersion {
        self.places
    }

    /// Who owns each slot, in order, from the first to the last.
    pub fn owner_runs(&self) -> Vec<OwnerRun> {
        let mut runs: Vec<OwnerRun> = Vec::new();
        for (run, owner, is_frozen) in self.state.table().all_runs() {
            let owner = (!is_frozen).then_some(owner);
            match runs.last_mut() {
                Some(last) if last.owner == owner => last.count += run.count,
                _ => runs.push(OwnerRun {
                    first: run.first,
                    count: run.count,
                    owner,
                }),
            }
        }
        runs
    }

    /// What lives elsewhere than its slot says, with the same precedence as [`Ipam::lookup`].
    pub fn elsewhere(&self) -> Elsewhere {
        let mut out = Elsewhere::default();
        // What is entered first stands: announced before lent, this host before others, others in order of id.
        let others = self.peers.iter().map(|(node, peer)| (*node, &peer.exceptions));
        for exception in &self.exceptions {
            enter(&mut out, *exception, self.node);
        }
        for (node, exceptions) in others {
            for exception in exceptions {
                enter(&mut out, *exception, node);
            }
        }
        let owner = |offset: u32| {
            let register = self.state.table().get(offset / self.space.slot_size())?;
            (!register.is_frozen).then_some(register.owner)
        };
        let mut place = |offset: u32, node: NodeId| {
            if let Some(address) = self.space.address(offset) {
                out.addresses.entry(address).or_insert(node);
            }
        };
        for (offset, held) in self.state.addresses() {
            match held {
                Held::Pod(_) | Held::Borrowed { .. } if owner(*offset) != Some(self.node) => {
                    place(*offset, self.node)
                }
                Held::Lent { to, .. } => place(*offset, *to),
                Held::Pod(_)
                | Held::Borrowed { .. }
                | Held::Returning { .. }
                | Held::Resting
                | Held::Abandoned => {}
            }
        }
        for (lender, peer) in &self.peers {
            for loan in &peer.lent.loans {
                let borrower = peer.lent.borrowers.get(usize::from(loan.borrower));
                // Only the owner of a slot can have lent out of it.
                if let Some(borrower) = borrower
                    && owner(loan.offset) == Some(*lender)
                {
                    place(loan.offset, *borrower);
                }
            }
        }
        out
    }
}

fn enter(out: &mut Elsewhere, exception: Exception, node: NodeId) {
    match exception {
        Exception::Static(address) | Exception::Claimed(address) | Exception::Virtual(address) => {
            out.addresses.entry(address).or_insert(node);
        }
        Exception::ForeignMac(mac) => {
            out.macs.entry(mac).or_insert(node);
        }
    }
}
