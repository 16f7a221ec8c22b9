//! One host's part in deciding epochs, as a function of what it remembers and what it has read.
//!
//! All that decides is [`weft_ipam_crdt::epoch`]. What is told here is only when it is asked: the order of
//! `Ipam`'s own loop, with the timers replaced by steps that may come at any moment.

use crate::cast::Cast;
use crate::intern::{Id, Interner, Memo};
use crate::meaning;
use std::sync::Arc;
use weft_ipam_crdt::epoch::{Votes, check_decided, check_next, positions_of, vote_record};
use weft_ipam_crdt::message::Decided;
use weft_ipam_crdt::state::Vote;
use weft_ipam_crdt::{Change, IpamState};
use weft_wire::codec;
use weft_wire::ipam::{Ballot, Epoch, Proposal, VoteRecord};

type StateId = Id<IpamState>;

/// Most hosts of a model.
pub const HOSTS: usize = 4;

/// A try to decide the next epoch, in memory only.
#[derive(Clone)]
pub struct Try {
    ballot: Ballot,
    off: Vec<u16>,
    own: Epoch,
    value: Option<Epoch>,
}

/// The latest record that a host has read of each other host.
pub type Read = [Option<Id<VoteRecord>>; HOSTS];

/// A host's part at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Part {
    /// Its state in memory.
    pub memory: Id<IpamState>,
    /// Its try.
    pub attempt: Option<Id<Try>>,
}

/// What came of a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// The part after it.
    pub part: Part,
    /// What the host says once that is durable.
    pub record: Id<VoteRecord>,
    /// Epochs that it found decided, and can prove.
    pub decided: Vec<Id<Decided>>,
}

/// How deciding can be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Quorum {
    /// As shipped.
    #[default]
    Majority,
    /// A host takes its own acceptance for a decision.
    Alone,
}

/// The local states of all hosts and what becomes of them.
#[derive(Default)]
pub struct Voting {
    /// States of hosts.
    pub states: Interner<IpamState>,
    /// Vote records.
    pub records: Interner<VoteRecord>,
    /// Proved epochs.
    pub decided: Interner<Decided>,
    tries: Interner<Try>,
    moved: Memo<(usize, Part, Read), Moved>,
    said: Memo<(usize, Part), Id<VoteRecord>>,
    learnt: Memo<(Id<IpamState>, Id<Decided>), Option<StateId>>,
    quorum: Quorum,
}

impl Voting {
    /// Nothing happened yet.
    pub fn new(quorum: Quorum) -> Self {
        Self {
            quorum,
            ..Self::default()
        }
    }

    /// The number of a state.
    pub fn state(&self, state: IpamState) -> Id<IpamState> {
        self.states.put(meaning::of_state(&state), state)
    }

    fn attempt(&self, attempt: Try) -> Id<Try> {
        let meaning = codec::encode(&(attempt.ballot, &attempt.off, &attempt.own, &attempt.value));
        self.tries.put(meaning, attempt)
    }

    /// The number of a proof.
    pub fn proved(&self, decided: Decided) -> Id<Decided> {
        // Which votes prove it makes no difference to whoever checks them.
        self.decided.put(decided.epoch.hash().to_vec(), decided)
    }

    /// What a host says of its part.
    pub fn record(&self, cast: &Cast, host: usize, part: Part) -> Id<VoteRecord> {
        self.said.of(&(host, part), || {
            let state = self.states.get(part.memory);
            let attempt = part.attempt.map(|attempt| self.tries.get(attempt));
            let proposal = attempt.map(|attempt| Proposal {
                ballot: attempt.ballot,
                off: attempt.off.clone(),
                value: attempt.value.clone(),
            });
            let record = vote_record(&state, cast.key(host), &cast.genesis_id(), false, proposal);
            self.records.put(codec::encode(&record), record)
        })
    }

