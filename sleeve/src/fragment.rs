//! Frames larger than the path: cut into pieces on one side, put together on the other, within bounds.
//!
//! Each piece is a datagram of its own, with a counter of its own: one that the network doubles is refused by the
//! replay window, and never gets here.

use crate::path_mtu::FLOOR;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::datagram::{FLOOD_PREFIX_LEN, FragPrefix, HEADER_LEN, META_LEN, TAG_LEN};
use weft_wire::limits::FRAME_MAX;
use weft_wire::{DropReason, NodeId, SessionIndex, Time};

/// Octets that FRAG and FLOOD-FRAG put around a piece.
pub const PIECE_OVERHEAD: usize = HEADER_LEN + META_LEN + TAG_LEN;
/// The longest thing that is cut: a frame with the prefix of FLOOD.
pub const CONTENT_MAX: usize = FLOOD_PREFIX_LEN + FRAME_MAX;
/// Pieces of one frame that are taken: as many as the longest needs on the smallest path, and some more.
pub const PIECES_MAX: usize = 160;
const _: () = assert!(CONTENT_MAX.div_ceil(FLOOR as usize - PIECE_OVERHEAD) <= PIECES_MAX);

/// An incomplete frame is given up after this time: its pieces leave back to back, and no path delays one of them by
/// so much more than another.
pub const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(1);
/// Octets that incomplete frames of one peer may take up: at 1 % loss and 10,000 frames a second, those of a second.
pub const PEER_OCTETS: usize = 1 << 20;
/// Octets that incomplete frames of all peers may take up.
pub const TOTAL_OCTETS: usize = 16 << 20;
/// What an incomplete frame takes up besides its content: its rows in the tables and the list of its pieces.
const FRAME_COST: usize = 2_048;
const _: () = assert!(CONTENT_MAX + FRAME_COST <= PEER_OCTETS && PEER_OCTETS <= TOTAL_OCTETS);

/// Cuts content of `length` octets into pieces for datagrams of at most `datagram` octets: for each its place in the
/// content, `(from, to)`. They are as equal as can be. `None` when no piece fits, or more would be needed than a
/// receiver takes.
pub fn cut(length: usize, datagram: usize) -> Option<impl Iterator<Item = (usize, usize)> + Clone> {
    let room = datagram.checked_sub(PIECE_OVERHEAD).filter(|room| *room > 0)?;
    let count = length.div_ceil(room);
    if count == 0 || count > PIECES_MAX || length > CONTENT_MAX {
        return None;
    }
    let each = length.div_ceil(count);
    Some((0..count).map(move |at| (at * each, length.min((at + 1) * each))))
}

/// Whether what was cut is a frame, or the prefix of FLOOD and a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cut {
    /// FRAG.
    Frame,
    /// FLOOD-FRAG.
    Flood,
}

/// A piece that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// Who sent it.
    pub peer: NodeId,
    /// Under which session.
    pub session: SessionIndex,
    /// What was cut.
    pub cut: Cut,
    /// Of which frame it is, and where in it.
    pub prefix: FragPrefix,
    /// The piece.
    pub octets: &'a [u8],
}

/// A frame within one peer's share.
type FrameKey = (SessionIndex, u64);

/// A frame of which pieces are missing.
struct Partial {
    age: u64,
    cut: Cut,
    content: Vec<u8>,
    missing: usize,
    /// What has arrived, `(from, to)`, in order; pieces that touch are one.
    arrived: Vec<(usize, usize)>,
    pieces: usize,
}

/// The incomplete frames of one peer.
#[derive(Default)]
struct Share {
    octets: usize,
    frames: BTreeMap<FrameKey, Partial>,
    by_age: BTreeMap<u64, FrameKey>,
}

/// Puts frames together, within [`PEER_OCTETS`] for each peer and [`TOTAL_OCTETS`] for all.
///
/// A peer that fills its share loses its own oldest frames; when all is full, the peer that takes up most does.
#[derive(Default)]
pub struct Reassembler {
    shares: BTreeMap<NodeId, Share>,
    /// Every incomplete frame by age, with its time limit.
    by_age: BTreeMap<u64, (Time, NodeId)>,
    octets: usize,
    next_age: u64,
    timed_out: u64,
    crowded_out: u64,
}

