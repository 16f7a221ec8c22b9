//! Hosts that agree on a genesis, and some that come late: what can happen, in any order.
//!
//! Every host is the shipped [`Agreement`]. A link comes up once both its ends live, at any moment after that; terms arrive
//! in the order in which they were said, as links carry them. Everything else that was ever said may be heard late, twice, or
//! never. Time is left out: a host that waits for a moment may find that it has come.

use crate::intern::{Id, Interner, Memo};
use crate::network::add;
use crate::search::{First, Told};
use stateright::{Model, Property};
use std::collections::BTreeSet;
use std::time::Duration;
use weft_ipam_crdt::AddressSpace;
use weft_ipam_crdt::genesis::{
    Agreement, AgreementConfig, AgreementInput, AgreementOutput, AgreementState, Charter, Expected, Terms,
    Word,
};
use weft_wire::ipam::Ballot;
use weft_wire::{NodeId, NodeKey, Time, codec};

/// P1: all that decide have one genesis.
pub const ONE_GENESIS: &str = "one genesis";
/// Whoever decides is a founder of its genesis, and counts itself to its founders.
pub const FOUNDERS_DECIDE: &str = "who decides is a founder";
/// P3: once all reach each other, every founder decides, and somebody can let the others in.
pub const ALL_DECIDE: &str = "in the end every founder decides";
/// Ticks within which hosts that reach each other have decided.
const TICKS_MAX: usize = 64;

/// A rule that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flaw {
    /// All rules hold.
    #[default]
    None,
    /// R3: a host that has lost its disk goes on under its old identity.
    ResumeWithoutDisk,
}

/// What may happen.
#[derive(Clone)]
pub struct Plan {
    /// How many hosts there are.
    pub hosts: usize,
    /// How many of them decide, whichever come first.
    pub expected: u32,
    /// Two that never reach each other.
    pub apart: Option<(usize, usize)>,
    /// Ballots that are begun, by all hosts together.
    pub tries: u8,
    /// Hosts that die and start again.
    pub crashes: u8,
    /// Hosts that lose their disks.
    pub losses: u8,
    /// True to let written and synced be two moments.
    pub is_sync_seen: bool,
    /// What is left out.
    pub flaw: Flaw,
}

/// A machine, the moment that its clock shows, and a write that is under way.
pub struct Machine {
    agreement: Agreement,
    now: Time,
    writing: Option<(u64, AgreementState)>,
}

/// A host at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Host {
    machine: Id<Machine>,
    /// What it would find after a crash.
    durable: Id<AgreementState>,
    /// R3: it has lost its disk and is no longer there.
    is_lost: bool,
}

/// Something that was said: by whom, to whom, what.
type Said = (usize, usize, Id<Vec<u8>>);

/// All hosts and the network at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    hosts: Vec<Host>,
    /// Links that stand, one bit for each pair.
    links: u16,
    /// Terms under way, by their links.
    terms: Vec<Said>,
    /// All else that was said, sorted.
    said: Vec<Said>,
    tries: u8,
    crashes: u8,
    losses: u8,
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A link comes up.
    Meet(usize, usize),
    /// A host hears of the oldest terms on the way from that one.
    Terms(usize, usize),
    /// A host hears something.
    Hear(Said),
    /// A host gives up the ballot that it has, and begins one.
    Try(usize),
    /// What a host has written is on its disk.
    Sync(usize),
    /// A host dies and starts again.
    Crash(usize),
    /// A host loses its disk.
    Lose(usize),
}

/// Who hears a word and what it has on its disk, who said it, and the word.
type Heard = (Id<Machine>, Id<AgreementState>, Id<Machine>, Id<Vec<u8>>);

