//! Suites: one's own control plane, searched for what breaks its rules, in one call of one test.
//!
//! ```
//! # use steadfast_sim::cast::Cast;
//! # use steadfast_sim::suite::Suite;
//! # let cast = Cast::new().program("idle", |seat| async move {
//! #     seat.store().services().await.ok();
//! # });
//! Suite::new("doors", cast).runs(8).run();
//! ```
//!
//! The run without faults comes first, then every call with every class of fault that can befall it, one at a time,
//! then swarms of faults at random. What breaks a rule is shrunk, and told with the command that replays it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cast::Cast;
use crate::plan::{Expected, PlanFile};
use crate::report::junit;
use crate::run::{Outcome, Scenario, run_with};
use crate::search::case::{Case, Change};
use crate::search::enumerate::{self, Failure, enumerate};
use crate::search::library::{OF_SUITE, OWN};
use crate::search::pool::{self, Budget, carry_out_with};
use crate::search::{random, shrink};

/// The environment variable with the plan to replay instead of searching: a file, or a line that begins with `plan:`.
pub const PLAN: &str = "STEADFAST_SIM_PLAN";
/// The environment variable with where to write JUnit XML: a file, or a folder in which every suite gets one.
pub const JUNIT: &str = "STEADFAST_SIM_JUNIT";

/// How long one failure may be shrunk.
const SHRINKING: Duration = Duration::from_secs(20);
/// So many of the last things that happened are told of a failure.
const TOLD: usize = 40;

type Shape = dyn Fn(Scenario) -> Scenario + Send + Sync;

/// A suite.
pub struct Suite {
    name: String,
    cast: Cast,
    shape: Arc<Shape>,
    seed: u64,
    runs: usize,
    per_site: usize,
    budget: Option<Duration>,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("name", &self.name).field("cast", &self.cast).finish_non_exhaustive()
    }
}

/// What a search went through without finding anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Call sites, those that differ only in numbers counted once.
    pub sites: usize,
    /// Runs with one fault each, at every site.
    pub enumerated: usize,
    /// Runs with swarms of faults.
    pub random: usize,
    /// How long it took.
    pub elapsed: Duration,
}

/// What breaks a rule, made small.
#[derive(Debug, Clone, PartialEq)]
pub struct Broken {
    /// The rule.
    pub rule: String,
    /// How it is broken.
    pub text: String,
    /// The plan.
    pub plan: PlanFile,
    /// What happened last.
    pub story: String,
}

/// Why a suite fails.
#[derive(Debug, Clone, PartialEq)]
pub enum SuiteError {
    /// Rules are broken: the smallest case of each.
    Broken(Vec<Broken>),
    /// It cannot be carried out, or would test nothing. Says what to do.
    Useless(String),
}

impl fmt::Display for SuiteError {
    /// The last line of everything that is broken is the command that replays it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken = match self {
            SuiteError::Broken(broken) => broken,
            SuiteError::Useless(why) => return f.write_str(why),
        };
        for Broken { rule, text, plan, story } in broken {
            writeln!(f, "{rule} is broken: {text}\n\n{story}\n\nby")?;
            for planned in &plan.case.faults {
                writeln!(f, "  {:?} at {}", planned.fault, planned.at)?;
            }
            if plan.case.faults.is_empty() {
                writeln!(f, "  no fault at all")?;
            }
            writeln!(f, "replay: {}", command(plan))?;
        }
        Ok(())
    }
}

impl std::error::Error for SuiteError {}

impl Suite {
    /// The suite of `cast`, on embedded backends, without machines and services of ours.
    pub fn new(name: &str, cast: Cast) -> Self {
        Suite {
            name: name.to_owned(),
            cast,
            shape: Arc::new(|scenario| scenario),
            seed: 1,
            runs: 64,
            per_site: 1,
            budget: None,
        }
    }

    /// With runs of another shape: what there is, how long things go wrong, what happens meanwhile.
    #[must_use]
    pub fn scenario(mut self, shape: impl Fn(Scenario) -> Scenario + Send + Sync + 'static) -> Self {
        self.shape = Arc::new(shape);
        self
    }

