//! The machine: its fields, its inputs, the gate before its outputs, and the loop that drives its parts.

use crate::epoch::Votes;
use crate::fork::Comparing;
use crate::io::{
    AllocError, Event, FreezeReason, Input, IpamConfig, Lookup, Output, PersistToken, RequestId, Role,
};
use crate::leave::Leave;
use crate::message::{AskId, Message};
use crate::places::PlacesVersion;
use crate::pool::Pool;
use crate::reclaim::Reclaiming;
use crate::removal::RECLAIM_REST;
use crate::space::AddressSpace;
use crate::state::{Change, Held, IpamState, StateError};
use crate::subnet::{Span, Subnet};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use weft_wire::envelope::KindNumber;
use weft_wire::ipam::{
    Ballot, Epoch, Exception, ExceptionsRecord, LentRecord, Off, SlotRun, SlotsRecord, VoteRecord,
};
use weft_wire::reclaim::ReclaimRecord;
use weft_wire::record::Body;
use weft_wire::{GenesisId, NodeId, NodeKey, Time};

/// Octets of a pod's id: a namespace path or a container id with room to spare.
pub const ID_MAX: usize = 256;
/// Requests that wait for addresses at once: more than a host starts pods in ten seconds.
pub const WAITING_MAX: usize = 1_024;
/// A request that has no address after so long is answered with the reason: half of what container runtimes wait.
pub const ALLOCATE_DEADLINE: Duration = Duration::from_secs(10);
/// Who asks may be more patient, up to this: what has not come then waits for an operator.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// Addresses of one pod: one for each of its networks, and some to spare.
pub const ADDRESSES_MAX: usize = 64;
/// A freed address rests so long before it is given again: longer than neighbour entries (RFC 4861: 30 s) live.
pub const REST: Duration = Duration::from_secs(60);
/// A question to another host that is not answered within this has failed.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A claim of an address that is lent waits so long for it to come back: a pod that moves is gone from its old host
/// before that host's word of it has arrived.
pub const RETURN_GRACE: Duration = Duration::from_secs(1);
/// Meanwhile the lender is asked this often.
pub const RETURN_PAUSE: Duration = Duration::from_millis(50);
/// A host that did not answer is not asked again for so long.
pub const SILENCE: Duration = Duration::from_secs(3);
/// A host that refused is not asked again for so long.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// A host that is granting to others is asked again after this: a grant is accepted after two syncs and a round trip.
pub const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Grants, returns and confirmations that nobody acknowledged are sent again after this.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Changes on which nothing waits are written at the latest after this.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// News that only tell how much is free are published at most so often.
pub const HINT_INTERVAL: Duration = Duration::from_secs(1);

/// Whether this host may give addresses out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// R3: nobody has confirmed the incarnation; only these slots may be used.
    AwaitingConfirmation(BTreeSet<u32>),
    /// Yes.
    Confirmed,
    /// No.
    Frozen(FreezeReason),
}

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Want {
    /// An address of this subnet.
    pub(crate) subnet: Subnet,
    /// Namely this one.
    pub(crate) named: Option<u32>,
}

impl Want {
    /// The addresses that would do.
    pub(crate) fn span(&self) -> Span {
        self.named.map_or(self.subnet.span(), Span::one)
    }
}

/// A request without an address.
pub(crate) struct Waiting {
    pub(crate) request: RequestId,
    pub(crate) id: String,
    pub(crate) want: Want,
    pub(crate) within: Duration,
    pub(crate) deadline: Time,
    /// Until then an address that another host has may still come back; never again once that is over.
    pub(crate) grace: Time,
    pub(crate) ask: Option<AskId>,
    /// The named address cannot be lent, so its slot is asked for.
    pub(crate) is_unlendable: bool,
    /// Who was asked last and let the time pass.
    pub(crate) silent: Option<NodeId>,
}

/// A question that was sent.
pub(crate) struct Asked {
    pub(crate) to: NodeId,
    pub(crate) ask: AskId,
    pub(crate) deadline: Time,
    pub(crate) span: Span,
}

/// Why a host is not asked for slots at the moment.
#[derive(Clone, Copy)]
pub(crate) struct Pause {
    pub(crate) until: Time,
    /// It has slots, and is handing some to others.
    pub(crate) is_busy: bool,
}

