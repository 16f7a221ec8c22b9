//! What hosts are plugged into.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use weft_kernel::Namespace;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::MAX_MEMBERS;

/// A port of an underlay, numbered from 0 in the order of plugging in.
pub type Port = u32;

/// What hosts are plugged into: a [`Switch`](crate::Switch), a [`Wire`](crate::Wire) or a
/// [`Crossover`](crate::Crossover) cable.
///
/// Cloning a handle does not copy the underlay; it lives until its last handle and its last host are gone.
pub trait Underlay: Send + Sync {
    /// The number of this underlay in its lab; the automatic addresses follow from it.
    fn number(&self) -> u32;

    /// Makes the interface `ifname` in a namespace, connected to a new port, not yet up.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn plug(&self, namespace: &Namespace, ifname: &str, mtu: u32) -> Result<Port>;

    /// Where a frame from a new port can be heard, if ports of this underlay open only some time after
    /// their interface is up: a namespace and an interface in it.
    fn listening_post(&self) -> Option<(&Namespace, &str)> {
        None
    }

    /// Puts these ports on a side of their own: no frame passes to or from any other side.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set_side(&self, ports: &[Port]) -> Result<()>;

    /// Puts every port on one side again.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn heal(&self) -> Result<()>;

    /// Another handle to the same underlay.
    fn handle(&self) -> Box<dyn Underlay>;

    /// Cuts `second` off from `first` and from every host not named.
    ///
    /// # Errors
    /// When a host is named on both sides or is not on this underlay, or the kernel refuses.
    fn partition(&self, first: &[&Host], second: &[&Host]) -> Result<()> {
        let ports = |hosts: &[&Host]| -> Result<Vec<Port>> {
            hosts
                .iter()
                .map(|host| {
                    host.port_on(self.number()).ok_or_else(|| {
                        Error::invalid(
                            format!("a partition of {}", host.name()),
                            "it must be plugged into this underlay",
                        )
                    })
                })
                .collect()
        };
        let (first, second) = (ports(first)?, ports(second)?);
        if first.iter().any(|port| second.contains(port)) {
            return Err(Error::invalid(
                "a partition",
                "a host can be on one side of it only",
            ));
        }
        self.set_side(&second)
    }

    /// The automatic IPv4 network: the three of RFC 5737, then parts of the benchmark network of RFC 2544.
    fn ipv4_net(&self) -> Ipv4Net {
        let base = match self.number() {
            0 => Ipv4Addr::new(192, 0, 2, 0),
            1 => Ipv4Addr::new(198, 51, 100, 0),
            2 => Ipv4Addr::new(203, 0, 113, 0),
            // The lab makes no more than MAX_MEMBERS, which fits an octet.
            number => Ipv4Addr::new(198, 18, u8::try_from(number).unwrap_or(u8::MAX), 0),
        };
        Ipv4Net::new_assert(base, 24)
    }

    /// The automatic IPv6 network, of the documentation prefix (RFC 3849).
    fn ipv6_net(&self) -> Ipv6Net {
        let number = u16::try_from(self.number()).unwrap_or(u16::MAX);
        Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 0), 64)
    }
}

const _: () = assert!(
    MAX_MEMBERS < 255,
    "numbers of hosts and underlays are octets of addresses"
);
