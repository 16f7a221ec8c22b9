//! The range of a cluster and its slots.

use core::net::IpAddr;
use ipnet::IpNet;
use weft_wire::record::Genesis;

/// Slots of the largest ranges; slot size follows from it.
pub const SLOTS_MAX: u128 = 65_536;
/// Fewest host bits of a range: four addresses, of which two can be given to pods of an IPv4 range.
pub const MIN_HOST_BITS: u8 = 2;
/// Most host bits of a range: offsets within it fit the 32 bits that a weft MAC has for them.
pub const MAX_HOST_BITS: u8 = 32;

/// A part of the range that one host owns at a time, numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Slot(pub u32);

/// Why a range cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RangeError {
    /// Fewer than four addresses.
    #[error("range {0} is too small: give at least 4 addresses, for example a /24")]
    TooSmall(IpNet),
    /// An IPv6 range of more than 2^32 addresses.
    #[error("IPv6 range {0} is too large: an offset in it must fit 32 bits, so give a /96 or smaller")]
    TooLarge(IpNet),
    /// A genesis states another slot size than its range gives.
    #[error("slots of {stated} addresses do not fit range {range}: its slots have {expected}")]
    SlotSize {
        /// The range.
        range: IpNet,
        /// Slot size that the genesis states.
        stated: u32,
        /// Slot size that follows from the range.
        expected: u32,
    },
    /// Bits behind the prefix are set.
    #[error("range {given} has bits set behind its prefix: did you mean {meant}?")]
    HostBits {
        /// As given.
        given: IpNet,
        /// With those bits cleared.
        meant: IpNet,
    },
}

/// Why an address cannot be given to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// Not in the range of the cluster.
    #[error("address {address} is outside the cluster's range {range}")]
    OutsideRange {
        /// The address.
        address: IpAddr,
        /// The range.
        range: IpNet,
    },
    /// First or last of the range, which name the network and everybody in it.
    #[error(
        "address {address} is the {which} address of {range}, which no pod can have; the first one free is {first}"
    )]
    Reserved {
        /// The address.
        address: IpAddr,
        /// `network` or `broadcast`.
        which: &'static str,
        /// The range.
        range: IpNet,
        /// The lowest address that pods can have.
        first: IpAddr,
    },
    /// Not in the subnet in which it is asked for.
    #[error("address {address} is not in subnet {subnet}: name one that is, or leave the subnet out")]
    OutsideSubnet {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
}

/// A range cut into slots of equal size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressSpace {
    range: IpNet,
    slot_size: u32,
}

impl AddressSpace {
    /// The address space of a range, with the slot size that new clusters use: `max(1, range / 65,536)`.
    pub fn of_range(range: IpNet) -> Result<Self, RangeError> {
        if range.trunc() != range {
            return Err(RangeError::HostBits {
                given: range,
                meant: range.trunc(),
            });
        }
        let host_bits = range.max_prefix_len() - range.prefix_len();
        if host_bits < MIN_HOST_BITS {
            return Err(RangeError::TooSmall(range));
        }
        if host_bits > MAX_HOST_BITS {
            return Err(RangeError::TooLarge(range));
        }
        let slot_size = ((1u128 << host_bits) / SLOTS_MAX).max(1);
        // At most 2^32 / 2^16.
        Ok(Self {
            range,
            slot_size: slot_size as u32,
        })
    }

    /// The address space that a genesis laid down, or why that genesis is malformed.
    pub fn of_genesis(genesis: &Genesis) -> Result<Self, RangeError> {
        let space = Self::of_range(genesis.range)?;
        if genesis.slot_size == space.slot_size {
            Ok(space)
        } else {
            Err(RangeError::TooSmall(genesis.range))
        }
    }

    /// The range.
    pub fn range(&self) -> IpNet {
        self.range
    }

    /// Addresses in one slot.
    pub fn slot_size(&self) -> u32 {
        self.slot_size
    }

    /// How many slots there are, at most 65,536.
    pub fn slots(&self) -> u32 {
        (self.size() / u128::from(self.slot_size)) as u32
    }

    /// How many addresses there are, at most 2^32.
    pub fn size(&self) -> u128 {
        1 << (self.range.max_prefix_len() - self.range.prefix_len())
    }