impl Reassembler {
    /// With no frames.
    pub fn new() -> Self {
        Self::default()
    }

    /// When [`Reassembler::expire`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.by_age.first_key_value().map(|(_, (until, _))| *until)
    }

    /// Gives up the frames whose time is over.
    pub fn expire(&mut self, now: Time) {
        while let Some((age, (until, peer))) = self.by_age.first_key_value().map(|(a, row)| (*a, *row)) {
            if until > now {
                return;
            }
            self.forget(peer, age);
            self.timed_out += 1;
        }
    }

    /// Frames that were given up since the last call, by reason.
    pub fn take_lost(&mut self) -> [(DropReason, u64); 2] {
        [
            (
                DropReason::ReassemblyTimeout,
                core::mem::take(&mut self.timed_out),
            ),
            (DropReason::ReassemblyFull, core::mem::take(&mut self.crowded_out)),
        ]
    }

    /// Octets that incomplete frames take up.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Takes a piece; returns all that was cut once nothing is missing.
    ///
    /// # Errors
    /// `OversizeFrame`, `BadFragment` and `OverlappingFragment`, as they say; what came before is kept.
    pub fn insert(&mut self, now: Time, piece: Piece<'_>) -> Result<Option<Vec<u8>>, DropReason> {
        self.expire(now);
        let (length, from) = (piece.prefix.length as usize, piece.prefix.offset as usize);
        if length > CONTENT_MAX {
            return Err(DropReason::OversizeFrame);
        }
        let to = from.saturating_add(piece.octets.len());
        if piece.octets.is_empty() || to > length {
            return Err(DropReason::BadFragment);
        }
        if piece.octets.len() == length {
            return Ok(Some(piece.octets.to_vec()));
        }
        let key = (piece.session, piece.prefix.frame);
        let known = self
            .shares
            .get(&piece.peer)
            .is_some_and(|share| share.frames.contains_key(&key));
        if !known {
            self.begin(now, &piece, key, length);
        }
        let Some(partial) = self
            .shares
            .get_mut(&piece.peer)
            .and_then(|share| share.frames.get_mut(&key))
        else {
            return Err(DropReason::ReassemblyFull);
        };
        if partial.content.len() != length || partial.cut != piece.cut || partial.pieces >= PIECES_MAX {
            return Err(DropReason::BadFragment);
        }
        partial.place(from, to, piece.octets)?;
        if partial.missing > 0 {
            return Ok(None);
        }
        let age = partial.age;
        Ok(self.forget(piece.peer, age).map(|partial| partial.content))
    }

    /// Makes room for a frame, and a place in it.
    fn begin(&mut self, now: Time, piece: &Piece<'_>, key: FrameKey, length: usize) {
        let cost = length + FRAME_COST;
        while let Some(share) = self.shares.get(&piece.peer)
            && share.octets + cost > PEER_OCTETS
        {
            self.crowd_out(piece.peer);
        }
        while self.octets + cost > TOTAL_OCTETS {
            let most = self.shares.iter().max_by_key(|(_, share)| share.octets);
            let Some(peer) = most.map(|(peer, _)| *peer) else {
                break;
            };
            self.crowd_out(peer);
        }
        let age = self.next_age;
        self.next_age += 1;
        let share = self.shares.entry(piece.peer).or_default();
        share.octets += cost;
        self.octets += cost;
        share.by_age.insert(age, key);
        let partial = Partial {
            age,
            cut: piece.cut,
            content: vec![0; length],
            missing: length,
            arrived: Vec::new(),
            pieces: 0,
        };
        share.frames.insert(key, partial);
        self.by_age.insert(age, (now + REASSEMBLY_TIMEOUT, piece.peer));
    }

    /// Gives up the oldest frame of a peer.
    fn crowd_out(&mut self, peer: NodeId) {
        let oldest = self
            .shares
            .get(&peer)
            .and_then(|share| share.by_age.first_key_value());
        match oldest.map(|(age, _)| *age) {
            Some(age) => {
                self.forget(peer, age);
                self.crowded_out += 1;
            }
            // A share without frames takes up nothing.
            None => drop(self.shares.remove(&peer)),
        }
    }

    fn forget(&mut self, peer: NodeId, age: u64) -> Option<Partial> {
        self.by_age.remove(&age);
        let share = self.shares.get_mut(&peer)?;
        let partial = share
            .by_age
            .remove(&age)
            .and_then(|key| share.frames.remove(&key))?;
        let cost = partial.content.len() + FRAME_COST;
        share.octets -= cost;
        self.octets -= cost;
        if share.frames.is_empty() {
            self.shares.remove(&peer);
        }
        Some(partial)
    }
}

