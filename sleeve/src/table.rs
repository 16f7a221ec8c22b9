//! What the engine's workers read for each frame: an immutable snapshot, replaced as a whole.

use crate::locate::Locator;
use crate::multicast::Groups;
use crate::relaying::Relaying;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use weft_wire::{Mac, NodeId, PeerHash, SessionIndex};

/// Where frames go: [`ForwardingTable::decide`](crate::decide) says it for each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardingTable {
    /// Our own hash: the origin of the frames we flood.
    pub origin: PeerHash,
    /// Every peer that frames may go to, in order of id.
    pub peers: Vec<PeerPath>,
    /// Where an address lives as traffic taught it: a position in `peers`.
    pub macs: BTreeMap<Mac, u16>,
    /// Where range addresses and weft MACs live; `None` before this host is a member. It changes far less often than
    /// the rest, so tables share it.
    pub locator: Option<Arc<Locator>>,
    /// Where multicast goes. Shared by tables, as above.
    pub groups: Arc<Groups>,
    /// What is passed on for others. Shared by tables, as above.
    pub relaying: Arc<Relaying>,
    /// Proves that a probe of the loop guard is of this cluster; `None` before this host is a member.
    pub guard: Option<[u8; 32]>,
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
    /// Address to send to, the peer's own or its relay's; `None` until one is known.
    pub endpoint: Option<SocketAddr>,
    /// Datagrams to it go by relay: each with a RELAY shim before it, and marked in its header.
    pub by_relay: bool,
    /// Octets that a datagram on the path there may have, without the shim; larger frames go in pieces.
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
    pub fn empty(origin: PeerHash) -> Self {
        Self {
            origin,
            peers: Vec::new(),
            macs: BTreeMap::new(),
            locator: None,
            groups: Arc::default(),
            relaying: Arc::default(),
            guard: None,
        }
    }

    /// Where a peer stands in `peers`.
    pub fn position(&self, peer: &NodeId) -> Option<u16> {
        let at = self.peers.binary_search_by_key(peer, |path| path.peer).ok()?;
        u16::try_from(at).ok()
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
    fn frames_are_flooded_to_peers_that_are_ready() {
        let path = |n: u8, session| PeerPath {
            peer: NodeId([n; 32]),
            hash: NodeId([n; 32]).peer_hash(),
            session,
            endpoint: Some(([192, 0, 2, n], 6783).into()),
            by_relay: false,
            datagram: crate::path_mtu::BASE,
        };
        let mut table = ForwardingTable::empty(PeerHash([0; 8]));
        table.peers = vec![path(1, None), path(2, Some(SessionIndex(5)))];
        assert_eq!(table.position(&NodeId([2; 32])), Some(1));
        assert_eq!(table.position(&NodeId([3; 32])), None);
        let flooded: Vec<_> = table.flood().map(|(p, s, _)| (p.peer, s)).collect();
        assert_eq!(flooded, [(NodeId([2; 32]), SessionIndex(5))]);
    }
}
