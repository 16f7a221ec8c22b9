//! What others were told survives a crash: an admission is on the admitter's disk before anybody else has it, or another
//! one of the same host, and who was a member before a start is one after it.

use super::{Invariant, Scene, Seen};
use std::collections::{BTreeMap, BTreeSet};
use weft_node::Notice;
use weft_wire::record::{Admission, Body as _};
use weft_wire::{Envelope, NodeId};

/// What was told.
#[derive(Default)]
pub struct Durable {
    members: BTreeSet<NodeId>,
    /// States of disks that are gone.
    gone: BTreeMap<NodeId, Option<Vec<u8>>>,
    /// Members of which the admission was found on its admitter's disk.
    found: BTreeSet<(NodeId, NodeId)>,
    /// Members known at each host.
    counts: BTreeMap<usize, usize>,
}

impl Invariant for Durable {
    fn name(&self) -> &'static str {
        "durable"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Started { id, has_state, .. } => {
                self.counts.remove(&scene.host);
                match *has_state || !self.members.contains(id) {
                    true => Ok(()),
                    false => Err(format!(
                        "{id:?} said that it was a member, and forgot it in a crash"
                    )),
                }
            }
            Seen::Wiped { id, state } => {
                self.gone.insert(*id, state.clone());
                Ok(())
            }
            Seen::Said(Notice::Joined { .. }) => {
                self.members.insert(scene.this().id());
                match scene.this().durable() {
                    Some(_) => Ok(()),
                    None => {
                        Err("this host says that it is a member, and nothing of it is on its disk".into())
                    }
                }
            }
            Seen::Settled { .. } => self.settled(scene),
            _ => Ok(()),
        }
    }
}

/// Every admission of a host that anybody knows: several let in one that asked several, and one of these stays.
fn admissions_of<'a>(scene: &'a Scene<'_>, subject: NodeId) -> impl Iterator<Item = Envelope> + 'a {
    let running = scene.hosts.iter().filter_map(|host| host.running());
    let memberships = running.filter_map(|running| running.node.mesh().membership());
    let admissions = memberships.flat_map(|membership| membership.admissions().into_iter().cloned());
    admissions.filter(move |envelope| {
        Admission::from_envelope(envelope).is_ok_and(|admission| admission.subject == subject)
    })
}

impl Durable {
    /// Looks for new admissions, and for each on the disk of whoever signed it.
    fn settled(&mut self, scene: &Scene<'_>) -> Result<(), String> {
        let membership = scene
            .this()
            .running()
            .and_then(|running| running.node.mesh().membership());
        let Some(membership) = membership else {
            return Ok(());
        };
        let count = membership.member_count();
        if self.counts.insert(scene.host, count) == Some(count) {
            return Ok(());
        }
        for envelope in membership.admissions() {
            let admission =
                Admission::from_envelope(envelope).map_err(|error| format!("an admission: {error:?}"))?;
            let pair = (admission.subject, admission.admitter);
            if self.found.contains(&pair) {
                continue;
            }
            let state = match scene.hosts.iter().find(|host| host.id() == admission.admitter) {
                Some(host) => host.durable(),
                None => self.gone.get(&admission.admitter).cloned().flatten(),
            };
            let holds = |envelope: &Envelope| {
                let octets = envelope.as_bytes();
                let state = state.as_deref().unwrap_or_default();
                state.windows(octets.len()).any(|part| part == octets)
            };
            if !holds(envelope) && !admissions_of(scene, admission.subject).any(|other| holds(&other)) {
                return Err(format!(
                    "the admission of {:?} is known, and {:?}, who signed it, would forget it in a crash",
                    admission.subject, admission.admitter
                ));
            }
            self.found.insert(pair);
        }
        Ok(())
    }
}
