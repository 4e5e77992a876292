//! What must hold whatever goes wrong, judged by what really happened and never by what is recorded of it.

mod data;
mod leaks;
mod membership;
mod moves;
mod names;
mod pace;
mod primary_name;
mod records;
mod writers;
mod writes;

use crate::model::Fact;
use crate::run::{Scenario, Violation};
use crate::time::Time;
use crate::world::State;

/// A rule. It sees every fact, in order, with the world as it is right after.
pub trait Rule: Send {
    /// Its id, as reports name it: `S1`.
    fn id(&self) -> &'static str;

    /// What it says, in a line.
    fn says(&self) -> &'static str;

    /// Judges a fact.
    ///
    /// # Errors
    /// How the rule is broken.
    fn fact(&mut self, at: Time, fact: &Fact, state: &State) -> Result<(), String>;

    /// Judges the end of the run.
    ///
    /// # Errors
    /// How the rule is broken.
    fn end(&mut self, _at: Time, _state: &State) -> Result<(), String> {
        Ok(())
    }
}

/// The rules that come with the simulator.
pub fn built_in(scenario: &Scenario) -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(writers::SingleWriter::default()),
        Box::new(writers::OneIncarnation::default()),
        Box::new(records::Monotone::default()),
        Box::new(records::RecordFirst::new(scenario)),
        Box::new(data::IdentityAndVolume::default()),
        Box::new(names::Names::default()),
        Box::new(primary_name::PrimaryName::default()),
        Box::new(data::Addresses),
        Box::new(moves::NoNeed::new(scenario)),
        Box::new(records::Once::default()),
        Box::new(moves::Primaries::default()),
        Box::new(writes::Acknowledged::new(scenario)),
        Box::new(writes::Chosen::new(scenario)),
        Box::new(pace::Pace::default()),
        Box::new(membership::Membership::default()),
        Box::new(membership::Forgotten::new(scenario)),
        Box::new(leaks::Leaks),
    ]
}

/// Holds every rule against what happens.
pub struct Judge {
    rules: Vec<Box<dyn Rule>>,
    seen: usize,
    violations: Vec<Violation>,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").field("violations", &self.violations).finish_non_exhaustive()
    }
}

impl Judge {
    /// The built-in rules and these.
    pub fn new(scenario: &Scenario, more: Vec<Box<dyn Rule>>) -> Self {
        let mut rules = built_in(scenario);
        rules.extend(more);
        Judge { rules, seen: 0, violations: Vec::new() }
    }

    /// Judges what is new.
    pub fn look(&mut self, state: &State) {
        let facts = state.cloud.truth.facts();
        for (at, fact) in facts.iter().skip(self.seen) {
            for rule in &mut self.rules {
                if let Err(text) = rule.fact(*at, fact, state) {
                    self.violations.push(Violation { rule: rule.id().to_owned(), at: *at, text });
                }
            }
        }
        self.seen = facts.len();
    }

    /// Judges the end.
    pub fn at_end(&mut self, at: Time, state: &State) {
        self.look(state);
        if !self.violations.is_empty() {
            // A run that was broken off is not at its end.
            return;
        }
        for rule in &mut self.rules {
            if let Err(text) = rule.end(at, state) {
                self.violations.push(Violation { rule: rule.id().to_owned(), at, text });
            }
        }
    }

    /// Notes that something else did not hold.
    pub fn violated(&mut self, at: Time, rule: &str, text: String) {
        self.violations.push(Violation { rule: rule.to_owned(), at, text });
    }

    /// Whether the run is worth going on with.
    pub fn goes_on(&self, scenario: &Scenario) -> bool {
        scenario.all_violations || self.violations.is_empty()
    }

    /// What did not hold.
    pub fn into_violations(self) -> Vec<Violation> {
        self.violations
    }
}
