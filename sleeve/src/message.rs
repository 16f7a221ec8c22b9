//! Octets of the handshake datagrams, without their cryptography. All integers are big-endian.
//!
//! ```text
//! INIT    header 16 | Noise message 1, 260 | mac1 16 | mac2 16            308
//! RESP    header 16 | Noise message 2, 108 | mac1 16 | mac2 16 (zero)     156
//! COOKIE  header 16 | nonce 24 | sealed cookie 32                          72
//! ```
//!
//! The payload of both Noise messages begins with a copy of the datagram's clear header. The receiver demands that
//! the two are equal; so the transcript binds kind, flags, network, both indexes and the key id, while the Noise
//! prologue holds protocol name and version only.

use alloc::vec::Vec;
use weft_wire::datagram::{HEADER_LEN, Header, TAG_LEN};
use weft_wire::hash::{equal_in_constant_time, hash, mac16};
use weft_wire::{DropReason, GenesisId, NodeId};

/// Octets of an X25519 public key.
const DH_LEN: usize = 32;
/// Octets of `mac1`, of `mac2` and of a cookie.
pub const MAC_LEN: usize = 16;
/// Octets of the nonce of XChaCha20-Poly1305.
pub const COOKIE_NONCE_LEN: usize = 24;
/// Octets of [`InitPayload`].
pub const INIT_PAYLOAD_LEN: usize = HEADER_LEN + 32 + 64 + 32 + 8 + 8 + 4;
/// Octets of [`RespPayload`].
pub const RESP_PAYLOAD_LEN: usize = HEADER_LEN + 32 + 8 + 4;
/// Octets of Noise message 1: `e`, sealed `s`, sealed payload.
pub const NOISE_INIT_LEN: usize = DH_LEN + DH_LEN + TAG_LEN + INIT_PAYLOAD_LEN + TAG_LEN;
/// Octets of Noise message 2: `e`, sealed payload.
pub const NOISE_RESP_LEN: usize = DH_LEN + RESP_PAYLOAD_LEN + TAG_LEN;
/// Octets of an INIT datagram.
pub const INIT_LEN: usize = HEADER_LEN + NOISE_INIT_LEN + 2 * MAC_LEN;
/// Octets of a RESP datagram.
pub const RESP_LEN: usize = HEADER_LEN + NOISE_RESP_LEN + 2 * MAC_LEN;
/// Octets of a COOKIE datagram.
pub const COOKIE_LEN: usize = HEADER_LEN + COOKIE_NONCE_LEN + MAC_LEN + TAG_LEN;

// Nobody can use us to send more octets at a third party than he spends himself.
const _: () = assert!(RESP_LEN < INIT_LEN && COOKIE_LEN < INIT_LEN);
// Every path carries an INIT unfragmented: IPv6 requires 1,280 octets of each link.
const _: () = assert!(INIT_LEN + 48 <= 1280);

/// What an initiator says, sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitPayload {
    /// Copy of the clear header.
    pub header: [u8; HEADER_LEN],
    /// The initiator.
    pub node: NodeId,
    /// Its signature over its Noise static key.
    pub certificate: [u8; 64],
    /// Its cluster.
    pub genesis: GenesisId,
    /// Durable number of its process.
    pub incarnation: u64,
    /// Number of this initiation within the incarnation; never the same twice.
    pub counter: u64,
    /// Bits of the ciphers it accepts; unknown ones are ignored. Three reserved octets follow: zero when sent,
    /// ignored when received.
    pub ciphers: u8,
}

impl InitPayload {
    /// Its octets.
    pub fn to_bytes(&self) -> [u8; INIT_PAYLOAD_LEN] {
        let mut out = [0; INIT_PAYLOAD_LEN];
        let mut at = Writer(&mut out);
        at.put(&self.header);
        at.put(&self.node.0);
        at.put(&self.certificate);
        at.put(&self.genesis.0);
        at.put(&self.incarnation.to_be_bytes());
        at.put(&self.counter.to_be_bytes());
        at.put(&[self.ciphers]);
        out
    }

    /// Reads them back.
    pub fn parse(bytes: &[u8; INIT_PAYLOAD_LEN]) -> Self {
        let mut at = Reader(bytes);
        Self {
            header: at.take(),
            node: NodeId(at.take()),
            certificate: at.take(),
            genesis: GenesisId(at.take()),
            incarnation: u64::from_be_bytes(at.take()),
            counter: u64::from_be_bytes(at.take()),
            ciphers: at.take::<1>()[0],
        }
    }
}

/// What a responder says, sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RespPayload {
    /// Copy of the clear header, which holds both indexes.
    pub header: [u8; HEADER_LEN],
    /// Its cluster.
    pub genesis: GenesisId,
    /// Durable number of its process.
    pub incarnation: u64,
    /// Octet of the cipher it chose. Three reserved octets follow: zero when sent, ignored when received.
    pub cipher: u8,
}

impl RespPayload {
    /// Its octets.
    pub fn to_bytes(&self) -> [u8; RESP_PAYLOAD_LEN] {
        let mut out = [0; RESP_PAYLOAD_LEN];
        let mut at = Writer(&mut out);
        at.put(&self.header);
        at.put(&self.genesis.0);
        at.put(&self.incarnation.to_be_bytes());
        at.put(&[self.cipher]);
        out
    }

    /// Reads them back.
    pub fn parse(bytes: &[u8; RESP_PAYLOAD_LEN]) -> Self {
        let mut at = Reader(bytes);
        Self {
            header: at.take(),
            genesis: GenesisId(at.take()),
            incarnation: u64::from_be_bytes(at.take()),
            cipher: at.take::<1>()[0],
        }
    }
}

