//! Nodes with connections and datagrams between them in memory, and a clock that the test moves.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use weft_gossip::{ConnId, DialTarget, DurableState, Identity, Input as Mesh, JoinToken};
use weft_ipam_crdt::{IpamState, Request, RequestId, Role};
use weft_node::report::EngineReport;
use weft_node::{EngineCommand, Input, MeshCommand, Node, NodeConfig, Output};
use weft_sleeve::{Cipher, Decision, ForwardingTable, Probe};
use weft_wire::api::{ApiError, ClusterStatus, LinkState, PodPlan, Status};
use weft_wire::envelope::RegisterKey;
use weft_wire::group::{Everything, GroupsRecord, Listening};
use weft_wire::record::{Body as _, Genesis};
use weft_wire::{ClusterSecret, DropReason, Group, Mac, NodeKey, NoiseKeypair, SessionIndex, Time};

const STEP: Duration = Duration::from_millis(5);

/// One host: its node and what the shell around it would hold.
struct Host {
    node: Node,
    address: SocketAddr,
    table: Option<ForwardingTable>,
    sessions: BTreeSet<SessionIndex>,
    remote_macs: BTreeSet<Mac>,
    keepalives: Vec<SessionIndex>,
    stored: Option<DurableState>,
    ipam: Option<IpamState>,
    answers: Vec<(RequestId, Result<PodPlan, ApiError>)>,
}

/// Hosts, and what is under way between them.
struct Net {
    now: Time,
    hosts: Vec<Host>,
    /// The other end of each connection.
    links: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    accepted: u64,
    inputs: VecDeque<(usize, Event)>,
}

enum Event {
    Mesh(Mesh),
    Datagram(SocketAddr, Vec<u8>),
    Opened(SessionIndex, SocketAddr),
    Probed(SessionIndex, Probe),
    IpamPersisted(weft_ipam_crdt::PersistToken),
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], 6783))
}

fn config(host: usize, durable: Option<DurableState>, incarnation: u64, targets: &[usize]) -> NodeConfig {
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
        seed: [host as u8 + 10 * incarnation as u8; 32],
    }
}

