//! How hosts that are started together, each told which hosts shall decide, agree on one genesis.
//!
//! One Paxos decision (Lamport, "Paxos Made Simple", §2) before there is a cluster. A ballot names the set of hosts that it
//! counts, and a host takes part for the first set it promised to and no other; hosts outside wait to be admitted.
//! All of the set are founders: the genesis lists them, and each has the cluster's secret with the decision, so any of
//! them can admit others, whoever dies. Where more hosts are started than were told, two sets may decide differently:
//! the two clusters meet with a named error then.
//!
//! Hosts first tell each other their [`Terms`]; who was told something else does not count, and is named. The machine
//! has the contract of [`crate::Ipam`]: what depends on a write leaves only after it is durable.

mod meaning;
mod terms;
mod word;

pub use terms::{Difference, Expected, Terms};
pub use word::Word;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use weft_wire::codec;
use weft_wire::ipam::Ballot;
use weft_wire::limits::FOUNDERS_MAX;
use weft_wire::record::{Genesis, are_founders};
use weft_wire::{ClusterSecret, NodeId, Time};

/// A try that is not decided after this is given up.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Each try that failed doubles the time for the next, so often: a try takes four syncs, and a disk may need seconds for one.
const TRY_DOUBLINGS: u32 = 4;
/// Nobody begins before the hosts that it would name have been the same for so long, so that most name the same set.
const SETTLE: Duration = Duration::from_secs(1);
/// The host with the lowest id begins, each one behind it this much later.
const RANK_DELAY: Duration = Duration::from_millis(200);
/// Words that wait for the disk. Beyond, what others say is not heard: tries are repeated.
const GATED_MAX: usize = 1_024;
/// Hosts of which this one keeps in mind that they can be reached.
const HEARD_MAX: usize = FOUNDERS_MAX;

/// What is decided: the genesis, and the secret under which its members shake hands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Charter {
    /// Its founders are the set that decided.
    pub genesis: Genesis,
    /// The cluster's first secret.
    pub secret: ClusterSecret,
}

/// What a host must find again after a restart while it takes part.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AgreementState {
    /// The set of hosts that this one counts itself to. It leaves one only where too many of it count themselves to others, and never
    /// after it has accepted something.
    pub set: Vec<NodeId>,
    /// Accepts nothing below.
    pub promised: Option<Ballot>,
    /// What it accepted last.
    pub accepted: Option<(Ballot, Charter)>,
    /// The decision, once it is known.
    pub decided: Option<Charter>,
}

/// Something that happened.
#[derive(Debug)]
pub enum AgreementInput {
    /// A link to a host stands that holds the same token, and has no cluster either.
    Heard {
        /// Which host.
        node: NodeId,
        /// Its nickname.
        name: String,
    },
    /// The last link to it is gone.
    Lost(NodeId),
    /// It said this.
    Message {
        /// Who.
        from: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// A state is durable, and all before.
    Persisted(u64),
    /// The time that `poll_timeout` named has come.
    Tick,
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgreementOutput {
    /// Carry this to a host. It is lost only together with the link to it.
    Send {
        /// Whom.
        to: NodeId,
        /// At most [`AGREEMENT_MAX`](weft_wire::mesh::AGREEMENT_MAX) octets; a [`Word`].
        bytes: Vec<u8>,
    },
    /// Store this in place of what was stored before; answer with [`AgreementInput::Persisted`].
    Persist {
        /// Names the write.
        token: u64,
        /// The state.
        state: Box<AgreementState>,
    },
    /// The decision, and it is durable: this host is a founder.
    Decided(Charter),
    /// A host was told something else, and does not count.
    Differs {
        /// Its nickname.
        name: String,
        /// What differs.
        what: Difference,
    },
}

/// What a machine starts from.
pub struct AgreementConfig {
    /// This host.
    pub node: NodeId,
    /// Its nickname.
    pub name: String,
    /// What it was told; of bounds that [`Terms::is_within_bounds`] checks.
    pub terms: Terms,
    /// What was stored before, or the default.
    pub durable: AgreementState,
    /// 32 fresh random octets. The cluster's secret may come of them.
    pub seed: [u8; 32],
}

/// How far the hosts are, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Hosts that decide.
    pub expected: u32,
    /// Nicknames of those that are there and were told the same, this host first.
    pub there: Vec<String>,
    /// What is waited for.
    pub waits: Waits,
    /// Hosts that were told something else.
    pub differing: Vec<(String, Difference)>,
}

/// What a host without a decision waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Waits {
    /// Other hosts; nicknames of those missing where a list names them.
    Hosts(Vec<String>),
    /// Two hosts have one of the nicknames that are listed.
    Names(String),
    /// Hosts that decide without this one; afterwards one of them lets it in.
    Others,
    /// This host is bound to a set, of which so many are not there, and without them there is no majority.
    Majority(Vec<NodeId>),
    /// The decision, any moment.
    Decision,
}

