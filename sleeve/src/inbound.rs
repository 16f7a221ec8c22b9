//! What INIT, RESP and COOKIE do. Each check is cheaper than the next, and nothing changes before the last.

use crate::gate::{Verdict, open_cookie, seal_cookie};
use crate::handshake::Received;
use crate::io::Output;
use crate::keys::{Cipher, Role};
use crate::machine::Sleeve;
use crate::message::{
    COOKIE_LEN, COOKIE_NONCE_LEN, NOISE_INIT_LEN, NOISE_RESP_LEN, Parts, RespPayload, assemble,
};
use crate::peer::{Handshake, Peer};
use crate::shared::Shared;
use crate::timing::COOKIE_SECRET_LIFE;
use crate::way::Target;
use alloc::vec::Vec;
use core::net::SocketAddr;
use rand_chacha::rand_core::Rng;
use weft_wire::datagram::{FLAG_BY_RELAY, Header, HeaderError, Kind, NETWORK_DEFAULT, RelayShim};
use weft_wire::{DropReason, NodeId, PeerHash, Time};

/// Where a handshake message came from.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// The address that sent it: the peer's or a relay's.
    from: SocketAddr,
    /// Whom the relay says that it came from.
    relayed: Option<PeerHash>,
}

impl Origin {
    /// Flags of what answers it.
    const fn flags(&self) -> u8 {
        match self.relayed {
            Some(_) => FLAG_BY_RELAY,
            None => 0,
        }
    }

    /// A datagram back to where it came from; `to` stands behind the relay, if it came by one.
    fn answer(&self, shared: &Shared, to: PeerHash, bytes: Vec<u8>) -> Output {
        match self.relayed {
            Some(_) => shared.relayed(self.from, to, &bytes),
            None => Output::Send { to: self.from, bytes },
        }
    }
}

/// Takes a datagram that a relay passed on out of its shim.
fn unwrap<'a>(us: &NodeId, from: SocketAddr, bytes: &'a [u8]) -> Result<(Origin, &'a [u8]), DropReason> {
    if bytes.first() != Some(&(Kind::Relay as u8)) {
        return Ok((Origin { from, relayed: None }, bytes));
    }
    let (shim, inner) = RelayShim::split(bytes).ok_or(DropReason::DatagramTooShort)?;
    // Relaying is the engine's.
    if shim.destination != us.peer_hash() {
        return Err(DropReason::KindNotServed);
    }
    if inner.get(1).is_none_or(|flags| flags & FLAG_BY_RELAY == 0) {
        return Err(DropReason::RelayBadInner);
    }
    let relayed = Some(shim.source);
    Ok((Origin { from, relayed }, inner))
}

impl Sleeve {
    pub(crate) fn receive(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) -> Result<(), DropReason> {
        let (origin, bytes) = unwrap(&self.shared.local.node, from, bytes)?;
        let header = Header::parse(bytes).map_err(|error| match error {
            HeaderError::TooShort => DropReason::DatagramTooShort,
            HeaderError::UnknownKind => DropReason::UnknownKind,
        })?;
        if !matches!(header.kind, Kind::Init | Kind::Resp | Kind::Cookie) {
            return Err(DropReason::KindNotServed);
        }
        if header.network != NETWORK_DEFAULT {
            return Err(DropReason::UnknownNetwork);
        }
        match header.kind {
            Kind::Init => self.on_init(now, origin, header, bytes),
            Kind::Resp => self.on_resp(now, origin, header, bytes),
            _ => self.on_cookie(now, header, bytes),
        }
    }

