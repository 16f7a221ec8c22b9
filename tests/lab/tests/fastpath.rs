//! Frames through the kernels of both hosts: when they go there, when they do not, and that nothing is lost on the way
//! from one to the other.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use weft_lab::{Content, Host, Lab, PingPlan, Pod, Router, Underlay};
use weft_wire::api::{FastpathState, PeerStatus, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// A path that failed is tried again within this.
const AGAIN: Duration = Duration::from_secs(75);
/// Networks of the lab: documentation addresses, which nobody trusts unless told.
const TRUST: &str = "192.0.2.0/24,2001:db8::/32";
/// UDP port of VXLAN.
const PORT: u16 = 6_784;
/// In every packet of a transfer.
const NEEDLE: &[u8] = b"whoever listens on the way reads this";

fn join(lab: &Lab, host: &Host, member: &Router, options: &[&str]) -> Router {
    let token = lab
        .secret_file(&format!("{}-token", host.name()), &member.token().unwrap())
        .unwrap();
    let address = member.host().address().unwrap().to_string();
    let token = token.display().to_string();
    let words = ["--peer", &address, "--token-file", &token];
    host.up(words.iter().chain(options)).unwrap()
}

/// A cluster of these hosts, the first of which makes it; `options` are of all.
fn cluster(lab: &Lab, hosts: &[Host], options: &[&str]) -> Vec<Router> {
    let first = hosts[0].up(["--found"].iter().chain(options)).unwrap();
    first.wait_ready(SOON).unwrap();
    let mut routers = vec![first];
    for host in &hosts[1..] {
        let router = join(lab, host, &routers[0], options);
        routers.push(router);
    }
    routers
}

fn hosts(lab: &Lab, underlay: &dyn Underlay, names: &[&str]) -> Vec<Host> {
    names
        .iter()
        .map(|name| lab.host(name).on(underlay).build().unwrap())
        .collect()
}

fn wait_fast(routers: &[Router]) {
    for router in routers {
        router.wait_for_fastpath(routers.len() - 1, SOON).unwrap();
    }
}

fn pod(router: &Router, name: &str, last: u8) -> Pod {
    router.host().pod(name, [10, 32, 0, last]).unwrap()
}

fn peer(status: &Status) -> &PeerStatus {
    let [peer] = &status.peers[..] else {
        panic!("one peer, not {:?}", status.peers)
    };
    peer
}

/// Why frames to the only peer do not go through the kernel.
fn why(status: &Status) -> String {
    let fastpath = peer(status).fastpath.clone();
    fastpath.and_then(|path| path.why).unwrap_or_default()
}

/// Waits until a router says so of its only peer.
fn wait_why(router: &Router, what: &str) {
    let says = |status: &Status| status.peers.len() == 1 && why(status).contains(what);
    router
        .wait_until(&format!("it says {what:?}"), SOON, says)
        .unwrap();
}

/// Sends from one pod to the other, and sees the needle on the underlay or does not.
fn send_watched(from: &Pod, to: &Pod, host: &Host) -> bool {
    let content = Content::with_needle(2 << 20, 3, NEEDLE, 700);
    let record = host.record(NEEDLE, content.len()).unwrap();
    assert!(from.tcp_send(to, &content).unwrap().is_intact());
    record.stop().unwrap().found > 0
}

fn ping_plan(count: u16, interval: Duration) -> PingPlan {
    PingPlan {
        count,
        interval,
        ..PingPlan::default()
    }
}

#[test]
fn three_hosts_that_trust_their_network_use_the_kernel() {
    let lab = Lab::new("fast").unwrap();
    let hosts = hosts(&lab, &lab.switch().unwrap(), &["a", "b", "c"]);
    let routers = cluster(&lab, &hosts, &["--trust", TRUST]);
    wait_fast(&routers);
    let pods: Vec<Pod> = (1u8..)
        .zip(&routers)
        .map(|(n, router)| pod(router, "pod", n))
        .collect();
    for from in &pods {
        for to in pods.iter().filter(|to| to.host().name() != from.host().name()) {
            from.ping_until(to.address().unwrap(), SOON).unwrap();
        }
    }
    assert!(send_watched(&pods[0], &pods[1], &hosts[0]), "it travels in clear");
    let status = routers[0].status().unwrap();
    assert!(
        status.encryption.starts_with("NOT encrypted with b, c"),
        "{}",
        status.encryption
    );
    for peer in &status.peers {
        let path = peer.fastpath.as_ref().unwrap();
        assert_eq!(
            (path.state, path.flips, peer.encrypted),
            (FastpathState::Fastpath, 1, false)
        );
        assert!(path.rtt_us.is_some(), "{path:?}");
    }
    // The router sees nothing of it any more.
    let before = routers[0].status().unwrap().peers[0].traffic.tx_bytes;
    assert!(
        pods[0]
            .tcp_send(&pods[1], &Content::random(4 << 20, 9))
            .unwrap()
            .is_intact()
    );
    let after = routers[0].status().unwrap().peers[0].traffic.tx_bytes;
    assert!(
        after - before < 1 << 20,
        "{} octets went by the router",
        after - before
    );
}

#[test]
fn who_does_not_trust_the_network_or_want_it_stays_encrypted() {
    let lab = Lab::new("wary").unwrap();
    let hosts = hosts(&lab, &lab.switch().unwrap(), &["a", "b"]);
    let first = hosts[0].up(["--found", "--trust", TRUST]).unwrap();
    first.wait_ready(SOON).unwrap();
    // It takes two.
    let second = join(&lab, &hosts[1], &first, &[]);
    wait_why(&second, "without --trust");
    wait_why(&first, "takes no part");
    let pods = [pod(&first, "pod", 1), pod(&second, "pod", 2)];
    pods[0].ping_until(pods[1].address().unwrap(), SOON).unwrap();
    assert!(!send_watched(&pods[0], &pods[1], &hosts[0]), "it is encrypted");
    drop(second);
    let third = hosts[1].up(["--trust", TRUST, "--no-fastpath"]).unwrap();
    wait_why(&third, "this host takes no part");
    wait_why(&first, "it takes no part");
}

#[test]
fn what_does_not_pass_is_said_and_used_once_it_does() {
    let lab = Lab::new("blocked").unwrap();
    let hosts = hosts(&lab, &lab.switch().unwrap(), &["a", "b"]);
    let one_way = hosts[1].firewall();
    // What b's kernel sends comes to a; what a's sends, b drops.
    one_way
        .drop_udp_port_from(PORT, hosts[0].address().unwrap())
        .unwrap();
    let routers = cluster(&lab, &hosts, &["--trust", TRUST]);
    wait_why(&routers[0], "does not arrive, although it is heard");
    wait_why(&routers[1], "nothing comes from it on UDP port 6784");
    let pods = [pod(&routers[0], "pod", 1), pod(&routers[1], "pod", 2)];
    pods[0].ping_until(pods[1].address().unwrap(), SOON).unwrap();
    one_way.clear().unwrap();
    for router in &routers {
        router.wait_for_fastpath(1, AGAIN).unwrap();
    }
}

#[test]
fn the_other_hosts_router_may_stop_and_die_and_no_packet_is_lost() {
    let lab = Lab::new("silent").unwrap();
    let hosts = hosts(&lab, &lab.switch().unwrap(), &["a", "b"]);
    let routers = cluster(&lab, &hosts, &["--trust", TRUST]);
    wait_fast(&routers);
    let pods = [pod(&routers[0], "pod", 1), pod(&routers[1], "pod", 2)];
    let to = pods[1].address().unwrap();
    pods[0].ping_until(to, SOON).unwrap();
    // From here on the kernels know the way.
    pods[0]
        .ping_with(to, &ping_plan(50, Duration::from_millis(20)))
        .unwrap();
    let silent = |status: &Status| {
        let path = peer(status).fastpath.as_ref();
        path.is_some_and(|path| path.state == FastpathState::RouterSilent)
    };
    let stream = pods[0].tcp_stream(&pods[1]).unwrap();
    let report = std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            pods[0]
                .ping_with(to, &ping_plan(1_500, Duration::from_millis(10)))
                .unwrap()
        });
        let pid = routers[1].pid().unwrap();
        signal(pid, rustix::process::Signal::STOP);
        routers[0].wait_until("it is silent", SOON, silent).unwrap();
        stream.wait_for(64 << 10, SOON).unwrap();
        signal(pid, rustix::process::Signal::CONT);
        routers[0]
            .wait_until("it is there again", SOON, |status| !silent(status))
            .unwrap();
        routers[1].kill().unwrap();
        routers[0].wait_until("it is silent again", SOON, silent).unwrap();
        stream.wait_for(64 << 10, SOON).unwrap();
        routers[1].restart().unwrap();
        pings.join().unwrap()
    });
    assert!(report.is_complete(), "{report:?}");
    routers[0]
        .wait_until("it is proved again", SOON, |status| !silent(status))
        .unwrap();
    routers[1].wait_for_fastpath(1, SOON).unwrap();
    stream.finish().unwrap();
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn encrypt_changes_it_for_everybody_and_loses_nothing() {
    let lab = Lab::new("encrypt").unwrap();
    let hosts = hosts(&lab, &lab.switch().unwrap(), &["a", "b"]);
    let routers = cluster(&lab, &hosts, &["--trust", TRUST]);
    wait_fast(&routers);
    let pods = [pod(&routers[0], "pod", 1), pod(&routers[1], "pod", 2)];
    let to = pods[1].address().unwrap();
    pods[0].ping_until(to, SOON).unwrap();
    let encrypt = |host: &Host, setting: &str| {
        let socket = host.socket().display().to_string();
        host.weft(["encrypt", setting, "--socket", &socket])
            .unwrap()
            .success()
            .unwrap()
            .stdout
    };
    const FLIPS: u64 = 4;
    let report = std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            pods[0]
                .ping_with(to, &ping_plan(1_200, Duration::from_millis(10)))
                .unwrap()
        });
        for turn in 0..FLIPS as usize {
            let said = encrypt(&hosts[turn % 2], "all");
            assert!(said.contains("everything between hosts is encrypted"), "{said}");
            // When the command has ended, it is so everywhere.
            for router in &routers {
                let status = router.status().unwrap();
                assert!(peer(&status).encrypted, "{:?}", peer(&status));
                assert!(
                    status.encryption.starts_with("all traffic"),
                    "{}",
                    status.encryption
                );
            }
            let devices = hosts[0]
                .run_program("ip", ["-d", "link", "show", "type", "vxlan"])
                .unwrap();
            assert_eq!(devices.success().unwrap().stdout, "", "no VXLAN device is left");
            encrypt(&hosts[1 - turn % 2], "auto");
            wait_fast(&routers);
        }
        pings.join().unwrap()
    });
    assert!(report.is_complete(), "{report:?}");
    // It is remembered by a cluster that stops as a whole.
    encrypt(&hosts[0], "all");
    for router in &routers {
        router.stop().unwrap();
    }
    for router in &routers {
        router.restart().unwrap();
    }
    for router in &routers {
        let status = router.wait_for_peers(1, SOON).unwrap();
        assert!(
            status.encryption.starts_with("all traffic"),
            "{}",
            status.encryption
        );
        wait_why(router, "weft encrypt all");
    }
}

