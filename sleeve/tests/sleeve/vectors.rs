//! The octets of `docs/design/wire-vectors.txt` are those that the code makes and understands.
//!
//! To write the file anew after a kind was added:
//!
//! ```text
//! cargo test -p weft-sleeve --test sleeve -- --ignored --nocapture vectors::print | grep ' = ' \
//!     > docs/design/wire-vectors.txt
//! ```

use crate::lab::{seal, secret};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use weft_sleeve::content::{write_data, write_flood};
use weft_sleeve::fragment::Cut;
use weft_sleeve::gate::{open_cookie, seal_cookie};
use weft_sleeve::message::{COOKIE_LEN, INIT_LEN, MAC_LEN, RESP_LEN};
use weft_sleeve::*;
use weft_wire::datagram::*;
use weft_wire::envelope::{KindNumber, Stamp};
use weft_wire::id::{hex, unhex};
use weft_wire::secret::Protocol;
use weft_wire::*;

const FILE: &str = include_str!("../../../docs/design/wire-vectors.txt");

struct Vectors(Vec<(&'static str, Vec<u8>)>);

impl Vectors {
    fn put(&mut self, name: &'static str, bytes: impl AsRef<[u8]>) {
        self.0.push((name, bytes.as_ref().to_vec()));
    }

    fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (name, bytes)| {
            let _ = writeln!(text, "{name} = {}", hex(bytes));
            text
        })
    }
}

/// One end of the handshake in the vectors.
fn end(seed: u8, incarnation: u64) -> (NodeId, NoiseKeypair, Sleeve) {
    let key = NodeKey::from_seed([seed; 32]);
    let noise = NoiseKeypair::from_secret([seed + 1; 32]).unwrap();
    let mut sleeve = Sleeve::new(
        LocalNode {
            node: key.id(),
            noise: noise.clone(),
            certificate: key.certify_noise_static(&noise.public()),
            genesis: GenesisId([0x33; 32]),
            incarnation,
            ciphers: Cipher::ALL.to_vec(),
        },
        [seed + 2; 32],
    );
    sleeve.handle(Time::ZERO, Input::Secrets(&[secret(1)]));
    (key.id(), noise, sleeve)
}

fn drain(sleeve: &mut Sleeve) -> (Vec<u8>, Option<SessionKeys>) {
    let (mut sent, mut keys) = (Vec::new(), None);
    while let Some(output) = sleeve.poll_output() {
        match output {
            Output::Send { bytes, .. } => sent = bytes,
            Output::Install(installed) => keys = Some(installed),
            _ => {}
        }
    }
    (sent, keys)
}

/// The secret of the ephemeral key in an INIT that is the first thing a core with this seed does: what it draws
/// before are two cookie secrets and an index. With it, RESP and the session's keys can be recomputed.
fn ephemeral(seed: u8, init: &[u8]) -> [u8; 32] {
    let mut rng = ChaCha20Rng::from_seed([seed; 32]);
    let (mut seed, mut secret) = ([0; 32], [0; 32]);
    rng.fill_bytes(&mut [0; 64]);
    rng.next_u32();
    rng.fill_bytes(&mut seed);
    ChaCha20Rng::from_seed(seed).fill_bytes(&mut secret);
    let public = NoiseKeypair::from_secret(secret).unwrap().public;
    assert_eq!(public[..], init[HEADER_LEN..HEADER_LEN + 32]);
    secret
}

