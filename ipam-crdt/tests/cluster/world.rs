//! The world: hosts, their disks, the network between them, and what must always hold.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;
use weft_ipam_crdt::check::Finding;
use weft_ipam_crdt::{
    AddressSpace, AllocError, Allocation, Change, Event, FreezeReason, Held, Input, Ipam, IpamConfig,
    IpamState, Output, PersistToken, RemovalError, Request, RequestId, Role, Wanted,
};
use weft_wire::envelope::{RegisterKey, Stamp};
use weft_wire::ipam::Version;
use weft_wire::record::Genesis;
use weft_wire::{Envelope, NodeId, NodeKey, Time};

pub(crate) struct Host {
    pub(crate) key: NodeKey,
    pub(crate) role: Role,
    /// `None` while it is down.
    pub(crate) ipam: Option<Ipam>,
    disk: IpamState,
    writing: VecDeque<(PersistToken, Vec<Change>)>,
    incarnation: u64,
    versions: u64,
    gossip: BTreeMap<RegisterKey, Envelope>,
    pub(crate) answers: BTreeMap<RequestId, Result<Allocation, AllocError>>,
    pub(crate) removals: BTreeMap<RequestId, Result<(), RemovalError>>,
    /// Addresses that pods were told and that were not freed since.
    pub(crate) told: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Serials in memory and on disk at the last check.
    checked: (u64, u64),
}

enum Arrival {
    Record(Envelope),
    Message(NodeId, Vec<u8>),
    Synced(PersistToken),
}

/// How bad network and disks are.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) loss_percent: u64,
    pub(crate) double_percent: u64,
    pub(crate) delay_max_ms: u64,
    pub(crate) sync_max_ms: u64,
}

pub(crate) const GOOD: Faults = Faults {
    loss_percent: 0,
    double_percent: 0,
    delay_max_ms: 2,
    sync_max_ms: 1,
};
pub(crate) const BAD: Faults = Faults {
    loss_percent: 10,
    double_percent: 10,
    delay_max_ms: 80,
    sync_max_ms: 8,
};

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) faults: Faults,
    /// Hosts reach those of their own side only.
    pub(crate) sides: Vec<u64>,
    genesis: Genesis,
    pub(crate) space: AddressSpace,
    expected: u32,
    queue: BTreeMap<(Time, u64), (usize, u64, Arrival)>,
    count: u64,
    requests: u64,
    entropy_due: Time,
    owners: BTreeMap<(u32, Version), NodeId>,
    /// Every event of every host, for stories that look for one.
    pub(crate) events: Vec<(usize, Event)>,
    pub(crate) conflicts_expected: bool,
    pub(crate) steps: u64,
    /// Messages that left their hosts.
    pub(crate) sent: u64,
}

const ENTROPY_INTERVAL: Duration = Duration::from_millis(200);

