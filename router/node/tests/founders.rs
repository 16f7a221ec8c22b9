//! Hosts that make a cluster together: started in any order, killed, with lost disks, and too many of them.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use weft_gossip::{ConnId, DialTarget, DurableState, Identity, Input as Mesh, JoinToken};
use weft_ipam_crdt::genesis::{AgreementState, Expected, Terms};
use weft_ipam_crdt::{IpamState, Request, RequestId, Role};
use weft_node::report::EngineReport;
use weft_node::{Input, MeshCommand, Node, NodeConfig, Notice, Output};
use weft_sleeve::Cipher;
use weft_wire::api::{ClusterStatus, NodeRole, Status};
use weft_wire::{DropReason, GenesisId, NodeId, NodeKey, NoiseKeypair, Time};

const STEP: Duration = Duration::from_millis(5);
const SOON: Duration = Duration::from_secs(20);

/// What survives a start.
#[derive(Clone, Default)]
struct Disk {
    cluster: Option<DurableState>,
    agreement: AgreementState,
    ipam: Option<IpamState>,
}

struct Host {
    node: Option<Node>,
    disk: Disk,
    identity: u8,
    incarnation: u64,
    expected: Option<Expected>,
    role: Role,
    targets: Vec<usize>,
    notices: Vec<Notice>,
    answers: Vec<IpAddr>,
}

enum Event {
    Mesh(Mesh),
    Agreed(u64, Box<AgreementState>),
    Joined(weft_gossip::PersistToken, Box<DurableState>),
    Ipam(weft_ipam_crdt::PersistToken, Vec<weft_ipam_crdt::Change>),
}

struct Net {
    now: Time,
    rng: ChaCha20Rng,
    hosts: Vec<Host>,
    links: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    /// Hosts that cannot reach each other are on different sides.
    sides: Vec<u8>,
    queue: BTreeMap<(Time, u64), (usize, u64, Event)>,
    /// Nothing overtakes on the way to a host.
    last: BTreeMap<usize, Time>,
    count: u64,
    has_slow_disks: bool,
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], 6783))
}

impl Net {
    /// Hosts that are not started yet. All are told to make a cluster of so many, and name all of these hosts.
    fn new(seed: u64, hosts: usize, expected: u32) -> Self {
        let host = |at: usize| Host {
            node: None,
            disk: Disk::default(),
            identity: at as u8 + 1,
            incarnation: 0,
            expected: Some(Expected::Count(expected)),
            role: Role::Owner,
            targets: (0..hosts).collect(),
            notices: Vec::new(),
            answers: Vec::new(),
        };
        Self {
            now: Time::ZERO,
            rng: ChaCha20Rng::seed_from_u64(seed),
            hosts: (0..hosts).map(host).collect(),
            links: BTreeMap::new(),
            sides: vec![0; hosts],
            queue: BTreeMap::new(),
            last: BTreeMap::new(),
            count: 0,
            has_slow_disks: false,
        }
    }

    fn config(&mut self, at: usize) -> NodeConfig {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let host = &mut self.hosts[at];
        host.incarnation += 1;
        let terms = host.expected.clone().map(|expected| Terms {
            expected,
            range: "10.32.0.0/24".parse().expect("a CIDR"),
            slot_size: 1,
        });
        let key = [host.identity; 32];
        NodeConfig {
            identity: Identity {
                key: NodeKey::from_seed(key),
                noise: NoiseKeypair::generate(&mut ChaCha20Rng::from_seed(key)).expect("X25519"),
                incarnation: host.incarnation,
                boot_nonce: self.rng.next_u64(),
                name: format!("host{at}"),
            },
            token: Some(JoinToken::generate(&mut ChaCha20Rng::from_seed([99; 32])).psk()),
            durable: host.disk.cluster.clone(),
            agreement: terms.map(|terms| (terms, host.disk.agreement.clone())),
            role: host.role,
            ipam: host.disk.ipam.clone(),
            claims: Vec::new(),
            targets: host.targets.iter().map(|t| address(*t).to_string()).collect(),
            endpoints: vec![address(at)],
            underlay_mtu: 1500,
            mtu: None,
            bridge: "weft".into(),
            version: "test".into(),
            ciphers: vec![Cipher::Aes256Gcm],
            fastpath: weft_node::FastpathConfig::default(),
            seed,
        }
    }

