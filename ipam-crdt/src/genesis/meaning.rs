//! What of a machine decides how it goes on.

use super::{Agreement, AgreementOutput, Peer};
use alloc::vec::Vec;
use weft_wire::{NodeId, codec};

impl Agreement {
    /// Octets that are equal for two machines if, and only if, both go on alike, times apart: for a search that
    /// visits each of them once. Nothing may wait to be polled.
    pub fn meaning(&self) -> Vec<u8> {
        let peers: Vec<_> = self
            .peers
            .iter()
            .map(|(node, peer)| (node, peer.meaning()))
            .collect();
        if self.told && self.gated.is_empty() && self.state == self.stored {
            // It says nothing but what was decided.
            let nodes: Vec<_> = peers.iter().map(|(node, _)| node).collect();
            return codec::encode(&(self.node, &self.state, nodes));
        }
        let current = self.current.as_ref();
        let current = current.map(|try_| (try_.ballot, &try_.promises, &try_.value, &try_.accepted));
        let gated: Vec<_> = self.gated.iter().map(|(_, output)| output.meaning()).collect();
        // Where its own charters come from.
        let random = (self.rng.get_seed(), self.rng.get_word_pos());
        codec::encode(&(
            (self.node, peers),
            (&self.state, &self.stored),
            current,
            gated,
            random,
        ))
    }
}

impl AgreementOutput {
    fn meaning(&self) -> Option<(NodeId, &[u8])> {
        match self {
            Self::Send { to, bytes } => Some((*to, bytes)),
            Self::Persist { .. } | Self::Decided(_) | Self::Differs { .. } => None,
        }
    }
}

impl Peer {
    fn meaning(&self) -> (&str, Option<bool>, &[NodeId]) {
        let is_same = self.difference.as_ref().map(Result::is_ok);
        (&self.name, is_same, &self.set)
    }
}