/// What came of an input.
#[derive(Clone)]
struct Done {
    machine: Id<Machine>,
    said: Vec<(usize, Id<Vec<u8>>)>,
    /// What was written last.
    writes: Option<Id<AgreementState>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Input {
    Heard(usize),
    Message(usize, Id<Vec<u8>>),
    Try,
    Sync,
}

/// The model.
pub struct Founding {
    ids: Vec<NodeId>,
    plan: Plan,
    terms: Terms,
    machines: Interner<Machine>,
    durables: Interner<AgreementState>,
    words: Interner<Vec<u8>>,
    done: Memo<(usize, Id<Machine>, Input), Option<Done>>,
    started: Memo<(usize, Id<AgreementState>, u8), Id<Machine>>,
    /// What is decided in a state, and whether its host is a founder.
    decided: Memo<(usize, Id<AgreementState>), (Option<u32>, bool)>,
    charters: Interner<Charter>,
    ends: Memo<Vec<Host>, bool>,
    past: Memo<Heard, bool>,
    first: First,
}

fn pair(a: usize, b: usize) -> u16 {
    let (low, high) = (a.min(b), a.max(b));
    1 << (high * (high - 1) / 2 + low)
}

impl Founding {
    /// The model of a plan. The host that is likely to come late, since all need it least, is A: it has the lowest id, so that whoever
    /// meets it in time would rather count it than another.
    ///
    /// # Panics
    /// Never: the range is a fixed one.
    pub fn new(plan: Plan) -> Self {
        let mut ids: Vec<NodeId> = (0..plan.hosts)
            .map(|host| NodeKey::from_seed([host as u8 + 1; 32]).id())
            .collect();
        ids.sort();
        let range = "10.32.0.0/29".parse().expect("a range");
        let space = AddressSpace::of_range(range).expect("a range that can be used");
        let terms = Terms {
            expected: Expected::Count(plan.expected),
            range,
            slot_size: space.slot_size(),
        };
        Self {
            ids,
            plan,
            terms,
            machines: Interner::default(),
            durables: Interner::default(),
            words: Interner::default(),
            done: Memo::default(),
            started: Memo::default(),
            decided: Memo::default(),
            charters: Interner::default(),
            ends: Memo::default(),
            past: Memo::default(),
            first: First::default(),
        }
    }

    fn host(&self, id: &NodeId) -> usize {
        let found = self.ids.iter().position(|other| other == id);
        found.expect("a host of this model")
    }

    fn durable(&self, state: AgreementState) -> Id<AgreementState> {
        self.durables.put(codec::encode(&state), state)
    }

    fn machine(&self, machine: Machine) -> Id<Machine> {
        self.machines.put(machine.agreement.meaning(), machine)
    }

    /// A host starts from this, for the first time or again.
    fn begin(&self, host: usize, durable: Id<AgreementState>, start: u8) -> Id<Machine> {
        self.started.of(&(host, durable, start), || {
            let agreement = Agreement::new(AgreementConfig {
                node: self.ids[host],
                name: name(host).to_string(),
                terms: self.terms.clone(),
                durable: AgreementState::clone(&self.durables.get(durable)),
                seed: [host as u8 + 16 * start; 32],
            });
            let mut machine = Machine {
                agreement,
                now: Time::from_start(Duration::from_secs(1)),
                writing: None,
            };
            machine.agreement.handle(machine.now, AgreementInput::Tick);
            // What it had decided it says once more, to its shell.
            while machine.agreement.poll_output().is_some() {}
            self.machine(machine)
        })
    }

    /// Gives a host an input; `None` if nothing comes of it.
    fn handle(&self, host: usize, id: Id<Machine>, input: Input) -> Option<Done> {
        self.done.of(&(host, id, input.clone()), || {
            let before = self.machines.get(id);
            let mut machine = Machine {
                agreement: before.agreement.clone(),
                now: before.now,
                writing: before.writing.clone(),
            };
            let mut said = Vec::new();
            match input {
                Input::Heard(other) => {
                    let heard = AgreementInput::Heard {
                        node: self.ids[other],
                        name: name(other).to_string(),
                    };
                    self.feed(&mut machine, heard, &mut said);
                }
                Input::Message(other, word) => {
                    let bytes = Vec::clone(&self.words.get(word));
                    let from = self.ids[other];
                    self.feed(&mut machine, AgreementInput::Message { from, bytes }, &mut said);
                }
                Input::Try => {
                    // The first tick may only give up the ballot that it has.
                    for _ in 0..2 {
                        machine.now = machine.now.max(machine.agreement.poll_timeout()?);
                        let had = machine.writing.as_ref().map(|(token, _)| *token);
                        let count = said.len();
                        self.feed(&mut machine, AgreementInput::Tick, &mut said);
                        let wrote = machine.writing.as_ref().map(|(token, _)| *token) != had;
                        if wrote || said.len() > count {
                            break;
                        }
                    }
                }
                Input::Sync => {
                    let (token, _) = machine.writing.take()?;
                    self.feed(&mut machine, AgreementInput::Persisted(token), &mut said);
                }
            }
            let writes = machine
                .writing
                .as_ref()
                .map(|(_, state)| self.durable(state.clone()));
            let machine = self.machine(machine);
            (machine != id || !said.is_empty()).then_some(Done {
                machine,
                said,
                writes,
            })
        })
    }

