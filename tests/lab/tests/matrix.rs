//! The shipped program over underlays and with pods of every address family, with few hosts and more, on a perfect
//! switch and on a bad wire.
//!
//! Not every combination: what breaks, breaks where two things meet, so each value of each dimension meets each
//! value of each other one in some cell. [`every_pair_of_values_has_a_cell`] keeps it so.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_kernel::{addr, sysctl};
use weft_lab::router::is_up;
use weft_lab::{
    Content, Ear, Error, Frame, Host, Impairment, Lab, PingPlan, Pod, Router, Underlay, Wire, frames,
};
use weft_wire::DropReason;
use weft_wire::api::{ClusterStatus, LinkState, PeerStatus, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// For what a bad wire may delay by several retransmissions.
const LATER: Duration = Duration::from_secs(40);
/// How long to listen for what must not come: longer than a held back frame stays on the way.
const QUIET: Duration = Duration::from_millis(250);
/// An ethertype for local experiments (IEEE 802), other than the lab's own.
const ETHERTYPE: u16 = 0x88b6;
/// Content of the one TCP connection of a cell: about a thousand frames.
const TRANSFER: usize = 1 << 20;

/// Families of the hosts' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hosts {
    /// Every host has IPv4 only.
    Ipv4,
    /// Every host has IPv6 only.
    Ipv6,
    /// The founder and every second host have both, the others IPv4 only.
    DualAndIpv4,
    /// The founder and every second host have IPv6 only, the others both: these list an IPv4 address first, at which
    /// the former cannot reach them.
    Ipv6AndDual,
}

/// Families of the pods' addresses. A cluster's range has one; a second one can be given to pods by anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pods {
    /// An IPv4 range, and no IPv6 in the pods.
    Ipv4,
    /// An IPv6 range, and no IPv4 address but that of the loopback.
    Ipv6,
    /// An IPv4 range, and IPv6 addresses that weft has not given out.
    DualOfIpv4,
    /// An IPv6 range, and IPv4 addresses that weft has not given out.
    DualOfIpv6,
}

/// What is between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    /// A kernel bridge: once sessions are up, nothing may be dropped that anybody misses.
    Clean,
    /// A wire that loses, reorders and doubles, from the first frame on.
    Bad,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Cell {
    name: &'static str,
    hosts: Hosts,
    pods: Pods,
    count: usize,
    path: Path,
}

macro_rules! cells {
    ($($name:ident: $hosts:ident, $pods:ident, $count:literal, $path:ident;)*) => {
        const CELLS: &[Cell] = &[$(Cell {
            name: stringify!($name),
            hosts: Hosts::$hosts,
            pods: Pods::$pods,
            count: $count,
            path: Path::$path,
        }),*];
        $(#[test]
        fn $name() {
            let cell = CELLS.iter().find(|cell| cell.name == stringify!($name));
            run(cell.unwrap());
        })*
    };
}

// Sixteen is the fewest for two dimensions of four values each. Five hosts and bad wires are dear, so there are only as
// many of them as it takes to meet everything once.
cells! {
    ipv4_hosts_2_ipv4_pods_bad_wire: Ipv4, Ipv4, 2, Bad;
    ipv4_hosts_3_ipv6_pods: Ipv4, Ipv6, 3, Clean;
    ipv4_hosts_5_dual_pods_of_ipv4: Ipv4, DualOfIpv4, 5, Clean;
    ipv4_hosts_2_dual_pods_of_ipv6: Ipv4, DualOfIpv6, 2, Clean;
    ipv6_hosts_3_ipv4_pods: Ipv6, Ipv4, 3, Clean;
    ipv6_hosts_5_ipv6_pods_bad_wire: Ipv6, Ipv6, 5, Bad;
    ipv6_hosts_2_dual_pods_of_ipv4: Ipv6, DualOfIpv4, 2, Clean;
    ipv6_hosts_3_dual_pods_of_ipv6: Ipv6, DualOfIpv6, 3, Clean;
    dual_and_ipv4_hosts_5_ipv4_pods: DualAndIpv4, Ipv4, 5, Clean;
    dual_and_ipv4_hosts_2_ipv6_pods: DualAndIpv4, Ipv6, 2, Clean;
    dual_and_ipv4_hosts_2_dual_pods_of_ipv4: DualAndIpv4, DualOfIpv4, 2, Clean;
    dual_and_ipv4_hosts_3_dual_pods_of_ipv6_bad_wire: DualAndIpv4, DualOfIpv6, 3, Bad;
    ipv6_and_dual_hosts_2_ipv4_pods: Ipv6AndDual, Ipv4, 2, Clean;
    ipv6_and_dual_hosts_2_ipv6_pods: Ipv6AndDual, Ipv6, 2, Clean;
    ipv6_and_dual_hosts_3_dual_pods_of_ipv4_bad_wire: Ipv6AndDual, DualOfIpv4, 3, Bad;
    ipv6_and_dual_hosts_5_dual_pods_of_ipv6: Ipv6AndDual, DualOfIpv6, 5, Clean;
}