    fn start(&mut self, at: usize) {
        let config = self.config(at);
        self.hosts[at].node = Some(Node::new(self.now, config).expect("a state that holds"));
        self.feed(at, Input::Timeout);
    }

    /// Ends the process: what was not on the disk is gone.
    fn kill(&mut self, at: usize) {
        self.hosts[at].node = None;
        self.hosts[at].incarnation += 1;
        let ends: Vec<(usize, ConnId)> = self
            .links
            .keys()
            .copied()
            .filter(|(host, _)| *host == at)
            .collect();
        for end in ends {
            self.cut(end);
        }
    }

    /// As [`Net::kill`], and the disk is lost.
    fn lose(&mut self, at: usize) {
        self.kill(at);
        self.hosts[at].disk = Disk::default();
        self.hosts[at].identity += 100;
    }

    fn cut(&mut self, end: (usize, ConnId)) {
        if let Some((other, theirs)) = self.links.remove(&end) {
            self.links.remove(&(other, theirs));
            self.at(other, Event::Mesh(Mesh::Closed { conn: theirs }));
        }
    }

    /// Puts hosts on sides that cannot reach each other.
    fn part(&mut self, sides: &[u8]) {
        self.sides = sides.to_vec();
        let ends: Vec<_> = self.links.iter().map(|(a, b)| (*a, b.0)).collect();
        for (end, other) in ends {
            if self.sides[end.0] != self.sides[other] {
                self.cut(end);
                self.at(end.0, Event::Mesh(Mesh::Closed { conn: end.1 }));
            }
        }
    }

    fn at(&mut self, host: usize, event: Event) {
        let longest = match &event {
            Event::Mesh(_) => 3,
            _ if self.has_slow_disks => 200,
            _ => 3,
        };
        let time = self.now + Duration::from_millis(1 + self.rng.next_u64() % longest);
        let last = self.last.entry(host).or_insert(Time::ZERO);
        *last = time.max(*last);
        self.count += 1;
        let incarnation = self.hosts[host].incarnation;
        self.queue.insert((*last, self.count), (host, incarnation, event));
    }

    fn feed(&mut self, at: usize, input: Input<'_>) {
        let now = self.now;
        let Some(node) = &mut self.hosts[at].node else {
            return;
        };
        node.handle(now, input);
        while let Some(output) = self.hosts[at].node.as_mut().and_then(Node::poll_output) {
            self.output(at, output);
        }
    }

    fn output(&mut self, at: usize, output: Output) {
        match output {
            Output::Mesh(MeshCommand::Dial { conn, to }) => {
                let DialTarget::Address(to) = to else {
                    panic!("the tests name addresses only")
                };
                let other = (0..self.hosts.len()).find(|other| address(*other) == to);
                let other = other.filter(|other| {
                    self.hosts[*other].node.is_some() && self.sides[*other] == self.sides[at]
                });
                let Some(other) = other else {
                    let why = "nobody".into();
                    return self.at(at, Event::Mesh(Mesh::DialFailed { conn, why }));
                };
                self.count += 1;
                let theirs = ConnId::Accepted(self.count);
                self.links.insert((at, conn), (other, theirs));
                self.links.insert((other, theirs), (at, conn));
                let from = address(at);
                self.at(at, Event::Mesh(Mesh::Dialled { conn, remote: to }));
                self.at(other, Event::Mesh(Mesh::Accepted { conn: theirs, from }));
            }
            Output::Mesh(MeshCommand::Send { conn, frame }) => {
                if let Some((other, conn)) = self.links.get(&(at, conn)).copied() {
                    self.at(other, Event::Mesh(Mesh::Frame { conn, bytes: frame }));
                }
                self.at(at, Event::Mesh(Mesh::Written { conn }));
            }
            Output::Mesh(MeshCommand::Close { conn }) => self.cut((at, conn)),
            Output::Persist { token, state } => self.at(at, Event::Joined(token, Box::new(state))),
            Output::PersistAgreement { token, state } => self.at(at, Event::Agreed(token, state)),
            Output::PersistIpam { token, changes } => self.at(at, Event::Ipam(token, changes)),
            Output::Allocated { result, .. } => {
                let plan = result.unwrap_or_else(|why| panic!("host {at}: {}", why.error));
                self.hosts[at].answers.push(plan.address.addr());
            }
            Output::BeginAgain(_) | Output::PersistClaims(_) | Output::Adopted(_) => {
                panic!("host {at} leaves a cluster of several founders")
            }
            Output::Notice(notice) => self.hosts[at].notices.push(notice),
            Output::Freed { .. } | Output::Removal { .. } | Output::Engine(_) | Output::Kernel(_) => {}
            Output::KernelProbe { .. } | Output::PersistSettings(_) => {}
        }
    }

