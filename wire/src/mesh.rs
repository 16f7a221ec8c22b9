//! Messages of the TCP mesh.
//!
//! On the stream every message is a frame: length 2 (big-endian, of what follows), then the octets. The first
//! three frames are the Noise XXpsk3 handshake; all later ones are Noise transport messages whose plaintext is
//! `type 1 | body`. Types that a host does not know are ignored, so that later versions can add some.

use crate::codec::{self, DecodeError};
use crate::envelope::{ENVELOPE_MAX, Envelope};
use crate::hash::hash;
use crate::id::{GenesisId, NodeId, NodeKey};
use crate::limits::{
    ADMISSION_CHAIN_MAX, FOUNDERS_MAX, MESH_FRAME_MAX, NAME_MAX, RECORDS_PER_MESSAGE, RELAY_HOPS_MAX,
};
use crate::reason::RejectReason;
use crate::record::{Genesis, Signature64};
use crate::secret::ClusterSecret;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

const _: () = assert!(
    RECORDS_PER_MESSAGE * (ENVELOPE_MAX + 3) + 16 <= MESH_FRAME_MAX,
    "a full message of the largest records must fit one frame"
);
const _: () = assert!(
    ADMISSION_CHAIN_MAX * 300 + FOUNDERS_MAX * 32 + 1_024 <= MESH_FRAME_MAX,
    "a hello or a welcome with the longest admission chain must fit one frame"
);

/// Octets of one [`Message::Direct`]: what fits one frame.
pub const DIRECT_MAX: usize = MESH_FRAME_MAX - 1;

/// Octets that one [`Passed`] carries: what fits one frame beside two ids, a signature and some numbers.
pub const PASSED_MAX: usize = MESH_FRAME_MAX - 256;

/// Octets of one [`Message::Agreement`]: 64 nicknames and as many ids, with room to spare.
pub const AGREEMENT_MAX: usize = 8_192;

/// Capability of a Hello: this host is the only one of its cluster and has no address in use, so it can leave it.
pub const CAPABILITY_MAY_YIELD: u64 = 1 << 0;

/// Capability of a Hello: without a cluster, this host takes part in agreeing on one.
pub const CAPABILITY_AGREES: u64 = 1 << 1;

/// A clear frame of this single-octet form, `0xff` then a [`RejectReason`] code, may take the place of the
/// second handshake message: a hint for people, trusted for nothing.
pub const REFUSAL_MARK: u8 = 0xff;

/// What each side says of itself, first thing under the full key: in handshake message 3 and in the
/// responder's first transport message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Who speaks.
    pub node: NodeId,
    /// Binds the Noise static key of this handshake to `node`.
    pub noise_certificate: Signature64,
    /// Cluster of the speaker, or none yet.
    pub genesis: Option<GenesisId>,
    /// Incarnation of the speaker's process.
    pub incarnation: u64,
    /// Fresh at each start.
    pub boot_nonce: u64,
    /// Grows with every dial of this process; decides between two connections of one direction.
    pub dial: u64,
    /// Capability bits; unknown ones are ignored.
    pub capabilities: u64,
    /// Nickname, for messages to people.
    pub name: String,
    /// Admissions from one that the founder signed down to the speaker's own, as envelope octets; empty for the founder and for one
    /// who asks to join.
    pub admissions: Vec<Vec<u8>>,
}

/// Everything a newcomer needs to be a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The cluster.
    pub genesis: Genesis,
    /// Admissions from one that the founder signed down to the newcomer's own.
    pub admissions: Vec<Vec<u8>>,
    /// Current secret, and the previous one when there is one.
    pub secrets: Vec<ClusterSecret>,
}

/// A sign of life, once a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Fingerprint of the sender's whole register map.
    pub fingerprint: [u8; 16],
    /// Sender's clock, any unit; comes back in `echo`.
    pub sent: u64,
    /// The `sent` of the last heartbeat that arrived, and how long ago that was in microseconds.
    pub echo: Option<(u64, u64)>,
}

/// What the sender holds of the records of some owners: whoever has others sends those.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// First octet of the owners' ids from here...
    pub first: u8,
    /// ...to here, both included.
    pub last: u8,
    /// The first octets of one hash for each record, in no order; at most [`SUMMARY_MAX`].
    pub digests: Vec<[u8; 8]>,
}

