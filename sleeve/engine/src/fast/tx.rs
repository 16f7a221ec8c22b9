//! From the TAP device to the peers.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use weft_kernel::tap::{VNET_HEADER_LEN, VnetHeader, VnetTap};
use weft_sleeve::segment::{self, GSO_ECN, HEADERS_MAX, Headers, NEEDS_CHECKSUM};
use weft_wire::DropReason;
use weft_wire::datagram::{FloodPrefix, HEADER_LEN, Kind, META_LEN, Meta, TAG_LEN};
use weft_wire::limits::FRAME_MAX;

use super::lane::{Buffers, Lanes};
use crate::common::intake::judge;
use crate::common::outlet::{Outlet, first_sequence};
use crate::common::shared::Shared;
use crate::switching::{Outgoing, Recipients, Verdict};
use crate::view::{Link, Path, View, Views};

/// Frames that are read before all that waits is sent and other work gets its turn.
const TURN: usize = 64;
/// Room before what is read: a meta fits before each frame.
const BEFORE: usize = META_LEN;
/// Octets that DATA puts around a frame.
const AROUND: usize = HEADER_LEN + META_LEN + TAG_LEN;

/// What is left in a queue after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// Nothing: the next thing to do is to wait.
    Nothing,
    /// Perhaps something.
    Perhaps,
}

