//! The differential oracle: what is left after a run with faults, against what is left without any.
//!
//! A rule says what must never be; the oracle says what is merely different, and that nothing explains: a record, an
//! address or a name too many or too few, or many more calls that change something.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::run::Ending;

/// So many calls more than without faults are a retry or two of every step.
const CALLS_FACTOR: u64 = 4;
/// And so many are nothing.
const CALLS_SLACK: u64 = 40;

/// Kinds of records whose number depends on how a run went, not only on what was wanted: who worked on what, and what
/// was noted of it.
const VARYING: &[&str] = &["leases", "events", "servers", "idempotency"];

/// What differs from the run without faults, in words.
pub fn differences(calm: &Ending, found: &Ending) -> Vec<String> {
    let mut told = Vec::new();
    compare("runs", &calm.members, &found.members, &mut told);
    compare("leads", &calm.leaders, &found.leaders, &mut told);
    compare("has volumes", &calm.volumes, &found.volumes, &mut told);
    compare("has addresses", &calm.addresses, &found.addresses, &mut told);
    compare("holds", &calm.names, &found.names, &mut told);
    let records = |ending: &Ending| -> BTreeMap<String, usize> {
        let kinds = ending.records.iter().filter(|(kind, _)| !VARYING.contains(&kind.as_str()));
        kinds.map(|(kind, count)| (kind.clone(), *count)).collect()
    };
    compare("has records", &records(calm), &records(found), &mut told);
    let most = calm.changing_calls.saturating_mul(CALLS_FACTOR).saturating_add(CALLS_SLACK);
    if found.changing_calls > most {
        told.push(format!(
            "{} calls that may change something, {} without faults",
            found.changing_calls, calm.changing_calls
        ));
    }
    told
}

fn compare<T: PartialEq + Debug>(
    what: &str,
    calm: &BTreeMap<String, T>,
    found: &BTreeMap<String, T>,
    told: &mut Vec<String>,
) {
    let names = calm.keys().chain(found.keys().filter(|name| !calm.contains_key(*name)));
    for name in names {
        let (before, after) = (calm.get(name), found.get(name));
        if before != after {
            let text = |value: Option<&T>| value.map_or("nothing".to_owned(), |value| format!("{value:?}"));
            told.push(format!("{name} {what}: {} without faults, {} with them", text(before), text(after)));
        }
    }
}
