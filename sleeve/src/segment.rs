//! Super-frames: one frame that stands for many of one flow, and is cut late or never (Virtio 1.2 §5.1.6).
//!
//! A sender with offloads gets one frame of up to 64 KiB from the kernel and sends it in slices. Each slice has the
//! headers of the whole before it, so each can be delivered without the others. What arrives together is handed to
//! the kernel as one super-frame: the headers unchanged when it is the whole, corrected when it is a part.
//!
//! ```text
//! super-frame   headers | payload of n segments, each of `GSO size` octets, the last one of the rest
//! slices        headers | payload 0 .. s      headers | s .. 2s      …      headers | the rest
//! ```
//!
//! TCP is a stream of octets, so a slice may be as long as the path allows. UDP is not: a slice is a multiple of
//! the GSO size.

use alloc::vec::Vec;

use weft_wire::DropReason;
use weft_wire::datagram::Meta;
use weft_wire::mtu::{ETHERNET_HEADER, IPV4_HEADER, IPV6_HEADER, UDP_HEADER, VLAN_TAG};

/// Bit in [`Meta::flags`]: the checksum field holds the sum of the pseudo header only.
pub const NEEDS_CHECKSUM: u8 = 1;
/// [`Meta::gso_type`] of TCP over IPv4.
pub const GSO_TCP4: u8 = 1;
/// [`Meta::gso_type`] of TCP over IPv6.
pub const GSO_TCP6: u8 = 4;
/// [`Meta::gso_type`] of UDP, over either.
pub const GSO_UDP: u8 = 5;
/// Bit in [`Meta::gso_type`]: the first segment says that the sender has slowed down (CWR, RFC 3168 §6.1.2).
pub const GSO_ECN: u8 = 0x80;

/// Octets of the longest headers that are understood: all of IPv4 and TCP with every option and two VLAN tags need
/// 142, and IPv6 has room for 70 of extensions.
pub const HEADERS_MAX: usize = 192;

/// Frames that one datagram may stand for: a datagram with segments of one octet would make the receiver write 1,400.
/// The kernel joins at most 128 of UDP (`UDP_MAX_SEGMENTS`), and no TCP has segments so short that a datagram holds more.
pub const FRAMES_MAX: usize = 128;

/// VLAN tags before the IP header.
const TAGS_MAX: usize = 2;
/// IPv6 extension headers before the transport header.
const EXTENSIONS_MAX: usize = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
const TCP_HEADER: usize = 20;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Network {
    V4,
    V6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Udp,
}

/// Where things stand in the headers of a super-frame, and what it is made of. All figures are octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    network: Network,
    transport: Transport,
    /// Where the IP header begins.
    l3: usize,
    /// Where the transport header begins.
    l4: usize,
    len: usize,
    segment: usize,
    payload: usize,
    has_ecn: bool,
}

/// How a super-frame is cut: `count` slices of `size` octets of payload, the last one of the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slices {
    /// Octets of payload in each but the last.
    pub size: usize,
    /// How many there are; at least 1.
    pub count: u16,
}

impl Headers {
    /// Reads the headers at the beginning of a super-frame or of a slice of one; `None` when it is not of a type that
    /// can be cut, or headers and meta contradict each other.
    pub fn of(meta: &Meta, bytes: &[u8]) -> Option<Self> {
        let (transport, network) = match meta.gso_type & !GSO_ECN {
            GSO_TCP4 => (Transport::Tcp, Some(Network::V4)),
            GSO_TCP6 => (Transport::Tcp, Some(Network::V6)),
            GSO_UDP => (Transport::Udp, None),
            _ => return None,
        };
        let found = Self::find(meta, bytes, usize::from(meta.gso_size))?;
        let has_ecn = meta.gso_type & GSO_ECN != 0;
        let is_right = found.transport == transport
            && network.is_none_or(|network| found.network == network)
            && (transport == Transport::Tcp || !has_ecn);
        is_right.then_some(Self { has_ecn, ..found })
    }

    /// Reads the headers of a single UDP frame to which others of its flow can be joined; `None` for every other one.
    pub fn of_datagram(meta: &Meta, frame: &[u8]) -> Option<Self> {
        if meta.gso_type != 0 {
            return None;
        }
        let found = Self::find(meta, frame, usize::from(u16::MAX))?;
        let is_whole = found.transport == Transport::Udp
            && found.len.checked_add(found.payload) == Some(frame.len())
            && (found.network == Network::V6 || found.l4 == found.l3 + IPV4_HEADER)
            && found.l4 <= found.l3 + IPV6_HEADER;
        is_whole.then_some(Self {
            segment: found.payload,
            ..found
        })
    }

