//! What one member says to another directly.
//!
//! The mesh carries these octets to one member and says who sent them. They may be lost, doubled or overtaken:
//! every question is asked again until its deadline, and every answer is safe to hear twice.

use crate::subnet::Span;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use weft_wire::codec::{self, DecodeError};
use weft_wire::ipam::{Ballot, Epoch, Grant, GrantId, Off, SlotRun, is_off_within_bounds};
use weft_wire::reclaim::{Proof, RECLAIM_RUNS_MAX};
use weft_wire::record::Signature64;

/// Octets of the longest message: fits one frame of the mesh with room for what carries it.
pub const MESSAGE_MAX: usize = 60_000;
const _: () = assert!(
    MESSAGE_MAX <= weft_wire::mesh::PASSED_MAX,
    "a message can go over the links of others"
);
/// Grants and other proofs in one message.
pub const GRANTS_PER_MESSAGE: usize = 100;
/// Runs in one question.
pub const RUNS_PER_QUESTION: usize = 16;
/// Borrowed addresses in one answer to the reclaimer: what sixteen lenders' records of loans can list.
pub const KEPT_MAX: usize = 16 * weft_wire::ipam::LENT_MAX;

/// Names a question of one host for ever: its incarnation, and a count within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AskId {
    /// Incarnation of the asker.
    pub incarnation: u64,
    /// Grows with each question.
    pub count: u64,
}

/// A decided epoch with the votes that prove it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decided {
    /// What was decided.
    pub epoch: Epoch,
    /// Under which ballot.
    pub ballot: Ballot,
    /// Whose votes did not count under it.
    pub off: Off,
    /// Votes of a majority of the other members of the epoch before: position in the order of their ids, signature.
    pub votes: Vec<(u16, Signature64)>,
}

/// Why a member does not give what it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// The asker is in no epoch that this member knows.
    NotInEpoch,
    /// This member has just started and nobody has confirmed its incarnation yet.
    NotConfirmed,
    /// This member's allocation is frozen.
    Frozen,
    /// Nothing is free.
    NothingFree,
    /// The address is in use, at rest, or never given.
    AddressTaken,
    /// Another host owns the slot.
    NotOwner,
    /// Its record of loans is full.
    TooManyLoans,
    /// One of the two records has no room for more runs.
    NoRoom,
    /// Other hosts have not yet accepted what they were granted; or the address is lent to the asker itself, by the answer to an
    /// earlier question. Ask again in a moment.
    Busy,
}

/// Which address shall be lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Wish {
    /// One of these.
    In(Span),
    /// This one, also if it rests.
    This(u32),
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// May I use my slots? Asked after a start.
    Confirm {
        /// The asker's incarnation.
        incarnation: u64,
        /// Changes of its durable state so far.
        serial: u64,
    },
    /// The highest incarnation, and with it the highest serial, that was ever seen of the asker.
    Confirmed {
        /// Incarnation from the question.
        of: u64,
        /// Highest incarnation seen.
        incarnation: u64,
        /// Highest serial seen.
        serial: u64,
    },
    /// Hand me slots.
    AskSpace {
        /// The question.
        ask: AskId,
        /// Slots for which pods wait; 0 for a host that wants to have some for later.
        need: u32,
        /// Runs that fit the asker's record.
        room: u32,
        /// Slots that have an address in it.
        span: Span,
    },
    /// A grant, and the proofs behind its slots.
    Grant {
        /// The grant.
        grant: Grant,
        /// At most [`GRANTS_PER_MESSAGE`] in all.
        chain: Vec<Proof>,
    },
    /// The recipient has made the grant durable, or knows later versions of all its slots.
    GrantAccepted(GrantId),
    /// Lend me an address.
    AskLoan {
        /// The question.
        ask: AskId,
        /// Which.
        wish: Wish,
    },
    /// A loan.
    Lend {
        /// The question.
        ask: AskId,
        /// The address.
        offset: u32,
        /// Number of the loan.
        number: u32,
    },
    /// The borrower no longer uses, or never used, the address.
    Return {
        /// The address.
        offset: u32,
        /// Number of the loan.
        number: u32,
    },
    /// The loan is over.
    Returned {
        /// The address.
        offset: u32,
        /// Number of the loan.
        number: u32,
    },
    /// No.
    Refuse {
        /// The question.
        ask: AskId,
        /// Why.
        why: Refusal,
    },
    /// Prove that you own these.
    AskChain(Vec<SlotRun>),
    /// The proofs behind slots that were asked for.
    Chain(Vec<Proof>),
    /// Which epochs follow this one?
    AskEpochs {
        /// The latest that the asker knows.
        after: u32,
    },
    /// Decided epochs in order.
    Epochs(Vec<Decided>),
    /// I am leaving: ask me for slots.
    Offer,
    /// Sign that these slots of removed hosts are nobody's, so that the asker can take them back.
    AskReclaim {
        /// The latest epoch that the asker knows.
        epoch: u32,
        /// The slots, with the version that they would have; at most [`RECLAIM_RUNS_MAX`] runs.
        runs: Vec<SlotRun>,
    },
    /// The signature of a member of that epoch over [`reclaim_message`](weft_wire::reclaim::reclaim_message); or the
    /// word, without one, of a host that is in none.
    ReclaimSigned {
        /// From the question.
        epoch: u32,
        /// The slots that were asked for.
        runs: Vec<SlotRun>,
        /// Nothing stands against it; `None` from a host in no epoch.
        signature: Option<Signature64>,
        /// Addresses in them that pods of the sender have borrowed, at most [`KEPT_MAX`].
        kept: Vec<u32>,
    },
    /// These of the slots are somebody's, with the versions that the sender knows.
    ReclaimRefused {
        /// From the question.
        epoch: u32,
        /// At most [`RECLAIM_RUNS_MAX`] runs; there may be more.
        against: Vec<SlotRun>,
    },
}

