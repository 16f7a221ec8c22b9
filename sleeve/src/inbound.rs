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
use crate::timing::COOKIE_SECRET_LIFE;
use core::net::SocketAddr;
use rand_chacha::rand_core::Rng;
use weft_wire::datagram::{FLAG_BY_RELAY, Header, HeaderError, Kind, NETWORK_DEFAULT};
use weft_wire::{DropReason, Time};

impl Sleeve {
    pub(crate) fn receive(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) -> Result<(), DropReason> {
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
            Kind::Init => self.on_init(now, from, header, bytes),
            Kind::Resp => self.on_resp(now, from, header, bytes),
            _ => self.on_cookie(now, header, bytes),
        }
    }

    fn on_init(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: Header,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
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
            .admit(now, &mut shared.rng, from, |cookie| parts.mac2_matches(cookie))
        {
            Verdict::Serve => {}
            Verdict::Refuse(reason) => return Err(reason),
            Verdict::AskForCookie(cookie) => {
                let mut nonce = [0; COOKIE_NONCE_LEN];
                shared.rng.fill_bytes(&mut nonce);
                let answer = Header::new(Kind::Cookie, header.index, 0);
                if let Some(bytes) = seal_cookie(answer, &secret.cookie_key, nonce, parts.mac1, &cookie) {
                    shared.push(Output::Send { to: from, bytes });
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
        let outcome = self.answer(now, from, header, received);
        if let (Err(reason), Some(peer)) = (outcome, self.peers.get_mut(&node)) {
            // A crossing initiation is no failure, and a stale one may be anybody's replay.
            if !matches!(
                reason,
                DropReason::CrossingInitiation | DropReason::StaleInitiation
            ) {
                peer.last_error = Some(reason);
            }
            if reason == DropReason::CrossingInitiation {
                self.follow_hint(now, node, from);
            }
        }
        self.serve(now, node);
        outcome
    }

    /// Answers an initiation that its peer really made.
    fn answer(
        &mut self,
        now: Time,
        from: SocketAddr,
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
        let shared = &mut self.shared;
        let local = shared.fresh_index();
        let answer = Header::new(Kind::Resp, header.index, u64::from(local.0) << 32);
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
        peer.offer(now, keys, shared);
        let bytes = assemble(answer, &message, &mac1_key, None);
        shared.push(Output::Send { to: from, bytes });
        Ok(())
    }

    fn on_resp(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: Header,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let parts = Parts::<NOISE_RESP_LEN>::cut(bytes)?;
        let peer = self.awaiting(header)?;
        let node = peer.node;
        let outcome = self.conclude(now, from, header, &parts, node);
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
        from: SocketAddr,
        header: Header,
        parts: &Parts<'_, NOISE_RESP_LEN>,
        node: weft_wire::NodeId,
    ) -> Result<(), DropReason> {
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
        let direct = header.flags & FLAG_BY_RELAY == 0;
        peer.finish(now, keys, direct.then_some(from), &mut self.shared);
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
            peer.tries = peer.tries.saturating_sub(1);
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
