//! One session at work: its keys, its counters and its replay window.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use weft_sleeve::path_mtu::{FLOOR, QUESTION};
use weft_sleeve::{COUNTER_LIMIT, Cipher, ReplayWindow, SessionKeys};
use weft_wire::datagram::{FLAG_BY_RELAY, HEADER_LEN, Header, Kind, TAG_LEN, nonce};
use weft_wire::{DropReason, NodeId, PeerHash, SessionIndex};

use crate::engine::{EngineEvent, SessionCounters};
use crate::limit::EVENT_INTERVAL;
use crate::tally::PeerTraffic;

/// A session that is installed.
pub(crate) struct Session {
    pub(crate) peer: NodeId,
    pub(crate) local: SessionIndex,
    /// Hash of the peer: the origin that its FLOOD datagrams must name.
    pub(crate) hash: PeerHash,
    pub(crate) traffic: Arc<PeerTraffic>,
    remote: SessionIndex,
    sealing: LessSafeKey,
    opening: LessSafeKey,
    /// Counter of the next datagram that is sent. It runs on past the limit, and could not wrap within centuries.
    next: AtomicU64,
    received: AtomicU64,
    /// Of those, the ones that came by relay.
    relayed: AtomicU64,
    /// Counters used for frames and pieces of frames.
    frames: AtomicU64,
    /// Of those, the ones longer than [`FLOOR`].
    large: AtomicU64,
    /// Number of the next frame that is cut.
    next_cut: AtomicU64,
    /// Number of the probe whose answer is awaited; 0 for none.
    awaited_probe: AtomicU64,
    /// The same for a question that is not about a size.
    awaited_question: AtomicU64,
    /// The size in the table that the kernel has refused; 0 for none.
    refused_size: AtomicU16,
    /// Only the receiving worker takes this lock.
    receiver: Mutex<Receiver>,
}

struct Receiver {
    window: ReplayWindow,
    source: Source,
}

/// What was reported of the address that the peer's datagrams come from.
enum Source {
    /// Nothing opened yet.
    AwaitingFirst,
    /// What opened came by relay.
    Relayed,
    /// It was `address` last time, reported at `at`.
    Reported { address: SocketAddr, at: Instant },
}