/// Digests of one [`Summary`]: what fits one frame, with type, two octets and a length.
pub const SUMMARY_MAX: usize = (MESH_FRAME_MAX - 8) / 8;

/// Something that one member says to another one to which it has no link, on its way over the links of others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Passed {
    /// Who says it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// Incarnation of the process that says it.
    pub incarnation: u64,
    /// Hosts that may still pass it on after the one that receives it, at most [`RELAY_HOPS_MAX`]; not signed.
    pub hops: u8,
    /// Ed25519 by `from` over all of the others and the cluster's name.
    pub signature: Signature64,
    /// What it says, at most [`PASSED_MAX`] octets.
    pub bytes: Vec<u8>,
}

impl Passed {
    /// Signs what `key`'s host says, for a way over as many others as can be.
    pub fn sign(key: &NodeKey, genesis: &GenesisId, to: NodeId, incarnation: u64, bytes: Vec<u8>) -> Self {
        let from = key.id();
        let signature = key
            .sign(&passed_digest(genesis, &from, &to, incarnation, &bytes))
            .into();
        Self {
            from,
            to,
            incarnation,
            hops: RELAY_HOPS_MAX,
            signature,
            bytes,
        }
    }

    /// True when `from` signed it for this cluster.
    pub fn is_signed(&self, genesis: &GenesisId) -> bool {
        let digest = passed_digest(genesis, &self.from, &self.to, self.incarnation, &self.bytes);
        self.from.verify(&digest, &self.signature.into())
    }
}

fn passed_digest(
    genesis: &GenesisId,
    from: &NodeId,
    to: &NodeId,
    incarnation: u64,
    bytes: &[u8],
) -> [u8; 32] {
    let incarnation = incarnation.to_be_bytes();
    hash(
        "weft passed message v1",
        &[&genesis.0, &from.0, &to.0, &incarnation, bytes],
    )
}

/// One message after the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The responder's hello.
    Hello(Hello),
    /// A member lets a newcomer in.
    Welcome(Welcome),
    /// The newcomer has stored what it was given.
    Joined,
    /// Records, at most [`RECORDS_PER_MESSAGE`].
    Records(Vec<Envelope>),
    /// A sign of life.
    Heartbeat(Heartbeat),
    /// The sender closes, and why.
    Goodbye(RejectReason),
    /// Something that one member says to another and that is nobody else's concern; at most
    /// [`DIRECT_MAX`] octets.
    Direct(Vec<u8>),
    /// What the sender holds, when that differs from what the receiver holds.
    Summary(Summary),
    /// Something that two hosts without a cluster say to each other while they agree on one; at most
    /// [`AGREEMENT_MAX`] octets.
    Agreement(Vec<u8>),
    /// Something that one member says to another one over the links of others.
    Passed(Passed),
}

const TYPE_HELLO: u8 = 1;
const TYPE_WELCOME: u8 = 2;
const TYPE_JOINED: u8 = 3;
const TYPE_RECORDS: u8 = 4;
const TYPE_HEARTBEAT: u8 = 5;
const TYPE_GOODBYE: u8 = 6;
const TYPE_DIRECT: u8 = 7;
const TYPE_SUMMARY: u8 = 8;
const TYPE_AGREEMENT: u8 = 9;
const TYPE_PASSED: u8 = 10;