    fn happen(&mut self, at: usize, event: Event) {
        let disk = &mut self.hosts[at].disk;
        let input = match event {
            Event::Mesh(input) => Input::Mesh(input),
            Event::Agreed(token, state) => {
                disk.agreement = *state;
                Input::AgreementPersisted(token)
            }
            Event::Joined(token, state) => {
                let genesis = state.genesis().clone();
                disk.ipam
                    .get_or_insert_with(|| IpamState::genesis(&genesis).expect("a range that works"));
                disk.cluster = Some(*state);
                Input::Mesh(Mesh::Persisted(token))
            }
            Event::Ipam(token, changes) => {
                let ipam = disk.ipam.as_mut().expect("membership is stored before addresses");
                changes.iter().for_each(|change| ipam.apply(change));
                Input::IpamPersisted(token)
            }
        };
        self.feed(at, input);
    }

    fn step(&mut self) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (host, incarnation, event) = entry.remove();
            if self.hosts[host].incarnation == incarnation {
                self.happen(host, event);
            }
        }
        self.now = self.now + STEP;
        for at in 0..self.hosts.len() {
            let due = self.hosts[at].node.as_ref().map(Node::poll_timeout);
            if due.is_some_and(|due| due <= self.now) {
                self.feed(at, Input::Timeout);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Net) -> bool) {
        let end = self.now + SOON;
        while !done(self) {
            let states: Vec<_> = (0..self.hosts.len()).map(|at| self.cluster(at)).collect();
            assert!(self.now < end, "{what}: not within {SOON:?}; {states:#?}");
            self.step();
        }
    }

    fn status(&self, at: usize) -> Option<Status> {
        let engine = EngineReport {
            name: "none".into(),
            degradations: vec![],
            drops: [0; DropReason::COUNT],
            traffic: BTreeMap::new(),
            relayed: Default::default(),
        };
        Some(self.hosts[at].node.as_ref()?.status(self.now, &engine))
    }

    fn cluster(&self, at: usize) -> Option<ClusterStatus> {
        Some(self.status(at)?.cluster)
    }

    fn genesis(&self, at: usize) -> Option<GenesisId> {
        Some(self.hosts[at].node.as_ref()?.mesh().membership()?.id())
    }

    fn founders(&self, at: usize) -> Vec<NodeId> {
        let membership = self.hosts[at]
            .node
            .as_ref()
            .and_then(|node| node.mesh().membership());
        membership
            .map(|m| m.genesis().founders.clone())
            .unwrap_or_default()
    }

    fn are_members(&self, hosts: &[usize]) -> bool {
        let first = self.genesis(hosts[0]);
        first.is_some() && hosts.iter().all(|at| self.genesis(*at) == first)
    }

    fn owned(&self, at: usize) -> u64 {
        self.status(at)
            .and_then(|status| status.ipam)
            .map_or(0, |ipam| ipam.owned)
    }

    /// Each of these hosts gives an address to a pod, and no two the same one.
    fn allocate(&mut self, hosts: &[usize], label: &str) {
        let before: Vec<usize> = hosts.iter().map(|at| self.hosts[*at].answers.len()).collect();
        for at in hosts {
            let id = format!("{at}-{label}");
            let request = RequestId(self.count);
            self.count += 1;
            self.feed(*at, Input::Ipam(Request::Allocate { id, request }));
        }
        self.run_until("all have answers", |net| {
            let answers = hosts.iter().map(|at| net.hosts[*at].answers.len());
            answers.zip(&before).all(|(now, before)| now > *before)
        });
        let all: Vec<IpAddr> = self.hosts.iter().flat_map(|host| host.answers.clone()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
    }
}

