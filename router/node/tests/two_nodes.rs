//! Two nodes and what they agree on.

mod net;

use net::{Net, STEP, config, founded, joined_pair};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use weft_gossip::{ConnId, Input as Mesh};
use weft_ipam_crdt::{Request, RequestId};
use weft_node::{Input, Node, NodeConfig};
use weft_sleeve::Decision;
use weft_wire::api::{ApiError, ClusterStatus, LinkState, PodPlan};
use weft_wire::envelope::RegisterKey;
use weft_wire::group::{Everything, GroupsRecord, Listening};
use weft_wire::record::Body as _;
use weft_wire::{DropReason, Group, Mac};

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
    assert!(net.hosts[0].kernel.remote.keys().eq([&mac]));
    assert_eq!(net.place(mac), Decision::Peer(0));
    net.feed(0, Input::Local { mac });
    assert!(net.hosts[0].kernel.remote.is_empty());
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
        net.hosts[0].kernel.remote.is_empty(),
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
    assert!(net.hosts[0].kernel.remote.keys().eq([&mac]));
    net.feed(1, Input::Learned { mac, peer: here });
    assert_eq!(
        net.hosts[1].table.as_ref().unwrap().unicast(mac),
        Decision::Drop(DropReason::NotHere)
    );

    net.free(1, "web");
    net.allocate(0, "web", Some("10.32.0.9")).unwrap();
    assert!(net.hosts[0].kernel.remote.is_empty());
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
