//! Hosts in virtual time. Each has a real core and a plain engine that seals and opens for real.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::ChaCha20Poly1305;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use weft_sleeve::content::{Content, write_data};
use weft_sleeve::*;
use weft_wire::datagram::{
    FLAG_BY_RELAY, HEADER_LEN, Header, Kind, Meta, ProbeBody, RelayShim, TAG_LEN, nonce,
};
use weft_wire::*;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn secret(number: u32) -> ClusterSecret {
    ClusterSecret {
        number,
        key: [0x40 + number as u8; 32],
    }
}

/// Seals as an engine does.
pub(crate) fn seal(cipher: Cipher, key: &[u8; 32], header: Header, plaintext: &[u8]) -> Vec<u8> {
    let aad = header.to_bytes();
    let payload = Payload {
        msg: plaintext,
        aad: &aad,
    };
    let nonce = nonce(header.counter);
    let sealed = match cipher {
        Cipher::Aes256Gcm => Aes256Gcm::new(key.into()).encrypt(&nonce.into(), payload),
        Cipher::ChaCha20Poly1305 => ChaCha20Poly1305::new(key.into()).encrypt(&nonce.into(), payload),
    };
    [&aad[..], &sealed.unwrap()].concat()
}

fn open(cipher: Cipher, key: &[u8; 32], header: Header, datagram: &[u8]) -> Option<Vec<u8>> {
    let payload = Payload {
        msg: &datagram[HEADER_LEN..],
        aad: &datagram[..HEADER_LEN],
    };
    let nonce = nonce(header.counter);
    match cipher {
        Cipher::Aes256Gcm => Aes256Gcm::new(key.into()).decrypt(&nonce.into(), payload).ok(),
        Cipher::ChaCha20Poly1305 => ChaCha20Poly1305::new(key.into())
            .decrypt(&nonce.into(), payload)
            .ok(),
    }
}

struct Live {
    keys: SessionKeys,
    window: ReplayWindow,
    sent: u64,
    received: u64,
    frames: u64,
    large: u64,
    relayed: u64,
    selected: bool,
}

/// One host.
pub(crate) struct Host {
    pub(crate) key: NodeKey,
    pub(crate) noise: id::NoiseKeypair,
    pub(crate) genesis: GenesisId,
    pub(crate) ciphers: Vec<Cipher>,
    pub(crate) incarnation: u64,
    pub(crate) address: SocketAddr,
    /// Another one of the other family, where it is heard too; it is announced only where a test says so.
    pub(crate) second: SocketAddr,
    /// Until when it is held up: its process does nothing, and what comes waits.
    pub(crate) held_until: Time,
    pub(crate) sleeve: Sleeve,
    /// Everything that the core put out, with its time, since the host was made.
    pub(crate) log: Vec<(Time, Output)>,
    /// Frames that arrived, by the peer they came from.
    pub(crate) frames: BTreeMap<NodeId, u64>,
    sessions: BTreeMap<SessionIndex, Live>,
    selected: BTreeMap<NodeId, SessionIndex>,
    /// How datagrams to each peer travel, as told.
    pub(crate) ways: BTreeMap<NodeId, Way>,
    /// Datagrams that it passed on for others.
    pub(crate) relayed: u64,
    /// Octets that datagrams to each peer may have, as told.
    pub(crate) datagrams: BTreeMap<NodeId, u16>,
}