    fn find(meta: &Meta, bytes: &[u8], segment: usize) -> Option<Self> {
        if meta.flags & NEEDS_CHECKSUM == 0 || segment == 0 {
            return None;
        }
        let mut l3 = ETHERNET_HEADER;
        for _ in 0..TAGS_MAX {
            if matches!(get16(bytes, l3 - 2)?, 0x8100 | 0x88a8) {
                l3 += VLAN_TAG;
            }
        }
        let version = *bytes.get(l3)? >> 4;
        let (network, l4, protocol, end) = match (get16(bytes, l3 - 2)?, version) {
            (0x0800, 4) => {
                let header = usize::from(*bytes.get(l3)? & 0x0f) * 4;
                // A fragment is no part of a super-frame (RFC 791 §3.1: all but the bit that forbids it).
                if header < IPV4_HEADER || get16(bytes, l3 + 6)? & 0xbfff != 0 {
                    return None;
                }
                let end = l3 + usize::from(get16(bytes, l3 + 2)?);
                (Network::V4, l3 + header, *bytes.get(l3 + 9)?, end)
            }
            (0x86dd, 6) => {
                let (l4, protocol) = behind_extensions(bytes, l3)?;
                let end = l3 + IPV6_HEADER + usize::from(get16(bytes, l3 + 4)?);
                (Network::V6, l4, protocol, end)
            }
            _ => return None,
        };
        let (transport, header, checksum) = match protocol {
            TCP => {
                let header = usize::from(*bytes.get(l4 + 12)? >> 4) * 4;
                if header < TCP_HEADER {
                    return None;
                }
                (Transport::Tcp, header, TCP_CHECKSUM)
            }
            UDP => (Transport::Udp, UDP_HEADER, UDP_CHECKSUM),
            _ => return None,
        };
        let len = l4 + header;
        let payload = end.checked_sub(len)?;
        let is_right = len <= HEADERS_MAX
            && len <= bytes.len()
            && payload > 0
            && usize::from(meta.csum_start) == l4
            && usize::from(meta.csum_offset) == checksum
            && (transport == Transport::Tcp || usize::from(get16(bytes, l4 + 4)?) == header + payload);
        is_right.then_some(Self {
            network,
            transport,
            l3,
            l4,
            len,
            segment,
            payload,
            has_ecn: false,
        })
    }

    /// Octets of all headers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets of payload in the whole super-frame.
    pub fn payload(&self) -> usize {
        self.payload
    }

    /// Octets of payload in each segment.
    pub fn segment(&self) -> usize {
        self.segment
    }

    /// Frames that `payload` octets of it stand for.
    pub fn frames(&self, payload: usize) -> u64 {
        payload.div_ceil(self.segment.max(1)) as u64
    }

    /// Whether one datagram may carry `payload` octets of it: they stand for no more than [`FRAMES_MAX`] frames.
    pub fn is_modest(&self, payload: usize) -> bool {
        self.frames(payload) <= FRAMES_MAX as u64
    }

    /// How to cut it when a datagram has room for `room` octets of payload; `None` when not even one segment fits.
    pub fn slices(&self, room: usize) -> Option<Slices> {
        let room = room.min(self.segment.saturating_mul(FRAMES_MAX));
        let size = match self.transport {
            Transport::Tcp => room,
            Transport::Udp => room / self.segment * self.segment,
        };
        if size == 0 {
            return None;
        }
        let count = u16::try_from(self.payload.div_ceil(size)).ok()?;
        Some(Slices { size, count })
    }

    /// Where in the payload a slice of `len` octets begins; `None` when meta and length do not belong to such a
    /// super-frame.
    pub fn place(&self, meta: &Meta, len: usize) -> Option<usize> {
        if usize::from(meta.header_len) != self.len {
            return None;
        }
        let (at, of) = (usize::from(meta.segment), usize::from(meta.segments));
        if of <= 1 {
            return (len == self.payload).then_some(0);
        }
        let (size, begin) = if at + 1 < of {
            (len, at * len)
        } else {
            // The last one may be shorter, so its own length does not tell where it begins: all before it do.
            let before = self.payload.checked_sub(len)?;
            (before / (of - 1), before)
        };
        let is_right = len > 0
            && at < of
            && size > 0
            && begin == at * size
            && (of - 1) * size < self.payload
            && self.payload <= of * size
            && (self.transport == Transport::Tcp || size.is_multiple_of(self.segment));
        is_right.then_some(begin)
    }

    /// Whether these octets are the whole payload.
    pub fn is_whole(&self, begin: usize, len: usize) -> bool {
        begin == 0 && len == self.payload
    }

