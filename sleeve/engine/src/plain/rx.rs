//! From the peers to the TAP device.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use quinn_udp::RecvMeta;
use weft_sleeve::{Content, segment};
use weft_wire::DropReason;

use super::device::FrameDevice;
use crate::address::normal;
use crate::common::inlet::{Carried, Inlet, Load};
use crate::common::shared::Shared;
use crate::session::Session;
use crate::view::{View, Views};

const SOCKET: Token = Token(0);
const STOP: Token = Token(1);

/// Buffers given to the kernel at once. Each may come back full of small datagrams.
const BATCH: usize = 4;
/// Octets of one buffer: no UDP datagram, and nothing that the kernel joins from several, is longer (RFC 768).
const BUFFER: usize = 65_536;
/// Errors of the socket in a row after which it is given up. Single ones tell of a datagram sent earlier.
const ERRORS_MAX: u32 = 64;

pub(super) struct Receiver {
    shared: Arc<Shared>,
    poll: Poll,
    events: Events,
    buffers: Box<[u8]>,
    gate: Gate,
}

/// What one datagram needs.
struct Gate {
    tap: Arc<dyn FrameDevice>,
    inlet: Inlet,
    /// Room for a frame whose checksum must be filled in, or that came as a part of a larger one.
    room: Vec<u8>,
}

impl Receiver {
    pub(super) fn new(shared: Arc<Shared>, tap: Arc<dyn FrameDevice>) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(
            &mut SourceFd(&shared.socket.as_raw_fd()),
            SOCKET,
            Interest::READABLE,
        )?;
        poll.registry().register(
            &mut SourceFd(&shared.bell().as_raw_fd()),
            STOP,
            Interest::READABLE,
        )?;
        Ok(Self {
            poll,
            events: Events::with_capacity(4),
            buffers: vec![0; BATCH * BUFFER].into(),
            gate: Gate {
                tap,
                inlet: Inlet::new(Arc::clone(&shared)),
                room: Vec::new(),
            },
            shared,
        })
    }

    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut view = arc_swap::Cache::new(&shared.view);
        let mut errors = 0;
        while !shared.stopping() {
            let result = match self.receive(&mut view) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    errors = 0;
                    self.gate.inlet.expire();
                    self.poll.poll(&mut self.events, self.gate.inlet.patience())
                }
                other => other,
            };
            match result {
                Ok(()) => errors = 0,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if errors < ERRORS_MAX => {
                    errors += 1;
                    tracing::debug!(%error, "the sleeve's socket reports an error");
                }
                Err(error) => {
                    return shared.fail(format!(
                        "the sleeve's UDP socket gives no more datagrams ({error}): restart the router"
                    ));
                }
            }
        }
    }

    /// Takes one batch from the socket.
    fn receive(&mut self, views: &mut Views<'_>) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); BATCH];
        let mut rest = self.buffers.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
        let count = self
            .shared
            .udp
            .recv((&self.shared.socket).into(), &mut slices, &mut metas)?;
        let view = views.load();
        let now = Instant::now();
        for (buffer, meta) in slices.iter_mut().zip(&metas).take(count) {
            let from = normal(meta.addr);
            let filled = buffer.get_mut(..meta.len).unwrap_or_default();
            if filled.is_empty() {
                self.shared.tally.drop(DropReason::DatagramTooShort, Some(from));
            }
            // One datagram, or several of equal size that the kernel joined (UDP_GRO).
            let (stride, mut rest) = (meta.stride.max(1), filled);
            while !rest.is_empty() {
                let passed = self.gate.inlet.relay(view, from, rest, stride, now);
                let taken = if passed > 0 {
                    passed
                } else {
                    stride.min(rest.len())
                };
                let (datagram, after) = rest.split_at_mut(taken);
                if passed == 0
                    && let Err(reason) = self.gate.take(view, from, datagram, now)
                {
                    self.shared.tally.drop(reason, Some(from));
                }
                rest = after;
            }
        }
        Ok(())
    }
}

impl Gate {
    fn take(
        &mut self,
        view: &View,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(Carried { session, load, .. }) = self.inlet.take(&mut None, view, from, datagram, now)?
        else {
            return Ok(());
        };
        match load {
            Load::Content(content) => self.frame(view, content, session, now),
            Load::Joined(cut, whole) => {
                self.frame(view, Content::whole(cut, &whole)?, session, now)?;
                session.traffic.reassembled();
                Ok(())
            }
        }
    }

    /// Writes a frame to the TAP device; a super-frame as the frames that it stands for.
    fn frame(
        &mut self,
        view: &View,
        content: Content<'_>,
        session: &Session,
        now: Instant,
    ) -> Result<(), DropReason> {
        let (meta, bytes, flood) = match content {
            Content::Frame { meta, frame } => (meta, frame, None),
            Content::Slice { meta, bytes } => (meta, bytes, None),
            Content::Flood { meta, frame, prefix } => (meta, frame, Some(prefix)),
            Content::Keepalive | Content::Piece { .. } | Content::Probe(_) | Content::ProbeAck(_) => {
                return Ok(());
            }
        };
        if !segment::fits(&meta, bytes) {
            return Err(DropReason::BadContent);
        }
        self.inlet.admit(view, bytes, flood, session, now)?;
        let write = |frame: &[u8]| {
            self.tap.send(frame).map_err(|_| DropReason::TapFailed)?;
            session.traffic.received(1, frame.len());
            Ok(())
        };
        if segment::is_finished(&meta) {
            return write(bytes);
        }
        segment::expand(&meta, bytes, &mut self.room, |frame| write(frame))
    }
}