/// What is known of another host by its records.
#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) free: Option<(u8, u8)>,
    pub(crate) lent: LentRecord,
    pub(crate) exceptions: Vec<Exception>,
    /// What it says it owns, and the latest epoch that it knew then.
    pub(crate) claim: Option<(u32, Vec<SlotRun>)>,
    pub(crate) reclaim: Option<ReclaimRecord>,
}

/// A claim that is not proved yet.
pub(crate) struct Unproved {
    pub(crate) runs: Vec<SlotRun>,
    pub(crate) due: Time,
    pub(crate) pause: Duration,
}

/// A try to decide the next epoch.
pub(crate) struct Proposing {
    pub(crate) ballot: Ballot,
    /// Members whose votes do not count under it.
    pub(crate) off: Off,
    pub(crate) own: Epoch,
    pub(crate) value: Option<Epoch>,
    pub(crate) deadline: Time,
}

/// The address management of one host.
///
/// Its methods are spread over the files of this crate by subject; the fields are shared by them.
pub struct Ipam {
    pub(crate) node: NodeId,
    pub(crate) key: NodeKey,
    pub(crate) genesis: GenesisId,
    pub(crate) space: AddressSpace,
    pub(crate) incarnation: u64,
    pub(crate) expected: u32,
    pub(crate) role: Role,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) state: IpamState,
    pub(crate) start_serial: u64,
    pub(crate) pool: Pool,
    pub(crate) ids: BTreeMap<String, BTreeSet<u32>>,
    pub(crate) own_runs: Vec<SlotRun>,
    pub(crate) members: BTreeSet<NodeId>,
    pub(crate) standing: Standing,
    pub(crate) resting: BTreeSet<(Time, u32)>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) space_asks: Vec<Asked>,
    pub(crate) loan_asks: Vec<Asked>,
    pub(crate) asks: u64,
    pub(crate) space_pause: BTreeMap<(NodeId, Span), Pause>,
    pub(crate) loan_pause: BTreeMap<(NodeId, Span), Time>,
    pub(crate) silent: BTreeMap<NodeId, Time>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) unproved: BTreeMap<NodeId, Unproved>,
    pub(crate) votes: Votes,
    pub(crate) proposing: Option<Proposing>,
    pub(crate) propose_due: Option<Time>,
    pub(crate) epoch_due: Time,
    pub(crate) epochs_ask_due: Time,
    pub(crate) comparing: Option<Comparing>,
    pub(crate) reclaiming: Reclaiming,
    /// When slots that were taken back have rested; in order of time.
    pub(crate) slot_rests: VecDeque<(Time, u32, u32)>,
    /// Loans of removed hosts that their slots' new owners are asked for.
    pub(crate) renewals: BTreeMap<u32, (AskId, NodeId)>,
    pub(crate) retry_due: Time,
    pub(crate) exceptions: BTreeSet<Exception>,
    pub(crate) published: BTreeMap<KindNumber, Vec<u8>>,
    pub(crate) slots_changed: bool,
    /// The registers have changed since [`Self::own_runs`] was made.
    runs_stale: bool,
    pub(crate) lent_changed: bool,
    pub(crate) votes_changed: bool,
    pub(crate) hint_due: Time,
    pub(crate) hints: (u8, u8),
    pub(crate) places: PlacesVersion,
    pub(crate) leaving: Option<Leave>,
    /// Hosts that this one, of itself, wants removed; not stored.
    pub(crate) silent_hosts: BTreeSet<NodeId>,
    delta: Vec<Change>,
    pub(crate) flush_due: Time,
    staged: Vec<Output>,
    issued: PersistToken,
    durable: PersistToken,
    written: PersistToken,
    gated: VecDeque<(PersistToken, Output)>,
    outputs: VecDeque<Output>,
}