impl World {
    /// `hosts` hosts of which the first has founded the cluster.
    pub(crate) fn new(seed: u64, range: &str, hosts: usize, expected: u32) -> Self {
        let keys: Vec<NodeKey> = (0..hosts)
            .map(|i| NodeKey::from_seed([i as u8 + 1; 32]))
            .collect();
        let range = range.parse().unwrap();
        let space = AddressSpace::of_range(range).unwrap();
        let genesis = Genesis {
            founders: vec![keys[0].id()],
            nonce: [7; 16],
            range,
            slot_size: space.slot_size(),
        };
        let disk = IpamState::genesis(&genesis).unwrap();
        let host = |key: NodeKey| Host {
            key,
            role: Role::Owner,
            ipam: None,
            disk: disk.clone(),
            writing: VecDeque::new(),
            incarnation: 0,
            versions: 0,
            gossip: BTreeMap::new(),
            answers: BTreeMap::new(),
            removals: BTreeMap::new(),
            told: BTreeMap::new(),
            checked: (0, 0),
        };
        Self {
            now: Time::ZERO,
            hosts: keys.into_iter().map(host).collect(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            faults: GOOD,
            sides: vec![0; hosts],
            genesis,
            space,
            expected,
            queue: BTreeMap::new(),
            count: 0,
            requests: 0,
            entropy_due: Time::ZERO,
            owners: BTreeMap::new(),
            events: Vec::new(),
            conflicts_expected: false,
            steps: 0,
            sent: 0,
        }
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound.max(1)
    }

    pub(crate) fn id(&self, host: usize) -> NodeId {
        self.hosts[host].key.id()
    }

    pub(crate) fn start(&mut self, host: usize) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let members: Vec<NodeId> = (0..self.hosts.len()).map(|i| self.id(i)).collect();
        let h = &mut self.hosts[host];
        assert!(h.ipam.is_none());
        h.incarnation += 1;
        // What a store gives back has been octets.
        let durable = IpamState::decode(&h.disk.encode(), &self.genesis).unwrap();
        assert_eq!(durable, h.disk, "the state does not survive its encoding");
        let told = h.told.iter();
        for (id, address) in told.flat_map(|(id, all)| all.iter().map(move |address| (id, address))) {
            let offset = self.space.offset(*address).unwrap();
            let held = durable.addresses().get(&offset);
            assert!(
                matches!(held, Some(Held::Pod(other) | Held::Borrowed { id: other, .. }) if other == id),
                "host {host} told {id} {address} and found {held:?} after a restart"
            );
        }
        let config = IpamConfig {
            node: h.key.id(),
            key: h.key.clone(),
            space: self.space,
            genesis: self.genesis.clone(),
            incarnation: h.incarnation,
            durable,
            expected: self.expected,
            role: h.role,
            seed,
        };
        h.ipam = Some(Ipam::new(config, self.now).unwrap());
        h.versions = 0;
        h.checked = (0, 0);
        self.give(host, Input::MembersChanged(members));
    }

    /// The host dies: what was written may or may not be on the disk, what was synced is.
    pub(crate) fn crash(&mut self, host: usize) {
        let kept = self.below(self.hosts[host].writing.len() as u64 + 1);
        for _ in 0..kept {
            self.write_next(host);
        }
        let h = &mut self.hosts[host];
        h.ipam = None;
        h.gossip.clear();
        h.writing.clear();
        h.answers.clear();
    }

    /// The oldest write reaches the disk. No version of a slot has two owners on any disk: a grant that was only in memory
    /// when its host died has never left it, and its version may be signed again.
    fn write_next(&mut self, host: usize) {
        let Some((_, changes)) = self.hosts[host].writing.pop_front() else {
            return;
        };
        for change in &changes {
            self.hosts[host].disk.apply(change);
            let Change::Slots { run, owner, .. } = change else {
                continue;
            };
            for slot in run.slots().filter(|_| !self.conflicts_expected) {
                let first = *self.owners.entry((slot, run.version)).or_insert(*owner);
                assert_eq!(first, *owner, "two owners of slot {slot} at {:?}", run.version);
            }
        }
    }

