//! Whether frames to one peer go through the kernel: one machine a peer, which believes only what it has proved.
//!
//! A proof is an authenticated probe that came through the kernel and names one that this host sent: then both directions
//! carried one. The docs have the diagram, in `docs/design/fastpath.md`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`timing`] | how often, how long, how many |
//! | `ledger` | what was sent and which of it is proved |

mod ledger;
#[cfg(test)]
mod tests;
pub mod timing;

use crate::policy::{Lacks, Refusal, Verdict};
use crate::probe::{PROBE_LEN, Probe};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use core::net::IpAddr;
use core::time::Duration;
use ledger::{Ledger, Proof};
use timing::*;
use weft_wire::{PeerHash, Time};

/// Whose path it is; fixed for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ends {
    /// This host.
    pub us: PeerHash,
    /// The peer.
    pub them: PeerHash,
    /// Random number of this process.
    pub boot: u64,
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// What this end says of the pair.
    Verdict(Verdict),
    /// Whether the pair has, or had lately, frames to exchange.
    Wanted(bool),
    /// A probe of the peer came through the kernel; its MAC is right.
    Heard(&'a Probe),
    /// The question of [`Output::AskSleeve`] was answered.
    SleeveAnswered,
    /// The kernel has lately sent frames of pods to this peer.
    Used,
    /// Octets of the longest frame of a pod.
    FullSize(u16),
    /// The time that `poll_timeout` named has come.
    Timeout,
}

/// Something to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// Send this probe through the kernel.
    Send(Probe),
    /// Ask the peer for an authenticated answer by the sleeve, by relay if that is the way now.
    AskSleeve,
    /// Frames go through the kernel from now on, or no longer: [`Path::carries`] says which.
    Flipped,
}

/// Why a path that may be used is not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Failure {
    /// Nothing came through the kernel from the peer.
    NothingHeard,
    /// Probes of the peer come; those to it do not arrive.
    NotHeardThere,
    /// Small probes pass, and those of this many octets do not.
    FullSizeLost(u16),
    /// Some probes pass and others do not.
    Lossy,
    /// It worked, then no probe passed any more while the sleeve was answered.
    Died,
    /// The peer takes no more frames this way.
    PeerDeclines,
    /// No path was answered for an hour.
    SilentTooLong,
    /// The peer is seen at another address than before.
    Moved,
}

/// Why frames to a peer do not go through the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// They may not.
    Refused(Refusal),
    /// It is not known whether they may.
    Lacks(Lacks),
    /// There are none lately.
    NoTraffic,
    /// It is being tried.
    Probing,
    /// It was tried.
    Failed(Failure),
    /// It will be tried at once.
    New,
}

/// A state, named by what it awaits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Frames go by the sleeve; a permission, traffic, or the time of the next try is awaited.
    SleeveOnly {
        /// What the last try came to.
        failed: Option<Failure>,
        /// When to try again.
        retry: Time,
    },
    /// Frames go by the sleeve; proofs are awaited, of both directions, small and full size.
    Probing {
        /// Where to.
        to: IpAddr,
        /// When it began.
        began: Time,
    },
    /// Frames go through the kernel; each time the next proof is awaited.
    Fastpath {
        /// Where to.
        to: IpAddr,
    },
    /// Frames go through the kernel; proofs are missing, and one is awaited, or an answer by the sleeve.
    Degraded {
        /// Where to.
        to: IpAddr,
        /// When it began.
        began: Time,
        /// The sleeve was answered meanwhile.
        answered: bool,
    },
    /// Frames go through the kernel; the peer is silent on every path, and an answer on any is awaited.
    RouterSilent {
        /// Where to.
        to: IpAddr,
        /// When it began.
        began: Time,
    },
}

/// What was heard of the peer through the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Heard {
    boot: u64,
    number: u64,
    full: u64,
    at: Time,
    /// It asks for a probe so often.
    interval: Duration,
}

