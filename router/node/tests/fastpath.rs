//! Two nodes whose kernels reach each other.

mod net;

use net::{Net, address, config, founded};
use std::time::Duration;
use weft_fastpath::Via;
use weft_ipam_crdt::{Request, RequestId};
use weft_node::{FastpathConfig, Input, Node, NodeConfig};
use weft_wire::api::FastpathState;
use weft_wire::fastpath::{Ability, Encryption};
use weft_wire::{Mac, NodeId};

const SOON: Duration = Duration::from_secs(5);

fn able(config: NodeConfig) -> NodeConfig {
    let fastpath = FastpathConfig {
        ability: Ability::Able,
        trusted: vec!["192.0.2.0/24".parse().expect("a CIDR")],
        ..FastpathConfig::default()
    };
    NodeConfig { fastpath, ..config }
}

fn state(net: &Net, host: usize) -> Option<FastpathState> {
    let status = net.status(host);
    Some(status.peers.first()?.fastpath.as_ref()?.state)
}

fn mode(net: &Net, host: usize) -> String {
    net.status(host)
        .peers
        .first()
        .map(|peer| peer.mode.clone())
        .unwrap_or_default()
}

fn both_are(net: &Net, mode_wanted: &str) -> bool {
    (0..2).all(|host| mode(net, host) == mode_wanted)
}

fn fast_pair() -> Net {
    let mut net = Net::new(vec![
        able(config(0, Some(founded()), 1, &[])),
        able(config(1, None, 1, &[0])),
    ]);
    net.run_until("both use the kernel", SOON, |net| both_are(net, "fastpath"));
    net
}

/// A pod of the second host that the first one sends frames to: its MAC.
fn pod(net: &mut Net) -> Mac {
    let (id, request) = ("web".to_owned(), RequestId(1));
    net.run_until("it owns addresses", SOON, |net| {
        net.status(1).ipam.is_some_and(|ipam| ipam.owned > 0)
    });
    net.feed(1, Input::Ipam(Request::Allocate { id, request }));
    net.run_until("an address", SOON, |net| !net.hosts[1].answers.is_empty());
    let plan = net.hosts[1].answers[0].1.clone().expect("an address");
    let mac: Mac = plan.mac.parse().expect("a MAC");
    let peer = net.hosts[1].node.id();
    net.run_until("the first host knows whose it is", SOON, |net| {
        net.hosts[0].table.as_ref().is_some_and(|table| {
            let place = table.locator.as_ref().and_then(|locator| locator.weft_mac(mac));
            place == Some(weft_sleeve::Place::Host(peer))
        })
    });
    net.feed(0, Input::Sent { mac, peer });
    mac
}

fn via(net: &Net, mac: Mac) -> Option<Via> {
    net.hosts[0].kernel.remote.get(&mac).copied()
}

#[test]
fn addresses_in_use_follow_the_path_of_their_host() {
    let mut net = fast_pair();
    let mac = pod(&mut net);
    let there = Via::Kernel(address(1).ip());
    assert_eq!(via(&net, mac), Some(there));
    let neighbours = &net.hosts[0].kernel.neighbours;
    assert_eq!(neighbours.values().copied().collect::<Vec<_>>(), [mac]);
    // The kernel sends frames there, and the router sees none of them.
    let end = net.now + Duration::from_secs(100);
    while net.now < end {
        net.feed(0, Input::KernelUsed(vec![mac]));
        let until = net.now + Duration::from_secs(5);
        net.run_until("time passes", Duration::from_secs(6), |net| net.now >= until);
        assert_eq!(
            via(&net, mac),
            Some(there),
            "{:?} {:#?}",
            net.now,
            net.status(0).peers
        );
    }
    net.is_cut = true;
    net.feed(0, Input::KernelUsed(vec![mac]));
    net.run_until("it has left", Duration::from_secs(1), |net| {
        via(net, mac) == Some(Via::Router)
    });
    assert!(
        net.hosts[0].kernel.neighbours.is_empty(),
        "the pod itself answers again"
    );
    net.is_cut = false;
    net.run_until("it is back", Duration::from_secs(60), |net| {
        via(net, mac) == Some(there)
    });
}

#[test]
fn one_word_encrypts_everything_and_another_takes_it_back() {
    let mut net = fast_pair();
    pod(&mut net);
    net.feed(1, Input::SetEncryption(Encryption::All));
    net.run_until("all obey", SOON, |net| {
        (0..2).all(|host| net.hosts[host].node.encryption_status().pending.is_empty())
    });
    for host in &net.hosts {
        assert_eq!(host.kernel.vxlan, None);
        assert!(host.kernel.remote.values().all(|via| *via == Via::Router));
        assert_eq!(host.settings.encryption.value, Encryption::All, "it is stored");
    }
    assert!(both_are(&net, "sleeve"));
    net.feed(0, Input::SetEncryption(Encryption::Auto));
    net.run_until("both use the kernel again", SOON, |net| both_are(net, "fastpath"));
    assert!(
        net.status(0).encryption.starts_with("NOT encrypted with host1"),
        "{}",
        net.status(0).encryption
    );
}

#[test]
fn a_router_that_starts_again_goes_on_with_what_the_kernel_has() {
    let mut net = fast_pair();
    let mac = pod(&mut net);
    let to = address(1).ip();
    let host = &net.hosts[0];
    let again = NodeConfig {
        ipam: host.ipam.clone(),
        ..able(config(0, host.stored.clone(), 2, &[]))
    };
    let links: Vec<_> = net.links.keys().filter(|(host, _)| *host == 1).copied().collect();
    net.links.clear();
    net.hosts[0].node = Node::new(net.now, again).expect("a state that holds");
    net.hosts[0].table = None;
    net.hosts[0].sessions.clear();
    net.feed(
        0,
        Input::KernelFound {
            entries: vec![(mac, to)],
            has_vxlan: true,
        },
    );
    assert_eq!(via(&net, mac), Some(Via::Kernel(to)), "from the first view on");
    for (host, conn) in links {
        net.feed(host, Input::Mesh(weft_gossip::Input::Closed { conn }));
    }
    let end = net.now + Duration::from_secs(20);
    net.run_until("it is proved", Duration::from_secs(21), |net| {
        assert_eq!(via(net, mac), Some(Via::Kernel(to)), "and never otherwise");
        state(net, 0) == Some(FastpathState::Fastpath) || net.now >= end
    });
    assert_eq!(state(&net, 0), Some(FastpathState::Fastpath));
    let path = net.status(1).peers[0].fastpath.clone().expect("a path");
    assert_eq!(path.flips, 1, "the other end has not left");
}

#[test]
fn what_is_found_and_may_not_be_is_given_up() {
    let mut settings = weft_wire::fastpath::Settings::default();
    settings.encryption = settings.encryption.replaced_by(NodeId([1; 32]), Encryption::All);
    let mut config = able(config(0, Some(founded()), 1, &[]));
    config.fastpath.settings = settings;
    let mut net = Net::new(vec![config]);
    let entries = vec![(Mac([2, 7, 0, 0, 0, 9]), address(1).ip())];
    net.feed(
        0,
        Input::KernelFound {
            entries,
            has_vxlan: true,
        },
    );
    assert_eq!(net.hosts[0].kernel.vxlan, None);
    assert!(net.hosts[0].kernel.remote.is_empty());
}