    /// With another seed of everything that is drawn.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Suite { seed, ..self }
    }

    /// With so many random runs, instead of 64.
    #[must_use]
    pub fn runs(self, runs: usize) -> Self {
        Suite { runs, ..self }
    }

    /// With faults at so many calls of each site, spread evenly from the first to the last, instead of at the first.
    #[must_use]
    pub fn per_site(self, per_site: usize) -> Self {
        Suite { per_site, ..self }
    }

    /// With a bound on how long the search may take. One that is spent before every call has had its faults fails.
    #[must_use]
    pub fn budget(self, budget: Duration) -> Self {
        Suite { budget: Some(budget), ..self }
    }

    /// Searches, or replays the plan in [`PLAN`]; and writes JUnit XML to where [`JUNIT`] says.
    ///
    /// # Panics
    /// If a rule is broken, with the smallest plan that breaks it and the command that replays it; or if nothing would
    /// be tested.
    pub fn run(&self) -> Summary {
        let setting = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let result = match setting(PLAN) {
            Some(plan) => self.replay(&plan),
            None => self.search(),
        };
        if let Some(path) = setting(JUNIT)
            && let Err(error) = self.write_junit(Path::new(&path), &result)
        {
            panic!("cannot write what {JUNIT} names, {path}: {error}");
        }
        match result {
            Ok(summary) => summary,
            Err(error) => panic!("suite {}: {error}", self.name),
        }
    }

    /// Searches.
    ///
    /// # Errors
    /// What breaks a rule, or why nothing would be tested.
    pub fn search(&self) -> Result<Summary, SuiteError> {
        let (own, embedded) = (vec![OWN.to_owned()], vec!["embedded".to_owned()]);
        let budget = Budget::of(self.budget);
        let carry = self.carry();
        let options = enumerate::Options {
            scenarios: own.clone(),
            profiles: embedded.clone(),
            seed: self.seed,
            per_site: self.per_site,
            budget: self.budget,
            ..enumerate::Options::default()
        };
        let found = enumerate(&options, &carry).map_err(|error| useless(&error))?;
        let mut failures = found.failures;
        let mut summary = Summary {
            sites: found.sites + found.behind_faults,
            enumerated: found.runs,
            random: 0,
            elapsed: Duration::ZERO,
        };
        if failures.is_empty() {
            if found.left > 0 {
                let text = "the budget was spent, and {} runs were left: give a longer one, or none";
                return Err(SuiteError::Useless(text.replace("{}", &found.left.to_string())));
            }
            if found.sites == 0 {
                let text = "nobody makes a call before the storm is over, so nothing can go wrong: programs call by \
                            their seat";
                return Err(SuiteError::Useless(text.to_owned()));
            }
            let options = random::Options {
                scenarios: own,
                profiles: embedded,
                seed: self.seed,
                jobs: pool::processors(),
                budget: self.budget.map(|limit| limit.saturating_sub(budget.elapsed())),
                runs: Some(self.runs),
            };
            let found = random::search(&options, &carry).map_err(|error| useless(&error))?;
            summary.random = found.runs;
            failures = found.failures;
        }
        summary.elapsed = budget.elapsed();
        if failures.is_empty() { Ok(summary) } else { Err(self.shrunk(failures)) }
    }

    /// Replays a plan: a file, or a line that begins with `plan:`.
    ///
    /// # Errors
    /// If it breaks a rule; or if it is of another suite, cannot be read, or names calls that nobody makes any more.
    pub fn replay(&self, plan: &str) -> Result<Summary, SuiteError> {
        let plan = PlanFile::read(plan).map_err(|error| useless(&error))?;
        let own = format!("{OF_SUITE}{}", self.name);
        if plan.case.scenario != own {
            let found = &plan.case.scenario;
            return Err(SuiteError::Useless(format!(
                "the plan is of {found:?}, and this suite is {own:?}: run the test of that one"
            )));
        }
        let budget = Budget::of(None);
        let case = Case { scenario: OWN.to_owned(), ..plan.case };
        let verdict = carry_out_with(&case, &self.carry()).map_err(|error| useless(&error))?;
        match verdict.violations.into_iter().next() {
            Some(violation) => {
                Err(SuiteError::Broken(vec![self.broken(case, violation.rule, violation.text)]))
            }
            None if !verdict.missing.is_empty() => {
                let keys =
                    verdict.missing.iter().map(|planned| format!("{:?} at {}", planned.fault, planned.at));
                let keys: Vec<String> = keys.collect();
                Err(SuiteError::Useless(format!(
                    "the plan is stale, since nobody makes these calls any more: {}; search again without {PLAN}",
                    keys.join("; ")
                )))
            }
            None => Ok(Summary { sites: 0, enumerated: 1, random: 0, elapsed: budget.elapsed() }),
        }
    }

    /// Carries a case out: its scenario, in the suite's shape, with the suite's cast.
    fn carry(&self) -> impl Fn(&Scenario) -> Result<Outcome, String> + Sync + use<> {
        let (name, shape, cast) = (self.name.clone(), Arc::clone(&self.shape), self.cast.clone());
        move |built| run_with(&shape(Scenario { name: name.clone(), ..built.clone() }), &cast)
    }

    /// The smallest case of each rule.
    fn shrunk(&self, failures: Vec<Failure>) -> SuiteError {
        let mut broken: Vec<Broken> = Vec::new();
        let carry = self.carry();
        for Failure { case, violation } in failures {
            if broken.iter().any(|known| known.rule == violation.rule) {
                continue;
            }
            let smallest = shrink::shrink(&case, &carry, &Budget::of(Some(SHRINKING)));
            let case = smallest.ok().flatten().map_or(case, |shrunk| shrunk.case);
            // The shape of a suite's runs is its own: what shrinking changed of it may have changed nothing.
            let plain = Case { change: Change::default(), ..case.clone() };
            let verdict = carry_out_with(&plain, &carry).ok();
            let same = verdict.is_some_and(|verdict| verdict.broke() == Some(&violation.rule));
            let case = if same { plain } else { case };
            broken.push(self.broken(case, violation.rule, violation.text));
        }
        SuiteError::Broken(broken)
    }

    fn broken(&self, case: Case, rule: String, text: String) -> Broken {
        let outcome = case.build().ok().and_then(|built| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.carry()(&built).ok()))
                .ok()
                .flatten()
        });
        let first = outcome.as_ref().and_then(|outcome| outcome.violations.first());
        let text = first.map_or(text, |violation| format!("{}, at {}", violation.text, violation.at));
        let hash = outcome.as_ref().map_or(0, |outcome| outcome.hash);
        let story = outcome.map_or_else(String::new, |outcome| outcome.story());
        let lines: Vec<&str> = story.lines().collect();
        let story = lines[lines.len().saturating_sub(TOLD)..].join("\n");
        let case = Case { scenario: format!("{OF_SUITE}{}", self.name), ..case };
        let title = format!("{rule} in the suite {}", self.name);
        let plan = PlanFile::new(&title, case, Expected::Violates(rule.clone()), hash);
        Broken { rule, text, plan, story }
    }

    fn write_junit(&self, path: &Path, result: &Result<Summary, SuiteError>) -> std::io::Result<()> {
        let test = |name: String, failed| junit::Test {
            group: self.name.clone(),
            name,
            took: result.as_ref().map_or(Duration::ZERO, |summary| summary.elapsed),
            failed,
        };
        let tests = match result {
            Ok(summary) => {
                vec![test(format!("{} runs", summary.enumerated + summary.random), None)]
            }
            Err(SuiteError::Useless(why)) => {
                vec![test("search".to_owned(), Some((why.clone(), String::new())))]
            }
            Err(SuiteError::Broken(broken)) => broken
                .iter()
                .map(|Broken { rule, text, plan, story }| {
                    test(rule.clone(), Some((text.clone(), format!("{story}\nreplay: {}", command(plan)))))
                })
                .collect(),
        };
        let path = if path.is_dir() { path.join(format!("{}.xml", self.name)) } else { PathBuf::from(path) };
        std::fs::write(path, junit::document(&self.name, &tests))
    }
}

fn useless(error: &impl fmt::Display) -> SuiteError {
    SuiteError::Useless(error.to_string())
}

/// The command that replays a plan of a suite.
fn command(plan: &PlanFile) -> String {
    // The test harness names a test's thread after it.
    let thread = std::thread::current();
    let test = thread.name().filter(|name| *name != "main").map_or(String::new(), |name| format!(" {name}"));
    format!("{PLAN}={} cargo test{test}", plan.line())
}
