//! Nothing grows without limit, no timer spins, and the mesh keeps to what it agreed with its shell.

use super::{Invariant, Scene, Seen};
use weft_gossip::mesh::CONNECTIONS_MAX;
use weft_sleeve::INSTALLED_MAX;

/// Outputs of one input: some for each peer and each connection.
const OUTPUTS_MAX: usize = 16 * CONNECTIONS_MAX;
/// Timers in a row without time passing: the sleeve serves 64 peers with each.
const TIMERS_MAX: u32 = 64;

/// Keeps nothing.
pub struct Bounds;

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
            Seen::Settled { outputs } => settled(scene, *outputs),
            _ => Ok(()),
        }
    }
}

fn settled(scene: &Scene<'_>, outputs: usize) -> Result<(), String> {
    if outputs > OUTPUTS_MAX {
        return Err(format!("{outputs} outputs for one input"));
    }
    let Some(running) = scene.this().running() else {
        return Ok(());
    };
    let (sessions, peers) = (running.engine.session_count(), running.engine.table.peers.len());
    if sessions > INSTALLED_MAX.min(3 * peers) {
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
