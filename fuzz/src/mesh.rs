//! The mesh machine of one host against connections whose other end holds good keys, or none, and says what it likes:
//! at each step of the handshake and behind it.

use crate::bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;
use weft_gossip::mesh::CONNECTIONS_MAX;
use weft_gossip::{
    ConnId, DurableState, Identity, Input, JoinToken, Membership, Mesh, MeshConfig, Output, PersistToken,
};
use weft_wire::envelope::{KindNumber, Stamp};
use weft_wire::mesh::{Heartbeat, Hello, Message, Passed, Summary, Welcome};
use weft_wire::noise::{MESH_PATTERN, MESH_PROLOGUE, SeededResolver};
use weft_wire::record::{Admission, Body, Genesis, LinksRecord, PeerRecord, PublishedLink};
use weft_wire::secret::Protocol;
use weft_wire::{ClusterSecret, Envelope, NodeId, NodeKey, NoiseKeypair, Psk, RejectReason, Time, codec};

/// Connections that the other end opens at most, to keep a run short.
const ACCEPTED_MAX: u64 = 12;
/// Frames that lie unread at the other end.
const INBOX_MAX: usize = 8;
/// More outputs than any one input may cause with so few connections and records.
const OUTPUTS_MAX: usize = 4_096;
/// The hosts whose keys the other end holds: a copy of this host, a member, a stranger.
const IDENTITIES: usize = 3;

/// What the other end of a connection can say next.
enum Talk {
    Nothing,
    Shaking(Box<snow::HandshakeState>),
    Speaking(Box<snow::TransportState>),
}

struct Conn {
    talk: Talk,
    in_flight: bool,
    inbox: VecDeque<Vec<u8>>,
}

struct World {
    now: Time,
    mesh: Mesh,
    genesis: Genesis,
    accepted: u64,
    conns: BTreeMap<ConnId, Conn>,
    closed: BTreeSet<ConnId>,
    dials: VecDeque<ConnId>,
    writes: VecDeque<PersistToken>,
    last_write: Option<PersistToken>,
    rng: ChaCha20Rng,
    versions: u64,
}

/// The hosts' keys: making one costs as much as a signature.
static KEYS: LazyLock<[NodeKey; 4]> = LazyLock::new(|| [1, 2, 3, 4].map(|n| NodeKey::from_seed([n; 32])));

fn key(host: usize) -> &'static NodeKey {
    &KEYS[host]
}

/// The static key of the other end, whoever it says to be.
static NOISE: LazyLock<NoiseKeypair> =
    LazyLock::new(|| NoiseKeypair::from_secret([0x80; 32]).expect("the curve is there"));

fn noise() -> &'static NoiseKeypair {
    &NOISE
}

fn secret() -> ClusterSecret {
    ClusterSecret {
        number: 1,
        key: [9; 32],
    }
}

fn token() -> Psk {
    JoinToken::generate(&mut ChaCha20Rng::from_seed([5; 32])).psk()
}

fn address(n: usize) -> SocketAddr {
    ([198, 51, 100, n as u8], 6783).into()
}

impl World {
    fn new(data: &mut Bytes<'_>) -> Self {
        // A founder, or one that waits to be let in by the other end.
        let founder = data.below(2);
        let genesis = Genesis {
            founders: vec![key(founder).id()],
            nonce: [7; 16],
            range: "10.32.0.0/12".parse().expect("it is one"),
            slot_size: 16,
        };
        let mesh = Mesh::new(MeshConfig {
            identity: Identity {
                key: key(0).clone(),
                noise: NoiseKeypair::from_secret([3; 32]).expect("the curve is there"),
                incarnation: 5,
                boot_nonce: 50,
                name: "host".into(),
            },
            token: Some(token()),
            durable: (founder == 0).then(|| DurableState::founded(genesis.clone(), secret())),
            targets: vec![address(1).to_string()],
            capabilities: 0,
            seed: [7; 32],
        })
        .expect("the state is good");
        let mut world = Self {
            now: Time::ZERO,
            mesh,
            genesis,
            accepted: 0,
            conns: BTreeMap::new(),
            closed: BTreeSet::new(),
            dials: VecDeque::new(),
            writes: VecDeque::new(),
            last_write: None,
            rng: ChaCha20Rng::from_seed([9; 32]),
            versions: 0,
        };
        world.give(Input::SetRecord {
            kind: PeerRecord::KIND,
            body: codec::encode(&peer_record(50)),
        });
        world
    }

