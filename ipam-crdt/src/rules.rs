//! The rules by which a slot changes its owner, as functions of the state alone.
//!
//! The machine carries out what they say, and the model checker calls the same functions. Signatures are checked by
//! the caller: every grant and reclaim that comes in here is genuine.
//!
//! A host that an epoch has removed is *gone*. Two rules make it safe to give its slots to somebody else: a host takes
//! no slot from one that is gone ([`next_steps`]), and every member of the epoch has said, knowing that epoch, that it
//! neither has the slot nor has granted it to somebody who may still take it ([`judge_reclaim`]).

use crate::message::Refusal;
use crate::pool::next_versions;
use crate::state::{Change, IpamState};
use alloc::vec::Vec;
use weft_wire::NodeId;
use weft_wire::ipam::{GIVEN_MAX, GRANT_CHAIN_MAX, Grant, SLOT_RUNS_MAX, SlotRun, Version};
use weft_wire::reclaim::Reclaim;

/// The slots of these runs that `node` may hand to `to`, all or none, as they will be: each one version further.
///
/// `runs` carry the versions at which `node` owns them.
///
/// # Errors
/// Why it may not: a slot is not its own, or holds an address; `to` is in no epoch; too many grants are under way.
pub fn grantable(
    state: &IpamState,
    node: &NodeId,
    to: &NodeId,
    slot_size: u32,
    runs: &[SlotRun],
) -> Result<Vec<SlotRun>, Refusal> {
    if !state.members().contains(to) {
        return Err(Refusal::NotInEpoch);
    }
    if state.given().len() >= GIVEN_MAX {
        return Err(Refusal::NoRoom);
    }
    for run in runs {
        let is_own = state.table().registers_in(run).all(|(_, _, register)| {
            register.owner == *node && !register.is_frozen && register.version == run.version
        });
        let is_whole = run.count > 0 && run.slots().end <= state.table().len();
        if !is_own || !is_whole {
            return Err(Refusal::NotOwner);
        }
        let first = run.first * slot_size;
        // The end of the largest range is 2^32, which does not fit.
        let last = (run.slots().end - 1) * slot_size + (slot_size - 1);
        if run.version.seq >= GRANT_CHAIN_MAX || state.addresses().range(first..=last).next().is_some() {
            return Err(Refusal::NothingFree);
        }
    }
    if runs.is_empty() {
        return Err(Refusal::NothingFree);
    }
    Ok(next_versions(runs, state.epoch()))
}

/// What giving a grant does to the state of the host that signed it; before it leaves.
pub fn granted(grant: &Grant) -> Vec<Change> {
    let slots = grant.runs.iter().map(|run| Change::Slots {
        run: *run,
        owner: grant.to,
        is_frozen: false,
    });
    slots.chain([Change::Given(grant.clone())]).collect()
}

/// True when `host` could own or grant slots in `epoch`, by what is known of the epochs.
fn was_member(state: &IpamState, host: &NodeId, epoch: u32) -> bool {
    state.members().contains(host) || state.gone().get(host).is_some_and(|since| epoch < *since)
}

/// The parts of a grant that are the next step of a register as `node` holds it.
///
/// The recipient itself takes nothing from a host that is gone: it may have told the reclaimer already that it has not
/// taken the slot. Everybody else follows what the gone host signed while it was a member; that moves nothing but their
/// idea of where the slot is, and without it the slots that came from a removed founder could not be proved.
pub fn next_steps(state: &IpamState, node: &NodeId, grant: &Grant) -> Vec<SlotRun> {
    let mut steps: Vec<SlotRun> = Vec::new();
    let is_refused =
        grant.to == *node && (state.gone().contains_key(&grant.from) || !state.members().contains(node));
    if is_refused {
        return steps;
    }
    for run in &grant.runs {
        let epoch = run.version.epoch;
        if epoch > state.epoch() || !was_member(state, &grant.to, epoch) {
            continue;
        }
        if state.gone().get(&grant.from).is_some_and(|since| epoch >= *since) {
            continue;
        }
        for (first, count, register) in state.table().registers_in(run) {
            let Version { epoch, seq } = register.version;
            let is_next = register.owner == grant.from
                && !register.is_frozen
                && seq.checked_add(1) == Some(run.version.seq)
                && epoch <= run.version.epoch;
            if is_next {
                push(&mut steps, first, count, run.version);
            }
        }
    }
    steps
}

