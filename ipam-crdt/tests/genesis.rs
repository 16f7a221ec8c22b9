//! Hosts that are started together agree on one genesis, whatever is lost and whoever dies on the way.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use weft_ipam_crdt::genesis::{
    Agreement, AgreementConfig, AgreementInput, AgreementOutput, AgreementState, Charter, Difference,
    Expected, Progress, Terms, Waits,
};
use weft_wire::{NodeId, NodeKey, Time};

const STEP: Duration = Duration::from_millis(5);
/// Steps with faults, then steps without.
const WILD: u64 = 3_000;
const CALM: u64 = 3_000;

struct Host {
    id: NodeId,
    name: String,
    terms: Terms,
    machine: Option<Agreement>,
    disk: AgreementState,
    /// States on their way to the disk.
    writes: Vec<(Time, u64, AgreementState)>,
    decided: Option<Charter>,
    differing: Vec<(String, Difference)>,
}

/// A message on a link: the number of the link, from whom, to whom, what.
type Flying = (u64, usize, usize, Vec<u8>);

struct World {
    now: Time,
    rng: ChaCha20Rng,
    seed: u64,
    hosts: Vec<Host>,
    /// Links that stand, by their ends, the lower first; each has a number of its own.
    links: BTreeMap<(usize, usize), u64>,
    /// Pairs that never reach each other.
    apart: BTreeSet<(usize, usize)>,
    queue: BTreeMap<(Time, u64), Flying>,
    last: BTreeMap<(u64, usize), Time>,
    count: u64,
    wild: bool,
}

