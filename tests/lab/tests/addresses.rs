//! Addresses without a central store: no two pods ever get the same one, whatever breaks meanwhile.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use weft_lab::{Api, Content, Error, Host, Lab, Output, Router, Switch, Underlay as _};
use weft_wire::api::{IpamRange, LinkState, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// For what needs a silent peer to be noticed, or to be dialled again, first.
const LATER: Duration = Duration::from_secs(30);

/// Hosts with these names on one switch, in one mesh, the first of them the founder.
fn cluster(lab: &Lab, names: &[&str]) -> (Switch, Vec<Router>) {
    lab.cluster(names, &[], SOON).unwrap()
}

/// Waits until every host owns a part of the range: before that it lives on single addresses that others lend,
/// and has nothing to give out when they are out of reach.
fn own_space(routers: &[Router]) {
    for router in routers {
        let owns = |status: &Status| {
            ranges(router.host())
                .iter()
                .any(|range| range.owner == status.node)
        };
        router
            .wait_until("it owns a part of the range", LATER, owns)
            .unwrap();
    }
}

fn hosts(routers: &[Router]) -> Vec<&Host> {
    routers.iter().map(Router::host).collect()
}

/// `weft ipam ...` on a host.
fn ipam(host: &Host, arguments: &[&str]) -> Output {
    let socket = host.socket().display().to_string();
    let all = ["ipam"].iter().chain(arguments).copied();
    host.weft(all.chain(["--socket", &socket])).unwrap()
}

/// What was given out: each address with the id that has it.
#[derive(Default)]
struct Given(BTreeMap<IpAddr, String>);

impl Given {
    /// Takes down an address; nobody may have it yet.
    fn add(&mut self, id: &str, address: IpAddr) {
        if let Some(other) = self.0.insert(address, id.to_owned()) {
            panic!("{address} is given to {other} and to {id}");
        }
    }

    /// Gets `count` addresses on a host, for ids with this label in them.
    fn allocate(&mut self, host: &Host, label: &str, count: usize) {
        let mut api = Api::connect(host).unwrap();
        for number in 0..count {
            let id = format!("{}-{label}-{number}", host.name());
            let address = api.allocate(&id).unwrap();
            self.add(&id, address);
        }
    }

    /// Every router must hold just what it has given out.
    fn assert_held(&self, hosts: &[&Host]) {
        let mut held = BTreeMap::new();
        for host in hosts {
            for used in Api::connect(host).unwrap().ipam().unwrap().used {
                assert!(used.id.starts_with(host.name()), "{used:?} on {}", host.name());
                assert_eq!(held.insert(used.address, used.id), None, "{}", used.address);
            }
        }
        assert_eq!(held, self.0);
    }
}

fn ranges(host: &Host) -> Vec<IpamRange> {
    Api::connect(host).unwrap().ipam().unwrap().ranges
}

/// Waits until all see the same owners, and no range with two.
fn agree(routers: &[Router]) {
    let (first, others) = routers.split_first().unwrap();
    for other in others {
        let same = |_: &_| ranges(first.host()) == ranges(other.host());
        other.wait_until("it sees the same owners", LATER, same).unwrap();
    }
    assert!(ranges(first.host()).iter().all(|range| !range.frozen));
}

#[test]
fn three_hosts_give_out_addresses() {
    let lab = Lab::new("give").unwrap();
    let (_switch, routers) = cluster(&lab, &["a", "b", "c"]);
    let hosts = hosts(&routers);
    let mut given = Given::default();
    for host in &hosts {
        given.allocate(host, "x", 49);
        let id = format!("{}-cli", host.name());
        let printed = ipam(host, &["allocate", &id]).success().unwrap().stdout;
        // With the prefix length of the range, as an interface gets it.
        let (address, length) = printed.trim().split_once('/').unwrap();
        assert_eq!(length, "12");
        given.add(&id, address.parse().unwrap());
    }
    assert_eq!(given.0.len(), 150);
    given.assert_held(&hosts);

    // The same id gets the same address, and is found by it and it by the id.
    for (address, id) in &given.0 {
        let host = hosts.iter().find(|host| id.starts_with(host.name())).unwrap();
        assert_eq!(Api::connect(host).unwrap().allocate(id).unwrap(), *address);
    }
    let (address, id) = given.0.first_key_value().unwrap();
    let host = hosts.iter().find(|host| id.starts_with(host.name())).unwrap();
    let found = ipam(host, &["lookup", &address.to_string()]).success().unwrap();
    assert!(found.stdout.contains(id.as_str()), "{found:?}");
    let found = ipam(host, &["lookup", id]).success().unwrap();
    assert!(found.stdout.contains(&address.to_string()), "{found:?}");
    agree(&routers);
}

#[test]
fn a_killed_router_comes_back_under_a_transfer() {
    let lab = Lab::new("kill").unwrap();
    let (_switch, routers) = cluster(&lab, &["a", "b"]);
    let [first, second] = &routers[..] else {
        unreachable!()
    };
    let pods = [first, second].map(|router| {
        router
            .host()
            .pod_any(&format!("{}1", router.host().name()))
            .unwrap()
    });
    let [from, to] = &pods;
    from.ping_until(to.address().unwrap(), SOON).unwrap();
    let before = second.status().unwrap();
    let used = Api::connect(second.host()).unwrap().ipam().unwrap().used;
    assert_eq!(
        used.iter().map(|used| used.address).collect::<Vec<_>>(),
        to.addresses()
    );

    // The kill is in the middle: what has not arrived then is more than sockets and devices hold.
    let content = Content::random(64 << 20, 5);
    let quarter = content.len() as u64 / 4;
    let (killed_at, outcome) = (AtomicU64::new(0), Mutex::new(None));
    let transfer = from
        .tcp_send_watched(to, &content, &|done| {
            if done >= quarter
                && killed_at
                    .compare_exchange(0, done, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                let result = second.kill().and_then(|()| second.restart());
                *outcome.lock().unwrap() = Some(result);
            }
        })
        .unwrap();
    outcome.lock().unwrap().take().unwrap().unwrap();
    let killed_at = killed_at.into_inner();
    assert!((quarter..quarter * 2).contains(&killed_at), "{killed_at}");
    assert!(transfer.is_intact());
    assert_eq!(transfer.bytes, content.len() as u64);

    let after = second.wait_for_peers(1, SOON).unwrap();
    assert_eq!(
        (&after.node, &after.cluster, &after.pods),
        (&before.node, &before.cluster, &before.pods)
    );
    // Another host confirms that its state is the latest, so it gives out addresses again.
    let confirmed = |_: &Status| {
        let status = Api::connect(second.host()).unwrap().ipam().unwrap();
        status.hindrance.is_none()
    };
    second
        .wait_until("its state is confirmed", SOON, confirmed)
        .unwrap();
    let mut api = Api::connect(second.host()).unwrap();
    assert_eq!(api.ipam().unwrap().used, used);
    // It still knows what it has given out, and gives out other addresses.
    assert_eq!(api.allocate("b1").unwrap(), to.address().unwrap());
    let other = api.allocate("b2").unwrap();
    assert!(pods.iter().all(|pod| pod.address().unwrap() != other));
}

#[test]
fn both_sides_of_a_partition_go_on() {
    let lab = Lab::new("split").unwrap();
    let (switch, routers) = cluster(&lab, &["a", "b", "c"]);
    own_space(&routers);
    let hosts = hosts(&routers);
    let mut given = Given::default();
    for host in &hosts {
        given.allocate(host, "together", 20);
    }

    switch.partition(&hosts[..2], &hosts[2..]).unwrap();
    // Before anybody has noticed, and after.
    for host in &hosts {
        given.allocate(host, "unnoticed", 40);
    }
    for (router, reached) in routers.iter().zip([1, 1, 0]) {
        router
            .wait_until("the other side is down", LATER, |status| {
                let up = status.peers.iter().filter(|peer| peer.mesh == LinkState::Up);
                up.count() == reached
            })
            .unwrap();
    }
    for host in &hosts {
        given.allocate(host, "apart", 100);
    }

    switch.heal().unwrap();
    for router in &routers {
        router.wait_for_peers(2, LATER).unwrap();
    }
    for host in &hosts {
        given.allocate(host, "again", 100);
    }
    assert_eq!(given.0.len(), 3 * (20 + 40 + 100 + 100));
    given.assert_held(&hosts);
    agree(&routers);
}

#[test]
fn a_used_address_is_refused_and_a_freed_one_rests() {
    let lab = Lab::new("rest").unwrap();
    let (_switch, routers) = cluster(&lab, &["a", "b"]);
    let [a, b] = [&routers[0], &routers[1]].map(Router::host);
    let pod = a.pod_any("web").unwrap();
    let address = pod.address().unwrap();
    let claim = |host: &Host, id: &str| {
        let output = ipam(host, &["claim", id, &address.to_string()]);
        assert!(!output.status.success(), "{output:?}");
        output.stderr
    };
    let refused = claim(a, "db");
    assert!(
        refused.contains(&address.to_string()) && refused.contains("web"),
        "{refused}"
    );
    // Another host cannot know the pod, but the host that keeps the address.
    let refused = claim(b, "db");
    assert!(refused.contains(&address.to_string()), "{refused}");
    let owner = format!("host {} keeps it", a.name());
    assert!(refused.contains(&owner), "{refused}");

    pod.detach().unwrap();
    let status = Api::connect(a).unwrap().ipam().unwrap();
    assert_eq!((status.used.len(), status.resting), (0, 1), "{status:?}");
    assert!(!ipam(a, &["lookup", "web"]).status.success());
    // Nobody gets it by chance while others may still send to it.
    let mut given = Given::default();
    for host in [a, b] {
        given.allocate(host, "later", 50);
    }
    assert!(!given.0.contains_key(&address));
    // Who names it means it: above all a pod that comes up elsewhere with the address it had.
    Api::connect(b).unwrap().claim("web", address).unwrap();
    assert_eq!(Api::connect(a).unwrap().ipam().unwrap().resting, 0);
}

/// Addresses that one host gives out in a [`flood`], by so many workers.
const WORKERS: usize = 8;
const EACH: usize = 125;
/// Refusals that one request survives; each comes after 10 s at the latest.
const TRIES: usize = 3;

/// Gets 1,000 addresses from each of five hosts, from all of them at once, several at a time from each. `taken` is
/// told of each, with the host, and may break things meanwhile. Tells how many requests were refused and made again.
fn flood(hosts: &[&Host], label: &str, given: &mut Given, mut taken: impl FnMut(usize, &str)) -> usize {
    let (send, receive) = mpsc::sync_channel(hosts.len() * WORKERS);
    let refusals = AtomicUsize::new(0);
    let allocate = |api: &mut Api, id: &str| {
        let mut tries = 0;
        loop {
            match api.allocate(id) {
                Err(Error::Refused { .. }) if tries < TRIES => {
                    tries += 1;
                    refusals.fetch_add(1, Ordering::Relaxed);
                }
                result => return result.unwrap(),
            }
        }
    };
    std::thread::scope(|scope| {
        for host in hosts {
            for worker in 0..WORKERS {
                let (send, allocate) = (send.clone(), &allocate);
                scope.spawn(move || {
                    let mut api = Api::connect(host).unwrap();
                    for number in 0..EACH {
                        let id = format!("{}-{label}-{worker}-{number}", host.name());
                        let address = allocate(&mut api, &id);
                        send.send((host.name(), id, address)).unwrap();
                    }
                });
            }
        }
        drop(send);
        for (host, id, address) in receive {
            given.add(&id, address);
            taken(given.0.len(), host);
        }
    });
    refusals.into_inner()
}

#[test]
fn ten_thousand_addresses_on_five_hosts() {
    const ALL: usize = 10_000;
    let lab = Lab::new("many").unwrap();
    let (switch, routers) = cluster(&lab, &["a", "b", "c", "d", "e"]);
    own_space(&routers);
    let hosts = hosts(&routers);
    let mut given = Given::default();
    let mut apart: BTreeMap<String, usize> = BTreeMap::new();

    // The partition comes in the middle of it, with requests on their way, and so it goes.
    let begin = Instant::now();
    let mut refusals = flood(&hosts, "before", &mut given, |count, host| {
        match count.cmp(&(ALL * 3 / 10)) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => switch.partition(&hosts[..2], &hosts[2..]).unwrap(),
            std::cmp::Ordering::Greater => *apart.entry(host.to_owned()).or_default() += 1,
        }
    });
    let half = begin.elapsed();
    for (router, reached) in routers.iter().zip([1, 1, 2, 2, 2]) {
        router
            .wait_until("the other side is down", LATER, |status| {
                let up = status.peers.iter().filter(|peer| peer.mesh == LinkState::Up);
                up.count() == reached
            })
            .unwrap();
    }
    let begin = Instant::now();
    refusals += flood(&hosts, "after", &mut given, |count, host| {
        match count.cmp(&(ALL * 7 / 10)) {
            std::cmp::Ordering::Less => *apart.entry(host.to_owned()).or_default() += 1,
            std::cmp::Ordering::Equal => switch.heal().unwrap(),
            std::cmp::Ordering::Greater => {}
        }
    });
    println!(
        "{} addresses on 5 hosts in {:.1?}, none twice; given out while apart: {apart:?}; {refusals} refused at first",
        given.0.len(),
        half + begin.elapsed()
    );
    assert_eq!(given.0.len(), ALL);
    assert_eq!(apart.len(), 5, "all go on while they are apart: {apart:?}");
    for router in &routers {
        router.wait_for_peers(4, LATER).unwrap();
    }
    given.assert_held(&hosts);
    agree(&routers);
}
