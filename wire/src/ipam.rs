//! The bodies of the records by which hosts agree who may give out which addresses.
//!
//! A slot's version grows by one each time the slot changes hands, and every step is a [`Grant`] signed by the
//! owner before it. Records say what their owner holds; grants prove it. The rules are in `docs/design/ipam.md`.

use crate::codec;
use crate::envelope::KindNumber;
use crate::hash::hash;
use crate::id::{GenesisId, NodeId, NodeKey};
use crate::limits::RECORD_BODY_MAX;
use crate::mac::Mac;
use crate::reclaim::Proof;
use crate::record::{Body, Signature64};
use alloc::vec::Vec;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// Runs of slots that one host owns at most: with them its record stays within [`RECORD_BODY_MAX`].
pub const SLOT_RUNS_MAX: usize = 192;
/// Runs in one grant: a grant travels whole in records and messages.
pub const GRANT_RUNS_MAX: usize = 16;
/// Grants of one host that their recipient has not yet accepted.
pub const GIVEN_MAX: usize = 2;
/// How often one slot may change hands within an epoch chain: its proof stays one message.
pub const GRANT_CHAIN_MAX: u32 = 64;
/// Addresses that one host lends at a time.
pub const LENT_MAX: usize = 256;
/// Hosts to which one host lends at a time.
pub const BORROWERS_MAX: usize = 48;
/// Hosts that one epoch adds, and hosts that it removes.
pub const EPOCH_CHANGES_MAX: usize = 24;
/// Members of an epoch, which all vote: a certificate of their majority stays one message.
pub const VOTERS_MAX: usize = 1_024;
/// Addresses outside its own slots that one host announces.
pub const EXCEPTIONS_MAX: usize = 180;

/// What the decoder counts against its limit for one run: four 32-bit integers, however short they are written.
const RUN_LEN_MAX: usize = 16;
/// What it counts for a slots record without runs and grants.
const SLOTS_FIXED_LEN: usize = 8 + 4 + 1 + 1 + 3 * 8;
/// What it counts for the longest grant.
pub const GRANT_LEN_MAX: usize = 64 + 64 + 8 + GRANT_RUNS_MAX * RUN_LEN_MAX;
const _: () = assert!(
    SLOTS_FIXED_LEN + SLOT_RUNS_MAX * RUN_LEN_MAX + GIVEN_MAX * GRANT_LEN_MAX <= RECORD_BODY_MAX,
    "the largest slots record must fit"
);
const _: () = assert!(
    8 + BORROWERS_MAX * 32 + LENT_MAX * (5 + 1 + 5) <= RECORD_BODY_MAX,
    "the largest lent record must fit"
);
const EPOCH_LEN_MAX: usize = 64 + 33 + 2 * (1 + EPOCH_CHANGES_MAX * 32);
const OFF_LEN_MAX: usize = 8 + EPOCH_CHANGES_MAX * 2;
const WISHES_LEN_MAX: usize = 8 + EPOCH_CHANGES_MAX * 33;
const _: () = assert!(
    2 * (EPOCH_LEN_MAX + OFF_LEN_MAX) + 3 * 40 + 64 + 32 + 32 + WISHES_LEN_MAX <= RECORD_BODY_MAX,
    "the largest vote record must fit"
);

/// Orders the owners of one slot: epoch first, then the number of grants since genesis or since a
/// [`Reclaim`](crate::reclaim::Reclaim).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Version {
    /// Epoch in which the grant was signed.
    pub epoch: u32,
    /// One more than that of the owner before.
    pub seq: u32,
}

/// Neighbouring slots of one version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SlotRun {
    /// Number of the first slot.
    pub first: u32,
    /// How many slots; at least 1.
    pub count: u32,
    /// Version of each of them.
    pub version: Version,
}

impl SlotRun {
    /// The slot numbers.
    pub fn slots(&self) -> core::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }

    /// True when a slot is in both.
    pub fn overlaps(&self, other: &SlotRun) -> bool {
        self.first < other.slots().end && other.first < self.slots().end
    }
}