impl Message {
    /// The plaintext of the transport message.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Hello(hello) => (TYPE_HELLO, codec::encode(hello)),
            Self::Welcome(welcome) => (TYPE_WELCOME, codec::encode(welcome)),
            Self::Joined => (TYPE_JOINED, Vec::new()),
            Self::Records(records) => {
                let raw: Vec<&[u8]> = records.iter().map(Envelope::as_bytes).collect();
                (TYPE_RECORDS, codec::encode(&raw))
            }
            Self::Heartbeat(heartbeat) => (TYPE_HEARTBEAT, codec::encode(heartbeat)),
            Self::Goodbye(reason) => (TYPE_GOODBYE, alloc::vec![reason.code()]),
            Self::Direct(bytes) => (TYPE_DIRECT, bytes.clone()),
            Self::Summary(summary) => (TYPE_SUMMARY, codec::encode(summary)),
            Self::Agreement(bytes) => (TYPE_AGREEMENT, bytes.clone()),
            Self::Passed(passed) => (TYPE_PASSED, codec::encode(passed)),
        };
        let mut out = Vec::with_capacity(1 + body.len());
        out.push(kind);
        out.extend_from_slice(&body);
        out
    }

    /// Reads a plaintext. `Ok(None)` is a type that this version does not know.
    pub fn decode(plaintext: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (&kind, body) = plaintext.split_first().ok_or(DecodeError::Malformed)?;
        Ok(Some(match kind {
            TYPE_HELLO => Self::Hello(decode_hello(body)?),
            TYPE_WELCOME => {
                let welcome: Welcome = codec::decode::<_, MESH_FRAME_MAX>(body)?;
                if welcome.admissions.len() > ADMISSION_CHAIN_MAX || welcome.secrets.len() > 2 {
                    return Err(DecodeError::TooLong);
                }
                if !welcome.genesis.is_within_bounds() {
                    return Err(DecodeError::Malformed);
                }
                Self::Welcome(welcome)
            }
            TYPE_JOINED if body.is_empty() => Self::Joined,
            TYPE_RECORDS => {
                let raw: Vec<Vec<u8>> = codec::decode::<_, MESH_FRAME_MAX>(body)?;
                if raw.len() > RECORDS_PER_MESSAGE {
                    return Err(DecodeError::TooLong);
                }
                let records: Result<_, _> = raw.into_iter().map(Envelope::from_bytes).collect();
                Self::Records(records.map_err(|_| DecodeError::Malformed)?)
            }
            TYPE_HEARTBEAT => Self::Heartbeat(codec::decode::<_, MESH_FRAME_MAX>(body)?),
            TYPE_GOODBYE => match body {
                // A reason that a later version added still closes the link.
                [code] => Self::Goodbye(RejectReason::from_code(*code).unwrap_or(RejectReason::Disconnected)),
                _ => return Err(DecodeError::Malformed),
            },
            TYPE_DIRECT if body.len() <= DIRECT_MAX => Self::Direct(body.to_vec()),
            TYPE_SUMMARY => {
                let summary: Summary = codec::decode::<_, MESH_FRAME_MAX>(body)?;
                if summary.digests.len() > SUMMARY_MAX {
                    return Err(DecodeError::TooLong);
                }
                Self::Summary(summary)
            }
            TYPE_AGREEMENT if body.len() <= AGREEMENT_MAX => Self::Agreement(body.to_vec()),
            TYPE_PASSED => {
                let passed: Passed = codec::decode::<_, MESH_FRAME_MAX>(body)?;
                if passed.bytes.len() > PASSED_MAX {
                    return Err(DecodeError::TooLong);
                }
                if passed.hops > RELAY_HOPS_MAX {
                    return Err(DecodeError::Malformed);
                }
                Self::Passed(passed)
            }
            TYPE_DIRECT | TYPE_AGREEMENT => return Err(DecodeError::TooLong),
            TYPE_JOINED => return Err(DecodeError::Trailing),
            _ => return Ok(None),
        }))
    }
}

