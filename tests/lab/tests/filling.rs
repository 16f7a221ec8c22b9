//! Many hosts that fill a small range, or a subnet, almost to the last address.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use weft_lab::{Api, Host, Lab, Router, Switch};
use weft_wire::api::{ClusterStatus, IpamStatus, Status};

/// For anything that needs no timeout to pass first; forty hosts share two processors.
const SOON: Duration = Duration::from_secs(60);

fn is_member(status: &Status) -> bool {
    matches!(status.cluster, ClusterStatus::Member { .. })
}

/// Hosts of which each is alone on its wire, and one in their middle that forwards between the wires. On one wire each is a neighbour
/// of each other one, and the kernel knows 1,024 neighbours (`net.ipv4.neigh.default.gc_thresh3`) of all namespaces together:
/// from 33 hosts on some would never reach each other.
fn apart(lab: &Lab, count: usize) -> (Host, Vec<Host>) {
    let wires: Vec<Switch> = (0..count).map(|_| lab.switch().unwrap()).collect();
    let net = |at: usize, last: u8| -> Ipv4Net {
        let address = Ipv4Addr::new(172, 30, u8::try_from(at).unwrap(), last);
        Ipv4Net::new(address, 24).unwrap()
    };
    let mut core = lab.host("core").forwarding();
    for (at, wire) in wires.iter().enumerate() {
        core = core.on(wire).ipv4(net(at, 1)).without_ipv6();
    }
    let core = core.build().unwrap();
    let hosts = wires.iter().enumerate().map(|(at, wire)| {
        let host = lab.host(&format!("h{at}")).on(wire).ipv4(net(at, 2));
        host.without_ipv6().gateway(net(at, 1).addr()).build().unwrap()
    });
    (core, hosts.collect())
}

/// A founder, and others that join at the same moment; each knows of all when it returns. With them comes the host between them.
fn started(lab: &Lab, hosts: usize, found: &[&str]) -> (Host, Vec<Router>) {
    let (core, all) = apart(lab, hosts);
    let mut all = all.into_iter();
    let begin = Instant::now();
    let founder = all.next().unwrap().up([&["--found"], found].concat()).unwrap();
    founder.wait_until("it is a member", SOON, is_member).unwrap();
    let token = lab.secret_file("token", &founder.token().unwrap()).unwrap();
    let peer = founder.host().address().unwrap().to_string();
    let join = ["--peer", &peer, "--token-file", token.to_str().unwrap()];
    let mut routers = vec![founder];
    routers.extend(all.map(|host| host.up(join).unwrap()));
    println!("{hosts} hosts started after {:.1?}", begin.elapsed());
    for router in &routers {
        router.wait_until("it is a member", SOON, is_member).unwrap();
    }
    println!("all are members after {:.1?}", begin.elapsed());
    for router in &routers {
        let is_voter = |status: &IpamStatus| status.epoch_members == hosts as u64;
        router
            .host()
            .await_ipam("it knows of all", SOON, is_voter)
            .unwrap();
    }
    println!("all are voters after {:.1?}", begin.elapsed());
    (core, routers)
}

/// The time of an allocation in the middle, in words.
fn median(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    match times.get(times.len() / 2) {
        Some(time) => format!("{} in {time:.1?}", times.len()),
        None => "none".to_owned(),
    }
}

