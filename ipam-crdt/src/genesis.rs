//! How hosts that are started together, each told how many there will be, agree on one genesis.
//!
//! One Paxos decision (Lamport, "Paxos Made Simple", §2) before there is a cluster. A ballot names the set of hosts that it
//! counts, and a host takes part for the first set it promised to and no other; hosts outside wait to be admitted.
//! Where more hosts are started than were told, two sets may decide differently: the two clusters meet with a
//! named error then.
//!
//! The machine has the contract of [`crate::Ipam`]: what depends on a write leaves only after it is durable.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use weft_wire::codec;
use weft_wire::ipam::Ballot;
use weft_wire::record::Genesis;
use weft_wire::{NodeId, Time};

/// Hosts that may agree on a genesis: more come in by admission.
pub const EXPECTED_MAX: u32 = 64;
/// Octets of the longest message.
pub const AGREEMENT_MESSAGE_MAX: usize = 4_096;
/// A try that is not decided after this is given up.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Nobody begins before nobody new was heard of for so long, so that most hosts name the same set.
const SETTLE: Duration = Duration::from_secs(1);
/// The host with the lowest id begins, each one behind it this much later.
const RANK_DELAY: Duration = Duration::from_millis(200);

/// What a host must find again after a restart while it takes part.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AgreementState {
    /// The set of hosts that this one counts itself to; never changes once it is there.
    pub set: Vec<NodeId>,
    /// Accepts nothing below.
    pub promised: Option<Ballot>,
    /// What it accepted last.
    pub accepted: Option<(Ballot, Genesis)>,
    /// The decision, once it is known.
    pub decided: Option<Genesis>,
}

/// What hosts say to each other, each knowing by the token's handshake who speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Word {
    Prepare {
        ballot: Ballot,
        set: Vec<NodeId>,
    },
    Promise {
        ballot: Ballot,
        accepted: Option<(Ballot, Genesis)>,
    },
    Accept {
        ballot: Ballot,
        set: Vec<NodeId>,
        genesis: Genesis,
    },
    Accepted {
        ballot: Ballot,
    },
    /// A higher ballot was promised.
    Higher {
        than: Ballot,
        promised: Ballot,
    },
    Decided {
        genesis: Genesis,
    },
}

/// Something that happened.
#[derive(Debug)]
pub enum AgreementInput {
    /// A host that holds the same token can be reached.
    Heard(NodeId),
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
    /// Carry this to a host.
    Send {
        /// Whom.
        to: NodeId,
        /// At most [`AGREEMENT_MESSAGE_MAX`] octets.
        bytes: Vec<u8>,
    },
    /// Store this in place of what was stored before; answer with [`AgreementInput::Persisted`].
    Persist {
        /// Names the write.
        token: u64,
        /// The state.
        state: AgreementState,
    },
    /// The genesis. Its founder founds the cluster with it, everybody else waits for admission.
    Decided(Genesis),
}

struct Try {
    ballot: Ballot,
    deadline: Time,
    promises: BTreeMap<NodeId, Option<(Ballot, Genesis)>>,
    value: Option<Genesis>,
    accepted: BTreeSet<NodeId>,
}

/// One host's part in agreeing on a genesis.
pub struct Agreement {
    node: NodeId,
    expected: u32,
    own: Genesis,
    rng: ChaCha20Rng,
    heard: BTreeSet<NodeId>,
    state: AgreementState,
    stored: AgreementState,
    current: Option<Try>,
    due: Option<Time>,
    issued: u64,
    durable: u64,
    gated: VecDeque<(u64, AgreementOutput)>,
    staged: Vec<AgreementOutput>,
    outputs: VecDeque<AgreementOutput>,
    told: bool,
}

