//! What all peers of one machine share: the outputs, the random source, the secrets, the indexes in use.

use crate::io::{LocalNode, Output};
use crate::way::Target;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use weft_wire::datagram::{RELAY_SHIM_LEN, RelayShim};
use weft_wire::limits::RELAY_HOPS_MAX;
use weft_wire::secret::Protocol;
use weft_wire::{ClusterSecret, DropReason, NodeId, PeerHash, Psk, SessionIndex};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A cluster secret with what follows from it for datagrams that are sent to us.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret {
    pub(crate) secret: ClusterSecret,
    pub(crate) psk: Psk,
    pub(crate) mac1_key: [u8; 32],
    pub(crate) cookie_key: [u8; 32],
}

impl Secret {
    pub(crate) fn new(secret: &ClusterSecret, us: &NodeId) -> Self {
        Self {
            psk: secret.psk(Protocol::Sleeve),
            mac1_key: secret.mac1_key(us),
            cookie_key: secret.cookie_key(us),
            secret: secret.clone(),
        }
    }
}

pub(crate) struct Shared {
    pub(crate) local: LocalNode,
    pub(crate) rng: ChaCha20Rng,
    /// The current secret, then the previous one.
    pub(crate) secrets: Vec<Secret>,
    /// Every index that names an attempt or a session of ours.
    pub(crate) indexes: BTreeMap<SessionIndex, NodeId>,
    /// Every address at which a peer may be.
    pub(crate) known: BTreeSet<(SocketAddr, NodeId)>,
    /// Number of the last initiation: one row for all peers, so that a peer that is removed and comes back never
    /// sees a number twice.
    counter: u64,
    out: VecDeque<Output>,
}

impl Shared {
    pub(crate) fn new(local: LocalNode, rng: ChaCha20Rng) -> Self {
        Self {
            local,
            rng,
            secrets: Vec::new(),
            indexes: BTreeMap::new(),
            known: BTreeSet::new(),
            counter: 0,
            out: VecDeque::new(),
        }
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.out.push_back(output);
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    pub(crate) fn dropped(&mut self, reason: DropReason, from: Option<SocketAddr>) {
        self.push(Output::Dropped(reason, from));
    }

    /// Sends a datagram to a peer, whose header says which way it goes.
    pub(crate) fn send(&mut self, target: Target, to: &NodeId, bytes: Vec<u8>) {
        let output = match target {
            Target::Address(to) => Output::Send { to, bytes },
            Target::Relay(_, address) => self.relayed(address, to.peer_hash(), &bytes),
        };
        self.push(output);
    }

    /// A datagram for a host behind the relay at this address.
    pub(crate) fn relayed(&self, relay: SocketAddr, destination: PeerHash, datagram: &[u8]) -> Output {
        let shim = RelayShim {
            hop_limit: RELAY_HOPS_MAX,
            destination,
            source: self.local.node.peer_hash(),
        };
        let mut bytes = Vec::with_capacity(RELAY_SHIM_LEN + datagram.len());
        bytes.extend_from_slice(&shim.to_bytes());
        bytes.extend_from_slice(datagram);
        Output::Send { to: relay, bytes }
    }

    pub(crate) fn next_counter(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A random time below `limit`.
    pub(crate) fn jitter(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.next_u64() % limit.max(1))
    }

    /// A random index that names nothing yet. Far fewer than 2^32 are in use, so this ends.
    pub(crate) fn fresh_index(&mut self) -> SessionIndex {
        loop {
            let index = SessionIndex(self.rng.next_u32());
            if !self.indexes.contains_key(&index) {
                return index;
            }
        }
    }

    pub(crate) fn claim(&mut self, index: SessionIndex, node: NodeId) {
        self.indexes.insert(index, node);
    }

    pub(crate) fn release(&mut self, index: SessionIndex) {
        self.indexes.remove(&index);
    }
}
