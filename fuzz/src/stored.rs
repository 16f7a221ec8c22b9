//! What gossip and ipam-crdt find again after a restart. The state file around it has checksums, which the tests of
//! the router's store break octet by octet; here the checksum is right and what it covers is not.

use crate::bytes::Bytes;
use weft_gossip::DurableState;
use weft_ipam_crdt::{Change, Held, IpamState};
use weft_wire::ipam::{SlotRun, Version};
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, NodeKey, codec};

/// Longest change that the store reads.
const CHANGE_MAX: usize = 1 << 20;

/// The first octet says what: the cluster, a snapshot of the addresses, or changes behind a fresh one.
pub fn stored(data: &[u8]) {
    let mut data = Bytes(data);
    match data.below(3) {
        0 => cluster(data.0),
        1 => snapshot(data.0),
        _ => changes(data),
    }
}

fn cluster(data: &[u8]) {
    let Ok(state) = DurableState::decode(data) else {
        return;
    };
    assert_eq!(state.encode(), data);
    if let Ok(membership) = state.membership() {
        let again = DurableState::of(&membership, &state.peers().collect::<Vec<_>>());
        let again = DurableState::decode(&again.encode()).expect("it was written");
        assert_eq!(again.genesis(), state.genesis());
        assert!(again.membership().is_ok());
    }
}

fn snapshot(data: &[u8]) {
    if let Ok(state) = IpamState::decode(data, &genesis()) {
        survives(&state);
    }
}

fn changes(mut data: Bytes<'_>) {
    let mut state = IpamState::genesis(&genesis()).expect("the range is good");
    while !data.is_empty() {
        let octets = data.short();
        if let Ok(change) = codec::decode::<Change, CHANGE_MAX>(octets) {
            assert_eq!(codec::encode(&change), octets);
            state.apply(&change);
        }
    }
    survives(&state);
}

fn survives(state: &IpamState) {
    assert_eq!(IpamState::decode(&state.encode(), &genesis()).as_ref(), Ok(state));
}

fn genesis() -> Genesis {
    Genesis {
        founders: vec![NodeKey::from_seed([1; 32]).id()],
        nonce: [1; 16],
        range: "10.32.0.0/28".parse().expect("it is one"),
        slot_size: 1,
    }
}

/// One of each.
pub fn stored_seeds() -> Vec<Vec<u8>> {
    let secret = ClusterSecret {
        number: 1,
        key: [8; 32],
    };
    let (a, b) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]).id());
    let accepted = crate::ipam::vote(&a, b).accepted.expect("it is there");
    let run = SlotRun {
        first: 3,
        count: 4,
        version: Version { epoch: 1, seq: 2 },
    };
    let grant = weft_wire::ipam::Grant::sign(&a, &genesis().id(), b, vec![run]);
    let (from, number) = (b, 2);
    let changes = [
        Change::Slots {
            run,
            owner: b,
            is_frozen: false,
        },
        Change::Chain(weft_wire::reclaim::Proof::Grant(grant.clone())),
        Change::Unchain(grant.id()),
        Change::Given(grant.clone()),
        Change::Accepted(grant.id()),
        Change::Address(1, Some(Held::Pod("p".into()))),
        Change::Address(2, Some(Held::Resting)),
        Change::Address(3, Some(Held::Returning { from, number })),
        Change::Address(1, None),
        Change::Decided(weft_ipam_crdt::message::Decided {
            epoch: accepted.epoch,
            ballot: accepted.ballot,
            off: accepted.off,
            votes: vec![(0, accepted.signature)],
        }),
        Change::Seen(b, 1, 2),
        Change::Wish(b, Some(true)),
        Change::Rest {
            first: 1,
            count: 2,
            rests: true,
        },
    ];
    let mut state = IpamState::genesis(&genesis()).expect("the range is good");
    let mut log = vec![2];
    for change in &changes {
        state.apply(change);
        let octets = codec::encode(change);
        log.push(octets.len() as u8);
        log.extend_from_slice(&octets);
    }
    vec![
        [&[0], &DurableState::founded(genesis(), secret).encode()[..]].concat(),
        [&[1], &state.encode()[..]].concat(),
        log,
    ]
}