    fn give(&mut self, input: Input) {
        self.mesh.handle(self.now, input);
        let mut outputs = 0;
        while let Some(output) = self.mesh.poll_output() {
            outputs += 1;
            assert!(
                outputs <= OUTPUTS_MAX,
                "one input caused more than {OUTPUTS_MAX} outputs"
            );
            self.carry_out(output);
        }
        assert!(self.mesh.links().len() <= CONNECTIONS_MAX);
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Dial { conn, .. } => {
                assert!(!self.closed.contains(&conn) && !self.conns.contains_key(&conn));
                self.dials.push_back(conn);
            }
            Output::Send { conn, frame } => {
                let conn = self
                    .conns
                    .get_mut(&conn)
                    .expect("only what is open can be sent on");
                assert!(!conn.in_flight, "a frame before the last one was written");
                assert!(
                    frame.len() <= 65_535,
                    "a frame of {} octets has no length",
                    frame.len()
                );
                conn.in_flight = true;
                if conn.inbox.len() < INBOX_MAX {
                    conn.inbox.push_back(frame);
                }
            }
            Output::Close { conn } => {
                self.dials.retain(|dialled| *dialled != conn);
                self.conns.remove(&conn);
                assert!(self.closed.insert(conn), "{conn:?} was closed twice");
            }
            Output::Persist { token, state } => {
                assert!(self.last_write.is_none_or(|before| before < token));
                self.last_write = Some(token);
                self.writes.push_back(token);
                let again = DurableState::decode(&state.encode()).expect("it was just written");
                assert_eq!(again, state);
                assert!(again.membership().is_ok_and(|m| m.is_member(&key(0).id())));
            }
            Output::Event(_) => {}
        }
    }

    fn conn(&self, data: &mut Bytes<'_>) -> Option<ConnId> {
        let n = data.below(self.conns.len());
        self.conns.keys().copied().nth(n)
    }

    fn frame(&mut self, conn: ConnId, bytes: Vec<u8>) {
        if self.conns.contains_key(&conn) {
            self.give(Input::Frame { conn, bytes });
        }
    }

    fn opened(&mut self, conn: ConnId) {
        let fresh = Conn {
            talk: Talk::Nothing,
            in_flight: false,
            inbox: VecDeque::new(),
        };
        self.conns.insert(conn, fresh);
    }

    fn pass_time(&mut self, step: Duration) {
        self.now = self.now + step;
        for turn in 0.. {
            let due = self.mesh.poll_timeout();
            if due.is_none_or(|due| due > self.now) {
                break;
            }
            assert!(turn < 64, "it asks for {due:?} again and again at {:?}", self.now);
            self.give(Input::Tick);
        }
    }

    /// The other end of a connection takes the next step of its handshake. `None` when there is none to take.
    fn shake(&mut self, conn: ConnId, data: &mut Bytes<'_>) -> Option<()> {
        let hello = self.hello(data);
        let state = self.conns.get_mut(&conn)?;
        let mut out = vec![0; 65_535];
        let frame = match std::mem::replace(&mut state.talk, Talk::Nothing) {
            Talk::Speaking(transport) => {
                state.talk = Talk::Speaking(transport);
                return None;
            }
            Talk::Nothing => {
                let psk = match data.below(4) {
                    0 | 1 => secret().psk(Protocol::Mesh),
                    2 => token(),
                    _ => Psk::derive(&[1; 32], Protocol::Mesh),
                };
                let own = noise();
                let builder = snow::Builder::with_resolver(
                    MESH_PATTERN.parse().ok()?,
                    Box::new(SeededResolver::new(&mut self.rng)),
                )
                .local_private_key(&own.secret)
                .and_then(|b| b.psk(3, &psk.key))
                .and_then(|b| b.prologue(MESH_PROLOGUE))
                .ok()?;
                if let Some(first) = state.inbox.pop_front() {
                    let mut noise = builder.build_responder().ok()?;
                    noise.read_message(&first, &mut out).ok()?;
                    let length = noise.write_message(&[], &mut out).ok()?;
                    state.talk = Talk::Shaking(Box::new(noise));
                    out[..length].to_vec()
                } else {
                    let mut noise = builder.build_initiator().ok()?;
                    let length = noise.write_message(&psk.id.0, &mut out).ok()?;
                    state.talk = Talk::Shaking(Box::new(noise));
                    out[..length].to_vec()
                }
            }
            Talk::Shaking(mut noise) => {
                let Some(frame) = state.inbox.pop_front() else {
                    state.talk = Talk::Shaking(noise);
                    return None;
                };
                noise.read_message(&frame, &mut out).ok()?;
                let is_initiator = noise.is_initiator();
                let mut length = 0;
                if is_initiator {
                    length = noise.write_message(&hello, &mut out).ok()?;
                }
                let mut transport = noise.into_transport_mode().ok()?;
                if !is_initiator {
                    let plaintext = [&[1], &hello[..]].concat();
                    length = transport.write_message(&plaintext, &mut out).ok()?;
                }
                state.talk = Talk::Speaking(Box::new(transport));
                out[..length].to_vec()
            }
        };
        self.frame(conn, frame);
        Some(())
    }

    /// Says something under the keys of the connection.
    fn say(&mut self, conn: ConnId, plaintext: &[u8]) {
        let Some(Talk::Speaking(transport)) = self.conns.get_mut(&conn).map(|conn| &mut conn.talk) else {
            return;
        };
        let mut out = vec![0; plaintext.len() + 16];
        if let Ok(length) = transport.write_message(plaintext, &mut out) {
            out.truncate(length);
            self.frame(conn, out);
        }
    }

    /// A chain from the founder to this host.
    fn chain(&self, host: usize) -> Vec<Vec<u8>> {
        if self.genesis.is_founder(&key(host).id()) {
            return Vec::new();
        }
        let founder = usize::from(self.genesis.is_founder(&key(1).id()));
        let membership = Membership::found(self.genesis.clone(), secret());
        let admission = membership.admit(key(founder), key(host).id());
        admission
            .into_iter()
            .map(|envelope| envelope.as_bytes().to_vec())
            .collect()
    }

    /// What the other end says of itself, with faults.
    fn hello(&self, data: &mut Bytes<'_>) -> Vec<u8> {
        // The member first: zeros make the good one.
        let host = [1, 2, 0][data.below(IDENTITIES)];
        let faults = data.u8();
        if faults == 0xff {
            return data.short().to_vec();
        }
        let mut hello = Hello {
            node: key(host).id(),
            noise_certificate: key(host).certify_noise_static(&noise().public()).into(),
            genesis: Some(self.genesis.id()),
            incarnation: 1,
            boot_nonce: 2,
            dial: self.versions,
            capabilities: 0,
            name: "peer".into(),
            admissions: if host == 1 { self.chain(1) } else { Vec::new() },
        };
        if faults & 1 != 0 {
            hello.genesis = None;
            hello.admissions.clear();
        }
        if faults & 2 != 0 {
            hello.node = key(data.below(IDENTITIES)).id();
        }
        if faults & 4 != 0 {
            hello.incarnation = data.u64();
            hello.boot_nonce = data.u64();
        }
        if faults & 8 != 0 {
            hello.dial = data.u64();
        }
        if faults & 16 != 0 {
            hello.admissions = (0..data.below(20))
                .map(|_| self.chain(data.below(IDENTITIES)).concat())
                .collect();
        }
        if faults & 32 != 0 {
            hello.genesis = Some(weft_wire::GenesisId([data.u8(); 32]));
        }
        if faults & 64 != 0 {
            hello.name = String::from_utf8_lossy(data.short()).into_owned();
        }
        codec::encode(&hello)
    }

    /// A message that decodes.
    fn message(&mut self, data: &mut Bytes<'_>) -> Message {
        match data.below(9) {
            0 => Message::Heartbeat(Heartbeat {
                fingerprint: if data.coin() {
                    self.mesh.registers().fingerprint()
                } else {
                    [data.u8(); 16]
                },
                sent: data.u64(),
                echo: data.coin().then(|| (data.u64(), data.u64())),
            }),
            1 => Message::Joined,
            2 => {
                let chain = self.chain(data.below(IDENTITIES));
                Message::Welcome(Welcome {
                    genesis: self.genesis.clone(),
                    admissions: chain,
                    secrets: (0..data.below(3))
                        .map(|n| ClusterSecret {
                            number: 1 - n.min(1) as u32,
                            ..secret()
                        })
                        .collect(),
                })
            }
            3 => Message::Goodbye(RejectReason::from_code(data.u8()).unwrap_or(RejectReason::Shutdown)),
            4 => Message::Direct(data.short().to_vec()),
            5 => Message::Hello(Hello {
                name: "again".into(),
                ..codec::decode::<_, 4_096>(&self.hello(&mut Bytes(&[]))).expect("it is good")
            }),
            6 => Message::Summary(Summary {
                first: data.u8(),
                last: data.u8(),
                digests: (0..data.below(4)).map(|_| [data.u8(); 8]).collect(),
            }),
            7 => {
                let (from, to) = (key(data.below(IDENTITIES)), key(data.below(IDENTITIES)).id());
                let incarnation = u64::from(data.u8() % 4);
                let bytes = data.short().to_vec();
                let passed = Passed::sign(from, &self.genesis.id(), to, incarnation, bytes);
                Message::Passed(Passed {
                    from: if data.u8() == 1 { to } else { passed.from },
                    hops: data.u8() % 9,
                    ..passed
                })
            }
            _ => Message::Records((0..=data.below(4)).filter_map(|_| self.record(data)).collect()),
        }
    }

    /// A record of a host whose key the other end holds, or one that only says so.
    fn record(&mut self, data: &mut Bytes<'_>) -> Option<Envelope> {
        self.versions += 1;
        let signer = [1, 2, 0][data.below(IDENTITIES)];
        let owner = if data.u8() == 1 {
            key(data.below(IDENTITIES)).id()
        } else {
            key(signer).id()
        };
        let mut stamp = Stamp {
            incarnation: 1,
            version: self.versions,
        };
        let (kind, body) = match data.below(6) {
            0 => (
                PeerRecord::KIND,
                codec::encode(&peer_record(u64::from(data.u8() % 4))),
            ),
            1 => {
                let links = LinksRecord {
                    links: vec![PublishedLink {
                        neighbour: key(data.below(IDENTITIES)).id(),
                        rtt_log2_us: data.u8(),
                    }],
                };
                (LinksRecord::KIND, codec::encode(&links))
            }
            2 => {
                stamp = Stamp {
                    incarnation: 0,
                    version: u64::from(data.u8() % 18),
                };
                let admission = Admission {
                    genesis: self.genesis.id(),
                    subject: if data.coin() {
                        NodeId([data.u8(); 32])
                    } else {
                        owner
                    },
                    admitter: key(signer).id(),
                };
                (Admission::KIND, codec::encode(&admission))
            }
            3 => (KindNumber(u16::from(data.u8())), data.short().to_vec()),
            // Large ones of kinds that nobody knows fill the quota.
            4 => (
                KindNumber(1_000 + u16::from(data.u8())),
                vec![0; usize::from(data.u16() % 4_608)],
            ),
            _ => {
                stamp.incarnation = data.u64();
                stamp.version = data.u64();
                (KindNumber(u16::from(data.u8() % 32)), data.short().to_vec())
            }
        };
        Envelope::sign(key(signer), kind, owner, stamp, &body).ok()
    }

    /// Whatever was said, each record is its owner's, and this host's are its own.
    fn check_records(&self) {
        let registers = self.mesh.registers();
        let Some(membership) = self.mesh.membership() else {
            assert!(registers.is_empty(), "records without a cluster");
            return;
        };
        for (register, envelope) in registers.iter() {
            assert_eq!(envelope.key(), *register);
            assert!(membership.is_member(&register.owner), "a record of a stranger");
            if register.kind != Admission::KIND {
                assert!(envelope.is_signed_by(&register.owner), "{envelope:?} is forged");
            }
        }
        assert!(membership.is_member(&key(0).id()));
    }
}

