//! The rules by which a slot changes its owner, as functions of the state alone.
//!
//! The machine carries out what they say, and the model checker calls the same functions. Signatures are checked by
//! the caller: every grant and reclaim that comes in here is genuine.
//!
//! A host that an epoch has removed is *gone*. Two rules make it safe to give its slots to somebody else: a host takes
//! no slot from one that is gone ([`next_steps`]), and every member of the epoch has said, knowing that epoch, that it
//! neither has the slot nor has granted it to somebody who may still take it ([`judge_reclaim`]), and has promised to
//! take no earlier grant of it from anybody ([`signed`]).

use crate::message::{AskId, Refusal};
use crate::pool::next_versions;
use crate::state::{Change, Held, IpamState};
use crate::table::Register;
use alloc::vec::Vec;
use weft_wire::NodeId;
use weft_wire::ipam::{GIVEN_MAX, GRANT_CHAIN_MAX, Grant, SLOT_RUNS_MAX, SlotRun, Version};
use weft_wire::reclaim::{Proof, Reclaim};

/// The question that a loan answers which nobody asked for: an address of a removed lender that its borrower keeps.
/// Questions count from 1.
pub const KEPT_ASK: AskId = AskId {
    incarnation: 0,
    count: 0,
};

/// What hosts say in their own records that they own, of those whose record is not older than the last removal.
pub type Claims<'a> = &'a dyn Fn(&NodeId) -> Option<&'a [SlotRun]>;

/// The slots of these runs that `node` may hand to `to`, all or none, as they will be: each one version further.
///
/// `runs` carry the versions at which `node` owns them.
///
/// # Errors
/// Why it may not: a slot is not its own, holds an address that is not lent to `to`, or rests; `to` is in no epoch; too
/// many grants are under way.
pub fn grantable(
    state: &IpamState,
    node: &NodeId,
    to: &NodeId,
    slot_size: u32,
    runs: &[SlotRun],
) -> Result<Vec<SlotRun>, Refusal> {
    if !state.members().contains(to) || !state.members().contains(node) {
        return Err(Refusal::NotInEpoch);
    }
    if state.given().len() >= GIVEN_MAX {
        return Err(Refusal::NoRoom);
    }
    for run in runs {
        may_grant(state, node, to, slot_size, run)?;
    }
    if runs.is_empty() {
        return Err(Refusal::NothingFree);
    }
    Ok(next_versions(runs, state.epoch()))
}

/// Whether `node` may hand these slots to `to`, whatever else is under way.
///
/// An address in them may be lent, if it is lent to `to`: nobody else gives it out or has it, before the grant because
/// this host has noted the loan, and afterwards because `to` owns the slot and knows what its pods have.
///
/// # Errors
/// Why not.
pub(crate) fn may_grant(
    state: &IpamState,
    node: &NodeId,
    to: &NodeId,
    slot_size: u32,
    run: &SlotRun,
) -> Result<(), Refusal> {
    if !state.members().contains(to) {
        return Err(Refusal::NotInEpoch);
    }
    let is_own = state.table().registers_in(run).all(|(_, _, register)| {
        register.owner == *node && !register.is_frozen && register.version == run.version
    });
    let is_whole = run.count > 0 && run.slots().end <= state.table().len();
    if !is_own || !is_whole {
        return Err(Refusal::NotOwner);
    }
    let mut held = state.addresses().range(offsets_of(run, slot_size));
    let is_used = held.any(|(_, held)| !matches!(held, Held::Lent { to: other, .. } if other == to))
        || state.resting_slots().range(run.slots()).next().is_some();
    if run.version.seq >= GRANT_CHAIN_MAX || is_used {
        return Err(Refusal::NothingFree);
    }
    Ok(())
}

