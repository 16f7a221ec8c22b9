//! One machine against a peer that does what it likes.

use crate::net::{genesis, token};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use weft_gossip::handshake::{Transport, initiate, read_refusal};
use weft_gossip::membership::{FOUNDER_RANK, Membership};
use weft_gossip::{ConnId, DurableState, Identity, Input, Mesh, MeshConfig, MeshEvent, Output};
use weft_wire::envelope::{KindNumber, Stamp};
use weft_wire::mesh::{Heartbeat, Hello, Message, Passed};
use weft_wire::record::{Admission, Body, PeerRecord};
use weft_wire::secret::Protocol;
use weft_wire::{ClusterSecret, DropReason, Envelope, NodeKey, NoiseKeypair, Psk, RejectReason, Time, codec};

const CONN: ConnId = ConnId::Accepted(1);

/// A founder's machine and everything that comes out of it.
struct Victim {
    mesh: Mesh,
    key: NodeKey,
    membership: Membership,
    events: Vec<MeshEvent>,
    closed: Vec<ConnId>,
}

fn secret() -> ClusterSecret {
    ClusterSecret {
        number: 1,
        key: [9; 32],
    }
}

fn cluster_psk() -> Psk {
    secret().psk(Protocol::Mesh)
}

impl Victim {
    fn new() -> Self {
        let key = NodeKey::from_seed([1; 32]);
        let durable = DurableState::founded(genesis(key.id(), 1), secret());
        let membership = durable.membership().unwrap();
        let mesh = Mesh::new(MeshConfig {
            identity: Identity {
                key: key.clone(),
                noise: NoiseKeypair::from_secret([3; 32]).unwrap(),
                incarnation: 5,
                boot_nonce: 50,
                name: "victim".into(),
            },
            token: Some(token(1)),
            durable: Some(durable),
            targets: vec![],
            capabilities: 0,
            seed: [7; 32],
        })
        .unwrap();
        let mut victim = Self {
            mesh,
            key,
            membership,
            events: vec![],
            closed: vec![],
        };
        victim.give(Input::Tick);
        victim
    }

    /// Feeds an input; the frames that leave are the answer. The disk and the kernel answer at once.
    fn give(&mut self, input: Input) -> Vec<(ConnId, Vec<u8>)> {
        let mut frames = vec![];
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            self.mesh.handle(Time::ZERO, input);
            while let Some(output) = self.mesh.poll_output() {
                match output {
                    Output::Send { conn, frame } => {
                        frames.push((conn, frame));
                        inputs.push(Input::Written { conn });
                    }
                    Output::Persist { token, .. } => inputs.push(Input::Persisted(token)),
                    Output::Event(event) => self.events.push(event),
                    Output::Close { conn } => self.closed.push(conn),
                    Output::Dial { .. } => {}
                }
            }
        }
        frames
    }

    fn frame(&mut self, conn: ConnId, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let frames = self.give(Input::Frame { conn, bytes });
        frames
            .into_iter()
            .filter(|(c, _)| *c == conn)
            .map(|(_, f)| f)
            .collect()
    }

    fn accept(&mut self, conn: ConnId) {
        self.give(Input::Accepted {
            conn,
            from: "198.51.100.1:1".parse().unwrap(),
        });
    }

    /// An admission of `subject` as the founder would sign it.
    fn admission(&self, subject: &NodeKey) -> Envelope {
        self.membership.admit(&self.key, subject.id()).unwrap()
    }

    fn refused(&self, reason: RejectReason) -> u64 {
        self.mesh.refusals()[reason as usize]
    }
}

/// The peer: whatever key, Hello and messages a test wants.
struct Peer {
    key: NodeKey,
    noise: NoiseKeypair,
    rng: ChaCha20Rng,
}

impl Peer {
    fn new(seed: u8) -> Self {
        Self {
            key: NodeKey::from_seed([seed; 32]),
            noise: NoiseKeypair::from_secret([seed; 32]).unwrap(),
            rng: ChaCha20Rng::from_seed([seed; 32]),
        }
    }

    fn hello(&self, victim: &Victim, admissions: &[Envelope]) -> Hello {
        Hello {
            node: self.key.id(),
            noise_certificate: self.key.certify_noise_static(&self.noise.public()).into(),
            genesis: Some(victim.membership.id()),
            incarnation: 1,
            boot_nonce: 2,
            dial: 1,
            capabilities: 0,
            name: "peer".into(),
            admissions: admissions.iter().map(|e| e.as_bytes().to_vec()).collect(),
        }
    }

