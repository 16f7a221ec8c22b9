//! There is one chain of epochs, each decided by a majority of the members of the one before, and none removes a host that
//! nobody has named, or counts without one that nobody has vouched for.

use super::{Invariant, Scene, Seen};
use std::collections::BTreeMap;
use weft_ipam_crdt::epoch::check_decided;
use weft_ipam_crdt::{Change, IpamState};
use weft_wire::GenesisId;

/// The chain of each cluster, as far as it is on any disk.
#[derive(Default)]
pub struct Epochs {
    chains: BTreeMap<GenesisId, IpamState>,
    /// How far each disk's chain was compared.
    compared: BTreeMap<usize, (GenesisId, u32)>,
}

impl Invariant for Epochs {
    fn name(&self) -> &'static str {
        "epochs"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Synced => self.synced(scene),
            _ => Ok(()),
        }
    }
}

impl Epochs {
    fn synced(&mut self, scene: &Scene<'_>) -> Result<(), String> {
        let disk = &scene.this().disk;
        let (Some(durable), Some(state)) = (disk.durable(), disk.ipam()) else {
            return Ok(());
        };
        let genesis = durable.genesis().id();
        let before = self.compared.insert(scene.host, (genesis, state.epoch()));
        if before == Some((genesis, state.epoch())) {
            return Ok(());
        }
        let first = match before {
            Some((other, epoch)) if other == genesis => epoch.min(state.epoch()),
            _ => 0,
        };
        let chain = match self.chains.entry(genesis) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let fresh = IpamState::genesis(durable.genesis()).map_err(|error| error.to_string())?;
                entry.insert(fresh)
            }
        };
        for decided in state.epochs().iter().skip(first as usize) {
            let epoch = &decided.epoch;
            let number = epoch.number;
            if number <= chain.epoch() {
                if chain.hash_of(number) != Some(epoch.hash()) {
                    return Err(format!("there are two epochs {number}"));
                }
                continue;
            }
            check_decided(decided, chain, &genesis).map_err(|error| format!("epoch {number}: {error}"))?;
            if let Some(host) = epoch.removed.iter().find(|host| !scene.named.contains_key(host)) {
                return Err(format!("epoch {number} removes {host:?}, whom nobody has named"));
            }
            let mut off = chain
                .members()
                .iter()
                .zip(0u16..)
                .filter(|(_, at)| decided.off.contains(at));
            if let Some((host, _)) = off.find(|(host, _)| scene.named.get(host) != Some(&true)) {
                return Err(format!(
                    "epoch {number} was decided without {host:?}, for whom nobody has vouched"
                ));
            }
            chain.apply(&Change::Decided(decided.clone()));
        }
        Ok(())
    }
}
