//! Random histories.

use crate::world::{BAD, GOOD, World};
use std::collections::BTreeSet;
use std::time::Duration;
use weft_ipam_crdt::Role;

const SECOND: Duration = Duration::from_secs(1);

fn history(seed: u64) -> World {
    let range = if seed.is_multiple_of(4) {
        "10.32.0.0/24"
    } else {
        "10.32.0.0/26"
    };
    let hosts = 3 + (seed % 3) as usize;
    let mut world = World::new(seed, range, hosts, 1);
    if seed % 5 == 3 {
        world.hosts[hosts - 1].role = Role::Observer;
    }
    world.faults = BAD;
    for host in 0..hosts {
        world.start(host);
        let pause = world.below(500);
        world.run(Duration::from_millis(pause));
    }
    let mut pods = 0;
    for _ in 0..120 {
        let pause = world.below(250);
        world.run(Duration::from_millis(pause));
        let host = world.below(hosts as u64) as usize;
        match world.below(100) {
            0..55 => {
                pods += 1;
                world.allocate(host, &format!("pod-{pods}"));
            }
            55..62 => {
                pods += 1;
                let address = format!("10.32.0.{}", 1 + world.below(62));
                world.claim(host, &format!("pod-{pods}"), &address);
            }
            62..82 => {
                let ids: Vec<String> = world.hosts[host].told.keys().cloned().collect();
                if !ids.is_empty() && world.hosts[host].ipam.is_some() {
                    let at = world.below(ids.len() as u64) as usize;
                    world.free(host, &ids[at]);
                }
            }
            82..91 => {
                if world.hosts[host].ipam.is_some() {
                    world.crash(host);
                } else {
                    world.start(host);
                }
            }
            91..96 => {
                for at in 0..hosts {
                    world.sides[at] = world.below(2);
                }
            }
            _ => world.sides = vec![0; hosts],
        }
    }
    // All is well again.
    world.sides = vec![0; hosts];
    world.faults = GOOD;
    for host in 0..hosts {
        if world.hosts[host].ipam.is_none() {
            world.start(host);
        }
    }
    world.run(40 * SECOND);
    world
}

#[test]
fn no_history_gives_an_address_twice() {
    for seed in 0..200 {
        let seed_shown = std::panic::AssertUnwindSafe(seed);
        let world = std::panic::catch_unwind(|| history(*seed_shown));
        let world = world.unwrap_or_else(|_| panic!("seed {seed}"));
        assert!(
            world.is_converged(),
            "seed {seed}: the hosts disagree after the heal"
        );
    }
}

/// A history in which hosts are removed as well: dead ones that somebody vouches for, and others that may be cut off,
/// down for a while, or well. Two at least stay.
fn history_with_removals(seed: u64) -> World {
    let range = if seed.is_multiple_of(3) {
        "10.32.0.0/24"
    } else {
        "10.32.0.0/26"
    };
    let hosts = 4 + (seed % 3) as usize;
    let mut world = World::new(seed, range, hosts, 1 + seed as u32 % 4);
    if seed % 5 == 3 {
        world.hosts[hosts - 1].role = Role::Observer;
    }
    world.faults = BAD;
    for host in 0..hosts {
        world.start(host);
        let pause = world.below(700);
        world.run(Duration::from_millis(pause));
    }
    let mut pods = 0;
    // Off for good, and never started again.
    let mut off = vec![false; hosts];
    let mut named = BTreeSet::new();
    for _ in 0..140 {
        let pause = world.below(300);
        world.run(Duration::from_millis(pause));
        let host = world.below(hosts as u64) as usize;
        match world.below(100) {
            0..45 => {
                pods += 1;
                world.allocate(host, &format!("pod-{pods}"));
            }
            45..52 => {
                pods += 1;
                let address = format!("10.32.0.{}", 1 + world.below(62));
                world.claim(host, &format!("pod-{pods}"), &address);
            }
            52..70 => {
                let ids: Vec<String> = world.hosts[host].told.keys().cloned().collect();
                if !ids.is_empty() && world.hosts[host].ipam.is_some() {
                    let at = world.below(ids.len() as u64) as usize;
                    world.free(host, &ids[at]);
                }
            }
            70..82 => {
                if world.hosts[host].ipam.is_some() {
                    world.crash(host);
                } else if !off[host] {
                    world.start(host);
                }
            }
            82..88 => {
                for at in 0..hosts {
                    world.sides[at] = world.below(2);
                }
            }
            88..93 => world.sides = vec![0; hosts],
            _ => {
                let target = world.below(hosts as u64) as usize;
                // Whoever asks is a member, so that one is left to vote.
                let is_member = world.state(host).members().contains(&world.id(host));
                let is_up = world.hosts[host].ipam.is_some() && is_member;
                let is_new = !named.contains(&target);
                if target == host || !is_up || (is_new && named.len() + 3 > hosts) {
                    continue;
                }
                named.insert(target);
                // A vouch may leave so few that a majority was among those that are off, of which nobody left can know.
                let members = world.state(host).members();
                let left = members.iter().filter(|node| {
                    let at = (0..hosts).find(|at| world.id(*at) == **node).unwrap();
                    at != target && !off[at]
                });
                let is_enough = left.count() * 2 >= members.len();
                let fenced = world.below(2) == 0 && is_enough;
                if fenced {
                    if world.hosts[target].ipam.is_some() {
                        world.crash(target);
                    }
                    off[target] = true;
                }
                world.remove(host, &[target], fenced);
            }
        }
    }
    // All is well again; who had asked for a removal asks again.
    world.sides = vec![0; hosts];
    world.faults = GOOD;
    for (host, is_off) in off.iter().enumerate() {
        if world.hosts[host].ipam.is_none() && !is_off {
            world.start(host);
        }
    }
    world.run(20 * SECOND);
    for target in named {
        let asker = (0..hosts).find(|host| {
            let is_up = world.hosts[*host].ipam.is_some();
            is_up
                && world.state(*host).members().contains(&world.id(*host))
                && *host != target
                && !world.removed().contains(&world.id(*host))
        });
        world.remove(asker.expect("a member stays"), &[target], off[target]);
        world.run(20 * SECOND);
    }
    world.run(40 * SECOND);
    world
}

#[test]
fn no_history_with_removals_gives_an_address_twice() {
    let mut removed = 0;
    for seed in 0..200 {
        let seed_shown = std::panic::AssertUnwindSafe(seed);
        let world = std::panic::catch_unwind(|| history_with_removals(*seed_shown));
        let world = world.unwrap_or_else(|_| panic!("seed {seed}"));
        assert!(
            world.is_converged(),
            "seed {seed}: the hosts disagree after the heal"
        );
        removed += world.removed().len();
        for host in 0..world.hosts.len() {
            let Some(ipam) = &world.hosts[host].ipam else {
                continue;
            };
            if world.removed().contains(&world.id(host)) {
                assert!(
                    ipam.is_removed(),
                    "seed {seed}: host {host} does not know that it was removed"
                );
                continue;
            }
            assert_eq!(ipam.removals(), [], "seed {seed}: host {host}");
            for (run, owner, is_frozen) in ipam.state().table().all_runs() {
                let is_owned = ipam.state().members().contains(&owner) && !is_frozen;
                assert!(is_owned, "seed {seed}: {run:?} belongs to {owner}");
            }
        }
    }
    assert!(removed > 200, "{removed} hosts were removed");
}

#[test]
fn one_seed_gives_one_history() {
    let (a, b) = (history(5), history(5));
    assert_eq!((a.steps, a.now, a.told()), (b.steps, b.now, b.told()));
    assert_eq!(a.events.len(), b.events.len());
}