    fn feed(&self, machine: &mut Machine, input: AgreementInput, said: &mut Vec<(usize, Id<Vec<u8>>)>) {
        machine.agreement.handle(machine.now, input);
        while let Some(output) = machine.agreement.poll_output() {
            match output {
                AgreementOutput::Send { to, bytes } => {
                    said.push((self.host(&to), self.words.put(bytes.clone(), bytes)));
                }
                AgreementOutput::Persist { token, state } => machine.writing = Some((token, *state)),
                AgreementOutput::Decided(_) | AgreementOutput::Differs { .. } => {}
            }
        }
    }

    fn word(&self, id: Id<Vec<u8>>) -> Word {
        Word::read(&self.words.get(id)).expect("what a machine says is a word")
    }

    /// What is decided by this state, as a number, and whether the host may decide that.
    fn decision(&self, host: usize, durable: Id<AgreementState>) -> (Option<u32>, bool) {
        self.decided.of(&(host, durable), || {
            let state = self.durables.get(durable);
            let Some(charter) = &state.decided else {
                return (None, true);
            };
            let number = self.charters.put(codec::encode(charter), charter.clone());
            let founders = &charter.genesis.founders;
            let is_founder = founders.contains(&self.ids[host]) && state.set == *founders;
            (Some(number.number()), is_founder)
        })
    }

    /// True for a word of which nothing comes any more, now and later.
    fn is_past(&self, state: &State, (from, to, word): Said) -> bool {
        let (at, by) = (&state.hosts[to], &state.hosts[from]);
        if at.is_lost {
            return true;
        }
        self.past.of(&(at.machine, at.durable, by.machine, word), || {
            let durable = self.durables.get(at.durable);
            let tries = |host: Id<Machine>| self.machines.get(host).agreement.ballot();
            let promised = durable.promised;
            durable.decided.is_some()
                || match self.word(word) {
                    // Each ballot is tried once.
                    Word::Promise { ballot, .. } | Word::Accepted { ballot } => {
                        promised >= Some(ballot) && tries(at.machine) != Some(ballot)
                    }
                    Word::Higher { than, .. } => promised >= Some(than) && tries(at.machine) != Some(than),
                    // Whoever has promised that or accepted it has said so; else it can only say that it is too late.
                    Word::Prepare { ballot, .. } => {
                        promised == Some(ballot)
                            || (promised > Some(ballot) && tries(by.machine) != Some(ballot))
                    }
                    Word::Accept { ballot, charter } => {
                        durable.accepted == Some((ballot, charter))
                            || (promised > Some(ballot) && tries(by.machine) != Some(ballot))
                    }
                    Word::Terms { .. } | Word::Decided { .. } => false,
                }
        })
    }

    /// Puts what a host has said, and written, into a state.
    fn settle(&self, state: &mut State, host: usize, done: Done) {
        let mut done = done;
        state.hosts[host].machine = done.machine;
        let is_sync_seen = self.plan.is_sync_seen && (state.crashes > 0 || state.losses > 0);
        loop {
            for (to, word) in &done.said {
                let said = (host, *to, *word);
                match self.word(*word) {
                    Word::Terms { .. } if state.links & pair(host, *to) == 0 => {}
                    // In order on each link; links are independent.
                    Word::Terms { .. } => {
                        let at = state
                            .terms
                            .partition_point(|other| (other.0, other.1) <= (host, *to));
                        state.terms.insert(at, said);
                    }
                    _ => add(&mut state.said, said),
                }
            }
            let Some(written) = done.writes else { break };
            if is_sync_seen {
                break;
            }
            state.hosts[host].durable = written;
            match self.handle(host, state.hosts[host].machine, Input::Sync) {
                Some(next) => done = next,
                None => break,
            }
            state.hosts[host].machine = done.machine;
        }
        self.tell_decision(state, host);
        let said = std::mem::take(&mut state.said);
        state.said = said
            .into_iter()
            .filter(|said| !self.is_past(state, *said))
            .collect();
    }

