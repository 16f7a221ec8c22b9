//! What both workers and the control thread use.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use quinn_udp::{Transmit, UdpSocketState};
use rustix::event::{EventfdFlags, eventfd};
use weft_kernel::socket;
use weft_sleeve::door::DoorKeys;
use weft_sleeve::{ForwardingTable, INSTALLED_MAX, SessionKeys};
use weft_wire::datagram::{HEADER_LEN, Kind, META_LEN, TAG_LEN};
use weft_wire::{DropReason, Mac, NodeId, PeerHash, SessionIndex};

use super::doorway::Cores;
use super::relay::RelayTally;
use crate::address::mapped;
use crate::engine::{Counters, EngineDescription, EngineError, EngineEvent, EventSink};
use crate::session::Session;
use crate::switching::Switching;
use crate::switching::probe::LEN as PROBE_LEN;
use crate::tally::{PeerTraffic, Tally};
use crate::view::{Hop, Sessions, View};

pub(crate) struct Shared {
    pub(crate) socket: UdpSocket,
    pub(crate) udp: UdpSocketState,
    pub(crate) view: ArcSwap<View>,
    pub(crate) tally: Tally,
    pub(crate) switching: Arc<Switching>,
    pub(crate) relayed: RelayTally,
    /// For whom handshakes are, once that was told.
    pub(crate) cores: ArcSwapOption<Cores>,
    /// What was found out while frames were carried: what works less well, or why none are carried any more.
    troubles: Mutex<Vec<String>>,
    /// The socket speaks IPv6, and takes IPv4 addresses only in their mapped form.
    ipv6: bool,
    events: EventSink,
    control: Mutex<Control>,
    stopping: AtomicBool,
    /// Readable from the moment that the engine stops.
    bell: OwnedFd,
}

/// What the view is made from. The workers never take its lock.
struct Control {
    table: Arc<ForwardingTable>,
    sessions: Sessions,
    /// Every peer that ever had a session: members only, so bounded by the size of the cluster.
    traffic: BTreeMap<NodeId, Arc<PeerTraffic>>,
}

/// Octets that the socket should be able to hold: at 8 Gbit/s the receiving worker may be away for 16 ms.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Octets that the socket may hold that have not left yet. It is one socket for all peers: what a slow interface holds for
/// one, which is 1,000 datagrams in a usual queue and twice their octets with the kernel's bookkeeping, must leave
/// room for the others.
const SEND_BUFFER: usize = 4 << 20;
/// Octets of an announcement: the shortest frame of Ethernet without its check sequence (IEEE 802.3 §3.2.7).
const ANNOUNCEMENT_LEN: usize = 60;
/// Its ethertype: IEEE 802 local experimental ethertype 1.
const ANNOUNCEMENT: u16 = 0x88b5;
/// Its destination: no bridge passes frames to this address on (IEEE 802.1Q table 8-1).
const TO_NOBODY: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);

impl Shared {
    /// What an engine starts from, and sentences on what the socket lacks.
    pub(crate) fn start(
        socket: UdpSocket,
        events: EventSink,
    ) -> Result<(Arc<Self>, Vec<String>), EngineError> {
        let mut degradations = Vec::new();
        let reached = socket::set_receive_buffer(&socket, RECEIVE_BUFFER)?;
        if reached < RECEIVE_BUFFER {
            degradations.push(format!(
                "the UDP socket holds {} KiB instead of {} KiB, so bursts may be lost: raise net.core.rmem_max to {}",
                reached >> 10,
                RECEIVE_BUFFER >> 10,
                RECEIVE_BUFFER
            ));
        }
        let reached = socket::set_send_buffer(&socket, SEND_BUFFER)?;
        if reached < SEND_BUFFER {
            degradations.push(format!(
                "the UDP socket takes {} KiB instead of {} KiB, so a peer behind a slow interface may hold up others: raise \
                 net.core.wmem_max to {}",
                reached >> 10,
                SEND_BUFFER >> 10,
                SEND_BUFFER
            ));
        }
        let shared = Arc::new(Self::new(socket, events).map_err(EngineError::Socket)?);
        if shared.udp.may_fragment() {
            degradations.push(
                "the kernel cannot be kept from fragmenting sleeve datagrams: paths that are too small are not \
                 noticed"
                    .into(),
            );
        }
        Ok((shared, degradations))
    }