/// True when runs are in order, not empty, do not overlap and end below 65,536.
pub(crate) fn are_runs(runs: &[SlotRun]) -> bool {
    runs.iter()
        .all(|r| r.count > 0 && r.slots().end <= 65_536 && r.first < 65_536)
        && runs.windows(2).all(|pair| pair[0].slots().end <= pair[1].first)
}

/// Names a grant, or another proof of ownership: the first 16 octets of its hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct GrantId(pub [u8; 16]);

/// An owner hands slots to another host. The grant *is* the next version of these slots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// Owner until now; signed this.
    pub from: NodeId,
    /// Owner from now on.
    pub to: NodeId,
    /// The slots, each with its version under the new owner; at most [`GRANT_RUNS_MAX`] runs.
    pub runs: Vec<SlotRun>,
    /// Ed25519 over a domain, the genesis id and all of the above.
    pub signature: Signature64,
}

fn grant_message(genesis: &GenesisId, from: &NodeId, to: &NodeId, runs: &[SlotRun]) -> [u8; 32] {
    hash(
        "weft slot grant v1",
        &[&genesis.0, &from.0, &to.0, &codec::encode(&runs)],
    )
}

impl Grant {
    /// Signs a grant of `key`'s host.
    pub fn sign(key: &NodeKey, genesis: &GenesisId, to: NodeId, runs: Vec<SlotRun>) -> Self {
        let from = key.id();
        let signature = key.sign(&grant_message(genesis, &from, &to, &runs)).into();
        Self {
            from,
            to,
            runs,
            signature,
        }
    }

    /// True when `from` signed it for this cluster.
    pub fn is_signed(&self, genesis: &GenesisId) -> bool {
        let message = grant_message(genesis, &self.from, &self.to, &self.runs);
        self.from.verify(&message, &self.signature.into())
    }

    /// Its name.
    pub fn id(&self) -> GrantId {
        let full = hash("weft slot grant id v1", &[&codec::encode(self)]);
        let mut out = [0; 16];
        out.copy_from_slice(&full[..16]);
        GrantId(out)
    }

    /// What the decoder counts for it against its limit.
    pub fn cost(&self) -> usize {
        64 + 64 + 8 + self.runs.len() * RUN_LEN_MAX
    }

    /// False when its runs are out of bounds.
    pub fn is_within_bounds(&self) -> bool {
        !self.runs.is_empty() && self.runs.len() <= GRANT_RUNS_MAX && are_runs(&self.runs)
    }

    /// True when it moves one of these slots.
    pub fn covers(&self, runs: &[SlotRun]) -> bool {
        self.runs
            .iter()
            .any(|run| runs.iter().any(|other| run.overlaps(other)))
    }
}

/// What a host owns, how much of it is free, and as many of the grants behind it as fit.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SlotsRecord {
    /// Changes of its durable state so far: a later start with a lower serial has lost some.
    pub serial: u64,
    /// Latest epoch that the host knows as decided.
    pub epoch: u32,
    /// Bit length of the number of slots that it could hand over: 0 for none.
    pub free_slots: u8,
    /// Bit length of the number of single addresses that it could lend.
    pub free_addresses: u8,
    /// What it owns, at most [`SLOT_RUNS_MAX`] runs.
    pub runs: Vec<SlotRun>,
    /// Grants that it gave and whose recipient has not accepted yet, at most [`GIVEN_MAX`].
    pub given: Vec<Grant>,
    /// By what it holds its slots, newest first, as many as fit.
    pub proofs: Vec<Proof>,
}

impl SlotsRecord {
    /// What is left for more proofs.
    pub fn room(&self) -> usize {
        let given = self.given.iter().map(Grant::cost).sum::<usize>();
        let proofs = self.proofs.iter().map(Proof::cost).sum::<usize>();
        let used = SLOTS_FIXED_LEN + self.runs.len() * RUN_LEN_MAX + given + proofs;
        RECORD_BODY_MAX.saturating_sub(used)
    }
}