impl Session {
    pub(crate) fn new(
        keys: &SessionKeys,
        traffic: Arc<PeerTraffic>,
    ) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let algorithm = algorithm(keys.cipher);
        Ok(Self {
            peer: keys.peer,
            local: keys.local,
            hash: keys.peer.peer_hash(),
            traffic,
            remote: keys.remote,
            sealing: LessSafeKey::new(UnboundKey::new(algorithm, &keys.send)?),
            opening: LessSafeKey::new(UnboundKey::new(algorithm, &keys.receive)?),
            next: AtomicU64::new(0),
            received: AtomicU64::new(0),
            relayed: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            large: AtomicU64::new(0),
            next_cut: AtomicU64::new(0),
            awaited_probe: AtomicU64::new(0),
            awaited_question: AtomicU64::new(0),
            refused_size: AtomicU16::new(0),
            receiver: Mutex::new(Receiver {
                window: ReplayWindow::new(),
                source: Source::AwaitingFirst,
            }),
        })
    }

    /// Completes a datagram in place: the content stands behind the room for the header and before the room for
    /// the tag. `flags` stand in the header.
    pub(crate) fn seal(&self, kind: Kind, flags: u8, datagram: &mut [u8]) -> Result<(), DropReason> {
        let counter = self.next.fetch_add(1, Relaxed);
        let parts = datagram
            .split_first_chunk_mut::<HEADER_LEN>()
            .and_then(|(header, rest)| Some((header, rest.split_last_chunk_mut::<TAG_LEN>()?)));
        let Some((header, (content, tag))) = parts else {
            return Err(DropReason::DatagramTooShort);
        };
        *header = self.clear(kind, flags, counter)?;
        let sealed = self
            .sealing
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce(counter)),
                Aad::from(&*header),
                content,
            )
            // Only a content of 64 GiB is refused (RFC 5116 §5.1).
            .map_err(|_| DropReason::OversizeFrame)?;
        tag.copy_from_slice(sealed.as_ref());
        if matches!(kind, Kind::Data | Kind::Flood | Kind::Frag | Kind::FloodFrag) {
            self.count_frames(1, u64::from(datagram.len() > usize::from(FLOOR)));
        }
        Ok(())
    }

    /// Takes the numbers of `count` datagrams in a row, and returns the first.
    pub(crate) fn reserve(&self, count: u16) -> u64 {
        self.next.fetch_add(u64::from(count), Relaxed)
    }

    /// Counts sealed datagrams with frames, of which `large` are longer than [`FLOOR`].
    pub(crate) fn count_frames(&self, frames: u64, large: u64) {
        self.frames.fetch_add(frames, Relaxed);
        if large > 0 {
            self.large.fetch_add(large, Relaxed);
        }
    }

    /// Writes header, sealed content and tag to `datagram`, which is as long as these are; with a number from
    /// [`Session::reserve`], and uncounted.
    pub(crate) fn seal_from(
        &self,
        kind: Kind,
        flags: u8,
        counter: u64,
        content: &[u8],
        datagram: &mut [u8],
    ) -> Result<(), DropReason> {
        let parts = datagram
            .split_first_chunk_mut::<HEADER_LEN>()
            .and_then(|(header, rest)| Some((header, rest.split_at_mut_checked(content.len())?)));
        let Some((header, (sealed, tag))) = parts else {
            return Err(DropReason::DatagramTooShort);
        };
        *header = self.clear(kind, flags, counter)?;
        self.sealing
            .seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(nonce(counter)),
                Aad::from(&*header),
                content,
                sealed,
                &[],
                tag,
            )
            // Only a content of 64 GiB is refused (RFC 5116 §5.1), and a room of another length.
            .map_err(|_| DropReason::OversizeFrame)
    }

    /// The header of a datagram with this number.
    fn clear(&self, kind: Kind, flags: u8, counter: u64) -> Result<[u8; HEADER_LEN], DropReason> {
        if counter >= COUNTER_LIMIT {
            return Err(DropReason::CountersExhausted);
        }
        let clear = Header {
            flags,
            ..Header::new(kind, self.remote, counter)
        };
        Ok(clear.to_bytes())
    }

    /// Takes back the seal of a datagram that never left: what was sealed stands in its place again.
    pub(crate) fn unseal(&self, datagram: &mut [u8]) -> Result<(), DropReason> {
        let Ok(header) = Header::parse(datagram) else {
            return Err(DropReason::DatagramTooShort);
        };
        let (clear, sealed) = datagram.split_at_mut(HEADER_LEN);
        let nonce = Nonce::assume_unique_for_key(nonce(header.counter));
        self.sealing
            .open_in_place(nonce, Aad::from(&*clear), sealed)
            .map(|_| ())
            .map_err(|_| DropReason::BadSeal)
    }

    /// Number of a frame that is cut now.
    pub(crate) fn next_cut(&self) -> u64 {
        self.next_cut.fetch_add(1, Relaxed)
    }

    /// From now on the answer to this probe is awaited, and to no other.
    pub(crate) fn await_probe(&self, number: u64) {
        self.awaited(number).store(number, Relaxed);
    }

    /// Of questions about the peer, and of those about sizes, the last each is awaited.
    fn awaited(&self, number: u64) -> &AtomicU64 {
        match number & QUESTION {
            0 => &self.awaited_probe,
            _ => &self.awaited_question,
        }
    }

    /// True, once, for the probe whose answer is awaited.
    pub(crate) fn is_awaited(&self, number: u64) -> bool {
        let awaited = self.awaited(number);
        number != 0 && awaited.compare_exchange(number, 0, Relaxed, Relaxed).is_ok()
    }

    /// The size that the kernel has refused.
    pub(crate) fn refused_size(&self) -> Option<u16> {
        Some(self.refused_size.load(Relaxed)).filter(|size| *size > 0)
    }

    pub(crate) fn set_refused_size(&self, size: Option<u16>) {
        self.refused_size.store(size.unwrap_or(0), Relaxed);
    }

    /// The receiving half, for as many datagrams as there are.
    pub(crate) fn opening(&self) -> Opening<'_> {
        Opening {
            session: self,
            receiver: self.receiver.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(crate) fn counters(&self) -> SessionCounters {
        SessionCounters {
            sent: self.next.load(Relaxed).min(COUNTER_LIMIT),
            frames: self.frames.load(Relaxed),
            large: self.large.load(Relaxed),
            received: self.received.load(Relaxed),
            relayed: self.relayed.load(Relaxed),
        }
    }
}

