//! What the workers read on each packet: sessions and forwarding table, swapped as one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_sleeve::ForwardingTable;
use weft_sleeve::path_mtu::BASE;
use weft_wire::datagram::{FLAG_BY_RELAY, Kind, RELAY_SHIM_LEN, RelayShim};
use weft_wire::limits::RELAY_HOPS_MAX;
use weft_wire::{DropReason, NodeId, PeerHash, SessionIndex};

use crate::address::normal;
use crate::engine::EngineEvent;
use crate::session::Session;

/// Installed sessions by their local index.
pub(crate) type Sessions = BTreeMap<SessionIndex, Arc<Session>>;

/// A worker's way to the present snapshot.
pub(crate) type Views<'s> = arc_swap::Cache<&'s arc_swap::ArcSwap<View>, Arc<View>>;

/// An immutable snapshot: the table with its sessions looked up.
pub(crate) struct View {
    pub(crate) origin: PeerHash,
    /// One for each peer of the table, in its order.
    pub(crate) links: Vec<Link>,
    pub(crate) table: Arc<ForwardingTable>,
    inbound: BTreeMap<SessionIndex, Inbound>,
    /// Positions in `links` of the peers that are reached without a relay.
    neighbours: BTreeMap<SocketAddr, usize>,
}

/// The way to one peer.
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    pub(crate) hash: PeerHash,
    /// `None` while no session to it has an endpoint.
    pub(crate) path: Option<Path>,
}

/// Where datagrams to a peer go, and what stands before them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    /// The peer's address, or its relay's.
    pub(crate) endpoint: SocketAddr,
    /// For a relay.
    pub(crate) shim: Option<[u8; RELAY_SHIM_LEN]>,
}

impl Hop {
    pub(crate) const fn direct(endpoint: SocketAddr) -> Self {
        Self { endpoint, shim: None }
    }

    /// By the relay at this address, from the host with one hash to that with the other.
    pub(crate) fn by_relay(endpoint: SocketAddr, source: PeerHash, destination: PeerHash) -> Self {
        let shim = RelayShim {
            hop_limit: RELAY_HOPS_MAX,
            destination,
            source,
        };
        Self {
            endpoint,
            shim: Some(shim.to_bytes()),
        }
    }

    /// Flags in the header of each datagram.
    pub(crate) const fn flags(&self) -> u8 {
        match self.shim {
            Some(_) => FLAG_BY_RELAY,
            None => 0,
        }
    }
}

/// Where frames to a peer go, and under which session.
pub(crate) struct Path {
    pub(crate) session: Arc<Session>,
    pub(crate) hop: Hop,
    /// Octets that a datagram to it may have, as the table says.
    datagram: u16,
}

impl Path {
    /// Completes a datagram in place, as [`Session::seal`].
    pub(crate) fn seal(&self, kind: Kind, datagram: &mut [u8]) -> Result<(), DropReason> {
        self.session.seal(kind, self.hop.flags(), datagram)
    }

    /// Octets of a datagram that nearly every path carries.
    pub(crate) fn base(&self) -> u16 {
        match self.hop.shim {
            Some(_) => BASE - RELAY_SHIM_LEN as u16,
            None => BASE,
        }
    }

    /// Octets that a datagram to it may have now: what the kernel has refused is not tried again.
    pub(crate) fn limit(&self) -> u16 {
        if self.session.refused_size() == Some(self.datagram) {
            self.datagram.min(self.base())
        } else {
            self.datagram
        }
    }

    /// The kernel refused a datagram of `size` octets. Reports it once for each size that the table names; the
    /// report is repeated with the next such datagram when `report` returns false.
    pub(crate) fn refused(&self, size: u16, report: impl FnOnce(EngineEvent) -> bool) {
        let local = self.session.local;
        if self.session.refused_size() != Some(self.datagram) && report(EngineEvent::TooBig { local, size }) {
            self.session.set_refused_size(Some(self.datagram));
        }
    }
}

/// A session as the receiving worker sees it.
pub(crate) struct Inbound {
    pub(crate) session: Arc<Session>,
    /// Where the table says that its peer is, if that can be reached without a relay.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Where datagrams to it go.
    pub(crate) hop: Option<Hop>,
}

