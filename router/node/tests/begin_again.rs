//! Nodes that leave their cluster for another one, with connections and datagrams between them in memory.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use weft_gossip::{ConnId, DialTarget, DurableState, Identity, Input as Mesh, JoinToken};
use weft_ipam_crdt::{Claim, IpamState, Request, RequestId, Role};
use weft_node::{EngineCommand, Input, MeshCommand, Node, NodeConfig, Output};
use weft_sleeve::{Cipher, ForwardingTable, SessionKeys};
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, GenesisId, NodeId, NodeKey, NoiseKeypair, SessionIndex, Time};

const STEP: Duration = Duration::from_millis(5);

struct Host {
    node: Node,
    address: SocketAddr,
    table: Option<ForwardingTable>,
    /// Each session with the index of its other end, and whether a datagram has come under it.
    sessions: BTreeMap<SessionIndex, (SessionIndex, bool)>,
    stored: Option<DurableState>,
    ipam: Option<IpamState>,
    claims: Vec<Claim>,
    begun: usize,
    adopted: Vec<Result<weft_wire::api::Adopted, String>>,
    given: Vec<Result<weft_wire::api::PodPlan, weft_wire::api::ApiError>>,
}

enum Event {
    Mesh(Mesh),
    Datagram(SocketAddr, Vec<u8>),
    Opened(SessionIndex, SocketAddr),
    IpamPersisted(weft_ipam_crdt::PersistToken),
    BeganAgain,
}

struct Net {
    now: Time,
    hosts: Vec<Host>,
    links: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    accepted: u64,
    inputs: VecDeque<(usize, Event)>,
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], 6783))
}

fn key(host: usize) -> NodeKey {
    NodeKey::from_seed([host as u8 + 1; 32])
}

/// A cluster that this host has founded.
fn founded(host: usize, nonce: u8) -> DurableState {
    let genesis = Genesis {
        founders: vec![key(host).id()],
        nonce: [nonce; 16],
        range: "10.32.0.0/24".parse().unwrap(),
        slot_size: 1,
    };
    DurableState::founded(
        genesis,
        ClusterSecret {
            number: 1,
            key: [nonce; 32],
        },
    )
}