impl Host {
    fn new(n: u8, incarnation: u64) -> Self {
        let key = NodeKey::from_seed([n; 32]);
        let noise = id::NoiseKeypair::from_secret([n ^ 0x80; 32]).unwrap();
        let mut host = Self {
            genesis: GenesisId([7; 32]),
            ciphers: Cipher::ALL.to_vec(),
            incarnation,
            address: ([192, 0, 2, n], 6783).into(),
            second: ([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)], 6783).into(),
            held_until: Time::ZERO,
            sleeve: Sleeve::new(local(&key, &noise, GenesisId([7; 32]), &[], 0), [0; 32]),
            log: Vec::new(),
            frames: BTreeMap::new(),
            sessions: BTreeMap::new(),
            selected: BTreeMap::new(),
            ways: BTreeMap::new(),
            relayed: 0,
            datagrams: BTreeMap::new(),
            key,
            noise,
        };
        host.start(incarnation);
        host
    }

    /// A fresh process on the same disk.
    pub(crate) fn start(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        let local = local(&self.key, &self.noise, self.genesis, &self.ciphers, incarnation);
        let mut seed = self.key.id().0;
        seed[0] ^= incarnation as u8;
        self.sleeve = Sleeve::new(local, seed);
        self.sessions.clear();
        self.selected.clear();
        self.ways.clear();
        self.datagrams.clear();
    }

    pub(crate) fn id(&self) -> NodeId {
        self.key.id()
    }

    pub(crate) fn info(&self) -> PeerInfo {
        PeerInfo {
            noise_static: self.noise.public(),
            endpoints: vec![self.address],
        }
    }

    pub(crate) fn installed(&self) -> usize {
        self.sessions.len()
    }

    /// Our index and the other end's, of the session to this peer.
    pub(crate) fn session(&self, peer: NodeId) -> Option<(SessionIndex, SessionIndex)> {
        let live = self.sessions.get(self.selected.get(&peer)?)?;
        Some((live.keys.local, live.keys.remote))
    }

    pub(crate) fn count(&self, matches: impl Fn(&Output) -> bool) -> usize {
        self.log.iter().filter(|(_, output)| matches(output)).count()
    }

    pub(crate) fn drops(&self, reason: DropReason) -> usize {
        self.count(|o| matches!(o, Output::Dropped(r, _) if *r == reason))
    }
}

fn local(
    key: &NodeKey,
    noise: &id::NoiseKeypair,
    genesis: GenesisId,
    ciphers: &[Cipher],
    incarnation: u64,
) -> LocalNode {
    LocalNode {
        node: key.id(),
        noise: noise.clone(),
        certificate: key.certify_noise_static(&noise.public()),
        genesis,
        incarnation,
        ciphers: ciphers.to_vec(),
    }
}

/// A datagram under way.
#[derive(Clone)]
pub(crate) struct Flight {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Flight {
    pub(crate) fn kind(&self) -> Option<Kind> {
        Kind::from_octet(self.bytes[0])
    }
}

/// IPv4 and UDP headers.
const IPV4_UDP: usize = 28;

/// What the network does to a datagram: says whether it passes.
type Filter = Box<dyn FnMut(Time, &Flight) -> bool>;

/// The hosts and the network between them.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    /// Every datagram that was sent, whether it passed or not.
    pub(crate) sent: Vec<Flight>,
    /// False: lost.
    pub(crate) filter: Filter,
    /// In thousandths: lost, delivered twice.
    pub(crate) loss: u32,
    pub(crate) repeat: u32,
    /// Each datagram takes 5 ms and up to this much more.
    pub(crate) spread: Duration,
    /// Octets of the largest packet that the network carries, and that the hosts' interfaces take.
    pub(crate) carries: usize,
    pub(crate) interface: usize,
    /// Octets of a frame.
    pub(crate) frame_len: usize,
    wire: BTreeMap<(Time, u64), Flight>,
    number: u64,
    rng: ChaCha20Rng,
    next_activity: Time,
    /// Every key and counter that was sealed with: no pair may come twice.
    nonces: BTreeSet<([u8; 32], u64)>,
}

