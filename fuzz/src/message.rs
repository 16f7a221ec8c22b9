//! Messages of the mesh, and what members say to each other directly.

use weft_gossip::Membership;
use weft_gossip::handshake::{read_refusal, refusal_frame};
use weft_gossip::membership::{envelopes, verify_chain};
use weft_ipam_crdt::Span;
use weft_ipam_crdt::message::{self, AskId, Decided, GRANTS_PER_MESSAGE, MESSAGE_MAX, Refusal, Wish};
use weft_wire::envelope::{KindNumber, Stamp};
use weft_wire::ipam::{Grant, GrantId, SlotRun, Version};
use weft_wire::limits::{MESH_FRAME_MAX, NAME_MAX, RECORDS_PER_MESSAGE, RELAY_HOPS_MAX};
use weft_wire::mesh::{
    Heartbeat, Hello, Message, PASSED_MAX, Passed, SUMMARY_MAX, Summary, Welcome, decode_hello,
};
use weft_wire::reclaim::Proof;
use weft_wire::record::{Admission, Body, Genesis};
use weft_wire::{ClusterSecret, Envelope, GenesisId, NodeId, NodeKey, RejectReason, codec};

/// A plaintext of the mesh, a hello alone, or a refusal.
pub fn mesh(data: &[u8]) {
    if let Some(reason) = read_refusal(data) {
        assert_eq!(read_refusal(&refusal_frame(reason)), Some(reason));
    }
    if let Ok(hello) = decode_hello(data) {
        assert_eq!(codec::encode(&hello), data);
        assert!(hello.name.len() <= NAME_MAX);
        chain(&hello.admissions);
    }
    let Ok(Some(message)) = Message::decode(data) else {
        return;
    };
    assert!(data.len() <= MESH_FRAME_MAX, "no frame carries so much");
    match &message {
        // Reasons of later versions are read as one of this.
        Message::Goodbye(reason) => {
            assert_eq!(
                Message::decode(&message.encode()),
                Ok(Some(Message::Goodbye(*reason)))
            );
            return;
        }
        Message::Welcome(welcome) => {
            let _ = Membership::from_welcome(welcome, &NodeKey::from_seed([2; 32]).id());
        }
        Message::Records(records) => assert!(records.len() <= RECORDS_PER_MESSAGE),
        Message::Summary(summary) => assert!(summary.digests.len() <= SUMMARY_MAX),
        Message::Passed(passed) => {
            assert!(passed.bytes.len() <= PASSED_MAX && passed.hops <= RELAY_HOPS_MAX);
        }
        Message::Hello(hello) => chain(&hello.admissions),
        Message::Joined | Message::Heartbeat(_) | Message::Direct(_) | Message::Agreement(_) => {}
    }
    assert_eq!(message.encode(), data);
}

fn chain(admissions: &[Vec<u8>]) {
    if let Ok(admissions) = envelopes(admissions) {
        let genesis = genesis();
        let _ = verify_chain(&genesis, &admissions, &NodeId([2; 32]));
    }
}

fn genesis() -> Genesis {
    Genesis {
        founders: vec![NodeKey::from_seed([1; 32]).id()],
        nonce: [1; 16],
        range: "10.32.0.0/12".parse().expect("it is one"),
        slot_size: 16,
    }
}

