//! Addresses: what one costs in the core, what it costs when it is durable and when another host has the space, and
//! what merging costs.

mod core;
mod durable;
mod merge;
mod remote;

use crate::figure::Sample;
use std::path::Path;
use weft_ipam_crdt::{AddressSpace, Input, Ipam, IpamConfig, IpamState, Role};
use weft_wire::record::Genesis;
use weft_wire::{NodeKey, Time};

/// Callers that wait for addresses at once: a lone pod, a small burst, a node that starts with all its pods.
const CALLERS: [usize; 3] = [1, 8, 40];

/// One run of all.
///
/// # Errors
/// A file cannot be written, or an address is refused.
pub fn run(folder: &Path) -> anyhow::Result<Vec<Sample>> {
    let mut samples = core::run()?;
    for callers in CALLERS {
        samples.extend(durable::run(folder, callers)?);
    }
    samples.extend(remote::run(folder)?);
    samples.extend(merge::run());
    Ok(samples)
}

/// The default range, founded by one host that is alone.
struct Cluster {
    key: NodeKey,
    genesis: Genesis,
    space: AddressSpace,
}

impl Cluster {
    fn new() -> anyhow::Result<Self> {
        let key = NodeKey::from_seed([1; 32]);
        let space = AddressSpace::of_range("10.32.0.0/12".parse()?)?;
        let genesis = Genesis {
            founders: vec![key.id()],
            nonce: [1; 16],
            range: space.range(),
            slot_size: space.slot_size(),
        };
        Ok(Self { key, genesis, space })
    }

    fn machine(&self) -> anyhow::Result<Ipam> {
        let config = IpamConfig {
            node: self.key.id(),
            key: NodeKey::from_seed([1; 32]),
            space: self.space,
            genesis: self.genesis.clone(),
            incarnation: 1,
            durable: IpamState::genesis(&self.genesis)?,
            expected: 1,
            role: Role::Owner,
            seed: [2; 32],
        };
        let mut ipam = Ipam::new(config, Time::ZERO)?;
        ipam.handle(Time::ZERO, Input::MembersChanged(vec![self.key.id()]));
        Ok(ipam)
    }
}
