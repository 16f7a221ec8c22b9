//! The envelope in which every gossiped record travels.
//!
//! ```text
//!  0  kind         2   big-endian, a value of record::Kind or unknown
//!  2  owner       32   NodeId: with the kind, the key of the register
//! 34  incarnation  8   of the owner's process; durable, grows at each start
//! 42  version      8   grows with each change within one incarnation
//! 50  length       2   octets of the body, at most RECORD_BODY_MAX
//! 52  body         n
//!     signature   64   Ed25519 over a domain string and all octets before it
//! ```
//!
//! The octets are stored and forwarded as they came, so a host passes on kinds it does not know.

use crate::id::{NodeId, NodeKey};
use crate::limits::RECORD_BODY_MAX;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;

const SIGNATURE_DOMAIN: &[u8] = b"weft record v1\0";
/// Octets before the body.
pub const ENVELOPE_HEADER_LEN: usize = 52;
/// Octets of the signature.
pub const SIGNATURE_LEN: usize = 64;
/// Longest envelope.
pub const ENVELOPE_MAX: usize = ENVELOPE_HEADER_LEN + RECORD_BODY_MAX + SIGNATURE_LEN;

/// The number of a record's kind. A kind's layout never changes; a change is a new kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindNumber(pub u16);

impl fmt::Debug for KindNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kind {}", self.0)
    }
}

/// What a register is filed under: one writer's set of one kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegisterKey {
    /// Kind of the record.
    pub kind: KindNumber,
    /// Whose record it is.
    pub owner: NodeId,
}

/// Orders the versions of one register: incarnation first, then version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    /// Incarnation of the owner's process.
    pub incarnation: u64,
    /// Version within the incarnation.
    pub version: u64,
}

/// Why octets are no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Shorter than header, stated body and signature together, or longer.
    #[error("envelope length does not match its length field")]
    Length,
    /// The body is longer than a record may be.
    #[error("record body of {0} octets, more than {RECORD_BODY_MAX}")]
    BodyTooLong(usize),
}

/// A record as it travels: checked for its lengths, not yet for its signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    bytes: Vec<u8>,
}

impl Envelope {
    /// Seals a body into an envelope signed with `key`.
    ///
    /// `owner` is the node the record is filed under; for most kinds the signer itself.
    pub fn sign(
        key: &NodeKey,
        kind: KindNumber,
        owner: NodeId,
        stamp: Stamp,
        body: &[u8],
    ) -> Result<Self, EnvelopeError> {
        let length = u16::try_from(body.len()).map_err(|_| EnvelopeError::BodyTooLong(body.len()))?;
        if body.len() > RECORD_BODY_MAX {
            return Err(EnvelopeError::BodyTooLong(body.len()));
        }
        let mut bytes = Vec::with_capacity(ENVELOPE_HEADER_LEN + body.len() + SIGNATURE_LEN);
        bytes.extend_from_slice(&kind.0.to_be_bytes());
        bytes.extend_from_slice(&owner.0);
        bytes.extend_from_slice(&stamp.incarnation.to_be_bytes());
        bytes.extend_from_slice(&stamp.version.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(body);
        let signature = key.sign(&[SIGNATURE_DOMAIN, &bytes].concat());
        bytes.extend_from_slice(&signature);
        Ok(Self { bytes })
    }

    /// Takes octets as received. The signature is not checked: see [`Envelope::is_signed_by`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, EnvelopeError> {
        if bytes.len() < ENVELOPE_HEADER_LEN + SIGNATURE_LEN {
            return Err(EnvelopeError::Length);
        }
        let body = usize::from(u16::from_be_bytes([bytes[50], bytes[51]]));
        if body > RECORD_BODY_MAX {
            return Err(EnvelopeError::BodyTooLong(body));
        }
        if bytes.len() != ENVELOPE_HEADER_LEN + body + SIGNATURE_LEN {
            return Err(EnvelopeError::Length);
        }
        Ok(Self { bytes })
    }

