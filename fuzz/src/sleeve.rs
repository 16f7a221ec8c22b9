//! Two sleeve machines on a network that loses, repeats, reorders and changes, beside a member that holds all keys of
//! a member and says what it likes.

use crate::bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;
use weft_sleeve::door::{Admission, Door, Sender};
use weft_sleeve::message::{
    COOKIE_LEN, INIT_LEN, InitPayload, NOISE_INIT_LEN, NOISE_RESP_LEN, RESP_LEN, assemble,
};
use weft_sleeve::{Cipher, INSTALLED_MAX, Input, LocalNode, Output, PeerInfo, Probe, SessionKeys, Sleeve};
use weft_wire::datagram::{Header, Kind, NETWORK_DEFAULT};
use weft_wire::noise::{SLEEVE_PATTERN, SLEEVE_PROLOGUE, SeededResolver};
use weft_wire::secret::Protocol;
use weft_wire::{ClusterSecret, DropReason, GenesisId, NodeId, NodeKey, NoiseKeypair, SessionIndex, Time};

/// Datagrams on their way at once.
const FLIGHTS_MAX: usize = 64;
/// More outputs than any one input may cause here, where three hosts know each other.
const OUTPUTS_MAX: usize = 64;
const GENESIS: GenesisId = GenesisId([7; 32]);
/// The two honest hosts; the third is the hostile member.
const HONEST: usize = 2;

struct Host {
    sleeve: Sleeve,
    /// What an engine has before it.
    door: Door,
    /// The last probe that was to be sent.
    probe: Option<(SessionIndex, Probe)>,
    installed: BTreeMap<SessionIndex, SessionKeys>,
    selected: BTreeMap<NodeId, SessionIndex>,
}

struct World {
    now: Time,
    hosts: Vec<Host>,
    flights: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Every session that was ever installed: its host, its keys.
    sessions: Vec<(usize, SessionKeys)>,
    rng: ChaCha20Rng,
    counter: u64,
}

/// The hosts' keys: making one costs as much as a signature.
static KEYS: LazyLock<[NodeKey; 4]> = LazyLock::new(|| [1, 2, 3, 4].map(|n| NodeKey::from_seed([n; 32])));

fn key(host: usize) -> &'static NodeKey {
    &KEYS[host]
}

static NOISE: LazyLock<[NoiseKeypair; 4]> = LazyLock::new(|| {
    [0x81, 0x82, 0x83, 0x84].map(|n| NoiseKeypair::from_secret([n; 32]).expect("the curve is there"))
});

fn noise(host: usize) -> &'static NoiseKeypair {
    &NOISE[host]
}

fn address(host: usize) -> SocketAddr {
    ([192, 0, 2, host as u8], 6783).into()
}

fn secret(number: u8) -> ClusterSecret {
    ClusterSecret {
        number: u32::from(number),
        key: [number; 32],
    }
}

fn info(host: usize) -> PeerInfo {
    PeerInfo {
        noise_static: noise(host).public(),
        endpoints: vec![address(host)],
    }
}

impl World {
    fn new(data: &mut Bytes<'_>) -> Self {
        let ciphers = [&Cipher::ALL[..], &Cipher::ALL[..1], &Cipher::ALL[1..]];
        let hosts = (0..HONEST).map(|host| {
            let local = LocalNode {
                node: key(host).id(),
                noise: noise(host).clone(),
                certificate: key(host).certify_noise_static(&noise(host).public()),
                genesis: GENESIS,
                incarnation: 1,
                ciphers: ciphers[data.below(3)].to_vec(),
            };
            Host {
                sleeve: Sleeve::new(local, [host as u8; 32]),
                door: Door::new(&[]),
                probe: None,
                installed: BTreeMap::new(),
                selected: BTreeMap::new(),
            }
        });
        let mut world = Self {
            now: Time::ZERO,
            hosts: hosts.collect(),
            flights: VecDeque::new(),
            sessions: Vec::new(),
            rng: ChaCha20Rng::from_seed([9; 32]),
            counter: 0,
        };
        for host in 0..HONEST {
            world.give(host, Input::Secrets(&[secret(1)]));
            for other in (0..=HONEST).filter(|other| *other != host) {
                world.give(host, Input::UpsertPeer(key(other).id(), info(other)));
            }
        }
        world
    }