/// Reads a hello and checks its bounds.
pub fn decode_hello(body: &[u8]) -> Result<Hello, DecodeError> {
    let hello: Hello = codec::decode::<_, MESH_FRAME_MAX>(body)?;
    let chain_ok = hello.admissions.len() <= ADMISSION_CHAIN_MAX;
    let name_ok = hello.name.len() <= NAME_MAX && hello.name.chars().all(|c| !c.is_control());
    if chain_ok && name_ok {
        Ok(hello)
    } else {
        Err(DecodeError::TooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{KindNumber, Stamp};
    use crate::id::NodeKey;
    use proptest::prelude::*;

    fn samples() -> Vec<Message> {
        let key = NodeKey::from_seed([1; 32]);
        let record = Envelope::sign(
            &key,
            KindNumber(9),
            key.id(),
            Stamp {
                incarnation: 1,
                version: 1,
            },
            b"body",
        )
        .unwrap();
        vec![
            Message::Hello(Hello {
                node: key.id(),
                noise_certificate: [5; 64].into(),
                genesis: None,
                incarnation: 1,
                boot_nonce: 2,
                dial: 3,
                capabilities: 0,
                name: "a".into(),
                admissions: vec![],
            }),
            Message::Welcome(Welcome {
                genesis: Genesis {
                    founders: vec![key.id()],
                    nonce: [1; 16],
                    range: "10.32.0.0/12".parse().unwrap(),
                    slot_size: 16,
                },
                admissions: vec![record.as_bytes().to_vec()],
                secrets: vec![ClusterSecret {
                    number: 1,
                    key: [8; 32],
                }],
            }),
            Message::Joined,
            Message::Records(vec![record.clone(), record]),
            Message::Heartbeat(Heartbeat {
                fingerprint: [2; 16],
                sent: 4,
                echo: Some((1, 2)),
            }),
            Message::Goodbye(RejectReason::Shutdown),
            Message::Direct(vec![1, 2, 3]),
            Message::Summary(Summary {
                first: 0,
                last: 255,
                digests: vec![[7; 8], [9; 8]],
            }),
            Message::Agreement(vec![4, 5]),
            Message::Passed(Passed::sign(
                &key,
                &GenesisId([6; 32]),
                NodeId([7; 32]),
                8,
                vec![9; 3],
            )),
        ]
    }

    #[test]
    fn every_message_survives_and_refuses_trailing_octets() {
        for message in samples() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(Some(message.clone())));
            if matches!(message, Message::Direct(_) | Message::Agreement(_)) {
                continue; // its octets have no structure here
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(Message::decode(&longer).is_err(), "{message:?}");
        }
    }

    #[test]
    fn what_is_passed_on_is_its_senders_word_but_for_the_hops() {
        let (key, genesis, to) = (NodeKey::from_seed([3; 32]), GenesisId([6; 32]), NodeId([7; 32]));
        let passed = Passed::sign(&key, &genesis, to, 8, vec![1, 2]);
        assert!(passed.is_signed(&genesis) && !passed.is_signed(&GenesisId([5; 32])));
        let hops = 0;
        assert!(
            Passed {
                hops,
                ..passed.clone()
            }
            .is_signed(&genesis)
        );
        let from = NodeKey::from_seed([4; 32]).id();
        let forged = [
            Passed {
                from,
                ..passed.clone()
            },
            Passed {
                to: from,
                ..passed.clone()
            },
            Passed {
                incarnation: 9,
                ..passed.clone()
            },
            Passed {
                bytes: vec![1, 3],
                ..passed.clone()
            },
        ];
        assert!(forged.iter().all(|forged| !forged.is_signed(&genesis)));

        let refused = |passed: Passed| Message::decode(&Message::Passed(passed).encode());
        let hops = RELAY_HOPS_MAX + 1;
        assert_eq!(
            refused(Passed {
                hops,
                ..passed.clone()
            }),
            Err(DecodeError::Malformed)
        );
        let longest = Passed {
            bytes: vec![0; PASSED_MAX],
            ..passed.clone()
        };
        assert!(Message::Passed(longest.clone()).encode().len() <= MESH_FRAME_MAX);
        assert_eq!(refused(longest.clone()), Ok(Some(Message::Passed(longest))));
        let bytes = vec![0; PASSED_MAX + 1];
        assert_eq!(refused(Passed { bytes, ..passed }), Err(DecodeError::TooLong));
    }

    #[test]
    fn unknown_types_are_ignored_and_empty_plaintexts_are_not() {
        assert_eq!(Message::decode(&[200, 1, 2, 3]), Ok(None));
        assert_eq!(Message::decode(&[]), Err(DecodeError::Malformed));
    }

    #[test]
    fn too_many_records_are_refused() {
        let raw: Vec<Vec<u8>> = vec![vec![]; RECORDS_PER_MESSAGE + 1];
        let bytes = [&[TYPE_RECORDS][..], &codec::encode(&raw)].concat();
        assert_eq!(Message::decode(&bytes), Err(DecodeError::TooLong));
    }

    proptest! {
        #[test]
        fn no_octets_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(Some(message)) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