    /// Runs the handshake; gives the keys and what the victim said first.
    fn connect(
        &mut self,
        victim: &mut Victim,
        conn: ConnId,
        psk: &Psk,
        hello: &Hello,
    ) -> Result<(Transport, Vec<Message>), RejectReason> {
        victim.accept(conn);
        let (awaiting, frame) = initiate(&self.noise, psk, &mut self.rng).unwrap();
        let answer = victim.frame(conn, frame);
        let (awaiting, frame) = awaiting.read_response(&answer[0], hello)?;
        let mut transport = awaiting.into_transport();
        let answer = victim.frame(conn, frame);
        let messages = answer.iter().map(|f| open(&mut transport, f)).collect();
        Ok((transport, messages))
    }
}

fn open(transport: &mut Transport, frame: &[u8]) -> Message {
    Message::decode(&transport.open(frame).unwrap()).unwrap().unwrap()
}

fn say(victim: &mut Victim, transport: &mut Transport, message: &Message) -> Vec<Message> {
    say_raw(victim, transport, &message.encode())
}

fn say_raw(victim: &mut Victim, transport: &mut Transport, plaintext: &[u8]) -> Vec<Message> {
    let frame = transport.seal(plaintext).unwrap();
    let answer = victim.frame(CONN, frame);
    answer.iter().map(|f| open(transport, f)).collect()
}

fn heartbeat() -> Message {
    Message::Heartbeat(Heartbeat {
        fingerprint: [0; 16],
        sent: u64::MAX,
        echo: Some((u64::MAX, u64::MAX)),
    })
}

/// A victim with a link to a true member.
fn linked() -> (Victim, Peer, Transport) {
    let (mut victim, mut peer) = (Victim::new(), Peer::new(2));
    let hello = peer.hello(&victim, &[victim.admission(&peer.key)]);
    let (mut transport, first) = peer.connect(&mut victim, CONN, &cluster_psk(), &hello).unwrap();
    assert!(matches!(&first[..], [Message::Hello(_)]));
    say(&mut victim, &mut transport, &heartbeat());
    assert!(victim.mesh.is_linked(&peer.key.id()));
    (victim, peer, transport)
}

fn assert_goodbye(victim: &Victim, said: &[Message], reason: RejectReason) {
    assert_eq!(said.last(), Some(&Message::Goodbye(reason)));
    assert_eq!(victim.refused(reason), 1);
    assert!(victim.closed.contains(&CONN));
    assert!(victim.mesh.links().is_empty());
}

#[test]
fn an_unknown_key_is_refused_in_clear() {
    let mut victim = Victim::new();
    let mut peer = Peer::new(2);
    let hello = peer.hello(&victim, &[]);
    let refused = peer.connect(&mut victim, CONN, &token(99), &hello).err();
    assert_eq!(refused, Some(RejectReason::UnknownKey));
    assert!(victim.closed.contains(&CONN));
    assert_eq!(read_refusal(&[0xff, 250]), Some(RejectReason::BadHandshake));
}

#[test]
fn each_wrong_hello_has_its_reason() {
    type Change = fn(&mut Hello, &Victim);
    let cases: [(RejectReason, Change); 5] = [
        (RejectReason::BadCertificate, |h, v| h.node = v.key.id()),
        (RejectReason::NotAMember, |h, _| h.admissions.clear()),
        (RejectReason::NotAMember, |h, _| h.admissions[0][100] ^= 1),
        (RejectReason::NotAMember, |h, _| h.genesis = None),
        (RejectReason::BadMessage, |h, _| h.name = "x\n".into()),
    ];
    for (number, (reason, change)) in cases.into_iter().enumerate() {
        let (mut victim, mut peer) = (Victim::new(), Peer::new(2));
        let mut hello = peer.hello(&victim, &[victim.admission(&peer.key)]);
        change(&mut hello, &victim);
        let (_, said) = peer.connect(&mut victim, CONN, &cluster_psk(), &hello).unwrap();
        assert_goodbye(&victim, &said, reason);
        assert!(!victim.mesh.is_linked(&peer.key.id()), "case {number}");
    }
}

