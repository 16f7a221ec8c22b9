//! Parts of the range that pods are given addresses of: a subnet has its own prefix length, first and last address.

use crate::space::{AddressError, AddressSpace};
use core::net::IpAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Neighbouring addresses, named by their offsets in the range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Span {
    /// The first.
    pub first: u32,
    /// The last; none is in a span whose last comes before its first.
    pub last: u32,
}

impl Span {
    /// One address.
    pub fn one(offset: u32) -> Self {
        Self {
            first: offset,
            last: offset,
        }
    }

    /// True when the address at this offset is in it.
    pub fn has(&self, offset: u32) -> bool {
        (self.first..=self.last).contains(&offset)
    }

    /// The slots, of this many addresses each, that have an address in it.
    pub fn slots(&self, slot_size: u32) -> core::ops::RangeInclusive<u32> {
        let size = slot_size.max(1);
        self.first / size..=self.last / size
    }
}

/// Why a subnet cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubnetError {
    /// It shares no address with the range.
    #[error("subnet {subnet} is outside the cluster's range {range}: name a part of that")]
    Outside {
        /// As given.
        subnet: IpNet,
        /// The range.
        range: IpNet,
    },
    /// It is larger than the range.
    #[error("subnet {subnet} is larger than the cluster's range {range}: name a part of that, or no subnet")]
    TooLarge {
        /// As given.
        subnet: IpNet,
        /// The range.
        range: IpNet,
    },
    /// It holds one address, or none that pods can have.
    #[error("subnet {0} is too small: give at least 4 addresses, or name the one address without a prefix")]
    TooSmall(IpNet),
    /// Bits behind the prefix are set.
    #[error("subnet {given} has bits set behind its prefix: did you mean {meant}?")]
    HostBits {
        /// As given.
        given: IpNet,
        /// With those bits cleared.
        meant: IpNet,
    },
}

/// A part of the range, and which of its addresses pods can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    net: IpNet,
    span: Span,
}

impl Subnet {
    /// Its prefix.
    pub fn net(&self) -> IpNet {
        self.net
    }

    /// The addresses that pods can have.
    pub fn span(&self) -> Span {
        self.span
    }
}

impl AddressSpace {
    /// The whole range as a subnet.
    pub fn whole(&self) -> Subnet {
        let last = (self.size() - 1) as u32;
        let ends = u32::from(self.range().network().is_ipv4());
        Subnet {
            net: self.range(),
            span: Span {
                first: 1,
                last: last - ends,
            },
        }
    }

    /// A part of the range.
    ///
    /// Its first address names the network (in IPv6 the subnet-router anycast, RFC 4291 §2.6.1), its last one in IPv4
    /// is its broadcast address (RFC 919); neither is given to a pod. A subnet of two addresses has neither
    /// (RFC 3021, RFC 6164).
    ///
    /// # Errors
    /// It is no part of the range, or has no address for a pod.
    pub fn subnet(&self, net: IpNet) -> Result<Subnet, SubnetError> {
        let range = self.range();
        if net.trunc() != net {
            return Err(SubnetError::HostBits {
                given: net,
                meant: net.trunc(),
            });
        }
        if !range.contains(&net) {
            return Err(if net.contains(&range) {
                SubnetError::TooLarge { subnet: net, range }
            } else {
                SubnetError::Outside { subnet: net, range }
            });
        }
        let host_bits = net.max_prefix_len() - net.prefix_len();
        let first = self
            .offset(net.network())
            .ok_or(SubnetError::Outside { subnet: net, range })?;
        // The range has at most 2^32 addresses.
        let last = first + ((1u128 << host_bits) - 1) as u32;
        let whole = self.whole().span;
        let (below, above) = match host_bits {
            0 => return Err(SubnetError::TooSmall(net)),
            1 => (0, 0),
            _ => (1, u32::from(net.network().is_ipv4())),
        };
        let span = Span {
            first: (first + below).max(whole.first),
            last: (last - above).min(whole.last),
        };
        if span.first > span.last {
            return Err(SubnetError::TooSmall(net));
        }
        Ok(Subnet { net, span })
    }

