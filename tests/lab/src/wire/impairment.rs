//! What a wire does to a frame, decided from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::underlay::Port;

/// How much longer than its followers a reordered frame stays: longer than the frames of one burst
/// are apart, shorter than any retransmission timer.
const HOLD_BACK: Duration = Duration::from_millis(5);

/// What a wire does to the frames it carries. Probabilities are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// How long each frame is on the way, at least.
    pub delay: Duration,
    /// How much longer it may be on the way, evenly distributed. Jitter alone changes no order.
    pub jitter: Duration,
    /// The probability that a frame is lost.
    pub loss: f64,
    /// The probability that a frame is held back so that its followers overtake it.
    pub reorder: f64,
    /// The probability that a frame arrives twice.
    pub duplicate: f64,
    /// Where the choices come from. The fate of the n-th frame from one port to another depends on
    /// this, on the two ports and on n, and on nothing else.
    pub seed: u64,
}

impl Impairment {
    /// A wire that does no harm yet.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            seed,
        }
    }

    /// A wire that only delays.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::seeded(0)
        }
    }

    /// A wire that only loses, with this probability.
    #[must_use]
    pub fn loss(loss: f64, seed: u64) -> Self {
        Self {
            loss,
            ..Self::seeded(seed)
        }
    }
}

/// What happens to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It never arrives.
    Lost,
    /// It arrives after a time.
    Arrives {
        after: Duration,
        /// Its followers may overtake it.
        held_back: bool,
        twice: bool,
    },
}

/// The choices for every pair of ports.
#[derive(Debug, Default)]
pub(super) struct Dice {
    seed: u64,
    pairs: BTreeMap<(Port, Port), ChaCha8Rng>,
}

impl Dice {
    /// The fate of the next frame from one port to another.
    pub(super) fn roll(&mut self, impairment: &Impairment, from: Port, to: Port) -> Fate {
        if self.seed != impairment.seed {
            self.pairs.clear();
            self.seed = impairment.seed;
        }
        let seed = self.seed;
        let dice = self.pairs.entry((from, to)).or_insert_with(|| {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            dice.set_stream(u64::from(from) << 32 | u64::from(to));
            dice
        });
        // All are drawn each time, so that changing one setting leaves the other choices as they were.
        let [loss, reorder, duplicate, jitter] = std::array::from_fn(|_| fraction(dice.next_u64()));
        if loss < impairment.loss {
            return Fate::Lost;
        }
        let held_back = reorder < impairment.reorder;
        let extra = if held_back { HOLD_BACK } else { Duration::ZERO };
        Fate::Arrives {
            after: impairment.delay + impairment.jitter.mul_f64(jitter) + extra,
            held_back,
            twice: duplicate < impairment.duplicate,
        }
    }
}

/// A number from 0 up to, not including, 1.
fn fraction(random: u64) -> f64 {
    // The 53 bits that an f64 holds exactly.
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(impairment: &Impairment, from: Port, to: Port) -> Vec<Fate> {
        let mut dice = Dice::default();
        (0..2000).map(|_| dice.roll(impairment, from, to)).collect()
    }

    #[test]
    fn a_seed_fixes_every_choice_and_ports_differ() {
        let impairment = Impairment {
            jitter: Duration::from_millis(3),
            ..Impairment::loss(0.3, 9)
        };
        assert_eq!(fates(&impairment, 0, 1), fates(&impairment, 0, 1));
        assert_ne!(fates(&impairment, 0, 1), fates(&impairment, 1, 0));
        assert_ne!(
            fates(&impairment, 0, 1),
            fates(
                &Impairment {
                    seed: 8,
                    ..impairment
                },
                0,
                1
            )
        );
    }

    #[test]
    fn one_setting_leaves_the_choices_of_the_others() {
        let lossy = Impairment::loss(0.2, 5);
        let both = Impairment {
            duplicate: 0.5,
            ..lossy
        };
        let lost = |fates: Vec<Fate>| fates.iter().map(|fate| *fate == Fate::Lost).collect::<Vec<_>>();
        assert_eq!(lost(fates(&lossy, 2, 1)), lost(fates(&both, 2, 1)));
    }

    #[test]
    fn probabilities_are_met() {
        let impairment = Impairment {
            reorder: 0.1,
            duplicate: 0.4,
            ..Impairment::loss(0.25, 3)
        };
        let fates = fates(&impairment, 0, 1);
        let count = |test: fn(&Fate) -> bool| fates.iter().filter(|fate| test(fate)).count();
        assert!((400..600).contains(&count(|fate| *fate == Fate::Lost)));
        assert!((100..200).contains(&count(|fate| matches!(
            fate,
            Fate::Arrives { held_back: true, .. }
        ))));
        assert!((500..700).contains(&count(|fate| matches!(fate, Fate::Arrives { twice: true, .. }))));
    }
}
