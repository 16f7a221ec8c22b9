//! Addresses that attached pods have and the state does not know of, when the router starts.
//!
//! A state can lack what a pod was told: it was lost, or a loss of power came before the sync of a slow disk. What the kernel
//! has is as good a witness, so such an address is claimed for its pod.

use crate::command::BRIDGE;
use weft_ipam_crdt::{AddressSpace, Claim, Held, IpamState};
use weft_kernel::inspect::{self, Port};

/// Claims of such addresses. `known` is the state and its range; without it the state knows of none.
pub(super) fn unknown(known: Option<(&IpamState, AddressSpace)>) -> Vec<Claim> {
    match inspect::ports(BRIDGE) {
        Ok(ports) => missing(known, &ports),
        Err(error) => {
            tracing::warn!(
                "what pods are attached cannot be read, so their addresses are not compared: {error}"
            );
            Vec::new()
        }
    }
}

fn missing(known: Option<(&IpamState, AddressSpace)>, ports: &[Port]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for port in ports {
        let (Some(record), Some(pod)) = (&port.record, &port.pod) else {
            continue;
        };
        for address in record.addresses().map(|net| net.addr()) {
            let is_there = pod.addresses.iter().any(|found| found.addr() == address);
            let is_known = known.is_some_and(|(state, space)| {
                let held = space
                    .offset(address)
                    .and_then(|offset| state.addresses().get(&offset));
                matches!(held, Some(Held::Pod(id) | Held::Borrowed { id, .. }) if *id == record.id)
            });
            if is_there && !is_known {
                let id = record.id.clone();
                claims.push(Claim { id, address });
            }
        }
    }
    claims
}
