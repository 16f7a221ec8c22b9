//! The allocator: which addresses of this host's slots are free, and which slots are wholly free.
//!
//! It follows from the state and is rebuilt from it; two bitmaps answer the two questions that are asked often.

use crate::space::AddressSpace;
use crate::state::IpamState;
use crate::subnet::Span;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use weft_wire::NodeId;
use weft_wire::ipam::{SlotRun, Version};

/// One bit a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: u32) -> Self {
        Self(alloc::vec![0; (len as usize).div_ceil(64)])
    }
    fn set(&mut self, at: u32, on: bool) {
        if let Some(word) = self.0.get_mut(at as usize / 64) {
            let mask = 1u64 << (at % 64);
            *word = if on { *word | mask } else { *word & !mask };
        }
    }
    fn has(&self, at: u32) -> bool {
        self.0
            .get(at as usize / 64)
            .is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    fn word(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or_default()
    }

    /// The set bits among `slots`, in order, of the bitmap whose words `word` gives.
    fn all_in(slots: &RangeInclusive<u32>, word: impl Fn(usize) -> u64) -> impl Iterator<Item = u32> {
        let (first, last) = (*slots.start(), *slots.end());
        // Empty when the last comes before the first.
        let mut words = first / 64..last / 64 + u32::from(first <= last);
        let (mut base, mut bits) = (0, 0u64);
        core::iter::from_fn(move || {
            while bits == 0 {
                let index = words.next()?;
                base = index * 64;
                bits = word(index as usize);
                if index == first / 64 {
                    bits &= u64::MAX << (first % 64);
                }
                if index == last / 64 {
                    bits &= u64::MAX >> (63 - last % 64);
                }
            }
            let slot = base + bits.trailing_zeros();
            bits &= bits - 1;
            Some(slot)
        })
    }
}

/// What is free in this host's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    node: NodeId,
    space: AddressSpace,
    /// Addresses of a slot that are held, for slots with any.
    busy: BTreeMap<u32, u32>,
    /// Own slots with a free address.
    open: Bits,
    /// Own slots with no held address.
    empty: Bits,
    /// Own slots that were taken back from removed hosts: they are used after all others.
    late: Bits,
    /// How many bits `empty` has.
    empty_slots: u32,
    /// Free addresses in own slots.
    free: u64,
}

impl Pool {
    /// The pool that follows from a state.
    pub fn of(node: NodeId, space: AddressSpace, state: &IpamState) -> Self {
        let slots = space.slots();
        let (open, empty) = (Bits::new(slots), Bits::new(slots));
        let mut pool = Self {
            node,
            space,
            busy: BTreeMap::new(),
            open,
            empty,
            late: Bits::new(slots),
            empty_slots: 0,
            free: 0,
        };
        for offset in state.addresses().keys() {
            *pool.busy.entry(offset / space.slot_size()).or_default() += 1;
        }
        for run in state.table().runs_of(&node) {
            for slot in run.slots() {
                pool.update(slot, 0, state);
            }
        }
        pool
    }

    /// Addresses of a slot that pods can have.
    fn usable(&self, slot: u32) -> u32 {
        let size = self.space.slot_size();
        let ends = [0, (self.space.size() - 1) as u32];
        let reserved = ends
            .iter()
            .filter(|offset| **offset / size == slot && !self.is_given(**offset))
            .count();
        size - reserved as u32
    }

    fn is_given(&self, offset: u32) -> bool {
        self.space
            .address(offset)
            .is_some_and(|address| self.space.for_pod(address).is_ok())
    }

    fn free_in(&self, slot: u32) -> u32 {
        if !self.open.has(slot) {
            return 0;
        }
        self.usable(slot)
            .saturating_sub(self.busy.get(&slot).copied().unwrap_or(0))
    }

    /// Looks at a slot again whose owner has changed, or in which one address more (`+1`) or less (`-1`) is held.
    pub fn update(&mut self, slot: u32, more: i32, state: &IpamState) {
        let before = self.free_in(slot);
        let busy = self
            .busy
            .get(&slot)
            .copied()
            .unwrap_or(0)
            .saturating_add_signed(more);
        if busy == 0 {
            self.busy.remove(&slot);
        } else {
            self.busy.insert(slot, busy);
        }
        let register = state.table().get(slot);
        let mine = register.is_some_and(|register| register.owner == self.node && !register.is_frozen)
            && !state.resting_slots().contains(&slot);
        // Only taking it back begins the count of grants anew.
        let is_late =
            register.is_some_and(|register| register.version.seq == 0 && register.version.epoch > 0);
        self.late.set(slot, mine && is_late);
        let usable = self.usable(slot);
        self.open.set(slot, mine && busy < usable);
        let is_empty = mine && busy == 0 && usable > 0;
        self.empty_slots = self.empty_slots + u32::from(is_empty) - u32::from(self.empty.has(slot));
        self.empty.set(slot, is_empty);
        self.free = (self.free + u64::from(self.free_in(slot))).saturating_sub(u64::from(before));
    }

