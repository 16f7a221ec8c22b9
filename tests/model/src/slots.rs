//! One slot that changes hands, as functions of what a host remembers and what has reached it.
//!
//! All that decides is [`weft_ipam_crdt::rules`], and [`Pool`] says who may allocate. What is told here is in which
//! order `Ipam` asks them. Signatures of grants need no check: nobody in these models forges any.

use crate::cast::Cast;
use crate::intern::{Id, Interner, Memo};
use crate::voting::Voting;
use std::sync::Arc;
use weft_ipam_crdt::pool::Pool;
use weft_ipam_crdt::reclaim::is_reclaim_signed;
use weft_ipam_crdt::rules;
use weft_ipam_crdt::table::Register;
use weft_ipam_crdt::{Change, IpamState};
use weft_wire::NodeId;
use weft_wire::codec;
use weft_wire::ipam::{Grant, SlotRun, Version};
use weft_wire::reclaim::{Proof, Reclaim, reclaim_message};

/// The slot that is watched; of the others nothing is ever said. With slots of one address, also the address.
pub const SLOT: u32 = 3;

type StateId = Id<IpamState>;

/// A grant as it is sent: with the proofs behind it.
pub struct Sent {
    /// The grant.
    pub grant: Grant,
    chain: Vec<Proof>,
}

/// What a message has made of its recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Its state afterwards.
    pub memory: StateId,
    /// It has met its own signature under something that it does not remember.
    pub is_frozen: bool,
}

/// Hosts that have said, in a time when they knew of the last removal, that the slot is not theirs: one bit each.
pub type Disowned = u8;

/// What becomes of states when the slot moves.
pub struct Slots {
    cast: Arc<Cast>,
    states: Arc<Voting>,
    /// Grants that were signed.
    pub sent: Interner<Sent>,
    given: Memo<(usize, StateId, usize), Option<StateId>>,
    sends: Memo<StateId, Vec<Id<Sent>>>,
    taken: Memo<(usize, StateId, Id<Sent>), Option<Taken>>,
    accepted: Memo<(StateId, Id<Sent>), Option<StateId>>,
    /// Reclaims with their signatures.
    pub reclaims: Interner<Reclaim>,
    reclaimed: Memo<(usize, StateId), Option<StateId>>,
    own_reclaim: Memo<StateId, Option<Id<Reclaim>>>,
    heard: Memo<(StateId, Id<Reclaim>), Option<StateId>>,
    signed: Memo<(usize, StateId, Disowned), Option<StateId>>,
    promised: Memo<StateId, Version>,
    settled: Memo<(StateId, Id<Sent>), bool>,
    wants: Memo<(usize, StateId, Disowned), bool>,
    allocates: Memo<(usize, StateId), bool>,
    registers: Memo<StateId, (Version, usize)>,
    version_of: Memo<Id<Sent>, Version>,
    removal: Memo<StateId, u32>,
}

fn run(version: Version) -> SlotRun {
    SlotRun {
        first: SLOT,
        count: 1,
        version,
    }
}

fn owned(owner: NodeId, run: SlotRun) -> Change {
    Change::Slots {
        run,
        owner,
        is_frozen: false,
    }
}

/// The slot's register.
pub fn register(state: &IpamState) -> Register {
    state.table().get(SLOT).expect("the range has eight slots")
}

impl Slots {
    /// Nothing happened yet.
    pub fn new(cast: Arc<Cast>, states: Arc<Voting>) -> Self {
        Self {
            cast,
            states,
            sent: Interner::default(),
            given: Memo::default(),
            sends: Memo::default(),
            taken: Memo::default(),
            accepted: Memo::default(),
            reclaims: Interner::default(),
            reclaimed: Memo::default(),
            own_reclaim: Memo::default(),
            heard: Memo::default(),
            signed: Memo::default(),
            promised: Memo::default(),
            settled: Memo::default(),
            wants: Memo::default(),
            allocates: Memo::default(),
            registers: Memo::default(),
            version_of: Memo::default(),
            removal: Memo::default(),
        }
    }