#[test]
fn hosts_started_in_any_order_make_one_cluster_and_own_a_third_each() {
    for (seed, order) in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
        .iter()
        .enumerate()
    {
        for gap in [0, 40, 1_700] {
            let mut net = Net::new(seed as u64, 3, 3);
            for at in order {
                net.start(*at);
                net.run(Duration::from_millis(gap));
            }
            net.run_until("one cluster", |net| net.are_members(&[0, 1, 2]));
            assert_eq!(net.founders(0).len(), 3);
            for at in 0..3 {
                assert!(
                    (85..=86).contains(&net.owned(at)),
                    "{order:?}: host {at} owns {}",
                    net.owned(at)
                );
            }
            // Nobody asks anybody for space.
            net.allocate(&[0, 1, 2], "a");
            let moved =
                |notice: &Notice| matches!(notice, Notice::Ipam(weft_ipam_crdt::Event::Received { .. }));
            assert!(net.hosts.iter().all(|host| !host.notices.iter().any(moved)));
        }
    }
}

#[test]
fn a_host_that_waits_says_for_how_many() {
    let mut net = Net::new(1, 3, 3);
    net.start(1);
    net.start(0);
    net.run(Duration::from_secs(3));
    let Some(ClusterStatus::Agreeing {
        expected,
        there,
        reason,
        differing,
    }) = net.cluster(0)
    else {
        panic!("{:?}", net.cluster(0))
    };
    assert_eq!(
        (expected, there),
        (3, vec!["host0".to_owned(), "host1".to_owned()])
    );
    assert_eq!(reason, "waiting for 1 of 3 expected hosts");
    assert!(differing.is_empty());
    let targets = net.status(0).expect("it runs").targets;
    let names: Vec<&str> = targets.iter().map(|target| target.target.as_str()).collect();
    assert_eq!(
        names,
        ["192.0.2.3:6783"],
        "only the host that is missing is not reached"
    );
    let told = net.hosts[0].notices.iter().filter_map(|notice| match notice {
        Notice::Gathering(sentence) => Some(sentence.as_str()),
        _ => None,
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "waiting for 2 of 3 expected hosts",
            "waiting for 1 of 3 expected hosts"
        ]
    );
    // Somebody who was not told of the others is refused with the cure.
    net.hosts[2].expected = None;
    net.start(2);
    net.run(Duration::from_secs(3));
    let targets = net.status(2).expect("it runs").targets;
    assert!(
        targets.iter().all(|target| target.reason.contains("--expect")),
        "{targets:?}"
    );
}

#[test]
fn hosts_that_die_and_come_back_while_they_agree_make_one_cluster() {
    for seed in 0..12 {
        let mut net = Net::new(seed, 3, 3);
        net.has_slow_disks = true;
        (0..3).for_each(|at| net.start(at));
        for _ in 0..14 {
            let pause = net.rng.next_u64() % 700;
            net.run(Duration::from_millis(pause));
            let victim = (net.rng.next_u64() % 3) as usize;
            match net.hosts[victim].node.is_some() {
                true => net.kill(victim),
                false => net.start(victim),
            }
        }
        for at in 0..3 {
            if net.hosts[at].node.is_none() {
                net.start(at);
            }
        }
        net.run_until("one cluster", |net| net.are_members(&[0, 1, 2]));
        assert_eq!(net.founders(0).len(), 3, "seed {seed}");
        net.allocate(&[0, 1, 2], "a");
    }
}

