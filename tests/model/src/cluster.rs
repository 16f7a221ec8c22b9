//! A few hosts with their disks, and the network between them: what can happen, in any order.
//!
//! The network is everything that was ever said. A host may hear any of it, late, twice, or never. A host that dies loses what
//! it had not synced, what it had read, and its try to decide an epoch.

use crate::cast::Cast;
use crate::intern::{Id, Interner, Memo};
use crate::network::{Net, Tip, add};
use crate::plan::{Epochs, Flaw, Plan, Vouch};
use crate::search::First;
use crate::slots::{Sent, Slots};
use crate::voting::{HOSTS, Part, Quorum, Read, Voting};
use std::sync::Arc;
use weft_ipam_crdt::epoch::{check_decided, is_split};
use weft_ipam_crdt::message::Decided;
use weft_ipam_crdt::{Change, IpamState};
use weft_wire::ipam::{Epoch, VoteRecord};
use weft_wire::reclaim::Reclaim;

/// Epochs that the oracle may decide, each with its place in the plan.
type Choices = Vec<(usize, Id<Decided>)>;

/// How many of each host's records are behind a host.
pub type Heard = [u8; HOSTS];

/// A host at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host {
    /// What it would find after a crash.
    pub durable: Id<IpamState>,
    /// What it has in memory.
    pub part: Part,
    /// What it has read of the others' votes.
    pub heard: Heard,
    /// R3: it has lost its disk and is no longer there.
    pub is_lost: bool,
    /// It has met its own signature under something that it does not remember.
    pub is_frozen: bool,
}

/// What may still happen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Left {
    /// Ballots for each epoch.
    pub ballots: Vec<u8>,
    /// Grants.
    pub transfers: u8,
    /// Crashes.
    pub crashes: u8,
    /// Disks that are lost.
    pub losses: u8,
    /// Uses of a rule that is broken.
    pub faults: u8,
}

/// All hosts and the network at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The network.
    pub net: Net,
    /// The rest.
    pub left: Left,
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A host begins a ballot.
    ///
    /// True for one under which somebody vouches that the hosts which it removes are off.
    Propose(usize, bool),
    /// A host reads on in the others' votes.
    Read(usize, Heard),
    /// The oracle decides this epoch of the plan.
    Decide(usize),
    /// A host is shown the proof of an epoch.
    Learn(usize, Id<Decided>),
    /// What a host has written is on its disk.
    Sync(usize),
    /// A host dies and starts again.
    Crash(usize),
    /// A host loses its disk.
    Lose(usize),
    /// A host signs the slot over to another.
    Give(usize, usize),
    /// A grant reaches a host.
    Take(usize, Id<Sent>),
    /// A donor hears that its grant has arrived.
    HearAccepted(usize, Id<Sent>),
    /// A reclaimer asks for the slot.
    Ask(usize),
    /// A member signs what the reclaimer of an epoch asks.
    Sign(usize, u32),
    /// A reclaimer has what it needs.
    Collect(usize, u32),
    /// A host is shown the proof of an epoch that contradicts one of its own.
    Notice(usize, Id<Decided>),
    /// A reclaim reaches a host.
    HearReclaim(usize, Id<Reclaim>),
    /// A host takes the slot without asking.
    Seize(usize),
}

/// The model.
pub struct Cluster {
    /// Who takes part.
    pub cast: Arc<Cast>,
    /// What may happen.
    pub plan: Plan,
    pub(crate) voting: Arc<Voting>,
    pub(crate) slots: Slots,
    pub(crate) agree: Memo<(Id<IpamState>, Id<IpamState>), (bool, bool)>,
    pub(crate) epoch_of: Memo<Id<IpamState>, u32>,
    pub(crate) number_of: Memo<Id<VoteRecord>, u32>,
    is_member: Memo<(usize, Id<IpamState>), bool>,
    decidable: Memo<Vec<Id<Decided>>, Choices>,
    tips: Interner<[u8; 32]>,
    tip_of: Memo<Id<IpamState>, Tip>,
    contradicts: Memo<(Id<IpamState>, Id<Decided>), bool>,
    pub(crate) proved: Memo<Id<IpamState>, (u32, u8)>,
    pub(crate) endings: Memo<u64, bool>,
    pub(crate) first: First,
    pub(crate) only: Option<&'static str>,
}