/// Another host.
#[derive(Clone)]
struct Peer {
    name: String,
    /// What it was told, compared with what this host was; none before it has said so.
    difference: Option<Result<(), Difference>>,
    /// True once a difference was told.
    is_named: bool,
    /// The set that it counts itself to.
    set: Vec<NodeId>,
}

#[derive(Clone)]
struct Try {
    ballot: Ballot,
    deadline: Time,
    promises: BTreeMap<NodeId, Option<(Ballot, Charter)>>,
    value: Option<Charter>,
    accepted: BTreeSet<NodeId>,
}

/// One host's part in agreeing on a genesis.
#[derive(Clone)]
pub struct Agreement {
    node: NodeId,
    name: String,
    terms: Terms,
    rng: ChaCha20Rng,
    peers: BTreeMap<NodeId, Peer>,
    state: AgreementState,
    stored: AgreementState,
    current: Option<Try>,
    /// The set that this host would name.
    chosen: Option<Vec<NodeId>>,
    due: Option<Time>,
    issued: u64,
    durable: u64,
    gated: VecDeque<(u64, AgreementOutput)>,
    staged: Vec<AgreementOutput>,
    outputs: VecDeque<AgreementOutput>,
    told: bool,
    /// Tries of this host that came to nothing since it started.
    failed: u32,
}

impl Agreement {
    /// Takes part from where the durable state says that it was; a first [`AgreementInput::Tick`] sets it going.
    pub fn new(config: AgreementConfig) -> Self {
        Self {
            node: config.node,
            name: config.name,
            terms: config.terms,
            rng: ChaCha20Rng::from_seed(config.seed),
            peers: BTreeMap::new(),
            stored: config.durable.clone(),
            state: config.durable,
            failed: 0,
            current: None,
            chosen: None,
            due: None,
            issued: 0,
            durable: 0,
            gated: VecDeque::new(),
            staged: Vec::new(),
            outputs: VecDeque::new(),
            told: false,
        }
    }

    /// Takes one input; `now` never goes back.
    pub fn handle(&mut self, now: Time, input: AgreementInput) {
        match input {
            AgreementInput::Heard { node, name } => self.on_heard(node, name),
            AgreementInput::Lost(node) => {
                self.peers.remove(&node);
            }
            AgreementInput::Message { from, bytes } => {
                if let Some(word) = Word::read(&bytes)
                    && self.peers.contains_key(&from)
                {
                    self.on_word(now, from, word);
                }
            }
            AgreementInput::Persisted(token) => self.durable = self.durable.max(token),
            AgreementInput::Tick => {}
        }
        self.advance(now);
        self.commit();
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<AgreementOutput> {
        self.outputs.pop_front()
    }

    /// When to come back with [`AgreementInput::Tick`] if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.current.as_ref().map(|current| current.deadline).or(self.due)
    }

    /// What it must find again after a restart, written or not.
    pub fn state(&self) -> &AgreementState {
        &self.state
    }

    /// The ballot that this host tries to get decided.
    pub fn ballot(&self) -> Option<Ballot> {
        self.current.as_ref().map(|current| current.ballot)
    }

