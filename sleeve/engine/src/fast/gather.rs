//! Slices and frames that arrived, until they are written as one.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Instant;

use weft_kernel::tap::{VnetHeader, VnetTap};
use weft_sleeve::Content;
use weft_sleeve::segment::{self, HEADERS_MAX, Headers, NEEDS_CHECKSUM};
use weft_wire::DropReason;
use weft_wire::datagram::{FloodPrefix, Meta};

use crate::common::inlet::{AtHand, Carried, Inlet, Load};
use crate::common::shared::Shared;
use crate::session::Session;
use crate::view::View;

/// Slices, or frames, of one run: as many as one receive call brings of a run of datagrams.
const PARTS_MAX: usize = 64;
/// Octets of an IP packet at most (RFC 791, RFC 8200): the joined frame must not be longer.
const PACKET_MAX: usize = 65_535;

/// What one batch from the socket brings, on its way to the TAP device.
pub(super) struct Gather<'a> {
    tap: &'a VnetTap,
    shared: &'a Shared,
    inlet: &'a mut Inlet,
    view: &'a View,
    now: Instant,
    at_hand: Option<AtHand<'a>>,
    run: Option<Run<'a>>,
    parts: [IoSlice<'a>; PARTS_MAX],
}

/// Parts that stand behind one another in one frame.
struct Run<'a> {
    session: &'a Session,
    headers: Headers,
    /// Headers of the super-frame, or of the first frame.
    template: [u8; HEADERS_MAX],
    kind: RunKind,
    /// Parts so far.
    count: usize,
    /// Where in the payload of the super-frame the first part stands.
    begin: usize,
    /// Octets of payload so far.
    len: usize,
}

#[derive(Clone, Copy)]
enum RunKind {
    /// Slices of one super-frame.
    Slices {
        /// Number of the datagram with its first slice.
        group: u64,
        /// The meta that the next slice has.
        next: Meta,
    },
    /// UDP frames of one flow.
    Datagrams {
        /// The last one was shorter: none can follow.
        is_closed: bool,
    },
}

impl<'a> Gather<'a> {
    pub(super) fn new(
        tap: &'a VnetTap,
        shared: &'a Shared,
        inlet: &'a mut Inlet,
        view: &'a View,
        now: Instant,
    ) -> Self {
        Self {
            tap,
            shared,
            inlet,
            view,
            now,
            at_hand: None,
            run: None,
            parts: [IoSlice::new(&[]); PARTS_MAX],
        }
    }

    /// Passes on what others want relayed, as [`Inlet::relay`].
    pub(super) fn relay(&mut self, from: SocketAddr, received: &mut [u8], stride: usize) -> usize {
        self.inlet.relay(self.view, from, received, stride, self.now)
    }

    /// Takes a datagram. What it brings is written at the latest with [`Gather::flush`].
    pub(super) fn take(&mut self, from: SocketAddr, datagram: &'a mut [u8]) -> Result<(), DropReason> {
        let taken = self
            .inlet
            .take(&mut self.at_hand, self.view, from, datagram, self.now)?;
        let Some(Carried {
            session,
            counter,
            load,
        }) = taken
        else {
            return Ok(());
        };
        match load {
            Load::Content(Content::Slice { meta, bytes }) => self.slice(session, counter, meta, bytes),
            Load::Content(Content::Frame { meta, frame }) => self.frame(session, meta, frame),
            Load::Content(Content::Flood { meta, prefix, frame }) => {
                self.flush();
                self.single(session, meta, Some(prefix), frame)
            }
            Load::Content(_) => Ok(()),
            Load::Joined(cut, whole) => {
                self.flush();
                match Content::whole(cut, &whole)? {
                    Content::Frame { meta, frame } => self.single(session, meta, None, frame)?,
                    Content::Flood { meta, prefix, frame } => {
                        self.single(session, meta, Some(prefix), frame)?;
                    }
                    _ => return Ok(()),
                }
                session.traffic.reassembled();
                Ok(())
            }
        }
    }

    fn slice(
        &mut self,
        session: &'a Session,
        counter: u64,
        meta: Meta,
        bytes: &'a [u8],
    ) -> Result<(), DropReason> {
        let (template, payload) = bytes
            .split_at_checked(usize::from(meta.header_len))
            .ok_or(DropReason::BadContent)?;
        let group = counter.wrapping_sub(u64::from(meta.segment));
        if let Some(run) = &mut self.run
            && let RunKind::Slices { group: of, next } = &mut run.kind
            && run.count < PARTS_MAX
            && (*of, *next) == (group, meta)
            && std::ptr::eq(run.session, session)
            && run.template.get(..template.len()) == Some(template)
            && run.headers.place(&meta, payload.len()) == Some(run.begin + run.len)
        {
            next.segment = next.segment.wrapping_add(1);
            run.append(&mut self.parts, payload);
            return Ok(());
        }
        self.flush();
        let headers = Headers::of(&meta, bytes)
            .filter(|headers| headers.len() == template.len() && headers.is_modest(payload.len()))
            .ok_or(DropReason::BadContent)?;
        let begin = headers
            .place(&meta, payload.len())
            .ok_or(DropReason::BadContent)?;
        self.inlet.admit(self.view, template, None, session, self.now)?;
        let next = Meta {
            segment: meta.segment.wrapping_add(1),
            ..meta
        };
        let kind = RunKind::Slices { group, next };
        self.begin(session, headers, template, kind, begin, payload);
        Ok(())
    }

