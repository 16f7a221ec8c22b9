//! What must hold, what must be possible, and how a step is told.

use crate::cast::Cast;
use crate::cluster::{Action, Cluster, Host, State};
use crate::plan::{Epochs, Flaw, Vouch};
use crate::search::Told;
use crate::slots::register;
use stateright::{Model, Property};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use weft_ipam_crdt::message::Decided;
use weft_wire::ipam::{Ballot, VoteRecord};

/// P1: no two members allocate from the slot.
pub const ONE_ALLOCATES: &str = "at most one member allocates from a slot";
/// P2: no version of the slot has two owners.
pub const ONE_OWNER: &str = "one owner of each version";
/// P3: once everything that was said has arrived, some member allocates from the slot.
pub const SOMEBODY_ALLOCATES: &str = "a slot ends with a member that allocates from it";
/// As P1, where a vouch can split the cluster.
pub const ONE_ALLOCATES_OR_SPLIT: &str = "at most one member allocates from a slot, or the cluster is split and whoever meets the other part freezes";
/// What a vouch that is not true can lead to.
pub const SPLIT: &str = "the cluster is split, and two hosts allocate from a slot";
/// No epoch is decided in two ways.
pub const ONE_EPOCH: &str = "one epoch of each number";

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.steps(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.step(last, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = if self.plan.may_split {
            vec![
                Property::always(ONE_ALLOCATES_OR_SPLIT, |model: &Self, state: &State| {
                    let holds = match model.agree(state).0 {
                        true => model.allocators(state).len() <= 1,
                        false => model.split_is_seen(state),
                    };
                    model.first.check(holds)
                }),
                Property::sometimes(SPLIT, |model: &Self, state: &State| {
                    !model.agree(state).0 && model.hosts_that_allocate(state) == 2
                }),
            ]
        } else {
            vec![
                Property::always(ONE_ALLOCATES, |model: &Self, state: &State| {
                    model.first.check(model.allocators(state).len() <= 1)
                }),
                Property::always(ONE_OWNER, |model: &Self, state: &State| {
                    model.first.check(model.agree(state).1)
                }),
                Property::always(ONE_EPOCH, |model: &Self, state: &State| {
                    model.first.check(model.agree(state).0)
                }),
            ]
        };
        if self.plan.flaw != Flaw::None {
            properties.retain(|property| self.only.is_none_or(|only| property.name == only));
            return properties;
        }
        if self.plan.transfers > 0 && self.plan.losses == 0 && self.plan.vouch.is_none() {
            properties.push(Property::always(
                SOMEBODY_ALLOCATES,
                |model: &Self, state: &State| model.first.check(model.ends_well(state)),
            ));
        }
        if self.plan.transfers > 1 {
            properties.push(Property::sometimes(
                "the slot comes back",
                |model: &Self, state: &State| {
                    let memory = state.hosts[0].part.memory;
                    let register = register(&model.voting.states.get(memory));
                    register.version.seq == 2 && model.allocators(state) == [0]
                },
            ));
        }
        if matches!(self.plan.epochs, Epochs::Voted { .. }) && self.plan.vouch.is_none() {
            properties.push(Property::sometimes(
                "the last epoch is decided and known to two",
                |model: &Self, state: &State| {
                    let Epochs::Voted { count, .. } = model.plan.epochs else {
                        return false;
                    };
                    let knows = state
                        .hosts
                        .iter()
                        .filter(|host| model.epoch(host.durable) == 1 + count);
                    knows.count() == 2
                },
            ));
        }
        properties
    }
}

impl Cluster {
    /// Members of the latest epoch that would give the slot's address to a pod.
    pub fn allocators(&self, state: &State) -> Vec<usize> {
        let members = self.members(state);
        let does = |host: &usize| {
            let at = &state.hosts[*host];
            !at.is_lost
                && !at.is_frozen
                && members & (1 << host) != 0
                && self.slots.allocates(*host, at.part.memory)
        };
        (0..state.hosts.len()).filter(does).collect()
    }

    /// How many hosts would give the slot's address to a pod, whatever they are members of.
    pub fn hosts_that_allocate(&self, state: &State) -> usize {
        let hosts = state.hosts.iter().enumerate();
        let does = hosts
            .filter(|(host, at)| !at.is_lost && !at.is_frozen && self.slots.allocates(*host, at.part.memory));
        does.count()
    }

