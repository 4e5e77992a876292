//! What many runs have in common, carried out once: cases that differ in their last fault alone are one run up to the call
//! that it befalls. There the process forks, and the child goes on with the fault, the parent without.
//!
//! ```text
//! this process ── a worker for each job ── one for each run without the last fault ──●──────●─▶ ended after the last
//!                                                                                    └ child└ child: a case, its
//!                                                                                                    verdict sent up
//! ```
//!
//! A child is its parent, byte for byte, so its run is the one that begins with the fault planned: of one case of each run
//! that parts this is looked at. Whatever no child tells of is carried out from its beginning.
//!
//! The workers are begun before anything else is in memory: what it takes to fork grows with that.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fork::{Fork, fork, waitpid};
use serde::{Deserialize, Serialize};

use super::case::{Case, CaseError};
use super::pool::{self, Budget, Verdict};
use super::sites::{Calls, Folded};
use super::state::SOMETIMES;
use crate::cast::Cast;
use crate::fault::{Fired, Parting, Planned};
use crate::run::{Ending, Timings, Violation, run_parting};

/// What a child says of its case.
#[derive(Serialize, Deserialize)]
struct Told {
    /// Which case.
    case: usize,
    violations: Vec<Violation>,
    hash: u64,
    fired: Vec<Fired>,
    ending: Ending,
    reached: Vec<(Folded, Calls)>,
    sometimes: BTreeSet<String>,
    tuples: BTreeSet<u64>,
    timings: Timings,
}

impl Told {
    fn new(case: usize, verdict: Verdict) -> Self {
        let Verdict { violations, hash, fired, ending, reached, sometimes, tuples, timings, .. } = verdict;
        let sometimes = sometimes.into_iter().map(str::to_owned).collect();
        let reached = reached.into_iter().collect();
        Told { case, violations, hash, fired, ending, reached, sometimes, tuples, timings }
    }

    fn verdict(self, case: &Case) -> Verdict {
        let Told { violations, hash, fired, ending, reached, sometimes, tuples, timings, .. } = self;
        let names = SOMETIMES.iter().map(|(name, _)| *name);
        Verdict {
            violations,
            hash,
            missing: pool::missing(case, &fired),
            fired,
            ending,
            reached: reached.into_iter().collect(),
            sometimes: names.filter(|name| sometimes.contains(*name)).collect(),
            tuples,
            calls: timings.calls,
            timings,
        }
    }
}

/// Cases that are the same but for their last faults.
#[derive(Serialize, Deserialize)]
struct Trunk {
    /// What they have in common.
    case: Case,
    /// The last faults, by the number of their case.
    branches: Vec<(usize, Planned)>,
}

/// Those of which it is worth it, the largest first.
fn trunks(cases: &[Case]) -> Vec<Trunk> {
    let mut trunks: Vec<Trunk> = Vec::new();
    let mut known: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        let Some((last, before)) = case.faults.split_last() else { continue };
        let of_scenario = known.entry((&case.scenario, &case.profile)).or_default();
        let in_common = case.with(before.to_vec());
        let found = of_scenario.iter().copied().find(|at| trunks[*at].case == in_common);
        let at = found.unwrap_or_else(|| {
            trunks.push(Trunk { case: in_common, branches: Vec::new() });
            of_scenario.push(trunks.len() - 1);
            trunks.len() - 1
        });
        trunks[at].branches.push((index, last.clone()));
    }
    trunks.retain(|trunk| trunk.branches.len() > 1);
    trunks.sort_by_key(|trunk| std::cmp::Reverse(trunk.branches.len()));
    trunks
}

/// Processes that carry out what cases have in common.
#[derive(Debug)]
pub(super) struct Workers(Vec<Mutex<Worker>>);

#[derive(Debug)]
struct Worker {
    process: i32,
    /// Trunks go there, one a line.
    to: PipeWriter,
    /// From there come what children tell, one a line, and [`END`] after each trunk.
    from: BufReader<PipeReader>,
}

impl Workers {
    /// So many; fewer if the system has no more. They begin nothing once the budget is spent.
    pub(super) fn start(jobs: usize, budget: Budget) -> Self {
        Workers((0..jobs).filter_map(|_| Worker::start(budget).ok().map(Mutex::new)).collect())
    }

