//! Two address machines with disks that crash, on a network that loses, repeats and reorders, beside a hostile
//! member of the same cluster.

use crate::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;
use weft_ipam_crdt::message::{AskId, Message, Refusal, Wish};
use weft_ipam_crdt::{
    AddressSpace, Change, Held, Input, Ipam, IpamConfig, IpamState, Output, PersistToken, Request, RequestId,
    Role, Span, WAITING_MAX,
};
use weft_wire::envelope::{KindNumber, RegisterKey, Stamp};
use weft_wire::ipam::{
    Accepted, Ballot, Epoch, Exception, ExceptionsRecord, Grant, LentRecord, Loan, Proposal, SlotRun,
    SlotsRecord, Version, VoteRecord, vote_message,
};
use weft_wire::reclaim::{Proof, Reclaim, ReclaimRecord, reclaim_message};
use weft_wire::record::{Body, Genesis};
use weft_wire::{Envelope, GenesisId, Mac, NodeId, NodeKey, Time, codec};

/// The two honest hosts; the third is the hostile member.
const HONEST: usize = 2;
/// What is on its way at once.
const MAIL_MAX: usize = 128;
/// More outputs than any one input may cause in so small a range.
const OUTPUTS_MAX: usize = 4_096;

/// The hosts' keys: making one costs as much as a signature.
static KEYS: LazyLock<[NodeKey; 4]> = LazyLock::new(|| [1, 2, 3, 4].map(|n| NodeKey::from_seed([n; 32])));

fn key(host: usize) -> &'static NodeKey {
    &KEYS[host]
}

/// A vote of `key` for the first epoch, which adds `added`.
pub(crate) fn vote(key: &NodeKey, added: NodeId) -> VoteRecord {
    let genesis = GenesisId([3; 32]);
    let ballot = Ballot {
        round: 1,
        proposer: key.id(),
    };
    let epoch = Epoch {
        number: 1,
        parent: genesis.0,
        added: vec![added],
        removed: Vec::new(),
        reclaimer: None,
        fenced: false,
    };
    VoteRecord {
        number: 1,
        parent: genesis.0,
        wants: false,
        wishes: Vec::new(),
        promised: Some(ballot),
        accepted: Some(Accepted {
            ballot,
            off: Vec::new(),
            epoch: epoch.clone(),
            signature: key.sign(&vote_message(&genesis, &ballot, &[], &epoch)).into(),
        }),
        proposal: Some(Proposal {
            ballot,
            off: Vec::new(),
            value: Some(epoch),
        }),
    }
}

enum Mail {
    Record(Envelope),
    Message(NodeId, Vec<u8>),
}

struct Host {
    ipam: Ipam,
    disk: IpamState,
    writing: VecDeque<(PersistToken, Vec<Change>)>,
    incarnation: u64,
    versions: u64,
    gossip: BTreeMap<RegisterKey, Envelope>,
    asked: BTreeSet<RequestId>,
    /// Which address was ever on disk for which pod; it may have been freed again since.
    written: BTreeSet<(u32, String)>,
}

struct World {
    now: Time,
    genesis: Genesis,
    space: AddressSpace,
    hosts: Vec<Host>,
    mail: VecDeque<(usize, Mail)>,
    /// Version of the hostile member's records.
    versions: u64,
    requests: u64,
    /// Slots that the hostile member owned at some time: what it says of them may spoil them, and nothing else.
    spoiled: BTreeSet<u32>,
    /// Questions and grants that the honest hosts sent it.
    heard: Vec<Message>,
}

impl World {
    fn new(data: &mut Bytes<'_>) -> Self {
        let founder = data.below(HONEST + 1);
        let range = ["10.32.0.0/26", "fd00::/121"][data.below(2)];
        let range = range.parse().expect("it is one");
        let space = AddressSpace::of_range(range).expect("it is large enough");
        let genesis = Genesis {
            founders: vec![key(founder).id()],
            nonce: [7; 16],
            range,
            slot_size: space.slot_size(),
        };
        let disk = IpamState::genesis(&genesis).expect("the range is good");
        let hosts = (0..HONEST).map(|host| Host {
            ipam: start(host, 1, &genesis, &disk, Time::ZERO),
            disk: disk.clone(),
            writing: VecDeque::new(),
            incarnation: 1,
            versions: 0,
            gossip: BTreeMap::new(),
            asked: BTreeSet::new(),
            written: BTreeSet::new(),
        });
        let mut world = Self {
            now: Time::ZERO,
            space,
            hosts: hosts.collect(),
            genesis,
            mail: VecDeque::new(),
            versions: 0,
            requests: 0,
            spoiled: BTreeSet::new(),
            heard: Vec::new(),
        };
        for host in 0..HONEST {
            world.give(host, Input::MembersChanged(members(3)));
        }
        world
    }

