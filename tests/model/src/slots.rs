//! One slot that changes hands, as functions of what a host remembers and what has reached it.
//!
//! All that decides is [`weft_ipam_crdt::rules`], and [`Pool`] says who may allocate.

use crate::cast::Cast;
use crate::intern::{Id, Interner, Memo};
use crate::voting::Voting;
use weft_ipam_crdt::pool::Pool;
use weft_ipam_crdt::rules;
use weft_ipam_crdt::table::Register;
use weft_ipam_crdt::{Change, IpamState};
use weft_wire::codec;
use weft_wire::ipam::{Grant, SlotRun, Version};

/// The slot that is watched; of the others nothing is ever said. With slots of one address, also the address.
pub const SLOT: u32 = 3;

type StateId = Id<IpamState>;
/// The donor's state afterwards, and what it signed.
type Given = Option<(StateId, Id<Grant>)>;

/// What becomes of states when the slot moves.
#[derive(Default)]
pub struct Slots {
    /// Grants that were signed.
    pub grants: Interner<Grant>,
    given: Memo<(usize, StateId, usize), Given>,
    taken: Memo<(usize, StateId, Id<Grant>), Option<StateId>>,
    accepted: Memo<(usize, StateId, Id<Grant>), Option<StateId>>,
    allocates: Memo<(usize, StateId), bool>,
    owns: Memo<(usize, StateId), bool>,
}

impl Slots {
    /// The slot's register.
    pub fn register(state: &IpamState) -> Register {
        state.table().get(SLOT).expect("the range has eight slots")
    }

    /// The number of a grant.
    pub fn known(&self, grant: &Grant) -> Id<Grant> {
        self.grants.put(codec::encode(grant), grant.clone())
    }

    /// True when the slot is a host's own, by what it remembers.
    pub fn owns(&self, cast: &Cast, states: &Voting, host: usize, memory: StateId) -> bool {
        self.owns.of(&(host, memory), || {
            Self::register(&states.states.get(memory)).owner == cast.id(host)
        })
    }

    fn run(version: Version) -> SlotRun {
        SlotRun {
            first: SLOT,
            count: 1,
            version,
        }
    }

    fn grant(&self, cast: &Cast, host: usize, to: usize, version: Version) -> Grant {
        Grant::sign(
            cast.key(host),
            &cast.genesis_id(),
            cast.id(to),
            vec![Self::run(version)],
        )
    }

    /// A host signs the slot over to another one; `None` if it may not.
    pub fn give(&self, cast: &Cast, states: &Voting, host: usize, memory: StateId, to: usize) -> Given {
        self.given.of(&(host, memory, to), || {
            let state = states.states.get(memory);
            let held = [Self::run(Self::register(&state).version)];
            let (node, size) = (cast.id(host), cast.space().slot_size());
            let runs = rules::grantable(&state, &node, &cast.id(to), size, &held).ok()?;
            let grant = self.grant(cast, host, to, runs.first()?.version);
            Some(self.signed(states, &state, grant))
        })
    }

    /// A host signs the slot over to one that is in no epoch.
    pub fn give_to_stranger(
        &self,
        cast: &Cast,
        states: &Voting,
        host: usize,
        memory: StateId,
        to: usize,
    ) -> Given {
        self.given.of(&(host, memory, to), || {
            let state = states.states.get(memory);
            let Register { version, owner, .. } = Self::register(&state);
            let next = Version {
                epoch: state.epoch(),
                seq: version.seq + 1,
            };
            let grant = self.grant(cast, host, to, next);
            (owner == cast.id(host)).then(|| self.signed(states, &state, grant))
        })
    }

    fn signed(&self, states: &Voting, state: &IpamState, grant: Grant) -> (StateId, Id<Grant>) {
        let mut next = state.clone();
        for change in rules::granted(&grant) {
            next.apply(&change);
        }
        (states.state(next), self.known(&grant))
    }

    /// A grant reaches a host; `None` if it changes nothing.
    pub fn take(
        &self,
        cast: &Cast,
        states: &Voting,
        host: usize,
        memory: StateId,
        grant: Id<Grant>,
    ) -> Option<StateId> {
        self.taken.of(&(host, memory, grant), || {
            let (state, grant) = (states.states.get(memory), self.grants.get(grant));
            let steps = rules::next_steps(&state, &cast.id(host), &grant);
            if steps.is_empty() {
                return None;
            }
            let mut next = IpamState::clone(&state);
            // Proofs decide nothing here: whatever was sent can be had again.
            for change in rules::taken(&state, &grant, &steps, &[]) {
                next.apply(&change);
            }
            Some(states.state(next))
        })
    }

    /// A host that is in no epoch takes a grant all the same.
    pub fn take_as_stranger(
        &self,
        cast: &Cast,
        states: &Voting,
        host: usize,
        memory: StateId,
        grant: Id<Grant>,
    ) -> Option<StateId> {
        let grant = self.grants.get(grant);
        let state = states.states.get(memory);
        let run = *grant.runs.first()?;
        let is_mine = grant.to == cast.id(host) && Self::register(&state).version < run.version;
        is_mine.then(|| self.owned(states, &state, grant.to, run))
    }

    fn owned(&self, states: &Voting, state: &IpamState, owner: weft_wire::NodeId, run: SlotRun) -> StateId {
        let mut next = state.clone();
        next.apply(&Change::Slots {
            run,
            owner,
            is_frozen: false,
        });
        states.state(next)
    }

    /// True when this state holds what the grant gave, or something later: its owner says so to the donor.
    pub fn has(&self, states: &Voting, durable: StateId, grant: Id<Grant>) -> bool {
        let (state, grant) = (states.states.get(durable), self.grants.get(grant));
        let version = Self::register(&state).version;
        grant.runs.iter().all(|run| version >= run.version)
    }

    /// The donor of a grant hears that its recipient has it; `None` if that is no news.
    pub fn hear_accepted(
        &self,
        states: &Voting,
        host: usize,
        memory: StateId,
        grant: Id<Grant>,
    ) -> Option<StateId> {
        self.accepted.of(&(host, memory, grant), || {
            let (state, grant) = (states.states.get(memory), self.grants.get(grant));
            let id = grant.id();
            state.given().contains_key(&id).then(|| {
                let mut next = IpamState::clone(&state);
                next.apply(&Change::Accepted(id));
                states.state(next)
            })
        })
    }

    /// A host makes itself the owner, as a takeover without agreement does.
    pub fn seize(&self, cast: &Cast, states: &Voting, host: usize, memory: StateId) -> StateId {
        let state = states.states.get(memory);
        let Version { epoch, seq } = Self::register(&state).version;
        let run = Self::run(Version { epoch, seq: seq + 1 });
        self.owned(states, &state, cast.id(host), run)
    }

    /// True when a host would give the slot's address to a pod.
    pub fn allocates(&self, cast: &Cast, states: &Voting, host: usize, memory: StateId) -> bool {
        self.allocates.of(&(host, memory), || {
            let state = states.states.get(memory);
            let node = cast.id(host);
            // A host that knows that it was removed gives nothing out any longer.
            !state.gone().contains_key(&node) && Pool::of(node, cast.space(), &state).is_free(SLOT, &state)
        })
    }
}