/// INIT and RESP by a relay, between the ends of the vectors: after three tries on the straight way, which lead nowhere. The
/// relay has a session with both, and passes on what is for the other.
fn handshake_by_relay() -> (Vec<u8>, Vec<u8>) {
    let mut ends = [end(0x11, 5), end(0x21, 6), end(0x31, 7)];
    let ids = [0, 1, 2].map(|n: usize| ends[n].0);
    let address = |n: usize| SocketAddr::from(([192, 0, 2, n as u8 + 1], 6783));
    let infos = [0, 1, 2].map(|n: usize| PeerInfo {
        noise_static: ends[n].1.public(),
        endpoints: vec![address(n)],
    });
    for (n, (_, _, sleeve)) in ends.iter_mut().enumerate() {
        for other in (0..3).filter(|other| *other != n) {
            sleeve.handle(Time::ZERO, Input::UpsertPeer(ids[other], infos[other].clone()));
        }
    }
    ends[0].2.handle(Time::ZERO, Input::Connect(ids[2]));
    ends[1].2.handle(Time::ZERO, Input::Connect(ids[2]));
    let mut now = Time::ZERO;
    let mut relayed = Vec::new();
    let mut is_told = false;
    while relayed.len() < 2 {
        let mut flights = Vec::new();
        for (n, (_, _, sleeve)) in ends.iter_mut().enumerate() {
            while let Some(output) = sleeve.poll_output() {
                if let Output::Send { to, bytes } = output {
                    flights.push((n, to, bytes));
                }
            }
        }
        if flights.is_empty() && !is_told {
            is_told = true;
            for (n, other) in [(0, 1), (1, 0)] {
                let (peer, relays) = (ids[other], vec![ids[2]]);
                ends[n].2.handle(now, Input::Relays { peer, relays });
            }
            ends[0].2.handle(now, Input::Connect(ids[1]));
        } else if flights.is_empty() {
            now = ends
                .iter()
                .filter_map(|(_, _, sleeve)| sleeve.poll_timeout())
                .min()
                .unwrap();
            for (_, _, sleeve) in &mut ends {
                sleeve.handle(now, Input::Timeout);
            }
        }
        for (from, to, bytes) in flights {
            let is_relayed = bytes.first() == Some(&(Kind::Relay as u8));
            let to = match is_relayed {
                true => 1 - from,
                false => (0..3).find(|n| address(*n) == to).unwrap(),
            };
            if is_relayed {
                relayed.push(bytes.clone());
            } else if from + to < 2 {
                continue;
            }
            let from = address(if is_relayed { 2 } else { from });
            ends[to].2.handle(now, Input::Datagram { from, bytes: &bytes });
        }
    }
    let [init, resp] = <[Vec<u8>; 2]>::try_from(relayed).unwrap();
    (init, resp)
}