fn config(host: usize, durable: Option<DurableState>, targets: &[usize]) -> NodeConfig {
    let seed = [host as u8 + 1; 32];
    let token = JoinToken::generate(&mut ChaCha20Rng::from_seed([99; 32]));
    NodeConfig {
        identity: Identity {
            key: key(host),
            noise: NoiseKeypair::generate(&mut ChaCha20Rng::from_seed(seed)).unwrap(),
            incarnation: 1,
            boot_nonce: host as u64,
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
        underlay_mtu: 1500,
        mtu: None,
        bridge: "weft".into(),
        version: "test".into(),
        ciphers: vec![Cipher::Aes256Gcm],
        fastpath: weft_node::FastpathConfig::default(),
        seed: [host as u8 + 50; 32],
    }
}

impl Net {
    fn new(configs: Vec<NodeConfig>) -> Self {
        let host = |(at, config): (usize, NodeConfig)| Host {
            stored: config.durable.clone(),
            ipam: config
                .durable
                .as_ref()
                .map(|d| IpamState::genesis(d.genesis()).unwrap()),
            node: Node::new(Time::ZERO, config).unwrap(),
            address: address(at),
            table: None,
            sessions: BTreeMap::new(),
            claims: Vec::new(),
            begun: 0,
            adopted: Vec::new(),
            given: Vec::new(),
        };
        let mut net = Self {
            now: Time::ZERO,
            hosts: configs.into_iter().enumerate().map(host).collect(),
            links: BTreeMap::new(),
            accepted: 0,
            inputs: VecDeque::new(),
        };
        for host in 0..net.hosts.len() {
            net.feed(host, Input::Timeout);
        }
        net
    }

    fn feed(&mut self, host: usize, input: Input<'_>) {
        self.hosts[host].node.handle(self.now, input);
        while let Some(output) = self.hosts[host].node.poll_output() {
            self.output(host, output);
        }
    }

    fn at(&self, address: SocketAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.address == address)
    }

    fn output(&mut self, host: usize, output: Output) {
        let tell = |event| (host, event);
        match output {
            Output::Mesh(MeshCommand::Dial { conn, to }) => {
                let DialTarget::Address(to) = to else {
                    panic!("the tests name addresses only")
                };
                let other = self.at(to).unwrap();
                self.accepted += 1;
                let theirs = ConnId::Accepted(self.accepted);
                self.links.insert((host, conn), (other, theirs));
                self.links.insert((other, theirs), (host, conn));
                let from = self.hosts[host].address;
                self.inputs
                    .push_back(tell(Event::Mesh(Mesh::Dialled { conn, remote: to })));
                let accepted = Mesh::Accepted { conn: theirs, from };
                self.inputs.push_back((other, Event::Mesh(accepted)));
            }
            Output::Mesh(MeshCommand::Send { conn, frame }) => {
                if let Some((other, theirs)) = self.links.get(&(host, conn)).copied() {
                    let frame = Mesh::Frame {
                        conn: theirs,
                        bytes: frame,
                    };
                    self.inputs.push_back((other, Event::Mesh(frame)));
                }
                self.inputs.push_back(tell(Event::Mesh(Mesh::Written { conn })));
            }
            Output::Mesh(MeshCommand::Close { conn }) => {
                if let Some((other, theirs)) = self.links.remove(&(host, conn)) {
                    self.links.remove(&(other, theirs));
                    self.inputs
                        .push_back((other, Event::Mesh(Mesh::Closed { conn: theirs })));
                }
            }
            Output::Persist { token, state } => {
                let before = self.hosts[host].stored.replace(state);
                let after = self.hosts[host].stored.as_ref().map(|state| state.genesis().id());
                let stays = before.is_none_or(|before| Some(before.genesis().id()) == after);
                assert!(stays, "what was left is not written over what replaced it");
                self.inputs.push_back(tell(Event::Mesh(Mesh::Persisted(token))));
            }
            Output::PersistIpam { token, changes } => {
                let Host { stored, ipam, .. } = &mut self.hosts[host];
                let fresh = || IpamState::genesis(stored.as_ref().unwrap().genesis()).unwrap();
                let mut state = ipam.take().unwrap_or_else(fresh);
                changes.iter().for_each(|change| state.apply(change));
                *ipam = Some(state);
                self.inputs.push_back(tell(Event::IpamPersisted(token)));
            }
            Output::BeginAgain(beginning) => {
                let this = &mut self.hosts[host];
                this.begun += 1;
                this.ipam = Some(IpamState::genesis(beginning.state.genesis()).unwrap());
                this.stored = Some(beginning.state);
                this.claims = beginning.claims;
                self.inputs.push_back(tell(Event::BeganAgain));
            }
            Output::PersistClaims(claims) => self.hosts[host].claims = claims,
            Output::Adopted(result) => self.hosts[host].adopted.push(result),
            Output::Allocated { result, .. } => self.hosts[host].given.push(result),
            Output::Engine(command) => self.engine(host, command),
            _ => {}
        }
    }

    fn engine(&mut self, host: usize, command: EngineCommand) {
        match command {
            EngineCommand::Install(keys) => {
                let SessionKeys { local, remote, .. } = &keys;
                let before = self.hosts[host].sessions.insert(*local, (*remote, false));
                assert_eq!(before, None, "installed twice");
            }
            EngineCommand::Remove(local) => {
                self.hosts[host].sessions.remove(&local);
            }
            EngineCommand::Publish(table) => self.hosts[host].table = Some(table),
            EngineCommand::Send { to, bytes } => {
                if let Some(other) = self.at(to) {
                    let from = self.hosts[host].address;
                    self.inputs.push_back((other, Event::Datagram(from, bytes)));
                }
            }
            EngineCommand::Keepalive(local) => {
                let Some((remote, _)) = self.hosts[host].sessions.get(&local).copied() else {
                    return;
                };
                let from = self.hosts[host].address;
                let holder = |other: &Host| other.sessions.contains_key(&remote);
                if let Some(other) = self.hosts.iter().position(holder)
                    && let Some((_, opened)) = self.hosts[other].sessions.get_mut(&remote)
                    && !std::mem::replace(opened, true)
                {
                    self.inputs.push_back((other, Event::Opened(remote, from)));
                }
            }
            EngineCommand::Probe(..) | EngineCommand::Guard(_) => {}
        }
    }

    /// Goes on until `done`, and looks with `always` after each step.
    fn run_until(&mut self, what: &str, limit: Duration, always: impl Fn(&Net), done: impl Fn(&Net) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.now < end, "{what}: not within {limit:?}");
            while let Some((host, event)) = self.inputs.pop_front() {
                match event {
                    Event::Mesh(input) => self.feed(host, Input::Mesh(input)),
                    Event::Datagram(from, bytes) => self.feed(host, Input::Handshake { from, bytes: &bytes }),
                    Event::Opened(local, from) => self.feed(
                        host,
                        Input::Opened {
                            local,
                            from: Some(from),
                        },
                    ),
                    Event::IpamPersisted(token) => self.feed(host, Input::IpamPersisted(token)),
                    Event::BeganAgain => self.feed(host, Input::BeganAgain),
                }
                always(self);
            }
            self.now = self.now + STEP;
            for host in 0..self.hosts.len() {
                if self.hosts[host].node.poll_timeout() <= self.now {
                    self.feed(host, Input::Timeout);
                    always(self);
                }
            }
        }
    }

    fn genesis(&self, host: usize) -> Option<GenesisId> {
        Some(self.hosts[host].stored.as_ref()?.genesis().id())
    }

    /// True when frames that a host sends to another arrive: under a session that is installed there.
    fn carries(&self, from: usize, to: usize) -> bool {
        let peers = self.hosts[from].table.iter().flat_map(|table| &table.peers);
        let mut sessions = peers
            .filter(|peer| peer.endpoint == Some(self.hosts[to].address))
            .filter_map(|peer| self.hosts[from].sessions.get(&peer.session?));
        sessions.any(|(remote, _)| self.hosts[to].sessions.contains_key(remote))
    }

    fn give(&mut self, host: usize, id: &str, address: &str) {
        let count = self.hosts[host].given.len();
        let request = Request::Claim {
            id: id.into(),
            address: address.parse().unwrap(),
            request: RequestId(count as u64 + 1),
        };
        self.feed(host, Input::Ipam(request));
        let answered = move |net: &Net| net.hosts[host].given.len() > count;
        self.run_until("an address", Duration::from_secs(20), |_| {}, answered);
        self.hosts[host].given[count].as_ref().unwrap();
    }

    fn ids(&self) -> Vec<NodeId> {
        self.hosts.iter().map(|host| host.node.id()).collect()
    }
}

