//! What a figure should be: a bar that it must clear, and a moonshot. Both are shown, and neither is asserted.

use serde::Serialize;
use std::fmt;

/// A limit on one side.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// More is better.
    AtLeast(f64),
    /// Less is better.
    AtMost(f64),
}

impl Bound {
    /// Whether a value keeps to it.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    /// The number.
    #[must_use]
    pub fn limit(self) -> f64 {
        match self {
            Self::AtLeast(limit) | Self::AtMost(limit) => limit,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
        }
    }
}

/// What a figure should be.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Goal {
    /// What it must be.
    pub bar: Bound,
    /// What it could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moonshot: Option<Bound>,
}

/// How much of a goal is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// Not even the bar.
    Nothing,
    /// The bar.
    Bar,
    /// The bar and the moonshot.
    Moonshot,
}

impl Goal {
    /// More is better.
    #[must_use]
    pub const fn at_least(bar: f64, moonshot: f64) -> Self {
        Self {
            bar: Bound::AtLeast(bar),
            moonshot: Some(Bound::AtLeast(moonshot)),
        }
    }

    /// Less is better.
    #[must_use]
    pub const fn at_most(bar: f64, moonshot: f64) -> Self {
        Self {
            bar: Bound::AtMost(bar),
            moonshot: Some(Bound::AtMost(moonshot)),
        }
    }

    /// Less is better, and nobody asks for more than the bar.
    #[must_use]
    pub const fn limit(bar: f64) -> Self {
        Self {
            bar: Bound::AtMost(bar),
            moonshot: None,
        }
    }

    /// How much of it a value reaches.
    #[must_use]
    pub fn reached(self, value: f64) -> Reached {
        if !self.bar.holds(value) {
            Reached::Nothing
        } else if self.moonshot.is_some_and(|moonshot| moonshot.holds(value)) {
            Reached::Moonshot
        } else {
            Reached::Bar
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "no",
            Self::Bar => "bar",
            Self::Moonshot => "moonshot",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_better_or_less_is_and_the_limit_itself_is_enough() {
        let more = Goal::at_least(0.65, 0.85);
        let reached = [0.64, 0.65, 0.84, 0.85].map(|value| more.reached(value));
        assert_eq!(
            reached,
            [Reached::Nothing, Reached::Bar, Reached::Bar, Reached::Moonshot]
        );
        let less = Goal::at_most(2.1, 1.7);
        let reached = [2.2, 2.1, 1.8, 1.7].map(|value| less.reached(value));
        assert_eq!(
            reached,
            [Reached::Nothing, Reached::Bar, Reached::Bar, Reached::Moonshot]
        );
        assert_eq!(Goal::limit(60.0).reached(1.0), Reached::Bar);
    }

    #[test]
    fn what_was_not_measured_reaches_nothing() {
        assert_eq!(Goal::at_least(0.0, 1.0).reached(f64::NAN), Reached::Nothing);
        assert_eq!(Goal::at_most(1.0, 0.5).reached(f64::NAN), Reached::Nothing);
    }
}