impl World {
    /// `n` hosts that know one another and secret 1.
    pub(crate) fn new(n: u8) -> Self {
        let mut world = Self {
            now: Time::ZERO,
            hosts: (1..=n).map(|n| Host::new(n, 1)).collect(),
            sent: Vec::new(),
            filter: Box::new(|_, _| true),
            loss: 0,
            repeat: 0,
            spread: Duration::ZERO,
            carries: 1_500,
            interface: 1_500,
            frame_len: 60,
            wire: BTreeMap::new(),
            number: 0,
            rng: ChaCha20Rng::from_seed([9; 32]),
            next_activity: Time::ZERO + SECOND,
            nonces: BTreeSet::new(),
        };
        // The lower index has the lower node id, so that tests can tell who wins.
        world.hosts.sort_by_key(Host::id);
        for i in 0..world.hosts.len() {
            world.introduce(i);
        }
        world
    }

    pub(crate) fn seeded(n: u8, seed: u64) -> Self {
        let mut world = Self::new(n);
        world.rng = ChaCha20Rng::seed_from_u64(seed);
        world
    }

    /// Tells host `i` of the secret and of all others.
    pub(crate) fn introduce(&mut self, i: usize) {
        self.input(i, Input::Secrets(&[secret(1)]));
        for j in 0..self.hosts.len() {
            if i != j {
                let (id, info) = (self.hosts[j].id(), self.hosts[j].info());
                self.input(i, Input::UpsertPeer(id, info));
            }
        }
    }

    pub(crate) fn restart(&mut self, i: usize) {
        let incarnation = self.hosts[i].incarnation + 1;
        self.hosts[i].start(incarnation);
        self.introduce(i);
    }

    pub(crate) fn id(&self, i: usize) -> NodeId {
        self.hosts[i].id()
    }

    pub(crate) fn connect(&mut self, i: usize, j: usize) {
        let id = self.id(j);
        self.input(i, Input::Connect(id));
    }

    /// Gives an input to host `i` and does what comes out. What came out is returned too.
    pub(crate) fn input(&mut self, i: usize, input: Input<'_>) -> Vec<Output> {
        self.hosts[i].sleeve.handle(self.now, input);
        let mut outputs = Vec::new();
        while let Some(output) = self.hosts[i].sleeve.poll_output() {
            self.hosts[i].log.push((self.now, output.clone()));
            outputs.push(output.clone());
            self.perform(i, output);
        }
        outputs
    }

    fn perform(&mut self, i: usize, output: Output) {
        let host = &mut self.hosts[i];
        match output {
            Output::Send { to, bytes } => self.put(i, to, bytes),
            Output::Proof { .. } => {}
            Output::Install(keys) => {
                let live = Live {
                    window: ReplayWindow::new(),
                    sent: 0,
                    received: 0,
                    frames: 0,
                    large: 0,
                    relayed: 0,
                    selected: false,
                    keys,
                };
                let old = host.sessions.insert(live.keys.local, live);
                assert!(old.is_none(), "an index was given twice");
                assert!(host.sessions.len() <= INSTALLED_MAX);
            }
            Output::Select { peer, local } => {
                let live = host.sessions.get_mut(&local).expect("selected, not installed");
                assert_eq!(live.keys.peer, peer);
                live.selected = true;
                host.selected.insert(peer, local);
            }
            Output::Way { peer, way } => {
                host.ways.insert(peer, way);
            }
            Output::Remove { local } => {
                let live = host.sessions.remove(&local).expect("removed, not installed");
                if host.selected.get(&live.keys.peer) == Some(&local) {
                    host.selected.remove(&live.keys.peer);
                }
            }
            Output::Keepalive { local } => {
                let peer = host
                    .sessions
                    .get(&local)
                    .expect("keepalive, not installed")
                    .keys
                    .peer;
                assert_eq!(host.selected.get(&peer), Some(&local));
                self.seal_and_put(i, peer, Kind::Keepalive, &[]);
            }
            Output::Probe { local, probe } => {
                let peer = host.sessions.get(&local).expect("probe, not installed").keys.peer;
                assert_eq!(host.selected.get(&peer), Some(&local));
                if usize::from(probe.size) + IPV4_UDP > self.interface {
                    self.input(i, Input::ProbeRefused { local, probe });
                } else {
                    let (number, size) = (probe.number, probe.size);
                    let mut content = ProbeBody { number, size }.to_bytes().to_vec();
                    content.resize(usize::from(size) - HEADER_LEN - TAG_LEN, 0);
                    self.seal_and_put(i, peer, Kind::Probe, &content);
                }
            }
            Output::PathMtu { peer, datagram } => {
                host.datagrams.insert(peer, datagram);
            }
            Output::Up { .. } | Output::Down { .. } | Output::Dropped(..) => {}
        }
    }