fn peer_record(boot_nonce: u64) -> PeerRecord {
    PeerRecord {
        name: "host".into(),
        noise_static: noise().public(),
        endpoints: vec![address(2)],
        underlay_mtu: 1_500,
        capabilities: 0,
        zone: String::new(),
        version: "fuzz".into(),
        boot_nonce,
    }
}

/// A program: how this host starts, whether kernel and disk answer at once, then one step after the other.
pub fn machine(data: &[u8]) {
    let mut data = Bytes(data);
    let mut world = World::new(&mut data);
    let slow = data.u8();
    while !data.is_empty() {
        step(&mut world, &mut data);
        if slow & 1 == 0 {
            settle(&mut world);
        }
        if slow & 2 == 0 {
            while let Some(token) = world.writes.pop_front() {
                world.give(Input::Persisted(token));
            }
        }
    }
    world.check_records();
    world.pass_time(Duration::from_secs(60));
    world.check_records();
}

/// The kernel takes every frame. Bounded: nobody answers the frames.
fn settle(world: &mut World) {
    for turn in 0.. {
        assert!(turn < 256, "it sends without end");
        let in_flight = world.conns.iter_mut().find(|(_, conn)| conn.in_flight);
        let Some((conn, state)) = in_flight else { return };
        let conn = *conn;
        state.in_flight = false;
        world.give(Input::Written { conn });
    }
}