impl Ipam {
    /// A machine at its start; [`Input::MembersChanged`] sets it going.
    ///
    /// # Errors
    /// The state belongs to another cluster or range.
    pub fn new(config: IpamConfig, now: Time) -> Result<Self, StateError> {
        let IpamConfig {
            node,
            key,
            space,
            genesis,
            incarnation,
            durable: state,
            expected,
            role,
            seed,
        } = config;
        let genesis = genesis.id();
        if state.genesis_id() != genesis {
            return Err(StateError::Foreign {
                stored: state.genesis_id(),
                expected: genesis,
            });
        }
        if state.table().len() != space.slots() {
            return Err(StateError::Slots {
                stored: state.table().len(),
                expected: space.slots(),
            });
        }
        let pool = Pool::of(node, space, &state);
        let mut ids: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        let mut resting = BTreeSet::new();
        for (offset, held) in state.addresses() {
            match held {
                Held::Pod(id) | Held::Borrowed { id, .. } => {
                    ids.entry(id.clone()).or_default().insert(*offset);
                }
                // Clocks of two processes cannot be compared, so what rested rests from the beginning.
                Held::Resting => {
                    resting.insert((now + REST, *offset));
                }
                Held::Abandoned => {
                    resting.insert((now + RECLAIM_REST, *offset));
                }
                Held::Lent { .. } | Held::Returning { .. } => {}
            }
        }
        // A state that never changed has given nothing away that it could have forgotten. One of several founders has
        // slots from the start, also on a disk that was set back to before it used them.
        let is_one_of_several = state.founders().len() > 1 && state.founders().contains(&node);
        let standing = if state.gone().contains_key(&node) {
            Standing::Frozen(FreezeReason::Removed)
        } else if state.serial() == 0 && !is_one_of_several {
            Standing::Confirmed
        } else {
            let live = pool.busy_slots().collect();
            Standing::AwaitingConfirmation(live)
        };
        let slot_rests = rests_of(&state, now);
        Ok(Self {
            own_runs: state.table().runs_of(&node),
            start_serial: state.serial(),
            node,
            key,
            genesis,
            space,
            incarnation,
            expected: expected.max(1),
            role,
            rng: ChaCha20Rng::from_seed(seed),
            state,
            pool,
            ids,
            members: BTreeSet::from([node]),
            standing,
            resting,
            waiting: Vec::new(),
            space_asks: Vec::new(),
            loan_asks: Vec::new(),
            asks: 0,
            space_pause: BTreeMap::new(),
            loan_pause: BTreeMap::new(),
            silent: BTreeMap::new(),
            peers: BTreeMap::new(),
            unproved: BTreeMap::new(),
            votes: Votes::default(),
            proposing: None,
            propose_due: None,
            epoch_due: now,
            epochs_ask_due: now,
            comparing: None,
            reclaiming: Reclaiming::new(now),
            slot_rests,
            renewals: BTreeMap::new(),
            retry_due: now,
            exceptions: BTreeSet::new(),
            published: BTreeMap::new(),
            slots_changed: true,
            runs_stale: false,
            lent_changed: true,
            votes_changed: true,
            hint_due: now,
            hints: (0, 0),
            places: PlacesVersion::default(),
            leaving: None,
            silent_hosts: BTreeSet::new(),
            delta: Vec::new(),
            flush_due: Time::NEVER,
            staged: Vec::new(),
            issued: PersistToken(0),
            durable: PersistToken(0),
            written: PersistToken(0),
            gated: VecDeque::new(),
            outputs: VecDeque::new(),
        })
    }

