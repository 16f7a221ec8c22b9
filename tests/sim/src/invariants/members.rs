//! There is one cluster, and nobody is in it without a chain of admissions that leads to a founder.

use super::{Invariant, Scene, Seen};
use std::collections::{BTreeMap, BTreeSet};
use weft_gossip::Membership;
use weft_gossip::membership::verify_chain;
use weft_ipam_crdt::FreezeReason;
use weft_node::Notice;
use weft_wire::hash::hash;
use weft_wire::{Envelope, GenesisId, NodeId};

/// Who was seen, and what was checked before.
#[derive(Default)]
pub struct Members {
    strangers: BTreeSet<NodeId>,
    incarnations: BTreeMap<NodeId, u64>,
    /// Digests of the chains that hold: signatures are dear.
    checked: BTreeSet<[u8; 32]>,
    fingerprints: BTreeMap<usize, [u8; 16]>,
    /// The admissions that each host had when it was checked last.
    admissions: BTreeMap<usize, Vec<Envelope>>,
}

impl Invariant for Members {
    fn name(&self) -> &'static str {
        "members"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Started { id, incarnation, .. } => {
                if scene.this().is_stranger {
                    self.strangers.insert(*id);
                }
                match self.incarnations.insert(*id, *incarnation) {
                    Some(last) if *incarnation <= last => {
                        Err(format!("start {incarnation} of {id:?} came after start {last}"))
                    }
                    _ => Ok(()),
                }
            }
            Seen::Said(Notice::Foreign { genesis, .. }) => {
                match is_known(scene, *genesis) && scene.other.is_some() {
                    true => Ok(()),
                    false => Err(format!("a host of another cluster, {genesis:?}")),
                }
            }
            Seen::Said(Notice::Warning(sentence)) if has_reason(scene, sentence) => Ok(()),
            Seen::Said(Notice::Warning(sentence)) => Err(format!("without any reason: {sentence}")),
            Seen::Settled { .. } => {
                let Some(mesh) = scene.this().running().map(|running| running.node.mesh()) else {
                    return Ok(());
                };
                let fingerprint = mesh.registers().fingerprint();
                match (
                    self.fingerprints.insert(scene.host, fingerprint),
                    mesh.membership(),
                ) {
                    (before, Some(membership)) if before != Some(fingerprint) => {
                        self.check(scene, membership)
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// True for the cluster, and for the other one where two meet.
fn is_known(scene: &Scene<'_>, genesis: GenesisId) -> bool {
    [scene.genesis, scene.other].contains(&Some(genesis))
}

/// True for a warning that has a reason in what was done to the host.
fn has_reason(scene: &Scene<'_>, sentence: &str) -> bool {
    let running = scene.this().running().map(|running| running.node.id());
    let is_named = running.is_some_and(|node| scene.named.contains_key(&node));
    let gone = format!("no addresses are given out: {}", FreezeReason::Removed);
    let is_of_removal = sentence.starts_with("this host was removed from the cluster") || *sentence == gone;
    is_of_removal && is_named
}

impl Members {
    fn check(&mut self, scene: &Scene<'_>, membership: &Membership) -> Result<(), String> {
        if !is_known(scene, membership.id()) {
            return Err(format!("this host is in another cluster, {:?}", membership.id()));
        }
        let held = membership.admissions();
        let known = self.admissions.entry(scene.host).or_default();
        if known.iter().eq(held.iter().copied()) && !known.is_empty() {
            return Ok(());
        }
        *known = held.into_iter().cloned().collect();
        for member in membership.members() {
            if self.strangers.contains(&member) {
                return Err(format!("{member:?} is a member and had no right to be"));
            }
            let chain = membership
                .chain_of(&member)
                .ok_or_else(|| format!("{member:?} is a member without a chain of admissions"))?;
            let octets: Vec<&[u8]> = chain.iter().map(|envelope| envelope.as_bytes()).collect();
            let digest = hash("weft sim chain", &octets);
            if !self.checked.contains(&digest) {
                verify_chain(membership.genesis(), &chain, &member)
                    .map_err(|error| format!("the admissions of {member:?} do not hold: {error}"))?;
                self.checked.insert(digest);
            }
        }
        Ok(())
    }
}