    fn on_init(&mut self, now: Time, origin: Origin, header: Header, bytes: &[u8]) -> Result<(), DropReason> {
        let parts = Parts::<NOISE_INIT_LEN>::cut(bytes)?;
        let shared = &mut self.shared;
        let secret = shared
            .secrets
            .iter()
            .find(|secret| secret.psk.id == header.key_id())
            .ok_or(DropReason::UnknownKeyId)?;
        if !parts.mac1_matches(&secret.mac1_key) {
            return Err(DropReason::BadMac1);
        }
        match self
            .gate
            .admit(now, origin.from, |cookie| parts.mac2_matches(cookie))
        {
            Verdict::Serve => {}
            Verdict::Refuse(reason) => return Err(reason),
            Verdict::AskForCookie(cookie) => {
                let mut nonce = [0; COOKIE_NONCE_LEN];
                shared.rng.fill_bytes(&mut nonce);
                let mut answer = Header::new(Kind::Cookie, header.index, 0);
                answer.flags = origin.flags();
                if let Some(bytes) = seal_cookie(answer, &secret.cookie_key, nonce, parts.mac1, &cookie) {
                    let to = origin.relayed.unwrap_or(PeerHash([0; 8]));
                    let output = origin.answer(shared, to, bytes);
                    shared.push(output);
                }
                return Err(DropReason::CookieRequired);
            }
        }
        let received = Received::read(&shared.local, &secret.psk.key, &mut shared.rng, parts.noise)
            .filter(|received| received.payload.header == header.to_bytes())
            .ok_or(DropReason::BadHandshake)?;
        if received.payload.genesis != shared.local.genesis {
            return Err(DropReason::ForeignCluster);
        }
        let node = received.payload.node;
        let peer = self.peers.get_mut(&node).ok_or(DropReason::NotAMember)?;
        if !node.verify_noise_static(&received.initiator, &received.payload.certificate) {
            return Err(DropReason::BadCertificate);
        }
        if received.initiator != peer.info.noise_static {
            return Err(DropReason::NotAMember);
        }
        // From here on it is this peer that speaks: failures are noted for status.
        let outcome = self.answer(now, origin, header, received);
        if let (Err(reason), Some(peer)) = (outcome, self.peers.get_mut(&node)) {
            // A crossing initiation is no failure, and a stale one may be anybody's replay.
            if !matches!(
                reason,
                DropReason::CrossingInitiation | DropReason::StaleInitiation
            ) {
                peer.last_error = Some(reason);
            }
            if reason == DropReason::CrossingInitiation {
                // What a relay brought that is none any longer comes again.
                if let Some(target) = self.target_of(now, origin) {
                    self.follow_hint(now, node, target);
                }
            }
        }
        self.serve(now, node);
        outcome
    }

    /// Where what came from there can be answered with an initiation.
    fn target_of(&self, now: Time, origin: Origin) -> Option<Target> {
        match origin.relayed {
            Some(_) => self.relay_of(now, origin),
            None => Some(Target::Address(origin.from)),
        }
    }

    /// The relay that passed it on.
    fn relay_of(&self, now: Time, origin: Origin) -> Option<Target> {
        origin.relayed?;
        let relay = self.relay_at(now, origin.from)?;
        Some(Target::Relay(relay, origin.from))
    }

    /// Answers an initiation that its peer really made.
    fn answer(
        &mut self,
        now: Time,
        origin: Origin,
        header: Header,
        received: Received,
    ) -> Result<(), DropReason> {
        let init = &received.payload;
        let node = init.node;
        let offered = init.ciphers;
        let us = self.shared.local.node;
        let peer = self.peers.get_mut(&node).ok_or(DropReason::NotAMember)?;
        let number = Some((init.incarnation, init.counter));
        if number <= peer.greatest {
            return Err(DropReason::StaleInitiation);
        }
        peer.greatest = number;
        if matches!(peer.handshake, Handshake::AwaitingResponse(_)) && us < node {
            return Err(DropReason::CrossingInitiation);
        }
        let cipher = self
            .shared
            .local
            .ciphers
            .iter()
            .copied()
            .find(|cipher| offered & cipher.bit() != 0)
            .ok_or(DropReason::NoCommonCipher)?;
        if !self.make_room(now, node) {
            return Err(DropReason::SessionTableFull);
        }
        let relay = self.relay_of(now, origin);
        let shared = &mut self.shared;
        let local = shared.fresh_index();
        let mut answer = Header::new(Kind::Resp, header.index, u64::from(local.0) << 32);
        answer.flags = origin.flags();
        let payload = RespPayload {
            header: answer.to_bytes(),
            genesis: shared.local.genesis,
            incarnation: shared.local.incarnation,
            cipher: cipher.octet(),
        };
        // The secret that the initiation was made with, found by its key id before.
        let secret = shared
            .secrets
            .iter()
            .find(|secret| secret.psk.id == header.key_id())
            .ok_or(DropReason::UnknownKeyId)?;
        let mac1_key = secret.secret.mac1_key(&node);
        let (message, split) = received.respond(&payload).ok_or(DropReason::BadHandshake)?;
        let keys = split.session(Role::Responder, cipher, node, local, header.index);
        let peer = self.peers.get_mut(&node).ok_or(DropReason::NotAMember)?;
        shared.push(Output::Proof {
            local,
            peer: node,
            keys: split.proof(Role::Responder),
        });
        peer.offer(now, keys, relay, shared);
        let bytes = assemble(answer, &message, &mac1_key, None);
        let output = origin.answer(shared, node.peer_hash(), bytes);
        shared.push(output);
        Ok(())
    }

