//! What was sent, and which of it is proved.

use super::timing::{ANSWER_WITHIN, LEDGER_MAX};
use alloc::collections::VecDeque;
use core::time::Duration;
use weft_wire::Time;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Entry {
    number: u64,
    at: Time,
    asks: bool,
    is_full: bool,
    /// The peer has heard it.
    is_proved: bool,
    /// It was of full size, and so was what came back.
    is_full_proved: bool,
}

/// What the peer's word proves anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proof {
    /// Small probes pass.
    Small,
    /// Those of full size do.
    Full,
}

/// The last probes sent, in order, at most [`LEDGER_MAX`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Ledger {
    entries: VecDeque<Entry>,
    last: u64,
    proved: Time,
    proved_full: Time,
    round_trip: Option<Duration>,
}

impl Ledger {
    /// Notes a probe that is sent now; its number, from 1.
    pub(super) fn sent(&mut self, now: Time, asks: bool, is_full: bool) -> u64 {
        self.last += 1;
        if self.entries.len() >= LEDGER_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            number: self.last,
            at: now,
            asks,
            is_full,
            is_proved: false,
            is_full_proved: false,
        });
        self.last
    }

    /// The peer has heard these numbers, the latest of any size and the latest of full size, and says so in a frame that
    /// itself is of full size, or small.
    pub(super) fn prove(&mut self, now: Time, any: u64, full: u64, by_full: bool) -> Option<Proof> {
        let mut news = None;
        for number in [any, full] {
            let Some(entry) = self.entries.iter_mut().find(|entry| entry.number == number) else {
                continue;
            };
            if !entry.is_proved {
                entry.is_proved = true;
                self.proved = self.proved.max(entry.at);
                news = news.or(Some(Proof::Small));
                if entry.asks {
                    let sample = now.since(entry.at);
                    self.round_trip = Some(match self.round_trip {
                        None => sample,
                        Some(mean) => (mean * 7 + sample) / 8,
                    });
                }
            }
            if entry.is_full && by_full && !entry.is_full_proved {
                entry.is_full_proved = true;
                self.proved_full = self.proved_full.max(entry.at);
                news = Some(Proof::Full);
            }
        }
        news
    }

    /// When the latest probe was sent that is proved.
    pub(super) fn proved(&self) -> Time {
        self.proved
    }

    /// The same of full size.
    pub(super) fn proved_full(&self) -> Time {
        self.proved_full
    }

    /// Small and full ones that were sent from then on and are proved, those of full size both ways.
    pub(super) fn proved_since(&self, began: Time) -> (u32, u32) {
        let since = || self.entries.iter().filter(move |entry| entry.at >= began);
        let small = since().filter(|entry| entry.is_proved && !entry.is_full).count() as u32;
        (small, since().filter(|entry| entry.is_full_proved).count() as u32)
    }

    /// Those that asked from then on, long enough ago, and are not proved.
    pub(super) fn unanswered_since(&self, now: Time, began: Time) -> u32 {
        let missing = |entry: &&Entry| {
            entry.asks && !entry.is_proved && entry.at >= began && now.since(entry.at) >= ANSWER_WITHIN
        };
        self.entries.iter().filter(missing).count() as u32
    }

    /// Full-size ones that asked after the last proof of one, while later small ones are proved.
    pub(super) fn full_unanswered(&self) -> u32 {
        let missing = |entry: &&Entry| {
            entry.asks && entry.is_full && entry.at > self.proved_full && entry.at < self.proved
        };
        self.entries.iter().filter(missing).count() as u32
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Of those remembered that asked more than a second ago: how many, and how many of them are not proved.
    pub(super) fn lost(&self, now: Time) -> (u32, u32) {
        let asked = || {
            let old = |entry: &&Entry| entry.asks && now.since(entry.at) >= Duration::from_secs(1);
            self.entries.iter().filter(old)
        };
        let missing = asked().filter(|entry| !entry.is_proved).count() as u32;
        (asked().count() as u32, missing)
    }
}
