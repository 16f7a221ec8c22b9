//! A crash at every octet of the log, for every kind of write: what is found afterwards is what was written before the
//! record that is torn, and nothing else.

#![allow(clippy::unwrap_used)]

use crate::format::{RecordKind, decode as records_of};
use crate::load::{State, decode};
use crate::machine::MachineId;
use crate::store::{Again, Save, Store};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeSet;
use std::path::Path;
use weft_gossip::DurableState;
use weft_ipam_crdt::genesis::{AgreementState, Charter};
use weft_ipam_crdt::message::{AskId, Decided};
use weft_ipam_crdt::state::Vote;
use weft_ipam_crdt::{Change, Claim, Held, IpamState};
use weft_wire::ipam::{Ballot, Epoch, Grant, SlotRun, Version};
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, NodeId, NodeKey, NoiseKeypair};

fn machine() -> MachineId {
    MachineId::from_text("0123456789abcdef0123456789abcdef").unwrap()
}

fn noise(seed: u8) -> NoiseKeypair {
    NoiseKeypair::generate(&mut ChaCha20Rng::from_seed([seed; 32])).unwrap()
}

fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed([seed; 32])
}

fn open(directory: &Path) -> (Store, State) {
    Store::open(directory, machine(), None, || (key(2), noise(1))).unwrap()
}

fn genesis() -> Genesis {
    let mut founders = vec![key(2).id(), key(3).id()];
    founders.sort();
    Genesis {
        founders,
        nonce: [1; 16],
        range: "10.32.0.0/24".parse().unwrap(),
        slot_size: 1,
    }
}

fn secret(number: u32) -> ClusterSecret {
    ClusterSecret { number, key: [3; 32] }
}

fn ballot(round: u32) -> Ballot {
    Ballot {
        round,
        proposer: key(2).id(),
    }
}

fn run(first: u32, seq: u32) -> SlotRun {
    SlotRun {
        first,
        count: 3,
        version: Version { epoch: 0, seq },
    }
}

/// What a host is bound by while it makes a cluster, as it grows.
fn agreements() -> Vec<Save> {
    let charter = Charter {
        genesis: genesis(),
        secret: secret(1),
    };
    let mut state = AgreementState {
        set: genesis().founders,
        ..AgreementState::default()
    };
    let mut out = vec![state.clone()];
    state.promised = Some(ballot(1));
    out.push(state.clone());
    state.accepted = Some((ballot(1), charter.clone()));
    out.push(state.clone());
    state.decided = Some(charter);
    out.push(state);
    out.into_iter()
        .map(|state| Save::Agreement(Box::new(state)))
        .collect()
}

/// Each kind of step once at least. The match makes a new kind of step a new line here.
fn changes() -> Vec<Change> {
    let (own, other) = (key(2), key(3).id());
    let grant = Grant::sign(&own, &genesis().id(), other, vec![run(10, 1)]);
    let epoch = Epoch {
        number: 1,
        parent: genesis().id().0,
        added: vec![key(4).id()],
        removed: vec![],
        reclaimer: None,
        fenced: false,
    };
    let decided = Decided {
        epoch: epoch.clone(),
        ballot: ballot(1),
        off: vec![],
        votes: vec![(0, [7; 64].into()), (1, [8; 64].into())],
    };
    let lent = Held::Lent {
        to: other,
        number: 1,
        ask: AskId {
            incarnation: 1,
            count: 2,
        },
    };
    let borrowed = Held::Borrowed {
        from: other,
        number: 4,
        id: "borrower".into(),
    };
    let all = vec![
        Change::Seen(other, 3, 4),
        Change::Address(1, Some(Held::Pod("pod".into()))),
        Change::Turn(1, 0),
        Change::Address(2, Some(lent)),
        Change::Address(200, Some(borrowed)),
        Change::Address(1, Some(Held::Resting)),
        Change::Address(1, None),
        Change::Given(grant.clone()),
        Change::Accepted(grant.id()),
        Change::Chain(grant.clone().into()),
        Change::Unchain(grant.id()),
        Change::Slots {
            run: run(20, 1),
            owner: other,
            is_frozen: false,
        },
        Change::Voted(Vote {
            promised: Some(ballot(1)),
            accepted: Some((ballot(1), vec![], epoch)),
        }),
        Change::Decided(decided),
        Change::Wish(other, Some(true)),
        Change::Wish(other, None),
        Change::Rest {
            first: 30,
            count: 2,
            rests: true,
        },
        Change::Promised(run(40, 2)),
    ];
    let kinds: BTreeSet<u8> = all
        .iter()
        .map(|change| match change {
            Change::Slots { .. } => 0,
            Change::Chain(_) => 1,
            Change::Unchain(_) => 2,
            Change::Given(_) => 3,
            Change::Accepted(_) => 4,
            Change::Address(..) => 5,
            Change::Voted(_) => 6,
            Change::Decided(_) => 7,
            Change::Seen(..) => 8,
            Change::Turn(..) => 9,
            Change::Wish(..) => 10,
            Change::Rest { .. } => 11,
            Change::Promised(_) => 12,
        })
        .collect();
    assert_eq!(kinds.len(), 13, "every kind of step");
    all
}

fn claims(count: u8) -> Vec<Claim> {
    let claim = |n: u8| Claim {
        id: format!("pod{n}"),
        address: [10, 32, 0, n].into(),
    };
    (1..=count).map(claim).collect()
}