#[test]
fn forged_chains_admit_nobody() {
    let victim = Victim::new();
    let (member, outsider) = (Peer::new(2), Peer::new(3));
    let good = victim.admission(&member.key);
    let body = |subject: &Peer, admitter: &NodeKey| Admission {
        genesis: victim.membership.id(),
        subject: subject.key.id(),
        admitter: admitter.id(),
    };
    let stamp = |version| Stamp {
        incarnation: 0,
        version,
    };
    let sign = |b: Admission, by: &NodeKey, version| b.to_envelope(by, b.subject, stamp(version)).unwrap();
    let mut other_genesis = body(&outsider, &victim.key);
    other_genesis.genesis.0[0] ^= 1;
    let forged: Vec<(&str, Vec<Envelope>)> = vec![
        (
            "signed by itself",
            vec![sign(body(&outsider, &victim.key), &outsider.key, 3)],
        ),
        (
            "admitted by itself",
            vec![sign(body(&outsider, &outsider.key), &outsider.key, 3)],
        ),
        (
            "not above its admitter",
            vec![
                good.clone(),
                sign(body(&outsider, &member.key), &member.key, FOUNDER_RANK - 1),
            ],
        ),
        (
            "a rank like the founder's",
            vec![sign(body(&outsider, &victim.key), &victim.key, FOUNDER_RANK)],
        ),
        ("of another cluster", vec![sign(other_genesis, &victim.key, 3)]),
        ("somebody else's", vec![good.clone()]),
        (
            "without its middle",
            vec![sign(body(&outsider, &member.key), &member.key, 3)],
        ),
        (
            "another kind",
            vec![Envelope::sign(&victim.key, KindNumber(77), outsider.key.id(), stamp(3), b"x").unwrap()],
        ),
    ];
    for (what, chain) in forged {
        let (mut victim, mut peer) = (Victim::new(), Peer::new(3));
        let hello = peer.hello(&victim, &chain);
        let (_, said) = peer.connect(&mut victim, CONN, &cluster_psk(), &hello).unwrap();
        assert_eq!(
            said.last(),
            Some(&Message::Goodbye(RejectReason::NotAMember)),
            "{what}"
        );
        assert_eq!(victim.mesh.members().len(), 1, "{what}");
    }
    // The same outsider with a true chain of two comes in: the cases above fail for what they say.
    let (mut victim, mut peer) = (Victim::new(), Peer::new(3));
    let chain = [good, sign(body(&outsider, &member.key), &member.key, 3)];
    let hello = peer.hello(&victim, &chain);
    let (_, said) = peer.connect(&mut victim, CONN, &cluster_psk(), &hello).unwrap();
    assert!(matches!(said.last(), Some(Message::Hello(_))));
    assert_eq!(victim.mesh.members().len(), 3);
}

#[test]
fn a_copied_identity_is_named_whichever_way_it_shows() {
    // A second process at the incarnation of a linked one.
    let (mut victim, mut peer, _transport) = linked();
    let mut hello = peer.hello(&victim, &[victim.admission(&peer.key)]);
    hello.boot_nonce = 77;
    let conn = ConnId::Accepted(2);
    let (_, said) = peer.connect(&mut victim, conn, &cluster_psk(), &hello).unwrap();
    assert_eq!(said, [Message::Goodbye(RejectReason::CopiedIdentity)]);
    let named = |e: &MeshEvent, of| matches!(e, MeshEvent::CopiedIdentity { node, .. } if *node == of);
    assert!(victim.events.iter().any(|e| named(e, peer.key.id())));
    assert!(
        victim.mesh.is_linked(&peer.key.id()),
        "the link that stands is not cut"
    );

    // The victim's own identity, in another process.
    let mut victim = Victim::new();
    let mut copy = Peer::new(1);
    let mut hello = copy.hello(&victim, &[]);
    (hello.incarnation, hello.boot_nonce) = (5, 51);
    let (_, said) = copy.connect(&mut victim, CONN, &cluster_psk(), &hello).unwrap();
    assert_goodbye(&victim, &said, RejectReason::CopiedIdentity);
    assert!(victim.events.iter().any(|e| named(e, victim.key.id())));

    // A record of a linked member with another boot nonce.
    let (mut victim, peer, mut transport) = linked();
    for (version, boot_nonce) in [(1, 2), (2, 3)] {
        let record = PeerRecord {
            name: "peer".into(),
            noise_static: peer.noise.public(),
            endpoints: vec![],
            underlay_mtu: 1_500,
            capabilities: 0,
            zone: String::new(),
            version: String::new(),
            boot_nonce,
        };
        let stamp = Stamp {
            incarnation: 1,
            version,
        };
        let envelope = record.to_envelope(&peer.key, peer.key.id(), stamp).unwrap();
        say(&mut victim, &mut transport, &Message::Records(vec![envelope]));
    }
    assert!(victim.events.iter().any(|e| named(e, peer.key.id())));
}