    fn give(&mut self, host: usize, input: Input<'_>) {
        let is_datagram = matches!(input, Input::Datagram { .. });
        let now = self.now;
        let mut refused = self.judge(host, &input);
        let is_secret = matches!(input, Input::Secrets(_));
        self.hosts[host].sleeve.handle(now, input);
        if is_secret {
            let keys = self.hosts[host].sleeve.door_keys(now);
            self.hosts[host].door = Door::new(&[keys]);
        }
        let (mut outputs, mut sent) = (0, 0);
        while let Some(output) = self.hosts[host].sleeve.poll_output() {
            if matches!(output, Output::Dropped(reason, _) if refused == Some(reason)) {
                refused = None;
            }
            outputs += 1;
            assert!(
                outputs <= OUTPUTS_MAX,
                "one input caused more than {OUTPUTS_MAX} outputs"
            );
            sent += usize::from(matches!(output, Output::Send { .. }));
            self.carry_out(host, output);
        }
        assert!(!is_datagram || sent <= 2, "one datagram caused {sent}");
        assert_eq!(refused, None, "the core takes what its door refuses");
    }

    /// What the door before a core says of an INIT, as long as that does not depend on how many there were.
    fn judge(&mut self, host: usize, input: &Input<'_>) -> Option<DropReason> {
        let Input::Datagram { from, bytes } = input else {
            return None;
        };
        let header = Header::parse(bytes).ok()?;
        let door = &mut self.hosts[host].door;
        match door.admit(self.now, Sender::Stranger(*from), &header, bytes) {
            Ok(Admission::Core) => None,
            Ok(Admission::Cookie(cookie)) => {
                assert!(cookie.len() < bytes.len());
                None
            }
            Err(DropReason::CookieRate | DropReason::HandshakeRate) => None,
            Err(_) if header.kind != Kind::Init || header.network != NETWORK_DEFAULT => None,
            Err(reason) => Some(reason),
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let host = &mut self.hosts[index];
        match output {
            Output::Send { to, bytes } => {
                let length = match Header::parse(&bytes).map(|header| header.kind) {
                    Ok(Kind::Init) => INIT_LEN,
                    Ok(Kind::Resp) => RESP_LEN,
                    Ok(Kind::Cookie) => COOKIE_LEN,
                    other => panic!("sent {other:?}"),
                };
                assert_eq!(bytes.len(), length);
                if self.flights.len() < FLIGHTS_MAX {
                    self.flights.push_back((address(index), to, bytes));
                }
            }
            Output::Proof { .. } => {}
            Output::Install(keys) => {
                for (other, theirs) in &self.sessions {
                    let is_pair =
                        *other != index && theirs.local == keys.remote && theirs.remote == keys.local;
                    if is_pair && theirs.peer == key(index).id() && keys.peer == key(*other).id() {
                        assert!(theirs.send == keys.receive && theirs.receive == keys.send);
                        assert_eq!(theirs.cipher, keys.cipher);
                    }
                    assert!(theirs.send != keys.send, "two sessions seal with one key");
                }
                assert!(keys.send != keys.receive);
                self.sessions.push((index, keys.clone()));
                let before = host.installed.insert(keys.local, keys);
                assert!(before.is_none(), "an index was used twice at once");
                assert!(
                    host.installed.len() <= INSTALLED_MAX.min(9),
                    "three hosts have three sessions each at most"
                );
            }
            Output::Select { peer, local } => {
                assert_eq!(host.installed.get(&local).map(|keys| keys.peer), Some(peer));
                host.selected.insert(peer, local);
            }
            Output::Remove { local } => {
                assert!(
                    host.installed.remove(&local).is_some(),
                    "what is not installed cannot be removed"
                );
                host.selected.retain(|_, selected| *selected != local);
            }
            Output::Keepalive { local } => assert!(host.installed.contains_key(&local)),
            Output::Up { peer, cipher } => {
                let session = host
                    .selected
                    .get(&peer)
                    .and_then(|local| host.installed.get(local));
                assert_eq!(session.map(|keys| keys.cipher), Some(cipher));
            }
            Output::Probe { local, probe } => {
                assert!(host.installed.contains_key(&local));
                host.probe = Some((local, probe));
            }
            Output::Way { .. } | Output::PathMtu { .. } | Output::Down { .. } | Output::Dropped(..) => {}
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some(host) = (0..HONEST).find(|host| address(*host) == to) {
            self.give(host, Input::Datagram { from, bytes });
        }
    }

    /// The time that a host named comes; it must not name it again at once for ever.
    fn pass_time(&mut self, step: Duration) {
        self.now = self.now + step;
        for host in 0..HONEST {
            for turn in 0.. {
                let due = self.hosts[host].sleeve.poll_timeout();
                if due.is_none_or(|due| due > self.now) {
                    break;
                }
                assert!(
                    turn < 16,
                    "host {host} asks for {due:?} again and again at {:?}",
                    self.now
                );
                self.give(host, Input::Timeout);
            }
        }
    }

    /// A session of this host, or an index that is none.
    fn session(&self, host: usize, data: &mut Bytes<'_>) -> SessionIndex {
        let n = data.below(8);
        let installed = self.hosts[host].installed.keys();
        installed.copied().nth(n).unwrap_or(SessionIndex(n as u32))
    }

    /// An initiation by the hostile member, under the right keys and with whatever content.
    fn initiation(&mut self, to: usize, data: &mut Bytes<'_>) -> Vec<u8> {
        let secret = secret(1 + data.u8() % 2);
        let psk = secret.psk(Protocol::Sleeve);
        let mut header = Header::new(Kind::Init, SessionIndex(data.u32()), u64::from_be_bytes(psk.id.0));
        let faults = data.u8();
        let liar = if faults & 1 == 0 { HONEST } else { 1 - to };
        self.counter += 1;
        let mut payload = InitPayload {
            header: header.to_bytes(),
            node: key(liar).id(),
            certificate: key(HONEST).certify_noise_static(&noise(HONEST).public()),
            genesis: GENESIS,
            incarnation: 1,
            counter: self.counter,
            ciphers: Cipher::mask(&Cipher::ALL),
        };
        if faults & 2 != 0 {
            header.flags = data.u8();
            header.network = data.u16();
        }
        if faults & 4 != 0 {
            payload.genesis.0[0] ^= data.u8();
        }
        if faults & 8 != 0 {
            payload.incarnation = data.u64();
            payload.counter = data.u64();
        }
        if faults & 16 != 0 {
            payload.ciphers = data.u8();
        }
        if faults & 32 != 0 {
            payload.certificate[data.below(64)] ^= 1;
        }
        let Some(message) = noise_initiation(&mut self.rng, to, &psk.key, &payload) else {
            return Vec::new();
        };
        assemble(header, &message, &secret.mac1_key(&key(to).id()), None)
    }
}

/// Noise message 1 of the hostile member (Noise §7.5, IK).
fn noise_initiation(
    rng: &mut ChaCha20Rng,
    to: usize,
    psk: &[u8; 32],
    payload: &InitPayload,
) -> Option<[u8; NOISE_INIT_LEN]> {
    let (own, theirs) = (noise(HONEST), noise(to).public());
    let mut out = [0; NOISE_INIT_LEN];
    let resolver = Box::new(SeededResolver::new(rng));
    snow::Builder::with_resolver(SLEEVE_PATTERN.parse().ok()?, resolver)
        .local_private_key(&own.secret)
        .and_then(|b| b.psk(2, psk))
        .and_then(|b| b.prologue(SLEEVE_PROLOGUE))
        .and_then(|b| b.remote_public_key(&theirs.0))
        .and_then(snow::Builder::build_initiator)
        .and_then(|mut state| state.write_message(&payload.to_bytes(), &mut out))
        .ok()?;
    Some(out)
}

/// A program: which ciphers the hosts have, then one step after the other.
pub fn machine(data: &[u8]) {
    let mut data = Bytes(data);
    let mut world = World::new(&mut data);
    while !data.is_empty() {
        step(&mut world, &mut data);
    }
    world.pass_time(Duration::from_secs(600));
    let indexes: BTreeSet<_> = world.hosts[0].installed.keys().collect();
    assert!(indexes.len() <= 9);
}

fn step(world: &mut World, data: &mut Bytes<'_>) {
    let op = data.below(16);
    let host = data.below(HONEST);
    match op {
        0 => {
            let peer = data.below(8);
            match peer {
                0..4 => world.give(host, Input::Connect(key(peer).id())),
                _ => world.give(host, Input::Keep(key(peer - 4).id())),
            }
        }
        // Half of all steps deliver, so that something comes about.
        1 | 2 => {
            let at = data.below(4);
            if let Some((from, to, bytes)) = world.flights.remove(at) {
                world.deliver(from, to, &bytes);
            }
        }
        3 => {
            let flight = world.flights.get(data.below(4)).cloned();
            if let Some((from, to, bytes)) = flight {
                world.deliver(from, to, &bytes);
            }
        }
        4 => {
            let flight = world.flights.get(data.below(4)).cloned();
            if let Some((from, to, mut bytes)) = flight {
                let at = usize::from(data.u16()) % bytes.len();
                match data.below(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.push(0),
                    _ => bytes[at] ^= data.u8(),
                }
                world.deliver(from, to, &bytes);
            }
        }
        5 => {
            world.flights.remove(data.below(4));
        }
        6 => {
            let bytes = data.long().to_vec();
            world.deliver(address(data.below(4)), address(host), &bytes);
        }
        // Its first mac is right: it comes from somebody who knows the secret.
        7 => {
            let mac1 = secret(1).mac1_key(&key(host).id());
            let init = data.coin();
            let (kind, length) = if init {
                (Kind::Init, NOISE_INIT_LEN)
            } else {
                (Kind::Resp, NOISE_RESP_LEN)
            };
            let index = world.session(host, data);
            let header = Header::new(kind, index, data.u64());
            let mut noise = data.short().to_vec();
            noise.resize(length, 0);
            let bytes = assemble(header, &noise, &mac1, None);
            world.deliver(address(data.below(4)), address(host), &bytes);
        }
        8 => {
            let bytes = world.initiation(host, data);
            world.deliver(address(data.below(4)), address(host), &bytes);
        }
        9 => {
            let local = world.session(host, data);
            let from = data.coin().then(|| address(data.below(4)));
            // Only what is installed can open anything.
            if world.hosts[host].installed.contains_key(&local) {
                world.give(host, Input::Opened { local, from });
            }
        }
        10 => {
            let local = world.session(host, data);
            what_an_engine_says(world, data, host, local);
        }
        11 => {
            let from = address(data.below(4));
            world.give(host, Input::UnknownIndex { from });
        }
        12 => {
            let local = world.session(host, data);
            // Counters up to beyond the limit of a session.
            let (sent, received, relayed) = (data.u64() >> 31, data.u64(), data.u64());
            world.give(
                host,
                Input::Activity {
                    local,
                    sent,
                    received,
                    frames: sent,
                    large: sent,
                    relayed,
                },
            );
        }
        13 => {
            let peer = data.below(4);
            if data.coin() {
                world.give(host, Input::RemovePeer(key(peer).id()));
            } else {
                world.give(host, Input::UpsertPeer(key(peer).id(), info(peer)));
            }
        }
        14 => {
            let secrets = [secret(data.u8() % 4), secret(data.u8() % 4), secret(3)];
            world.give(host, Input::Secrets(&secrets[..data.below(4)]));
        }
        _ => {
            let step = Duration::from_millis(u64::from(data.u16()) * 4);
            world.pass_time(step);
        }
    }
}

fn what_an_engine_says(world: &mut World, data: &mut Bytes<'_>, host: usize, local: SessionIndex) {
    let probe = world.hosts[host].probe;
    match (data.below(10), probe) {
        (n @ 0..4, _) => world.give(
            host,
            Input::Roamed {
                local,
                from: address(n),
            },
        ),
        (4 | 5, Some((local, probe))) => world.give(host, Input::ProbeAnswered { local, probe }),
        (6, Some((local, probe))) => world.give(host, Input::ProbeRefused { local, probe }),
        (7, _) => {
            let size = data.u16();
            world.give(host, Input::TooBig { local, size });
        }
        (8, _) => {
            let neighbours = [address(data.below(4)), address(HONEST)];
            world.give(host, Input::Relayed(&neighbours));
        }
        _ => {
            let peer = key(data.below(4)).id();
            let count = data.below(4);
            let relays = (0..count).map(|_| key(data.below(4)).id()).collect();
            world.give(host, Input::Relays { peer, relays });
        }
    }
}

/// Programs that come far.
pub fn machine_seeds() -> Vec<Vec<u8>> {
    const CONNECT: [u8; 3] = [0, 0, 1];
    const DELIVER: [u8; 3] = [1, 0, 0];
    const OPENED: [u8; 4] = [9, 1, 0, 0];
    const SECOND: [u8; 4] = [15, 0, 0, 250];
    const HOSTILE: [u8; 8] = [8, 0, 0, 0, 0, 0, 9, 0];
    vec![
        [&[0, 0][..], &CONNECT, &DELIVER, &DELIVER, &OPENED, &SECOND].concat(),
        [
            &[0, 1][..],
            &CONNECT,
            &[0, 1, 0],
            &DELIVER,
            &DELIVER,
            &DELIVER,
            &SECOND,
        ]
        .concat(),
        [&[1, 2][..], &CONNECT, &DELIVER, &[15, 0, 0xff, 0xff]].concat(),
        [&[0, 0][..], &HOSTILE, &[2], &HOSTILE, &[2], &[9, 0, 0, 2]].concat(),
        [
            &[0, 0][..],
            &CONNECT,
            &[4, 0, 0, 0, 20, 2, 1],
            &DELIVER,
            &DELIVER,
            &OPENED,
            &[12, 0, 0],
            &[0xff; 16],
        ]
        .concat(),
        // Frames that nobody answers: the way is asked, and another one looked for.
        [
            &[0, 0][..],
            &CONNECT,
            &DELIVER,
            &DELIVER,
            &OPENED,
            &[10, 0, 0, 9, 1, 1, 2],
            &SECOND,
            &[12, 0, 0],
            &[0, 0, 0, 9, 0, 0, 0, 0],
            &[0; 16],
            &SECOND,
            &SECOND,
            &[10, 0, 0, 4],
            &SECOND,
        ]
        .concat(),
        [
            &[0, 0][..],
            &CONNECT,
            &DELIVER,
            &[14, 0, 2, 1, 2],
            &DELIVER,
            &[13, 0, 1, 1],
        ]
        .concat(),
    ]
}
