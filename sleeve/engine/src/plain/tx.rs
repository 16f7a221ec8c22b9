//! From the TAP device to the peers.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use weft_wire::datagram::{FLOOD_PREFIX_LEN, FloodPrefix, HEADER_LEN, Kind, META_LEN, Meta, TAG_LEN};
use weft_wire::limits::FRAME_MAX;

use super::device::FrameDevice;
use crate::common::intake::judge;
use crate::common::outlet::{Outlet, first_sequence};
use crate::common::shared::Shared;
use crate::switching::{Outgoing, Recipients, Verdict};
use crate::view::View;

const TAP: Token = Token(0);
const STOP: Token = Token(1);

/// Room before a frame: whatever kind it becomes, its header is written in front of it where it stands.
const HEADROOM: usize = HEADER_LEN + META_LEN + FLOOD_PREFIX_LEN;
/// Where a DATA datagram begins in the buffer.
const DATA_START: usize = FLOOD_PREFIX_LEN;
/// Room for the largest datagram. One octet of the tag's room shows that a frame is too long.
const BUFFER: usize = HEADROOM + FRAME_MAX + TAG_LEN;

pub(super) struct Sender {
    tap: Arc<dyn FrameDevice>,
    tap_name: String,
    outlet: Outlet,
    poll: Poll,
    events: Events,
    /// The frame as it was read, with its headroom.
    frame: Box<[u8]>,
    /// A copy of it, sealed for one peer of many.
    copy: Box<[u8]>,
    /// Number of the next flooded frame.
    sequence: u64,
    switching: Outgoing,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, tap: Arc<dyn FrameDevice>, tap_name: String) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut SourceFd(&tap.as_raw_fd()), TAP, Interest::READABLE)?;
        poll.registry().register(
            &mut SourceFd(&shared.bell().as_raw_fd()),
            STOP,
            Interest::READABLE,
        )?;
        let switching = Outgoing::new(Arc::clone(&shared.switching));
        Ok(Self {
            switching,
            tap,
            tap_name,
            outlet: Outlet::new(shared),
            poll,
            events: Events::with_capacity(4),
            frame: vec![0; BUFFER].into(),
            copy: vec![0; BUFFER].into(),
            sequence: first_sequence(),
        })
    }

    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.outlet.shared);
        let mut view = arc_swap::Cache::new(&shared.view);
        while !shared.stopping() {
            match self.tap.recv(&mut self.frame[HEADROOM..HEADROOM + FRAME_MAX + 1]) {
                Ok(length) => self.forward(&shared, view.load(), length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = self.poll.poll(&mut self.events, None)
                        && error.kind() != ErrorKind::Interrupted
                    {
                        return shared.fail(format!(
                            "the engine cannot wait for frames: {error}; restart the router"
                        ));
                    }
                }
                Err(error) => {
                    return shared.fail(format!(
                        "the TAP device {} gives no more frames ({error}): it was removed while the engine used \
                         it; restart the router to have it again",
                        self.tap_name
                    ));
                }
            }
        }
    }

    /// Sends the frame that stands in the buffer to where the table says.
    fn forward(&mut self, shared: &Shared, view: &View, length: usize) {
        let frame = &self.frame[HEADROOM..HEADROOM + length];
        match judge(shared, &mut self.switching, view, frame) {
            Verdict::To(link) => {
                let meta = DATA_START + HEADER_LEN;
                self.frame[meta..meta + META_LEN].copy_from_slice(&Meta::default().to_bytes());
                let datagram = &mut self.frame[DATA_START..HEADROOM + length + TAG_LEN];
                self.outlet.deliver(link, Kind::Data, datagram, length);
            }
            Verdict::Flood(to) => self.flood(view, to, length),
            Verdict::Drop(reason) => shared.tally.drop(reason, None),
            Verdict::Probe => {}
        }
    }

    fn flood(&mut self, view: &View, to: Recipients<'_>, length: usize) {
        let prefix = FloodPrefix {
            origin: view.origin,
            sequence: self.sequence,
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.frame[HEADER_LEN..HEADER_LEN + META_LEN].copy_from_slice(&Meta::default().to_bytes());
        self.frame[HEADER_LEN + META_LEN..HEADROOM].copy_from_slice(&prefix.to_bytes());
        let end = HEADROOM + length;
        for link in to.links() {
            if let Err(reason) = self.switching.may_copy(link) {
                self.outlet.shared.tally.drop(reason, None);
                continue;
            }
            self.copy[HEADER_LEN..end].copy_from_slice(&self.frame[HEADER_LEN..end]);
            let datagram = &mut self.copy[..end + TAG_LEN];
            self.outlet.deliver(link, Kind::Flood, datagram, length);
        }
    }
}