#[test]
fn whoever_decides_and_dies_at_once_is_not_needed_to_let_others_in() {
    for seed in 0..6 {
        let mut net = Net::new(seed, 5, 3);
        (0..3).for_each(|at| net.start(at));
        net.run_until("somebody has decided", |net| {
            net.hosts.iter().any(|host| host.disk.agreement.decided.is_some())
        });
        let mut hosts = net.hosts.iter();
        let first = hosts
            .position(|host| host.disk.agreement.decided.is_some())
            .expect("somebody has");
        net.kill(first);
        let others: Vec<usize> = (0..3).filter(|at| *at != first).collect();
        net.run_until("the others go on", |net| net.are_members(&others));
        // Both a host that was told of them, and one that was not.
        net.hosts[4].expected = None;
        net.start(3);
        net.start(4);
        let all = [&others[..], &[3, 4]].concat();
        net.run_until("late hosts are let in", |net| net.are_members(&all));
        assert_eq!(net.founders(3).len(), 3, "seed {seed}");
        net.allocate(&all, "late");
        // It comes back as what it was.
        net.start(first);
        net.run_until("it comes back", |net| net.are_members(&[0, 1, 2, 3, 4]));
        net.allocate(&[first], "back");
    }
}

#[test]
fn a_disk_that_is_lost_on_the_way_is_a_new_host_that_is_let_in() {
    for seed in 0..6 {
        let mut net = Net::new(seed, 3, 3);
        net.has_slow_disks = true;
        (0..3).for_each(|at| net.start(at));
        net.run_until("all are bound", |net| {
            net.hosts.iter().all(|host| !host.disk.agreement.set.is_empty())
        });
        let victim = (seed % 3) as usize;
        net.lose(victim);
        net.run(Duration::from_millis(50 * seed));
        net.start(victim);
        net.run_until("one cluster", |net| net.are_members(&[0, 1, 2]));
        let id = net.hosts[victim].node.as_ref().map(Node::id).expect("it runs");
        assert!(!net.founders(victim).contains(&id), "seed {seed}");
        net.allocate(&[0, 1, 2], "a");
    }
}

#[test]
fn seeds_found_and_an_observer_and_others_are_let_in() {
    let mut net = Net::new(1, 4, 2);
    for host in &mut net.hosts {
        host.expected = Some(Expected::named(["host0", "host2"].map(String::from)));
    }
    // As the router does for a host that is not listed, and for an observer.
    net.hosts[1].expected = None;
    net.hosts[3].expected = None;
    net.hosts[3].role = Role::Observer;
    for at in [3, 1, 0, 2] {
        net.start(at);
        net.run(Duration::from_millis(300));
    }
    net.run_until("one cluster", |net| net.are_members(&[0, 1, 2, 3]));
    let id = |at: usize| net.hosts[at].node.as_ref().map(Node::id).expect("it runs");
    assert_eq!(
        net.founders(1).into_iter().collect::<BTreeSet<_>>(),
        [id(0), id(2)].into()
    );
    net.run_until("the host that is not listed owns slots", |net| {
        let epoch = |at: usize| {
            let ipam = net.hosts[at].node.as_ref()?.ipam_status(net.now)?;
            Some((ipam.epoch, ipam.epoch_members))
        };
        epoch(0) == Some((1, 3)) && epoch(3) == Some((1, 3))
    });
    net.allocate(&[0, 1, 2, 3], "a");
    let observer = net.status(3).expect("it runs");
    assert_eq!(observer.role, NodeRole::Observer);
    let ipam = observer.ipam.expect("it is a member");
    assert_eq!((ipam.owned, ipam.borrowed), (0, 1));
}

#[test]
fn more_hosts_than_were_told_may_make_two_clusters_and_each_names_the_other() {
    let mut net = Net::new(1, 4, 2);
    net.part(&[0, 0, 1, 1]);
    (0..4).for_each(|at| net.start(at));
    net.run_until("two clusters", |net| {
        net.are_members(&[0, 1]) && net.are_members(&[2, 3])
    });
    net.allocate(&[0, 1], "left");
    let (left, right) = (net.genesis(0), net.genesis(2));
    assert_ne!(left, right);
    net.part(&[0; 4]);
    let names = |net: &Net, at: usize, other: Option<GenesisId>| {
        let mut notices = net.hosts[at].notices.iter();
        notices.any(|notice| matches!(notice, Notice::Foreign { genesis, .. } if Some(*genesis) == other))
    };
    net.run_until("both sides name the other", |net| {
        let left_does = (0..2).any(|at| names(net, at, right));
        left_does && (2..4).any(|at| names(net, at, left))
    });
    assert!(net.are_members(&[0, 1]) && net.are_members(&[2, 3]));
}
