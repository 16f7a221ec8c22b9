//! The handshake and the first messages for fixed keys, against the published vectors.

use crate::net::genesis;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::fmt::Write;
use weft_gossip::JoinToken;
use weft_gossip::handshake::{KeyRole, Keyring, initiate, refusal_frame, respond};
use weft_gossip::membership::Membership;
use weft_wire::id::hex;
use weft_wire::mesh::{Heartbeat, Hello, Message, Passed, Summary, Welcome};
use weft_wire::secret::Protocol;
use weft_wire::{ClusterSecret, NodeKey, NoiseKeypair, RejectReason, codec};

const PUBLISHED: &str = include_str!("../../../docs/design/mesh-vectors.txt");

/// Every intermediate value, as `name = hex` lines.
fn transcript() -> String {
    let mut text = String::from(
        "# Test vectors of the mesh, see mesh.md. Each line: name = octets in hexadecimal digits.\n\
         # The ephemeral secret of a handshake is the first 32 octets that ChaCha20 with 20 rounds, nonce 0, gives\n\
         # for a key; that key is the first 32 octets that ChaCha20 gives for the named seed.\n",
    );
    let mut line = |name: &str, octets: &[u8]| writeln!(text, "{name} = {}", hex(octets)).unwrap();
    let (founder, newcomer) = (NodeKey::from_seed([0x11; 32]), NodeKey::from_seed([0x22; 32]));
    let founder_noise = NoiseKeypair::from_secret([0x33; 32]).unwrap();
    let newcomer_noise = NoiseKeypair::from_secret([0x44; 32]).unwrap();
    line("responder_node_seed", &[0x11; 32]);
    line("responder_node", &founder.id().0);
    line("responder_noise_secret", &founder_noise.secret);
    line("responder_noise_public", &founder_noise.public);
    line("initiator_node_seed", &[0x22; 32]);
    line("initiator_node", &newcomer.id().0);
    line("initiator_noise_secret", &newcomer_noise.secret);
    line("initiator_noise_public", &newcomer_noise.public);

    let genesis = genesis(founder.id(), 0x55);
    line("genesis", &codec::encode(&genesis));
    line("genesis_id", &genesis.id().0);
    let secret = ClusterSecret {
        number: 1,
        key: [0x66; 32],
    };
    let psk = secret.psk(Protocol::Mesh);
    line("cluster_secret", &secret.key);
    line("cluster_psk", &psk.key);
    line("cluster_key_id", &psk.id.0);
    let token = JoinToken::generate(&mut ChaCha20Rng::from_seed([0x77; 32]));
    line("token_text", token.to_string().as_bytes());
    line("token_psk", &token.psk().key);
    line("token_key_id", &token.psk().id.0);
    let password = JoinToken::parse("correct horse battery").unwrap();
    line("password_text", b"correct horse battery");
    line("password_psk", &password.psk().key);
    line("password_key_id", &password.psk().id.0);

    let membership = Membership::found(genesis.clone(), secret.clone());
    let admission = membership.admit(&founder, newcomer.id()).unwrap();
    line("admission", admission.as_bytes());

    let hello = |key: &NodeKey, noise: &NoiseKeypair, name: &str, admissions| Hello {
        node: key.id(),
        noise_certificate: key.certify_noise_static(&noise.public()).into(),
        genesis: Some(genesis.id()),
        incarnation: 3,
        boot_nonce: 0x0102_0304_0506_0708,
        dial: 4,
        capabilities: 0,
        name: name.into(),
        admissions,
    };
    let initiator_hello = hello(
        &newcomer,
        &newcomer_noise,
        "b",
        vec![admission.as_bytes().to_vec()],
    );
    let responder_hello = hello(&founder, &founder_noise, "a", vec![]);
    line("initiator_hello", &codec::encode(&initiator_hello));
    line("responder_hello", &codec::encode(&responder_hello));

    line("initiator_seed", &[0x88; 32]);
    line("responder_seed", &[0x99; 32]);
    let (awaiting_response, first) =
        initiate(&newcomer_noise, &psk, &mut ChaCha20Rng::from_seed([0x88; 32])).unwrap();
    line("message_1", &first);
    let ring = Keyring::new([(KeyRole::Cluster, psk)]);
    let (awaiting_hello, second) = respond(
        &founder_noise,
        &ring,
        &first,
        &mut ChaCha20Rng::from_seed([0x99; 32]),
    )
    .unwrap();
    line("message_2", &second);
    let (awaiting_confirmation, third) = awaiting_response
        .read_response(&second, &initiator_hello)
        .unwrap();
    line("message_3", &third);
    let (mut responder, read) = awaiting_hello
        .read_hello(&third)
        .map_err(|(reason, _)| reason)
        .unwrap();
    assert_eq!(read, initiator_hello);
    let fourth = responder
        .seal(&Message::Hello(responder_hello.clone()).encode())
        .unwrap();
    line("responder_hello_frame", &fourth);
    let (mut initiator, read) = awaiting_confirmation
        .read_hello(&fourth)
        .map_err(|(reason, _)| reason)
        .unwrap();
    assert_eq!(read, responder_hello);
    let heartbeat = Message::Heartbeat(Heartbeat {
        fingerprint: [0xaa; 16],
        sent: 1_000_000,
        echo: Some((999_000, 250)),
    });
    line("heartbeat", &heartbeat.encode());
    line("heartbeat_frame", &initiator.seal(&heartbeat.encode()).unwrap());
    let welcome = Message::Welcome(Welcome {
        genesis,
        admissions: vec![admission.as_bytes().to_vec()],
        secrets: vec![secret],
    });
    line("welcome", &welcome.encode());
    line("joined", &Message::Joined.encode());
    line("records", &Message::Records(vec![admission]).encode());
    let summary = Message::Summary(Summary {
        first: 0,
        last: 255,
        digests: vec![[0xab; 8], [0xcd; 8]],
    });
    line("summary", &summary.encode());
    let passed = Passed::sign(&newcomer, &membership.id(), founder.id(), 3, b"word".to_vec());
    line("passed", &Message::Passed(passed).encode());
    line(
        "goodbye_duplicate",
        &Message::Goodbye(RejectReason::Duplicate).encode(),
    );
    line("refusal_unknown_key", &refusal_frame(RejectReason::UnknownKey));
    text
}

#[test]
fn the_published_vectors_hold() {
    let computed = transcript();
    assert!(
        computed == PUBLISHED,
        "docs/design/mesh-vectors.txt differs; the transcript is now:\n{computed}"
    );
}
