//! Where frames go: to the one host that has the address, to all when nobody knows, and never in circles.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use weft_kernel::MacAddr;
use weft_lab::{Ear, Frame, Host, Lab, PingPlan, Pod, Router, Station, frames};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(20);
/// How long to listen for what must not come.
const QUIET: Duration = Duration::from_millis(300);
/// A frame type that nothing else in the lab uses.
const ODD: u16 = 0x88b5;

/// Hosts on one switch, in one mesh, each pair with a session.
fn cluster(lab: &Lab, names: &[&str], found: &[&str]) -> Vec<Router> {
    lab.cluster(names, found, SOON).unwrap().1
}

fn drops(router: &Router, reason: &str) -> u64 {
    router
        .status()
        .unwrap()
        .drops
        .get(reason)
        .copied()
        .unwrap_or_default()
}

/// A frame that nobody answers.
fn odd(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
    let mut payload = text.as_bytes().to_vec();
    payload.resize(46, 0);
    frames::build(to, from, ODD, &payload)
}

fn is_odd(frame: &Frame<'_>) -> bool {
    frame.ethertype() == ODD
}

/// The request that asks who has `target`.
fn arp_request(sender: &Pod, target: [u8; 4]) -> Vec<u8> {
    let mac = sender.mac().unwrap();
    let IpAddr::V4(own) = sender.address().unwrap() else {
        panic!("an IPv4 pod")
    };
    let payload = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &mac,
        &own.octets(),
        &[0; 6],
        &target,
        &[0; 18],
    ]
    .concat();
    frames::build(frames::BROADCAST, mac, 0x0806, &payload)
}

/// An ear at each pod for frames of one kind.
fn ears(pods: &[Pod], filter: fn(&Frame<'_>) -> bool) -> Vec<Ear> {
    pods.iter().map(|pod| pod.listen(filter).unwrap()).collect()
}

/// How many frames each ear hears until all are quiet; those that must hear something are waited for.
fn heard<const N: usize>(mut ears: Vec<Ear>, expected: [usize; N]) -> [usize; N] {
    for (ear, wanted) in ears.iter_mut().zip(expected) {
        ear.expect(wanted, SOON).unwrap();
    }
    let mut quiet = QUIET;
    let mut counts = [0; N];
    for (mut ear, count) in ears.into_iter().zip(&mut counts) {
        *count = ear.until_quiet(quiet).unwrap().len();
        // What was to come has come to the others meanwhile, and waits in the kernel.
        quiet = Duration::from_millis(10);
    }
    counts
}

/// The address of a pod that is no more.
fn gone(host: &Host) -> MacAddr {
    let pod = host.pod_any("gone").unwrap();
    let mac = pod.mac().unwrap();
    pod.detach().unwrap();
    mac
}

#[test]
fn each_frame_reaches_whom_it_concerns_and_once() {
    let lab = Lab::new("whom").unwrap();
    let routers = cluster(&lab, &["a", "b", "c", "d", "e"], &[]);
    // Each host gets what it chooses, from slots of its own or lent.
    let pods: Vec<Pod> = routers
        .iter()
        .map(|router| {
            router
                .host()
                .pod_any(&format!("{}1", router.host().name()))
                .unwrap()
        })
        .collect();
    let second = routers[0].host().pod_any("a2").unwrap();
    let [a, b] = [&pods[0], &pods[1]];
    for pod in &pods[1..] {
        a.ping_until(pod.address().unwrap(), SOON).unwrap();
    }
    let from = a.mac().unwrap();
    let octets = |pod: &Pod| match pod.address().unwrap() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("an IPv4 pod"),
    };
    let others = &pods[1..];

    // A question for a pod's address reaches its host only, and one for a neighbour's leaves no host at all.
    let is_question =
        |frame: &Frame<'_>| frame.ethertype() == 0x0806 && frame.destination() == frames::BROADCAST;
    let listening = ears(others, is_question);
    a.send_frame(&arp_request(a, octets(b))).unwrap();
    assert_eq!(heard(listening, [1, 0, 0, 0]), [1, 0, 0, 0]);
    let (listening, before) = (ears(others, is_question), drops(&routers[0], "asked_here"));
    a.send_frame(&arp_request(a, octets(&second))).unwrap();
    assert_eq!(heard(listening, [0; 4]), [0; 4]);
    assert!(drops(&routers[0], "asked_here") > before);

    // An address of weft's own making is never flooded, even when no pod has it.
    let nobody = gone(routers[1].host());
    let listening = ears(&pods[2..], is_odd);
    a.send_frame(&odd(nobody, from, "to nobody, known to b")).unwrap();
    assert_eq!(heard(listening, [0; 3]), [0; 3]);
    let nobody = gone(routers[0].host());
    let (listening, before) = (ears(others, is_odd), drops(&routers[0], "not_here"));
    a.send_frame(&odd(nobody, from, "to nobody on a")).unwrap();
    assert_eq!(heard(listening, [0; 4]), [0; 4]);
    assert!(drops(&routers[0], "not_here") > before);

    // Of frames to a foreign address that nobody has, a few go to everybody.
    let (listening, count) = (ears(others, is_odd), 20);
    let unknown: Vec<_> = (0..count)
        .map(|n| odd([0x52, 0x54, 0, 0, 0, 0x99], from, &format!("where are you? {n}")))
        .collect();
    let before = drops(&routers[0], "unknown_destination");
    a.send_frames(&unknown).unwrap();
    let asked = heard(listening, [3; 4]);
    assert!(asked.iter().all(|n| *n == asked[0] && *n < 10), "{asked:?}");
    assert_eq!(
        drops(&routers[0], "unknown_destination") - before,
        count - asked[0] as u64
    );

    // What is for everybody reaches everybody once.
    let everybody = [&pods[..], &[second]].concat();
    for (n, pod) in pods.iter().enumerate() {
        let listening = ears(&everybody, is_odd);
        let text = format!("hello from {n}");
        pod.send_frame(&odd(frames::BROADCAST, pod.mac().unwrap(), &text))
            .unwrap();
        assert_eq!(heard(listening, [1; 6]), [1; 6], "{text}");
        let listening = ears(&everybody, is_odd);
        pod.send_frame(&odd([0x01, 0, 0x5e, 1, 2, 3], pod.mac().unwrap(), &text))
            .unwrap();
        assert_eq!(heard(listening, [1; 6]), [1; 6], "{text}, to a group");
    }
    for router in &routers {
        let status = router.status().unwrap();
        for reason in [
            "duplicate_flood",
            "looped",
            "flood_rate_source",
            "flood_rate_host",
        ] {
            assert!(!status.drops.contains_key(reason), "{reason}: {:?}", status.drops);
        }
        assert_eq!(status.warnings, Vec::<String>::new());
    }
}