impl Body for SlotsRecord {
    const KIND: KindNumber = KindNumber(16);
    fn is_within_bounds(&self) -> bool {
        self.runs.len() <= SLOT_RUNS_MAX
            && are_runs(&self.runs)
            && self.given.len() <= GIVEN_MAX
            && self.given.iter().all(Grant::is_within_bounds)
            && self.proofs.iter().all(Proof::is_within_bounds)
    }
}

/// One address that its slot's owner lends to another host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loan {
    /// Offset of the address in the range.
    pub offset: u32,
    /// Index of the host in [`LentRecord::borrowers`].
    pub borrower: u8,
    /// Number of the loan; the lender never uses one twice.
    pub number: u32,
}

/// The single addresses that a host lends.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LentRecord {
    /// Who borrows, in order of the ids, at most [`BORROWERS_MAX`].
    pub borrowers: Vec<NodeId>,
    /// The loans in order of the offsets, at most [`LENT_MAX`].
    pub loans: Vec<Loan>,
}

impl Body for LentRecord {
    const KIND: KindNumber = KindNumber(17);
    fn is_within_bounds(&self) -> bool {
        self.borrowers.len() <= BORROWERS_MAX
            && self.loans.len() <= LENT_MAX
            && self.borrowers.windows(2).all(|pair| pair[0] < pair[1])
            && self.loans.windows(2).all(|pair| pair[0].offset < pair[1].offset)
            && self
                .loans
                .iter()
                .all(|loan| usize::from(loan.borrower) < self.borrowers.len())
    }
}

/// One link of the chain of memberships; decided by a majority of the members of the one before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Epoch {
    /// One more than that of its parent; the founder alone is epoch 0.
    pub number: u32,
    /// [`Epoch::hash`] of its parent; the genesis id for epoch 1.
    pub parent: [u8; 32],
    /// Hosts that may own slots from now on, in order, at most [`EPOCH_CHANGES_MAX`].
    pub added: Vec<NodeId>,
    /// Hosts that may no longer, in order, at most [`EPOCH_CHANGES_MAX`].
    pub removed: Vec<NodeId>,
    /// Who takes the slots of the removed; none where none are removed.
    pub reclaimer: Option<NodeId>,
    /// True when an operator vouched that the removed are off for good.
    pub fenced: bool,
}

impl Epoch {
    /// Commits to this epoch and, by its parent, to all before.
    pub fn hash(&self) -> [u8; 32] {
        hash("weft epoch v1", &[&codec::encode(self)])
    }

    /// False when a list is too long or out of order, or the reclaimer does not fit.
    pub fn is_within_bounds(&self) -> bool {
        let ordered = |list: &[NodeId]| list.windows(2).all(|pair| pair[0] < pair[1]);
        self.added.len() <= EPOCH_CHANGES_MAX
            && self.removed.len() <= EPOCH_CHANGES_MAX
            && ordered(&self.added)
            && ordered(&self.removed)
            && self.removed.is_empty() == self.reclaimer.is_none()
            && !(self.fenced && self.removed.is_empty())
            && !(self.added.is_empty() && self.removed.is_empty())
    }
}

/// Orders proposals of one epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Ballot {
    /// Grows with each try.
    pub round: u32,
    /// Who tries.
    pub proposer: NodeId,
}

/// Members of an epoch, as positions in the order of their ids, that somebody vouches to be off for good: under such a
/// ballot a majority of the others decides. In order, at most [`EPOCH_CHANGES_MAX`].
pub type Off = Vec<u16>;

/// What a voter says about a value it accepted: enough, with those of a majority, to prove the decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Under which ballot.
    pub ballot: Ballot,
    /// Whose votes do not count under it.
    pub off: Off,
    /// The value.
    pub epoch: Epoch,
    /// Ed25519 by the voter, see [`vote_message`].
    pub signature: Signature64,
}