    /// Puts a datagram on the wire.
    pub(crate) fn put(&mut self, i: usize, to: SocketAddr, bytes: Vec<u8>) {
        let host = &self.hosts[i];
        let flight = Flight {
            from: if to.is_ipv6() { host.second } else { host.address },
            to,
            bytes,
        };
        self.sent.push(flight.clone());
        if flight.bytes.len() + IPV4_UDP > self.carries {
            return;
        }
        if !(self.filter)(self.now, &flight) || self.rng.next_u32() % 1000 < self.loss {
            return;
        }
        let copies = if self.rng.next_u32() % 1000 < self.repeat {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let spread = self.rng.next_u64() % (self.spread.as_nanos() as u64 + 1);
            let at = self.now + Duration::from_millis(5) + Duration::from_nanos(spread);
            self.number += 1;
            self.wire.insert((at, self.number), flight.clone());
        }
    }

    fn seal_and_put(&mut self, i: usize, peer: NodeId, kind: Kind, plaintext: &[u8]) -> bool {
        let Some((to, shim)) = self.way(i, peer) else {
            return false;
        };
        let host = &mut self.hosts[i];
        let Some(local) = host.selected.get(&peer) else {
            return false;
        };
        let live = host.sessions.get_mut(local).expect("selected, not installed");
        let counter = live.sent;
        if counter >= COUNTER_LIMIT {
            return false;
        }
        live.sent += 1;
        live.frames += u64::from(matches!(kind, Kind::Data | Kind::Flood));
        live.large += u64::from(kind == Kind::Data && plaintext.len() > usize::from(path_mtu::FLOOR));
        assert!(
            self.nonces.insert((live.keys.send, counter)),
            "a nonce was used twice"
        );
        let mut header = Header::new(kind, live.keys.remote, counter);
        if shim.is_some() {
            header.flags |= FLAG_BY_RELAY;
        }
        let sealed = seal(live.keys.cipher, &live.keys.send, header, plaintext);
        let shim = shim.map(|shim| shim.to_bytes().to_vec()).unwrap_or_default();
        self.put(i, to, [shim, sealed].concat());
        true
    }

    /// One frame from host `i` to host `j`; false when there is no session to send it under.
    pub(crate) fn frame(&mut self, i: usize, j: usize) -> bool {
        let mut content = Vec::new();
        write_data(&mut content, Meta::default(), &vec![0x5a; self.frame_len]);
        self.seal_and_put(i, self.hosts[j].id(), Kind::Data, &content)
    }

    pub(crate) fn frames(&self, at: usize, from: usize) -> u64 {
        self.hosts[at].frames.get(&self.id(from)).copied().unwrap_or(0)
    }

    /// As if host `i` had sealed so many datagrams to `j`.
    pub(crate) fn skip_counters(&mut self, i: usize, j: usize, sent: u64) {
        let peer = self.id(j);
        let host = &mut self.hosts[i];
        let live = host.sessions.get_mut(&host.selected[&peer]).unwrap();
        live.sent = sent;
        live.frames = sent;
    }