fn founded() -> DurableState {
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
    fn new(configs: Vec<NodeConfig>) -> Self {
        let hosts = configs.into_iter().enumerate().map(|(i, config)| Host {
            stored: config.durable.clone(),
            ipam: config
                .durable
                .as_ref()
                .map(|d| IpamState::genesis(d.genesis()).expect("a range that works")),
            answers: Vec::new(),
            node: Node::new(Time::ZERO, config).expect("a state that holds"),
            address: address(i),
            table: None,
            sessions: BTreeSet::new(),
            remote_macs: BTreeSet::new(),
            keepalives: Vec::new(),
        });
        let mut net = Self {
            now: Time::ZERO,
            hosts: hosts.collect(),
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
                assert!(self.hosts[host].sessions.insert(keys.local), "installed twice");
            }
            Output::Engine(EngineCommand::Remove(local)) => {
                self.hosts[host].sessions.remove(&local);
            }
            Output::Engine(EngineCommand::Publish(table)) => self.hosts[host].table = Some(table),
            Output::Engine(EngineCommand::Guard(cores)) => assert!(!cores.is_empty()),
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
                let path = table
                    .peers
                    .iter()
                    .find(|p| p.session == Some(local))
                    .expect("the table names the session");
                let other = self
                    .hosts
                    .iter()
                    .position(|h| Some(h.address) == path.endpoint)
                    .expect("with its endpoint");
                let origin = self.hosts[host].node.id();
                let pending: Vec<SessionIndex> = self.hosts[other].sessions.iter().copied().collect();
                let known = self.hosts[other]
                    .table
                    .as_ref()
                    .is_some_and(|t| t.peers.iter().any(|p| p.peer == origin && p.session.is_some()));
                if !known && let [only] = pending[..] {
                    let from = self.hosts[host].address;
                    self.inputs.push_back((other, Event::Opened(only, from)));
                }
            }
            Output::Engine(EngineCommand::Probe(local, probe)) => {
                let table = self.hosts[host].table.as_ref();
                let path = table.and_then(|t| t.peers.iter().find(|p| p.session == Some(local)));
                assert!(
                    path.is_some_and(|path| path.ready().is_some()),
                    "a table comes before a probe"
                );
                self.inputs.push_back((host, Event::Probed(local, probe)));
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
            Output::RemoteMacs(macs) => self.hosts[host].remote_macs = macs,
            Output::RemoteGroups(_) => {}
            Output::Notice(_) => {}
        }
    }

    fn run_until(&mut self, what: &str, limit: Duration, done: impl Fn(&Net) -> bool) {
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

    fn status(&self, host: usize) -> Status {
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
    fn ready(&self, from: usize, to: usize) -> bool {
        let peer = self.hosts[to].node.id();
        let path = self.hosts[from]
            .table
            .as_ref()
            .and_then(|t| t.peers.iter().find(|p| p.peer == peer));
        path.is_some_and(|path| path.ready().is_some())
    }
}

fn joined_pair() -> Net {
    let mut net = Net::new(vec![config(0, Some(founded()), 1, &[]), config(1, None, 1, &[0])]);
    net.run_until("two hosts", Duration::from_secs(5), |net| {
        net.ready(0, 1) && net.ready(1, 0)
    });
    net
}

#[test]
fn a_newcomer_joins_and_frames_can_travel_both_ways() {
    let mut net = joined_pair();
    for host in [0, 1] {
        let status = net.status(host);
        assert!(
            matches!(&status.cluster, ClusterStatus::Member { members: 2, .. }),
            "{:?}",
            status.cluster
        );
        let [peer] = &status.peers[..] else {
            panic!("one peer, not {:?}", status.peers)
        };
        assert_eq!(
            (peer.mesh, peer.mode.as_str(), peer.encrypted),
            (LinkState::Up, "sleeve", true)
        );
        assert!(status.encryption.contains("1 of 1"), "{}", status.encryption);
        // The smaller underlay, host 1's, decides: 1450 - 134.
        assert_eq!(status.pod_mtu, 1316);
    }
    net.run_until("the path is known", Duration::from_secs(1), |net| {
        (0..2).all(|host| {
            let found = net.status(host).peers[0].path_mtu.unwrap_or_default();
            let table = net.hosts[host].table.as_ref().expect("a table");
            (1_434..=1_450).contains(&found) && table.peers[0].datagram == found - 28
        })
    });
    let [a, b] = [0, 1].map(|host| net.hosts[host].stored.clone().expect("stored").genesis().id());
    assert_eq!(a, b);
}

impl Net {
    /// Asks for an address and waits for the answer.
    fn allocate(&mut self, host: usize, id: &str, address: Option<&str>) -> Result<PodPlan, ApiError> {
        let number = self.hosts[host].answers.len() as u64;
        let (id, request) = (id.to_owned(), RequestId(number));
        let wanted = match address {
            None => Request::Allocate { id, request },
            Some(address) => Request::Claim {
                id,
                address: address.parse().expect("an address"),
                request,
            },
        };
        self.feed(host, Input::Ipam(wanted));
        self.run_until("an answer", Duration::from_secs(60), |net| {
            net.hosts[host].answers.len() as u64 > number
        });
        let (answered, result) = self.hosts[host].answers[number as usize].clone();
        assert_eq!(answered, request);
        result
    }
}

#[test]
fn both_hosts_hand_out_addresses_and_none_twice() {
    let mut net = joined_pair();
    let mut given = BTreeSet::new();
    for i in 0..40 {
        for host in [0, 1] {
            let plan = net.allocate(host, &format!("pod{i}"), None).unwrap();
            assert!(given.insert(plan.address), "{} twice", plan.address);
        }
    }
    let again = net.allocate(1, "pod7", None).unwrap();
    assert!(!given.insert(again.address), "the same id gets the same address");
}

impl Net {
    /// Gives back what a pod has; the next request finds that done.
    fn free(&mut self, host: usize, id: &str) {
        let (id, request) = (id.to_owned(), RequestId(u64::MAX));
        self.feed(
            host,
            Input::Ipam(Request::Free {
                id,
                address: None,
                request,
            }),
        );
    }

    /// Where host 0 sends a frame to this address: the peer's position, a question to all, or a drop.
    fn place(&self, mac: Mac) -> Decision {
        self.hosts[0].table.as_ref().expect("a table").unicast(mac)
    }
}

#[test]
fn a_foreign_address_is_learned_until_it_comes_here() {
    let mut net = joined_pair();
    let peer = net.hosts[1].node.id();
    let mac: Mac = "52:54:00:00:00:01".parse().unwrap();
    assert_eq!(net.place(mac), Decision::Unknown(mac));
    net.feed(0, Input::Learned { mac, peer });
    assert_eq!(net.hosts[0].remote_macs, BTreeSet::from([mac]));
    assert_eq!(net.place(mac), Decision::Peer(0));
    net.feed(0, Input::Local { mac });
    assert!(net.hosts[0].remote_macs.is_empty());
    assert_eq!(net.place(mac), Decision::Unknown(mac));
}

#[test]
fn a_weft_address_follows_its_pod_and_nothing_else() {
    let mut net = joined_pair();
    let (here, peer) = (net.hosts[0].node.id(), net.hosts[1].node.id());
    let plan = net.allocate(0, "web", Some("10.32.0.9")).unwrap();
    let mac: Mac = plan.mac.parse().unwrap();
    assert_eq!(
        (plan.address.to_string().as_str(), plan.bridge.as_str()),
        ("10.32.0.9/24", "weft")
    );
    net.feed(0, Input::Learned { mac, peer });
    assert!(
        net.hosts[0].remote_macs.is_empty(),
        "a peer's word does not move a pod"
    );
    assert_eq!(net.place(mac), Decision::Drop(DropReason::NotHere));
    assert_eq!(
        net.hosts[1].table.as_ref().unwrap().unicast(mac),
        Decision::Peer(0),
        "its slot says so before any frame of it was seen"
    );

    net.free(0, "web");
    // At once: whoever names the address gets it while it rests.
    assert_eq!(net.allocate(1, "web", Some("10.32.0.9")).unwrap().mac, plan.mac);
    assert_eq!(net.place(mac), Decision::Peer(0));
    net.feed(0, Input::Learned { mac, peer });
    assert_eq!(net.hosts[0].remote_macs, BTreeSet::from([mac]));
    net.feed(1, Input::Learned { mac, peer: here });
    assert_eq!(
        net.hosts[1].table.as_ref().unwrap().unicast(mac),
        Decision::Drop(DropReason::NotHere)
    );

    net.free(1, "web");
    net.allocate(0, "web", Some("10.32.0.9")).unwrap();
    assert!(net.hosts[0].remote_macs.is_empty());
    assert_eq!(net.place(mac), Decision::Drop(DropReason::NotHere));
    net.run_until("the other host follows", Duration::from_secs(5), |net| {
        net.hosts[1].table.as_ref().unwrap().unicast(mac) == Decision::Peer(0)
    });
}

#[test]
fn addresses_that_no_pod_can_have_are_refused_in_words() {
    let mut net = Net::new(vec![config(0, Some(founded()), 1, &[]), config(1, None, 1, &[0])]);
    assert!(
        net.allocate(1, "early", None)
            .unwrap_err()
            .error
            .contains("no cluster yet")
    );
    assert!(
        net.allocate(0, "far", Some("192.0.2.1"))
            .unwrap_err()
            .error
            .contains("outside")
    );
    assert!(
        net.allocate(0, "first", Some("10.32.0.0"))
            .unwrap_err()
            .error
            .contains("10.32.0.1")
    );
    net.allocate(0, "one", Some("10.32.0.5")).unwrap();
    assert!(
        net.allocate(0, "two", Some("10.32.0.5"))
            .unwrap_err()
            .error
            .contains("in use")
    );
}

#[test]
fn a_host_that_starts_again_gives_out_addresses_as_soon_as_a_link_is_up() {
    let mut net = joined_pair();
    net.allocate(1, "before", None).unwrap();
    let (stored, ipam) = (net.hosts[1].stored.clone(), net.hosts[1].ipam.clone());
    let links: Vec<(usize, ConnId)> = net.links.keys().filter(|(host, _)| *host == 0).copied().collect();
    net.links.clear();
    let config = NodeConfig {
        ipam,
        ..config(1, stored, 2, &[])
    };
    net.hosts[1].node = Node::new(net.now, config).unwrap();
    net.hosts[1].table = None;
    net.hosts[1].sessions.clear();
    for (host, conn) in links {
        net.feed(host, Input::Mesh(Mesh::Closed { conn }));
    }
    let hindrance = |net: &Net| net.hosts[1].node.ipam_status(net.now).unwrap().hindrance;
    net.feed(1, Input::Timeout);
    assert!(hindrance(&net).is_some(), "nobody has confirmed its state yet");
    let is_up = |net: &Net| net.status(1).peers.iter().any(|peer| peer.mesh == LinkState::Up);
    net.run_until("the link is up", Duration::from_secs(5), is_up);
    // Far less than what repeats a lost question.
    net.run_until("its state is confirmed", Duration::from_millis(100), |net| {
        hindrance(net).is_none()
    });
}

#[test]
fn the_status_says_what_a_request_waits_for() {
    let mut net = joined_pair();
    let owns = |net: &Net| net.status(1).ipam.unwrap().owned > 0;
    net.run_until("it owns a part of the range", Duration::from_secs(10), owns);
    let first = |net: &Net, host: usize| {
        let node = net.hosts[host].node.id().to_string();
        let status = net.hosts[host].node.ipam_status(net.now).unwrap();
        let own = |range: &&weft_wire::api::IpamRange| range.owner == node;
        status.ranges.iter().find(own).unwrap().last
    };
    let theirs = first(&net, 0);
    // Nobody carries the question to the owner.
    net.links.clear();
    let request = RequestId(77);
    let id = "web".to_owned();
    net.feed(
        1,
        Input::Ipam(Request::Claim {
            id,
            address: theirs,
            request,
        }),
    );
    let status = net.status(1);
    let summary = status.ipam.unwrap();
    let [waiting] = &summary.waiting[..] else {
        panic!("one request, not {:?}", summary.waiting)
    };
    assert_eq!(waiting.id, "web");
    assert!(
        waiting.reason.contains("host host0 to lend"),
        "{}",
        waiting.reason
    );
    assert_eq!(
        net.hosts[1].node.ipam_status(net.now).unwrap().waiting,
        summary.waiting
    );
    assert_eq!(summary.free + summary.used, summary.owned, "{summary:?}");
    // The smaller underlay of the two, host 1's.
    assert_eq!(status.peers[0].mtu, Some(1316));
    net.feed(1, Input::Ipam(Request::Cancel(request)));
    assert_eq!(net.status(1).ipam.unwrap().waiting, []);
}

#[test]
fn a_dead_mesh_link_takes_no_session_away() {
    let mut net = joined_pair();
    let before = net.hosts[0].table.clone();
    // Every connection breaks, and nobody answers any more.
    let links: Vec<(usize, ConnId)> = net.links.keys().copied().collect();
    net.links.clear();
    net.hosts[1].address = SocketAddr::from(([198, 51, 100, 1], 1));
    for (host, conn) in links {
        net.feed(host, Input::Mesh(Mesh::Closed { conn }));
    }
    net.run_until("the link is seen as down", Duration::from_secs(6), |net| {
        net.status(0).peers.iter().all(|peer| peer.mesh != LinkState::Up)
    });
    assert_eq!(net.hosts[0].table, before);
    assert_eq!(net.status(0).peers[0].mode, "sleeve");
}

#[test]
fn a_host_that_starts_again_finds_the_other_without_being_told() {
    let mut net = joined_pair();
    let stored = net.hosts[1].stored.clone();
    let links: Vec<(usize, ConnId)> = net.links.keys().filter(|(host, _)| *host == 0).copied().collect();
    net.links.clear();
    net.hosts[1].node = Node::new(net.now, config(1, stored, 2, &[])).unwrap();
    net.hosts[1].table = None;
    net.hosts[1].sessions.clear();
    for (host, conn) in links {
        net.feed(host, Input::Mesh(Mesh::Closed { conn }));
    }
    net.feed(1, Input::Timeout);
    net.run_until("the sessions are back", Duration::from_secs(5), |net| {
        net.ready(1, 0) && net.status(1).peers.iter().all(|peer| peer.mesh == LinkState::Up)
    });
}

fn group(address: &str) -> Group {
    let address = address.parse().expect("an address");
    Group::new(address).expect("of a group")
}

impl Net {
    /// To which peers, by position, host 0 sends frames of a group.
    fn listeners(&self, address: &str) -> Vec<u16> {
        let table = self.hosts[0].table.as_ref().expect("a table");
        let listeners = table.groups.listeners(group(address));
        table.groups.positions(listeners).to_vec()
    }
}

#[test]
fn frames_of_a_group_go_to_a_host_as_its_record_says() {
    let mut net = joined_pair();
    assert_eq!(net.listeners("239.1.1.1"), [0], "it has said nothing");
    net.feed(1, Input::Listening(Listening::to([])));
    net.run_until(
        "it is known to listen to nothing",
        Duration::from_millis(100),
        |net| net.listeners("239.1.1.1").is_empty(),
    );
    let joined = Listening::to([group("239.1.1.1"), group("ff15::7"), group("224.0.0.251")]);
    net.feed(1, Input::Listening(joined));
    net.run_until("its groups are known", Duration::from_millis(300), |net| {
        net.listeners("239.1.1.1") == [0] && net.listeners("ff15::7") == [0]
    });
    assert!(net.listeners("239.1.1.2").is_empty());
    let everything = Listening::Everything(Everything::Asked);
    net.feed(1, Input::Listening(everything));
    net.run_until("it gets everything", Duration::from_millis(300), |net| {
        net.listeners("239.1.1.2") == [0]
    });
}

#[test]
fn a_pod_that_joins_and_leaves_without_end_changes_the_record_five_times_a_second() {
    let mut net = joined_pair();
    let kind = GroupsRecord::KIND;
    let owner = net.hosts[1].node.id();
    let version = |net: &Net| {
        let records = net.hosts[0].node.mesh().registers();
        let record = records.get(&RegisterKey { kind, owner });
        record.map_or(0, |record| record.stamp().version)
    };
    let start = net.now;
    let mut changes = 0u8;
    while net.now < start + Duration::from_secs(2) {
        changes = changes.wrapping_add(1);
        let joined = [Group::new([239, 1, 1, changes].into()).unwrap()];
        net.feed(1, Input::Listening(Listening::to(joined)));
        let next = net.now + STEP;
        net.run_until("time passes", Duration::from_secs(1), |net| net.now >= next);
    }
    assert!((8..=12).contains(&version(&net)), "{}", version(&net));
    let last = format!("239.1.1.{changes}");
    net.run_until("the last word counts", Duration::from_secs(1), |net| {
        net.listeners(&last) == [0]
    });
}

#[test]
fn a_host_that_starts_again_gets_what_its_record_said_until_it_says_another() {
    let mut net = joined_pair();
    net.feed(1, Input::Listening(Listening::to([group("239.1.1.1")])));
    net.run_until("its group is known", Duration::from_millis(300), |net| {
        net.listeners("239.1.1.2").is_empty()
    });
    let stored = net.hosts[1].stored.clone();
    let links: Vec<(usize, ConnId)> = net.links.keys().filter(|(host, _)| *host == 0).copied().collect();
    net.links.clear();
    net.hosts[1].node = Node::new(net.now, config(1, stored, 2, &[])).unwrap();
    net.hosts[1].table = None;
    net.hosts[1].sessions.clear();
    for (host, conn) in links {
        net.feed(host, Input::Mesh(Mesh::Closed { conn }));
    }
    net.feed(1, Input::Timeout);
    net.run_until("the link is back", Duration::from_secs(5), |net| {
        net.ready(1, 0) && net.status(1).peers.iter().all(|peer| peer.mesh == LinkState::Up)
    });
    assert_eq!(net.listeners("239.1.1.1"), [0]);
    assert!(net.listeners("239.1.1.2").is_empty());
    net.feed(1, Input::Listening(Listening::to([group("239.1.1.2")])));
    net.run_until("its new groups are known", Duration::from_secs(1), |net| {
        net.listeners("239.1.1.2") == [0] && net.listeners("239.1.1.1").is_empty()
    });
}