    /// Corrects the headers of the whole so that they are those of `len` octets from `begin` on.
    pub fn retell(&self, headers: &mut [u8], begin: usize, len: usize) {
        let is_first = begin == 0;
        let is_last = begin + len >= self.payload;
        match self.network {
            Network::V4 => {
                put16(headers, self.l3 + 2, self.len - self.l3 + len);
                let before = begin.div_ceil(self.segment.max(1));
                let id = get16(headers, self.l3 + 4).unwrap_or_default();
                put16(headers, self.l3 + 4, usize::from(id) + before);
                put16(headers, self.l3 + 10, 0);
                let header = headers.get(self.l3..self.l4).unwrap_or_default();
                let sum = usize::from(!folded(sum(header)));
                put16(headers, self.l3 + 10, sum);
            }
            Network::V6 => put16(headers, self.l3 + 4, self.len - self.l3 - IPV6_HEADER + len),
        }
        let checksum = match self.transport {
            Transport::Tcp => {
                if let Some(field) = headers.get_mut(self.l4 + 4..self.l4 + 8) {
                    let mut sequence = [0; 4];
                    sequence.copy_from_slice(field);
                    // A payload has less than 65,536 octets.
                    let sequence = u32::from_be_bytes(sequence).wrapping_add(begin as u32);
                    field.copy_from_slice(&sequence.to_be_bytes());
                }
                let mut cleared = 0;
                if !is_last {
                    cleared |= TCP_FIN | TCP_PSH;
                }
                if !is_first {
                    cleared |= TCP_CWR;
                }
                if let Some(flags) = headers.get_mut(self.l4 + 13) {
                    *flags &= !cleared;
                }
                self.l4 + TCP_CHECKSUM
            }
            Transport::Udp => {
                put16(headers, self.l4 + 4, UDP_HEADER + len);
                self.l4 + UDP_CHECKSUM
            }
        };
        let pseudo = get16(headers, checksum).unwrap_or_default();
        let pseudo = self.with_length(pseudo, self.payload, len);
        put16(headers, checksum, usize::from(pseudo));
    }

    /// The sum of a pseudo header for `old` octets of payload, as it is for `new` (RFC 1624).
    fn with_length(&self, pseudo: u16, old: usize, new: usize) -> u16 {
        // Both fit: an IP packet has less than 65,536 octets.
        let length = |payload| (self.len - self.l4 + payload) as u16;
        folded(u64::from(pseudo) + u64::from(!length(old)) + u64::from(length(new)))
    }

    /// The meta of `len` octets from `begin` on, as one frame.
    pub fn meta(&self, begin: usize, len: usize) -> Meta {
        let (gso_type, gso_size) = if len > self.segment {
            let ecn = if self.has_ecn && begin == 0 { GSO_ECN } else { 0 };
            let kind = match (self.transport, self.network) {
                (Transport::Tcp, Network::V4) => GSO_TCP4,
                (Transport::Tcp, Network::V6) => GSO_TCP6,
                (Transport::Udp, _) => GSO_UDP,
            };
            (kind | ecn, self.segment)
        } else {
            (0, 0)
        };
        let checksum = match self.transport {
            Transport::Tcp => TCP_CHECKSUM,
            Transport::Udp => UDP_CHECKSUM,
        };
        // All fit: they were read from fields of 16 bits, or stand within HEADERS_MAX.
        Meta {
            flags: NEEDS_CHECKSUM,
            gso_type,
            header_len: self.len as u16,
            gso_size: gso_size as u16,
            csum_start: self.l4 as u16,
            csum_offset: checksum as u16,
            segment: 0,
            segments: 0,
        }
    }

    /// Whether a UDP frame with the headers `next` can be appended to `joined` others of its flow, of which the first
    /// has the headers `first`: [`Headers::of_datagram`] has read both.
    pub fn takes(&self, first: &[u8], joined: usize, next: &Self, headers: &[u8]) -> bool {
        if (next.network, next.l3, next.l4, next.len) != (self.network, self.l3, self.l4, self.len)
            || next.payload > self.segment
        {
            return false;
        }
        let same = |from: usize, to: usize| {
            first
                .get(from..to)
                .is_some_and(|octets| headers.get(from..to) == Some(octets))
        };
        let network = match self.network {
            Network::V4 => {
                let word = |bytes, at| get16(bytes, self.l3 + at).unwrap_or_default();
                // Numbers are counted on from the first one when the frame is cut. Who forbids fragments does not need
                // them (RFC 6864 §4.1).
                let is_numbered = usize::from(word(headers, 4).wrapping_sub(word(first, 4))) == joined;
                let is_atomic = word(headers, 6) & 0x4000 != 0;
                (is_numbered || is_atomic)
                    && same(self.l3, self.l3 + 2)
                    && same(self.l3 + 6, self.l3 + 10)
                    && same(self.l3 + 12, self.l4)
            }
            Network::V6 => same(self.l3, self.l3 + 4) && same(self.l3 + 6, self.l4),
        };
        let pseudo = |bytes| get16(bytes, self.l4 + UDP_CHECKSUM).unwrap_or_default();
        network
            && same(0, self.l3)
            && same(self.l4, self.l4 + 4)
            && self.with_length(pseudo(headers), next.payload, self.payload)
                == self.with_length(pseudo(first), self.payload, self.payload)
    }
}