    /// Whoever has decided says so to each founder that says anything, and on a new link all do.
    fn tell_decision(&self, state: &mut State, host: usize) {
        let durable = self.durables.get(state.hosts[host].durable);
        let Some(charter) = durable.decided.clone() else {
            return;
        };
        let word = codec::encode(&Word::Decided {
            charter: charter.clone(),
        });
        let word = self.words.put(word.clone(), word);
        for founder in &charter.genesis.founders {
            let to = self.host(founder);
            if to != host {
                add(&mut state.said, (host, to, word));
            }
        }
        state.terms.retain(|said| said.1 != host);
    }

    fn step(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Meet(a, b) => {
                state.links |= pair(a, b);
                for (host, other) in [(a, b), (b, a)] {
                    if let Some(done) = self.handle(host, state.hosts[host].machine, Input::Heard(other)) {
                        self.settle(&mut state, host, done);
                    }
                }
            }
            Action::Terms(host, from) => {
                let at = state
                    .terms
                    .iter()
                    .position(|said| (said.0, said.1) == (from, host))?;
                let (_, _, word) = state.terms.remove(at);
                let input = Input::Message(from, word);
                if let Some(done) = self.handle(host, state.hosts[host].machine, input) {
                    self.settle(&mut state, host, done);
                }
            }
            Action::Hear((from, host, word)) => {
                let done = self.handle(host, state.hosts[host].machine, Input::Message(from, word))?;
                self.settle(&mut state, host, done);
            }
            Action::Try(host) => {
                state.tries -= 1;
                let done = self.handle(host, state.hosts[host].machine, Input::Try)?;
                self.settle(&mut state, host, done);
            }
            Action::Sync(host) => {
                let written = self.machines.get(state.hosts[host].machine).writing.clone();
                state.hosts[host].durable = self.durable(written?.1);
                let done = self.handle(host, state.hosts[host].machine, Input::Sync)?;
                self.settle(&mut state, host, done);
            }
            Action::Crash(host) => {
                state.crashes -= 1;
                let start = self.plan.crashes - state.crashes;
                self.restart(&mut state, host, start);
            }
            Action::Lose(host) => {
                state.losses -= 1;
                if self.plan.flaw == Flaw::ResumeWithoutDisk {
                    state.hosts[host].durable = self.durable(AgreementState::default());
                    self.restart(&mut state, host, self.plan.crashes + 1);
                } else {
                    state.hosts[host].is_lost = true;
                    state.terms.retain(|said| said.0 != host && said.1 != host);
                    state.said.retain(|said| said.1 != host);
                }
            }
        }
        (state != *last).then_some(state)
    }

    /// A host begins anew from its disk. Its links are gone; the others notice when it comes again.
    fn restart(&self, state: &mut State, host: usize, start: u8) {
        state.hosts[host].machine = self.begin(host, state.hosts[host].durable, start);
        for other in (0..self.plan.hosts).filter(|other| *other != host) {
            state.links &= !pair(host, other);
        }
        state.terms.retain(|said| said.0 != host && said.1 != host);
    }

    /// True when all that reach each other decide, if from here on nothing is lost and nobody dies.
    fn ends_well(&self, state: &State) -> bool {
        self.ends.of(&state.hosts, || self.end(&state.hosts))
    }