/// The slots from `first` on, `most` at most, that rest at `node` since it took them back, and that it may hand to `to` all the same:
/// nobody else has an address in them.
///
/// `to` names an address in the first of them, so its pods had addresses there. It takes them over at rest
/// ([`resting_again`]), and so a removed host that is alive and unaware is as safe as before.
pub fn resting_for(
    state: &IpamState,
    node: &NodeId,
    to: &NodeId,
    slot_size: u32,
    first: u32,
    most: u32,
) -> Option<SlotRun> {
    if !state.members().contains(to) || !state.members().contains(node) {
        return None;
    }
    let version = state.table().get(first)?.version;
    let is_one = |slot: &u32| {
        let run = SlotRun {
            first: *slot,
            count: 1,
            version,
        };
        let is_own = state.table().get(*slot).is_some_and(|register| {
            register.owner == *node && !register.is_frozen && register.version == version
        });
        let mut held = state.addresses().range(offsets_of(&run, slot_size));
        is_own
            && state.resting_slots().contains(slot)
            && held.all(|(_, held)| matches!(held, Held::Lent { to: other, .. } if other == to))
    };
    let slots = first..state.table().len().min(first.saturating_add(most));
    let count = slots.take_while(is_one).count() as u32;
    (count > 0 && is_taken_back(version)).then_some(SlotRun {
        first,
        count,
        version,
    })
}

/// True for the version of a slot that was taken back and has not changed hands since.
fn is_taken_back(version: Version) -> bool {
    version.epoch > 0 && version.seq == 0
}

/// Of slots that this host takes by a grant, those that their former owner had taken back itself from hosts that may be alive: unless
/// it is known that their rest is over, they rest here from the beginning.
pub fn resting_again(state: &IpamState, steps: &[SlotRun]) -> Vec<SlotRun> {
    let mut out: Vec<SlotRun> = Vec::new();
    for step in steps.iter().filter(|step| step.version.seq == 1) {
        for (first, count, register) in state.table().registers_in(step) {
            let is_unfenced = (1..=register.version.epoch).any(|number| is_unfenced(state, number));
            if is_taken_back(register.version) && is_unfenced {
                push(&mut out, first, count, step.version);
            }
        }
    }
    out
}

/// True for an epoch that removed hosts of which nobody vouched that they are off.
fn is_unfenced(state: &IpamState, number: u32) -> bool {
    let decided = number
        .checked_sub(1)
        .and_then(|at| state.epochs().get(at as usize));
    decided.is_some_and(|decided| !decided.epoch.removed.is_empty() && !decided.epoch.fenced)
}

/// The addresses of a run, which must not be empty.
fn offsets_of(run: &SlotRun, slot_size: u32) -> core::ops::RangeInclusive<u32> {
    // The end of the largest range is 2^32, which does not fit.
    run.first * slot_size..=(run.slots().end - 1) * slot_size + (slot_size - 1)
}

/// Loans that a grant ends for the host that signed it; behind [`granted`], so that a log that is torn between them has
/// no address free that is lent. What is left so is a loan of which the new owner knows nothing, and which it returns.
pub fn loans_ended(state: &IpamState, grant: &Grant, slot_size: u32) -> Vec<Change> {
    let offsets = grant
        .runs
        .iter()
        .filter(|run| run.count > 0)
        .flat_map(|run| state.addresses().range(offsets_of(run, slot_size)));
    let lent = offsets.filter(|(_, held)| matches!(held, Held::Lent { to, .. } if *to == grant.to));
    lent.map(|(offset, _)| Change::Address(*offset, None)).collect()
}

/// What giving a grant does to the state of the host that signed it; before it leaves. The first change is the grant, which
/// moves the slots, so that a log that is torn behind it holds all or nothing; the others tell what has moved.
pub fn granted(grant: &Grant) -> Vec<Change> {
    let slots = grant.runs.iter().map(|run| Change::Slots {
        run: *run,
        owner: grant.to,
        is_frozen: false,
    });
    [Change::Given(grant.clone())].into_iter().chain(slots).collect()
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
            if !is_next {
                continue;
            }
            for slot in first..first + count {
                if grant.to != *node || run.version >= state.promised(slot) {
                    push(&mut steps, slot, 1, run.version);
                }
            }
        }
    }
    steps
}

/// True when nothing will come of a grant to this host any more: its slots are at these versions or beyond, or promised.
pub fn is_settled(state: &IpamState, runs: &[SlotRun]) -> bool {
    runs.iter().all(|run| {
        let mut registers = state.table().registers_in(run);
        let is_promised = |slot: u32| run.version < state.promised(slot);
        registers.all(|(first, count, register)| {
            register.version >= run.version || (first..first + count).all(is_promised)
        })
    })
}

