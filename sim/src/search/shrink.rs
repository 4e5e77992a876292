//! Shrinking: the smallest case that still breaks the same rule.

use serde::Serialize;

use super::case::{Case, CaseError};
use super::library;
use super::pool::{Budget, Carry, Verdict, carry_out_with};
use crate::fault::{Class, Fault, Planned};

/// What came of shrinking.
#[derive(Debug, Clone, Serialize)]
pub struct Shrunk {
    /// The smallest case.
    pub case: Case,
    /// The rule that it breaks, as the first case did.
    pub rule: String,
    /// How many runs that took.
    pub runs: usize,
    /// How many faults there were at first: those that fired.
    pub faults_before: usize,
}

struct Shrinking<'a> {
    carry: &'a Carry,
    budget: &'a Budget,
    rule: String,
    best: Case,
    runs: usize,
}

/// Shrinks a case that breaks a rule; `None` if it breaks none. When the budget is spent, what has been reached counts.
///
/// # Errors
/// If the case names something that is not there.
pub fn shrink(case: &Case, carry: &Carry, budget: &Budget) -> Result<Option<Shrunk>, CaseError> {
    let first = carry_out_with(case, carry)?;
    let Some(rule) = first.broke().map(str::to_owned) else { return Ok(None) };
    let mut shrinking = Shrinking { carry, budget, rule, best: case.clone(), runs: 1 };
    shrinking.name_faults(&first);
    let faults_before = shrinking.best.faults.len();
    shrinking.fewer_faults();
    shrinking.weaker_faults();
    shrinking.plain_schedule();
    shrinking.smaller_world();
    shrinking.fewer_events();
    shrinking.shorter_storm();
    // In a smaller world some faults may not be needed any more.
    shrinking.fewer_faults();
    let Shrinking { rule, best, runs, .. } = shrinking;
    Ok(Some(Shrunk { case: best, rule, runs, faults_before }))
}