    /// Goes on with all links new, at once, and everything in order, until every founder of a decision has it.
    fn end(&self, hosts: &[Host]) -> bool {
        let mut machines: Vec<Machine> = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let machine = self.machines.get(host.machine);
            let mut machine = Machine {
                agreement: machine.agreement.clone(),
                now: machine.now,
                writing: machine.writing.clone(),
            };
            for other in (0..hosts.len()).filter(|other| *other != number) {
                machine
                    .agreement
                    .handle(machine.now, AgreementInput::Lost(self.ids[other]));
            }
            machines.push(machine);
        }
        let mut words = Vec::new();
        let synced = |machines: &mut Vec<Machine>, host: usize, words: &mut Vec<Said>| {
            let mut said = Vec::new();
            while let Some((token, _)) = machines[host].writing.take() {
                self.feed(&mut machines[host], AgreementInput::Persisted(token), &mut said);
            }
            words.extend(said.into_iter().map(|(to, word)| (host, to, word)));
        };
        let there: Vec<usize> = (0..hosts.len()).filter(|host| !hosts[*host].is_lost).collect();
        for host in &there {
            for other in there.iter().filter(|other| *other != host) {
                let (node, name) = (self.ids[*other], name(*other).to_string());
                let mut said = Vec::new();
                self.feed(
                    &mut machines[*host],
                    AgreementInput::Heard { node, name },
                    &mut said,
                );
                words.extend(said.into_iter().map(|(to, word)| (*host, to, word)));
                synced(&mut machines, *host, &mut words);
            }
        }
        for _ in 0..TICKS_MAX {
            let mut at = 0;
            while let Some((from, to, word)) = words.get(at).copied() {
                at += 1;
                if hosts[to].is_lost {
                    continue;
                }
                let bytes = Vec::clone(&self.words.get(word));
                let (from, mut said) = (self.ids[from], Vec::new());
                self.feed(
                    &mut machines[to],
                    AgreementInput::Message { from, bytes },
                    &mut said,
                );
                words.extend(said.into_iter().map(|(next, word)| (to, next, word)));
                synced(&mut machines, to, &mut words);
            }
            words.clear();
            if self.is_over(&machines, &there) {
                return true;
            }
            let left = |host: usize| {
                let due = machines[host].agreement.poll_timeout()?;
                Some(due.since(machines[host].now))
            };
            let Some(passes) = there.iter().filter_map(|host| left(*host)).min() else {
                return false;
            };
            for host in &there {
                machines[*host].now = machines[*host].now + passes;
                let mut said = Vec::new();
                self.feed(&mut machines[*host], AgreementInput::Tick, &mut said);
                words.extend(said.into_iter().map(|(to, word)| (*host, to, word)));
                synced(&mut machines, *host, &mut words);
            }
        }
        false
    }

    /// Somebody has decided, and so have all of its founders that are there.
    fn is_over(&self, machines: &[Machine], there: &[usize]) -> bool {
        let decided = |host: usize| machines[host].agreement.state().decided.clone();
        let Some(charter) = there.iter().find_map(|host| decided(*host)) else {
            return false;
        };
        let founders = there
            .iter()
            .filter(|host| charter.genesis.is_founder(&self.ids[**host]));
        { founders }.all(|host| decided(*host).as_ref() == Some(&charter))
    }
}

/// Name of a host.
fn name(host: usize) -> char {
    char::from(b'A' + host as u8)
}

