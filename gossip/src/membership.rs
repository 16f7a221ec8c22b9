//! Who is a member, and the chain of signatures that proves it.
//!
//! The genesis names the founders. Everybody else is a member because an [`Admission`] for it, signed by
//! a member, exists; following the admitters leads to a founder.
//!
//! An admission's stamp is its *rank*: incarnation 0, version [`ADMISSION_CHAIN_MAX`] minus the number of
//! admissions between a founder and the subject. A subject's rank must be below its admitter's, founders
//! standing at [`ADMISSION_CHAIN_MAX`]. So a chain is never longer than that, admissions cannot form a ring,
//! and of two admissions of one subject the one nearer to a founder stands: a member can never
//! put itself above those who admitted it. A rank never falls, so what was accepted once stays valid.

use crate::handshake::{KeyRole, Keyring};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use weft_wire::envelope::Stamp;
use weft_wire::limits::ADMISSION_CHAIN_MAX;
use weft_wire::mesh::Welcome;
use weft_wire::record::{Admission, Body, Genesis};
use weft_wire::secret::Protocol;
use weft_wire::{ClusterSecret, Envelope, GenesisId, NodeId, NodeKey, PeerHash, Psk};

/// Rank of a founder; the rank of an admission is its stamp's version.
pub const FOUNDER_RANK: u64 = ADMISSION_CHAIN_MAX as u64;

/// Why an admission, or a chain of them, does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The envelope is not an admission.
    #[error("not an admission record")]
    NotAnAdmission,
    /// It admits to another cluster.
    #[error("the admission is for another cluster")]
    ForeignGenesis,
    /// It is filed under another node than it admits.
    #[error("the admission is filed under another node than its subject")]
    SubjectNotOwner,
    /// A founder needs none.
    #[error("a founder is not admitted by anybody")]
    SubjectIsFounder,
    /// Its stamp is not a rank below its admitter's.
    #[error("the admission's rank is not below its admitter's")]
    BadRank,
    /// Its admitter is not known as a member.
    #[error("the admitter is not known as a member")]
    UnknownAdmitter,
    /// Its admitter is known, but not at a rank above this one: its own newer admission must come first.
    #[error("the admitter is not known at a higher rank")]
    AdmitterRank,
    /// The admitter did not sign it.
    #[error("the admission is not signed by its admitter")]
    BadSignature,
    /// More links than [`ADMISSION_CHAIN_MAX`].
    #[error("the chain of admissions is longer than {ADMISSION_CHAIN_MAX}")]
    TooLong,
    /// The last admission is not the subject's, or there is none.
    #[error("the chain of admissions does not end at the node")]
    WrongSubject,
    /// A cluster secret is missing, or two have one number.
    #[error("the cluster secrets are incomplete")]
    BadSecrets,
}

/// Why this host does not admit a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// Another member's 8-octet prefix is the same.
    #[error("the newcomer's peer hash equals that of {0}; the newcomer must take a new identity")]
    CollidingPeerHash(NodeId),
    /// This host is itself at the end of the longest chain, or not a member.
    #[error("this host stands too far from the founder to admit others; join through another host")]
    TooFarFromFounder,
}

/// The body of an admission, if everything about it holds that does not depend on other admissions.
fn read_admission(
    genesis: &GenesisId,
    founders: &[NodeId],
    envelope: &Envelope,
) -> Result<Admission, AdmissionError> {
    let admission = Admission::from_envelope(envelope).map_err(|_| AdmissionError::NotAnAdmission)?;
    if admission.genesis != *genesis {
        return Err(AdmissionError::ForeignGenesis);
    }
    if admission.subject != envelope.key().owner {
        return Err(AdmissionError::SubjectNotOwner);
    }
    if founders.contains(&admission.subject) {
        return Err(AdmissionError::SubjectIsFounder);
    }
    let stamp = envelope.stamp();
    if stamp.incarnation != 0 || stamp.version >= FOUNDER_RANK {
        return Err(AdmissionError::BadRank);
    }
    Ok(admission)
}

