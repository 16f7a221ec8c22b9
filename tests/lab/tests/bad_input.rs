//! What a bad start, a bad host and a bad neighbour get: a sentence with the cure, and nothing changed; meanwhile
//! the pods of two healthy hosts go on.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use weft_kernel::{addr, link, route};
use weft_lab::router::is_up;
use weft_lab::{Host, Lab, PingPlan, Pod, Router, Switch};
use weft_wire::api::{ClusterStatus, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
const PORT: u16 = 6783;

/// Two healthy hosts, whose pods ping each other all the time.
struct Healthy {
    lab: Lab,
    switch: Switch,
    routers: [Router; 2],
    token: String,
    _pods: [Pod; 2],
    stop: Arc<AtomicBool>,
    pinger: Option<JoinHandle<u32>>,
}

impl Healthy {
    fn new(label: &str) -> Self {
        let lab = Lab::new(label).unwrap();
        let switch = lab.switch().unwrap();
        let [a, b] = ["a", "b"].map(|name| lab.host(name).on(&switch).build().unwrap());
        let first = a.up(["--found"]).unwrap();
        first.wait_until("it is a member", SOON, is_member).unwrap();
        let token = lab.secret_file("token", &first.token().unwrap()).unwrap();
        let token = token.to_str().unwrap().to_owned();
        let peer = a.address().unwrap().to_string();
        let second = b.up(["--peer", &peer, "--token-file", &token]).unwrap();
        second.wait_for_peers(1, SOON).unwrap();
        let pods = [
            a.pod("p", [10, 32, 0, 1]).unwrap(),
            b.pod("q", [10, 32, 0, 2]).unwrap(),
        ];
        pods[0].ping_until(pods[1].address().unwrap(), SOON).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (from, to, ended) = (pods[0].clone(), pods[1].address().unwrap(), Arc::clone(&stop));
        let pinger = std::thread::spawn(move || {
            let plan = PingPlan {
                count: 20,
                ..PingPlan::default()
            };
            let mut answered = 0;
            while !ended.load(Ordering::Relaxed) {
                let report = from.ping_with(to, &plan).unwrap();
                assert!(report.is_complete(), "a healthy pod lost {} of 20", report.lost());
                answered += 20;
            }
            answered
        });
        Self {
            lab,
            switch,
            routers: [first, second],
            token,
            _pods: pods,
            stop,
            pinger: Some(pinger),
        }
    }

    fn host(&self, name: &str) -> Host {
        self.lab.host(name).on(&self.switch).build().unwrap()
    }

    /// The first healthy host's address.
    fn peer(&self) -> String {
        self.routers[0].host().address().unwrap().to_string()
    }

    fn join_arguments(&self) -> [String; 4] {
        [
            "--peer".into(),
            self.peer(),
            "--token-file".into(),
            self.token.clone(),
        ]
    }

    /// Not one ping was lost.
    fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.pinger.take().unwrap().join().unwrap();
        assert!(answered >= 20);
        for router in &self.routers {
            router.status().unwrap();
        }
    }
}

impl Drop for Healthy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn is_member(status: &Status) -> bool {
    matches!(status.cluster, ClusterStatus::Member { .. })
}

/// What the kernel of a host holds: interfaces, addresses, routes, packet filters.
fn kernel(host: &Host) -> String {
    let listed = host.namespace().run(|| {
        let links = link::list().unwrap();
        let addresses: Vec<_> = links.iter().map(|link| addr::list(&link.name).unwrap()).collect();
        format!("{links:?} {addresses:?} {:?}", route::list().unwrap())
    });
    let filters = host
        .run_program("nft", ["-s", "list", "ruleset"])
        .unwrap()
        .success()
        .unwrap();
    listed.unwrap() + &filters.stdout
}

/// Every file below a host's folder but its log, with its content.
fn files(host: &Host) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.insert(path.display().to_string(), fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(host.folder(), &mut found);
    found.retain(|name, _| !name.ends_with(".log") && !name.ends_with("/lock"));
    found
}