/// The path to one peer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    ends: Ends,
    full_size: u16,
    verdict: Verdict,
    is_wanted: bool,
    state: State,
    since: Time,
    heard: Heard,
    /// A process of the peer that was replaced: what is said to be its is repeated by somebody.
    former_boot: u64,
    ledger: Ledger,
    asked: Time,
    asked_full: Time,
    asked_sleeve: Time,
    /// When the kernel was last seen to send frames, here or there.
    used: Option<Time>,
    peer_used: Option<Time>,
    /// One of them was lately, so proofs are due more often; since when that is so, or not.
    is_busy: bool,
    settled: Time,
    /// Tries that failed in a row.
    failures: u32,
    /// When frames last began, or ceased, to go through the kernel.
    flipped: Time,
    flips: u64,
    /// An address that was given up: frames from there are still taken until then.
    lingers: Option<(IpAddr, Time)>,
    answers: (Time, u32),
    outputs: VecDeque<Output>,
}

impl Path {
    /// A path of which nothing is known.
    pub fn new(now: Time, ends: Ends, full_size: u16) -> Self {
        Self {
            ends,
            full_size,
            verdict: Verdict::Open(Lacks::Session),
            is_wanted: false,
            state: State::SleeveOnly {
                failed: None,
                retry: now,
            },
            since: now,
            heard: Heard::default(),
            former_boot: 0,
            ledger: Ledger::default(),
            asked: Time::ZERO,
            asked_full: Time::ZERO,
            asked_sleeve: Time::ZERO,
            used: None,
            peer_used: None,
            is_busy: false,
            settled: now,
            failures: 0,
            flipped: now,
            flips: 0,
            lingers: None,
            answers: (now, 0),
            outputs: VecDeque::new(),
        }
    }

    /// A path that the kernel was found to use: an earlier process of this host had proved it.
    pub fn adopted(now: Time, ends: Ends, full_size: u16, to: IpAddr) -> Self {
        let mut path = Self::new(now, ends, full_size);
        path.is_wanted = true;
        path.used = Some(now);
        path.state = State::RouterSilent { to, began: now };
        path
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::Verdict(verdict) => self.judge(now, verdict),
            Input::Wanted(is_wanted) => {
                let begins = is_wanted && !self.is_wanted;
                self.is_wanted = is_wanted;
                if begins && let State::SleeveOnly { failed: None, retry } = &mut self.state {
                    *retry = now;
                }
            }
            Input::Heard(probe) => self.hear(now, probe),
            Input::SleeveAnswered => match &mut self.state {
                State::Degraded { answered, .. } => *answered = true,
                // Its router lives again: does the kernel path?
                State::RouterSilent { to, .. } => {
                    let to = *to;
                    self.degrade(now, to);
                }
                State::SleeveOnly { .. } | State::Probing { .. } | State::Fastpath { .. } => {}
            },
            Input::Used => self.used = Some(now),
            Input::FullSize(size) => self.full_size = size.max(PROBE_LEN as u16),
            Input::Timeout => {}
        }
        self.run(now);
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Where frames to the peer go through the kernel; `None` when they go by the sleeve.
    pub fn carries(&self) -> Option<IpAddr> {
        match self.state {
            State::SleeveOnly { .. } | State::Probing { .. } => None,
            State::Fastpath { to } | State::Degraded { to, .. } | State::RouterSilent { to, .. } => Some(to),
        }
    }

    /// Addresses from which unencrypted frames are taken.
    pub fn accepts(&self, now: Time) -> impl Iterator<Item = IpAddr> + use<> {
        let allowed = match self.verdict {
            Verdict::Plain(at) => Some(at),
            Verdict::Open(_) | Verdict::No(_) => None,
        };
        let lingering = self.lingers.filter(|(_, until)| now < *until).map(|(at, _)| at);
        [allowed, self.carries(), lingering].into_iter().flatten()
    }

