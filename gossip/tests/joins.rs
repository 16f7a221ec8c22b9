//! The map of records, with records of every kind: it comes to the same whatever arrives in which order, how often, one by
//! one or as whole maps, and no register ever goes back.

#![allow(clippy::unwrap_used)]

// What a body of each kind may look like is the vocabulary's to say.
#[allow(dead_code, reason = "reading bodies back is tried where they are defined")]
#[path = "../../wire/tests/records/bodies.rs"]
mod bodies;

use bodies::{Record, own_kinds};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::Union;
use std::collections::BTreeSet;
use weft_gossip::register::RecordError;
use weft_gossip::{Membership, RegisterMap};
use weft_wire::envelope::{KindNumber, Stamp};
use weft_wire::record::{Admission, Body, Genesis};
use weft_wire::{ClusterSecret, Envelope, NodeKey};

const MEMBERS: u8 = 4;

fn key(number: u8) -> NodeKey {
    NodeKey::from_seed([number; 32])
}

fn founded() -> Membership {
    let genesis = Genesis {
        founders: vec![key(1).id()],
        nonce: [0; 16],
        range: "10.32.0.0/12".parse().unwrap(),
        slot_size: 16,
    };
    Membership::found(
        genesis,
        ClusterSecret {
            number: 1,
            key: [0; 32],
        },
    )
}

/// Everybody is let in twice: by the founder, and by the host before it, farther from the founder.
fn admissions() -> Vec<Envelope> {
    let mut membership = founded();
    let mut out: Vec<Envelope> = Vec::new();
    for number in 2..=MEMBERS {
        let admitters = if number == 2 { vec![1] } else { vec![number - 1, 1] };
        for admitter in admitters {
            let admission = membership.admit(&key(admitter), key(number).id()).unwrap();
            if admitter != 1 || number == 2 {
                membership.accept(&admission).unwrap();
            }
            out.push(admission);
        }
    }
    out
}

fn signed(owner: u8, record: &Record, stamp: (u64, u64)) -> Envelope {
    let stamp = Stamp {
        incarnation: stamp.0,
        version: stamp.1,
    };
    let key = key(owner);
    Envelope::sign(&key, record.kind, key.id(), stamp, &record.body).unwrap()
}

/// Records of every kind, with stamps that often meet.
fn any_record() -> impl Strategy<Value = Envelope> {
    let own = (1..=MEMBERS, Union::new(own_kinds()), 0..2u64, 0..3u64);
    prop_oneof![
        5 => own.prop_map(|(owner, record, incarnation, version)| signed(owner, &record, (incarnation, version))),
        1 => any::<Index>().prop_map(|at| at.get(&admissions()).clone()),
    ]
}

fn records() -> impl Strategy<Value = Vec<Envelope>> {
    proptest::collection::vec(any_record(), 0..10)
}

/// Takes them as a mesh does: what cannot be taken yet, since its owner or admitter is not known, comes again later.
fn take(map: &mut RegisterMap, membership: &mut Membership, records: &[Envelope]) {
    let mut waiting: Vec<Envelope> = records.to_vec();
    loop {
        let before = waiting.len();
        waiting.retain(|record| match map.accept(record.clone(), membership) {
            Ok(_) => false,
            Err(RecordError::NotAMember | RecordError::Admission(_)) => true,
            Err(error) => panic!("{error}"),
        });
        if waiting.is_empty() || waiting.len() == before {
            return;
        }
    }
}

/// Everybody's admissions come with every set of records, first or last.
fn joined(records: &[Envelope], admissions_first: bool) -> RegisterMap {
    let (mut map, mut membership) = (RegisterMap::new(), founded());
    let mut all = admissions();
    match admissions_first {
        true => all.extend_from_slice(records),
        false => all.splice(0..0, records.iter().cloned()).for_each(drop),
    }
    take(&mut map, &mut membership, &all);
    map
}

fn content(map: &RegisterMap) -> Vec<Envelope> {
    map.iter().map(|(_, record)| record.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn any_order_and_repetition_gives_one_map(
        records in records(),
        again in proptest::collection::vec(any::<Index>(), 0..20),
        admissions_first in any::<bool>(),
    ) {
        let mut other: Vec<Envelope> = Vec::new();
        if !records.is_empty() {
            other.extend(again.iter().map(|at| at.get(&records).clone()));
        }
        other.extend(records.iter().rev().cloned());
        let (a, b) = (joined(&records, true), joined(&other, admissions_first));
        prop_assert_eq!(content(&a), content(&b));
        prop_assert_eq!(a.fingerprint(), b.fingerprint());
    }

    #[test]
    fn deltas_and_whole_maps_come_to_the_same(x in records(), y in records(), z in records()) {
        let merge = |a: &[Envelope], b: &[Envelope]| content(&joined(&[a, b].concat(), true));
        let whole = merge(&merge(&x, &y), &z);
        prop_assert_eq!(&whole, &merge(&x, &merge(&y, &z)));
        prop_assert_eq!(&whole, &merge(&merge(&z, &x), &y));
        // One by one, each followed by what was there before.
        let (mut map, mut membership) = (RegisterMap::new(), founded());
        take(&mut map, &mut membership, &admissions());
        let mut before = content(&map);
        for delta in x.iter().chain(&y).chain(&z) {
            take(&mut map, &mut membership, std::slice::from_ref(delta));
            for held in &before {
                prop_assert!(map.get(&held.key()).unwrap().join_order(held).is_ge(), "a register went back");
            }
            take(&mut map, &mut membership, &before);
            before = content(&map);
        }
        prop_assert_eq!(before, whole);
        prop_assert_eq!(map.fingerprint(), joined(&content(&map), false).fingerprint());
    }
}

/// The kinds that a host knows are those that are tried here.
#[test]
fn no_kind_is_left_out() {
    let stamp = Stamp {
        incarnation: 1,
        version: 1,
    };
    let is_known = |kind: &u16| {
        let (mut map, mut membership) = (RegisterMap::new(), founded());
        let nonsense = Envelope::sign(&key(1), KindNumber(*kind), key(1).id(), stamp, &[255; 3]).unwrap();
        map.accept(nonsense, &mut membership).is_err()
    };
    let known: BTreeSet<u16> = (0..128).filter(is_known).collect();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut tried: BTreeSet<u16> = own_kinds()
        .iter()
        .map(|kind| kind.new_tree(&mut runner).unwrap().current().kind.0)
        .collect();
    tried.insert(Admission::KIND.0);
    assert_eq!(tried, known);
}
