//! Pairs: a second fault in the wake of the first.
//!
//! Two faults that have nothing to do with each other are two runs of the enumeration. Here the second one befalls a
//! call that may follow from the first: of the same process or about the same member, and soon after it. There are far
//! more such pairs than anybody has time for, so they come in an order drawn from the seed, until the budget is spent.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::case::{Case, CaseError};
use super::enumerate::{self, Failure};
use super::pool::{self, Budget, Carry, carry_out_with};
use super::sites::{calls, strong};
use crate::fault::{Class, Planned};
use crate::hash;
use crate::key::Key;
use crate::run::Outcome;
use crate::time::Time;

/// What to enumerate.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first faults: scenarios, profiles, classes, seed, threads and budget.
    pub first: enumerate::Options,
    /// How long after the first fault the second may come, in milliseconds.
    pub window_ms: u64,
    /// The most second faults for each first one.
    pub per_first: usize,
    /// The most first faults.
    pub most_firsts: usize,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// First faults that second ones were put after.
    pub firsts: usize,
    /// First faults that the bounds did not reach.
    pub left: usize,
    /// Runs with two faults.
    pub pairs: usize,
    /// Of these, runs in which both fired.
    pub both: usize,
    /// What was broken: one case for each rule and pair of calls.
    pub failures: Vec<Failure>,
    /// How many runs broke something.
    pub broken: usize,
    /// How long it took.
    pub elapsed: Duration,
}

/// The classes that leave something half done, which is what a second fault may spoil.
const CLASSES: [Class; 6] = [
    Class::CrashAfter,
    Class::CrashBefore,
    Class::ResponseLost,
    Class::LateEffect,
    Class::Pause,
    Class::Slow,
];

/// Enumerates pairs.
///
/// # Errors
/// If the options name something that is not there.
pub fn enumerate(options: &Options, carry: &Carry) -> Result<Report, CaseError> {
    let budget = Budget::of(options.first.budget);
    let classes = CLASSES.to_vec();
    let first = enumerate::Options { classes, fold: true, fork: false, ..options.first.clone() };
    let mut firsts = enumerate::singles(&first, carry, budget)?;
    firsts.sort_by_key(|case| hash::of_debug(&(options.first.seed, &case.faults, &case.scenario)));
    let beyond = firsts.split_off(options.most_firsts.min(firsts.len()));
    let found = pool::over(options.first.jobs, &firsts, &budget, |case| after(case, options, carry, &budget));
    let mut report = Report { left: beyond.len(), ..Report::default() };
    let mut seen = BTreeSet::new();
    for found in found {
        let Some(found) = found else {
            report.left += 1;
            continue;
        };
        let After { pairs, both, failures } = found?;
        report.firsts += 1;
        report.pairs += pairs;
        report.both += both;
        report.broken += failures.len();
        for failure in failures {
            if seen.insert(enumerate::place(&failure)) {
                report.failures.push(failure);
            }
        }
    }
    report.elapsed = budget.elapsed();
    Ok(report)
}

/// What came of the pairs with one first fault.
#[derive(Default)]
struct After {
    pairs: usize,
    both: usize,
    failures: Vec<Failure>,
}

fn after(case: &Case, options: &Options, carry: &Carry, budget: &Budget) -> Result<After, CaseError> {
    let mut found = After::default();
    let scenario = case.build()?;
    let outcome = carry(&scenario).map_err(CaseError::Invalid)?;
    // What one fault breaks is the enumeration's to tell.
    if !outcome.violations.is_empty() {
        return Ok(found);
    }
    let storm = Time::from_millis(scenario.storm_ms);
    for second in seconds(&outcome, storm, options) {
        if budget.is_spent() {
            break;
        }
        let mut pair = case.clone();
        pair.faults.push(second);
        let verdict = carry_out_with(&pair, carry)?;
        found.pairs += 1;
        found.both += usize::from(verdict.missing.is_empty());
        if let Some(violation) = verdict.violations.into_iter().next() {
            found.failures.push(Failure { case: pair, violation });
        }
    }
    Ok(found)
}

/// The second faults after a run: a few of those that may have to do with the first.
fn seconds(outcome: &Outcome, storm: Time, options: &Options) -> Vec<Planned> {
    let Some(first) = outcome.fired.first() else { return Vec::new() };
    let until = first.at.plus_millis(options.window_ms).min(storm);
    let mut seconds: Vec<Planned> = Vec::new();
    for (site, calls) in calls(outcome, first.at, until) {
        let mut made = calls.made.iter().map(|(_, key)| key);
        let related = made.find(|key| **key != first.planned.at && are_related(key, &first.planned.at));
        let Some(key) = related else { continue };
        let classes =
            CLASSES.into_iter().filter(|class| class.applies(&site.operation, calls.writes, calls.local));
        seconds.extend(classes.map(|class| strong(class, key.clone())));
    }
    seconds.sort_by_key(|planned| hash::of_debug(&(options.first.seed, planned)));
    seconds.truncate(options.per_first);
    seconds
}

/// Whether one call may follow from another: the same process makes both, or they are about the same member.
fn are_related(one: &Key, other: &Key) -> bool {
    one.actor == other.actor
        || member_of(&one.resource).is_some_and(|member| Some(member) == member_of(&other.resource))
}

/// The member that a resource is about: `orders-1` of `members/orders/orders-1` and of `orders-1-data`.
fn member_of(resource: &str) -> Option<&str> {
    resource.split(['/', '.', ' ']).find_map(|part| {
        let digits = part.find(|letter: char| letter.is_ascii_digit())?;
        let end = part[digits..]
            .find(|letter: char| !letter.is_ascii_digit())
            .map_or(part.len(), |end| digits + end);
        part.get(..end).filter(|name| name[..digits].ends_with('-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_in_whatever_is_about_it() {
        for resource in
            ["members/orders/orders-1", "orders-1-data", "orders-1.sim.steadfast.internal", "orders-1"]
        {
            assert_eq!(member_of(resource), Some("orders-1"), "{resource}");
        }
        for resource in ["services/orders", "10.1.0.1", ""] {
            assert_eq!(member_of(resource), None, "{resource}");
        }
    }
}