    fn frame(&mut self, session: &'a Session, meta: Meta, frame: &'a [u8]) -> Result<(), DropReason> {
        let Some(headers) = Headers::of_datagram(&meta, frame) else {
            self.flush();
            return self.single(session, meta, None, frame);
        };
        let Some((template, payload)) = frame.split_at_checked(headers.len()) else {
            return Err(DropReason::BadContent);
        };
        if let Some(run) = &mut self.run
            && let RunKind::Datagrams { is_closed: false } = run.kind
            && run.count < PARTS_MAX
            && headers.len() + run.len + payload.len() <= PACKET_MAX
            && std::ptr::eq(run.session, session)
            && run.headers.takes(&run.template, run.count, &headers, template)
        {
            run.kind = RunKind::Datagrams {
                is_closed: payload.len() < run.headers.segment(),
            };
            run.append(&mut self.parts, payload);
            return Ok(());
        }
        self.flush();
        self.inlet.admit(self.view, template, None, session, self.now)?;
        let kind = RunKind::Datagrams { is_closed: false };
        self.begin(session, headers, template, kind, 0, payload);
        Ok(())
    }

    fn begin(
        &mut self,
        session: &'a Session,
        headers: Headers,
        template: &[u8],
        kind: RunKind,
        begin: usize,
        payload: &'a [u8],
    ) {
        let mut run = Run {
            session,
            headers,
            template: [0; HEADERS_MAX],
            kind,
            count: 0,
            begin,
            len: 0,
        };
        for (to, from) in run.template.iter_mut().zip(template) {
            *to = *from;
        }
        run.append(&mut self.parts, payload);
        self.run = Some(run);
    }

    /// Writes what has been gathered.
    pub(super) fn flush(&mut self) {
        let Some(mut run) = self.run.take() else {
            return;
        };
        let (headers, begin, len) = (run.headers, run.begin, run.len);
        let Some(template) = run.template.get_mut(..headers.len()) else {
            return;
        };
        if !headers.is_whole(begin, len) {
            headers.retell(template, begin, len);
        }
        let vnet = vnet_of(&headers.meta(begin, len)).to_bytes();
        let mut all = [IoSlice::new(&[]); PARTS_MAX + 2];
        all[0] = IoSlice::new(&vnet);
        all[1] = IoSlice::new(template);
        for (to, part) in all.iter_mut().skip(2).zip(&self.parts).take(run.count) {
            *to = *part;
        }
        let written = self.tap.write(all.get(..run.count + 2).unwrap_or_default());
        let frames = headers.frames(len);
        match written {
            Ok(()) => run.session.traffic.received(frames, headers.len() + len),
            Err(_) => self.shared.tally.drop_many(DropReason::TapFailed, frames, None),
        }
    }

    /// Writes a frame that is not joined with others, at once.
    fn single(
        &mut self,
        session: &Session,
        meta: Meta,
        flood: Option<FloodPrefix>,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let mut frames = 1;
        if meta.gso_type != 0 {
            // A super-frame that fits one datagram.
            let headers = Headers::of(&meta, frame)
                .filter(|_| segment::fits(&meta, frame))
                .ok_or(DropReason::BadContent)?;
            frames = headers.frames(headers.payload());
        } else if !segment::checksum_fits(&meta, frame) {
            return Err(DropReason::BadContent);
        }
        self.inlet.admit(self.view, frame, flood, session, self.now)?;
        let vnet = vnet_of(&meta).to_bytes();
        self.tap
            .write(&[IoSlice::new(&vnet), IoSlice::new(frame)])
            .map_err(|_| DropReason::TapFailed)?;
        session.traffic.received(frames, frame.len());
        Ok(())
    }
}

impl<'a> Run<'a> {
    fn append(&mut self, parts: &mut [IoSlice<'a>; PARTS_MAX], payload: &'a [u8]) {
        if let Some(part) = parts.get_mut(self.count) {
            *part = IoSlice::new(payload);
            self.count += 1;
            self.len += payload.len();
        }
    }
}

/// What the kernel is told of a frame that is written.
fn vnet_of(meta: &Meta) -> VnetHeader {
    if meta.gso_type == 0 && meta.flags & NEEDS_CHECKSUM == 0 {
        return VnetHeader::default();
    }
    VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: meta.gso_type,
        header_len: meta.header_len,
        gso_size: meta.gso_size,
        csum_start: meta.csum_start,
        csum_offset: meta.csum_offset,
    }
}
