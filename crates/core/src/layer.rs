//! Decorators around the backends: what every call needs, written once.
//!
//! A [`Layer`] is one generic function around a call. [`Layered`] puts it around a backend and is that contract
//! itself, so layers stack. [`stack`] puts them in their order, outermost first: [`Trace`] → [`Retry`] →
//! [`Timeout`] → [`CapabilityCheck`] → backend. Each failure is tried again in one place: `Retry` repeats only
//! what cannot do harm, and all else goes up to the workflow, which looks again.

mod check;
mod contracts;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
mod retry;
mod timeout;
mod trace;

#[cfg(test)]
mod tests;

use std::fmt::{self, Debug, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use check::{CapabilityCheck, Limits};
pub use retry::{Retry, RetryLimits};
pub use timeout::Timeout;
pub use trace::{CallCounter, CallCounters, Trace};

use crate::error::Result;
use crate::runtime::Environment;

/// Whether a call can change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It only looks.
    Read,
    /// It may change something.
    Write,
}

/// What a call asks of the backend beyond the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// To store a value of this many bytes.
    ValueBytes(usize),
    /// To keep SRV records.
    ServiceRecords,
    /// To make a volume larger.
    Growth,
}

/// A call of a backend, as layers see it.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The instance.
    pub backend: &'a (dyn Display + Send + Sync),
    /// The contract, in snake case (`metadata`).
    pub contract: &'static str,
    /// The method.
    pub operation: &'static str,
    /// Whether it can change anything.
    pub access: Access,
    /// What it is about; empty if it is about everything.
    pub subject: &'a (dyn Display + Send + Sync),
    /// What it asks beyond the contract.
    pub needs: Needs,
}

impl Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} {} on {}", self.contract, self.operation, self.subject, self.backend)
    }
}

/// Something done around every call.
pub trait Layer: Debug + Send + Sync + 'static {
    /// Makes the call, by `attempt`: not at all, once, or several times.
    fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> impl Future<Output = Result<T>> + Send + 'a
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a;
}

/// Two layers as one. A backend in one such layer has its calls boxed once, however many layers that is, and once for
/// each in layers put around it one by one.
#[derive(Debug)]
pub struct Around<O, I> {
    outer: O,
    inner: I,
}

impl<O, I> Around<O, I> {
    /// `outer` around `inner`.
    pub fn new(outer: O, inner: I) -> Self {
        Around { outer, inner }
    }
}

impl<O: Layer, I: Layer> Layer for Around<O, I> {
    fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> impl Future<Output = Result<T>> + Send + 'a
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        self.outer.call(call, move || self.inner.call(call, attempt))
    }
}

/// A backend with a layer around it: the same contract again.
#[derive(Debug)]
pub struct Layered<B: ?Sized, L> {
    inner: Arc<B>,
    layer: L,
}

impl<B: ?Sized, L> Layered<B, L> {
    /// `layer` around `inner`.
    pub fn new(inner: Arc<B>, layer: L) -> Self {
        Layered { inner, layer }
    }
}

impl<B: Display + ?Sized, L> Display for Layered<B, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A contract that layers fit around: `dyn MetadataDb`, `dyn Registry`, `dyn VolumeProvider`, `dyn SnapshotProvider`,
/// `dyn IpProvider` and `dyn Orchestrator`.
pub trait Contract: Display + Send + Sync + 'static {
    /// Its name in calls and counters.
    const NAME: &'static str;
    /// Its methods that are calls.
    const OPERATIONS: &'static [&'static str];

    /// What the declared capabilities leave out.
    fn limits(&self) -> Limits;

    /// This backend with a layer around it.
    fn wrap<L: Layer>(self: Arc<Self>, layer: L) -> Arc<Self>;
}

/// How long a call may take, and how it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StackOptions {
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How attempts are repeated.
    pub retry: RetryLimits,
}

impl Default for StackOptions {
    fn default() -> Self {
        StackOptions { timeout: Duration::from_secs(10), retry: RetryLimits::default() }
    }
}

/// `backend` with every layer around it, in order.
pub fn stack<B: Contract + ?Sized>(
    backend: Arc<B>,
    options: StackOptions,
    environment: &Environment,
    counters: &CallCounters,
) -> Arc<B> {
    let check = CapabilityCheck::new(backend.limits());
    let timeout = Timeout::new(options.timeout, environment.clone());
    let retry = Retry::new(options.retry, environment.clone(), counters.clone());
    let trace = Trace::new(environment.clone(), counters.clone());
    backend.wrap(Around::new(trace, Around::new(retry, Around::new(timeout, check))))
}
