//! The weft MAC: `02`, one octet of the genesis id, and the 32-bit offset of the address in its range.
//!
//! It is locally administered and never a group address (IEEE 802-2014 §8.2), so no vendor's card has it; and the
//! address can be read back, so a router that meets one knows whose slot it belongs to.

use crate::space::AddressSpace;
use core::net::IpAddr;
use weft_wire::{GenesisId, Mac};

/// First octet of every weft MAC: unicast, locally administered.
const FIRST_OCTET: u8 = 0x02;

/// The MAC of the interface whose first address is `address`, or `None` when that is outside the range.
pub fn weft_mac(genesis: &GenesisId, space: &AddressSpace, address: IpAddr) -> Option<Mac> {
    let [a, b, c, d] = space.offset(address)?.to_be_bytes();
    Some(Mac([FIRST_OCTET, genesis.0[0], a, b, c, d]))
}

/// The address behind a weft MAC of this cluster, or `None` for any other MAC.
pub fn address_of(genesis: &GenesisId, space: &AddressSpace, mac: Mac) -> Option<IpAddr> {
    let [first, cluster, offset @ ..] = mac.0;
    if first != FIRST_OCTET || cluster != genesis.0[0] {
        return None;
    }
    space.address(u32::from_be_bytes(offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mac_is_unicast_local_and_reads_back(offset in any::<u32>(), first in any::<u8>(), other in any::<u8>()) {
            let genesis = GenesisId([first; 32]);
            for range in ["10.32.0.0/12", "fd00::/96"] {
                let space = AddressSpace::of_range(range.parse().unwrap()).unwrap();
                let Some(address) = space.address(offset) else { continue };
                let mac = weft_mac(&genesis, &space, address).unwrap();
                prop_assert!(mac.is_valid_source());
                prop_assert_eq!(mac.0[0] & 0b11, 0b10);
                prop_assert_eq!(address_of(&genesis, &space, mac), Some(address));
                if other != first {
                    prop_assert_eq!(address_of(&GenesisId([other; 32]), &space, mac), None);
                }
            }
        }
    }

    #[test]
    fn a_foreign_mac_has_no_address() {
        let space = AddressSpace::of_range("10.32.0.0/24".parse().unwrap()).unwrap();
        let genesis = GenesisId([7; 32]);
        assert_eq!(
            address_of(&genesis, &space, "52:54:00:12:34:56".parse().unwrap()),
            None
        );
        // Behind the end of the range.
        assert_eq!(address_of(&genesis, &space, Mac([2, 7, 0, 0, 1, 0])), None);
        assert_eq!(weft_mac(&genesis, &space, "192.0.2.1".parse().unwrap()), None);
    }
}