/// Starts a router that must refuse with exit code 1, all of these words in its last sentence, and nothing changed.
fn refused(what: &str, host: &Host, wrapper: &[&str], arguments: &[&str], words: &[&str]) {
    let before = (kernel(host), files(host));
    let router = host.up_under(wrapper, arguments).unwrap();
    let status = router.wait(SOON).unwrap();
    let log = router.log_tail();
    let status = status.unwrap_or_else(|| panic!("{what}: it runs\n{log}"));
    assert_eq!(status.code(), Some(1), "{what}: {log}");
    // What it said since the line that holds its command.
    let sentence = log.rsplit_once("\n$ ").map_or(log.as_str(), |(_, end)| end);
    for word in words {
        assert!(sentence.contains(word), "{what}: {word:?} is not in: {sentence}");
    }
    assert!(kernel(host) == before.0, "{what}: the kernel's state changed");
    assert!(files(host) == before.1, "{what}: files changed");
}

#[test]
fn a_router_that_cannot_start_says_why_and_changes_nothing() {
    let healthy = Healthy::new("refused");
    let host = healthy.host("c");
    let file = |name: &str, text: &str| {
        let path = healthy.lab.secret_file(name, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (short, empty) = (file("short", "abc"), file("empty", "\n"));
    let damaged = file("damaged", "weft1-abcdef");
    let unknown_key = file("unknown-key", "prot = 1\n");
    let own = host.address().unwrap().to_string();
    let own_by_name = format!("{own},127.0.0.1:{PORT}");
    let (peer, token) = (healthy.peer(), healthy.token.as_str());
    let without_tun = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"",
    ];
    let without_capability = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let none: &[&str] = &[];
    for (what, wrapper, arguments, words) in [
        (
            "no capability",
            &without_capability[..],
            none,
            &["CAP_NET_ADMIN", "root"][..],
        ),
        (
            "no TUN device",
            &without_tun[..],
            none,
            &["/dev/net/tun", "mknod"],
        ),
        (
            "a range that is too small",
            none,
            &["--range", "10.0.0.0/31"],
            &["10.0.0.0/31", "too small", "/24"],
        ),
        (
            "a range with host bits",
            none,
            &["--range", "10.0.0.1/24"],
            &["did you mean 10.0.0.0/24"],
        ),
        (
            "a range that is too large",
            none,
            &["--range", "fd00::/64"],
            &["fd00::/64", "/96"],
        ),
        (
            "its own address as peer",
            none,
            &["--peer", &own, "--token-file", token],
            &["is this host itself", "--peer"],
        ),
        (
            "two of its own",
            none,
            &["--peer", &own_by_name, "--token-file", token],
            &["127.0.0.1", "itself"],
        ),
        ("no peer", none, &["--token-file", token], &["--peer", "--found"]),
        (
            "no token",
            none,
            &["--peer", &peer],
            &["no token", "--token-file", "WEFT_TOKEN"],
        ),
        (
            "an empty token file",
            none,
            &["--peer", &peer, "--token-file", &empty],
            &["is empty", "weft token"],
        ),
        (
            "a missing token file",
            none,
            &["--peer", &peer, "--token-file", "/nowhere"],
            &["token file /nowhere"],
        ),
        (
            "a short token",
            none,
            &["--peer", &peer, "--token-file", &short],
            &["3 characters", "at least"],
        ),
        (
            "half a token",
            none,
            &["--peer", &peer, "--token-file", &damaged],
            &["damaged", "copy it again"],
        ),
        (
            "a bad peer",
            none,
            &["--peer", "http://a", "--token-file", token],
            &["http://a", "HOST:PORT"],
        ),
        ("a bad MTU", none, &["--mtu", "600"], &["--mtu 600", "1280"]),
        ("port zero", none, &["--port", "0"], &["port 0"]),
        (
            "an unknown key",
            none,
            &["--config", &unknown_key],
            &["unknown-key"],
        ),
        (
            "an address of others",
            none,
            &["--listen", "192.0.2.250"],
            &["192.0.2.250", "--listen"],
        ),
    ] {
        refused(what, &host, wrapper, arguments, words);
        assert!(
            !host.state_dir().join("state").exists(),
            "{what}: it left an identity behind"
        );
    }

    let any = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], PORT));
    let tcp = host.namespace().run(|| TcpListener::bind(any)).unwrap().unwrap();
    refused(
        "the TCP port is taken",
        &host,
        none,
        none,
        &["TCP", "6783", "--port"],
    );
    drop(tcp);
    let udp = host.namespace().run(|| UdpSocket::bind(any)).unwrap().unwrap();
    refused(
        "the UDP port is taken",
        &host,
        none,
        none,
        &["UDP", "6783", "--port"],
    );
    drop(udp);

    let destination = "10.33.0.0/16".parse().unwrap();
    host.namespace()
        .run(|| route::add("eth0", destination, None))
        .unwrap()
        .unwrap();
    refused(
        "the default range is in use",
        &host,
        none,
        none,
        &["10.32.0.0/12", "10.33.0.0/16 dev eth0", "--range"],
    );
    // Who insists gets it, and a warning that names the route.
    let router = host.up(["--range", "10.32.0.0/12"]).unwrap();
    let warned = |status: &Status| {
        let named = |text: &String| text.contains("10.33.0.0/16 dev eth0");
        is_member(status) && status.warnings.iter().any(named)
    };
    router.wait_until("it warns", SOON, warned).unwrap();

    // A second router beside the first, with its directories and with others.
    let second = host
        .weft(["up", "--socket", host.socket().to_str().unwrap()])
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        second.stderr.contains("another weft router answers"),
        "{}",
        second.stderr
    );
    let elsewhere = healthy.lab.folder().join("other.sock");
    let second = host
        .weft([
            "up",
            "--port",
            "7000",
            "--socket",
            elsewhere.to_str().unwrap(),
            "--state-dir",
            host.state_dir().to_str().unwrap(),
            "--machine-id-file",
            host.machine_id_file().to_str().unwrap(),
        ])
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        second.stderr.contains("in use by another weft router"),
        "{}",
        second.stderr
    );
    assert!(!elsewhere.exists(), "it left its socket behind");
    router.stop().unwrap();
    // So that ports which still lose their carrier are not taken for a change.
    host.weft(["down", "--socket", host.socket().to_str().unwrap()])
        .unwrap()
        .success()
        .unwrap();

    // What became of its state meanwhile.
    let state = host.state_dir().join("state");
    let good = fs::read(&state).unwrap();
    let mut newer = good.clone();
    newer[8..10].copy_from_slice(&9_u16.to_be_bytes());
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    for (what, bytes, words) in [
        (
            "a truncated state",
            &good[..good.len() / 2],
            &["nothing was changed", "Restore the file"][..],
        ),
        ("an empty state", &[], &["nothing was changed"]),
        ("a state with a flipped bit", &flipped, &["nothing was changed"]),
        (
            "a newer state",
            &newer,
            &["written by a newer weft", "format 9", "start that version"],
        ),
    ] {
        fs::write(&state, bytes).unwrap();
        refused(what, &host, none, none, words);
    }
    fs::write(&state, &good).unwrap();
    let machine = fs::read(host.machine_id_file()).unwrap();
    fs::write(host.machine_id_file(), format!("{:032x}\n", 0xabcd)).unwrap();
    refused(
        "a state of another machine",
        &host,
        none,
        none,
        &["another machine", "move the file away"],
    );
    fs::write(host.machine_id_file(), "uninitialized\n").unwrap();
    refused(
        "no machine id",
        &host,
        none,
        none,
        &["machine id", "--machine-id-file"],
    );
    fs::write(host.machine_id_file(), machine).unwrap();
    // Nothing of all this has done harm.
    router.restart().unwrap();
    router
        .wait_until("it is a member again", SOON, is_member)
        .unwrap();
    healthy.finish();
}