    /// Where host `i` sends datagrams to a peer, and the shim before them.
    fn way(&self, i: usize, peer: NodeId) -> Option<(SocketAddr, Option<RelayShim>)> {
        let host = &self.hosts[i];
        match host.ways.get(&peer)? {
            Way::Direct(to) => Some((*to, None)),
            Way::Relay(relay) => {
                let Some(Way::Direct(to)) = host.ways.get(relay) else {
                    return None;
                };
                let shim = RelayShim {
                    hop_limit: limits::RELAY_HOPS_MAX,
                    destination: peer.peer_hash(),
                    source: host.id().peer_hash(),
                };
                Some((*to, Some(shim)))
            }
        }
    }

    /// What host `i` does with a datagram.
    pub(crate) fn deliver(&mut self, i: usize, from: SocketAddr, bytes: &[u8]) -> Vec<Output> {
        let Some((shim, inner)) = RelayShim::split(bytes) else {
            return self.take(i, from, false, bytes);
        };
        let host = &mut self.hosts[i];
        if shim.destination == host.id().peer_hash() {
            return match Kind::from_octet(inner[0]) {
                Some(Kind::Init | Kind::Resp | Kind::Cookie) => {
                    self.input(i, Input::Datagram { from, bytes })
                }
                _ => self.take(i, from, true, inner),
            };
        }
        let next = host
            .ways
            .iter()
            .find(|(peer, _)| peer.peer_hash() == shim.destination);
        if let Some((_, Way::Direct(to))) = next {
            let (to, hop_limit) = (*to, shim.hop_limit - 1);
            host.relayed += 1;
            let shim = RelayShim { hop_limit, ..shim };
            self.put(i, to, [&shim.to_bytes(), inner].concat());
        }
        Vec::new()
    }

    /// What host `i` does with a datagram that is for it.
    fn take(&mut self, i: usize, from: SocketAddr, by_relay: bool, bytes: &[u8]) -> Vec<Output> {
        let Ok(header) = Header::parse(bytes) else {
            return self.input(i, Input::Datagram { from, bytes });
        };
        if matches!(header.kind, Kind::Init | Kind::Resp | Kind::Cookie) {
            let outputs = self.input(i, Input::Datagram { from, bytes });
            // A COOKIE is exempt: it is sealed for the one INIT that it answers, and what follows goes where that
            // one went.
            if header.kind != Kind::Cookie {
                let answered: usize = outputs
                    .iter()
                    .map(|o| {
                        if let Output::Send { bytes, .. } = o {
                            bytes.len()
                        } else {
                            0
                        }
                    })
                    .sum();
                assert!(answered <= bytes.len(), "{answered} octets for {}", bytes.len());
            }
            return outputs;
        }
        let host = &mut self.hosts[i];
        let Some(live) = host.sessions.get_mut(&header.index) else {
            if by_relay {
                return Vec::new();
            }
            return self.input(i, Input::UnknownIndex { from });
        };
        if live.window.check(header.counter).is_err() {
            return Vec::new();
        }
        let Some(opened) = open(live.keys.cipher, &live.keys.receive, header, bytes) else {
            return Vec::new();
        };
        live.window.commit(header.counter).unwrap();
        live.received += 1;
        live.relayed += u64::from(by_relay);
        let (peer, local, selected) = (live.keys.peer, live.keys.local, live.selected);
        let content = Content::parse(header.kind, &opened).unwrap();
        if let Content::Frame { .. } = content {
            *host.frames.entry(peer).or_default() += 1;
        }
        let is_moved = !by_relay && host.ways.get(&peer) != Some(&Way::Direct(from));
        let mut outputs = if !selected {
            let from = (!by_relay).then_some(from);
            self.input(i, Input::Opened { local, from })
        } else if is_moved {
            self.input(i, Input::Roamed { local, from })
        } else {
            Vec::new()
        };
        match content {
            Content::Probe(body) => {
                self.seal_and_put(i, peer, Kind::ProbeAck, &body.to_bytes());
            }
            Content::ProbeAck(ProbeBody { number, size }) => {
                let probe = Probe { number, size };
                outputs.extend(self.input(i, Input::ProbeAnswered { local, probe }));
            }
            _ => {}
        }
        outputs
    }