#[test]
fn every_pair_of_values_has_a_cell() {
    // Each dimension as numbers, in the order of its values.
    let values = |cell: &Cell| {
        [
            cell.hosts as usize,
            cell.pods as usize,
            cell.count,
            cell.path as usize,
        ]
    };
    let column =
        |dimension: usize| -> BTreeSet<usize> { CELLS.iter().map(|cell| values(cell)[dimension]).collect() };
    let columns: [_; 4] = std::array::from_fn(column);
    assert_eq!(
        columns,
        [
            (0..4).collect(),
            (0..4).collect(),
            [2, 3, 5].into(),
            (0..2).collect()
        ]
    );
    for (one, other) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        for first in &columns[one] {
            for second in &columns[other] {
                let met = |cell: &Cell| (values(cell)[one], values(cell)[other]) == (*first, *second);
                assert!(
                    CELLS.iter().any(met),
                    "dimensions {one} and {other}: {first} never meets {second}"
                );
            }
        }
    }
}

/// Builds a cell, and holds it to everything that pods may expect.
fn run(cell: &Cell) {
    let lab = Lab::new("matrix").unwrap();
    let wire = match cell.path {
        Path::Clean => None,
        Path::Bad => Some(lab.wire(bad(cell)).unwrap()),
    };
    let underlay: Box<dyn Underlay> = match &wire {
        Some(wire) => wire.handle(),
        None => lab.switch().unwrap().handle(),
    };
    let hosts: Vec<Host> = (0..cell.count)
        .map(|number| host(&lab, cell.hosts, number, underlay.as_ref()))
        .collect();
    let routers = cluster(&lab, &hosts, cell.pods.range());
    for router in &routers {
        router.wait_for_peers(cell.count - 1, LATER).unwrap();
    }
    let before = drops(&routers);

    let pods = cell.pods.on(&hosts);
    match cell.path {
        Path::Clean => all_ping_all_at_once(&pods),
        Path::Bad => all_ping_all_in_the_end(&pods),
    }
    let (first, last) = (&pods[0], &pods[pods.len() - 1]);
    let content = Content::random(TRANSFER, 7);
    assert!(first.tcp_send(last, &content).unwrap().is_intact());
    if cell.pods == Pods::Ipv6 {
        all_ping_all_by_link_local(&pods);
    }
    match &wire {
        None => {
            broadcast_arrives_once(&pods);
            assert_eq!(drops(&routers), before);
        }
        Some(wire) => {
            broadcasts_arrive_at_most_once(&pods, wire);
            let did = wire.counters();
            assert!(did.lost > 0 && did.reordered > 0 && did.duplicated > 0, "{did:?}");
        }
    }
}

/// A different bad wire for each cell; the same at each run.
fn bad(cell: &Cell) -> Impairment {
    Impairment {
        delay: Duration::from_millis(1),
        reorder: 0.02,
        duplicate: 0.02,
        ..Impairment::loss(0.01, cell.count as u64 * 10 + cell.hosts as u64)
    }
}

fn host(lab: &Lab, families: Hosts, number: usize, underlay: &dyn Underlay) -> Host {
    let name = format!("h{number}");
    let dual = lab.host(&name).on(underlay);
    let builder = match (families, number % 2) {
        (Hosts::Ipv4, _) | (Hosts::DualAndIpv4, 1) => dual.without_ipv6(),
        (Hosts::Ipv6, _) | (Hosts::Ipv6AndDual, 0) => dual.without_ipv4(),
        (Hosts::DualAndIpv4 | Hosts::Ipv6AndDual, _) => dual,
    };
    builder.build().unwrap()
}

/// The first host founds a cluster with this range; each other one joins by the first host before it that it shares a
/// family with.
fn cluster(lab: &Lab, hosts: &[Host], range: &str) -> Vec<Router> {
    let founder = hosts[0].up(["--found", "--range", range]).unwrap();
    let member = |status: &Status| matches!(status.cluster, ClusterStatus::Member { .. });
    founder.wait_until("it is a member", SOON, member).unwrap();
    let token = lab.secret_file("token", &founder.token().unwrap()).unwrap();
    let token = token.to_str().unwrap();
    let mut routers = vec![founder];
    for (number, host) in hosts.iter().enumerate().skip(1) {
        let peer = hosts[..number].iter().find_map(|member| shared(host, member));
        let peer = peer.unwrap().to_string();
        routers.push(host.up(["--peer", &peer, "--token-file", token]).unwrap());
    }
    routers
}