impl Model for Founding {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let durable = self.durable(AgreementState::default());
        let host = |host| Host {
            machine: self.begin(host, durable, 0),
            durable,
            is_lost: false,
        };
        vec![State {
            hosts: (0..self.plan.hosts).map(host).collect(),
            links: 0,
            terms: Vec::new(),
            said: Vec::new(),
            tries: self.plan.tries,
            crashes: self.plan.crashes,
            losses: self.plan.losses,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // What a host has written and not yet synced is seen by nobody. So its steps up to the sync or the crash can be put
        // off until one follows the other.
        let is_open = |host: &Host| self.machines.get(host.machine).writing.is_some();
        let open = state.hosts.iter().position(is_open);
        let is_turn = |host: usize| !state.hosts[host].is_lost && open.is_none_or(|open| open == host);
        if open.is_none() {
            for b in 1..self.plan.hosts {
                for a in (0..b).filter(|a| state.links & pair(*a, b) == 0) {
                    if is_turn(a) && is_turn(b) && self.plan.apart != Some((a, b)) {
                        actions.push(Action::Meet(a, b));
                    }
                }
            }
        }
        let mut seen = BTreeSet::new();
        for (from, to, _) in &state.terms {
            if is_turn(*to) && seen.insert((*from, *to)) {
                actions.push(Action::Terms(*to, *from));
            }
        }
        for said in &state.said {
            let (from, to, word) = *said;
            let is_linked = state.links & pair(from, to) != 0;
            let input = Input::Message(from, word);
            if is_turn(to) && is_linked && self.handle(to, state.hosts[to].machine, input).is_some() {
                actions.push(Action::Hear(*said));
            }
        }
        for host in (0..self.plan.hosts).filter(|host| is_turn(*host)) {
            let machine = state.hosts[host].machine;
            if state.tries > 0 && self.handle(host, machine, Input::Try).is_some() {
                actions.push(Action::Try(host));
            }
            if self.machines.get(machine).writing.is_some() {
                actions.push(Action::Sync(host));
            }
            if state.crashes > 0 {
                actions.push(Action::Crash(host));
            }
            if state.losses > 0 {
                actions.push(Action::Lose(host));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.step(last, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_GENESIS, |model: &Self, state: &State| {
                let hosts = state.hosts.iter().enumerate();
                let decided: BTreeSet<u32> = hosts
                    .filter_map(|(host, at)| model.decision(host, at.durable).0)
                    .collect();
                model.first.check(decided.len() <= 1)
            }),
            Property::always(FOUNDERS_DECIDE, |model: &Self, state: &State| {
                let mut hosts = state.hosts.iter().enumerate();
                model
                    .first
                    .check(hosts.all(|(host, at)| model.decision(host, at.durable).1))
            }),
        ];
        if self.plan.flaw != Flaw::None {
            return properties;
        }
        properties.push(Property::always(ALL_DECIDE, |model: &Self, state: &State| {
            model.first.check(model.ends_well(state))
        }));
        properties.push(Property::sometimes(
            "all founders have decided, and a host is outside",
            |model: &Self, state: &State| {
                let hosts = state.hosts.iter().enumerate();
                let decided = hosts.filter(|(host, at)| model.decision(*host, at.durable).0.is_some());
                decided.count() == model.plan.expected as usize && state.links.count_ones() > 1
            },
        ));
        properties
    }
}

impl Told for Founding {
    fn tell(&self, before: &State, action: &Action) -> String {
        let ballot = |ballot: &Ballot| format!("{}{}", name(self.host(&ballot.proposer)), ballot.round);
        let names = |ids: &[NodeId]| -> String { ids.iter().map(|id| name(self.host(id))).collect() };
        let charter = |charter: &Charter| {
            let number = self.charters.put(codec::encode(charter), charter.clone());
            format!(
                "genesis {} of {}",
                number.number(),
                names(&charter.genesis.founders)
            )
        };
        let word = |id: Id<Vec<u8>>| match self.word(id) {
            Word::Terms { set, .. } if set.is_empty() => "its terms".to_string(),
            Word::Terms { set, .. } => format!("that it counts itself to {}", names(&set)),
            Word::Prepare { ballot: b, set } => format!("ballot {} of {}", ballot(&b), names(&set)),
            Word::Promise { ballot: b, accepted } => {
                let accepted =
                    accepted.map(|(b, c)| format!(", having accepted {} in {}", charter(&c), ballot(&b)));
                format!("its promise to {}{}", ballot(&b), accepted.unwrap_or_default())
            }
            Word::Accept {
                ballot: b,
                charter: c,
            } => format!("that {} is proposed in {}", charter(&c), ballot(&b)),
            Word::Accepted { ballot: b } => format!("that it has accepted what {} proposes", ballot(&b)),
            Word::Higher { promised, .. } => format!("that it has promised {}", ballot(&promised)),
            Word::Decided { charter: c } => format!("that {} is decided", charter(&c)),
        };
        match action {
            Action::Meet(a, b) => format!("{} and {} meet", name(*a), name(*b)),
            Action::Terms(host, from) => {
                let said = before
                    .terms
                    .iter()
                    .find(|said| (said.0, said.1) == (*from, *host));
                let told = said.map(|said| word(said.2)).unwrap_or_default();
                format!("{} hears of {} {told}", name(*host), name(*from))
            }
            Action::Hear((from, host, said)) => {
                format!("{} hears of {} {}", name(*host), name(*from), word(*said))
            }
            Action::Try(host) => format!("{} begins a ballot", name(*host)),
            Action::Sync(host) => format!("{} syncs", name(*host)),
            Action::Crash(host) => format!("{} dies and starts again", name(*host)),
            Action::Lose(host) if self.plan.flaw == Flaw::ResumeWithoutDisk => {
                format!("{} loses its disk and goes on", name(*host))
            }
            Action::Lose(host) => format!("{} loses its disk, and is gone", name(*host)),
        }
    }
}