/// The receiving half of a session, kept from one datagram to the next.
pub(crate) struct Opening<'s> {
    session: &'s Session,
    receiver: MutexGuard<'s, Receiver>,
}

impl<'s> Opening<'s> {
    pub(crate) fn session(&self) -> &'s Session {
        self.session
    }

    /// Opens a datagram in place and returns its content. A replay is told before any work is done on it; the
    /// window moves only for what opened.
    pub(crate) fn open<'a>(
        &mut self,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<&'a mut [u8], DropReason> {
        let Some((clear, sealed)) = datagram.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(DropReason::DatagramTooShort);
        };
        if sealed.len() < TAG_LEN {
            return Err(DropReason::DatagramTooShort);
        }
        self.receiver.window.check(header.counter)?;
        let content = self
            .session
            .opening
            .open_in_place(
                Nonce::assume_unique_for_key(nonce(header.counter)),
                Aad::from(&*clear),
                sealed,
            )
            .map_err(|_| DropReason::BadSeal)?;
        self.receiver.window.commit(header.counter)?;
        // Only who has the lock counts, so this needs no exchange with other processors.
        let count = |counter: &AtomicU64| counter.store(counter.load(Relaxed) + 1, Relaxed);
        count(&self.session.received);
        if header.flags & FLAG_BY_RELAY != 0 {
            count(&self.session.relayed);
        }
        Ok(content)
    }

    /// Tells `report` about the address of a datagram that opened, if that is news. It stays news when `report`
    /// returns false. `endpoint` is where the table says that the peer is.
    pub(crate) fn came_from(
        &mut self,
        from: SocketAddr,
        flags: u8,
        endpoint: Option<SocketAddr>,
        report: impl FnOnce(EngineEvent) -> bool,
    ) {
        let receiver = &mut *self.receiver;
        let local = self.session.local;
        if flags & FLAG_BY_RELAY != 0 {
            // The relay's address says nothing of the peer's.
            if matches!(receiver.source, Source::AwaitingFirst)
                && report(EngineEvent::Opened { local, from: None })
            {
                receiver.source = Source::Relayed;
            }
            return;
        }
        let event = match receiver.source {
            Source::AwaitingFirst => EngineEvent::Opened {
                local,
                from: Some(from),
            },
            Source::Relayed => EngineEvent::Roamed { local, from },
            Source::Reported { address, .. } if address == from && endpoint != Some(from) => return,
            Source::Reported { .. } if endpoint == Some(from) => {
                // Back, or arrived, where the table says: a later move is news again.
                if let Source::Reported { address, .. } = &mut receiver.source {
                    *address = from;
                }
                return;
            }
            Source::Reported { at, .. } if at.elapsed() < EVENT_INTERVAL => return,
            Source::Reported { .. } => EngineEvent::Roamed { local, from },
        };
        if report(event) {
            receiver.source = Source::Reported {
                address: from,
                at: Instant::now(),
            };
        }
    }
}

