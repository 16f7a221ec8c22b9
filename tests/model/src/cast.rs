//! Who takes part: a few hosts with fixed keys, named A, B, C … in the order of their ids, and the cluster that A founded.

use weft_ipam_crdt::epoch::vote_record;
use weft_ipam_crdt::message::Decided;
use weft_ipam_crdt::state::Vote;
use weft_ipam_crdt::{AddressSpace, Change, IpamState};
use weft_wire::ipam::{Ballot, Epoch};
use weft_wire::record::Genesis;
use weft_wire::{GenesisId, NodeId, NodeKey};

/// The hosts of a model, and their cluster.
pub struct Cast {
    keys: Vec<NodeKey>,
    genesis: Genesis,
    space: AddressSpace,
}

impl Cast {
    /// `hosts` hosts; the first one has founded the cluster.
    ///
    /// # Panics
    /// Never: the range is a fixed one.
    pub fn new(hosts: usize) -> Self {
        let mut keys: Vec<NodeKey> = (0..hosts)
            .map(|i| NodeKey::from_seed([i as u8 + 1; 32]))
            .collect();
        keys.sort_by_key(NodeKey::id);
        let range = "10.32.0.0/29".parse().expect("a range");
        let space = AddressSpace::of_range(range).expect("a range that can be used");
        let genesis = Genesis {
            founders: vec![keys[0].id()],
            nonce: [7; 16],
            range,
            slot_size: space.slot_size(),
        };
        Self { keys, genesis, space }
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True for a cast of nobody.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Id of a host.
    pub fn id(&self, host: usize) -> NodeId {
        self.keys[host].id()
    }

    /// Key of a host.
    pub fn key(&self, host: usize) -> &NodeKey {
        &self.keys[host]
    }

    /// Which host has this id.
    ///
    /// # Panics
    /// Nobody has it.
    pub fn host(&self, id: &NodeId) -> usize {
        let is = |key: &NodeKey| key.id() == *id;
        self.keys.iter().position(is).expect("a host of this model")
    }

    /// Name of a host.
    pub fn name(&self, host: usize) -> char {
        char::from(b'A' + host as u8)
    }

    /// Names of hosts, for people.
    pub fn names<'a>(&self, ids: impl IntoIterator<Item = &'a NodeId>) -> String {
        let names: Vec<String> = ids
            .into_iter()
            .map(|id| self.name(self.host(id)).to_string())
            .collect();
        names.join(" and ")
    }

    /// What an epoch changes, for people.
    pub fn describe(&self, epoch: &Epoch) -> String {
        let mut parts = Vec::new();
        if !epoch.added.is_empty() {
            parts.push(format!("adds {}", self.names(&epoch.added)));
        }
        if let Some(reclaimer) = &epoch.reclaimer {
            let removed = self.names(&epoch.removed);
            parts.push(format!("removes {removed} for {}", self.names([reclaimer])));
        }
        format!("epoch {} that {}", epoch.number, parts.join(" and "))
    }

    /// What the founder laid down.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Name of the cluster.
    pub fn genesis_id(&self) -> GenesisId {
        self.genesis.id()
    }

    /// The range.
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// The state of a host that has heard of nothing.
    ///
    /// # Panics
    /// Never: the range can be used.
    pub fn newborn(&self) -> IpamState {
        IpamState::genesis(&self.genesis).expect("a range that can be used")
    }

    /// The state of a host after the founder has added all of `hosts`, itself excepted, in epoch 1.
    pub fn with_members(&self, hosts: &[usize]) -> IpamState {
        let mut state = self.newborn();
        let mut added: Vec<NodeId> = hosts.iter().map(|host| self.id(*host)).collect();
        added.retain(|id| *id != self.id(0));
        added.sort();
        let epoch = Epoch {
            number: 1,
            parent: state.epoch_hash(),
            added,
            removed: Vec::new(),
            reclaimer: None,
            fenced: false,
        };
        state.apply(&Change::Decided(self.decided(&state, &[0], &epoch)));
        state
    }

    /// A decision for which these members have voted.
    ///
    /// # Panics
    /// One of the voters is no member.
    pub fn decided(&self, state: &IpamState, voters: &[usize], epoch: &Epoch) -> Decided {
        let ballot = Ballot {
            round: 1,
            proposer: self.id(voters[0]),
        };
        let votes = voters.iter().map(|voter| {
            let mut voting = state.clone();
            voting.apply(&Change::Voted(Vote {
                promised: Some(ballot),
                accepted: Some((ballot, Vec::new(), epoch.clone())),
            }));
            let record = vote_record(&voting, self.key(*voter), &self.genesis_id(), false, None);
            let accepted = record.accepted.expect("it has just accepted");
            let is = |node: &NodeId| *node == self.id(*voter);
            let position = state.members().iter().position(is).expect("a voter");
            (position as u16, accepted.signature)
        });
        Decided {
            epoch: epoch.clone(),
            ballot,
            off: Vec::new(),
            votes: votes.collect(),
        }
    }
}
