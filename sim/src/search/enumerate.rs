//! Enumeration: every call site of every workflow, with every class of fault that can befall it.
//!
//! A reference run gives the sites; those that differ only in numbers are one in meaning, and of its calls the first,
//! the last and some between get a fault each. Sites that only faults lead to are enumerated after the fault that
//! first led there, until no run comes by a site that was not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::case::{Case, CaseError};
use super::forked::Workers;
use super::library::{self, PROFILES, Reference};
use super::oracle;
use super::pool::{self, Budget, Carry, Verdict, carry_out_with};
use super::sites::{Calls, Folded, calls, strong};
use super::state::{self, SOMETIMES};
use crate::fault::{Class, Planned};
use crate::run::{Ending, Violation};
use crate::time::Time;

/// What to enumerate.
#[derive(Debug, Clone)]
pub struct Options {
    /// The reference scenarios; empty: all.
    pub scenarios: Vec<String>,
    /// The profiles; empty: all.
    pub profiles: Vec<String>,
    /// The classes; empty: all.
    pub classes: Vec<Class>,
    /// The seed of every run.
    pub seed: u64,
    /// The most calls of one folded site that get a fault.
    pub per_site: usize,
    /// Whether each site and class is enumerated on every profile, and not on one of them in turn.
    pub every_profile: bool,
    /// Whether a site that several scenarios come by is enumerated in one of them, the next one for each class, and
    /// not in every one: what it means is the same, what goes on around it is not.
    pub fold: bool,
    /// Whether runs that are the same up to their last fault are carried out once up to there, in processes that part:
    /// only for the simulator's own [`run`](crate::run::run), and in a process of one thread.
    pub fork: bool,
    /// How many runs at once.
    pub jobs: usize,
    /// How long it may take.
    pub budget: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            scenarios: Vec::new(),
            profiles: Vec::new(),
            classes: Vec::new(),
            seed: 1,
            per_site: 1,
            every_profile: false,
            fold: false,
            fork: false,
            jobs: pool::processors(),
            budget: None,
        }
    }
}

/// A case that breaks a rule.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The case.
    pub case: Case,
    /// The first rule that it breaks.
    pub violation: Violation,
}

/// What tells a failure from others: the rule, the scenario and the calls.
pub fn place(failure: &Failure) -> (String, String, Vec<String>) {
    let calls = failure.case.faults.iter().map(|planned| Folded::of_key(&planned.at).to_string());
    (failure.violation.rule.clone(), failure.case.scenario.clone(), calls.collect())
}

/// A case that breaks no rule and ends otherwise than without faults.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The case.
    pub case: Case,
    /// What differs.
    pub told: Vec<String>,
}

/// How often a class of faults befell a call, and how often that made a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Count {
    /// It befell a call.
    pub fired: usize,
    /// It made a difference.
    pub changed: usize,
}

/// What came of an enumeration.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Reference runs.
    pub references: usize,
    /// Folded sites, each counted once for every scenario, or once if scenarios are folded.
    pub sites: usize,
    /// The calls at them.
    pub calls: usize,
    /// Runs with faults.
    pub runs: usize,
    /// Runs that the budget did not reach.
    pub left: usize,
    /// Runs that are left out because scenarios are folded.
    pub folded: usize,
    /// Sites that were come by and never enumerated.
    pub uncovered: Vec<Folded>,
    /// Sites that only faults lead to.
    pub behind_faults: usize,
    /// What every class did.
    pub classes: BTreeMap<Class, Count>,
    /// Classes that never made a difference.
    pub inert: Vec<Class>,
    /// What was broken.
    pub failures: Vec<Failure>,
    /// What differs at the end from the run without faults, though no rule is broken.
    pub differences: Vec<Difference>,
    /// What should happen sometimes, and never did.
    pub never: Vec<&'static str>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// Whether everything was covered and nothing broken.
    pub fn is_good(&self) -> bool {
        let covered = self.uncovered.is_empty() && self.inert.is_empty() && self.never.is_empty();
        self.failures.is_empty() && covered && self.left == 0
    }

    fn note(&mut self, verdict: &Verdict) {
        for fired in &verdict.fired {
            let count = self.classes.entry(fired.planned.fault.class()).or_default();
            count.fired += 1;
            count.changed += usize::from(fired.changed);
        }
    }
}

/// A site, in one scenario or in any.
type Place = (Option<&'static str>, Folded);

/// What is known while enumerating.
struct Enumeration<'a> {
    options: &'a Options,
    carry: &'a Carry,
    workers: Option<Workers>,
    budget: Budget,
    report: Report,
    /// Sites that have been enumerated, in any scenario.
    covered: BTreeSet<Folded>,
    /// Sites that some run came by, and how to get there.
    seen: BTreeMap<Folded, (Case, Calls)>,
    /// How the reference runs end, by scenario and profile.
    calm: BTreeMap<(String, String), Ending>,
    reached: BTreeSet<&'static str>,
}

