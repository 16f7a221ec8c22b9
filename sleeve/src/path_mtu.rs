//! How large a datagram may be on the path to one peer: datagram packetization layer path MTU discovery (RFC 8899).
//!
//! Padded PROBE datagrams that may not be fragmented are sent, and only an answer proves that a size passes. ICMP is
//! not listened to: anybody can forge it, and many networks drop it. What the local kernel refuses counts as lost at
//! once.
//!
//! Sizes are octets of the UDP payload, which is the whole sleeve datagram.

use core::net::SocketAddr;
use core::time::Duration;
use weft_wire::Time;
use weft_wire::datagram::{HEADER_LEN, RELAY_SHIM_LEN, TAG_LEN};
use weft_wire::mtu::{IPV6_HEADER, UDP_HEADER, underlay_headers};

/// Size that a path is taken to carry until a probe says otherwise (`BASE_PLPMTU`): an IPv6 packet of 1,280 octets,
/// which every IPv6 link carries (RFC 8200 §5) and nearly every IPv4 path.
pub const BASE: u16 = (1_280 - IPV6_HEADER - UDP_HEADER) as u16;
/// Size that is used while not even [`BASE`] passes (`MIN_PLPMTU`): it fits the 576 octets that every IPv4 host takes
/// (RFC 791 §3.1).
pub const FLOOR: u16 = 512;
/// Packets larger than this are not looked for (`MAX_PLPMTU`): the largest MTU that Ethernet cards commonly offer.
const LARGEST_PACKET: u16 = 9_216;
/// Packets that most paths carry: tried before the search by halves.
const LIKELY_PACKETS: [u16; 2] = [1_500, 9_000];
/// The search ends when so few octets remain between what passes and what does not.
const GRANULARITY: u16 = 16;
/// A size is given up when so many probes of it in a row are not answered (`MAX_PROBES`).
pub const TRIES: u32 = 3;

/// How long an answer is waited for until a round trip was measured.
pub const ANSWER_FIRST: Duration = Duration::from_millis(500);
/// After that three round trips are waited for, and at least this long: a busy host answers late.
pub const ANSWER_MIN: Duration = Duration::from_millis(200);
/// And at most this long: no path is slower.
pub const ANSWER_MAX: Duration = Duration::from_secs(1);
/// While large frames are sent, the size in use is confirmed so often: a path that shrank without a word is noticed within
/// this, the second in which traffic is noticed, and the tries.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(2);
/// A larger size is looked for again so often (`PMTU_RAISE_TIMER`; the value of RFC 8899 §5.1.1).
pub const RAISE_AFTER: Duration = Duration::from_secs(600);
/// The same on a path that does not carry [`BASE`], which is more likely to be a passing trouble.
pub const RAISE_BELOW_BASE_AFTER: Duration = Duration::from_secs(30);
/// While nothing at all is heard from the peer, which says nothing about sizes, it is looked so often whether that has
/// changed.
pub const UNHEARD_PAUSE: Duration = Duration::from_secs(1);

/// The smallest probe: header, body, tag.
pub(crate) const PROBE_MIN: u16 = (HEADER_LEN + 16 + TAG_LEN) as u16;
const _: () = assert!(PROBE_MIN <= FLOOR);

/// The bit of a probe's number that says: this one asks for a sign of life and not for a size. Whoever asks counts such
/// numbers; [`PathMtu`] never reaches the bit, and does not heed their answers.
pub const QUESTION: u64 = 1 << 63;

/// A probe to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Its number: all tries of one size have the same, and no other size has it again. Never 0.
    pub number: u64,
    /// The size to fill.
    pub size: u16,
}

/// What the discovery awaits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaits {
    /// That the path carries [`BASE`].
    Base,
    /// The answer to a size larger than the one in use.
    Larger,
    /// That the path still carries the size in use; later, the time to look for a larger one.
    Confirmation { raise_at: Time },
    /// The time to look for a larger size.
    Raise { at: Time },
}

/// A size whose answer is awaited.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    probe: Probe,
    /// Tries sent; 0 when the first is due.
    tries: u32,
    first_sent: Time,
    due: Time,
    hearing: Hearing,
}