    fn on_resp(&mut self, now: Time, origin: Origin, header: Header, bytes: &[u8]) -> Result<(), DropReason> {
        let parts = Parts::<NOISE_RESP_LEN>::cut(bytes)?;
        let peer = self.awaiting(header)?;
        let node = peer.node;
        let outcome = self.conclude(now, origin, header, &parts, node);
        if let (Err(reason), Some(peer)) = (outcome, self.peers.get_mut(&node))
            && reason != DropReason::BadMac1
        {
            peer.last_error = Some(reason);
        }
        self.serve(now, node);
        outcome
    }

    /// Finishes the attempt that a response answers.
    fn conclude(
        &mut self,
        now: Time,
        origin: Origin,
        header: Header,
        parts: &Parts<'_, NOISE_RESP_LEN>,
        node: weft_wire::NodeId,
    ) -> Result<(), DropReason> {
        let relay = self.relay_of(now, origin);
        let peer = self.peers.get_mut(&node).ok_or(DropReason::NotAwaited)?;
        let Handshake::AwaitingResponse(attempt) = &mut peer.handshake else {
            return Err(DropReason::NotAwaited);
        };
        if !parts.mac1_matches(&attempt.mac1_key) {
            return Err(DropReason::BadMac1);
        }
        let (payload, split) = attempt
            .noise
            .finish(parts.noise)
            .filter(|(payload, _)| payload.header == header.to_bytes())
            .ok_or(DropReason::BadHandshake)?;
        if payload.genesis != self.shared.local.genesis {
            return Err(DropReason::ForeignCluster);
        }
        let cipher = Cipher::from_octet(payload.cipher)
            .filter(|cipher| self.shared.local.ciphers.contains(cipher))
            .ok_or(DropReason::NoCommonCipher)?;
        let local = attempt.local;
        let keys = split.session(Role::Initiator, cipher, node, local, header.responder_index());
        // A relay's address is not the peer's.
        let way = match (header.flags & FLAG_BY_RELAY, attempt.target) {
            (0, _) => Some(Target::Address(origin.from)),
            (_, Target::Relay(..)) => Some(attempt.target),
            (_, Target::Address(_)) => relay,
        };
        self.shared.push(Output::Proof {
            local,
            peer: node,
            keys: split.proof(Role::Initiator),
        });
        peer.finish(now, keys, way, &mut self.shared);
        Ok(())
    }

    fn on_cookie(&mut self, now: Time, header: Header, bytes: &[u8]) -> Result<(), DropReason> {
        if bytes.len() < COOKIE_LEN {
            return Err(DropReason::DatagramTooShort);
        }
        let bytes: &[u8; COOKIE_LEN] = bytes.try_into().map_err(|_| DropReason::BadHandshake)?;
        let peer = self.awaiting(header)?;
        let Handshake::AwaitingResponse(attempt) = &mut peer.handshake else {
            return Err(DropReason::NotAwaited);
        };
        let cookie = open_cookie(&header, bytes, &attempt.cookie_key, &attempt.mac1)
            .ok_or(DropReason::BadHandshake)?;
        peer.cookie = Some((cookie, now + COOKIE_SECRET_LIFE));
        peer.last_error = Some(DropReason::CookieRequired);
        // Once at once; one who refuses the cookie that he gave is asked again at the usual pace.
        if !attempt.with_cookie {
            attempt.retry_at = now;
            peer.hint = Some(attempt.target);
            if attempt.is_check {
                peer.ways.check_again();
            } else {
                peer.tries = peer.tries.saturating_sub(1);
            }
        }
        let node = peer.node;
        self.serve(now, node);
        Ok(())
    }

    /// The peer whose attempt an answer's index names.
    fn awaiting(&mut self, header: Header) -> Result<&mut Peer, DropReason> {
        let node = self
            .shared
            .indexes
            .get(&header.index)
            .ok_or(DropReason::NotAwaited)?;
        let peer = self.peers.get_mut(node).ok_or(DropReason::NotAwaited)?;
        match &peer.handshake {
            Handshake::AwaitingResponse(attempt) if attempt.local == header.index => Ok(peer),
            _ => Err(DropReason::NotAwaited),
        }
    }
}