/// What signing that nobody owns these slots does to the state; before the signature leaves.
///
/// Without it a host could sign, and then take a grant that was on its way from another member, which signs in turn
/// because it has granted the slot and the recipient has it.
pub fn signed(state: &IpamState, runs: &[SlotRun]) -> Vec<Change> {
    let is_new = |run: &&SlotRun| run.slots().any(|slot| state.promised(slot) < run.version);
    runs.iter()
        .filter(is_new)
        .map(|run| Change::Promised(*run))
        .collect()
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

/// How far grants and reclaims lead for one slot, starting at genesis or at the latest reclaim not beyond `until`: the
/// version, and who owns the slot by it.
pub fn proved(state: &IpamState, known: &[&Proof], slot: u32, until: Version) -> (Version, NodeId) {
    let run_of = |runs: &[SlotRun]| runs.iter().find(|run| run.slots().contains(&slot)).copied();
    // Behind the end of the range nobody owns anything.
    let mut at = (
        Version::default(),
        state.first_owner(slot).unwrap_or(NodeId([0; 32])),
    );
    for proof in known {
        if let Proof::Reclaim(reclaim) = proof
            && let Some(run) = run_of(&reclaim.runs)
            && run.version > at.0
            && run.version <= until
        {
            at = (run.version, reclaim.to);
        }
    }
    while at.0 < until {
        let step = known.iter().find_map(|proof| match proof {
            Proof::Grant(grant) if grant.from == at.1 => {
                let run = run_of(&grant.runs)?;
                let is_next =
                    at.0.seq.checked_add(1) == Some(run.version.seq) && run.version.epoch >= at.0.epoch;
                is_next.then_some((run.version, grant.to))
            }
            _ => None,
        });
        match step {
            Some(step) => at = step,
            None => break,
        }
    }
    at
}

/// True when the recipient of a grant, who owns slots in `own_runs` runs, could prove afterwards by what is known, the
/// grant among it, that it owns what it gets, and its record has room.
pub fn can_take(state: &IpamState, own_runs: usize, grant: &Grant, known: &[&Proof]) -> bool {
    if own_runs + grant.runs.len() > SLOT_RUNS_MAX {
        return false;
    }
    let near: Vec<&Proof> = known
        .iter()
        .copied()
        .filter(|proof| proof.covers(&grant.runs))
        .collect();
    grant.runs.iter().all(|run| {
        // Between two of these borders all slots have the same proofs.
        let mut borders: Vec<u32> = near
            .iter()
            .flat_map(|proof| proof.runs())
            .flat_map(|step| [step.first, step.slots().end])
            .filter(|slot| run.slots().contains(slot))
            .chain([run.first])
            .chain(
                run.slots()
                    .skip(1)
                    .filter(|slot| state.first_owner(*slot) != state.first_owner(slot - 1)),
            )
            .collect();
        borders.sort_unstable();
        borders.dedup();
        borders
            .into_iter()
            .all(|slot| proved(state, &near, slot, run.version) == (run.version, grant.to))
    })
}

/// What taking these steps of a grant does to the state. `kept` are the proofs of the slots; only their recipient keeps
/// them, and before the slots: a log that is torn between them leaves no slot without its proof, and the grant comes again.
pub fn taken(state: &IpamState, grant: &Grant, steps: &[SlotRun], kept: &[&Proof]) -> Vec<Change> {
    let slots = steps.iter().map(|run| Change::Slots {
        run: *run,
        owner: grant.to,
        is_frozen: false,
    });
    let proofs = kept
        .iter()
        .filter(|proof| !state.chain().contains_key(&proof.id()))
        .map(|proof| Change::Chain((*proof).clone()));
    proofs.chain(slots).collect()
}

/// True when a proof says nothing about these slots that a later reclaim among `chain` does not make needless.
pub fn is_spent<'a>(
    proof: &Proof,
    slots: &[SlotRun],
    chain: impl Iterator<Item = &'a Proof> + Clone,
) -> bool {
    let is_behind = |run: &SlotRun, slot: u32| {
        let mut later = chain.clone().filter_map(|other| match other {
            Proof::Reclaim(reclaim) if reclaim.epoch() > run.version.epoch => Some(&reclaim.runs),
            _ => None,
        });
        later.any(|runs| runs.iter().any(|other| other.slots().contains(&slot)))
    };
    proof.runs().iter().all(|run| {
        slots
            .iter()
            .filter(|own| own.overlaps(run))
            .flat_map(|own| run.first.max(own.first)..run.slots().end.min(own.slots().end))
            .all(|slot| is_behind(run, slot))
    })
}

