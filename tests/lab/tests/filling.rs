//! Many hosts that fill a small range, or a subnet, almost to the last address.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_lab::{Api, Lab, Router};
use weft_wire::api::{ClusterStatus, IpamStatus, Status};

/// For anything that needs no timeout to pass first; forty hosts share two processors.
const SOON: Duration = Duration::from_secs(60);
/// Hosts that join at the same moment.
const AT_ONCE: usize = 8;

fn is_member(status: &Status) -> bool {
    matches!(status.cluster, ClusterStatus::Member { .. })
}

fn ipam(router: &Router) -> IpamStatus {
    Api::connect(router.host()).unwrap().ipam().unwrap()
}

/// A founder, and others that join in groups; each knows of all when it returns.
fn started(lab: &Lab, hosts: usize, found: &[&str]) -> Vec<Router> {
    let switch = lab.switch().unwrap();
    let host = |at: usize| lab.host(&format!("h{at}")).on(&switch).build().unwrap();
    let founder = host(0).up([&["--found"], found].concat()).unwrap();
    founder.wait_until("it is a member", SOON, is_member).unwrap();
    let token = lab.secret_file("token", &founder.token().unwrap()).unwrap();
    let peer = founder.host().address().unwrap().to_string();
    let join = ["--peer", &peer, "--token-file", token.to_str().unwrap()];
    let mut routers = vec![founder];
    while routers.len() < hosts {
        let from = routers.len();
        routers.extend((from..hosts.min(from + AT_ONCE)).map(|at| host(at).up(join).unwrap()));
        for router in &routers[from..] {
            router.wait_until("it is a member", SOON, is_member).unwrap();
        }
    }
    for router in &routers {
        let is_voter = |_: &Status| ipam(router).epoch_members == hosts as u64;
        router
            .wait_until("it knows of all", SOON, |status| {
                is_member(status) && is_voter(status)
            })
            .unwrap();
    }
    routers
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
        let (status, node) = (ipam(router), router.status().unwrap().node);
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
    let routers = started(&lab, hosts, &[]);
    let subnet: IpNet = "10.32.7.0/24".parse().unwrap();
    let held = fill(&routers, 254 * 95 / 100, Some(subnet));
    // One that is left, by its name, at a host that does not own what it lies in: others use that slot.
    let named = subnet
        .hosts()
        .find(|address| !held.contains_key(address))
        .unwrap();
    let begin = Instant::now();
    let status = ipam(&routers[0]);
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
    let routers = started(&lab, hosts, &["--range", "10.32.0.0/24"]);
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