    /// Takes one input; `now` never goes back.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Request(request) => self.on_request(now, request),
            Input::SetException { what, present } => self.set_exception(what, present),
            Input::Record(envelope) => self.on_record(now, &envelope),
            Input::Message { from, bytes } => match Message::decode(&bytes) {
                Ok(message) if self.is_gone(&from) => self.on_message_of_gone(now, from, message),
                Ok(message) if self.members.contains(&from) => self.on_message(now, from, message),
                Ok(_) => {}
                Err(_) => self.event(Event::Misbehaved {
                    node: from,
                    why: "a malformed message",
                }),
            },
            Input::Persisted(token) => self.durable = self.durable.max(token),
            Input::Written(token) => self.written = self.written.max(token),
            Input::MembersChanged(members) => self.on_members(members),
            Input::PeerUp(peer) => self.on_peer_up(peer),
            Input::Freeze(reason) => self.freeze(reason),
            Input::Tick => {}
        }
        self.advance(now);
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back with [`Input::Tick`] if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Time> {
        let waiting = self
            .waiting
            .iter()
            .map(|waiting| waiting.deadline.min(waiting.grace));
        let asks = self
            .loan_asks
            .iter()
            .chain(&self.space_asks)
            .map(|asked| asked.deadline);
        let pauses = if self.waiting.is_empty() && !self.is_without_slots() {
            None
        } else {
            let space = self.space_pause.values().map(|pause| pause.until);
            let others = self.loan_pause.values().chain(self.silent.values());
            space.chain(others.copied()).min()
        };
        let unproved = self.unproved.values().map(|unproved| unproved.due);
        let slots = self.slot_rests.front().map(|(until, ..)| *until);
        let rest = self.resting.first().map(|(until, _)| *until);
        let has_news = self.standing == Standing::Confirmed && self.hints != self.free_hints();
        let hint = has_news.then_some(self.hint_due);
        let epochs = self.epoch_deadline();
        let retry = self.has_retries().then_some(self.retry_due);
        let due = waiting
            .chain(asks)
            .chain(unproved)
            .chain(pauses)
            .chain(rest)
            .chain(slots)
            .chain(self.reclaim_deadline())
            .chain(hint)
            .chain(epochs)
            .chain(retry)
            .chain(self.leave_deadline());
        due.chain([self.flush_due]).min().filter(|due| *due < Time::NEVER)
    }

    /// The durable state as it will be once all writes that were asked for are done.
    pub fn state(&self) -> &IpamState {
        &self.state
    }

    /// Addresses of a pod, in the order in which it got them.
    pub fn addresses_of(&self, id: &str) -> Vec<IpAddr> {
        let mut offsets: Vec<u32> = self.ids.get(id).into_iter().flatten().copied().collect();
        offsets.sort_by_key(|offset| self.state.turn(*offset));
        offsets
            .into_iter()
            .filter_map(|offset| self.space.address(offset))
            .collect()
    }

    /// Where an address lives.
    pub fn lookup(&self, address: IpAddr) -> Lookup {
        let is = |what: &Exception| match what {
            Exception::Static(a) | Exception::Claimed(a) | Exception::Virtual(a) => *a == address,
            Exception::ForeignMac(_) => false,
        };
        if self.exceptions.iter().any(is) {
            return Lookup::Here;
        }
        if let Some((node, _)) = self.peers.iter().find(|(_, peer)| peer.exceptions.iter().any(is)) {
            return Lookup::Host(*node);
        }
        let Some(offset) = self.space.offset(address) else {
            return Lookup::Unknown;
        };
        match self.state.addresses().get(&offset) {
            Some(Held::Pod(id) | Held::Borrowed { id, .. }) => return Lookup::Local(id.clone()),
            Some(Held::Lent { to, .. }) => return Lookup::Host(*to),
            _ => {}
        }
        let Some(register) = self.state.table().get(offset / self.space.slot_size()) else {
            return Lookup::Unknown;
        };
        if register.is_frozen {
            return Lookup::Frozen;
        }
        if register.owner == self.node {
            return Lookup::Here;
        }
        // Only the owner of the slot can have lent the address.
        let lent = self.peers.get(&register.owner).map(|peer| &peer.lent);
        let borrower = lent.and_then(|lent| {
            let at = lent
                .loans
                .binary_search_by_key(&offset, |loan| loan.offset)
                .ok()?;
            lent.borrowers
                .get(usize::from(lent.loans.get(at)?.borrower))
                .copied()
        });
        match borrower {
            Some(node) if node == self.node => Lookup::Here,
            Some(node) => Lookup::Host(node),
            None => Lookup::Host(register.owner),
        }
    }

    fn on_members(&mut self, members: Vec<NodeId>) {
        self.members = members.into_iter().chain([self.node]).collect();
        self.members.retain(|node| !self.state.gone().contains_key(node));
        if self.members.len() == 1 && matches!(self.standing, Standing::AwaitingConfirmation(_)) {
            // Nobody could have got anything from this host.
            self.standing = Standing::Confirmed;
            self.event(Event::Confirmed);
        }
        self.insert_own_vote();
    }

    pub(crate) fn freeze(&mut self, reason: FreezeReason) {
        if self.standing != Standing::Frozen(reason) {
            self.standing = Standing::Frozen(reason);
            self.event(Event::Frozen(reason));
        }
        for waiting in core::mem::take(&mut self.waiting) {
            self.answer(waiting.request, Err(AllocError::Frozen(reason)));
        }
    }

    fn set_exception(&mut self, what: Exception, present: bool) {
        if !present {
            self.exceptions.remove(&what);
        } else if self.exceptions.len() < weft_wire::ipam::EXCEPTIONS_MAX {
            self.exceptions.insert(what);
        }
        self.places.elsewhere += 1;
        let body = ExceptionsRecord {
            entries: self.exceptions.iter().copied().collect(),
        };
        self.publish_body(&body);
    }

    /// Everything that is due at `now`.
    fn advance(&mut self, now: Time) {
        while let Some((until, offset)) = self.resting.first().copied().filter(|(until, _)| *until <= now) {
            self.resting.remove(&(until, offset));
            if let Some(Held::Resting | Held::Abandoned) = self.state.addresses().get(&offset) {
                self.change(Change::Address(offset, None));
            }
        }
        self.end_rests(now);
        if core::mem::take(&mut self.runs_stale) {
            self.own_runs = self.state.table().runs_of(&self.node);
        }
        self.drive_epochs(now);
        self.drive_reclaim(now);
        self.serve_waiting(now);
        self.drive_asks(now);
        self.drive_leave(now);
        self.drive_proofs(now);
        if now >= self.retry_due {
            self.retry_due = now + RETRY_INTERVAL;
            self.retry();
        }
        self.publish(now);
        self.commit(now);
    }

    /// The only way by which the state changes.
    pub(crate) fn change(&mut self, change: Change) {
        let old = match &change {
            Change::Address(offset, _) => self.state.addresses().get(offset).cloned(),
            _ => None,
        };
        // What others hand to others is theirs to tell.
        self.slots_changed |= match &change {
            Change::Slots { run, owner, .. } => {
                let mut before = self.state.table().registers_in(run);
                *owner == self.node || before.any(|(_, _, register)| register.owner == self.node)
            }
            _ => false,
        };
        self.state.apply(&change);
        match &change {
            Change::Slots { run, .. } => {
                for slot in run.slots() {
                    self.pool.update(slot, 0, &self.state);
                }
                self.runs_stale = true;
                // Whether a loan counts depends on the owner of its slot.
                self.places.owners += 1;
                self.places.elsewhere += 1;
            }
            Change::Address(offset, held) => {
                self.places.elsewhere += 1;
                if let Some(Held::Resting | Held::Abandoned) = old {
                    self.resting.retain(|(_, other)| other != offset);
                }
                let slot = offset / self.space.slot_size();
                let more = i32::from(held.is_some()) - i32::from(old.is_some());
                self.pool.update(slot, more, &self.state);
                if let Some(Held::Pod(id) | Held::Borrowed { id, .. }) = &old
                    && let Some(offsets) = self.ids.get_mut(id)
                {
                    offsets.remove(offset);
                    if offsets.is_empty() {
                        self.ids.remove(id);
                    }
                }
                if let Some(Held::Pod(id) | Held::Borrowed { id, .. }) = held {
                    self.ids.entry(id.clone()).or_default().insert(*offset);
                }
                let is_lent = |held: &Option<Held>| matches!(held, Some(Held::Lent { .. }));
                self.lent_changed |= is_lent(&old) || is_lent(held);
            }
            Change::Given(_) | Change::Accepted(_) => self.slots_changed = true,
            Change::Voted(_) | Change::Decided(_) | Change::Wish(..) => self.votes_changed = true,
            Change::Rest { first, count, .. } => {
                for slot in *first..first.saturating_add(*count) {
                    self.pool.update(slot, 0, &self.state);
                }
            }
            Change::Chain(_)
            | Change::Unchain(_)
            | Change::Seen(..)
            | Change::Turn(..)
            | Change::Promised(_) => {}
        }
        self.delta.push(change);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Puts an output behind the gate: it leaves once every change made so far is durable (R2).
    pub(crate) fn stage(&mut self, output: Output) {
        self.staged.push(output);
    }

    pub(crate) fn send(&mut self, to: NodeId, message: &Message) {
        self.stage(Output::Send {
            to,
            bytes: message.encode(),
        });
    }

    pub(crate) fn next_ask(&mut self) -> AskId {
        self.asks += 1;
        AskId {
            incarnation: self.incarnation,
            count: self.asks,
        }
    }

    /// A random fraction of `range`.
    pub(crate) fn jitter(&mut self, range: Duration) -> Duration {
        let nanos = u64::try_from(range.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.next_u64() % nanos.max(1))
    }

    /// Asks for the write that what is staged waits for, and lets out what is durable.
    fn commit(&mut self, now: Time) {
        if self.delta.is_empty() {
            self.flush_due = Time::NEVER;
        } else if !self.staged.is_empty() || now >= self.flush_due {
            self.issued.0 += 1;
            let changes = core::mem::take(&mut self.delta);
            self.outputs.push_back(Output::Persist {
                token: self.issued,
                changes,
            });
            self.flush_due = Time::NEVER;
        } else if self.flush_due == Time::NEVER {
            self.flush_due = now + FLUSH_INTERVAL;
        }
        for output in core::mem::take(&mut self.staged) {
            self.gated.push_back((self.issued, output));
        }
        while let Some((_, output)) = self.gated.pop_front_if(|(token, _)| *token <= self.durable) {
            self.outputs.push_back(output);
        }
        if self.written > self.durable {
            self.answer_early();
        }
    }

    /// Lets out the answers that wait for the disk's sync only. They are for this host's own pods; nothing else may leave.
    fn answer_early(&mut self) {
        for (token, output) in core::mem::take(&mut self.gated) {
            if token <= self.written && matches!(output, Output::Answer { .. }) {
                self.outputs.push_back(output);
            } else {
                self.gated.push_back((token, output));
            }
        }
    }

    /// Slots that this host could hand over and addresses that it could lend, as bit lengths.
    pub(crate) fn free_hints(&self) -> (u8, u8) {
        if self.standing != Standing::Confirmed || self.leaving.is_some() {
            return (0, 0);
        }
        let slots = u32::BITS - self.pool.empty_slots().leading_zeros();
        let addresses = u64::BITS - self.pool.free_addresses().leading_zeros();
        (slots as u8, addresses as u8)
    }

    /// Publishes what has changed of this host's records.
    fn publish(&mut self, now: Time) {
        if core::mem::take(&mut self.votes_changed) {
            let record = self.own_vote_record();
            let is_news =
                self.members.len() > 1 && (record.wants || self.state.members().contains(&self.node));
            // Of a host in no epoch, a wish; and an end to it.
            let is_news =
                is_news || !record.wishes.is_empty() || self.published.contains_key(&VoteRecord::KIND);
            if is_news {
                self.publish_body::<VoteRecord>(&record);
            }
        }
        if self.standing != Standing::Confirmed {
            return;
        }
        if core::mem::take(&mut self.lent_changed) {
            let body = self.lent_record();
            // An empty one takes back what an earlier process published.
            if self.state.loans() > 0 {
                self.publish_body(&body);
            }
        }
        let hints = self.free_hints();
        let hint_due = hints != self.hints && now >= self.hint_due;
        if !core::mem::take(&mut self.slots_changed) && !hint_due {
            return;
        }
        self.hints = hints;
        self.hint_due = now + HINT_INTERVAL;
        self.publish_body::<SlotsRecord>(&self.slots_record());
    }

    pub(crate) fn publish_body<B: Body>(&mut self, body: &B) {
        let bytes = weft_wire::codec::encode(body);
        if self.published.get(&B::KIND) == Some(&bytes) {
            return;
        }
        self.published.insert(B::KIND, bytes.clone());
        self.stage(Output::Publish {
            kind: B::KIND,
            body: bytes,
        });
    }
}

/// What rests of the slots that were taken back. Clocks of two processes cannot be compared, so all begin anew.
fn rests_of(state: &IpamState, now: Time) -> VecDeque<(Time, u32, u32)> {
    let mut rests: VecDeque<(Time, u32, u32)> = VecDeque::new();
    for slot in state.resting_slots() {
        match rests.back_mut() {
            Some((_, first, count)) if *first + *count == *slot => *count += 1,
            _ => rests.push_back((now + RECLAIM_REST, *slot, 1)),
        }
    }
    rests
}