    /// Lets time pass up to the next event, at most to `limit`. False when there was none before it.
    fn step(&mut self, limit: Time) -> bool {
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        let timer_of = |h: &Host| Some(h.sleeve.poll_timeout()?.max(h.held_until));
        let timer = self.hosts.iter().filter_map(timer_of).min();
        let next = [arrival, timer, Some(self.next_activity)]
            .into_iter()
            .flatten()
            .min();
        let Some(next) = next.filter(|next| *next <= limit) else {
            self.now = limit;
            return false;
        };
        self.now = self.now.max(next);
        if let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
            let number = entry.key().1;
            let flight = entry.remove();
            let is_at = |h: &Host| h.address == flight.to || h.second == flight.to;
            let Some(i) = self.hosts.iter().position(is_at) else {
                return true;
            };
            let held_until = self.hosts[i].held_until;
            if held_until > self.now {
                self.wire.insert((held_until, number), flight);
            } else {
                self.deliver(i, flight.from, &flight.bytes);
            }
            return true;
        }
        for i in 0..self.hosts.len() {
            if timer_of(&self.hosts[i]).is_some_and(|at| at <= self.now) {
                self.input(i, Input::Timeout);
                let again = self.hosts[i].sleeve.poll_timeout();
                assert!(again.is_none_or(|at| at > self.now), "a timer does not move");
            }
        }
        if self.next_activity <= self.now {
            self.next_activity = self.now + SECOND;
            self.report();
        }
        true
    }

    /// Lets every engine report what its sessions did.
    pub(crate) fn report(&mut self) {
        for i in (0..self.hosts.len())
            .filter(|i| self.hosts[*i].held_until <= self.now)
            .collect::<Vec<_>>()
        {
            let counts: Vec<_> = self.hosts[i]
                .sessions
                .values()
                .map(|live| {
                    let counts = [live.sent, live.received, live.frames, live.large, live.relayed];
                    (live.keys.local, counts)
                })
                .collect();
            for (local, [sent, received, frames, large, relayed]) in counts {
                self.input(
                    i,
                    Input::Activity {
                        local,
                        sent,
                        received,
                        frames,
                        large,
                        relayed,
                    },
                );
            }
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let limit = self.now + time;
        while self.step(limit) {}
    }

    /// Runs for so long, with a frame each way every 100 ms. Says how many were sent from `i` and from `j`.
    pub(crate) fn run_with_traffic(&mut self, time: Duration, i: usize, j: usize) -> (u64, u64) {
        let end = self.now + time;
        let mut sent = (0, 0);
        while self.now < end {
            sent.0 += u64::from(self.frame(i, j));
            sent.1 += u64::from(self.frame(j, i));
            self.run(Duration::from_millis(100));
        }
        sent
    }

    pub(crate) fn state(&self, i: usize, j: usize) -> PeerState {
        self.hosts[i].sleeve.peer(&self.id(j)).unwrap().state
    }

    /// True when both ends send under the same session.
    pub(crate) fn is_joined(&self, i: usize, j: usize) -> bool {
        let a = self.hosts[i].session(self.id(j));
        let b = self.hosts[j].session(self.id(i));
        a.is_some() && a == b.map(|(local, remote)| (remote, local))
    }

    /// Two hosts with a session that the first one initiated.
    pub(crate) fn joined() -> Self {
        let mut world = Self::new(2);
        world.connect(0, 1);
        world.run(SECOND);
        assert!(world.is_joined(0, 1));
        world
    }

    /// Datagrams of one kind that host `i` sent so far.
    pub(crate) fn sent_by(&self, i: usize, kind: Kind) -> Vec<Flight> {
        let from = self.hosts[i].address;
        self.sent
            .iter()
            .filter(|f| f.from == from && f.kind() == Some(kind))
            .cloned()
            .collect()
    }
}
