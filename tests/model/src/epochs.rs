//! Model 1: epochs alone. Three voters decide two epochs, each of them wanting another one.
//!
//! The network is everything that was ever said: a host may read any of it, late, twice, or never. A host that dies loses what it
//! had not synced, what it has read, and its try.

use crate::cast::Cast;
use crate::intern::{Id, Memo};
use crate::search::{First, Told};
use crate::voting::{HOSTS, Part, Quorum, Read, Voting};
use stateright::{Model, Property};
use weft_ipam_crdt::IpamState;
use weft_ipam_crdt::message::Decided;
use weft_wire::ipam::{Epoch, VoteRecord};

/// How the hosts of the model can be broken; each is a rule left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flaw {
    /// All rules hold.
    #[default]
    None,
    /// R2 left out: a record leaves before what it says is durable.
    SendBeforeSync,
    /// R3 left out: a host that has lost its disk goes on under its old identity.
    ResumeWithoutDisk,
    /// R6 left out: a host that accepts its own proposal takes it for decided.
    NoMajority,
}

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tries to decide each epoch, by whomever.
    pub ballots: u8,
    /// Epochs that are decided, after the one in which the voters are.
    pub epochs: u32,
    /// Hosts that die and come back.
    pub crashes: u8,
    /// True to let written and synced be two moments.
    pub is_sync_seen: bool,
}

/// A host at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Host {
    durable: Id<IpamState>,
    part: Part,
    heard: Heard,
}

/// How many of each host's records are behind a host.
type Heard = [u8; HOSTS];

/// All hosts and the network at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    hosts: Vec<Host>,
    said: Vec<Vec<Id<VoteRecord>>>,
    proofs: Vec<Id<Decided>>,
    ballots: Vec<u8>,
    crashes: u8,
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A host begins a try.
    Propose(usize),
    /// A host reads on: so many records of each host are behind it then.
    Read(usize, Heard),
    /// A host is shown the proof of an epoch.
    Learn(usize, Id<Decided>),
    /// What a host has written is on its disk.
    Sync(usize),
    /// A host dies and starts again.
    Crash(usize),
}

/// The model.
pub struct Epochs {
    cast: Cast,
    voting: Voting,
    limits: Limits,
    flaw: Flaw,
    wants: Vec<Vec<Epoch>>,
    agree: Memo<(Id<IpamState>, Id<IpamState>), bool>,
    epoch_of: Memo<Id<IpamState>, u32>,
    number_of: Memo<Id<VoteRecord>, u32>,
    first: First,
}

impl Epochs {
    /// Three voters A, B and C. A wants C removed, B wants A removed, and C wants D added; who cannot have that wants
    /// what the next one wants.
    pub fn new(limits: Limits, flaw: Flaw) -> Self {
        let cast = Cast::new(4);
        let removes = |who: usize, by: usize| Epoch {
            number: 0,
            parent: [0; 32],
            added: Vec::new(),
            removed: vec![cast.id(who)],
            reclaimer: Some(cast.id(by)),
            fenced: false,
        };
        let adds = |who: usize| Epoch {
            added: vec![cast.id(who)],
            removed: Vec::new(),
            reclaimer: None,
            ..removes(0, 0)
        };
        let wants = vec![
            vec![removes(2, 0), adds(3)],
            vec![removes(0, 1), adds(3)],
            vec![adds(3), removes(1, 2)],
        ];
        let quorum = if flaw == Flaw::NoMajority {
            Quorum::Alone
        } else {
            Quorum::Majority
        };
        let voting = Voting::new(quorum);
        Self {
            cast,
            voting,
            limits,
            flaw,
            wants,
            agree: Memo::default(),
            epoch_of: Memo::default(),
            number_of: Memo::default(),
            first: First::default(),
        }
    }

    fn epoch(&self, state: Id<IpamState>) -> u32 {
        self.epoch_of.of(&state, || self.voting.states.get(state).epoch())
    }

    fn read(&self, state: &State, heard: &Heard) -> Read {
        let mut read: Read = [None; HOSTS];
        for (writer, said) in state.said.iter().enumerate() {
            let heard = usize::from(heard[writer]);
            read[writer] = heard.checked_sub(1).and_then(|at| said.get(at)).copied();
        }
        read
    }

    /// Adds the readings that make a difference to a host: of one record, and of one each of two hosts where neither does
    /// alone. All others can be put off until they do, for what was said stays readable.
    fn readings(&self, state: &State, host: usize, actions: &mut Vec<Action>) {
        let at = &state.hosts[host];
        let is_news = |heard: &Heard| {
            let read = self.read(state, heard);
            self.voting.advance(&self.cast, host, at.part, read).part != at.part
        };
        let mut idle: Vec<(usize, u8)> = Vec::new();
        for writer in (0..state.said.len()).filter(|writer| *writer != host) {
            for record in at.heard[writer]..state.said[writer].len() as u8 {
                let mut heard = at.heard;
                heard[writer] = record + 1;
                if is_news(&heard) {
                    actions.push(Action::Read(host, heard));
                } else {
                    idle.push((writer, record));
                }
            }
        }
        for (at_first, first) in idle.iter().enumerate() {
            for second in idle.iter().skip(at_first).filter(|second| second.0 != first.0) {
                let mut heard = at.heard;
                heard[first.0] = first.1 + 1;
                heard[second.0] = second.1 + 1;
                if is_news(&heard) {
                    actions.push(Action::Read(host, heard));
                }
            }
        }
    }

