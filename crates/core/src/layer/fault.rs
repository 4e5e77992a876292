//! Faults on purpose: whether a call happened, and whether its caller heard, are two different things.
//!
//! ```
//! # use std::sync::Arc;
//! use steadfast_core::layer::fault::{Fault, Faults};
//! use steadfast_core::metadata::{MetadataDb, memory::MemoryDb};
//!
//! let faults = Faults::new();
//! let db: Arc<dyn MetadataDb> = faults.around(Arc::new(MemoryDb::new()));
//! faults.once(|call| call.operation == "put", Fault::LostReply);
//! // … the next put is applied, and fails as if nobody knew …
//! # drop(db);
//! assert_eq!(faults.unfired(), 1, "a fault that never fired tests nothing");
//! ```

use std::fmt;
use std::future::pending;
use std::sync::Arc;

use super::{Call, Contract, Layer};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Shared;

/// How a call goes wrong.
///
/// | | the caller hears what happened | hears that it is not known | hears nothing |
/// |---|---|---|---|
/// | it happened | no fault | [`LostReply`](Fault::LostReply) | [`Stalled`](Fault::Stalled) |
/// | it did not | [`Refused`](Fault::Refused) | [`LostRequest`](Fault::LostRequest) | [`Swallowed`](Fault::Swallowed) |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It did not happen, and the caller is told so, with this kind.
    Refused(ErrorKind),
    /// It did not happen, and the caller is told that it is not known.
    LostRequest,
    /// It happened, and the caller is told that it is not known. If it failed by itself, the caller hears that.
    LostReply,
    /// It happened, and the caller waits for ever.
    Stalled,
    /// It did not happen, and the caller waits for ever.
    Swallowed,
    /// It was made twice, and the caller hears of the second time: a repetition hidden below.
    Repeated,
}

/// Which calls go wrong. Clones are handles on the same schedule; one may be around several backends.
#[derive(Debug, Clone)]
pub struct Faults(Shared<Schedule>);

#[derive(Default)]
struct Schedule {
    rules: Vec<Rule>,
    fired: u64,
}

struct Rule {
    matches: Box<dyn Fn(&Call<'_>) -> bool + Send>,
    /// How many matching calls go well before.
    skip: u32,
    /// How many go wrong then; none: all.
    left: Option<u32>,
    fault: Fault,
}

impl Faults {
    /// No faults yet.
    #[expect(clippy::new_without_default, reason = "a schedule is made knowingly")]
    pub fn new() -> Self {
        Faults(Shared::new(Schedule::default()))
    }

    /// `backend` with these faults around it.
    pub fn around<B: Contract + ?Sized>(&self, backend: Arc<B>) -> Arc<B> {
        backend.wrap(self.clone())
    }

    /// The next call that matches goes wrong.
    pub fn once(&self, matches: impl Fn(&Call<'_>) -> bool + Send + 'static, fault: Fault) {
        self.after(0, 1, matches, fault);
    }

    /// Of the calls that match, `skip` go well and then `times` go wrong.
    pub fn after(
        &self,
        skip: u32,
        times: u32,
        matches: impl Fn(&Call<'_>) -> bool + Send + 'static,
        fault: Fault,
    ) {
        self.add(Rule { matches: Box::new(matches), skip, left: Some(times), fault });
    }

    /// Every call that matches goes wrong, until [`clear`](Self::clear).
    pub fn always(&self, matches: impl Fn(&Call<'_>) -> bool + Send + 'static, fault: Fault) {
        self.add(Rule { matches: Box::new(matches), skip: 0, left: None, fault });
    }

    /// From now on nothing goes wrong.
    pub fn clear(&self) {
        self.0.with(|schedule| schedule.rules.clear());
    }

    /// How many calls have gone wrong.
    pub fn fired(&self) -> u64 {
        self.0.with(|schedule| schedule.fired)
    }

    /// How many scheduled faults have not fired yet, those without an end left out.
    pub fn unfired(&self) -> u32 {
        self.0.with(|schedule| schedule.rules.iter().filter_map(|rule| rule.left).sum())
    }

    fn add(&self, rule: Rule) {
        self.0.with(|schedule| schedule.rules.push(rule));
    }

    fn next(&self, call: &Call<'_>) -> Option<Fault> {
        self.0.with(|schedule| {
            let fault = schedule.rules.iter_mut().find_map(|rule| rule.fire(call))?;
            schedule.fired += 1;
            Some(fault)
        })
    }
}

impl Rule {
    fn fire(&mut self, call: &Call<'_>) -> Option<Fault> {
        if self.left == Some(0) || !(self.matches)(call) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.left = self.left.map(|left| left - 1);
        Some(self.fault)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").field("rules", &self.rules.len()).field("fired", &self.fired).finish()
    }
}

impl Layer for Faults {
    async fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        let failure = |kind, message| Error::new(kind, call.backend, call.operation, call.subject, message);
        let Some(fault) = self.next(&call) else { return attempt().await };
        tracing::debug!(?fault, ?call, "goes wrong on purpose");
        match fault {
            Fault::Refused(kind) => Err(failure(kind, "refused on purpose").without_effect()),
            Fault::LostRequest => Err(failure(ErrorKind::Unavailable, "the request was lost on purpose")),
            Fault::LostReply => {
                attempt().await?;
                Err(failure(ErrorKind::Unavailable, "the reply was lost on purpose"))
            }
            Fault::Stalled => {
                attempt().await?;
                pending().await
            }
            Fault::Swallowed => pending().await,
            Fault::Repeated => {
                attempt().await?;
                attempt().await
            }
        }
    }
}
