//! Two hosts, one encrypted Ethernet: the story from founding to failure, with the real program.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_lab::router::is_up;
use weft_lab::{Content, Host, Impairment, Lab, Pod, Router, Station, Underlay, frames};
use weft_wire::api::{ClusterStatus, LinkState};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// How long to listen for what must not come.
const QUIET: Duration = Duration::from_millis(300);
/// A dead peer is noticed within this.
const NOTICED: Duration = Duration::from_secs(5);

/// Founds a cluster on a host.
fn found(host: &Host) -> Router {
    let router = host.up(["--found"]).unwrap();
    router
        .wait_until("it is a member", SOON, |status| {
            matches!(status.cluster, ClusterStatus::Member { .. })
        })
        .unwrap();
    router
}

/// Joins it from another host, by token, naming an address of a member.
fn join(lab: &Lab, host: &Host, member: &Router, address: IpAddr) -> Router {
    let token = lab
        .secret_file(&format!("{}-token", host.name()), &member.token().unwrap())
        .unwrap();
    let arguments = [
        "--peer".to_owned(),
        address.to_string(),
        "--token-file".to_owned(),
        token.display().to_string(),
    ];
    host.up(arguments).unwrap()
}

/// Two hosts on an underlay, in one cluster, every session up.
fn two_hosts(lab: &Lab, underlay: &dyn Underlay) -> (Router, Router) {
    let (a, b) = (
        lab.host("a").on(underlay).build().unwrap(),
        lab.host("b").on(underlay).build().unwrap(),
    );
    let first = found(&a);
    let second = join(lab, &b, &first, a.address().unwrap());
    for router in [&first, &second] {
        router.wait_for_peers(1, SOON).unwrap();
    }
    (first, second)
}

/// Two pods on each of two hosts.
fn four_pods(first: &Router, second: &Router) -> [Pod; 4] {
    let pod = |router: &Router, name: &str, last: u8| router.host().pod(name, [10, 32, 0, last]).unwrap();
    [
        pod(first, "a1", 1),
        pod(first, "a2", 2),
        pod(second, "b1", 3),
        pod(second, "b2", 4),
    ]
}

fn all_ping_all(pods: &[Pod]) {
    for from in pods {
        for to in pods.iter().filter(|to| to.name() != from.name()) {
            from.ping_until(to.address().unwrap(), SOON).unwrap();
        }
    }
}

#[test]
fn one_ethernet_for_everybody() {
    let lab = Lab::new("ethernet").unwrap();
    let (first, second) = two_hosts(&lab, &lab.switch().unwrap());
    let pods = four_pods(&first, &second);
    all_ping_all(&pods);
    let [a1, _, b1, b2] = &pods;

    let content = Content::random(8 << 20, 1);
    assert!(a1.tcp_send(b1, &content).unwrap().is_intact());
    assert!(b2.tcp_send(a1, &content).unwrap().is_intact());

    // One broadcast: every other pod hears it once.
    let source = a1.mac().unwrap();
    let hello = frames::build(
        frames::BROADCAST,
        source,
        0x88b5,
        b"to everybody, once, please......",
    );
    let mut ears: Vec<_> = pods[1..]
        .iter()
        .map(|pod| pod.listen(|frame| frame.ethertype() == 0x88b5).unwrap())
        .collect();
    a1.send_frame(&hello).unwrap();
    for ear in &mut ears {
        ear.expect(1, SOON).unwrap();
        assert_eq!(ear.until_quiet(QUIET).unwrap(), std::slice::from_ref(&hello));
    }

    // Frames of an odd type, of every length the pod can send, bit for bit and in order.
    let mtu = usize::from(first.status().unwrap().pod_mtu);
    let target = b1.mac().unwrap();
    let odd: Vec<_> = (46..=mtu)
        .step_by(97)
        .chain([mtu])
        .map(|length| {
            let payload: Vec<u8> = (0..length).map(|at| (at * 31 + length) as u8).collect();
            frames::build(target, source, 0x9999, &payload)
        })
        .collect();
    let mut ear = b1.listen(|frame| frame.ethertype() == 0x9999).unwrap();
    a1.send_frames(&odd).unwrap();
    assert_eq!(ear.expect(odd.len(), SOON).unwrap(), odd);

    // A receiving kernel takes the outer VLAN tag off before anybody sees it, so two are sent: the inner
    // one is seen only if the outer one was still there on arrival. Then the same with the tags swapped.
    for (outer, inner) in [(7, 42), (42, 7)] {
        let body = frames::build_tagged(target, source, inner, 0x88b6, &[0x5a; 100]);
        let twice_tagged = frames::build_tagged(target, source, outer, 0x8100, &body[14..]);
        let mut ear = b1.listen(|frame| frame.ethertype() == 0x8100).unwrap();
        a1.send_frame(&twice_tagged).unwrap();
        assert_eq!(ear.expect(1, SOON).unwrap(), [body]);
    }
}

#[test]
fn the_underlay_shows_no_plaintext() {
    let lab = Lab::new("secret").unwrap();
    let (first, second) = two_hosts(&lab, &lab.switch().unwrap());
    let [a1, _, b1, _] = &four_pods(&first, &second);
    a1.ping_until(b1.address().unwrap(), SOON).unwrap();
    let needle = b"nobody on the way reads this";
    let content = Content::with_needle(4 << 20, 3, needle, 700);
    let record = |at: &Station| at.record(needle, content.len()).unwrap();
    let (outside, inside) = (record(first.host()), record(a1));
    assert!(a1.tcp_send(b1, &content).unwrap().is_intact());
    let (outside, inside) = (outside.stop().unwrap(), inside.stop().unwrap());
    assert!(inside.found > 3000, "{inside:?}");
    assert_eq!(outside.found, 0, "{outside:?}");
    assert!(
        outside.bytes >= content.len() as u64 && outside.missed == 0,
        "{outside:?}"
    );
}

