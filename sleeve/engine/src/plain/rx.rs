//! From the peers to the TAP device.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use quinn_udp::RecvMeta;
use weft_sleeve::Content;
use weft_wire::datagram::{FloodPrefix, Header, HeaderError, Kind, NETWORK_DEFAULT};
use weft_wire::{DropReason, Mac};

use super::device::FrameDevice;
use super::pieces::Joiner;
use super::shared::Shared;
use crate::address::normal;
use crate::engine::{EngineEvent, HANDSHAKE_MAX};
use crate::limit::Limit;
use crate::session::Session;
use crate::switching::Incoming;
use crate::view::View;

const SOCKET: Token = Token(0);
const WAKE: Token = Token(1);

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
    inlet: Inlet,
}

/// What one datagram needs.
struct Inlet {
    shared: Arc<Shared>,
    tap: Arc<dyn FrameDevice>,
    joiner: Joiner,
    switching: Incoming,
    unknown: Limit<SocketAddr>,
}

impl Receiver {
    pub(super) fn new(shared: Arc<Shared>, tap: Arc<dyn FrameDevice>) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        poll.registry().register(
            &mut SourceFd(&shared.socket.as_raw_fd()),
            SOCKET,
            Interest::READABLE,
        )?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let switching = Incoming::new(Arc::clone(&shared.switching));
        let receiver = Self {
            poll,
            events: Events::with_capacity(4),
            buffers: vec![0; BATCH * BUFFER].into(),
            inlet: Inlet {
                shared: Arc::clone(&shared),
                tap,
                joiner: Joiner::new(),
                switching,
                unknown: Limit::new(),
            },
            shared,
        };
        Ok((receiver, waker))
    }

    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut view = arc_swap::Cache::new(&shared.view);
        let mut errors = 0;
        while !shared.stopping() {
            let result = match self.receive(&mut view) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    errors = 0;
                    self.inlet.joiner.expire(&shared);
                    self.poll.poll(&mut self.events, self.inlet.joiner.patience())
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
    fn receive(&mut self, view: &mut arc_swap::Cache<&arc_swap::ArcSwap<View>, Arc<View>>) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); BATCH];
        let mut rest = self.buffers.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
        let count = self
            .shared
            .udp
            .recv((&self.shared.socket).into(), &mut slices, &mut metas)?;
        let view = view.load();
        let now = Instant::now();
        for (buffer, meta) in slices.iter_mut().zip(&metas).take(count) {
            let from = normal(meta.addr);
            let filled = buffer.get_mut(..meta.len).unwrap_or_default();
            if filled.is_empty() {
                self.shared.tally.drop(DropReason::DatagramTooShort, Some(from));
            }
            // One datagram, or several of equal size that the kernel joined (UDP_GRO).
            for datagram in filled.chunks_mut(meta.stride.max(1)) {
                if let Err(reason) = self.inlet.take(view, from, datagram, now) {
                    self.shared.tally.drop(reason, Some(from));
                }
            }
        }
        Ok(())
    }
}

impl Inlet {
    fn take(
        &mut self,
        view: &View,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let header = Header::parse(datagram).map_err(|error| match error {
            HeaderError::TooShort => DropReason::DatagramTooShort,
            HeaderError::UnknownKind => DropReason::UnknownKind,
        })?;
        if header.kind == Kind::Relay {
            return Err(DropReason::KindNotServed);
        }
        if header.network != NETWORK_DEFAULT {
            return Err(DropReason::UnknownNetwork);
        }
        if matches!(header.kind, Kind::Init | Kind::Resp | Kind::Cookie) {
            if datagram.len() > HANDSHAKE_MAX {
                return Err(DropReason::BadHandshake);
            }
            // An event that finds no room is counted where it is lost.
            self.shared.emit(EngineEvent::Handshake {
                from,
                bytes: datagram.to_vec(),
            });
            return Ok(());
        }
        let Some(inbound) = view.inbound(header.index) else {
            if self.unknown.pass(from, now) {
                self.shared.emit(EngineEvent::UnknownIndex { from });
            }
            return Err(DropReason::UnknownIndex);
        };
        let session = &inbound.session;
        let content = session.open(&header, datagram)?;
        session.came_from(from, header.flags, inbound.endpoint, |event| {
            self.shared.emit(event)
        });
        let (cut, prefix, octets) = match Content::parse(header.kind, content)? {
            Content::Piece { cut, prefix, octets } => (cut, prefix, octets),
            Content::Probe(body) => return self.shared.answer_probe(session, from, body),
            Content::ProbeAck(body) => return self.shared.probe_answered(session, body),
            content => return self.frame(view, content, session, now),
        };
        let whole = self
            .joiner
            .take(&self.shared, session, cut, prefix, octets, now)?;
        let Some(whole) = whole else { return Ok(()) };
        self.frame(view, Content::whole(cut, &whole)?, session, now)?;
        session.traffic.reassembled();
        Ok(())
    }

    fn frame(
        &mut self,
        view: &View,
        content: Content<'_>,
        session: &Session,
        now: Instant,
    ) -> Result<(), DropReason> {
        match frame_of(content, session)? {
            Some((frame, flood)) => {
                if let Some(prefix) = flood {
                    self.switching
                        .admit_flood(view, prefix.origin, prefix.sequence, now)?;
                }
                self.deliver(view, frame, session, now)
            }
            None => Ok(()),
        }
    }

    /// Writes a frame to the TAP device.
    fn deliver(
        &mut self,
        view: &View,
        frame: &[u8],
        session: &Session,
        now: Instant,
    ) -> Result<(), DropReason> {
        let source = Mac::source(frame).ok_or(DropReason::RuntFrame)?;
        if !source.is_valid_source() {
            return Err(DropReason::InvalidSource);
        }
        let peer = session.peer;
        self.switching.admit(view, source, peer, now, || {
            self.shared.emit(EngineEvent::Learned { mac: source, peer })
        })?;
        self.tap.send(frame).map_err(|_| DropReason::TapFailed)?;
        session.traffic.received(frame.len());
        Ok(())
    }
}

/// A frame and, when it was flooded, who did and its number.
type Carried<'a> = (&'a [u8], Option<FloodPrefix>);

/// The frame in the content of a datagram; `None` for a kind that carries none.
fn frame_of<'a>(content: Content<'a>, session: &Session) -> Result<Option<Carried<'a>>, DropReason> {
    let (meta, frame, flood) = match content {
        Content::Keepalive | Content::Piece { .. } | Content::Probe(_) | Content::ProbeAck(_) => {
            return Ok(None);
        }
        Content::Slice { .. } => return Err(DropReason::KindNotServed),
        Content::Frame { meta, frame } => (meta, frame, None),
        // Copies come straight from their origin: nobody may flood in another's name.
        Content::Flood { prefix, .. } if prefix.origin != session.hash => return Err(DropReason::BadContent),
        Content::Flood {
            meta, frame, prefix, ..
        } => (meta, frame, Some(prefix)),
    };
    // A super-frame, or a frame without its checksum, is for an engine with offloads.
    if meta.gso_type != 0 || meta.flags != 0 {
        return Err(DropReason::KindNotServed);
    }
    Ok(Some((frame, flood)))
}
