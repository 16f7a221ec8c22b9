//! What an earlier process of this host had the kernel do: it goes on until this one knows better.

use crate::node::Node;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;
use weft_fastpath::path::Path;
use weft_fastpath::probe::full_size;
use weft_sleeve::Place;
use weft_wire::fastpath::{Ability, Encryption};
use weft_wire::{Mac, NodeId, Time};

/// An entry whose host is not known is kept for so long: what this host has stored names nearly all at once, and gossip
/// brings the rest within seconds.
const UNKNOWN_KEPT: Duration = Duration::from_secs(60);

/// Entries whose host is not known yet.
#[derive(Default)]
pub(super) struct Found {
    pub(super) entries: BTreeMap<Mac, IpAddr>,
    until: Time,
}

impl Found {
    pub(super) fn timeout(&self) -> Time {
        if self.entries.is_empty() {
            Time::NEVER
        } else {
            self.until
        }
    }
}

impl Node {
    /// At the start: the kernel sends frames to these addresses by VXLAN.
    pub(crate) fn on_kernel_found(&mut self, now: Time, entries: Vec<(Mac, IpAddr)>, has_device: bool) {
        self.fastpath.has_device |= has_device;
        self.fastpath.found = Found {
            entries: entries.into_iter().collect(),
            until: now + UNKNOWN_KEPT,
        };
        self.fastpath.changed = true;
    }

    /// Finds the hosts of entries that were found.
    pub(super) fn adopt_found(&mut self, now: Time) {
        if self.fastpath.found.entries.is_empty() {
            return;
        }
        let may = self.fastpath.settings.encryption.value == Encryption::Auto
            && self.fastpath.config.ability == Ability::Able;
        if !may || self.fastpath.found.until <= now {
            self.fastpath.found.entries.clear();
            self.fastpath.changed = true;
            return;
        }
        let locator = self.locator();
        let entries = core::mem::take(&mut self.fastpath.found.entries);
        for (mac, to) in entries {
            let place = locator.as_ref().and_then(|locator| locator.weft_mac(mac));
            let peer = match place {
                // It has come here meanwhile.
                Some(Place::Here) => {
                    self.fastpath.changed = true;
                    continue;
                }
                Some(Place::Host(peer)) => Some(peer),
                Some(Place::Undecided) | None => self.listens_at(to),
            };
            match peer.filter(|peer| self.paths.contains_key(peer)) {
                Some(peer) => self.adopt(now, mac, peer, to),
                None => drop(self.fastpath.found.entries.insert(mac, to)),
            }
        }
    }

    fn adopt(&mut self, now: Time, mac: Mac, peer: NodeId, to: IpAddr) {
        self.changed_macs(|macs| macs.learn(now, mac, peer));
        let (ends, size) = (self.ends(&peer), full_size(self.bridge_mtu()));
        let paths = &mut self.fastpath.paths;
        let is_new = paths
            .get(&peer)
            .is_none_or(|path| path.flips().1 == 0 && path.carries().is_none());
        if is_new {
            paths.insert(peer, Path::adopted(now, ends, size, to));
            self.fastpath.hashes.insert(ends.them, peer);
            (self.fastpath.look, self.fastpath.changed) = (true, true);
        }
    }

    /// The one peer that says it listens at this address.
    fn listens_at(&self, address: IpAddr) -> Option<NodeId> {
        let mut there = self.paths.keys().filter(|peer| {
            let record = self.mesh.peer_record(peer);
            record.is_some_and(|record| {
                record
                    .endpoints
                    .iter()
                    .any(|at| at.ip().to_canonical() == address)
            })
        });
        let first = there.next().copied();
        first.filter(|_| there.next().is_none())
    }
}
