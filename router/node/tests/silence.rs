//! `--remove-after`: members that nobody has heard of, with connections in memory and a clock that the test moves.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use weft_gossip::{ConnId, DialTarget, DurableState, Identity, Input as Mesh, JoinToken};
use weft_ipam_crdt::{IpamState, Role};
use weft_node::report::EngineReport;
use weft_node::{Input, MeshCommand, Node, NodeConfig, Notice, Output};
use weft_sleeve::Cipher;
use weft_wire::api::{PeerStatus, SilenceStatus};
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, DropReason, NodeKey, NoiseKeypair, Time};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// What it takes until a link is seen as gone and that is published, and a look.
const NOTICED: u64 = 8;

struct Host {
    /// `None` while it is off.
    node: Option<Node>,
    stored: Option<DurableState>,
    ipam: Option<IpamState>,
    starts: u64,
    /// Hosts whose removal it has asked for because of their silence.
    asked: Vec<String>,
}

/// Hosts and their connections. No datagram arrives anywhere: what is heard of others is their links.
struct Net {
    now: Time,
    hosts: Vec<Host>,
    /// Hosts reach those of their own side.
    sides: Vec<u8>,
    /// Two hosts between which nothing passes although they are on one side.
    apart: Option<(usize, usize)>,
    after: Duration,
    links: BTreeMap<(usize, ConnId), (usize, ConnId)>,
    accepted: u64,
    inputs: VecDeque<(usize, Input<'static>)>,
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], 6783))
}

impl Net {
    /// Hosts of one cluster, connected and in its epoch.
    fn cluster(hosts: usize, after: Duration) -> Self {
        let mut net = Self {
            now: Time::ZERO,
            hosts: Vec::new(),
            sides: vec![0; hosts],
            apart: None,
            after,
            links: BTreeMap::new(),
            accepted: 0,
            inputs: VecDeque::new(),
        };
        let founder = NodeKey::from_seed([1; 32]).id();
        let genesis = Genesis {
            founders: vec![founder],
            nonce: [5; 16],
            range: "10.32.0.0/24".parse().unwrap(),
            slot_size: 1,
        };
        let secret = ClusterSecret {
            number: 1,
            key: [6; 32],
        };
        for host in 0..hosts {
            net.hosts.push(Host {
                node: None,
                stored: (host == 0).then(|| DurableState::founded(genesis.clone(), secret.clone())),
                ipam: None,
                starts: 0,
                asked: Vec::new(),
            });
        }
        for host in 0..hosts {
            net.start(host);
        }
        net.run(20 * SECOND);
        for host in 0..hosts {
            assert_eq!(net.members(host), hosts, "host {host}");
        }
        net
    }

    fn start(&mut self, host: usize) {
        let seed = [host as u8 + 1; 32];
        let h = &mut self.hosts[host];
        h.starts += 1;
        let config = NodeConfig {
            identity: Identity {
                key: NodeKey::from_seed(seed),
                noise: NoiseKeypair::generate(&mut ChaCha20Rng::from_seed(seed)).expect("X25519"),
                incarnation: h.starts,
                boot_nonce: h.starts * 100 + host as u64,
                name: format!("host{host}"),
            },
            token: Some(JoinToken::generate(&mut ChaCha20Rng::from_seed([99; 32])).psk()),
            durable: h.stored.clone(),
            agreement: None,
            role: Role::Owner,
            ipam: h.ipam.clone(),
            claims: Vec::new(),
            targets: if host == 0 {
                vec![]
            } else {
                vec![address(0).to_string()]
            },
            endpoints: vec![address(host)],
            underlay_mtu: 1_500,
            mtu: None,
            bridge: "weft".into(),
            version: "test".into(),
            ciphers: vec![Cipher::Aes256Gcm],
            fastpath: weft_node::FastpathConfig::default(),
            seed: [host as u8 + 10 * h.starts as u8; 32],
        };
        h.node = Some(Node::new(self.now, config).unwrap());
        let after = self.after;
        self.feed(host, Input::RemoveAfter(Some(after)));
    }

    /// The router dies; its connections are never closed.
    fn stop(&mut self, host: usize) {
        self.hosts[host].node = None;
        self.links
            .retain(|(from, _), (to, _)| *from != host && *to != host);
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        self.sides[a] == self.sides[b] && ![Some((a, b)), Some((b, a))].contains(&self.apart)
    }

