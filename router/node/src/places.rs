//! Where addresses live, made from the address space for the forwarding table: only when that has changed.

use crate::node::{Member, Node};
use alloc::sync::Arc;
use alloc::vec::Vec;
use weft_ipam_crdt::{Elsewhere, PlacesVersion};
use weft_sleeve::locate::Known;
use weft_sleeve::{Locator, Place};
use weft_wire::{Mac, NodeId, Time};

/// The locator of this moment, and what it was made from.
pub(crate) struct Places {
    version: PlacesVersion,
    owners: Vec<(u32, Option<NodeId>)>,
    elsewhere: Elsewhere,
    locator: Arc<Locator>,
}

impl Places {
    /// What the address space says now.
    fn of(node: NodeId, member: &Member) -> Self {
        let (owners, elsewhere) = (owners(member), member.ipam.elsewhere());
        Self {
            version: member.ipam.places_version(),
            locator: Arc::new(locator(node, member, &owners, &elsewhere)),
            owners,
            elsewhere,
        }
    }

    /// Follows the address space. True when the locator is another one.
    fn follow(&mut self, node: NodeId, member: &Member) -> bool {
        let version = member.ipam.places_version();
        let old = core::mem::replace(&mut self.version, version);
        // The table of slots is long and seldom changes: it is read only then.
        let owners = (version.owners != old.owners)
            .then(|| owners(member))
            .filter(|owners| *owners != self.owners);
        let elsewhere = (version.elsewhere != old.elsewhere)
            .then(|| member.ipam.elsewhere())
            .filter(|elsewhere| *elsewhere != self.elsewhere);
        if owners.is_none() && elsewhere.is_none() {
            return false;
        }
        self.owners = owners.unwrap_or_else(|| core::mem::take(&mut self.owners));
        self.elsewhere = elsewhere.unwrap_or_else(|| core::mem::take(&mut self.elsewhere));
        self.locator = Arc::new(locator(node, member, &self.owners, &self.elsewhere));
        true
    }
}

fn owners(member: &Member) -> Vec<(u32, Option<NodeId>)> {
    let runs = member.ipam.owner_runs();
    runs.into_iter().map(|run| (run.first, run.owner)).collect()
}

fn locator(
    node: NodeId,
    member: &Member,
    owners: &[(u32, Option<NodeId>)],
    elsewhere: &Elsewhere,
) -> Locator {
    Locator::new(Known {
        genesis: member.genesis,
        node,
        range: member.space.range(),
        slot_size: member.space.slot_size(),
        owners: owners.to_vec(),
        addresses: elsewhere.addresses.clone(),
        macs: elsewhere.macs.clone(),
    })
}

impl Node {
    /// The locator for the forwarding table; `None` before this host is a member.
    pub(crate) fn locator(&self) -> Option<Arc<Locator>> {
        self.places.as_ref().map(|places| Arc::clone(&places.locator))
    }

    /// Follows the address space. True when addresses have another place than before.
    pub(crate) fn follow_places(&mut self) -> bool {
        if self.places_held != Time::ZERO {
            return false;
        }
        let Some(member) = &self.member else {
            return false;
        };
        let node = self.mesh.node();
        let changed = match &mut self.places {
            Some(places) => places.follow(node, member),
            None => {
                self.places = Some(Places::of(node, member));
                true
            }
        };
        if changed && let Some(locator) = self.locator() {
            // What has come to this host must no longer lead away from it.
            let is_here = |mac: Mac| locator.weft_mac(mac) == Some(Place::Here);
            self.changed_macs(|macs| macs.forget_all(is_here));
        }
        changed
    }

    /// Frames from this address come from this peer.
    pub(crate) fn on_learned(&mut self, now: Time, mac: Mac, peer: NodeId) {
        let locator = self.places.as_ref().map(|places| &places.locator);
        // What is this host's by the rules of the address space stays here, whatever a peer sends.
        if locator.and_then(|locator| locator.weft_mac(mac)) == Some(Place::Here) {
            self.contested.see(now, mac, peer);
        } else {
            self.changed_macs(|macs| macs.learn(now, mac, peer));
        }
    }

    /// Frames from this address came from a port of this host's bridge.
    pub(crate) fn on_local(&mut self, mac: Mac) {
        self.changed_macs(|macs| macs.forget(mac));
    }
}