/// All hosts together take so many addresses, one after the other each, of a subnet or of the whole range. None twice, and
/// nobody is left without.
fn fill(routers: &[Router], count: usize, subnet: Option<IpNet>) -> BTreeMap<IpAddr, String> {
    let begin = Instant::now();
    let share = |at: usize| count / routers.len() + usize::from(at < count % routers.len());
    let each: Vec<Vec<(IpAddr, String, Duration)>> = std::thread::scope(|scope| {
        let work = |at: usize, router| {
            let mut api = Api::connect(Router::host(router)).unwrap();
            let one = |number: usize| {
                let id = format!("pod-{at}-{number}");
                let begin = Instant::now();
                let address = match subnet {
                    Some(net) => api.allocate_in(&id, None, net),
                    None => api.allocate(&id),
                };
                (address.unwrap(), id, begin.elapsed())
            };
            (0..share(at)).map(one).collect()
        };
        let workers: Vec<_> = routers
            .iter()
            .enumerate()
            .map(|(at, router)| scope.spawn(move || work(at, router)))
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let took = begin.elapsed();
    let (mut held, mut own, mut lent) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (router, given) in routers.iter().zip(each) {
        let (status, node) = (router.host().ipam().unwrap(), router.status().unwrap().node);
        for (address, id, time) in given {
            let is_in = |range: &weft_wire::api::IpamRange| (range.first..=range.last).contains(&address);
            let owner = status.ranges.iter().find(|range| is_in(range)).unwrap();
            match owner.owner == node {
                true => own.push(time),
                false => lent.push(time),
            }
            assert!(subnet.is_none_or(|net| net.contains(&address)), "{address}");
            let other = held.insert(address, id);
            assert_eq!(other, None, "{address} twice");
        }
    }
    println!(
        "{} hosts: {count} addresses in {took:.1?}; the median of those out of own slots: {}, of those that others lent: {}",
        routers.len(),
        median(own),
        median(lent)
    );
    assert_eq!(held.len(), count);
    held
}

/// A subnet with 254 addresses for pods, to 95 %, of a range in which there is room enough beside it.
fn fill_a_subnet(label: &str, hosts: usize) {
    let lab = Lab::new(label).unwrap();
    let (_core, routers) = started(&lab, hosts, &[]);
    let subnet: IpNet = "10.32.7.0/24".parse().unwrap();
    let held = fill(&routers, 254 * 95 / 100, Some(subnet));
    // One that is left, by its name, at a host that does not own what it lies in: others use that slot.
    let named = subnet
        .hosts()
        .find(|address| !held.contains_key(address))
        .unwrap();
    let begin = Instant::now();
    let status = routers[0].host().ipam().unwrap();
    let is_in = |range: &&weft_wire::api::IpamRange| (range.first..=range.last).contains(&named);
    let owner = &status.ranges.iter().find(is_in).unwrap().owner;
    let other = routers
        .iter()
        .find(|router| router.status().unwrap().node != *owner)
        .unwrap();
    let mut api = Api::connect(other.host()).unwrap();
    assert_eq!(api.allocate_in("named", Some(named), subnet).unwrap(), named);
    println!("one by its name in {:.1?}", begin.elapsed());
}

/// A range with 254 addresses, to 95 %; then one host alone takes what is left.
fn fill_a_range(label: &str, hosts: usize) {
    let lab = Lab::new(label).unwrap();
    let (_core, routers) = started(&lab, hosts, &["--range", "10.32.0.0/24"]);
    let mut held = fill(&routers, 254 * 95 / 100, None);
    let mut api = Api::connect(routers[hosts - 1].host()).unwrap();
    for at in held.len()..254 {
        let id = format!("rest-{at}");
        let address = api.allocate(&id).unwrap();
        assert_eq!(held.insert(address, id), None, "{address} twice");
    }
}

#[test]
fn eight_hosts_fill_one_subnet() {
    fill_a_subnet("subnet8", 8);
}

#[test]
fn six_hosts_fill_a_range_of_254() {
    fill_a_range("range6", 6);
}

/// Forty routers in full mesh are 780 links and as many sessions: too much for every run.
#[test]
#[ignore = "slow: ./test --long"]
fn forty_hosts_fill_one_subnet() {
    fill_a_subnet("subnet40", 40);
}

#[test]
#[ignore = "slow: ./test --long"]
fn twenty_hosts_fill_a_range_of_254() {
    fill_a_range("range20", 20);
}