/// An address of `to` of a family that `from` has too.
fn shared(from: &Host, to: &Host) -> Option<IpAddr> {
    let usable = |there: &&IpAddr| {
        from.addresses()
            .iter()
            .any(|here| here.is_ipv4() == there.is_ipv4())
    };
    to.addresses().iter().find(usable).copied()
}

impl Pods {
    fn range(self) -> &'static str {
        match self {
            Self::Ipv4 | Self::DualOfIpv4 => "10.32.0.0/16",
            Self::Ipv6 | Self::DualOfIpv6 => "fd32::/96",
        }
    }

    /// Two pods on the first host, one on each other, with the families of this value and no other.
    fn on(self, hosts: &[Host]) -> Vec<Pod> {
        let placed = hosts.iter().take(1).chain(hosts);
        let pod = |(number, host): (usize, &Host)| {
            let mut pod = host.pod_any(&format!("p{number}")).unwrap();
            let last = u8::try_from(number + 1).unwrap();
            match self {
                Self::Ipv6 => {}
                Self::Ipv4 => pod
                    .namespace()
                    .run(|| sysctl::set_ipv6(pod.interface(), false))
                    .unwrap()
                    .unwrap(),
                Self::DualOfIpv4 => {
                    let address = [0xfd57, 0, 0, 0, 0, 0, 0, last.into()].into();
                    pod.add_address(Ipv6Net::new_assert(address, 64).into()).unwrap();
                }
                Self::DualOfIpv6 => {
                    let address = [192, 168, 57, last].into();
                    pod.add_address(Ipv4Net::new_assert(address, 24).into()).unwrap();
                }
            }
            let range: IpNet = self.range().parse().unwrap();
            assert!(range.contains(&pod.address().unwrap()), "{:?}", pod.addresses());
            pod
        };
        placed.enumerate().map(pod).collect()
    }
}

/// The address that the kernel makes from the MAC address for every interface that has IPv6.
fn link_local(pod: &Pod) -> IpAddr {
    let addresses = pod
        .namespace()
        .run(|| addr::list(pod.interface()))
        .unwrap()
        .unwrap();
    let mut addresses = addresses.iter().map(|found| found.address.addr());
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    addresses.find(is_link_local).unwrap()
}

/// Weft need not be told of link-local addresses; they work by themselves.
fn all_ping_all_by_link_local(pods: &[Pod]) {
    for pod in pods {
        // Its own kernel answers as soon as duplicate address detection is over.
        pod.ping_until(link_local(pod), SOON).unwrap();
    }
    for from in pods {
        for to in pods.iter().filter(|to| to.name() != from.name()) {
            from.ping_until(link_local(to), LATER).unwrap();
        }
    }
}

/// Every pod, and every address of every other one.
fn pairs(pods: &[Pod]) -> impl Iterator<Item = (&Pod, IpAddr)> {
    pods.iter().flat_map(move |from| {
        pods.iter()
            .filter(|to| to.name() != from.name())
            .flat_map(move |to| to.addresses().iter().map(move |address| (from, *address)))
    })
}

/// Not even the first request may get lost, and no answer may come twice.
fn all_ping_all_at_once(pods: &[Pod]) {
    let plan = PingPlan {
        count: 2,
        interval: Duration::from_millis(1),
        ..PingPlan::default()
    };
    for (from, to) in pairs(pods) {
        let report = from.ping_with(to, &plan).unwrap();
        assert!(
            report.is_complete() && report.doubled == 0,
            "{} to {to}: {report:?}",
            from.name()
        );
    }
}

fn all_ping_all_in_the_end(pods: &[Pod]) {
    for (from, to) in pairs(pods) {
        from.ping_until(to, LATER).unwrap();
    }
}

/// One ear at each pod but the first, which speaks.
fn ears(pods: &[Pod]) -> Vec<Ear> {
    let source = pods[0].mac().unwrap();
    let hears = move |frame: &Frame<'_>| frame.ethertype() == ETHERTYPE && frame.source() == source;
    pods[1..].iter().map(|pod| pod.listen(hears).unwrap()).collect()
}

/// A broadcast that differs from all others by its number.
fn broadcast(from: &Pod, number: u8) -> Vec<u8> {
    frames::build(frames::BROADCAST, from.mac().unwrap(), ETHERTYPE, &[number; 100])
}

/// What each ear has heard when nothing has come for a while; all of them listen at the same time.
fn until_quiet(ears: &mut [Ear]) -> Vec<&[Vec<u8>]> {
    std::thread::scope(|scope| {
        let listen = |ear| scope.spawn(move || Ear::until_quiet(ear, QUIET).unwrap());
        let listening: Vec<_> = ears.iter_mut().map(listen).collect();
        listening.into_iter().map(|ear| ear.join().unwrap()).collect()
    })
}