    fn new(socket: UdpSocket, events: EventSink) -> io::Result<Self> {
        let udp = UdpSocketState::new((&socket).into())?;
        let ipv6 = socket.local_addr()?.is_ipv6();
        let table = Arc::new(ForwardingTable::empty(PeerHash([0; 8])));
        let control = Control {
            table,
            sessions: Sessions::new(),
            traffic: BTreeMap::new(),
        };
        Ok(Self {
            socket,
            udp,
            view: ArcSwap::from_pointee(View::new(Arc::clone(&control.table), &control.sessions)),
            tally: Tally::new(),
            switching: Arc::default(),
            relayed: RelayTally::default(),
            cores: ArcSwapOption::empty(),
            troubles: Mutex::default(),
            ipv6,
            events,
            control: Mutex::new(control),
            stopping: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub(crate) fn install(&self, keys: &SessionKeys) -> Result<(), EngineError> {
        let mut control = self.control();
        if control.sessions.contains_key(&keys.local) {
            return Err(EngineError::IndexInUse { index: keys.local });
        }
        if control.sessions.len() >= INSTALLED_MAX {
            return Err(EngineError::TooManySessions { limit: INSTALLED_MAX });
        }
        let traffic = Arc::clone(control.traffic.entry(keys.peer).or_default());
        let session = Arc::new(Session::new(keys, traffic).map_err(|_| EngineError::Keys)?);
        control.sessions.insert(keys.local, session);
        self.swap(&control);
        Ok(())
    }

    pub(crate) fn remove(&self, local: SessionIndex) {
        let mut control = self.control();
        if control.sessions.remove(&local).is_some() {
            self.swap(&control);
        }
    }

    pub(crate) fn publish(&self, table: &ForwardingTable) {
        let mut control = self.control();
        control.table = Arc::new(table.clone());
        self.swap(&control);
        self.switching.fresh.published(table, Instant::now());
    }

    pub(crate) fn guard(&self, cores: Vec<DoorKeys>) {
        self.cores
            .store(Some(Arc::new(Cores::new(cores, Instant::now()))));
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swap(&self, control: &Control) {
        self.view
            .store(Arc::new(View::new(Arc::clone(&control.table), &control.sessions)));
    }

    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        if let Err(error) = self.transmit(to, datagram) {
            self.tally.drop(send_reason(&error), Some(to));
        }
    }

    pub(crate) fn keepalive(&self, local: SessionIndex) {
        let view = self.view.load();
        let path = view
            .inbound(local)
            .and_then(|inbound| Some((&inbound.session, inbound.hop?)));
        let Some((session, hop)) = path else {
            return self.tally.drop(DropReason::NoSession, None);
        };
        let mut datagram = [0; HEADER_LEN + TAG_LEN];
        let sent = session
            .seal(Kind::Keepalive, hop.flags(), &mut datagram)
            .and_then(|()| self.transmit_by(&hop, &datagram).map_err(|e| send_reason(&e)));
        if let Err(reason) = sent {
            self.tally.drop(reason, Some(hop.endpoint));
        }
    }

    /// Sends one frame from an address of this host's bridge to a peer, which learns where that lives.
    pub(crate) fn announce(&self, local: SessionIndex, mac: Mac) {
        let view = self.view.load();
        let path = view
            .inbound(local)
            .and_then(|inbound| Some((&inbound.session, inbound.hop?)));
        let Some((session, hop)) = path else {
            return self.tally.drop(DropReason::NoSession, None);
        };
        let mut datagram = [0; HEADER_LEN + META_LEN + ANNOUNCEMENT_LEN + TAG_LEN];
        let frame = &mut datagram[HEADER_LEN + META_LEN..];
        frame[..6].copy_from_slice(&TO_NOBODY.0);
        frame[6..12].copy_from_slice(&mac.0);
        frame[12..14].copy_from_slice(&ANNOUNCEMENT.to_be_bytes());
        let sent = session
            .seal(Kind::Data, hop.flags(), &mut datagram)
            .and_then(|()| self.transmit_by(&hop, &datagram).map_err(|e| send_reason(&e)));
        if let Err(reason) = sent {
            self.tally.drop(reason, Some(hop.endpoint));
        }
    }

    /// Hands one datagram to the kernel, behind the shim that its way needs.
    pub(crate) fn transmit_by(&self, hop: &Hop, datagram: &[u8]) -> io::Result<()> {
        match &hop.shim {
            None => self.transmit(hop.endpoint, datagram),
            Some(shim) => self.transmit(hop.endpoint, &[shim, datagram].concat()),
        }
    }

    /// Hands one datagram to the kernel: never fragmented, not ECN-capable.
    pub(crate) fn transmit(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.transmit_run(to, datagram, None)
    }

    /// The same for several datagrams of `size` octets each, back to back, of which the last may be shorter
    /// (`UDP_SEGMENT`, udp(7)).
    pub(crate) fn transmit_run(
        &self,
        to: SocketAddr,
        datagrams: &[u8],
        size: Option<usize>,
    ) -> io::Result<()> {
        let destination = if self.ipv6 { mapped(to) } else { to };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: datagrams,
            segment_size: size,
            src_ip: None,
        };
        self.udp.try_send((&self.socket).into(), &transmit)
    }

    /// Passes an event on; counts it when there is no room for it.
    pub(crate) fn emit(&self, event: EngineEvent) -> bool {
        let taken = (self.events)(event);
        if !taken {
            self.tally.drop(DropReason::ControlQueueFull, None);
        }
        taken
    }

    /// From now on the description says this too. Each worker calls it a few times at most.
    pub(crate) fn lacks(&self, what: &str) {
        self.troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what.to_owned());
    }

    /// Says that frames are carried no more. The sentence stays in the description, even if the event is lost.
    pub(crate) fn fail(&self, what: String) {
        tracing::error!("{what}");
        self.lacks(&what);
        self.emit(EngineEvent::Failed { what });
    }

    /// What the status says of an engine with these degradations.
    pub(crate) fn describe(&self, name: &'static str, degradations: &[String]) -> EngineDescription {
        let troubles = self
            .troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        EngineDescription {
            name,
            degradations: degradations.iter().cloned().chain(troubles).collect(),
        }
    }

    /// The next probe of the loop guard.
    pub(crate) fn loop_probe(&self) -> Option<[u8; PROBE_LEN]> {
        self.switching.probe(&self.view.load().table)
    }

    pub(crate) fn counters(&self) -> Counters {
        let control = self.control();
        Counters {
            drops: self.tally.drops(),
            peers: control
                .traffic
                .iter()
                .map(|(peer, traffic)| (*peer, traffic.read()))
                .collect(),
            sessions: control
                .sessions
                .iter()
                .map(|(index, session)| (*index, session.counters()))
                .collect(),
            joined: self.switching.joined(self.view.load().origin),
            relayed: self.relayed.read(),
            relayed_for: self.relayed.neighbours(Instant::now()),
        }
    }

    /// Tells every worker to end, also those that wait.
    pub(crate) fn begin_stop(&self) {
        self.stopping.store(true, Relaxed);
        if let Err(error) = rustix::io::write(&self.bell, &1u64.to_ne_bytes()) {
            tracing::warn!(%error, "cannot wake the workers of the engine");
        }
    }

    /// Becomes readable, and stays so, when the engine stops.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }
}

/// The reason behind a refused datagram.
pub(crate) fn send_reason(error: &io::Error) -> DropReason {
    if quinn_udp::is_msg_size_err(error) {
        DropReason::PathTooSmall
    } else {
        DropReason::SendFailed
    }
}
