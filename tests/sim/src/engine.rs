//! Sessions and frames as the data-path engine handles them. Only the cryptography is left out: a datagram opens where
//! the session it names receives with the key that it was sealed with.

use crate::sabotage::Sabotage;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use weft_sleeve::{COUNTER_LIMIT, ForwardingTable, Probe, ReplayWindow, SessionKeys};
use weft_wire::datagram::{Kind, RelayShim};
use weft_wire::limits::RELAY_HOPS_MAX;
use weft_wire::{Mac, NodeId, PeerHash, SessionIndex, Time};

/// An engine reports the same thing no more often than this.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// An address in use is reported again after this time.
const LEARNED_INTERVAL: Duration = Duration::from_secs(60);
/// Of so many datagrams, sabotage spoils one.
const SPOILED: u64 = 7;

/// A frame on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its number; no two frames have the same.
    pub number: u64,
    /// Address of the pod that sent it.
    pub source: Mac,
    /// Address of the pod that it is for.
    pub destination: Mac,
}

/// A datagram that an engine sealed.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// DATA, FLOOD, KEEPALIVE, PROBE or PROBE-ACK.
    pub kind: Kind,
    /// The session, as the receiver names it.
    pub index: SessionIndex,
    /// Its number under the key.
    pub counter: u64,
    /// The key.
    pub key: [u8; 32],
    /// Who flooded it.
    pub origin: PeerHash,
    /// What it carries.
    pub frame: Option<Frame>,
    /// What it asks of the path, or answers.
    pub probe: Option<Probe>,
    /// What stands before it on the way by relay.
    pub shim: Option<RelayShim>,
}

/// What an engine reports to its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// The first datagram of a session opened; it came from this address, or by relay.
    Opened(SessionIndex, Option<SocketAddr>),
    /// The peer's address is another one.
    Roamed(SessionIndex, SocketAddr),
    /// A datagram for a session that is not there.
    UnknownIndex(SocketAddr),
    /// Frames from this address come from this peer.
    Learned(Mac, NodeId),
    /// A frame waits for a session.
    Wanted(NodeId),
    /// The last probe was answered.
    ProbeAnswered(SessionIndex, Probe),
    /// The interface does not take the probe.
    ProbeRefused(SessionIndex, Probe),
}

/// Octets of datagram that an interface takes: a packet of 1,500.
const INTERFACE: u16 = 1_472;

/// One session.
pub struct Session {
    keys: SessionKeys,
    next: u64,
    received: u64,
    relayed: u64,
    frames: u64,
    awaited: u64,
    window: ReplayWindow,
    is_opened: bool,
    reported: Option<(SocketAddr, Time)>,
}

/// The engine of one process.
pub struct Engine {
    sessions: BTreeMap<SessionIndex, Session>,
    /// What it was told last.
    pub table: ForwardingTable,
    /// When a datagram of each peer opened last.
    heard: BTreeMap<NodeId, Time>,
    learned: BTreeMap<Mac, (NodeId, Time)>,
    wanted: BTreeMap<NodeId, Time>,
    unknown: BTreeMap<SocketAddr, Time>,
    /// Flooded frames that came, by who flooded them.
    flooded: BTreeSet<(PeerHash, u64)>,
    sabotage: Option<Sabotage>,
}

/// True once an interval for each key.
fn passes<K: Ord>(last: &mut BTreeMap<K, Time>, key: K, now: Time) -> bool {
    last.retain(|_, at| now.since(*at) < EVENT_INTERVAL);
    match last.contains_key(&key) {
        true => false,
        false => last.insert(key, now).is_none(),
    }
}

impl Engine {
    pub(crate) fn new(origin: PeerHash, sabotage: Option<Sabotage>) -> Self {
        Self {
            sessions: BTreeMap::new(),
            table: ForwardingTable::empty(origin),
            heard: BTreeMap::new(),
            learned: BTreeMap::new(),
            wanted: BTreeMap::new(),
            unknown: BTreeMap::new(),
            flooded: BTreeSet::new(),
            sabotage,
        }
    }

    /// False when the index is taken.
    pub(crate) fn install(&mut self, keys: SessionKeys) -> bool {
        let session = Session {
            next: 0,
            received: 0,
            relayed: 0,
            is_opened: false,
            frames: 0,
            awaited: 0,
            window: ReplayWindow::new(),
            reported: None,
            keys,
        };
        self.sessions.insert(session.keys.local, session).is_none()
    }