fn algorithm(cipher: Cipher) -> &'static Algorithm {
    match cipher {
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([7; 32]);
    const VECTORS: &str = include_str!("../../../docs/design/wire-vectors.txt");

    fn vector(name: &str) -> Vec<u8> {
        let line = VECTORS
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        let digits = line.unwrap_or_else(|| panic!("docs/design/wire-vectors.txt lacks {name}"));
        (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn datagrams_are_octet_for_octet_those_of_the_design() {
        let key: [u8; 32] = vector("data_key").try_into().unwrap();
        let index = SessionIndex(u32::from_be_bytes(vector("data_index").try_into().unwrap()));
        let counter = u64::from_be_bytes(vector("data_counter").try_into().unwrap());
        for (cipher, suffix) in [
            (Cipher::Aes256Gcm, "aes256gcm"),
            (Cipher::ChaCha20Poly1305, "chacha"),
        ] {
            for (kind, name) in [
                (Kind::Data, "data"),
                (Kind::Flood, "flood"),
                (Kind::Frag, "frag"),
                (Kind::FloodFrag, "flood_frag"),
                (Kind::Probe, "probe"),
                (Kind::ProbeAck, "probe_ack"),
                (Kind::Keepalive, "keepalive"),
            ] {
                let content = if kind == Kind::Keepalive {
                    vec![]
                } else {
                    vector(&format!("{name}_plaintext"))
                };
                let expected = vector(&format!("{name}_{suffix}"));
                let keys = SessionKeys {
                    local: index,
                    remote: index,
                    peer: PEER,
                    cipher,
                    send: key,
                    receive: key,
                };
                let session = Session::new(&keys, Arc::default()).unwrap();
                assert_eq!(
                    opened(&session, &expected),
                    Ok(content.clone()),
                    "{name} {suffix}"
                );
                // The counter of the vectors is beyond the limit of a session, so the seal is asked directly.
                let header = Header::new(kind, index, counter).to_bytes();
                let mut datagram = [&header[..], &content].concat();
                let (clear, sealed) = datagram.split_at_mut(HEADER_LEN);
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                let tag = session
                    .sealing
                    .seal_in_place_separate_tag(nonce, Aad::from(&*clear), sealed)
                    .unwrap();
                datagram.extend_from_slice(tag.as_ref());
                assert_eq!(datagram, expected, "{name} {suffix}");
            }
        }
    }

    fn keys(cipher: Cipher, local: u32, remote: u32, send: u8, receive: u8) -> SessionKeys {
        SessionKeys {
            local: SessionIndex(local),
            remote: SessionIndex(remote),
            peer: PEER,
            cipher,
            send: [send; 32],
            receive: [receive; 32],
        }
    }

    fn pair(cipher: Cipher) -> (Session, Session) {
        let make = |keys| Session::new(&keys, Arc::default()).unwrap();
        (make(keys(cipher, 1, 2, 11, 22)), make(keys(cipher, 2, 1, 22, 11)))
    }

    fn sealed(session: &Session, kind: Kind, content: &[u8]) -> Vec<u8> {
        let mut datagram = [&[0; HEADER_LEN], content, &[0; TAG_LEN]].concat();
        session.seal(kind, 0, &mut datagram).unwrap();
        datagram
    }

    fn opened(session: &Session, datagram: &[u8]) -> Result<Vec<u8>, DropReason> {
        let header = Header::parse(datagram).unwrap();
        session
            .opening()
            .open(&header, &mut datagram.to_vec())
            .map(|content| content.to_vec())
    }

    #[test]
    fn what_one_end_seals_the_other_opens_once() {
        for cipher in Cipher::ALL {
            let (one, other) = pair(cipher);
            for (counter, content) in [&b"first"[..], b"", b"third"].into_iter().enumerate() {
                let datagram = sealed(&one, Kind::Data, content);
                assert_eq!(
                    Header::parse(&datagram),
                    Ok(Header::new(Kind::Data, SessionIndex(2), counter as u64))
                );
                assert_eq!(opened(&other, &datagram), Ok(content.to_vec()));
                assert_eq!(opened(&other, &datagram), Err(DropReason::Replayed));
            }
            let one = one.counters();
            assert_eq!((one.sent, one.frames, one.large, one.received), (3, 3, 0, 0));
            let other = other.counters();
            assert_eq!((other.sent, other.frames, other.received), (0, 0, 3));
        }
    }

    #[test]
    fn every_octet_is_under_the_seal_and_a_forgery_does_not_move_the_window() {
        for cipher in Cipher::ALL {
            let (one, other) = pair(cipher);
            let datagram = sealed(&one, Kind::Data, b"content");
            for at in 0..datagram.len() {
                let mut forged = datagram.clone();
                forged[at] ^= 1;
                // The kind itself may have become none; the seal is asked all the same.
                let header = Header::parse(&forged).unwrap_or(Header::new(Kind::Data, SessionIndex(2), 0));
                let result = other
                    .opening()
                    .open(&header, &mut forged)
                    .map(|content| content.to_vec());
                assert_eq!(result, Err(DropReason::BadSeal), "octet {at}");
            }
            let mut far = datagram.clone();
            far[8] = 0x7f;
            assert_eq!(opened(&other, &far), Err(DropReason::BadSeal));
            assert_eq!(opened(&other, &datagram), Ok(b"content".to_vec()));
            assert_eq!(
                opened(&other, &datagram[..HEADER_LEN + TAG_LEN - 1]),
                Err(DropReason::DatagramTooShort)
            );
            assert_eq!(other.counters().received, 1);
        }
    }

    #[test]
    fn a_seal_can_be_taken_back_and_its_counter_stays_used() {
        for cipher in Cipher::ALL {
            let (one, _) = pair(cipher);
            let mut datagram = sealed(&one, Kind::Data, b"content");
            one.unseal(&mut datagram).unwrap();
            assert_eq!(&datagram[HEADER_LEN..datagram.len() - TAG_LEN], b"content");
            assert_eq!(
                Header::parse(&sealed(&one, Kind::Data, b"content"))
                    .unwrap()
                    .counter,
                1
            );
            datagram[HEADER_LEN] ^= 1;
            assert_eq!(one.unseal(&mut datagram), Err(DropReason::BadSeal));
        }
    }

    #[test]
    fn an_answer_passes_once_and_only_to_the_last_probe() {
        let (session, _) = pair(Cipher::Aes256Gcm);
        assert!(!session.is_awaited(0) && !session.is_awaited(1));
        session.await_probe(1);
        session.await_probe(2);
        assert!(!session.is_awaited(1) && session.is_awaited(2) && !session.is_awaited(2));
        session.await_probe(3);
        session.await_probe(QUESTION | 1);
        assert!(
            session.is_awaited(3) && session.is_awaited(QUESTION | 1),
            "neither ends the other"
        );
    }

    #[test]
    fn counters_run_out_and_none_is_used_twice() {
        let (one, _) = pair(Cipher::Aes256Gcm);
        one.next.store(COUNTER_LIMIT - 1, Relaxed);
        let last = sealed(&one, Kind::Keepalive, b"");
        assert_eq!(Header::parse(&last).unwrap().counter, COUNTER_LIMIT - 1);
        for _ in 0..2 {
            let mut datagram = [0; HEADER_LEN + TAG_LEN];
            assert_eq!(
                one.seal(Kind::Keepalive, 0, &mut datagram),
                Err(DropReason::CountersExhausted)
            );
            assert_eq!(datagram, [0; HEADER_LEN + TAG_LEN]);
        }
        assert_eq!(one.counters().sent, COUNTER_LIMIT);
    }

    #[test]
    fn addresses_are_reported_when_they_are_news() {
        let (session, _) = pair(Cipher::Aes256Gcm);
        let (a, b): (SocketAddr, SocketAddr) =
            ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap());
        let local = session.local;
        let report = |from, flags, endpoint, taken| {
            let mut event = None;
            session.opening().came_from(from, flags, endpoint, |e| {
                event = Some(e);
                taken
            });
            event
        };
        let pass_interval = || {
            let mut receiver = session.receiver.lock().unwrap();
            if let Source::Reported { at, .. } = &mut receiver.source {
                *at = at.checked_sub(EVENT_INTERVAL).unwrap();
            }
        };
        let opened = |from| Some(EngineEvent::Opened { local, from });
        assert_eq!(report(a, 0, None, false), opened(Some(a)));
        assert_eq!(report(a, FLAG_BY_RELAY, None, false), opened(None));
        assert_eq!(report(a, 0, None, true), opened(Some(a)), "the first were lost");
        assert_eq!(report(a, FLAG_BY_RELAY, None, true), None);
        assert_eq!(report(a, 0, None, true), None);
        assert_eq!(report(b, 0, Some(a), true), None, "too soon");
        pass_interval();
        assert_eq!(report(b, FLAG_BY_RELAY, Some(a), true), None);
        assert_eq!(
            report(b, 0, Some(a), true),
            Some(EngineEvent::Roamed { local, from: b })
        );
        pass_interval();
        assert_eq!(report(b, 0, Some(a), true), None, "once per address");
        assert_eq!(report(a, 0, Some(a), true), None, "back at the endpoint");
        assert_eq!(
            report(b, 0, Some(a), true),
            Some(EngineEvent::Roamed { local, from: b }),
            "left again"
        );
    }
}