impl Shrinking<'_> {
    /// Whether a case still breaks the rule; if so it is the best.
    fn try_case(&mut self, case: Case) -> Option<Verdict> {
        if case == self.best || self.budget.is_spent() {
            return None;
        }
        self.runs += 1;
        let verdict = carry_out_with(&case, self.carry).ok()?;
        // Only faults that fired are kept: a plan shall not name calls that nobody makes.
        (verdict.broke() == Some(&self.rule) && verdict.missing.is_empty()).then(|| {
            self.best = case;
            verdict
        })
    }

    /// What fired at random becomes a plan, and what did not fire is left out.
    fn name_faults(&mut self, first: &Verdict) {
        let faults: Vec<Planned> = first.fired.iter().map(|fired| fired.planned.clone()).collect();
        self.try_case(Case { random: None, ..self.best.with(faults) });
    }

    /// Delta debugging: without ever smaller parts of the faults.
    fn fewer_faults(&mut self) {
        if self.best.faults.is_empty() {
            return;
        }
        if self.try_case(self.best.with(Vec::new())).is_some() {
            return;
        }
        let mut parts = 2;
        while self.best.faults.len() > 1 && !self.budget.is_spent() {
            let faults = self.best.faults.clone();
            let size = faults.len().div_ceil(parts);
            let chunks: Vec<&[Planned]> = faults.chunks(size.max(1)).collect();
            let without = |index: usize| -> Vec<Planned> {
                let others = chunks.iter().enumerate().filter(|(other, _)| *other != index);
                others.flat_map(|(_, chunk)| chunk.iter().cloned()).collect()
            };
            let only = chunks.iter().map(|chunk| chunk.to_vec());
            let tries: Vec<Vec<Planned>> = only.chain((0..chunks.len()).map(without)).collect();
            let smaller = tries
                .into_iter()
                .filter(|try_these| !try_these.is_empty() && try_these.len() < faults.len())
                .any(|try_these| self.try_case(self.best.with(try_these)).is_some());
            if smaller {
                parts = 2;
            } else if size <= 1 {
                break;
            } else {
                parts = (parts * 2).min(faults.len());
            }
        }
    }

    /// Each fault shorter, or of a class that disturbs less.
    fn weaker_faults(&mut self) {
        for index in 0..self.best.faults.len() {
            let Some(fault) = self.best.faults.get(index).map(|planned| planned.fault) else { continue };
            for weaker in weaker(fault) {
                let mut faults = self.best.faults.clone();
                if let Some(planned) = faults.get_mut(index) {
                    planned.fault = weaker;
                }
                if self.try_case(self.best.with(faults)).is_some() {
                    break;
                }
            }
        }
    }

    /// First come, first served, if the order does not matter.
    fn plain_schedule(&mut self) {
        let mut case = self.best.clone();
        case.change.schedule = None;
        self.try_case(case);
    }

    fn smaller_world(&mut self) {
        let Ok(scenario) = self.best.build() else { return };
        let replicas = scenario.services.iter().map(|service| service.replicas).max().unwrap_or(1);
        let reference = library::find(&self.best.scenario);
        let admitted = |replicas: &u32| reference.is_none_or(|of| of.admits(*replicas));
        for replicas in (1..replicas).filter(admitted) {
            let mut case = self.best.clone();
            case.change.replicas = Some(replicas);
            if self.try_case(case).is_some() {
                break;
            }
        }
        let fewest = self.best.build().map_or(1, |smaller| smaller.fewest_nodes());
        for nodes in fewest..scenario.nodes {
            let mut case = self.best.clone();
            case.change.nodes = Some(nodes);
            if self.try_case(case).is_some() {
                break;
            }
        }
        if scenario.servers > 1 {
            let mut case = self.best.clone();
            case.change.servers = Some(1);
            self.try_case(case);
        }
        if scenario.clients.per_service > 0 {
            let mut case = self.best.clone();
            case.change.clients = Some(0);
            self.try_case(case);
        }
    }

    /// Whether a case holds without its faults: then they are why it breaks.
    fn holds_without_faults(&mut self, case: &Case) -> bool {
        self.runs += 1;
        let calm = Case { random: None, ..case.with(Vec::new()) };
        carry_out_with(&calm, self.carry).is_ok_and(|verdict| verdict.broke().is_none())
    }

    /// Without each of the script's events, from the last to the first. Where faults break the rule they have to go on
    /// doing so: what is left of a script may break it by itself, for another reason.
    fn fewer_events(&mut self) {
        let Ok(scenario) = self.best.build() else { return };
        for index in (0..scenario.script.len()).rev() {
            let Ok(mut script) = self.best.build().map(|scenario| scenario.script) else { return };
            script.remove(index);
            let mut case = self.best.clone();
            case.change.script = Some(script);
            if self.best.faults.is_empty() || self.holds_without_faults(&case) {
                self.try_case(case);
            }
        }
    }

    fn shorter_storm(&mut self) {
        let Ok(scenario) = self.best.build() else { return };
        for share in [4, 2] {
            let mut case = self.best.clone();
            case.change.storm_ms = Some(scenario.storm_ms / share);
            if self.try_case(case).is_some() {
                return;
            }
        }
    }
}

/// What to try instead of a fault, the weakest first.
fn weaker(fault: Fault) -> Vec<Fault> {
    let shorter = |ms: u64, make: fn(u64) -> Fault| {
        [ms / 20, ms / 4, ms / 2].into_iter().filter(|ms| *ms > 0).map(make).collect::<Vec<_>>()
    };
    match fault {
        Fault::Pause(ms) => shorter(ms, Fault::Pause),
        Fault::Slow(ms) => shorter(ms, Fault::Slow),
        Fault::LateEffect(ms) => shorter(ms, Fault::LateEffect),
        Fault::Duplicate(ms) => shorter(ms, Fault::Duplicate),
        Fault::CrashBefore | Fault::RequestLost => {
            vec![Class::Throttled.strong(), Class::Unavailable.strong()]
        }
        Fault::CrashAfter => vec![Class::ResponseLost.strong()],
        _ => Vec::new(),
    }
}
