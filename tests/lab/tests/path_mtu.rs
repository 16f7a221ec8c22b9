//! Full pod frames cross every underlay, also one that shrinks, or that drops what is too large without a word.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_kernel::link;
use weft_lab::{Content, Host, HostBuilder, Lab, PingPlan, Pod, Router, Underlay};
use weft_wire::api::{ClusterStatus, Status};
use weft_wire::mtu::OVERHEAD;

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// IPv4 and ICMP headers of an echo request.
const ECHO: usize = 28;

/// Founds a cluster on the first host and joins it from the second.
fn join(lab: &Lab, hosts: [&Host; 2], address: IpAddr, arguments: &[&str]) -> [Router; 2] {
    let first = hosts[0].up(["--found"].iter().chain(arguments)).unwrap();
    first
        .wait_until("it is a member", SOON, |status| {
            matches!(status.cluster, ClusterStatus::Member { .. })
        })
        .unwrap();
    let token = lab.secret_file("token", &first.token().unwrap()).unwrap();
    let (address, token) = (address.to_string(), token.display().to_string());
    let named = ["--peer", &address, "--token-file", &token];
    let second = hosts[1].up(named.iter().chain(arguments)).unwrap();
    for router in [&first, &second] {
        router.wait_for_peers(1, SOON).unwrap();
    }
    [first, second]
}

/// Which IP version the underlay has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    Four,
    Six,
}

impl Version {
    fn limit(self, host: HostBuilder) -> HostBuilder {
        match self {
            Self::Four => host.without_ipv6(),
            Self::Six => host.without_ipv4(),
        }
    }
}

/// Two hosts on one underlay, with these MTUs and one pod each.
fn pair(
    lab: &Lab,
    underlay: &dyn Underlay,
    version: Version,
    mtus: [u32; 2],
    arguments: &[&str],
) -> ([Router; 2], [Pod; 2]) {
    let [a, b] = [("a", mtus[0]), ("b", mtus[1])].map(|(name, mtu)| {
        version
            .limit(lab.host(name).on(underlay).mtu(mtu))
            .build()
            .unwrap()
    });
    for host in [&a, &b] {
        // A virtual wire carries what stands for many packets as one, whatever its MTU is. A card cuts it.
        host.namespace()
            .run(|| link::set_segments("eth0", 1))
            .unwrap()
            .unwrap();
    }
    let routers = join(lab, [&a, &b], a.address().unwrap(), arguments);
    (routers, pods([&a, &b]))
}

fn pods(hosts: [&Host; 2]) -> [Pod; 2] {
    let [a, b] = hosts;
    [
        a.pod("a1", [10, 32, 0, 1]).unwrap(),
        b.pod("b1", [10, 32, 0, 2]).unwrap(),
    ]
}

fn path_mtu(status: &Status) -> usize {
    status.peers[0].path_mtu.map_or(0, usize::from)
}

/// Waits until both routers know the path to within what the search leaves open.
fn wait_for_path(routers: &[Router; 2], mtu: usize) {
    for router in routers {
        let patience = Duration::from_secs(30);
        let found = router.wait_until(&format!("the path of {mtu} is found"), patience, |status| {
            (mtu - 16..=mtu).contains(&path_mtu(status))
        });
        found.unwrap();
    }
}

/// Echo requests that fill the pods' MTU, and what is lost of them.
fn full_pings(from: &Pod, to: &Pod, mtu: usize, count: u16) -> u16 {
    let plan = PingPlan {
        count,
        interval: Duration::from_millis(5),
        payload: mtu - ECHO,
        ..PingPlan::default()
    };
    from.ping_with(to.address().unwrap(), &plan).unwrap().lost()
}

