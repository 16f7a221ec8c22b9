//! At most one event of a kind a second.

use std::time::{Duration, Instant};

/// How long an event keeps its like away.
pub(crate) const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Keys remembered at once. Unauthenticated senders can be many: above this, new ones wait.
const KEYS_MAX: usize = 64;

/// Lets each key pass once an [`EVENT_INTERVAL`], and no more than [`KEYS_MAX`] keys in one.
pub(crate) struct Limit<K> {
    passed: Vec<(K, Instant)>,
}

impl<K: PartialEq> Limit<K> {
    pub(crate) fn new() -> Self {
        Self {
            passed: Vec::with_capacity(KEYS_MAX),
        }
    }

    /// True when the key may pass now.
    pub(crate) fn pass(&mut self, key: K, now: Instant) -> bool {
        self.passed
            .retain(|(_, at)| now.saturating_duration_since(*at) < EVENT_INTERVAL);
        if self.passed.len() == KEYS_MAX || self.passed.iter().any(|(k, _)| *k == key) {
            return false;
        }
        self.passed.push((key, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_passes_once_an_interval() {
        let mut limit = Limit::new();
        let start = Instant::now();
        assert!(limit.pass(1, start));
        assert!(!limit.pass(1, start + EVENT_INTERVAL / 2));
        assert!(limit.pass(2, start + EVENT_INTERVAL / 2));
        assert!(limit.pass(1, start + EVENT_INTERVAL));
    }

    #[test]
    fn many_keys_are_bounded() {
        let mut limit = Limit::new();
        let now = Instant::now();
        assert_eq!((0..1_000).filter(|key| limit.pass(*key, now)).count(), KEYS_MAX);
        assert!(limit.pass(1_000, now + EVENT_INTERVAL));
    }
}
