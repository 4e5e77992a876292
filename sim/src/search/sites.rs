//! The call sites of a run, folded: what differs only in numbers is one site in meaning.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::fault::{Class, Planned};
use crate::key::{Key, Site};
use crate::run::Outcome;
use crate::time::Time;
use crate::trace::Stage;

/// A site in meaning: the role of who calls, not its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
#[derive(Debug, Clone, Default)]
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

    /// The first of every kind.
    pub fn first(mut self) -> Self {
        self.made.truncate(1);
        self.telling.values_mut().for_each(|keys| keys.truncate(1));
        self
    }
}

/// The calls that a run made from `from` on until `until`, by folded site.
pub fn calls(outcome: &Outcome, from: Time, until: Time) -> BTreeMap<Folded, Calls> {
    let mut folded: Vec<Option<Folded>> = outcome.sites.iter().map(|site| Some(Folded::of(site))).collect();
    let mut found: BTreeMap<Folded, Calls> = BTreeMap::new();
    let within = |at: Time| from <= at && at < until;
    for entry in outcome.trace.iter().filter(|entry| entry.stage != Stage::Heard && within(entry.at)) {
        let index = entry.site as usize;
        let (Some(site), Some(Some(name))) = (outcome.sites.get(index), folded.get_mut(index)) else {
            continue;
        };
        if entry.stage == Stage::Asked && !found.contains_key(name) {
            let calls = Calls { writes: site.writes, local: site.local, ..Calls::default() };
            found.insert(name.clone(), calls);
        }
        let Some(calls) = found.get_mut(name) else { continue };
        if entry.stage == Stage::Asked {
            calls.made.push((entry.at, site.key(entry.nth)));
            continue;
        }
        let telling = |class: &Class| class.needs_telling() && entry.telling.allows(*class);
        for class in Class::ALL.into_iter().filter(telling) {
            calls.telling.entry(class).or_default().push(site.key(entry.nth));
        }
    }
    found
}

/// A fault of this class, of the strength that enumeration uses: longer than any patience and any lease.
pub fn strong(class: Class, at: Key) -> Planned {
    Planned { at, fault: class.strong() }
}