    /// Where probes to the peer go.
    pub fn probed_at(&self) -> Option<IpAddr> {
        let allowed = match self.verdict {
            Verdict::Plain(at) => Some(at),
            Verdict::Open(_) | Verdict::No(_) => None,
        };
        // The goodbye is still to be said.
        let lingering = self.lingers.map(|(at, _)| at);
        match self.state {
            State::Probing { to, .. } => Some(to),
            _ => self.carries().or(allowed).or(lingering),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// When it came to stand there.
    pub fn since(&self) -> Time {
        self.since
    }

    /// When frames last changed their way, and how often they have.
    pub fn flips(&self) -> (Time, u64) {
        (self.flipped, self.flips)
    }

    /// Time from a probe to its answer, smoothed by one eighth.
    pub fn round_trip(&self) -> Option<Duration> {
        self.ledger.round_trip()
    }

    /// Of the last probes, how many asked and how many of these had no answer within a second.
    pub fn lost(&self, now: Time) -> (u32, u32) {
        self.ledger.lost(now)
    }

    /// Why frames do not go through the kernel; `None` when they do.
    pub fn why(&self) -> Option<Why> {
        let failed = match self.state {
            State::SleeveOnly { failed, .. } => failed,
            State::Probing { .. } => return Some(Why::Probing),
            State::Fastpath { .. } | State::Degraded { .. } | State::RouterSilent { .. } => return None,
        };
        Some(match self.verdict {
            Verdict::No(refusal) => Why::Refused(refusal),
            Verdict::Open(lacks) => Why::Lacks(lacks),
            Verdict::Plain(_) if !self.is_wanted => Why::NoTraffic,
            Verdict::Plain(_) => failed.map_or(Why::New, Why::Failed),
        })
    }

    /// When [`Input::Timeout`] is due.
    pub fn poll_timeout(&self) -> Time {
        let ask = || self.asked + self.pause();
        let due = match self.state {
            State::SleeveOnly { retry, .. } if self.may_begin() => retry,
            State::SleeveOnly { .. } => Time::NEVER,
            State::Probing { began, .. } => ask().min(began + PROBING_FOR),
            State::Fastpath { .. } => ask().min(self.suspicious_at()).min(self.full_due()),
            State::Degraded { began, answered, .. } => {
                let sleeve = if answered {
                    Time::NEVER
                } else {
                    self.asked_sleeve + SLEEVE_PAUSE
                };
                let end = if answered {
                    Time::NEVER
                } else {
                    began + SILENT_AFTER
                };
                ask().min(sleeve).min(end)
            }
            State::RouterSilent { began, .. } => ask().min(began + SILENT_MAX),
        };
        let lingers = self.lingers.map_or(Time::NEVER, |(_, until)| until);
        due.min(lingers)
    }

    fn judge(&mut self, now: Time, verdict: Verdict) {
        if verdict == self.verdict {
            return;
        }
        let before = core::mem::replace(&mut self.verdict, verdict);
        let to = match self.state {
            State::Probing { to, .. } => Some(to),
            _ => self.carries(),
        };
        match (verdict, to) {
            (Verdict::No(_), to) => {
                let said = match before {
                    Verdict::Plain(at) => Some(at),
                    _ => to,
                };
                if let Some(at) = said {
                    // The peer is told, and what is under way is still taken.
                    self.lingers = Some((at, now + LINGER));
                    self.send(now, Ask::Goodbye);
                }
                self.retire(now, None, Time::ZERO);
                self.failures = 0;
            }
            (Verdict::Open(_), _) => {
                if let State::Probing { .. } = self.state {
                    self.retire(now, None, now);
                }
            }
            (Verdict::Plain(at), Some(to)) if at != to => {
                self.lingers = Some((to, now + LINGER));
                self.retire(now, Some(Failure::Moved), now);
            }
            (Verdict::Plain(_), Some(_)) => {}
            // A permission is a new beginning.
            (Verdict::Plain(_), None) => {
                self.failures = 0;
                self.retire(now, None, now);
            }
        }
    }

    fn may_begin(&self) -> bool {
        self.is_wanted && matches!(self.verdict, Verdict::Plain(_))
    }

    fn hear(&mut self, now: Time, probe: &Probe) {
        if probe.boot == self.former_boot && self.former_boot != 0 {
            return;
        }
        if probe.boot != self.heard.boot {
            self.former_boot = self.heard.boot;
            self.heard = Heard {
                boot: probe.boot,
                ..Heard::default()
            };
        } else if probe.number <= self.heard.number {
            // Overtaken or repeated: what it says is old.
            return;
        }
        self.heard.number = probe.number;
        let is_full = probe.size > PROBE_LEN as u16;
        if is_full {
            self.heard.full = probe.number;
        }
        self.heard.at = now;
        self.heard.interval = Duration::from_millis(probe.next_ms.into());
        if probe.carries {
            self.peer_used = Some(now);
        }
        if probe.declines {
            if self.carries().is_some() || matches!(self.state, State::Probing { .. }) {
                self.fail(now, Failure::PeerDeclines);
            }
            return;
        }
        if probe.heard_boot == self.ends.boot {
            let proof = self.ledger.prove(now, probe.heard, probe.heard_full, is_full);
            if let Some(proof) = proof {
                self.on_proof(now, proof);
            }
        }
        if probe.asks && matches!(self.verdict, Verdict::Plain(_)) | self.carries().is_some() {
            self.answer(now, probe.size);
        }
    }

    fn on_proof(&mut self, now: Time, proof: Proof) {
        match self.state {
            State::Degraded { to, .. } | State::RouterSilent { to, .. } if !self.is_suspicious(now) => {
                self.enter(now, State::Fastpath { to });
            }
            State::Probing { to, began } => {
                let (small, full) = self.ledger.proved_since(began);
                if small >= PROOFS && full >= PROOFS {
                    self.enter(now, State::Fastpath { to });
                    self.flip(now);
                }
            }
            // The peer tries, and all of it passes: so shall this end.
            State::SleeveOnly { retry, failed } if proof == Proof::Full && self.may_begin() => {
                let hold = backoff(self.failures) / 4;
                let earliest = match failed {
                    Some(_) => self.since + hold,
                    None => now,
                };
                self.state = State::SleeveOnly {
                    failed,
                    retry: retry.min(earliest.max(now)),
                };
            }
            _ => {}
        }
    }

    /// Does what is due.
    fn run(&mut self, now: Time) {
        let is_busy = self
            .used
            .max(self.peer_used)
            .is_some_and(|last| now.since(last) < USED_FOR);
        if is_busy != self.is_busy {
            (self.is_busy, self.settled) = (is_busy, now);
        }
        if self.lingers.is_some_and(|(_, until)| until <= now) {
            self.lingers = None;
            self.outputs.push_back(Output::Flipped);
        }
        match self.state {
            State::SleeveOnly { retry, .. } => {
                if let Verdict::Plain(to) = self.verdict
                    && self.is_wanted
                    && retry <= now
                {
                    self.enter(now, State::Probing { to, began: now });
                    self.ask_both(now);
                }
            }
            State::Probing { began, .. } if !self.is_wanted || now.since(began) >= PROBING_FOR => {
                match self.is_wanted {
                    true => self.fail(now, self.diagnosis(began)),
                    false => self.retire(now, None, now),
                }
            }
            State::Probing { .. } if self.asked + self.pause() <= now => self.ask_both(now),
            State::Fastpath { .. } if !self.is_wanted => self.retire(now, None, now),
            State::Fastpath { to } => self.run_fast(now, to),
            State::Degraded { to, began, answered } => self.run_degraded(now, to, began, answered),
            State::RouterSilent { began, .. } if now.since(began) >= SILENT_MAX => {
                self.fail(now, Failure::SilentTooLong);
            }
            State::RouterSilent { .. } if self.asked + self.pause() <= now => {
                self.send(now, Ask::Small);
                self.ask_sleeve(now);
            }
            State::Probing { .. } | State::RouterSilent { .. } => {}
        }
    }

    fn run_fast(&mut self, now: Time, to: IpAddr) {
        if self.failures > 0 && now.since(self.since) >= STABLE {
            self.failures = 0;
        }
        if self.is_suspicious(now) {
            self.degrade(now, to);
            return self.run(now);
        }
        if self.ledger.full_unanswered() >= FULL_TRIES {
            return self.fail(now, Failure::FullSizeLost(self.full_size));
        }
        if self.full_due() <= now {
            self.send(now, Ask::Full);
        }
        if self.asked + self.pause() <= now {
            self.send(now, Ask::Small);
        }
    }

    fn run_degraded(&mut self, now: Time, to: IpAddr, began: Time, answered: bool) {
        if !answered && now.since(began) >= SILENT_AFTER {
            self.enter(now, State::RouterSilent { to, began: now });
            return self.run(now);
        }
        if answered && now.since(began) >= WINDOW && self.ledger.unanswered_since(now, began) >= MISSED {
            let failure = match self.heard.at >= began {
                true => Failure::NotHeardThere,
                false => Failure::Died,
            };
            return self.fail(now, failure);
        }
        if !answered && self.asked_sleeve + SLEEVE_PAUSE <= now {
            self.ask_sleeve(now);
        }
        if self.asked + self.pause() <= now {
            self.send(now, Ask::Small);
        }
    }

    fn degrade(&mut self, now: Time, to: IpAddr) {
        self.enter(
            now,
            State::Degraded {
                to,
                began: now,
                answered: false,
            },
        );
        self.asked_sleeve = Time::ZERO;
        self.ask_both(now);
        self.ask_sleeve(now);
    }

    /// How often a probe is sent in this state.
    fn pause(&self) -> Duration {
        match self.state {
            State::Degraded { .. } => FAST,
            State::RouterSilent { .. } => SILENT_PAUSE,
            State::Probing { .. } => INTERVAL,
            State::Fastpath { .. } | State::SleeveOnly { .. } => self.interval(),
        }
    }

    /// How often one is sent while all is well: seldom while neither end has frames.
    fn interval(&self) -> Duration {
        if self.is_busy { INTERVAL } else { IDLE_INTERVAL }
    }

    /// When the want of proofs becomes suspicious: after two that did not come.
    fn suspicious_at(&self) -> Time {
        let interval = match self.state {
            State::Fastpath { .. } => self.interval(),
            _ => INTERVAL,
        };
        // Before it was settled that they are due so often they came more seldom.
        self.ledger.proved().max(self.settled) + interval * 2 + SLACK
    }

    fn is_suspicious(&self, now: Time) -> bool {
        self.suspicious_at() <= now
    }

    fn full_due(&self) -> Time {
        match self.ledger.full_unanswered() {
            0 => self.ledger.proved_full() + FULL_INTERVAL,
            _ => self.asked_full + INTERVAL,
        }
        .max(self.asked_full + INTERVAL)
    }

    fn ask_both(&mut self, now: Time) {
        self.send(now, Ask::Small);
        self.send(now, Ask::Full);
    }

    fn ask_sleeve(&mut self, now: Time) {
        self.asked_sleeve = now;
        self.outputs.push_back(Output::AskSleeve);
    }

    fn answer(&mut self, now: Time, size: u16) {
        let (began, count) = &mut self.answers;
        if now.since(*began) >= Duration::from_secs(1) {
            (*began, *count) = (now, 0);
        }
        *count += 1;
        if *count <= ANSWERS_A_SECOND {
            self.send(
                now,
                match size > PROBE_LEN as u16 {
                    true => Ask::AnswerFull,
                    false => Ask::Answer,
                },
            );
        }
    }

    fn send(&mut self, now: Time, ask: Ask) {
        let size = match ask {
            Ask::Full | Ask::AnswerFull => self.full_size.max(PROBE_LEN as u16 + 1),
            Ask::Small | Ask::Answer | Ask::Goodbye => PROBE_LEN as u16,
        };
        let asks = matches!(ask, Ask::Small | Ask::Full);
        let is_full = size > PROBE_LEN as u16;
        if asks {
            self.asked = now;
        }
        if asks && is_full {
            self.asked_full = now;
        }
        let number = self.ledger.sent(now, asks, is_full);
        // Whole milliseconds of at most ten seconds.
        let next_ms = self.pause().as_millis() as u16;
        self.outputs.push_back(Output::Send(Probe {
            from: self.ends.us,
            to: self.ends.them,
            asks,
            carries: self.carries().is_some() && self.used.is_some_and(|used| now.since(used) < USED_FOR),
            declines: ask == Ask::Goodbye,
            next_ms,
            size,
            boot: self.ends.boot,
            number,
            heard_boot: self.heard.boot,
            heard: self.heard.number,
            heard_full: self.heard.full,
        }));
    }

    /// What a try came to.
    fn diagnosis(&self, began: Time) -> Failure {
        match self.ledger.proved_since(began) {
            (0, 0) if self.heard.at < began || self.heard.at == Time::ZERO => Failure::NothingHeard,
            (0, 0) => Failure::NotHeardThere,
            (_, 0) => Failure::FullSizeLost(self.full_size),
            _ => Failure::Lossy,
        }
    }

    fn fail(&mut self, now: Time, failure: Failure) {
        self.failures = self.failures.saturating_add(1);
        self.retire(now, Some(failure), now + backoff(self.failures));
    }

    /// Back to the sleeve, or staying there.
    fn retire(&mut self, now: Time, failed: Option<Failure>, retry: Time) {
        let carried = self.carries().is_some();
        self.enter(now, State::SleeveOnly { failed, retry });
        if carried {
            self.flip(now);
        } else {
            // Who is let in may have changed.
            self.outputs.push_back(Output::Flipped);
        }
    }

    fn flip(&mut self, now: Time) {
        self.flipped = now;
        self.flips = self.flips.saturating_add(1);
        self.outputs.push_back(Output::Flipped);
    }

    fn enter(&mut self, now: Time, state: State) {
        self.state = state;
        self.since = now;
    }
}

/// What a probe is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    Small,
    Full,
    Answer,
    AnswerFull,
    Goodbye,
}

/// How long a path that failed so often in a row is left alone.
pub fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(8);
    (BACKOFF_MIN * (1 << doublings)).min(BACKOFF_MAX)
}