/// All that a start finds, to be compared.
#[derive(Clone, PartialEq, Debug)]
struct Found {
    node: NodeId,
    noise: [u8; 32],
    incarnation: u64,
    durable: Option<DurableState>,
    agreement: AgreementState,
    ipam: Option<IpamState>,
    claims: Vec<Claim>,
    token: Option<String>,
    targets: Vec<String>,
}

fn found(bytes: &[u8]) -> Result<Found, String> {
    let state = decode(Path::new("state"), bytes, &machine()).map_err(|error| error.to_string())?;
    Ok(Found {
        node: state.key.id(),
        noise: state.noise.secret,
        incarnation: state.incarnation,
        durable: state.durable,
        agreement: state.agreement,
        ipam: state.ipam,
        claims: state.claims,
        token: state.token,
        targets: state.targets,
    })
}

/// Saves one by one, and tries each cut of the file behind its snapshot.
fn every_cut(directory: &Path, store: &mut Store, saves: Vec<Save>) {
    let read = || std::fs::read(directory.join("state")).unwrap();
    let mut whole = read();
    let mut states = vec![(whole.len(), found(&whole).unwrap())];
    for save in saves {
        store.save(std::slice::from_ref(&save)).unwrap();
        let after = read();
        assert!(after.starts_with(&whole), "{save:?} is appended");
        let state = found(&after).unwrap();
        assert_ne!(state, states.last().unwrap().1, "{save:?} changes something");
        states.push((after.len(), state));
        whole = after;
    }
    for cut in states[0].0..=whole.len() {
        let (_, expected) = states.iter().rfind(|(end, _)| *end <= cut).unwrap();
        assert_eq!(found(&whole[..cut]).as_ref(), Ok(expected), "cut at {cut}");
        // A file system may have made room that was never filled.
        let mut zeros = whole[..cut].to_vec();
        zeros.resize(whole.len(), 0);
        assert_eq!(found(&zeros).as_ref(), Ok(expected), "zeros from {cut}");
    }
}

fn kinds_in(directory: &Path) -> BTreeSet<u16> {
    let bytes = std::fs::read(directory.join("state")).unwrap();
    let contents = records_of(&bytes).unwrap();
    contents.records.iter().map(|(kind, _)| *kind as u16).collect()
}

#[test]
fn a_crash_at_each_octet_of_the_log_keeps_what_was_written_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).0;
    let mut kinds = BTreeSet::new();
    every_cut(dir.path(), &mut store, agreements());
    kinds.extend(kinds_in(dir.path()));
    let mut saves = vec![Save::Cluster(DurableState::founded(genesis(), secret(1)))];
    saves.extend(changes().into_iter().map(|change| Save::Ipam(vec![change])));
    saves.push(Save::Claims(claims(2)));
    saves.push(Save::Cluster(DurableState::founded(genesis(), secret(2))));
    saves.push(Save::Claims(claims(1)));
    every_cut(dir.path(), &mut store, saves);
    kinds.extend(kinds_in(dir.path()));
    drop(store);

    // The same behind a snapshot of all that, and of what a host has that has begun again.
    let mut store = open(dir.path()).0;
    let again = Again {
        key: key(9),
        noise: noise(9),
        durable: DurableState::founded(genesis(), secret(7)),
        claims: claims(3),
        token: Some("of the other cluster".into()),
        targets: vec!["192.0.2.1:6783".into()],
    };
    store.save(&[Save::Again(Box::new(again))]).unwrap();
    let mut saves: Vec<Save> = changes()
        .into_iter()
        .map(|change| Save::Ipam(vec![change]))
        .collect();
    saves.push(Save::Claims(claims(2)));
    every_cut(dir.path(), &mut store, saves);
    kinds.extend(kinds_in(dir.path()));
    let all = [
        RecordKind::Identity,
        RecordKind::Incarnation,
        RecordKind::Cluster,
        RecordKind::IpamState,
        RecordKind::IpamChange,
        RecordKind::Claims,
        RecordKind::Token,
        RecordKind::Targets,
        RecordKind::Agreement,
    ];
    assert_eq!(kinds, all.iter().map(|kind| *kind as u16).collect());
}

/// Nothing of a snapshot may be missing: a file that is replaced is there as a whole, or the old one is.
#[test]
fn a_snapshot_of_every_kind_that_is_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).0;
    store
        .save(&[Save::Cluster(DurableState::founded(genesis(), secret(1)))])
        .unwrap();
    let again = Again {
        key: key(9),
        noise: noise(9),
        durable: DurableState::founded(genesis(), secret(7)),
        claims: claims(3),
        token: Some("of the other cluster".into()),
        targets: vec!["192.0.2.1:6783".into()],
    };
    let old = std::fs::read(dir.path().join("state")).unwrap();
    store.save(&[Save::Again(Box::new(again))]).unwrap();
    drop(store);
    let new = std::fs::read(dir.path().join("state")).unwrap();
    for cut in 0..new.len() {
        assert!(found(&new[..cut]).is_err(), "cut at {cut}");
    }
    // It is written beside the old one, which stays what it was whatever of the new one is there.
    std::fs::write(dir.path().join("state"), &old).unwrap();
    let before = found(&old).unwrap();
    for cut in (0..new.len()).step_by(97) {
        std::fs::write(dir.path().join("state.new"), &new[..cut]).unwrap();
        let state = open(dir.path()).1;
        assert_eq!(
            (state.key.id(), state.durable),
            (before.node, before.durable.clone())
        );
    }
}