    fn give(&mut self, host: usize, input: Input) {
        let now = self.now;
        self.hosts[host].ipam.handle(now, input);
        let mut outputs = 0;
        while let Some(output) = self.hosts[host].ipam.poll_output() {
            outputs += 1;
            assert!(
                outputs <= OUTPUTS_MAX,
                "one input caused more than {OUTPUTS_MAX} outputs"
            );
            self.carry_out(host, output);
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let host = &mut self.hosts[index];
        match output {
            Output::Answer { request, result } => {
                assert!(host.asked.remove(&request), "an answer without a question");
                if let Ok(allocation) = result {
                    let address = allocation.address.addr();
                    let offset = self.space.offset(address).expect("it is in the range");
                    let is_durable = host.written.contains(&(offset, allocation.id));
                    assert!(is_durable, "{address} was given before it was written");
                    assert!(
                        self.space.for_pod(address).is_ok(),
                        "{address} is no address for a pod"
                    );
                }
            }
            Output::Removal { .. } => {}
            Output::Freed { request, .. } => assert!(host.asked.remove(&request), "freed without a question"),
            Output::Persist { token, changes } => {
                assert!(host.writing.back().is_none_or(|(before, _)| *before < token));
                host.writing.push_back((token, changes));
            }
            Output::Publish { kind, body } => {
                host.versions += 1;
                let stamp = Stamp {
                    incarnation: host.incarnation,
                    version: host.versions,
                };
                let signer = key(index);
                let envelope = Envelope::sign(signer, kind, signer.id(), stamp, &body)
                    .expect("a published body fits a record");
                assert!(
                    reads(&envelope),
                    "others refuse what this host publishes: {envelope:?}"
                );
                self.post(1 - index, Mail::Record(envelope));
            }
            Output::Send { to, bytes } => {
                let message = Message::decode(&bytes).expect("others can read what this host says");
                let from = key(index).id();
                match (0..HONEST).find(|host| key(*host).id() == to) {
                    Some(host) => self.post(host, Mail::Message(from, bytes)),
                    None if self.heard.len() < MAIL_MAX => self.heard.push(message),
                    None => {}
                }
            }
            Output::Event(_) => {}
        }
    }

    fn post(&mut self, to: usize, mail: Mail) {
        if self.mail.len() < MAIL_MAX {
            self.mail.push_back((to, mail));
        }
    }

    fn deliver(&mut self, to: usize, mail: &Mail) {
        match mail {
            Mail::Record(envelope) => {
                let gossip = &mut self.hosts[to].gossip;
                let held = gossip.get(&envelope.key());
                if held.is_none_or(|held| held.join_order(envelope).is_lt()) {
                    gossip.insert(envelope.key(), envelope.clone());
                    self.give(to, Input::Record(envelope.clone()));
                }
            }
            Mail::Message(from, bytes) => self.give(
                to,
                Input::Message {
                    from: *from,
                    bytes: bytes.clone(),
                },
            ),
        }
    }

    /// The disk takes up to so many writes.
    fn sync(&mut self, host: usize, writes: usize) {
        let mut last = None;
        for _ in 0..writes {
            let Some((token, changes)) = self.hosts[host].writing.pop_front() else {
                break;
            };
            for change in &changes {
                self.hosts[host].disk.apply(change);
                if let Change::Address(offset, Some(Held::Pod(id) | Held::Borrowed { id, .. })) = change {
                    self.hosts[host].written.insert((*offset, id.clone()));
                }
            }
            last = Some(token);
        }
        if let Some(token) = last {
            self.give(host, Input::Persisted(token));
        }
    }

    fn crash(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.writing.clear();
        host.asked.clear();
        host.incarnation += 1;
        host.disk = IpamState::decode(&host.disk.encode(), &self.genesis).expect("it was written");
        host.ipam = start(index, host.incarnation, &self.genesis, &host.disk, self.now);
        self.give(index, Input::MembersChanged(members(3)));
        for envelope in self.hosts[index].gossip.values().cloned().collect::<Vec<_>>() {
            self.give(index, Input::Record(envelope));
        }
    }

    fn pass_time(&mut self, step: Duration) {
        self.now = self.now + step;
        for host in 0..HONEST {
            for turn in 0.. {
                let due = self.hosts[host].ipam.poll_timeout();
                if due.is_none_or(|due| due > self.now) {
                    break;
                }
                assert!(
                    turn < 16,
                    "host {host} asks for {due:?} again and again at {:?}",
                    self.now
                );
                self.give(host, Input::Tick);
            }
        }
    }

    fn request(&mut self, host: usize) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.hosts[host].asked.insert(request);
        request
    }