/// Pings every 10 ms from a thread while `work` runs; the answer is how many were lost and how long `work` took.
fn pinged_meanwhile(from: &Station, to: IpAddr, seconds: u16, work: impl FnOnce()) -> (u16, Duration) {
    let plan = PingPlan {
        count: 100 * seconds,
        interval: Duration::from_millis(10),
        ..PingPlan::default()
    };
    thread::scope(|scope| {
        let pinging = scope.spawn(|| from.ping_with(to, &plan).unwrap());
        let begin = std::time::Instant::now();
        work();
        let took = begin.elapsed();
        (pinging.join().unwrap().lost(), took)
    })
}

#[test]
fn a_pod_moves_with_its_address() {
    let lab = Lab::new("moves").unwrap();
    let routers = cluster(&lab, &["a", "b", "c"], &[]);
    let watcher = routers[2].host().pod_any("watcher").unwrap();
    let neighbour = routers[0].host().pod_any("neighbour").unwrap();
    let mut pod = routers[0].host().pod_any("mover").unwrap();
    let address = pod.address().unwrap();
    let mac = pod.mac().unwrap();
    for from in [&watcher, &neighbour] {
        from.ping_until(address, SOON).unwrap();
    }
    for to in [&routers[1], &routers[2], &routers[0]] {
        let (lost, took) = pinged_meanwhile(&watcher, address, 2, || {
            pod.detach().unwrap();
            pod = to.host().pod("mover", address).unwrap();
        });
        // While it is nowhere every ping is lost. Afterwards it is there at once.
        let away = took.as_millis() / 10;
        assert!(
            u128::from(lost) <= away + 5,
            "{lost} lost, {away} while it was away"
        );
        assert_eq!(pod.mac().unwrap(), mac);
        assert!(neighbour.ping(address, 3).unwrap().is_complete());
    }
}

fn plug(host: &Host, name: &str, last: u8) -> Station {
    let addresses = [format!("192.0.2.{last}/24").parse().unwrap()];
    host.plug(name, [0x52, 0x54, 0, 0, 0, last], &addresses).unwrap()
}

