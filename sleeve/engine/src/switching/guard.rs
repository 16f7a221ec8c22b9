//! The loop guard: with which hosts this one is joined outside the overlay, as their probes prove it.
//!
//! Hosts that are joined are one Ethernet. Then what is for everybody crosses between them by their own wire only, the
//! one of them with the lowest hash speaks for all towards the rest, and what is not from here is not sent again.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_wire::limits::SESSIONS_MAX;
use weft_wire::{DropReason, PeerHash};

/// How often a host sends a probe: a loop is cut within this time, and until then the flood rates bound it.
pub const LOOP_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Joined until so long after the last probe: three lost ones are not a wire that was pulled.
const JOINED_FOR: Duration = Duration::from_millis(3_500);
/// On a host that is joined with itself, a broadcast with the same octets is the same frame for so long.
const REPEAT_WINDOW: Duration = Duration::from_secs(1);
/// Frames remembered for that.
const REPEATS_MAX: usize = 8_192;

/// What proves a join.
#[derive(Clone, Copy)]
struct Heard {
    number: u64,
    at: Instant,
}

/// Where a frame comes from, as far as its source address tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A weft MAC of this host.
    Here,
    /// A weft MAC of another host, or of one that is not certain.
    Elsewhere,
    /// A MAC that weft did not make.
    Foreign,
}

/// What both workers know of joins.
#[derive(Default)]
pub(crate) struct Guard {
    heard: Mutex<BTreeMap<PeerHash, Heard>>,
    /// False while nothing was heard: the workers look no further, which is nearly always.
    any: AtomicBool,
}

/// With whom this host is joined now.
#[derive(Clone, Default, Debug)]
pub(crate) struct Joins {
    hosts: Vec<PeerHash>,
    /// Joined with itself: two of its ports lead to one another.
    itself: bool,
    /// Another of the joined hosts speaks for all.
    silent: bool,
}

impl Guard {
    /// Takes a probe that came in by a port of the bridge.
    pub(crate) fn hear(&self, origin: PeerHash, number: u64, now: Instant) {
        let mut heard = self.lock();
        let known = heard
            .get(&origin)
            .filter(|last| now.saturating_duration_since(last.at) < JOINED_FOR);
        // An old one is one that somebody kept.
        if known.is_some_and(|last| number <= last.number) {
            return;
        }
        if heard.len() < SESSIONS_MAX || heard.contains_key(&origin) {
            heard.insert(origin, Heard { number, at: now });
            self.any.store(true, Relaxed);
        }
    }

