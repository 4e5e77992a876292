//! Every fault at every request of a run, one at a time.

use std::collections::BTreeSet;

use steadfast_sim::run::{Outcome, Scenario};
use steadfast_sim::search::sites::{calls, strong};
use steadfast_sim::time::Time;

/// What came of it. No rule was broken.
#[derive(Debug, Default)]
pub(crate) struct Befallen {
    /// The operations of the requests.
    pub(crate) operations: BTreeSet<String>,
    /// How many faults there were.
    pub(crate) fired: usize,
    /// How many runs differ from the one without.
    pub(crate) differed: usize,
}

/// Carries out `scenario` without faults, and then with each class of them at two requests of every kind. No rule may be
/// broken in any.
pub(crate) fn each_befallen(scenario: &Scenario, carry: impl Fn(&Scenario) -> Outcome) -> Befallen {
    let calm = carry(scenario);
    assert_eq!(calm.violations, [], "{}", calm.story());
    let mut befallen = Befallen::default();
    for (site, made) in calls(&calm, Time::ZERO, Time::from_millis(scenario.storm_ms)) {
        if !site.operation.starts_with("http.") {
            continue;
        }
        befallen.operations.insert(site.operation.clone());
        for class in made.classes(&site.operation) {
            for key in made.chosen(class, 2) {
                let mut faulty = scenario.clone();
                faulty.plan.faults.push(strong(class, key.clone()));
                let outcome = carry(&faulty);
                assert_eq!(outcome.violations, [], "{class:?} at {key}\n{}", outcome.story());
                befallen.fired += outcome.fired.len();
                befallen.differed += usize::from(outcome.hash != calm.hash);
            }
        }
    }
    befallen
}
