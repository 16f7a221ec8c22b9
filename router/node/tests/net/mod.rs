//! Nodes with connections, datagrams and kernels between them in memory, and a clock that the test moves.
#![allow(dead_code, reason = "each program of tests uses a part")]

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use weft_fastpath::View;
use weft_gossip::{ConnId, DialTarget, DurableState, Identity, Input as Mesh, JoinToken};
use weft_ipam_crdt::{IpamState, RequestId, Role};
use weft_node::report::EngineReport;
use weft_node::{EngineCommand, Input, MeshCommand, Node, NodeConfig, Output};
use weft_sleeve::{Cipher, ForwardingTable, Probe};
use weft_wire::api::{ApiError, PodPlan, Status};
use weft_wire::fastpath::Settings;
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, DropReason, NodeKey, NoiseKeypair, SessionIndex, Time};

pub(crate) const STEP: Duration = Duration::from_millis(5);

/// One host: its node and what the shell around it would hold.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) address: SocketAddr,
    pub(crate) table: Option<ForwardingTable>,
    /// By our index: the other end's, and whether something has come under it.
    pub(crate) sessions: BTreeMap<SessionIndex, (SessionIndex, bool)>,
    /// What its kernel is to look like, which is what it looks like at once.
    pub(crate) kernel: View,
    pub(crate) keepalives: Vec<SessionIndex>,
    pub(crate) stored: Option<DurableState>,
    pub(crate) ipam: Option<IpamState>,
    pub(crate) settings: Settings,
    pub(crate) answers: Vec<(RequestId, Result<PodPlan, ApiError>)>,
}

/// Hosts, and what is under way between them.
pub(crate) struct Net {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    /// The other end of each connection.
    pub(crate) links: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    pub(crate) accepted: u64,
    /// No probe passes through the kernels.
    pub(crate) is_cut: bool,
    pub(crate) inputs: VecDeque<(usize, Event)>,
}

pub(crate) enum Event {
    Mesh(Mesh),
    Datagram(SocketAddr, Vec<u8>),
    Opened(SessionIndex, SocketAddr),
    Probed(SessionIndex, Probe),
    KernelProbe(Vec<u8>),
    KernelFollows(bool),
    IpamPersisted(weft_ipam_crdt::PersistToken),
}

pub(crate) fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], 6783))
}

pub(crate) fn config(
    host: usize,
    durable: Option<DurableState>,
    incarnation: u64,
    targets: &[usize],
) -> NodeConfig {
    let seed = [host as u8 + 1; 32];
    let token = JoinToken::generate(&mut ChaCha20Rng::from_seed([99; 32]));
    NodeConfig {
        identity: Identity {
            key: NodeKey::from_seed(seed),
            noise: NoiseKeypair::generate(&mut ChaCha20Rng::from_seed(seed)).expect("X25519"),
            incarnation,
            boot_nonce: incarnation * 100 + host as u64,
            name: format!("host{host}"),
        },
        token: Some(token.psk()),
        durable,
        agreement: None,
        role: Role::Owner,
        ipam: None,
        claims: Vec::new(),
        targets: targets.iter().map(|t| address(*t).to_string()).collect(),
        endpoints: vec![address(host)],
        underlay_mtu: if host == 1 { 1450 } else { 1500 },
        mtu: None,
        bridge: "weft".into(),
        version: "test".into(),
        ciphers: vec![Cipher::Aes256Gcm],
        fastpath: weft_node::FastpathConfig::default(),
        seed: [host as u8 + 10 * incarnation as u8; 32],
    }
}

pub(crate) fn founded() -> DurableState {
    let founder = NodeKey::from_seed([1; 32]).id();
    let range = "10.32.0.0/24".parse().expect("a CIDR");
    DurableState::founded(
        Genesis {
            founders: vec![founder],
            nonce: [5; 16],
            range,
            slot_size: 1,
        },
        ClusterSecret {
            number: 1,
            key: [6; 32],
        },
    )
}

impl Net {
    pub(crate) fn new(configs: Vec<NodeConfig>) -> Self {
        let hosts = configs.into_iter().enumerate().map(|(i, config)| Host {
            stored: config.durable.clone(),
            ipam: config
                .durable
                .as_ref()
                .map(|d| IpamState::genesis(d.genesis()).expect("a range that works")),
            settings: config.fastpath.settings,
            answers: Vec::new(),
            node: Node::new(Time::ZERO, config).expect("a state that holds"),
            address: address(i),
            table: None,
            sessions: BTreeMap::new(),
            kernel: View::new(1_366),
            keepalives: Vec::new(),
        });
        let mut net = Self {
            now: Time::ZERO,
            hosts: hosts.collect(),
            links: BTreeMap::new(),
            accepted: 0,
            is_cut: false,
            inputs: VecDeque::new(),
        };
        for host in 0..net.hosts.len() {
            net.feed(host, Input::Timeout);
        }
        net
    }