    /// The address with the subnet's prefix length, if a pod of the subnet can have it.
    ///
    /// # Errors
    /// It is not in the subnet, or one that no pod can have.
    pub fn for_pod_in(&self, address: IpAddr, subnet: &Subnet) -> Result<IpNet, AddressError> {
        // Outside the range, and its own first and last address.
        self.for_pod(address)?;
        let net = subnet.net;
        if !net.contains(&address) {
            return Err(AddressError::OutsideSubnet { address, subnet: net });
        }
        let first = self.address(subnet.span.first).unwrap_or(address);
        match self.offset(address) {
            Some(offset) if subnet.span.has(offset) => Ok(IpNet::new_assert(address, net.prefix_len())),
            _ => Err(AddressError::Reserved {
                address,
                which: if address == net.network() {
                    "network"
                } else {
                    "broadcast"
                },
                range: net,
                first,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn space(range: &str) -> AddressSpace {
        AddressSpace::of_range(range.parse().unwrap()).unwrap()
    }

    fn span(range: &str, subnet: &str) -> Result<(u32, u32), SubnetError> {
        let subnet = space(range).subnet(subnet.parse().unwrap())?;
        Ok((subnet.span.first, subnet.span.last))
    }

    #[test]
    fn ends_are_kept_free_where_they_mean_something() {
        for (range, subnet, first, last) in [
            ("10.32.0.0/12", "10.32.7.0/24", 0x701, 0x7fe),
            ("10.32.0.0/12", "10.32.7.0/31", 0x700, 0x701),
            ("10.32.0.0/12", "10.32.7.4/30", 0x705, 0x706),
            ("10.32.0.0/12", "10.32.0.0/12", 1, 0xf_fffe),
            ("10.32.0.0/24", "10.32.0.0/31", 1, 1),
            ("10.32.0.0/24", "10.32.0.254/31", 254, 254),
            ("fd00::/96", "fd00::700/120", 0x701, 0x7ff),
            ("fd00::/96", "fd00::700/127", 0x700, 0x701),
            ("0.0.0.0/0", "0.0.0.0/0", 1, u32::MAX - 1),
            ("0.0.0.0/0", "255.255.255.0/24", 0xffff_ff01, u32::MAX - 1),
            ("fd00::/96", "fd00::/96", 1, u32::MAX),
        ] {
            assert_eq!(span(range, subnet), Ok((first, last)), "{subnet} of {range}");
        }
    }

    #[test]
    fn bad_subnets_are_refused_with_the_cure() {
        for (subnet, words) in [
            ("10.48.0.0/24", "outside the cluster's range 10.32.0.0/12"),
            ("fd00::/120", "outside"),
            ("10.0.0.0/8", "larger than the cluster's range"),
            ("10.32.7.1/24", "did you mean 10.32.7.0/24"),
            ("10.32.7.1/32", "without a prefix"),
        ] {
            let error = span("10.32.0.0/12", subnet).unwrap_err().to_string();
            assert!(error.contains(words), "{subnet}: {error}");
        }
        let space = space("10.32.0.0/12");
        let subnet = space.subnet("10.32.7.0/24".parse().unwrap()).unwrap();
        for (address, words) in [
            ("10.32.7.0", "network"),
            ("10.32.7.255", "broadcast"),
            ("10.32.8.1", "not in subnet 10.32.7.0/24"),
            ("10.48.0.1", "outside the cluster's range"),
        ] {
            let error = space.for_pod_in(address.parse().unwrap(), &subnet).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn in_every_range_a_pod_gets_what_lies_between_the_ends(
            (is_v4, bits) in (any::<bool>(), 0u8..32),
            subnet_bits in any::<u8>(),
            at in any::<u32>(),
        ) {
            // 10.0.0.0/8 to a /30; fd00::/96 to a /120.
            let host_bits = if is_v4 { 2 + bits % 23 } else { 8 + bits % 25 };
            let range: IpNet = if is_v4 {
                IpNet::new("10.0.0.0".parse().unwrap(), 32 - host_bits).unwrap()
            } else {
                IpNet::new("fd00::".parse().unwrap(), 128 - host_bits).unwrap()
            };
            let space = AddressSpace::of_range(range).unwrap();
            let address = space.address((u128::from(at) % space.size()) as u32).unwrap();
            let prefix = range.max_prefix_len() - subnet_bits % (host_bits + 1);
            let net = IpNet::new(address, prefix).unwrap().trunc();
            match space.subnet(net) {
                Err(error) => prop_assert!(prefix == range.max_prefix_len(), "{error}"),
                Ok(subnet) => {
                    let Span { first, last } = subnet.span();
                    prop_assert!(first <= last);
                    for offset in [first, last] {
                        let given = space.for_pod_in(space.address(offset).unwrap(), &subnet).unwrap();
                        prop_assert_eq!(given.trunc(), net);
                        prop_assert!(space.for_pod(given.addr()).is_ok());
                        if prefix + 1 < net.max_prefix_len() {
                            prop_assert!(given.addr() != net.network());
                            prop_assert!(!is_v4 || given.addr() != net.broadcast());
                        }
                    }
                    // Nothing that a pod of the subnet can have is left out.
                    prop_assert_eq!(
                        space.for_pod_in(address, &subnet).is_ok(),
                        subnet.span().has(space.offset(address).unwrap())
                    );
                }
            }
        }
    }
}