#[test]
fn loss_makes_no_path_flap() {
    let lab = Lab::new("lossy").unwrap();
    let hosts = hosts(&lab, &lab.switch().unwrap(), &["a", "b"]);
    let routers = cluster(&lab, &hosts, &["--trust", TRUST]);
    wait_fast(&routers);
    hosts[1]
        .firewall()
        .lose_udp(NonZeroU32::new(20).unwrap())
        .unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let status = routers[0].status().unwrap();
        assert_eq!(peer(&status).mode, "fastpath", "{:?}", peer(&status));
        let _ = routers[0].wait(Duration::from_millis(200)).unwrap();
    }
}

#[test]
fn a_device_that_weft_did_not_make_is_found_through_the_kernel() {
    let lab = Lab::new("plugged").unwrap();
    let hosts = hosts(&lab, &lab.switch().unwrap(), &["a", "b"]);
    let routers = cluster(&lab, &hosts, &["--trust", TRUST]);
    wait_fast(&routers);
    let from = pod(&routers[1], "pod", 1);
    let network = "10.32.200.9/12".parse().unwrap();
    let device = hosts[0]
        .plug("device", [0x52, 0x54, 0, 0, 0, 9], &[network])
        .unwrap();
    let to = device.address().unwrap();
    from.ping_until(to, SOON).unwrap();
    // Its answers come by the kernel and teach nothing. What it was asked by the sleeve has told.
    let report = from
        .ping_with(to, &ping_plan(200, Duration::from_millis(10)))
        .unwrap();
    assert!(report.is_complete(), "{report:?}");
    let sent = || routers[1].status().unwrap().peers[0].traffic.tx_frames;
    let before = sent();
    assert!(
        from.ping_with(to, &ping_plan(100, Duration::from_millis(10)))
            .unwrap()
            .is_complete()
    );
    assert!(
        sent() - before < 20,
        "{} frames went by the router",
        sent() - before
    );
}
