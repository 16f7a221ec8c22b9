//! Token buckets.
//!
//! Every broadcast and multicast frame costs its sender one frame and the cluster one for each host, so one pod could
//! load all hosts with a small part of its own link. The rates leave room for all that hosts do by themselves (ARP,
//! neighbour discovery, mDNS, DHCP, also when a hundred pods start at once) and for multicast streams.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Frames to a MAC address that nobody is known to have: the first asks where it is, two more make up for loss, and
/// whatever then follows in the same second waits for the answer.
pub(crate) const UNKNOWN: Rate = Rate {
    a_second: 3,
    burst: 3,
};
/// Broadcast and multicast frames of one source address. 2,000 full frames are a stream of 24 Mbit/s; two seconds of
/// that may come at once.
pub(crate) const SOURCE: Rate = Rate {
    a_second: 2_000,
    burst: 4_000,
};
/// Copies of such frames that the host makes for others. Sealing and sending one takes about 5 µs, so this is a
/// fifth of a core; the burst is what one second of it allows.
pub(crate) const HOST: Rate = Rate {
    a_second: 40_000,
    burst: 40_000,
};
/// Copies of frames of groups, for hosts that asked for them: about half a core. A pod that streams to many listeners
/// must not cost more, and takes nothing from the broadcasts of others.
pub(crate) const GROUPS: Rate = Rate {
    a_second: 100_000,
    burst: 100_000,
};
/// Source or destination addresses with a bucket of their own. Above this the rest shares one, so that making up
/// addresses gains nothing.
const KEYS_MAX: usize = 4_096;
/// A full memory is searched for buckets that are full again no more often than this.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// How much passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Tokens that come back in a second.
    pub(crate) a_second: u32,
    /// Tokens of a full bucket.
    pub(crate) burst: u32,
}

/// One bucket, full at first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self {
            tokens: f64::from(rate.burst),
            at: now,
        }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate.a_second);
        self.tokens = (self.tokens + gained).min(f64::from(rate.burst));
        self.at = now;
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.take_many(rate, 1, now)
    }

    /// Takes so many tokens, if there are as many.
    pub(crate) fn take_many(&mut self, rate: Rate, count: u32, now: Instant) -> bool {
        self.fill(rate, now);
        let has = self.tokens >= f64::from(count);
        if has {
            self.tokens -= f64::from(count);
        }
        has
    }
}

/// A bucket for each key, at most [`KEYS_MAX`].
pub(crate) struct Buckets<K> {
    rate: Rate,
    buckets: HashMap<K, Bucket>,
    /// For keys that find no room.
    rest: Option<Bucket>,
    purged: Option<Instant>,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: HashMap::new(),
            rest: None,
            purged: None,
        }
    }

    /// Takes one token of this key, if it has one.
    pub(crate) fn take(&mut self, key: K, now: Instant) -> bool {
        self.take_many(key, 1, now)
    }

    /// Takes so many tokens of this key, if it has as many.
    pub(crate) fn take_many(&mut self, key: K, count: u32, now: Instant) -> bool {
        let rate = self.rate;
        if let Some(bucket) = self.buckets.get_mut(&key) {
            return bucket.take_many(rate, count, now);
        }
        if !self.has_room(now) {
            return self
                .rest
                .get_or_insert_with(|| Bucket::full(rate, now))
                .take_many(rate, count, now);
        }
        let mut bucket = Bucket::full(rate, now);
        let passed = bucket.take_many(rate, count, now);
        self.buckets.insert(key, bucket);
        passed
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let due = self
            .purged
            .is_none_or(|at| now.saturating_duration_since(at) >= PURGE_INTERVAL);
        if self.buckets.len() >= KEYS_MAX && due {
            self.purged = Some(now);
            let rate = self.rate;
            // A full bucket is what a new one would be.
            self.buckets.retain(|_, bucket| {
                bucket.fill(rate, now);
                bucket.tokens < f64::from(rate.burst)
            });
        }
        self.buckets.len() < KEYS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        a_second: 10,
        burst: 20,
    };

    fn passed(buckets: &mut Buckets<u32>, key: u32, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| buckets.take(key, now)).count()
    }

    #[test]
    fn a_burst_passes_then_the_rate() {
        let mut buckets = Buckets::new(RATE);
        let start = Instant::now();
        assert_eq!(passed(&mut buckets, 1, 100, start), 20);
        assert_eq!(passed(&mut buckets, 2, 5, start), 5, "another key has its own");
        assert_eq!(
            passed(&mut buckets, 1, 100, start + Duration::from_millis(500)),
            5
        );
        assert_eq!(passed(&mut buckets, 1, 100, start + Duration::from_secs(100)), 20);
        assert_eq!(
            passed(&mut buckets, 1, 1, start),
            0,
            "a time that went back gives nothing"
        );
    }

    #[test]
    fn many_keys_share_what_is_left() {
        let mut buckets = Buckets::new(RATE);
        let now = Instant::now();
        let all = 2 * KEYS_MAX as u32;
        let first: usize = (0..all).map(|key| passed(&mut buckets, key, 1, now)).sum();
        assert_eq!(first, KEYS_MAX + RATE.burst as usize);
        assert_eq!(buckets.buckets.len(), KEYS_MAX);
        let later = now + Duration::from_secs(3);
        assert!(buckets.take(all, later));
        assert_eq!(buckets.buckets.len(), 1, "full ones made room");
    }
}
