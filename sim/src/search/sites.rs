//! The call sites of a run, folded: what differs only in numbers is one site in meaning.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fault::{Class, Planned};
use crate::key::{Key, Site};
use crate::run::Outcome;
use crate::time::Time;
use crate::trace::Stage;

/// A site in meaning: the role of who calls, not its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Folded {
    /// `agent`, `server`.
    pub role: String,
    /// The task that calls.
    pub workflow: String,
    /// Contract and operation.
    pub operation: String,
    /// What it is about, every number in it being `#`.
    pub resource: String,
}

impl fmt::Display for Folded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Folded { role, workflow, operation, resource } = self;
        write!(f, "{role} {workflow} {operation} {resource}")
    }
}

/// A text without its numbers.
pub fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut number = false;
    for letter in text.chars() {
        let digit = letter.is_ascii_digit();
        if !digit {
            out.push(letter);
        } else if !number {
            out.push('#');
        }
        number = digit;
    }
    out
}

impl Folded {
    /// What a site is in meaning.
    pub fn of(site: &Site) -> Self {
        Folded::new(&site.actor, site.workflow, site.operation, &site.resource)
    }

    /// What the site of a key is in meaning.
    pub fn of_key(key: &Key) -> Self {
        Folded::new(&key.actor, &key.workflow, &key.operation, &key.resource)
    }

    fn new(actor: &str, workflow: &str, operation: &str, resource: &str) -> Self {
        Folded {
            role: actor.split('@').next().unwrap_or(actor).to_owned(),
            workflow: workflow.to_owned(),
            operation: operation.to_owned(),
            resource: without_numbers(resource),
        }
    }
}

/// The calls of a run at one folded site, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Calls {
    /// Whether they may change something.
    pub writes: bool,
    /// Whether they stay on one machine.
    pub local: bool,
    /// When, and which.
    pub made: Vec<(Time, Key)>,
    /// Those whose answer such a fault would change, by class, if that is not so of all.
    pub telling: BTreeMap<Class, Vec<Key>>,
}

impl Calls {
    fn at(site: &Site) -> Self {
        Calls { writes: site.writes, local: site.local, ..Calls::default() }
    }

    /// Those worth a fault of this class of their own: all if there are few, else the first, the last and what lies
    /// evenly between.
    pub fn chosen(&self, class: Class, most: usize) -> Vec<&Key> {
        let those: Vec<&Key> = if class.needs_telling() {
            self.telling.get(&class).into_iter().flatten().collect()
        } else {
            self.made.iter().map(|(_, key)| key).collect()
        };
        let most = most.max(1);
        if those.len() <= most {
            return those;
        }
        let at = |nth: usize| nth * (those.len() - 1) / (most - 1).max(1);
        (0..most).filter_map(|nth| those.get(at(nth)).copied()).collect()
    }

    /// The classes that can befall such a call, and make a difference to one of these.
    pub fn classes(&self, operation: &str) -> impl Iterator<Item = Class> {
        let can = |class: &Class| !class.needs_telling() || self.telling.contains_key(class);
        let applies = |class: &Class| class.applies(operation, self.writes, self.local);
        Class::ALL.into_iter().filter(move |class| applies(class) && can(class))
    }
}

/// The calls that a run made from `from` on until `until`, by folded site.
pub fn calls(outcome: &Outcome, from: Time, until: Time) -> BTreeMap<Folded, Calls> {
    gather(outcome, from, until, usize::MAX)
}

/// Of these the first at every folded site, and the first for every class that needs telling.
pub fn first_calls(outcome: &Outcome, from: Time, until: Time) -> BTreeMap<Folded, Calls> {
    gather(outcome, from, until, 1)
}

/// So many of each kind at most.
fn gather(outcome: &Outcome, from: Time, until: Time, most: usize) -> BTreeMap<Folded, Calls> {
    // What is the same in meaning is found once for each site, and not for each of its calls.
    let mut places: BTreeMap<Folded, usize> = BTreeMap::new();
    let mut place_of = |site| {
        let next = places.len();
        *places.entry(Folded::of(site)).or_insert(next)
    };
    let place_of: Vec<usize> = outcome.sites.iter().map(&mut place_of).collect();
    let mut found: Vec<Option<Calls>> = vec![None; places.len()];
    let within = |at: Time| from <= at && at < until;
    for entry in outcome.trace.iter().filter(|entry| entry.stage != Stage::Heard && within(entry.at)) {
        let index = entry.site as usize;
        let (Some(site), Some(place)) = (outcome.sites.get(index), place_of.get(index)) else { continue };
        let Some(calls) = found.get_mut(*place) else { continue };
        if entry.stage == Stage::Asked {
            let known = calls.get_or_insert_with(|| Calls::at(site));
            if known.made.len() < most {
                known.made.push((entry.at, site.key(entry.nth)));
            }
            continue;
        }
        // One that was made before that time is none of these.
        let Some(known) = calls else { continue };
        let telling = |class: &Class| class.needs_telling() && entry.telling.allows(*class);
        for class in Class::ALL.into_iter().filter(telling) {
            let telling = known.telling.entry(class).or_default();
            if telling.len() < most {
                telling.push(site.key(entry.nth));
            }
        }
    }
    let named = places.into_iter().filter_map(|(site, place)| Some((site, found.get_mut(place)?.take()?)));
    named.collect()
}

/// A fault of this class, of the strength that enumeration uses: longer than any patience and any lease.
pub fn strong(class: Class, at: Key) -> Planned {
    Planned { at, fault: class.strong() }
}
