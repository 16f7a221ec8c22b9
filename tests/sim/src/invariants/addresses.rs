//! No address is given to two pods, wherever they are, and none is held by two members of one epoch.
//!
//! What a removed host that is alive still holds is excluded until it has learned of its removal: those who have decided
//! that may have given it to somebody else. Afterwards its pods run on, but what they have is theirs only once the cluster
//! has given it to them again.

use super::{Invariant, Scene, Seen};
use crate::requests::PODS;
use std::collections::BTreeMap;
use std::net::IpAddr;
use weft_ipam_crdt::{Event, Held};
use weft_node::Notice;
use weft_wire::{GenesisId, NodeId, Time};

/// An address of a cluster.
type Place = (Option<GenesisId>, IpAddr);

/// Who has which address. What a host had when it lost its disk stays taken: its pods live on, until it is removed.
#[derive(Default)]
pub struct Addresses {
    taken: BTreeMap<Place, (NodeId, String)>,
    /// What pods of hosts that have begun again have, until it is given to them.
    kept: BTreeMap<(NodeId, String), Vec<IpAddr>>,
    /// When hosts learned that they were removed, and what their pods had then.
    learned: BTreeMap<NodeId, (Time, BTreeMap<String, Vec<IpAddr>>)>,
    /// What is on each disk: the state's serial, and the addresses of pods.
    disks: BTreeMap<usize, (NodeId, u64, Vec<u32>)>,
    held: BTreeMap<(Option<GenesisId>, u32), Vec<NodeId>>,
}

impl Invariant for Addresses {
    fn name(&self) -> &'static str {
        "addresses"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        let node = scene.this().id();
        match seen {
            Seen::Given { id, address, asked } => self.given(scene, (node, id), *address, *asked),
            Seen::Left { id } => {
                self.taken.retain(|_, (owner, pod)| *owner != node || pod != id);
                self.kept.remove(&(node, (*id).to_owned()));
                Ok(())
            }
            Seen::Said(Notice::Ipam(Event::Removed(hosts))) if hosts.contains(&node) => {
                // Whoever asks again for a pod that has an address is told it: the pod may run already.
                let running = scene.this().running();
                let of = |id: String| Some((id.clone(), running?.node.addresses_of(&id)));
                let pods = (0..PODS).filter_map(|pod| of(format!("pod{pod}"))).collect();
                self.learned.entry(node).or_insert((scene.now, pods));
                Ok(())
            }
            Seen::Started { id, .. } => {
                let state = scene.this().disk.ipam();
                if !state.is_some_and(|state| state.gone().contains_key(id)) {
                    // It learned it, and forgot it in a crash.
                    self.learned.remove(id);
                }
                Ok(())
            }
            Seen::Began { old } => {
                let taken = std::mem::take(&mut self.taken);
                for (place, (owner, pod)) in taken {
                    if owner == *old {
                        self.kept.entry((node, pod)).or_default().push(place.1);
                    } else {
                        self.taken.insert(place, (owner, pod));
                    }
                }
                let kept = std::mem::take(&mut self.kept).into_iter();
                self.kept = kept
                    .map(|((owner, pod), all)| ((if owner == *old { node } else { owner }, pod), all))
                    .collect();
                Ok(())
            }
            Seen::Wiped { id, .. } => {
                self.kept.retain(|(owner, _), _| owner != id);
                Ok(())
            }
            Seen::Synced => self.synced(scene, node),
            _ => Ok(()),
        }
    }
}

impl Addresses {
    fn given(
        &mut self,
        scene: &Scene<'_>,
        (node, id): (NodeId, &str),
        address: IpAddr,
        asked: Time,
    ) -> Result<(), String> {
        let place = (scene.this().cluster(), address);
        let new = (node, id.to_owned());
        if self.taken.get(&place) == Some(&new) {
            return Ok(());
        }
        let had =
            |pods: &BTreeMap<String, Vec<IpAddr>>| pods.get(id).is_some_and(|all| all.contains(&address));
        if let Some((learned, pods)) = self.learned.get(&node)
            && *learned < asked
            && !had(pods)
        {
            return Err(format!(
                "{address} was given to {new:?} after the host had learned that it was removed"
            ));
        }
        if scene.removed.contains(&node) {
            // It does not know, or tells a pod what that has. Somebody else may have it by now.
            return Ok(());
        }
        let old = self.taken.insert(place, new.clone());
        if let Some(old) = old.filter(|(owner, _)| !scene.removed.contains(owner)) {
            return Err(format!("{address} was given to {new:?}, and {old:?} has it"));
        }
        if let Some(kept) = self.kept.remove(&new)
            && !kept.contains(&address)
        {
            return Err(format!(
                "{id} has {kept:?} and was given {address} in place of it"
            ));
        }
        self.only_one(place, node, id)
    }

    /// The same pod gets the same address again.
    fn only_one(&self, new: Place, node: NodeId, id: &str) -> Result<(), String> {
        let other = self
            .taken
            .iter()
            .find(|(place, (owner, pod))| *owner == node && pod == id && **place != new);
        match other {
            Some(((_, old), _)) => Err(format!("{id} has {old} and was given {} as well", new.1)),
            None => Ok(()),
        }
    }

    /// Compares what a disk says that its pods have with all other disks.
    fn synced(&mut self, scene: &Scene<'_>, node: NodeId) -> Result<(), String> {
        let Some(state) = scene.this().disk.ipam() else {
            return Ok(());
        };
        let before = self.disks.get(&scene.host);
        if before.is_some_and(|(owner, serial, _)| *owner == node && *serial == state.serial()) {
            return Ok(());
        }
        let cluster = scene.this().cluster();
        if let Some((owner, _, offsets)) = self.disks.remove(&scene.host) {
            for offset in offsets {
                for held in [cluster, scene.genesis, scene.other] {
                    if let Some(owners) = self.held.get_mut(&(held, offset)) {
                        owners.retain(|other| *other != owner);
                    }
                }
            }
        }
        let is_pod = |held: &Held| matches!(held, Held::Pod(_) | Held::Borrowed { .. });
        let pods = state.addresses().iter().filter(|(_, held)| is_pod(held));
        let offsets: Vec<u32> = pods.map(|(offset, _)| *offset).collect();
        let mut shared = None;
        for offset in &offsets {
            let owners = self.held.entry((cluster, *offset)).or_default();
            let other = owners.iter().find(|other| !scene.removed.contains(other));
            shared = shared.or(other.map(|other| (*other, *offset)));
            owners.push(node);
        }
        self.disks.insert(scene.host, (node, state.serial(), offsets));
        match shared.filter(|_| !scene.removed.contains(&node)) {
            Some((other, offset)) => Err(format!(
                "address {offset} of the range is on the disks of {node:?} and {other:?}, and both are members"
            )),
            None => Ok(()),
        }
    }
}