    /// How far the hosts are.
    pub fn progress(&self) -> Progress {
        let there = self.there();
        let name = |node: &NodeId| self.peers.get(node).map(|peer| peer.name.clone());
        let others = there.iter().filter(|node| **node != self.node);
        let names: Vec<String> = core::iter::once(self.name.clone())
            .chain(others.filter_map(name))
            .collect();
        let differing = self.peers.values().filter_map(|peer| match &peer.difference {
            Some(Err(what)) => Some((peer.name.clone(), what.clone())),
            _ => None,
        });
        let is_without = |peer: &Peer| !peer.set.is_empty() && !peer.set.contains(&self.node);
        let waits = if !self.state.set.is_empty() {
            let absent = self.state.set.iter().filter(|node| !there.contains(*node));
            match self.has_majority() {
                true => Waits::Decision,
                false => Waits::Majority(absent.copied().collect()),
            }
        } else if self.peers.values().any(is_without) {
            Waits::Others
        } else {
            match self.terms.expected.choose(&self.named(&there)) {
                Ok(set) if set.contains(&self.node) => Waits::Decision,
                Ok(_) => Waits::Others,
                Err(waits) => waits,
            }
        };
        Progress {
            expected: self.terms.expected.count() as u32,
            there: names,
            waits,
            differing: differing.collect(),
        }
    }