#[test]
fn an_ipv6_only_underlay() {
    let lab = Lab::new("ipv6").unwrap();
    let switch = lab.switch().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name).on(&switch).without_ipv4().build().unwrap());
    let first = found(&a);
    let second = join(&lab, &b, &first, a.ipv6().unwrap());
    first.wait_for_peers(1, SOON).unwrap();
    second.wait_for_peers(1, SOON).unwrap();
    let pods = four_pods(&first, &second);
    all_ping_all(&pods);
    assert!(
        pods[0]
            .tcp_send(&pods[2], &Content::random(1 << 20, 6))
            .unwrap()
            .is_intact()
    );
}

#[test]
fn a_bad_wire_is_survived() {
    let lab = Lab::new("badwire").unwrap();
    let wire = lab.wire(Impairment::delay(Duration::from_millis(2))).unwrap();
    let (first, second) = two_hosts(&lab, &wire);
    let pods = four_pods(&first, &second);
    all_ping_all(&pods);
    wire.impair(Impairment {
        delay: Duration::from_millis(2),
        reorder: 0.02,
        duplicate: 0.02,
        ..Impairment::loss(0.01, 17)
    });
    let transfer = pods[0].tcp_send(&pods[2], &Content::random(1 << 20, 4)).unwrap();
    assert!(transfer.is_intact());
    let counters = wire.counters();
    assert!(
        counters.lost > 0 && counters.duplicated > 0 && counters.reordered > 0,
        "{counters:?}"
    );
}

#[test]
fn a_router_restarts_and_pods_go_on() {
    let lab = Lab::new("restart").unwrap();
    let (first, second) = two_hosts(&lab, &lab.switch().unwrap());
    let pods = four_pods(&first, &second);
    all_ping_all(&pods);
    let node = second.status().unwrap().node;

    second.restart().unwrap();
    assert_eq!(second.wait_for_peers(1, SOON).unwrap().node, node);
    all_ping_all(&pods);

    second.kill().unwrap();
    second.restart().unwrap();
    assert_eq!(second.wait_for_peers(1, SOON).unwrap().node, node);
    assert_eq!(second.status().unwrap().pods.len(), 2);
    all_ping_all(&pods);
}

#[test]
fn a_dead_peer_is_noticed_and_comes_back() {
    let lab = Lab::new("dead").unwrap();
    let switch = lab.switch().unwrap();
    let (first, second) = two_hosts(&lab, &switch);
    // Without a word: no FIN, no RST, only silence.
    let begin = Instant::now();
    switch.partition(&[first.host()], &[second.host()]).unwrap();
    for router in [&first, &second] {
        router
            .wait_until("the silent peer is down", NOTICED + SOON, |status| {
                status.peers.iter().all(|peer| peer.mesh != LinkState::Up)
            })
            .unwrap();
    }
    assert!(begin.elapsed() < NOTICED, "{:?}", begin.elapsed());

    switch.heal().unwrap();
    for router in [&first, &second] {
        router.wait_for_peers(1, SOON).unwrap();
    }
    all_ping_all(&four_pods(&first, &second));
}

#[test]
fn a_third_host_is_found_through_the_second() {
    let lab = Lab::new("third").unwrap();
    let switch = lab.switch().unwrap();
    let (first, second) = two_hosts(&lab, &switch);
    let c = lab.host("c").on(&switch).build().unwrap();
    let third = join(&lab, &c, &first, second.host().address().unwrap());
    for router in [&first, &second, &third] {
        router.wait_for_peers(2, SOON).unwrap();
    }
    let pod = |router: &Router, name: &str, last: u8| router.host().pod(name, [10, 32, 0, last]).unwrap();
    all_ping_all(&[pod(&first, "a1", 1), pod(&third, "c1", 3)]);
}

#[test]
fn a_wrong_token_is_refused_by_name() {
    let lab = Lab::new("token").unwrap();
    let switch = lab.switch().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name).on(&switch).build().unwrap());
    let first = found(&a);
    let other = b.weft(["token", "--generate"]).unwrap().success().unwrap().stdout;
    assert_ne!(other.trim(), first.token().unwrap());
    let token = lab.secret_file("wrong", &other).unwrap();
    let peer = a.address().unwrap().to_string();
    let second = b
        .up(["--peer", &peer, "--token-file", &token.display().to_string()])
        .unwrap();
    let status = second
        .wait_until("it says that the token is wrong", SOON, |status| {
            status
                .targets
                .iter()
                .any(|target| target.reason.contains("token"))
        })
        .unwrap();
    assert_eq!(status.cluster, ClusterStatus::AwaitingAdmission);
    assert!(!status.peers.iter().any(is_up));
    first
        .wait_until("it has counted the refusal", SOON, |status| {
            !status.refusals.is_empty()
        })
        .unwrap();
}

#[test]
fn a_token_without_a_peer_is_an_error() {
    let lab = Lab::new("nopeer").unwrap();
    let host = lab.host("a").on(&lab.switch().unwrap()).build().unwrap();
    let text = host
        .weft(["token", "--generate"])
        .unwrap()
        .success()
        .unwrap()
        .stdout;
    let token = lab.secret_file("token", &text).unwrap();
    let router = host.up(["--token-file", &token.display().to_string()]).unwrap();
    let status = router.wait(SOON).unwrap().expect("it ends by itself");
    assert!(!status.success());
    assert!(router.log_tail().contains("--peer"), "{}", router.log_tail());
}
