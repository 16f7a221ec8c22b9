//! Octets of every sleeve datagram. All integers are big-endian.
//!
//! ```text
//! every datagram but RELAY begins with the clear header, all of it authenticated as associated data:
//!  0 kind 1 | 1 flags 1 | 2 network 2 | 4 index 4 | 8 counter 8
//! ```
//!
//! The top two bits of `kind` are zero, so that a QUIC packet (whose fixed bit is set, RFC 9000 §17) on the same
//! port is told apart. What follows the header is given per kind in `docs/design/wire.md`, with test vectors.

use crate::id::{KeyId, PeerHash, SessionIndex};

/// Octets of the clear header.
pub const HEADER_LEN: usize = 16;
/// Octets of the AEAD tag (AES-256-GCM and ChaCha20-Poly1305 alike).
pub const TAG_LEN: usize = 16;
/// Octets of the sealed meta before a frame.
pub const META_LEN: usize = 16;
/// Octets between meta and frame in a FLOOD datagram: origin hash 8, sequence 8.
pub const FLOOD_PREFIX_LEN: usize = 16;
/// Octets of [`ProbeBody`]: all of PROBE-ACK, and the beginning of PROBE.
pub const PROBE_BODY_LEN: usize = 16;
/// Octets of the clear shim before a relayed datagram.
pub const RELAY_SHIM_LEN: usize = 20;
/// Flag in the clear header: this datagram travelled by relay, its sender's address is not the peer's.
pub const FLAG_BY_RELAY: u8 = 0x01;
/// Network number of the only network there is so far.
pub const NETWORK_DEFAULT: u16 = 0;

/// Kind of a datagram: its first octet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// One unicast frame, or one slice of a segmented super-frame.
    Data = 0x01,
    /// One broadcast, multicast or unknown-unicast frame, with its origin.
    Flood = 0x02,
    /// One piece of a frame that is larger than the path.
    Frag = 0x03,
    /// Padded question about the path.
    Probe = 0x04,
    /// Answer to a probe.
    ProbeAck = 0x05,
    /// Nothing but a sign of life.
    Keepalive = 0x06,
    /// One piece of a frame for everybody that is larger than the path.
    FloodFrag = 0x07,
    /// First handshake message.
    Init = 0x10,
    /// Second handshake message.
    Resp = 0x11,
    /// Under load: come back with this cookie.
    Cookie = 0x12,
    /// A datagram for somebody else, passed on unread.
    Relay = 0x20,
}

impl Kind {
    /// The kind with this number.
    pub const fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            0x01 => Self::Data,
            0x02 => Self::Flood,
            0x03 => Self::Frag,
            0x04 => Self::Probe,
            0x05 => Self::ProbeAck,
            0x06 => Self::Keepalive,
            0x07 => Self::FloodFrag,
            0x10 => Self::Init,
            0x11 => Self::Resp,
            0x12 => Self::Cookie,
            0x20 => Self::Relay,
            _ => return None,
        })
    }
}

/// The clear header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Kind of the datagram.
    pub kind: Kind,
    /// Bits `FLAG_*`; unknown ones are ignored.
    pub flags: u8,
    /// Network that the frame belongs to; [`NETWORK_DEFAULT`].
    pub network: u16,
    /// Receiver's session index; in INIT the sender's own, which the response will carry.
    pub index: SessionIndex,
    /// Counter of the session and direction: the AEAD nonce. In INIT the key id, in RESP the responder's
    /// index and four zero octets, in COOKIE zero.
    pub counter: u64,
}

impl Header {
    /// A header without flags in the default network.
    pub const fn new(kind: Kind, index: SessionIndex, counter: u64) -> Self {
        Self {
            kind,
            flags: 0,
            network: NETWORK_DEFAULT,
            index,
            counter,
        }
    }