    /// With whom this host is joined now; `None` with nobody.
    pub(crate) fn joins(&self, this: PeerHash, now: Instant) -> Option<Joins> {
        if !self.any.load(Relaxed) {
            return None;
        }
        let mut heard = self.lock();
        heard.retain(|_, last| now.saturating_duration_since(last.at) < JOINED_FOR);
        if heard.is_empty() {
            self.any.store(false, Relaxed);
            return None;
        }
        let itself = heard.contains_key(&this);
        let hosts: Vec<PeerHash> = heard.keys().copied().filter(|host| *host != this).collect();
        let silent = hosts.iter().any(|host| *host < this);
        Some(Joins {
            hosts,
            itself,
            silent,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerHash, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Joins {
    /// True when this host is joined with that one.
    pub(crate) fn contains(&self, host: PeerHash) -> bool {
        self.hosts.binary_search(&host).is_ok()
    }

    /// Hosts with which this one is joined, itself left out.
    pub(crate) fn hosts(&self) -> &[PeerHash] {
        &self.hosts
    }

    /// True when two ports of this host's bridge lead to one another.
    pub(crate) fn itself(&self) -> bool {
        self.itself
    }

    /// Whether a frame from a port of the bridge that is for everybody, or asks for somebody, leaves by this host.
    pub(crate) fn speaks_for(&self, origin: Origin) -> bool {
        match origin {
            Origin::Here => true,
            Origin::Elsewhere => false,
            Origin::Foreign => !self.silent,
        }
    }

    /// Whether a frame from a port of the bridge goes to this one host: not back to where it came from.
    pub(crate) fn passes(&self, origin: Origin, to: PeerHash) -> bool {
        origin != Origin::Elsewhere || !self.contains(to)
    }

    /// Whether what a peer has flooded is passed on to the bridge: from a joined one it has come by the other wire,
    /// and what comes from the rest one of the joined hosts passes on.
    pub(crate) fn accepts_flood(&self, from: PeerHash) -> Result<(), DropReason> {
        if self.silent || self.contains(from) {
            Err(DropReason::Looped)
        } else {
            Ok(())
        }
    }
}

/// Finds the frames that come round again on a host that is joined with itself.
#[derive(Default)]
pub(crate) struct Repeats {
    seen: HashMap<u64, Instant>,
}

impl Repeats {
    /// True when a frame with the same octets was here a moment ago.
    pub(crate) fn is_repeat(&mut self, frame: &[u8], now: Instant) -> bool {
        if self.seen.len() >= REPEATS_MAX {
            self.seen
                .retain(|_, at| now.saturating_duration_since(*at) < REPEAT_WINDOW);
        }
        let mut hasher = DefaultHasher::new();
        frame.hash(&mut hasher);
        let hash = hasher.finish();
        let last = self.seen.get(&hash);
        let is_repeat = last.is_some_and(|at| now.saturating_duration_since(*at) < REPEAT_WINDOW);
        // One that comes round for ever stays a repeat; in a full memory nothing new is a first.
        if is_repeat || self.seen.len() < REPEATS_MAX {
            self.seen.insert(hash, now);
            is_repeat
        } else {
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: PeerHash = PeerHash([5; 8]);
    const LOW: PeerHash = PeerHash([1; 8]);
    const HIGH: PeerHash = PeerHash([9; 8]);
    const THIRD: PeerHash = PeerHash([7; 8]);

    #[test]
    fn a_join_lasts_as_long_as_its_probes() {
        let guard = Guard::default();
        let now = Instant::now();
        assert!(guard.joins(ME, now).is_none());
        guard.hear(HIGH, 10, now);
        let later = now + JOINED_FOR / 2;
        guard.hear(HIGH, 10, later);
        guard.hear(HIGH, 9, later);
        let joins = guard.joins(ME, later).unwrap();
        assert!(joins.contains(HIGH) && !joins.contains(THIRD) && !joins.itself());
        assert!(
            guard.joins(ME, now + JOINED_FOR).is_none(),
            "a probe that was kept proves nothing"
        );
        guard.hear(HIGH, 1, now + JOINED_FOR);
        assert!(
            guard.joins(ME, now + JOINED_FOR).is_some(),
            "its clock was set back"
        );
    }

    #[test]
    fn of_joined_hosts_one_speaks_and_nothing_goes_round() {
        let guard = Guard::default();
        let now = Instant::now();
        guard.hear(HIGH, 1, now);
        let speaker = guard.joins(ME, now).unwrap();
        assert!(speaker.speaks_for(Origin::Here) && speaker.speaks_for(Origin::Foreign));
        assert!(!speaker.speaks_for(Origin::Elsewhere));
        assert_eq!(speaker.accepts_flood(THIRD), Ok(()));
        assert_eq!(speaker.accepts_flood(HIGH), Err(DropReason::Looped));
        assert!(speaker.passes(Origin::Here, HIGH) && speaker.passes(Origin::Elsewhere, THIRD));
        assert!(!speaker.passes(Origin::Elsewhere, HIGH));
        guard.hear(LOW, 1, now);
        let silent = guard.joins(ME, now).unwrap();
        assert!(silent.speaks_for(Origin::Here) && !silent.speaks_for(Origin::Foreign));
        assert_eq!(silent.accepts_flood(THIRD), Err(DropReason::Looped));
    }

    #[test]
    fn a_host_joined_with_itself_knows_what_comes_round() {
        let guard = Guard::default();
        let now = Instant::now();
        guard.hear(ME, 1, now);
        let joins = guard.joins(ME, now).unwrap();
        assert!(joins.itself() && joins.hosts().is_empty());
        assert!(joins.speaks_for(Origin::Foreign));
        let mut repeats = Repeats::default();
        assert!(!repeats.is_repeat(b"hello", now) && repeats.is_repeat(b"hello", now));
        assert!(!repeats.is_repeat(b"other", now));
        assert!(!repeats.is_repeat(b"hello", now + REPEAT_WINDOW));
    }

    #[test]
    fn its_memories_are_bounded() {
        let guard = Guard::default();
        let mut repeats = Repeats::default();
        let now = Instant::now();
        for n in 0..20_000u64 {
            guard.hear(PeerHash(n.to_be_bytes()), 1, now);
            repeats.is_repeat(&n.to_be_bytes(), now);
        }
        assert_eq!(guard.lock().len(), SESSIONS_MAX);
        assert_eq!(repeats.seen.len(), REPEATS_MAX);
    }
}
