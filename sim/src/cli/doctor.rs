//! `doctor`: whether the same case gives the same trace, in this process and in another.

use std::io::{BufRead as _, Write as _};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use steadfast_sim::search::Case;
use steadfast_sim::search::doctor::{self, Divergence, Planted, Print};
use steadfast_sim::search::pool::{self, Budget};

use super::exit::{Exit, Failure, Result};
use super::{Global, output};

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// How many cases to repeat
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    cases: u32,
    /// What the cases are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Plant a banned source, to see that it is found
    #[arg(long, value_name = "SOURCE")]
    plant: Option<Source>,
    /// Carry out the cases on standard input, and print what came of each
    #[arg(long, hide = true)]
    child: bool,
}

/// A banned source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// The order of a hash map
    HashOrder,
    /// The machine's clock
    Clock,
}

impl Source {
    fn planted(self) -> Planted {
        match self {
            Source::HashOrder => Planted::HashOrder,
            Source::Clock => Planted::Clock,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Source::HashOrder => "hash-order",
            Source::Clock => "clock",
        }
    }
}

/// What another process is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    case: Case,
    /// From which entry on to tell what happened.
    from: Option<usize>,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    print: Print,
    events: Vec<String>,
}

/// A case whose runs differ.
#[derive(Debug, Serialize)]
struct Differing {
    case: Case,
    between: &'static str,
    #[serde(flatten)]
    first: Divergence,
}

/// What came of comparing cases: how many events there were, how many cases differ, and where the first of them does.
#[derive(Debug, Default, Serialize)]
struct Compared {
    events: usize,
    diverging: usize,
    divergences: Vec<Differing>,
}

#[derive(Debug, Serialize)]
struct Report {
    cases: usize,
    runs: usize,
    #[serde(flatten)]
    compared: Compared,
}

/// How often each case is carried out: twice in this process, each time on a fresh thread, and once in another.
const RUNS: usize = 3;

pub(crate) fn doctor(global: &Global, args: &DoctorArgs) -> Result<Exit> {
    let planted = args.plant.map(Source::planted);
    if args.child {
        return child(planted);
    }
    let cases = doctor::cases(usize::try_from(args.cases).unwrap_or(usize::MAX), args.seed);
    let size = cases.len().div_ceil(global.jobs()).max(1);
    let shares: Vec<&[Case]> = cases.chunks(size).collect();
    let looked = pool::over(global.jobs(), &shares, &Budget::of(None), |share| compare(share, args.plant));
    let mut all = Compared::default();
    for share in looked.into_iter().flatten() {
        let Compared { events, diverging, divergences } = share?;
        all.events += events;
        all.diverging += diverging;
        all.divergences.extend(divergences);
    }
    let report = Report { cases: cases.len(), runs: cases.len() * RUNS, compared: all };
    output::result(global.output, &text(&report), &report)?;
    if let Some(found) = report.compared.divergences.first() {
        let plan = steadfast_sim::plan::PlanFile::new(
            "two runs of this differ",
            found.case.clone(),
            steadfast_sim::plan::Expected::Holds,
            0,
        );
        output::line(&format!("replay: {}", plan.command()));
        return Ok(Exit::Error);
    }
    Ok(Exit::Done)
}

fn text(report: &Report) -> String {
    let Report { cases, runs, compared: Compared { events, diverging, divergences } } = report;
    let mut text = format!(
        "{cases} cases of {events} events, {runs} runs in two processes, each on a fresh thread: {diverging} differ\n"
    );
    for found in divergences {
        text.push_str(&format!(
            "DIFFERS {} on {}, seed {}, {}: first at entry {}\n  one:   {}\n  other: {}\n",
            found.case.scenario,
            found.case.profile,
            found.case.seed,
            found.between,
            found.first.entry,
            found.first.one,
            found.first.other
        ));
    }
    text
}