    /// The slot's version in a state, and its owner.
    pub fn register(&self, memory: StateId) -> (Version, usize) {
        self.registers.of(&memory, || {
            let register = register(&self.states.states.get(memory));
            (register.version, self.cast.host(&register.owner))
        })
    }

    /// The version that a grant gives.
    pub fn version_of(&self, sent: Id<Sent>) -> Version {
        self.version_of
            .of(&sent, || self.sent.get(sent).grant.runs[0].version)
    }

    /// Number of the latest epoch that removed anybody, by a state.
    pub fn last_removal(&self, memory: StateId) -> u32 {
        self.removal
            .of(&memory, || rules::last_removal(&self.states.states.get(memory)))
    }

    fn changed(&self, state: &IpamState, changes: impl IntoIterator<Item = Change>) -> StateId {
        let mut next = state.clone();
        for change in changes {
            next.apply(&change);
        }
        self.states.state(next)
    }

    /// A host signs the slot over to another one; `None` if it may not. With `is_lax` it does so for one that is in
    /// no epoch.
    pub fn give(&self, host: usize, memory: StateId, to: usize, is_lax: bool) -> Option<StateId> {
        self.given.of(&(host, memory, to), || {
            let state = self.states.states.get(memory);
            let Register { version, owner, .. } = register(&state);
            let (cast, size) = (&self.cast, self.cast.space().slot_size());
            let runs = if is_lax && !state.members().contains(&cast.id(to)) {
                let (epoch, seq) = (state.epoch(), version.seq + 1);
                (owner == cast.id(host)).then(|| vec![run(Version { epoch, seq })])?
            } else {
                rules::grantable(&state, &cast.id(host), &cast.id(to), size, &[run(version)]).ok()?
            };
            let grant = Grant::sign(cast.key(host), &cast.genesis_id(), cast.id(to), runs);
            Some(self.changed(&state, rules::granted(&grant)))
        })
    }

    /// What a host with this state sends: the grants that are under way, each with its proofs.
    pub fn sends(&self, memory: StateId) -> Vec<Id<Sent>> {
        self.sends.of(&memory, || {
            let state = self.states.states.get(memory);
            let given = state.given().values();
            let chain = state.chain();
            let sent = given.map(|grant| {
                let others = state.given().values().filter(|other| *other != grant);
                let known = chain.values().cloned().chain(others.cloned().map(Proof::Grant));
                let needed = known.filter(|proof| {
                    proof.covers(&grant.runs) && !rules::is_spent(proof, &grant.runs, chain.values())
                });
                let mut chain: Vec<Proof> = needed.collect();
                chain.sort_by_key(|proof| proof.runs()[0].version);
                let sent = Sent {
                    grant: grant.clone(),
                    chain,
                };
                self.sent.put(codec::encode(&(grant, &sent.chain)), sent)
            });
            sent.collect()
        })
    }

    /// A grant reaches a host with its proofs; `None` if it changes nothing. With `is_lax` it is taken by one that is in
    /// no epoch.
    pub fn take(&self, host: usize, memory: StateId, sent: Id<Sent>, is_lax: bool) -> Option<Taken> {
        self.taken.of(&(host, memory, sent), || {
            let (state, sent) = (self.states.states.get(memory), self.sent.get(sent));
            let node = self.cast.id(host);
            let is_later = register(&state).version < sent.grant.runs[0].version;
            if is_lax && sent.grant.to == node && !state.members().contains(&node) && is_later {
                let memory = self.changed(&state, [owned(node, sent.grant.runs[0])]);
                return Some(Taken {
                    memory,
                    is_frozen: false,
                });
            }
            let (next, is_frozen) = self.merge(node, &state, &sent);
            let memory = self.states.state(next);
            (register(&state) != register(&self.states.states.get(memory)))
                .then_some(Taken { memory, is_frozen })
        })
    }