fn terms(expected: Expected) -> Terms {
    Terms {
        expected,
        range: "10.32.0.0/24".parse().unwrap(),
        slot_size: 1,
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    fn new(seed: u64, all: Vec<Terms>) -> Self {
        let host = |(at, terms)| Host {
            id: NodeKey::from_seed([at as u8 + 1; 32]).id(),
            name: format!("host{at}"),
            terms,
            machine: None,
            disk: AgreementState::default(),
            writes: vec![],
            decided: None,
            differing: vec![],
        };
        Self {
            now: Time::ZERO,
            rng: ChaCha20Rng::seed_from_u64(seed),
            seed,
            hosts: all.into_iter().enumerate().map(host).collect(),
            links: BTreeMap::new(),
            apart: BTreeSet::new(),
            queue: BTreeMap::new(),
            last: BTreeMap::new(),
            count: 0,
            wild: false,
        }
    }

    fn alike(seed: u64, hosts: usize, expected: Expected) -> Self {
        Self::new(seed, vec![terms(expected); hosts])
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.rng.next_u64().is_multiple_of(one_in)
    }

    fn start(&mut self, at: usize) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let host = &mut self.hosts[at];
        host.machine = Some(Agreement::new(AgreementConfig {
            node: host.id,
            name: host.name.clone(),
            terms: host.terms.clone(),
            durable: host.disk.clone(),
            seed,
        }));
        self.give(at, AgreementInput::Tick);
    }

    fn start_all(&mut self) {
        (0..self.hosts.len()).for_each(|at| self.start(at));
    }

    fn kill(&mut self, at: usize) {
        self.hosts[at].machine = None;
        self.hosts[at].writes.clear();
        for other in 0..self.hosts.len() {
            self.unlink(at, other);
        }
    }

    /// The disk is lost: the next start is another host's.
    fn lose(&mut self, at: usize) {
        self.kill(at);
        let number = self.hosts.len() as u64 + self.rng.next_u64() % 100;
        let host = &mut self.hosts[at];
        host.id = NodeKey::from_seed([number as u8 + 100; 32]).id();
        host.disk = AgreementState::default();
        host.decided = None;
    }

    fn link(&mut self, a: usize, b: usize) {
        let is_possible = a != b
            && self.hosts[a].machine.is_some()
            && self.hosts[b].machine.is_some()
            && !self.apart.contains(&pair(a, b));
        if !is_possible || self.links.contains_key(&pair(a, b)) {
            return;
        }
        self.count += 1;
        self.links.insert(pair(a, b), self.count);
        for (at, other) in [(a, b), (b, a)] {
            let (node, name) = (self.hosts[other].id, self.hosts[other].name.clone());
            self.give(at, AgreementInput::Heard { node, name });
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        if self.links.remove(&pair(a, b)).is_some() {
            for (at, other) in [(a, b), (b, a)] {
                self.give(at, AgreementInput::Lost(self.hosts[other].id));
            }
        }
    }

    fn give(&mut self, at: usize, input: AgreementInput) {
        let now = self.now;
        let Some(machine) = &mut self.hosts[at].machine else {
            return;
        };
        machine.handle(now, input);
        while let Some(output) = self.hosts[at].machine.as_mut().and_then(Agreement::poll_output) {
            match output {
                AgreementOutput::Send { to, bytes } => self.send(at, to, bytes),
                AgreementOutput::Persist { token, state } => {
                    let delay = Duration::from_millis(self.rng.next_u64() % 30);
                    self.hosts[at].writes.push((now + delay, token, *state));
                }
                AgreementOutput::Decided(charter) => self.decided(at, charter),
                AgreementOutput::Differs { name, what } => self.hosts[at].differing.push((name, what)),
            }
        }
    }

    fn decided(&mut self, at: usize, charter: Charter) {
        let (seed, host) = (self.seed, &mut self.hosts[at]);
        assert_eq!(
            host.disk.decided.as_ref(),
            Some(&charter),
            "seed {seed}: not durable"
        );
        assert!(charter.genesis.is_founder(&host.id), "seed {seed}");
        let before = host.decided.replace(charter.clone());
        assert!(
            before.is_none_or(|before| before == charter),
            "seed {seed}: a host changed its mind"
        );
    }

    fn send(&mut self, at: usize, to: NodeId, bytes: Vec<u8>) {
        let Some(to) = self.hosts.iter().position(|host| host.id == to) else {
            return;
        };
        let Some(link) = self.links.get(&pair(at, to)).copied() else {
            return;
        };
        let delay = Duration::from_millis(1 + self.rng.next_u64() % 40);
        // Nothing overtakes on a link.
        let last = self.last.entry((link, at)).or_insert(Time::ZERO);
        *last = (*last).max(self.now + delay);
        self.count += 1;
        self.queue.insert((*last, self.count), (link, at, to, bytes));
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        for at in 0..self.hosts.len() {
            if self.wild && self.hosts[at].machine.is_none() && self.chance(60) {
                self.start(at);
            } else if self.wild && self.chance(400) {
                self.kill(at);
            }
            for other in 0..at {
                if self.chance(20) {
                    self.link(at, other);
                } else if self.wild && self.chance(200) {
                    self.unlink(at, other);
                }
            }
        }
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (link, at, to, bytes) = entry.remove();
            // What is under way is lost with its link.
            if self.links.get(&pair(at, to)) == Some(&link) {
                let from = self.hosts[at].id;
                self.give(to, AgreementInput::Message { from, bytes });
            }
        }
        for at in 0..self.hosts.len() {
            let due = |(time, ..): &(Time, u64, AgreementState)| *time <= self.now;
            if let Some(last) = self.hosts[at].writes.iter().rposition(due) {
                let (_, token, state) = self.hosts[at].writes.drain(..=last).next_back().unwrap();
                self.hosts[at].disk = state;
                self.give(at, AgreementInput::Persisted(token));
            }
            let due = self.hosts[at].machine.as_ref().and_then(Agreement::poll_timeout);
            if due.is_some_and(|due| due <= self.now) {
                self.give(at, AgreementInput::Tick);
            }
        }
    }

    fn run(&mut self, steps: u64) {
        (0..steps).for_each(|_| self.step());
    }

    fn progress(&self, at: usize) -> Progress {
        self.hosts[at].machine.as_ref().unwrap().progress()
    }

    /// What each host decided.
    fn charters(&self) -> Vec<Option<Charter>> {
        self.hosts.iter().map(|host| host.decided.clone()).collect()
    }

    fn assert_one_of(&self, founders: &[usize]) {
        let charters = self.charters();
        let first = charters[founders[0]]
            .clone()
            .unwrap_or_else(|| panic!("seed {}: no decision", self.seed));
        let ids: BTreeSet<NodeId> = founders.iter().map(|at| self.hosts[*at].id).collect();
        assert_eq!(first.genesis.founders, ids.into_iter().collect::<Vec<_>>());
        for (at, charter) in charters.into_iter().enumerate() {
            let expected = founders.contains(&at).then(|| first.clone());
            assert_eq!(charter, expected, "seed {}: host {at}", self.seed);
        }
    }
}

#[test]
fn all_expected_hosts_decide_the_same() {
    for (seed, hosts) in (0..60).zip([1usize, 2, 3, 5].into_iter().cycle()) {
        let mut world = World::alike(seed, hosts, Expected::Count(hosts as u32));
        if seed >= 8 {
            world.wild = true;
            world.run(WILD);
            world.wild = false;
        }
        for at in 0..hosts {
            if world.hosts[at].machine.is_none() {
                world.start(at);
            }
        }
        world.run(CALM);
        world.assert_one_of(&(0..hosts).collect::<Vec<_>>());
    }
}