impl Message {
    /// The octets.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads octets and checks bounds.
    ///
    /// # Errors
    /// They are no message, or one that is out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: Self = codec::decode::<_, { 2 * MESSAGE_MAX }>(bytes)?;
        let proofs_ok = |proofs: &[Proof]| {
            proofs.len() <= GRANTS_PER_MESSAGE && proofs.iter().all(Proof::is_within_bounds)
        };
        let runs_ok = |runs: &[SlotRun]| {
            runs.len() <= RECLAIM_RUNS_MAX
                && runs.windows(2).all(|pair| pair[0].slots().end <= pair[1].first)
                && runs.iter().all(|run| run.count > 0 && run.slots().end <= 65_536)
        };
        let ok = bytes.len() <= MESSAGE_MAX
            && match &message {
                Self::Grant { grant, chain } => grant.is_within_bounds() && proofs_ok(chain),
                Self::Chain(proofs) => proofs_ok(proofs),
                Self::AskChain(runs) => runs.len() <= RUNS_PER_QUESTION,
                Self::Epochs(epochs) => epochs
                    .iter()
                    .all(|decided| decided.epoch.is_within_bounds() && is_off_within_bounds(&decided.off)),
                Self::AskReclaim { runs, .. } => runs_ok(runs),
                Self::ReclaimSigned { runs, kept, .. } => runs_ok(runs) && kept.len() <= KEPT_MAX,
                Self::ReclaimRefused { against, .. } => runs_ok(against),
                _ => true,
            };
        if ok {
            Ok(message)
        } else {
            Err(DecodeError::TooLong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_wire::ipam::{GRANT_LEN_MAX, Version};
    use weft_wire::{GenesisId, NodeKey};

    const _: () = assert!(GRANTS_PER_MESSAGE * (GRANT_LEN_MAX + 4) + 1_000 <= MESSAGE_MAX);

    proptest! {
        #[test]
        fn no_octets_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_message_survives_and_one_out_of_bounds_does_not() {
        let key = NodeKey::from_seed([1; 32]);
        let run = SlotRun {
            first: 3,
            count: 2,
            version: Version { epoch: 1, seq: 1 },
        };
        let grant = |run| Proof::Grant(Grant::sign(&key, &GenesisId([0; 32]), key.id(), alloc::vec![run]));
        let message = Message::Chain(alloc::vec![grant(run); GRANTS_PER_MESSAGE]);
        assert_eq!(Message::decode(&message.encode()), Ok(message));
        let message = Message::Chain(alloc::vec![grant(run); GRANTS_PER_MESSAGE + 1]);
        assert_eq!(Message::decode(&message.encode()), Err(DecodeError::TooLong));
        let empty = SlotRun { count: 0, ..run };
        let message = Message::Chain(alloc::vec![grant(empty)]);
        assert_eq!(Message::decode(&message.encode()), Err(DecodeError::TooLong));
    }
}