/// Adds neighbouring slots to the last run where they continue it.
fn push(runs: &mut Vec<SlotRun>, first: u32, count: u32, version: Version) {
    match runs.last_mut() {
        Some(last) if last.slots().end == first && last.version == version => last.count += count,
        _ => runs.push(SlotRun {
            first,
            count,
            version,
        }),
    }
}

/// True when the recipient of a grant, who owns slots in `own_runs` runs, could prove afterwards by these grants that
/// it owns what it gets, and its record has room.
pub fn can_take(own_runs: usize, grant: &Grant, known: &[&Grant]) -> bool {
    if own_runs + grant.runs.len() > SLOT_RUNS_MAX {
        return false;
    }
    grant.runs.iter().all(|run| {
        (1..=run.version.seq).all(|seq| {
            let steps = known
                .iter()
                .flat_map(|grant| &grant.runs)
                .filter(|step| step.version.seq == seq);
            let mut steps: Vec<&SlotRun> = steps.filter(|step| step.overlaps(run)).collect();
            steps.sort();
            let reached = steps.iter().fold(run.first, |reached, step| {
                if step.first <= reached {
                    reached.max(step.slots().end)
                } else {
                    reached
                }
            });
            reached >= run.slots().end
        })
    })
}

/// What taking these steps of a grant does to the state. `kept` are the grants that prove the slots; only their
/// recipient keeps them.
pub fn taken(state: &IpamState, grant: &Grant, steps: &[SlotRun], kept: &[&Grant]) -> Vec<Change> {
    let slots = steps.iter().map(|run| Change::Slots {
        run: *run,
        owner: grant.to,
        is_frozen: false,
    });
    let proofs = kept
        .iter()
        .filter(|proof| !state.chain().contains_key(&proof.id()))
        .map(|proof| Change::Chain((*proof).clone()));
    slots.chain(proofs).collect()
}

/// Who takes the slots of the removed hosts: the one that the latest epoch names which removed anybody.
pub fn reclaimer(state: &IpamState) -> Option<NodeId> {
    let named = state.epochs().iter().rev();
    named.filter_map(|decided| decided.epoch.reclaimer).next()
}

/// Slots that belong, by the registers of this state, to hosts that are gone.
pub fn orphans(state: &IpamState) -> Vec<SlotRun> {
    let mut runs: Vec<SlotRun> = Vec::new();
    if state.gone().is_empty() {
        return runs;
    }
    for (run, owner, is_frozen) in state.table().all_runs() {
        if !is_frozen && state.gone().contains_key(&owner) {
            push(&mut runs, run.first, run.count, run.version);
        }
    }
    runs
}

/// What a member says when the reclaimer asks for these slots: nothing against it, or those that it must not take,
/// with the versions that the member knows.
///
/// A member has something against it where it owns the slot itself, where it has granted the slot and the recipient
/// has not said that it has it, and where the slot is frozen (R7). What else it believes of others does not matter:
/// every member is asked.
///
/// # Errors
/// The runs that are in the way.
pub fn judge_reclaim(state: &IpamState, node: &NodeId, runs: &[SlotRun]) -> Result<(), Vec<SlotRun>> {
    let mut against: Vec<SlotRun> = Vec::new();
    for run in runs {
        for (first, count, register) in state.table().registers_in(run) {
            if register.owner == *node || register.is_frozen {
                push(&mut against, first, count, register.version);
                continue;
            }
            for slot in first..first + count {
                let one = SlotRun {
                    first: slot,
                    count: 1,
                    version: register.version,
                };
                if state.given().values().any(|grant| grant.covers(&[one])) {
                    push(&mut against, slot, 1, register.version);
                }
            }
        }
    }
    if against.is_empty() { Ok(()) } else { Err(against) }
}

/// The parts of a reclaim that are later than the registers of this state.
pub fn reclaim_steps(state: &IpamState, reclaim: &Reclaim) -> Vec<SlotRun> {
    let mut steps: Vec<SlotRun> = Vec::new();
    if reclaim.epoch() > state.epoch() {
        return steps;
    }
    for run in &reclaim.runs {
        for (first, count, register) in state.table().registers_in(run) {
            if register.version < run.version {
                push(&mut steps, first, count, run.version);
            }
        }
    }
    steps
}
