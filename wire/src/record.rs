//! The bodies of gossiped records, one kind a type. A layout never changes; a change is a new kind.

use crate::codec::{self, DecodeError};
use crate::envelope::{Envelope, EnvelopeError, KindNumber, Stamp};
use crate::hash::hash;
use crate::id::{GenesisId, NodeId, NodeKey, NoisePublic};
use crate::limits::{ENDPOINTS_MAX, FOUNDERS_MAX, NAME_MAX, PUBLISHED_LINKS_MAX, RECORD_BODY_MAX};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Certificate octets; serde has no arrays of 64, so two halves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Signature64(pub [u8; 32], pub [u8; 32]);

impl From<[u8; 64]> for Signature64 {
    fn from(bytes: [u8; 64]) -> Self {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        a.copy_from_slice(&bytes[..32]);
        b.copy_from_slice(&bytes[32..]);
        Self(a, b)
    }
}

impl From<Signature64> for [u8; 64] {
    fn from(s: Signature64) -> Self {
        let mut out = [0; 64];
        out[..32].copy_from_slice(&s.0);
        out[32..].copy_from_slice(&s.1);
        out
    }
}

/// A record body: knows its kind and its own bounds.
pub trait Body: Serialize + DeserializeOwned {
    /// The kind under which it travels.
    const KIND: KindNumber;

    /// False when a field is outside its documented bounds.
    fn is_within_bounds(&self) -> bool;

    /// The body that an envelope of this kind carries; the signature is the caller's concern.
    fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        if envelope.key().kind != Self::KIND {
            return Err(DecodeError::Malformed);
        }
        let body: Self = codec::decode::<Self, RECORD_BODY_MAX>(envelope.body())?;
        if body.is_within_bounds() {
            Ok(body)
        } else {
            Err(DecodeError::Malformed)
        }
    }

    /// Signs this body as the record of `owner`.
    fn to_envelope(&self, key: &NodeKey, owner: NodeId, stamp: Stamp) -> Result<Envelope, EnvelopeError> {
        Envelope::sign(key, Self::KIND, owner, stamp, &codec::encode(self))
    }
}

/// What is laid down once; its hash names the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Genesis {
    /// The hosts that founded the cluster, one or several together: members without an admitter, the voters of epoch 0,
    /// and the first owners of the slots, an even share each. Sorted, none twice, 1 to [`FOUNDERS_MAX`].
    pub founders: Vec<NodeId>,
    /// 16 random octets: two clusters founded alike still differ.
    pub nonce: [u8; 16],
    /// Addresses that pods get.
    pub range: IpNet,
    /// Addresses in one slot, at least 1.
    pub slot_size: u32,
}

impl Genesis {
    /// The cluster's name.
    pub fn id(&self) -> GenesisId {
        GenesisId(hash("weft genesis v1", &[&codec::encode(self)]))
    }

    /// True for a host that founded the cluster.
    pub fn is_founder(&self, node: &NodeId) -> bool {
        self.founders.contains(node)
    }

    /// False when the founders are not as documented.
    pub fn is_within_bounds(&self) -> bool {
        are_founders(&self.founders)
    }
}

/// True for hosts that can found a cluster together: sorted, none twice, 1 to [`FOUNDERS_MAX`], each with a peer hash of
/// its own.
pub fn are_founders(nodes: &[NodeId]) -> bool {
    let hashes: BTreeSet<_> = nodes.iter().map(NodeId::peer_hash).collect();
    (1..=FOUNDERS_MAX).contains(&nodes.len())
        && nodes.windows(2).all(|pair| pair[0] < pair[1])
        && hashes.len() == nodes.len()
}

/// Says that `subject` is a member. Filed under the subject, signed by the admitter, which must be a member
/// itself; the chain ends at the founder that the genesis names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// Cluster that is joined.
    pub genesis: GenesisId,
    /// The new member, equal to the envelope's owner.
    pub subject: NodeId,
    /// The member that let it in and signed this.
    pub admitter: NodeId,
}

impl Body for Admission {
    const KIND: KindNumber = KindNumber(1);
    fn is_within_bounds(&self) -> bool {
        true
    }
}

/// What a host says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Nickname for people, 1 to 63 printable characters; not unique.
    pub name: String,
    /// The key that sleeve and mesh handshakes with this host use.
    pub noise_static: NoisePublic,
    /// Where it listens, TCP mesh and UDP sleeve alike; best first, at most 8.
    pub endpoints: Vec<SocketAddr>,
    /// Smallest MTU of the interfaces that carry its underlay, in octets of IP packet.
    pub underlay_mtu: u16,
    /// Capability bits; unknown ones are ignored.
    pub capabilities: u64,
    /// Failure zone, up to 63 characters; empty when not said.
    pub zone: String,
    /// Program version, for people.
    pub version: String,
    /// Fresh at each start: two of them at one incarnation mean a copied disk.
    pub boot_nonce: u64,
}

