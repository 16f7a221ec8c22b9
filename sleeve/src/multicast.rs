//! IP multicast: what a frame to a group address is, and which hosts listen to it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_wire::Group;

/// Octets of the two addresses before the type or the first tag.
const ADDRESSES: usize = 12;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Tags of IEEE 802.1Q and 802.1ad.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// Octets of a tag with its type.
const TAG_LEN: usize = 4;
/// A frame of a provider's network has two; nobody nests more.
const TAGS_MAX: usize = 2;
const IPV6_HEADER: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ICMPV6: u8 = 58;
const IGMP: u8 = 2;
/// Query, report, done (RFC 2710), report of version 2 (RFC 3810).
const MLD: [u8; 4] = [130, 131, 132, 143];

/// What a frame to a group address is, as far as multicast goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Multicast {
    /// An IGMP or MLD message.
    Membership,
    /// A packet to this group.
    Packet(Group),
    /// Broadcast, another protocol, or nothing that can be read.
    Other,
}

/// Reads a frame whose destination is a group address. Tags of VLANs are skipped, as the kernel does where it looks for
/// memberships.
pub fn classify(frame: &[u8]) -> Multicast {
    read(frame).unwrap_or(Multicast::Other)
}

fn read(frame: &[u8]) -> Option<Multicast> {
    let mut rest = frame.get(ADDRESSES..)?;
    for _ in 0..TAGS_MAX {
        let (kind, _) = rest.split_first_chunk()?;
        if !TAGS.contains(kind) {
            break;
        }
        rest = rest.get(TAG_LEN..)?;
    }
    let (kind, packet) = rest.split_first_chunk()?;
    match *kind {
        TYPE_IPV4 => ipv4(packet),
        TYPE_IPV6 => ipv6(packet),
        _ => None,
    }
}

/// RFC 791 §3.1; IGMP is a protocol of its own (RFC 3376 §4).
fn ipv4(packet: &[u8]) -> Option<Multicast> {
    if packet.first()? >> 4 != 4 {
        return None;
    }
    if *packet.get(9)? == IGMP {
        return Some(Multicast::Membership);
    }
    let (destination, _) = packet.get(16..)?.split_first_chunk::<4>()?;
    Group::new(IpAddr::V4(Ipv4Addr::from(*destination))).map(Multicast::Packet)
}

/// RFC 8200 §3; MLD is a part of ICMPv6, behind a hop-by-hop header with the router alert (RFC 3810 §5).
fn ipv6(packet: &[u8]) -> Option<Multicast> {
    let (header, behind) = packet.split_at_checked(IPV6_HEADER)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (next, behind) = match header[6] {
        HOP_BY_HOP => {
            let length = 8 * (usize::from(*behind.get(1)?) + 1);
            (*behind.first()?, behind.get(length..).unwrap_or_default())
        }
        next => (next, behind),
    };
    if next == ICMPV6 && behind.first().is_some_and(|kind| MLD.contains(kind)) {
        return Some(Multicast::Membership);
    }
    let (destination, _) = header.get(24..)?.split_first_chunk::<16>()?;
    Group::new(IpAddr::V6(Ipv6Addr::from(*destination))).map(Multicast::Packet)
}

/// Which hosts listen to which groups, by their positions in the table of peers. The node makes one when that has changed, and
/// every table until then shares it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups {
    /// Hosts that get the frames of every group.
    everything: Box<[u16]>,
    /// Different sets of hosts, each once.
    sets: Vec<Box<[u16]>>,
    /// Where the hosts of a group stand in `sets`.
    groups: BTreeMap<Group, usize>,
    /// Groups with listeners that the router sends nothing to, since the kernel does.
    is_by_kernel: Vec<Group>,
}

/// The hosts to which frames of one group go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listeners {
    /// Those that get everything.
    Everything,
    /// This set.
    Set(usize),
    /// Those that listen are reached by the kernel.
    ByKernel,
    /// None.
    Nobody,
}

impl Groups {
    /// From the hosts that get everything, and for each group those that listen, whether or not they are among the first. A
    /// group without hosts is one that the kernel carries to all who listen.
    pub fn new(
        everything: impl IntoIterator<Item = u16>,
        groups: impl IntoIterator<Item = (Group, Vec<u16>)>,
    ) -> Self {
        let everything = sorted(everything.into_iter().collect());
        let mut places: BTreeMap<Box<[u16]>, usize> = BTreeMap::new();
        let mut all = Self::default();
        for (group, hosts) in groups {
            if hosts.is_empty() && everything.is_empty() {
                all.is_by_kernel.push(group);
                continue;
            }
            let hosts = sorted(hosts.into_iter().chain(everything.iter().copied()).collect());
            let sets = &mut all.sets;
            let at = *places.entry(hosts).or_insert_with_key(|hosts| {
                sets.push(hosts.clone());
                sets.len() - 1
            });
            all.groups.insert(group, at);
        }
        all.is_by_kernel.sort_unstable();
        all.everything = everything;
        all
    }

    /// The hosts to which frames of this group go.
    pub fn listeners(&self, group: Group) -> Listeners {
        match self.groups.get(&group) {
            Some(at) => Listeners::Set(*at),
            None if self.is_by_kernel.binary_search(&group).is_ok() => Listeners::ByKernel,
            None if self.everything.is_empty() => Listeners::Nobody,
            None => Listeners::Everything,
        }
    }

    /// Positions of these hosts in the table, in order; none for a set of another table.
    pub fn positions(&self, listeners: Listeners) -> &[u16] {
        match listeners {
            Listeners::Everything => &self.everything,
            Listeners::Set(at) => self.sets.get(at).map(AsRef::as_ref).unwrap_or_default(),
            Listeners::ByKernel | Listeners::Nobody => &[],
        }
    }
}