/// Who takes the slots of the removed hosts, as of this epoch: the one that the latest epoch names which removed anybody.
pub fn reclaimer_at(state: &IpamState, epoch: u32) -> Option<NodeId> {
    let named = state.epochs().iter().take(epoch as usize).rev();
    named.filter_map(|decided| decided.epoch.reclaimer).next()
}

/// Number of the latest epoch that removed anybody; 0 when none did.
pub fn last_removal(state: &IpamState) -> u32 {
    let removals = state
        .epochs()
        .iter()
        .filter(|decided| !decided.epoch.removed.is_empty());
    removals
        .map(|decided| decided.epoch.number)
        .next_back()
        .unwrap_or(0)
}

/// The parts of `count` slots from `first` that a host does not list as its own, in a record of a time when it knew of
/// the last removal. Without such a record there are none.
fn disowned(owner: &NodeId, first: u32, count: u32, claims: Claims) -> Vec<(u32, u32)> {
    let mut parts = Vec::new();
    let Some(runs) = claims(owner) else {
        return parts;
    };
    let end = first + count;
    let mut at = first;
    for run in runs
        .iter()
        .filter(|run| run.slots().end > first && run.first < end)
    {
        if run.first > at {
            parts.push((at, run.first - at));
        }
        at = at.max(run.slots().end);
    }
    if at < end {
        parts.push((at, end - at));
    }
    parts
}

/// Slots that are nobody's, as far as `node` knows, with the version that taking them back would give them.
///
/// They belong to hosts that are gone; or to a member that does not say so itself, because a host that is gone
/// had granted them to it and it had not taken them in time.
pub fn orphans(state: &IpamState, node: &NodeId, claims: Claims) -> Vec<SlotRun> {
    let mut runs: Vec<SlotRun> = Vec::new();
    if state.gone().is_empty() {
        return runs;
    }
    let version = Version {
        epoch: state.epoch(),
        seq: 0,
    };
    for (run, owner, is_frozen) in state.table().all_runs() {
        if is_frozen || owner == *node || run.version >= version {
            continue;
        }
        if state.gone().contains_key(&owner) {
            push(&mut runs, run.first, run.count, version);
        } else {
            for (first, count) in disowned(&owner, run.first, run.count, claims) {
                push(&mut runs, first, count, version);
            }
        }
    }
    runs
}

