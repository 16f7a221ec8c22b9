//! What a host must find again after a restart, apart from its identity.

use crate::membership::{AdmissionError, Membership, envelopes};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use weft_wire::codec::{self, DecodeError};
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, Envelope};

/// Longest encoded state: admission and peer record of every owner that the map may hold take about 40 MB.
pub const STATE_MAX: usize = 64 << 20;

/// Why a stored state cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The octets are not a state.
    #[error("the stored cluster state is damaged ({0}); restore it, or remove it to join as a new host")]
    Encoding(DecodeError),
    /// The octets are a state whose admissions do not hold.
    #[error(
        "the stored cluster state contradicts itself ({0}); restore it, or remove it to join as a new host"
    )]
    Admission(AdmissionError),
    /// The state belongs to another identity: this host is not a member by it.
    #[error("the stored cluster state names no admission of this host; it was made for another identity")]
    NotAMember,
}

impl From<AdmissionError> for StateError {
    fn from(error: AdmissionError) -> Self {
        Self::Admission(error)
    }
}

/// Membership and the last known addresses of the others. Holds the cluster secret: the shell stores it
/// readable by its owner only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DurableState {
    genesis: Genesis,
    secrets: Vec<ClusterSecret>,
    admissions: Vec<Vec<u8>>,
    peers: Vec<Vec<u8>>,
}

impl DurableState {
    /// The state of a cluster that its founders have just laid down, on the disk of one of them. It must be durable before a
    /// [`crate::Mesh`] starts with it.
    pub fn founded(genesis: Genesis, secret: ClusterSecret) -> Self {
        Self::of(&Membership::found(genesis, secret), [])
    }

    /// The state of a membership, with the peer records that show where the others listen.
    pub fn of<'a>(membership: &Membership, peers: impl IntoIterator<Item = &'a Envelope>) -> Self {
        let octets = |e: &Envelope| e.as_bytes().to_vec();
        Self {
            genesis: membership.genesis().clone(),
            secrets: membership.secrets().to_vec(),
            admissions: membership.admissions().into_iter().map(octets).collect(),
            peers: peers.into_iter().map(octets).collect(),
        }
    }

    /// Octets for the state file.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads the octets of a state file.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        codec::decode::<Self, STATE_MAX>(bytes).map_err(StateError::Encoding)
    }

    /// The genesis of the stored cluster.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The membership, with every admission checked again.
    pub fn membership(&self) -> Result<Membership, StateError> {
        let mut membership = Membership::with_secrets(self.genesis.clone(), self.secrets.clone())?;
        for envelope in envelopes(&self.admissions)? {
            membership.accept(&envelope)?;
        }
        Ok(membership)
    }

    /// The stored peer records, unchecked; octets that are no envelope are left out.
    pub fn peers(&self) -> impl Iterator<Item = Envelope> + '_ {
        self.peers
            .iter()
            .filter_map(|bytes| Envelope::from_bytes(bytes.clone()).ok())
    }
}
