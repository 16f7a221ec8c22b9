//! Datagram headers, the record envelope, record bodies, texts.

use crate::bytes::Bytes;
use std::fmt::{Debug, Display};
use std::str::FromStr;
use weft_gossip::JoinToken;
use weft_gossip::token::StretchCost;
use weft_sleeve::Content;
use weft_sleeve::content::{write_data, write_flood};
use weft_sleeve::fragment::Cut;
use weft_wire::datagram::{
    FLOOD_PREFIX_LEN, FloodPrefix, FragPrefix, HEADER_LEN, Header, Kind, META_LEN, Meta, ProbeBody,
    RELAY_SHIM_LEN, RelayShim, TAG_LEN,
};
use weft_wire::envelope::{ENVELOPE_MAX, Envelope, EnvelopeError, KindNumber, Stamp};
use weft_wire::group::GroupsRecord;
use weft_wire::ipam::{
    Exception, ExceptionsRecord, Grant, LentRecord, Loan, SlotRun, SlotsRecord, Version, VoteRecord,
};
use weft_wire::limits::{FRAME_MAX, RECORD_BODY_MAX};
use weft_wire::reclaim::{Proof, ReclaimRecord};
use weft_wire::record::{Admission, Body, LinksRecord, PeerRecord, PublishedLink};
use weft_wire::{GenesisId, KeyId, Mac, NodeId, NodeKey, NoisePublic, PeerHash, SessionIndex, codec};

/// Every header and prefix of a datagram, and what stands sealed in it.
pub fn datagram(data: &[u8]) {
    if let Ok(header) = Header::parse(data) {
        assert_eq!(header.to_bytes(), data[..HEADER_LEN]);
        assert_eq!(u64::from_be_bytes(header.key_id().0), header.counter);
        assert_eq!(u64::from(header.responder_index().0), header.counter >> 32);
    }
    if let Some((shim, inner)) = RelayShim::split(data) {
        assert_eq!(&data[RELAY_SHIM_LEN..], inner);
        assert_eq!(RelayShim::split(&shim.to_bytes()), Some((shim, &[][..])));
    }
    if let Some((prefix, rest)) = FloodPrefix::split(data) {
        assert_eq!([&prefix.to_bytes(), rest].concat(), data);
    }
    if let Some((prefix, rest)) = FragPrefix::split(data) {
        assert_eq!([&prefix.to_bytes(), rest].concat(), data);
    }
    if let Some(body) = ProbeBody::parse(data) {
        assert_eq!(ProbeBody::parse(&body.to_bytes()), Some(body));
    }
    let Some((octet, opened)) = data.split_first() else {
        return;
    };
    let Some(kind) = Kind::from_octet(*octet) else {
        return;
    };
    let mut again = Vec::new();
    match Content::parse(kind, opened) {
        Ok(Content::Frame { meta, frame }) => {
            check_frame(frame);
            write_data(&mut again, meta, frame);
        }
        Ok(Content::Slice { meta, bytes }) => {
            assert!(meta.segment < meta.segments && bytes.len() > usize::from(meta.header_len));
            write_data(&mut again, meta, bytes);
        }
        Ok(Content::Flood { meta, prefix, frame }) => {
            check_frame(frame);
            write_flood(&mut again, meta, prefix, frame);
        }
        Ok(Content::Piece { cut, prefix, octets }) => {
            assert_eq!(cut == Cut::Flood, kind == Kind::FloodFrag);
            return assert_eq!([&prefix.to_bytes(), octets].concat(), opened);
        }
        Ok(Content::Probe(body)) => {
            return assert_eq!(usize::from(body.size), HEADER_LEN + opened.len() + TAG_LEN);
        }
        Ok(Content::ProbeAck(body)) => return assert_eq!(body.to_bytes()[..10], opened[..10]),
        Ok(Content::Keepalive) | Err(_) => return,
    }
    // The last two octets of the meta are reserved: ignored when read, zero when written.
    assert_eq!(again[..META_LEN - 2], opened[..META_LEN - 2]);
    assert_eq!(again[META_LEN..], opened[META_LEN..]);
}

fn check_frame(frame: &[u8]) {
    assert!(frame.len() <= FRAME_MAX);
    assert!(Mac::destination(frame).is_some() && Mac::source(frame).is_some());
}