#[test]
fn nobody_decides_before_all_expected_are_there_and_then_they_do() {
    let mut world = World::alike(1, 3, Expected::Count(3));
    world.start(0);
    world.start(1);
    world.run(1_000);
    assert!(world.charters().iter().all(Option::is_none));
    let progress = world.progress(0);
    assert_eq!((progress.expected, progress.there.len()), (3, 2));
    assert_eq!(progress.waits, Waits::Hosts(vec![]));
    assert!(
        world
            .hosts
            .iter()
            .all(|host| host.disk == AgreementState::default())
    );
    world.start(2);
    world.run(600);
    world.assert_one_of(&[0, 1, 2]);
}

#[test]
fn hosts_that_only_reach_one_of_them_decide_all_the_same() {
    let mut world = World::alike(1, 5, Expected::Count(5));
    world.apart = (1..5).flat_map(|a| (1..a).map(move |b| pair(a, b))).collect();
    world.start_all();
    world.run(1_200);
    world.assert_one_of(&[0, 1, 2, 3, 4]);
}

#[test]
fn a_host_beyond_those_expected_waits() {
    let mut world = World::alike(1, 4, Expected::Count(3));
    world.start_all();
    world.run(1_000);
    let outside: Vec<usize> = (0..4).filter(|at| world.hosts[*at].decided.is_none()).collect();
    assert_eq!(outside.len(), 1);
    assert_eq!(world.progress(outside[0]).waits, Waits::Others);
    let inside: Vec<usize> = (0..4).filter(|at| !outside.contains(at)).collect();
    world.assert_one_of(&inside);
}

#[test]
fn seeds_decide_and_nobody_else() {
    let seeds = Expected::named(["host2", "host0", "host3"].map(String::from));
    let mut world = World::alike(1, 4, seeds);
    for at in 0..3 {
        world.start(at);
    }
    world.run(800);
    assert_eq!(world.progress(0).waits, Waits::Hosts(vec!["host3".into()]));
    assert_eq!(world.progress(0).there, ["host0", "host2"], "host1 is not listed");
    world.start(3);
    world.run(800);
    world.assert_one_of(&[0, 2, 3]);
}

#[test]
fn two_hosts_of_one_nickname_are_named_and_nothing_is_decided() {
    let seeds = Expected::named(["host0", "host1"].map(String::from));
    let mut world = World::alike(1, 3, seeds);
    world.hosts[2].name = "host1".into();
    world.start_all();
    world.run(800);
    assert!(world.charters().iter().all(Option::is_none));
    assert_eq!(world.progress(0).waits, Waits::Names("host1".into()));
    world.kill(2);
    world.run(800);
    world.assert_one_of(&[0, 1]);
}

#[test]
fn who_was_told_something_else_is_named_on_both_sides_and_does_not_count() {
    let mut other_range = terms(Expected::Count(2));
    other_range.range = "10.64.0.0/24".parse().unwrap();
    for (theirs, words) in [
        (terms(Expected::Count(3)), "start all of them with the same"),
        (
            terms(Expected::named(["host0", "host1"].map(String::from))),
            "--seed host0,host1",
        ),
        (other_range, "same --range"),
    ] {
        let mut world = World::new(1, vec![terms(Expected::Count(2)), theirs]);
        world.start_all();
        world.run(800);
        assert!(world.charters().iter().all(Option::is_none));
        let sentences: Vec<String> = (0..2)
            .map(|at| {
                let [(name, what)] = &world.hosts[at].differing[..] else {
                    panic!("{:?}", world.hosts[at].differing)
                };
                assert_eq!(name, &format!("host{}", 1 - at));
                assert_eq!(world.progress(at).differing, [(name.clone(), what.clone())]);
                what.to_string()
            })
            .collect();
        assert!(
            sentences[0].contains(words) || sentences[1].contains(words),
            "{sentences:?}"
        );
        // Started again as the other was: the sentence is gone.
        world.kill(1);
        world.hosts[1].terms = world.hosts[0].terms.clone();
        world.start(1);
        world.run(800);
        world.assert_one_of(&[0, 1]);
    }
}

