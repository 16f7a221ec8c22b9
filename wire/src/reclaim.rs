//! Slots of removed hosts, taken back: the one version of a slot that its last owner has not signed.
//!
//! The members of an epoch sign it instead, all of them for the host that asks, and a majority for everybody else. The
//! rules are in `docs/design/ipam.md`.

use crate::codec;
use crate::envelope::KindNumber;
use crate::hash::hash;
use crate::id::{GenesisId, NodeId};
use crate::ipam::{Grant, GrantId, SlotRun, VOTERS_MAX, are_runs};
use crate::record::{Body, Signature64};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Runs in one [`Reclaim`]: more than one host owns, and few enough for one message with all its votes.
pub const RECLAIM_RUNS_MAX: usize = 256;

/// Slots of removed hosts have a new owner. This *is* the first version of these slots in its epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reclaim {
    /// The reclaimer that the epoch names, or the latest before it that names one.
    pub to: NodeId,
    /// The slots, at most [`RECLAIM_RUNS_MAX`] runs, all with the version that they have from now on: `(epoch, 0)`.
    pub runs: Vec<SlotRun>,
    /// Who says so: position in the order of the ids of the epoch's members, and signature over [`reclaim_message`].
    pub votes: Vec<(u16, Signature64)>,
}

/// What a member of an epoch signs when it has taken no slot of these, and will take none from a removed host.
pub fn reclaim_message(
    genesis: &GenesisId,
    epoch_hash: &[u8; 32],
    to: &NodeId,
    runs: &[SlotRun],
) -> [u8; 32] {
    hash(
        "weft slot reclaim v1",
        &[&genesis.0, epoch_hash, &to.0, &codec::encode(&runs)],
    )
}

impl Reclaim {
    /// The epoch whose members signed it; 0 for one out of bounds.
    pub fn epoch(&self) -> u32 {
        self.runs.first().map_or(0, |run| run.version.epoch)
    }

    /// False when its lists are out of bounds, or its versions are not the first ones of one epoch behind genesis.
    pub fn is_within_bounds(&self) -> bool {
        let epoch = self.epoch();
        epoch > 0
            && self.runs.len() <= RECLAIM_RUNS_MAX
            && are_runs(&self.runs)
            && self
                .runs
                .iter()
                .all(|run| run.version.epoch == epoch && run.version.seq == 0)
            && self.votes.len() <= VOTERS_MAX
    }

    /// Its name.
    pub fn id(&self) -> GrantId {
        let full = hash("weft slot reclaim id v1", &[&codec::encode(self)]);
        let mut out = [0; 16];
        out.copy_from_slice(&full[..16]);
        GrantId(out)
    }

    /// What the decoder counts for it against its limit.
    pub fn cost(&self) -> usize {
        32 + 8 + self.runs.len() * 16 + 8 + self.votes.len() * 66
    }
}

/// Why somebody owns slots, beyond genesis.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Proof {
    /// The owner before has handed them over.
    Grant(Grant),
    /// The owner before was removed.
    Reclaim(Reclaim),
}

impl Proof {
    /// Its name.
    pub fn id(&self) -> GrantId {
        match self {
            Self::Grant(grant) => grant.id(),
            Self::Reclaim(reclaim) => reclaim.id(),
        }
    }

    /// The slots, with the versions that they have by it.
    pub fn runs(&self) -> &[SlotRun] {
        match self {
            Self::Grant(grant) => &grant.runs,
            Self::Reclaim(reclaim) => &reclaim.runs,
        }
    }

    /// Who owns them by it.
    pub fn to(&self) -> NodeId {
        match self {
            Self::Grant(grant) => grant.to,
            Self::Reclaim(reclaim) => reclaim.to,
        }
    }

    /// True when it is about one of these slots.
    pub fn covers(&self, runs: &[SlotRun]) -> bool {
        let any = |run: &SlotRun| runs.iter().any(|other| run.overlaps(other));
        self.runs().iter().any(any)
    }

    /// False when its lists are out of bounds.
    pub fn is_within_bounds(&self) -> bool {
        match self {
            Self::Grant(grant) => grant.is_within_bounds(),
            Self::Reclaim(reclaim) => reclaim.is_within_bounds(),
        }
    }

    /// What the decoder counts for it against its limit.
    pub fn cost(&self) -> usize {
        4 + match self {
            Self::Grant(grant) => grant.cost(),
            Self::Reclaim(reclaim) => reclaim.cost(),
        }
    }
}

impl From<Grant> for Proof {
    fn from(grant: Grant) -> Self {
        Self::Grant(grant)
    }
}

/// Hosts that one [`ReclaimRecord`] names.
pub const MISSING_MAX: usize = 24;

/// How far the reclaimer has come, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReclaimRecord {
    /// The epoch whose members it asks.
    pub epoch: u32,
    /// Slots of removed hosts that it has not taken back yet.
    pub slots: u32,
    /// Members that have not signed, in order, at most [`MISSING_MAX`].
    pub missing: Vec<NodeId>,
    /// How many more have not.
    pub more: u16,
}

impl Body for ReclaimRecord {
    const KIND: KindNumber = KindNumber(19);
    fn is_within_bounds(&self) -> bool {
        self.slots <= 65_536
            && self.missing.len() <= MISSING_MAX
            && self.missing.windows(2).all(|pair| pair[0] < pair[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::Version;

    fn reclaim(versions: &[(u32, u32)]) -> Reclaim {
        let runs = versions.iter().enumerate();
        let runs = runs.map(|(at, (epoch, seq))| SlotRun {
            first: 4 * at as u32,
            count: 2,
            version: Version {
                epoch: *epoch,
                seq: *seq,
            },
        });
        Reclaim {
            to: NodeId([1; 32]),
            runs: runs.collect(),
            votes: Vec::new(),
        }
    }

    #[test]
    fn it_begins_the_versions_of_one_epoch() {
        assert!(reclaim(&[(3, 0), (3, 0)]).is_within_bounds());
        assert_eq!(reclaim(&[(3, 0), (3, 0)]).epoch(), 3);
        for versions in [
            &[][..],
            &[(0, 0)],
            &[(3, 1)],
            &[(3, 0), (4, 0)],
            &[(3, 0), (3, 1)],
        ] {
            assert!(!reclaim(versions).is_within_bounds(), "{versions:?}");
        }
        assert!(!reclaim(&[(3, 0); RECLAIM_RUNS_MAX + 1]).is_within_bounds());
    }

    #[test]
    fn what_is_signed_names_cluster_epoch_owner_and_slots() {
        let (genesis, hash) = (GenesisId([1; 32]), [2; 32]);
        let (a, b) = (reclaim(&[(3, 0)]), reclaim(&[(3, 0), (3, 0)]));
        let message = reclaim_message(&genesis, &hash, &a.to, &a.runs);
        assert_ne!(
            message,
            reclaim_message(&GenesisId([9; 32]), &hash, &a.to, &a.runs)
        );
        assert_ne!(message, reclaim_message(&genesis, &[9; 32], &a.to, &a.runs));
        assert_ne!(
            message,
            reclaim_message(&genesis, &hash, &NodeId([9; 32]), &a.runs)
        );
        assert_ne!(message, reclaim_message(&genesis, &hash, &a.to, &b.runs));
    }
}