/// Enumerates.
///
/// # Errors
/// If the options name something that is not there.
pub fn enumerate(options: &Options, carry: &Carry) -> Result<Report, CaseError> {
    let mut enumeration = Enumeration::new(options, carry, Budget::of(options.budget));
    let cases = enumeration.first_cases()?;
    enumeration.carry_out(&cases)?;
    // A site behind a fault may have others behind it.
    for _ in 0..ROUNDS {
        let cases = enumeration.cases_behind_faults();
        if cases.is_empty() {
            break;
        }
        enumeration.carry_out(&cases)?;
    }
    Ok(enumeration.into_report())
}

/// The cases of one fault each that an enumeration begins with.
///
/// # Errors
/// If the options name something that is not there.
pub(super) fn singles(options: &Options, carry: &Carry, budget: Budget) -> Result<Vec<Case>, CaseError> {
    Enumeration::new(options, carry, budget).first_cases()
}

/// So deep lie sites behind faults at most.
const ROUNDS: usize = 4;

/// The scenarios and profiles that were asked for.
///
/// # Errors
/// If one of them is not there.
pub fn combinations(
    scenarios: &[String],
    profiles: &[String],
) -> Result<Vec<(&'static Reference, &'static str)>, CaseError> {
    for name in scenarios {
        library::find(name).ok_or_else(|| CaseError::UnknownScenario(name.clone()))?;
    }
    for name in profiles {
        super::case::profile(name)?;
    }
    let is_asked = |asked: &[String], name: &str| asked.is_empty() || asked.iter().any(|one| one == name);
    let references: Vec<&'static Reference> = match scenarios {
        [] => library::ALL.iter().collect(),
        asked => asked.iter().filter_map(|name| library::find(name)).collect(),
    };
    Ok(references
        .into_iter()
        .flat_map(|reference| {
            let profiles = PROFILES.iter().filter(|name| is_asked(profiles, name) && reference.is_for(name));
            profiles.map(move |name| (reference, *name))
        })
        .collect())
}

impl<'a> Enumeration<'a> {
    fn new(options: &'a Options, carry: &'a Carry, budget: Budget) -> Self {
        Enumeration {
            options,
            carry,
            workers: options.fork.then(|| Workers::start(options.jobs, budget)),
            budget,
            report: Report::default(),
            covered: BTreeSet::new(),
            seen: BTreeMap::new(),
            calm: BTreeMap::new(),
            reached: BTreeSet::new(),
        }
    }
}