impl Partial {
    /// Copies a piece to its place, unless a part of it is there already.
    fn place(&mut self, from: usize, to: usize, octets: &[u8]) -> Result<(), DropReason> {
        let at = self.arrived.partition_point(|(begin, _)| *begin < from);
        let overlaps_before = at.checked_sub(1).and_then(|at| self.arrived.get(at));
        if overlaps_before.is_some_and(|(_, end)| *end > from)
            || self.arrived.get(at).is_some_and(|(begin, _)| *begin < to)
        {
            return Err(DropReason::OverlappingFragment);
        }
        let Some(place) = self.content.get_mut(from..to) else {
            return Err(DropReason::BadFragment);
        };
        place.copy_from_slice(octets);
        self.missing -= octets.len();
        self.pieces += 1;
        self.arrived.insert(at, (from, to));
        self.arrived.dedup_by(|next, before| {
            let touch = before.1 == next.0;
            if touch {
                before.1 = next.1;
            }
            touch
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(n: u16) -> NodeId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        NodeId(id)
    }

    fn piece<'a>(frame: u64, offset: usize, length: usize, octets: &'a [u8]) -> Piece<'a> {
        Piece {
            peer: peer(1),
            session: SessionIndex(1),
            cut: Cut::Frame,
            prefix: FragPrefix {
                frame,
                offset: offset as u32,
                length: length as u32,
            },
            octets,
        }
    }