    /// The verdicts of the cases that have a run in common with others; none of those that nobody told of.
    ///
    /// # Errors
    /// If a run that has parted is another one than from its beginning.
    pub(super) fn over(
        &self,
        cases: &[Case],
        budget: &Budget,
    ) -> Result<Vec<Option<Result<Verdict, CaseError>>>, CaseError> {
        let trunks = trunks(cases);
        let next = AtomicUsize::new(0);
        let verdicts: Vec<Mutex<Option<Verdict>>> = cases.iter().map(|_| Mutex::default()).collect();
        let take = |told: Told| {
            if let (Some(case), Some(place)) = (cases.get(told.case), verdicts.get(told.case)) {
                *lock(place) = Some(told.verdict(case));
            }
        };
        std::thread::scope(|scope| {
            for worker in &self.0 {
                scope.spawn(|| {
                    let mut worker = lock(worker);
                    while let Some(trunk) = trunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // One that has ended tells of nothing more.
                        if budget.is_spent() || worker.ask(trunk, take).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let verdicts: Vec<Option<Verdict>> = verdicts
            .into_iter()
            .map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect();
        look_again(self.0.len(), &trunks, cases, budget, &verdicts)?;
        Ok(verdicts.into_iter().map(|verdict| verdict.map(Ok)).collect())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Workers {
    fn drop(&mut self) {
        let workers =
            self.0.drain(..).map(|worker| worker.into_inner().unwrap_or_else(PoisonError::into_inner));
        // Each ends when nobody can ask it any more, and those that were begun after it could, too.
        let processes: Vec<i32> = workers.map(|worker| worker.process).collect();
        for process in processes {
            waitpid(process).ok();
        }
    }
}

impl Worker {
    fn start(budget: Budget) -> io::Result<Self> {
        let (asked, to) = io::pipe()?;
        let (from, told) = io::pipe()?;
        match fork()? {
            Fork::Child => {
                drop((to, from));
                work(BufReader::new(asked), &told, budget)
            }
            Fork::Parent(process) => Ok(Worker { process, to, from: BufReader::new(from) }),
        }
    }

    fn ask(&mut self, trunk: &Trunk, take: impl Fn(Told)) -> io::Result<()> {
        say(&self.to, trunk)?;
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.trim_end() == END {
                return Ok(());
            }
            // Half a line is of a child that was ended: its case is left.
            if let Ok(told) = serde_json::from_str(&line) {
                take(told);
            }
        }
    }
}

/// The line after everything that is told of a trunk.
const END: &str = "end";

fn say(mut to: &PipeWriter, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// A worker: one run after another, each in a process of its own, until nobody asks.
fn work(asked: BufReader<PipeReader>, told: &PipeWriter, budget: Budget) -> ! {
    let mut told_on = told;
    for line in asked.lines().map_while(io::Result::ok) {
        let Ok(trunk) = serde_json::from_str::<Trunk>(&line) else { exit(1) };
        match fork() {
            Ok(Fork::Child) => carry_out(&trunk, budget, told),
            Ok(Fork::Parent(child)) => drop(waitpid(child)),
            Err(_) => {}
        }
        if write!(told_on, "\n{END}\n").is_err() {
            exit(1);
        }
    }
    exit(0)
}

/// Carries out what cases have in common, and as a child of it one of them.
fn carry_out(trunk: &Trunk, budget: Budget, told: &PipeWriter) -> ! {
    let Ok(scenario) = trunk.case.build() else { exit(1) };
    let parted: Arc<Mutex<Option<(usize, Planned)>>> = Arc::default();
    let faults: Vec<Planned> = trunk.branches.iter().map(|(_, planned)| planned.clone()).collect();
    let (is, mut left) = (Arc::clone(&parted), trunk.branches.clone());
    let parting = Parting::new(&faults, move |planned| {
        let Some(at) = left.iter().position(|(_, one)| one == planned) else { return false };
        let branch = left.swap_remove(at);
        let is_child = !budget.is_spent() && becomes_child();
        if is_child {
            *lock(&is) = Some(branch);
        } else if left.is_empty() || budget.is_spent() {
            exit(0)
        }
        is_child
    });
    // A panic is a finding of the case that it is in.
    let outcome = catch_unwind(AssertUnwindSafe(|| run_parting(&scenario, &Cast::new(), Some(parting))));
    let Some((number, planned)) = lock(&parted).take() else { exit(0) };
    let mut case = trunk.case.clone();
    case.faults.push(planned);
    let verdict = match (outcome, case.build()) {
        (Ok(Ok(outcome)), Ok(scenario)) => {
            let verdict = Verdict::of(&case, &scenario, &outcome);
            // To put it away in order is to copy what is shared with the parent.
            mem::forget(outcome);
            verdict
        }
        (Err(why), _) => Verdict::panicked(&*why),
        _ => exit(1),
    };
    exit(i32::from(say(told, &Told::new(number, verdict)).is_err()))
}

/// Forks; whether this is the child. The parent goes on when the child has ended.
fn becomes_child() -> bool {
    match fork() {
        Ok(Fork::Child) => true,
        Ok(Fork::Parent(child)) => {
            waitpid(child).ok();
            false
        }
        Err(_) => false,
    }
}

/// Carries out one case of each trunk from its beginning, too: it has to be the same run.
fn look_again(
    jobs: usize,
    trunks: &[Trunk],
    cases: &[Case],
    budget: &Budget,
    verdicts: &[Option<Verdict>],
) -> Result<(), CaseError> {
    let told = |(index, _): &(usize, Planned)| Some((cases.get(*index)?, verdicts.get(*index)?.as_ref()?));
    let last = |trunk: &Trunk| trunk.branches.iter().rev().find_map(told);
    let ones: Vec<(&Case, &Verdict)> = trunks.iter().filter_map(last).collect();
    let again = pool::over(jobs, &ones, budget, |(case, told)| {
        let verdict = pool::carry_out(case)?;
        let same = (verdict.hash, &verdict.violations, &verdict.ending, &verdict.reached)
            == (told.hash, &told.violations, &told.ending, &told.reached);
        let text = || format!("a run that has parted is another one than from its beginning: {case:?}");
        if same { Ok(()) } else { Err(CaseError::Invalid(text())) }
    });
    again.into_iter().flatten().collect()
}
