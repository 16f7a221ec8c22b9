//! Whether the rules hold in the state as it is now, and what to do where one does not.
//!
//! Nothing here trusts what the machine keeps to be quick: it counts again, from the registers and addresses alone, and
//! compares with the records of the other hosts. What the kernel has is the shell's to compare.

use crate::io::FreezeReason;
use crate::ipam::{Ipam, Standing};
use crate::pool::Pool;
use crate::state::Held;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use weft_wire::ipam::{LentRecord, SlotRun, SlotsRecord};
use weft_wire::record::Body;
use weft_wire::{Envelope, NodeId};

/// Findings of one kind that are listed: whoever has more has one cause.
pub const LISTED_MAX: usize = 64;

/// Neighbouring slots as the addresses in them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stretch {
    /// First address.
    pub first: IpAddr,
    /// Last address.
    pub last: IpAddr,
}

impl core::fmt::Display for Stretch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

/// What this host keeps beside its state, to be quick.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Index {
    /// Which addresses are free.
    Pool,
    /// Which slots are its own.
    OwnSlots,
    /// Which addresses a pod has.
    Pods,
    /// Which addresses rest.
    Resting,
}

/// Something that is not as the rules say, or that somebody may want to know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Finding {
    /// This host gives nothing out: its state or its identity is in doubt.
    HostFrozen(FreezeReason),
    /// I2 is in danger: a pod has an address of a slot that is not this host's, without a loan.
    InForeignSlot {
        /// The address.
        address: IpAddr,
        /// The pod.
        pod: String,
        /// Owner of the slot.
        owner: NodeId,
    },
    /// This host keeps an address that it may not keep, since the slot is not its own: lent, or at rest.
    KeptInForeignSlot {
        /// The address.
        address: IpAddr,
        /// Owner of the slot.
        owner: NodeId,
    },
    /// An address is held that no pod can have.
    NoPodsAddress {
        /// Offset in the range.
        offset: u32,
        /// The range and what it is held for, in words.
        why: String,
    },
    /// R7: two hosts claim the same version of these slots.
    Frozen {
        /// The slots.
        slots: Stretch,
        /// One of the two.
        owner: NodeId,
    },
    /// R7 is due: a record claims the version that this host knows as another's.
    Disagree {
        /// The slots.
        slots: Stretch,
        /// Whose record.
        claimant: NodeId,
        /// Whom this host knows as the owner.
        held: NodeId,
    },
    /// A record is ahead of this host, and the grants in between have not come.
    Gap {
        /// The slots.
        slots: Stretch,
        /// Whose record.
        claimant: NodeId,
    },
    /// This host knows a host as the owner of slots that its own record does not list.
    Disowned {
        /// The slots.
        slots: Stretch,
        /// The owner.
        owner: NodeId,
    },
    /// Slots belong to a host that is in no epoch.
    OutsideEpoch {
        /// The slots.
        slots: Stretch,
        /// The owner.
        owner: NodeId,
    },
    /// A pod has a borrowed address that the lender's record does not list for this host.
    LoanUnknown {
        /// The address.
        address: IpAddr,
        /// The pod.
        pod: String,
        /// Who should have lent it.
        lender: NodeId,
    },
    /// A pod has an address of a host that is no member.
    LenderGone {
        /// The address.
        address: IpAddr,
        /// The pod.
        pod: String,
        /// Who lent it.
        lender: NodeId,
    },
    /// A host lists an address as lent to this one, which does not have it.
    LoanUnused {
        /// The address.
        address: IpAddr,
        /// Who lists it.
        lender: NodeId,
    },
    /// This host lends an address to a host that is no member.
    LentToStranger {
        /// The address.
        address: IpAddr,
        /// The host.
        to: NodeId,
    },
    /// A host lends an address that is not its own.
    LendsForeign {
        /// The address.
        address: IpAddr,
        /// Who lends it.
        lender: NodeId,
        /// Owner of its slot.
        owner: NodeId,
    },
    /// What this host keeps to be quick is not what its state says.
    Recount {
        /// What.
        index: Index,
    },
    /// The record that others have of this host does not list what it owns.
    OwnRecord,
}