/// One datagram of each kind.
pub fn datagram_seeds() -> Vec<Vec<u8>> {
    let meta = Meta {
        header_len: 14,
        segments: 2,
        ..Meta::default()
    };
    let prefix = FloodPrefix {
        origin: PeerHash([1; 8]),
        sequence: 2,
    };
    let shim = RelayShim {
        hop_limit: 8,
        destination: PeerHash([1; 8]),
        source: PeerHash([2; 8]),
    };
    let mut content = [Vec::new(), Vec::new(), Vec::new()];
    write_data(&mut content[0], Meta::default(), &[7; 20]);
    write_data(&mut content[1], meta, &[7; 20]);
    write_flood(&mut content[2], Meta::default(), prefix, &[7; 20]);
    let mut seeds: Vec<Vec<u8>> = [1, 2, 3, 4, 5, 6, 0x10, 0x11, 0x12]
        .into_iter()
        .filter_map(Kind::from_octet)
        .map(|kind| Header::new(kind, SessionIndex(3), 4).to_bytes().to_vec())
        .collect();
    seeds.push([&shim.to_bytes()[..], &seeds[0]].concat());
    for (kind, content) in [Kind::Data, Kind::Data, Kind::Flood].into_iter().zip(content) {
        seeds.push([&[kind as u8], &content[..]].concat());
    }
    seeds.push([&[Kind::Flood as u8], &[0; META_LEN + FLOOD_PREFIX_LEN + 13][..]].concat());
    seeds.push(vec![Kind::Keepalive as u8]);
    seeds
}

/// The record envelope as octets (first octet 0), or an envelope around a body of the kind in the first octet.
pub fn record(data: &[u8]) {
    let mut data = Bytes(data);
    let kind = data.u8();
    if kind == 0 {
        return envelope(data.0);
    }
    let body = data.0;
    let mut bytes = vec![0, kind];
    bytes.extend_from_slice(&[9; 32 + 16]);
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&[0; 64]);
    let envelope = match Envelope::from_bytes(bytes) {
        Ok(envelope) => envelope,
        Err(error) => {
            assert_eq!(error, EnvelopeError::BodyTooLong(body.len()));
            assert!(body.len() > RECORD_BODY_MAX);
            return;
        }
    };
    let known = [
        read::<Admission>(&envelope).is_some(),
        read::<PeerRecord>(&envelope).is_some(),
        read::<LinksRecord>(&envelope).is_some(),
        read::<GroupsRecord>(&envelope).is_some(),
        read::<LentRecord>(&envelope).is_some(),
        read::<ReclaimRecord>(&envelope).is_some(),
        read::<ExceptionsRecord>(&envelope).is_some(),
        read::<SlotsRecord>(&envelope).is_some_and(|slots| {
            slots.given.iter().for_each(grant);
            slots.proofs.iter().for_each(proof);
            assert!(slots.room() <= RECORD_BODY_MAX);
            true
        }),
        read::<VoteRecord>(&envelope).is_some_and(|vote| {
            vote.accepted.map(|accepted| accepted.epoch.hash());
            true
        }),
    ];
    assert!(
        known.iter().filter(|is| **is).count() <= 1,
        "of two kinds at once"
    );
}

fn envelope(data: &[u8]) {
    let Ok(envelope) = Envelope::from_bytes(data.to_vec()) else {
        return;
    };
    assert!(data.len() <= ENVELOPE_MAX && envelope.as_bytes() == data);
    let (key, stamp) = (envelope.key(), envelope.stamp());
    let signer = NodeKey::from_seed([1; 32]);
    let again =
        Envelope::sign(&signer, key.kind, key.owner, stamp, envelope.body()).expect("its length was taken");
    assert_eq!(again.as_bytes()[..data.len() - 64], data[..data.len() - 64]);
    assert!(again.is_signed_by(&signer.id()));
    assert_eq!(envelope.is_signed_by(&signer.id()), again == envelope);
    assert_eq!(envelope.join_order(&again), again.join_order(&envelope).reverse());
    let _ = envelope.is_signed_by(&key.owner);
}

fn read<B: Body + PartialEq + Debug>(envelope: &Envelope) -> Option<B> {
    let body = B::from_envelope(envelope).ok()?;
    assert!(body.is_within_bounds());
    assert_eq!(codec::encode(&body), envelope.body());
    Some(body)
}