/// Fills an array from the front; what is left stays zero.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    /// The callers' fields fit by the sum in the array's length.
    fn put(&mut self, bytes: &[u8]) {
        let (head, rest) = core::mem::take(&mut self.0).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.0 = rest;
    }
}

/// Reads an array from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// The callers' fields fit by the sum in the array's length.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let (head, rest) = self.0.split_at(N);
        out.copy_from_slice(head);
        self.0 = rest;
        out
    }
}

/// An INIT or RESP datagram, cut into its parts.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a, const NOISE: usize> {
    /// All octets before `mac1`: what it authenticates.
    pub before_mac1: &'a [u8],
    /// All octets before `mac2`: what it authenticates.
    pub before_mac2: &'a [u8],
    /// The Noise message.
    pub noise: &'a [u8; NOISE],
    /// Keyed by the cluster secret and the receiver's id.
    pub mac1: &'a [u8; MAC_LEN],
    /// Keyed by a cookie, or zero.
    pub mac2: &'a [u8; MAC_LEN],
}

impl<'a, const NOISE: usize> Parts<'a, NOISE> {
    /// Cuts a datagram of exactly the length that its kind has.
    pub fn cut(datagram: &'a [u8]) -> Result<Self, DropReason> {
        let exact = HEADER_LEN + NOISE + 2 * MAC_LEN;
        if datagram.len() < exact {
            return Err(DropReason::DatagramTooShort);
        }
        let cut = || {
            let (before_mac2, mac2) = datagram.split_last_chunk::<MAC_LEN>()?;
            let (before_mac1, mac1) = before_mac2.split_last_chunk::<MAC_LEN>()?;
            let noise = before_mac1.get(HEADER_LEN..)?.try_into().ok()?;
            Some(Self {
                before_mac1,
                before_mac2,
                noise,
                mac1,
                mac2,
            })
        };
        cut().ok_or(DropReason::BadHandshake)
    }

    /// True when the sender knew the cluster secret and meant us.
    pub fn mac1_matches(&self, key: &[u8; 32]) -> bool {
        equal_in_constant_time(self.mac1, &mac16(key, &[self.before_mac1]))
    }

    /// True when the sender knew this cookie.
    pub fn mac2_matches(&self, cookie: &[u8; MAC_LEN]) -> bool {
        equal_in_constant_time(self.mac2, &mac16(&mac2_key(cookie), &[self.before_mac2]))
    }
}

fn mac2_key(cookie: &[u8; MAC_LEN]) -> [u8; 32] {
    hash("weft mac2 v1", &[cookie])
}

/// Puts an INIT or RESP datagram together. Without a cookie `mac2` is zero.
pub fn assemble(
    header: Header,
    noise: &[u8],
    mac1_key: &[u8; 32],
    cookie: Option<&[u8; MAC_LEN]>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + noise.len() + 2 * MAC_LEN);
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(noise);
    let mac1 = mac16(mac1_key, &[&out]);
    out.extend_from_slice(&mac1);
    let mac2 = cookie.map_or([0; MAC_LEN], |cookie| mac16(&mac2_key(cookie), &[&out]));
    out.extend_from_slice(&mac2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::SessionIndex;
    use weft_wire::datagram::Kind;

    #[test]
    fn lengths_are_those_of_the_tables() {
        assert_eq!((INIT_PAYLOAD_LEN, NOISE_INIT_LEN, INIT_LEN), (164, 260, 308));
        assert_eq!((RESP_PAYLOAD_LEN, NOISE_RESP_LEN, RESP_LEN), (60, 108, 156));
        assert_eq!(COOKIE_LEN, 72);
    }

    #[test]
    fn payloads_read_back() {
        let init = InitPayload {
            header: [1; 16],
            node: NodeId([2; 32]),
            certificate: [3; 64],
            genesis: GenesisId([4; 32]),
            incarnation: 5,
            counter: 6,
            ciphers: 7,
        };
        assert_eq!(InitPayload::parse(&init.to_bytes()), init);
        let resp = RespPayload {
            header: [1; 16],
            genesis: GenesisId([4; 32]),
            incarnation: 5,
            cipher: 2,
        };
        assert_eq!(RespPayload::parse(&resp.to_bytes()), resp);
        assert_eq!(resp.to_bytes()[57..], [0; 3]);
    }

    #[test]
    fn macs_cover_all_that_stands_before_them() {
        let header = Header::new(Kind::Resp, SessionIndex(9), 10);
        let (key, cookie) = ([1; 32], [2; 16]);
        let good = assemble(header, &[5; NOISE_RESP_LEN], &key, Some(&cookie));
        assert_eq!(good.len(), RESP_LEN);
        for i in 0..good.len() {
            let mut bytes = good.clone();
            bytes[i] ^= 0x10;
            let parts = Parts::<NOISE_RESP_LEN>::cut(&bytes).unwrap();
            assert_eq!(parts.mac1_matches(&key), i >= RESP_LEN - MAC_LEN, "octet {i}");
            assert!(!parts.mac2_matches(&cookie), "octet {i}");
        }
        let cut = |n: usize| Parts::<NOISE_RESP_LEN>::cut(&[0; 400][..n]).err();
        assert_eq!(cut(RESP_LEN - 1), Some(DropReason::DatagramTooShort));
        assert_eq!(cut(RESP_LEN), None);
        assert_eq!(cut(RESP_LEN + 1), Some(DropReason::BadHandshake));
    }
}
