//! Where an address lives by what hosts agree on, not by what traffic taught: the owner of its slot, or an exception
//! that a host has announced.
//!
//! A locator is immutable. The node makes one when slots or exceptions change, and every table until then shares it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use ipnet::IpNet;
use weft_wire::{GenesisId, Mac, NodeId};

/// First octet of every weft MAC: unicast, locally administered (IEEE 802-2014 §8.2.2).
const FIRST_OCTET: u8 = 0x02;

/// Where something lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// On this host.
    Here,
    /// On another host.
    Host(NodeId),
    /// Two hosts claim its slot, or nobody is known to own it.
    Undecided,
}

/// What a locator is made from.
#[derive(Clone, Debug)]
pub struct Known {
    /// The cluster; its first octet stands in each of its MAC addresses.
    pub genesis: GenesisId,
    /// This host.
    pub node: NodeId,
    /// The range that addresses come from.
    pub range: IpNet,
    /// Addresses in one slot; at least 1.
    pub slot_size: u32,
    /// First slot and owner of each run of slots, in order, the first at 0; a run ends where the next begins.
    /// `None` where the owner is not certain.
    pub owners: Vec<(u32, Option<NodeId>)>,
    /// Addresses that live elsewhere than their slot says.
    pub addresses: BTreeMap<IpAddr, NodeId>,
    /// MAC addresses that a host has announced.
    pub macs: BTreeMap<Mac, NodeId>,
}

/// An index into `Locator::hosts`, or [`UNDECIDED`].
type HostIndex = u32;
/// No host.
const UNDECIDED: HostIndex = HostIndex::MAX;

/// Answers where range addresses and weft MACs live, in a few comparisons.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Locator {
    cluster: u8,
    range: IpNet,
    slot_size: u32,
    /// Every host that is named below; this host is the first.
    hosts: Box<[NodeId]>,
    /// Six to eight octets a run: at most half a megabyte for 65,536 slots.
    runs: Box<[(u32, HostIndex)]>,
    addresses: Box<[(IpAddr, HostIndex)]>,
    macs: Box<[(Mac, HostIndex)]>,
}

impl Locator {
    /// A locator of what is known now.
    pub fn new(known: Known) -> Self {
        let mut hosts = Hosts::of(known.node);
        let runs = known
            .owners
            .iter()
            .map(|(first, owner)| (*first, owner.map_or(UNDECIDED, |owner| hosts.index_of(owner))));
        let runs = runs.collect();
        let addresses = known.addresses.into_iter();
        let addresses = addresses.map(|(address, host)| (address, hosts.index_of(host)));
        let addresses = addresses.collect();
        let macs = known.macs.into_iter();
        let macs = macs.map(|(mac, host)| (mac, hosts.index_of(host))).collect();
        Self {
            cluster: known.genesis.0[0],
            range: known.range,
            slot_size: known.slot_size.max(1),
            hosts: hosts.list.into(),
            runs,
            addresses,
            macs,
        }
    }

    /// Where an IP address lives; `None` for one outside the range that nobody has announced. An IPv6 link-local
    /// address made from a weft MAC (RFC 4291 appendix A) lives where that lives.
    pub fn address(&self, address: IpAddr) -> Option<Place> {
        if let Ok(at) = self.addresses.binary_search_by_key(&address, |(a, _)| *a) {
            return self.addresses.get(at).map(|(_, host)| self.place(*host));
        }
        if let Some(offset) = self.offset(address) {
            let slot = offset / self.slot_size;
            let after = self.runs.partition_point(|(first, _)| *first <= slot);
            let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
            return Some(run.map_or(Place::Undecided, |(_, host)| self.place(*host)));
        }
        match address {
            IpAddr::V6(v6) => self.weft_mac(mac_of_link_local(v6)?),
            IpAddr::V4(_) => None,
        }
    }

    /// Where a MAC address lives that a host has announced; `None` for any other.
    pub fn announced(&self, mac: Mac) -> Option<Place> {
        let at = self.macs.binary_search_by_key(&mac, |(m, _)| *m).ok()?;
        self.macs.get(at).map(|(_, host)| self.place(*host))
    }

