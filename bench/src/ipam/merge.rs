//! The slot registers of two hosts, joined: what a host does with all it hears after a partition.

use crate::figure::Sample;
use std::hint::black_box;
use std::time::Instant;
use weft_ipam_crdt::table::{Register, SlotTable};
use weft_wire::NodeId;
use weft_wire::ipam::Version;

/// Slots of every range of a /16 and larger.
const SLOTS: u32 = 65_536;
/// Owners among which the slots are dealt.
const OWNERS: u32 = 1_000;

pub(super) fn run() -> Vec<Sample> {
    // Neighbours with different owners are the worst: nothing can be taken together.
    let dealt = table(|slot| slot % OWNERS);
    let usual = table(|slot| (slot / (SLOTS / OWNERS)).min(OWNERS - 1));
    let memory = dealt.memory() as f64 / 1024.0;
    vec![
        Sample::new(
            "merge of 65,536 slots, each with another owner than the next",
            "ms",
            merge(&dealt),
        ),
        Sample::new(
            "merge of 65,536 slots, 1,000 owners of 65 in a row",
            "ms",
            merge(&usual),
        ),
        Sample::new("memory of 65,536 slots with 1,000 owners", "KiB", memory),
    ]
}

/// Every slot has been handed over once, to one of the owners.
fn table(owner: impl Fn(u32) -> u32) -> SlotTable {
    let mut table = SlotTable::genesis(SLOTS, &[node(OWNERS)]);
    for slot in 0..SLOTS {
        let version = Version { epoch: 1, seq: 1 };
        let register = Register {
            version,
            owner: node(owner(slot)),
            is_frozen: false,
        };
        table.join(slot, register);
    }
    table
}

fn node(number: u32) -> NodeId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

/// Milliseconds of merging all of `other` into a host that knows nothing of it.
fn merge(other: &SlotTable) -> f64 {
    let mut table = SlotTable::genesis(SLOTS, &[node(OWNERS)]);
    let begin = Instant::now();
    table.merge(black_box(other));
    let took = begin.elapsed();
    black_box(&table);
    took.as_secs_f64() * 1e3
}