#[test]
fn records_are_taken_from_their_owners_only() {
    let (mut victim, peer, mut transport) = linked();
    let stamp = Stamp {
        incarnation: u64::MAX,
        version: u64::MAX,
    };
    let sign =
        |by: &NodeKey, owner: &NodeKey| Envelope::sign(by, KindNumber(500), owner.id(), stamp, b"x").unwrap();
    let stranger = NodeKey::from_seed([99; 32]);
    let before = victim.mesh.registers().len();
    // A stranger's record may come too early: it is counted, and the link stays.
    say(
        &mut victim,
        &mut transport,
        &Message::Records(vec![sign(&stranger, &stranger)]),
    );
    assert_eq!(victim.mesh.registers().len(), before);
    assert_eq!(victim.refused(RejectReason::BadRecord), 1);
    // Its own, with the highest stamp there is, binds nobody but itself.
    say(
        &mut victim,
        &mut transport,
        &Message::Records(vec![sign(&peer.key, &peer.key)]),
    );
    assert_eq!(victim.mesh.registers().len(), before + 1);
    assert!(victim.mesh.is_linked(&peer.key.id()));
    // One in the victim's name ends the link.
    let forged = sign(&peer.key, &victim.key);
    let said = say(&mut victim, &mut transport, &Message::Records(vec![forged]));
    assert_eq!(said.last(), Some(&Message::Goodbye(RejectReason::BadRecord)));
    assert_eq!(victim.mesh.registers().len(), before + 1);
}

#[test]
fn a_member_cannot_put_itself_above_the_one_that_admitted_it() {
    let (mut victim, peer, mut transport) = linked();
    let middle = Peer::new(4);
    let id = victim.membership.id();
    let under = |subject: &NodeKey, admitter: &NodeKey, version| {
        let admission = Admission {
            genesis: id,
            subject: subject.id(),
            admitter: admitter.id(),
        };
        let stamp = Stamp {
            incarnation: 0,
            version,
        };
        admission.to_envelope(admitter, subject.id(), stamp).unwrap()
    };
    // The peer admits a third host; the third host then tries to admit the peer.
    let third = under(&middle.key, &peer.key, 8);
    let ring = under(&peer.key, &middle.key, 7);
    say(&mut victim, &mut transport, &Message::Records(vec![third, ring]));
    let membership = victim.mesh.membership().unwrap();
    assert_eq!(membership.chain_of(&peer.key.id()).unwrap().len(), 1);
    assert_eq!(membership.chain_of(&middle.key.id()).unwrap().len(), 2);
}

#[test]
fn messages_out_of_place_close_the_link() {
    for message in [
        Message::Joined,
        Message::Hello(Peer::new(2).hello(&Victim::new(), &[])),
    ] {
        let (mut victim, _peer, mut transport) = linked();
        let said = say(&mut victim, &mut transport, &message);
        assert_goodbye(&victim, &said, RejectReason::BadMessage);
    }
    let (mut victim, peer, mut transport) = linked();
    // A type of a later version is ignored.
    say_raw(&mut victim, &mut transport, &[200, 1, 2]);
    assert!(victim.mesh.is_linked(&peer.key.id()));
    let said = say_raw(&mut victim, &mut transport, &[]);
    assert_goodbye(&victim, &said, RejectReason::BadMessage);
}

