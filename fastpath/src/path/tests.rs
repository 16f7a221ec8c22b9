//! Two ends with a bad network between, and every short story of one.

use super::*;
use crate::probe::full_size;
use proptest::prelude::*;
use std::collections::BTreeMap;

const AT: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 2));
const LATENCY: Duration = Duration::from_millis(1);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn ends(us: u8, them: u8) -> Ends {
    Ends {
        us: PeerHash([us; 8]),
        them: PeerHash([them; 8]),
        boot: u64::from(us),
    }
}

/// What works between the two ends. A path's index is that of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Net {
    small: [bool; 2],
    full: [bool; 2],
    sleeve: bool,
    /// Routers that run.
    runs: [bool; 2],
}

const GOOD: Net = Net {
    small: [true; 2],
    full: [true; 2],
    sleeve: true,
    runs: [true; 2],
};

impl Net {
    fn carries(&self, from: usize) -> bool {
        self.small[from] && self.full[from] && self.runs == [true; 2]
    }

    fn is_dead(&self) -> bool {
        self.small.contains(&false)
    }
}

#[derive(Debug)]
enum Event {
    Probe(usize, Probe),
    Question(usize),
    Answer(usize),
}

struct World {
    now: Time,
    paths: [Path; 2],
    net: Net,
    queue: BTreeMap<(Time, u64), Event>,
    count: u64,
    /// When each direction last carried all sizes.
    worked: [Time; 2],
    /// Since when a direction of the kernel is dead, both routers run and the sleeve works.
    dead_since: Option<Time>,
    flips: [Vec<(Time, bool)>; 2],
}

impl World {
    fn new() -> Self {
        Self::with(GOOD)
    }

    fn with(net: Net) -> Self {
        let now = Time::from_start(Duration::from_secs(100));
        let mut world = Self {
            now,
            paths: [(1, 2), (2, 1)].map(|(us, them)| Path::new(now, ends(us, them), full_size(1_366))),
            net: GOOD,
            queue: BTreeMap::new(),
            count: 0,
            worked: [Time::ZERO; 2],
            dead_since: None,
            flips: [Vec::new(), Vec::new()],
        };
        world.set(net);
        for end in 0..2 {
            world.give(end, Input::Wanted(true));
            world.give(end, Input::Verdict(Verdict::Plain(AT)));
        }
        world
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.queue.insert((self.now + after, self.count), event);
    }

    fn give(&mut self, end: usize, input: Input<'_>) {
        let now = self.now;
        let before = self.paths[end].carries();
        self.paths[end].handle(now, input);
        while let Some(output) = self.paths[end].poll_output() {
            match output {
                Output::Send(probe) => {
                    let passes = match usize::from(probe.size) > PROBE_LEN {
                        true => self.net.full[end] && self.net.small[end],
                        false => self.net.small[end],
                    };
                    if passes {
                        self.later(LATENCY, Event::Probe(1 - end, probe));
                    }
                }
                Output::AskSleeve if self.net.sleeve => self.later(LATENCY, Event::Question(1 - end)),
                Output::AskSleeve | Output::Flipped => {}
            }
        }
        let after = self.paths[end].carries();
        if before.is_some() != after.is_some() {
            self.flips[end].push((now, after.is_some()));
        }
        if before.is_none() && after.is_some() {
            for worked in self.worked {
                assert!(
                    now.since(worked) <= PROBING_FOR,
                    "entered {:?} after it worked",
                    now.since(worked)
                );
            }
        }
        assert!(
            self.paths[end].poll_timeout() > now,
            "{:?} is due at once and does nothing",
            self.paths[end].state()
        );
    }

    fn set(&mut self, net: Net) {
        // A word may go one way before that dies, and its answer the other way after that has come to life.
        if self.net.small != net.small {
            self.dead_since = None;
        }
        self.net = net;
        let fair = net.sleeve && net.runs == [true; 2];
        self.dead_since = match (net.is_dead() && fair, self.dead_since) {
            (true, None) => Some(self.now),
            (true, since) => since,
            (false, _) => None,
        };
    }

