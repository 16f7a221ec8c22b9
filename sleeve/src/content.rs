//! Layout of what stands sealed in the datagrams that carry frames.
//!
//! ```text
//! DATA       meta 16 | frame, or one slice of a super-frame
//! FLOOD      meta 16 | origin hash 8 | sequence 8 | frame
//! FRAG       frame number 8 | offset 4 | length 4 | piece of a frame
//! FLOOD-FRAG frame number 8 | offset 4 | length 4 | piece of: origin hash 8 | sequence 8 | frame
//! PROBE      probe number 8 | size 2 | reserved 6 | padding
//! PROBE-ACK  probe number 8 | size 2 | reserved 6
//! KEEPALIVE  nothing
//! ```

use crate::fragment::Cut;
use alloc::vec::Vec;
use weft_wire::DropReason;
use weft_wire::datagram::{
    FloodPrefix, FragPrefix, HEADER_LEN, Kind, Meta, PROBE_BODY_LEN, ProbeBody, TAG_LEN,
};
use weft_wire::limits::FRAME_MAX;
use weft_wire::mtu::ETHERNET_HEADER;

/// The opened content of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// One whole unicast frame.
    Frame {
        /// The virtio-net view of it.
        meta: Meta,
        /// From destination address to the end of the payload, without checksum; at least an Ethernet header.
        frame: &'a [u8],
    },
    /// One of several slices of a super-frame.
    Slice {
        /// Which slice it is, and of what.
        meta: Meta,
        /// `meta.header_len` octets of headers, then the slice.
        bytes: &'a [u8],
    },
    /// One whole frame for everybody.
    Flood {
        /// The virtio-net view of it.
        meta: Meta,
        /// Who sent it first, and which one it was.
        prefix: FloodPrefix,
        /// The frame, as above.
        frame: &'a [u8],
    },
    /// One piece of something that was cut.
    Piece {
        /// What was cut.
        cut: Cut,
        /// Of which frame it is, and where in it.
        prefix: FragPrefix,
        /// The piece.
        octets: &'a [u8],
    },
    /// A question about the path.
    Probe(ProbeBody),
    /// Its answer.
    ProbeAck(ProbeBody),
    /// A sign of life.
    Keepalive,
}

impl<'a> Content<'a> {
    /// Reads what stood sealed in a datagram of this kind.
    ///
    /// `KindNotServed` for kinds that this version does not serve, `BadContent`, `RuntFrame` and `OversizeFrame`
    /// as they say.
    pub fn parse(kind: Kind, opened: &'a [u8]) -> Result<Self, DropReason> {
        match kind {
            Kind::Data => {
                let (meta, bytes) = Meta::split(opened).ok_or(DropReason::BadContent)?;
                if meta.segments <= 1 {
                    return checked(bytes).map(|frame| Self::Frame { meta, frame });
                }
                let headers = usize::from(meta.header_len);
                if meta.segment >= meta.segments || headers < ETHERNET_HEADER || bytes.len() <= headers {
                    return Err(DropReason::BadContent);
                }
                Ok(Self::Slice { meta, bytes })
            }
            Kind::Flood => {
                let (meta, rest) = Meta::split(opened).ok_or(DropReason::BadContent)?;
                let (prefix, frame) = FloodPrefix::split(rest).ok_or(DropReason::BadContent)?;
                if meta.segments > 1 {
                    return Err(DropReason::BadContent);
                }
                checked(frame).map(|frame| Self::Flood { meta, prefix, frame })
            }
            Kind::Frag | Kind::FloodFrag => {
                let (prefix, octets) = FragPrefix::split(opened).ok_or(DropReason::BadContent)?;
                let cut = if kind == Kind::Frag {
                    Cut::Frame
                } else {
                    Cut::Flood
                };
                Ok(Self::Piece { cut, prefix, octets })
            }
            Kind::Probe => {
                let body = ProbeBody::parse(opened).ok_or(DropReason::BadContent)?;
                if usize::from(body.size) != HEADER_LEN + opened.len() + TAG_LEN {
                    return Err(DropReason::BadContent);
                }
                Ok(Self::Probe(body))
            }
            Kind::ProbeAck => match ProbeBody::parse(opened) {
                Some(body) if opened.len() == PROBE_BODY_LEN => Ok(Self::ProbeAck(body)),
                _ => Err(DropReason::BadContent),
            },
            Kind::Keepalive if opened.is_empty() => Ok(Self::Keepalive),
            Kind::Keepalive => Err(DropReason::BadContent),
            Kind::Init | Kind::Resp | Kind::Cookie | Kind::Relay => Err(DropReason::KindNotServed),
        }
    }

    /// Reads what was put together from pieces.
    ///
    /// `BadContent` and `RuntFrame` as they say.
    pub fn whole(cut: Cut, content: &'a [u8]) -> Result<Self, DropReason> {
        let meta = Meta::default();
        match cut {
            Cut::Frame => checked(content).map(|frame| Self::Frame { meta, frame }),
            Cut::Flood => {
                let (prefix, frame) = FloodPrefix::split(content).ok_or(DropReason::BadContent)?;
                checked(frame).map(|frame| Self::Flood { meta, prefix, frame })
            }
        }
    }
}

