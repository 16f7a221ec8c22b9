//! Keys of a session, and how they follow from a finished handshake.

use core::fmt;
use weft_wire::hash::derive;
use weft_wire::{NodeId, SessionIndex};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// AEAD of a session. Both take a 32-octet key, the nonce of `weft_wire::datagram::nonce` and a 16-octet tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cipher {
    /// AES-256-GCM (NIST SP 800-38D); octet 1. For processors with AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439); octet 2. For all others.
    ChaCha20Poly1305,
}

impl Cipher {
    /// Every cipher, by octet.
    pub const ALL: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    /// Number on the wire.
    pub const fn octet(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    /// The cipher with this number.
    pub const fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Its bit in the set that an initiator offers: `1 << (octet - 1)`.
    pub const fn bit(self) -> u8 {
        1 << (self.octet() - 1)
    }

    /// The set that an initiator offers.
    pub fn mask(ciphers: &[Cipher]) -> u8 {
        ciphers.iter().fold(0, |mask, cipher| mask | cipher.bit())
    }

    /// Stable name for status and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    /// Domains under which the keys of the two directions are derived.
    const fn domains(self) -> (&'static str, &'static str) {
        match self {
            Self::Aes256Gcm => (
                "weft sleeve initiator to responder AES-256-GCM v1",
                "weft sleeve responder to initiator AES-256-GCM v1",
            ),
            Self::ChaCha20Poly1305 => (
                "weft sleeve initiator to responder ChaCha20-Poly1305 v1",
                "weft sleeve responder to initiator ChaCha20-Poly1305 v1",
            ),
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Which end of the handshake we were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We sent INIT.
    Initiator,
    /// We answered with RESP.
    Responder,
}

/// What the engine needs to seal and open under one session; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SessionKeys {
    /// Index under which we receive.
    #[zeroize(skip)]
    pub local: SessionIndex,
    /// Index that goes into the header of what we send.
    #[zeroize(skip)]
    pub remote: SessionIndex,
    /// The other end.
    #[zeroize(skip)]
    pub peer: NodeId,
    /// AEAD of both directions.
    #[zeroize(skip)]
    pub cipher: Cipher,
    /// Key of what we send.
    pub send: [u8; 32],
    /// Key of what we receive.
    pub receive: [u8; 32],
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SessionKeys({:?} <- {:?}, {:?}, {})",
            self.local, self.peer, self.remote, self.cipher
        )
    }
}

/// Domains under which the keys of [`ProofKeys`] are derived.
const PROOF_DOMAINS: (&str, &str) = (
    "weft kernel probe initiator to responder v1",
    "weft kernel probe responder to initiator v1",
);

/// Keys for what the two ends of a session say to each other on another path, in clear: each proves by a MAC that it is
/// the one of the session. They say nothing of the session's own keys. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ProofKeys {
    /// For what this end sends.
    pub send: [u8; 32],
    /// For what it receives.
    pub receive: [u8; 32],
}

impl fmt::Debug for ProofKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKeys")
    }
}

/// The two keys of a finished handshake (Noise §5.2 `Split`): what the initiator sends with, then what the
/// responder sends with. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Split {
    pub(crate) initiator: [u8; 32],
    pub(crate) responder: [u8; 32],
}

impl Split {
    /// Keys of one end. A key is derived per direction and cipher, so that none ever serves two of them, and
    /// none equals a key that Noise itself would use.
    pub(crate) fn session(
        &self,
        role: Role,
        cipher: Cipher,
        peer: NodeId,
        local: SessionIndex,
        remote: SessionIndex,
    ) -> SessionKeys {
        let (to_responder, to_initiator) = cipher.domains();
        let forth = derive(&self.initiator, to_responder);
        let back = derive(&self.responder, to_initiator);
        let (send, receive) = match role {
            Role::Initiator => (forth, back),
            Role::Responder => (back, forth),
        };
        SessionKeys {
            local,
            remote,
            peer,
            cipher,
            send,
            receive,
        }
    }

    /// Keys of one end for MACs on other paths.
    pub(crate) fn proof(&self, role: Role) -> ProofKeys {
        let forth = derive(&self.initiator, PROOF_DOMAINS.0);
        let back = derive(&self.responder, PROOF_DOMAINS.1);
        let (send, receive) = match role {
            Role::Initiator => (forth, back),
            Role::Responder => (back, forth),
        };
        ProofKeys { send, receive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_bits_do_not_overlap() {
        for cipher in Cipher::ALL {
            assert_eq!(Cipher::from_octet(cipher.octet()), Some(cipher));
        }
        assert_eq!(Cipher::from_octet(0), None);
        assert_eq!(Cipher::from_octet(3), None);
        assert_eq!(Cipher::mask(&Cipher::ALL), 0b11);
    }

    #[test]
    fn the_two_ends_mirror_each_other_and_no_key_serves_twice() {
        let split = Split {
            initiator: [1; 32],
            responder: [2; 32],
        };
        let peer = NodeId([7; 32]);
        let mut seen = std::collections::BTreeSet::new();
        for cipher in Cipher::ALL {
            let a = split.session(Role::Initiator, cipher, peer, SessionIndex(1), SessionIndex(2));
            let b = split.session(Role::Responder, cipher, peer, SessionIndex(2), SessionIndex(1));
            assert_eq!((a.send, a.receive), (b.receive, b.send));
            assert!(seen.insert(a.send) && seen.insert(a.receive));
        }
        let (a, b) = (split.proof(Role::Initiator), split.proof(Role::Responder));
        assert_eq!((a.send, a.receive), (b.receive, b.send));
        assert!(seen.insert(a.send) && seen.insert(a.receive));
        assert_eq!(format!("{a:?}"), "ProofKeys");
        let keys = split.session(
            Role::Initiator,
            Cipher::Aes256Gcm,
            peer,
            SessionIndex(1),
            SessionIndex(2),
        );
        assert_eq!(
            format!("{keys:?}"),
            "SessionKeys(00000001 <- 0707070707, 00000002, AES-256-GCM)"
        );
    }
}
