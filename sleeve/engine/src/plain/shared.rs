//! What both workers and the control thread use.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use quinn_udp::{Transmit, UdpSocketState};
use weft_sleeve::{ForwardingTable, INSTALLED_MAX, SessionKeys};
use weft_wire::datagram::{HEADER_LEN, Kind, TAG_LEN};
use weft_wire::{DropReason, NodeId, PeerHash, SessionIndex};

use crate::address::mapped;
use crate::engine::{Counters, EngineError, EngineEvent, EventSink};
use crate::session::Session;
use crate::switching::Switching;
use crate::switching::probe::LEN as PROBE_LEN;
use crate::tally::{PeerTraffic, Tally};
use crate::view::{Sessions, View};

pub(super) struct Shared {
    pub(super) socket: UdpSocket,
    pub(super) udp: UdpSocketState,
    pub(super) view: ArcSwap<View>,
    pub(super) tally: Tally,
    pub(super) switching: Arc<Switching>,
    /// Why frames are carried no more.
    pub(super) failure: Mutex<Option<String>>,
    /// The socket speaks IPv6, and takes IPv4 addresses only in their mapped form.
    ipv6: bool,
    events: EventSink,
    control: Mutex<Control>,
    stopping: AtomicBool,
}

/// What the view is made from. The workers never take its lock.
struct Control {
    table: Arc<ForwardingTable>,
    sessions: Sessions,
    /// Every peer that ever had a session: members only, so bounded by the size of the cluster.
    traffic: BTreeMap<NodeId, Arc<PeerTraffic>>,
}

impl Shared {
    pub(super) fn new(socket: UdpSocket, events: EventSink) -> io::Result<Self> {
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
            failure: Mutex::new(None),
            ipv6,
            events,
            control: Mutex::new(control),
            stopping: AtomicBool::new(false),
        })
    }

    pub(super) fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }

    pub(super) fn install(&self, keys: &SessionKeys) -> Result<(), EngineError> {
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

    pub(super) fn remove(&self, local: SessionIndex) {
        let mut control = self.control();
        if control.sessions.remove(&local).is_some() {
            self.swap(&control);
        }
    }

    pub(super) fn publish(&self, table: &ForwardingTable) {
        let mut control = self.control();
        control.table = Arc::new(table.clone());
        self.swap(&control);
        self.switching.fresh.published(table, Instant::now());
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swap(&self, control: &Control) {
        self.view
            .store(Arc::new(View::new(Arc::clone(&control.table), &control.sessions)));
    }

    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        if let Err(error) = self.transmit(to, datagram) {
            self.tally.drop(send_reason(&error), Some(to));
        }
    }

    pub(super) fn keepalive(&self, local: SessionIndex) {
        let view = self.view.load();
        let path = view
            .inbound(local)
            .and_then(|inbound| Some((&inbound.session, inbound.endpoint?)));
        let Some((session, endpoint)) = path else {
            return self.tally.drop(DropReason::NoSession, None);
        };
        let mut datagram = [0; HEADER_LEN + TAG_LEN];
        match session.seal(Kind::Keepalive, &mut datagram) {
            Ok(()) => self.send(endpoint, &datagram),
            Err(reason) => self.tally.drop(reason, Some(endpoint)),
        }
    }

    /// Hands one datagram to the kernel: never fragmented, not ECN-capable.
    pub(super) fn transmit(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let destination = if self.ipv6 { mapped(to) } else { to };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: None,
        };
        self.udp.try_send((&self.socket).into(), &transmit)
    }

    /// Passes an event on; counts it when there is no room for it.
    pub(super) fn emit(&self, event: EngineEvent) -> bool {
        let taken = (self.events)(event);
        if !taken {
            self.tally.drop(DropReason::ControlQueueFull, None);
        }
        taken
    }

    /// Says that frames are carried no more. The sentence stays in the description, even if the event is lost.
    pub(super) fn fail(&self, what: String) {
        tracing::error!("{what}");
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(what.clone());
        self.emit(EngineEvent::Failed { what });
    }

    /// The next probe of the loop guard.
    pub(super) fn loop_probe(&self) -> Option<[u8; PROBE_LEN]> {
        self.switching.probe(&self.view.load().table)
    }

    pub(super) fn counters(&self) -> Counters {
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
        }
    }

    pub(super) fn begin_stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }
}

/// The reason behind a refused datagram.
pub(super) fn send_reason(error: &io::Error) -> DropReason {
    if quinn_udp::is_msg_size_err(error) {
        DropReason::PathTooSmall
    } else {
        DropReason::SendFailed
    }
}
