//! Random choices. Each subject throws its own dice, so that a change to one does not disturb the others.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use std::time::Duration;
use weft_wire::hash::derive;

/// A row of random choices that a seed and a subject's name decide.
pub(crate) struct Dice(ChaCha20Rng);

impl Dice {
    /// The dice of one subject.
    pub(crate) fn new(seed: u64, subject: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_be_bytes());
        Self(ChaCha20Rng::from_seed(derive(&key, subject)))
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// From 0 up to but not including `limit`; 0 when there is nothing to choose from.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // The bias of a remainder of 64 bits is of no concern here.
        (self.0.next_u64() % (limit.max(1) as u64)) as usize
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// From 0 up to but not including 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time between two numbers of seconds.
    pub(crate) fn seconds(&mut self, [low, high]: [f64; 2]) -> Duration {
        Duration::from_secs_f64(low + (high - low).max(0.0) * self.fraction())
    }

    /// A time between two numbers of milliseconds.
    pub(crate) fn millis(&mut self, [low, high]: [f64; 2]) -> Duration {
        self.seconds([low / 1e3, high / 1e3])
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 32 octets, as a node or a key grows from.
    pub(crate) fn octets(&mut self) -> [u8; 32] {
        let mut octets = [0; 32];
        self.0.fill_bytes(&mut octets);
        octets
    }

    /// The generator itself, for what asks for one.
    pub(crate) fn generator(&mut self) -> &mut ChaCha20Rng {
        &mut self.0
    }
}
