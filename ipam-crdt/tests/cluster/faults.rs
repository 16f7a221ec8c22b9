//! Random histories.

use crate::world::{BAD, GOOD, World};
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

#[test]
fn one_seed_gives_one_history() {
    let (a, b) = (history(5), history(5));
    assert_eq!((a.steps, a.now, a.told()), (b.steps, b.now, b.told()));
    assert_eq!(a.events.len(), b.events.len());
}
