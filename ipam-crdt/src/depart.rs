//! How the membership of a host that leaves ends, and wishes to have hosts removed that are not stored.
//!
//! Nobody can take itself out of an epoch: the members decide that, as they decide every removal. A host that leaves only
//! says in its vote record that it wants to be out, votes like the others until that is decided, and waits until one of them
//! shows that it knows: its own vote may be one of those that decide.
//!
//! Neither this wish nor one because of a host's silence is stored. They hold as long as the process that has them sees
//! reason for them, so a router that starts anew takes them back by saying nothing.

use crate::ipam::Ipam;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use weft_wire::NodeId;
use weft_wire::ipam::{EPOCH_CHANGES_MAX, Wish};

/// Where the decision to go on without a host that leaves stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Departure {
    /// It is asked for once all is handed on that can be; never where nobody else could decide it.
    AwaitingHandover,
    /// The members must decide it.
    AwaitingMajority {
        /// Votes that decide.
        needed: usize,
        /// Members whose votes have not come yet.
        missing: Vec<NodeId>,
    },
    /// It is decided, and no other member has shown that it knows: it may still need this host's vote for that.
    AwaitingWitness,
    /// It is decided, and known.
    Known,
}

impl Ipam {
    /// True for a host that goes for good.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Asks the members to go on without this host, if there are others.
    pub(crate) fn ask_for_removal(&mut self) {
        let others = self.state.members().iter().any(|node| *node != self.node);
        if let Some(leave) = self.leaving.as_mut().filter(|_| others) {
            leave.asks_removal = true;
            self.insert_own_vote();
        }
    }

    pub(crate) fn departure(&self) -> Departure {
        if let Some(since) = self.state.gone().get(&self.node) {
            let mut members = self.state.members().iter();
            let knows = |node: &NodeId| self.votes.of(node).is_some_and(|record| record.number > *since);
            return match members.any(knows) {
                true => Departure::Known,
                false => Departure::AwaitingWitness,
            };
        }
        match &self.leaving {
            Some(leave) if leave.asks_removal => {
                let (needed, missing) = self.missing_votes(&[self.node], false);
                Departure::AwaitingMajority { needed, missing }
            }
            _ => Departure::AwaitingHandover,
        }
    }

    /// The shell has heard nothing of these hosts for too long.
    pub(crate) fn on_remove_silent(&mut self, mut hosts: BTreeSet<NodeId>) {
        hosts.remove(&self.node);
        hosts.retain(|host| !self.is_gone(host));
        if self.silent_hosts != hosts {
            self.silent_hosts = hosts;
            self.insert_own_vote();
        }
    }

    /// Adds the wishes that are not stored. This host's own end comes first; what there is no room for comes later.
    pub(crate) fn add_passing_wishes(&self, wishes: &mut Vec<Wish>) {
        let leaves = self.leaving.as_ref().is_some_and(|leave| leave.asks_removal);
        if leaves && !self.is_removed() {
            wishes.truncate(EPOCH_CHANGES_MAX - 1);
            add(wishes, self.node);
        }
        for host in self.silent_hosts.iter().filter(|host| !self.is_gone(host)) {
            if wishes.len() < EPOCH_CHANGES_MAX {
                add(wishes, *host);
            }
        }
    }
}

/// Adds a wish in its place, unless there is one for this host.
fn add(wishes: &mut Vec<Wish>, host: NodeId) {
    if let Err(at) = wishes.binary_search_by_key(&host, |wish| wish.host) {
        wishes.insert(at, Wish { host, fenced: false });
    }
}
