//! Tries again what cannot do harm.

use std::time::Duration;

use super::{Access, Call, CallCounters, Layer};
use crate::error::{self, Effect, Error, ErrorKind, Result};
use crate::runtime::Environment;

/// How attempts are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryLimits {
    /// How many attempts there are in all, at least 1.
    pub attempts: u32,
    /// The wait before the second attempt; each further wait is twice as long.
    pub first_wait: Duration,
    /// The longest wait. A backend that asks for a longer one is not asked again here.
    pub longest_wait: Duration,
}

impl Default for RetryLimits {
    fn default() -> Self {
        RetryLimits {
            attempts: 4,
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(2),
        }
    }
}

/// Repeats reads, and writes known to have had no effect, that failed as `Unavailable` or `Throttled`.
///
/// Other failures are answers about the subject (`Busy`, `Stale`, `QuotaExceeded`…): the caller decides on
/// them, and waits where that can be seen. A write that may have happened is never repeated.
#[derive(Debug)]
pub struct Retry {
    limits: RetryLimits,
    environment: Environment,
    counters: CallCounters,
}

impl Retry {
    /// Repeats within `limits`, counting the repetitions.
    pub fn new(limits: RetryLimits, environment: Environment, counters: CallCounters) -> Self {
        Retry { limits, environment, counters }
    }

    /// How long to wait before the next attempt; none: there is none.
    fn wait(&self, access: Access, error: &Error, attempts: u32) -> Option<Duration> {
        let harmless = access == Access::Read || error.effect() == Effect::None;
        let passing = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Throttled);
        if !harmless || !passing || attempts >= self.limits.attempts {
            return None;
        }
        let RetryLimits { first_wait, longest_wait, .. } = self.limits;
        match error.retry() {
            error::Retry::Never => None,
            error::Retry::Backoff => {
                let doubled = first_wait.saturating_mul(1_u32.checked_shl(attempts - 1).unwrap_or(u32::MAX));
                Some(self.jittered(doubled.min(longest_wait)))
            }
            error::Retry::After(wait) if wait > longest_wait => None,
            // Asked to wait this long, we wait no less; the spread keeps many callers apart.
            error::Retry::After(wait) => Some(wait + self.jittered(first_wait)),
        }
    }

    /// Between half of `wait` and all of it.
    fn jittered(&self, wait: Duration) -> Duration {
        let share = u32::try_from(self.environment.entropy().u64() % 1001).unwrap_or(1000);
        wait / 2 + wait / 2 * share / 1000
    }
}

impl Layer for Retry {
    async fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        let mut attempts = 1;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(wait) = self.wait(call.access, &error, attempts) else { return Err(error) };
            tracing::debug!(?wait, attempts, error = %error.chain(), "trying again");
            self.counters.repeated(&call);
            self.environment.clock().sleep(wait).await;
            attempts += 1;
        }
    }
}