impl Body for PeerRecord {
    const KIND: KindNumber = KindNumber(2);
    fn is_within_bounds(&self) -> bool {
        let text_ok = |s: &str| s.len() <= NAME_MAX && s.chars().all(|c| !c.is_control());
        !self.name.is_empty()
            && text_ok(&self.name)
            && text_ok(&self.zone)
            && text_ok(&self.version)
            && self.endpoints.len() <= ENDPOINTS_MAX
    }
}

/// One mesh link as its holder publishes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublishedLink {
    /// The other end.
    pub neighbour: NodeId,
    /// Round-trip time as a power of two of microseconds.
    pub rtt_log2_us: u8,
}

/// The mesh links that a host holds, at most 32: from these the sparse routing graph is built.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct LinksRecord {
    /// Sorted by neighbour, no neighbour twice.
    pub links: Vec<PublishedLink>,
}

impl Body for LinksRecord {
    const KIND: KindNumber = KindNumber(3);
    fn is_within_bounds(&self) -> bool {
        self.links.len() <= PUBLISHED_LINKS_MAX
            && self
                .links
                .windows(2)
                .all(|pair| pair[0].neighbour < pair[1].neighbour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> PeerRecord {
        PeerRecord {
            name: name.into(),
            noise_static: NoisePublic([4; 32]),
            endpoints: alloc::vec![
                "192.0.2.1:6783".parse().unwrap(),
                "[2001:db8::1]:6783".parse().unwrap()
            ],
            underlay_mtu: 1500,
            capabilities: 0,
            zone: String::new(),
            version: "0.1.0".into(),
            boot_nonce: 5,
        }
    }

    #[test]
    fn a_body_survives_its_envelope_and_only_its_own_kind() {
        let key = NodeKey::from_seed([1; 32]);
        let stamp = Stamp {
            incarnation: 1,
            version: 1,
        };
        let envelope = peer("a").to_envelope(&key, key.id(), stamp).unwrap();
        assert_eq!(PeerRecord::from_envelope(&envelope), Ok(peer("a")));
        assert_eq!(LinksRecord::from_envelope(&envelope), Err(DecodeError::Malformed));
    }

    #[test]
    fn fields_outside_their_bounds_are_refused() {
        let key = NodeKey::from_seed([1; 32]);
        let stamp = Stamp {
            incarnation: 1,
            version: 1,
        };
        for name in ["", "new\nline", &"x".repeat(64)] {
            let envelope = peer(name).to_envelope(&key, key.id(), stamp).unwrap();
            assert_eq!(
                PeerRecord::from_envelope(&envelope),
                Err(DecodeError::Malformed),
                "{name:?}"
            );
        }
        let twice = PublishedLink {
            neighbour: key.id(),
            rtt_log2_us: 3,
        };
        assert!(
            !LinksRecord {
                links: alloc::vec![twice, twice]
            }
            .is_within_bounds()
        );
    }

    #[test]
    fn the_genesis_id_depends_on_every_field() {
        let genesis = Genesis {
            founders: alloc::vec![NodeKey::from_seed([1; 32]).id()],
            nonce: [0; 16],
            range: "10.32.0.0/12".parse().unwrap(),
            slot_size: 16,
        };
        let mut other = genesis.clone();
        other.slot_size = 1;
        assert_ne!(genesis.id(), other.id());
        other = genesis.clone();
        other.nonce[15] = 1;
        assert_ne!(genesis.id(), other.id());
        other = genesis.clone();
        other.founders.push(NodeKey::from_seed([2; 32]).id());
        assert_ne!(genesis.id(), other.id());
    }

    #[test]
    fn founders_are_sorted_different_and_not_too_many() {
        let with = |founders: &[u8]| Genesis {
            founders: founders.iter().map(|seed| NodeId([*seed; 32])).collect(),
            nonce: [0; 16],
            range: "10.32.0.0/12".parse().unwrap(),
            slot_size: 16,
        };
        assert!(with(&[1]).is_within_bounds() && with(&[1, 2, 9]).is_within_bounds());
        assert!(with(&(0..64).collect::<Vec<u8>>()).is_within_bounds());
        for bad in [&[][..], &[1, 1], &[2, 1], &(0..65).collect::<Vec<u8>>()] {
            assert!(!with(bad).is_within_bounds(), "{bad:?}");
        }
    }
}