    fn feed(&mut self, host: usize, input: Input<'_>) {
        let now = self.now;
        let Some(node) = &mut self.hosts[host].node else {
            return;
        };
        node.handle(now, input);
        while let Some(output) = self.hosts[host].node.as_mut().and_then(Node::poll_output) {
            self.output(host, output);
        }
    }

    fn output(&mut self, host: usize, output: Output) {
        match output {
            Output::Mesh(MeshCommand::Dial { conn, to }) => {
                let DialTarget::Address(to) = to else {
                    panic!("only addresses are named")
                };
                let other = (0..self.hosts.len()).find(|other| address(*other) == to).unwrap();
                if self.hosts[other].node.is_none() || !self.reach(host, other) {
                    let failed = Mesh::DialFailed {
                        conn,
                        why: "nobody".into(),
                    };
                    return self.inputs.push_back((host, Input::Mesh(failed)));
                }
                self.accepted += 1;
                let theirs = ConnId::Accepted(self.accepted);
                self.links.insert((host, conn), (other, theirs));
                self.links.insert((other, theirs), (host, conn));
                let dialled = Mesh::Dialled { conn, remote: to };
                let accepted = Mesh::Accepted {
                    conn: theirs,
                    from: address(host),
                };
                self.inputs.push_back((host, Input::Mesh(dialled)));
                self.inputs.push_back((other, Input::Mesh(accepted)));
            }
            Output::Mesh(MeshCommand::Send { conn, frame }) => {
                self.inputs.push_back((host, Input::Mesh(Mesh::Written { conn })));
                if let Some((other, theirs)) = self.links.get(&(host, conn)).copied()
                    && self.reach(host, other)
                {
                    let frame = Mesh::Frame {
                        conn: theirs,
                        bytes: frame,
                    };
                    self.inputs.push_back((other, Input::Mesh(frame)));
                }
            }
            Output::Mesh(MeshCommand::Close { conn }) => {
                if let Some((other, theirs)) = self.links.remove(&(host, conn)) {
                    self.links.remove(&(other, theirs));
                    if self.reach(host, other) {
                        self.inputs
                            .push_back((other, Input::Mesh(Mesh::Closed { conn: theirs })));
                    }
                }
            }
            Output::Persist { token, state } => {
                self.hosts[host].stored = Some(state);
                self.inputs.push_back((host, Input::Mesh(Mesh::Persisted(token))));
            }
            Output::PersistIpam { token, changes } => {
                let h = &mut self.hosts[host];
                let genesis = h.stored.as_ref().unwrap().genesis();
                let mut state = h
                    .ipam
                    .take()
                    .unwrap_or_else(|| IpamState::genesis(genesis).unwrap());
                changes.iter().for_each(|change| state.apply(change));
                h.ipam = Some(state);
                self.inputs.push_back((host, Input::IpamPersisted(token)));
            }
            Output::Notice(Notice::Silent { name, .. }) => self.hosts[host].asked.push(name),
            _ => {}
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            while let Some((host, input)) = self.inputs.pop_front() {
                self.feed(host, input);
            }
            let due = self
                .hosts
                .iter()
                .filter_map(|h| Some(h.node.as_ref()?.poll_timeout()));
            // A millisecond is what a frame takes.
            let next = due.min().unwrap().max(self.now + Duration::from_millis(1));
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            for host in 0..self.hosts.len() {
                let node = self.hosts[host].node.as_ref();
                if node.is_some_and(|node| node.poll_timeout() <= self.now) {
                    self.feed(host, Input::Timeout);
                }
            }
        }
    }

    fn members(&self, host: usize) -> usize {
        let node = self.hosts[host].node.as_ref().unwrap();
        node.ipam_status(self.now).unwrap().epoch_members as usize
    }

    fn peer(&self, host: usize, peer: usize) -> PeerStatus {
        let engine = EngineReport {
            name: "none".into(),
            degradations: vec![],
            drops: [0; DropReason::COUNT],
            traffic: BTreeMap::new(),
            relayed: Default::default(),
        };
        let status = self.hosts[host].node.as_ref().unwrap().status(self.now, &engine);
        let name = format!("host{peer}");
        status.peers.into_iter().find(|peer| peer.name == name).unwrap()
    }

    fn silence(&self, host: usize, peer: usize) -> Option<SilenceStatus> {
        self.peer(host, peer).silence
    }
}

fn about(seconds: u64, least: u64) -> bool {
    (least.saturating_sub(NOTICED)..=least).contains(&seconds)
}

