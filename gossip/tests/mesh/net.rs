//! The simulated world: hosts with disks, connections with delays, one clock.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use weft_gossip::status::LinkStage;
use weft_gossip::{
    ConnId, DialTarget, DurableState, Identity, Input, JoinToken, Mesh, MeshConfig, MeshEvent, Output,
    PersistToken,
};
use weft_wire::record::{Body, Genesis, PeerRecord};
use weft_wire::{ClusterSecret, NodeId, NodeKey, NoiseKeypair, Psk, Time, codec};

pub(crate) type HostIndex = usize;

/// Everything about a host that outlives its process.
pub(crate) struct Host {
    pub(crate) mesh: Option<Mesh>,
    pub(crate) key: NodeKey,
    pub(crate) noise: NoiseKeypair,
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<Psk>,
    pub(crate) disk: Option<DurableState>,
    pub(crate) targets: Vec<String>,
    pub(crate) incarnation: u64,
    pub(crate) boot_nonce: u64,
    pub(crate) events: Vec<(Time, MeshEvent)>,
    /// Frames are given to the kernel, which never takes them.
    pub(crate) withhold_written: bool,
    /// The disk never answers.
    pub(crate) withhold_persisted: bool,
    /// Frames from it vanish, connections stay.
    pub(crate) silent: bool,
    /// Its record names an address at which nobody reaches it.
    pub(crate) hidden: bool,
    pub(crate) dials: u64,
    pub(crate) sent_frames: u64,
    pub(crate) sent_octets: u64,
    pub(crate) persists: u64,
    timeout: Option<Time>,
    generation: u64,
    accepted: u64,
    pipes: BTreeMap<ConnId, usize>,
}

struct Pipe {
    ends: [(HostIndex, u64, ConnId); 2],
    /// Nothing overtakes within a direction.
    last_arrival: [Time; 2],
    open: bool,
}

enum Happening {
    Connect {
        host: HostIndex,
        generation: u64,
        conn: ConnId,
        to: SocketAddr,
    },
    Input {
        host: HostIndex,
        generation: u64,
        input: Input,
    },
    Persisted {
        host: HostIndex,
        generation: u64,
        token: PersistToken,
        state: DurableState,
    },
}

pub(crate) struct Net {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    pipes: Vec<Pipe>,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    pub(crate) rng: ChaCha20Rng,
    /// Shortest and longest delay of a frame, a connection or the disk, in microseconds.
    pub(crate) delay_us: (u64, u64),
}

pub(crate) fn token(number: u8) -> Psk {
    JoinToken::generate(&mut ChaCha20Rng::from_seed([number; 32])).psk()
}

