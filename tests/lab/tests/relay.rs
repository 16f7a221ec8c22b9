//! Hosts that cannot reach each other talk through others, which cannot read what they pass on.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_lab::router::{is_relayed, is_up};
use weft_lab::{Content, Firewall, Host, Lab, Pod, Router, frames};
use weft_wire::api::{PeerStatus, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// How long to listen for what must not come.
const QUIET: Duration = Duration::from_millis(300);
/// A dead relay is replaced within this.
const REPLACED: Duration = Duration::from_secs(5);
/// A straight way that breaks is left within five seconds, and seconds more on a busy machine; without traffic in 15.
const LEFT: Duration = Duration::from_secs(10);
/// The straight way is tried every five seconds at last.
const BACK: Duration = Duration::from_secs(8);

fn peer<'a>(status: &'a Status, name: &str) -> Option<&'a PeerStatus> {
    status.peers.iter().find(|peer| peer.name == name)
}

/// Waits until frames from one host to another go through a third.
fn wait_relayed(from: &Router, to: &str, relay: &str, patience: Duration) {
    from.wait_until(&format!("{to} is reached via {relay}"), patience, |status| {
        peer(status, to).is_some_and(|peer| is_relayed(peer, relay))
    })
    .unwrap();
}

fn pods(routers: &[Router]) -> Vec<Pod> {
    let all = (1..).zip(routers);
    all.map(|(n, router)| {
        let name = format!("{}1", router.host().name());
        router.host().pod(&name, [10, 32, 0, n]).unwrap()
    })
    .collect()
}

fn addresses(host: &Host) -> [IpAddr; 2] {
    [host.ipv4().unwrap(), host.ipv6().unwrap()]
}

/// Hosts with these names in one cluster, the last of which joins by way of the second. Datagrams between it and the
/// first are dropped before it starts, by the packet filter that is returned.
fn apart(lab: &Lab, names: &[&str]) -> (Vec<Router>, Firewall) {
    let (last, others) = names.split_last().unwrap();
    let (switch, mut routers) = lab.cluster(others, &[], SOON).unwrap();
    let host = lab.host(last).on(&switch).build().unwrap();
    let firewall = routers[0].host().firewall();
    for address in addresses(&host) {
        firewall.drop_udp_with(address).unwrap();
    }
    let token = lab
        .secret_file("last-token", &routers[0].token().unwrap())
        .unwrap();
    let peer = routers[1].host().address().unwrap().to_string();
    let arguments = [
        "--peer".as_ref(),
        peer.as_ref(),
        "--token-file".as_ref(),
        token.as_os_str(),
    ];
    routers.push(host.up(arguments).unwrap());
    (routers, firewall)
}

/// One broadcast reaches every other pod once.
fn broadcast_once(pods: &[Pod], text: &str) {
    let hello = frames::build(frames::BROADCAST, pods[0].mac().unwrap(), 0x88b5, text.as_bytes());
    let listen = |pod: &Pod| pod.listen(|frame| frame.ethertype() == 0x88b5).unwrap();
    let mut ears: Vec<_> = pods[1..].iter().map(listen).collect();
    pods[0].send_frame(&hello).unwrap();
    for ear in &mut ears {
        ear.expect(1, SOON).unwrap();
        assert_eq!(ear.until_quiet(QUIET).unwrap(), std::slice::from_ref(&hello));
    }
}

