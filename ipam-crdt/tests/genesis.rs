//! Hosts that are started together agree on one genesis, whatever is lost and whoever dies on the way.

#![allow(clippy::unwrap_used)]

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;
use weft_ipam_crdt::genesis::{Agreement, AgreementInput, AgreementOutput, AgreementState};
use weft_wire::record::Genesis;
use weft_wire::{NodeId, NodeKey, Time};

struct Host {
    id: NodeId,
    machine: Option<Agreement>,
    disk: AgreementState,
    writes: Vec<(u64, AgreementState)>,
    decided: Option<Genesis>,
}

fn own(id: NodeId) -> Genesis {
    Genesis {
        founder: id,
        nonce: [0; 16],
        range: "10.32.0.0/24".parse().unwrap(),
        slot_size: 1,
    }
}

/// Runs `hosts` hosts that expect `expected`; gives back what each decided.
fn run(seed: u64, hosts: usize, expected: u32, with_faults: bool) -> Vec<Option<Genesis>> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut world: Vec<Host> = (0..hosts)
        .map(|i| {
            let id = NodeKey::from_seed([i as u8 + 1; 32]).id();
            Host {
                id,
                machine: None,
                disk: AgreementState::default(),
                writes: vec![],
                decided: None,
            }
        })
        .collect();
    let ids: Vec<NodeId> = world.iter().map(|host| host.id).collect();
    let mut queue: BTreeMap<(Time, u64), (usize, NodeId, Vec<u8>)> = BTreeMap::new();
    let mut count = 0;
    for step in 0..8_000u64 {
        let now = Time::from_start(Duration::from_millis(step * 5));
        let is_calm = !with_faults || step > 4_000;
        for at in 0..hosts {
            if world[at].machine.is_none() && (is_calm || rng.next_u64() % 60 == 0) {
                let disk = world[at].disk.clone();
                let mut machine = Agreement::new(own(ids[at]), expected, disk, [seed as u8; 32]);
                for id in &ids {
                    machine.handle(now, AgreementInput::Heard(*id));
                }
                world[at].machine = Some(machine);
            } else if !is_calm && rng.next_u64() % 400 == 0 {
                world[at].machine = None;
                world[at].writes.clear();
            }
        }
        let mut inputs: Vec<(usize, AgreementInput)> = Vec::new();
        while let Some(entry) = queue.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to, from, bytes) = entry.remove();
            inputs.push((to, AgreementInput::Message { from, bytes }));
        }
        for (at, host) in world.iter_mut().enumerate() {
            if let Some((token, state)) = host.writes.pop() {
                host.writes.clear();
                host.disk = state;
                inputs.push((at, AgreementInput::Persisted(token)));
            }
            if host
                .machine
                .as_ref()
                .is_some_and(|m| m.poll_timeout().is_some_and(|due| due <= now))
            {
                inputs.push((at, AgreementInput::Tick));
            }
        }
        for (at, input) in inputs {
            if let Some(machine) = &mut world[at].machine {
                machine.handle(now, input);
            }
        }
        for at in 0..hosts {
            while let Some(output) = world[at].machine.as_mut().and_then(Agreement::poll_output) {
                match output {
                    AgreementOutput::Send { to, bytes } => {
                        let to = ids.iter().position(|id| *id == to).unwrap();
                        let copies = if is_calm { 1 } else { rng.next_u64() % 3 };
                        for _ in 0..copies {
                            count += 1;
                            let delay = Duration::from_millis(1 + rng.next_u64() % 40);
                            queue.insert((now + delay, count), (to, ids[at], bytes.clone()));
                        }
                    }
                    AgreementOutput::Persist { token, state } => world[at].writes.push((token, state)),
                    AgreementOutput::Decided(genesis) => {
                        let before = world[at].decided.replace(genesis.clone());
                        assert!(
                            before.is_none_or(|before| before == genesis),
                            "seed {seed}: a host changed its mind"
                        );
                    }
                }
            }
        }
    }
    world.into_iter().map(|host| host.decided).collect()
}

#[test]
fn all_expected_hosts_decide_the_same() {
    for (seed, hosts) in (0..60).zip([1usize, 2, 3, 5].into_iter().cycle()) {
        let decided = run(seed, hosts, hosts as u32, seed >= 8);
        assert!(
            decided.iter().all(Option::is_some),
            "seed {seed}: {hosts} hosts, not all decided"
        );
        assert!(
            decided.windows(2).all(|pair| pair[0] == pair[1]),
            "seed {seed}: two geneses"
        );
    }
}

#[test]
fn nobody_decides_before_all_expected_are_there() {
    assert!(run(1, 2, 3, false).iter().all(Option::is_none));
}

#[test]
fn a_host_beyond_those_expected_waits() {
    let decided = run(1, 4, 3, false);
    assert_eq!(decided.iter().filter(|genesis| genesis.is_some()).count(), 3);
    let some: Vec<_> = decided.into_iter().flatten().collect();
    assert!(some.windows(2).all(|pair| pair[0] == pair[1]));
}