impl View {
    pub(crate) fn new(table: Arc<ForwardingTable>, sessions: &Sessions) -> Self {
        let mut hops = BTreeMap::new();
        let mut neighbours = BTreeMap::new();
        let mut links = Vec::with_capacity(table.peers.len());
        for row in &table.peers {
            let hop = row.endpoint.map(normal).map(|endpoint| match row.by_relay {
                true => Hop::by_relay(endpoint, table.origin, row.hash),
                false => Hop::direct(endpoint),
            });
            if let Some(hop) = hop {
                hops.insert(row.peer, hop);
            }
            // A frame must not reach another peer than the table means, whatever index it gives.
            let session = row
                .session
                .and_then(|index| sessions.get(&index))
                .filter(|s| s.peer == row.peer);
            if let (Some(hop), false) = (hop, row.by_relay) {
                neighbours.insert(hop.endpoint, links.len());
            }
            let path = session.zip(hop).map(|(session, hop)| {
                if session.refused_size() != Some(row.datagram) {
                    session.set_refused_size(None);
                }
                Path {
                    session: Arc::clone(session),
                    hop,
                    datagram: row.datagram,
                }
            });
            links.push(Link {
                peer: row.peer,
                hash: row.hash,
                path,
            });
        }
        let inbound = sessions
            .iter()
            .map(|(index, session)| {
                let hop = hops.get(&session.peer).copied();
                let endpoint = hop.filter(|hop| hop.shim.is_none()).map(|hop| hop.endpoint);
                (
                    *index,
                    Inbound {
                        session: Arc::clone(session),
                        endpoint,
                        hop,
                    },
                )
            })
            .collect();
        Self {
            origin: table.origin,
            links,
            table,
            inbound,
            neighbours,
        }
    }

    /// Octets that a datagram to the neighbour at this address may have.
    pub(crate) fn datagram_to(&self, neighbour: SocketAddr) -> Option<u16> {
        let link = self.links.get(*self.neighbours.get(&neighbour)?)?;
        link.path.as_ref().map(Path::limit)
    }

    pub(crate) fn inbound(&self, index: SessionIndex) -> Option<&Inbound> {
        self.inbound.get(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_sleeve::{Cipher, PeerPath, SessionKeys};

    fn peer(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn session(local: u32, of: NodeId) -> (SessionIndex, Arc<Session>) {
        let keys = SessionKeys {
            local: SessionIndex(local),
            remote: SessionIndex(1),
            peer: of,
            cipher: Cipher::Aes256Gcm,
            send: [1; 32],
            receive: [2; 32],
        };
        (keys.local, Arc::new(Session::new(&keys, Arc::default()).unwrap()))
    }

    fn row(n: u8, session: Option<u32>, endpoint: Option<&str>) -> PeerPath {
        PeerPath {
            peer: peer(n),
            hash: peer(n).peer_hash(),
            session: session.map(SessionIndex),
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            by_relay: false,
            datagram: 1_472,
        }
    }

    #[test]
    fn a_size_that_the_kernel_refused_is_told_once_and_not_used_until_the_table_names_another() {
        let sessions = [session(10, peer(1))].into();
        let view = |datagram| {
            let mut table = ForwardingTable::empty(PeerHash([9; 8]));
            table.peers = vec![PeerPath {
                datagram,
                ..row(1, Some(10), Some("192.0.2.1:1"))
            }];
            View::new(Arc::new(table), &sessions)
        };
        let limit = |view: &View| view.links[0].path.as_ref().unwrap().limit();
        let refuse = |view: &View, taken| {
            let mut told = None;
            view.links[0].path.as_ref().unwrap().refused(1_400, |event| {
                told = Some(event);
                taken
            });
            told
        };
        let event = Some(EngineEvent::TooBig {
            local: SessionIndex(10),
            size: 1_400,
        });
        let first = view(1_472);
        assert_eq!(limit(&first), 1_472);
        assert_eq!(refuse(&first, false), event);
        assert_eq!(limit(&first), 1_472, "nobody heard of it");
        assert_eq!(refuse(&first, true), event);
        assert_eq!((limit(&first), refuse(&first, true)), (BASE, None));
        assert_eq!(limit(&view(1_472)), BASE, "another table, the same size");
        assert_eq!(limit(&view(1_232)), 1_232);
        assert_eq!(limit(&view(1_472)), 1_472, "found again");
    }

    #[test]
    fn a_path_needs_an_endpoint_and_a_session_of_that_very_peer() {
        let mut table = ForwardingTable::empty(PeerHash([9; 8]));
        table.peers = vec![
            row(1, Some(10), Some("[::ffff:192.0.2.1]:1")),
            row(2, Some(20), None),
            row(3, None, Some("192.0.2.3:1")),
            row(4, Some(10), Some("192.0.2.4:1")),
            row(5, Some(50), Some("192.0.2.5:1")),
        ];
        let sessions = [
            session(10, peer(1)),
            session(11, peer(3)),
            session(20, peer(2)),
            session(30, peer(6)),
        ]
        .into();
        let view = View::new(Arc::new(table), &sessions);
        let paths: Vec<_> = view
            .links
            .iter()
            .map(|link| link.path.as_ref().map(|p| p.hop.endpoint))
            .collect();
        assert_eq!(
            paths,
            [Some("192.0.2.1:1".parse().unwrap()), None, None, None, None]
        );
        let endpoint = |index| view.inbound(SessionIndex(index)).map(|i| i.endpoint);
        assert_eq!(
            endpoint(11),
            Some(Some("192.0.2.3:1".parse().unwrap())),
            "not the one used for sending"
        );
        assert_eq!(endpoint(30), Some(None), "not in the table");
        assert_eq!(endpoint(50), None);
    }
}