/// What a voter signs when it accepts.
pub fn vote_message(genesis: &GenesisId, ballot: &Ballot, off: &[u16], epoch: &Epoch) -> [u8; 32] {
    hash(
        "weft epoch vote v1",
        &[
            &genesis.0,
            &codec::encode(ballot),
            &codec::encode(&off),
            &epoch.hash(),
        ],
    )
}

/// False when the positions are too many or out of order.
pub fn is_off_within_bounds(off: &[u16]) -> bool {
    off.len() <= EPOCH_CHANGES_MAX && off.windows(2).all(|pair| pair[0] < pair[1])
}

/// What a proposer asks the voters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// The ballot.
    pub ballot: Ballot,
    /// Whose votes do not count under it.
    pub off: Off,
    /// `None` asks for promises; a value asks to accept it.
    pub value: Option<Epoch>,
}

/// A host that somebody wants removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Wish {
    /// Which.
    pub host: NodeId,
    /// True when whoever wants it vouches that the host is off for good, see [`Epoch::fenced`].
    pub fenced: bool,
}

/// One host's part in deciding the next epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VoteRecord {
    /// The epoch that is being decided: one more than the latest decided one that the host knows.
    pub number: u32,
    /// [`Epoch::hash`] of that latest decided one: two hosts of one cluster that differ here have decided apart.
    pub parent: [u8; 32],
    /// True when the host wants to own slots and asks to be added.
    pub wants: bool,
    /// Hosts that somebody has asked it to have removed, in order, at most [`EPOCH_CHANGES_MAX`].
    pub wishes: Vec<Wish>,
    /// Accepts nothing below.
    pub promised: Option<Ballot>,
    /// What it accepted last.
    pub accepted: Option<Accepted>,
    /// What it proposes.
    pub proposal: Option<Proposal>,
}

impl Body for VoteRecord {
    const KIND: KindNumber = KindNumber(18);
    fn is_within_bounds(&self) -> bool {
        let off = self.accepted.iter().map(|a| &a.off);
        let off = off.chain(self.proposal.iter().map(|p| &p.off));
        let accepted = self.accepted.iter().map(|a| &a.epoch);
        let proposed = self.proposal.iter().filter_map(|p| p.value.as_ref());
        self.number > 0
            && self.wishes.len() <= EPOCH_CHANGES_MAX
            && self.wishes.windows(2).all(|pair| pair[0].host < pair[1].host)
            && { off }.all(|off| is_off_within_bounds(off))
            && accepted.chain(proposed).all(Epoch::is_within_bounds)
    }
}

/// Something that lives on a host although no slot says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Exception {
    /// An address that an operator put there by hand.
    Static(IpAddr),
    /// An address that was in use before the host's state was lost.
    Claimed(IpAddr),
    /// A virtual address that moves between hosts.
    Virtual(IpAddr),
    /// A MAC address that weft did not make.
    ForeignMac(Mac),
}

/// Everything that lives on a host although no slot says so.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExceptionsRecord {
    /// In order, none twice, at most [`EXCEPTIONS_MAX`].
    pub entries: Vec<Exception>,
}