    pub(crate) fn remove(&mut self, local: SessionIndex) {
        self.sessions.remove(&local);
    }

    /// How many sessions are installed.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The peer of a session, if it is installed.
    pub fn peer_of(&self, local: SessionIndex) -> Option<NodeId> {
        self.sessions.get(&local).map(|session| session.keys.peer)
    }

    /// When a datagram of this peer opened last.
    pub fn heard(&self, peer: &NodeId) -> Option<Time> {
        self.heard.get(peer).copied()
    }

    /// For each session, datagrams sent and received, frames sent, and datagrams received by relay.
    pub(crate) fn counters(&self) -> Vec<(SessionIndex, u64, u64, u64, u64)> {
        let counts =
            |(local, s): (&SessionIndex, &Session)| (*local, s.next, s.received, s.frames, s.relayed);
        self.sessions.iter().map(counts).collect()
    }

    /// What stands before datagrams to the peer of a session, where the table has it behind a relay.
    fn shim(&self, local: SessionIndex) -> Option<RelayShim> {
        let peer = self.peer_of(local)?;
        let path = self.table.peers.iter().find(|path| path.peer == peer)?;
        path.by_relay.then(|| self.shim_to(&peer))
    }

    fn shim_to(&self, peer: &NodeId) -> RelayShim {
        RelayShim {
            hop_limit: RELAY_HOPS_MAX,
            destination: peer.peer_hash(),
            source: self.table.origin,
        }
    }

    fn seal(&mut self, local: SessionIndex, kind: Kind, frame: Option<Frame>) -> Option<Sealed> {
        let shim = self.shim(local);
        let session = self.sessions.get_mut(&local)?;
        let counter = session.next;
        if counter >= COUNTER_LIMIT {
            return None;
        }
        let spoiled = self.sabotage == Some(Sabotage::ReusedCounter) && counter % SPOILED == SPOILED - 1;
        session.next += u64::from(!spoiled);
        session.frames += u64::from(frame.is_some());
        Some(Sealed {
            kind,
            index: session.keys.remote,
            counter,
            key: session.keys.send,
            origin: self.table.origin,
            frame,
            probe: None,
            shim,
        })
    }

    /// A sign of life, to where the table says that the session's peer is.
    pub(crate) fn keepalive(&mut self, local: SessionIndex) -> Option<(SocketAddr, Sealed)> {
        let peer = self.peer_of(local)?;
        let to = self.table.peers.iter().find(|path| path.peer == peer)?.endpoint?;
        Some((to, self.seal(local, Kind::Keepalive, None)?))
    }

    /// A question about the path, and what the interface says to it.
    pub(crate) fn probe(
        &mut self,
        local: SessionIndex,
        probe: Probe,
    ) -> (Option<(SocketAddr, Sealed)>, Vec<Report>) {
        let peer = self.peer_of(local);
        let path = self.table.peers.iter().find(|path| Some(path.peer) == peer);
        let Some(to) = path.and_then(|path| path.endpoint) else {
            return (None, Vec::new());
        };
        let sealed = self.seal(local, Kind::Probe, None);
        if let Some(session) = self.sessions.get_mut(&local) {
            session.awaited = probe.number;
        }
        if probe.size > INTERFACE {
            return (None, vec![Report::ProbeRefused(local, probe)]);
        }
        let sealed = sealed.map(|sealed| Sealed {
            probe: Some(probe),
            ..sealed
        });
        (sealed.map(|sealed| (to, sealed)), Vec::new())
    }

    /// The answer to a probe.
    fn answer(&mut self, sealed: &Sealed) -> Option<Sealed> {
        let probe = sealed.probe.filter(|_| sealed.kind == Kind::Probe)?;
        let peer = self.peer_of(sealed.index)?;
        let answer = self.seal(sealed.index, Kind::ProbeAck, None)?;
        Some(Sealed {
            // Back to where the question came from.
            shim: sealed.shim.map(|_| self.shim_to(&peer)),
            probe: Some(probe),
            ..answer
        })
    }