impl Finding {
    /// Which kind it is: words joined by hyphens, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::HostFrozen(_) => "host-frozen",
            Self::InForeignSlot { .. } => "in-foreign-slot",
            Self::KeptInForeignSlot { .. } => "kept-in-foreign-slot",
            Self::NoPodsAddress { .. } => "no-pods-address",
            Self::Frozen { .. } => "frozen",
            Self::Disagree { .. } => "disagree",
            Self::Gap { .. } => "gap",
            Self::Disowned { .. } => "disowned",
            Self::OutsideEpoch { .. } => "outside-epoch",
            Self::LoanUnknown { .. } => "loan-unknown",
            Self::LenderGone { .. } => "lender-gone",
            Self::LoanUnused { .. } => "loan-unused",
            Self::LentToStranger { .. } => "lent-to-stranger",
            Self::LendsForeign { .. } => "lends-foreign",
            Self::Recount { .. } => "recount",
            Self::OwnRecord => "own-record",
        }
    }

    /// False for what passes by itself, or is only worth knowing.
    pub fn is_wrong(&self) -> bool {
        !matches!(
            self,
            Self::Gap { .. }
                | Self::Disowned { .. }
                | Self::OutsideEpoch { .. }
                | Self::LoanUnused { .. }
                | Self::LenderGone { .. }
                | Self::LentToStranger { .. }
        )
    }

    /// What was found, with the names of hosts as `name` gives them.
    pub fn what(&self, name: &dyn Fn(&NodeId) -> String) -> String {
        match self {
            Self::HostFrozen(_) => "this host gives out no addresses".into(),
            Self::InForeignSlot { address, pod, owner } => format!(
                "{pod} has {address} without a loan, though host {} owns that part of the range and may give it out",
                name(owner)
            ),
            Self::KeptInForeignSlot { address, owner } => format!(
                "{address} is lent or rests here, though host {} owns that part of the range",
                name(owner)
            ),
            Self::NoPodsAddress { why, .. } => why.clone(),
            Self::Frozen { slots, owner } => format!(
                "two hosts claim {slots}, one of them {}: nothing is given out there",
                name(owner)
            ),
            Self::Disagree {
                slots,
                claimant,
                held,
            } => format!(
                "host {} claims {slots}, which this host knows as {}'s, in the same version",
                name(claimant),
                name(held)
            ),
            Self::Gap { slots, claimant } => format!(
                "host {} says that it owns {slots}; the proof of it has not come yet",
                name(claimant)
            ),
            Self::Disowned { slots, owner } => format!(
                "this host knows {} as the owner of {slots}, and its own record does not list them",
                name(owner)
            ),
            Self::OutsideEpoch { slots, owner } => format!(
                "{slots} belong to {}, which is not among the hosts that may own addresses",
                name(owner)
            ),
            Self::LoanUnknown { address, pod, lender } => format!(
                "{pod} has {address} on loan from host {}, whose record of loans does not list it",
                name(lender)
            ),
            Self::LenderGone { address, pod, lender } => format!(
                "{pod} has {address} on loan from {}, which is no member any longer",
                name(lender)
            ),
            Self::LoanUnused { address, lender } => format!(
                "host {} lists {address} as lent to this host, which has no pod with it",
                name(lender)
            ),
            Self::LentToStranger { address, to } => {
                format!("{address} is lent to {}, which is no member any longer", name(to))
            }
            Self::LendsForeign {
                address,
                lender,
                owner,
            } => format!(
                "host {} lends {address}, which lies in the part of the range that {} owns",
                name(lender),
                name(owner)
            ),
            Self::Recount { index } => format!(
                "this router has lost count of {}",
                match index {
                    Index::Pool => "the free addresses",
                    Index::OwnSlots => "its own part of the range",
                    Index::Pods => "the addresses of its pods",
                    Index::Resting => "the addresses that rest",
                }
            ),
            Self::OwnRecord => {
                "what other hosts are told of this host's part of the range is not what it owns".into()
            }
        }
    }

    /// What to do, with the names of hosts as `name` gives them.
    pub fn cure(&self, name: &dyn Fn(&NodeId) -> String) -> String {
        match self {
            Self::HostFrozen(reason) => reason.to_string(),
            Self::InForeignSlot { pod, .. } => {
                format!("detach {pod} (`weft detach {pod}`) and attach it again: it gets another address")
            }
            Self::KeptInForeignSlot { .. } => {
                "restart the router here; if it is found again, remove this host and let it join as a new one".into()
            }
            Self::NoPodsAddress { .. } => {
                "give it back with `weft ipam free`; if it was never given out, the state was damaged: let the host join as a \
                 new one"
                    .into()
            }
            Self::Frozen { owner, .. } => format!(
                "find out which of the two hosts was restored from a copy or broke the rules (the log names them; one is {}), \
                 and take it out of the cluster; traffic is not touched meanwhile",
                name(owner)
            ),
            Self::Disagree { claimant, held, .. } => format!(
                "run `weft ipam check` on {} and on {}: one of them was restored from a copy",
                name(claimant),
                name(held)
            ),
            Self::Gap { claimant, .. } => format!(
                "nothing: it is asked for again; if it stays, look whether {} can be reached (`weft peers`)",
                name(claimant)
            ),
            Self::Disowned { owner, .. } => format!(
                "nothing, if it has just passed them on: whoever got them will say so. If that is a host that is gone for good, \
                 remove it (`weft peer remove`); else run `weft ipam check` on {}",
                name(owner)
            ),
            Self::OutsideEpoch { .. } => "nothing: they are reclaimed for the members".into(),
            Self::LoanUnknown { pod, lender, .. } => format!(
                "run `weft ipam check` on {}; if it does not list the loan either, detach {pod} and attach it again",
                name(lender)
            ),
            Self::LenderGone { pod, .. } => {
                format!("nothing: {pod} keeps it; the next time it is attached it gets another")
            }
            Self::LoanUnused { lender, .. } => format!(
                "nothing: it is given back as soon as {} can be reached",
                name(lender)
            ),
            Self::LentToStranger { .. } => "nothing: it comes back after a rest".into(),
            Self::LendsForeign { lender, .. } => format!("run `weft ipam check` on {}", name(lender)),
            Self::Recount { .. } => {
                "restart the router here: it counts anew; pods and traffic are not touched. Please report it".into()
            }
            Self::OwnRecord => "restart the router here: it publishes anew. Please report it".into(),
        }
    }
}

