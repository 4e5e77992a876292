//! The table of known bugs, from what was measured.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Found, How, Hunt, known};

/// The page `docs/known-bugs.md`.
pub fn markdown(hunts: &[Hunt], machine: &str) -> String {
    let mut page = String::from(HEAD);
    let found = hunts.iter().filter(|hunt| hunt.found.is_some()).count();
    let all: u64 = hunts.iter().map(|hunt| hunt.took_ms).sum();
    let median = median(hunts);
    // Writing to a string does not fail.
    write!(
        page,
        "**{found} of {} found**, the median within {}; all of them together took {} of one core's time ({machine}).\n\n",
        hunts.len(),
        time(median),
        time(all),
    )
    .ok();
    page.push_str("| bug | what is broken | known from | rule | what finds it | runs | time |\n|---|---|---|---|---|---|---|\n");
    for hunt in hunts {
        let (rule, by) = match &hunt.found {
            Some(found) => (found.violation.rule.as_str(), by(found)),
            None => ("–", "**not found**".to_owned()),
        };
        let (says, from) = (hunt.bug.says().trim(), known(hunt.bug).from);
        let (bug, runs, took) = (hunt.bug, hunt.runs, time(hunt.took_ms));
        writeln!(page, "| `{bug}` | {says} | {from} | {rule} | {by} | {runs} | {took} |").ok();
    }
    page.push_str("\n## What each teaches\n\n");
    for hunt in hunts {
        writeln!(page, "- `{}`: {}.", hunt.bug, known(hunt.bug).teaches).ok();
    }
    page.push_str(REPLACED);
    page
}

fn by(found: &Found) -> String {
    let name = &found.scenario.name;
    match (found.how, found.scenario.plan.faults.first()) {
        (How::Reference, _) => format!("{name}; no fault in a call"),
        (_, Some(planned)) => format!("{name}; `{:?}` at `{}`", planned.fault, planned.at),
        (_, None) => format!("{name}; faults at random, seed {}", found.scenario.seed),
    }
}

/// The median time to find what was found, in milliseconds.
fn median(hunts: &[Hunt]) -> u64 {
    let mut times: Vec<u64> =
        hunts.iter().filter(|hunt| hunt.found.is_some()).map(|hunt| hunt.took_ms).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn time(ms: u64) -> String {
    let duration = Duration::from_millis(ms);
    if ms < 10_000 { format!("{:.1} s", duration.as_secs_f64()) } else { format!("{} s", duration.as_secs()) }
}

const HEAD: &str = "# Known bugs, planted

Whoever tests with a simulator has to know that it finds something. These bugs are kept in the code behind a feature
that no build that ships has (`planted`), each a line or a few where it would be; each run plants one, and the hunt is
the same for all of them: the reference scenarios without any fault in a call, then one fault at every call site, then
faults at random. A bug counts as found when a rule is broken that holds in the same run without it.

This page is written by `steadfast-sim mutants --markdown`; the figures are those of the run that wrote it.

";

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
- *Another target is chosen when a move is resumed.* The choice follows from what is recorded, and is the same again.
- *Giving up on a throttled call.* Every pass is repeated by the next look.
";
