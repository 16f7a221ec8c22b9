//! Multicast only where pods listen: real sockets in pods, real routers, captures of what each host gets.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_kernel::sysctl;
use weft_lab::{Lab, Listener, Pod, Router, Schema, TapWatch, frames};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(20);
/// How long to listen for what must not come.
const QUIET: Duration = Duration::from_millis(400);

fn at(group: &str) -> SocketAddr {
    SocketAddr::new(group.parse().unwrap(), 5_000)
}

/// One pod on each host, named after it.
fn pods(routers: &[Router]) -> Vec<Pod> {
    let pod = |router: &Router| {
        let host = router.host();
        host.pod_any(&format!("pod-{}", host.name())).unwrap()
    };
    routers.iter().map(pod).collect()
}

fn taps(routers: &[Router]) -> Vec<TapWatch> {
    routers
        .iter()
        .map(|router| router.host().watch_tap().unwrap())
        .collect()
}

/// How many frames with this text the router of each host gave to its bridge until all are quiet.
fn arrived(taps: &mut [TapWatch], text: &str) -> Vec<usize> {
    let mut quiet = QUIET;
    let mut counts = Vec::new();
    for tap in taps {
        counts.push(tap.count(text.as_bytes(), quiet).unwrap().0);
        quiet = Duration::from_millis(20);
    }
    counts
}

fn drops(router: &Router, reason: &str) -> u64 {
    let drops = router.status().unwrap().drops;
    drops.get(reason).copied().unwrap_or_default()
}

/// Since the Unix epoch, as captures have it.
fn clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[test]
fn frames_of_a_group_reach_the_hosts_whose_pods_joined_and_no_other() {
    let lab = Lab::new("groups").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b", "c", "d"], &[], SOON).unwrap();
    let pods = pods(&routers);
    let (four, six) = (at("239.1.2.3"), at("ff15::77"));
    let on_b = pods[1].join(four).unwrap();
    let on_c = pods[2].join(six).unwrap();
    let IpAddr::V4(sender) = pods[0].ipv4().unwrap() else {
        panic!("an IPv4 pod")
    };
    // For what one source sends, at two hosts.
    let one_source = Ipv4Addr::new(232, 9, 9, 9);
    let sources = [&pods[1], &pods[3]].map(|pod| pod.join_source(one_source, 5_000, sender).unwrap());
    for router in [&routers[0], &routers[3]] {
        router.wait_for_group(four.ip(), &["b"], SOON).unwrap();
        router.wait_for_group(six.ip(), &["c"], SOON).unwrap();
    }
    routers[0]
        .wait_for_group(one_source.into(), &["b", "d"], SOON)
        .unwrap();

    let mut taps = taps(&routers);
    let send = |to: SocketAddr, text: &str| {
        let socket = pods[0].sender(to).unwrap();
        for _ in 0..20 {
            socket.send(text.as_bytes()).unwrap();
        }
    };
    send(four, "to a group of IPv4");
    assert_eq!(on_b.count(20, SOON, QUIET).unwrap(), 20);
    assert_eq!(arrived(&mut taps, "to a group of IPv4"), [0, 20, 0, 0]);
    send(six, "to a group of IPv6");
    assert_eq!(on_c.count(20, SOON, QUIET).unwrap(), 20);
    assert_eq!(arrived(&mut taps, "to a group of IPv6"), [0, 0, 20, 0]);
    send(SocketAddr::new(one_source.into(), 5_000), "from one source");
    for listener in &sources {
        assert_eq!(listener.count(20, SOON, QUIET).unwrap(), 20);
    }
    assert_eq!(arrived(&mut taps, "from one source"), [0, 20, 0, 20]);

    // Nobody listens.
    for (group, text) in [
        ("239.9.9.9", "to nobody by IPv4"),
        ("ff15::99", "to nobody by IPv6"),
    ] {
        send(at(group), text);
        assert_eq!(arrived(&mut taps, text), [0; 4], "{group}");
    }
    assert!(
        drops(&routers[0], "no_listener") >= 20,
        "IPv6 comes to the router"
    );

    // What keeps a link going needs no membership.
    for (group, text) in [("224.0.0.251", "mDNS by IPv4"), ("ff02::fb", "mDNS by IPv6")] {
        send(at(group), text);
        assert_eq!(arrived(&mut taps, text), [0, 20, 20, 20], "{group}");
    }
    // Pods have told their own host where they listen, and nobody else.
    assert!(
        routers
            .iter()
            .all(|router| drops(router, "membership_message") > 0)
    );
    drop((on_b, on_c, sources));
    for group in [four.ip(), six.ip(), one_source.into()] {
        routers[3].wait_for_group(group, &[], SOON).unwrap();
    }
}