    /// The hostile member publishes something.
    fn publish(&mut self, to: usize, kind: KindNumber, body: &[u8]) {
        self.versions += 1;
        let stamp = Stamp {
            incarnation: 1,
            version: self.versions,
        };
        let liar = key(HONEST);
        if let Ok(envelope) = Envelope::sign(liar, kind, liar.id(), stamp, body) {
            self.deliver(to, &Mail::Record(envelope));
        }
    }

    /// The hostile member says something.
    fn say(&mut self, to: usize, bytes: Vec<u8>) {
        self.deliver(to, &Mail::Message(key(HONEST).id(), bytes));
    }

    /// No two hosts give one address out, unless it was the hostile member's.
    fn check(&mut self) {
        for host in &self.hosts {
            for (run, owner, is_frozen) in host.ipam.state().table().all_runs() {
                if owner == key(HONEST).id() || is_frozen {
                    self.spoiled.extend(run.slots());
                }
            }
            assert!(host.ipam.waiting().count() <= WAITING_MAX);
        }
        let is_pod = |held: &Held| matches!(held, Held::Pod(_) | Held::Borrowed { .. });
        let [a, b] = [0, 1].map(|host| self.hosts[host].ipam.state().addresses());
        for offset in a
            .iter()
            .filter(|(_, held)| is_pod(held))
            .map(|(offset, _)| offset)
        {
            if !self.spoiled.contains(&(offset / self.space.slot_size())) {
                assert!(
                    !b.get(offset).is_some_and(is_pod),
                    "offset {offset} was given twice"
                );
            }
        }
    }
}

fn members(count: usize) -> Vec<NodeId> {
    (0..count).map(|host| key(host).id()).collect()
}

fn start(host: usize, incarnation: u64, genesis: &Genesis, disk: &IpamState, now: Time) -> Ipam {
    let config = IpamConfig {
        node: key(host).id(),
        key: key(host).clone(),
        space: AddressSpace::of_genesis(genesis).expect("the range is good"),
        genesis: genesis.clone(),
        incarnation,
        durable: disk.clone(),
        expected: 1,
        role: Role::Owner,
        seed: [host as u8 + incarnation as u8; 32],
    };
    Ipam::new(config, now).expect("the state is of this cluster")
}

/// True when others can read a record.
fn reads(envelope: &Envelope) -> bool {
    SlotsRecord::from_envelope(envelope).is_ok()
        || LentRecord::from_envelope(envelope).is_ok()
        || VoteRecord::from_envelope(envelope).is_ok()
        || ReclaimRecord::from_envelope(envelope).is_ok()
        || ExceptionsRecord::from_envelope(envelope).is_ok()
}

/// A program: who founded the cluster and its range, then one step after the other.
pub fn machine(data: &[u8]) {
    let mut data = Bytes(data);
    let mut world = World::new(&mut data);
    while !data.is_empty() {
        step(&mut world, &mut data);
        world.check();
    }
    for host in 0..HONEST {
        // Everything that a machine remembers is in its log.
        world.pass_time(Duration::from_secs(5));
        world.sync(host, usize::MAX);
        let Host {
            ipam, disk, writing, ..
        } = &mut world.hosts[host];
        writing
            .iter()
            .flat_map(|(_, changes)| changes)
            .for_each(|change| disk.apply(change));
        assert_eq!(
            IpamState::decode(&disk.encode(), &world.genesis).as_ref(),
            Ok(&*disk)
        );
        assert_eq!(disk.addresses(), ipam.state().addresses());
        assert_eq!(disk.serial(), ipam.state().serial());
    }
}

