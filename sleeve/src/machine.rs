//! The state machine: inputs in, outputs out, one deadline.

use crate::door::{DoorKeys, DoorSecret};
use crate::gate::{CookieRoot, Gate};
use crate::handshake::Initiation;
use crate::io::{DownReason, Input, LocalNode, Output, PeerInfo, PeerView};
use crate::keys::Cipher;
use crate::message::{InitPayload, MAC_LEN, assemble};
use crate::peer::{Attempt, Counts, Handshake, Peer};
use crate::shared::{Secret, Shared};
use crate::timing::*;
use crate::way::Target;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::SocketAddr;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use weft_wire::datagram::{FLAG_BY_RELAY, Header, Kind};
use weft_wire::limits::{ENDPOINTS_MAX, OWNERS_MAX, SESSIONS_MAX};
use weft_wire::{ClusterSecret, DropReason, NodeId, SessionIndex, Time};

/// Cluster secrets that are accepted: the current and the previous one.
const SECRETS_MAX: usize = 2;
/// Peers that an address is taken for when a datagram with an unknown index comes from it. More than one peer
/// says so only behind one NAT, or when one lies.
const PEERS_PER_ENDPOINT: usize = 4;

/// The sleeve of one node.
///
/// After each [`handle`](Self::handle), take outputs until there are none: what one input puts out is bounded, and
/// nothing is dropped from the queue.
pub struct Sleeve {
    pub(crate) shared: Shared,
    pub(crate) gate: Gate,
    /// Sets of keys given to engines so far.
    doors: u64,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// Peers that take up a place for sessions, at most `SESSIONS_MAX`.
    active: BTreeSet<NodeId>,
    timers: BTreeSet<(Time, NodeId)>,
}