    /// Where a MAC that weft made lives; `None` for any other.
    pub fn weft_mac(&self, mac: Mac) -> Option<Place> {
        let [FIRST_OCTET, cluster, offset @ ..] = mac.0 else {
            return None;
        };
        if cluster != self.cluster {
            return None;
        }
        let offset = u32::from_be_bytes(offset);
        let address = match self.range.network() {
            IpAddr::V4(first) => IpAddr::V4(u32::from(first).checked_add(offset)?.into()),
            IpAddr::V6(first) => IpAddr::V6(u128::from(first).checked_add(u128::from(offset))?.into()),
        };
        if self.range.contains(&address) {
            self.address(address)
        } else {
            None
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u32> {
        if !self.range.contains(&address) {
            return None;
        }
        let distance = match (address, self.range.network()) {
            (IpAddr::V4(a), IpAddr::V4(first)) => u128::from(u32::from(a).checked_sub(u32::from(first))?),
            (IpAddr::V6(a), IpAddr::V6(first)) => u128::from(a).checked_sub(u128::from(first))?,
            _ => return None,
        };
        u32::try_from(distance).ok()
    }

    fn place(&self, host: HostIndex) -> Place {
        match host {
            0 => Place::Here,
            other => usize::try_from(other)
                .ok()
                .and_then(|at| self.hosts.get(at))
                .map_or(Place::Undecided, |node| Place::Host(*node)),
        }
    }
}

/// Numbers hosts in the order in which they are met.
struct Hosts {
    list: Vec<NodeId>,
    index: BTreeMap<NodeId, HostIndex>,
}

impl Hosts {
    fn of(first: NodeId) -> Self {
        Self {
            list: alloc::vec![first],
            index: BTreeMap::from([(first, 0)]),
        }
    }

    fn index_of(&mut self, host: NodeId) -> HostIndex {
        let next = HostIndex::try_from(self.list.len()).unwrap_or(UNDECIDED);
        let list = &mut self.list;
        *self.index.entry(host).or_insert_with(|| {
            list.push(host);
            next
        })
    }
}

/// The MAC in an EUI-64 link-local address: `ff:fe` in the middle, the universal/local bit turned.
fn mac_of_link_local(address: Ipv6Addr) -> Option<Mac> {
    match address.octets() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => Some(Mac([a ^ 2, b, c, d, e, f])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn mac(text: &str) -> Mac {
        text.parse().unwrap()
    }

    fn known(range: &str, slot_size: u32) -> Known {
        Known {
            genesis: GenesisId([7; 32]),
            node: ME,
            range: range.parse().unwrap(),
            slot_size,
            owners: vec![(0, Some(ME)), (2, Some(B)), (5, None), (6, Some(C))],
            addresses: BTreeMap::new(),
            macs: BTreeMap::new(),
        }
    }

    #[test]
    fn the_owner_of_the_slot_has_the_address() {
        let locator = Locator::new(known("10.32.0.0/12", 16));
        for (address, place) in [
            ("10.32.0.0", Some(Place::Here)),
            ("10.32.0.31", Some(Place::Here)),
            ("10.32.0.32", Some(Place::Host(B))),
            ("10.32.0.79", Some(Place::Host(B))),
            ("10.32.0.80", Some(Place::Undecided)),
            ("10.32.0.96", Some(Place::Host(C))),
            ("10.47.255.255", Some(Place::Host(C))),
            ("10.48.0.0", None),
            ("fd00::1", None),
        ] {
            assert_eq!(locator.address(ip(address)), place, "{address}");
        }
        assert_eq!(locator.weft_mac(mac("02:07:00:00:00:21")), Some(Place::Host(B)));
        assert_eq!(locator.address(ip("fe80::7:ff:fe00:21")), Some(Place::Host(B)));
        assert_eq!(
            locator.weft_mac(mac("02:08:00:00:00:21")),
            None,
            "another cluster"
        );
        assert_eq!(
            locator.weft_mac(mac("02:07:00:10:00:00")),
            None,
            "behind the range"
        );
        assert_eq!(
            locator.weft_mac(mac("02:07:ff:ff:ff:ff")),
            None,
            "behind all addresses"
        );
        assert_eq!(locator.weft_mac(mac("52:54:00:12:34:56")), None);
        assert_eq!(locator.address(ip("fe80::5054:ff:fe12:3456")), None);
    }

    #[test]
    fn ipv6_ranges_and_slots_of_any_size() {
        let locator = Locator::new(known("fd00:1::/96", 65_536));
        assert_eq!(locator.address(ip("fd00:1::1:ffff")), Some(Place::Here));
        assert_eq!(locator.address(ip("fd00:1::2:0")), Some(Place::Host(B)));
        assert_eq!(locator.weft_mac(mac("02:07:ff:ff:ff:ff")), Some(Place::Host(C)));
        let locator = Locator::new(known("10.32.0.0/24", 1));
        assert_eq!(locator.address(ip("10.32.0.2")), Some(Place::Host(B)));
        assert_eq!(locator.address(ip("10.32.0.255")), Some(Place::Host(C)));
    }

    #[test]
    fn an_exception_stands_before_the_slot() {
        let mut known = known("10.32.0.0/12", 16);
        known.addresses = [
            (ip("10.32.0.33"), C),
            (ip("10.32.0.34"), ME),
            (ip("192.0.2.1"), B),
        ]
        .into();
        known.macs = [(mac("52:54:00:00:00:01"), C)].into();
        let locator = Locator::new(known);
        assert_eq!(locator.address(ip("10.32.0.33")), Some(Place::Host(C)));
        assert_eq!(
            locator.weft_mac(mac("02:07:00:00:00:21")),
            Some(Place::Host(C)),
            "its MAC too"
        );
        assert_eq!(locator.address(ip("10.32.0.34")), Some(Place::Here));
        assert_eq!(locator.address(ip("192.0.2.1")), Some(Place::Host(B)));
        assert_eq!(locator.announced(mac("52:54:00:00:00:01")), Some(Place::Host(C)));
        assert_eq!(locator.weft_mac(mac("52:54:00:00:00:01")), None);
    }
}
