//! The table of known bugs, from what was measured.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::{Found, How, Hunt, known};
use crate::invariant::built_in;
use crate::model::Profile;
use crate::run::Scenario;

/// The figures of many hunts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many bugs were hunted.
    pub planted: usize,
    /// How many were found.
    pub found: usize,
    /// How many runs that took.
    pub runs: usize,
    /// The median time to find one that was found, in milliseconds of real time.
    pub median_ms: u64,
    /// The longest time to find one that was found.
    pub longest_ms: u64,
}

impl Tally {
    /// Of these.
    pub fn of(hunts: &[Hunt]) -> Self {
        let mut times: Vec<u64> =
            hunts.iter().filter(|hunt| hunt.found.is_some()).map(|hunt| hunt.took_ms).collect();
        times.sort_unstable();
        Tally {
            planted: hunts.len(),
            found: times.len(),
            runs: hunts.iter().map(|hunt| hunt.runs).sum(),
            median_ms: times.get(times.len() / 2).copied().unwrap_or_default(),
            longest_ms: times.last().copied().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { planted, found, runs, median_ms, longest_ms } = self;
        let share = found * 100 / (*planted).max(1);
        let (median, longest) = (time(*median_ms), time(*longest_ms));
        write!(
            f,
            "{found} of {planted} found ({share} %) in {runs} runs: the median after {median}, the last after {longest}"
        )
    }
}

/// The page `docs/known-bugs.md`; `setting` says how it was measured.
pub fn markdown(hunts: &[Hunt], setting: &str) -> String {
    let mut page = format!("{HEAD}**{}** ({setting}).\n\n", Tally::of(hunts));
    page.push_str("| bug | what is broken | known from | rule | what finds it | runs | time |\n|---|---|---|---|---|---|---|\n");
    for Hunt { bug, found, runs, took_ms, .. } in hunts {
        let (says, from, took) = (bug.says().trim(), known(*bug).from, time(*took_ms));
        let (name, rule, by) = match found {
            Some(found) => {
                (format!("[`{bug}`]({PLANS}/{bug}.json)"), found.violation.rule.as_str(), by(found))
            }
            None => (format!("`{bug}`"), "–", "**not found**".to_owned()),
        };
        // Writing to a string does not fail.
        writeln!(page, "| {name} | {says} | {from} | {rule} | {by} | {runs} | {took} |").ok();
    }
    page.push_str(&rules(hunts));
    page.push_str("\n## What each teaches\n\n");
    for hunt in hunts {
        writeln!(page, "- `{}`: {}.", hunt.bug, known(hunt.bug).teaches).ok();
    }
    page.push_str(REPLACED);
    page
}

/// What the rules say that were broken.
fn rules(hunts: &[Hunt]) -> String {
    let broken: BTreeSet<&str> = hunts
        .iter()
        .filter_map(|hunt| hunt.found.as_ref().map(|found| found.violation.rule.as_str()))
        .collect();
    let mut text = String::from("\n## The rules\n\n");
    if broken.contains(HEALS.0) {
        writeln!(text, "- {}: {}", HEALS.0, HEALS.1).ok();
    }
    for rule in built_in(&Scenario::calm("", Profile::embedded(), 1)) {
        if broken.contains(rule.id()) {
            writeln!(text, "- {}: {}", rule.id(), rule.says()).ok();
        }
    }
    text
}

fn by(found: &Found) -> String {
    let name = &found.scenario.name;
    match (found.how, found.scenario.plan.faults.first()) {
        (How::Reference, _) => format!("{name}; no fault in a call"),
        (_, Some(planned)) => format!("{name}; `{:?}` at `{}`", planned.fault, planned.at),
        (_, None) => format!("{name}; faults at random, seed {}", found.scenario.seed),
    }
}

/// A time for people.
pub fn time(ms: u64) -> String {
    let duration = Duration::from_millis(ms);
    if ms < 10_000 { format!("{:.1} s", duration.as_secs_f64()) } else { format!("{} s", duration.as_secs()) }
}

const HEAD: &str = "# Known bugs, planted

Whoever tests with a simulator has to know that it finds something. These bugs are kept in the code behind a feature
that no build that ships has (`planted`), each a line or a few where it would be; each run plants one, and the hunt is
the same for all of them: the reference scenarios without any fault in a call, then one fault at every call site, then
faults at random. A bug counts as found when a rule is broken that holds in the same run without it.

This page and the plans that it leads to are written by

```console
$ cargo run --profile sim -p steadfast-sim --features planted -- mutants \\
    --markdown docs/known-bugs.md --save sim/plans/planted
```

and the figures are those of the run that wrote them. Each bug leads to the plan that finds it:
`steadfast-sim replay sim/plans/planted/BUG.json`, in a build with that feature, breaks the rule again.

";

/// Where the plans are, seen from the page.
const PLANS: &str = "../sim/plans/planted";

/// The rule that is no rule of facts.
const HEALS: (&str, &str) = (
    "L1",
    "once everything is repaired, what is wanted is reached within a bound derived from the timers, and stays so",
);

const REPLACED: &str = "
## Bugs that are none here

Some known bugs were planted and taken out again, since nothing they do can be told from what is right. Each says that
a guard is doubled.

- *A claim forgets the earlier holders as soon as it is one.* Volume and address each record their own last holder, so
  nothing is lost with the list.
- *A claim that lost its swap goes on as if it had won.* Every step is decided on what is read anew, so the next one
  finds out.
- *A stale actor overwrites a member's own name.* A member's address never changes: what it writes is what is there. The
  name of the primary does move, and there the bug is found (`stale-name`).
- *A server goes on after its lease of a shard.* Everything it does is a compare-and-swap or names what it replaces; two
  servers at one service are slow, not wrong.
- *A lease counts from the answer to its renewal.* Whoever claims counts a node's silence from its own first look, which
  comes after everybody else's: that is longer than any answer may take.
- *An agent ignores that its life is confirmed dead, or that it holds a member no more.* It sees as well that the member
  is placed elsewhere, and gives it up.
- *Positions count that were said before an election, or replicas follow on while it goes on.* No election begins while
  the old primary may be serving, so nothing more comes from it.
- *An engine is brought into the role that was read a while ago.* Reading it right before only narrows a window that a
  pause opens again. What protects is that nobody follows an old term, and that the next look reads anew.
- *Another target is chosen when a move is resumed.* The choice follows from what is recorded, and is the same again.
- *Giving up on a throttled call.* Every pass is repeated by the next look.
";
