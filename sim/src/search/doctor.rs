//! The doctor: whether the same case gives the same trace, and where two runs first differ.

use serde::{Deserialize, Serialize};

use super::case::{Case, CaseError};
use super::library;
use super::pool::Carry;
use super::random;
use crate::cast::{Cast, Seat};
use crate::fault::{Class, RandomFaults};
use crate::hash;
use crate::run::{Outcome, run_with};
use crate::trace::Trace;

/// A run, as it is compared with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// The hash of the trace.
    pub hash: u64,
    /// How long it is.
    pub entries: usize,
    /// The hashes after each [`Trace::CHECKPOINT`] entries.
    pub checkpoints: Vec<u64>,
}

/// A banned source of what differs from run to run, planted to see whether it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Planted {
    /// The order of a hash map with random keys.
    HashOrder,
    /// The machine's clock.
    Clock,
}

/// The cases to repeat: drawn from the library, with faults at random.
pub fn cases(count: usize, seed: u64) -> Vec<Case> {
    let draw = |nth: usize, what: u64| hash::draw(seed, what, u64::try_from(nth).unwrap_or(u64::MAX));
    let of = |word: u64, count: usize| usize::try_from(word).unwrap_or(0) % count.max(1);
    let make = |nth: usize| {
        let reference = library::ALL.get(of(draw(nth, 1) >> 8, library::ALL.len()))?;
        let profiles: Vec<&str> =
            library::PROFILES.iter().copied().filter(|name| reference.is_for(name)).collect();
        let profile = profiles.get(of(draw(nth, 2) >> 8, profiles.len()))?;
        let mut case = Case::new(reference.name, profile, draw(nth, 3));
        case.change.schedule = Some(random::schedule(draw(nth, 5), draw(nth, 6)));
        case.random = Some(RandomFaults {
            seed: draw(nth, 4),
            per_100k: 200,
            classes: Class::ALL.to_vec(),
            from_ms: 0,
            until_ms: 1_000_000,
        });
        Some(case)
    };
    (0..count).filter_map(make).collect()
}

/// The way to carry cases out, with a banned source in it or none.
pub fn carry(planted: Option<Planted>) -> Box<Carry> {
    let cast = match planted {
        None => Cast::new(),
        Some(Planted::HashOrder) => Cast::new().program("planted", by_hash_order),
        Some(Planted::Clock) => Cast::new().program("planted", by_clock),
    };
    Box::new(move |scenario| run_with(scenario, &cast))
}

#[expect(clippy::disallowed_types, reason = "planted: this is what the doctor has to find")]
async fn by_hash_order(seat: Seat) {
    let zones: std::collections::HashSet<u64> = (0..64).collect();
    for number in zones {
        seat.env().clock().sleep(std::time::Duration::from_millis(20_000 + number)).await;
        look(&seat).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "planted: this is what the doctor has to find")]
async fn by_clock(seat: Seat) {
    loop {
        seat.env().clock().sleep(std::time::Duration::from_secs(20)).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let micros = now.map_or(0, |since| u64::from(since.subsec_micros()));
        seat.env().clock().sleep(std::time::Duration::from_millis(micros % 1000)).await;
        look(&seat).await;
    }
}

/// Asks for the nodes: a call that stands in the trace.
async fn look(seat: &Seat) {
    // What they are does not matter here, only that it is asked.
    seat.backends().orchestrator.nodes().await.ok();
}

/// Carries a case out on a thread that nothing has run on before.
///
/// # Errors
/// If it names something that is not there.
pub fn on_fresh_thread(case: &Case, carry: &Carry) -> Result<Outcome, CaseError> {
    let scenario = case.build()?;
    let carried = std::thread::scope(|scope| scope.spawn(|| carry(&scenario)).join());
    match carried {
        Ok(outcome) => outcome.map_err(CaseError::Invalid),
        Err(_) => Err(CaseError::Invalid(format!("{} panicked on {}", case.scenario, case.profile))),
    }
}

impl Print {
    /// The print of a run.
    pub fn of(outcome: &Outcome) -> Self {
        let checkpoints = outcome.checkpoints.clone();
        Print { hash: outcome.hash, entries: outcome.trace.len(), checkpoints }
    }

    /// From which entry on two runs may differ: the last checkpoint that they share.
    pub fn shared(&self, other: &Print) -> usize {
        let same = self.checkpoints.iter().zip(&other.checkpoints).take_while(|(left, right)| left == right);
        same.count() * Trace::CHECKPOINT
    }
}

/// What happened in a run from one entry on, for people.
pub fn events_of(outcome: &Outcome, from: usize) -> Vec<String> {
    let told = outcome.trace.iter().skip(from).map(|entry| match outcome.facts.get(entry.nth as usize) {
        Some((at, fact)) if entry.site == crate::trace::FACT => format!("{at} {fact:?}"),
        _ => Trace::describe(entry, &outcome.sites),
    });
    told.collect()
}

/// Where two runs first differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The index in both traces.
    pub entry: usize,
    /// What happened in one run.
    pub one: String,
    /// What happened in the other.
    pub other: String,
}

/// The first event in which two runs differ, of those from entry `from` on; none: they are the same.
pub fn divergence(from: usize, one: &[String], other: &[String]) -> Option<Divergence> {
    let nothing = "nothing more".to_owned();
    (0..one.len().max(other.len()))
        .map(|index| (index, one.get(index).unwrap_or(&nothing), other.get(index).unwrap_or(&nothing)))
        .find(|(_, one, other)| one != other)
        .map(|(index, one, other)| Divergence { entry: from + index, one: one.clone(), other: other.clone() })
}