impl Body for ExceptionsRecord {
    const KIND: KindNumber = KindNumber(20);
    fn is_within_bounds(&self) -> bool {
        self.entries.len() <= EXCEPTIONS_MAX && self.entries.windows(2).all(|pair| pair[0] < pair[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Stamp;
    use crate::reclaim::{MISSING_MAX, ReclaimRecord};

    const WIDE: Version = Version {
        epoch: u32::MAX,
        seq: u32::MAX,
    };

    fn runs(count: usize) -> Vec<SlotRun> {
        (0..count as u32)
            .map(|i| SlotRun {
                first: 60_000 + 2 * i,
                count: 2,
                version: WIDE,
            })
            .collect()
    }

    fn grant(key: &NodeKey) -> Grant {
        Grant::sign(key, &GenesisId([3; 32]), key.id(), runs(GRANT_RUNS_MAX))
    }

    fn fits<B: Body + PartialEq + core::fmt::Debug>(body: &B) {
        let key = NodeKey::from_seed([1; 32]);
        let stamp = Stamp {
            incarnation: 1,
            version: 1,
        };
        let envelope = body.to_envelope(&key, key.id(), stamp).unwrap();
        assert_eq!(B::from_envelope(&envelope).as_ref(), Ok(body));
    }

    #[test]
    fn the_largest_records_fit_and_read_back() {
        let key = NodeKey::from_seed([1; 32]);
        assert!(codec::encode(&grant(&key)).len() <= GRANT_LEN_MAX);
        fits(&SlotsRecord {
            serial: u64::MAX,
            epoch: u32::MAX,
            free_slots: 17,
            free_addresses: 32,
            runs: runs(SLOT_RUNS_MAX),
            given: alloc::vec![grant(&key); GIVEN_MAX],
            proofs: alloc::vec![],
        });
        let mut hosts: Vec<NodeId> = (0..64).map(|i| NodeKey::from_seed([i; 32]).id()).collect();
        hosts.sort();
        fits(&LentRecord {
            borrowers: hosts[..BORROWERS_MAX].to_vec(),
            loans: (0..LENT_MAX as u32)
                .map(|i| Loan {
                    offset: u32::MAX - 1_000 + i,
                    borrower: 47,
                    number: u32::MAX,
                })
                .collect(),
        });
        let epoch = Epoch {
            number: u32::MAX,
            parent: [255; 32],
            added: hosts[..EPOCH_CHANGES_MAX].to_vec(),
            removed: hosts[30..30 + EPOCH_CHANGES_MAX].to_vec(),
            reclaimer: Some(hosts[0]),
            fenced: true,
        };
        let ballot = Ballot {
            round: u32::MAX,
            proposer: hosts[0],
        };
        let wish = |host: &NodeId| Wish {
            host: *host,
            fenced: true,
        };
        fits(&VoteRecord {
            number: u32::MAX,
            parent: [255; 32],
            wants: true,
            wishes: hosts[..EPOCH_CHANGES_MAX].iter().map(wish).collect(),
            promised: Some(ballot),
            accepted: Some(Accepted {
                ballot,
                off: (1_000..1_024).collect(),
                epoch: epoch.clone(),
                signature: [9; 64].into(),
            }),
            proposal: Some(Proposal {
                ballot,
                off: (1_000..1_024).collect(),
                value: Some(epoch),
            }),
        });
        fits(&ReclaimRecord {
            epoch: u32::MAX,
            slots: 65_536,
            missing: hosts[..MISSING_MAX].to_vec(),
            more: u16::MAX,
        });
        fits(&ExceptionsRecord {
            entries: (0..EXCEPTIONS_MAX as u128)
                .map(|i| Exception::Static(IpAddr::V6((u128::MAX - 500 + i).into())))
                .collect(),
        });
    }

    #[test]
    fn a_grant_holds_for_its_cluster_and_its_octets_only() {
        let key = NodeKey::from_seed([1; 32]);
        let good = grant(&key);
        assert!(good.is_signed(&GenesisId([3; 32])) && good.is_within_bounds());
        assert!(!good.is_signed(&GenesisId([4; 32])));
        let mut other = good.clone();
        other.runs[0].count = 1;
        assert!(!other.is_signed(&GenesisId([3; 32])));
        other = good.clone();
        other.to = NodeKey::from_seed([2; 32]).id();
        assert!(!other.is_signed(&GenesisId([3; 32])));
        assert_ne!(other.id(), good.id());
        other.runs[1].first -= 1;
        assert!(!other.is_within_bounds(), "overlapping runs");
    }
}
