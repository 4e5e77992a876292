//! What came of a run.

use serde::{Deserialize, Serialize};

use super::ending::Ending;
use crate::fault::Fired;
use crate::invariant::Judge;
use crate::key::Site;
use crate::model::Fact;
use crate::time::Time;
use crate::trace::{Entry, Trace};
use crate::world::World;

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The rule's id.
    pub rule: String,
    /// When it was broken.
    pub at: Time,
    /// How.
    pub text: String,
}

/// How long things took, and what they cost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// From the end of the storm to the desired state, in milliseconds; none: not reached.
    pub healed_ms: Option<u64>,
    /// How often the desired state was lost again after the storm.
    pub relapses: u32,
    /// How long the run was, in milliseconds of its own time.
    pub simulated_ms: u64,
    /// How many calls went through the gate.
    pub calls: u64,
    /// How often tasks were polled.
    pub polls: u64,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The rules that did not hold, in order.
    pub violations: Vec<Violation>,
    /// The hash of the trace.
    pub hash: u64,
    /// The hashes after each thousand entries.
    pub checkpoints: Vec<u64>,
    /// The faults that fired.
    pub fired: Vec<Fired>,
    /// How many planned faults did not.
    pub unfired: usize,
    /// Every call site.
    pub sites: Vec<Site>,
    /// The trace.
    pub trace: Vec<Entry>,
    /// What really happened.
    pub facts: Vec<(Time, Fact)>,
    /// How many writes were acknowledged, and how many failed.
    pub writes: (usize, usize),
    /// What was left at the end.
    pub ending: Ending,
    /// How long things took.
    pub timings: Timings,
}

impl Outcome {
    pub(super) fn of(world: &World, judge: Judge, timings: Timings) -> Self {
        let polls = world.exec().polls();
        let simulated_ms = world.now().millis();
        world.close(|state| {
            let ending = Ending::of(state);
            let facts = state.cloud.truth.take_facts();
            let failed = facts.iter().filter(|(_, fact)| matches!(fact, Fact::WriteFailed { .. })).count();
            let sites = state.sites.take();
            let calls = sites.iter().map(|site| u64::from(site.calls)).sum();
            let (hash, checkpoints, trace) = state.trace.take();
            Outcome {
                violations: judge.into_violations(),
                hash,
                checkpoints,
                fired: state.faults.fired().to_vec(),
                unfired: state.faults.unfired(),
                sites,
                trace,
                writes: (state.cloud.truth.acknowledged.len(), failed),
                facts,
                ending,
                timings: Timings { simulated_ms, calls, polls, ..timings },
            }
        })
    }

    /// Whether a rule of this id was broken.
    pub fn broke(&self, rule: &str) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }

    /// The facts but client writes, one a line, for people.
    pub fn story(&self) -> String {
        let told = |fact: &Fact| {
            !matches!(fact, Fact::Wrote { .. } | Fact::Acknowledged { .. } | Fact::WriteFailed { .. })
        };
        let lines = self.facts.iter().filter(|(_, fact)| told(fact));
        let mut text: String = lines.map(|(at, fact)| format!("{at} {fact:?}\n")).collect();
        for violation in &self.violations {
            text.push_str(&format!("{} BROKEN {}: {}\n", violation.at, violation.rule, violation.text));
        }
        text
    }

    /// The trace of calls, one a line, for people.
    pub fn calls(&self) -> impl Iterator<Item = String> {
        self.trace.iter().map(|entry| Trace::describe(entry, &self.sites))
    }
}
