//! A clock that follows tokio's paused time.

use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;

use crate::memory::Shared;
use crate::runtime::{Clock, Moment, Timestamp};

/// Monotonic time is tokio's, paused or not, from 0; the wall clock begins on 1 January 2026 and can be set.
#[derive(Debug)]
pub struct TestClock {
    zero: tokio::time::Instant,
    ahead: Shared<SignedDuration>,
}

/// 2026-01-01T00:00:00Z, in seconds.
const BEGIN: i64 = 1_767_225_600;

impl TestClock {
    /// A clock at its zero.
    #[expect(clippy::disallowed_methods, reason = "tokio's paused time is this clock's source")]
    #[expect(clippy::new_without_default, reason = "reading a clock should be visible where it is done")]
    pub fn new() -> Self {
        TestClock { zero: tokio::time::Instant::now(), ahead: Shared::new(SignedDuration::ZERO) }
    }

    /// Moves the wall clock forward or back, as an operator or a time server would. Monotonic time does not
    /// move.
    pub fn jump(&self, by: SignedDuration) {
        self.ahead.with(|ahead| *ahead = ahead.saturating_add(by));
    }

    /// Sets the wall clock. Monotonic time does not move.
    pub fn set_wall(&self, to: Timestamp) {
        self.jump(to.duration_since(self.wall()));
    }

    #[expect(clippy::disallowed_methods, reason = "tokio's paused time is this clock's source")]
    fn passed(&self) -> Duration {
        tokio::time::Instant::now().saturating_duration_since(self.zero)
    }
}

#[async_trait]
impl Clock for TestClock {
    fn wall(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.passed()).unwrap_or(SignedDuration::MAX);
        let since_begin = passed.saturating_add(self.ahead.with(|ahead| *ahead));
        let begin = Timestamp::constant(BEGIN, 0);
        begin.saturating_add(since_begin).unwrap_or(begin)
    }

    fn monotonic(&self) -> Moment {
        Moment::from_zero(self.passed())
    }

    #[expect(clippy::disallowed_methods, reason = "tokio's paused time is this clock's source")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_jumps_and_the_monotonic_one_does_not() {
        let clock = TestClock::new();
        assert_eq!(clock.wall().to_string(), "2026-01-01T00:00:00Z");
        clock.sleep(Duration::from_secs(5)).await;
        assert_eq!(clock.wall().to_string(), "2026-01-01T00:00:05Z");
        clock.jump(SignedDuration::from_secs(-65));
        assert_eq!(clock.wall().to_string(), "2025-12-31T23:59:00Z");
        assert_eq!(clock.monotonic(), Moment::from_zero(Duration::from_secs(5)));
        clock.set_wall("2030-06-01T12:00:00Z".parse().unwrap());
        clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(clock.wall().to_string(), "2030-06-01T12:00:01Z");
        assert_eq!(clock.monotonic(), Moment::from_zero(Duration::from_secs(6)));
    }
}