/// What the other hosts say, taken from their records.
#[derive(Default)]
struct Said {
    slots: BTreeMap<NodeId, SlotsRecord>,
    lent: BTreeMap<NodeId, LentRecord>,
}

impl Said {
    fn of<'a>(records: impl Iterator<Item = &'a Envelope>) -> Self {
        let mut said = Self::default();
        for envelope in records {
            let key = envelope.key();
            if key.kind == SlotsRecord::KIND {
                if let Ok(record) = SlotsRecord::from_envelope(envelope) {
                    said.slots.insert(key.owner, record);
                }
            } else if key.kind == LentRecord::KIND
                && let Ok(record) = LentRecord::from_envelope(envelope)
            {
                said.lent.insert(key.owner, record);
            }
        }
        said
    }
}

/// To whom an address is lent under this number.
fn borrower_of(record: &LentRecord, offset: u32, number: u32) -> Option<NodeId> {
    let loans = &record.loans;
    let at = loans.binary_search_by_key(&offset, |loan| loan.offset).ok()?;
    let loan = loans.get(at).filter(|loan| loan.number == number)?;
    record.borrowers.get(usize::from(loan.borrower)).copied()
}

impl Ipam {
    /// Compares everything with everything: state, what is kept beside it, and `records`, the gossip map as it is now.
    /// In order of kind, at most [`LISTED_MAX`] of each. What is only under way may show too, and is gone a moment later.
    pub fn check<'a>(&self, records: impl Iterator<Item = &'a Envelope>) -> Vec<Finding> {
        let said = Said::of(records);
        let mut found = Vec::new();
        if let Standing::Frozen(reason) = self.standing {
            found.push(Finding::HostFrozen(reason));
        }
        self.check_addresses(&said, &mut found);
        self.check_registers(&said, &mut found);
        self.check_loans(&said, &mut found);
        self.check_counts(&said, &mut found);
        found.sort();
        found.dedup();
        let mut listed: BTreeMap<&'static str, usize> = BTreeMap::new();
        found.retain(|finding| {
            let count = listed.entry(finding.kind()).or_default();
            *count += 1;
            *count <= LISTED_MAX
        });
        found
    }

    fn owner_of(&self, offset: u32) -> Option<NodeId> {
        let register = self.state.table().get(offset / self.space.slot_size())?;
        Some(register.owner)
    }

    fn stretch(&self, first: u32, count: u32) -> Option<Stretch> {
        let size = self.space.slot_size();
        let last = first
            .checked_add(count)?
            .checked_mul(size)
            .map_or(u32::MAX, |next| next - 1);
        Some(Stretch {
            first: self.space.address(first.checked_mul(size)?)?,
            last: self.space.address(last)?,
        })
    }

    /// Every held address is one that a pod can have, in a slot of this host or on loan.
    fn check_addresses(&self, said: &Said, found: &mut Vec<Finding>) {
        for (offset, held) in self.state.addresses() {
            let usable = self
                .space
                .address(*offset)
                .ok_or_else(|| format!("address number {offset} is held and behind the end of the range"))
                .and_then(|address| match self.space.for_pod(address) {
                    Ok(_) => Ok(address),
                    Err(error) => Err(format!("it is held, though {error}")),
                });
            let address = match usable {
                Ok(address) => address,
                Err(why) => {
                    found.push(Finding::NoPodsAddress { offset: *offset, why });
                    continue;
                }
            };
            let foreign = self.owner_of(*offset).filter(|owner| *owner != self.node);
            match (held, foreign) {
                (Held::Pod(pod), Some(owner)) => found.push(Finding::InForeignSlot {
                    address,
                    pod: pod.clone(),
                    owner,
                }),
                (Held::Lent { .. } | Held::Resting | Held::Abandoned, Some(owner)) => {
                    found.push(Finding::KeptInForeignSlot { address, owner });
                }
                (Held::Lent { to, .. }, None) if !self.members.contains(to) => {
                    found.push(Finding::LentToStranger { address, to: *to });
                }
                (Held::Borrowed { from, number, id }, _) => {
                    let (lender, pod) = (*from, id.clone());
                    if !self.members.contains(from) {
                        found.push(Finding::LenderGone { address, pod, lender });
                    } else if let Some(lent) = said.lent.get(from)
                        && borrower_of(lent, *offset, *number) != Some(self.node)
                    {
                        found.push(Finding::LoanUnknown { address, pod, lender });
                    }
                }
                _ => {}
            }
        }
    }

    /// The registers against what each host says of itself.
    fn check_registers(&self, said: &Said, found: &mut Vec<Finding>) {
        for (run, owner, is_frozen) in self.state.table().all_runs() {
            let Some(slots) = self.stretch(run.first, run.count) else {
                continue;
            };
            if is_frozen {
                found.push(Finding::Frozen { slots, owner });
            }
            if !self.state.members().contains(&owner) {
                found.push(Finding::OutsideEpoch { slots, owner });
            }
            if owner == self.node || is_frozen {
                continue;
            }
            let Some(record) = said.slots.get(&owner) else {
                continue;
            };
            for (first, count) in outside(&run, &record.runs) {
                if let Some(slots) = self.stretch(first, count) {
                    found.push(Finding::Disowned { slots, owner });
                }
            }
        }
        for (claimant, record) in said.slots.iter().filter(|(node, _)| **node != self.node) {
            for run in &record.runs {
                for (first, count, register) in self.state.table().registers_in(run) {
                    let Some(slots) = self.stretch(first, count) else {
                        continue;
                    };
                    let claimant = *claimant;
                    if register.version < run.version {
                        found.push(Finding::Gap { slots, claimant });
                    } else if register.version == run.version
                        && register.owner != claimant
                        && !register.is_frozen
                    {
                        found.push(Finding::Disagree {
                            slots,
                            claimant,
                            held: register.owner,
                        });
                    }
                }
            }
        }
    }

    /// What others lend.
    fn check_loans(&self, said: &Said, found: &mut Vec<Finding>) {
        for (lender, record) in said.lent.iter().filter(|(node, _)| **node != self.node) {
            for loan in &record.loans {
                let Some(address) = self.space.address(loan.offset) else {
                    continue;
                };
                let (lender, owner) = (*lender, self.owner_of(loan.offset));
                if let Some(owner) = owner.filter(|owner| *owner != lender) {
                    found.push(Finding::LendsForeign {
                        address,
                        lender,
                        owner,
                    });
                }
                let to = record.borrowers.get(usize::from(loan.borrower));
                let is_held = matches!(self.state.addresses().get(&loan.offset),
                    Some(Held::Borrowed { from, number, .. }) if *from == lender && *number == loan.number);
                if to == Some(&self.node) && !is_held {
                    found.push(Finding::LoanUnused { address, lender });
                }
            }
        }
    }

    /// What this host keeps to be quick, counted again.
    fn check_counts(&self, said: &Said, found: &mut Vec<Finding>) {
        let mut lost = |is_right: bool, index| {
            if !is_right {
                found.push(Finding::Recount { index });
            }
        };
        lost(
            self.pool == Pool::of(self.node, self.space, &self.state),
            Index::Pool,
        );
        lost(
            self.own_runs == self.state.table().runs_of(&self.node),
            Index::OwnSlots,
        );
        let mut pods: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        let mut resting = BTreeSet::new();
        for (offset, held) in self.state.addresses() {
            match held {
                Held::Pod(id) | Held::Borrowed { id, .. } => {
                    pods.entry(id).or_default().insert(*offset);
                }
                Held::Resting | Held::Abandoned => {
                    resting.insert(*offset);
                }
                Held::Lent { .. } | Held::Returning { .. } => {}
            }
        }
        lost(
            pods.len() == self.ids.len()
                && self
                    .ids
                    .iter()
                    .all(|(id, offsets)| pods.get(id.as_str()) == Some(offsets)),
            Index::Pods,
        );
        let waits: BTreeSet<u32> = self.resting.iter().map(|(_, offset)| *offset).collect();
        lost(waits == resting, Index::Resting);
        if self.standing == Standing::Confirmed
            && let Some(record) = said.slots.get(&self.node)
            && record.runs != self.own_runs
        {
            found.push(Finding::OwnRecord);
        }
    }
}

/// The parts of a run that none of `listed` covers: first slot and how many.
fn outside(run: &SlotRun, listed: &[SlotRun]) -> Vec<(u32, u32)> {
    let mut parts = Vec::new();
    let mut at = run.first;
    let end = run.slots().end;
    // Records list their runs in order.
    for other in listed.iter().filter(|other| other.overlaps(run)) {
        if other.first > at {
            parts.push((at, other.first - at));
        }
        at = at.max(other.slots().end);
    }
    if at < end {
        parts.push((at, end - at));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::ipam::Version;

    fn run(first: u32, count: u32) -> SlotRun {
        SlotRun {
            first,
            count,
            version: Version::default(),
        }
    }

    #[test]
    fn what_a_record_leaves_out_is_found() {
        assert_eq!(outside(&run(4, 4), &[run(0, 20)]), []);
        assert_eq!(outside(&run(4, 4), &[]), [(4, 4)]);
        assert_eq!(
            outside(&run(4, 4), &[run(0, 5), run(6, 1), run(9, 3)]),
            [(5, 1), (7, 1)]
        );
    }
}