    /// All that follows at once for a host: its own conclusions, and what leaves it.
    fn settle(&self, state: &mut State, host: usize) {
        let read = self.read(state, &state.hosts[host].heard);
        let moved = self
            .voting
            .advance(&self.cast, host, state.hosts[host].part, read);
        state.hosts[host].part = moved.part;
        let is_durable =
            state.hosts[host].durable == moved.part.memory || !self.limits.is_sync_seen || state.crashes == 0;
        if is_durable || self.flaw == Flaw::SendBeforeSync {
            if is_durable {
                state.hosts[host].durable = moved.part.memory;
            }
            if state.said[host].last() != Some(&moved.record) {
                state.said[host].push(moved.record);
            }
            for proof in moved.decided {
                if !state.proofs.contains(&proof) {
                    state.proofs.push(proof);
                }
            }
            state.proofs.sort();
        }
        self.forget(state, host);
    }

    /// How many of a host's first records are about epochs up to this one, and say nothing to whoever knows it.
    fn past(&self, state: &State, writer: usize, epoch: u32) -> u8 {
        let number = |record: &Id<VoteRecord>| {
            self.number_of
                .of(record, || self.voting.records.get(*record).number)
        };
        let said = state.said[writer].iter();
        said.take_while(|record| number(record) <= epoch).count() as u8
    }

    /// Drops what can make no difference any longer: records that count as heard because of what their reader knows,
    /// and what every host has left behind.
    fn forget(&self, state: &mut State, host: usize) {
        let epoch = self.epoch(state.hosts[host].part.memory);
        for writer in 0..state.said.len() {
            let past = self.past(state, writer, epoch);
            let heard = &mut state.hosts[host].heard[writer];
            *heard = if writer == host { 0 } else { (*heard).max(past) };
        }
        let known = state.hosts.iter().map(|host| self.epoch(host.durable));
        let known: Vec<u32> = known.collect();
        let by_all = known.iter().copied().min().unwrap_or(0);
        for left in state.ballots.iter_mut().take(by_all as usize - 1) {
            *left = 0;
        }
        state
            .proofs
            .retain(|proof| self.voting.decided.get(*proof).epoch.number > by_all);
        for writer in 0..state.said.len() {
            let others = known.iter().enumerate().filter(|(reader, _)| *reader != writer);
            let by_others = others.map(|(_, epoch)| *epoch).min().unwrap_or(0);
            let past = self
                .past(state, writer, by_others)
                .min(state.said[writer].len() as u8 - 1);
            state.said[writer].drain(..usize::from(past));
            for reader in &mut state.hosts {
                reader.heard[writer] = reader.heard[writer].saturating_sub(past);
            }
        }
    }

    fn sync(&self, state: &mut State, host: usize) {
        let (durable, part) = (state.hosts[host].durable, state.hosts[host].part);
        state.hosts[host].durable = part.memory;
        let known = self.voting.states.get(part.memory);
        let before = self.epoch(durable) as usize;
        for decided in known.epochs().iter().skip(before) {
            let proof = self
                .voting
                .decided
                .put(decided.epoch.hash().to_vec(), decided.clone());
            if !state.proofs.contains(&proof) {
                state.proofs.push(proof);
            }
        }
        state.proofs.sort();
        self.settle(state, host);
    }
}

