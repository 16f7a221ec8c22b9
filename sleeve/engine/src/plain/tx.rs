//! From the TAP device to the peers.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use weft_wire::datagram::{FLOOD_PREFIX_LEN, FloodPrefix, HEADER_LEN, Kind, META_LEN, Meta, TAG_LEN};
use weft_wire::limits::FRAME_MAX;
use weft_wire::{DropReason, Mac, NodeId};

use super::device::FrameDevice;
use super::pieces;
use super::shared::{Shared, send_reason};
use crate::engine::EngineEvent;
use crate::limit::Limit;
use crate::switching::{Outgoing, Verdict};
use crate::view::{Link, View};

const TAP: Token = Token(0);
const WAKE: Token = Token(1);
const SOCKET: Token = Token(2);

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
    /// The frame as it was read, with its headroom.
    frame: Box<[u8]>,
    /// A copy of it, sealed for one peer of many.
    copy: Box<[u8]>,
    /// Number of the next flooded frame.
    sequence: u64,
    wanted: Limit<NodeId>,
    switching: Outgoing,
}

/// The socket, and the wait for room in it.
pub(super) struct Outlet {
    shared: Arc<Shared>,
    poll: Poll,
    events: Events,
    /// Room for a piece of a frame that is larger than the path.
    pub(super) piece: Vec<u8>,
}

impl Sender {
    pub(super) fn new(
        shared: Arc<Shared>,
        tap: Arc<dyn FrameDevice>,
        tap_name: String,
    ) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut SourceFd(&tap.as_raw_fd()), TAP, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let switching = Outgoing::new(Arc::clone(&shared.switching));
        let sender = Self {
            switching,
            tap,
            tap_name,
            outlet: Outlet {
                shared,
                poll,
                events: Events::with_capacity(4),
                piece: Vec::new(),
            },
            frame: vec![0; BUFFER].into(),
            copy: vec![0; BUFFER].into(),
            sequence: first_sequence(),
            wanted: Limit::new(),
        };
        Ok((sender, waker))
    }

    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.outlet.shared);
        let mut view = arc_swap::Cache::new(&shared.view);
        while !shared.stopping() {
            match self.tap.recv(&mut self.frame[HEADROOM..HEADROOM + FRAME_MAX + 1]) {
                Ok(length) => self.forward(&shared, view.load(), length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = self.outlet.wait() {
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
        let frame = &self.frame[HEADROOM..HEADROOM + length.min(FRAME_MAX)];
        let Some(source) = Mac::source(frame) else {
            return shared.tally.drop(DropReason::RuntFrame, None);
        };
        if length > FRAME_MAX {
            return shared.tally.drop(DropReason::OversizeFrame, None);
        }
        if !source.is_valid_source() {
            return shared.tally.drop(DropReason::InvalidSource, None);
        }
        let moved = || {
            // An event that finds no room is counted where it is lost; the next frame brings it again.
            shared.emit(EngineEvent::Local { mac: source });
        };
        match self.switching.decide(view, frame, source, moved) {
            Verdict::To(link) => {
                let meta = DATA_START + HEADER_LEN;
                self.frame[meta..meta + META_LEN].copy_from_slice(&Meta::default().to_bytes());
                let datagram = &mut self.frame[DATA_START..HEADROOM + length + TAG_LEN];
                deliver(
                    &mut self.outlet,
                    &mut self.wanted,
                    link,
                    Kind::Data,
                    datagram,
                    length,
                );
            }
            Verdict::Flood => self.flood(view, length),
            Verdict::Drop(reason) => shared.tally.drop(reason, None),
            Verdict::Probe => {}
        }
    }

    fn flood(&mut self, view: &View, length: usize) {
        let prefix = FloodPrefix {
            origin: view.origin,
            sequence: self.sequence,
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.frame[HEADER_LEN..HEADER_LEN + META_LEN].copy_from_slice(&Meta::default().to_bytes());
        self.frame[HEADER_LEN + META_LEN..HEADROOM].copy_from_slice(&prefix.to_bytes());
        let end = HEADROOM + length;
        for link in &view.links {
            if let Err(reason) = self.switching.may_copy(link) {
                self.outlet.shared.tally.drop(reason, None);
                continue;
            }
            self.copy[HEADER_LEN..end].copy_from_slice(&self.frame[HEADER_LEN..end]);
            let datagram = &mut self.copy[..end + TAG_LEN];
            deliver(
                &mut self.outlet,
                &mut self.wanted,
                link,
                Kind::Flood,
                datagram,
                length,
            );
        }
    }
}

/// Seals a datagram for the peer of a link and sends it. `frame` is the length of the frame inside.
fn deliver(
    outlet: &mut Outlet,
    wanted: &mut Limit<NodeId>,
    link: &Link,
    kind: Kind,
    datagram: &mut [u8],
    frame: usize,
) {
    let Some(path) = &link.path else {
        outlet.shared.tally.drop(DropReason::NoSession, None);
        if wanted.pass(link.peer, Instant::now()) {
            outlet.shared.emit(EngineEvent::Wanted { peer: link.peer });
        }
        return;
    };
    match pieces::send(outlet, path, kind, datagram) {
        Ok(()) => path.session.traffic.sent(frame),
        Err(reason) => outlet.shared.tally.drop(reason, Some(path.endpoint)),
    }
}

impl Outlet {
    /// Waits until the TAP device has a frame, or the engine stops.
    fn wait(&mut self) -> io::Result<()> {
        match self.poll.poll(&mut self.events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            done => done,
        }
    }

    /// Sends one datagram, and waits for room while the socket is full: so the frames behind it wait in the TAP
    /// device's queue, which tells the pods' kernels to slow down.
    pub(super) fn send(&mut self, to: SocketAddr, datagram: &[u8]) -> Result<(), DropReason> {
        loop {
            match self.shared.transmit(to, datagram) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait_for_room().map_err(|_| DropReason::SendFailed)?;
                    if self.shared.stopping() {
                        return Err(DropReason::SendFailed);
                    }
                }
                Err(error) => return Err(send_reason(&error)),
            }
        }
    }

    pub(super) fn emit(&self, event: EngineEvent) -> bool {
        self.shared.emit(event)
    }

    /// Watches the socket only while it is full: otherwise every datagram that leaves would wake this thread.
    /// Word of new frames that comes meanwhile may be lost: the TAP device is read again before the next wait.
    fn wait_for_room(&mut self) -> io::Result<()> {
        let socket = self.shared.socket.as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&socket), SOCKET, Interest::WRITABLE)?;
        let waited = self.wait();
        self.poll.registry().deregister(&mut SourceFd(&socket))?;
        waited
    }
}

/// Flooded frames are told apart by origin and number, across restarts: the clock of the host begins above
/// every number of an earlier run, since no engine floods a frame a nanosecond.
fn first_sequence() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}