    pub(crate) fn feed(&mut self, host: usize, input: Input<'_>) {
        self.hosts[host].node.handle(self.now, input);
        while let Some(output) = self.hosts[host].node.poll_output() {
            self.output(host, output);
        }
    }

    fn output(&mut self, host: usize, output: Output) {
        match output {
            Output::Mesh(MeshCommand::Dial { conn, to }) => {
                let DialTarget::Address(to) = to else {
                    panic!("the tests name addresses only")
                };
                let Some(other) = self.hosts.iter().position(|h| h.address == to) else {
                    return self.inputs.push_back((
                        host,
                        Event::Mesh(Mesh::DialFailed {
                            conn,
                            why: "nobody".into(),
                        }),
                    ));
                };
                self.accepted += 1;
                let theirs = ConnId::Accepted(self.accepted);
                self.links.insert((host, conn), (other, theirs));
                self.links.insert((other, theirs), (host, conn));
                let from = self.hosts[host].address;
                self.inputs
                    .push_back((host, Event::Mesh(Mesh::Dialled { conn, remote: to })));
                self.inputs
                    .push_back((other, Event::Mesh(Mesh::Accepted { conn: theirs, from })));
            }
            Output::Mesh(MeshCommand::Send { conn, frame }) => {
                if let Some((other, theirs)) = self.links.get(&(host, conn)).copied() {
                    self.inputs.push_back((
                        other,
                        Event::Mesh(Mesh::Frame {
                            conn: theirs,
                            bytes: frame,
                        }),
                    ));
                }
                self.inputs.push_back((host, Event::Mesh(Mesh::Written { conn })));
            }
            Output::Mesh(MeshCommand::Close { conn }) => {
                if let Some((other, theirs)) = self.links.remove(&(host, conn)) {
                    self.links.remove(&(other, theirs));
                    self.inputs
                        .push_back((other, Event::Mesh(Mesh::Closed { conn: theirs })));
                }
            }
            Output::Persist { token, state } => {
                self.hosts[host].stored = Some(state);
                self.inputs.push_back((host, Event::Mesh(Mesh::Persisted(token))));
            }
            Output::Engine(EngineCommand::Install(keys)) => {
                let before = self.hosts[host].sessions.insert(keys.local, (keys.remote, false));
                assert_eq!(before, None, "installed twice");
            }
            Output::Engine(EngineCommand::Remove(local)) => {
                self.hosts[host].sessions.remove(&local);
            }
            Output::Engine(EngineCommand::Guard(cores)) => assert!(!cores.is_empty()),
            Output::Engine(EngineCommand::Publish(table)) => self.hosts[host].table = Some(table),
            Output::Engine(EngineCommand::Send { to, bytes }) => {
                if let Some(other) = self.hosts.iter().position(|h| h.address == to) {
                    let from = self.hosts[host].address;
                    self.inputs.push_back((other, Event::Datagram(from, bytes)));
                }
            }
            Output::Engine(EngineCommand::Keepalive(local)) => {
                // What the engine would do: seal under the session that the table has for the peer. The other end reports
                // the first datagram that opens.
                self.hosts[host].keepalives.push(local);
                let table = self.hosts[host]
                    .table
                    .as_ref()
                    .expect("a table comes before a keepalive");
                let named = table.peers.iter().any(|path| path.session == Some(local));
                assert!(named, "the table names the session");
                self.arrives(host, local);
            }
            Output::Engine(EngineCommand::Probe(local, probe)) => {
                let table = self.hosts[host].table.as_ref();
                let path = table.and_then(|t| t.peers.iter().find(|p| p.session == Some(local)));
                assert!(
                    path.is_some_and(|path| path.ready().is_some()),
                    "a table comes before a probe"
                );
                if self.arrives(host, local) {
                    self.inputs.push_back((host, Event::Probed(local, probe)));
                }
            }
            Output::PersistAgreement { .. } => panic!("nobody was told to agree"),
            Output::PersistIpam { token, changes } => {
                let Host { stored, ipam, .. } = &mut self.hosts[host];
                let stored = stored.as_ref().expect("membership is stored before addresses");
                let fresh = || IpamState::genesis(stored.genesis()).expect("a range that works");
                let state = ipam.take().unwrap_or_else(fresh);
                *ipam = Some(changes.iter().fold(state, |mut state, change| {
                    state.apply(change);
                    state
                }));
                self.inputs.push_back((host, Event::IpamPersisted(token)));
            }
            Output::Allocated { request, result } => self.hosts[host].answers.push((request, result)),
            Output::Removal { .. } => {}
            Output::Freed { request, addresses } => {
                assert!(!addresses.is_empty(), "{request:?}");
            }
            Output::BeginAgain(_) | Output::PersistClaims(_) | Output::Adopted(_) => {
                panic!("nobody begins again here")
            }
            Output::Kernel(view) => {
                self.inputs
                    .push_back((host, Event::KernelFollows(view.vxlan.is_some())));
                self.hosts[host].kernel = *view;
            }
            Output::KernelProbe { to, frame } => {
                let has_way = |host: &Host| {
                    host.kernel
                        .vxlan
                        .as_ref()
                        .is_some_and(|vxlan| vxlan.probes.values().any(|at| *at == to))
                };
                let from = self.hosts[host].address.ip();
                let other = self.hosts.iter().position(|h| h.address.ip() == to);
                if let Some(other) = other.filter(|_| has_way(&self.hosts[host]) && !self.is_cut)
                    && let Some(vxlan) = &self.hosts[other].kernel.vxlan
                    && vxlan.accepted.contains(&from)
                {
                    self.inputs.push_back((other, Event::KernelProbe(frame)));
                }
            }
            Output::PersistSettings(settings) => self.hosts[host].settings = settings,
            Output::Notice(_) => {}
        }
    }

