//! A span and a count for every call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Instrument as _;

use super::{Call, Contract, Layer};
use crate::error::{Effect, Result};
use crate::ip::IpProvider;
use crate::metadata::MetadataDb;
use crate::orchestrator::Orchestrator;
use crate::registry::Registry;
use crate::runtime::{Environment, Moment};
use crate::snapshot::SnapshotProvider;
use crate::volume::VolumeProvider;

/// What became of the calls of one operation. Each number only grows.
#[derive(Debug, Default)]
pub struct CallCounter {
    /// Calls that were begun.
    pub started: AtomicU64,
    /// Calls that were answered; a lost race is an answer.
    pub succeeded: AtomicU64,
    /// Calls that failed, known to have had no effect.
    pub failed_without_effect: AtomicU64,
    /// Calls that failed and may have happened.
    pub failed_unknown: AtomicU64,
    /// Calls whose caller went away before the end.
    pub abandoned: AtomicU64,
    /// Attempts after the first of a call.
    pub repeated: AtomicU64,
    /// The time that ended calls took, in nanoseconds.
    pub nanoseconds: AtomicU64,
}

/// The counters of every operation of every contract. Clones count together.
#[derive(Debug, Clone)]
pub struct CallCounters(Arc<BTreeMap<(&'static str, &'static str), CallCounter>>);

impl CallCounters {
    /// All at zero.
    #[expect(
        clippy::new_without_default,
        reason = "counters apart from the process's own are made knowingly"
    )]
    pub fn new() -> Self {
        let mut counters = BTreeMap::new();
        add::<dyn MetadataDb>(&mut counters);
        add::<dyn Registry>(&mut counters);
        add::<dyn VolumeProvider>(&mut counters);
        add::<dyn SnapshotProvider>(&mut counters);
        add::<dyn IpProvider>(&mut counters);
        add::<dyn Orchestrator>(&mut counters);
        CallCounters(Arc::new(counters))
    }

    /// Every counter as `(contract, operation, counter)`, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, &CallCounter)> {
        self.0.iter().map(|((contract, operation), counter)| (*contract, *operation, counter))
    }

    /// The counter of one operation.
    pub fn get(&self, contract: &'static str, operation: &'static str) -> Option<&CallCounter> {
        self.0.get(&(contract, operation))
    }

    pub(super) fn repeated(&self, call: &Call<'_>) {
        if let Some(counter) = self.get(call.contract, call.operation) {
            counter.repeated.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn add<C: Contract + ?Sized>(counters: &mut BTreeMap<(&'static str, &'static str), CallCounter>) {
    counters.extend(C::OPERATIONS.iter().map(|operation| ((C::NAME, *operation), CallCounter::default())));
}

/// Gives every call a span and counts it: the one place where backend calls are measured.
#[derive(Debug)]
pub struct Trace {
    environment: Environment,
    counters: CallCounters,
}

impl Trace {
    /// Counts in `counters`.
    pub fn new(environment: Environment, counters: CallCounters) -> Self {
        Trace { environment, counters }
    }
}

impl Layer for Trace {
    async fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        let Call { backend, contract, operation, subject, .. } = call;
        let span = tracing::debug_span!("backend_call", contract, operation, %backend, %subject);
        let measured = async {
            let Some(counter) = self.counters.get(contract, operation) else { return attempt().await };
            let under_way = UnderWay::begin(counter, &self.environment);
            let result = attempt().await;
            under_way.end(&result);
            if let Err(error) = &result {
                tracing::debug!(kind = ?error.kind(), effect = ?error.effect(), error = %error.chain(), "failed");
            }
            result
        };
        measured.instrument(span).await
    }
}

/// A call that has begun; counted as abandoned unless it ends.
struct UnderWay<'a> {
    counter: &'a CallCounter,
    environment: &'a Environment,
    begun: Moment,
    ended: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(counter: &'a CallCounter, environment: &'a Environment) -> Self {
        counter.started.fetch_add(1, Ordering::Relaxed);
        UnderWay { counter, environment, begun: environment.clock().monotonic(), ended: false }
    }

    fn end<T>(mut self, result: &Result<T>) {
        let counter = match result.as_ref().map_err(|error| error.effect()) {
            Ok(_) => &self.counter.succeeded,
            Err(Effect::None) => &self.counter.failed_without_effect,
            Err(Effect::Unknown) => &self.counter.failed_unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let took = self.environment.clock().monotonic().since(self.begun);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counter.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.ended = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.counter.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}