    /// The free address of `span` that goes next: of the lowest slot that is in use already, else of the lowest one; of
    /// slots that were taken back last of all. So the high slots stay whole, to be handed over.
    pub fn pick(&self, state: &IpamState, allowed: Option<&BTreeSet<u32>>, span: Span) -> Option<u32> {
        let slots = self.slots_of(span);
        if let Some(allowed) = allowed {
            let mut inside = allowed.iter().filter(|slot| slots.contains(slot));
            return inside.find_map(|slot| self.first_free(*slot, state, span));
        }
        // At the ends of a span an open slot may have its free addresses outside.
        let find = |of: fn(u64, u64, u64) -> u64| {
            let mut slots = Bits::all_in(&slots, |word| {
                of(self.open.word(word), self.empty.word(word), self.late.word(word))
            });
            slots.find_map(|slot| self.first_free(slot, state, span))
        };
        find(|open, empty, late| open & !empty & !late)
            .or_else(|| find(|open, _, late| open & !late))
            .or_else(|| find(|open, empty, _| open & !empty))
            .or_else(|| find(|open, _, _| open))
    }

    /// The slots that have an address in a span, as far as the range goes.
    fn slots_of(&self, span: Span) -> RangeInclusive<u32> {
        let slots = span.slots(self.space.slot_size());
        *slots.start()..=(*slots.end()).min(self.space.slots() - 1)
    }

    fn first_free(&self, slot: u32, state: &IpamState, span: Span) -> Option<u32> {
        if !self.open.has(slot) {
            return None;
        }
        let size = self.space.slot_size();
        let begin = slot * size;
        let (first, last) = (begin.max(span.first), (begin + (size - 1)).min(span.last));
        if first > last {
            return None;
        }
        let mut taken = state
            .addresses()
            .range(first..=last)
            .map(|(offset, _)| *offset)
            .peekable();
        (first..=last).find(|offset| {
            let held = taken.next_if_eq(offset).is_some();
            !held && self.is_given(*offset)
        })
    }

    /// True when the address is in a slot of this host, not held, and one that pods can have.
    pub fn is_free(&self, offset: u32, state: &IpamState) -> bool {
        self.open.has(offset / self.space.slot_size())
            && !state.addresses().contains_key(&offset)
            && self.is_given(offset)
    }

    /// Own slots that hold an address.
    pub fn busy_slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.busy.keys().copied()
    }

    /// Slots without a held address: those that could be handed over.
    pub fn empty_slots(&self) -> u32 {
        self.empty_slots
    }

    /// Those of them that have an address in `span`.
    pub fn empty_slots_in(&self, span: Span) -> u32 {
        Bits::all_in(&self.slots_of(span), |word| self.empty.word(word)).count() as u32
    }

    /// Free addresses.
    pub fn free_addresses(&self) -> u64 {
        self.free
    }

    /// At most `slots` wholly free slots with an address in `span`, in at most `runs` runs of one version, highest
    /// first and those that were taken back last, none with a version of `seq_max` or more.
    pub fn take_empty(
        &self,
        slots: u32,
        runs: usize,
        seq_max: u32,
        span: Span,
        state: &IpamState,
    ) -> Vec<SlotRun> {
        let mut taken: Vec<SlotRun> = Vec::new();
        let mut left = slots;
        let in_span = self.slots_of(span);
        let has_others = in_span
            .clone()
            .any(|slot| self.empty.has(slot) && !self.late.has(slot));
        for slot in in_span.rev() {
            if left == 0 {
                break;
            }
            if !self.empty.has(slot) || (has_others && self.late.has(slot)) {
                continue;
            }
            let Some(version) = state
                .table()
                .get(slot)
                .map(|r| r.version)
                .filter(|v| v.seq < seq_max)
            else {
                continue;
            };
            let is_full = taken.len() == runs;
            match taken.last_mut() {
                Some(run) if run.first == slot + 1 && run.version == version => {
                    (run.first, run.count) = (slot, run.count + 1);
                }
                _ if is_full => break,
                _ => taken.push(SlotRun {
                    first: slot,
                    count: 1,
                    version,
                }),
            }
            left -= 1;
        }
        taken.reverse();
        taken
    }
}

/// The runs with every version one grant further, signed in `epoch`.
pub fn next_versions(runs: &[SlotRun], epoch: u32) -> Vec<SlotRun> {
    let next = |run: &SlotRun| SlotRun {
        version: Version {
            epoch,
            seq: run.version.seq + 1,
        },
        ..*run
    };
    runs.iter().map(next).collect()
}
