//! What somebody on the underlay, and what a pod can do to the sleeve of a running host; sleeve/engine/tests/attacks.rs
//! has what can be sealed, forged and repeated against one engine.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, MutableIpv4Packet};
use pnet_packet::udp::MutableUdpPacket;
use weft_kernel::{Namespace, link};
use weft_lab::frames::{Frame, build};
use weft_lab::{Content, Host, Lab, Pod, Router};
use weft_wire::api::{ClusterStatus, Status};
use weft_wire::datagram::{HEADER_LEN, Header, Kind};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
const PORT: u16 = 6783;
/// Nobody listens here.
const CLOSED: u16 = 9;
const ETHERNET: usize = 14;
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = ETHERNET + 28;
/// Datagrams of a flood in a second, each from an address of its own.
const RATE: u32 = 10_000;

type Mac = [u8; 6];

/// A UDP datagram from any address, in a frame.
fn datagram(macs: (Mac, Mac), from: Ipv4Addr, to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 28 + payload.len()];
    let mut udp = MutableUdpPacket::new(&mut packet[20..]).unwrap();
    udp.set_source(40_000);
    udp.set_destination(to.1);
    udp.set_length((8 + payload.len()) as u16);
    // No checksum, which IPv4 allows (RFC 768).
    udp.set_payload(payload);
    let length = packet.len() as u16;
    let mut ip = MutableIpv4Packet::new(&mut packet).unwrap();
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(length);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    ip.set_source(from);
    ip.set_destination(to.0);
    ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
    build(macs.1, macs.0, 0x0800, &packet)
}

fn is_sleeve(kind: Kind) -> impl Fn(&Frame<'_>) -> bool + Send + 'static {
    move |frame| {
        frame.ethertype() == 0x0800
            && frame.0.get(23) == Some(&17)
            && frame.0.get(36..38) == Some(&PORT.to_be_bytes()[..])
            && frame.0.get(HEADERS) == Some(&(kind as u8))
    }
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("the underlay has IPv4"),
    }
}

/// Two hosts with a pod each, and a stranger to whom they send what goes elsewhere.
struct Scene {
    routers: [Router; 2],
    pods: [Pod; 2],
    stranger: Host,
    /// What the second host said to the first to begin their session.
    init: Vec<u8>,
    _lab: Lab,
}

impl Scene {
    fn new(label: &str) -> Self {
        let lab = Lab::new(label).unwrap();
        let switch = lab.switch().unwrap();
        let stranger = lab.host("s").on(&switch).without_ipv6().build().unwrap();
        let [a, b] = ["a", "b"].map(|name| {
            let host = lab.host(name).on(&switch).without_ipv6();
            host.gateway(stranger.address().unwrap()).build().unwrap()
        });
        let mut ears = [&a, &b].map(|host| host.listen(is_sleeve(Kind::Init)).unwrap());
        let first = a.up(["--found"]).unwrap();
        let is_member = |status: &Status| matches!(status.cluster, ClusterStatus::Member { .. });
        first.wait_until("it is a member", SOON, is_member).unwrap();
        let token = lab.secret_file("token", &first.token().unwrap()).unwrap();
        let peer = a.address().unwrap().to_string();
        let second = b
            .up(["--peer", &peer, "--token-file", token.to_str().unwrap()])
            .unwrap();
        second.wait_for_peers(1, SOON).unwrap();
        let pods = [
            a.pod("p", [10, 32, 0, 1]).unwrap(),
            b.pod("q", [10, 32, 0, 2]).unwrap(),
        ];
        pods[0].ping_until(pods[1].address().unwrap(), SOON).unwrap();
        // Either may have begun it; the first host is the one that is attacked with what it was sent.
        let init = ears[0].expect(1, SOON).unwrap()[0].clone();
        let to_first = init[30..34] == v4(a.address().unwrap()).octets();
        let mut routers = [first, second];
        let mut pods = pods;
        if !to_first {
            routers.reverse();
            pods.reverse();
        }
        Self {
            routers,
            pods,
            stranger,
            init: init[HEADERS..].to_vec(),
            _lab: lab,
        }
    }

