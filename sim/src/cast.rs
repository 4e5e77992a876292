//! What takes part in a run beside what ships: programs, models and rules of one's own.
//!
//! A run is made anew from its [`Cast`] every time, so everything in it is a way to make something.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use steadfast_core::backends::Backends;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::runtime::Environment;
use steadfast_core::store::Store;

use crate::invariant::Rule;
use crate::model::{Fact, Truth};
use crate::time::Time;
use crate::world::{Answer, Ask, Caller};

/// A backend of one's own: a plain state machine, asked through [`Seat::call`].
///
/// It joins everything that the built-in models take part in: its calls have keys, latencies and faults, are
/// enumerated, and stand in the trace.
pub trait Model: Any + fmt::Debug + Send {
    /// When something happens in it by itself next.
    fn next_due(&self) -> Option<Time> {
        None
    }

    /// Lets that happen. What rules shall judge is noted in `truth`, as [`Fact::Own`].
    fn advance(&mut self, _now: Time, _truth: &mut Truth) {}
}

/// What a program works with: its place in the simulated world.
#[derive(Debug, Clone)]
pub struct Seat {
    pub(crate) caller: Caller,
    pub(crate) env: Environment,
    pub(crate) store: Store,
    pub(crate) backends: Backends,
}

impl Seat {
    /// Time, randomness and tasks. What a program takes from anywhere else makes its runs differ.
    pub fn env(&self) -> &Environment {
        &self.env
    }

    /// The records.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Volumes, addresses, names and nodes.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Waits for a call, but no longer than `patience`: one that is lost never returns.
    ///
    /// # Errors
    /// What the call says; `Unavailable` if it has not returned by then, whether it has happened being unknown.
    pub async fn within<T>(&self, patience: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.env.timeout(patience, call).await {
            Some(answer) => answer,
            None => {
                let text = format!("no answer within {} s", patience.as_secs_f64());
                Err(Error::new(ErrorKind::Unavailable, "simulator", "call", self.caller.actor(), text))
            }
        }
    }

    /// Asks a model of one's own. A call that may have changed it is noted as [`Fact::Own`], so that rules look. `effect`
    /// may be carried out late, twice, or without the answer being heard; the call may never return, so it belongs
    /// [`within`](Self::within) some patience, like a real one.
    ///
    /// # Errors
    /// What `effect` says, a fault, or `NotFound` if the run has no such model.
    pub async fn call<M: Model, R: Answer>(
        &self,
        ask: Ask<'_>,
        effect: impl Fn(&mut M, Time) -> Result<R> + Send + Sync + 'static,
    ) -> Result<R> {
        let (operation, resource, writes) = (ask.operation, ask.resource.to_string(), ask.writes);
        let carried_out = move |cloud: &mut crate::model::Cloud, now: Time| {
            let Some(model) = cloud.own_mut::<M>() else {
                let text = "the run has no such model";
                return Err(
                    Error::new(ErrorKind::NotFound, "simulator", operation, "", text).without_effect()
                );
            };
            let answer = effect(model, now);
            if writes && answer.is_ok() {
                let text = format!("{operation} {resource}");
                cloud.truth.note(now, Fact::Own { text });
            }
            answer
        };
        self.caller.call(ask, carried_out).await
    }
}

type Start = Arc<dyn Fn(Seat) -> BoxFuture<'static, ()> + Send + Sync>;

/// A program of one's own: started with the run, and again whenever a fault has ended it.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) start: Start,
}

/// What takes part in a run beside what ships. Cheap to clone.
#[derive(Clone, Default)]
pub struct Cast {
    pub(crate) programs: Vec<Program>,
    models: Vec<Arc<dyn Fn() -> Box<dyn Model> + Send + Sync>>,
    rules: Vec<Arc<dyn Fn() -> Box<dyn Rule> + Send + Sync>>,
}

impl Cast {
    /// Nothing but what ships.
    pub fn new() -> Self {
        Cast::default()
    }

    /// With a program. Its future is a process: a crash drops it wherever it waits, with everything it has spawned
    /// through its environment, and `start` is called anew after the scenario's `restart_ms`.
    #[must_use]
    pub fn program<F>(mut self, name: &str, start: impl Fn(Seat) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let start: Start = Arc::new(move |seat| Box::pin(start(seat)));
        self.programs.push(Program { name: name.to_owned(), start });
        self
    }

    /// With a backend of one's own.
    #[must_use]
    pub fn model<M: Model>(mut self, make: impl Fn() -> M + Send + Sync + 'static) -> Self {
        self.models.push(Arc::new(move || Box::new(make())));
        self
    }

    /// With a rule beside the built-in ones.
    #[must_use]
    pub fn rule<R: Rule + 'static>(mut self, make: impl Fn() -> R + Send + Sync + 'static) -> Self {
        self.rules.push(Arc::new(move || Box::new(make())));
        self
    }

    pub(crate) fn make_models(&self) -> Vec<Box<dyn Model>> {
        self.models.iter().map(|make| make()).collect()
    }

    pub(crate) fn make_rules(&self) -> Vec<Box<dyn Rule>> {
        self.rules.iter().map(|make| make()).collect()
    }
}

impl fmt::Debug for Cast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let programs: Vec<&str> = self.programs.iter().map(|program| program.name.as_str()).collect();
        f.debug_struct("Cast").field("programs", &programs).finish_non_exhaustive()
    }
}