fn step(world: &mut World, data: &mut Bytes<'_>) {
    let op = data.below(22);
    let host = data.below(HONEST);
    match op {
        0 => {
            let request = world.request(host);
            let id = pod(data);
            world.give(host, Input::Request(Request::Allocate { id, request }));
        }
        1 => {
            let request = world.request(host);
            let (id, address) = (pod(data), address(world, data));
            world.give(host, Input::Request(Request::Claim { id, address, request }));
        }
        2 => {
            let request = world.request(host);
            let id = pod(data);
            let address = data.coin().then(|| address(world, data));
            world.give(host, Input::Request(Request::Free { id, address, request }));
        }
        3 => {
            let asked = world.hosts[host].asked.iter().nth(data.below(4)).copied();
            if let Some(request) = asked {
                // An answer that was under way may still come.
                world.give(host, Input::Request(Request::Cancel(request)));
            }
        }
        4 => {
            let what = exception(world, data);
            let present = data.coin();
            world.give(host, Input::SetException { what, present });
        }
        5..=7 => {
            if let Some((to, mail)) = world.mail.remove(data.below(4)) {
                world.deliver(to, &mail);
            }
        }
        8 => {
            world.mail.remove(data.below(4));
        }
        9 => {
            if let Some((to, mail)) = world.mail.pop_front() {
                world.deliver(to, &mail);
                world.mail.push_back((to, mail));
            }
        }
        10 => world.sync(host, data.below(4) + 1),
        11 => world.crash(host),
        12 => {
            let step = Duration::from_millis(u64::from(data.u16()));
            world.pass_time(step);
        }
        13 => world.give(host, Input::MembersChanged(members(1 + data.below(3)))),
        14 => {
            let kind = KindNumber(16 + u16::from(data.u8() % 6));
            let body = data.short().to_vec();
            world.publish(host, kind, &body);
        }
        15 => {
            let bytes = data.short().to_vec();
            world.say(host, bytes);
        }
        16 => {
            let record = slots_record(world, data);
            world.publish(host, SlotsRecord::KIND, &codec::encode(&record));
        }
        17 => {
            let record = vote_record(world, host, data);
            world.publish(host, VoteRecord::KIND, &codec::encode(&record));
        }
        18 => {
            let record = LentRecord {
                borrowers: vec![key(data.below(HONEST)).id()],
                loans: vec![Loan {
                    offset: data.u32() >> 26,
                    borrower: data.u8() % 2,
                    number: u32::from(data.u8()),
                }],
            };
            world.publish(host, LentRecord::KIND, &codec::encode(&record));
        }
        19 => {
            let message = Message::Grant {
                grant: grant(world, data),
                chain: (0..data.below(3)).map(|_| proof(world, data)).collect(),
            };
            world.say(host, message.encode());
        }
        // It answers what it was asked.
        20 => {
            let at = data.below(8);
            if let Some(heard) = world.heard.get(at).cloned() {
                let answer = answer(world, heard, host, data);
                world.say(host, answer.encode());
            }
        }
        _ => {
            let message = question(data);
            world.say(host, message.encode());
        }
    }
}

fn pod(data: &mut Bytes<'_>) -> String {
    match data.u8() {
        255 => String::new(),
        254 => "x".repeat(weft_ipam_crdt::ID_MAX + 1),
        n => format!("pod-{}", n % 8),
    }
}

fn address(world: &World, data: &mut Bytes<'_>) -> IpAddr {
    let n = data.u8();
    world
        .space
        .address(u32::from(n))
        .unwrap_or_else(|| [10, 32, 0, n].into())
}

fn exception(world: &World, data: &mut Bytes<'_>) -> Exception {
    match data.below(4) {
        0 => Exception::Static(address(world, data)),
        1 => Exception::Claimed(address(world, data)),
        2 => Exception::Virtual(address(world, data)),
        _ => Exception::ForeignMac(Mac([data.u8(); 6])),
    }
}

fn runs(data: &mut Bytes<'_>) -> Vec<SlotRun> {
    let mut first = 0;
    (0..=data.below(3))
        .map(|_| {
            first += u32::from(data.u8() % 64);
            let count = 1 + u32::from(data.u8() % 32);
            let run = SlotRun {
                first,
                count,
                version: Version {
                    epoch: u32::from(data.u8() % 4),
                    seq: u32::from(data.u8() % 4),
                },
            };
            first += count;
            run
        })
        .collect()
}

