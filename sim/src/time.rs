//! Virtual time: microseconds since the run began.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point of virtual time, the same for the whole simulated world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// The beginning of the run.
    pub const ZERO: Time = Time(0);

    /// So many microseconds after the beginning.
    pub fn from_micros(micros: u64) -> Self {
        Time(micros)
    }

    /// So many milliseconds after the beginning.
    pub fn from_millis(millis: u64) -> Self {
        Time(millis.saturating_mul(1000))
    }

    /// So many seconds after the beginning.
    pub fn from_secs(secs: u64) -> Self {
        Time::from_millis(secs.saturating_mul(1000))
    }

    /// Microseconds since the beginning.
    pub fn micros(self) -> u64 {
        self.0
    }

    /// Milliseconds since the beginning, rounded down.
    pub fn millis(self) -> u64 {
        self.0 / 1000
    }

    /// This long after this.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Time(self.0.saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX)))
    }

    /// So many milliseconds after this.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Time(self.0.saturating_add(millis.saturating_mul(1000)))
    }

    /// The time from `earlier` to this; zero if that is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