/// One message of each type.
pub fn mesh_seeds() -> Vec<Vec<u8>> {
    let (key, other) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
    let stamp = Stamp {
        incarnation: 1,
        version: 1,
    };
    let record = Envelope::sign(&key, KindNumber(9), key.id(), stamp, b"body").expect("it is short");
    let admission = Admission {
        genesis: genesis().id(),
        subject: other.id(),
        admitter: key.id(),
    }
    .to_envelope(
        &key,
        other.id(),
        Stamp {
            incarnation: 0,
            version: 15,
        },
    )
    .expect("it is short");
    let hello = Hello {
        node: other.id(),
        noise_certificate: [5; 64].into(),
        genesis: Some(GenesisId([1; 32])),
        incarnation: 1,
        boot_nonce: 2,
        dial: 3,
        capabilities: 0,
        name: "a".into(),
        admissions: vec![admission.as_bytes().to_vec()],
    };
    let welcome = Welcome {
        genesis: genesis(),
        admissions: vec![admission.as_bytes().to_vec()],
        secrets: vec![ClusterSecret {
            number: 1,
            key: [8; 32],
        }],
    };
    let heartbeat = Heartbeat {
        fingerprint: [2; 16],
        sent: 4,
        echo: Some((1, 2)),
    };
    let mut seeds: Vec<Vec<u8>> = [
        Message::Hello(hello.clone()),
        Message::Welcome(welcome),
        Message::Joined,
        Message::Records(vec![record.clone(), record]),
        Message::Heartbeat(heartbeat),
        Message::Goodbye(RejectReason::Shutdown),
        Message::Direct(vec![1, 2, 3]),
        Message::Summary(Summary {
            first: 0,
            last: 127,
            digests: vec![[7; 8], [9; 8]],
        }),
        Message::Passed(Passed::sign(&key, &genesis().id(), other.id(), 1, vec![1, 2, 3])),
    ]
    .iter()
    .map(Message::encode)
    .collect();
    seeds.push(codec::encode(&hello));
    seeds.push(refusal_frame(RejectReason::UnknownKey));
    seeds
}

/// A direct message.
pub fn ipam(data: &[u8]) {
    let Ok(message) = message::Message::decode(data) else {
        return;
    };
    assert_eq!(message.encode(), data);
    assert!(data.len() <= MESSAGE_MAX);
    let grants = match &message {
        message::Message::Grant { grant, chain } => {
            assert!(grant.is_within_bounds());
            chain.as_slice()
        }
        message::Message::Chain(grants) => grants,
        _ => &[],
    };
    assert!(grants.len() <= GRANTS_PER_MESSAGE && grants.iter().all(Proof::is_within_bounds));
}

/// One message of each kind.
pub fn ipam_seeds() -> Vec<Vec<u8>> {
    use message::Message;
    let (a, b) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
    let run = SlotRun {
        first: 3,
        count: 4,
        version: Version { epoch: 1, seq: 2 },
    };
    let grant = Grant::sign(&a, &GenesisId([3; 32]), b.id(), vec![run]);
    let ask = AskId {
        incarnation: 1,
        count: 2,
    };
    let (offset, number) = (5, 6);
    let accepted = crate::ipam::vote(&a, b.id()).accepted.expect("it is there");
    let decided = Decided {
        epoch: accepted.epoch,
        ballot: accepted.ballot,
        off: accepted.off,
        votes: vec![(0, accepted.signature)],
    };
    [
        Message::Confirm {
            incarnation: 1,
            serial: 2,
        },
        Message::Confirmed {
            of: 1,
            incarnation: 2,
            serial: 3,
        },
        Message::AskSpace {
            ask,
            need: 1,
            room: 2,
            span: Span { first: 3, last: 9 },
        },
        Message::Grant {
            grant: grant.clone(),
            chain: vec![Proof::Grant(grant.clone())],
        },
        Message::GrantAccepted(GrantId([1; 16])),
        Message::AskLoan {
            ask,
            wish: Wish::This(4),
        },
        Message::Lend { ask, offset, number },
        Message::Return { offset, number },
        Message::Returned { offset, number },
        Message::Refuse {
            ask,
            why: Refusal::NothingFree,
        },
        Message::AskChain(vec![run]),
        Message::Chain(vec![Proof::Grant(grant)]),
        Message::AskEpochs { after: 1 },
        Message::Epochs(vec![decided]),
        Message::AskReclaim {
            epoch: 1,
            runs: vec![run],
        },
        Message::ReclaimSigned {
            epoch: 1,
            runs: vec![run],
            signature: Some([3; 64].into()),
            kept: vec![offset],
        },
        Message::ReclaimRefused {
            epoch: 1,
            against: vec![run],
        },
    ]
    .iter()
    .map(Message::encode)
    .collect()
}
