//! Forwarding tables name members and never the host itself, addresses where they live, and no datagram size that the
//! network does not carry.

use super::{Invariant, Scene, Seen};
use crate::host::home_of;
use std::collections::{BTreeMap, BTreeSet};
use weft_sleeve::ForwardingTable;
use weft_wire::NodeId;

/// Where each identity lives.
#[derive(Default)]
pub struct Tables {
    homes: BTreeMap<NodeId, usize>,
    /// Peers of hosts that have begun again, from before.
    former: BTreeMap<usize, BTreeSet<NodeId>>,
}

impl Invariant for Tables {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Started { id, .. } => {
                self.homes.insert(*id, scene.host);
                Ok(())
            }
            Seen::Began { .. } => {
                self.homes.insert(scene.this().id(), scene.host);
                let paths = scene.this().running().map(|running| &running.engine.table.peers);
                let peers = paths.into_iter().flatten().map(|path| path.peer);
                self.former.entry(scene.host).or_default().extend(peers);
                Ok(())
            }
            Seen::Published(table) => self.published(scene, table),
            _ => Ok(()),
        }
    }
}

impl Tables {
    fn published(&self, scene: &Scene<'_>, table: &ForwardingTable) -> Result<(), String> {
        let Some(running) = scene.this().running() else {
            return Err("a table of a router that does not run".into());
        };
        let membership = running.node.mesh().membership();
        for path in &table.peers {
            if path.peer == running.node.id() {
                return Err("the table names the host itself".into());
            }
            // A host that has begun again keeps its paths, and does not know all members yet, or has left them for good.
            let mut former = self.former.get(&scene.host).into_iter().flatten();
            let was_member = former.any(|peer| *peer == path.peer);
            if !was_member && !membership.is_some_and(|membership| membership.is_member(&path.peer)) {
                return Err(format!("the table names {:?}, who is no member", path.peer));
            }
            if path.datagram > scene.carried {
                return Err(format!(
                    "{} octets go to {:?}, and are lost",
                    path.datagram, path.peer
                ));
            }
        }
        if table.peers.windows(2).any(|pair| pair[0].peer >= pair[1].peer) {
            return Err("the table names a peer twice, or in no order".into());
        }
        for (mac, at) in &table.macs {
            let Some(path) = table.peers.get(usize::from(*at)) else {
                return Err(format!("{mac} lives at position {at}, and there is none"));
            };
            if mac.is_group() {
                return Err(format!("the group address {mac} was learned"));
            }
            if self.homes.get(&path.peer) != Some(&home_of(*mac)) {
                return Err(format!(
                    "{mac} was learned behind {:?}, where it never lived",
                    path.peer
                ));
            }
        }
        Ok(())
    }
}
