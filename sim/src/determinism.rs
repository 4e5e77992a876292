//! That no run differs from its repeat: runs to repeat, and where two of them part.

use crate::fault::{Class, RandomFaults};
use crate::key::Site;
use crate::model::Profile;
use crate::run::{Action, Outcome, Scenario, Target, run};
use crate::time::Time;
use crate::trace::Trace;

/// A scenario that comes by everything that randomness could get in at: a node, a server and an agent are lost, calls
/// fail at random, and clocks differ. Each number is another one.
pub fn sample(number: u64) -> Scenario {
    let profiles = [Profile::embedded, Profile::block_storage, Profile::shared_storage, Profile::leases];
    let which = usize::try_from(number % 4).unwrap_or(0);
    let profile = profiles.get(which).map_or_else(Profile::embedded, |profile| profile());
    let mut scenario = Scenario::calm("determinism", profile, number)
        .losing_the_primary(20_000)
        .at(5_000, Action::CrashServer(1))
        .at(12_000, Action::CrashAgent(Target::Node("node-2".to_owned())))
        .at(26_000, Action::CrashServer(0));
    scenario.servers = 2;
    scenario.storm_ms = 40_000;
    // Only its repeat is of interest, not how it ends.
    scenario.heal.within_ms = 10_000;
    scenario.heal.stable_ms = 5_000;
    scenario.plan.random = Some(RandomFaults {
        seed: number,
        per_100k: 300,
        classes: Class::ALL.to_vec(),
        from_ms: 0,
        until_ms: scenario.storm_ms,
    });
    scenario
}

/// The hashes of the traces of samples `from` and those after it, so many.
///
/// # Errors
/// If a scenario cannot be carried out.
pub fn hashes(from: u64, count: u64) -> Result<Vec<u64>, String> {
    (from..from.saturating_add(count)).map(|number| Ok(run(&sample(number))?.hash)).collect()
}

/// Where two runs of one scenario part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The index in both traces of the first entry that differs.
    pub entry: usize,
    /// When it was, in the first run, or in the second if the first is over.
    pub at: Time,
    /// The entry in the first run, for people; none: it is over.
    pub first: Option<String>,
    /// The entry in the second.
    pub second: Option<String>,
}

/// The first entry at which two runs part; none: they are the same.
///
/// Whole thousands of entries are passed over by their hashes.
pub fn divergence(first: &Outcome, second: &Outcome) -> Option<Divergence> {
    let same = first.checkpoints.iter().zip(&second.checkpoints).take_while(|(a, b)| a == b).count();
    let begin = same.saturating_mul(Trace::CHECKPOINT);
    let longest = first.trace.len().max(second.trace.len());
    let entry = (begin..longest).find(|index| told(first, *index) != told(second, *index))?;
    let at = first.trace.get(entry).or(second.trace.get(entry)).map_or(Time::ZERO, |entry| entry.at);
    Some(Divergence { entry, at, first: told(first, entry), second: told(second, entry) })
}

/// An entry in words: indices of sites depend on the run, their names do not.
fn told(outcome: &Outcome, index: usize) -> Option<String> {
    let entry = outcome.trace.get(index)?;
    let sites: &[Site] = &outcome.sites;
    let mut text = Trace::describe(entry, sites);
    if sites.get(entry.site as usize).is_none()
        && let Some((_, fact)) = outcome.facts.get(entry.nth as usize)
    {
        text.push_str(&format!(" {fact:?}"));
    }
    Some(text)
}