fn target_says(router: &Router, words: &str) -> Status {
    let says = |status: &Status| status.targets.iter().any(|target| target.reason.contains(words));
    router
        .wait_until(&format!("it says {words:?}"), SOON, says)
        .unwrap()
}

#[test]
fn a_host_that_does_not_belong_stays_outside() {
    let healthy = Healthy::new("outside");
    let [first, _] = &healthy.routers;

    // The wrong token.
    let wrong = healthy.host("c");
    let text = wrong
        .weft(["token", "--generate"])
        .unwrap()
        .success()
        .unwrap()
        .stdout;
    let path = healthy.lab.secret_file("wrong", &text).unwrap();
    let router = wrong
        .up(["--peer", &healthy.peer(), "--token-file", path.to_str().unwrap()])
        .unwrap();
    let status = target_says(&router, "wrong token");
    assert_eq!(status.cluster, ClusterStatus::AwaitingAdmission);
    router.stop().unwrap();

    // A cluster of its own, made with the same token, and sent to the first one.
    let other = healthy.host("d");
    let founder = other.up(["--found", "--token-file", &healthy.token]).unwrap();
    let before = founder
        .wait_until("it is a member", SOON, is_member)
        .unwrap()
        .cluster;
    let socket = other.socket().display().to_string();
    other
        .weft(["connect", &healthy.peer(), "--socket", &socket])
        .unwrap()
        .success()
        .unwrap();
    let status = target_says(&founder, "another cluster");
    assert_eq!(status.cluster, before);
    assert_eq!(first.status().unwrap().peers.len(), 1);
    founder.stop().unwrap();

    // A copy of a member, identity and machine id and all, while the member runs.
    let (member, copy) = (healthy.host("e"), healthy.host("f"));
    let original = member.up(healthy.join_arguments()).unwrap();
    original.wait_for_peers(2, SOON).unwrap();
    copy_state(&member, &copy);
    let double = copy.up(healthy.join_arguments()).unwrap();
    original
        .wait_until("it says that its identity is used twice", SOON, says_copied)
        .unwrap();
    double.kill().unwrap();
    original.stop().unwrap();

    // A state that is older than what the others know of this host.
    let (host, backup) = (healthy.host("g"), healthy.host("h"));
    let router = host.up(healthy.join_arguments()).unwrap();
    router.wait_for_peers(2, SOON).unwrap();
    router.stop().unwrap();
    copy_state(&host, &backup);
    for _ in 0..2 {
        router.restart().unwrap();
        router.wait_for_peers(2, SOON).unwrap();
    }
    router.stop().unwrap();
    copy_state(&backup, &host);
    router.restart().unwrap();
    router
        .wait_until("it says that its identity is not the latest", SOON, says_copied)
        .unwrap();
    assert!(router.status().unwrap().peers.iter().all(|peer| !is_up(peer)));
    healthy.finish();
}