/// What was heard of the peer while its answer was awaited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hearing {
    /// Not looked at yet.
    Unknown,
    /// Nothing, all tries long.
    Silent,
    /// Nothing at first, and then something: this is a second round of tries.
    Back,
}

/// The discovery on the path to one peer.
#[derive(Clone, Debug)]
pub struct PathMtu {
    awaits: Awaits,
    /// Largest size that may be used.
    size: u16,
    /// Smallest size that is known not to pass, or one more than the largest of interest.
    too_large: u16,
    confirmed: Time,
    attempt: Option<Attempt>,
    number: u64,
    /// Smoothed as in RFC 6298 §2.
    round_trip: Option<Duration>,
    /// Octets of a packet before the datagram.
    headers: u16,
    /// [`BASE`], less what a relay needs.
    base: u16,
}

impl PathMtu {
    /// The discovery on a path of which nothing is known. [`BASE`] is used at first.
    pub fn new(now: Time, endpoint: &SocketAddr) -> Self {
        let mut path = Self {
            awaits: Awaits::Base,
            size: BASE,
            too_large: 0,
            confirmed: now,
            attempt: None,
            number: 0,
            round_trip: None,
            headers: 0,
            base: BASE,
        };
        path.restart(now, endpoint);
        path
    }

    /// The path has become another one.
    pub fn restart(&mut self, now: Time, endpoint: &SocketAddr) {
        self.begin(now, endpoint, 0);
    }

    /// The path has become one by the relay at this address.
    pub fn restart_by_relay(&mut self, now: Time, relay: &SocketAddr) {
        self.begin(now, relay, RELAY_SHIM_LEN);
    }

    fn begin(&mut self, now: Time, endpoint: &SocketAddr, shim: usize) {
        // At most 48 and 20.
        self.headers = (underlay_headers(endpoint) + shim) as u16;
        self.base = BASE - shim as u16;
        self.round_trip = None;
        self.fall_back(now, self.base);
    }

    /// Largest datagram that may be sent, in octets of UDP payload.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Largest IP packet that the path is known to carry.
    pub fn packet(&self) -> u16 {
        self.size + self.headers
    }

    /// True when the largest size has been found.
    pub fn is_settled(&self) -> bool {
        matches!(self.awaits, Awaits::Raise { .. } | Awaits::Confirmation { .. })
    }

    /// When [`PathMtu::poll_probe`] has something to do.
    pub fn poll_timeout(&self) -> Time {
        match (self.attempt, self.awaits) {
            (Some(attempt), _) => attempt.due,
            (None, Awaits::Raise { at }) => at,
            // All others have an attempt.
            (None, _) => Time::NEVER,
        }
    }

    /// Takes note of the time; returns the probe that is to be sent now. `heard` is when anything came from the peer
    /// last.
    pub fn poll_probe(&mut self, now: Time, heard: Time) -> Option<Probe> {
        if let (None, Awaits::Raise { at }) = (self.attempt, self.awaits)
            && at <= now
        {
            self.too_large = self.largest() + 1;
            self.search(now);
        }
        let pause = self.answer_time();
        let attempt = self.attempt.as_mut().filter(|attempt| attempt.due <= now)?;
        if attempt.tries >= TRIES {
            // From a peer that sends nothing no answer can come, whatever the size. A larger size is given up all the
            // same, since nothing hangs on it.
            let is_silent = self.awaits != Awaits::Larger && heard < attempt.first_sent;
            match attempt.hearing {
                Hearing::Unknown | Hearing::Silent if is_silent => {
                    attempt.hearing = Hearing::Silent;
                    attempt.due = now + UNHEARD_PAUSE;
                    return None;
                }
                Hearing::Silent => {
                    attempt.hearing = Hearing::Back;
                    attempt.tries = 0;
                }
                Hearing::Unknown | Hearing::Back => {
                    self.lost(now);
                    return self.poll_probe(now, heard);
                }
            }
        }
        if attempt.tries == 0 {
            attempt.first_sent = now;
        }
        attempt.tries += 1;
        attempt.due = now + pause;
        Some(attempt.probe)
    }