impl Cluster {
    /// The model of a plan.
    pub fn new(plan: Plan) -> Self {
        let quorum = if plan.flaw == Flaw::NoMajority {
            Quorum::Alone
        } else {
            Quorum::Majority
        };
        let (cast, voting) = (Arc::new(Cast::new(HOSTS)), Arc::new(Voting::new(quorum)));
        Self {
            slots: Slots::new(Arc::clone(&cast), Arc::clone(&voting)),
            cast,
            voting,
            agree: Memo::default(),
            epoch_of: Memo::default(),
            number_of: Memo::default(),
            is_member: Memo::default(),
            decidable: Memo::default(),
            tips: Interner::default(),
            tip_of: Memo::default(),
            contradicts: Memo::default(),
            proved: Memo::default(),
            endings: Memo::default(),
            first: First::default(),
            only: None,
            plan,
        }
    }

    /// Looks for a violation of this property and of no other.
    pub fn only(self, property: &'static str) -> Self {
        Self {
            only: Some(property),
            ..self
        }
    }

    pub(crate) fn epoch(&self, state: Id<IpamState>) -> u32 {
        self.epoch_of.of(&state, || self.voting.states.get(state).epoch())
    }

    /// The latest epoch that a host knows.
    pub(crate) fn tip(&self, state: Id<IpamState>) -> Tip {
        self.tip_of.of(&state, || {
            let hash = self.voting.states.get(state).epoch_hash();
            (self.epoch(state), self.tips.put(hash.to_vec(), hash))
        })
    }

    /// Number of the last epoch of this model.
    pub(crate) fn last_epoch(&self) -> u32 {
        match &self.plan.epochs {
            Epochs::Voted { count, .. } => 1 + count,
            Epochs::Decided(choices) => 1 + choices.len() as u32,
        }
    }

    /// True when a proved epoch contradicts one that a host has.
    fn contradicts(&self, memory: Id<IpamState>, proof: Id<Decided>) -> bool {
        self.contradicts.of(&(memory, proof), || {
            let (decided, state) = (self.voting.decided.get(proof), self.voting.states.get(memory));
            is_split(&decided, &state, &self.cast.genesis_id())
        })
    }

    /// What a host may propose, under a ballot with a vouch or one without.
    pub(crate) fn wanted(&self, host: usize, vouched: bool) -> Vec<Epoch> {
        let Epochs::Voted { wants, .. } = &self.plan.epochs else {
            return Vec::new();
        };
        let mut wanted = wants(&self.cast, host);
        wanted.retain(|epoch| epoch.fenced == vouched);
        wanted
    }

    /// True when a host is a member by this state.
    pub(crate) fn is_member(&self, host: usize, state: Id<IpamState>) -> bool {
        self.is_member.of(&(host, state), || {
            self.voting
                .states
                .get(state)
                .members()
                .contains(&self.cast.id(host))
        })
    }

    fn base(&self) -> IpamState {
        let members: Vec<usize> = (0..self.plan.members).collect();
        self.cast.with_members(&members)
    }

    /// Everybody's state at the start.
    pub(crate) fn start(&self) -> State {
        let start = self.voting.state(self.base());
        let part = Part {
            memory: start,
            attempt: None,
        };
        let host = Host {
            durable: start,
            part,
            heard: [0; HOSTS],
            is_lost: false,
            is_frozen: false,
        };
        let hosts = self.plan.hosts;
        let ballots = match &self.plan.epochs {
            Epochs::Voted { ballots, count, .. } => vec![*ballots; *count as usize],
            Epochs::Decided(_) => Vec::new(),
        };
        let first = self.voting.record(&self.cast, 0, part);
        let mut state = State {
            hosts: vec![host; hosts],
            net: Net {
                said: vec![vec![first]; if ballots.is_empty() { 0 } else { hosts }],
                ..Net::default()
            },
            left: Left {
                ballots,
                transfers: self.plan.transfers,
                crashes: self.plan.crashes,
                losses: self.plan.losses,
                faults: 1,
            },
        };
        for host in 0..hosts {
            self.settle(&mut state, host, start);
        }
        state
    }

    pub(crate) fn read(&self, state: &State, heard: &Heard) -> Read {
        let mut read: Read = [None; HOSTS];
        for (writer, said) in state.net.said.iter().enumerate() {
            let heard = usize::from(heard[writer]);
            read[writer] = heard.checked_sub(1).and_then(|at| said.get(at)).copied();
        }
        read
    }

