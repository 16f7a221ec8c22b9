//! What stands before the costly part of a responder: rate limits and cookies (WireGuard paper, §5.3 and §5.4.7).
//!
//! A cookie proves that the sender receives at the address it sends from. It is asked for only under load, and only
//! from senders whose `mac1` is right.

use crate::message::{COOKIE_LEN, COOKIE_NONCE_LEN, MAC_LEN};
use crate::timing::{
    COOKIE_SECRET_LIFE, HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SECOND_AND_SOURCE, SOURCES_MAX,
};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use weft_wire::datagram::{HEADER_LEN, Header};
use weft_wire::hash::{hash, mac16};
use weft_wire::{DropReason, Time};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What becomes of an initiation with a right `mac1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Go on with the handshake.
    Serve,
    /// Answer with this cookie.
    AskForCookie([u8; MAC_LEN]),
    /// Drop it without an answer.
    Refuse(DropReason),
}

/// What the cookies of one core are made from, drawn once. The secret of each [`COOKIE_SECRET_LIFE`] follows from it: so the
/// core and the engine's [`Door`](crate::door::Door) make the same cookies, and tell each other nothing.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct CookieRoot([u8; 64]);

impl CookieRoot {
    /// A fresh one.
    pub fn new(rng: &mut ChaCha20Rng) -> Self {
        let mut octets = [0; 64];
        rng.fill_bytes(&mut octets);
        Self(octets)
    }

    /// Keys for other purposes, which tell nothing of the cookies.
    pub(crate) fn derive(&self, domain: &str, number: u64) -> [u8; 32] {
        hash(domain, &[&self.0, &number.to_be_bytes()])
    }

    /// The secret of a span of [`COOKIE_SECRET_LIFE`], counted from the start.
    fn secret(&self, life: u64) -> [u8; 32] {
        self.derive("weft cookie secret v1", life)
    }
}

/// A token bucket that holds one second's worth, kept as the time at which it will be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: Time,
}

impl Bucket {
    const SPAN: Duration = Duration::from_secs(1);

    pub(crate) fn take(&mut self, now: Time, per_second: u32) -> bool {
        let token = Self::SPAN / per_second;
        let full_at = self.full_at.max(now) + token;
        if full_at.since(now) > Self::SPAN {
            return false;
        }
        self.full_at = full_at;
        true
    }
}

/// Decides which initiations are served.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Gate {
    root: CookieRoot,
    secret: [u8; 32],
    previous: [u8; 32],
    /// The span of which `secret` is; `None` before the first was needed.
    #[zeroize(skip)]
    life: Option<u64>,
    #[zeroize(skip)]
    all: Bucket,
    #[zeroize(skip)]
    sources: BTreeMap<IpAddr, Bucket>,
    #[zeroize(skip)]
    swept: Time,
}

impl Gate {
    /// A gate whose cookies follow from this root.
    pub fn new(root: CookieRoot) -> Self {
        Self {
            root,
            secret: [0; 32],
            previous: [0; 32],
            life: None,
            all: Bucket::default(),
            sources: BTreeMap::new(),
            swept: Time::ZERO,
        }
    }

    /// Decides about one initiation. `proves` tells whether its `mac2` was made with a given cookie.
    pub fn admit(&mut self, now: Time, from: SocketAddr, proves: impl Fn(&[u8; MAC_LEN]) -> bool) -> Verdict {
        if self.all.take(now, HANDSHAKES_PER_SECOND) {
            return Verdict::Serve;
        }
        self.rotate(now);
        let cookie = cookie(&self.secret, from);
        if !proves(&cookie) && !proves(&self::cookie(&self.previous, from)) {
            return Verdict::AskForCookie(cookie);
        }
        if self.take_share(now, from.ip()) {
            Verdict::Serve
        } else {
            Verdict::Refuse(DropReason::HandshakeRate)
        }
    }

    /// The root, for an engine.
    pub(crate) fn root(&self) -> &CookieRoot {
        &self.root
    }

    fn rotate(&mut self, now: Time) {
        let life = now.since_start().as_secs() / COOKIE_SECRET_LIFE.as_secs();
        if self.life != Some(life) {
            self.life = Some(life);
            self.secret = self.root.secret(life);
            self.previous = self.root.secret(life.wrapping_sub(1));
        }
    }

    fn take_share(&mut self, now: Time, ip: IpAddr) -> bool {
        let source = match ip.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            // One host commands a whole /64 (RFC 4291 §2.5.1).
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        };
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            // Sweeping looks at every source: at most once a second.
            if now.since(self.swept) >= Bucket::SPAN {
                self.swept = now;
                self.sources.retain(|_, bucket| bucket.full_at > now);
            }
            if self.sources.len() >= SOURCES_MAX {
                return false;
            }
        }
        self.sources
            .entry(source)
            .or_default()
            .take(now, HANDSHAKES_PER_SECOND_AND_SOURCE)
    }
}

/// The cookie of an address: who can present it receives there.
fn cookie(secret: &[u8; 32], from: SocketAddr) -> [u8; MAC_LEN] {
    let ip = match from.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    mac16(secret, &[&ip.octets(), &from.port().to_be_bytes()])
}

/// Associated data of a sealed cookie: the COOKIE's own header, and `mac1` of the INIT that it answers.
fn associated(header: &Header, mac1: &[u8; MAC_LEN]) -> [u8; HEADER_LEN + MAC_LEN] {
    let mut out = [0; HEADER_LEN + MAC_LEN];
    out[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    out[HEADER_LEN..].copy_from_slice(mac1);
    out
}

/// A COOKIE datagram. `None` only if sealing fails, which it does for no input of this length.
pub fn seal_cookie(
    header: Header,
    key: &[u8; 32],
    nonce: [u8; COOKIE_NONCE_LEN],
    mac1: &[u8; MAC_LEN],
    cookie: &[u8; MAC_LEN],
) -> Option<Vec<u8>> {
    let payload = Payload {
        msg: cookie,
        aad: &associated(&header, mac1),
    };
    let sealed = XChaCha20Poly1305::new(key.into())
        .encrypt(XNonce::from_slice(&nonce), payload)
        .ok()?;
    let mut out = Vec::with_capacity(COOKIE_LEN);
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Some(out)
}

/// The cookie in a COOKIE datagram that answers the INIT with this `mac1`.
pub fn open_cookie(
    header: &Header,
    datagram: &[u8; COOKIE_LEN],
    key: &[u8; 32],
    mac1: &[u8; MAC_LEN],
) -> Option<[u8; MAC_LEN]> {
    let (nonce, sealed) = datagram[HEADER_LEN..].split_at(COOKIE_NONCE_LEN);
    let payload = Payload {
        msg: sealed,
        aad: &associated(header, mac1),
    };
    let opened = XChaCha20Poly1305::new(key.into())
        .decrypt(XNonce::from_slice(nonce), payload)
        .ok()?;
    opened.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    fn gate() -> Gate {
        Gate::new(CookieRoot::new(&mut ChaCha20Rng::from_seed([1; 32])))
    }

    fn load(gate: &mut Gate, now: Time, from: SocketAddr) -> u32 {
        let mut served = 0;
        while gate.admit(now, from, |_| false) == Verdict::Serve {
            served += 1;
        }
        served
    }

    #[test]
    fn under_load_a_cookie_is_asked_for_and_then_buys_a_share() {
        let mut gate = gate();
        let from: SocketAddr = "192.0.2.1:7".parse().unwrap();
        assert_eq!(load(&mut gate, at(0), from), HANDSHAKES_PER_SECOND);
        let Verdict::AskForCookie(cookie) = gate.admit(at(0), from, |_| false) else {
            panic!("no cookie");
        };
        for _ in 0..HANDSHAKES_PER_SECOND_AND_SOURCE {
            assert_eq!(gate.admit(at(0), from, |c| *c == cookie), Verdict::Serve);
        }
        assert_eq!(
            gate.admit(at(0), from, |c| *c == cookie),
            Verdict::Refuse(DropReason::HandshakeRate)
        );
        // Another port of the same host has another cookie, and the same share.
        let other = SocketAddr::new(from.ip(), 8);
        assert!(matches!(
            gate.admit(at(0), other, |c| *c == cookie),
            Verdict::AskForCookie(_)
        ));
        assert_eq!(
            gate.admit(at(0), other, |_| true),
            Verdict::Refuse(DropReason::HandshakeRate)
        );
    }

    #[test]
    fn a_cookie_outlives_one_secret_and_not_two() {
        let mut gate = gate();
        let from: SocketAddr = "192.0.2.1:7".parse().unwrap();
        let mut now = 0;
        load(&mut gate, at(now), from);
        let Verdict::AskForCookie(cookie) = gate.admit(at(now), from, |_| false) else {
            panic!("no cookie");
        };
        let mut accepted = Vec::new();
        for _ in 0..3 {
            now += 120_000;
            while gate.all.take(at(now), HANDSHAKES_PER_SECOND) {}
            accepted.push(gate.admit(at(now), from, |c| *c == cookie) == Verdict::Serve);
        }
        assert_eq!(accepted, [true, false, false]);
    }

    #[test]
    fn the_table_of_sources_has_a_limit() {
        let mut gate = gate();
        let source = |n: u32| SocketAddr::new(IpAddr::V4(n.into()), 1);
        load(&mut gate, at(0), source(0));
        for n in 0..SOURCES_MAX as u32 {
            assert_eq!(gate.admit(at(0), source(n), |_| true), Verdict::Serve);
        }
        assert_eq!(
            gate.admit(at(0), source(1 << 20), |_| true),
            Verdict::Refuse(DropReason::HandshakeRate)
        );
        load(&mut gate, at(2_000), source(0));
        assert_eq!(gate.admit(at(2_000), source(1 << 20), |_| true), Verdict::Serve);
        assert_eq!(gate.sources.len(), 1);
    }
}