/// Identity, machine id and token of a host, as a copied disk has them.
fn copy_state(from: &Host, to: &Host) {
    fs::create_dir_all(to.state_dir()).unwrap();
    for name in ["state", "token"] {
        fs::copy(from.state_dir().join(name), to.state_dir().join(name)).unwrap();
    }
    fs::copy(from.machine_id_file(), to.machine_id_file()).unwrap();
}

fn says_copied(status: &Status) -> bool {
    let targets = status.targets.iter().map(|target| &target.reason);
    let mut said = status.warnings.iter().chain(targets);
    said.any(|text| text.contains("copied"))
}

#[test]
fn an_odd_host_is_a_member_like_any_other() {
    let healthy = Healthy::new("odd");
    // Clocks hours off, both ways; time that runs is not touched by the program that fakes it.
    let library = fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("faketime/libfaketime.so.1"))
        .find(|path| path.is_file())
        .expect("libfaketime.so.1 is missing: install the Debian package faketime");
    let preload = format!("LD_PRELOAD={}", library.display());
    let q: IpAddr = [10, 32, 0, 2].into();
    for (name, offset, last) in [("late", "FAKETIME=-7h", 11), ("early", "FAKETIME=+9h", 12)] {
        let host = healthy.host(name);
        let router = host
            .up_under(
                &["env", &preload, offset, "FAKETIME_DONT_FAKE_MONOTONIC=1"],
                healthy.join_arguments(),
            )
            .unwrap();
        router.wait_for_peers(2, SOON).unwrap();
        // It is believed: its own log tells the time.
        let year_and_hour = |text: String| {
            text.lines()
                .find_map(|line| line.get(..13).map(str::to_owned).filter(|t| t.starts_with("20")))
        };
        let here = year_and_hour(healthy.routers[0].log_tail()).unwrap();
        let there = year_and_hour(router.log_tail()).unwrap();
        assert_ne!(here, there, "the clock of {name} is not faked");
        let pod = host.pod(name, [10, 32, 0, last]).unwrap();
        pod.ping_until(q, SOON).unwrap();
        router.stop().unwrap();
    }

    // The name of another host: both work, and everybody is told.
    let host = healthy.host("namesake");
    let renamed = ["sh", "-c", "shift 3; exec \"$0\" up --name a \"$@\""];
    let router = host.up_under(&renamed, healthy.join_arguments()).unwrap();
    let told = |status: &Status| {
        status
            .warnings
            .iter()
            .any(|text| text.contains("2 hosts are called a"))
    };
    for router in [&router, &healthy.routers[0], &healthy.routers[1]] {
        router.wait_until("it names the namesakes", SOON, told).unwrap();
    }
    let pod = host.pod("n", [10, 32, 0, 13]).unwrap();
    pod.ping_until(q, SOON).unwrap();
    healthy.finish();
}