/// What a member says when the reclaimer asks for these slots: nothing against it, or those that it must not take,
/// with the versions that the member knows.
///
/// A member has something against it where it owns the slot itself, where it has granted the slot and the recipient
/// has not said that it has it, where it knows of a grant in that epoch or later, where the slot is frozen (R7), and where it belongs to another member that has not
/// disowned it. All members are asked, so the first two are enough against an honest reclaimer; the last one keeps
/// a dishonest one from more than the slots of the removed.
///
/// # Errors
/// The runs that are in the way.
pub fn judge_reclaim(
    state: &IpamState,
    node: &NodeId,
    runs: &[SlotRun],
    claims: Claims,
) -> Result<(), Vec<SlotRun>> {
    let mut against: Vec<SlotRun> = Vec::new();
    let open: Vec<&Grant> = state
        .given()
        .values()
        .filter(|grant| !state.gone().contains_key(&grant.to) && grant.covers(runs))
        .collect();
    for run in runs {
        for (first, count, register) in state.table().registers_in(run) {
            let Register {
                version,
                owner,
                is_frozen,
            } = register;
            if owner == *node || is_frozen || version >= run.version {
                push(&mut against, first, count, version);
                continue;
            }
            let free = if state.gone().contains_key(&owner) {
                alloc::vec![(first, count)]
            } else {
                disowned(&owner, first, count, claims)
            };
            let one = |slot: u32| SlotRun {
                first: slot,
                count: 1,
                version,
            };
            for slot in first..first + count {
                let is_free = free
                    .iter()
                    .any(|(first, count)| (*first..first + count).contains(&slot));
                if !is_free || open.iter().any(|grant| grant.covers(&[one(slot)])) {
                    push(&mut against, slot, 1, version);
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

/// True when a slot that is taken back must rest: its owner, or one before it whose slot was never used since, may be
/// alive and not know yet that it was removed.
fn must_rest(state: &IpamState, register: &Register) -> bool {
    match state.gone().get(&register.owner) {
        Some(since) if is_unfenced(state, *since) => true,
        Some(_) if register.version.seq > 0 || register.version.epoch == 0 => false,
        _ => (1..=state.epoch()).any(|number| is_unfenced(state, number)),
    }
}

/// What taking slots back does to the state of the reclaimer, once every member has signed. `kept` are the addresses in
/// them that other hosts have borrowed and keep.
pub fn reclaimed(state: &IpamState, reclaim: &Reclaim, kept: &[(u32, NodeId)]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    // The owner comes last: whoever finds the slots its own has found all else.
    let mut number = state.loans();
    for (offset, to) in kept {
        if !state.addresses().contains_key(offset) {
            number = number.saturating_add(1);
            let lent = Held::Lent {
                to: *to,
                number,
                ask: KEPT_ASK,
            };
            changes.push(Change::Address(*offset, Some(lent)));
        }
    }
    for run in &reclaim.runs {
        for (first, count, register) in state.table().registers_in(run) {
            let rests = must_rest(state, &register);
            match changes.last_mut() {
                Some(Change::Rest {
                    first: start,
                    count: before,
                    rests: same,
                }) if *same == rests && *start + *before == first => {
                    *before += count;
                }
                _ => changes.push(Change::Rest { first, count, rests }),
            }
        }
    }
    changes.push(Change::Chain(Proof::Reclaim(reclaim.clone())));
    changes.extend(reclaim.runs.iter().map(|run| Change::Slots {
        run: *run,
        owner: reclaim.to,
        is_frozen: false,
    }));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::AddressSpace;
    use weft_wire::record::Genesis;
    use weft_wire::{GenesisId, NodeKey};

    /// A grant of two runs, and the state before it.
    fn grant() -> (IpamState, Grant) {
        let [from, to] = [1, 2].map(|seed| NodeKey::from_seed([seed; 32]));
        let space = AddressSpace::of_range("10.32.0.0/24".parse().unwrap()).unwrap();
        let genesis = Genesis {
            founders: alloc::vec![from.id()],
            nonce: [0; 16],
            range: space.range(),
            slot_size: space.slot_size(),
        };
        let runs = [(3, 2), (9, 4)].map(|(first, count)| SlotRun {
            first,
            count,
            version: Version { epoch: 0, seq: 1 },
        });
        let grant = Grant::sign(&from, &GenesisId([0; 32]), to.id(), runs.to_vec());
        (IpamState::genesis(&genesis).unwrap(), grant)
    }

    /// How many slots a host has once so many of these changes are in its log.
    fn slots_after(state: &IpamState, changes: &[Change], host: &NodeId) -> (IpamState, u32) {
        let mut state = state.clone();
        changes.iter().for_each(|change| state.apply(change));
        let slots = state.table().runs_of(host).iter().map(|run| run.count).sum();
        (state, slots)
    }

    #[test]
    fn a_log_that_is_torn_in_a_grant_has_moved_no_slot_of_which_nobody_is_told() {
        let (state, grant) = grant();
        let changes = granted(&grant);
        for torn in 0..=changes.len() {
            let (after, slots) = slots_after(&state, &changes[..torn], &grant.to);
            assert_eq!(slots, if torn == 0 { 0 } else { 6 }, "{torn}");
            assert_eq!(after.given().contains_key(&grant.id()), torn > 0, "{torn}");
        }
    }

    #[test]
    fn a_log_that_is_torn_in_a_taken_grant_has_no_slot_without_its_proof() {
        let (state, grant) = grant();
        let proof = Proof::Grant(grant.clone());
        let changes = taken(&state, &grant, &grant.runs, &[&proof]);
        let mut owned = Vec::new();
        for torn in 0..=changes.len() {
            let (after, slots) = slots_after(&state, &changes[..torn], &grant.to);
            assert!(slots == 0 || after.chain().contains_key(&proof.id()), "{torn}");
            owned.push(slots);
        }
        assert_eq!(owned, [0, 0, 2, 6]);
    }
}