#[test]
fn no_message_about_memberships_crosses_to_another_host() {
    let lab = Lab::new("igmp").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b"], &[], SOON).unwrap();
    let pods = pods(&routers);
    let mut ear = pods[1].listen(|frame| is_membership(frame.0)).unwrap();
    let listener = pods[0].join(at("239.1.2.3")).unwrap();
    let listener6 = pods[0].join(at("ff15::77")).unwrap();
    routers[1]
        .wait_for_group(at("239.1.2.3").ip(), &["a"], SOON)
        .unwrap();
    routers[1]
        .wait_for_group(at("ff15::77").ip(), &["a"], SOON)
        .unwrap();
    drop((listener, listener6));
    routers[1]
        .wait_for_group(at("239.1.2.3").ip(), &[], SOON)
        .unwrap();
    let own = pods[1].mac().unwrap();
    let theirs = pods[0].mac().unwrap();
    let heard = ear.until_quiet(QUIET).unwrap();
    let from = |mac| {
        heard
            .iter()
            .filter(|frame| frames::Frame(frame).source() == mac)
            .count()
    };
    assert_eq!(from(theirs), 0);
    assert!(from(own) > 0, "the ear hears such messages");
}

/// IGMP, or MLD behind a hop-by-hop header.
fn is_membership(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&2),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&0) && frame.get(54) == Some(&58),
        _ => false,
    }
}