    fn target(&self) -> &Host {
        self.routers[0].host()
    }

    fn drops(&self, reason: &str) -> u64 {
        let drops = self.routers[0].status().unwrap().drops;
        drops.get(reason).copied().unwrap_or_default()
    }

    /// Sends [`RATE`] datagrams a second to a port of the attacked host until `ends`, at least one from each of as many
    /// addresses that nobody has; the first ones of every hundred are garbled, the others true copies. Returns how many were
    /// sent.
    fn flood(&self, port: u16, ends: &AtomicBool) -> u64 {
        let to = (v4(self.target().address().unwrap()), port);
        let macs = (self.stranger.mac().unwrap(), self.target().mac().unwrap());
        let begin = Instant::now();
        let mut sent = 0;
        while !ends.load(Ordering::Relaxed) || sent < u64::from(RATE) {
            let due = (begin.elapsed().as_secs_f64() * f64::from(RATE)) as u64;
            // One address after the other, of the network for benchmarks (RFC 2544); a machine that was busy makes up
            // for a part of what it has missed.
            let frames: Vec<_> = (sent..due.min(sent + 500))
                .map(|number| {
                    let from =
                        Ipv4Addr::from_bits(u32::from_be_bytes([198, 18, 0, 0]) + number as u32 % RATE);
                    let mut init = self.init.clone();
                    if number % 100 < 20 {
                        init[20] ^= 1;
                    }
                    datagram(macs, from, to, &init)
                })
                .collect();
            sent += frames.len() as u64;
            self.stranger.send_frames(&frames).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        sent
    }

    /// Megabits a second of a transfer between the pods, while `meanwhile` runs until it is over.
    fn goodput(&self, meanwhile: impl FnOnce(&AtomicBool) + Send) -> f64 {
        let (from, to) = (&self.pods[1], &self.pods[0]);
        let content = Content::random(48 << 20, 3);
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| meanwhile(&ends));
            let transfer = from.tcp_send(to, &content);
            ends.store(true, Ordering::Relaxed);
            flooding.join().unwrap();
            let transfer = transfer.unwrap();
            assert!(transfer.is_intact());
            transfer.gbit_per_second() * 1_000.0
        })
    }
}

/// Packets and octets that the only interface of a namespace has received and sent.
fn traffic(namespace: &Namespace) -> [u64; 4] {
    let table = namespace
        .run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap())
        .unwrap();
    let row = table
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"))
        .unwrap();
    let numbers: Vec<u64> = row.split_whitespace().map(|n| n.parse().unwrap()).collect();
    [numbers[1], numbers[0], numbers[9], numbers[8]]
}

/// Kilobytes of memory that a process has.
fn resident(router: &Router) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", router.pid().unwrap())).unwrap();
    let row = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    row.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}