    /// Where in the range an address stands, or `None` when it is outside.
    pub fn offset(&self, address: IpAddr) -> Option<u32> {
        self.range
            .contains(&address)
            .then(|| (number(address) - number(self.range.network())) as u32)
    }

    /// The address at an offset, or `None` behind the end.
    pub fn address(&self, offset: u32) -> Option<IpAddr> {
        if u128::from(offset) >= self.size() {
            return None;
        }
        Some(match self.range.network() {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first) + offset).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(offset)).into()),
        })
    }

    /// The slot that holds an address, or `None` when it is outside the range.
    pub fn slot(&self, address: IpAddr) -> Option<Slot> {
        self.offset(address).map(|offset| Slot(offset / self.slot_size))
    }

    /// The address with the range's prefix length, if a pod can have it.
    ///
    /// The first address of a range names the network (in IPv6 the subnet-router anycast, RFC 4291 §2.6.1); the last one of
    /// an IPv4 range is its broadcast address (RFC 919).
    pub fn for_pod(&self, address: IpAddr) -> Result<IpNet, AddressError> {
        let range = self.range;
        let Some(offset) = self.offset(address) else {
            return Err(AddressError::OutsideRange { address, range });
        };
        let which = if offset == 0 {
            "network"
        } else if address.is_ipv4() && u128::from(offset) == self.size() - 1 {
            "broadcast"
        } else {
            return Ok(IpNet::new_assert(address, range.prefix_len()));
        };
        let first = self.address(1).unwrap_or(address);
        Err(AddressError::Reserved {
            address,
            which,
            range,
            first,
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space(range: &str) -> AddressSpace {
        AddressSpace::of_range(range.parse().unwrap()).unwrap()
    }

    #[test]
    fn slot_size_follows_from_the_range() {
        for (range, size, slots) in [
            ("10.32.0.0/12", 16, 65_536),
            ("10.0.0.0/8", 256, 65_536),
            ("10.32.0.0/16", 1, 65_536),
            ("10.32.0.0/24", 1, 256),
            ("fd00::/96", 65_536, 65_536),
            ("fd00::/120", 1, 256),
            ("0.0.0.0/0", 65_536, 65_536),
        ] {
            assert_eq!(
                (space(range).slot_size(), space(range).slots()),
                (size, slots),
                "{range}"
            );
        }
    }

    #[test]
    fn bad_ranges_are_refused_by_name() {
        let refuse = |range: &str| {
            AddressSpace::of_range(range.parse().unwrap())
                .unwrap_err()
                .to_string()
        };
        assert!(refuse("10.0.0.0/31").contains("too small"));
        assert!(refuse("fd00::/64").contains("/96"));
        assert!(refuse("10.32.0.1/24").contains("did you mean 10.32.0.0/24"));
    }

    #[test]
    fn first_and_last_addresses_are_kept_from_pods() {
        let v4 = space("10.32.0.0/24");
        assert!(
            v4.for_pod("10.32.0.0".parse().unwrap())
                .unwrap_err()
                .to_string()
                .contains("10.32.0.1")
        );
        assert!(v4.for_pod("10.32.0.255".parse().unwrap()).is_err());
        assert_eq!(
            v4.for_pod("10.32.0.7".parse().unwrap()).unwrap().to_string(),
            "10.32.0.7/24"
        );
        assert!(
            v4.for_pod("10.33.0.7".parse().unwrap())
                .unwrap_err()
                .to_string()
                .contains("outside")
        );
        let v6 = space("fd00::/120");
        assert!(v6.for_pod("fd00::".parse().unwrap()).is_err());
        assert!(v6.for_pod("fd00::ff".parse().unwrap()).is_ok());
        assert!(v6.for_pod("10.32.0.7".parse().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn offset_and_address_are_inverse(offset in any::<u32>()) {
            for range in ["10.0.0.0/8", "10.32.0.0/24", "fd00::/96"] {
                let space = space(range);
                match space.address(offset) {
                    Some(address) => {
                        prop_assert_eq!(space.offset(address), Some(offset));
                        prop_assert!(space.slot(address).unwrap().0 < space.slots());
                    }
                    None => prop_assert!(u128::from(offset) >= space.size()),
                }
            }
        }
    }
}
