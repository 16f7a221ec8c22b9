//! Nothing grows without limit, no timer spins, and the mesh keeps to what it agreed with its shell.

use super::{Invariant, Scene, Seen};
use std::collections::BTreeMap;
use weft_gossip::mesh::CONNECTIONS_MAX;
use weft_sleeve::INSTALLED_MAX;

/// Outputs of one input: some for each peer and each connection.
const OUTPUTS_MAX: usize = 16 * CONNECTIONS_MAX;
/// Timers in a row without time passing: the sleeve serves 64 peers with each.
const TIMERS_MAX: u32 = 64;

/// A host that has begun again keeps the sessions of this many memberships before.
const FORMERS_MAX: usize = 4;

/// How often the process of each host has begun again.
#[derive(Default)]
pub struct Bounds {
    began: BTreeMap<usize, usize>,
}

impl Invariant for Bounds {
    fn name(&self) -> &'static str {
        "bounds"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::MeshFrame { conn, is_early: true } => {
                Err(format!("a frame for {conn:?} before the last one was written"))
            }
            Seen::Spun { times } if *times > TIMERS_MAX => {
                Err(format!("a timer fired {times} times without time passing"))
            }
            Seen::Started { .. } => {
                self.began.remove(&scene.host);
                Ok(())
            }
            Seen::Began { .. } => {
                *self.began.entry(scene.host).or_default() += 1;
                Ok(())
            }
            Seen::Settled { outputs } => {
                let began = self.began.get(&scene.host).copied().unwrap_or_default();
                settled(scene, *outputs, 1 + began.min(FORMERS_MAX))
            }
            _ => Ok(()),
        }
    }
}

fn settled(scene: &Scene<'_>, outputs: usize, memberships: usize) -> Result<(), String> {
    if outputs > OUTPUTS_MAX {
        return Err(format!("{outputs} outputs for one input"));
    }
    let Some(running) = scene.this().running() else {
        return Ok(());
    };
    let (sessions, peers) = (running.engine.session_count(), running.engine.table.peers.len());
    if sessions > INSTALLED_MAX.min(3 * peers) * memberships {
        return Err(format!("{sessions} sessions are installed for {peers} peers"));
    }
    let mesh = running.node.mesh();
    let (connections, pending, records) = (mesh.connections(), mesh.pending_max(), mesh.registers().len());
    if connections > CONNECTIONS_MAX {
        return Err(format!("{connections} connections"));
    }
    match pending > records {
        true => Err(format!("{pending} records wait on one link, of {records}")),
        false => Ok(()),
    }
}