/// Sends a datagram with this text each millisecond until it is dropped.
struct Sending {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sending {
    fn start(socket: UdpSocket, text: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A full queue is no reason to stop.
                let _ = socket.send(text.as_bytes());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How soon frames come after a join and for how long after a leave, at a host with one listener.
fn measured(name: &str, tap: &mut TapWatch, text: &str, leaves: bool, join: impl Fn() -> Listener) {
    tap.count(text.as_bytes(), Duration::from_millis(50)).unwrap();
    let joined = clock();
    let listener = join();
    let first = tap
        .next(text.as_bytes(), SOON)
        .unwrap()
        .expect("the stream reaches the host");
    listener.hear(SOON).unwrap().expect("and the listener");
    let begin = first.saturating_sub(joined);
    let left = clock();
    drop(listener);
    if !leaves {
        println!("{name}: first frame {begin:?} after the join; it has no leave");
        return;
    }
    let mut last = left;
    let end = std::time::Instant::now() + SOON;
    while let Some(time) = tap.next(text.as_bytes(), Duration::from_millis(500)).unwrap() {
        last = last.max(time);
        assert!(
            std::time::Instant::now() < end,
            "{name}: the stream does not end after the leave"
        );
    }
    println!(
        "{name}: first frame {begin:?} after the join, last {:?} after the leave",
        last - left
    );
}

#[test]
fn a_stream_begins_after_a_join_and_ends_after_a_leave_with_every_version() {
    const TEXT: &str = "a stream that somebody may want";
    let lab = Lab::new("versions").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b", "c"], &[], SOON).unwrap();
    let pods = pods(&routers);
    let mut tap = routers[1].host().watch_tap().unwrap();
    let mut idle = routers[2].host().watch_tap().unwrap();
    let (four, six) = (at("239.1.2.3"), at("ff15::77"));
    let one_source = Ipv4Addr::new(232, 9, 9, 9);
    let IpAddr::V4(sender) = pods[0].ipv4().unwrap() else {
        panic!("an IPv4 pod")
    };
    let version = |family: &str, name: &str, number: u32| {
        let path = format!("net/{family}/conf/{}/force_{name}_version", pods[1].interface());
        let set = || sysctl::set(&path, &number.to_string());
        pods[1].namespace().run(set).unwrap().unwrap();
    };
    routers[0].wait_for_group(four.ip(), &[], SOON).unwrap();
    let mut stray = 0;
    let mut look = || stray += idle.count(TEXT.as_bytes(), Duration::from_millis(1)).unwrap().0;
    {
        let _stream = Sending::start(pods[0].sender(four).unwrap(), TEXT);
        for number in [3, 2] {
            version("ipv4", "igmp", number);
            let name = format!("IGMP version {number}");
            measured(&name, &mut tap, TEXT, true, || pods[1].join(four).unwrap());
            look();
        }
    }
    {
        let to = SocketAddr::new(one_source.into(), 5_000);
        let _stream = Sending::start(pods[0].sender(to).unwrap(), TEXT);
        version("ipv4", "igmp", 3);
        measured("IGMP version 3, one source", &mut tap, TEXT, true, || {
            pods[1].join_source(one_source, 5_000, sender).unwrap()
        });
        look();
    }
    {
        let _stream = Sending::start(pods[0].sender(six).unwrap(), TEXT);
        for number in [2, 1] {
            version("ipv6", "mld", number);
            let name = format!("MLD version {number}");
            measured(&name, &mut tap, TEXT, true, || pods[1].join(six).unwrap());
            look();
        }
    }
    {
        let _stream = Sending::start(pods[0].sender(four).unwrap(), TEXT);
        version("ipv4", "igmp", 1);
        measured("IGMP version 1", &mut tap, TEXT, false, || {
            pods[1].join(four).unwrap()
        });
        look();
    }
    stray += idle.count(TEXT.as_bytes(), QUIET).unwrap().0;
    assert_eq!(stray, 0, "a host without listeners gets none");
}

#[test]
fn a_host_that_asks_for_everything_gets_it_and_pods_need_not_join() {
    const TEXT: &str = "for those who never ask";
    let lab = Lab::new("flood").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b"], &[], SOON).unwrap();
    let peer = routers[0].host().address().unwrap().to_string();
    let token = lab.secret_file("more", &routers[0].token().unwrap()).unwrap();
    let host = lab.host("c").on(&_switch).build().unwrap();
    let arguments = [
        "--peer",
        &peer,
        "--multicast",
        "flood",
        "--token-file",
        token.to_str().unwrap(),
    ];
    let flooded = host.up(arguments).unwrap();
    flooded.wait_for_peers(2, SOON).unwrap();
    let (a, c) = (
        routers[0].host().pod_any("a1").unwrap(),
        host.pod_any("c1").unwrap(),
    );
    routers[0]
        .wait_for_listeners("c gets everything", SOON, |status| {
            matches!(status.everything.as_slice(), [one] if one.host == "c" && one.reason.contains("flood"))
        })
        .unwrap();
    let host = routers[0].host();
    let socket = host.socket();
    let words = ["multicast", "--json", "--socket", socket.to_str().unwrap()];
    let text = host.weft(words).unwrap().success().unwrap().stdout;
    let schema = Schema::published().unwrap();
    schema.check("MulticastStatus", &text).unwrap();
    let mut on_b = routers[1].host().watch_tap().unwrap();
    for group in ["239.5.5.5", "ff15::55"] {
        let mut ear = c
            .listen(|frame| frame.0.windows(TEXT.len()).any(|part| part == TEXT.as_bytes()))
            .unwrap();
        let socket = a.sender(at(group)).unwrap();
        for _ in 0..10 {
            socket.send(TEXT.as_bytes()).unwrap();
        }
        assert_eq!(ear.expect(10, SOON).unwrap().len(), 10, "{group}");
        assert_eq!(on_b.count(TEXT.as_bytes(), QUIET).unwrap().0, 0, "{group}");
    }
}

#[test]
fn a_pod_in_too_many_groups_and_one_that_routes_them_get_everything() {
    let lab = Lab::new("many").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b"], &[], SOON).unwrap();
    let pods = pods(&routers);
    let gets = |why: Option<&str>| {
        routers[0]
            .wait_for_listeners(&format!("b gets everything: {why:?}"), SOON, |status| match why {
                None => status.everything.is_empty(),
                Some(why) => {
                    matches!(status.everything.as_slice(), [one] if one.host == "b" && one.reason.contains(why))
                }
            })
            .unwrap()
    };
    gets(None);
    // More than a record names; one socket takes 20 of them.
    let groups = (0..257_u16).map(|n| at(&format!("239.7.{}.{}", n / 256, n % 256)));
    let listeners: Vec<Listener> = groups.map(|group| pods[1].join(group).unwrap()).collect();
    gets(Some("256 groups"));
    let warnings = routers[1].status().unwrap().warnings;
    assert!(
        warnings.iter().any(|text| text.contains("multicast groups")),
        "{warnings:?}"
    );
    drop(listeners);
    gets(None);
    // What asks is a router, and wants to hear the answers and the streams.
    let mac = pods[1].mac().unwrap();
    let IpAddr::V4(own) = pods[1].ipv4().unwrap() else {
        panic!("an IPv4 pod")
    };
    pods[1].send_frame(&igmp_query(mac, own)).unwrap();
    gets(Some("multicast router"));
}

/// A general query of IGMP version 2 (RFC 2236 §2).
fn igmp_query(mac: [u8; 6], own: Ipv4Addr) -> Vec<u8> {
    let mut ip = vec![0x45, 0xc0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0];
    ip.extend(own.octets());
    ip.extend([224, 0, 0, 1]);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut query = vec![0x11, 100, 0, 0, 0, 0, 0, 0];
    let sum = checksum(&query);
    query[2..4].copy_from_slice(&sum.to_be_bytes());
    ip.extend(query);
    ip.resize(46, 0);
    frames::build([1, 0, 0x5e, 0, 0, 1], mac, 0x0800, &ip)
}

/// RFC 1071, of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let sum: u32 = octets
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(folded as u16 + (folded >> 16) as u16)
}

#[test]
fn listeners_of_a_host_stay_known_while_its_router_starts_again() {
    let lab = Lab::new("again").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b", "c"], &[], SOON).unwrap();
    let pods = pods(&routers);
    let group = at("239.1.2.3");
    let on_b = pods[1].join(group).unwrap();
    routers[0].wait_for_group(group.ip(), &["b"], SOON).unwrap();
    let socket = pods[0].sender(group).unwrap();
    for router in [&routers[1], &routers[0]] {
        router.restart().unwrap();
        router.wait_for_peers(2, SOON).unwrap();
        routers[0].wait_for_group(group.ip(), &["b"], SOON).unwrap();
        routers[0].wait_for_peers(2, SOON).unwrap();
        let mut on_c = routers[2].host().watch_tap().unwrap();
        socket.send(b"still for b only").unwrap();
        assert_eq!(on_b.count(1, SOON, QUIET).unwrap(), 1);
        assert_eq!(on_c.count(b"still for b only", QUIET).unwrap().0, 0);
    }
}

#[test]
#[ignore = "slow: ./test --long"]
fn joins_and_leaves_are_as_quick_among_twenty_hosts() {
    const TEXT: &str = "one stream among twenty hosts";
    let lab = Lab::new("twenty").unwrap();
    let names: Vec<String> = (0..20).map(|n| format!("h{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (_switch, routers) = lab.cluster(&names, &[], Duration::from_secs(120)).unwrap();
    let pods = pods(&routers);
    let group = at("239.1.2.3");
    routers[0].wait_for_group(group.ip(), &[], SOON).unwrap();
    let _stream = Sending::start(pods[0].sender(group).unwrap(), TEXT);
    for host in [1, 10, 19] {
        let mut tap = routers[host].host().watch_tap().unwrap();
        let name = format!("host {host} of 20");
        measured(&name, &mut tap, TEXT, true, || pods[host].join(group).unwrap());
    }
}