impl Model for Epochs {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let start = self.voting.state(self.cast.with_members(&[0, 1, 2]));
        let part = Part {
            memory: start,
            attempt: None,
        };
        let host = Host {
            durable: start,
            part,
            heard: [0; HOSTS],
        };
        let mut state = State {
            hosts: vec![host; 3],
            said: vec![Vec::new(); 3],
            proofs: Vec::new(),
            ballots: vec![self.limits.ballots; self.limits.epochs as usize],
            crashes: self.limits.crashes,
        };
        let first = self.voting.record(&self.cast, 0, part);
        for said in &mut state.said {
            said.push(first);
        }
        for host in 0..3 {
            self.settle(&mut state, host);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (host, at) in state.hosts.iter().enumerate() {
            actions.push(Action::Propose(host));
            self.readings(state, host, actions);
            actions.extend(state.proofs.iter().map(|proof| Action::Learn(host, *proof)));
            if at.durable != at.part.memory {
                actions.push(Action::Sync(host));
            }
            if state.crashes > 0 {
                actions.push(Action::Crash(host));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let host = match action {
            Action::Propose(host) => {
                let epoch = self.epoch(state.hosts[host].part.memory) as usize;
                // The voters are members of epoch 1 from the start.
                let left = state.ballots.get_mut(epoch - 1).filter(|left| **left > 0)?;
                *left -= 1;
                let part = state.hosts[host].part;
                state.hosts[host].part = self.voting.start(&self.cast, host, part, &self.wants[host])?;
                host
            }
            Action::Read(host, heard) => {
                state.hosts[host].heard = heard;
                host
            }
            Action::Learn(host, proof) => {
                let memory = state.hosts[host].part.memory;
                let memory = self.voting.learn(&self.cast, memory, proof)?;
                state.hosts[host].part = Part {
                    memory,
                    attempt: None,
                };
                host
            }
            Action::Sync(host) => {
                self.sync(&mut state, host);
                return Some(state);
            }
            Action::Crash(host) => {
                state.crashes -= 1;
                let durable = match self.flaw {
                    Flaw::ResumeWithoutDisk => self.voting.state(self.cast.with_members(&[0, 1, 2])),
                    _ => state.hosts[host].durable,
                };
                let part = Part {
                    memory: durable,
                    attempt: None,
                };
                let heard = [0; HOSTS];
                let again = Host { durable, part, heard };
                if again == last.hosts[host] {
                    return None;
                }
                state.hosts[host] = again;
                host
            }
        };
        self.settle(&mut state, host);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREEMENT, |model, state| model.first.check(model.agrees(state))),
            Property::sometimes(
                "the last epoch is decided and known to two",
                |model: &Self, state: &State| {
                    let last = 1 + model.limits.epochs;
                    let knows = |host: &&Host| model.epoch(host.durable) == last;
                    state.hosts.iter().filter(knows).count() == 2
                },
            ),
            Property::sometimes(
                "a removed host finds out by itself",
                |model: &Self, state: &State| {
                    let is_out = |(host, at): (usize, &Host)| {
                        !model
                            .voting
                            .states
                            .get(at.part.memory)
                            .members()
                            .contains(&model.cast.id(host))
                    };
                    state.hosts.iter().enumerate().any(is_out)
                },
            ),
        ]
    }
}

/// No epoch is decided in two ways.
pub const AGREEMENT: &str = "one epoch of each number";

impl Epochs {
    fn agrees(&self, state: &State) -> bool {
        let pairs = [(0, 1), (0, 2), (1, 2)];
        pairs.iter().all(|(a, b)| {
            let (a, b) = (state.hosts[*a].part.memory, state.hosts[*b].part.memory);
            self.agree.of(&(a, b), || {
                let (a, b) = (self.voting.states.get(a), self.voting.states.get(b));
                let hash = |decided: &Decided| decided.epoch.hash();
                let (a, b) = (a.epochs().iter().map(hash), b.epochs().iter().map(hash));
                a.zip(b).all(|(a, b)| a == b)
            })
        })
    }
}

impl Told for Epochs {
    fn tell(&self, before: &State, action: &Action) -> String {
        let name = |host: usize| self.cast.name(host);
        match action {
            Action::Propose(host) => format!("{} begins a ballot", name(*host)),
            Action::Read(host, heard) => {
                let was = before.hosts[*host].heard;
                let fresh = (0..before.said.len()).filter(|writer| heard[*writer] != was[*writer]);
                let told = fresh.map(|writer| {
                    let record = before.said[writer][usize::from(heard[writer]) - 1];
                    tell_record(&self.cast, writer, &self.voting.records.get(record))
                });
                let told: Vec<String> = told.collect();
                format!("{} reads that {}", name(*host), told.join(", and that "))
            }
            Action::Learn(host, proof) => {
                let decided = self.voting.decided.get(*proof);
                format!(
                    "{} is shown the proof of {}",
                    name(*host),
                    self.cast.describe(&decided.epoch)
                )
            }
            Action::Sync(host) => format!("{} syncs", name(*host)),
            Action::Crash(host) if self.flaw == Flaw::ResumeWithoutDisk => {
                format!("{} loses its disk and goes on", name(*host))
            }
            Action::Crash(host) => format!("{} dies and starts again", name(*host)),
        }
    }
}

/// What a vote record says, for people.
pub fn tell_record(cast: &Cast, writer: usize, record: &VoteRecord) -> String {
    let ballot = |ballot: &weft_wire::ipam::Ballot| {
        format!(
            "ballot {}{}",
            cast.name(cast.host(&ballot.proposer)),
            ballot.round
        )
    };
    let mut parts = Vec::new();
    if let Some(promised) = &record.promised {
        parts.push(format!("has promised {}", ballot(promised)));
    }
    if let Some(accepted) = &record.accepted {
        parts.push(format!("has accepted the {}", cast.describe(&accepted.epoch)));
    }
    if let Some(value) = record.proposal.as_ref().and_then(|p| p.value.as_ref()) {
        parts.push(format!("proposes the {}", cast.describe(value)));
    }
    if parts.is_empty() {
        parts.push("votes on nothing".to_string());
    }
    format!(
        "{} (epoch {}) {}",
        cast.name(writer),
        record.number - 1,
        parts.join(", ")
    )
}
