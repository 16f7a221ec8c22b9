//! Stories of those who want addresses: subnets, several for one pod, and space that others have.

use crate::world::World;
use std::net::IpAddr;
use std::time::Duration;
use weft_ipam_crdt::ipam::ASK_TIMEOUT;
use weft_ipam_crdt::{ADDRESSES_MAX, DEADLINE_MAX, Held, Lookup, RequestId, Role, WaitReason};
use weft_wire::ipam::LENT_MAX;

const SECOND: Duration = Duration::from_secs(1);

/// Hosts that have found each other and own their parts of the range.
fn started(range: &str, hosts: usize, expected: u32) -> World {
    let mut world = World::new(1, range, hosts, expected);
    for host in 0..hosts {
        world.start(host);
    }
    world.run(8 * SECOND);
    for host in 0..hosts {
        assert!(world.owned(host) > 0, "host {host} owns nothing");
    }
    world
}

/// Each of these requests has an address.
fn all_have_one(world: &World, requests: &[(usize, RequestId)]) {
    let failed: Vec<_> = requests
        .iter()
        .filter_map(|(host, request)| {
            let answer = world.hosts[*host].answers.get(request);
            match answer {
                Some(Ok(_)) => None,
                Some(Err(error)) => Some(format!("host {host}: {error}")),
                None => Some(format!("host {host}: no answer yet")),
            }
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:#?}",
        failed.len(),
        requests.len()
    );
}

#[test]
fn one_question_has_one_answer_whatever_else_the_pod_gets() {
    let mut world = started("10.32.0.0/16", 2, 2);
    // Host 1 owns the upper half: what it gives by itself lies above the subnet.
    let ask = |world: &mut World, what| {
        let request = world.allocate_in(1, "pod", what, None);
        world.run(SECOND);
        world.answer(1, request).unwrap()
    };
    let any = ask(&mut world, (None, None));
    let part = ask(&mut world, (None, Some("10.32.7.0/24")));
    let named = ask(&mut world, (Some("10.32.7.200"), Some("10.32.7.0/24")));
    let other = ask(&mut world, (None, Some("10.32.8.0/22")));
    assert!(any.ends_with("/16") && part.starts_with("10.32.7.") && part.ends_with("/24"));
    assert_eq!(named, "10.32.7.200/24");
    assert!(other.ends_with("/22"), "{other}");
    let bare = |text: &str| text.split('/').next().unwrap().parse::<IpAddr>().unwrap();
    let all = [&any, &part, &named, &other].map(|text| bare(text));
    for round in 0..2 {
        assert_eq!(world.ipam(1).addresses_of("pod"), all, "round {round}");
        assert_eq!(ask(&mut world, (None, None)), any);
        assert_eq!(ask(&mut world, (None, Some("10.32.7.0/24"))), part);
        assert_eq!(
            ask(&mut world, (Some("10.32.7.200"), Some("10.32.7.0/24"))),
            named
        );
        assert_eq!(ask(&mut world, (None, Some("10.32.8.0/22"))), other);
        world.crash(1);
        world.start(1);
        world.run(2 * SECOND);
    }
    // One is given back, then all.
    world.free_one(1, "pod", bare(&part));
    world.run(SECOND);
    assert_eq!(world.ipam(1).addresses_of("pod"), [all[0], all[2], all[3]]);
    assert_eq!(ask(&mut world, (None, Some("10.32.7.0/24"))), named);
    world.free(1, "pod");
    world.run(SECOND);
    assert!(world.ipam(1).addresses_of("pod").is_empty());
}

#[test]
fn a_pod_has_a_bounded_number_of_addresses() {
    let mut world = World::new(1, "10.32.0.0/24", 1, 1);
    world.start(0);
    let ask = |world: &mut World, at: usize| {
        let address = format!("10.32.0.{at}");
        let request = world.allocate_in(0, "pod", (Some(&address), None), None);
        world.run(Duration::from_millis(10));
        world.answer(0, request)
    };
    for at in 1..=ADDRESSES_MAX {
        ask(&mut world, at).unwrap();
    }
    let refused = ask(&mut world, ADDRESSES_MAX + 1).unwrap_err();
    assert!(refused.contains("free one first"), "{refused}");
    ask(&mut world, 1).unwrap();
}

#[test]
fn bad_questions_are_answered_with_the_cure() {
    let mut world = World::new(1, "10.32.0.0/24", 1, 1);
    world.start(0);
    for (what, within, words) in [
        ((None, Some("10.32.1.0/24")), None, "outside the cluster's range"),
        ((None, Some("10.32.0.0/16")), None, "larger than"),
        ((None, Some("10.32.0.9/28")), None, "did you mean 10.32.0.0/28"),
        ((None, Some("10.32.0.9/32")), None, "too small"),
        (
            (Some("10.32.0.16"), Some("10.32.0.16/28")),
            None,
            "network address",
        ),
        (
            (Some("10.32.0.31"), Some("10.32.0.16/28")),
            None,
            "broadcast address",
        ),
        ((Some("10.32.0.9"), Some("10.32.0.16/28")), None, "not in subnet"),
        ((None, None), Some(DEADLINE_MAX + SECOND), "60 s at most"),
    ] {
        let request = world.allocate_in(0, "pod", what, within);
        world.run(Duration::from_millis(10));
        let refused = world.answer(0, request).unwrap_err();
        assert!(refused.contains(words), "{what:?}: {refused}");
    }
    assert!(world.state(0).addresses().is_empty());
}

#[test]
fn a_deadline_is_kept_and_its_answer_names_who_did_not_answer() {
    let mut world = started("10.32.0.0/24", 2, 2);
    let theirs = Lookup::Host(world.id(0));
    let mut all = (1..255).map(|at| IpAddr::from([10, 32, 0, at]));
    let address = all
        .find(|address| world.ipam(1).lookup(*address) == theirs)
        .unwrap();
    world.sides = vec![0, 1];
    let text = address.to_string();
    let at_once = world.allocate_in(1, "now", (Some(&text), None), Some(Duration::ZERO));
    let soon = world.allocate_in(1, "soon", (Some(&text), None), Some(2 * SECOND));
    world.run(Duration::from_millis(10));
    assert!(world.answer(1, at_once).is_err());
    assert!(!world.hosts[1].answers.contains_key(&soon));
    world.run(ASK_TIMEOUT);
    let founder = world.id(0);
    assert_eq!(
        world.ipam(1).waiting().collect::<Vec<_>>(),
        [("soon", WaitReason::Silent(founder))]
    );
    world.run(SECOND);
    let refused = world.answer(1, soon).unwrap_err();
    assert!(
        refused.contains("within 2s") && refused.contains("does not answer"),
        "{refused}"
    );
    // All of a subnet can be theirs, too.
    let part = world.allocate_in(1, "part", (None, Some("10.32.0.0/28")), Some(2 * SECOND));
    world.run(3 * SECOND);
    let refused = world.answer(1, part).unwrap_err();
    assert!(refused.contains(&founder.to_string()), "{refused}");
}

/// One host of five takes almost all.
#[test]
fn one_host_fills_almost_the_whole_range_of_five() {
    let mut world = started("10.32.0.0/20", 5, 5);
    let requests: Vec<_> = (0..4_094 * 95 / 100)
        .map(|at| {
            // In bursts, as pods come.
            if at % 40 == 0 {
                world.run(Duration::from_millis(100));
            }
            (2, world.allocate(2, &format!("pod-{at}")))
        })
        .collect();
    world.run(12 * SECOND);
    all_have_one(&world, &requests);
}

/// The hosts of `world` fill a subnet to 95 %, all at once.
fn fill_together(world: &mut World, subnet: &str, usable: usize) {
    let hosts = world.hosts.len();
    let requests: Vec<_> = (0..usable * 95 / 100)
        .map(|at| {
            let host = at % hosts;
            (
                host,
                world.allocate_in(host, &format!("pod-{at}"), (None, Some(subnet)), None),
            )
        })
        .collect();
    world.run(12 * SECOND);
    all_have_one(world, &requests);
    let pods: usize = (0..hosts)
        .map(|host| world.state(host).addresses().values())
        .map(|held| {
            held.filter(|held| matches!(held, Held::Pod(_) | Held::Borrowed { .. }))
                .count()
        })
        .sum();
    assert_eq!(pods, requests.len());
}

#[test]
fn forty_hosts_fill_one_subnet_whose_slots_are_fewer_than_they() {
    let mut world = started("10.32.0.0/12", 40, 40);
    fill_together(&mut world, "10.32.7.0/24", 254);
    // Every slot of it has moved to somebody who needed it; only the rest is borrowed.
    let slots = 0x700 / 16..0x800 / 16;
    let owners: std::collections::BTreeSet<_> = slots
        .map(|slot| world.state(0).table().get(slot).unwrap().owner)
        .collect();
    assert!(owners.len() >= 8, "{} owners", owners.len());
}

#[test]
fn forty_hosts_fill_one_subnet_address_by_address() {
    let mut world = started("10.32.0.0/16", 40, 40);
    fill_together(&mut world, "10.32.7.0/24", 254);
}

#[test]
fn twenty_hosts_fill_a_range_of_254() {
    let mut world = started("10.32.0.0/24", 20, 1);
    fill_together(&mut world, "10.32.0.0/24", 254);
}

#[test]
fn one_of_twenty_hosts_fills_a_range_of_254() {
    let mut world = started("10.32.0.0/24", 20, 20);
    let requests: Vec<_> = (0..254 * 95 / 100)
        .map(|at| {
            world.run(Duration::from_millis(5));
            (7, world.allocate(7, &format!("pod-{at}")))
        })
        .collect();
    world.run(12 * SECOND);
    all_have_one(&world, &requests);
}

#[test]
fn an_address_in_a_slot_that_another_host_uses_is_lent() {
    let mut world = started("10.32.0.0/12", 3, 3);
    let first = world.allocate(0, "theirs");
    world.run(SECOND);
    assert_eq!(world.answer(0, first).unwrap(), "10.32.0.1/12");
    let named = world.allocate_in(2, "ours", (Some("10.32.0.9"), Some("10.32.0.0/24")), None);
    world.run(Duration::from_millis(100));
    assert_eq!(world.answer(2, named).unwrap(), "10.32.0.9/24");
    assert_eq!(world.state(0).table().get(0).unwrap().owner, world.id(0));
    for host in [0, 1] {
        let found = world.ipam(host).lookup("10.32.0.9".parse().unwrap());
        assert_eq!(found, Lookup::Host(world.id(2)), "on host {host}");
    }
}

/// More named addresses than one host may lend: then their slots move.
#[test]
fn more_named_addresses_than_a_host_lends() {
    let mut world = started("10.32.0.0/21", 2, 2);
    let theirs = Lookup::Host(world.id(0));
    let all = (0..2_048u32).map(|at| IpAddr::from((0x0a20_0000 + at).to_be_bytes()));
    let theirs: Vec<IpAddr> = all
        .filter(|address| world.ipam(1).lookup(*address) == theirs)
        .skip(1)
        .step_by(2)
        .take(LENT_MAX + 60)
        .collect();
    let requests: Vec<_> = (theirs.iter().enumerate())
        .map(|(at, address)| {
            world.run(Duration::from_millis(2));
            (1, world.claim(1, &format!("pod-{at}"), &address.to_string()))
        })
        .collect();
    world.run(12 * SECOND);
    all_have_one(&world, &requests);
    let held = |host: usize, is: fn(&Held) -> bool| {
        let held = world.state(host).addresses().values();
        held.filter(|held| is(held)).count()
    };
    assert_eq!(held(0, |held| matches!(held, Held::Lent { .. })), LENT_MAX);
    assert_eq!(held(1, |held| matches!(held, Held::Pod(_))), 60);
}

#[test]
fn an_observer_borrows_in_a_subnet() {
    let mut world = World::new(1, "10.32.0.0/16", 3, 1);
    world.hosts[2].role = Role::Observer;
    for host in 0..3 {
        world.start(host);
    }
    world.run(5 * SECOND);
    for subnet in ["10.32.3.0/24", "10.32.240.0/24"] {
        let request = world.allocate_in(2, "pod", (None, Some(subnet)), None);
        world.run(SECOND);
        let answer = world.hosts[2].answers[&request].clone().unwrap();
        assert!(answer.lender.is_some() && answer.address.to_string().ends_with("/24"));
    }
}