    /// True when the slot ends with a member that allocates from it, if from here on nothing is lost, nobody dies and
    /// nobody grants anything.
    fn ends_well(&self, state: &State) -> bool {
        self.ends(
            state,
            |model, state, host| {
                // A host that was removed need not do anything any more, once somebody knows of it for good.
                !model.is_out(state, host) && model.is_member(host, model.settled(state))
            },
            |model, state| model.allocators(state).len() == 1,
        )
    }

    /// True when in the end all hosts that are there and have decided apart have frozen.
    fn split_is_seen(&self, state: &State) -> bool {
        self.ends(
            state,
            |_, state, host| !state.hosts[host].is_lost,
            |model, state| {
                let hosts = state.hosts.iter().filter(|host| !host.is_lost && !host.is_frozen);
                let left: Vec<Host> = hosts.cloned().collect();
                // Whoever has not frozen agrees with all others that are there.
                let others = || state.hosts.iter().filter(|host| !host.is_lost);
                let apart = |a: &Host, b: &Host| !model.agree_on(a, b).0;
                !left.iter().any(|a| others().any(|b| apart(a, b)))
            },
        )
    }

    /// How it ends if from here on nothing is lost, nobody dies and nobody grants anything.
    ///
    /// What arrives only adds to what is known, so one fair order of arrivals stands for all.
    fn ends(
        &self,
        state: &State,
        takes_part: impl Fn(&Self, &State, usize) -> bool,
        is_well: impl Fn(&Self, &State) -> bool,
    ) -> bool {
        let mut state = state.clone();
        let mut passed: Vec<u64> = Vec::new();
        loop {
            let mark = self.mark(&state);
            if let Some(known) = self.endings.known(&mark) {
                return self.remember(passed, known);
            }
            passed.push(mark);
            let mut actions = Vec::new();
            for host in (0..state.hosts.len()).filter(|host| takes_part(self, &state, *host)) {
                self.deliveries(&state, host, &mut actions);
                if state.hosts[host].durable != state.hosts[host].part.memory {
                    actions.push(Action::Sync(host));
                }
            }
            let next = actions.into_iter().find_map(|action| self.step(&state, action));
            match next {
                Some(next) => state = next,
                None => return self.remember(passed, is_well(self, &state)),
            }
        }
    }

    /// Every state that can be reached and in which all that was written is on disk.
    pub fn settled_states(&self) -> HashSet<State> {
        let mut seen = HashSet::new();
        let mut open = vec![self.start()];
        while let Some(state) = open.pop() {
            if !seen.insert(state.clone()) {
                continue;
            }
            let mut actions = Vec::new();
            self.steps(&state, &mut actions);
            open.extend(actions.into_iter().filter_map(|action| self.step(&state, action)));
        }
        let is_settled = |state: &State| state.hosts.iter().all(|host| host.durable == host.part.memory);
        seen.retain(is_settled);
        seen
    }

    fn remember(&self, passed: Vec<u64>, well: bool) -> bool {
        for mark in passed {
            self.endings.of(&mark, || well);
        }
        well
    }

    fn mark(&self, state: &State) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        state.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether all hosts agree on every epoch, and on the owner of each version.
    fn agree(&self, state: &State) -> (bool, bool) {
        let mut all = (true, true);
        for (at, a) in state.hosts.iter().enumerate() {
            for b in state
                .hosts
                .iter()
                .skip(at + 1)
                .filter(|b| !a.is_lost && !b.is_lost)
            {
                let (epochs, owners) = self.agree_on(a, b);
                all = (all.0 && epochs, all.1 && owners);
            }
        }
        all
    }

    fn agree_on(&self, a: &Host, b: &Host) -> (bool, bool) {
        let (a, b) = (a.part.memory, b.part.memory);
        self.agree.of(&(a, b), || {
            let (a, b) = (self.voting.states.get(a), self.voting.states.get(b));
            let hash = |decided: &Decided| decided.epoch.hash();
            let mut epochs = a.epochs().iter().map(hash).zip(b.epochs().iter().map(hash));
            let (here, there) = (register(&a), register(&b));
            let is_same = here.owner == there.owner || here.is_frozen || there.is_frozen;
            (
                epochs.all(|(a, b)| a == b),
                here.version != there.version || is_same,
            )
        })
    }
}