    /// A datagram that a host seals under a session. False when nobody opens it; the first that is opened is reported.
    fn arrives(&mut self, host: usize, local: SessionIndex) -> bool {
        let Some((remote, _)) = self.hosts[host].sessions.get(&local).copied() else {
            return false;
        };
        let from = self.hosts[host].address;
        let holder = |other: &Host| other.sessions.contains_key(&remote);
        let Some(other) = self.hosts.iter().position(holder) else {
            return false;
        };
        if let Some((_, opened)) = self.hosts[other].sessions.get_mut(&remote)
            && !core::mem::replace(opened, true)
        {
            self.inputs.push_back((other, Event::Opened(remote, from)));
        }
        true
    }

    pub(crate) fn run_until(&mut self, what: &str, limit: Duration, done: impl Fn(&Net) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(
                self.now < end,
                "{what}: not within {limit:?}; {:#?}",
                self.status(0)
            );
            while let Some((host, event)) = self.inputs.pop_front() {
                match event {
                    Event::Mesh(input) => self.feed(host, Input::Mesh(input)),
                    Event::Datagram(from, bytes) => self.feed(host, Input::Handshake { from, bytes: &bytes }),
                    Event::IpamPersisted(token) => self.feed(host, Input::IpamPersisted(token)),
                    Event::Opened(local, from) => self.feed(
                        host,
                        Input::Opened {
                            local,
                            from: Some(from),
                        },
                    ),
                    // Host 1's underlay has an MTU of 1,450.
                    Event::Probed(local, probe) if probe.size > 1_450 - 28 => {
                        self.feed(host, Input::ProbeRefused { local, probe });
                    }
                    Event::Probed(local, probe) => self.feed(host, Input::ProbeAnswered { local, probe }),
                    Event::KernelProbe(frame) => self.feed(host, Input::KernelProbe(&frame)),
                    Event::KernelFollows(has_vxlan) => self.feed(host, Input::KernelFollows { has_vxlan }),
                }
            }
            self.now = self.now + STEP;
            for host in 0..self.hosts.len() {
                if self.hosts[host].node.poll_timeout() <= self.now {
                    self.feed(host, Input::Timeout);
                }
            }
        }
    }

    pub(crate) fn status(&self, host: usize) -> Status {
        let engine = EngineReport {
            name: "none".into(),
            degradations: vec![],
            drops: [0; DropReason::COUNT],
            traffic: BTreeMap::new(),
            relayed: Default::default(),
        };
        self.hosts[host].node.status(self.now, &engine)
    }

    /// True when frames can travel from one host to the other.
    pub(crate) fn ready(&self, from: usize, to: usize) -> bool {
        let peer = self.hosts[to].node.id();
        let path = self.hosts[from]
            .table
            .as_ref()
            .and_then(|t| t.peers.iter().find(|p| p.peer == peer));
        path.is_some_and(|path| path.ready().is_some())
    }
}

pub(crate) fn joined_pair() -> Net {
    let mut net = Net::new(vec![config(0, Some(founded()), 1, &[]), config(1, None, 1, &[0])]);
    net.run_until("two hosts", Duration::from_secs(5), |net| {
        net.ready(0, 1) && net.ready(1, 0)
    });
    net
}