impl Failure {
    /// In words, with `port` for the UDP port of VXLAN.
    pub fn describe(self, port: u16) -> String {
        match self {
            Self::NothingHeard => {
                format!(
                    "nothing comes from it on UDP port {port}: a packet filter on the way drops it, or it does not send"
                )
            }
            Self::NotHeardThere => {
                format!(
                    "what is sent to it on UDP port {port} does not arrive, although it is heard: a packet filter drops it on the way there"
                )
            }
            Self::FullSizeLost(size) => {
                format!(
                    "the largest frames, {size} octets, do not pass on UDP port {port}, although small ones do: the path has a smaller MTU"
                )
            }
            Self::Lossy => format!("some probes on UDP port {port} pass and others do not"),
            Self::Died => format!("UDP port {port} worked and then did not, while the sleeve did"),
            Self::PeerDeclines => "it takes no unencrypted frames from this host".to_string(),
            Self::SilentTooLong => "nothing was heard from it for an hour, on any path".to_string(),
            Self::Moved => "it is seen at another address than before".to_string(),
        }
    }
}

impl Why {
    /// In words, with `port` for the UDP port of VXLAN.
    pub fn describe(&self, port: u16) -> String {
        match self {
            Self::Refused(refusal) => refusal.describe(),
            Self::Lacks(lacks) => lacks.describe().to_string(),
            Self::NoTraffic => "no frames for it lately".to_string(),
            Self::Probing => format!("UDP port {port} is being tried"),
            Self::Failed(failure) => failure.describe(port),
            Self::New => format!("UDP port {port} is about to be tried"),
        }
    }
}
