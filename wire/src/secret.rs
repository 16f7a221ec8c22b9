//! What follows from the cluster secret: the psk of each handshake, its key id, and the key of `mac1`.

use crate::hash::{derive, hash};
use crate::id::{KeyId, NodeId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The cluster secret, numbered; handed over at admission.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct ClusterSecret {
    /// Grows with each rotation; the current and the previous one are accepted.
    pub number: u32,
    /// 32 octets of a random source.
    pub key: [u8; 32],
}

impl core::fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ClusterSecret(number {})", self.number)
    }
}

/// A pre-shared key of a Noise handshake (Noise §9) and the name by which the responder finds it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Psk {
    /// The key.
    pub key: [u8; 32],
    /// Its name in the first message; tells nothing about the key.
    #[zeroize(skip)]
    pub id: KeyId,
}

impl core::fmt::Debug for Psk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Psk({:?})", self.id)
    }
}

impl Psk {
    /// The psk that follows from 32 octets of secret for one protocol.
    pub fn derive(secret: &[u8; 32], protocol: Protocol) -> Self {
        let (key_domain, id_domain) = match protocol {
            Protocol::Mesh => ("weft mesh psk v1", "weft mesh key id v1"),
            Protocol::Sleeve => ("weft sleeve psk v1", "weft sleeve key id v1"),
        };
        let mut id = [0; 8];
        id.copy_from_slice(&derive(secret, id_domain)[..8]);
        Self {
            key: derive(secret, key_domain),
            id: KeyId(id),
        }
    }
}

/// Which handshake a psk is for: the same secret gives unrelated keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// TCP mesh, XXpsk3.
    Mesh,
    /// UDP sleeve, IKpsk2.
    Sleeve,
}

impl ClusterSecret {
    /// The psk for one protocol.
    pub fn psk(&self, protocol: Protocol) -> Psk {
        Psk::derive(&self.key, protocol)
    }

    /// Key of `mac1` in handshake datagrams that are sent to `responder`.
    pub fn mac1_key(&self, responder: &NodeId) -> [u8; 32] {
        hash(
            "weft mac1 v1",
            &[&derive(&self.key, "weft mac1 secret v1"), &responder.0],
        )
    }

    /// Key under which hosts prove to one another that a probe of the loop guard is theirs, and no pod's.
    pub fn guard_key(&self) -> [u8; 32] {
        derive(&self.key, "weft loop guard v1")
    }

    /// Key under which cookies for `responder`'s initiators are sealed.
    pub fn cookie_key(&self, responder: &NodeId) -> [u8; 32] {
        hash(
            "weft cookie v1",
            &[&derive(&self.key, "weft cookie secret v1"), &responder.0],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeKey;
    use std::collections::BTreeSet;

    #[test]
    fn nothing_that_follows_from_a_secret_equals_another() {
        let secret = ClusterSecret {
            number: 1,
            key: [6; 32],
        };
        let (a, b) = (NodeKey::from_seed([1; 32]).id(), NodeKey::from_seed([2; 32]).id());
        let (mesh, sleeve) = (secret.psk(Protocol::Mesh), secret.psk(Protocol::Sleeve));
        let keys: BTreeSet<[u8; 32]> = [
            mesh.key,
            sleeve.key,
            secret.mac1_key(&a),
            secret.mac1_key(&b),
            secret.cookie_key(&a),
            secret.key,
        ]
        .into();
        assert_eq!(keys.len(), 6);
        assert_ne!(mesh.id, sleeve.id);
        assert!(!format!("{secret:?} {mesh:?}").contains("06"));
    }
}