pub(super) struct Sender {
    tap: Arc<VnetTap>,
    outlet: Outlet,
    /// Header and frame as they were read, behind [`BEFORE`] octets. One octet more shows that a frame is too long.
    read: Box<[u8]>,
    buffers: Buffers,
    /// Room for one of the frames that a flooded super-frame stands for.
    part: Vec<u8>,
    /// Room for what a flooded frame is sealed from.
    flooded: Vec<u8>,
    /// Number of the next flooded frame.
    sequence: u64,
    switching: Outgoing,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, tap: Arc<VnetTap>) -> Self {
        Self {
            switching: Outgoing::new(Arc::clone(&shared.switching)),
            outlet: Outlet::new(shared),
            tap,
            read: vec![0; BEFORE + VNET_HEADER_LEN + FRAME_MAX + 1].into(),
            buffers: Buffers::new(),
            part: Vec::new(),
            flooded: Vec::new(),
            sequence: first_sequence(),
        }
    }

    /// What to wait for before the next turn.
    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// Sends what the pods have written, at most [`TURN`] frames.
    ///
    /// # Errors
    /// The TAP device gives no more frames.
    pub(super) fn turn(&mut self, views: &mut Views<'_>) -> io::Result<Left> {
        let (mut budget, mut held) = (TURN, None);
        loop {
            match self.turn_under(views.load(), &mut budget, &mut held)? {
                Turned::Out(left) => return Ok(left),
                Turned::Held(length) => held = Some(length),
            }
        }
    }

    /// The same until another view is published. `held` is the length of a frame that was read and not yet sent.
    fn turn_under(
        &mut self,
        view: &View,
        budget: &mut usize,
        held: &mut Option<usize>,
    ) -> io::Result<Turned> {
        let mut turned = Turned::Out(Left::Perhaps);
        let shared = Arc::clone(&self.outlet.shared);
        let mut lanes = Lanes::new(&mut self.buffers, &mut self.outlet);
        let mut forward = Forward {
            switching: &mut self.switching,
            sequence: &mut self.sequence,
            part: &mut self.part,
            flooded: &mut self.flooded,
        };
        while *budget > 0 || held.is_some() {
            let length = match held.take() {
                Some(length) => length,
                None => {
                    *budget -= 1;
                    match self.tap.read(self.read.get_mut(BEFORE..).unwrap_or_default()) {
                        Ok(length) if std::ptr::eq(Arc::as_ptr(&shared.view.load()), view) => length,
                        // What was published before a frame was written holds for it.
                        Ok(length) => {
                            turned = Turned::Held(length);
                            break;
                        }
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            turned = Turned::Out(Left::Nothing);
                            break;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            let read = self.read.get_mut(..BEFORE + length).unwrap_or_default();
            forward.frame(view, &mut lanes, read);
        }
        lanes.flush();
        Ok(turned)
    }
}

/// How a turn ended.
enum Turned {
    /// The queue is empty, or it is somebody else's turn.
    Out(Left),
    /// A frame of this length was read, and another view was published.
    Held(usize),
}

/// What the way of a frame depends on.
struct Forward<'s> {
    switching: &'s mut Outgoing,
    sequence: &'s mut u64,
    part: &'s mut Vec<u8>,
    flooded: &'s mut Vec<u8>,
}

impl Forward<'_> {
    /// Sends the frame that was read behind [`BEFORE`] octets to where the table says.
    fn frame<'v>(&mut self, view: &'v View, lanes: &mut Lanes<'v, '_>, read: &mut [u8]) {
        let shared = Arc::clone(&lanes.outlet().shared);
        let Some((header, frame)) = read.get(BEFORE..).and_then(VnetHeader::split) else {
            return shared.tally.drop(DropReason::RuntFrame, None);
        };
        let verdict = judge(&shared, self.switching, view, frame);
        let Some(meta) = meta_of(header, frame) else {
            return shared.tally.drop(DropReason::UnknownOffload, None);
        };
        match verdict {
            Verdict::To(link) => send(lanes, link, &meta, &mut Framed(read)),
            Verdict::Flood(to) if meta.gso_type == 0 => self.flood(view, to, lanes, &meta, frame),
            Verdict::Flood(to) => {
                let mut part = std::mem::take(self.part);
                let expanded = segment::expand(&meta, frame, &mut part, |frame| {
                    self.flood(view, to, lanes, &Meta::default(), frame);
                    Ok(())
                });
                *self.part = part;
                if let Err(reason) = expanded {
                    shared.tally.drop(reason, None);
                }
            }
            Verdict::Drop(reason) => shared.tally.drop(reason, None),
            Verdict::Probe => {}
        }
    }

    /// Seals a copy of a single frame for each of these peers.
    fn flood<'v>(
        &mut self,
        view: &'v View,
        to: Recipients<'v>,
        lanes: &mut Lanes<'v, '_>,
        meta: &Meta,
        frame: &[u8],
    ) {
        let prefix = FloodPrefix {
            origin: view.origin,
            sequence: *self.sequence,
        };
        *self.sequence = self.sequence.wrapping_add(1);
        self.flooded.clear();
        for part in [&meta.to_bytes()[..], &prefix.to_bytes(), frame] {
            self.flooded.extend_from_slice(part);
        }
        let size = HEADER_LEN + self.flooded.len() + TAG_LEN;
        for link in to.links() {
            if let Err(reason) = self.switching.may_copy(link) {
                lanes.outlet().shared.tally.drop(reason, None);
                continue;
            }
            let Some(path) = &link.path else {
                lanes.outlet().no_path(link);
                continue;
            };
            if size > usize::from(path.limit()) {
                send_pieces(lanes, path, meta, Some(prefix), frame);
                continue;
            }
            let counter = path.session.reserve(1);
            lanes.push(path, Kind::Flood, counter, self.flooded, (1, frame.len()));
        }
    }
}

/// What the kernel says of a frame; `None` when it is a super-frame that cannot be cut.
fn meta_of(header: VnetHeader, frame: &[u8]) -> Option<Meta> {
    let mut meta = Meta {
        // Whether the kernel has checked the frame is of no interest to others.
        flags: header.flags & NEEDS_CHECKSUM,
        gso_type: header.gso_type,
        csum_start: header.csum_start,
        csum_offset: header.csum_offset,
        ..Meta::default()
    };
    if header.gso_type & !GSO_ECN == 0 {
        meta.gso_type = 0;
        return segment::checksum_fits(&meta, frame).then_some(meta);
    }
    meta.gso_size = header.gso_size;
    // The kernel's own length is that of the first part of its buffer when it has forwarded the frame.
    let headers = Headers::of(&meta, frame)?;
    meta.header_len = u16::try_from(headers.len()).ok()?;
    (headers.len() + headers.payload() == frame.len()).then_some(meta)
}