fn step(world: &mut World, data: &mut Bytes<'_>) {
    let op = data.below(16);
    match op {
        0 if world.accepted < ACCEPTED_MAX => {
            world.accepted += 1;
            let conn = ConnId::Accepted(world.accepted);
            world.opened(conn);
            let from = address(data.below(3));
            world.give(Input::Accepted { conn, from });
        }
        1 | 2 => {
            if let Some(conn) = world.conn(data) {
                world.shake(conn, data);
            }
        }
        3 => {
            if let Some(conn) = world.conn(data) {
                let bytes = data.long().to_vec();
                world.frame(conn, bytes);
            }
        }
        4 => {
            if let Some(conn) = world.conn(data) {
                let plaintext = data.long();
                world.say(conn, plaintext);
            }
        }
        5 | 6 => {
            if let Some(conn) = world.conn(data) {
                let message = world.message(data);
                world.say(conn, &message.encode());
            }
        }
        7 => {
            if let Some(conn) = world.conn(data) {
                let mut plaintext = world.message(data).encode();
                let at = usize::from(data.u16()) % plaintext.len();
                plaintext[at] ^= data.u8();
                world.say(conn, &plaintext);
            }
        }
        8 => {
            let conn = world.conn(data);
            if let Some((conn, state)) = conn.and_then(|conn| Some((conn, world.conns.get_mut(&conn)?)))
                && std::mem::take(&mut state.in_flight)
            {
                world.give(Input::Written { conn });
            }
        }
        9 => {
            if let Some(conn) = world.conn(data) {
                world.conns.remove(&conn);
                world.closed.insert(conn);
                world.give(Input::Closed { conn });
            }
        }
        10 => {
            if let Some(token) = world.writes.pop_front() {
                world.give(Input::Persisted(token));
            }
        }
        11 => {
            let step = Duration::from_millis(u64::from(data.u16()));
            world.pass_time(step);
        }
        12 => {
            let good = data.coin();
            if let Some(conn) = world.dials.pop_front() {
                if good {
                    let remote = address(data.below(3));
                    world.opened(conn);
                    world.give(Input::Dialled { conn, remote });
                } else {
                    world.closed.insert(conn);
                    let why = "no route".into();
                    world.give(Input::DialFailed { conn, why });
                }
            }
        }
        13 => {
            let text = String::from_utf8_lossy(data.short()).into_owned();
            let target = if text.is_empty() {
                address(data.below(4)).to_string()
            } else {
                text
            };
            if data.coin() {
                world.give(Input::RemoveTarget(target));
            } else {
                world.give(Input::AddTarget(target));
            }
        }
        14 => {
            let kind = KindNumber(u16::from(data.u8()));
            let body = data.short().to_vec();
            world.give(Input::SetRecord { kind, body });
        }
        _ => match data.u8() {
            255 => world.give(Input::Shutdown),
            n => {
                let to = key(usize::from(n) % IDENTITIES).id();
                let bytes = data.short().to_vec();
                world.give(Input::SendTo { to, bytes });
            }
        },
    }
}