/// Compares every case's runs.
fn compare(cases: &[Case], plant: Option<Source>) -> Result<Compared> {
    let carry = doctor::carry(plant.map(Source::planted));
    let asked: Vec<Asked> = cases.iter().map(|case| Asked { case: case.clone(), from: None }).collect();
    let elsewhere = in_another_process(&asked, plant)?;
    let mut compared = Compared::default();
    for (case, elsewhere) in cases.iter().zip(&elsewhere) {
        let one = Print::of(&doctor::on_fresh_thread(case, &*carry)?);
        let two = Print::of(&doctor::on_fresh_thread(case, &*carry)?);
        compared.events += one.entries;
        let others = [("within a process", &two), ("between processes", &elsewhere.print)];
        let Some((between, other)) = others.into_iter().find(|(_, print)| **print != one) else { continue };
        compared.diverging += 1;
        if compared.divergences.is_empty() {
            compared.divergences.extend(locate(case, between, one.shared(other), plant)?);
        }
    }
    Ok(compared)
}

/// Runs the case once more here and elsewhere, and tells the first event that differs.
fn locate(
    case: &Case,
    between: &'static str,
    shared: usize,
    plant: Option<Source>,
) -> Result<Option<Differing>> {
    let carry = doctor::carry(plant.map(Source::planted));
    let here = doctor::on_fresh_thread(case, &*carry)?;
    // Up to the last checkpoint that the runs before shared there is nothing to see. These runs may part earlier, if
    // chance has it.
    let asked = |from| [Asked { case: case.clone(), from: Some(from) }];
    for from in [shared, 0] {
        let Some(there) = in_another_process(&asked(from), plant)?.pop() else { return Ok(None) };
        if Print::of(&here).shared(&there.print) < from {
            continue;
        }
        let first = doctor::divergence(from, &doctor::events_of(&here, from), &there.events);
        return Ok(first.map(|first| Differing { case: case.clone(), between, first }));
    }
    Ok(None)
}

fn in_another_process(asked: &[Asked], plant: Option<Source>) -> Result<Vec<Answered>> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Failure::new(Exit::Error, format!("{what}: {error}"));
    let program = std::env::current_exe().map_err(|error| failed("this program is not found", &error))?;
    let mut command = Command::new(program);
    command.args(["doctor", "--child"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(plant) = plant {
        command.args(["--plant", plant.name()]);
    }
    let mut child = command.spawn().map_err(|error| failed("no second process", &error))?;
    let mut lines = String::new();
    for asked in asked {
        lines.push_str(&serde_json::to_string(asked).map_err(|error| failed("a case", &error))?);
        lines.push('\n');
    }
    // Written while the answers are read: either pipe may be full.
    let stdin = child.stdin.take();
    let writing =
        std::thread::spawn(move || stdin.map_or(Ok(()), |mut stdin| stdin.write_all(lines.as_bytes())));
    let told = child.wait_with_output().map_err(|error| failed("the second process", &error))?;
    match writing.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(failed("the second process does not listen", &error)),
        Err(_) => return Err(Failure::new(Exit::Error, "the second process could not be asked")),
    }
    let answers = told.stdout.lines().map_while(std::result::Result::ok);
    let parsed: Vec<Answered> = answers
        .map(|line| {
            serde_json::from_str(&line).map_err(|error| failed("an answer of the second process", &error))
        })
        .collect::<Result<_>>()?;
    if parsed.len() == asked.len() {
        Ok(parsed)
    } else {
        let text = format!("the second process answered {} of {} cases", parsed.len(), asked.len());
        Err(Failure::new(Exit::Error, text))
    }
}

/// The other process.
fn child(planted: Option<Planted>) -> Result<Exit> {
    let carry = doctor::carry(planted);
    for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
        let asked: Asked = serde_json::from_str(&line).map_err(|error| Failure::new(Exit::Usage, error))?;
        let outcome = doctor::on_fresh_thread(&asked.case, &*carry)?;
        let events = asked.from.map_or_else(Vec::new, |from| doctor::events_of(&outcome, from));
        let answered = Answered { print: Print::of(&outcome), events };
        let text = serde_json::to_string(&answered).map_err(|error| Failure::new(Exit::Error, error))?;
        output::line(&text);
    }
    Ok(Exit::Done)
}