    /// An answer came. One to another probe than the last, or with another size, changes nothing.
    pub fn on_answer(&mut self, now: Time, answered: Probe) {
        let Some(attempt) = self.attempt.filter(|a| a.probe == answered && a.tries > 0) else {
            return;
        };
        // Which of several tries was answered is not known (Karn's algorithm, RFC 6298 §3).
        if attempt.tries == 1 {
            let sample = now.since(attempt.first_sent);
            self.round_trip = Some(self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8));
        }
        self.attempt = None;
        self.confirmed = now;
        match self.awaits {
            Awaits::Confirmation { raise_at } => self.awaits = Awaits::Raise { at: raise_at },
            Awaits::Base | Awaits::Larger => {
                self.size = answered.size;
                self.search(now);
            }
            Awaits::Raise { .. } => {}
        }
    }

    /// The local kernel refused a probe for its size.
    pub fn on_refused(&mut self, now: Time, refused: Probe) {
        if self.attempt.is_none_or(|attempt| attempt.probe != refused) {
            return;
        }
        if self.awaits != Awaits::Larger {
            return self.lost(now);
        }
        // Mostly the interface takes just what passes already: the next larger size shows that with one more try, where
        // halves would need nine.
        self.too_large = self.too_large.min(refused.size);
        let edge = self.size + GRANULARITY;
        if edge < self.too_large {
            self.try_size(now, edge);
        } else {
            self.search(now);
        }
    }

    /// The local kernel refused a datagram of this size that carried a frame.
    pub fn on_too_big(&mut self, now: Time, size: u16) {
        if size > self.size {
            return;
        }
        if size > self.base {
            self.fall_back(now, self.base);
        } else if size > FLOOR {
            self.below_base(now, size);
        }
    }

    /// Frames longer than [`FLOOR`] were sent: the size in use must still be known to pass.
    pub fn on_traffic(&mut self, now: Time) {
        if let Awaits::Raise { at } = self.awaits
            && self.size > FLOOR
            && now.since(self.confirmed) >= CONFIRM_AFTER
        {
            self.awaits = Awaits::Confirmation { raise_at: at };
            self.try_size(now, self.size);
        }
    }

    /// The size that was tried does not pass.
    fn lost(&mut self, now: Time) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        match self.awaits {
            Awaits::Base => self.below_base(now, self.base),
            Awaits::Confirmation { .. } if self.size > self.base => self.fall_back(now, self.base),
            Awaits::Confirmation { .. } => self.below_base(now, self.size),
            Awaits::Larger | Awaits::Raise { .. } => {
                self.too_large = self.too_large.min(attempt.probe.size);
                self.search(now);
            }
        }
    }

    /// Begins anew from a size that has to be confirmed.
    fn fall_back(&mut self, now: Time, size: u16) {
        self.awaits = Awaits::Base;
        self.size = size;
        self.too_large = self.largest() + 1;
        self.try_size(now, size);
    }

    /// Not even the base passes: what does is looked for above the floor.
    fn below_base(&mut self, now: Time, too_large: u16) {
        self.size = FLOOR;
        self.too_large = too_large;
        self.search(now);
    }

    /// Tries the next larger size, if there is one of interest.
    fn search(&mut self, now: Time) {
        match self.candidate() {
            Some(size) => {
                self.awaits = Awaits::Larger;
                self.try_size(now, size);
            }
            None => {
                let pause = if self.size < self.base {
                    RAISE_BELOW_BASE_AFTER
                } else {
                    RAISE_AFTER
                };
                self.attempt = None;
                self.awaits = Awaits::Raise { at: now + pause };
            }
        }
    }

    fn candidate(&self) -> Option<u16> {
        let likely = LIKELY_PACKETS
            .map(|packet| packet - self.headers)
            .into_iter()
            .find(|size| (self.size + 1..self.too_large).contains(size));
        let gap = self.too_large.saturating_sub(self.size);
        likely.or_else(|| (gap > GRANULARITY).then(|| self.size + gap / 2))
    }

    fn try_size(&mut self, now: Time, size: u16) {
        let number = self.next_number();
        self.attempt = Some(Attempt {
            probe: Probe { number, size },
            tries: 0,
            first_sent: now,
            due: now,
            hearing: Hearing::Unknown,
        });
    }

    /// A number that no probe on this path has had.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn largest(&self) -> u16 {
        LARGEST_PACKET - self.headers
    }

    fn answer_time(&self) -> Duration {
        self.round_trip
            .map_or(ANSWER_FIRST, |time| (time * 3).clamp(ANSWER_MIN, ANSWER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const V4: &str = "192.0.2.1:6783";
    const V6: &str = "[2001:db8::1]:6783";
    const RTT: Duration = Duration::from_millis(20);

    /// A path that carries packets of so many octets, and an interface at its beginning.
    struct World {
        now: Time,
        path: PathMtu,
        carries: u16,
        interface: u16,
        /// The peer sends something at all times.
        talks: bool,
        heard: Time,
        probes: Vec<u16>,
    }

    impl World {
        fn new(to: &str, carries: u16, interface: u16) -> Self {
            let now = Time::ZERO + Duration::from_secs(1);
            Self {
                now,
                path: PathMtu::new(now, &to.parse().unwrap()),
                carries,
                interface,
                talks: true,
                heard: now,
                probes: Vec::new(),
            }
        }

        /// Does all that is due until `end`.
        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                while self.path.poll_timeout() <= self.now {
                    if self.talks {
                        self.heard = self.now;
                    }
                    let Some(probe) = self.path.poll_probe(self.now, self.heard) else {
                        continue;
                    };
                    self.probes.push(probe.size);
                    assert!(self.probes.len() < 1_000, "{:?}", self.path);
                    let packet = probe.size + self.path.headers;
                    if packet > self.interface {
                        self.path.on_refused(self.now, probe);
                    } else if packet <= self.carries && self.talks {
                        self.now = self.now + RTT;
                        self.heard = self.now;
                        self.path.on_answer(self.now, probe);
                    }
                }
                let due = self.path.poll_timeout();
                if due > end {
                    self.now = self.now.max(end);
                    return;
                }
                self.now = due;
            }
        }

        fn settle(&mut self) {
            self.run(Duration::from_secs(20));
            assert!(self.path.is_settled(), "{:?}", self.path);
        }
    }

    #[test]
    fn usual_paths_are_found_exactly_and_others_to_within_the_granularity() {
        for to in [V4, V6] {
            for carries in [600, 1_006, 1_280, 1_420, 1_492, 1_500, 4_352, 9_000, 9_216] {
                for interface in [carries, 9_216] {
                    let mut world = World::new(to, carries, interface);
                    world.settle();
                    let found = world.path.packet();
                    assert!(found <= carries, "{found} of {carries}");
                    let exact = [1_500, 9_000].contains(&carries);
                    assert!(
                        found + if exact { 0 } else { GRANULARITY } >= carries,
                        "{found} of {carries}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_usual_path_takes_one_probe_for_each_step() {
        let mut world = World::new(V4, 1_500, 1_500);
        world.run(RTT * 2);
        assert_eq!(world.path.packet(), 1_500);
        assert_eq!(world.probes[..2], [BASE, 1_472]);
    }

    #[test]
    fn a_path_that_shrinks_without_a_word_is_noticed_while_it_is_used() {
        for (carries, expected) in [(1_280, 1_260..=1_280), (1_000, 984..=1_000), (576, 540..=576)] {
            let mut world = World::new(V4, 1_500, 1_500);
            world.settle();
            world.carries = carries;
            world.run(CONFIRM_AFTER);
            assert_eq!(world.path.packet(), 1_500, "nobody uses it");
            let begin = world.now;
            world.path.on_traffic(world.now);
            while world.path.packet() == 1_500 {
                world.run(Duration::from_millis(50));
            }
            assert!(world.now.since(begin) <= ANSWER_MIN * TRIES + Duration::from_millis(50));
            world.settle();
            assert!(
                expected.contains(&world.path.packet()),
                "{} of {carries}",
                world.path.packet()
            );
            // And found again when it is wide again.
            world.carries = 1_500;
            world.run(RAISE_AFTER + Duration::from_secs(20));
            assert_eq!(world.path.packet(), 1_500);
        }
    }

    #[test]
    fn the_kernels_refusal_shrinks_at_once() {
        let mut world = World::new(V6, 1_500, 1_500);
        world.settle();
        (world.carries, world.interface) = (1_400, 1_400);
        world.path.on_too_big(world.now, 1_452);
        assert_eq!(world.path.size(), BASE);
        world.settle();
        assert!((1_384..=1_400).contains(&world.path.packet()));
        // One that was under way before.
        world.path.on_too_big(world.now, 1_452);
        assert!(world.path.size() > BASE);
        (world.carries, world.interface) = (1_000, 1_000);
        world.path.on_too_big(world.now, BASE);
        assert_eq!(world.path.size(), FLOOR);
        world.settle();
        assert!(
            (984..=1_000).contains(&world.path.packet()),
            "{}",
            world.path.packet()
        );
        world.path.on_too_big(world.now, FLOOR);
        assert!(world.path.size() >= FLOOR);
    }

    #[test]
    fn silence_of_the_whole_path_says_nothing_about_sizes() {
        let mut world = World::new(V4, 1_500, 1_500);
        world.settle();
        world.talks = false;
        world.run(CONFIRM_AFTER);
        world.path.on_traffic(world.now);
        let before = world.probes.len();
        world.run(Duration::from_secs(60));
        assert_eq!(world.path.packet(), 1_500);
        assert_eq!(world.probes.len() - before, 3);
        world.talks = true;
        world.settle();
        assert_eq!(world.path.packet(), 1_500);
        assert_eq!(world.probes.len() - before, 4);
    }

    #[test]
    fn a_peer_that_seldom_speaks_does_not_hide_a_path_that_shrank() {
        let mut world = World::new(V4, 1_500, 1_500);
        world.settle();
        world.run(CONFIRM_AFTER);
        (world.carries, world.talks) = (1_400, false);
        world.path.on_traffic(world.now);
        world.run(Duration::from_secs(5));
        // A keepalive, outside of the time of any try.
        world.heard = world.now;
        world.run(Duration::from_secs(5));
        assert_eq!(world.path.size(), BASE);
    }

    #[test]
    fn only_the_last_probe_can_be_answered() {
        let mut world = World::new(V4, 1_500, 1_500);
        let first = world.path.poll_probe(world.now, world.now).unwrap();
        for (number, size) in [(first.number + 1, first.size), (first.number, 9_000)] {
            world.path.on_answer(world.now, Probe { number, size });
            world.path.on_refused(world.now, Probe { number, size });
            assert_eq!(world.path.size(), BASE);
            assert!(world.path.poll_probe(world.now, world.now).is_none());
        }
        world.path.on_answer(world.now, first);
        assert!(world.path.poll_probe(world.now, world.now).is_some());
        world.path.on_answer(world.now, first);
        assert_eq!(world.path.size(), BASE);
    }

    proptest! {
        /// Whatever happens, the size stays in its limits, what is unproved is never used, and timers do not spin.
        #[test]
        fn any_course_of_events_keeps_the_limits(steps in proptest::collection::vec((0..6u8, any::<u16>()), 1..200)) {
            let mut now = Time::ZERO;
            let mut path = PathMtu::new(now, &V4.parse().unwrap());
            let (mut last, mut largest) = (None, BASE);
            for (what, value) in steps {
                match what {
                    0 => {
                        let mut spins = 0;
                        while path.poll_timeout() <= now {
                            last = path.poll_probe(now, now).or(last);
                            spins += 1;
                            prop_assert!(spins < 4);
                        }
                    }
                    1 => {
                        if let Some(probe) = last {
                            path.on_answer(now, probe);
                            largest = largest.max(probe.size);
                        }
                    }
                    2 => {
                        if let Some(probe) = last {
                            path.on_refused(now, probe);
                        }
                    }
                    3 => path.on_too_big(now, value),
                    4 => path.on_traffic(now),
                    _ => now = now + Duration::from_millis(u64::from(value)),
                }
                prop_assert!((FLOOR..=largest).contains(&path.size()));
                prop_assert!(path.packet() <= LARGEST_PACKET);
            }
        }
    }
}
