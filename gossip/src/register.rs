//! The map of records: one register with one writer for each (kind, owner).
//!
//! Joining two versions of a register keeps the greater by [`Envelope::join_order`], so it is idempotent,
//! commutative, associative and never goes back: hosts that have seen the same records hold the same map,
//! whatever came in which order or how often. (Within the quota of unknown kinds; what does not fit there is
//! refused, and only the owner who filled it is the poorer.)
//!
//! A member can write its own registers only. Stamping one with the highest possible version or incarnation
//! stops its own later records and nobody else's; a new identity is the cure.

use crate::membership::{AdmissionError, Membership};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;
use weft_wire::adopt::AdoptRecord;
use weft_wire::envelope::{KindNumber, RegisterKey};
use weft_wire::fastpath::FastpathRecord;
use weft_wire::group::GroupsRecord;
use weft_wire::hash::hash;
use weft_wire::ipam::{ExceptionsRecord, LentRecord, SlotsRecord, VoteRecord};
use weft_wire::limits::{OWNERS_MAX, UNKNOWN_KIND_QUOTA};
use weft_wire::reclaim::ReclaimRecord;
use weft_wire::record::{Admission, Body, LinksRecord, PeerRecord};
use weft_wire::{Envelope, NodeId};

/// Records of unknown kinds that are kept for one owner: bounds the number of registers where
/// [`UNKNOWN_KIND_QUOTA`] bounds their octets.
pub const UNKNOWN_KINDS_MAX: usize = 16;

/// What a record did to the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new, or newer than what was held.
    Changed,
    /// It is what is held.
    Known,
    /// A newer version is held.
    Older,
}

/// Why a record is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its owner did not sign it.
    #[error("the record is not signed by its owner")]
    BadSignature,
    /// Its body does not decode or is out of bounds.
    #[error("the record's body is malformed")]
    BadBody,
    /// Its owner is not known as a member.
    #[error("the record's owner is not a member")]
    NotAMember,
    /// An admission that does not hold.
    #[error("{0}")]
    Admission(AdmissionError),
    /// Its owner has used up its share of records of kinds that this version does not know.
    #[error("the owner's quota of unknown records is used up")]
    UnknownKindQuota,
    /// The map is full.
    #[error("more than {OWNERS_MAX} owners")]
    TooManyOwners,
}

impl RecordError {
    /// True when a host that checks what it forwards cannot have sent this: the sender is at fault, not the
    /// order of arrival.
    pub fn is_senders_fault(self) -> bool {
        match self {
            Self::BadSignature | Self::BadBody => true,
            Self::Admission(error) => !matches!(
                error,
                AdmissionError::UnknownAdmitter | AdmissionError::AdmitterRank
            ),
            Self::NotAMember | Self::UnknownKindQuota | Self::TooManyOwners => false,
        }
    }
}

/// The map. All lookups are by key; iteration is in the order of the keys.
#[derive(Clone, Debug, Default)]
pub struct RegisterMap {
    records: BTreeMap<RegisterKey, Held>,
    /// Registers held for each owner, and the octets of those of unknown kinds.
    owners: BTreeMap<NodeId, Share>,
    fingerprint: [u8; 16],
}

/// A record with its digest.
#[derive(Clone, Debug)]
struct Held {
    envelope: Envelope,
    digest: [u8; 16],
}

#[derive(Clone, Copy, Debug, Default)]
struct Share {
    unknown: usize,
    unknown_octets: usize,
}

/// True when the body that an envelope carries is well formed.
type BodyCheck = fn(&Envelope) -> bool;

/// Kinds that this version knows, with the check of their bodies. They do not count against the quota of unknown
/// kinds: each is one bounded record.
const KNOWN: [(KindNumber, BodyCheck); 11] = [
    known::<Admission>(),
    known::<PeerRecord>(),
    known::<LinksRecord>(),
    known::<AdoptRecord>(),
    known::<GroupsRecord>(),
    known::<FastpathRecord>(),
    known::<SlotsRecord>(),
    known::<LentRecord>(),
    known::<VoteRecord>(),
    known::<ReclaimRecord>(),
    known::<ExceptionsRecord>(),
];