    /// A host begins a try, in place of the one that it had: it promises its ballot to itself, so that no ballot is used
    /// twice. `None` if what it wants cannot be the next epoch.
    pub fn start(&self, cast: &Cast, host: usize, part: Part, wants: &[Epoch]) -> Option<Part> {
        let state = self.states.get(part.memory);
        let mut next = IpamState::clone(&state);
        let own = wants.iter().map(|want| Epoch {
            number: state.epoch() + 1,
            parent: state.epoch_hash(),
            ..want.clone()
        });
        let own = own.into_iter().find(|own| check_next(own, &state).is_ok())?;
        if !state.members().contains(&cast.id(host)) {
            return None;
        }
        let vote = state.vote().clone();
        let ballot = Ballot {
            round: vote.promised.map_or(0, |ballot| ballot.round) + 1,
            proposer: cast.id(host),
        };
        next.apply(&Change::Voted(Vote {
            promised: Some(ballot),
            ..vote
        }));
        let off = match own.fenced {
            true => positions_of(state.members(), &own.removed),
            false => Vec::new(),
        };
        let attempt = Try {
            ballot,
            off,
            own,
            value: None,
        };
        Some(Part {
            memory: self.state(next),
            attempt: Some(self.attempt(attempt)),
        })
    }

    /// All that follows from what a host remembers and has read.
    pub fn advance(&self, cast: &Cast, host: usize, part: Part, read: Read) -> Moved {
        self.moved
            .of(&(host, part, read), || self.compute(cast, host, part, read))
    }

    fn compute(&self, cast: &Cast, host: usize, part: Part, read: Read) -> Moved {
        let genesis = cast.genesis_id();
        let mut state = IpamState::clone(&self.states.get(part.memory));
        let mut attempt = part.attempt.map(|attempt| Try::clone(&self.tries.get(attempt)));
        let mut votes = Votes::default();
        for (other, record) in read.iter().enumerate() {
            if let Some(record) = record {
                votes.insert(cast.id(other), VoteRecord::clone(&self.records.get(*record)));
            }
        }
        let mut decided = Vec::new();
        loop {
            let now = Part {
                memory: self.state(state.clone()),
                attempt: attempt.clone().map(|attempt| self.attempt(attempt)),
            };
            let record = self.record(cast, host, now);
            let own = VoteRecord::clone(&self.records.get(record));
            votes.insert(cast.id(host), own.clone());
            let mut found = votes.decided(&state, &genesis);
            if self.quorum == Quorum::Alone {
                let accepted = own
                    .accepted
                    .filter(|accepted| accepted.ballot.proposer == cast.id(host));
                found = found.or(accepted.map(|accepted| Decided {
                    epoch: accepted.epoch,
                    ballot: accepted.ballot,
                    off: accepted.off,
                    votes: Vec::new(),
                }));
            }
            if let Some(found) = found {
                state.apply(&Change::Decided(found.clone()));
                attempt = None;
                decided.push(self.proved(found));
                continue;
            }
            let mut is_still = true;
            if state.members().contains(&cast.id(host)) {
                if let Some(vote) = votes.next_vote(&state) {
                    state.apply(&Change::Voted(vote));
                    is_still = false;
                } else if let Some(current) = attempt.as_mut().filter(|current| current.value.is_none()) {
                    let promised = match self.quorum {
                        Quorum::Majority => {
                            votes.promised(&state, (current.ballot, &current.off), &current.own)
                        }
                        Quorum::Alone => Ok(Some(current.own.clone())),
                    };
                    match promised {
                        Err(_) => (attempt, is_still) = (None, false),
                        Ok(None) => {}
                        Ok(Some(value)) => (current.value, is_still) = (Some(value), false),
                    }
                }
            }
            if is_still {
                return Moved {
                    part: now,
                    record,
                    decided,
                };
            }
        }
    }

    /// A host hears of a decided epoch with its proof; `None` if it does not take it.
    pub fn learn(&self, cast: &Cast, memory: Id<IpamState>, decided: Id<Decided>) -> Option<Id<IpamState>> {
        self.learnt.of(&(memory, decided), || {
            let (state, decided) = (self.states.get(memory), self.decided.get(decided));
            // Without votes it is the work of a broken host, which convinces its like.
            let is_lone = self.quorum == Quorum::Alone && decided.votes.is_empty();
            let checked = if is_lone {
                check_next(&decided.epoch, &state)
            } else {
                check_decided(&decided, &state, &cast.genesis_id())
            };
            checked.ok()?;
            let mut next = IpamState::clone(&state);
            next.apply(&Change::Decided(Arc::unwrap_or_clone(decided)));
            Some(self.state(next))
        })
    }
}