#[test]
fn a_host_that_lost_its_disk_in_the_middle_is_outside_and_the_others_go_on() {
    for seed in 0..20 {
        let mut world = World::alike(seed, 3, Expected::Count(3));
        world.start_all();
        let is_bound = |world: &World| {
            let mut hosts = world.hosts.iter();
            hosts.position(|host| !host.disk.set.is_empty() && host.disk.decided.is_none())
        };
        while is_bound(&world).is_none() {
            world.step();
        }
        // The first that is bound is alone with that; the others have heard of it or not.
        world.run(seed % 12);
        let victim = (seed % 3) as usize;
        let was_bound = world
            .hosts
            .iter()
            .filter(|host| !host.disk.set.is_empty())
            .count();
        world.lose(victim);
        world.run(100);
        world.start(victim);
        world.run(2_000);
        let founders: BTreeSet<Vec<NodeId>> = world
            .charters()
            .into_iter()
            .flatten()
            .map(|charter| charter.genesis.founders)
            .collect();
        assert_eq!(founders.len(), 1, "seed {seed}: {was_bound} were bound");
        let old: Vec<usize> = (0..3).filter(|at| *at != victim).collect();
        assert!(
            old.iter().all(|at| world.hosts[*at].decided.is_some()),
            "seed {seed}: those that kept their disks decide"
        );
    }
}

#[test]
fn a_set_that_has_lost_its_majority_says_which_hosts_and_waits() {
    let mut world = World::alike(3, 3, Expected::Count(3));
    world.start_all();
    while world.hosts.iter().all(|host| host.disk.set.is_empty()) {
        world.step();
    }
    let bound = world
        .hosts
        .iter()
        .position(|host| !host.disk.set.is_empty())
        .unwrap();
    let lost: Vec<usize> = (0..3).filter(|at| *at != bound).collect();
    let ids: BTreeSet<NodeId> = lost.iter().map(|at| world.hosts[*at].id).collect();
    for at in &lost {
        world.lose(*at);
        world.start(*at);
    }
    world.run(1_000);
    assert!(world.charters().iter().all(Option::is_none));
    let Waits::Majority(absent) = world.progress(bound).waits else {
        panic!("{:?}", world.progress(bound))
    };
    assert_eq!(absent.into_iter().collect::<BTreeSet<_>>(), ids);
    assert_eq!(world.progress(lost[0]).waits, Waits::Others);
    let writes = world.hosts[bound].disk.promised;
    world.run(1_000);
    assert_eq!(
        world.hosts[bound].disk.promised, writes,
        "it does not wear out its disk"
    );
    // As the sentence says: its state directory is removed.
    world.lose(bound);
    world.start(bound);
    world.run(1_000);
    world.assert_one_of(&[0, 1, 2]);
}

/// One of three, which hears the two others say these octets.
fn deaf_disk(words: &[(usize, Vec<u8>)]) -> (Vec<AgreementOutput>, Agreement) {
    let ids: Vec<NodeId> = (1..4).map(|seed| NodeKey::from_seed([seed; 32]).id()).collect();
    let mut machine = Agreement::new(AgreementConfig {
        node: ids[0],
        name: "a".into(),
        terms: terms(Expected::Count(3)),
        durable: AgreementState::default(),
        seed: [1; 32],
    });
    let mut outputs = Vec::new();
    let mut now = Time::ZERO;
    let mut inputs: Vec<AgreementInput> = ids[1..]
        .iter()
        .map(|node| AgreementInput::Heard {
            node: *node,
            name: "b".into(),
        })
        .collect();
    inputs.extend(words.iter().map(|(from, bytes)| AgreementInput::Message {
        from: ids[1 + from % 2],
        bytes: bytes.clone(),
    }));
    for input in inputs {
        now = now + STEP;
        machine.handle(now, input);
        outputs.extend(std::iter::from_fn(|| machine.poll_output()));
    }
    (outputs, machine)
}

proptest! {
    #[test]
    fn no_octets_make_it_panic_or_decide(
        words in proptest::collection::vec((0..2usize, proptest::collection::vec(any::<u8>(), 0..96)), 0..40)
    ) {
        let (outputs, _) = deaf_disk(&words);
        prop_assert!(!outputs.iter().any(|output| matches!(output, AgreementOutput::Decided(_))));
    }
}