#[test]
fn noise_from_strangers_is_counted_and_harms_nobody() {
    let healthy = Healthy::new("noise");
    let stranger = healthy.host("s");
    let mut random = ChaCha20Rng::from_seed([7; 32]);
    let target = SocketAddr::new(healthy.peer().parse().unwrap(), PORT);
    let socket = stranger
        .namespace()
        .run(|| UdpSocket::bind("0.0.0.0:0"))
        .unwrap()
        .unwrap();
    for number in 0..3_000_usize {
        // Every first octet, every short length, and lengths around those of real datagrams.
        let mut datagram = vec![0; number % 200 + 600 * (number % 3)];
        random.fill_bytes(&mut datagram);
        if let Some(first) = datagram.first_mut() {
            *first = (number % 16) as u8;
        }
        if let Some(network) = datagram.get_mut(2..4).filter(|_| number % 2 == 0) {
            network.fill(0);
        }
        // A full queue of the kernel is no failure of the test.
        let _ = socket.send_to(&datagram, target);
    }
    let dropped = |reason: &'static str| move |status: &Status| status.drops.contains_key(reason);
    for reason in ["datagram_too_short", "unknown_kind", "unknown_index"] {
        healthy.routers[0]
            .wait_until(&format!("it has counted {reason}"), SOON, dropped(reason))
            .unwrap();
    }

    let connect = || stranger.namespace().run(|| TcpStream::connect(target)).unwrap();
    for length in [0, 1, 2, 3, 100, 5_000] {
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        // The router may hang up while it is written to.
        let _ = connect().unwrap().write_all(&bytes);
    }
    // Whoever says one octet and then waits holds a place, but not for ever, and not all of them.
    let slow: Vec<TcpStream> = (0..300)
        .filter_map(|_| connect().ok())
        .filter_map(|mut stream| stream.write_all(&[0]).ok().map(|()| stream))
        .collect();
    assert!(slow.len() > 100, "{}", slow.len());
    let refused = |status: &Status| !status.refusals.is_empty();
    healthy.routers[0]
        .wait_until("it has refused some", SOON, refused)
        .unwrap();
    healthy.routers[1].restart().unwrap();
    healthy.routers[1].wait_for_peers(1, SOON).unwrap();
    drop(slow);
    let late = healthy.host("late");
    late.up(healthy.join_arguments())
        .unwrap()
        .wait_for_peers(2, SOON)
        .unwrap();
}