impl Sleeve {
    /// A sleeve without secrets and peers. All randomness grows from `seed`, which must be fresh for each process.
    pub fn new(local: LocalNode, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            gate: Gate::new(CookieRoot::new(&mut rng)),
            doors: 0,
            shared: Shared::new(local, rng),
            peers: BTreeMap::new(),
            active: BTreeSet::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::Secrets(secrets) => self.set_secrets(now, secrets),
            Input::UpsertPeer(node, info) => self.upsert(now, node, info),
            Input::RemovePeer(node) => self.remove(node),
            Input::Keep(node) => self.keep(now, node),
            Input::Connect(node) => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.end_yield();
                    peer.wanted = true;
                    peer.used = now;
                    self.serve(now, node);
                }
            }
            Input::Relays { peer, relays } => self.set_relays(now, peer, relays),
            Input::Datagram { from, bytes } => {
                if let Err(reason) = self.receive(now, from, bytes) {
                    self.shared.dropped(reason, Some(from));
                }
            }
            Input::Opened { local, from } => self.with_session(now, local, |peer, shared| {
                peer.confirm(now, local, from, shared);
            }),
            Input::Roamed { local, from } => self.on_roamed(now, local, from),
            Input::UnknownIndex { from } => self.on_unknown_index(now, from),
            Input::Activity {
                local,
                sent,
                received,
                frames,
                large,
                relayed,
            } => {
                let counts = Counts {
                    sent,
                    received,
                    frames,
                    large,
                    relayed,
                };
                let mut relay = None;
                self.with_session(now, local, |peer, _| {
                    peer.note(now, local, counts);
                    relay = peer.ways.relay.filter(|_| peer.used == now);
                });
                if let Some((relay, _)) = relay {
                    self.use_neighbour(now, &relay);
                }
            }
            Input::Relayed(neighbours) => {
                for address in neighbours {
                    if let Some(neighbour) = self.relay_at(now, *address) {
                        self.use_neighbour(now, &neighbour);
                    }
                }
            }
            Input::ProbeAnswered { local, probe } => self.with_session(now, local, |peer, shared| {
                peer.on_answer(now, probe, shared);
            }),
            Input::ProbeRefused { local, probe } => self.with_session(now, local, |peer, _| {
                peer.with_path(|path| path.on_refused(now, probe));
            }),
            Input::TooBig { local, size } => self.with_session(now, local, |peer, _| {
                peer.with_path(|path| path.on_too_big(now, size));
            }),
            Input::Timeout => self.on_timeout(now),
        }
    }

    /// The next thing to do, in order; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.shared.pop()
    }

    /// What an engine's [`Door`](crate::door::Door) needs to meet a flood of handshakes for this core; to be asked for again after
    /// [`Input::Secrets`]. No two are the same.
    pub fn door_keys(&mut self, now: Time) -> DoorKeys {
        self.doors += 1;
        let root = self.gate.root();
        DoorKeys {
            at: now,
            secrets: self.shared.secrets.iter().map(DoorSecret::of).collect(),
            cookies: root.clone(),
            seed: root.derive("weft door v1", self.doors),
        }
    }

    /// When [`Input::Timeout`] is due; a time in the past means at once.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Every peer, by node id.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.peers.values().map(Peer::view)
    }

    /// True while this session is one of this sleeve's, installed or about to be.
    pub fn has_session(&self, local: SessionIndex) -> bool {
        self.shared.indexes.contains_key(&local)
    }

    /// One peer.
    pub fn peer(&self, node: &NodeId) -> Option<PeerView> {
        self.peers.get(node).map(Peer::view)
    }

    /// The session with a neighbour is of use, whatever travels under it.
    fn use_neighbour(&mut self, now: Time, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.used = now;
        }
    }

    fn set_secrets(&mut self, now: Time, secrets: &[ClusterSecret]) {
        let us = self.shared.local.node;
        self.shared.secrets = secrets
            .iter()
            .take(SECRETS_MAX)
            .map(|secret| Secret::new(secret, &us))
            .collect();
        let waiting: Vec<NodeId> = self
            .peers
            .values()
            .filter(|p| matches!(p.handshake, Handshake::AwaitingChance { .. }))
            .map(|p| p.node)
            .collect();
        for node in waiting {
            self.retry_now(now, node);
        }
    }

    fn upsert(&mut self, now: Time, node: NodeId, mut info: PeerInfo) {
        if node == self.shared.local.node {
            return;
        }
        info.endpoints.truncate(ENDPOINTS_MAX);
        if !self.peers.contains_key(&node) && self.peers.len() >= OWNERS_MAX {
            self.shared.dropped(DropReason::SessionTableFull, None);
            return;
        }
        let peer = self
            .peers
            .entry(node)
            .or_insert_with(|| Peer::new(now, node, info.clone()));
        let moved = peer.info.endpoints != info.endpoints;
        if moved {
            peer.ways.check_soon(now);
        }
        for endpoint in &peer.info.endpoints {
            self.shared.known.remove(&(*endpoint, node));
        }
        peer.info = info;
        for endpoint in peer.candidates() {
            self.shared.known.insert((endpoint, node));
        }
        match &mut peer.handshake {
            Handshake::AwaitingChance { .. } => self.retry_now(now, node),
            Handshake::AwaitingResponse(attempt) if moved => {
                let earliest = peer.last_init.map_or(now, |last| last + HINT_INTERVAL);
                attempt.retry_at = attempt.retry_at.min(earliest);
                self.serve(now, node);
            }
            _ => self.serve(now, node),
        }
    }

    /// Wants a session, and lets the other end begin where its initiation would win.
    fn keep(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let is_first = !core::mem::replace(&mut peer.wanted, true);
        if is_first && node < self.shared.local.node {
            peer.begin_yield(now);
        }
        self.serve(now, node);
    }

    fn remove(&mut self, node: NodeId) {
        let Some(mut peer) = self.peers.remove(&node) else {
            return;
        };
        peer.end_all(DownReason::Removed, &mut self.shared);
        for endpoint in peer.candidates() {
            self.shared.known.remove(&(endpoint, node));
        }
        self.timers.remove(&(peer.filed, node));
        self.active.remove(&node);
    }

    /// Lets a peer that waits for a chance try again.
    fn retry_now(&mut self, now: Time, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node)
            && let Handshake::AwaitingChance { until } = &mut peer.handshake
        {
            *until = now;
        }
        self.serve(now, node);
    }

    /// Does something with the peer behind a session of ours. Indexes that name none come from an engine that has
    /// not yet seen a `Remove`.
    fn with_session(&mut self, now: Time, local: SessionIndex, act: impl FnOnce(&mut Peer, &mut Shared)) {
        let Some(node) = self.shared.indexes.get(&local).copied() else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(&node) {
            act(peer, &mut self.shared);
        }
        self.serve(now, node);
    }

    /// A datagram of a peer came from another address than the one we send to.
    fn on_roamed(&mut self, now: Time, local: SessionIndex, from: SocketAddr) {
        // One that was replaced may deliver, late, what was sent before the peer moved.
        let node = self.shared.indexes.get(&local).copied();
        let Some(peer) = node.and_then(|node| self.peers.get_mut(&node)) else {
            return;
        };
        let node = peer.node;
        if peer.current.as_ref().is_none_or(|session| session.local != local) {
            return;
        }
        if peer.ways.relay.is_some() {
            // It reaches us there. Whether we reach it remains to be seen.
            return self.follow_hint(now, node, Target::Address(from));
        }
        peer.move_to(now, from, &mut self.shared);
        self.serve(now, node);
    }

    /// A peer sends under a session that we do not hold: we were restarted, or let it go.
    fn on_unknown_index(&mut self, now: Time, from: SocketAddr) {
        let all = (from, NodeId([0; 32]))..=(from, NodeId([0xff; 32]));
        let nodes: Vec<NodeId> = self
            .shared
            .known
            .range(all)
            .take(PEERS_PER_ENDPOINT)
            .map(|(_, node)| *node)
            .collect();
        for node in nodes {
            // While it is heard under a session, such a datagram is a straggler or forged.
            let lost = |p: &Peer| p.current.is_none() || p.is_silent(now);
            if self.peers.get(&node).is_some_and(lost) {
                self.follow_hint(now, node, Target::Address(from));
            }
        }
    }

    /// A datagram says that the peer is alive there: initiate there, at most once a second.
    pub(crate) fn follow_hint(&mut self, now: Time, node: NodeId, target: Target) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.wanted = true;
        let awaits_initiator = matches!(peer.handshake, Handshake::AwaitingInitiator(_));
        if !awaits_initiator && peer.may_follow_hint(now) {
            peer.hint = Some(target);
            self.initiate(now, node);
        }
        self.serve(now, node);
    }

    fn on_timeout(&mut self, now: Time) {
        for _ in 0..PEERS_PER_TIMEOUT {
            match self.timers.first().copied() {
                Some((at, node)) if at <= now => self.serve(now, node),
                _ => return,
            }
        }
    }

    /// Does all that is due for a peer, and files it under its next deadline.
    pub(crate) fn serve(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.expire(now, &mut self.shared);
        self.steer(now, node);
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.probe(now, &mut self.shared);
        if peer.is_initiation_due(now) {
            self.initiate(now, node);
        }
        self.file(now, node);
    }

    /// Brings the peer's state, its place among the active ones and its deadline up to date.
    fn file(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.settle(now);
        if peer.is_active() {
            self.active.insert(node);
        } else {
            self.active.remove(&node);
        }
        let deadline = peer.deadline();
        if deadline != peer.filed {
            self.timers.remove(&(peer.filed, node));
            if deadline != Time::NEVER {
                self.timers.insert((deadline, node));
            }
            peer.filed = deadline;
        }
    }

    /// Sends a fresh initiation in place of one that was sent before, or notes what it lacks.
    fn initiate(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.drop_handshake(&mut self.shared);
        let has_address = peer.hint.is_some() || !peer.candidates().is_empty();
        let relays = self.relays_to(now, &node);
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        if !has_address && relays.is_empty() || self.shared.secrets.is_empty() {
            peer.handshake = Handshake::AwaitingChance { until: Time::NEVER };
            return;
        }
        let has_room = self.make_room(now, node);
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let shared = &mut self.shared;
        if !has_room {
            peer.last_error = Some(DropReason::SessionTableFull);
            shared.dropped(DropReason::SessionTableFull, None);
            peer.handshake = Handshake::AwaitingChance {
                until: now + RETRY_MAX,
            };
            return;
        }
        // A session by relay that does well needs no other, only the straight way back.
        let is_check = peer.ways.relay.is_some() && peer.current.is_some() && !peer.is_renewal_due(now);
        let Some((target, round)) = peer.next_target(now, &relays, is_check) else {
            peer.handshake = Handshake::AwaitingChance { until: Time::NEVER };
            return;
        };
        let secret = &shared.secrets[round % shared.secrets.len()];
        let (psk, mac1_key, cookie_key) = (
            secret.psk.clone(),
            secret.mac1_key,
            secret.secret.cookie_key(&node),
        );
        let their_mac1_key = secret.secret.mac1_key(&node);

        let local = shared.fresh_index();
        let mut header = Header::new(Kind::Init, local, u64::from_be_bytes(psk.id.0));
        if matches!(target, Target::Relay(..)) {
            header.flags |= FLAG_BY_RELAY;
        }
        let payload = InitPayload {
            header: header.to_bytes(),
            node: shared.local.node,
            certificate: shared.local.certificate,
            genesis: shared.local.genesis,
            incarnation: shared.local.incarnation,
            counter: shared.next_counter(),
            ciphers: Cipher::mask(&shared.local.ciphers),
        };
        let made = Initiation::start(
            &shared.local,
            &psk.key,
            &mut shared.rng,
            &peer.info.noise_static,
            &payload,
        );
        let pause = RETRY_MIN * (1 << peer.tries.min(6));
        let pause = if is_check {
            CHECK_PATIENCE
        } else {
            pause.min(RETRY_MAX)
        };
        let retry_at = now + (pause - shared.jitter(pause / 4));
        peer.tries = peer.tries.saturating_add(u32::from(!is_check));
        peer.last_init = Some(now);
        let Some((noise, message)) = made else {
            peer.last_error = Some(DropReason::BadHandshake);
            shared.dropped(DropReason::BadHandshake, None);
            peer.handshake = Handshake::AwaitingChance { until: retry_at };
            return;
        };
        let cookie = peer
            .cookie
            .filter(|(_, until)| *until > now)
            .map(|(cookie, _)| cookie);
        let bytes = assemble(header, &message, &their_mac1_key, cookie.as_ref());
        let mut mac1 = [0; MAC_LEN];
        mac1.copy_from_slice(&bytes[bytes.len() - 2 * MAC_LEN..bytes.len() - MAC_LEN]);
        shared.claim(local, node);
        peer.handshake = Handshake::AwaitingResponse(Box::new(Attempt {
            noise,
            local,
            mac1_key,
            cookie_key,
            mac1,
            target,
            is_check,
            with_cookie: cookie.is_some(),
            retry_at,
        }));
        shared.send(target, &node, bytes);
    }

    /// True when the peer has, or may take, a place for sessions; the peer idle for longest makes room.
    pub(crate) fn make_room(&mut self, now: Time, node: NodeId) -> bool {
        if self.active.contains(&node) || self.active.len() < SESSIONS_MAX {
            return true;
        }
        let idlest = self
            .active
            .iter()
            .filter_map(|node| self.peers.get(node))
            .min_by_key(|peer| (peer.used, peer.node));
        let Some(victim) = idlest.filter(|peer| now.since(peer.used) >= IDLE_AFTER) else {
            return false;
        };
        let victim = victim.node;
        if let Some(peer) = self.peers.get_mut(&victim) {
            peer.end_all(DownReason::Evicted, &mut self.shared);
        }
        self.file(now, victim);
        true
    }
}
