//! What an engine does with handshake datagrams before it disturbs the core.
//!
//! Most of a flood ends here, in the thread that received it: forged datagrams at `mac1`, true copies of an initiation
//! beyond [`HANDSHAKES_PER_SECOND`] with a COOKIE, or with nothing beyond [`COOKIES_PER_SECOND`]. What passes is checked
//! once more by the core, which makes the same cookies.

use crate::gate::{Bucket, CookieRoot, Gate, Verdict, seal_cookie};
use crate::message::{COOKIE_LEN, COOKIE_NONCE_LEN, NOISE_INIT_LEN, NOISE_RESP_LEN, Parts};
use crate::shared::Secret;
use crate::timing::{ANSWERS_PER_SECOND, COOKIES_PER_SECOND, HANDSHAKES_PER_SECOND};
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use weft_wire::datagram::{Header, Kind};
use weft_wire::id::KeyId;
use weft_wire::{DropReason, Time};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What follows from one cluster secret for the datagrams to one core.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct DoorSecret {
    #[zeroize(skip)]
    id: KeyId,
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
}

impl DoorSecret {
    pub(crate) fn of(secret: &Secret) -> Self {
        Self {
            id: secret.psk.id,
            mac1_key: secret.mac1_key,
            cookie_key: secret.cookie_key,
        }
    }
}

/// What a [`Door`] must know of one core. [`crate::Sleeve::door_keys`] makes it; wiped when dropped.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct DoorKeys {
    /// The core's time when they were made.
    #[zeroize(skip)]
    pub at: Time,
    pub(crate) secrets: Vec<DoorSecret>,
    pub(crate) cookies: CookieRoot,
    /// Of the random numbers that seal cookies.
    pub(crate) seed: [u8; 32],
}

impl fmt::Debug for DoorKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DoorKeys({} secrets)", self.secrets.len())
    }
}

/// What becomes of a handshake datagram that is not dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is for the core.
    Core,
    /// This COOKIE goes back to where it came from, and that is all.
    Cookie(Vec<u8>),
}

/// Where a datagram came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// An address at which a peer is, without a relay.
    Peer(SocketAddr),
    /// Any other address.
    Stranger(SocketAddr),
    /// A relay brought it.
    Relay,
}

/// The part of a door that stands before one core.
struct Leaf {
    secrets: Vec<DoorSecret>,
    gate: Gate,
    rng: ChaCha20Rng,
}

/// Stands before the cores of one engine: mostly one, and more while a host has sessions of a former membership.
pub struct Door {
    leaves: Vec<Leaf>,
    strangers: Bucket,
    peers: Bucket,
    relayed: Bucket,
    answers: Bucket,
}

impl Door {
    /// A door before the cores with these keys.
    pub fn new(keys: &[DoorKeys]) -> Self {
        let leaf = |keys: &DoorKeys| Leaf {
            secrets: keys.secrets.clone(),
            gate: Gate::new(keys.cookies.clone()),
            rng: ChaCha20Rng::from_seed(keys.seed),
        };
        Self {
            leaves: keys.iter().map(leaf).collect(),
            strangers: Bucket::default(),
            peers: Bucket::default(),
            relayed: Bucket::default(),
            answers: Bucket::default(),
        }
    }

    /// Decides about an INIT, RESP or COOKIE datagram, without its shim. `now` is the core's time.
    ///
    /// # Errors
    /// Why it is dropped: what is wrong with its length, its key id or its `mac1`; [`DropReason::CookieRate`],
    /// [`DropReason::HandshakeRate`].
    pub fn admit(
        &mut self,
        now: Time,
        sender: Sender,
        header: &Header,
        datagram: &[u8],
    ) -> Result<Admission, DropReason> {
        match header.kind {
            Kind::Init => self.init(now, sender, header, datagram),
            Kind::Resp => {
                let parts = Parts::<NOISE_RESP_LEN>::cut(datagram)?;
                let mut secrets = self.leaves.iter().flat_map(|leaf| &leaf.secrets);
                if !secrets.any(|secret| parts.mac1_matches(&secret.mac1_key)) {
                    return Err(DropReason::BadMac1);
                }
                self.answer(now)
            }
            Kind::Cookie if datagram.len() < COOKIE_LEN => Err(DropReason::DatagramTooShort),
            Kind::Cookie if datagram.len() > COOKIE_LEN => Err(DropReason::BadHandshake),
            Kind::Cookie => self.answer(now),
            _ => Err(DropReason::KindNotServed),
        }
    }

    fn answer(&mut self, now: Time) -> Result<Admission, DropReason> {
        if self.answers.take(now, ANSWERS_PER_SECOND) {
            Ok(Admission::Core)
        } else {
            Err(DropReason::HandshakeRate)
        }
    }

    fn init(
        &mut self,
        now: Time,
        sender: Sender,
        header: &Header,
        datagram: &[u8],
    ) -> Result<Admission, DropReason> {
        let parts = Parts::<NOISE_INIT_LEN>::cut(datagram)?;
        let mut is_known = false;
        let mut found = None;
        for leaf in &mut self.leaves {
            let secret = leaf.secrets.iter().find(|secret| secret.id == header.key_id());
            is_known |= secret.is_some();
            if let Some(secret) = secret.filter(|secret| parts.mac1_matches(&secret.mac1_key)) {
                found = Some((secret.cookie_key, &mut leaf.gate, &mut leaf.rng));
                break;
            }
        }
        let Some((cookie_key, gate, rng)) = found else {
            return Err(match is_known {
                true => DropReason::BadMac1,
                false => DropReason::UnknownKeyId,
            });
        };
        let from = match sender {
            Sender::Peer(from) | Sender::Stranger(from) => from,
            // The core asks for a cookie by relay.
            Sender::Relay if self.relayed.take(now, HANDSHAKES_PER_SECOND) => return Ok(Admission::Core),
            Sender::Relay => return Err(DropReason::HandshakeRate),
        };
        let has_mac2 = parts.mac2.iter().any(|octet| *octet != 0);
        let cookie = match gate.admit(now, from, |cookie| has_mac2 && parts.mac2_matches(cookie)) {
            Verdict::Serve => return Ok(Admission::Core),
            Verdict::Refuse(reason) => return Err(reason),
            Verdict::AskForCookie(cookie) => cookie,
        };
        let may_answer = match sender {
            Sender::Peer(_) => self.peers.take(now, HANDSHAKES_PER_SECOND),
            _ => self.strangers.take(now, COOKIES_PER_SECOND),
        };
        if !may_answer {
            return Err(DropReason::CookieRate);
        }
        let mut nonce = [0; COOKIE_NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let answer = Header::new(Kind::Cookie, header.index, 0);
        seal_cookie(answer, &cookie_key, nonce, parts.mac1, &cookie)
            .map(Admission::Cookie)
            .ok_or(DropReason::BadHandshake)
    }
}