fn broadcast_arrives_once(pods: &[Pod]) {
    let frame = broadcast(&pods[0], 1);
    let mut ears = ears(pods);
    pods[0].send_frame(&frame).unwrap();
    for ear in &mut ears {
        ear.expect(1, SOON).unwrap();
    }
    for heard in until_quiet(&mut ears) {
        assert_eq!(heard, std::slice::from_ref(&frame));
    }
}

/// On a wire that loses frames a broadcast may be lost, as on any Ethernet. No pod hears one twice, and no more are
/// missing than the wire has lost.
fn broadcasts_arrive_at_most_once(pods: &[Pod], wire: &Wire) {
    const COUNT: u8 = 50;
    let sent: Vec<Vec<u8>> = (0..COUNT).map(|number| broadcast(&pods[0], number)).collect();
    let mut ears = ears(pods);
    let lost = wire.counters().lost;
    pods[0].send_frames(&sent).unwrap();
    let mut missing = 0;
    for (pod, heard) in pods[1..].iter().zip(until_quiet(&mut ears)) {
        let mut times: BTreeMap<&[u8], usize> = sent.iter().map(|frame| (frame.as_slice(), 0)).collect();
        for frame in heard {
            let times = times.get_mut(frame.as_slice()).expect("a frame that was sent");
            *times += 1;
            assert_eq!(*times, 1, "{} hears broadcast {} twice", pod.name(), frame[14]);
        }
        missing += times.values().filter(|times| **times == 0).count() as u64;
    }
    let lost = wire.counters().lost - lost;
    assert!(
        missing <= lost,
        "{missing} broadcasts are missing; the wire lost {lost} frames"
    );
}

/// Frames and datagrams dropped at every host, by reason, but for questions about a host's own
/// addresses: its bridge has delivered them, and no other host could answer.
fn drops(routers: &[Router]) -> Vec<BTreeMap<String, u64>> {
    let drops = |router: &Router| {
        let mut drops = router.status().unwrap().drops;
        drops.remove(DropReason::AskedHere.label());
        // Pods say at any time which groups they are in.
        drops.remove(DropReason::MembershipMessage.label());
        drops
    };
    routers.iter().map(drops).collect()
}

/// The one pair that no underlay connects: known to each other by gossip, out of reach, and said to be.
#[test]
fn a_pair_without_a_family_in_common_is_named() {
    let lab = Lab::new("nofamily").unwrap();
    let switch = lab.switch().unwrap();
    let hosts = [
        lab.host("four").on(&switch).without_ipv6().build().unwrap(),
        lab.host("both").on(&switch).build().unwrap(),
        lab.host("six").on(&switch).without_ipv4().build().unwrap(),
    ];
    let routers = cluster(&lab, &hosts, Pods::Ipv4.range());
    let [four, both, six] = routers.as_slice() else {
        panic!("three hosts, three routers");
    };
    both.wait_for_peers(2, SOON).unwrap();
    for (router, other) in [(four, "six"), (six, "four")] {
        let named = |status: &Status| {
            let peer = |name: &str| status.peers.iter().find(|peer| peer.name == name);
            let unreached = |peer: &PeerStatus| {
                (peer.mesh, peer.mode.as_str(), peer.encrypted) == (LinkState::Down, "none", false)
                    && peer.reason.contains("only and this host on IP")
            };
            peer("both").is_some_and(is_up) && peer(other).is_some_and(unreached)
        };
        let status = router
            .wait_until(&format!("it names {other}, which is out of reach"), SOON, named)
            .unwrap();
        assert!(
            status.encryption.contains("1 of 2 reachable"),
            "{}",
            status.encryption
        );
        // And so does the screen, with the reason.
        let socket = router.host().socket();
        let screen = ["status", "--socket", socket.to_str().unwrap()];
        let screen = router.host().weft(screen).unwrap().success().unwrap().stdout;
        let peer = status.peers.iter().find(|peer| peer.name == other).unwrap();
        let row = |line: &&str| line.trim_start().starts_with(other);
        let row = screen.lines().find(row).unwrap();
        assert!(row.contains("none") && row.contains(&peer.reason), "{screen}");
    }

    // Everybody else is served, and nobody is served by accident.
    let pods = Pods::Ipv4.on(&hosts);
    let [a1, a2, b, c] = pods.as_slice() else {
        panic!("four pods on three hosts");
    };
    for (one, other) in [(a1, a2), (a1, b), (a2, b), (c, b)] {
        all_ping_all_at_once(&[one.clone(), other.clone()]);
    }
    match a1.ping_until(c.address().unwrap(), QUIET) {
        Err(Error::TimedOut { .. }) => {}
        other => panic!("no path leads from IPv4 to IPv6: {other:?}"),
    }
}