fn make() -> Vectors {
    let mut v = Vectors(Vec::new());
    let cluster = secret(1);
    let (initiator, initiator_noise, mut a) = end(0x11, 5);
    let (responder, responder_noise, mut b) = end(0x21, 6);
    let (mesh, sleeve) = (cluster.psk(Protocol::Mesh), cluster.psk(Protocol::Sleeve));
    v.put("cluster_secret", cluster.key);
    v.put("genesis", [0x33; 32]);
    v.put("initiator_node_seed", [0x11; 32]);
    v.put("initiator_node", initiator.0);
    v.put("initiator_peer_hash", initiator.peer_hash().0);
    v.put("initiator_noise_secret", initiator_noise.secret);
    v.put("initiator_noise_public", initiator_noise.public);
    let key = NodeKey::from_seed([0x11; 32]);
    let certificate = key.certify_noise_static(&initiator_noise.public());
    v.put("initiator_certificate", certificate);
    v.put("responder_node_seed", [0x21; 32]);
    v.put("responder_node", responder.0);
    v.put("responder_noise_secret", responder_noise.secret);
    v.put("responder_noise_public", responder_noise.public);
    v.put("mesh_psk", mesh.key);
    v.put("mesh_key_id", mesh.id.0);
    v.put("sleeve_psk", sleeve.key);
    v.put("sleeve_key_id", sleeve.id.0);
    v.put("mac1_key_initiator", cluster.mac1_key(&initiator));
    v.put("mac1_key_responder", cluster.mac1_key(&responder));
    v.put("cookie_key_responder", cluster.cookie_key(&responder));

    let address = |n: u8| SocketAddr::from(([192, 0, 2, n], 6783));
    let info = |noise: &NoiseKeypair, n| PeerInfo {
        noise_static: noise.public(),
        endpoints: vec![address(n)],
    };
    a.handle(
        Time::ZERO,
        Input::UpsertPeer(responder, info(&responder_noise, 2)),
    );
    b.handle(
        Time::ZERO,
        Input::UpsertPeer(initiator, info(&initiator_noise, 1)),
    );
    a.handle(Time::ZERO, Input::Connect(responder));
    let (init, _) = drain(&mut a);
    let received = Input::Datagram {
        from: address(1),
        bytes: &init,
    };
    b.handle(Time::ZERO, received);
    let (resp, _) = drain(&mut b);
    let received = Input::Datagram {
        from: address(2),
        bytes: &resp,
    };
    a.handle(Time::ZERO, received);
    let keys = drain(&mut a).1.expect("the response was accepted");
    assert_eq!((init.len(), resp.len()), (INIT_LEN, RESP_LEN));
    v.put("initiator_ephemeral_secret", ephemeral(0x13, &init));
    v.put("init", &init);
    v.put("resp", &resp);
    v.put("session_cipher", [keys.cipher.octet()]);
    v.put("session_initiator_to_responder", keys.send);
    v.put("session_responder_to_initiator", keys.receive);

    let init_header = Header::parse(&init).unwrap();
    let mac1: [u8; MAC_LEN] = init[INIT_LEN - 2 * MAC_LEN..INIT_LEN - MAC_LEN]
        .try_into()
        .unwrap();
    let (nonce24, value) = ([0x77; 24], [0x78; MAC_LEN]);
    let cookie_key = cluster.cookie_key(&responder);
    let header = Header::new(Kind::Cookie, init_header.index, 0);
    let cookie = seal_cookie(header, &cookie_key, nonce24, &mac1, &value).unwrap();
    let octets: &[u8; COOKIE_LEN] = cookie[..].try_into().unwrap();
    assert_eq!(open_cookie(&header, octets, &cookie_key, &mac1), Some(value));
    v.put("cookie_nonce", nonce24);
    v.put("cookie_value", value);
    v.put("cookie", &cookie);

    // The kinds of the data path, all under one key. The counter is one that fills more than its last octet.
    let (data_key, index, counter) = ([0x55; 32], SessionIndex(0xa1b2_c3d4), 0x0102_0304_0506_0708_u64);
    v.put("data_key", data_key);
    v.put("data_index", index.0.to_be_bytes());
    v.put("data_counter", counter.to_be_bytes());
    v.put("data_nonce", nonce(counter));
    let frame: Vec<u8> = (0..60).collect();
    let meta = Meta {
        flags: 1,
        gso_type: 0,
        header_len: 54,
        gso_size: 0,
        csum_start: 34,
        csum_offset: 16,
        segment: 0,
        segments: 1,
    };
    let mut data = Vec::new();
    write_data(&mut data, meta, &frame);
    v.put("data_header", Header::new(Kind::Data, index, counter).to_bytes());
    v.put("data_plaintext", &data);
    let both = |kind, plaintext: &[u8]| {
        let header = Header::new(kind, index, counter);
        (
            seal(Cipher::Aes256Gcm, &data_key, header, plaintext),
            seal(Cipher::ChaCha20Poly1305, &data_key, header, plaintext),
        )
    };
    let (data_aes, data_chacha) = both(Kind::Data, &data);
    v.put("data_aes256gcm", &data_aes);
    v.put("data_chacha", data_chacha);
    let mut flood = Vec::new();
    let prefix = FloodPrefix {
        origin: initiator.peer_hash(),
        sequence: 9,
    };
    write_flood(&mut flood, Meta::default(), prefix, &frame);
    let (aes, chacha) = both(Kind::Flood, &flood);
    v.put("flood_plaintext", &flood);
    v.put("flood_aes256gcm", aes);
    v.put("flood_chacha", chacha);
    let piece = FragPrefix {
        frame: 3,
        offset: 1400,
        length: 1460,
    };
    let frag = [&piece.to_bytes()[..], &frame].concat();
    let (aes, chacha) = both(Kind::Frag, &frag);
    v.put("frag_plaintext", &frag);
    v.put("frag_aes256gcm", aes);
    v.put("frag_chacha", chacha);
    let piece = FragPrefix {
        frame: 4,
        offset: 0,
        length: 1476,
    };
    let flood_frag = [&piece.to_bytes()[..], &prefix.to_bytes(), &frame].concat();
    let (aes, chacha) = both(Kind::FloodFrag, &flood_frag);
    v.put("flood_frag_plaintext", &flood_frag);
    v.put("flood_frag_aes256gcm", aes);
    v.put("flood_frag_chacha", chacha);
    let body = ProbeBody { number: 4, size: 128 };
    let mut probe = body.to_bytes().to_vec();
    probe.resize(128 - HEADER_LEN - TAG_LEN, 0);
    let (aes, chacha) = both(Kind::Probe, &probe);
    v.put("probe_plaintext", &probe);
    v.put("probe_aes256gcm", aes);
    v.put("probe_chacha", chacha);
    let (aes, chacha) = both(Kind::ProbeAck, &body.to_bytes());
    v.put("probe_ack_plaintext", body.to_bytes());
    v.put("probe_ack_aes256gcm", aes);
    v.put("probe_ack_chacha", chacha);
    let (aes, chacha) = both(Kind::Keepalive, &[]);
    v.put("keepalive_aes256gcm", aes);
    v.put("keepalive_chacha", chacha);
    let shim = RelayShim {
        hop_limit: 8,
        destination: responder.peer_hash(),
        source: initiator.peer_hash(),
    };
    let mut by_relay = Header::new(Kind::Data, index, counter);
    by_relay.flags = FLAG_BY_RELAY;
    let inner = seal(Cipher::Aes256Gcm, &data_key, by_relay, &data);
    let relayed = [&shim.to_bytes()[..], &inner].concat();
    v.put("relay_aes256gcm", &relayed);
    let inner = seal(Cipher::ChaCha20Poly1305, &data_key, by_relay, &data);
    v.put("relay_chacha", [&shim.to_bytes()[..], &inner].concat());
    // What a relay passes on.
    let on = RelayShim { hop_limit: 7, ..shim };
    v.put(
        "relay_passed_on",
        [&on.to_bytes()[..], &relayed[RELAY_SHIM_LEN..]].concat(),
    );
    // An answer to a probe, and a sign of life.
    by_relay.kind = Kind::ProbeAck;
    let inner = seal(Cipher::Aes256Gcm, &data_key, by_relay, &body.to_bytes());
    v.put(
        "relay_probe_ack_aes256gcm",
        [&shim.to_bytes()[..], &inner].concat(),
    );
    by_relay.kind = Kind::Keepalive;
    let inner = seal(Cipher::Aes256Gcm, &data_key, by_relay, &[]);
    v.put(
        "relay_keepalive_aes256gcm",
        [&shim.to_bytes()[..], &inner].concat(),
    );
    // A handshake by relay: the same initiator, the flag in the header and in its copy under Noise.
    let (init, resp) = handshake_by_relay();
    v.put("relay_init", &init);
    v.put("relay_resp", &resp);

    let stamp = Stamp {
        incarnation: 5,
        version: 2,
    };
    let envelope = Envelope::sign(&key, KindNumber(2), initiator, stamp, b"body").unwrap();
    v.put("envelope_body", b"body");
    v.put("envelope", envelope.as_bytes());
    v
}

