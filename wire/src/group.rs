//! IP multicast groups, and the record by which a host tells to which of them its pods listen.

use crate::envelope::KindNumber;
use crate::mac::Mac;
use crate::record::Body;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use serde::{Deserialize, Serialize};

/// Groups of one host that its record names. Above it the host asks for all multicast: a longer list would cost every host
/// more than the frames that it saves.
pub const GROUPS_MAX: usize = 256;

/// An IP multicast address: 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291 §2.7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(IpAddr);

impl Group {
    /// The group with this address; `None` for one that is not a multicast address.
    pub const fn new(address: IpAddr) -> Option<Self> {
        if address.is_multicast() {
            Some(Self(address))
        } else {
            None
        }
    }

    /// Its address.
    pub const fn address(self) -> IpAddr {
        self.0
    }

    /// Where frames to it are addressed (RFC 1112 §6.4, RFC 2464 §7). Several groups share one.
    pub const fn mac(self) -> Mac {
        match self.0 {
            IpAddr::V4(address) => {
                let [_, b, c, d] = address.octets();
                Mac([1, 0, 0x5e, b & 0x7f, c, d])
            }
            IpAddr::V6(address) => {
                let [.., a, b, c, d] = address.octets();
                Mac([0x33, 0x33, a, b, c, d])
            }
        }
    }

    /// True for 224.0.0.0/24 and ff02::/16: what keeps a link going, such as neighbour discovery, mDNS and VRRP. Their frames
    /// go to every host, and nobody needs to ask for them (RFC 4541 §2.1.2).
    pub const fn is_for_everybody(self) -> bool {
        match self.0 {
            IpAddr::V4(address) => matches!(address.octets(), [224, 0, 0, _]),
            IpAddr::V6(address) => address.segments()[0] == 0xff02,
        }
    }

    /// True for groups of which no frame leaves the interface of its sender (RFC 4291 §2.7: scopes 0 and 1).
    pub const fn is_for_nobody(self) -> bool {
        match self.0 {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.segments()[0] & 0xf <= 1,
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why a host asks for the frames of every group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Everything {
    /// Its operator said so.
    Asked,
    /// Its pods listen to more than [`GROUPS_MAX`] groups.
    TooMany,
    /// A pod of it is a multicast router: one that sends IGMP queries.
    Router,
    /// Its bridge does not tell groups apart, so it cannot say to which its pods listen.
    NoSnooping,
    /// It has not said to which groups its pods listen, or for a reason that this version does not know.
    Unknown,
}

impl Everything {
    const fn code(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Asked => 1,
            Self::TooMany => 2,
            Self::Router => 3,
            Self::NoSnooping => 4,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Asked,
            2 => Self::TooMany,
            3 => Self::Router,
            4 => Self::NoSnooping,
            _ => Self::Unknown,
        }
    }

    /// The reason, as the end of a sentence that begins with "gets all multicast:".
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Asked => "it runs with --multicast flood",
            Self::TooMany => "its pods listen to more than 256 groups",
            Self::Router => "one of its pods is a multicast router",
            Self::NoSnooping => "its bridge does not tell groups apart",
            Self::Unknown => "it has not said to which groups its pods listen",
        }
    }
}

/// To what the pods of one host listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listening {
    /// The frames of every group.
    Everything(Everything),
    /// These groups, at most [`GROUPS_MAX`]; none of them is [`Group::is_for_everybody`].
    Groups(BTreeSet<Group>),
}

impl Listening {
    /// What is asked of others when pods have joined these groups.
    pub fn to(joined: impl IntoIterator<Item = Group>) -> Self {
        let mut groups = BTreeSet::new();
        for group in joined {
            if !group.is_for_everybody() && !group.is_for_nobody() {
                groups.insert(group);
            }
            if groups.len() > GROUPS_MAX {
                return Self::Everything(Everything::TooMany);
            }
        }
        Self::Groups(groups)
    }
}

/// To which groups the pods of a host listen: one record a host. A host without one gets everything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GroupsRecord {
    /// All of them. The number says why: 1 its operator said so, 2 more groups than a record names, 3 a multicast router,
    /// 4 no snooping; others are for later versions.
    Everything(u8),
    /// These, [`GROUPS_MAX`] together.
    Groups {
        /// In order, none twice.
        ipv4: Vec<Ipv4Addr>,
        /// In order, none twice.
        ipv6: Vec<Ipv6Addr>,
    },
}

impl GroupsRecord {
    /// The record of a host whose pods listen to this.
    pub fn new(listening: &Listening) -> Self {
        match listening {
            Listening::Everything(why) => Self::Everything(why.code()),
            Listening::Groups(groups) => {
                let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
                for group in groups {
                    match group.address() {
                        IpAddr::V4(address) => ipv4.push(address),
                        IpAddr::V6(address) => ipv6.push(address),
                    }
                }
                Self::Groups { ipv4, ipv6 }
            }
        }
    }

    /// To what the pods of its host listen.
    pub fn listening(&self) -> Listening {
        match self {
            Self::Everything(code) => Listening::Everything(Everything::from_code(*code)),
            Self::Groups { ipv4, ipv6 } => {
                let ipv4 = ipv4.iter().copied().map(IpAddr::V4);
                let all = ipv4.chain(ipv6.iter().copied().map(IpAddr::V6));
                Listening::to(all.filter_map(Group::new))
            }
        }
    }
}

