//! No address is given to two pods, wherever they are.

use super::{Invariant, Scene, Seen};
use std::collections::BTreeMap;
use std::net::IpAddr;
use weft_wire::NodeId;

/// Who has which address. What a host had when it lost its disk stays taken: its pods live on.
#[derive(Default)]
pub struct Addresses {
    taken: BTreeMap<IpAddr, (NodeId, String)>,
}

impl Invariant for Addresses {
    fn name(&self) -> &'static str {
        "addresses"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        let node = scene.this().id();
        match seen {
            Seen::Given { id, address } => {
                let new = (node, (*id).to_owned());
                match self.taken.insert(*address, new.clone()) {
                    Some(old) if old != new => {
                        Err(format!("{address} was given to {new:?}, and {old:?} has it"))
                    }
                    Some(_) => Ok(()),
                    None => self.only_one(node, id, *address),
                }
            }
            Seen::Left { id } => {
                self.taken.retain(|_, (owner, pod)| *owner != node || pod != id);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Addresses {
    /// The same pod gets the same address again.
    fn only_one(&self, node: NodeId, id: &str, new: IpAddr) -> Result<(), String> {
        let other = self
            .taken
            .iter()
            .find(|(address, (owner, pod))| *owner == node && pod == id && **address != new);
        match other {
            Some((old, _)) => Err(format!("{id} has {old} and was given {new} as well")),
            None => Ok(()),
        }
    }
}