const fn known<B: Body>() -> (KindNumber, BodyCheck) {
    (B::KIND, |envelope| B::from_envelope(envelope).is_ok())
}

/// The check of a kind's bodies, when the kind is known.
fn body_check(kind: KindNumber) -> Option<BodyCheck> {
    KNOWN
        .iter()
        .find(|(known, _)| *known == kind)
        .map(|(_, check)| *check)
}

/// Sixteen octets of one envelope for the fingerprint.
fn digest(envelope: &Envelope) -> [u8; 16] {
    let full = hash("weft record digest v1", &[envelope.as_bytes()]);
    let mut out = [0; 16];
    out.copy_from_slice(&full[..16]);
    out
}

impl RegisterMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The record held under a key.
    pub fn get(&self, key: &RegisterKey) -> Option<&Envelope> {
        self.records.get(key).map(|held| &held.envelope)
    }

    /// The decoded record of one owner, if it is held.
    pub fn body<B: Body>(&self, owner: &NodeId) -> Option<B> {
        let key = RegisterKey {
            kind: B::KIND,
            owner: *owner,
        };
        B::from_envelope(self.get(&key)?).ok()
    }

    /// Every record, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&RegisterKey, &Envelope)> {
        self.records.iter().map(|(key, held)| (key, &held.envelope))
    }

    /// The first octets of each record's hash, with its key and in the order of the keys.
    pub(crate) fn digests(&self) -> impl Iterator<Item = (&RegisterKey, [u8; 8])> {
        self.records.iter().map(|(key, held)| {
            let [a, b, c, d, e, f, g, h, ..] = held.digest;
            (key, [a, b, c, d, e, f, g, h])
        })
    }

    /// Every record of one kind, in the order of the owners.
    pub fn of_kind(&self, kind: KindNumber) -> impl Iterator<Item = &Envelope> {
        let from = RegisterKey {
            kind,
            owner: NodeId([0; 32]),
        };
        self.records
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, held)| &held.envelope)
    }

    /// Every record of one owner of the kinds that this version knows.
    pub(crate) fn of_owner(&self, owner: &NodeId) -> impl Iterator<Item = &Envelope> {
        let owner = *owner;
        KNOWN
            .iter()
            .filter_map(move |(kind, _)| self.get(&RegisterKey { kind: *kind, owner }))
    }

    /// How many records are held.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True when no record is held.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many owners have a record.
    pub fn owner_count(&self) -> usize {
        self.owners.len()
    }

    /// Sixteen octets that are equal for equal maps: the exclusive or of one hash for each record.
    ///
    /// It finds accidents, not attacks: somebody who can choose many records can make two different maps look
    /// equal. All that this delays is the news of records that the same member wrote.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// Checks a record and joins it. Admissions are checked against, and taken into, `membership`.
    pub fn accept(
        &mut self,
        envelope: Envelope,
        membership: &mut Membership,
    ) -> Result<Outcome, RecordError> {
        let key = envelope.key();
        if let Some(held) = self.get(&key) {
            // Comparing first keeps repeated records cheap: no signature is checked twice.
            match held.join_order(&envelope) {
                core::cmp::Ordering::Equal => return Ok(Outcome::Known),
                core::cmp::Ordering::Greater => return Ok(Outcome::Older),
                core::cmp::Ordering::Less => {}
            }
        }
        self.check_bounds(&envelope)?;
        if key.kind == Admission::KIND {
            membership.accept(&envelope).map_err(RecordError::Admission)?;
        } else {
            if !membership.is_member(&key.owner) {
                return Err(RecordError::NotAMember);
            }
            if !envelope.is_signed_by(&key.owner) {
                return Err(RecordError::BadSignature);
            }
            if body_check(key.kind).is_some_and(|is_ok| !is_ok(&envelope)) {
                return Err(RecordError::BadBody);
            }
        }
        self.insert(key, envelope);
        Ok(Outcome::Changed)
    }

    fn check_bounds(&self, envelope: &Envelope) -> Result<(), RecordError> {
        let key = envelope.key();
        let Some(share) = self.owners.get(&key.owner) else {
            return if self.owners.len() < OWNERS_MAX {
                Ok(())
            } else {
                Err(RecordError::TooManyOwners)
            };
        };
        if body_check(key.kind).is_some() {
            return Ok(());
        }
        let (mut kinds, mut octets) = (share.unknown, share.unknown_octets);
        match self.get(&key) {
            Some(held) => octets -= held.as_bytes().len(),
            None => kinds += 1,
        }
        octets += envelope.as_bytes().len();
        if kinds > UNKNOWN_KINDS_MAX || octets > UNKNOWN_KIND_QUOTA {
            return Err(RecordError::UnknownKindQuota);
        }
        Ok(())
    }

    fn insert(&mut self, key: RegisterKey, envelope: Envelope) {
        let digest = digest(&envelope);
        self.toggle(&digest);
        let size = envelope.as_bytes().len();
        let replaced = self.records.insert(key, Held { envelope, digest });
        if let Some(old) = &replaced {
            self.toggle(&old.digest);
        }
        let share = self.owners.entry(key.owner).or_default();
        if body_check(key.kind).is_none() {
            share.unknown_octets += size;
            match replaced {
                Some(old) => share.unknown_octets -= old.envelope.as_bytes().len(),
                None => share.unknown += 1,
            }
        }
    }

    /// Drops what an owner wrote; its admission, which others wrote, stays. Says what was dropped.
    pub(crate) fn forget(&mut self, owner: &NodeId) -> Vec<RegisterKey> {
        let is_its = |key: &RegisterKey| key.owner == *owner && key.kind != Admission::KIND;
        let keys: Vec<RegisterKey> = self.records.keys().copied().filter(is_its).collect();
        for key in &keys {
            if let Some(held) = self.records.remove(key) {
                self.toggle(&held.digest);
            }
        }
        let is_known = self.records.contains_key(&RegisterKey {
            kind: Admission::KIND,
            owner: *owner,
        });
        match self.owners.get_mut(owner) {
            Some(share) if is_known => *share = Share::default(),
            _ => {
                self.owners.remove(owner);
            }
        }
        keys
    }

    fn toggle(&mut self, digest: &[u8; 16]) {
        for (sum, octet) in self.fingerprint.iter_mut().zip(digest) {
            *sum ^= octet;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::tests::{cluster, founder};
    use proptest::prelude::*;
    use weft_wire::NodeKey;
    use weft_wire::envelope::Stamp;
    use weft_wire::limits::RECORD_BODY_MAX;

    fn signed(key: &NodeKey, kind: u16, stamp: (u64, u64), body: &[u8]) -> Envelope {
        let stamp = Stamp {
            incarnation: stamp.0,
            version: stamp.1,
        };
        Envelope::sign(key, KindNumber(kind), key.id(), stamp, body).unwrap()
    }

    /// Two members, three unknown kinds, stamps that often meet, bodies that differ.
    fn any_record() -> impl Strategy<Value = Envelope> {
        (0..2usize, 100..103u16, 0..3u64, 0..3u64, any::<bool>()).prop_map(|(owner, kind, i, v, b)| {
            let owner = [founder(), NodeKey::from_seed([2; 32])][owner].clone();
            signed(&owner, kind, (i, v), &[u8::from(b)])
        })
    }

    fn members() -> Membership {
        cluster(&[NodeKey::from_seed([2; 32])])
    }

    fn joined(records: &[Envelope]) -> RegisterMap {
        let (mut map, mut membership) = (RegisterMap::new(), members());
        for record in records {
            map.accept(record.clone(), &mut membership).unwrap();
        }
        map
    }

    fn content(map: &RegisterMap) -> Vec<Envelope> {
        map.iter().map(|(_, e)| e.clone()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Commutative and idempotent: order and repetition do not matter; and the fingerprint says the same.
        #[test]
        fn any_order_and_repetition_gives_one_map(
            records in proptest::collection::vec(any_record(), 0..12),
            shuffled in proptest::collection::vec(any::<proptest::sample::Index>(), 0..24),
        ) {
            let mut other: Vec<Envelope> = Vec::new();
            for index in &shuffled {
                if !records.is_empty() {
                    other.push(index.get(&records).clone());
                }
            }
            other.extend(records.iter().rev().cloned());
            let (a, b) = (joined(&records), joined(&other));
            prop_assert_eq!(content(&a), content(&b));
            prop_assert_eq!(a.fingerprint(), b.fingerprint());
        }

        /// Associative: merging maps in groups gives what merging the records gives. Monotone: no register goes back.
        #[test]
        fn maps_merge_in_groups_and_never_go_back(
            x in proptest::collection::vec(any_record(), 0..8),
            y in proptest::collection::vec(any_record(), 0..8),
            z in proptest::collection::vec(any_record(), 0..8),
        ) {
            let merge = |a: &[Envelope], b: &[Envelope]| content(&joined(&[a, b].concat()));
            prop_assert_eq!(merge(&merge(&x, &y), &z), merge(&x, &merge(&y, &z)));
            let before = joined(&x);
            let after = joined(&[&x[..], &y[..]].concat());
            for (key, held) in before.iter() {
                prop_assert!(after.get(key).unwrap().join_order(held).is_ge());
            }
            // The incremental fingerprint is that of a map built at once.
            prop_assert_eq!(after.fingerprint(), joined(&content(&after)).fingerprint());
            let equal = content(&before) == content(&after);
            prop_assert_eq!(before.fingerprint() == after.fingerprint(), equal);
        }
    }

    #[test]
    fn outcomes_tell_new_from_known_from_older() {
        let (mut map, mut membership) = (RegisterMap::new(), members());
        let mut accept = |e| map.accept(e, &mut membership);
        let owner = founder();
        assert_eq!(accept(signed(&owner, 100, (1, 2), b"x")), Ok(Outcome::Changed));
        assert_eq!(accept(signed(&owner, 100, (1, 2), b"x")), Ok(Outcome::Known));
        assert_eq!(accept(signed(&owner, 100, (1, 1), b"y")), Ok(Outcome::Older));
        assert_eq!(accept(signed(&owner, 100, (2, 0), b"z")), Ok(Outcome::Changed));
    }

    #[test]
    fn what_is_not_its_owners_is_refused() {
        let (mut map, mut membership) = (RegisterMap::new(), members());
        let stranger = NodeKey::from_seed([77; 32]);
        assert_eq!(
            map.accept(signed(&stranger, 100, (1, 1), b""), &mut membership),
            Err(RecordError::NotAMember)
        );
        let stamp = Stamp {
            incarnation: 1,
            version: 1,
        };
        let forged = Envelope::sign(&stranger, KindNumber(100), founder().id(), stamp, b"").unwrap();
        assert_eq!(
            map.accept(forged, &mut membership),
            Err(RecordError::BadSignature)
        );
        let malformed = signed(&founder(), PeerRecord::KIND.0, (1, 1), b"\xff\xff");
        assert_eq!(map.accept(malformed, &mut membership), Err(RecordError::BadBody));
        assert!(map.is_empty());
    }

    #[test]
    fn unknown_kinds_are_kept_up_to_the_owners_quota() {
        let (mut map, mut membership) = (RegisterMap::new(), members());
        let large = alloc::vec![0; RECORD_BODY_MAX];
        let mut kept = 0;
        for kind in 100..110 {
            match map.accept(signed(&founder(), kind, (1, 1), &large), &mut membership) {
                Ok(_) => kept += 1,
                Err(error) => assert_eq!(error, RecordError::UnknownKindQuota),
            }
        }
        assert_eq!(kept, 3);
        // A new version of a kept one replaces it; a small one fits; another owner has a quota of its own.
        let mut ok = |e| map.accept(e, &mut membership) == Ok(Outcome::Changed);
        assert!(ok(signed(&founder(), 100, (1, 2), &large)));
        assert!(ok(signed(&founder(), 120, (1, 1), b"")));
        assert!(ok(signed(&NodeKey::from_seed([2; 32]), 100, (1, 1), &large)));
        for kind in 200..200 + UNKNOWN_KINDS_MAX as u16 - 4 {
            assert!(ok(signed(&founder(), kind, (1, 1), b"")));
        }
        assert!(!ok(signed(&founder(), 300, (1, 1), b"")));
    }
}
