//! The socket as a sending worker sees it.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use weft_wire::datagram::Kind;
use weft_wire::{DropReason, NodeId};

use super::pieces;
use super::shared::{Shared, send_reason};
use crate::engine::EngineEvent;
use crate::limit::Limit;
use crate::view::{Hop, Link};

/// Sends datagrams, and waits while the socket is full.
pub(crate) struct Outlet {
    pub(crate) shared: Arc<Shared>,
    wanted: Limit<NodeId>,
    /// Room for a piece of a frame that is larger than the path.
    pub(super) piece: Vec<u8>,
    /// Room for a datagram behind its shim.
    relayed: Vec<u8>,
}

impl Outlet {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            wanted: Limit::new(),
            piece: Vec::new(),
            relayed: Vec::new(),
        }
    }

    /// Seals a datagram for the peer of a link and sends it, in pieces where it must. `frame` is the length of the
    /// frame inside.
    pub(crate) fn deliver(&mut self, link: &Link, kind: Kind, datagram: &mut [u8], frame: usize) {
        let Some(path) = &link.path else {
            return self.no_path(link);
        };
        match pieces::send(self, path, kind, datagram) {
            Ok(()) => path.session.traffic.sent(1, frame),
            Err(reason) => self.shared.tally.drop(reason, Some(path.hop.endpoint)),
        }
    }

    /// Drops a frame for a peer without a session, and says that one is wanted.
    pub(crate) fn no_path(&mut self, link: &Link) {
        self.shared.tally.drop(DropReason::NoSession, None);
        if self.wanted.pass(link.peer, Instant::now()) {
            self.shared.emit(EngineEvent::Wanted { peer: link.peer });
        }
    }

    /// Sends one datagram, and waits for room while the socket is full: so the frames behind it wait in the TAP
    /// device's queue, which tells the pods' kernels to slow down.
    pub(crate) fn send(&mut self, to: SocketAddr, datagram: &[u8]) -> Result<(), DropReason> {
        self.send_run(to, datagram, None)
            .map_err(|error| send_reason(&error))
    }

    /// The same for a run of datagrams, as [`Shared::transmit_run`].
    pub(crate) fn send_run(&self, to: SocketAddr, datagrams: &[u8], size: Option<usize>) -> io::Result<()> {
        loop {
            match self.shared.transmit_run(to, datagrams, size) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait_for_room()?;
                    if self.shared.stopping() {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// The same, behind the shim that its way needs.
    pub(crate) fn send_by(&mut self, hop: &Hop, datagram: &[u8]) -> Result<(), DropReason> {
        let Some(shim) = &hop.shim else {
            return self.send(hop.endpoint, datagram);
        };
        let mut relayed = std::mem::take(&mut self.relayed);
        relayed.clear();
        relayed.extend_from_slice(shim);
        relayed.extend_from_slice(datagram);
        let sent = self.send(hop.endpoint, &relayed);
        self.relayed = relayed;
        sent
    }

    pub(crate) fn emit(&self, event: EngineEvent) -> bool {
        self.shared.emit(event)
    }

    /// Returns when the socket has room, or the engine stops.
    fn wait_for_room(&self) -> io::Result<()> {
        let bell = self.shared.bell();
        let mut watched = [
            PollFd::from_borrowed_fd(self.shared.socket.as_fd(), PollFlags::OUT),
            PollFd::from_borrowed_fd(bell, PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Flooded frames are told apart by origin and number, across restarts: the clock of the host begins above
/// every number of an earlier run, since no engine floods a frame a nanosecond.
pub(crate) fn first_sequence() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}