#[test]
fn a_handshake_flood_from_ten_thousand_sources() {
    let scene = Scene::new("flood");
    let quiet = scene.goodput(|_| {});
    let closed = scene.goodput(|ends| {
        scene.flood(CLOSED, ends);
    });
    let before = traffic(scene.stranger.namespace());
    let (sent, warm) = (AtomicU64::new(0), AtomicU64::new(0));
    let flooded = scene.goodput(|ends| {
        sent.store(scene.flood(PORT, ends), Ordering::Relaxed);
        warm.store(resident(&scene.routers[0]), Ordering::Relaxed);
    });
    // Once more, for as long as a member needs to come back: its INIT is one among the others.
    let ends = AtomicBool::new(false);
    let came_back = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| scene.flood(PORT, &ends));
        scene.routers[1].restart().unwrap();
        let begin = Instant::now();
        let answered = scene.pods[1].ping_until(scene.pods[0].address().unwrap(), SOON);
        let came_back = begin.elapsed();
        ends.store(true, Ordering::Relaxed);
        sent.fetch_add(flooding.join().unwrap(), Ordering::Relaxed);
        answered.unwrap();
        came_back
    });
    let (sent, warm) = (sent.into_inner(), warm.into_inner());
    let after = traffic(scene.stranger.namespace());
    let [packets_back, octets_back, packets, octets] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
    assert!(sent >= u64::from(RATE), "{sent} were sent");
    assert!(
        packets >= sent && packets_back <= packets && octets_back <= octets / 2,
        "{packets_back} packets, {octets_back} octets for {packets} packets, {octets} octets"
    );
    let grown = resident(&scene.routers[0]).saturating_sub(warm);
    assert!(grown < 8 << 10, "the process has grown by {grown} KiB");
    let (asked, forged) = (scene.drops("cookie_required"), scene.drops("bad_mac1"));
    assert!(asked > 100 && forged > 100, "{asked} {forged}");
    println!(
        "TCP: {quiet:.0} Mbit/s quiet, {closed:.0} under a flood of a closed port, {flooded:.0} of the sleeve's \
         ({:.2} of that); {sent} datagrams, {packets_back} answers, {asked} asked for a cookie, {forged} forged, memory \
         +{grown} KiB; a restarted member was back {came_back:?} after it had begun",
        flooded / closed
    );
}

/// A pod knows where its host's sleeve listens, and what an onlooker on the underlay has recorded. It sends all of it, and
/// more, from its own address and from the other host's.
#[test]
fn a_pod_sends_sleeve_datagrams() {
    let scene = Scene::new("podattack");
    let (target, pod) = (scene.target(), &scene.pods[0]);
    let mut ear = target.listen(is_sleeve(Kind::Data)).unwrap();
    let other = scene.routers[1].host().address().unwrap();
    assert!(
        scene.pods[1]
            .ping(pod.address().unwrap(), 10)
            .unwrap()
            .is_complete()
    );
    let recorded: Vec<_> = ear
        .expect(10, SOON)
        .unwrap()
        .iter()
        .filter(|frame| frame[30..34] == v4(target.address().unwrap()).octets())
        .map(|frame| frame[HEADERS..].to_vec())
        .collect();
    let mut payloads = recorded.clone();
    payloads.extend(recorded.iter().map(|datagram| {
        let mut forged = datagram.clone();
        forged[HEADER_LEN + 1] ^= 1;
        // A number that was not used yet.
        forged[8..16].copy_from_slice(&u64::to_be_bytes(1 << 20));
        forged
    }));
    payloads.push(scene.init.clone());
    payloads.push(vec![0x40; 100]);
    payloads.push(
        Header::new(Kind::Keepalive, weft_wire::SessionIndex(1), 1)
            .to_bytes()
            .to_vec(),
    );

    let bridge = target
        .namespace()
        .run(|| link::get("weft").unwrap().mac.unwrap())
        .unwrap();
    let macs = (pod.mac().unwrap(), bridge);
    let to = (v4(target.address().unwrap()), PORT);
    let before = scene.routers[0].status().unwrap();
    for from in [v4(pod.address().unwrap()), v4(other)] {
        let frames: Vec<_> = payloads
            .iter()
            .map(|payload| datagram(macs, from, to, payload))
            .collect();
        pod.send_frames(&frames).unwrap();
    }
    // Behind them in the same queue: by then all have been dealt with.
    assert!(
        pod.ping(scene.pods[1].address().unwrap(), 20)
            .unwrap()
            .is_complete()
    );
    let after = scene.routers[0].status().unwrap();
    let counted = |reason: &str| {
        let count = |status: &Status| status.drops.get(reason).copied().unwrap_or_default();
        count(&after) - count(&before)
    };
    let times = recorded.len() as u64 * 2;
    assert_eq!([counted("replayed"), counted("bad_seal")], [times; 2]);
    let others = ["stale_initiation", "unknown_kind", "unknown_index"].map(counted);
    assert_eq!(others, [2; 3], "{:?}", after.drops);
    let reach = |status: &Status| (status.peers[0].endpoint, status.peers[0].mode.clone());
    assert_eq!(reach(&before), reach(&after));
}