/// A grant that the hostile member signs, or says that another signed.
fn grant(world: &World, data: &mut Bytes<'_>) -> Grant {
    let to = key(data.below(HONEST + 1)).id();
    let mut grant = Grant::sign(key(HONEST), &world.genesis.id(), to, runs(data));
    if data.u8() == 1 {
        grant.from = key(data.below(HONEST)).id();
    }
    grant
}

/// Mostly a grant; a reclaim, which only the liar has signed.
fn proof(world: &World, data: &mut Bytes<'_>) -> Proof {
    let grant = grant(world, data);
    if grant.runs.iter().any(|run| run.version.seq > 0) {
        return Proof::Grant(grant);
    }
    let (liar, genesis) = (key(HONEST), world.genesis.id());
    let hash = world.hosts[0].ipam.state().epoch_hash();
    let message = reclaim_message(&genesis, &hash, &grant.to, &grant.runs);
    Proof::Reclaim(Reclaim {
        to: grant.to,
        votes: (0..3).map(|at| (at, liar.sign(&message).into())).collect(),
        runs: grant.runs,
    })
}

fn slots_record(world: &World, data: &mut Bytes<'_>) -> SlotsRecord {
    SlotsRecord {
        serial: u64::from(data.u8()),
        epoch: u32::from(data.u8() % 4),
        free_slots: data.u8(),
        free_addresses: data.u8(),
        runs: runs(data),
        given: (0..data.below(3)).map(|_| grant(world, data)).collect(),
        proofs: (0..data.below(3)).map(|_| proof(world, data)).collect(),
    }
}

/// A vote about the epoch that a host is deciding, with the hostile member's good signature.
fn vote_record(world: &World, host: usize, data: &mut Bytes<'_>) -> VoteRecord {
    let state = world.hosts[host].ipam.state();
    let (liar, genesis) = (key(HONEST), world.genesis.id());
    let wants = data.coin();
    let faults = data.u8();
    let ballot = state
        .vote()
        .promised
        .filter(|_| faults & 1 == 0)
        .unwrap_or(Ballot {
            round: u32::from(data.u8()),
            proposer: liar.id(),
        });
    let node = |n: u8| [key(0).id(), key(1).id(), liar.id(), NodeId([n; 32])][usize::from(n) % 4];
    let mut epoch = Epoch {
        number: state.epoch() + 1,
        parent: state.epoch_hash(),
        added: vec![node(data.u8())],
        removed: Vec::new(),
        reclaimer: None,
        fenced: false,
    };
    if faults & 2 != 0 {
        epoch.removed = vec![node(data.u8())];
        epoch.reclaimer = Some(node(data.u8()));
    }
    if faults & 4 != 0 {
        epoch.number = data.u32();
    }
    if faults & 8 != 0
        && let Some((_, _, accepted)) = &state.vote().accepted
    {
        epoch = accepted.clone();
    }
    VoteRecord {
        parent: if faults & 4 != 0 {
            [7; 32]
        } else {
            state.epoch_hash()
        },
        wishes: Vec::new(),
        number: if faults & 16 != 0 {
            data.u32().max(1)
        } else {
            state.epoch() + 1
        },
        wants,
        promised: (faults & 32 != 0).then_some(ballot),
        accepted: (faults & 64 != 0).then(|| Accepted {
            ballot,
            off: Vec::new(),
            epoch: epoch.clone(),
            signature: liar.sign(&vote_message(&genesis, &ballot, &[], &epoch)).into(),
        }),
        proposal: (faults & 128 != 0).then(|| Proposal {
            ballot,
            off: if faults & 8 != 0 { vec![1] } else { Vec::new() },
            value: data.coin().then_some(epoch),
        }),
    }
}

fn ask(data: &mut Bytes<'_>) -> AskId {
    AskId {
        incarnation: u64::from(data.u8()),
        count: u64::from(data.u8()),
    }
}

/// All of the range, and any other.
fn span(data: &mut Bytes<'_>) -> Span {
    match data.coin() {
        true => Span { first: 1, last: 62 },
        false => Span {
            first: data.u32(),
            last: data.u32(),
        },
    }
}