#[test]
fn two_hosts_that_cannot_reach_each_other_talk_through_a_third() {
    let lab = Lab::new("relay").unwrap();
    let (routers, firewall) = apart(&lab, &["a", "b", "c"]);
    let pods = pods(&routers);
    let [a, b, c] = &routers[..] else { unreachable!() };
    wait_relayed(a, "c", "b", SOON);
    wait_relayed(c, "a", "b", SOON);
    // Nor does anything else pass between them: the mesh link breaks, too.
    for address in addresses(c.host()) {
        firewall.drop_all_with(address).unwrap();
    }
    pods[0].ping_until(pods[2].address().unwrap(), SOON).unwrap();
    broadcast_once(&pods, "to everybody, once, through whomever it takes");
    let content = Content::with_needle(8 << 20, 3, b"the relay does not read this", 700);
    let seen = b
        .host()
        .record(b"the relay does not read this", content.len())
        .unwrap();
    assert!(pods[0].tcp_send(&pods[2], &content).unwrap().is_intact());
    let seen = seen.stop().unwrap();
    assert_eq!(seen.found, 0);
    assert!(seen.bytes >= content.len() as u64, "{seen:?}");
    let status = b.status().unwrap();
    assert!(
        status.relayed.octets >= content.len() as u64,
        "{:?}",
        status.relayed
    );
    let status = a.status().unwrap();
    let now = peer(&status, "c").unwrap();
    assert!(now.reason.starts_with("via b:"), "{}", now.reason);
    assert_eq!(now.endpoint, peer(&status, "b").unwrap().endpoint);
    assert!(now.path_mtu.unwrap() > 1_400);

    // The straight way is taken again once it works.
    firewall.clear().unwrap();
    for (router, other) in [(a, "c"), (c, "a")] {
        router
            .wait_until("the straight way is back", BACK, |status| {
                peer(status, other).is_some_and(|peer| peer.mode == "sleeve")
            })
            .unwrap();
    }
    let passed = b.status().unwrap().relayed.datagrams;
    assert!(pods[0].tcp_send(&pods[2], &content).unwrap().is_intact());
    let later = b.status().unwrap().relayed.datagrams;
    assert!(later - passed < 10, "{passed} datagrams, then {later}");
    a.wait_until("all links are back", SOON, |status| {
        status.peers.iter().all(is_up)
    })
    .unwrap();
}

#[test]
fn a_relay_that_dies_is_replaced_within_five_seconds() {
    let lab = Lab::new("relaydies").unwrap();
    // Datagrams only: the mesh link between a and c stands.
    let (routers, _firewall) = apart(&lab, &["a", "b", "d", "c"]);
    let pods = pods(&routers);
    let [a, .., c] = &routers[..] else { unreachable!() };
    for (router, other) in [(a, "c"), (c, "a")] {
        router
            .wait_until("the other is relayed", SOON, |status| {
                peer(status, other).is_some_and(|peer| peer.mode == "relay")
            })
            .unwrap();
    }
    let (from, to) = (&pods[0], pods[3].address().unwrap());
    from.ping_until(to, SOON).unwrap();
    let used = peer(&a.status().unwrap(), "c").unwrap().relay.clone().unwrap();
    let dead = routers
        .iter()
        .find(|router| router.host().name() == used)
        .unwrap();
    let other = if used == "b" { "d" } else { "b" };
    dead.kill().unwrap();
    let died = Instant::now();
    from.ping_until(to, REPLACED).unwrap();
    assert!(died.elapsed() < REPLACED, "{:?}", died.elapsed());
    wait_relayed(a, "c", other, REPLACED);
    assert!(
        from.tcp_send(&pods[3], &Content::random(1 << 20, 4))
            .unwrap()
            .is_intact()
    );
}

#[test]
fn a_straight_way_that_breaks_under_traffic_is_left_for_another() {
    let lab = Lab::new("breaks").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b", "c"], &[], SOON).unwrap();
    let pods = pods(&routers);
    let [a, b, c] = &routers[..] else { unreachable!() };
    for router in [a, b, c] {
        router.wait_for_mesh(2, SOON).unwrap();
    }
    let (from, to) = (&pods[0], pods[2].address().unwrap());
    from.ping_until(to, SOON).unwrap();
    let straight = || {
        let status = a.status().unwrap();
        let now = peer(&status, "c").unwrap();
        (now.mode == "sleeve").then(|| now.endpoint.unwrap().ip())
    };
    let used = straight().unwrap();
    // The address in use, for datagrams only: the mesh link says that all is well.
    let firewall = a.host().firewall();
    firewall.drop_udp_with(used).unwrap();
    let broke = Instant::now();
    from.ping_until(to, LEFT).unwrap();
    println!("left {used} {:?} after it broke", broke.elapsed());
    // The other address of the host is as good as this one, a relay is not.
    a.wait_until("c is reached at its other address", SOON, |status| {
        peer(status, "c")
            .is_some_and(|peer| peer.mode == "sleeve" && peer.endpoint.is_some_and(|at| at.ip() != used))
    })
    .unwrap();
    from.ping_until(to, SOON).unwrap();
    // That one, too: only the relay is left.
    firewall.drop_udp_with(straight().unwrap()).unwrap();
    let broke = Instant::now();
    from.ping_until(to, LEFT).unwrap();
    println!("left for the relay {:?} after it broke", broke.elapsed());
    wait_relayed(a, "c", "b", SOON);
    wait_relayed(c, "a", "b", SOON);
}