    /// What becomes of a frame from a pod of this host.
    pub(crate) fn send(&mut self, now: Time, frame: Frame) -> (Vec<(SocketAddr, Sealed)>, Vec<Report>) {
        let known = match frame.destination.is_group() {
            true => None,
            false => self.table.macs.get(&frame.destination).map(|at| usize::from(*at)),
        };
        let wrong = self.sabotage == Some(Sabotage::WrongPeer) && frame.number.is_multiple_of(SPOILED);
        let peers = self.table.peers.len();
        let (kind, targets) = match known.filter(|at| *at < peers) {
            Some(at) if wrong => (Kind::Data, (at + 1) % peers..(at + 1) % peers + 1),
            Some(at) => (Kind::Data, at..at + 1),
            None => (Kind::Flood, 0..peers),
        };
        let (mut datagrams, mut reports) = (Vec::new(), Vec::new());
        for at in targets {
            let path = &self.table.peers[at];
            let peer = path.peer;
            let ready = path
                .ready()
                .filter(|(local, _)| self.peer_of(*local) == Some(peer));
            match ready {
                Some((local, to)) => {
                    datagrams.extend(self.seal(local, kind, Some(frame)).map(|sealed| (to, sealed)))
                }
                None if passes(&mut self.wanted, peer, now) => reports.push(Report::Wanted(peer)),
                None => {}
            }
        }
        (datagrams, reports)
    }

    /// What a datagram does: the frame for this host's pods, the answer if it is a probe, and what the node must know.
    /// Nothing but a report if it does not open.
    pub(crate) fn receive(
        &mut self,
        now: Time,
        from: SocketAddr,
        sealed: &Sealed,
    ) -> (Option<Frame>, Option<Sealed>, Vec<Report>) {
        let mut reports = Vec::new();
        let Some(session) = self.sessions.get_mut(&sealed.index) else {
            if sealed.shim.is_none() && passes(&mut self.unknown, from, now) {
                reports.push(Report::UnknownIndex(from));
            }
            return (None, None, reports);
        };
        let is_fresh = session.window.check(sealed.counter).is_ok();
        if session.keys.receive != sealed.key
            || !(is_fresh || self.sabotage == Some(Sabotage::NoReplayWindow))
        {
            return (None, None, reports);
        }
        if is_fresh && session.window.commit(sealed.counter).is_err() {
            return (None, None, reports);
        }
        session.received += 1;
        session.relayed += u64::from(sealed.shim.is_some());
        let (local, peer) = (session.keys.local, session.keys.peer);
        self.heard.insert(peer, now);
        let endpoint = self
            .table
            .peers
            .iter()
            .find(|path| path.peer == peer && !path.by_relay)
            .and_then(|path| path.endpoint);
        let is_first = !std::mem::replace(&mut session.is_opened, true);
        match &mut session.reported {
            _ if sealed.shim.is_some() => {
                if is_first {
                    reports.push(Report::Opened(local, None));
                }
            }
            None => {
                session.reported = Some((from, now));
                reports.push(match is_first {
                    true => Report::Opened(local, Some(from)),
                    false => Report::Roamed(local, from),
                });
            }
            Some((address, _)) if *address == from && endpoint != Some(from) => {}
            Some((address, _)) if endpoint == Some(from) => *address = from,
            Some((_, at)) if now.since(*at) < EVENT_INTERVAL => {}
            Some(reported) => {
                *reported = (from, now);
                reports.push(Report::Roamed(local, from));
            }
        }
        if let (Kind::ProbeAck, Some(probe)) = (sealed.kind, sealed.probe)
            && session.awaited == probe.number
        {
            session.awaited = 0;
            reports.push(Report::ProbeAnswered(local, probe));
        }
        let frame = sealed
            .frame
            .filter(|_| sealed.kind != Kind::Flood || sealed.origin == peer.peer_hash());
        // A host that has begun again has two sessions with the others for a while, and gets each flooded frame by both.
        let frame = frame
            .filter(|frame| sealed.kind != Kind::Flood || self.flooded.insert((sealed.origin, frame.number)));
        if let Some(frame) = frame {
            let news = self
                .learned
                .get(&frame.source)
                .is_none_or(|(known, at)| *known != peer || now.since(*at) >= LEARNED_INTERVAL);
            if news {
                self.learned.insert(frame.source, (peer, now));
                reports.push(Report::Learned(frame.source, peer));
            }
        }
        (frame, self.answer(sealed), reports)
    }
}