/// Full frames, packets that the pod itself must cut, and a stream cross both ways.
fn everything_crosses(routers: &[Router; 2], pods: &[Pod; 2]) {
    let mtu = usize::from(routers[0].status().unwrap().pod_mtu);
    for (from, to) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        from.ping_until(to.address().unwrap(), SOON).unwrap();
        assert_eq!(full_pings(from, to, mtu, 20), 0);
        assert_eq!(full_pings(from, to, 8_000, 3), 0, "cut by the pod");
        let content = Content::random(1 << 20, 5);
        assert!(from.tcp_send(to, &content).unwrap().is_intact());
    }
    for router in routers {
        let drops = router.status().unwrap().drops;
        for reason in [
            "path_too_small",
            "bad_fragment",
            "overlapping_fragment",
            "reassembly_full",
        ] {
            assert!(!drops.contains_key(reason), "{drops:?}");
        }
    }
}

fn crosses(
    name: &str,
    version: Version,
    mtus: [u32; 2],
    arguments: &[&str],
    pod_mtu: usize,
) -> ([Router; 2], [Pod; 2]) {
    let lab = Lab::new(name).unwrap();
    let (routers, pods) = pair(&lab, &lab.switch().unwrap(), version, mtus, arguments);
    for router in &routers {
        assert_eq!(usize::from(router.status().unwrap().pod_mtu), pod_mtu);
    }
    // At once, before the path is known, and then again.
    everything_crosses(&routers, &pods);
    wait_for_path(&routers, *mtus.iter().min().unwrap() as usize);
    everything_crosses(&routers, &pods);
    (routers, pods)
}

fn fragmented(router: &Router) -> (u64, u64) {
    let traffic = router.status().unwrap().peers[0].traffic;
    (traffic.tx_fragmented, traffic.rx_reassembled)
}

#[test]
fn full_frames_cross_the_smallest_underlay() {
    for version in [Version::Four, Version::Six] {
        let (routers, _pods) = crosses("mtu1280", version, [1_280, 1_280], &[], 1_280);
        for router in &routers {
            let (sent, received) = fragmented(router);
            assert!(sent > 40 && received > 40, "{sent} {received}");
        }
    }
}

#[test]
fn full_frames_cross_an_ordinary_underlay_whole() {
    for version in [Version::Four, Version::Six] {
        let (routers, pods) = crosses("mtu1500", version, [1_500, 1_500], &[], 1_500 - OVERHEAD);
        let before = routers.each_ref().map(fragmented);
        assert_eq!(full_pings(&pods[0], &pods[1], 1_500 - OVERHEAD, 20), 0);
        assert_eq!(routers.each_ref().map(fragmented), before);
    }
}

#[test]
fn jumbo_is_found_and_pods_keep_what_every_host_can_carry() {
    crosses("mtu9000", Version::Four, [9_000, 9_000], &[], 1_500 - OVERHEAD);
    crosses("mtu9000", Version::Six, [9_000, 9_000], &[], 1_500 - OVERHEAD);
}

#[test]
fn hosts_with_different_underlays_meet() {
    crosses("mixed", Version::Four, [9_000, 1_280], &[], 1_280);
    crosses("mixed", Version::Six, [1_400, 1_500], &[], 1_280);
}

#[test]
fn pods_may_be_given_more_than_a_path_carries() {
    let (routers, _pods) = crosses("raised", Version::Four, [1_500, 1_500], &["--mtu", "1500"], 1_500);
    assert!(fragmented(&routers[0]).0 > 40);
}

