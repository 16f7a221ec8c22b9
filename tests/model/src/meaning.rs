//! What of a host's state the rules can tell apart.

use weft_ipam_crdt::IpamState;
use weft_wire::codec;

/// Octets that are equal for two states if, and only if, no rule tells them apart: all but the count of changes
/// and which of several equally good votes prove an epoch.
pub fn of_state(state: &IpamState) -> Vec<u8> {
    let registers: Vec<_> = state.table().all_runs().collect();
    let addresses: Vec<_> = state.addresses().iter().collect();
    let chain: Vec<_> = state.chain().keys().collect();
    let given: Vec<_> = state.given().keys().collect();
    let members: Vec<_> = state.members().iter().collect();
    codec::encode(&(
        registers,
        addresses,
        chain,
        given,
        state.vote(),
        (state.epoch(), state.epoch_hash(), members),
        (state.loans(), state.wishes(), state.resting_slots()),
        state.promised(crate::slots::SLOT),
    ))
}
