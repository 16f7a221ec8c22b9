//! Identifiers, and the Ed25519 key that is a node's identity.

use crate::hash::hash;
use crate::recall;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Domain of the certificate by which a node vouches for its Noise static key.
const NOISE_CERTIFICATE_DOMAIN: &[u8] = b"weft noise static v1\0";

/// A host: its Ed25519 public key (RFC 8032). Lost or copied with its disk, the host is a new node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The 8 octets that stand for this node in relay shims and flood origins.
    pub fn peer_hash(&self) -> PeerHash {
        let full = hash("weft peer hash v1", &[&self.0]);
        let mut out = [0; 8];
        out.copy_from_slice(&full[..8]);
        PeerHash(out)
    }

    /// True when `signature` over `message` was made by this node. Strict verification: no small-order keys,
    /// no malleable signatures.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let verify = || {
            VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
                key.verify_strict(message, &Signature::from_bytes(signature))
                    .is_ok()
            })
        };
        recall::verified(self.0, message, signature, verify)
    }

    /// True when this node certified `noise` as its Noise static key.
    pub fn verify_noise_static(&self, noise: &NoisePublic, certificate: &[u8; 64]) -> bool {
        self.verify(&noise_certificate_message(noise), certificate)
    }

    /// The first five octets as ten hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex(&self.0[..5])
    }
}

fn noise_certificate_message(noise: &NoisePublic) -> alloc::vec::Vec<u8> {
    [NOISE_CERTIFICATE_DOMAIN, &noise.0].concat()
}

/// Lower-case hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| {
            [
                DIGITS[usize::from(b >> 4)] as char,
                DIGITS[usize::from(b & 15)] as char,
            ]
        })
        .collect()
}

/// A text that is not `2 * N` hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct HexError {
    /// Digits that the identifier has.
    pub expected: usize,
}

/// Octets from hexadecimal text of exactly `2 * N` digits.
pub fn unhex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let error = HexError { expected: 2 * N };
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(error);
    }
    let mut out = [0; N];
    for (i, octet) in out.iter_mut().enumerate() {
        *octet = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| error)?;
    }
    Ok(out)
}

macro_rules! hex_text {
    ($type:ident, $len:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0[..core::cmp::min(5, $len)]))
            }
        }
        impl FromStr for $type {
            type Err = HexError;
            fn from_str(s: &str) -> Result<Self, HexError> {
                unhex::<$len>(s).map(Self)
            }
        }
    };
}

/// Hash prefix of a [`NodeId`]: 8 octets on the data path. A newcomer whose prefix collides is not admitted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerHash(pub [u8; 8]);

/// Hash of the genesis: the name of the cluster. Two different ones never merge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GenesisId(pub [u8; 32]);

/// Eight octets derived from a secret, which tell a responder which secret a handshake was made with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 8]);

/// An X25519 public key (RFC 7748): a node's Noise static key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NoisePublic(pub [u8; 32]);

hex_text!(NodeId, 32);
hex_text!(PeerHash, 8);
hex_text!(GenesisId, 32);
hex_text!(KeyId, 8);
hex_text!(NoisePublic, 32);

/// Names one session at the host that receives its datagrams; random, chosen by that host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionIndex(pub u32);

impl fmt::Debug for SessionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The secret half of a [`NodeId`]; wiped when dropped.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key that grows from 32 octets of a random source.
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let key = Self(SigningKey::from_bytes(&seed));
        seed.zeroize();
        key
    }

    /// The seed, for the state file.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs a message (RFC 8032, deterministic).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let sign = || self.0.sign(message).to_bytes();
        recall::signature(|| self.0.to_bytes(), message, sign)
    }

    /// Vouches for a Noise static key as this node's own.
    pub fn certify_noise_static(&self, noise: &NoisePublic) -> [u8; 64] {
        self.sign(&noise_certificate_message(noise))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({:?})", self.id())
    }
}

/// An X25519 key pair: a node's Noise static key with its secret half; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct NoiseKeypair {
    /// Secret scalar, 32 octets.
    pub secret: [u8; 32],
    /// Public point, 32 octets.
    pub public: [u8; 32],
}

impl NoiseKeypair {
    /// The public half.
    pub fn public(&self) -> NoisePublic {
        NoisePublic(self.public)
    }
}

impl fmt::Debug for NoiseKeypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoiseKeypair({:?})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_round_trip_as_text() {
        let id = NodeKey::from_seed([3; 32]).id();
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        assert_eq!("zz".parse::<KeyId>(), Err(HexError { expected: 16 }));
        assert_eq!(id.short().len(), 10);
        // Multi-octet characters must not be cut in the middle.
        assert!(
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}"
                .parse::<KeyId>()
                .is_err()
        );
    }

    #[test]
    fn a_certificate_binds_node_and_noise_key() {
        let (a, b) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let noise = NoisePublic([9; 32]);
        let certificate = a.certify_noise_static(&noise);
        assert!(a.id().verify_noise_static(&noise, &certificate));
        assert!(!b.id().verify_noise_static(&noise, &certificate));
        assert!(!a.id().verify_noise_static(&NoisePublic([8; 32]), &certificate));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let key = NodeKey::from_seed([7; 32]);
        assert!(!alloc::format!("{key:?}").contains("0707"));
    }
}