#[test]
#[ignore = "prints the vectors, for a change of the file"]
fn print() {
    print!("{}", make().text());
}

#[test]
fn the_file_holds_what_the_code_makes() {
    let made = make().text();
    for (made, kept) in made.lines().zip(FILE.lines()) {
        assert_eq!(made, kept);
    }
    assert_eq!(made.lines().count(), FILE.lines().count());
}

#[test]
fn the_file_says_what_the_code_understands() {
    let kept: BTreeMap<&str, &str> = FILE.lines().filter_map(|line| line.split_once(" = ")).collect();
    let octets = |name: &str| -> Vec<u8> {
        let text = kept.get(name).unwrap_or_else(|| panic!("no {name} in the file"));
        text.as_bytes()
            .chunks(2)
            .map(|pair| unhex::<1>(std::str::from_utf8(pair).unwrap()).unwrap()[0])
            .collect()
    };
    let header = Header::parse(&octets("data_aes256gcm")).unwrap();
    assert_eq!(header.to_bytes()[..], octets("data_header"));
    assert_eq!(header.counter.to_be_bytes()[..], octets("data_counter"));
    assert_eq!(nonce(header.counter)[..], octets("data_nonce"));
    let data = octets("data_plaintext");
    let Ok(Content::Frame { meta, frame }) = Content::parse(Kind::Data, &data) else {
        panic!("no frame");
    };
    assert_eq!((meta.csum_start, meta.csum_offset, frame.len()), (34, 16, 60));
    let flood = octets("flood_plaintext");
    let Ok(Content::Flood { prefix, .. }) = Content::parse(Kind::Flood, &flood) else {
        panic!("no flooded frame");
    };
    assert_eq!(prefix.origin.0[..], octets("initiator_peer_hash"));
    let relayed = octets("relay_aes256gcm");
    let (shim, inner) = RelayShim::split(&relayed).unwrap();
    assert_eq!(shim.source.0[..], octets("initiator_peer_hash"));
    assert_eq!(Header::parse(inner).unwrap().flags, FLAG_BY_RELAY);
    for (name, kind) in [
        ("relay_chacha", Kind::Data),
        ("relay_passed_on", Kind::Data),
        ("relay_probe_ack_aes256gcm", Kind::ProbeAck),
        ("relay_keepalive_aes256gcm", Kind::Keepalive),
        ("relay_init", Kind::Init),
        ("relay_resp", Kind::Resp),
    ] {
        let relayed = octets(name);
        let (found, inner) = RelayShim::split(&relayed).unwrap();
        let header = Header::parse(inner).unwrap();
        assert_eq!((header.kind, header.flags), (kind, FLAG_BY_RELAY), "{name}");
        assert_eq!(
            found.hop_limit,
            shim.hop_limit - u8::from(name == "relay_passed_on")
        );
    }
    for (name, kind, cut, place) in [
        ("frag", Kind::Frag, Cut::Frame, (3, 1400, 60)),
        ("flood_frag", Kind::FloodFrag, Cut::Flood, (4, 0, 76)),
    ] {
        let opened = octets(&format!("{name}_plaintext"));
        let Ok(Content::Piece {
            cut: found,
            prefix,
            octets,
        }) = Content::parse(kind, &opened)
        else {
            panic!("{name} is no piece");
        };
        assert_eq!((found, (prefix.frame, prefix.offset, octets.len())), (cut, place));
    }
    let body = ProbeBody { number: 4, size: 128 };
    assert_eq!(
        Content::parse(Kind::Probe, &octets("probe_plaintext")),
        Ok(Content::Probe(body))
    );
    assert_eq!(
        Content::parse(Kind::ProbeAck, &octets("probe_ack_plaintext")),
        Ok(Content::ProbeAck(body))
    );
    assert_eq!(octets("probe_chacha").len(), 128);
    assert_eq!(octets("keepalive_chacha").len(), HEADER_LEN + TAG_LEN);
    let envelope = Envelope::from_bytes(octets("envelope")).unwrap();
    assert!(envelope.is_signed_by(&envelope.key().owner));
    assert_eq!(envelope.body(), octets("envelope_body"));
    for (name, kind) in [
        ("data_chacha", Kind::Data),
        ("flood_chacha", Kind::Flood),
        ("frag_chacha", Kind::Frag),
        ("flood_frag_chacha", Kind::FloodFrag),
        ("probe_chacha", Kind::Probe),
        ("probe_ack_chacha", Kind::ProbeAck),
        ("keepalive_chacha", Kind::Keepalive),
        ("init", Kind::Init),
        ("resp", Kind::Resp),
        ("cookie", Kind::Cookie),
    ] {
        assert_eq!(Header::parse(&octets(name)).map(|h| h.kind), Ok(kind), "{name}");
    }
}
