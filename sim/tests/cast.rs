//! A control plane that is not ours: its own program, its own backend and its own rule take part in a run.

mod doors;

use doors::{Doors, OneDoor, careful, careless};
use steadfast_sim::cast::Cast;
use steadfast_sim::fault::{Fault, Planned};
use steadfast_sim::model::Fact;
use steadfast_sim::run::{Outcome, Scenario, run_with};

fn cast(careful_one: bool) -> Cast {
    let cast = Cast::new().model(Doors::default).rule(|| OneDoor);
    if careful_one { cast.program("keeper", careful) } else { cast.program("keeper", careless) }
}

fn opened(outcome: &Outcome) -> usize {
    let opens = |fact: &Fact| matches!(fact, Fact::Own { text } if text.starts_with("doors.open"));
    outcome.facts.iter().filter(|(_, fact)| opens(fact)).count()
}

#[test]
fn a_program_of_ones_own_runs_and_is_judged() {
    let outcome = run_with(&Scenario::bare("doors", 1), &cast(true)).unwrap();
    assert_eq!(outcome.violations, []);
    assert!(opened(&outcome) > 5, "{}", outcome.story());
    let again = run_with(&Scenario::bare("doors", 1), &cast(true)).unwrap();
    assert_eq!(outcome.hash, again.hash);
}

#[test]
fn a_crash_of_ones_own_program_starts_it_again_and_finds_what_it_forgot() {
    let calm = run_with(&Scenario::bare("doors", 1), &cast(false)).unwrap();
    assert_eq!(calm.violations, [], "without a fault it works");
    let site = calm.sites.iter().find(|site| site.operation == "doors.open" && site.resource == "1").unwrap();
    let mut scenario = Scenario::bare("doors", 1);
    scenario.plan.faults.push(Planned { at: site.key(0), fault: Fault::CrashAfter });
    let outcome = run_with(&scenario, &cast(false)).unwrap();
    assert!(outcome.broke("one-door"), "{}", outcome.story());
    let outcome = run_with(&scenario, &cast(true)).unwrap();
    assert_eq!(outcome.violations, [], "the careful one looks first\n{}", outcome.story());
    assert_eq!(outcome.unfired, 0);
}