fn sorted(mut hosts: Vec<u16>) -> Box<[u16]> {
    hosts.sort_unstable();
    hosts.dedup();
    hosts.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(text: &str) -> Group {
        Group::new(text.parse().unwrap()).unwrap()
    }

    fn frame(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
        [&[1, 0, 0x5e, 0, 0, 1, 2, 7, 0, 0, 0, 1][..], &kind, packet].concat()
    }

    fn packet4(protocol: u8, to: &str) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 1, protocol, 0, 0, 10, 32, 0, 1];
        packet.extend(to.parse::<Ipv4Addr>().unwrap().octets());
        packet.extend([0; 8]);
        packet
    }

    fn packet6(next: u8, to: &str, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 1];
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend(to.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    #[test]
    fn packets_name_their_group() {
        let udp = frame(TYPE_IPV4, &packet4(17, "239.1.2.3"));
        assert_eq!(classify(&udp), Multicast::Packet(group("239.1.2.3")));
        let udp = frame(TYPE_IPV6, &packet6(17, "ff15::7", &[0; 8]));
        assert_eq!(classify(&udp), Multicast::Packet(group("ff15::7")));
        let solicitation = frame(TYPE_IPV6, &packet6(58, "ff02::1:ff00:7", &[135; 24]));
        assert_eq!(
            classify(&solicitation),
            Multicast::Packet(group("ff02::1:ff00:7"))
        );
    }

    #[test]
    fn messages_about_memberships_are_told_from_packets() {
        assert_eq!(
            classify(&frame(TYPE_IPV4, &packet4(2, "224.0.0.22"))),
            Multicast::Membership
        );
        assert_eq!(
            classify(&frame(TYPE_IPV4, &packet4(2, "239.1.2.3"))),
            Multicast::Membership
        );
        for kind in MLD {
            let with_alert = [58, 0, 5, 2, 0, 0, 1, 0, kind, 0, 0, 0];
            let report = frame(TYPE_IPV6, &packet6(0, "ff02::16", &with_alert));
            assert_eq!(classify(&report), Multicast::Membership, "{kind}");
            let bare = frame(TYPE_IPV6, &packet6(58, "ff02::16", &[kind, 0, 0, 0]));
            assert_eq!(classify(&bare), Multicast::Membership, "{kind}");
        }
        let echo = [58, 0, 5, 2, 0, 0, 1, 0, 128, 0, 0, 0];
        let echo = frame(TYPE_IPV6, &packet6(0, "ff02::1", &echo));
        assert_eq!(classify(&echo), Multicast::Packet(group("ff02::1")));
    }

    #[test]
    fn tags_are_skipped_and_what_is_no_multicast_is_other() {
        let plain = frame(TYPE_IPV4, &packet4(17, "239.1.2.3"));
        let tagged = [&plain[..12], &[0x81, 0, 0, 5], &plain[12..]].concat();
        assert_eq!(classify(&tagged), Multicast::Packet(group("239.1.2.3")));
        let twice = [&plain[..12], &[0x88, 0xa8, 0, 5], &tagged[12..]].concat();
        assert_eq!(classify(&twice), Multicast::Packet(group("239.1.2.3")));
        let thrice = [&plain[..12], &[0x81, 0, 0, 5], &twice[12..]].concat();
        assert_eq!(classify(&thrice), Multicast::Other);
        // A load balancer's: a group address of Ethernet, an IP address of one host.
        assert_eq!(
            classify(&frame(TYPE_IPV4, &packet4(17, "10.32.0.9"))),
            Multicast::Other
        );
        assert_eq!(
            classify(&frame([0x88, 0xcc], &packet4(17, "239.1.2.3"))),
            Multicast::Other
        );
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..90), six in any::<bool>()) {
            let _ = classify(&octets);
            let _ = classify(&frame(if six { TYPE_IPV6 } else { TYPE_IPV4 }, &octets));
        }

        #[test]
        fn a_cut_packet_is_never_taken_for_another_group(cut in 0usize..60) {
            let whole = frame(TYPE_IPV6, &packet6(17, "ff15::7", &[0; 8]));
            let seen = classify(&whole[..cut.min(whole.len())]);
            prop_assert!(matches!(seen, Multicast::Other) || seen == Multicast::Packet(group("ff15::7")));
        }
    }

    #[test]
    fn hosts_that_get_everything_get_every_group_and_sets_are_kept_once() {
        let (a, b, c) = (group("239.1.1.1"), group("239.1.1.2"), group("ff15::7"));
        let groups = Groups::new([4], [(a, vec![2, 1]), (b, vec![1, 4, 2]), (c, vec![])]);
        let hosts = |group| groups.positions(groups.listeners(group));
        assert_eq!(
            (hosts(a), hosts(b), hosts(c)),
            (&[1, 2, 4][..], &[1, 2, 4][..], &[4][..])
        );
        assert_eq!(groups.sets.len(), 2);
        assert_eq!(hosts(group("239.9.9.9")), [4]);
    }

    #[test]
    fn a_group_that_nobody_hears_differs_from_one_that_the_kernel_carries() {
        let (a, b) = (group("239.1.1.1"), group("239.1.1.2"));
        let groups = Groups::new([], [(a, vec![])]);
        assert_eq!(groups.listeners(a), Listeners::ByKernel);
        assert_eq!(groups.listeners(b), Listeners::Nobody);
        assert!(groups.positions(Listeners::ByKernel).is_empty());
        assert!(groups.positions(Listeners::Set(7)).is_empty());
    }
}