fn question(data: &mut Bytes<'_>) -> Message {
    let (offset, number) = (u32::from(data.u8() % 64), u32::from(data.u8()));
    match data.below(9) {
        0 => Message::AskSpace {
            ask: ask(data),
            need: data.u32(),
            room: data.u32(),
            span: span(data),
        },
        1 => Message::AskLoan {
            ask: ask(data),
            wish: if data.coin() {
                Wish::This(offset)
            } else {
                Wish::In(span(data))
            },
        },
        2 => Message::Lend {
            ask: ask(data),
            offset: if data.coin() { offset } else { data.u32() },
            number,
        },
        3 => Message::Return { offset, number },
        4 => Message::Returned { offset, number },
        5 => Message::AskChain(runs(data)),
        6 => Message::AskEpochs { after: data.u32() },
        7 => Message::Confirm {
            incarnation: data.u64(),
            serial: data.u64(),
        },
        _ => Message::Confirmed {
            of: u64::from(data.u8()),
            incarnation: u64::from(data.u8() % 4),
            serial: u64::from(data.u8()),
        },
    }
}

/// An answer that fits a question.
fn answer(world: &World, heard: Message, to: usize, data: &mut Bytes<'_>) -> Message {
    match heard {
        Message::Confirm { incarnation, .. } => Message::Confirmed {
            of: incarnation,
            incarnation: u64::from(data.u8() % 2),
            serial: 0,
        },
        Message::AskLoan { ask, wish } if data.coin() => Message::Lend {
            ask,
            offset: match wish {
                Wish::This(offset) => offset,
                Wish::In(_) => u32::from(data.u8() % 64),
            },
            number: u32::from(data.u8()),
        },
        Message::AskSpace { ask, .. } | Message::AskLoan { ask, .. } => {
            if data.coin() {
                let runs = runs(data);
                Message::Grant {
                    grant: Grant::sign(key(HONEST), &world.genesis.id(), key(to).id(), runs),
                    chain: Vec::new(),
                }
            } else {
                Message::Refuse {
                    ask,
                    why: Refusal::NothingFree,
                }
            }
        }
        Message::Grant { grant, .. } => Message::GrantAccepted(grant.id()),
        Message::Return { offset, number } => Message::Returned { offset, number },
        Message::AskChain(_) => Message::Chain((0..data.below(4)).map(|_| proof(world, data)).collect()),
        Message::AskReclaim { epoch, runs } => Message::ReclaimSigned {
            epoch,
            signature: Some([data.u8(); 64].into()),
            kept: vec![runs.first().map_or(0, |run| run.first)],
            runs,
        },
        // What was heard comes back as it is.
        other => other,
    }
}

/// Programs that come far.
pub fn machine_seeds() -> Vec<Vec<u8>> {
    // Records and messages pass, disks sync, time passes.
    const ROUND: [u8; 23] = [
        10, 0, 3, 10, 1, 3, 5, 0, 0, 5, 0, 0, 5, 0, 0, 5, 0, 0, 12, 0, 1, 0, 0,
    ];
    let rounds = |count: usize| ROUND[..22].repeat(count);
    vec![
        [&[0, 0][..], &rounds(3), &[0, 0, 1], &[0, 1, 2], &rounds(4)].concat(),
        [
            &[0, 1][..],
            &rounds(3),
            &[1, 1, 2, 20],
            &rounds(3),
            &[2, 1, 2, 0],
            &rounds(2),
        ]
        .concat(),
        // The hostile member wants slots, gets some, and gives them to both.
        [
            &[0, 0][..],
            &[17, 0, 1, 0, 2],
            &rounds(4),
            &[21, 0, 0, 0, 0, 1, 1, 0, 0, 0, 9, 0, 0, 0, 9],
            &rounds(1),
        ]
        .concat(),
        [
            &[2, 0][..],
            &[16, 0, 1, 0, 9, 9, 0, 0, 31, 0, 0, 0, 0],
            &[0, 0, 1],
            &rounds(2),
            &[20, 0, 0, 1],
            &rounds(1),
        ]
        .concat(),
        [
            &[0, 0][..],
            &rounds(2),
            &[0, 0, 1],
            &[11, 0],
            &rounds(3),
            &[11, 1],
            &rounds(2),
        ]
        .concat(),
    ]
}