/// What was read: a frame behind [`BEFORE`] octets and a header. What is sealed is put together here, over what stands
/// before it, so that the payload is not copied: of a frame that is sent, nothing is left.
struct Framed<'r>(&'r mut [u8]);

impl Framed<'_> {
    const BEGIN: usize = BEFORE + VNET_HEADER_LEN;

    fn frame(&self) -> &[u8] {
        self.0.get(Self::BEGIN..).unwrap_or_default()
    }

    /// `len` octets from `at` octets into the frame on, behind a meta and headers. The headers are no longer than `at`.
    fn content(&mut self, meta: &Meta, headers: &[u8], at: usize, len: usize) -> Option<&[u8]> {
        let at = Self::BEGIN + at;
        let from = at.checked_sub(META_LEN + headers.len())?;
        let content = self.0.get_mut(from..at + len)?;
        let (to, rest) = content.split_first_chunk_mut::<META_LEN>()?;
        *to = meta.to_bytes();
        rest.get_mut(..headers.len())?.copy_from_slice(headers);
        Some(content)
    }
}

/// Sends a frame or super-frame to one peer.
fn send<'v>(lanes: &mut Lanes<'v, '_>, link: &'v Link, meta: &Meta, framed: &mut Framed<'_>) {
    let Some(path) = &link.path else {
        return lanes.outlet().no_path(link);
    };
    let limit = usize::from(path.limit());
    let frame = framed.frame();
    let len = frame.len();
    let headers = Headers::of(meta, frame);
    let is_modest = headers.is_none_or(|headers| headers.is_modest(headers.payload()));
    if AROUND + len <= limit && is_modest {
        let frames = headers.map_or(1, |headers| headers.frames(headers.payload()));
        let counter = path.session.reserve(1);
        if let Some(content) = framed.content(meta, &[], 0, len) {
            lanes.push(path, Kind::Data, counter, content, (frames, len));
        }
        return;
    }
    let sliced = headers.and_then(|headers| {
        let room = limit.checked_sub(AROUND + headers.len())?;
        Some((headers, headers.slices(room)?))
    });
    let Some((headers, slices)) = sliced else {
        return send_pieces(lanes, path, meta, None, frame);
    };
    let mut template = [0; HEADERS_MAX];
    let (Some(template), Some(found)) = (template.get_mut(..headers.len()), frame.get(..headers.len()))
    else {
        return;
    };
    template.copy_from_slice(found);
    let first = path.session.reserve(slices.count);
    // The headers are counted once, with the first slice.
    let mut sent = (headers.frames(headers.payload()), len);
    let mut meta = Meta {
        segments: slices.count,
        ..*meta
    };
    let mut at = headers.len();
    for segment in 0..slices.count {
        meta.segment = segment;
        let size = slices.size.min(len - at);
        let counter = first + u64::from(segment);
        if let Some(content) = framed.content(&meta, template, at, size) {
            lanes.push(path, Kind::Data, counter, content, sent);
        }
        at += size;
        sent = (0, 0);
    }
}

fn send_pieces<'v>(
    lanes: &mut Lanes<'v, '_>,
    path: &'v Path,
    meta: &Meta,
    prefix: Option<FloodPrefix>,
    frame: &[u8],
) {
    match lanes.send_pieces(path, meta, prefix, frame) {
        Ok(frames) => path.session.traffic.sent(frames, frame.len()),
        Err(reason) => lanes.outlet().shared.tally.drop(reason, Some(path.hop.endpoint)),
    }
}