#[test]
fn what_others_pass_on_counts_only_with_its_senders_signature() {
    let (mut victim, peer, mut transport) = linked();
    let (author, stranger) = (NodeKey::from_seed([12; 32]), NodeKey::from_seed([13; 32]));
    let admission = victim.admission(&author);
    let stamp = Stamp {
        incarnation: 3,
        version: 1,
    };
    let record = PeerRecord {
        name: "author".into(),
        noise_static: weft_wire::NoisePublic([12; 32]),
        endpoints: vec![],
        underlay_mtu: 1_500,
        capabilities: 0,
        zone: String::new(),
        version: "test".into(),
        boot_nonce: 1,
    };
    let record = Envelope::sign(
        &author,
        PeerRecord::KIND,
        author.id(),
        stamp,
        &codec::encode(&record),
    )
    .unwrap();
    say(
        &mut victim,
        &mut transport,
        &Message::Records(vec![admission, record]),
    );
    let (genesis, own) = (victim.membership.id(), victim.key.id());
    let good = Passed::sign(&author, &genesis, own, 3, b"word".to_vec());
    let forged = Passed {
        bytes: b"words".to_vec(),
        ..good.clone()
    };
    let in_its_name = Passed {
        from: author.id(),
        ..Passed::sign(&peer.key, &genesis, own, 3, b"word".to_vec())
    };
    let (from_stranger, from_itself) = (
        Passed::sign(&stranger, &genesis, own, 1, b"word".to_vec()),
        Passed::sign(&victim.key.clone(), &genesis, peer.key.id(), 5, b"word".to_vec()),
    );
    let stale = Passed::sign(&author, &genesis, own, 2, b"word".to_vec());
    let nowhere = Passed::sign(&author, &genesis, stranger.id(), 3, b"word".to_vec());
    let tired = Passed {
        hops: 0,
        ..nowhere.clone()
    };
    // Back to where it came from, and the author has no link here.
    let back = Passed::sign(&author, &genesis, author.id(), 3, b"word".to_vec());
    let heard = victim.events.len();
    for passed in [
        forged,
        in_its_name,
        from_stranger,
        from_itself,
        stale,
        nowhere,
        tired,
        back,
    ] {
        say(&mut victim, &mut transport, &Message::Passed(passed));
    }
    let direct = |event: &&MeshEvent| matches!(event, MeshEvent::Direct { .. });
    assert_eq!(victim.events[heard..].iter().filter(direct).count(), 0);
    let drops = [
        (DropReason::PassForged, 4),
        (DropReason::PassStale, 1),
        (DropReason::PassNoRoute, 2),
        (DropReason::PassHopLimit, 1),
    ];
    assert_eq!(*victim.mesh.pass_drops(), drops.into());
    say(&mut victim, &mut transport, &Message::Passed(good));
    let last = victim.events.last();
    assert!(
        matches!(last, Some(MeshEvent::Direct { from, bytes }) if *from == author.id() && bytes == b"word"),
        "{last:?}"
    );
    assert!(
        victim.mesh.is_linked(&peer.key.id()),
        "the neighbour is not to blame"
    );
}

#[test]
fn a_replayed_or_changed_frame_ends_the_link() {
    let (mut victim, _peer, mut transport) = linked();
    let frame = transport.seal(&heartbeat().encode()).unwrap();
    victim.frame(CONN, frame.clone());
    victim.frame(CONN, frame);
    assert_eq!(victim.refused(RejectReason::BadMessage), 1);
    assert!(victim.closed.contains(&CONN));
}

#[test]
fn a_newcomer_under_the_tokens_key_is_admitted_and_no_link_before_joined() {
    let (mut victim, mut peer) = (Victim::new(), Peer::new(2));
    let mut hello = peer.hello(&victim, &[]);
    hello.genesis = None;
    let (_, said) = peer.connect(&mut victim, CONN, &token(1), &hello).unwrap();
    assert!(matches!(&said[..], [Message::Hello(_), Message::Welcome(w)] if w.admissions.len() == 1));
    // Before it has said Joined it is no link.
    assert!(!victim.mesh.is_linked(&peer.key.id()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Garbage of any length, as first, second or later frame, with any key.
    #[test]
    fn garbage_frames_never_panic(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..4),
    ) {
        let mut victim = Victim::new();
        victim.accept(CONN);
        for frame in &frames {
            victim.frame(CONN, frame.clone());
        }
        let (mut victim, _peer, _transport) = linked();
        for frame in frames {
            victim.frame(CONN, frame);
        }
        prop_assert!(victim.mesh.links().is_empty());
    }

    /// Garbage under the right key.
    #[test]
    fn garbage_plaintexts_never_panic(
        kind in 0u8..9,
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let (mut victim, _peer, mut transport) = linked();
        let plaintext = [&[kind][..], &body].concat();
        let frame = transport.seal(&plaintext).unwrap();
        victim.frame(CONN, frame);
    }

    /// A handshake message with one octet changed is never a link.
    #[test]
    fn changed_handshakes_never_link(at in 0usize..1_000, flip in 1u8..=255, third in any::<bool>()) {
        let (mut victim, mut peer) = (Victim::new(), Peer::new(2));
        let hello = peer.hello(&victim, &[victim.admission(&peer.key)]);
        victim.accept(CONN);
        let (awaiting, mut first) = initiate(&peer.noise, &cluster_psk(), &mut peer.rng).unwrap();
        if !third {
            let at = at % first.len();
            first[at] ^= flip;
        }
        let answer = victim.frame(CONN, first);
        if let Some(answer) = answer.first()
            && let Ok((awaiting, mut last)) = awaiting.read_response(answer, &hello)
        {
            if third {
                let at = at % last.len();
                last[at] ^= flip;
            }
            victim.frame(CONN, last);
            let mut transport = awaiting.into_transport();
            let frame = transport.seal(&heartbeat().encode()).unwrap();
            victim.frame(CONN, frame);
        }
        prop_assert!(!victim.mesh.is_linked(&peer.key.id()));
        prop_assert_eq!(victim.mesh.members().len(), 1);
        let _ = codec::encode(&hello);
    }
}
