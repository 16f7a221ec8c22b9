//! The view from which the kernel state follows.

use crate::io::Output;
use crate::node::Node;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use core::net::{IpAddr, Ipv4Addr};
use weft_fastpath::probe::{full_size, probe_mac};
use weft_fastpath::{Listeners, Snooping, Via, View, Vni, Vxlan};
use weft_sleeve::Place;
use weft_wire::hash::hash;
use weft_wire::mtu::{ETHERNET_HEADER, pod_mtu};
use weft_wire::{GenesisId, Mac, NodeId, Time};

/// Network numbers of a cluster for pods' frames and for probes: from its name, so that two clusters on one wire do not
/// mix; never 0, never the same.
fn numbers(genesis: &GenesisId) -> Option<(Vni, Vni)> {
    let number = |domain: &str| {
        let octets = hash(domain, &[&genesis.0, &[0, 0]]);
        u32::from_be_bytes([0, octets[0], octets[1], octets[2]]).max(1)
    };
    let data = number("weft vni data v1");
    let probe = match number("weft vni probe v1") {
        same if same == data => (data ^ 1).max(2),
        other => other,
    };
    Some((Vni::new(data)?, Vni::new(probe)?))
}

impl Node {
    /// MTU of bridge, TAP and pods of this host.
    pub(crate) fn bridge_mtu(&self) -> u16 {
        // pod_mtu never exceeds 1500.
        self.config
            .mtu
            .unwrap_or_else(|| pod_mtu(usize::from(self.config.underlay_mtu)) as u16)
    }

    /// Hands the shell the view, if it is another one than it has.
    pub(super) fn show_kernel(&mut self, now: Time) {
        let view = self.kernel_view(now);
        if self.fastpath.shown.as_ref() == Some(&view) {
            return;
        }
        self.fastpath.has_device |= view.vxlan.is_some();
        self.outputs.push_back(Output::Kernel(Box::new(view.clone())));
        self.fastpath.shown = Some(view);
    }

    /// Where each address lives that is in use on other hosts, and whether the kernel brings frames there.
    fn kernel_view(&self, now: Time) -> View {
        let mut view = View::new(u32::from(self.bridge_mtu()));
        view.vxlan = self.vxlan(now);
        let listening = &self.multicast.remote;
        view.snooping = match listening.everything {
            true => Snooping::OnWithRouter,
            false => Snooping::On,
        };
        let by_router = || Listeners {
            router: true,
            ..Listeners::default()
        };
        view.groups = listening
            .groups
            .iter()
            .map(|group| (*group, by_router()))
            .collect();
        let locator = self.locator();
        let range = self.member.as_ref().map(|member| member.space.range());
        let via = |peer: &NodeId| {
            let path = self.fastpath.paths.get(peer);
            path.and_then(|path| path.carries())
                .map_or(Via::Router, Via::Kernel)
        };
        for (mac, learned) in self.macs.iter() {
            let place = locator.as_ref().and_then(|locator| locator.weft_mac(mac));
            let way = match place {
                // What weft made lives where its slot says, whatever traffic taught.
                Some(Place::Host(owner)) => via(&owner),
                Some(Place::Here | Place::Undecided) => Via::Router,
                None => via(&learned),
            };
            if let (Via::Kernel(_), Some(_), Some(range)) = (way, place, range)
                && let Some(address) = address_of(mac, range.network())
            {
                view.neighbours.insert(address, mac);
            }
            view.remote.insert(mac, way);
        }
        if view.vxlan.is_some() {
            for (mac, to) in &self.fastpath.found.entries {
                view.remote.entry(*mac).or_insert(Via::Kernel(*to));
            }
        }
        view
    }

    /// VXLAN devices are there while some peer may use them.
    fn vxlan(&self, now: Time) -> Option<Vxlan> {
        let (data_vni, probe_vni) = numbers(&self.member.as_ref()?.genesis)?;
        let paths = || self.fastpath.paths.iter();
        let mut accepted: BTreeSet<IpAddr> = paths().flat_map(|(_, path)| path.accepts(now)).collect();
        accepted.extend(self.fastpath.found.entries.values());
        if accepted.is_empty() {
            return None;
        }
        let probes: BTreeMap<Mac, IpAddr> = paths()
            .filter_map(|(peer, path)| Some((probe_mac(peer.peer_hash()), path.probed_at()?)))
            .collect();
        let all = || accepted.iter().chain(probes.values());
        Some(Vxlan {
            port: self.fastpath.config.port,
            data_vni,
            probe_vni,
            ipv4: all().any(IpAddr::is_ipv4),
            ipv6: all().any(IpAddr::is_ipv6),
            mtu: u32::from(full_size(self.bridge_mtu())).saturating_sub(ETHERNET_HEADER as u32),
            closed: self.fastpath.config.closed.clone(),
            accepted,
            probes,
        })
    }
}

/// The IPv4 address from which a weft MAC was made, in a range that begins at `first`.
fn address_of(mac: Mac, first: IpAddr) -> Option<Ipv4Addr> {
    let [_, _, offset @ ..] = mac.0;
    match first {
        IpAddr::V4(first) => Some(u32::from(first).checked_add(u32::from_be_bytes(offset))?.into()),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_two_numbers_of_its_own() {
        let all: BTreeSet<(u32, u32)> = (0..=255)
            .map(|n| numbers(&GenesisId([n; 32])).expect("they are in range"))
            .map(|(data, probe)| (data.get(), probe.get()))
            .collect();
        assert_eq!(all.len(), 256);
        assert!(all.iter().all(|(data, probe)| data != probe));
    }

    #[test]
    fn a_weft_mac_names_its_address() {
        let first = "10.32.0.0".parse().unwrap();
        assert_eq!(
            address_of(Mac([2, 7, 0, 0, 1, 9]), first),
            Some(Ipv4Addr::new(10, 32, 1, 9))
        );
        assert_eq!(address_of(Mac([2, 7, 0xff, 0xff, 0xff, 0xff]), first), None);
        assert_eq!(
            address_of(Mac([2, 7, 0, 0, 1, 9]), "fd00::".parse().unwrap()),
            None
        );
    }
}