/// Checks a chain from an admission that a founder signed down to `subject`'s own; empty for a founder.
pub fn verify_chain(
    genesis: &Genesis,
    admissions: &[Envelope],
    subject: &NodeId,
) -> Result<(), AdmissionError> {
    if admissions.len() > ADMISSION_CHAIN_MAX {
        return Err(AdmissionError::TooLong);
    }
    let id = genesis.id();
    let is_above = |above: Option<NodeId>, node: &NodeId| match above {
        Some(above) => above == *node,
        None => genesis.is_founder(node),
    };
    let (mut above, mut rank) = (None, FOUNDER_RANK);
    for envelope in admissions {
        let admission = read_admission(&id, &genesis.founders, envelope)?;
        if !is_above(above, &admission.admitter) {
            return Err(AdmissionError::UnknownAdmitter);
        }
        if envelope.stamp().version >= rank {
            return Err(AdmissionError::BadRank);
        }
        if !envelope.is_signed_by(&admission.admitter) {
            return Err(AdmissionError::BadSignature);
        }
        (above, rank) = (Some(admission.subject), envelope.stamp().version);
    }
    if is_above(above, subject) {
        Ok(())
    } else {
        Err(AdmissionError::WrongSubject)
    }
}

/// Envelopes from octets, as they stand in a Hello or a Welcome.
pub fn envelopes(raw: &[Vec<u8>]) -> Result<Vec<Envelope>, AdmissionError> {
    raw.iter()
        .map(|bytes| Envelope::from_bytes(bytes.clone()).map_err(|_| AdmissionError::NotAnAdmission))
        .collect()
}

/// One admitted member.
#[derive(Clone, Debug)]
struct Member {
    admitter: NodeId,
    admission: Envelope,
}

/// The cluster that this host belongs to: its genesis, its secrets, its members.
#[derive(Clone, Debug)]
pub struct Membership {
    genesis: Genesis,
    id: GenesisId,
    secrets: Vec<ClusterSecret>,
    admitted: BTreeMap<NodeId, Member>,
    by_hash: BTreeMap<PeerHash, NodeId>,
}

impl Membership {
    /// A cluster of its founders alone.
    pub fn found(genesis: Genesis, secret: ClusterSecret) -> Self {
        Self::of(genesis, alloc::vec![secret])
    }

    fn of(genesis: Genesis, secrets: Vec<ClusterSecret>) -> Self {
        Self {
            id: genesis.id(),
            by_hash: genesis
                .founders
                .iter()
                .map(|founder| (founder.peer_hash(), *founder))
                .collect(),
            genesis,
            secrets,
            admitted: BTreeMap::new(),
        }
    }

    /// The cluster of these secrets (current one first, at most two) without its admissions.
    pub fn with_secrets(genesis: Genesis, secrets: Vec<ClusterSecret>) -> Result<Self, AdmissionError> {
        match &secrets[..] {
            [_] => {}
            [current, previous] if current.number > previous.number => {}
            _ => return Err(AdmissionError::BadSecrets),
        }
        Ok(Self::of(genesis, secrets))
    }

    /// What a member hands to `newcomer`, checked: the chain must lead to it.
    pub fn from_welcome(welcome: &Welcome, newcomer: &NodeId) -> Result<Self, AdmissionError> {
        let chain = envelopes(&welcome.admissions)?;
        verify_chain(&welcome.genesis, &chain, newcomer)?;
        let mut membership = Self::with_secrets(welcome.genesis.clone(), welcome.secrets.clone())?;
        for envelope in &chain {
            membership.accept(envelope)?;
        }
        Ok(membership)
    }

    /// What the founders laid down.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Name of the cluster.
    pub fn id(&self) -> GenesisId {
        self.id
    }

    /// The cluster secrets, current one first.
    pub fn secrets(&self) -> &[ClusterSecret] {
        &self.secrets
    }

