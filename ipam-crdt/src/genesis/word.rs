//! What hosts that agree on a genesis say to each other.

use super::{Charter, Terms};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use weft_wire::ipam::Ballot;
use weft_wire::mesh::AGREEMENT_MAX;
use weft_wire::{NodeId, codec};

/// What hosts say to each other, each knowing by the token's handshake who speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Word {
    /// First on every link, and again when the set changes.
    Terms {
        /// What the speaker was told.
        terms: Terms,
        /// The set that the speaker counts itself to; empty when there is none.
        set: Vec<NodeId>,
    },
    /// The speaker asks for a promise to its ballot.
    Prepare {
        /// The ballot.
        ballot: Ballot,
        /// Whom it counts.
        set: Vec<NodeId>,
    },
    /// The speaker takes part in nothing below this ballot any more.
    Promise {
        /// The ballot.
        ballot: Ballot,
        /// What it accepted last, under a lower one.
        accepted: Option<(Ballot, Charter)>,
    },
    /// The speaker asks to accept this. The set is the founders of the charter's genesis.
    Accept {
        /// The ballot.
        ballot: Ballot,
        /// What is to be decided.
        charter: Charter,
    },
    /// The speaker has accepted what was proposed under this ballot.
    Accepted {
        /// The ballot.
        ballot: Ballot,
    },
    /// A higher ballot was promised.
    Higher {
        /// The ballot that comes too late.
        than: Ballot,
        /// The higher one.
        promised: Ballot,
    },
    /// A majority has accepted this.
    Decided {
        /// The decision.
        charter: Charter,
    },
}

impl Word {
    /// The word in what an `AgreementOutput::Send` carries; `None` for anything else.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        codec::decode::<Self, AGREEMENT_MAX>(bytes).ok()
    }
}