#[test]
fn nothing_that_depends_on_a_write_leaves_before_it_is_durable() {
    // What two others say in a run that goes well, told to a host whose disk never answers.
    let mut world = World::alike(1, 3, Expected::Count(3));
    let node = world.hosts[0].id;
    world.start_all();
    let mut said = Vec::new();
    while world.charters().iter().any(Option::is_none) {
        world.step();
        let to_first = world.queue.values().filter(|(_, _, to, _)| *to == 0);
        for (_, from, _, bytes) in to_first {
            if !said.contains(&(from - 1, bytes.clone())) {
                said.push((from - 1, bytes.clone()));
            }
        }
    }
    assert_eq!(node, NodeKey::from_seed([1; 32]).id());
    let (outputs, machine) = deaf_disk(&said);
    let has_persist = outputs
        .iter()
        .any(|output| matches!(output, AgreementOutput::Persist { .. }));
    assert!(has_persist, "it was asked to take part");
    // Its terms, to both, from before anything was to be written.
    let sent: Vec<&AgreementOutput> = outputs
        .iter()
        .filter(|output| matches!(output, AgreementOutput::Send { .. }))
        .collect();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(
        !outputs
            .iter()
            .any(|output| matches!(output, AgreementOutput::Decided(_)))
    );
    assert!(machine.progress().there.len() <= 3);
}

/// Gives a machine an input, with a disk that takes no time; what it says, and to whom.
fn say(machine: &mut Agreement, now: Time, input: AgreementInput) -> Vec<(NodeId, Vec<u8>)> {
    machine.handle(now, input);
    let mut said = Vec::new();
    while let Some(output) = machine.poll_output() {
        match output {
            AgreementOutput::Send { to, bytes } => said.push((to, bytes)),
            AgreementOutput::Persist { token, .. } => machine.handle(now, AgreementInput::Persisted(token)),
            AgreementOutput::Decided(_) | AgreementOutput::Differs { .. } => {}
        }
    }
    said
}

#[test]
fn hosts_that_begin_around_a_ring_leave_their_sets_and_decide() {
    let mut ids: Vec<NodeId> = (1..4).map(|at| NodeKey::from_seed([at; 32]).id()).collect();
    ids.sort();
    let mut machines: Vec<Agreement> = (0..3u8)
        .map(|at| {
            Agreement::new(AgreementConfig {
                node: ids[usize::from(at)],
                name: format!("host{at}"),
                terms: terms(Expected::Count(2)),
                durable: AgreementState::default(),
                seed: [at; 32],
            })
        })
        .collect();
    let mut now = Time::ZERO;
    let mut late: VecDeque<(usize, usize, Vec<u8>)> = VecDeque::new();
    let place = |id: &NodeId| ids.iter().position(|other| other == id).unwrap();
    // All meet, and each has heard the terms of one other only when it begins.
    for (host, machine) in machines.iter_mut().enumerate() {
        for other in (0..3).filter(|other| *other != host) {
            let (node, name) = (ids[other], format!("host{other}"));
            let said = say(machine, now, AgreementInput::Heard { node, name });
            late.extend(said.into_iter().map(|(to, bytes)| (host, place(&to), bytes)));
        }
    }
    let is_early = |(from, to, _): &(usize, usize, Vec<u8>)| *from == (to + 1) % 3;
    for (from, to, bytes) in late
        .iter()
        .filter(|word| is_early(word))
        .cloned()
        .collect::<Vec<_>>()
    {
        let from = ids[from];
        assert!(say(&mut machines[to], now, AgreementInput::Message { from, bytes }).is_empty());
    }
    late.retain(|word| !is_early(word));
    for (host, machine) in machines.iter_mut().enumerate() {
        now = now.max(machine.poll_timeout().unwrap());
        let said = say(machine, now, AgreementInput::Tick);
        late.extend(said.into_iter().map(|(to, bytes)| (host, place(&to), bytes)));
    }
    let sets: BTreeSet<Vec<NodeId>> = machines
        .iter()
        .map(|machine| machine.state().set.clone())
        .collect();
    assert_eq!(sets.len(), 3, "each has begun with another one");

    let decided = |machines: &[Agreement]| -> Vec<Charter> {
        machines
            .iter()
            .filter_map(|machine| machine.state().decided.clone())
            .collect()
    };
    for _ in 0..100 {
        while let Some((from, to, bytes)) = late.pop_front() {
            let from = ids[from];
            let said = say(&mut machines[to], now, AgreementInput::Message { from, bytes });
            late.extend(said.into_iter().map(|(next, bytes)| (to, place(&next), bytes)));
        }
        if decided(&machines).len() == 2 {
            break;
        }
        now = machines
            .iter()
            .filter_map(Agreement::poll_timeout)
            .min()
            .unwrap()
            .max(now);
        for (host, machine) in machines.iter_mut().enumerate() {
            let said = say(machine, now, AgreementInput::Tick);
            late.extend(said.into_iter().map(|(to, bytes)| (host, place(&to), bytes)));
        }
    }
    let decided = decided(&machines);
    assert_eq!(decided.len(), 2);
    assert_eq!(decided[0], decided[1]);
}