/// Programs that come far.
pub fn machine_seeds() -> Vec<Vec<u8>> {
    // Hello: the member's, without faults.
    const SHAKE: [u8; 5] = [1, 0, 0, 0, 0];
    const SHAKEN: [u8; 4] = [1, 0, 0, 0];
    const ACCEPT: [u8; 2] = [0, 1];
    let link = [&ACCEPT[..], &SHAKE, &SHAKEN].concat();
    let beat = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0];
    let record = [5, 0, 6, 0, 0, 0, 0, 2];
    let admit = [&ACCEPT[..], &[1, 0, 1, 1, 2], &[1, 0, 1, 1], &[5, 0, 1]].concat();
    let welcome = [&[12, 1, 1][..], &[1, 0, 0, 0, 2], &SHAKEN, &[5, 0, 2, 2, 1]].concat();
    vec![
        [&[0, 0][..], &link, &beat, &record, &[11, 4, 0], &beat].concat(),
        [&[0, 0][..], &admit, &beat, &record].concat(),
        [&[1, 0][..], &[11, 0, 1], &welcome, &beat].concat(),
        [&[0, 3][..], &link, &beat, &[8, 0, 10, 11, 0xff, 0xff]].concat(),
        [
            &[0, 0][..],
            &link,
            &beat,
            &[15, 1, 3, 1, 2, 3],
            &[4, 0, 0, 2, 4, 0],
            &[9, 0],
        ]
        .concat(),
        [&[0, 0][..], &link, &beat, &[5, 0, 7, 0, 0, 4, 9, 0xff, 0xff]].concat(),
    ]
}