impl Body for GroupsRecord {
    const KIND: KindNumber = KindNumber(8);

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Everything(_) => true,
            Self::Groups { ipv4, ipv6 } => {
                let groups = |address: IpAddr| {
                    Group::new(address)
                        .is_some_and(|group| !group.is_for_everybody() && !group.is_for_nobody())
                };
                ipv4.len() + ipv6.len() <= GROUPS_MAX
                    && ipv4.windows(2).all(|pair| pair[0] < pair[1])
                    && ipv6.windows(2).all(|pair| pair[0] < pair[1])
                    && ipv4.iter().all(|address| groups((*address).into()))
                    && ipv6.iter().all(|address| groups((*address).into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::envelope::Stamp;
    use crate::id::NodeKey;
    use crate::limits::RECORD_BODY_MAX;

    fn group(text: &str) -> Group {
        Group::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_group_has_the_mac_of_its_standard() {
        for (address, mac) in [
            ("239.129.2.3", "01:00:5e:01:02:03"),
            ("224.0.0.251", "01:00:5e:00:00:fb"),
            ("ff02::1:ff00:7", "33:33:ff:00:00:07"),
            ("ff15::1234:5678", "33:33:12:34:56:78"),
        ] {
            assert_eq!(group(address).mac(), mac.parse().unwrap(), "{address}");
        }
        assert_eq!(Group::new("10.0.0.1".parse().unwrap()), None);
        assert_eq!(Group::new("fe80::1".parse().unwrap()), None);
    }

    #[test]
    fn what_keeps_a_link_going_is_for_everybody_and_needs_no_record() {
        for all in [
            "224.0.0.1",
            "224.0.0.255",
            "ff02::1",
            "ff02::fb",
            "ff02::1:ff00:7",
        ] {
            assert!(group(all).is_for_everybody(), "{all}");
        }
        for some in ["224.0.1.0", "239.0.0.1", "ff05::2", "ff12::5", "ff3e::8000:1"] {
            assert!(
                !group(some).is_for_everybody() && !group(some).is_for_nobody(),
                "{some}"
            );
        }
        assert!(group("ff01::1").is_for_nobody() && group("ff11::7").is_for_nobody());
        let joined = ["224.0.0.251", "239.1.1.1", "ff02::fb", "ff01::2", "ff15::7"].map(group);
        let kept = ["239.1.1.1", "ff15::7"].map(group);
        assert_eq!(Listening::to(joined), Listening::Groups(kept.into()));
    }

    fn numbered(count: u32) -> impl Iterator<Item = Group> {
        (0..count).filter_map(|n| Group::new(IpAddr::V6((0xff15_u128 << 112 | u128::from(n)).into())))
    }

    #[test]
    fn the_largest_record_fits_and_one_group_more_asks_for_everything() {
        let most = Listening::to(numbered(GROUPS_MAX as u32));
        let record = GroupsRecord::new(&most);
        assert!(record.is_within_bounds());
        assert!(codec::encode(&record).len() <= RECORD_BODY_MAX);
        assert_eq!(record.listening(), most);
        let more = Listening::to(numbered(GROUPS_MAX as u32 + 1));
        assert_eq!(more, Listening::Everything(Everything::TooMany));
        assert_eq!(GroupsRecord::new(&more).listening(), more);
    }

    #[test]
    fn the_octets_are_as_published() {
        let listed = Listening::to(["239.1.2.3", "232.9.9.9", "ff15::7"].map(group));
        let record = GroupsRecord::new(&listed);
        let ipv6 = [0xff, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let expected = [&[1, 2, 232, 9, 9, 9, 239, 1, 2, 3, 1][..], &ipv6].concat();
        assert_eq!(codec::encode(&record), expected);
        let everything = GroupsRecord::new(&Listening::Everything(Everything::Asked));
        assert_eq!(codec::encode(&everything), [0, 1]);
    }

    #[test]
    fn a_reason_of_a_later_version_still_asks_for_everything() {
        assert_eq!(
            GroupsRecord::Everything(77).listening(),
            Listening::Everything(Everything::Unknown)
        );
        let reasons = [
            Everything::Asked,
            Everything::TooMany,
            Everything::Router,
            Everything::NoSnooping,
            Everything::Unknown,
        ];
        for why in reasons {
            assert_eq!(Everything::from_code(why.code()), why);
        }
    }

    #[test]
    fn lists_out_of_order_or_with_what_is_no_group_are_refused() {
        let key = NodeKey::from_seed([1; 32]);
        let stamp = Stamp {
            incarnation: 1,
            version: 1,
        };
        let ipv4 = |addresses: &[[u8; 4]]| GroupsRecord::Groups {
            ipv4: addresses.iter().map(|octets| (*octets).into()).collect(),
            ipv6: Vec::new(),
        };
        let (a, b) = ([239, 0, 0, 1], [239, 0, 0, 2]);
        assert!(ipv4(&[a, b]).is_within_bounds());
        for bad in [&[b, a][..], &[a, a], &[[10, 0, 0, 1]], &[[224, 0, 0, 251]]] {
            let envelope = ipv4(bad).to_envelope(&key, key.id(), stamp).unwrap();
            assert!(GroupsRecord::from_envelope(&envelope).is_err(), "{bad:?}");
        }
    }
}