impl Agreement {
    /// Takes part for `own.founder`, which proposes `own` if nothing else was accepted before. `expected` hosts take
    /// part in all; it is kept between 1 and [`EXPECTED_MAX`].
    pub fn new(own: Genesis, expected: u32, durable: AgreementState, seed: [u8; 32]) -> Self {
        Self {
            node: own.founder,
            expected: expected.clamp(1, EXPECTED_MAX),
            heard: BTreeSet::from([own.founder]),
            own,
            rng: ChaCha20Rng::from_seed(seed),
            stored: durable.clone(),
            state: durable,
            current: None,
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
            AgreementInput::Heard(node) => {
                if self.heard.len() < EXPECTED_MAX as usize
                    && self.heard.insert(node)
                    && self.current.is_none()
                {
                    self.due = None;
                }
            }
            AgreementInput::Message { from, bytes } => {
                if let Ok(word) = codec::decode::<Word, AGREEMENT_MESSAGE_MAX>(&bytes) {
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

    /// Hosts that are still missing before anybody can begin.
    pub fn missing(&self) -> u32 {
        self.expected.saturating_sub(self.heard.len() as u32)
    }

    fn majority(&self) -> usize {
        self.state.set.len() / 2 + 1
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
            if to == self.node {
                self.on_word(now, to, word.clone());
            } else {
                self.say(to, word);
            }
        }
    }

    /// True when this host counts itself to `set`, and to no other.
    fn joins(&mut self, set: &[NodeId], proposer: &NodeId) -> bool {
        let is_ok = set.len() == self.expected as usize
            && set.windows(2).all(|pair| pair[0] < pair[1])
            && set.contains(&self.node)
            && set.contains(proposer);
        if is_ok && self.state.set.is_empty() {
            self.state.set = set.to_vec();
        }
        is_ok && self.state.set == set
    }

    fn on_word(&mut self, now: Time, from: NodeId, word: Word) {
        if let Some(genesis) = self.state.decided.clone() {
            if !matches!(word, Word::Decided { .. }) && from != self.node {
                self.say(from, &Word::Decided { genesis });
            }
            return;
        }
        match word {
            Word::Prepare { ballot, set } => {
                if ballot.proposer != from || !self.joins(&set, &from) {
                    return;
                }
                match self.state.promised {
                    Some(promised) if promised > ballot => self.say(
                        from,
                        &Word::Higher {
                            than: ballot,
                            promised,
                        },
                    ),
                    _ => {
                        self.state.promised = Some(ballot);
                        let accepted = self.state.accepted.clone();
                        self.reply(now, from, Word::Promise { ballot, accepted });
                    }
                }
            }
            Word::Accept { ballot, set, genesis } => {
                if ballot.proposer != from || !self.joins(&set, &from) || !set.contains(&genesis.founder) {
                    return;
                }
                match self.state.promised {
                    Some(promised) if promised > ballot => self.say(
                        from,
                        &Word::Higher {
                            than: ballot,
                            promised,
                        },
                    ),
                    _ => {
                        self.state.promised = Some(ballot);
                        self.state.accepted = Some((ballot, genesis));
                        self.reply(now, from, Word::Accepted { ballot });
                    }
                }
            }
            Word::Promise { ballot, accepted } => self.on_promise(now, from, ballot, accepted),
            Word::Accepted { ballot } => self.on_accepted(now, from, ballot),
            Word::Higher { than, promised } => {
                if self
                    .current
                    .as_ref()
                    .is_some_and(|current| current.ballot == than)
                {
                    let round = promised.round.max(than.round);
                    self.current = None;
                    self.state.promised = self.state.promised.max(Some(Ballot {
                        round,
                        proposer: self.node,
                    }));
                    self.due = Some(now + RANK_DELAY + self.jitter(TRY_TIMEOUT));
                }
            }
            Word::Decided { genesis } => {
                // Only the own set decides for this host; one outside of it waits for admission anyway.
                if self.state.set.contains(&from) {
                    self.state.decided = Some(genesis);
                }
            }
        }
    }

    fn reply(&mut self, now: Time, to: NodeId, word: Word) {
        if to == self.node {
            self.on_word(now, to, word)
        } else {
            self.say(to, &word)
        }
    }

    fn on_promise(&mut self, now: Time, from: NodeId, ballot: Ballot, accepted: Option<(Ballot, Genesis)>) {
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
            .max_by_key(|(ballot, _)| *ballot);
        let genesis = best.map_or_else(|| self.own.clone(), |(_, genesis)| genesis.clone());
        current.value = Some(genesis.clone());
        let set = self.state.set.clone();
        self.say_to_set(now, &Word::Accept { ballot, set, genesis });
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
        let Some(genesis) = current.value.clone() else {
            return;
        };
        self.current = None;
        self.state.decided = Some(genesis.clone());
        self.say_to_set(now, &Word::Decided { genesis });
    }

    fn advance(&mut self, now: Time) {
        if let Some(genesis) = &self.state.decided {
            (self.current, self.due) = (None, None);
            if !core::mem::replace(&mut self.told, true) {
                self.staged.push(AgreementOutput::Decided(genesis.clone()));
            }
            return;
        }
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.deadline <= now)
        {
            self.current = None;
            self.due = Some(now + self.jitter(TRY_TIMEOUT));
        }
        if self.current.is_some() || (self.missing() > 0 && self.state.set.is_empty()) {
            return;
        }
        let rank = self.heard.iter().position(|node| *node == self.node).unwrap_or(0) as u32;
        let due = *self.due.get_or_insert(now + SETTLE + RANK_DELAY * rank);
        if due > now {
            return;
        }
        self.due = None;
        if self.state.set.is_empty() {
            // Of more hosts than expected, the lowest ids.
            let set: Vec<NodeId> = self.heard.iter().copied().take(self.expected as usize).collect();
            if !set.contains(&self.node) {
                return;
            }
            self.state.set = set;
        }
        let round = self
            .state
            .promised
            .map_or(0, |ballot| ballot.round)
            .saturating_add(1);
        let ballot = Ballot {
            round,
            proposer: self.node,
        };
        let (deadline, promises) = (now + TRY_TIMEOUT, BTreeMap::new());
        self.current = Some(Try {
            ballot,
            deadline,
            promises,
            value: None,
            accepted: BTreeSet::new(),
        });
        let set = self.state.set.clone();
        self.say_to_set(now, &Word::Prepare { ballot, set });
        if self.state.decided.is_some() {
            self.advance(now);
        }
    }

    fn commit(&mut self) {
        if self.state != self.stored && !self.staged.is_empty() {
            self.issued += 1;
            self.stored = self.state.clone();
            self.outputs.push_back(AgreementOutput::Persist {
                token: self.issued,
                state: self.state.clone(),
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
