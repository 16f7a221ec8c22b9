//! Addresses on this host's bridge that weft did not make: other hosts know where they live from frames of theirs that came by
//! the sleeve. Those that go through the kernel teach nothing, so they are announced: to whoever asks, and now and then.

use super::{Daemon, NodeEvent};
use crate::command::{BRIDGE, TAP};
use std::time::Duration;
use weft_kernel::{fdb, link};
use weft_wire::{Mac, SessionIndex};

/// How often they are announced to hosts that are reached through the kernel: a few times in the time after which those forget.
pub(super) const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(60);
/// So many are announced at once: a host has a few such devices, and a thousand peers.
const ANNOUNCED_MAX: usize = 64;

/// Who is told.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// The peer that has looked for this address.
    Asker(SessionIndex, Mac),
    /// Peers that are reached through the kernel, of all addresses.
    Fast(Vec<SessionIndex>),
}

impl Daemon {
    /// Looks for addresses on the bridge, one look at a time; what is found comes back as an event.
    pub(super) fn look_for_foreign(&mut self, told: Told) {
        if std::mem::replace(&mut self.is_looking, true) {
            // Who asks asks again.
            return;
        }
        let events = self.events.clone();
        tokio::spawn(async move {
            let found = tokio::task::spawn_blocking(local).await;
            let macs = found.ok().and_then(Result::ok).unwrap_or_default();
            // The queue has room again soon; without this event nobody would look any more.
            let _ = events.send(NodeEvent::OnBridge { macs, told }).await;
        });
    }

    /// Announces what was found.
    pub(super) fn announce_foreign(&mut self, macs: &[Mac], told: Told) {
        self.is_looking = false;
        match told {
            Told::Asker(local, mac) if macs.contains(&mac) => self.engine.announce(local, mac),
            Told::Asker(..) => {}
            Told::Fast(peers) => {
                let foreign = macs.iter().filter(|mac| !self.node.is_weft_mac(**mac));
                for mac in foreign.take(ANNOUNCED_MAX) {
                    peers.iter().for_each(|local| self.engine.announce(*local, *mac));
                }
            }
        }
    }
}

/// Addresses that the bridge has learned at ports of this host.
fn local() -> weft_kernel::Result<Vec<Mac>> {
    let others: Vec<u32> = link::list()?
        .iter()
        .filter(|link| link.name == TAP || link.kind.as_deref() == Some("vxlan"))
        .map(|link| link.index)
        .collect();
    let entries = fdb::dump(BRIDGE)?;
    let here = entries
        .iter()
        .filter(|entry| !others.contains(&entry.port) && entry.kind != fdb::EntryKind::Local);
    Ok(here.map(|entry| Mac(entry.mac)).collect())
}