#[test]
fn a_switch_that_shrinks_without_a_word_under_a_transfer() {
    let lab = Lab::new("shrink").unwrap();
    let switch = lab.switch().unwrap();
    let (routers, pods) = pair(&lab, &switch, Version::Four, [1_500, 1_500], &[]);
    pods[0].ping_until(pods[1].address().unwrap(), SOON).unwrap();
    wait_for_path(&routers, 1_500);
    let set_port = |mtu| {
        switch
            .namespace()
            .run(|| link::set_mtu("p1", mtu))
            .unwrap()
            .unwrap()
    };

    let content = Content::random(64 << 20, 7);
    let arrived = AtomicU64::new(0);
    let shrunk = AtomicU64::new(0);
    let transfer = pods[0].tcp_send_watched(&pods[1], &content, &|bytes| {
        arrived.store(bytes, Ordering::Relaxed);
        if bytes > 1 << 20 && shrunk.swap(1, Ordering::Relaxed) == 0 {
            set_port(1_300);
        }
    });
    assert!(transfer.unwrap().is_intact());
    assert_eq!(shrunk.load(Ordering::Relaxed), 1);
    let status = routers[0].status().unwrap();
    assert!(path_mtu(&status) <= 1_300, "{}", path_mtu(&status));
    // The other end has sent nothing large, and has not noticed: now it does, and may lose some of these.
    full_pings(&pods[0], &pods[1], 1_366, 200);
    wait_for_path(&routers, 1_300);
    for (from, to) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        assert_eq!(full_pings(from, to, 1_366, 100), 0);
    }
    assert!(fragmented(&routers[0]).0 > 100);
}

#[test]
fn an_interface_that_shrinks_loses_nothing() {
    let lab = Lab::new("device").unwrap();
    let (routers, pods) = pair(&lab, &lab.switch().unwrap(), Version::Six, [1_500, 1_500], &[]);
    pods[0].ping_until(pods[1].address().unwrap(), SOON).unwrap();
    wait_for_path(&routers, 1_500);
    let host = routers[0].host();
    let plan = PingPlan {
        count: 200,
        interval: Duration::from_millis(5),
        payload: 1_366 - ECHO,
        ..PingPlan::default()
    };
    let report = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| pods[0].ping_with(pods[1].address().unwrap(), &plan).unwrap());
        routers[1]
            .wait_until("the pings are under way", SOON, |status| {
                status.peers[0].traffic.rx_frames > 50
            })
            .unwrap();
        // Both ends at once, as when a tunnel is put under both; the kernel tells each of them.
        for router in &routers {
            router
                .host()
                .namespace()
                .run(|| link::set_mtu("eth0", 1_300))
                .unwrap()
                .unwrap();
        }
        pinging.join().unwrap()
    });
    assert!(report.lost() <= 1, "the one that was between the two: {report:?}");
    wait_for_path(&routers, 1_300);
    assert_eq!(full_pings(&pods[0], &pods[1], 1_366, 100), 0);
    assert!(host.namespace().run(|| link::get("eth0")).unwrap().unwrap().mtu == 1_300);
}

/// Two hosts with a router between them whose second link is small, and that must not say so.
#[test]
fn a_small_link_behind_a_router_that_is_kept_from_saying_so() {
    for version in [Version::Four, Version::Six] {
        let lab = Lab::new("blackhole").unwrap();
        let (left, right) = (lab.switch().unwrap(), lab.switch().unwrap());
        let middle = lab
            .host("m")
            .on(&left)
            .on(&right)
            .mtu(1_400)
            .forwarding()
            .build()
            .unwrap();
        middle.firewall().drop_too_big().unwrap();
        let towards = |at: usize| {
            let of_version = |address: &&IpAddr| address.is_ipv4() == (version == Version::Four);
            *middle.addresses().iter().filter(of_version).nth(at).unwrap()
        };
        let host = |name: &str, on: &dyn Underlay, gateway| {
            version
                .limit(lab.host(name).on(on))
                .gateway(gateway)
                .build()
                .unwrap()
        };
        let (a, b) = (host("a", &left, towards(0)), host("b", &right, towards(1)));
        let routers = join(&lab, [&a, &b], a.address().unwrap(), &[]);
        let pods = pods([&a, &b]);
        everything_crosses(&routers, &pods);
        wait_for_path(&routers, 1_400);
        for (from, to) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
            assert_eq!(full_pings(from, to, 1_366, 100), 0);
        }
        assert!(fragmented(&routers[0]).0 > 0);
    }
}
