//! The random search: swarms of faults over topologies and events drawn at random, with feedback.
//!
//! A swarm is a random subset of the classes at a random intensity, after a calm beginning of random length: all
//! faults at once would keep everything in retry, and never get deep. A case that comes by a new (step, class, state)
//! is kept, and others are made from it. Everything follows from the seed: cases are made in generations, each from
//! what was kept of those before, so that neither the number of threads nor their order matters; a budget of time only
//! decides how many generations there are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::case::{Case, CaseError, Change};
use super::enumerate::{Count, Failure, combinations};
use super::library::{OWN, Reference};
use super::pool::{self, Budget, Carry, carry_out_with};
use super::sites::Folded;
use super::state::SOMETIMES;
use crate::env::ClockSkew;
use crate::exec::Schedule;
use crate::fault::{Class, Planned, RandomFaults};
use crate::hash;
use crate::model::host::Cut;
use crate::run::{Action, Scripted, Target};

/// What to search.
#[derive(Debug, Clone)]
pub struct Options {
    /// The reference scenarios to begin from; empty: all.
    pub scenarios: Vec<String>,
    /// The profiles; empty: all.
    pub profiles: Vec<String>,
    /// What everything is drawn from.
    pub seed: u64,
    /// How many runs at once.
    pub jobs: usize,
    /// How long it may take.
    pub budget: Option<Duration>,
    /// How many runs at most.
    pub runs: Option<usize>,
}

/// What came of a search.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Runs.
    pub runs: usize,
    /// Different (step, class, state) that faults befell.
    pub tuples: usize,
    /// Cases that were kept to make others from.
    pub kept: usize,
    /// What every class did.
    pub classes: BTreeMap<Class, Count>,
    /// Classes that never made a difference.
    pub inert: Vec<Class>,
    /// What should happen sometimes, and never did.
    pub never: Vec<&'static str>,
    /// What was broken: one case for each rule and place.
    pub failures: Vec<Failure>,
    /// How many runs broke something.
    pub broken: usize,
    /// Simulated time, in seconds.
    pub simulated_s: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// So many cases are made from the same knowledge.
const GENERATION: usize = 32;

/// Draws, one after another, from a seed.
struct Draw {
    seed: u64,
    nth: u64,
}

impl Draw {
    fn word(&mut self) -> u64 {
        self.nth += 1;
        hash::draw(self.seed, 0x5ea_2c4, self.nth)
    }

    fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count.max(1)).unwrap_or(1);
        usize::try_from(self.word() % count).unwrap_or(0)
    }

    fn of<T: Copy>(&mut self, from: &[T], otherwise: T) -> T {
        let index = self.below(from.len());
        from.get(index).copied().unwrap_or(otherwise)
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// Searches.
///
/// # Errors
/// If the options name something that is not there.
pub fn search(options: &Options, carry: &Carry) -> Result<Report, CaseError> {
    let from = combinations(&options.scenarios, &options.profiles)?;
    let budget = Budget::of(options.budget);
    let mut report = Report::default();
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let mut kept: Vec<Case> = Vec::new();
    let mut reached: BTreeSet<&'static str> = BTreeSet::new();
    let mut places: BTreeSet<String> = BTreeSet::new();
    let mut number = 0;
    while !budget.is_spent() && options.runs.is_none_or(|most| number < most) {
        let most = options.runs.map_or(GENERATION, |most| GENERATION.min(most - number));
        let cases: Vec<Case> =
            (number..number + most).map(|number| make(options.seed, number, &from, &kept)).collect();
        number += cases.len();
        let verdicts = pool::over(options.jobs, &cases, &budget, |case| carry_out_with(case, carry));
        for (verdict, case) in verdicts.into_iter().zip(cases) {
            let Some(verdict) = verdict else { continue };
            let verdict = verdict?;
            report.runs += 1;
            report.simulated_s += verdict.timings.simulated_ms / 1000;
            for fired in &verdict.fired {
                let count = report.classes.entry(fired.planned.fault.class()).or_default();
                count.fired += 1;
                count.changed += usize::from(fired.changed);
            }
            reached.extend(&verdict.sometimes);
            let new = verdict.tuples.iter().filter(|tuple| !seen.contains(tuple)).count();
            seen.extend(&verdict.tuples);
            if let Some(violation) = verdict.violations.into_iter().next() {
                report.broken += 1;
                if places.insert(place(&case, &violation.rule)) {
                    report.failures.push(Failure { case, violation });
                }
            } else if new > 0 {
                kept.push(case);
            }
        }
    }
    report.tuples = seen.len();
    report.kept = kept.len();
    let changed = |class: &Class| report.classes.get(class).is_some_and(|count| count.changed > 0);
    report.inert = Class::ALL.into_iter().filter(|class| !changed(class)).collect();
    report.never = SOMETIMES.iter().map(|(name, _)| *name).filter(|name| !reached.contains(name)).collect();
    report.elapsed = budget.elapsed();
    Ok(report)
}

/// What tells a failure from others: the rule, the workflow and the profile.
fn place(case: &Case, rule: &str) -> String {
    let faults: BTreeSet<String> =
        case.faults.iter().map(|planned| Folded::of_key(&planned.at).to_string()).collect();
    format!("{rule} {} {} {faults:?}", case.scenario, case.profile)
}

/// The case of this number: a fresh one, or one made from another that was kept.
fn make(seed: u64, number: usize, from: &[(&Reference, &str)], kept: &[Case]) -> Case {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    let mut draw = Draw { seed: hash::draw(seed, 0xca5e, number), nth: 0 };
    if !kept.is_empty() && draw.once_in(2) {
        let index = draw.below(kept.len());
        if let Some(case) = kept.get(index) {
            return mutated(case, &mut draw);
        }
    }
    let index = draw.below(from.len());
    let Some((reference, profile)) = from.get(index) else { return Case::new("create", "embedded", seed) };
    let mut case = Case::new(reference.name, profile, draw.word());
    if reference.name == OWN {
        // What there is, and what befalls it, is the suite's.
        case.random = Some(swarm(&mut draw, 0));
        return case;
    }
    if draw.once_in(2) {
        case.change = topology(&mut draw);
        case.change.replicas =
            case.change.replicas.filter(|replicas| reference.admits(*replicas)).or(Some(3));
        // As many as members at most ([`asked`]), so that no two have to be on one disk.
        let fewest = if *profile == "local-disks" { 4 } else { 1 };
        case.change.nodes = case.change.nodes.map(|nodes| nodes.max(fewest));
    }
    if draw.once_in(2) {
        events(&mut case, &mut draw);
    }
    case.change.schedule = Some(schedule(draw.word(), draw.word()));
    case.random = Some(swarm(&mut draw, reference.from_ms));
    case
}

/// One of the schedules: mostly the plain one, which is the fastest.
pub(super) fn schedule(which: u64, seed: u64) -> Schedule {
    match which % 6 {
        0 => Schedule::Random(seed),
        1 => Schedule::Priority(seed),
        _ => Schedule::Fifo,
    }
}

fn swarm(draw: &mut Draw, from_ms: u64) -> RandomFaults {
    let mut classes: Vec<Class> = Class::ALL.into_iter().filter(|_| draw.once_in(2)).collect();
    if classes.is_empty() {
        classes.push(draw.of(&Class::ALL, Class::CrashAfter));
    }
    RandomFaults {
        seed: draw.word(),
        per_100k: draw.of(&[10, 50, 150, 400, 1_000], 100),
        classes,
        from_ms: draw.of(&[0, from_ms, from_ms, from_ms + 5_000], from_ms),
        until_ms: 1_000_000,
    }
}

fn topology(draw: &mut Draw) -> Change {
    let mut clocks = BTreeMap::new();
    if draw.once_in(3) {
        let skew = ClockSkew {
            wall_ahead_ms: draw.of(&[-3_600_000, -5_000, 5_000, 3_600_000], 0),
            monotonic_at_zero_ms: draw.of(&[0, 1_000, 86_400_000], 0),
            drift_ppm: draw.of(&[-200, -50, 50, 200], 0),
        };
        clocks.insert(draw.of(&["node-1", "node-2", "s1", "s2"], "s1").to_owned(), skew);
    }
    Change {
        nodes: Some(draw.of(&[3, 4, 5, 6], 4)),
        servers: Some(draw.of(&[1, 2, 3], 2)),
        replicas: Some(draw.of(&[1, 2, 3, 3], 3)),
        restart_ms: Some(draw.of(&[200, 1_000, 5_000], 1_000)),
        clocks: Some(clocks),
        ..Change::default()
    }
}

/// Adds an event or two to what happens anyway, within what every fencing level assumes.
fn events(case: &mut Case, draw: &mut Draw) {
    let Ok(scenario) = case.build() else { return };
    let (nodes, storm_ms) = (scenario.nodes, scenario.storm_ms);
    if nodes == 0 {
        return;
    }
    let mut script = scenario.script;
    for _ in 0..=draw.below(2) {
        let node = Target::Node(format!("node-{}", draw.below(nodes as usize) + 1));
        let primary = Target::PrimaryOf("orders".to_owned());
        let target = if draw.once_in(2) { node } else { primary };
        let cut = Cut { control: true, peers: draw.once_in(2), clients: draw.once_in(2) };
        // Under leases nothing may stand still for longer than the margin.
        let leases = matches!(case.profile.as_str(), "leases" | "local-disks");
        let pause_ms = if leases { 1_000 } else { draw.of(&[500, 5_000, 30_000], 500) };
        let member = format!("orders-{}", draw.below(3));
        let action = match draw.below(11) {
            0 => Action::PauseNode(target, pause_ms),
            1 => Action::CutNode(target, cut, draw.of(&[2_000, 10_000, 40_000], 2_000)),
            2 => Action::CrashAgent(target),
            3 => Action::PauseAgent(target, draw.of(&[2_000, 10_000, 40_000], 2_000)),
            4 => Action::CrashServer(u32::from(draw.once_in(2))),
            5 => Action::PauseServer(u32::from(draw.once_in(2)), draw.of(&[3_000, 10_000, 40_000], 3_000)),
            6 => Action::CrashEngine(member),
            7 => {
                let contract = draw.of(&["metadata", "volume", "ip", "registry", "prover"], "metadata");
                Action::Outage(contract.to_owned(), draw.of(&[2_000, 15_000], 2_000))
            }
            8 => Action::JumpClock(target, draw.of(&[-600_000, -2_000, 2_000, 600_000], 2_000)),
            _ => Action::Ask(asked(&case.scenario, &script, draw), "orders".to_owned()),
        };
        let span = usize::try_from(storm_ms / 1000).unwrap_or(1);
        let at_ms = u64::try_from(draw.below(span)).unwrap_or(0) * 1000 + 500;
        script.push(Scripted { at_ms, action });
    }
    if case.profile == "local-disks" {
        lose_a_disk(&mut script, storm_ms, draw);
    }
    case.change.script = Some(script);
}

/// A member's disk is lost, and given up after a while, or given up though it is not lost. No guarantee is about two
/// disks: there is one such event in a run at most.
fn lose_a_disk(script: &mut Vec<Scripted>, storm_ms: u64, draw: &mut Draw) {
    let is_of_disk =
        |scripted: &Scripted| matches!(scripted.action, Action::LoseDisk(_) | Action::Rebuild(_));
    if script.iter().any(is_of_disk) || !draw.once_in(2) {
        return;
    }
    let member = format!("orders-{}", draw.below(3));
    let disk = Target::DiskOf(member.clone());
    let at_ms = draw.word() % storm_ms.max(1);
    let said_ms = at_ms + draw.of(&[500, 5_000, 20_000, 40_000], 5_000);
    let action = if draw.once_in(3) { Action::StopNode(disk) } else { Action::LoseDisk(disk) };
    script.push(Scripted { at_ms, action });
    script.push(Scripted { at_ms: said_ms, action: Action::Rebuild(member) });
}

/// What users may ask at any time. A second number of members would leave open which of the two is wanted at the end:
/// who is refused asks again.
fn asked(scenario: &str, script: &[Scripted], draw: &mut Draw) -> String {
    let scales =
        |action: &Action| matches!(action, Action::Ask(operation, _) if operation.starts_with("scale"));
    let leads_itself = scenario.ends_with("quorum");
    let choices: &[&str] = if leads_itself {
        &["restart"]
    } else if script.iter().any(|scripted| scales(&scripted.action)) {
        &["restart", "switchover"]
    } else {
        &["restart", "switchover", "scale to 4", "scale to 2"]
    };
    draw.of(choices, "restart").to_owned()
}

fn mutated(case: &Case, draw: &mut Draw) -> Case {
    let mut case = case.clone();
    match draw.below(5) {
        0 => case.seed = draw.word(),
        4 => case.change.schedule = Some(schedule(draw.word() % 2, draw.word())),
        1 => events(&mut case, draw),
        2 => case.random = Some(swarm(draw, 0)),
        _ => {
            if let Some(random) = &mut case.random {
                random.seed = draw.word();
            }
        }
    }
    case
}

/// The faults of a case that fired, one by one, so that they can be told and taken away.
///
/// # Errors
/// If the case names something that is not there.
pub fn named(case: &Case, carry: &Carry) -> Result<Case, CaseError> {
    let verdict = carry_out_with(case, carry)?;
    let faults: Vec<Planned> = verdict.fired.into_iter().map(|fired| fired.planned).collect();
    Ok(Case { random: None, ..case.with(faults) })
}
