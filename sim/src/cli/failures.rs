//! What broke: shrunk, told, and kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use steadfast_sim::fault::Class;
use steadfast_sim::plan::{Expected, PlanFile};
use steadfast_sim::report::junit::{self, Test};
use steadfast_sim::run::run;
use steadfast_sim::search::carry_out;
use steadfast_sim::search::enumerate::{Count, Failure as Broken};
use steadfast_sim::search::pool::Budget;
use steadfast_sim::search::shrink as search;
use steadfast_sim::search::sites::Folded;
use steadfast_sim::search::state::SOMETIMES;

use super::exit::Result;
use super::{Global, output};

/// A case that broke a rule, made small.
#[derive(Debug, Clone)]
pub(crate) struct Shrunk {
    /// The plan.
    pub(crate) plan: PlanFile,
    /// The rule.
    pub(crate) rule: String,
    /// How it was broken.
    pub(crate) text: String,
    /// How many faults there were.
    pub(crate) before: usize,
    /// How long shrinking took.
    pub(crate) took: Duration,
}

/// The most that are shrunk.
const MOST: usize = 12;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shrinks what broke; those that come to the same rule and the same calls are one.
pub(crate) fn shrink(failures: &[Broken]) -> Vec<Shrunk> {
    let mut shrunk: Vec<Shrunk> = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for broken in failures.iter().take(MOST) {
        let budget = Budget::of(Some(PATIENCE));
        let Ok(Some(smallest)) = search::shrink(&broken.case, &run, &budget) else { continue };
        let sites: BTreeSet<String> =
            smallest.case.faults.iter().map(|planned| Folded::of_key(&planned.at).to_string()).collect();
        if !seen.insert(format!("{} {} {sites:?}", smallest.rule, smallest.case.scenario)) {
            continue;
        }
        let Ok(verdict) = carry_out(&smallest.case) else { continue };
        let text = verdict.violations.first().map_or(String::new(), |violation| violation.text.clone());
        let title = format!("{} {}: {text}", smallest.rule, smallest.case.scenario);
        let expected = Expected::Violates(smallest.rule.clone());
        let mut plan = PlanFile::new(&title, smallest.case, expected, verdict.hash);
        plan.commit = super::shrink::commit();
        let (rule, before) = (smallest.rule, smallest.faults_before);
        shrunk.push(Shrunk { plan, rule, text, before, took: budget.elapsed() });
    }
    shrunk
}

/// Keeps the plans in a folder.
pub(crate) fn keep(folder: Option<&Path>, shrunk: &[Shrunk]) -> Result<()> {
    let Some(folder) = folder else { return Ok(()) };
    for Shrunk { plan, rule, .. } in shrunk {
        let name = format!("{}-{}-{}.json", rule.to_lowercase(), plan.case.scenario, plan.trace);
        output::file(&folder.join(name), &plan.text())?;
    }
    Ok(())
}

/// Tells what broke. The last line is the command that replays it.
pub(crate) fn tell(shrunk: &[Shrunk]) {
    for Shrunk { plan, rule, text, before, took } in shrunk {
        let case = &plan.case;
        let now = case.faults.len();
        output::line(&format!(
            "BROKEN {rule} in {} on {}: {text}\n  shrunk from {before} to {now} faults in {:.1} s",
            case.scenario,
            case.profile,
            took.as_secs_f64()
        ));
        for planned in &case.faults {
            output::line(&format!("  {:?} at {}", planned.fault, planned.at));
        }
        output::line(&format!("replay: {}", plan.command()));
    }
}

/// Writes JUnit XML, if asked for.
pub(crate) fn junit(
    global: &Global,
    verb: &str,
    shrunk: &[Shrunk],
    runs: usize,
    took: Duration,
) -> Result<()> {
    let Some(path) = &global.junit else { return Ok(()) };
    let mut tests = vec![Test { group: verb.to_owned(), name: format!("{runs} runs"), took, failed: None }];
    tests.extend(shrunk.iter().map(|Shrunk { plan, rule, text, .. }| Test {
        group: format!("{verb}.{}", plan.case.scenario),
        name: format!("{rule} on {}", plan.case.profile),
        took: Duration::ZERO,
        failed: Some((text.clone(), plan.command())),
    }));
    output::file(path, &junit::document("steadfast-sim", &tests))
}

/// What every class did, and what is missing.
pub(crate) fn classes(classes: &BTreeMap<Class, Count>, inert: &[Class], never: &[&str]) -> String {
    let told = classes.iter().map(|(class, count)| format!("{class:?} {}/{}", count.changed, count.fired));
    let mut text = format!("  made a difference/befell: {}\n", told.collect::<Vec<_>>().join(", "));
    for class in inert {
        text.push_str(&format!(
            "INERT {class:?}: it never made a difference, so nothing was tested with it\n"
        ));
    }
    for (name, about) in SOMETIMES.iter().filter(|(name, _)| never.contains(name)) {
        text.push_str(&format!("NEVER {name}: it never happened that {about}\n"));
    }
    text
}