    /// Takes every proof that is the next step, until none is left.
    fn merge(&self, node: NodeId, state: &IpamState, sent: &Sent) -> (IpamState, bool) {
        let (mut state, mut is_frozen) = (state.clone(), false);
        let mut proofs = sent.chain.clone();
        proofs.push(Proof::Grant(sent.grant.clone()));
        loop {
            let mut changes: Vec<Change> = Vec::new();
            for proof in &proofs {
                match proof {
                    Proof::Grant(grant) => {
                        let steps = rules::next_steps(&state, &node, grant);
                        let known: Vec<&Proof> = proofs.iter().chain(state.chain().values()).collect();
                        let runs = state.table().runs_of(&node).len();
                        let is_mine = grant.to == node;
                        if steps.is_empty() || (is_mine && !rules::can_take(&state, runs, grant, &known)) {
                            continue;
                        }
                        is_frozen |= grant.from == node;
                        let kept: Vec<&Proof> = proofs
                            .iter()
                            .filter(|other| is_mine && other.covers(&grant.runs))
                            .collect();
                        changes = rules::taken(&state, grant, &steps, &kept);
                    }
                    Proof::Reclaim(reclaim) => {
                        let mut steps = rules::reclaim_steps(&state, reclaim);
                        if !is_reclaim_signed(reclaim, &state, &self.cast.genesis_id()) {
                            steps.clear();
                        }
                        is_frozen |= !steps.is_empty() && reclaim.to == node;
                        changes = steps.into_iter().map(|step| owned(reclaim.to, step)).collect();
                    }
                }
                if !changes.is_empty() {
                    break;
                }
            }
            if changes.is_empty() {
                return (state, is_frozen);
            }
            for change in changes {
                state.apply(&change);
            }
        }
    }

    /// The donor of a grant hears that its recipient has it; `None` if that is no news.
    pub fn hear_accepted(&self, memory: StateId, sent: Id<Sent>) -> Option<StateId> {
        self.accepted.of(&(memory, sent), || {
            let (state, id) = (self.states.states.get(memory), self.sent.get(sent).grant.id());
            let is_open = state.given().contains_key(&id);
            is_open.then(|| self.changed(&state, [Change::Accepted(id)]))
        })
    }

    /// True when a host, by what it knows, is to take the slot back.
    pub fn wants(&self, host: usize, memory: StateId, disowned: Disowned) -> bool {
        self.wants.of(&(host, memory, disowned), || {
            let state = self.states.states.get(memory);
            let node = self.cast.id(host);
            let claims = |other: &NodeId| self.claim(other, disowned);
            let orphans = rules::orphans(&state, &node, &claims);
            let is_orphan = orphans.iter().any(|run| run.slots().contains(&SLOT));
            rules::reclaimer_at(&state, state.epoch()) == Some(node)
                && state.members().contains(&node)
                && is_orphan
        })
    }

