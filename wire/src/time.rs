//! The clock reading that shells pass into cores.

use core::fmt;
use core::ops::Add;
use core::time::Duration;

/// A reading of a monotonic clock: nanoseconds since an arbitrary start that is the same for one process.
///
/// Cores compare and add; they never read a clock. Wall-clock time is never used for a decision, so a
/// host whose date is hours off behaves like any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);
    /// Later than every reading: the deadline of a timer that is off.
    pub const NEVER: Time = Time(u64::MAX);

    /// A reading `elapsed` after the start of the clock; saturates after 584 years.
    pub fn from_start(elapsed: Duration) -> Self {
        Self(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since the start of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since the start of the clock.
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// How long before `self` was `earlier`; zero when `earlier` is not earlier.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, rhs: Duration) -> Time {
        Time(
            self.0
                .saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.since_start())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Time::NEVER + Duration::from_secs(1), Time::NEVER);
        assert_eq!(
            Time::ZERO.since(Time::from_start(Duration::from_secs(1))),
            Duration::ZERO
        );
        assert_eq!(
            (Time::ZERO + Duration::from_millis(3)).since(Time::ZERO),
            Duration::from_millis(3)
        );
    }
}
