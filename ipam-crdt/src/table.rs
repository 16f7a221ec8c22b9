//! The slot registers: who owns each slot, at which version.
//!
//! A register grows only: the higher version stands. Two owners of one version freeze the slot; which of the two
//! is shown then follows from their ids alone. So joining tables is commutative, associative and idempotent.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use weft_wire::NodeId;
use weft_wire::ipam::{SlotRun, Version};

/// Set in [`Entry::owner`] when two owners of this version are known.
const FROZEN: u32 = 1 << 31;

/// Twelve octets a slot: 786 KB for the 65,536 slots of the largest ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    version: Version,
    owner: u32,
}
const _: () = assert!(
    core::mem::size_of::<Entry>() == 12,
    "65,536 registers stay below 1 MB"
);

/// One slot's register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// Its version.
    pub version: Version,
    /// Who owns the slot.
    pub owner: NodeId,
    /// True when two owners of this version are known: nobody gives addresses out of it.
    pub is_frozen: bool,
}

/// What a version did to a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joined {
    /// It is higher than what was held.
    Newer,
    /// It is what was held.
    Same,
    /// A higher one is held.
    Older,
    /// The same version of another owner was held: the slot is frozen now.
    Conflict,
}

/// All registers of a range.
#[derive(Clone, Debug)]
pub struct SlotTable {
    entries: Vec<Entry>,
    owners: Vec<NodeId>,
    index: BTreeMap<NodeId, u32>,
}

impl PartialEq for SlotTable {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len() && self.all_runs().eq(other.all_runs())
    }
}
impl Eq for SlotTable {}

/// Which of so many founders owns a slot at version 0: each gets one run of slots, and no two of these runs differ by more
/// than one slot.
pub(crate) fn first_share(slots: u32, founders: usize, slot: u32) -> u32 {
    let behind = (u64::from(slot) + 1) * founders.max(1) as u64 - 1;
    // Below the number of founders for every slot of the range.
    (behind / u64::from(slots.max(1))) as u32
}

impl SlotTable {
    /// The table of a new cluster: its founders, of which there is at least one, own even shares at version 0.
    pub fn genesis(slots: u32, founders: &[NodeId]) -> Self {
        let entry = |slot| Entry {
            version: Version::default(),
            owner: first_share(slots, founders.len(), slot),
        };
        Self {
            entries: (0..slots).map(entry).collect(),
            owners: founders.to_vec(),
            index: founders.iter().copied().zip(0..).collect(),
        }
    }

    /// How many slots there are.
    pub fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    /// True for a table without slots, which no range gives.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The register of a slot; `None` behind the end.
    pub fn get(&self, slot: u32) -> Option<Register> {
        let entry = self.entries.get(slot as usize)?;
        Some(Register {
            version: entry.version,
            owner: *self.owners.get((entry.owner & !FROZEN) as usize)?,
            is_frozen: entry.owner & FROZEN != 0,
        })
    }

