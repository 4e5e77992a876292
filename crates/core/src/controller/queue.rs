//! The work queue: services by name, each at most once, never two passes over one at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ids::ServiceName;

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
    scheduled: BTreeSet<ServiceName>,
    failures: BTreeMap<ServiceName, u32>,
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

    /// The next service to look at. The caller says with [`succeeded`](Self::succeeded) or
    /// [`failed`](Self::failed) that the pass is over.
    pub async fn next(&self) -> ServiceName {
        loop {
            let woken = self.woken.notified();
            if let Some(service) = self.take() {
                return service;
            }
            woken.await;
        }
    }

    /// The pass is over.
    pub fn succeeded(&self, service: &ServiceName) {
        self.lock().failures.remove(service);
        self.finish(service);
    }

    /// The pass is over and failed: how often in a row, from 1.
    pub fn failed(&self, service: &ServiceName) -> u32 {
        let attempt = {
            let mut state = self.lock();
            let count = state.failures.entry(service.clone()).or_default();
            *count += 1;
            *count
        };
        self.finish(service);
        attempt
    }

    /// Marks that a later look is on its way; `false` if one is already.
    pub(super) fn schedule(&self, service: &ServiceName) -> bool {
        self.lock().scheduled.insert(service.clone())
    }

    pub(super) fn unschedule(&self, service: &ServiceName) {
        self.lock().scheduled.remove(service);
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

    fn finish(&self, service: &ServiceName) {
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
