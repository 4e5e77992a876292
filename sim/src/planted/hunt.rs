//! Hunting a planted bug.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{BUSY, Planted, references};
use crate::fault::{Class, Plan, Planned, RandomFaults};
use crate::run::{Outcome, Scenario, Violation, run};
use crate::search::Case;
use crate::search::sites::{calls, strong};
use crate::time::Time;

/// How long a hunt may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// In all, of real time.
    pub time: Duration,
    /// How many runs, at most.
    pub runs: usize,
}

/// What found a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A reference scenario, without any fault of a call.
    Reference,
    /// One fault at one call.
    Enumeration,
    /// Faults at random.
    Random,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            How::Reference => "reference",
            How::Enumeration => "enumeration",
            How::Random => "random",
        })
    }
}

/// What a bug was found by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// How.
    pub how: How,
    /// The rule that was broken.
    pub violation: Violation,
    /// The run: with its plan, and the bug planted.
    pub scenario: Scenario,
}

impl Found {
    /// The run by its name, as plan files keep it.
    pub fn case(&self) -> Case {
        let Scenario { name, profile, seed, plan, planted, .. } = &self.scenario;
        Case {
            faults: plan.faults.clone(),
            random: plan.random.clone(),
            planted: planted.clone(),
            ..Case::new(name, &profile.name, *seed)
        }
    }
}

/// A hunt, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hunt {
    /// The bug.
    pub bug: Planted,
    /// What found it; none: it was not found.
    pub found: Option<Found>,
    /// How many runs it took.
    pub runs: usize,
    /// How long it took, in milliseconds of real time.
    pub took_ms: u64,
    /// Runs that broke a rule without the bug, too: what is wrong there is no planted bug.
    pub innocent: Vec<Found>,
}

struct Hunter {
    bug: Planted,
    budget: Budget,
    begun: Instant,
    runs: usize,
    innocent: Vec<Found>,
}

/// Looks for a bug, until it is found or the budget is used up.
///
/// # Errors
/// If this build has no planted bugs.
pub fn hunt(bug: Planted, budget: Budget) -> Result<Hunt, String> {
    #[expect(clippy::disallowed_methods, reason = "how long a hunt takes is no part of what is simulated")]
    let begun = Instant::now();
    let mut hunter = Hunter { bug, budget, begun, runs: 0, innocent: Vec::new() };
    let found = hunter.search()?;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Hunt { bug, found, runs: hunter.runs, took_ms, innocent: hunter.innocent })
}

impl Hunter {
    fn is_over(&self) -> bool {
        self.runs >= self.budget.runs || self.begun.elapsed() >= self.budget.time
    }

    fn search(&mut self) -> Result<Option<Found>, String> {
        let mut busy: BTreeMap<usize, (Scenario, Outcome)> = BTreeMap::new();
        for scenario in references() {
            if self.is_over() {
                return Ok(None);
            }
            let place = BUSY.iter().position(|name| *name == scenario.name);
            let (outcome, found) = self.try_one(scenario.clone(), How::Reference)?;
            if found.is_some() {
                return Ok(found);
            }
            if let Some(place) = place {
                busy.insert(place, (scenario, outcome));
            }
        }
        if let Some(found) = self.enumerate(busy.values())? {
            return Ok(Some(found));
        }
        for seed in 0.. {
            for (scenario, _) in busy.values() {
                if self.is_over() {
                    return Ok(None);
                }
                let (_, found) = self.try_one(at_random(scenario, seed), How::Random)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// One fault at one call, over all scenarios by turns.
    fn enumerate<'a>(
        &mut self,
        busy: impl Iterator<Item = &'a (Scenario, Outcome)>,
    ) -> Result<Option<Found>, String> {
        let mut lists: Vec<_> = busy
            .map(|(scenario, outcome)| (scenario, single_faults(scenario, outcome).into_iter()))
            .collect();
        while !lists.is_empty() {
            let mut left = Vec::new();
            for (scenario, mut faults) in lists {
                if self.is_over() {
                    return Ok(None);
                }
                let Some(planned) = faults.next() else { continue };
                let plan = Plan { faults: vec![planned], random: None };
                let (_, found) = self.try_one(Scenario { plan, ..scenario.clone() }, How::Enumeration)?;
                if found.is_some() {
                    return Ok(found);
                }
                left.push((scenario, faults));
            }
            lists = left;
        }
        Ok(None)
    }

    /// A run with the bug; what it broke, if the same does not happen without.
    fn try_one(&mut self, scenario: Scenario, how: How) -> Result<(Outcome, Option<Found>), String> {
        let scenario = Scenario { planted: vec![self.bug], ..scenario };
        self.runs += 1;
        let outcome = run(&scenario)?;
        let Some(violation) = outcome.violations.first().cloned() else { return Ok((outcome, None)) };
        let without = run(&Scenario { planted: Vec::new(), ..scenario.clone() })?;
        self.runs += 1;
        let found = Found { how, violation, scenario };
        if without.broke(&found.violation.rule) {
            self.innocent.push(found);
            return Ok((outcome, None));
        }
        Ok((outcome, Some(found)))
    }
}

/// The classes, those that find most first.
const CLASSES: [Class; 9] = [
    Class::MissedEvent,
    Class::LateEffect,
    Class::CrashAfter,
    Class::Pause,
    Class::Slow,
    Class::ResponseLost,
    Class::Unavailable,
    Class::StaleRead,
    Class::Duplicate,
];

/// When the environment of the references begins to misbehave.
const TROUBLE_MS: u64 = 28_000;

/// Each class of fault at a few calls of every folded site, first where there is trouble.
fn single_faults(scenario: &Scenario, outcome: &Outcome) -> Vec<Planned> {
    let end = Time::from_millis(scenario.storm_ms);
    let trouble = Time::from_millis(TROUBLE_MS);
    let spans = [calls(outcome, trouble, end), calls(outcome, Time::ZERO, trouble)];
    let mut all: Vec<Planned> = Vec::new();
    // One call of each site for every class; then more of them.
    for most in [1, 2] {
        for class in CLASSES {
            for (site, calls) in spans.iter().flatten() {
                if class.applies(&site.operation, calls.writes, calls.local) {
                    let chosen = calls.chosen(class, most).into_iter().skip(most - 1);
                    all.extend(chosen.map(|key| strong(class, key.clone())));
                }
            }
        }
    }
    all
}

fn at_random(scenario: &Scenario, seed: u64) -> Scenario {
    let random = RandomFaults {
        seed,
        per_100k: [150, 400, 1_000][usize::try_from(seed % 3).unwrap_or(0)],
        classes: CLASSES.to_vec(),
        from_ms: 0,
        until_ms: scenario.storm_ms,
    };
    let plan = Plan { faults: Vec::new(), random: Some(random) };
    Scenario { plan, seed: scenario.seed + seed, ..scenario.clone() }
}