#[test]
fn a_member_that_nobody_hears_of_is_removed_once_its_time_is_up() {
    let mut net = Net::cluster(4, 10 * MINUTE);
    assert_eq!(net.silence(0, 3), None);
    net.stop(3);
    net.run(9 * MINUTE);
    let silence = net.silence(0, 3).unwrap();
    assert!(
        about(silence.counted_s, 540) && about(silence.silent_s, 540),
        "{silence:?}"
    );
    // Both are rounded down.
    let left = silence.removed_in_s.unwrap();
    assert!((599..=600).contains(&(left + silence.counted_s)), "{silence:?}");
    let reason = net.peer(1, 3).reason;
    assert!(
        reason.contains("no host has heard of it for 8 min") && reason.contains("asked for in"),
        "{reason}"
    );
    assert_eq!(net.members(0), 4);
    net.run(MINUTE + Duration::from_secs(NOTICED + 5));
    for host in 0..3 {
        assert_eq!(net.members(host), 3, "host {host}");
        assert!(net.hosts[host].asked.iter().all(|name| name == "host3"));
    }
    // Several have asked; one epoch came of it, and nothing is left over.
    let ipam = net.hosts[0].node.as_ref().unwrap().ipam_status(net.now).unwrap();
    assert_eq!((ipam.removed.len(), ipam.removals.len()), (1, 0));
}

#[test]
fn whoever_comes_back_in_time_is_not_removed_and_is_counted_anew() {
    let mut net = Net::cluster(3, MINUTE);
    net.stop(2);
    net.run(50 * SECOND);
    net.start(2);
    net.run(20 * SECOND);
    assert_eq!(net.silence(0, 2), None);
    net.stop(2);
    net.run(50 * SECOND);
    assert_eq!(net.members(0), 3);
    assert!(about(net.silence(0, 2).unwrap().counted_s, 50));
}

#[test]
fn a_router_that_starts_again_counts_from_the_beginning() {
    let mut net = Net::cluster(3, MINUTE);
    net.stop(2);
    net.run(50 * SECOND);
    // Only this one would ask: the others' clocks are not looked at by it.
    for host in [0, 1] {
        net.stop(host);
    }
    for host in [0, 1] {
        net.start(host);
    }
    net.run(50 * SECOND);
    assert_eq!(net.members(0), 3);
    net.run(20 * SECOND);
    assert_eq!(net.members(0), 2);
}

#[test]
fn a_host_that_was_cut_off_removes_nobody_when_it_comes_back_and_a_minority_does_not_count() {
    let mut net = Net::cluster(5, 10 * MINUTE);
    // Two sides of 3 and 2, for less than the majority waits.
    net.sides = vec![0, 0, 0, 1, 1];
    net.run(8 * MINUTE);
    for other in 0..3 {
        let silence = net.silence(3, other).unwrap();
        assert_eq!(
            (silence.counted_s, silence.removed_in_s),
            (0, None),
            "{silence:?}"
        );
    }
    assert!(
        net.peer(3, 0).reason.contains("not connected with a majority"),
        "{}",
        net.peer(3, 0).reason
    );
    assert!(about(net.silence(0, 3).unwrap().counted_s, 480));
    // One of them is off when the sides meet, for far longer than the bound already as far as host 3 can tell.
    net.stop(0);
    net.run(5 * MINUTE);
    net.sides = vec![0; 5];
    net.run(10 * SECOND);
    for host in 1..5 {
        assert!(
            net.hosts[host].asked.is_empty(),
            "host {host}: {:?}",
            net.hosts[host].asked
        );
    }
    assert!(net.silence(3, 0).unwrap().counted_s < 15);
    net.run(4 * MINUTE);
    assert_eq!(net.members(3), 5);
    // The side that had no majority counts from the heal on, and so does the other, which had none since the death.
    net.run(8 * MINUTE);
    for host in 1..5 {
        assert_eq!(net.members(host), 4, "host {host}");
    }
}

#[test]
fn a_host_that_another_one_hears_of_is_not_silent() {
    let mut net = Net::cluster(3, MINUTE);
    net.apart = Some((0, 2));
    net.run(5 * MINUTE);
    assert_eq!(net.silence(0, 2), None, "host1 says that it has a link to it");
    assert_eq!(net.members(0), 3);
    assert!(net.hosts.iter().all(|host| host.asked.is_empty()));
}