fn grant(grant: &Grant) {
    assert!(grant.covers(&grant.runs));
    assert!(codec::encode(grant).len() <= grant.cost());
    let slots: u32 = grant.runs.iter().map(|run| run.count).sum();
    assert!(slots <= 65_536, "runs overlap: {slots} slots");
    assert!(!grant.is_signed(&GenesisId([0; 32])));
    let _ = grant.id();
}

fn proof(proof: &Proof) {
    assert!(proof.covers(proof.runs()));
    assert!(codec::encode(proof).len() <= proof.cost());
    match proof {
        Proof::Grant(other) => grant(other),
        Proof::Reclaim(reclaim) => assert!(reclaim.epoch() > 0),
    }
    let _ = proof.id();
}

/// One record of each kind.
pub fn record_seeds() -> Vec<Vec<u8>> {
    fn of<B: Body>(body: &B) -> Vec<u8> {
        [&[B::KIND.0 as u8], &codec::encode(body)[..]].concat()
    }
    let (a, b) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
    let stamp = Stamp {
        incarnation: 1,
        version: 2,
    };
    let run = SlotRun {
        first: 3,
        count: 4,
        version: Version { epoch: 1, seq: 2 },
    };
    let given = Grant::sign(&a, &GenesisId([3; 32]), b.id(), vec![run]);
    let envelope = Envelope::sign(&a, KindNumber(9), a.id(), stamp, b"body").expect("it is short");
    vec![
        [&[0], envelope.as_bytes()].concat(),
        of(&Admission {
            genesis: GenesisId([3; 32]),
            subject: b.id(),
            admitter: a.id(),
        }),
        of(&PeerRecord {
            name: "a".into(),
            noise_static: NoisePublic([4; 32]),
            endpoints: vec![([192, 0, 2, 1], 6783).into(), ([1u16; 8], 6783).into()],
            underlay_mtu: 1500,
            capabilities: 0,
            zone: "z".into(),
            version: "0".into(),
            boot_nonce: 5,
        }),
        of(&GroupsRecord::Groups {
            ipv4: vec![[239, 1, 2, 3].into()],
            ipv6: vec![],
        }),
        of(&LinksRecord {
            links: vec![PublishedLink {
                neighbour: b.id(),
                rtt_log2_us: 7,
            }],
        }),
        of(&SlotsRecord {
            runs: vec![run],
            given: vec![given.clone()],
            proofs: vec![Proof::Grant(given)],
            ..SlotsRecord::default()
        }),
        of(&LentRecord {
            borrowers: vec![b.id()],
            loans: vec![Loan {
                offset: 1,
                borrower: 0,
                number: 1,
            }],
        }),
        of(&crate::ipam::vote(&a, b.id())),
        of(&ReclaimRecord {
            epoch: 1,
            slots: 2,
            missing: vec![b.id()],
            more: 3,
        }),
        of(&ExceptionsRecord {
            entries: vec![
                Exception::Static([10, 0, 0, 1].into()),
                Exception::Virtual([1u16; 8].into()),
                Exception::ForeignMac(Mac([2; 6])),
            ],
        }),
    ]
}

/// Texts: join tokens and identifiers.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let cheap = StretchCost {
        memory_kib: 8,
        passes: 1,
    };
    if let Ok(token) = JoinToken::parse_with(text, cheap)
        && let Some(written) = token.text()
    {
        let again = JoinToken::parse_with(&written, cheap).expect("it was written");
        assert_eq!(again.psk(), token.psk());
        assert_eq!(again.text(), Some(written));
    }
    reads_back::<Mac>(text);
    reads_back::<NodeId>(text);
    reads_back::<KeyId>(text);
}

fn reads_back<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text.to_ascii_lowercase());
    }
}

/// Good tokens and identifiers.
pub fn text_seeds() -> Vec<Vec<u8>> {
    use rand_chacha::rand_core::SeedableRng;
    let token = JoinToken::generate(&mut rand_chacha::ChaCha20Rng::from_seed([1; 32]));
    let node = NodeKey::from_seed([1; 32]).id();
    [
        token.to_string(),
        token.to_string().to_uppercase(),
        "correct horse battery".into(),
        node.to_string(),
        KeyId([0xab; 8]).to_string(),
        Mac([2, 0xab, 0, 0, 0, 1]).to_string(),
    ]
    .map(String::into_bytes)
    .into()
}