    fn pieces(frame: u64, content: &[u8], datagram: usize) -> Vec<Piece<'_>> {
        cut(content.len(), datagram)
            .unwrap()
            .map(|(from, to)| piece(frame, from, content.len(), &content[from..to]))
            .collect()
    }

    fn frame(number: u64, length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| (at as u64 * 7 + number * 13) as u8)
            .collect()
    }

    /// Frames that are held, from the tables themselves.
    fn held(reassembler: &Reassembler) -> usize {
        let shares = reassembler.shares.values();
        let octets: usize = shares
            .clone()
            .flat_map(|share| share.frames.values())
            .map(|partial| partial.content.len() + FRAME_COST)
            .sum();
        assert_eq!(octets, reassembler.octets());
        assert!(octets <= TOTAL_OCTETS);
        for share in shares.clone() {
            assert!(share.octets <= PEER_OCTETS && !share.frames.is_empty());
            assert_eq!(share.frames.len(), share.by_age.len());
        }
        let count = shares.map(|share| share.frames.len()).sum();
        assert_eq!(count, reassembler.by_age.len());
        count
    }

    #[test]
    fn pieces_fit_cover_and_are_about_equal() {
        for length in [1, 463, 464, 465, 1_380, 1_518, 9_014, CONTENT_MAX] {
            for datagram in [512, 1_232, 1_472, 8_972] {
                let cut: Vec<_> = cut(length, datagram).unwrap().collect();
                let mut at = 0;
                for (from, to) in &cut {
                    assert_eq!(*from, at);
                    assert!(to > from && to - from + PIECE_OVERHEAD <= datagram);
                    at = *to;
                }
                assert_eq!(at, length);
                assert_eq!(cut.len(), length.div_ceil(datagram - PIECE_OVERHEAD));
            }
        }
        for (length, datagram) in [
            (0, 1_232),
            (100, PIECE_OVERHEAD),
            (CONTENT_MAX + 1, 9_000),
            (CONTENT_MAX, 400),
        ] {
            assert!(cut(length, datagram).is_none(), "{length} {datagram}");
        }
    }

    #[test]
    fn each_refusal_has_its_reason_and_spoils_nothing() {
        let mut r = Reassembler::new();
        let now = Time::ZERO;
        let content = frame(1, 100);
        assert_eq!(r.insert(now, piece(1, 0, 100, &content[..40])), Ok(None));
        let flooded = Piece {
            cut: Cut::Flood,
            ..piece(1, 40, 100, &content[40..])
        };
        let other_length = piece(1, 40, 101, &content[40..]);
        for (bad, reason) in [
            (piece(1, 40, 100, &[]), DropReason::BadFragment),
            (piece(1, 41, 100, &content[40..]), DropReason::BadFragment),
            (
                piece(1, u32::MAX as usize, 100, &content[40..]),
                DropReason::BadFragment,
            ),
            (flooded, DropReason::BadFragment),
            (other_length, DropReason::BadFragment),
            (piece(1, 0, 100, &content[..40]), DropReason::OverlappingFragment),
            (piece(1, 39, 100, &content[39..]), DropReason::OverlappingFragment),
            (
                piece(1, 10, 100, &content[10..11]),
                DropReason::OverlappingFragment,
            ),
            (piece(2, 0, CONTENT_MAX + 1, &content), DropReason::OversizeFrame),
        ] {
            assert_eq!(r.insert(now, bad), Err(reason), "{bad:?}");
        }
        assert_eq!(held(&r), 1);
        assert_eq!(
            r.insert(now, piece(1, 40, 100, &content[40..])),
            Ok(Some(content))
        );
        assert_eq!((held(&r), r.octets()), (0, 0));
        assert!(r.take_lost().iter().all(|(_, count)| *count == 0));
    }

    #[test]
    fn frames_of_sessions_and_peers_do_not_mix() {
        let mut r = Reassembler::new();
        let (one, other) = (frame(1, 1_000), frame(2, 1_000));
        let of = |peer, session, at: usize, content: &'static [u8]| Piece {
            peer,
            session: SessionIndex(session),
            ..piece(7, at, 1_000, &content[at..at + 500])
        };
        let (one, other): (&'static [u8], &'static [u8]) = (one.leak(), other.leak());
        assert_eq!(r.insert(Time::ZERO, of(peer(1), 1, 0, one)), Ok(None));
        assert_eq!(r.insert(Time::ZERO, of(peer(1), 2, 500, other)), Ok(None));
        assert_eq!(r.insert(Time::ZERO, of(peer(2), 1, 500, other)), Ok(None));
        assert_eq!(held(&r), 3);
        assert_eq!(
            r.insert(Time::ZERO, of(peer(1), 1, 500, one)),
            Ok(Some(one.to_vec()))
        );
    }

    #[test]
    fn what_stays_incomplete_is_given_up_in_time() {
        let mut r = Reassembler::new();
        let content = frame(1, 1_000);
        for number in 0..3 {
            let now = Time::ZERO + Duration::from_millis(400 * number);
            assert_eq!(r.insert(now, piece(number, 0, 1_000, &content[..500])), Ok(None));
        }
        assert_eq!(r.poll_timeout(), Some(Time::ZERO + REASSEMBLY_TIMEOUT));
        r.expire(Time::ZERO + REASSEMBLY_TIMEOUT + Duration::from_millis(400));
        assert_eq!(held(&r), 1);
        assert_eq!(r.take_lost()[0], (DropReason::ReassemblyTimeout, 2));
        r.expire(Time::ZERO + REASSEMBLY_TIMEOUT + Duration::from_millis(800));
        assert_eq!((held(&r), r.poll_timeout()), (0, None));
    }

    #[test]
    fn a_greedy_peer_crowds_out_itself_alone() {
        let mut r = Reassembler::new();
        let content = frame(1, CONTENT_MAX);
        let modest = |number, octets| Piece {
            peer: peer(9),
            ..piece(number, 0, 1_000, octets)
        };
        assert_eq!(r.insert(Time::ZERO, modest(1, &content[..500])), Ok(None));
        for greedy in 100..200 {
            for number in 0..40 {
                let piece = Piece {
                    peer: peer(greedy),
                    ..piece(number, 0, CONTENT_MAX, &content[..1])
                };
                assert_eq!(r.insert(Time::ZERO, piece), Ok(None));
            }
            held(&r);
        }
        assert!(r.octets() > TOTAL_OCTETS - PEER_OCTETS);
        let rest = Piece {
            prefix: FragPrefix {
                frame: 1,
                offset: 500,
                length: 1_000,
            },
            ..modest(1, &content[500..1_000])
        };
        assert_eq!(r.insert(Time::ZERO, rest), Ok(Some(content[..1_000].to_vec())));
        assert!(r.take_lost()[1].1 > 3_000);
    }

    #[test]
    fn a_frame_in_too_many_pieces_is_refused() {
        let mut r = Reassembler::new();
        let content = frame(1, 1_000);
        let results: Vec<_> = (0..PIECES_MAX + 1)
            .map(|at| r.insert(Time::ZERO, piece(1, 2 * at, 1_000, &content[2 * at..2 * at + 1])))
            .collect();
        assert!(results[..PIECES_MAX].iter().all(|result| *result == Ok(None)));
        assert_eq!(results[PIECES_MAX], Err(DropReason::BadFragment));
    }

    proptest! {
        /// Frames in pieces, in any order, doubled and lost as datagrams are: each arrives whole or not at all.
        #[test]
        fn a_frame_arrives_whole_or_not_at_all(
            lengths in proptest::collection::vec(1..12_000usize, 1..8),
            datagram in 512..2_000usize,
            order: u64,
            loss in 0..4u32,
        ) {
            use crate::replay::ReplayWindow;
            use rand_chacha::ChaCha20Rng;
            use rand_chacha::rand_core::{Rng, SeedableRng};
            let mut rng = ChaCha20Rng::seed_from_u64(order);
            let frames: Vec<_> = (0u64..).zip(&lengths).map(|(n, length)| frame(n, *length)).collect();
            // Each piece is a datagram with a counter; the network loses some and doubles some.
            let mut wire = Vec::new();
            let mut lost = vec![false; frames.len()];
            let all = (0u64..).zip(&frames).flat_map(|(n, frame)| pieces(n, frame, datagram));
            for (counter, piece) in (0u64..).zip(all) {
                if rng.next_u32() % 10 < loss {
                    lost[piece.prefix.frame as usize] = true;
                    continue;
                }
                for _ in 0..1 + rng.next_u32() % 2 {
                    wire.push((rng.next_u64(), counter, piece));
                }
            }
            wire.sort_by_key(|(at, ..)| *at);
            let (mut window, mut r) = (ReplayWindow::new(), Reassembler::new());
            let mut whole: Vec<Option<Vec<u8>>> = vec![None; frames.len()];
            for (_, counter, piece) in wire {
                if window.check(counter).is_err() {
                    continue;
                }
                window.commit(counter).unwrap();
                if let Some(content) = r.insert(Time::ZERO, piece).unwrap() {
                    prop_assert!(whole[piece.prefix.frame as usize].replace(content).is_none());
                }
            }
            for ((arrived, frame), lost) in whole.iter().zip(&frames).zip(lost) {
                prop_assert_eq!(arrived.as_ref(), (!lost).then_some(frame));
            }
            r.expire(Time::ZERO + REASSEMBLY_TIMEOUT);
            prop_assert_eq!(held(&r), 0);
        }

        /// Whatever peers send, nothing panics, and memory stays within its bounds.
        #[test]
        fn hostile_pieces_stay_within_bounds(
            steps in proptest::collection::vec(
                (0..40u16, 0..4u64, 0..70_000u32, 0..80_000u32, 0..3_000usize, any::<bool>(), 0..50u64), 1..400),
        ) {
            let mut r = Reassembler::new();
            let mut now = Time::ZERO;
            let octets = [0x5a; 3_000];
            for (from, number, offset, length, size, flooded, pause) in steps {
                now = now + Duration::from_millis(pause);
                let piece = Piece {
                    peer: peer(from),
                    session: SessionIndex(u32::from(from % 3)),
                    cut: if flooded { Cut::Flood } else { Cut::Frame },
                    prefix: FragPrefix { frame: number, offset, length },
                    octets: &octets[..size],
                };
                if let Ok(Some(content)) = r.insert(now, piece) {
                    prop_assert_eq!(content.len(), length as usize);
                }
                held(&r);
            }
        }
    }
}
