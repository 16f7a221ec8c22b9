//! Addresses of subnets, several for one pod, and space that other hosts have.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_kernel::addr;
use weft_lab::{Api, Host, Lab, Output, Router, Underlay as _};
use weft_wire::api::{LinkState, PodAddresses, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// For what needs a silent peer to be noticed first.
const LATER: Duration = Duration::from_secs(30);

/// Waits until every host owns a part of the range.
fn own_space(routers: &[Router]) {
    for router in routers {
        let owns = |status: &Status| {
            let ranges = Api::connect(router.host()).unwrap().ipam().unwrap().ranges;
            ranges.iter().any(|range| range.owner == status.node)
        };
        router
            .wait_until("it owns a part of the range", LATER, owns)
            .unwrap();
    }
}

fn ipam(host: &Host, arguments: &[&str]) -> Output {
    let socket = host.socket().display().to_string();
    let all = ["ipam"].iter().chain(arguments).copied();
    host.weft(all.chain(["--socket", &socket])).unwrap()
}

fn given(host: &Host, arguments: &[&str]) -> String {
    ipam(host, arguments).success().unwrap().stdout.trim().to_owned()
}

fn refused(host: &Host, arguments: &[&str]) -> String {
    let output = ipam(host, arguments);
    assert!(!output.status.success(), "{output:?}");
    format!("{}{}", output.stdout, output.stderr)
}

#[test]
fn pods_of_two_hosts_meet_in_a_subnet_and_have_several_addresses() {
    let lab = Lab::new("subnet").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b"], &[], SOON).unwrap();
    own_space(&routers);
    let [a, b] = [routers[0].host(), routers[1].host()];
    let part = ["--subnet", "10.32.7.0/24"];
    let plain = a.pod_with("plain", &part).unwrap();
    let rich = b
        .pod_with(
            "rich",
            &[
                "--ip",
                "10.32.7.5/24",
                "--subnet",
                "10.32.8.0/22",
                "--ip",
                "10.40.0.9",
            ],
        )
        .unwrap();
    // The addresses that are named come first, and the MAC address follows from the first of all.
    assert_eq!(
        rich.addresses()[..2],
        ["10.32.7.5", "10.40.0.9"].map(|text| text.parse::<IpAddr>().unwrap())
    );
    let inside = rich.namespace().run(|| addr::list("eth0")).unwrap().unwrap();
    let inside: BTreeSet<String> = inside.iter().map(|found| found.address.to_string()).collect();
    for net in [
        "10.32.7.5/24".to_owned(),
        "10.40.0.9/12".into(),
        format!("{}/22", rich.addresses()[2]),
    ] {
        assert!(inside.contains(&net), "{net} is missing in {inside:?}");
    }
    // Without a route to anything but their subnet they reach each other in it.
    plain.ping_until(rich.addresses()[0], SOON).unwrap();
    rich.ping_until(plain.address().unwrap(), SOON).unwrap();
    // From the whole range, the further ones are reached as well, by the pod's one MAC address.
    let wide = a.pod_any("wide").unwrap();
    for address in rich.addresses() {
        wide.ping_until(*address, SOON).unwrap();
    }

    // Once more changes nothing; the status shows all of them; detaching gives all back.
    for pod in [&plain, &rich] {
        pod.attach_again().unwrap().success().unwrap();
    }
    let attached = routers[1].status().unwrap().pods;
    assert_eq!(attached[0].further.len(), 2, "{attached:?}");
    rich.detach().unwrap();
    let left = ipam(b, &["lookup", "rich"]);
    assert!(!left.status.success(), "{left:?}");

    // A pod gets all that it is to have, or nothing.
    let crowded = b.pod_with("crowded", &["--ip", "10.32.7.77/24", "--ip", "10.32.7.255/24"]);
    let error = crowded.unwrap_err().to_string();
    assert!(error.contains("broadcast address of 10.32.7.0/24"), "{error}");
    assert!(!ipam(b, &["lookup", "crowded"]).status.success());
}

#[test]
fn addresses_of_subnets_by_hand() {
    let lab = Lab::new("byhand").unwrap();
    let (switch, routers) = lab.cluster(&["a", "b"], &[], SOON).unwrap();
    own_space(&routers);
    let [a, b] = [routers[0].host(), routers[1].host()];
    // The upper half is b's: what it gives by itself lies above the subnet.
    let any = given(b, &["allocate", "db"]);
    let part = given(b, &["allocate", "db", "--subnet", "10.32.7.0/24"]);
    assert!(
        any.ends_with("/12") && part.starts_with("10.32.7.") && part.ends_with("/24"),
        "{any} {part}"
    );
    assert_eq!(given(b, &["allocate", "db"]), any);
    assert_eq!(given(b, &["allocate", "db", "--subnet", "10.32.7.0/24"]), part);
    // A claim of what something has already, in a slot that the other host uses.
    let theirs = given(a, &["allocate", "web"]);
    let next = match theirs.split('/').next().unwrap().parse().unwrap() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + 1).into()),
        IpAddr::V6(_) => unreachable!("the range is of IPv4"),
    };
    assert_eq!(
        given(b, &["claim", "old", &next.to_string()]),
        format!("{next}/12")
    );
    assert_eq!(Api::connect(a).unwrap().ipam().unwrap().lent, 1);
    let found: PodAddresses = serde_json::from_str(&given(b, &["lookup", "db", "--json"])).unwrap();
    assert_eq!(found.addresses.len(), 2);
    given(b, &["free", "db", part.split('/').next().unwrap()]);
    assert!(given(b, &["lookup", "db"]).ends_with(any.split('/').next().unwrap()));

    for (arguments, words) in [
        (
            &["allocate", "x", "--subnet", "10.48.0.0/24"][..],
            "outside the cluster's range 10.32.0.0/12",
        ),
        (
            &["allocate", "x", "--subnet", "10.32.7.9/24"],
            "did you mean 10.32.7.0/24",
        ),
        (&["allocate", "x", "--subnet", "10.32.7.9/32"], "too small"),
        (&["allocate", "x", "--subnet", "ten"], "--subnet"),
        (&["allocate", "x", "--timeout", "5"], "500ms, 5s or 1m"),
        (&["allocate", "x", "--timeout", "5m"], "60 s at most"),
        (&["claim", "x", "10.32.7.0/24"], "network address of 10.32.7.0/24"),
        (&["claim", "x", "10.32.7.0.1"], "10.32.7.5/24"),
        (&["claim", "x", &theirs], "host a keeps it"),
    ] {
        let text = refused(b, arguments);
        assert!(text.contains(words), "{arguments:?}: {text}");
    }

    // Nobody lends what a host keeps that cannot be reached: its name is said, and soon.
    switch.partition(&[a], &[b]).unwrap();
    let begin = Instant::now();
    let text = refused(b, &["claim", "x", "10.32.0.14", "--timeout", "2s"]);
    assert!(text.contains("within 2s") && text.contains("host a"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    switch.heal().unwrap();
    routers[1]
        .wait_until("they are together again", LATER, |status| {
            status.peers.iter().all(|peer| peer.mesh == LinkState::Up)
        })
        .unwrap();
    assert_eq!(given(b, &["claim", "x", "10.32.0.14"]), "10.32.0.14/12");
}

/// Two hosts do not see each other, and a third one sees both: what one has, the other can get.
#[test]
fn an_owner_that_is_not_seen_gives_addresses_all_the_same() {
    let lab = Lab::new("unseen").unwrap();
    let (_switch, routers) = lab
        .cluster(&["a", "b", "c"], &["--range", "10.32.0.0/22"], SOON)
        .unwrap();
    own_space(&routers);
    let [a, b] = [routers[0].host(), routers[1].host()];
    let firewall = a.firewall();
    for address in [b.ipv4(), b.ipv6()].into_iter().flatten() {
        firewall.drop_all_with(address).unwrap();
    }
    for (router, other) in [(&routers[0], "b"), (&routers[1], "a")] {
        let is_cut = |status: &Status| {
            let mut peers = status.peers.iter();
            peers.any(|peer| peer.name == other && peer.mesh != LinkState::Up)
        };
        router.wait_until("the link is cut", LATER, is_cut).unwrap();
    }
    let status = Api::connect(b).unwrap().ipam().unwrap();
    let theirs = status.owners.iter().find(|owner| owner.name == "a").unwrap();
    assert!(theirs.reachable && theirs.addresses > 100, "{theirs:?}");
    let is_theirs = |range: &&weft_wire::api::IpamRange| range.owner == theirs.node;
    let named = status.ranges.iter().find(is_theirs).unwrap().last;

    // A loan there and back, and again.
    let lent = |wanted: u64| {
        routers[0]
            .wait_until("loans are known", SOON, |_| {
                Api::connect(a).unwrap().ipam().unwrap().lent == wanted
            })
            .unwrap();
    };
    for _ in 0..2 {
        let begin = Instant::now();
        let claim = ["claim", "x", &named.to_string(), "--timeout", "25s"];
        assert_eq!(given(b, &claim), format!("{named}/22"));
        println!("a loan of a host that is not seen: {:.1?}", begin.elapsed());
        lent(1);
        given(b, &["free", "x"]);
        lent(0);
    }
    // Slots: more than what b owns and what c has to spare is to be had.
    let before = theirs.addresses;
    let mut api = Api::connect(b).unwrap();
    let mut seen = BTreeSet::new();
    for at in 0..(1_022 * 90 / 100) {
        assert!(seen.insert(api.allocate(&format!("b-{at}")).unwrap()));
    }
    let status = api.ipam().unwrap();
    let theirs = status.owners.iter().find(|owner| owner.name == "a").unwrap();
    assert!(theirs.addresses < before, "{theirs:?} owned {before}");
    let peers = routers[1].status().unwrap().peers;
    assert!(
        peers
            .iter()
            .any(|peer| peer.name == "a" && peer.mesh != LinkState::Up),
        "{peers:?}"
    );
}

/// One host of three fills a range of 1,022 addresses; the others fill a subnet together.
#[test]
fn space_goes_where_it_is_needed() {
    let lab = Lab::new("need").unwrap();
    let (_switch, routers) = lab
        .cluster(&["a", "b", "c"], &["--range", "10.32.0.0/22"], SOON)
        .unwrap();
    own_space(&routers);
    // A subnet, by all of them at once.
    let together = "10.32.1.0/25".parse().unwrap();
    let mut seen = BTreeSet::new();
    let part: Vec<IpAddr> = std::thread::scope(|scope| {
        let each = routers.iter().map(|router| {
            scope.spawn(move || {
                let mut api = Api::connect(router.host()).unwrap();
                let name = router.host().name();
                let ids = (0..40).map(|at| format!("{name}-part-{at}"));
                ids.map(|id| api.allocate_in(&id, None, together).unwrap())
                    .collect::<Vec<_>>()
            })
        });
        let each: Vec<_> = each.collect();
        each.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    for address in part {
        assert!(seen.insert(address), "{address} twice");
    }
    // All the rest, but for 5 %, by one.
    let mut api = Api::connect(routers[1].host()).unwrap();
    let begin = Instant::now();
    for at in 0..(1_022 * 95 / 100 - 120) {
        let address = api.allocate(&format!("b-{at}")).unwrap();
        assert!(seen.insert(address), "{address} twice");
    }
    println!("the rest of the range in {:.1?}", begin.elapsed());
}