#[test]
fn a_foreign_device_works_and_moves() {
    let lab = Lab::new("foreign").unwrap();
    let routers = cluster(&lab, &["a", "b", "c"], &[]);
    let [a, b, c] = [0, 1, 2].map(|n: usize| routers[n].host());
    let watcher = plug(c, "watcher", 30);
    let mut device = plug(a, "device", 10);
    let address = device.address().unwrap();
    watcher.ping_until(address, SOON).unwrap();
    for (from, to) in [(a, b), (b, c), (c, a)] {
        let (lost, took) = pinged_meanwhile(&watcher, address, 2, || {
            from.unplug(&device).unwrap();
            device = plug(to, "device", 10);
        });
        let away = took.as_millis() / 10;
        assert!(
            u128::from(lost) <= away + 10,
            "{lost} lost, {away} while it was plugged"
        );
        let report = watcher.ping(address, 5).unwrap();
        assert!(report.is_complete() && report.doubled == 0, "{report:?}");
    }
}

#[test]
fn ipv6_pods_find_each_other_and_ask_nobody_else() {
    let lab = Lab::new("six").unwrap();
    let routers = cluster(&lab, &["a", "b", "c"], &["--range", "fd00:77::/108"]);
    let pods: Vec<Pod> = routers
        .iter()
        .map(|router| router.host().pod_any(router.host().name()).unwrap())
        .collect();
    // Solicitations go to the group of the target's last octets.
    let mut ear = pods[2]
        .listen(|frame| {
            frame.ethertype() == 0x86dd && frame.destination()[..3] == [0x33, 0x33, 0xff]
                && frame.0.get(54) == Some(&135)
                // Those of address detection have no sender; they are asked of their own host.
                && frame.0.get(22..38) != Some(&[0; 16])
        })
        .unwrap();
    pods[0].ping_until(pods[1].address().unwrap(), SOON).unwrap();
    pods[1].ping_until(pods[0].address().unwrap(), SOON).unwrap();
    assert_eq!(ear.until_quiet(QUIET).unwrap(), Vec::<Vec<u8>>::new());
    pods[2].ping_until(pods[0].address().unwrap(), SOON).unwrap();
    assert!(!ear.until_quiet(QUIET).unwrap().is_empty(), "it hears its own");
}

#[test]
fn bridges_joined_twice_are_named_and_make_no_storm() {
    let lab = Lab::new("loop").unwrap();
    let routers = cluster(&lab, &["a", "b", "c"], &[]);
    let pods: Vec<Pod> = routers
        .iter()
        .map(|router| router.host().pod_any(router.host().name()).unwrap())
        .collect();
    let all_ping_all = || {
        for from in &pods {
            for to in pods.iter().filter(|to| to.name() != from.name()) {
                from.ping_until(to.address().unwrap(), SOON).unwrap();
            }
        }
    };
    all_ping_all();
    let hello = |pod: &Pod, text: &str| {
        pod.send_frame(&odd(frames::BROADCAST, pod.mac().unwrap(), text))
            .unwrap();
    };

    let cable = routers[0].host().join(routers[1].host()).unwrap();
    hello(&pods[0], "round and round it goes");
    for (router, other) in [(&routers[0], "host b"), (&routers[1], "host a")] {
        router
            .wait_until("it names the loop", SOON, |status| {
                status.warnings.iter().any(|warning| {
                    warning.contains("loop") && warning.contains(other) && warning.contains("by its port j")
                })
            })
            .unwrap();
    }
    // The storm is over, and what is ordinary goes on, each frame once.
    for listener in ears(&pods, is_odd) {
        let mut listener = listener;
        listener.until_quiet(QUIET).unwrap();
    }
    all_ping_all();
    for (n, pod) in pods.iter().enumerate() {
        let listening = ears(&pods, is_odd);
        for round in 0..10 {
            hello(pod, &format!("{n} {round}"));
        }
        assert_eq!(heard(listening, [10; 3]), [10; 3], "from {}", pod.name());
    }
    assert!(drops(&routers[0], "looped") > 0 && drops(&routers[1], "looped") > 0);
    for router in &routers[..2] {
        assert!(router.log_tail().contains("a loop"), "{}", router.log_tail());
    }

    drop(cable);
    for router in &routers[..2] {
        router
            .wait_until("the loop is gone", SOON, |status| status.warnings.is_empty())
            .unwrap();
    }
    let listening = ears(&pods, is_odd);
    hello(&pods[0], "once more");
    assert_eq!(heard(listening, [1; 3]), [1; 3]);
    all_ping_all();
}
