//! What must hold, what must be possible, and how a step is told.

use crate::cast::Cast;
use crate::cluster::{Action, Cluster, State};
use crate::plan::{Epochs, Flaw};
use crate::search::Told;
use crate::slots::Slots;
use stateright::{Model, Property};
use weft_ipam_crdt::message::Decided;
use weft_wire::ipam::{Ballot, VoteRecord};

/// P1: no two members allocate from the slot.
pub const ONE_ALLOCATES: &str = "at most one member allocates from a slot";
/// P2: no version of the slot has two owners.
pub const ONE_OWNER: &str = "one owner of each version";
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
        let mut properties = vec![
            Property::always(ONE_ALLOCATES, |model: &Self, state: &State| {
                model.first.check(model.allocators(state).len() <= 1)
            }),
            Property::always(ONE_OWNER, |model: &Self, state: &State| {
                model.first.check(model.agree(state).1)
            }),
            Property::always(ONE_EPOCH, |model: &Self, state: &State| {
                model.first.check(model.agree(state).0)
            }),
        ];
        if self.plan.flaw != Flaw::None {
            return properties;
        }
        if self.plan.transfers > 1 {
            properties.push(Property::sometimes(
                "the slot comes back",
                |model: &Self, state: &State| {
                    let memory = state.hosts[0].part.memory;
                    let register = Slots::register(&model.voting.states.get(memory));
                    register.version.seq == 2 && model.allocators(state) == [0]
                },
            ));
        }
        if matches!(self.plan.epochs, Epochs::Voted { .. }) {
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
        let latest = self.latest(state);
        let does = |host: &usize| {
            let at = &state.hosts[*host];
            !at.is_lost
                && !at.is_frozen
                && self.is_member(*host, latest)
                && self
                    .slots
                    .allocates(&self.cast, &self.voting, *host, at.part.memory)
        };
        (0..state.hosts.len()).filter(does).collect()
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
                let (a, b) = (a.part.memory, b.part.memory);
                let (epochs, owners) = self.agree.of(&(a, b), || {
                    let (a, b) = (self.voting.states.get(a), self.voting.states.get(b));
                    let hash = |decided: &Decided| decided.epoch.hash();
                    let mut epochs = a.epochs().iter().map(hash).zip(b.epochs().iter().map(hash));
                    let (here, there) = (Slots::register(&a), Slots::register(&b));
                    let is_same = here.owner == there.owner || here.is_frozen || there.is_frozen;
                    (
                        epochs.all(|(a, b)| a == b),
                        here.version != there.version || is_same,
                    )
                });
                all = (all.0 && epochs, all.1 && owners);
            }
        }
        all
    }
}

impl Told for Cluster {
    fn tell(&self, before: &State, action: &Action) -> String {
        let name = |host: &usize| self.cast.name(*host);
        let grant = |id| {
            let grant = self.slots.grants.get(id);
            let (from, to) = (self.cast.host(&grant.from), self.cast.host(&grant.to));
            let version = grant.runs[0].version;
            let (epoch, seq) = (version.epoch, version.seq);
            format!("{}'s grant ({epoch}, {seq}) to {}", name(&from), name(&to))
        };
        match action {
            Action::Propose(host) => format!("{} begins a ballot", name(host)),
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
            Action::Take(host, id) if self.slots.grants.get(*id).to == self.cast.id(*host) => {
                format!("{} takes {}", name(host), grant(*id))
            }
            Action::Take(host, id) => format!("{} hears of {}", name(host), grant(*id)),
            Action::HearAccepted(host, id) => {
                format!("{} hears that {} has arrived", name(host), grant(*id))
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