    /// The keys under which handshakes are answered, with the token's when there is one.
    pub fn keyring(&self, token: Option<&Psk>) -> Keyring {
        let roles = [KeyRole::Cluster, KeyRole::PreviousCluster];
        let secrets = self.secrets.iter().map(|s| s.psk(Protocol::Mesh));
        Keyring::new(
            roles
                .into_iter()
                .zip(secrets)
                .chain(token.map(|psk| (KeyRole::Token, psk.clone()))),
        )
    }

    /// True for founders and for everybody with an accepted admission.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.rank(node).is_some()
    }

    /// How near a member stands to a founder: [`FOUNDER_RANK`] for a founder itself, less for the others.
    pub fn rank(&self, node: &NodeId) -> Option<u64> {
        if self.genesis.is_founder(node) {
            return Some(FOUNDER_RANK);
        }
        Some(self.admitted.get(node)?.admission.stamp().version)
    }

    /// All members: the founders, then the others by id.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        let founders = self.genesis.founders.iter();
        founders.chain(self.admitted.keys()).copied()
    }

    /// How many members there are; at least the founders.
    pub fn member_count(&self) -> usize {
        self.genesis.founders.len() + self.admitted.len()
    }

    /// The admission that made `node` a member; a founder has none.
    pub fn admission(&self, node: &NodeId) -> Option<&Envelope> {
        self.admitted.get(node).map(|member| &member.admission)
    }

    /// Every admission, those nearest to a founder first: accepted in this order, all of them hold.
    pub fn admissions(&self) -> Vec<&Envelope> {
        let mut all: Vec<&Envelope> = self.admitted.values().map(|m| &m.admission).collect();
        all.sort_by_key(|e| core::cmp::Reverse(e.stamp().version));
        all
    }

    /// The admissions from a founder down to `node`'s own; `None` if it is not a member.
    pub fn chain_of(&self, node: &NodeId) -> Option<Vec<Envelope>> {
        let mut chain = Vec::new();
        let mut at = *node;
        while !self.genesis.is_founder(&at) {
            // Ranks grow on the way up, so this ends; see `accept`.
            let member = self.admitted.get(&at)?;
            chain.push(member.admission.clone());
            at = member.admitter;
        }
        chain.reverse();
        Some(chain)
    }

    /// True when a chain proves `subject` (see [`verify_chain`]). One that is held was checked before.
    pub(crate) fn is_proof(&self, chain: &[Envelope], subject: &NodeId) -> bool {
        let is_held = self.chain_of(subject).is_some_and(|held| held == chain);
        is_held || verify_chain(&self.genesis, chain, subject).is_ok()
    }

    /// Takes an admission if it leads to a founder through admissions held. `Ok(true)` when it changed what
    /// is held.
    pub fn accept(&mut self, envelope: &Envelope) -> Result<bool, AdmissionError> {
        let admission = read_admission(&self.id, &self.genesis.founders, envelope)?;
        let above = self
            .rank(&admission.admitter)
            .ok_or(AdmissionError::UnknownAdmitter)?;
        if envelope.stamp().version >= above {
            return Err(AdmissionError::AdmitterRank);
        }
        if let Some(held) = self.admission(&admission.subject)
            && held.join_order(envelope).is_ge()
        {
            return Ok(false);
        }
        if !envelope.is_signed_by(&admission.admitter) {
            return Err(AdmissionError::BadSignature);
        }
        self.by_hash
            .entry(admission.subject.peer_hash())
            .or_insert(admission.subject);
        self.admitted.insert(
            admission.subject,
            Member {
                admitter: admission.admitter,
                admission: envelope.clone(),
            },
        );
        Ok(true)
    }

    /// Signs the admission of `newcomer` with `key`, which must be a member's. The result is not yet accepted
    /// here: first it must be durable.
    pub fn admit(&self, key: &NodeKey, newcomer: NodeId) -> Result<Envelope, AdmitError> {
        if let Some(holder) = self.by_hash.get(&newcomer.peer_hash())
            && *holder != newcomer
        {
            return Err(AdmitError::CollidingPeerHash(*holder));
        }
        let rank = self
            .rank(&key.id())
            .and_then(|own| own.checked_sub(1))
            .ok_or(AdmitError::TooFarFromFounder)?;
        let admission = Admission {
            genesis: self.id,
            subject: newcomer,
            admitter: key.id(),
        };
        let stamp = Stamp {
            incarnation: 0,
            version: rank,
        };
        // The body has 96 octets, so signing cannot fail for its length.
        admission
            .to_envelope(key, newcomer, stamp)
            .map_err(|_| AdmitError::TooFarFromFounder)
    }

    /// Signs a better admission for a member that stands far down a chain, so that chains grow no longer than
    /// half of what is allowed where somebody near the founder is linked to its end.
    pub fn raise(&self, key: &NodeKey, member: NodeId) -> Option<Envelope> {
        let (own, held) = (self.rank(&key.id())?, self.rank(&member)?);
        if held >= FOUNDER_RANK / 2 || own <= held + 1 {
            return None;
        }
        self.admit(key, member).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::durable::{DurableState, StateError};

    pub(crate) fn founder() -> NodeKey {
        NodeKey::from_seed([1; 32])
    }

    fn key(seed: u8) -> NodeKey {
        NodeKey::from_seed([seed; 32])
    }

    /// A cluster whose founder has admitted these.
    pub(crate) fn cluster(members: &[NodeKey]) -> Membership {
        let genesis = Genesis {
            founders: vec![founder().id()],
            nonce: [7; 16],
            range: "10.32.0.0/12".parse().unwrap(),
            slot_size: 16,
        };
        let secret = ClusterSecret {
            number: 1,
            key: [4; 32],
        };
        let mut membership = Membership::found(genesis, secret);
        for member in members {
            let admission = membership.admit(&founder(), member.id()).unwrap();
            assert_eq!(membership.accept(&admission), Ok(true));
        }
        membership
    }

    /// A line: each member admitted by the one before it.
    fn line(length: u8) -> Membership {
        let mut membership = cluster(&[]);
        let mut admitter = founder();
        for seed in 10..10 + length {
            let admission = membership.admit(&admitter, key(seed).id()).unwrap();
            membership.accept(&admission).unwrap();
            admitter = key(seed);
        }
        membership
    }

    #[test]
    fn a_chain_proves_its_last_subject_and_nobody_else() {
        let membership = line(3);
        let chain = membership.chain_of(&key(12).id()).unwrap();
        assert_eq!(chain.len(), 3);
        let genesis = membership.genesis();
        assert_eq!(verify_chain(genesis, &chain, &key(12).id()), Ok(()));
        assert_eq!(
            verify_chain(genesis, &chain, &key(11).id()),
            Err(AdmissionError::WrongSubject)
        );
        assert_eq!(
            verify_chain(genesis, &chain[1..], &key(12).id()),
            Err(AdmissionError::UnknownAdmitter)
        );
        assert_eq!(verify_chain(genesis, &[], &founder().id()), Ok(()));
        let mut other = genesis.clone();
        other.nonce[0] ^= 1;
        assert_eq!(
            verify_chain(&other, &chain, &key(12).id()),
            Err(AdmissionError::ForeignGenesis)
        );
    }

    #[test]
    fn each_of_several_founders_is_a_member_and_admits() {
        let mut founders = [founder(), key(2), key(3)];
        founders.sort_by_key(NodeKey::id);
        let genesis = Genesis {
            founders: founders.iter().map(NodeKey::id).collect(),
            ..cluster(&[]).genesis().clone()
        };
        let secret = ClusterSecret {
            number: 1,
            key: [4; 32],
        };
        let mut membership = Membership::found(genesis.clone(), secret);
        assert_eq!(membership.members().collect::<Vec<_>>(), genesis.founders);
        for (at, admitter) in founders.iter().enumerate() {
            assert_eq!(verify_chain(&genesis, &[], &admitter.id()), Ok(()));
            let newcomer = key(20 + at as u8).id();
            let admission = membership.admit(admitter, newcomer).unwrap();
            assert_eq!(membership.accept(&admission), Ok(true));
            let chain = membership.chain_of(&newcomer).unwrap();
            assert_eq!(chain.len(), 1);
            assert_eq!(verify_chain(&genesis, &chain, &newcomer), Ok(()));
        }
        assert_eq!(membership.member_count(), 6);
        // Nobody is put below another founder, and a stranger is none.
        let above = membership.admit(&founders[0], founders[1].id()).unwrap();
        assert_eq!(membership.accept(&above), Err(AdmissionError::SubjectIsFounder));
        assert_eq!(
            verify_chain(&genesis, &[], &key(20).id()),
            Err(AdmissionError::WrongSubject)
        );
    }

    #[test]
    fn a_chain_ends_where_it_is_too_long_and_a_better_admission_shortens_it() {
        let mut membership = line(16);
        let last = key(25);
        assert_eq!(membership.rank(&last.id()), Some(0));
        assert_eq!(
            membership.admit(&last, key(99).id()),
            Err(AdmitError::TooFarFromFounder)
        );
        let better = membership.raise(&founder(), last.id()).unwrap();
        assert_eq!(membership.accept(&better), Ok(true));
        assert_eq!(membership.chain_of(&last.id()).unwrap().len(), 1);
        assert!(membership.admit(&last, key(99).id()).is_ok());
        // Near the founder nothing is to be gained.
        assert_eq!(membership.raise(&founder(), key(11).id()), None);
        // All admissions in their order rebuild the same membership.
        let mut again = cluster(&[]);
        for admission in membership.admissions() {
            assert_eq!(again.accept(admission), Ok(true));
        }
        assert_eq!(again.member_count(), membership.member_count());
    }

    #[test]
    fn a_colliding_peer_hash_is_not_admitted() {
        let mut membership = cluster(&[key(2)]);
        // No two keys with one hash are known, so another node is put in the member's place.
        let hash = key(3).id().peer_hash();
        membership.by_hash.insert(hash, key(2).id());
        assert_eq!(
            membership.admit(&founder(), key(3).id()),
            Err(AdmitError::CollidingPeerHash(key(2).id()))
        );
        assert!(membership.admit(&founder(), key(2).id()).is_ok());
    }

    #[test]
    fn durable_state_gives_back_what_was_put_in() {
        let membership = line(5);
        let state = DurableState::of(&membership, []);
        let bytes = state.encode();
        assert_eq!(DurableState::decode(&bytes).unwrap(), state);
        let restored = state.membership().unwrap();
        assert_eq!(
            restored.members().collect::<Vec<_>>(),
            membership.members().collect::<Vec<_>>()
        );
        assert_eq!(restored.secrets(), membership.secrets());
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            assert!(matches!(
                DurableState::decode(&bytes[..cut]),
                Err(StateError::Encoding(_))
            ));
        }
        let mut changed = bytes.clone();
        let last = changed.len() - 3;
        changed[last] ^= 1;
        let refused = DurableState::decode(&changed).and_then(|s| s.membership().map(|_| ()));
        assert!(
            refused.is_err(),
            "a changed octet in the last admission went unnoticed"
        );
    }

    #[test]
    fn the_keyring_holds_current_previous_and_token() {
        let genesis = line(0).genesis().clone();
        let secret = |number| ClusterSecret {
            number,
            key: [number as u8; 32],
        };
        let token = weft_wire::Psk::derive(&[9; 32], Protocol::Mesh);
        let membership =
            Membership::with_secrets(genesis.clone(), alloc::vec![secret(2), secret(1)]).unwrap();
        let ring = membership.keyring(Some(&token));
        for (role, psk) in [
            (KeyRole::Cluster, secret(2).psk(Protocol::Mesh)),
            (KeyRole::PreviousCluster, secret(1).psk(Protocol::Mesh)),
            (KeyRole::Token, token),
        ] {
            assert_eq!(ring.find(&psk.id), Some((role, &psk)));
        }
        for wrong in [
            alloc::vec![],
            alloc::vec![secret(1), secret(2)],
            alloc::vec![secret(1), secret(1)],
        ] {
            assert_eq!(
                Membership::with_secrets(genesis.clone(), wrong).err(),
                Some(AdmissionError::BadSecrets)
            );
        }
    }
}