    pub(crate) fn allocate(&mut self, host: usize, id: &str) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.give(
            host,
            Input::Request(Request::Allocate {
                id: id.into(),
                request,
            }),
        );
        request
    }

    pub(crate) fn claim(&mut self, host: usize, id: &str, address: &str) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.give(
            host,
            Input::Request(Request::Claim {
                id: id.into(),
                address: address.parse().unwrap(),
                request,
            }),
        );
        request
    }

    /// Any address, or this one, of a subnet, soon enough.
    pub(crate) fn allocate_in(
        &mut self,
        host: usize,
        id: &str,
        (address, subnet): (Option<&str>, Option<&str>),
        within: Option<Duration>,
    ) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        let wanted = Wanted {
            address: address.map(|text| text.parse().unwrap()),
            subnet: subnet.map(|text| text.parse().unwrap()),
        };
        let id = id.into();
        self.give(
            host,
            Input::Request(Request::AllocateIn {
                id,
                wanted,
                within,
                request,
            }),
        );
        request
    }

    /// The answer to a request, which must be there; the address with its prefix, or the sentence.
    pub(crate) fn answer(&self, host: usize, request: RequestId) -> Result<String, String> {
        let answer = self.hosts[host]
            .answers
            .get(&request)
            .expect("there is an answer");
        let answer = answer.as_ref();
        answer.map(|a| a.address.to_string()).map_err(ToString::to_string)
    }

    /// Nobody waits for the answer any longer.
    pub(crate) fn cancel(&mut self, host: usize, request: RequestId) {
        self.give(host, Input::Request(Request::Cancel(request)));
    }

    /// Somebody on a host wants others removed.
    pub(crate) fn remove(&mut self, host: usize, others: &[usize], fenced: bool) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        let hosts = others.iter().map(|other| self.id(*other)).collect();
        self.give(
            host,
            Input::Request(Request::Remove {
                hosts,
                fenced,
                request,
            }),
        );
        request
    }

    /// Somebody on a host wants others to stay after all.
    pub(crate) fn keep(&mut self, host: usize, others: &[usize]) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let hosts = others.iter().map(|other| self.id(*other)).collect();
        self.give(host, Input::Request(Request::Keep { hosts, request }));
    }

    /// Hosts that were removed, as far as any host knows.
    pub(crate) fn removed(&self) -> BTreeSet<NodeId> {
        let all = (0..self.hosts.len()).map(|host| self.state(host));
        all.flat_map(|state| state.gone().keys().copied()).collect()
    }

    /// A link between two hosts comes up; both learn of it.
    pub(crate) fn link_up(&mut self, a: usize, b: usize) {
        let (id_a, id_b) = (self.id(a), self.id(b));
        self.give(a, Input::PeerUp(id_b));
        self.give(b, Input::PeerUp(id_a));
    }

    pub(crate) fn free(&mut self, host: usize, id: &str) {
        self.requests += 1;
        let request = RequestId(self.requests);
        // From here on nobody may count on the address.
        self.hosts[host].told.remove(id);
        self.give(
            host,
            Input::Request(Request::Free {
                id: id.into(),
                address: None,
                request,
            }),
        );
    }

    pub(crate) fn free_one(&mut self, host: usize, id: &str, address: IpAddr) {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.hosts[host].told.get_mut(id).unwrap().remove(&address);
        self.give(
            host,
            Input::Request(Request::Free {
                id: id.into(),
                address: Some(address),
                request,
            }),
        );
    }

    /// Slots that a host owns.
    pub(crate) fn owned(&self, host: usize) -> u32 {
        let runs = self.state(host).table().runs_of(&self.id(host));
        runs.iter().map(|run| run.count).sum()
    }

    pub(crate) fn give(&mut self, host: usize, input: Input) {
        let now = self.now;
        if let Some(ipam) = &mut self.hosts[host].ipam {
            ipam.handle(now, input);
            self.carry_out(host);
        }
    }

    fn carry_out(&mut self, host: usize) {
        self.steps += 1;
        while let Some(output) = self.hosts[host].ipam.as_mut().and_then(Ipam::poll_output) {
            match output {
                Output::Answer { request, result } => {
                    if let Ok(allocation) = &result {
                        let Allocation { id, address, .. } = allocation;
                        let told = self.hosts[host].told.entry(id.clone()).or_default();
                        told.insert(address.addr());
                    }
                    self.hosts[host].answers.insert(request, result);
                }
                Output::Freed { .. } => {}
                Output::Removal { request, result } => {
                    self.hosts[host].removals.insert(request, result);
                }
                Output::Persist { token, changes } => {
                    let delay = self.below(self.faults.sync_max_ms * 1_000 + 1);
                    self.hosts[host].writing.push_back((token, changes));
                    self.schedule(host, Duration::from_micros(delay), Arrival::Synced(token));
                }
                Output::Publish { kind, body } => {
                    let h = &mut self.hosts[host];
                    h.versions += 1;
                    let stamp = Stamp {
                        incarnation: h.incarnation,
                        version: h.versions,
                    };
                    let envelope = Envelope::sign(&h.key, kind, h.key.id(), stamp, &body).unwrap();
                    h.gossip.insert(envelope.key(), envelope.clone());
                    for other in 0..self.hosts.len() {
                        self.transmit(host, other, || Arrival::Record(envelope.clone()));
                    }
                }
                Output::Send { to, bytes } => {
                    self.sent += 1;
                    let from = self.id(host);
                    let to = (0..self.hosts.len()).find(|i| self.id(*i) == to).unwrap();
                    self.transmit(host, to, || Arrival::Message(from, bytes.clone()));
                }
                Output::Event(event) => {
                    let is_bad = match &event {
                        Event::Frozen(reason) => *reason != FreezeReason::Removed,
                        Event::Conflict { .. } | Event::Misbehaved { .. } | Event::Split { .. } => true,
                        _ => false,
                    };
                    assert!(!is_bad || self.conflicts_expected, "host {host}: {event:?}");
                    self.events.push((host, event));
                }
            }
        }
        self.check(host);
    }

    fn transmit(&mut self, from: usize, to: usize, what: impl Fn() -> Arrival) {
        if from == to || self.sides[from] != self.sides[to] || self.below(100) < self.faults.loss_percent {
            return;
        }
        let copies = 1 + u64::from(self.below(100) < self.faults.double_percent);
        for _ in 0..copies {
            let delay = 200 + self.below(self.faults.delay_max_ms * 1_000 + 1);
            self.schedule(to, Duration::from_micros(delay), what());
        }
    }

    fn schedule(&mut self, host: usize, after: Duration, event: Arrival) {
        self.count += 1;
        let incarnation = self.hosts[host].incarnation;
        self.queue
            .insert((self.now + after, self.count), (host, incarnation, event));
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let timeouts = self.hosts.iter().filter_map(|h| h.ipam.as_ref()?.poll_timeout());
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = timeouts.chain(queued).chain([self.entropy_due]).min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if self.now >= self.entropy_due {
                self.entropy_due = self.now + ENTROPY_INTERVAL;
                self.anti_entropy();
            }
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (host, incarnation, event) = entry.remove();
                self.deliver(host, incarnation, event);
            }
            for host in 0..self.hosts.len() {
                let due = self.hosts[host].ipam.as_ref().and_then(Ipam::poll_timeout);
                if due.is_some_and(|due| due <= self.now) {
                    self.give(host, Input::Tick);
                    let again = self.hosts[host].ipam.as_ref().and_then(Ipam::poll_timeout);
                    assert!(
                        again.is_none_or(|again| again > self.now),
                        "host {host} asks for the same time again"
                    );
                }
            }
        }
    }

    fn deliver(&mut self, host: usize, incarnation: u64, event: Arrival) {
        if self.hosts[host].ipam.is_none() {
            return;
        }
        match event {
            Arrival::Record(envelope) => {
                let held = self.hosts[host].gossip.get(&envelope.key());
                if held.is_none_or(|held| held.join_order(&envelope).is_lt()) {
                    self.hosts[host].gossip.insert(envelope.key(), envelope.clone());
                    self.give(host, Input::Record(envelope));
                }
            }
            Arrival::Message(from, bytes) => self.give(host, Input::Message { from, bytes }),
            Arrival::Synced(token) => {
                if incarnation != self.hosts[host].incarnation {
                    return;
                }
                // A sync covers everything written before.
                while self.hosts[host]
                    .writing
                    .front()
                    .is_some_and(|(other, _)| *other <= token)
                {
                    self.write_next(host);
                }
                self.give(host, Input::Persisted(token));
            }
        }
    }

    fn anti_entropy(&mut self) {
        let hosts = self.hosts.len() as u64;
        let (a, b) = (self.below(hosts) as usize, self.below(hosts) as usize);
        if self.hosts[a].ipam.is_none() || self.hosts[b].ipam.is_none() {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            for envelope in self.hosts[from].gossip.values().cloned().collect::<Vec<_>>() {
                let held = self.hosts[to].gossip.get(&envelope.key());
                if held.is_none_or(|held| held.join_order(&envelope).is_lt()) {
                    self.transmit(from, to, || Arrival::Record(envelope.clone()));
                }
            }
        }
    }

    /// The machine of a host that is up.
    pub(crate) fn ipam(&self, host: usize) -> &Ipam {
        self.hosts[host].ipam.as_ref().expect("the host is up")
    }

    pub(crate) fn state(&self, host: usize) -> &IpamState {
        let h = &self.hosts[host];
        h.ipam.as_ref().map_or(&h.disk, Ipam::state)
    }

    /// Changes the state on the disk of a host that is down, as no machine would.
    pub(crate) fn spoil(&mut self, host: usize, change: &Change) {
        assert!(self.hosts[host].ipam.is_none());
        self.hosts[host].disk.apply(change);
    }

    /// What a host finds in a check.
    pub(crate) fn findings(&self, host: usize) -> Vec<Finding> {
        let gone = self.state(host).gone();
        let records = self.hosts[host].gossip.values();
        // The mesh keeps no records of those.
        let records = records.filter(|envelope| !gone.contains_key(&envelope.key().owner));
        self.ipam(host).check(records)
    }

    /// What must hold after every step.
    fn check(&mut self, host: usize) {
        let serials = (self.state(host).serial(), self.hosts[host].disk.serial());
        if serials == std::mem::replace(&mut self.hosts[host].checked, serials) || self.conflicts_expected {
            return;
        }
        // No address is held for two pods, on disk or in memory, of one host or of two.
        let is_pod = |held: &Held| matches!(held, Held::Pod(_) | Held::Borrowed { .. });
        // A removed host that lives on keeps its pods' addresses; the others are members of one epoch.
        let removed = self.removed();
        if removed.contains(&self.id(host)) {
            return;
        }
        let own = self.state(host).addresses();
        let others = (0..self.hosts.len()).filter(|other| *other != host);
        for other in others.filter(|other| !removed.contains(&self.id(*other))) {
            let theirs = self.state(other).addresses();
            let (few, many) = if own.len() < theirs.len() {
                (own, theirs)
            } else {
                (theirs, own)
            };
            for (offset, _) in few.iter().filter(|(_, held)| is_pod(held)) {
                assert!(
                    !many.get(offset).is_some_and(is_pod),
                    "address {offset} on host {host} and host {other}"
                );
            }
            for told in self.hosts[other].told.values().flatten() {
                let offset = self.space.offset(*told).unwrap();
                assert!(
                    !own.get(&offset).is_some_and(is_pod),
                    "{told} was given out on host {host} and is told on host {other}"
                );
            }
        }
    }

    /// True when every running host that was not removed holds the same registers.
    pub(crate) fn is_converged(&self) -> bool {
        let removed = self.removed();
        let members = self.hosts.iter().filter(|h| !removed.contains(&h.key.id()));
        let up: Vec<&IpamState> = members.filter_map(|h| Some(h.ipam.as_ref()?.state())).collect();
        up.windows(2)
            .all(|pair| pair[0].table() == pair[1].table() && pair[0].epoch() == pair[1].epoch())
    }

    pub(crate) fn offset(&self, address: IpAddr) -> u32 {
        self.space.offset(address).expect("an address of the range")
    }

    pub(crate) fn genesis_id(&self) -> weft_wire::GenesisId {
        self.genesis.id()
    }

    /// A host publishes what its machine did not say.
    pub(crate) fn lie(&mut self, host: usize, kind: weft_wire::envelope::KindNumber, body: Vec<u8>) {
        let h = &mut self.hosts[host];
        h.versions += 1;
        let stamp = Stamp {
            incarnation: h.incarnation,
            version: h.versions,
        };
        let envelope = Envelope::sign(&h.key, kind, h.key.id(), stamp, &body).unwrap();
        for other in 0..self.hosts.len() {
            self.transmit(host, other, || Arrival::Record(envelope.clone()));
        }
    }

    /// A copy of a disk.
    pub(crate) fn disk(&self, host: usize) -> IpamState {
        self.hosts[host].disk.clone()
    }

    /// Puts a copy in place of a disk.
    pub(crate) fn set_disk(&mut self, host: usize, disk: IpamState) {
        self.hosts[host].disk = disk;
    }

    pub(crate) fn told(&self) -> BTreeSet<IpAddr> {
        self.hosts
            .iter()
            .flat_map(|h| h.told.values().flatten().copied())
            .collect()
    }
}