    fn run(&mut self, until: Time) {
        loop {
            let timer = (0..2)
                .filter(|end| self.net.runs[*end])
                .map(|end| (self.paths[end].poll_timeout().max(self.now), end))
                .min();
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = timer.map(|(at, _)| at).into_iter().chain(event).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.advance(until);
                return;
            };
            self.advance(next);
            if event == Some(next) {
                let (_, event) = self.queue.pop_first().expect("it is there");
                self.take(event);
            } else if let Some((_, end)) = timer {
                self.give(end, Input::Timeout);
            }
        }
    }

    fn advance(&mut self, now: Time) {
        self.now = now;
        for (from, worked) in self.worked.iter_mut().enumerate() {
            if self.net.carries(from) {
                *worked = now;
            }
        }
        if let Some(since) = self.dead_since
            && now.since(since) > ms(1_000)
        {
            for path in &self.paths {
                assert_eq!(
                    path.carries(),
                    None,
                    "still used {:?} after it died",
                    now.since(since)
                );
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Probe(to, probe) if self.net.runs[to] => self.give(to, Input::Heard(&probe)),
            // The engine answers, or nobody does.
            Event::Question(to) if self.net.runs[to] => self.later(LATENCY, Event::Answer(1 - to)),
            Event::Answer(to) if self.net.runs[to] => self.give(to, Input::SleeveAnswered),
            Event::Probe(..) | Event::Question(_) | Event::Answer(_) => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        // Frames go all the time.
        let end = self.now + time;
        while self.now < end {
            let step = end.since(self.now).min(Duration::from_secs(5));
            for path in 0..2 {
                if self.net.runs[path] {
                    self.give(path, Input::Used);
                }
            }
            self.run(self.now + step);
        }
    }

    fn carry(&self) -> [bool; 2] {
        [0, 1].map(|end: usize| self.paths[end].carries().is_some())
    }
}

/// A world in which both ends use the kernel.
fn fast() -> World {
    let mut world = World::new();
    world.pass(ms(2_000));
    assert_eq!(world.carry(), [true; 2]);
    world
}

#[test]
fn a_good_path_is_used_within_a_second_and_stays() {
    let mut world = World::new();
    world.pass(ms(1_000));
    assert_eq!(world.carry(), [true; 2]);
    world.pass(Duration::from_secs(100));
    for path in &world.paths {
        assert!(matches!(path.state(), State::Fastpath { .. }));
        assert_eq!(path.flips().1, 1);
        assert_eq!(path.round_trip(), Some(LATENCY * 2));
        assert_eq!(path.lost(world.now).1, 0);
    }
}

#[test]
fn what_does_not_pass_is_named() {
    for (net, expected) in [
        (
            Net {
                small: [false, true],
                ..GOOD
            },
            [Failure::NotHeardThere, Failure::NothingHeard],
        ),
        (
            Net {
                small: [false; 2],
                ..GOOD
            },
            [Failure::NothingHeard; 2],
        ),
        (
            Net {
                full: [false, true],
                ..GOOD
            },
            [Failure::FullSizeLost(1_384); 2],
        ),
    ] {
        let mut world = World::with(net);
        world.pass(ms(3_500));
        assert_eq!(world.carry(), [false; 2]);
        for (path, expected) in world.paths.iter().zip(expected) {
            assert_eq!(path.why(), Some(Why::Failed(expected)), "{net:?}");
        }
        world.set(GOOD);
        world.pass(BACKOFF_MAX + PROBING_FOR);
        assert_eq!(world.carry(), [true; 2], "after the fault {net:?}");
    }
}

#[test]
fn a_dead_path_is_left_within_a_second_in_either_direction() {
    for small in [[false, true], [true, false], [false; 2]] {
        for offset in (0..300).step_by(7) {
            let mut world = fast();
            world.pass(ms(offset));
            let died = world.now;
            world.set(Net { small, ..GOOD });
            world.pass(ms(1_100));
            for end in 0..2 {
                let (left, carries) = *world.flips[end].last().expect("it has flipped");
                assert!(!carries && left.since(died) < ms(1_000), "{:?}", left.since(died));
                assert!(left.since(died) >= ms(500), "not before two proofs are missing");
            }
        }
    }
}

#[test]
fn a_path_that_no_longer_carries_the_largest_frames_is_left() {
    let mut world = fast();
    world.set(Net {
        full: [true, false],
        ..GOOD
    });
    world.pass(FULL_INTERVAL + ms(2_000));
    for path in &world.paths {
        assert_eq!(path.why(), Some(Why::Failed(Failure::FullSizeLost(1_384))));
    }
}

#[test]
fn a_silent_router_keeps_its_entries_for_an_hour_and_is_found_again() {
    let mut world = fast();
    world.set(Net {
        runs: [true, false],
        ..GOOD
    });
    world.pass(Duration::from_secs(60));
    assert!(matches!(world.paths[0].state(), State::RouterSilent { .. }));
    assert_eq!(world.flips[0].len(), 1, "it never left");
    world.set(GOOD);
    world.pass(ms(1_500));
    for path in &world.paths {
        assert!(
            matches!(path.state(), State::Fastpath { .. }),
            "{:?}",
            path.state()
        );
    }
    assert_eq!([world.flips[0].len(), world.flips[1].len()], [1, 1]);
    // Nothing at all passes, and it never comes back.
    world.set(Net {
        small: [false; 2],
        sleeve: false,
        ..GOOD
    });
    world.pass(Duration::from_secs(3_590));
    assert_eq!(world.carry(), [true; 2]);
    world.pass(Duration::from_secs(13));
    assert_eq!(world.carry(), [false; 2]);
    assert_eq!(world.paths[0].why(), Some(Why::Failed(Failure::SilentTooLong)));
}

#[test]
fn a_router_that_starts_again_goes_on_with_what_the_kernel_has() {
    let mut world = fast();
    let again = Ends {
        boot: 77,
        ..ends(1, 2)
    };
    world.set(Net {
        runs: [false, true],
        ..GOOD
    });
    world.pass(Duration::from_secs(10));
    world.paths[0] = Path::adopted(world.now, again, full_size(1_366), AT);
    world.set(GOOD);
    // No word on the pair yet: what the kernel has is used, and proved.
    assert_eq!(world.paths[0].carries(), Some(AT));
    world.pass(ms(1_000));
    assert!(
        matches!(world.paths[0].state(), State::Fastpath { .. }),
        "{:?}",
        world.paths[0].state()
    );
    world.give(0, Input::Verdict(Verdict::Plain(AT)));
    world.pass(ms(1_500));
    assert!(
        matches!(world.paths[0].state(), State::Fastpath { .. }),
        "{:?}",
        world.paths[0].state()
    );
    assert!(matches!(world.paths[1].state(), State::Fastpath { .. }));
    assert_eq!(world.paths[0].flips().1, 0);
    assert_eq!(world.paths[1].flips().1, 1, "the other end never left");
    // What is found may not be used any more.
    let mut other = Path::adopted(world.now, again, full_size(1_366), AT);
    other.handle(world.now, Input::Verdict(Verdict::No(Refusal::EncryptAll)));
    assert_eq!(other.carries(), None);
}

#[test]
fn one_end_that_refuses_tells_the_other_and_takes_what_is_under_way() {
    let mut world = fast();
    world.give(1, Input::Verdict(Verdict::No(Refusal::EncryptAll)));
    assert_eq!(world.paths[1].carries(), None);
    assert_eq!(world.paths[1].accepts(world.now).collect::<Vec<_>>(), [AT]);
    world.run(world.now + LATENCY);
    assert_eq!(world.paths[0].carries(), None, "told by one probe");
    assert_eq!(world.paths[0].why(), Some(Why::Failed(Failure::PeerDeclines)));
    world.run(world.now + LINGER);
    assert_eq!(world.paths[1].accepts(world.now).count(), 0);
    assert_eq!(world.paths[1].probed_at(), None);
}

#[test]
fn what_is_not_known_ends_nothing_and_what_is_not_wanted_does() {
    let mut world = fast();
    for lacks in [Lacks::Session, Lacks::DirectSession, Lacks::Record] {
        world.give(0, Input::Verdict(Verdict::Open(lacks)));
        world.pass(ms(3_000));
        assert_eq!(world.carry(), [true; 2]);
    }
    world.give(0, Input::Verdict(Verdict::Plain(AT)));
    world.give(0, Input::Wanted(false));
    assert!(!world.carry()[0]);
    assert_eq!(world.paths[0].why(), Some(Why::NoTraffic));
    world.give(0, Input::Wanted(true));
    world.pass(ms(1_000));
    assert_eq!(world.carry(), [true; 2]);
    let elsewhere = Verdict::Plain("10.0.0.9".parse().unwrap());
    world.give(0, Input::Verdict(elsewhere));
    assert_eq!(world.paths[0].carries(), None, "it has to be proved there");
    assert!(world.paths[0].accepts(world.now).any(|at| at == AT));
}

#[test]
fn an_idle_path_is_proved_seldom_and_trouble_shows_soon_after_the_first_frame() {
    let mut world = World::new();
    world.run(world.now + ms(2_000));
    assert_eq!(world.carry(), [true; 2]);
    let before = world.paths[0].ledger.sent(world.now, false, false);
    world.run(world.now + Duration::from_secs(20));
    let sent = world.paths[0].ledger.sent(world.now, false, false) - before;
    assert!(sent <= 30, "{sent} probes and answers in 20 s");
    // The path died a moment before frames come.
    world.net.small = [false; 2];
    let began = world.now;
    world.give(0, Input::Used);
    world.give(1, Input::Used);
    world.run(began + ms(1_000));
    assert_eq!(world.carry(), [false; 2]);
}

#[test]
fn repeated_and_older_probes_prove_nothing() {
    let now = Time::from_start(Duration::from_secs(5));
    let mut path = Path::new(now, ends(1, 2), 1_384);
    path.handle(now, Input::Wanted(true));
    path.handle(now, Input::Verdict(Verdict::Plain(AT)));
    let probe = |boot, number, heard_boot| Probe {
        from: PeerHash([2; 8]),
        to: PeerHash([1; 8]),
        asks: false,
        carries: false,
        declines: false,
        next_ms: 250,
        size: 1_384,
        boot,
        number,
        heard_boot,
        heard: 2,
        heard_full: 2,
    };
    // Numbers of another process of this host.
    for number in 1..100 {
        path.handle(now, Input::Heard(&probe(2, number, 99)));
    }
    // One number proves one probe, however often it is said.
    for number in 100..200 {
        path.handle(now, Input::Heard(&probe(2, number, 1)));
    }
    assert_eq!(path.ledger.proved_since(now), (0, 1));
    path.handle(now, Input::Heard(&probe(3, 1, 1)));
    assert_eq!(path.heard.boot, 3);
    path.handle(now, Input::Heard(&probe(2, 500, 1)));
    assert_eq!(path.heard.boot, 3, "a process that is gone does not come back");
}

#[test]
fn pauses_are_bounded() {
    assert_eq!(backoff(1), BACKOFF_MIN);
    assert!((1..200).all(|n| backoff(n) <= backoff(n + 1)));
    assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
}

/// Every story of six steps of one end, with a peer that answers truly or not at all.
#[test]
fn in_every_short_story_the_kernel_is_used_only_after_proofs_both_ways() {
    const STEPS: usize = 6;
    let start = Time::from_start(Duration::from_secs(100));
    let mut reached = 0u32;
    for story in 0..8usize.pow(STEPS as u32) {
        let (mut path, mut now, mut rest) = (Path::new(start, ends(1, 2), 1_384), start, story);
        path.handle(now, Input::Wanted(true));
        let (mut peer, mut number) = (Heard::default(), 0);
        let mut proofs = (0u32, 0u32);
        let mut allowed = false;
        for _ in 0..STEPS {
            let before = path.carries();
            let step = rest % 8;
            rest /= 8;
            match step {
                0 => {
                    allowed = true;
                    path.handle(now, Input::Verdict(Verdict::Plain(AT)));
                }
                1 => {
                    allowed = false;
                    path.handle(now, Input::Verdict(Verdict::No(Refusal::PeerEncryptsAll)));
                }
                2 => path.handle(now, Input::Verdict(Verdict::Open(Lacks::Session))),
                3 => path.handle(now, Input::SleeveAnswered),
                // All that was sent is answered, each by its own word; thrice, as the machine wants it.
                4 | 5 => {
                    for _ in 0..if step == 4 { 4 } else { 1 } {
                        now = now + INTERVAL;
                        path.handle(now, Input::Timeout);
                        let sent: Vec<Probe> = core::iter::from_fn(|| path.poll_output())
                            .filter_map(|output| match output {
                                Output::Send(probe) if probe.asks => Some(probe),
                                _ => None,
                            })
                            .collect();
                        for ask in sent {
                            let is_full = usize::from(ask.size) > PROBE_LEN;
                            peer.number = ask.number;
                            if is_full {
                                peer.full = ask.number;
                                proofs.1 += 1;
                            } else {
                                proofs.0 += 1;
                            }
                            number += 1;
                            let answer = Probe {
                                from: PeerHash([2; 8]),
                                to: PeerHash([1; 8]),
                                asks: false,
                                boot: 2,
                                number,
                                heard_boot: 1,
                                heard: peer.number,
                                heard_full: peer.full,
                                ..ask
                            };
                            let was = path.carries();
                            path.handle(now, Input::Heard(&answer));
                            if was.is_none() && path.carries().is_some() {
                                reached += 1;
                                assert!(allowed && proofs.0 >= PROOFS && proofs.1 >= PROOFS, "{story:o}");
                            }
                        }
                    }
                }
                6 => {
                    now = now + Duration::from_secs(7);
                    path.handle(now, Input::Timeout);
                }
                _ => {
                    now = now + WINDOW;
                    path.handle(now, Input::Timeout);
                }
            }
            if step == 2 {
                assert_eq!(
                    path.carries(),
                    before,
                    "what is not known ends nothing: {story:o}"
                );
            }
            if step == 1 {
                assert_eq!(path.carries(), None, "{story:o}");
            }
            if ![1, 4, 5].contains(&step) && before.is_none() {
                assert_eq!(path.carries(), None, "only a proof begins: {story:o}");
            }
            assert!(path.poll_timeout() > now, "{story:o}: {:?}", path.state());
        }
    }
    assert!(reached > 0, "no story reached the kernel");
}

fn nets() -> impl Strategy<Value = Net> {
    let mostly = || prop::bool::weighted(0.8);
    (
        [mostly(), mostly()],
        [mostly(), mostly()],
        mostly(),
        prop_oneof![4 => Just([true; 2]), 1 => Just([true, false]), 1 => Just([false, true])],
    )
        .prop_map(|(small, full, sleeve, runs)| Net {
            small,
            full,
            sleeve,
            runs,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// The world checks at each step that the kernel is entered only after it worked, and left within a second of its
    /// death.
    #[test]
    fn whatever_the_network_does(story in proptest::collection::vec((nets(), 0..8_000u64), 1..12)) {
        let mut world = World::new();
        for (net, time) in story {
            world.set(net);
            world.pass(ms(time));
        }
        world.set(GOOD);
        world.pass(BACKOFF_MAX + PROBING_FOR * 2);
        prop_assert_eq!(world.carry(), [true; 2], "{:?}", world.paths.each_ref().map(|path| (path.state(), path.why())));
    }
}