#[test]
fn of_two_hosts_with_nothing_to_lose_one_yields() {
    for (first, second) in [(3, 4), (4, 3)] {
        let mut net = Net::new(vec![
            config(0, Some(founded(0, first)), &[1]),
            config(1, Some(founded(1, second)), &[0]),
        ]);
        let lower = net.genesis(0).min(net.genesis(1));
        net.run_until(
            "one cluster",
            Duration::from_secs(60),
            |_| {},
            |net| net.genesis(0) == net.genesis(1) && net.carries(0, 1) && net.carries(1, 0),
        );
        assert_eq!(net.genesis(0), lower);
        assert_eq!(net.hosts[0].begun + net.hosts[1].begun, 1);
    }
}

#[test]
fn who_has_given_out_an_address_stays() {
    let mut net = Net::new(vec![
        config(0, Some(founded(0, 3)), &[1]),
        config(1, Some(founded(1, 4)), &[]),
    ]);
    // The one whose id would make it yield.
    let holder = usize::from(net.genesis(1) > net.genesis(0));
    let request = Request::Allocate {
        id: "web".into(),
        request: RequestId(1),
    };
    net.feed(holder, Input::Ipam(request));
    let stays = net.genesis(holder);
    net.run_until(
        "one cluster",
        Duration::from_secs(60),
        |_| {},
        |net| net.genesis(0) == net.genesis(1) && net.carries(0, 1),
    );
    assert_eq!((net.genesis(holder), net.hosts[holder].begun), (stays, 0));
}

#[test]
fn a_side_moves_and_frames_between_its_hosts_arrive_all_the_time() {
    let mut net = Net::new(vec![
        config(0, Some(founded(0, 3)), &[]),
        config(1, Some(founded(1, 4)), &[]),
        config(2, None, &[1]),
    ]);
    let limit = Duration::from_secs(20);
    net.run_until(
        "a side",
        limit,
        |_| {},
        |net| net.carries(1, 2) && net.carries(2, 1),
    );
    net.give(0, "web", "10.32.0.9");
    net.give(1, "db", "10.32.0.5");
    net.give(2, "cache", "10.32.0.6");
    net.give(2, "taken", "10.32.0.9");
    let before = net.ids();
    let adopt = Input::Adopt {
        target: Some(address(0).to_string()),
        token: None,
    };
    net.feed(2, adopt);
    net.run_until(
        "all in one cluster",
        limit,
        |net| assert!(net.carries(1, 2) && net.carries(2, 1)),
        |net| {
            let one = (1..3).all(|host| net.genesis(host) == net.genesis(0));
            one && (0..3).all(|from| (0..3).all(|to| from == to || net.carries(from, to)))
        },
    );
    let [adopted] = &net.hosts[2].adopted[..] else {
        panic!("one answer")
    };
    let adopted = adopted.as_ref().unwrap();
    assert_eq!(adopted.claims, 2);
    assert_eq!(adopted.node, net.hosts[2].node.id().to_string());
    // Two answers of the address space: the claims that were free are made, the other one is kept.
    net.run_until(
        "the claims are made",
        limit,
        |_| {},
        |net| net.hosts[1].claims.is_empty() && net.hosts[2].claims.len() == 1,
    );
    let held = |host: usize, id: &str| net.hosts[host].node.addresses_of(id);
    assert_eq!(held(1, "db"), ["10.32.0.5".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(net.hosts[2].claims[0].id, "taken");
    let status = net.hosts[2].node.ipam_status(net.now).unwrap();
    assert_eq!(status.unclaimed.len(), 1);
    let after = net.ids();
    assert!(before[0] == after[0] && before[1] != after[1] && before[2] != after[2]);
}
