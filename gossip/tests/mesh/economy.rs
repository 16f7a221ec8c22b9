//! Nothing is done twice: one dial a pair, and on a link only the records in which two hosts differ.

use crate::net::{Net, token};
use std::time::Duration;
use weft_gossip::Input;
use weft_wire::envelope::KindNumber;

const SECOND: Duration = Duration::from_secs(1);

/// Members that know each other from their disks and are about to start.
fn stopped(seed: u64, hosts: usize) -> Net {
    let mut net = Net::new(seed);
    net.add_founder(1, Some(token(1)), &[]);
    for _ in 1..hosts {
        net.add(Some(token(1)), &[0]);
    }
    net.start_all();
    net.run(10 * SECOND);
    for host in 0..hosts {
        net.kill(host);
        net.hosts[host].targets.clear();
        net.hosts[host].dials = 0;
    }
    net.run(SECOND);
    net
}

#[test]
fn members_that_start_together_dial_each_pair_once() {
    for seed in 0..20 {
        let mut net = stopped(seed, 6);
        net.start_all();
        net.run(3 * SECOND);
        for a in 0..6 {
            for b in 0..6 {
                assert!(a == b || net.linked(a, b), "seed {seed}: {a} and {b}");
            }
        }
        let dials: u64 = net.hosts.iter().map(|host| host.dials).sum();
        assert_eq!(dials, 15, "seed {seed}");
    }
}

#[test]
fn where_the_lower_id_cannot_dial_the_higher_does_it_soon() {
    let mut net = Net::new(1);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    let higher = usize::from(net.id(1) > net.id(0));
    net.hosts[higher].hidden = true;
    net.start_all();
    net.run(10 * SECOND);
    for host in [0, 1] {
        net.kill(host);
        net.hosts[host].targets.clear();
    }
    net.run(SECOND);
    net.start_all();
    let start = net.now;
    net.run_until(SECOND, "the higher id dials", |net| net.linked(0, 1));
    assert!(net.now.since(start) >= weft_gossip::dial::YIELD);
}

#[test]
fn a_link_that_comes_back_carries_only_what_changed() {
    let mut net = Net::new(2);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.start_all();
    net.run(10 * SECOND);
    for host in [0, 1] {
        for kind in 0..4 {
            let (kind, body) = (KindNumber(1_000 + kind), vec![host as u8; 4_000]);
            net.give(host, Input::SetRecord { kind, body });
        }
    }
    net.run(10 * SECOND);
    assert!(net.agree(&[0, 1]));
    net.hosts[1].silent = true;
    net.run(6 * SECOND);
    assert!(!net.linked(0, 1));
    let (kind, body) = (KindNumber(1_000), vec![7; 100]);
    net.give(0, Input::SetRecord { kind, body });
    net.hosts[1].silent = false;
    let octets = |net: &Net| net.hosts.iter().map(|host| host.sent_octets).sum::<u64>();
    let before = octets(&net);
    net.run(10 * SECOND);
    assert!(net.linked(0, 1) && net.agree(&[0, 1]));
    let sent = octets(&net) - before;
    // Both hold 32,000 octets in eight records; one of them is another now.
    assert!(sent < 10_000, "{sent} octets for one record of 100");
}
