//! Slots of removed hosts, taken back: the one version of a slot that its last owner has not signed.
//!
//! The members of an epoch sign it instead, all of them for the host that asks, and a majority for everybody else. The
//! rules are in `docs/design/ipam.md`.

use crate::codec;
use crate::hash::hash;
use crate::id::{GenesisId, NodeId};
use crate::ipam::{SlotRun, VOTERS_MAX, are_runs};
use crate::record::Signature64;
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

    /// What the decoder counts for it against its limit.
    pub fn cost(&self) -> usize {
        32 + 8 + self.runs.len() * 16 + 8 + self.votes.len() * 66
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