    /// The header's octets.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = self.kind as u8;
        out[1] = self.flags;
        out[2..4].copy_from_slice(&self.network.to_be_bytes());
        out[4..8].copy_from_slice(&self.index.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.counter.to_be_bytes());
        out
    }

    /// Reads the header of a datagram that begins with one.
    pub fn parse(datagram: &[u8]) -> Result<Self, HeaderError> {
        let Some((head, _)) = datagram.split_first_chunk::<HEADER_LEN>() else {
            return Err(HeaderError::TooShort);
        };
        let [kind, flags, n0, n1, i0, i1, i2, i3, counter @ ..] = *head;
        Ok(Self {
            kind: Kind::from_octet(kind).ok_or(HeaderError::UnknownKind)?,
            flags,
            network: u16::from_be_bytes([n0, n1]),
            index: SessionIndex(u32::from_be_bytes([i0, i1, i2, i3])),
            counter: u64::from_be_bytes(counter),
        })
    }

    /// In INIT: the key id that stands in the counter field.
    pub const fn key_id(&self) -> KeyId {
        KeyId(self.counter.to_be_bytes())
    }

    /// In RESP: the responder's index, from the upper half of the counter field.
    pub const fn responder_index(&self) -> SessionIndex {
        SessionIndex((self.counter >> 32) as u32)
    }
}

/// Why octets do not begin with a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// Fewer octets than a header.
    TooShort,
    /// The first octet is no [`Kind`].
    UnknownKind,
}

/// The AEAD nonce of a counter: four zero octets and the counter, as Noise §12.4 lays it out for AESGCM. Both
/// ciphers use this layout.
pub const fn nonce(counter: u64) -> [u8; 12] {
    let c = counter.to_be_bytes();
    [0, 0, 0, 0, c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]
}

/// What stands sealed before a frame or slice: the virtio-net view of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// `virtio_net_hdr.flags`.
    pub flags: u8,
    /// `virtio_net_hdr.gso_type`; 0 for a single frame.
    pub gso_type: u8,
    /// Octets of all headers in front of the payload.
    pub header_len: u16,
    /// Octets of payload per segment.
    pub gso_size: u16,
    /// Where checksumming starts.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
    /// Which slice of the super-frame this is.
    pub segment: u16,
    /// How many slices the super-frame has; 0 or 1 for a single frame.
    pub segments: u16,
}

impl Meta {
    /// The meta's octets; the last two are reserved and zero.
    pub fn to_bytes(self) -> [u8; META_LEN] {
        let mut out = [0; META_LEN];
        out[0] = self.flags;
        out[1] = self.gso_type;
        let words = [
            self.header_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.segment,
            self.segments,
        ];
        for (i, word) in words.into_iter().enumerate() {
            out[2 + 2 * i..4 + 2 * i].copy_from_slice(&word.to_be_bytes());
        }
        out
    }

    /// Splits sealed content into meta and what follows it; `None` when it is shorter than a meta.
    pub fn split(content: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = content.split_first_chunk::<META_LEN>()?;
        let word = |i: usize| u16::from_be_bytes([head[i], head[i + 1]]);
        let meta = Self {
            flags: head[0],
            gso_type: head[1],
            header_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            segment: word(10),
            segments: word(12),
        };
        Some((meta, rest))
    }
}

/// What stands between meta and frame in FLOOD: who sent the frame first, and which one it was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FloodPrefix {
    /// Host at which the frame entered the overlay.
    pub origin: PeerHash,
    /// Number of the frame at that host.
    pub sequence: u64,
}

impl FloodPrefix {
    /// The prefix's octets.
    pub fn to_bytes(self) -> [u8; FLOOD_PREFIX_LEN] {
        let mut out = [0; FLOOD_PREFIX_LEN];
        out[..8].copy_from_slice(&self.origin.0);
        out[8..].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }

    /// Splits what follows the meta into prefix and frame; `None` when it is shorter than a prefix.
    pub fn split(content: &[u8]) -> Option<(Self, &[u8])> {
        let (origin, rest) = content.split_first_chunk::<8>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        Some((
            Self {
                origin: PeerHash(*origin),
                sequence: u64::from_be_bytes(*sequence),
            },
            rest,
        ))
    }
}

/// What stands, in clear, before a datagram that a relay passes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayShim {
    /// Relays that may still pass it on, at most 8.
    pub hop_limit: u8,
    /// Where it goes.
    pub destination: PeerHash,
    /// Where it came from.
    pub source: PeerHash,
}

impl RelayShim {
    /// The shim's octets.
    pub fn to_bytes(self) -> [u8; RELAY_SHIM_LEN] {
        let mut out = [0; RELAY_SHIM_LEN];
        out[0] = Kind::Relay as u8;
        out[1] = self.hop_limit;
        out[4..12].copy_from_slice(&self.destination.0);
        out[12..20].copy_from_slice(&self.source.0);
        out
    }