fn checked(frame: &[u8]) -> Result<&[u8], DropReason> {
    if frame.len() < ETHERNET_HEADER {
        Err(DropReason::RuntFrame)
    } else if frame.len() > FRAME_MAX {
        Err(DropReason::OversizeFrame)
    } else {
        Ok(frame)
    }
}

/// Appends the content of a DATA datagram, ready to be sealed.
pub fn write_data(out: &mut Vec<u8>, meta: Meta, frame: &[u8]) {
    out.extend_from_slice(&meta.to_bytes());
    out.extend_from_slice(frame);
}

/// Appends the content of a FLOOD datagram, ready to be sealed.
pub fn write_flood(out: &mut Vec<u8>, meta: Meta, prefix: FloodPrefix, frame: &[u8]) {
    out.extend_from_slice(&meta.to_bytes());
    out.extend_from_slice(&prefix.to_bytes());
    out.extend_from_slice(frame);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_wire::PeerHash;

    #[test]
    fn what_is_written_reads_back() {
        let (frame, meta) = ([7; 60], Meta::default());
        let prefix = FloodPrefix {
            origin: PeerHash([3; 8]),
            sequence: 9,
        };
        let (mut data, mut flood) = (Vec::new(), Vec::new());
        write_data(&mut data, meta, &frame);
        write_flood(&mut flood, meta, prefix, &frame);
        assert_eq!(
            Content::parse(Kind::Data, &data),
            Ok(Content::Frame { meta, frame: &frame })
        );
        let expected = Content::Flood {
            meta,
            prefix,
            frame: &frame,
        };
        assert_eq!(Content::parse(Kind::Flood, &flood), Ok(expected));
        assert_eq!(Content::parse(Kind::Keepalive, &[]), Ok(Content::Keepalive));
        let whole = [&prefix.to_bytes()[..], &frame].concat();
        assert_eq!(
            Content::whole(Cut::Flood, &whole),
            Content::parse(Kind::Flood, &flood)
        );
        assert_eq!(
            Content::whole(Cut::Frame, &frame),
            Content::parse(Kind::Data, &data)
        );
        let body = ProbeBody { number: 5, size: 100 };
        let mut probe = body.to_bytes().to_vec();
        assert_eq!(
            Content::parse(Kind::ProbeAck, &probe),
            Ok(Content::ProbeAck(body))
        );
        probe.resize(100 - HEADER_LEN - TAG_LEN, 0);
        assert_eq!(Content::parse(Kind::Probe, &probe), Ok(Content::Probe(body)));
    }

    #[test]
    fn what_was_put_together_is_checked_as_what_came_whole() {
        assert_eq!(Content::whole(Cut::Frame, &[0; 13]), Err(DropReason::RuntFrame));
        assert_eq!(Content::whole(Cut::Flood, &[0; 15]), Err(DropReason::BadContent));
        assert_eq!(
            Content::whole(Cut::Flood, &[0; 16 + 13]),
            Err(DropReason::RuntFrame)
        );
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let sliced = |segment, header_len, payload: usize| {
            let meta = Meta {
                segment,
                segments: 2,
                header_len,
                ..Meta::default()
            };
            let mut out = Vec::new();
            write_data(&mut out, meta, &vec![0; payload]);
            Content::parse(Kind::Data, &out).err()
        };
        assert_eq!(sliced(0, 54, 55), None);
        assert_eq!(sliced(2, 54, 55), Some(DropReason::BadContent));
        assert_eq!(sliced(0, 13, 55), Some(DropReason::BadContent));
        assert_eq!(sliced(0, 54, 54), Some(DropReason::BadContent));
        for (kind, length, reason) in [
            (Kind::Data, 15, DropReason::BadContent),
            (Kind::Data, 16 + 13, DropReason::RuntFrame),
            (Kind::Data, 16 + FRAME_MAX + 1, DropReason::OversizeFrame),
            (Kind::Flood, 31, DropReason::BadContent),
            (Kind::Flood, 32 + 13, DropReason::RuntFrame),
            (Kind::Keepalive, 1, DropReason::BadContent),
            (Kind::Frag, 15, DropReason::BadContent),
            (Kind::FloodFrag, 15, DropReason::BadContent),
            (Kind::Probe, 15, DropReason::BadContent),
            // It says a size of 0.
            (Kind::Probe, 64, DropReason::BadContent),
            (Kind::ProbeAck, 15, DropReason::BadContent),
            (Kind::ProbeAck, 17, DropReason::BadContent),
            (Kind::Relay, 64, DropReason::KindNotServed),
        ] {
            assert_eq!(
                Content::parse(kind, &vec![0; length]),
                Err(reason),
                "{kind:?} {length}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octet: u8, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(kind) = Kind::from_octet(octet & 0x3f) {
                let _ = Content::parse(kind, &bytes);
            }
        }
    }
}
