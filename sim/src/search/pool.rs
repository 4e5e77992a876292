//! Carrying cases out: one run a thread, and of each only what is worth keeping.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::case::{Case, CaseError};
use super::library;
use super::sites::{Calls, Folded, first_calls};
use super::state;
use crate::fault::{Fired, Planned};
use crate::run::{Ending, Outcome, Scenario, Timings, Violation, run};
use crate::time::Time;

/// Carries out a scenario; the simulator's own [`run`], or one with more rules, or with a bug planted.
pub type Carry = dyn Fn(&Scenario) -> Result<Outcome, String> + Sync;

/// What is worth keeping of a run.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The rules that did not hold.
    pub violations: Vec<Violation>,
    /// The hash of the trace.
    pub hash: u64,
    /// The faults that fired.
    pub fired: Vec<Fired>,
    /// The planned faults that did not: nobody made such a call while things could go wrong.
    pub missing: Vec<Planned>,
    /// What was left.
    pub ending: Ending,
    /// The first call at every folded site that was made while things could go wrong, in the workflow's own time.
    pub reached: BTreeMap<Folded, Calls>,
    /// What of [`state::SOMETIMES`] has happened.
    pub sometimes: BTreeSet<&'static str>,
    /// The (step, class, state) of every fault.
    pub tuples: BTreeSet<u64>,
    /// How many calls there were.
    pub calls: u64,
    /// Times.
    pub timings: Timings,
}

/// The rule that a run breaks in which our code panics.
pub const PANIC: &str = "PANIC";

impl Verdict {
    /// Whether this rule was broken first: what comes after may be its consequence.
    pub fn broke(&self) -> Option<&str> {
        self.violations.first().map(|violation| violation.rule.as_str())
    }

    pub(super) fn of(case: &Case, scenario: &Scenario, outcome: &Outcome) -> Self {
        let from = library::find(&case.scenario).map_or(0, |reference| reference.from_ms);
        let (from, until) = (Time::from_millis(from), Time::from_millis(scenario.storm_ms));
        Verdict {
            reached: first_calls(outcome, from, until),
            violations: outcome.violations.clone(),
            hash: outcome.hash,
            missing: missing(case, &outcome.fired),
            fired: outcome.fired.clone(),
            ending: outcome.ending.clone(),
            sometimes: state::reached(outcome),
            tuples: state::tuples(outcome),
            calls: outcome.timings.calls,
            timings: outcome.timings.clone(),
        }
    }

    pub(super) fn panicked(why: &(dyn Any + Send)) -> Self {
        let text = why
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "it panicked".to_owned());
        Verdict {
            violations: vec![Violation { rule: PANIC.to_owned(), at: Time::ZERO, text }],
            hash: 0,
            fired: Vec::new(),
            missing: Vec::new(),
            ending: Ending::default(),
            reached: BTreeMap::new(),
            sometimes: BTreeSet::new(),
            tuples: BTreeSet::new(),
            calls: 0,
            timings: Timings::default(),
        }
    }
}

pub(super) fn missing(case: &Case, fired: &[Fired]) -> Vec<Planned> {
    let fired = |planned: &&Planned| !fired.iter().any(|fired| fired.planned == **planned);
    case.faults.iter().filter(fired).cloned().collect()
}

/// Carries out a case.
///
/// # Errors
/// If it names something that is not there.
pub fn carry_out(case: &Case) -> Result<Verdict, CaseError> {
    carry_out_with(case, &run)
}

/// Carries out a case in a way of one's own.
///
/// # Errors
/// If it names something that is not there.
pub fn carry_out_with(case: &Case, carry: &Carry) -> Result<Verdict, CaseError> {
    let scenario = case.build()?;
    // A panic is a finding; the world of the run is gone with it.
    match catch_unwind(AssertUnwindSafe(|| carry(&scenario))) {
        Ok(Ok(outcome)) => Ok(Verdict::of(case, &scenario, &outcome)),
        Ok(Err(why)) => Err(CaseError::Invalid(why)),
        Err(why) => Ok(Verdict::panicked(&*why)),
    }
}

/// How many runs at once: as many as the machine has processors.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Until when to begin new runs.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    begun: Instant,
    until: Option<Instant>,
}

impl Budget {
    /// So long from now on; none: as long as it takes.
    #[expect(clippy::disallowed_methods, reason = "a budget is real time: no run sees it")]
    pub fn of(limit: Option<Duration>) -> Self {
        let begun = Instant::now();
        Budget { begun, until: limit.and_then(|limit| begun.checked_add(limit)) }
    }

    /// Whether it is spent.
    #[expect(clippy::disallowed_methods, reason = "a budget is real time: no run sees it")]
    pub fn is_spent(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// How long it has been.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Does `work` for every item that has no result yet, as [`over`] does.
pub(super) fn rest<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    budget: &Budget,
    results: &mut [Option<R>],
    work: impl Fn(&T) -> R + Sync,
) {
    let (left, mut places): (Vec<&T>, Vec<&mut Option<R>>) =
        items.iter().zip(results).filter(|(_, result)| result.is_none()).unzip();
    for (result, place) in over(jobs, &left, budget, |item| work(item)).into_iter().zip(&mut places) {
        **place = result;
    }
}

/// Does `work` for every item, on so many threads; what the budget does not reach is `None`. The results are in the
/// order of the items, whatever the threads' was.
pub fn over<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    budget: &Budget,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<Option<R>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let worker = || {
        while !budget.is_spent() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), Some(place)) = (items.get(index), results.get(index)) else { return };
            let result = work(item);
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(worker);
        }
    });
    results.into_iter().map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}