    /// The hosts that are there and were told the same, this one among them.
    fn there(&self) -> BTreeSet<NodeId> {
        let same = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.difference == Some(Ok(())));
        same.map(|(node, _)| *node).chain([self.node]).collect()
    }

    fn named<'a>(&'a self, nodes: &BTreeSet<NodeId>) -> Vec<(NodeId, &'a str)> {
        let name = |node: &NodeId| match self.peers.get(node) {
            Some(peer) => peer.name.as_str(),
            None => self.name.as_str(),
        };
        nodes.iter().map(|node| (*node, name(node))).collect()
    }

    fn is_same(&self, node: &NodeId) -> bool {
        *node == self.node
            || self
                .peers
                .get(node)
                .is_some_and(|peer| peer.difference == Some(Ok(())))
    }

    fn majority(&self) -> usize {
        self.state.set.len() / 2 + 1
    }

    fn has_majority(&self) -> bool {
        let reached = self.state.set.iter().filter(|node| self.is_same(node));
        reached.count() >= self.majority()
    }

    /// True when so many of the own set count themselves to other sets that those left are no majority, and this host has
    /// accepted nothing. Of more hosts than were told each may have begun with others, around a ring: nobody would ever decide.
    /// Whoever has accepted something stays: a majority had bound itself then. So each of two sets that decide has a majority that
    /// stays, as where nobody ever leaves one.
    fn is_hopeless(&self) -> bool {
        let is_elsewhere = |node: &&NodeId| {
            let peer = self.peers.get(node);
            peer.is_some_and(|peer| !peer.set.is_empty() && peer.set != self.state.set)
        };
        let elsewhere = self.state.set.iter().filter(is_elsewhere).count();
        let left = self.state.set.len() - elsewhere;
        !self.state.set.is_empty() && self.state.accepted.is_none() && left < self.majority()
    }

    fn jitter(&mut self, range: Duration) -> Duration {
        Duration::from_nanos(self.rng.next_u64() % (range.as_nanos() as u64).max(1))
    }

    fn say(&mut self, to: NodeId, word: &Word) {
        self.staged.push(AgreementOutput::Send {
            to,
            bytes: codec::encode(word),
        });
    }

    fn say_to_set(&mut self, now: Time, word: &Word) {
        for to in self.state.set.clone() {
            self.reply(now, to, word.clone());
        }
    }

    fn reply(&mut self, now: Time, to: NodeId, word: Word) {
        if to == self.node {
            self.on_word(now, to, word)
        } else if self.peers.contains_key(&to) {
            self.say(to, &word)
        }
    }

    fn own_terms(&self) -> Word {
        Word::Terms {
            terms: self.terms.clone(),
            set: self.state.set.clone(),
        }
    }

    fn on_heard(&mut self, node: NodeId, name: String) {
        if node == self.node || (self.peers.len() >= HEARD_MAX && !self.peers.contains_key(&node)) {
            return;
        }
        // On a new link to the same host its terms come again; until then those of before stand.
        let new = Peer {
            name: String::new(),
            difference: None,
            is_named: false,
            set: Vec::new(),
        };
        self.peers.entry(node).or_insert(new).name = name;
        self.say(node, &self.own_terms());
    }

    fn bind(&mut self, set: Vec<NodeId>) {
        self.state.set = set;
        let peers: Vec<NodeId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.say(peer, &self.own_terms());
        }
    }

    /// True when this host counts itself to `set`, and to no other.
    fn joins(&mut self, set: &[NodeId], proposer: &NodeId) -> bool {
        let is_ok = set.len() == self.terms.expected.count()
            && are_founders(set)
            && set.contains(&self.node)
            && set.contains(proposer)
            && self.is_same(proposer);
        if is_ok && self.state.set.is_empty() {
            self.bind(set.to_vec());
        }
        is_ok && self.state.set == set
    }

    /// True when `ballot` may be promised; otherwise its proposer is told why not.
    fn may_promise(&mut self, ballot: Ballot) -> bool {
        match self.state.promised {
            Some(promised) if promised > ballot => {
                let than = ballot;
                if ballot.proposer != self.node {
                    self.say(ballot.proposer, &Word::Higher { than, promised });
                }
                false
            }
            _ => {
                self.state.promised = Some(ballot);
                true
            }
        }
    }

    fn on_word(&mut self, now: Time, from: NodeId, word: Word) {
        if let Word::Terms { terms, set } = &word {
            self.on_terms(from, terms, set);
        } else if self.gated.len() >= GATED_MAX {
            return;
        }
        if let Some(charter) = self.state.decided.clone() {
            let may_know = charter.genesis.is_founder(&from) && from != self.node;
            if may_know && !matches!(word, Word::Decided { .. }) {
                self.say(from, &Word::Decided { charter });
            }
            return;
        }
        match word {
            Word::Terms { .. } => {}
            Word::Prepare { ballot, set } => {
                if ballot.proposer == from && self.joins(&set, &from) && self.may_promise(ballot) {
                    let accepted = self.state.accepted.clone();
                    self.reply(now, from, Word::Promise { ballot, accepted });
                }
            }
            Word::Accept { ballot, charter } => {
                if ballot.proposer == from
                    && self.terms.allow(&charter.genesis)
                    && self.joins(&charter.genesis.founders, &from)
                    && self.may_promise(ballot)
                {
                    self.state.accepted = Some((ballot, charter));
                    self.reply(now, from, Word::Accepted { ballot });
                }
            }
            Word::Promise { ballot, accepted } => self.on_promise(now, from, ballot, accepted),
            Word::Accepted { ballot } => self.on_accepted(now, from, ballot),
            Word::Higher { than, promised } => self.on_higher(now, than, promised),
            Word::Decided { charter } => self.on_decided(from, charter),
        }
    }

    fn on_terms(&mut self, from: NodeId, terms: &Terms, set: &[NodeId]) {
        if !terms.is_within_bounds() || (!set.is_empty() && !are_founders(set)) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let difference = self.terms.compare(terms, &peer.name);
        peer.set = set.to_vec();
        if let Err(what) = &difference
            && !core::mem::replace(&mut peer.is_named, true)
        {
            self.outputs.push_back(AgreementOutput::Differs {
                name: peer.name.clone(),
                what: what.clone(),
            });
        }
        peer.difference = Some(difference);
    }

    fn on_promise(&mut self, now: Time, from: NodeId, ballot: Ballot, accepted: Option<(Ballot, Charter)>) {
        let majority = self.majority();
        let is_in_set = self.state.set.contains(&from);
        let Some(current) = self
            .current
            .as_mut()
            .filter(|c| c.ballot == ballot && c.value.is_none() && is_in_set)
        else {
            return;
        };
        current.promises.insert(from, accepted);
        if current.promises.len() < majority {
            return;
        }
        let best = current
            .promises
            .values()
            .flatten()
            .max_by_key(|(ballot, _)| *ballot)
            .map(|(_, charter)| charter.clone());
        let charter = best.unwrap_or_else(|| self.new_charter());
        if let Some(current) = &mut self.current {
            current.value = Some(charter.clone());
        }
        self.say_to_set(now, &Word::Accept { ballot, charter });
    }

    /// What this host proposes where nothing was accepted before.
    fn new_charter(&mut self) -> Charter {
        let (mut nonce, mut key) = ([0; 16], [0; 32]);
        self.rng.fill_bytes(&mut nonce);
        self.rng.fill_bytes(&mut key);
        Charter {
            genesis: Genesis {
                founders: self.state.set.clone(),
                nonce,
                range: self.terms.range,
                slot_size: self.terms.slot_size,
            },
            secret: ClusterSecret { number: 1, key },
        }
    }

    fn on_accepted(&mut self, now: Time, from: NodeId, ballot: Ballot) {
        let majority = self.majority();
        let is_in_set = self.state.set.contains(&from);
        let Some(current) = self
            .current
            .as_mut()
            .filter(|current| current.ballot == ballot && is_in_set)
        else {
            return;
        };
        current.accepted.insert(from);
        if current.accepted.len() < majority {
            return;
        }
        let Some(charter) = current.value.clone() else {
            return;
        };
        self.current = None;
        self.state.decided = Some(charter.clone());
        self.say_to_set(now, &Word::Decided { charter });
    }

    fn on_higher(&mut self, now: Time, than: Ballot, promised: Ballot) {
        if self.current.as_ref().is_none_or(|current| current.ballot != than) {
            return;
        }
        self.current = None;
        self.failed += 1;
        let proposer = self.node;
        let round = promised.round.max(than.round);
        self.state.promised = self.state.promised.max(Some(Ballot { round, proposer }));
        self.due = Some(now + RANK_DELAY + self.jitter(self.patience()));
    }

    /// Only the own set decides for this host; one outside of it waits for admission anyway.
    fn on_decided(&mut self, from: NodeId, charter: Charter) {
        let Genesis { founders, .. } = &charter.genesis;
        let is_own = match self.state.set.is_empty() {
            true => are_founders(founders) && founders.contains(&self.node),
            false => self.state.set == *founders,
        };
        if is_own && founders.contains(&from) && self.terms.allow(&charter.genesis) {
            self.state.set = founders.clone();
            self.state.decided = Some(charter);
        }
    }

    /// The set that this host would name now, if it may begin: all are there, and nobody has begun.
    fn choose(&self) -> Option<Vec<NodeId>> {
        if self.peers.values().any(|peer| !peer.set.is_empty()) {
            return None;
        }
        let set = self.terms.expected.choose(&self.named(&self.there())).ok()?;
        (set.contains(&self.node) && are_founders(&set)).then_some(set)
    }

    /// How long a try may take.
    fn patience(&self) -> Duration {
        TRY_TIMEOUT * (1 << self.failed.min(TRY_DOUBLINGS))
    }

    fn advance(&mut self, now: Time) {
        if let Some(charter) = &self.state.decided {
            (self.current, self.due) = (None, None);
            if !core::mem::replace(&mut self.told, true) {
                self.staged.push(AgreementOutput::Decided(charter.clone()));
            }
            return;
        }
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.deadline <= now)
        {
            self.current = None;
            self.failed += 1;
            self.due = Some(now + self.jitter(self.patience()));
        }
        if self.is_hopeless() {
            self.current = None;
            self.bind(Vec::new());
        }
        if self.current.is_some() {
            return;
        }
        let set = if self.state.set.is_empty() {
            let chosen = self.choose();
            if chosen != self.chosen {
                self.chosen = chosen;
                self.due = None;
            }
            self.chosen.clone()
        } else {
            // Without a majority each try would only cost a write.
            self.has_majority().then(|| self.state.set.clone())
        };
        let Some(set) = set else {
            self.due = None;
            return;
        };
        let rank = set.iter().position(|node| *node == self.node).unwrap_or(0) as u32;
        if *self.due.get_or_insert(now + SETTLE + RANK_DELAY * rank) > now {
            return;
        }
        self.due = None;
        if self.state.set.is_empty() {
            self.bind(set);
        }
        self.propose(now);
        if self.state.decided.is_some() {
            self.advance(now);
        }
    }

    fn propose(&mut self, now: Time) {
        let promised = self.state.promised.map_or(0, |ballot| ballot.round);
        let ballot = Ballot {
            round: promised.saturating_add(1),
            proposer: self.node,
        };
        self.current = Some(Try {
            ballot,
            deadline: now + self.patience(),
            promises: BTreeMap::new(),
            value: None,
            accepted: BTreeSet::new(),
        });
        let set = self.state.set.clone();
        self.say_to_set(now, &Word::Prepare { ballot, set });
    }

    fn commit(&mut self) {
        if self.state != self.stored && !self.staged.is_empty() {
            self.issued += 1;
            self.stored = self.state.clone();
            self.outputs.push_back(AgreementOutput::Persist {
                token: self.issued,
                state: Box::new(self.state.clone()),
            });
        }
        for output in core::mem::take(&mut self.staged) {
            self.gated.push_back((self.issued, output));
        }
        while let Some((_, output)) = self.gated.pop_front_if(|(token, _)| *token <= self.durable) {
            self.outputs.push_back(output);
        }
    }
}