pub(crate) fn genesis(founder: NodeId, number: u8) -> Genesis {
    Genesis {
        founders: vec![founder],
        nonce: [number; 16],
        range: "10.32.0.0/12".parse().unwrap(),
        slot_size: 16,
    }
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            hosts: Vec::new(),
            pipes: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            delay_us: (100, 5_000),
        }
    }

    /// A host that is not started yet.
    pub(crate) fn add(&mut self, token: Option<Psk>, targets: &[HostIndex]) -> HostIndex {
        let index = self.hosts.len();
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let address = |i: usize| SocketAddr::from(([10, 0, (i / 250) as u8, (i % 250) as u8], 6783));
        self.hosts.push(Host {
            mesh: None,
            key: NodeKey::from_seed(seed),
            noise: NoiseKeypair::generate(&mut self.rng).unwrap(),
            address: address(index),
            token,
            disk: None,
            targets: targets.iter().map(|t| address(*t).to_string()).collect(),
            incarnation: 0,
            boot_nonce: 0,
            events: Vec::new(),
            withhold_written: false,
            withhold_persisted: false,
            silent: false,
            hidden: false,
            dials: 0,
            sent_frames: 0,
            sent_octets: 0,
            persists: 0,
            timeout: None,
            generation: 0,
            accepted: 0,
            pipes: BTreeMap::new(),
        });
        index
    }

    /// A host that has founded a cluster.
    pub(crate) fn add_founder(&mut self, number: u8, token: Option<Psk>, targets: &[HostIndex]) -> HostIndex {
        let index = self.add(token, targets);
        let secret = ClusterSecret {
            number: 1,
            key: [number; 32],
        };
        let founder = self.hosts[index].key.id();
        self.hosts[index].disk = Some(DurableState::founded(genesis(founder, number), secret));
        index
    }

    pub(crate) fn id(&self, host: HostIndex) -> NodeId {
        self.hosts[host].key.id()
    }

    pub(crate) fn mesh(&self, host: HostIndex) -> &Mesh {
        self.hosts[host].mesh.as_ref().unwrap()
    }

    pub(crate) fn peer_record(&self, host: HostIndex) -> PeerRecord {
        let host = &self.hosts[host];
        PeerRecord {
            name: "host".into(),
            noise_static: host.noise.public(),
            endpoints: match host.hidden {
                true => vec![SocketAddr::from(([192, 0, 2, 1], 6783))],
                false => vec![host.address],
            },
            underlay_mtu: 1_500,
            capabilities: 0,
            zone: String::new(),
            version: "test".into(),
            boot_nonce: host.boot_nonce,
        }
    }

    /// Starts a process on the host, with what its disk holds.
    pub(crate) fn start(&mut self, index: HostIndex) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let boot_nonce = self.rng.next_u64();
        let host = &mut self.hosts[index];
        host.incarnation += 1;
        host.boot_nonce = boot_nonce;
        host.generation += 1;
        host.pipes.clear();
        host.withhold_persisted = false;
        let state = host
            .disk
            .clone()
            .map(|s| DurableState::decode(&s.encode()).unwrap());
        host.mesh = Some(
            Mesh::new(MeshConfig {
                identity: Identity {
                    key: host.key.clone(),
                    noise: host.noise.clone(),
                    incarnation: host.incarnation,
                    boot_nonce,
                    name: format!("host-{index}"),
                },
                token: host.token.clone(),
                durable: state,
                targets: host.targets.clone(),
                capabilities: 0,
                seed,
            })
            .unwrap(),
        );
        let record = self.peer_record(index);
        self.give(
            index,
            Input::SetRecord {
                kind: PeerRecord::KIND,
                body: codec::encode(&record),
            },
        );
    }

    pub(crate) fn start_all(&mut self) {
        for index in 0..self.hosts.len() {
            self.start(index);
        }
    }

    /// Ends the process: connections break, what was not on disk is gone.
    pub(crate) fn kill(&mut self, index: HostIndex) {
        self.hosts[index].mesh = None;
        self.hosts[index].timeout = None;
        self.hosts[index].generation += 1;
        let pipes: Vec<usize> = std::mem::take(&mut self.hosts[index].pipes)
            .into_values()
            .collect();
        for pipe in pipes {
            self.break_pipe(pipe, index);
        }
    }

    /// Breaks every connection between two hosts.
    pub(crate) fn cut(&mut self, a: HostIndex, b: HostIndex) {
        let pipes: Vec<usize> = self.hosts[a].pipes.values().copied().collect();
        for pipe in pipes {
            let [(one, _, first), (other, _, second)] = self.pipes[pipe].ends;
            if [one, other] == [a, b] || [one, other] == [b, a] {
                for (host, conn) in [(one, first), (other, second)] {
                    self.hosts[host].pipes.remove(&conn);
                }
                self.break_pipe(pipe, a);
                self.pipes[pipe].open = true;
                self.break_pipe(pipe, b);
            }
        }
    }

    fn delay(&mut self) -> Duration {
        let (low, high) = self.delay_us;
        Duration::from_micros(low + self.rng.next_u64() % (high - low + 1))
    }

    fn at(&mut self, time: Time, what: Happening) {
        self.sequence += 1;
        self.queue.insert((time, self.sequence), what);
    }

    /// Tells the end that is not `by` that the connection is over.
    fn break_pipe(&mut self, pipe: usize, by: HostIndex) {
        let delay = self.delay();
        let pipe = &mut self.pipes[pipe];
        if !pipe.open {
            return;
        }
        pipe.open = false;
        let side = usize::from(pipe.ends[0].0 == by);
        let (host, generation, conn) = pipe.ends[side];
        let time = (self.now + delay).max(pipe.last_arrival[side]);
        pipe.last_arrival[side] = time;
        let input = Input::Closed { conn };
        self.at(
            time,
            Happening::Input {
                host,
                generation,
                input,
            },
        );
    }

    /// Feeds one input and carries out what comes of it.
    pub(crate) fn give(&mut self, index: HostIndex, input: Input) {
        let Some(mesh) = &mut self.hosts[index].mesh else {
            return;
        };
        mesh.handle(self.now, input);
        while let Some(output) = self.hosts[index].mesh.as_mut().and_then(Mesh::poll_output) {
            self.carry_out(index, output);
        }
        self.hosts[index].timeout = self.hosts[index].mesh.as_ref().and_then(Mesh::poll_timeout);
    }

    fn carry_out(&mut self, index: HostIndex, output: Output) {
        let generation = self.hosts[index].generation;
        let delay = self.delay();
        match output {
            Output::Dial { conn, to } => {
                self.hosts[index].dials += 1;
                let DialTarget::Address(to) = to else {
                    let input = Input::DialFailed {
                        conn,
                        why: "no such name".into(),
                    };
                    return self.at(
                        self.now + delay,
                        Happening::Input {
                            host: index,
                            generation,
                            input,
                        },
                    );
                };
                self.at(
                    self.now + delay,
                    Happening::Connect {
                        host: index,
                        generation,
                        conn,
                        to,
                    },
                );
            }
            Output::Send { conn, frame } => {
                assert!(frame.len() <= 65_535, "a frame must fit its length field");
                let host = &mut self.hosts[index];
                host.sent_frames += 1;
                host.sent_octets += frame.len() as u64;
                if host.withhold_written {
                    return;
                }
                let silent = host.silent;
                let Some(&pipe) = host.pipes.get(&conn) else {
                    return;
                };
                let input = Input::Written { conn };
                self.at(
                    self.now + delay / 4,
                    Happening::Input {
                        host: index,
                        generation,
                        input,
                    },
                );
                let pipe = &mut self.pipes[pipe];
                if silent || !pipe.open {
                    return;
                }
                let side = usize::from(pipe.ends[0].0 == index && pipe.ends[0].2 == conn);
                let (host, generation, to) = pipe.ends[side];
                let time = (self.now + delay).max(pipe.last_arrival[side]);
                pipe.last_arrival[side] = time;
                let input = Input::Frame {
                    conn: to,
                    bytes: frame,
                };
                self.at(
                    time,
                    Happening::Input {
                        host,
                        generation,
                        input,
                    },
                );
            }
            Output::Close { conn } => {
                if let Some(pipe) = self.hosts[index].pipes.remove(&conn) {
                    self.break_pipe(pipe, index);
                }
            }
            Output::Persist { token, state } => {
                self.hosts[index].persists += 1;
                if !self.hosts[index].withhold_persisted {
                    self.at(
                        self.now + delay,
                        Happening::Persisted {
                            host: index,
                            generation,
                            token,
                            state,
                        },
                    );
                }
            }
            Output::Event(event) => self.hosts[index].events.push((self.now, event)),
        }
    }

    fn connect(&mut self, host: HostIndex, generation: u64, conn: ConnId, to: SocketAddr) {
        let delay = self.delay();
        let listener = self
            .hosts
            .iter()
            .position(|h| h.address == to && h.mesh.is_some());
        let Some(listener) = listener else {
            let input = Input::DialFailed {
                conn,
                why: "connection refused".into(),
            };
            return self.at(
                self.now + delay,
                Happening::Input {
                    host,
                    generation,
                    input,
                },
            );
        };
        self.hosts[listener].accepted += 1;
        let accepted = ConnId::Accepted(self.hosts[listener].accepted);
        let pipe = self.pipes.len();
        let time = self.now + delay;
        self.pipes.push(Pipe {
            ends: [
                (host, generation, conn),
                (listener, self.hosts[listener].generation, accepted),
            ],
            last_arrival: [time, self.now],
            open: true,
        });
        self.hosts[host].pipes.insert(conn, pipe);
        self.hosts[listener].pipes.insert(accepted, pipe);
        let input = Input::Dialled { conn, remote: to };
        self.at(
            time,
            Happening::Input {
                host,
                generation,
                input,
            },
        );
        let from = SocketAddr::new(self.hosts[host].address.ip(), 40_000 + (pipe % 20_000) as u16);
        self.give(listener, Input::Accepted { conn: accepted, from });
    }

    /// Lets the next thing happen, unless it is later than `until`. Returns false when it is.
    pub(crate) fn step(&mut self, until: Time) -> bool {
        let timeout = |(i, h): (usize, &Host)| Some((h.timeout?, i));
        let tick = self.hosts.iter().enumerate().filter_map(timeout).min();
        let next = self.queue.keys().next().copied();
        match (tick, next) {
            (Some((time, host)), next) if time <= until && next.is_none_or(|(n, _)| time <= n) => {
                self.now = self.now.max(time);
                self.give(host, Input::Tick);
                true
            }
            (_, Some(key)) if key.0 <= until => {
                self.now = self.now.max(key.0);
                match self.queue.remove(&key).unwrap() {
                    Happening::Connect {
                        host,
                        generation,
                        conn,
                        to,
                    } => {
                        if self.hosts[host].generation == generation {
                            self.connect(host, generation, conn, to);
                        }
                    }
                    Happening::Input {
                        host,
                        generation,
                        input,
                    } => {
                        if self.hosts[host].generation == generation {
                            if let Input::Closed { conn } = &input {
                                self.hosts[host].pipes.remove(conn);
                            }
                            self.give(host, input);
                        }
                    }
                    Happening::Persisted {
                        host,
                        generation,
                        token,
                        state,
                    } => {
                        if self.hosts[host].generation == generation {
                            self.hosts[host].disk = Some(state);
                            self.give(host, Input::Persisted(token));
                        }
                    }
                }
                true
            }
            _ => {
                self.now = self.now.max(until);
                false
            }
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.step(until) {}
    }

    /// Runs until `done`, which must be within `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&Net) -> bool) {
        let until = self.now + limit;
        while !done(self) {
            assert!(self.step(until), "not within {limit:?}: {what}");
        }
    }

    /// Links from one host to another that stand at this end.
    pub(crate) fn ups(&self, from: HostIndex, to: HostIndex) -> usize {
        let Some(mesh) = &self.hosts[from].mesh else {
            return 0;
        };
        let node = self.id(to);
        mesh.links()
            .iter()
            .filter(|l| l.stage == LinkStage::Up && l.node == Some(node))
            .count()
    }

    pub(crate) fn linked(&self, a: HostIndex, b: HostIndex) -> bool {
        self.ups(a, b) > 0 && self.ups(b, a) > 0
    }

    pub(crate) fn has_event(&self, host: HostIndex, test: impl Fn(&MeshEvent) -> bool) -> bool {
        self.hosts[host].events.iter().any(|(_, event)| test(event))
    }

    /// True when all these hosts are members of one cluster and hold the same records.
    pub(crate) fn agree(&self, hosts: &[HostIndex]) -> bool {
        let view = |host: &HostIndex| {
            let mesh = self.hosts[*host].mesh.as_ref()?;
            Some((mesh.membership()?.id(), mesh.registers().fingerprint()))
        };
        let first = view(&hosts[0]);
        first.is_some() && hosts.iter().all(|host| view(host) == first)
    }
}