/// Where the transport header of an IPv6 packet begins, and which it is.
fn behind_extensions(bytes: &[u8], l3: usize) -> Option<(usize, u8)> {
    let (mut at, mut protocol) = (l3 + IPV6_HEADER, *bytes.get(l3 + 6)?);
    for _ in 0..EXTENSIONS_MAX {
        // Hop-by-hop options, routing and destination options (RFC 8200 §4).
        if !matches!(protocol, 0 | 43 | 60) {
            return Some((at, protocol));
        }
        protocol = *bytes.get(at)?;
        at += (usize::from(*bytes.get(at + 1)?) + 1) * 8;
    }
    None
}

/// Fills in the checksum of a frame whose checksum field holds the sum of the pseudo header. `None` when the places
/// do not lie in the frame.
pub fn complete_checksum(frame: &mut [u8], start: u16, offset: u16) -> Option<()> {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let covered = frame.get(start..)?;
    if start < ETHERNET_HEADER || covered.len() < offset + 2 {
        return None;
    }
    // Zero would say that there is none (RFC 768).
    let sum = match !folded(sum(covered)) {
        0 => u16::MAX,
        sum => sum,
    };
    put16(frame, start + offset, usize::from(sum));
    Some(())
}

/// Whether a frame is a single one with its checksum filled in.
pub fn is_finished(meta: &Meta) -> bool {
    meta.gso_type == 0 && meta.segments <= 1 && meta.flags & NEEDS_CHECKSUM == 0
}

/// Whether what the meta says of the checksum of a single frame can be.
pub fn checksum_fits(meta: &Meta, frame: &[u8]) -> bool {
    let (start, offset) = (usize::from(meta.csum_start), usize::from(meta.csum_offset));
    meta.flags & NEEDS_CHECKSUM == 0 || (start >= ETHERNET_HEADER && start + offset + 2 <= frame.len())
}

/// Whether a frame, a super-frame or a slice of one is what its meta says, and no more than a datagram may carry: [`expand`]
/// can take it apart.
pub fn fits(meta: &Meta, bytes: &[u8]) -> bool {
    if meta.gso_type == 0 && meta.segments <= 1 {
        return checksum_fits(meta, bytes);
    }
    let place = |headers: Headers| {
        let payload = bytes.len().checked_sub(headers.len)?;
        headers
            .place(meta, payload)
            .filter(|_| headers.is_modest(payload))
    };
    Headers::of(meta, bytes).and_then(place).is_some()
}

/// Makes single frames, with their checksums filled in, from a frame, a super-frame or a slice of one, and hands them
/// to `each` in order; `frame` is room for one.
///
/// `BadContent` when meta and octets contradict each other, and what `each` refuses.
pub fn expand(
    meta: &Meta,
    bytes: &[u8],
    frame: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    if meta.gso_type == 0 && meta.segments <= 1 {
        frame.clear();
        frame.extend_from_slice(bytes);
        if meta.flags & NEEDS_CHECKSUM != 0 {
            complete_checksum(frame, meta.csum_start, meta.csum_offset).ok_or(DropReason::BadContent)?;
        }
        return each(frame);
    }
    let headers = Headers::of(meta, bytes).ok_or(DropReason::BadContent)?;
    let (template, payload) = bytes
        .split_at_checked(headers.len)
        .ok_or(DropReason::BadContent)?;
    let begin = headers.place(meta, payload.len()).ok_or(DropReason::BadContent)?;
    for (at, segment) in (begin..)
        .step_by(headers.segment)
        .zip(payload.chunks(headers.segment))
    {
        frame.clear();
        frame.extend_from_slice(template);
        headers.retell(frame, at, segment.len());
        frame.extend_from_slice(segment);
        complete_checksum(frame, meta.csum_start, meta.csum_offset).ok_or(DropReason::BadContent)?;
        each(frame)?;
    }
    Ok(())
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    let octets = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*octets))
}

/// Writes the lower 16 bits; what does not lie in the octets is left.
fn put16(bytes: &mut [u8], at: usize, value: usize) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&(value as u16).to_be_bytes());
    }
}

/// The sum of all words, with a zero octet behind an odd one (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |octet| u64::from(*octet) << 8);
    words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)))
        .sum::<u64>()
        + last
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