    fn claim(&self, host: &NodeId, disowned: Disowned) -> Option<&'static [SlotRun]> {
        let is_disowned = disowned & (1 << self.cast.host(host)) != 0;
        is_disowned.then_some(&[])
    }

    /// What a member that is asked about the slot makes durable before it signs that it may be taken back; `None` if it
    /// does not sign.
    pub fn sign(&self, host: usize, memory: StateId, disowned: Disowned) -> Option<StateId> {
        self.signed.of(&(host, memory, disowned), || {
            let state = self.states.states.get(memory);
            let node = self.cast.id(host);
            let claims = |other: &NodeId| self.claim(other, disowned);
            let asked = [run(Version {
                epoch: state.epoch(),
                seq: 0,
            })];
            let is_ok = state.members().contains(&node)
                && rules::judge_reclaim(&state, &node, &asked, &claims).is_ok();
            is_ok.then(|| self.changed(&state, rules::signed(&state, &asked)))
        })
    }

    /// Below this version a state takes no grant of the slot any longer, and has signed so.
    pub fn promised(&self, memory: StateId) -> Version {
        self.promised
            .of(&memory, || self.states.states.get(memory).promised(SLOT))
    }

    /// True when nothing will come of a grant to a host with this state any more: it tells the donor so.
    pub fn is_settled(&self, memory: StateId, sent: Id<Sent>) -> bool {
        self.settled.of(&(memory, sent), || {
            let sent = self.sent.get(sent);
            rules::is_settled(&self.states.states.get(memory), &sent.grant.runs)
        })
    }

    /// A reclaimer has what it needs and takes the slot, with the signatures of all members of its epoch. A rest of the
    /// slot is over at once: to wait longer only makes less possible.
    pub fn reclaim(&self, host: usize, memory: StateId) -> Option<StateId> {
        self.reclaimed.of(&(host, memory), || {
            let state = self.states.states.get(memory);
            let (to, epoch) = (self.cast.id(host), state.epoch());
            let runs = vec![run(Version { epoch, seq: 0 })];
            let message = reclaim_message(&self.cast.genesis_id(), &state.epoch_hash(), &to, &runs);
            let votes = state.members().iter().zip(0u16..).map(|(member, position)| {
                let key = self.cast.key(self.cast.host(member));
                (position, key.sign(&message).into())
            });
            let votes = votes.collect();
            let reclaim = Reclaim { to, runs, votes };
            rules::reclaim_steps(&state, &reclaim).first()?;
            let over = Change::Rest {
                first: SLOT,
                count: 1,
                rests: false,
            };
            let changes = rules::reclaimed(&state, &reclaim, &[]);
            Some(self.changed(&state, changes.into_iter().chain([over])))
        })
    }

    /// The reclaim by which a host with this state owns the slot.
    pub fn own_reclaim(&self, memory: StateId) -> Option<Id<Reclaim>> {
        self.own_reclaim.of(&memory, || {
            let state = self.states.states.get(memory);
            let version = register(&state).version;
            let mut reclaims = state.chain().values().filter_map(|proof| match proof {
                Proof::Reclaim(reclaim) if reclaim.runs[0].version == version => Some(reclaim),
                _ => None,
            });
            let reclaim = reclaims.next()?;
            Some(self.reclaims.put(codec::encode(reclaim), reclaim.clone()))
        })
    }

    /// The version that a reclaim gives.
    pub fn reclaimed_at(&self, reclaim: Id<Reclaim>) -> Version {
        self.reclaims.get(reclaim).runs[0].version
    }

    /// A reclaim of another host reaches a host; `None` if it changes nothing.
    pub fn hear_reclaim(&self, memory: StateId, reclaim: Id<Reclaim>) -> Option<StateId> {
        self.heard.of(&(memory, reclaim), || {
            let (state, reclaim) = (self.states.states.get(memory), self.reclaims.get(reclaim));
            let step = *rules::reclaim_steps(&state, &reclaim).first()?;
            let is_signed = is_reclaim_signed(&reclaim, &state, &self.cast.genesis_id());
            is_signed.then(|| self.changed(&state, [owned(reclaim.to, step)]))
        })
    }

    /// A host makes itself the owner, as a takeover without agreement does.
    pub fn seize(&self, host: usize, memory: StateId) -> StateId {
        let state = self.states.states.get(memory);
        let Version { epoch, seq } = register(&state).version;
        let run = run(Version { epoch, seq: seq + 1 });
        self.changed(&state, [owned(self.cast.id(host), run)])
    }

    /// True when a host would give the slot's address to a pod.
    pub fn allocates(&self, host: usize, memory: StateId) -> bool {
        self.allocates.of(&(host, memory), || {
            let state = self.states.states.get(memory);
            let node = self.cast.id(host);
            // A host that knows that it was removed gives nothing out any longer.
            !state.gone().contains_key(&node)
                && Pool::of(node, self.cast.space(), &state).is_free(SLOT, &state)
        })
    }
}