    /// The octets as signed, received, stored and forwarded.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the record is filed under.
    pub fn key(&self) -> RegisterKey {
        RegisterKey {
            kind: KindNumber(u16::from_be_bytes([self.bytes[0], self.bytes[1]])),
            owner: NodeId(self.array(2)),
        }
    }

    /// Which version of its register it is.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            incarnation: u64::from_be_bytes(self.array(34)),
            version: u64::from_be_bytes(self.array(42)),
        }
    }

    /// The encoded record.
    pub fn body(&self) -> &[u8] {
        &self.bytes[ENVELOPE_HEADER_LEN..self.bytes.len() - SIGNATURE_LEN]
    }

    /// True when `signer` signed exactly these octets.
    pub fn is_signed_by(&self, signer: &NodeId) -> bool {
        let (signed, signature) = self.bytes.split_at(self.bytes.len() - SIGNATURE_LEN);
        let Ok(signature) = signature.try_into() else {
            return false;
        };
        signer.verify(&[SIGNATURE_DOMAIN, signed].concat(), signature)
    }

    /// Which of two versions of one register stands: the higher stamp, and between equal stamps the greater octets,
    /// so that every host picks the same one.
    pub fn join_order(&self, other: &Envelope) -> Ordering {
        self.stamp()
            .cmp(&other.stamp())
            .then_with(|| self.bytes.cmp(&other.bytes))
    }

    /// `N` octets at `at`; the constructors have checked that the header is there.
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        out
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, stamp) = (self.key(), self.stamp());
        write!(
            f,
            "{:?} of {:?} at {}.{}",
            key.kind, key.owner, stamp.incarnation, stamp.version
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(version: u64, body: &[u8]) -> Envelope {
        let key = NodeKey::from_seed([1; 32]);
        Envelope::sign(
            &key,
            KindNumber(2),
            key.id(),
            Stamp {
                incarnation: 1,
                version,
            },
            body,
        )
        .unwrap()
    }

    #[test]
    fn fields_read_back_and_the_signature_covers_all_of_them() {
        let envelope = sample(7, b"hello");
        let owner = NodeKey::from_seed([1; 32]).id();
        assert_eq!(
            envelope.key(),
            RegisterKey {
                kind: KindNumber(2),
                owner
            }
        );
        assert_eq!(
            envelope.stamp(),
            Stamp {
                incarnation: 1,
                version: 7
            }
        );
        assert_eq!(envelope.body(), b"hello");
        assert!(envelope.is_signed_by(&owner));
        for i in 0..envelope.as_bytes().len() {
            let mut bytes = envelope.as_bytes().to_vec();
            bytes[i] ^= 1;
            if let Ok(changed) = Envelope::from_bytes(bytes) {
                assert!(!changed.is_signed_by(&owner), "octet {i} is not covered");
            }
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused_on_both_sides() {
        let key = NodeKey::from_seed([1; 32]);
        let stamp = Stamp {
            incarnation: 1,
            version: 1,
        };
        let long = alloc::vec![0; RECORD_BODY_MAX + 1];
        assert_eq!(
            Envelope::sign(&key, KindNumber(2), key.id(), stamp, &long),
            Err(EnvelopeError::BodyTooLong(RECORD_BODY_MAX + 1))
        );
        let mut bytes = sample(1, b"").as_bytes().to_vec();
        bytes[50] = 0xff;
        assert!(matches!(
            Envelope::from_bytes(bytes),
            Err(EnvelopeError::BodyTooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_octets_are_an_envelope_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(envelope) = Envelope::from_bytes(bytes.clone()) {
                prop_assert_eq!(envelope.as_bytes(), &bytes[..]);
                let _ = (envelope.key(), envelope.stamp(), envelope.body().len());
            }
        }

        #[test]
        fn join_order_is_total(a in 0u64..4, b in 0u64..4, x in any::<u8>(), y in any::<u8>()) {
            let (m, n) = (sample(a, &[x]), sample(b, &[y]));
            prop_assert_eq!(m.join_order(&n), n.join_order(&m).reverse());
            prop_assert_eq!(m.join_order(&n) == Ordering::Equal, m == n);
        }
    }
}
