//! What this host passes on for others, unread: for whom, and where to.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::SocketAddr;
use weft_wire::datagram::RelayShim;
use weft_wire::limits::RELAY_HOPS_MAX;
use weft_wire::{DropReason, PeerHash};

/// Whom this host relays for, and its next hops: a part of the forwarding table that changes seldom.
///
/// Addresses are never IPv4-mapped IPv6 addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Relaying {
    /// Where the peers are that this host has a session with, without a relay. Nobody else is served.
    pub neighbours: BTreeSet<SocketAddr>,
    /// Where datagrams for each host go.
    pub next: BTreeMap<PeerHash, NextHops>,
}

/// Two different neighbours on the way to one host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHops {
    /// The better one, which may be the host itself.
    pub first: SocketAddr,
    /// The one for what comes from the first: it would only come back.
    pub second: Option<SocketAddr>,
}

/// What becomes of a RELAY datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passed {
    /// It is for this host.
    Here,
    /// It goes on, with another hop limit.
    On {
        /// To this address.
        to: SocketAddr,
        /// The new hop limit.
        hop_limit: u8,
    },
}

impl Relaying {
    /// What becomes of a RELAY datagram that came from this address to the host with this hash.
    ///
    /// # Errors
    /// [`DropReason::RelayNotANeighbour`], [`DropReason::RelayLoop`], [`DropReason::RelayHopLimit`],
    /// [`DropReason::RelayNoRoute`].
    pub fn pass(&self, own: PeerHash, from: SocketAddr, shim: &RelayShim) -> Result<Passed, DropReason> {
        if !self.neighbours.contains(&from) {
            return Err(DropReason::RelayNotANeighbour);
        }
        if shim.destination == own {
            return Ok(Passed::Here);
        }
        if shim.source == own {
            return Err(DropReason::RelayLoop);
        }
        let left = shim.hop_limit.min(RELAY_HOPS_MAX);
        let hop_limit = left.checked_sub(1).ok_or(DropReason::RelayHopLimit)?;
        let hops = self.next.get(&shim.destination).ok_or(DropReason::RelayNoRoute)?;
        let others = [Some(hops.first), hops.second].into_iter().flatten();
        match others.into_iter().find(|to| *to != from) {
            Some(to) => Ok(Passed::On { to, hop_limit }),
            None => Err(DropReason::RelayLoop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::datagram::RelayShim;

    fn at(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 6783).into()
    }

    fn hash(n: u8) -> PeerHash {
        PeerHash([n; 8])
    }

    #[test]
    fn each_refusal_has_its_reason_and_the_rest_goes_on_or_is_for_this_host() {
        let hops = |first, second: Option<u8>| NextHops {
            first: at(first),
            second: second.map(at),
        };
        let relaying = Relaying {
            neighbours: [at(1), at(2), at(3)].into(),
            next: [
                (hash(1), hops(1, None)),
                (hash(2), hops(2, None)),
                (hash(5), hops(2, Some(3))),
            ]
            .into(),
        };
        let pass = |from, hop_limit, destination, source| {
            let shim = RelayShim {
                hop_limit,
                destination: hash(destination),
                source: hash(source),
            };
            relaying.pass(hash(9), at(from), &shim)
        };
        let on = |to, hop_limit| {
            Ok(Passed::On {
                to: at(to),
                hop_limit,
            })
        };
        assert_eq!(pass(1, 8, 2, 1), on(2, 7));
        assert_eq!(pass(1, 1, 2, 1), on(2, 0));
        assert_eq!(pass(1, 200, 2, 1), on(2, 7), "nobody may ask for more");
        assert_eq!(pass(1, 8, 5, 1), on(2, 7));
        assert_eq!(pass(2, 8, 5, 1), on(3, 7), "not back");
        assert_eq!(pass(1, 0, 9, 2), Ok(Passed::Here));
        assert_eq!(pass(4, 8, 2, 4), Err(DropReason::RelayNotANeighbour));
        assert_eq!(pass(4, 8, 9, 4), Err(DropReason::RelayNotANeighbour));
        assert_eq!(pass(1, 0, 2, 1), Err(DropReason::RelayHopLimit));
        assert_eq!(pass(1, 8, 7, 1), Err(DropReason::RelayNoRoute));
        assert_eq!(pass(2, 8, 2, 1), Err(DropReason::RelayLoop), "it would go back");
        assert_eq!(pass(2, 8, 1, 9), Err(DropReason::RelayLoop), "this host's own");
    }
}