    /// Splits a RELAY datagram into shim and the datagram inside; `None` when it is none.
    pub fn split(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = datagram.split_first_chunk::<RELAY_SHIM_LEN>()?;
        if head[0] != Kind::Relay as u8 {
            return None;
        }
        let half = |at: usize| {
            let mut out = [0; 8];
            out.copy_from_slice(&head[at..at + 8]);
            PeerHash(out)
        };
        Some((
            Self {
                hop_limit: head[1],
                destination: half(4),
                source: half(12),
            },
            rest,
        ))
    }
}

/// What stands sealed before the piece of a frame in FRAG and FLOOD-FRAG, in place of the meta: the same 16 octets.
///
/// What is cut is the frame; in FLOOD-FRAG the [`FloodPrefix`] and then the frame.
///
/// `0 frame number 8 | 8 offset 4 | 12 frame length 4`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragPrefix {
    /// Number of the frame within the session and direction.
    pub frame: u64,
    /// Where this piece begins in the frame, in octets.
    pub offset: u32,
    /// Octets of all that was cut.
    pub length: u32,
}

impl FragPrefix {
    /// The prefix's octets.
    pub fn to_bytes(self) -> [u8; META_LEN] {
        let mut out = [0; META_LEN];
        out[..8].copy_from_slice(&self.frame.to_be_bytes());
        out[8..12].copy_from_slice(&self.offset.to_be_bytes());
        out[12..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Splits sealed content into prefix and piece; `None` when it is shorter than a prefix.
    pub fn split(content: &[u8]) -> Option<(Self, &[u8])> {
        let (frame, rest) = content.split_first_chunk::<8>()?;
        let (offset, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let prefix = Self {
            frame: u64::from_be_bytes(*frame),
            offset: u32::from_be_bytes(*offset),
            length: u32::from_be_bytes(*length),
        };
        Some((prefix, rest))
    }
}

/// What stands sealed in PROBE (before its zero padding) and PROBE-ACK.
///
/// `0 probe number 8 | 8 size 2 | 10 reserved 6`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeBody {
    /// Number of the probe, chosen by the prober.
    pub number: u64,
    /// Octets of the UDP payload that the probe filled.
    pub size: u16,
}

impl ProbeBody {
    /// The body's octets.
    pub fn to_bytes(self) -> [u8; PROBE_BODY_LEN] {
        let mut out = [0; PROBE_BODY_LEN];
        out[..8].copy_from_slice(&self.number.to_be_bytes());
        out[8..10].copy_from_slice(&self.size.to_be_bytes());
        out
    }

    /// Reads the body; `None` when there are fewer than 16 octets.
    pub fn parse(content: &[u8]) -> Option<Self> {
        let (number, rest) = content.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<2>()?;
        (rest.len() >= 6).then_some(Self {
            number: u64::from_be_bytes(*number),
            size: u16::from_be_bytes(*size),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_read_back(flags in any::<u8>(), network in any::<u16>(), index in any::<u32>(), counter in any::<u64>()) {
            let header = Header { kind: Kind::Data, flags, network, index: SessionIndex(index), counter };
            prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        }

        #[test]
        fn no_octets_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..HEADER_LEN]);
            }
            if let Some((shim, inner)) = RelayShim::split(&bytes) {
                prop_assert_eq!(inner.len() + RELAY_SHIM_LEN, bytes.len());
                prop_assert_eq!(RelayShim::split(&shim.to_bytes()).map(|(s, _)| s), Some(shim));
            }
            if let Some((meta, rest)) = Meta::split(&bytes) {
                prop_assert_eq!(rest.len() + META_LEN, bytes.len());
                prop_assert_eq!(Meta::split(&meta.to_bytes()).map(|(m, _)| m), Some(meta));
            }
            if let Some((flood, _)) = FloodPrefix::split(&bytes) {
                prop_assert_eq!(&flood.to_bytes()[..], &bytes[..FLOOD_PREFIX_LEN]);
            }
            if let Some((frag, _)) = FragPrefix::split(&bytes) {
                prop_assert_eq!(&frag.to_bytes()[..], &bytes[..META_LEN]);
            }
            let _ = ProbeBody::parse(&bytes);
        }
    }

    #[test]
    fn kinds_leave_the_bits_of_quic_alone() {
        for octet in 0..=255u8 {
            if let Some(kind) = Kind::from_octet(octet) {
                assert_eq!(kind as u8, octet);
                assert_eq!(octet & 0xc0, 0);
            }
        }
    }
}