    /// Adds the readings that make a difference to a host: of one record, and of one each of two hosts where neither does
    /// alone. All others can be put off until they do, for what was said stays readable.
    pub(crate) fn readings(&self, state: &State, host: usize, actions: &mut Vec<Action>) {
        let at = &state.hosts[host];
        let is_news = |heard: &Heard| {
            let read = self.read(state, heard);
            self.voting.advance(&self.cast, host, at.part, read).part != at.part
        };
        let mut idle: Vec<(usize, u8)> = Vec::new();
        for writer in (0..state.net.said.len()).filter(|writer| *writer != host) {
            for record in at.heard[writer]..state.net.said[writer].len() as u8 {
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

    /// The epochs that the oracle may decide next, each with its place in the plan.
    pub(crate) fn decidable(&self, state: &State) -> Choices {
        match &self.plan.epochs {
            Epochs::Voted { .. } => Vec::new(),
            Epochs::Decided(choices) => {
                let proofs = &state.net.proofs;
                self.decidable.of(proofs, || self.follow(choices, proofs))
            }
        }
    }

    fn follow(&self, choices: &[Vec<Epoch>], proofs: &[Id<Decided>]) -> Choices {
        let next = choices.get(proofs.len()).into_iter().flatten().enumerate();
        let mut base = self.base();
        for proof in self.in_order(proofs) {
            base.apply(&Change::Decided(Decided::clone(&self.voting.decided.get(proof))));
        }
        let epoch = |epoch: &Epoch| Epoch {
            number: base.epoch() + 1,
            parent: base.epoch_hash(),
            ..epoch.clone()
        };
        let ok = |epoch: &Epoch| weft_ipam_crdt::epoch::check_next(epoch, &base).is_ok();
        let voters: Vec<usize> = base.members().iter().map(|id| self.cast.host(id)).collect();
        next.map(|(at, choice)| (at, epoch(choice)))
            .filter(|(_, epoch)| ok(epoch))
            .map(|(at, epoch)| {
                let decided = self.cast.decided(&base, &voters, &epoch);
                (at, self.voting.proved(decided))
            })
            .collect()
    }

    /// Proofs by the numbers of their epochs.
    pub(crate) fn in_order(&self, proofs: &[Id<Decided>]) -> Vec<Id<Decided>> {
        let mut proofs = proofs.to_vec();
        proofs.sort_by_key(|proof| self.voting.decided.get(*proof).epoch.number);
        proofs
    }

    /// The latest epoch that a host knows and a majority has decided, and its members, one bit each.
    fn proved(&self, memory: Id<IpamState>) -> (u32, u8) {
        self.proved.of(&memory, || {
            let genesis = self.cast.genesis_id();
            let known = self.voting.states.get(memory);
            let mut proved = self.cast.newborn();
            for decided in known.epochs() {
                if check_decided(decided, &proved, &genesis).is_err() {
                    break;
                }
                proved.apply(&Change::Decided(decided.clone()));
            }
            let members = proved.members().iter().map(|id| 1 << self.cast.host(id));
            (proved.epoch(), members.sum())
        })
    }

    /// Members of the latest epoch that a majority has decided and somebody knows, one bit each: who counts as a member at
    /// this moment, whatever hosts think that break the rules.
    pub(crate) fn members(&self, state: &State) -> u8 {
        let known = state.hosts.iter().map(|host| self.proved(host.part.memory));
        known
            .max_by_key(|(epoch, _)| *epoch)
            .map_or(0, |(_, members)| members)
    }

    /// The state of the host that knows the latest epoch, of what no crash takes back.
    pub(crate) fn settled(&self, state: &State) -> Id<IpamState> {
        let durable = state.hosts.iter().map(|host| host.durable);
        durable
            .reduce(|best, other| {
                if self.epoch(other) > self.epoch(best) {
                    other
                } else {
                    best
                }
            })
            .unwrap_or(state.hosts[0].durable)
    }

    /// A host starts from this state.
    fn restart(&self, state: &mut State, host: usize, durable: Id<IpamState>) {
        let part = Part {
            memory: durable,
            attempt: None,
        };
        state.hosts[host] = Host {
            durable,
            part,
            heard: [0; HOSTS],
            ..state.hosts[host].clone()
        };
    }

    /// Carries out a step; `None` if it is none.
    pub(crate) fn step(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let (cast, voting, slots, flaw) = (&self.cast, &self.voting, &self.slots, self.plan.flaw);
        let memory = |host: usize| last.hosts[host].part.memory;
        let set = |state: &mut State, host: usize, memory: Id<IpamState>| {
            state.hosts[host].part.memory = memory;
            host
        };
        let host = match action {
            Action::Propose(host, vouched) => {
                let wanted = self.wanted(host, vouched);
                // A host that is dead cannot be told from one that does nothing. So it dies when that is needed.
                if self.plan.vouch == Some(Vouch::True) && vouched {
                    for off in wanted.iter().flat_map(|epoch| &epoch.removed) {
                        state.hosts[cast.host(off)].is_lost = true;
                    }
                }
                // The voters are members of epoch 1 from the start.
                let epoch = self.epoch(memory(host)) as usize;
                let left = state.left.ballots.get_mut(epoch - 1).filter(|left| **left > 0)?;
                *left -= 1;
                let part = state.hosts[host].part;
                state.hosts[host].part = voting.start(cast, host, part, &wanted)?;
                host
            }
            Action::Read(host, heard) => {
                state.hosts[host].heard = heard;
                host
            }
            Action::Decide(at) => {
                let (_, proof) = self.decidable(last).into_iter().find(|(other, _)| *other == at)?;
                add(&mut state.net.proofs, proof);
                return Some(state);
            }
            Action::Learn(host, proof) => {
                let memory = voting.learn(cast, memory(host), proof)?;
                state.hosts[host].part.attempt = None;
                set(&mut state, host, memory)
            }
            Action::Sync(host) => {
                state.hosts[host].durable = memory(host);
                host
            }
            Action::Crash(host) => {
                state.left.crashes -= 1;
                let before = state.hosts[host].clone();
                self.restart(&mut state, host, last.hosts[host].durable);
                if state.hosts[host] == before {
                    return None;
                }
                host
            }
            Action::Lose(host) => {
                state.left.losses -= 1;
                if flaw == Flaw::ResumeWithoutDisk {
                    let newborn = voting.state(self.base());
                    self.restart(&mut state, host, newborn);
                } else {
                    state.hosts[host].is_lost = true;
                    return Some(state);
                }
                host
            }
            Action::Give(host, to) => {
                state.left.transfers -= 1;
                let given = slots.give(host, memory(host), to, flaw == Flaw::StrangersOwn)?;
                set(&mut state, host, given)
            }
            Action::Take(host, grant) => {
                let taken = slots.take(host, memory(host), grant, flaw == Flaw::StrangersOwn)?;
                state.hosts[host].is_frozen |= taken.is_frozen;
                set(&mut state, host, taken.memory)
            }
            Action::HearAccepted(host, grant) => {
                let memory = slots.hear_accepted(memory(host), grant)?;
                set(&mut state, host, memory)
            }
            Action::Ask(host) => {
                let disowned = self.disowned(last, memory(host));
                let signed = slots.sign(host, memory(host), disowned)?;
                add(&mut state.net.asked, (self.tip(memory(host)), host));
                set(&mut state, host, signed)
            }
            Action::Sign(host, _) => {
                let disowned = self.disowned(last, memory(host));
                let signed = slots.sign(host, memory(host), disowned)?;
                if flaw == Flaw::SignWithoutPromise {
                    add(&mut state.net.signed, (self.tip(memory(host)), host));
                    return Some(state);
                }
                set(&mut state, host, signed)
            }
            Action::Collect(host, _) => {
                let memory = slots.reclaim(host, memory(host))?;
                set(&mut state, host, memory)
            }
            Action::HearReclaim(host, reclaim) => {
                let memory = slots.hear_reclaim(memory(host), reclaim)?;
                set(&mut state, host, memory)
            }
            Action::Notice(host, _) => {
                state.hosts[host].is_frozen = true;
                host
            }
            Action::Seize(host) => {
                state.left.faults = state.left.faults.checked_sub(1)?;
                let memory = slots.seize(host, memory(host));
                set(&mut state, host, memory)
            }
        };
        let was = &last.hosts[host];
        let before = if self.plan.flaw == Flaw::SendBeforeSync {
            was.part.memory
        } else {
            was.durable
        };
        self.settle(&mut state, host, before);
        (state != *last).then_some(state)
    }

    /// True when a reclaimer has the signatures that it needs.
    fn is_complete(&self, state: &State, host: usize) -> bool {
        let memory = state.hosts[host].part.memory;
        let tip = self.tip(memory);
        let has = |voter: usize| state.net.signed.contains(&(tip, voter));
        if self.plan.flaw == Flaw::OneSidedPromise {
            return has(host);
        }
        let members = (0..self.cast.len()).filter(|voter| self.is_member(*voter, memory));
        { members }.all(has)
    }

    /// Every step that may come next.
    pub(crate) fn steps(&self, state: &State, actions: &mut Vec<Action>) {
        // What a host has written and not yet synced is seen by nobody, and whoever dies has not done it. So its steps
        // up to the sync or the crash can be put off until one follows the other.
        let is_open = |at: &Host| at.durable != at.part.memory && !self.plan.is_every_order;
        let open = state.hosts.iter().position(is_open);
        if open.is_none() {
            let decidable = self.decidable(state).into_iter();
            actions.extend(decidable.map(|(at, _)| Action::Decide(at)));
        }
        for (host, at) in state.hosts.iter().enumerate() {
            if self.is_out(state, host) || open.is_some_and(|open| open != host) {
                continue;
            }
            if !state.net.said.is_empty() {
                if state.left.ballots.iter().any(|left| *left > 0) {
                    let vouched = [false, true].into_iter();
                    let wanted = vouched.filter(|vouched| !self.wanted(host, *vouched).is_empty());
                    actions.extend(wanted.map(|vouched| Action::Propose(host, vouched)));
                }
                self.readings(state, host, actions);
            }
            self.deliveries(state, host, actions);
            if at.durable != at.part.memory {
                actions.push(Action::Sync(host));
            }
            if state.left.crashes > 0 {
                actions.push(Action::Crash(host));
            }
            if state.left.losses > 0 {
                actions.push(Action::Lose(host));
            }
            // A host that knows that it was removed is frozen, as one that met what it does not remember.
            let may_give = self.is_member(host, at.part.memory) && !at.is_frozen;
            if may_give && state.left.transfers > 0 {
                let is_lax = self.plan.flaw == Flaw::StrangersOwn;
                let others = (0..state.hosts.len()).filter(|to| *to != host);
                let others = others.filter(|to| self.slots.give(host, at.part.memory, *to, is_lax).is_some());
                actions.extend(others.map(|to| Action::Give(host, to)));
            }
            if self.plan.flaw == Flaw::PlainTakeover && state.left.faults > 0 {
                actions.push(Action::Seize(host));
            }
        }
    }

    /// What can reach a host and makes a difference to it. Where the slot never moves, nothing is said of it.
    pub(crate) fn deliveries(&self, state: &State, host: usize, actions: &mut Vec<Action>) {
        let (slots, net, at) = (&self.slots, &state.net, &state.hosts[host]);
        let memory = at.part.memory;
        for proof in &net.proofs {
            if self.voting.learn(&self.cast, memory, *proof).is_some() {
                actions.push(Action::Learn(host, *proof));
            }
        }
        if self.plan.vouch.is_some() && !at.is_frozen {
            let others = net
                .proofs
                .iter()
                .filter(|proof| self.contradicts(memory, **proof));
            actions.extend(others.map(|proof| Action::Notice(host, *proof)));
        }
        if self.plan.transfers == 0 {
            return;
        }
        let is_lax = self.plan.flaw == Flaw::StrangersOwn;
        // Where a slot is matters to others than its owner only once there is something to take back.
        let is_watching = slots.last_removal(memory) > 0;
        for sent in &net.grants {
            let is_mine = slots.sent.get(*sent).grant.to == self.cast.id(host);
            if (is_mine || is_watching) && slots.take(host, memory, *sent, is_lax).is_some() {
                actions.push(Action::Take(host, *sent));
            }
        }
        for sent in &net.accepted {
            if slots.hear_accepted(memory, *sent).is_some() {
                actions.push(Action::HearAccepted(host, *sent));
            }
        }
        let (tip, disowned) = (self.tip(memory), self.disowned(state, memory));
        if at.durable == memory && !at.is_frozen {
            // It asks itself first.
            let may_ask = slots.wants(host, memory, disowned) && slots.sign(host, memory, disowned).is_some();
            if !net.asked.contains(&(tip, host)) && may_ask {
                actions.push(Action::Ask(host));
            }
            // The signature waits until the epoch is durable, as all that leaves does.
            let is_asked = net.asked.iter().any(|(asked, _)| *asked == tip);
            let signed = slots.sign(host, memory, disowned);
            if is_asked && !net.signed.contains(&(tip, host)) && signed.is_some() {
                actions.push(Action::Sign(host, tip.0));
            }
        }
        if net.asked.contains(&(tip, host))
            && self.is_complete(state, host)
            && slots.reclaim(host, memory).is_some()
        {
            actions.push(Action::Collect(host, tip.0));
        }
        for reclaim in &net.reclaims {
            let is_own = slots.reclaims.get(*reclaim).to == self.cast.id(host);
            if !is_own && slots.hear_reclaim(memory, *reclaim).is_some() {
                actions.push(Action::HearReclaim(host, *reclaim));
            }
        }
    }

    /// True when a host is out for good: its disk is lost, or it knows, durably, that it was removed.
    pub(crate) fn is_out(&self, state: &State, host: usize) -> bool {
        let at = &state.hosts[host];
        at.is_lost || (self.slots.last_removal(at.durable) > 0 && self.is_gone(host, at.durable))
    }

    fn is_gone(&self, host: usize, state: Id<IpamState>) -> bool {
        let id = self.cast.id(host);
        self.voting.states.get(state).gone().contains_key(&id)
    }
}
