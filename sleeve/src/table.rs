//! What the engine's workers read for each frame: an immutable snapshot, replaced as a whole.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use weft_wire::{Mac, NodeId, PeerHash, SessionIndex};

/// Where frames go. A frame for an address in `macs` goes to that peer; any other, and every broadcast and
/// multicast frame, goes as FLOOD to each peer that has a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardingTable {
    /// Our own hash: the origin of the frames we flood.
    pub origin: PeerHash,
    /// Every peer that frames may go to.
    pub peers: Vec<PeerPath>,
    /// Where an address lives: a position in `peers`.
    pub macs: BTreeMap<Mac, u16>,
}

/// How frames travel to one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerPath {
    /// The peer.
    pub peer: NodeId,
    /// Its hash.
    pub hash: PeerHash,
    /// Session to send under, by our index; `None` until one is selected.
    pub session: Option<SessionIndex>,
    /// Address to send to; `None` until the peer was heard from.
    pub endpoint: Option<SocketAddr>,
    /// Octets of UDP payload that the path there carries; larger frames go in pieces.
    pub datagram: u16,
}

impl PeerPath {
    /// Session and address, when there are both.
    pub fn ready(&self) -> Option<(SessionIndex, SocketAddr)> {
        Some((self.session?, self.endpoint?))
    }
}

impl ForwardingTable {
    /// A table without peers.
    pub const fn empty(origin: PeerHash) -> Self {
        Self {
            origin,
            peers: Vec::new(),
            macs: BTreeMap::new(),
        }
    }

    /// The peer at which a unicast address lives; `None` for group addresses and unknown ones, which are flooded.
    pub fn unicast(&self, destination: Mac) -> Option<&PeerPath> {
        if destination.is_group() {
            return None;
        }
        self.peers.get(usize::from(*self.macs.get(&destination)?))
    }

    /// Every peer that a flooded frame goes to now.
    pub fn flood(&self) -> impl Iterator<Item = (&PeerPath, SessionIndex, SocketAddr)> {
        self.peers
            .iter()
            .filter_map(|path| path.ready().map(|(session, endpoint)| (path, session, endpoint)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_unicast_has_one_target_and_all_else_is_flooded_to_ready_peers() {
        let path = |n: u8, session| PeerPath {
            peer: NodeId([n; 32]),
            hash: NodeId([n; 32]).peer_hash(),
            session,
            endpoint: Some(([192, 0, 2, n], 6783).into()),
            datagram: crate::path_mtu::BASE,
        };
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let mut table = ForwardingTable::empty(PeerHash([0; 8]));
        table.peers = vec![path(1, None), path(2, Some(SessionIndex(5)))];
        table.macs = [(mac, 1), (Mac([2, 0, 0, 0, 0, 2]), 9), (Mac::BROADCAST, 1)].into();
        assert_eq!(table.unicast(mac).map(|p| p.peer), Some(NodeId([2; 32])));
        assert_eq!(
            table.unicast(Mac([2, 0, 0, 0, 0, 2])),
            None,
            "a position outside the table"
        );
        assert_eq!(table.unicast(Mac::BROADCAST), None);
        let flooded: Vec<_> = table.flood().map(|(p, s, _)| (p.peer, s)).collect();
        assert_eq!(flooded, [(NodeId([2; 32]), SessionIndex(5))]);
    }
}
