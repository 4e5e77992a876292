//! The work queue: services by name, each at most once, never two passes over one at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Retry};
use crate::ids::ServiceName;
use crate::runtime::Moment;

/// How long after a first failure a pass is made again; each further one waits twice as long, …
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// … up to this. What could not be reached, or was busy, is asked again soon: a member may be down for as long.
const SOON: Duration = Duration::from_millis(3_200);
/// … up to this, where asking is what does harm (a rate limit, a quota), or cannot help (a refusal).
const LATE: Duration = Duration::from_millis(12_800);

/// How long a pass waits that has failed for the `attempt`-th time in a row, with `error` last.
pub(super) fn delay(error: &Error, attempt: u32) -> Duration {
    let longest = match (error.retry(), error.kind()) {
        (Retry::Never, _) | (_, ErrorKind::Throttled | ErrorKind::QuotaExceeded) => LATE,
        (Retry::Backoff | Retry::After(_), _) => SOON,
    };
    let doubled =
        FIRST_DELAY.saturating_mul(1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    match error.retry() {
        Retry::After(asked) => doubled.min(longest).max(asked),
        Retry::Never | Retry::Backoff => doubled.min(longest),
    }
}

/// Services that wait for a pass.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<ServiceName>,
    queued: BTreeSet<ServiceName>,
    running: BTreeSet<ServiceName>,
    /// Hinted at while a pass was running: looked at again after it.
    again: BTreeSet<ServiceName>,
    /// When each is looked at again without a hint.
    scheduled: BTreeMap<ServiceName, Moment>,
    failures: BTreeMap<ServiceName, Failures>,
}

/// Passes over a service that failed in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failures {
    /// How many, from 1.
    pub count: u32,
    /// When the first of them did.
    pub since: Moment,
}

impl Queue {
    /// How many services wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks for a pass over `service`. Asking twice before it begins is asking once.
    pub fn push(&self, service: ServiceName) {
        let mut state = self.lock();
        if state.running.contains(&service) {
            state.again.insert(service);
        } else if state.queued.insert(service.clone()) {
            state.waiting.push_back(service);
            drop(state);
            self.woken.notify_one();
        }
    }

    /// The next service to look at. The caller says how the pass was with [`succeeded`](Self::succeeded) or
    /// [`failed`](Self::failed), and then that it is [`over`](Self::over).
    pub async fn next(&self) -> ServiceName {
        loop {
            let woken = self.woken.notified();
            if let Some(service) = self.take() {
                return service;
            }
            woken.await;
        }
    }

    /// The pass did what there was to do.
    pub fn succeeded(&self, service: &ServiceName) {
        self.lock().failures.remove(service);
    }

    /// The pass has failed just now.
    pub fn failed(&self, service: &ServiceName, now: Moment) -> Failures {
        let mut state = self.lock();
        let failures = state.failures.entry(service.clone()).or_insert(Failures { count: 0, since: now });
        failures.count += 1;
        *failures
    }

    /// Notes that a later look is due then; `false` if one is due sooner, which takes its place.
    pub(super) fn schedule(&self, service: &ServiceName, due: Moment) -> bool {
        let mut state = self.lock();
        if state.scheduled.get(service).is_some_and(|sooner| *sooner <= due) {
            return false;
        }
        state.scheduled.insert(service.clone(), due);
        true
    }

    /// The time has come for the look that was due then, unless another has taken its place.
    pub(super) fn is_due(&self, service: &ServiceName, due: Moment) {
        let mut state = self.lock();
        if state.scheduled.get(service) == Some(&due) {
            state.scheduled.remove(service);
            drop(state);
            self.push(service.clone());
        }
    }

    fn take(&self) -> Option<ServiceName> {
        let mut state = self.lock();
        let service = state.waiting.pop_front()?;
        state.queued.remove(&service);
        state.running.insert(service.clone());
        if !state.waiting.is_empty() {
            // Another worker may have been passed over by a single wake-up.
            self.woken.notify_one();
        }
        Some(service)
    }

    /// The pass is over: the next one may begin.
    pub fn over(&self, service: &ServiceName) {
        let again = {
            let mut state = self.lock();
            state.running.remove(service);
            state.again.remove(service)
        };
        if again {
            self.push(service.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind) -> Error {
        Error::new(kind, "swarm", "apply", "orders", "no")
    }

    #[test]
    fn what_could_not_be_reached_is_asked_again_soon_and_what_was_asked_too_often_later() {
        let delays =
            |error: &Error| [1, 2, 5, 6, 7, 40, u32::MAX].map(|attempt| delay(error, attempt).as_millis());
        assert_eq!(delays(&failed(ErrorKind::Unavailable)), [200, 400, 3200, 3200, 3200, 3200, 3200]);
        assert_eq!(delays(&failed(ErrorKind::Busy)), [200, 400, 3200, 3200, 3200, 3200, 3200]);
        for late in [ErrorKind::Throttled, ErrorKind::QuotaExceeded, ErrorKind::Denied, ErrorKind::Internal] {
            assert_eq!(delays(&failed(late)), [200, 400, 3200, 6400, 12_800, 12_800, 12_800], "{late:?}");
        }
        let asked = failed(ErrorKind::Throttled).with_retry(Retry::After(Duration::from_secs(30)));
        assert_eq!(delays(&asked), [30_000; 7]);
    }

    #[test]
    fn a_service_is_scheduled_once_for_the_sooner_of_two_times() {
        let at = |seconds| Moment::from_zero(Duration::from_secs(seconds));
        let (queue, service): (Queue, ServiceName) = (Queue::default(), "orders".parse().unwrap());
        assert!(queue.schedule(&service, at(10)));
        assert!(!queue.schedule(&service, at(11)), "it is looked at before");
        assert!(queue.schedule(&service, at(2)));
        queue.is_due(&service, at(2));
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.take(), Some(service.clone()));
        queue.succeeded(&service);
        queue.is_due(&service, at(10));
        assert!(queue.is_empty(), "another took its place");
        assert!(queue.schedule(&service, at(11)));
    }
}
