//! Clocks: a monotonic one for decisions, a wall clock for people.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

/// A wall-clock time, for people and records only. No decision compares those of two machines.
pub type Timestamp = jiff::Timestamp;

/// A point on one process's monotonic clock, which runs on through suspend. Meaningless elsewhere, so it is
/// never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The moment this long after the clock's zero.
    pub fn from_zero(since: Duration) -> Self {
        Moment(since)
    }

    /// The time since the clock's zero.
    pub fn since_zero(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to this; zero if that is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `after` later.
    #[must_use]
    pub fn plus(self, after: Duration) -> Moment {
        Moment(self.0.saturating_add(after))
    }
}

/// A source of time.
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall clock: for what people read.
    fn wall(&self) -> Timestamp;

    /// The monotonic clock: for every decision.
    ///
    /// # Behavior
    /// - Never goes back, and runs on while the machine is suspended (`CLOCK_BOOTTIME`).
    fn monotonic(&self) -> Moment;

    /// Returns once `duration` has passed on the monotonic clock.
    ///
    /// # Behavior
    /// - Dropping the future ends the wait and has no other effect.
    async fn sleep(&self, duration: Duration);
}

/// The clocks of the machine, with tokio's timers.
#[derive(Debug)]
pub struct SystemClock {
    boot: Boot,
}

impl SystemClock {
    /// The machine's clocks.
    #[expect(
        clippy::new_without_default,
        reason = "reading the machine's clock should be visible where it is done"
    )]
    pub fn new() -> Self {
        SystemClock { boot: Boot::new() }
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Moment {
        Moment(self.boot.now())
    }

    #[expect(clippy::disallowed_methods, reason = "this is where the real timer comes in")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Boot;

#[cfg(target_os = "linux")]
impl Boot {
    fn new() -> Self {
        Boot
    }

    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        )
    }
}

/// Elsewhere than on Linux (where the library still builds, for its clients) the monotonic clock may stop
/// while the machine sleeps.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
struct Boot(std::time::Instant);

#[cfg(not(target_os = "linux"))]
impl Boot {
    #[expect(clippy::disallowed_methods, reason = "this is where the real clock comes in")]
    fn new() -> Self {
        Boot(std::time::Instant::now())
    }

    #[expect(clippy::disallowed_methods, reason = "this is where the real clock comes in")]
    fn now(&self) -> Duration {
        std::time::Instant::now().saturating_duration_since(self.0)
    }
}