impl Enumeration<'_> {
    fn classes<'a>(&'a self, calls: &'a Calls, operation: &'a str) -> impl Iterator<Item = Class> + 'a {
        let asked = &self.options.classes;
        calls.classes(operation).filter(|class| asked.is_empty() || asked.contains(class))
    }

    /// The reference runs, and the cases that follow from them.
    fn first_cases(&mut self) -> Result<Vec<Case>, CaseError> {
        let runs = combinations(&self.options.scenarios, &self.options.profiles)?;
        let seed = self.options.seed;
        let found = pool::over(self.options.jobs, &runs, &self.budget, |(reference, profile)| {
            let case = Case::new(reference.name, profile, seed);
            let scenario = case.build()?;
            let outcome = (self.carry)(&scenario).map_err(CaseError::Invalid)?;
            let storm = Time::from_millis(scenario.storm_ms);
            let found = calls(&outcome, Time::from_millis(reference.from_ms), storm);
            let reached = state::reached(&outcome);
            Ok((case, found, outcome.violations.into_iter().next(), outcome.ending, reached))
        });
        let mut places: BTreeMap<Place, Vec<(Case, Calls)>> = BTreeMap::new();
        for (result, (reference, _)) in found.into_iter().zip(&runs) {
            let Some(result) = result else {
                self.report.left += 1;
                continue;
            };
            let (case, found, violation, ending, reached): (Case, BTreeMap<Folded, Calls>, _, _, _) = result?;
            self.calm.insert((case.scenario.clone(), case.profile.clone()), ending);
            self.reached.extend(reached);
            self.report.references += 1;
            if let Some(violation) = violation {
                self.report.failures.push(Failure { case: case.clone(), violation });
            }
            for (site, calls) in found {
                self.report.calls += calls.made.len();
                let scenario = (!self.options.fold).then_some(reference.name);
                places.entry((scenario, site)).or_default().push((case.clone(), calls));
            }
        }
        self.report.sites = places.len();
        Ok(self.cases_of(places))
    }

    fn cases_of(&mut self, places: BTreeMap<Place, Vec<(Case, Calls)>>) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut turn = 0;
        for ((_, site), found) in places {
            self.covered.insert(site.clone());
            for class in Class::ALL {
                let has = |calls: &Calls| self.classes(calls, &site.operation).any(|other| other == class);
                let able: Vec<&(Case, Calls)> = found.iter().filter(|(_, calls)| has(calls)).collect();
                if able.is_empty() {
                    continue;
                }
                let scenarios: BTreeSet<&str> = able.iter().map(|(case, _)| case.scenario.as_str()).collect();
                self.report.folded += scenarios.len() - 1;
                turn += 1;
                for (case, calls) in self.in_turn(class, able, turn) {
                    let keys = calls.chosen(class, self.options.per_site);
                    cases.extend(keys.into_iter().map(|key| case.with(vec![strong(class, key.clone())])));
                }
            }
        }
        cases
    }

    /// Of the runs that come by a site the one whose turn it is, or every one.
    ///
    /// What comes of a process that stands still for longer than its leases depends on the fencing level: where scenarios
    /// are folded, that is tried on every profile.
    fn in_turn<'c>(&self, class: Class, able: Vec<&'c (Case, Calls)>, turn: usize) -> Vec<&'c (Case, Calls)> {
        if self.options.every_profile {
            return able;
        }
        let mut groups: BTreeMap<Option<&str>, Vec<&'c (Case, Calls)>> = BTreeMap::new();
        for one in able {
            let level = (self.options.fold && class == Class::Pause).then_some(one.0.profile.as_str());
            groups.entry(level).or_default().push(one);
        }
        groups.into_values().filter_map(|group| group.get(turn % group.len()).copied()).collect()
    }

    fn carry_out(&mut self, cases: &[Case]) -> Result<(), CaseError> {
        let mut verdicts = match &self.workers {
            Some(workers) => workers.over(cases, &self.budget)?,
            None => vec![None; cases.len()],
        };
        let carry = |case: &Case| carry_out_with(case, self.carry);
        pool::rest(self.options.jobs, cases, &self.budget, &mut verdicts, carry);
        for (verdict, case) in verdicts.into_iter().zip(cases) {
            let Some(verdict) = verdict else {
                self.report.left += 1;
                continue;
            };
            let verdict = verdict?;
            self.report.runs += 1;
            self.report.note(&verdict);
            self.reached.extend(&verdict.sometimes);
            let calm = self.calm.get(&(case.scenario.clone(), case.profile.clone()));
            if let Some(violation) = verdict.violations.first() {
                self.report.failures.push(Failure { case: case.clone(), violation: violation.clone() });
            } else if let Some(calm) = calm {
                let told = oracle::differences(calm, &verdict.ending);
                if !told.is_empty() {
                    self.report.differences.push(Difference { case: case.clone(), told });
                }
            }
            for (site, calls) in verdict.reached {
                if !self.covered.contains(&site) && !self.seen.contains_key(&site) {
                    self.seen.insert(site, (case.clone(), calls));
                }
            }
        }
        Ok(())
    }

    /// The cases of sites that faults have led to: the faults that did, and one more there.
    fn cases_behind_faults(&mut self) -> Vec<Case> {
        let mut cases = Vec::new();
        for (site, (case, calls)) in std::mem::take(&mut self.seen) {
            for class in self.classes(&calls, &site.operation) {
                for key in calls.chosen(class, 1) {
                    let mut faults: Vec<Planned> = case.faults.clone();
                    faults.push(strong(class, key.clone()));
                    cases.push(case.with(faults));
                }
            }
            self.report.behind_faults += 1;
            self.covered.insert(site);
        }
        cases
    }

    fn into_report(mut self) -> Report {
        self.report.uncovered = self.seen.into_keys().collect();
        let asked: Vec<Class> = match self.options.classes.as_slice() {
            [] => Class::ALL.to_vec(),
            asked => asked.to_vec(),
        };
        let changed = |class: &Class| self.report.classes.get(class).is_some_and(|count| count.changed > 0);
        self.report.inert = asked.into_iter().filter(|class| !changed(class)).collect();
        if self.options.scenarios.is_empty() && self.options.profiles.is_empty() {
            let never = SOMETIMES.iter().map(|(name, _)| *name);
            self.report.never = never.filter(|name| !self.reached.contains(name)).collect();
        }
        self.report.elapsed = self.budget.elapsed();
        self.report
    }
}