impl Told for Cluster {
    fn tell(&self, before: &State, action: &Action) -> String {
        let name = |host: &usize| self.cast.name(*host);
        let grant = |id| {
            let sent = self.slots.sent.get(id);
            let grant = &sent.grant;
            let (from, to) = (self.cast.host(&grant.from), self.cast.host(&grant.to));
            let version = grant.runs[0].version;
            let (epoch, seq) = (version.epoch, version.seq);
            format!("{}'s grant ({epoch}, {seq}) to {}", name(&from), name(&to))
        };
        match action {
            Action::Propose(host, false) => format!("{} begins a ballot", name(host)),
            Action::Propose(host, true) => {
                let wanted = self.wanted(*host, true);
                let off = wanted.first().map(|epoch| self.cast.names(&epoch.removed));
                let truth = if self.plan.vouch == Some(Vouch::True) {
                    "dead"
                } else {
                    "alive"
                };
                let off = off.unwrap_or_default();
                format!(
                    "{} begins a ballot with a vouch that {off}, {truth}, will not come back",
                    name(host)
                )
            }
            Action::Notice(host, proof) => {
                let other = &self.voting.decided.get(*proof).epoch;
                let other = self.cast.describe(other);
                format!(
                    "{} is shown the {other}, which contradicts its own, and freezes",
                    name(host)
                )
            }
            Action::Read(host, heard) => {
                let was = before.hosts[*host].heard;
                let fresh = (0..before.net.said.len()).filter(|writer| heard[*writer] != was[*writer]);
                let told = fresh.map(|writer| {
                    let record = before.net.said[writer][usize::from(heard[writer]) - 1];
                    tell_record(&self.cast, writer, &self.voting.records.get(record))
                });
                let told: Vec<String> = told.collect();
                format!("{} reads that {}", name(host), told.join(", and that "))
            }
            Action::Decide(at) => {
                let choices = self.decidable(before);
                let decided = choices.iter().find(|(other, _)| other == at);
                let told = decided.map(|(_, id)| self.cast.describe(&self.voting.decided.get(*id).epoch));
                format!("a majority decides the {}", told.unwrap_or_default())
            }
            Action::Learn(host, proof) => {
                let decided = self.voting.decided.get(*proof);
                format!(
                    "{} learns of the {}",
                    name(host),
                    self.cast.describe(&decided.epoch)
                )
            }
            Action::Sync(host) => format!("{} syncs", name(host)),
            Action::Crash(host) => format!("{} dies and starts again", name(host)),
            Action::Lose(host) if self.plan.flaw == Flaw::ResumeWithoutDisk => {
                format!("{} loses its disk and goes on", name(host))
            }
            Action::Lose(host) => format!("{} loses its disk, and is gone", name(host)),
            Action::Give(host, to) => format!("{} grants the slot to {}", name(host), name(to)),
            Action::Take(host, id) if self.slots.sent.get(*id).grant.to == self.cast.id(*host) => {
                format!("{} takes {}", name(host), grant(*id))
            }
            Action::Take(host, id) => format!("{} hears of {}", name(host), grant(*id)),
            Action::HearAccepted(host, id) => {
                format!("{} hears that {} has arrived", name(host), grant(*id))
            }
            Action::Ask(host) => format!("{} asks the members for the slot", name(host)),
            Action::Sign(host, epoch) => {
                format!("{} signs that the slot may be taken in epoch {epoch}", name(host))
            }
            Action::Collect(host, epoch) => format!("{} takes the slot back in epoch {epoch}", name(host)),
            Action::HearReclaim(host, reclaim) => {
                let epoch = self.slots.reclaimed_at(*reclaim).epoch;
                format!(
                    "{} hears that the slot was taken back in epoch {epoch}",
                    name(host)
                )
            }
            Action::Seize(host) => format!("{} takes the slot over", name(host)),
        }
    }
}

/// What a vote record says, for people.
fn tell_record(cast: &Cast, writer: usize, record: &VoteRecord) -> String {
    let ballot = |ballot: &Ballot| {
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
