//! Every kind of record: what was written is what is read, and what can be read is written in one way only.

#![allow(clippy::unwrap_used)]

mod bodies;

use bodies::{Record, kinds};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::Union;
use weft_wire::envelope::Stamp;
use weft_wire::{Envelope, NodeKey};

fn signed(record: &Record, body: &[u8]) -> Option<Envelope> {
    let key = NodeKey::from_seed([1; 32]);
    let stamp = Stamp {
        incarnation: 1,
        version: 1,
    };
    Envelope::sign(&key, record.kind, key.id(), stamp, body).ok()
}

/// Changes some octets: turns bits over, takes one out, doubles one, cuts the end.
fn spoil(body: &mut Vec<u8>, how: u8, at: Index) {
    if body.is_empty() {
        return body.push(how);
    }
    let at = at.index(body.len());
    match how % 4 {
        0 => body[at] ^= how | 1,
        1 => drop(body.remove(at)),
        2 => body.insert(at, body[at]),
        _ => body.truncate(at),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn what_was_written_is_what_is_read(record in Union::new(kinds())) {
        let envelope = signed(&record, &record.body).expect("a body within its bounds fits");
        let travelled = Envelope::from_bytes(envelope.as_bytes().to_vec()).unwrap();
        prop_assert_eq!((record.again)(&travelled), Ok(record.body), "{:?}", record.kind);
    }

    #[test]
    fn what_can_be_read_is_written_in_one_way(
        record in Union::new(kinds()),
        changes in proptest::collection::vec(any::<(u8, Index)>(), 1..4),
    ) {
        let mut body = record.body.clone();
        for (how, at) in changes {
            spoil(&mut body, how, at);
        }
        // One that has become too long is not signed.
        if let Some(Ok(read)) = signed(&record, &body).map(|envelope| (record.again)(&envelope)) {
            prop_assert_eq!(read, body, "{:?}", record.kind);
        }
    }

    #[test]
    fn arbitrary_octets_are_a_body_or_refused(
        record in Union::new(kinds()),
        body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        if let Some(Ok(read)) = signed(&record, &body).map(|envelope| (record.again)(&envelope)) {
            prop_assert_eq!(read, body, "{:?}", record.kind);
        }
    }
}