    /// The registers of a run of slots, neighbours with equal ones taken together, in order: first slot, how many, and
    /// their register. Slots behind the end are left out.
    pub fn registers_in(&self, run: &SlotRun) -> impl Iterator<Item = (u32, u32, Register)> + '_ {
        let slots = run.slots();
        let end = (slots.end as usize).min(self.entries.len());
        let mut rest = self.entries.get(slots.start as usize..end).unwrap_or_default();
        core::iter::from_fn(move || {
            let entry = rest.first()?;
            let same = rest.iter().take_while(|other| *other == entry).count();
            let first = (end - rest.len()) as u32;
            rest = rest.get(same..)?;
            Some((first, same as u32, self.get(first)?))
        })
    }

    fn intern(&mut self, owner: NodeId) -> u32 {
        if let Some(index) = self.index.get(&owner) {
            return *index;
        }
        let index = self.owners.len() as u32;
        self.owners.push(owner);
        self.index.insert(owner, index);
        index
    }

    /// Joins one version into a register. Slots behind the end are left out.
    pub fn join(&mut self, slot: u32, register: Register) -> Joined {
        let Some(held) = self.get(slot) else {
            return Joined::Older;
        };
        let (owner, outcome) = match register.version.cmp(&held.version) {
            core::cmp::Ordering::Less => return Joined::Older,
            core::cmp::Ordering::Greater => (register.owner, Joined::Newer),
            core::cmp::Ordering::Equal if register.owner == held.owner => {
                if held.is_frozen || !register.is_frozen {
                    return Joined::Same;
                }
                (held.owner, Joined::Conflict)
            }
            core::cmp::Ordering::Equal => (register.owner.min(held.owner), Joined::Conflict),
        };
        let frozen = register.is_frozen || outcome == Joined::Conflict;
        let index = self.intern(owner) | if frozen { FROZEN } else { 0 };
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            *entry = Entry {
                version: register.version,
                owner: index,
            };
        }
        outcome
    }

    /// Joins another table of the same range.
    pub fn merge(&mut self, other: &SlotTable) {
        for (run, owner, is_frozen) in other.all_runs() {
            for slot in run.slots() {
                self.join(
                    slot,
                    Register {
                        version: run.version,
                        owner,
                        is_frozen,
                    },
                );
            }
        }
    }

    /// Every slot, neighbours with equal registers taken together: owner, and whether they are frozen.
    pub fn all_runs(&self) -> impl Iterator<Item = (SlotRun, NodeId, bool)> + '_ {
        let mut at = 0usize;
        core::iter::from_fn(move || {
            let entry = *self.entries.get(at)?;
            let count = self
                .entries
                .iter()
                .skip(at)
                .take_while(|other| **other == entry)
                .count();
            let run = SlotRun {
                first: at as u32,
                count: count as u32,
                version: entry.version,
            };
            at += count;
            let owner = *self.owners.get((entry.owner & !FROZEN) as usize)?;
            Some((run, owner, entry.owner & FROZEN != 0))
        })
    }

    /// The runs that `owner` owns, frozen ones too.
    pub fn runs_of(&self, owner: &NodeId) -> Vec<SlotRun> {
        let mine = self.all_runs().filter(|(_, other, _)| other == owner);
        let mut runs: Vec<SlotRun> = Vec::new();
        for (run, _, _) in mine {
            match runs.last_mut() {
                Some(last) if last.slots().end == run.first && last.version == run.version => {
                    last.count += run.count;
                }
                _ => runs.push(run),
            }
        }
        runs
    }

    /// Octets that the registers take in memory.
    pub fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.owners.capacity() * size_of::<NodeId>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(seed: u8) -> NodeId {
        NodeId([seed; 32])
    }

    type Write = (u32, u32, u32, u8, bool);

    fn table(writes: &[Write]) -> SlotTable {
        let mut table = SlotTable::genesis(8, &[node(0)]);
        for (slot, epoch, seq, owner, is_frozen) in writes {
            let version = Version {
                epoch: *epoch,
                seq: *seq,
            };
            table.join(
                *slot,
                Register {
                    version,
                    owner: node(*owner),
                    is_frozen: *is_frozen,
                },
            );
        }
        table
    }

    fn merged(a: &SlotTable, b: &SlotTable) -> SlotTable {
        let mut out = a.clone();
        out.merge(b);
        out
    }

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        proptest::collection::vec(
            (0..8u32, 0..2u32, 0..3u32, 0..3u8, proptest::bool::weighted(0.1)),
            0..24,
        )
    }

    proptest! {
        #[test]
        fn merging_is_a_join(a in writes(), b in writes(), c in writes()) {
            let (a, b, c) = (table(&a), table(&b), table(&c));
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(&merged(&a, &a), &a);
        }

        #[test]
        fn a_register_never_goes_back(a in writes(), b in writes()) {
            let (a, b) = (table(&a), table(&b));
            let after = merged(&a, &b);
            for slot in 0..8 {
                let (old, new) = (a.get(slot).unwrap(), after.get(slot).unwrap());
                prop_assert!(new.version >= old.version);
                if new.version == old.version {
                    prop_assert!(new.is_frozen || new.owner == old.owner);
                    prop_assert!(new.is_frozen || !old.is_frozen);
                }
            }
        }

        #[test]
        fn writes_in_any_order_and_number_give_one_table(a in writes(), b in writes()) {
            let all: Vec<Write> = [&a[..], &b[..], &a[..]].concat();
            let back: Vec<Write> = b.iter().chain(&a).rev().copied().collect();
            prop_assert_eq!(table(&all), table(&back));
        }
    }

    #[test]
    fn founders_own_even_shares_in_one_piece_each() {
        for (slots, count) in [(4, 1), (4, 3), (256, 3), (65_536, 3), (65_536, 64), (2, 5)] {
            let founders: Vec<NodeId> = (0..count).map(node).collect();
            let table = SlotTable::genesis(slots, &founders);
            let even = slots / u32::from(count);
            for founder in &founders {
                let runs = table.runs_of(founder);
                let owned: u32 = runs.iter().map(|run| run.count).sum();
                assert!(
                    runs.len() <= 1 && (even..=even + 1).contains(&owned),
                    "{slots} of {count}: {runs:?}"
                );
            }
            assert_eq!(table.all_runs().map(|(run, ..)| run.count).sum::<u32>(), slots);
        }
    }

    #[test]
    fn the_largest_table_stays_below_its_bound_and_runs_cover_it() {
        let mut table = SlotTable::genesis(65_536, &[node(0)]);
        for slot in (0..65_536).step_by(3) {
            let version = Version { epoch: 1, seq: 1 };
            table.join(
                slot,
                Register {
                    version,
                    owner: node((slot % 200) as u8),
                    is_frozen: false,
                },
            );
        }
        assert!(table.memory() < 1_500_000, "{}", table.memory());
        assert_eq!(table.all_runs().map(|(run, ..)| run.count).sum::<u32>(), 65_536);
    }
}
