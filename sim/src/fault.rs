//! Faults: what goes wrong, where by meaning, and what really came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash;
use crate::key::Key;
use crate::time::Time;

/// How a call goes wrong. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Refused for its rate, without effect.
    Throttled,
    /// Refused by a backend that fails on its own side, without effect.
    Unavailable,
    /// It never arrives; the caller hears nothing.
    RequestLost,
    /// It takes effect; the caller hears nothing.
    ResponseLost,
    /// It takes effect so much later; the caller hears nothing.
    LateEffect(u64),
    /// It takes effect twice, the second time so much later, and the caller hears of the second alone: something below
    /// it has tried again, and does not say so.
    Duplicate(u64),
    /// It takes so much longer each way.
    Slow(u64),
    /// A read gives what was so before the last change, if that is not longer ago than the profile's reads may lag.
    StaleRead,
    /// A list gives its first half as the whole; a page of the store, which knows what it has, ends early and says so.
    PartialList,
    /// A hint never arrives.
    MissedEvent,
    /// The caller's process ends before the call is made.
    CrashBefore,
    /// The caller's process ends when the call has taken effect.
    CrashAfter,
    /// The caller's process stands still for so long before the call is made.
    Pause(u64),
}

/// The operation of a hint on its way to who watches.
pub const HINT: &str = "metadata.hint";
/// The operation of the store that answers in pages.
const SCAN: &str = "metadata.scan";

/// Which faults of an answer would make a difference to a call: only the run itself can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Telling {
    /// An earlier answer would be another one.
    pub stale: bool,
    /// There is something to leave out.
    pub partial: bool,
}

impl Telling {
    /// Whether a fault of this class would make a difference, as far as that is known before it befalls the call.
    pub fn allows(self, class: Class) -> bool {
        match class {
            Class::StaleRead => self.stale,
            Class::PartialList => self.partial,
            _ => true,
        }
    }
}

/// The class of a fault, for statistics and for choosing at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "as in Fault")]
pub enum Class {
    Throttled,
    Unavailable,
    RequestLost,
    ResponseLost,
    LateEffect,
    Duplicate,
    Slow,
    StaleRead,
    PartialList,
    MissedEvent,
    CrashBefore,
    CrashAfter,
    Pause,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 13] = [
        Class::Throttled,
        Class::Unavailable,
        Class::RequestLost,
        Class::ResponseLost,
        Class::LateEffect,
        Class::Duplicate,
        Class::Slow,
        Class::StaleRead,
        Class::PartialList,
        Class::MissedEvent,
        Class::CrashBefore,
        Class::CrashAfter,
        Class::Pause,
    ];

    /// Whether a fault of this class can befall such a call at all, by what its contract promises: the store is
    /// linearizable, and what stays on a machine is not lost on the way. How old a read may be is the profile's to say.
    pub fn applies(self, operation: &str, writes: bool, local: bool) -> bool {
        if operation == HINT {
            return self == Class::MissedEvent;
        }
        match self {
            Class::PartialList if operation == SCAN => true,
            Class::StaleRead | Class::PartialList => !writes && !local && !operation.starts_with("metadata."),
            Class::LateEffect | Class::Duplicate => writes && !local,
            Class::RequestLost | Class::ResponseLost | Class::Throttled => !local,
            Class::MissedEvent => false,
            Class::Unavailable | Class::Slow | Class::CrashBefore | Class::CrashAfter | Class::Pause => true,
        }
    }

    /// Whether only some calls have an answer that it can change.
    pub fn needs_telling(self) -> bool {
        matches!(self, Class::StaleRead | Class::PartialList)
    }

    /// A fault of this class that outlasts every patience and every lease.
    pub fn strong(self) -> Fault {
        match self {
            Class::LateEffect => Fault::LateEffect(12_000),
            Class::Duplicate => Fault::Duplicate(3_000),
            Class::Slow => Fault::Slow(9_000),
            Class::Pause => Fault::Pause(20_000),
            other => other.fault(0),
        }
    }

    /// A fault of this class; `draw` decides how long it lasts.
    pub fn fault(self, draw: u64) -> Fault {
        let pick = |choices: [u64; 4]| choices[usize::try_from(draw % 4).unwrap_or(0)];
        match self {
            Class::Throttled => Fault::Throttled,
            Class::Unavailable => Fault::Unavailable,
            Class::RequestLost => Fault::RequestLost,
            Class::ResponseLost => Fault::ResponseLost,
            Class::LateEffect => Fault::LateEffect(pick([500, 5_000, 12_000, 30_000])),
            Class::Duplicate => Fault::Duplicate(pick([1, 100, 3_000, 15_000])),
            Class::Slow => Fault::Slow(pick([200, 1_000, 4_000, 9_000])),
            Class::StaleRead => Fault::StaleRead,
            Class::PartialList => Fault::PartialList,
            Class::MissedEvent => Fault::MissedEvent,
            Class::CrashBefore => Fault::CrashBefore,
            Class::CrashAfter => Fault::CrashAfter,
            Class::Pause => Fault::Pause(pick([2_000, 4_000, 8_000, 40_000])),
        }
    }
}

impl Fault {
    /// Its class.
    pub fn class(self) -> Class {
        match self {
            Fault::Throttled => Class::Throttled,
            Fault::Unavailable => Class::Unavailable,
            Fault::RequestLost => Class::RequestLost,
            Fault::ResponseLost => Class::ResponseLost,
            Fault::LateEffect(_) => Class::LateEffect,
            Fault::Duplicate(_) => Class::Duplicate,
            Fault::Slow(_) => Class::Slow,
            Fault::StaleRead => Class::StaleRead,
            Fault::PartialList => Class::PartialList,
            Fault::MissedEvent => Class::MissedEvent,
            Fault::CrashBefore => Class::CrashBefore,
            Fault::CrashAfter => Class::CrashAfter,
            Fault::Pause(_) => Class::Pause,
        }
    }
}

/// A fault and the call that it befalls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// The call.
    pub at: Key,
    /// What goes wrong.
    pub fault: Fault,
}

/// Faults at random, by meaning: whether a call is befallen depends on the seed and its key alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomFaults {
    /// The seed.
    pub seed: u64,
    /// How many of a hundred thousand calls go wrong.
    pub per_100k: u32,
    /// How.
    pub classes: Vec<Class>,
    /// From when on, in milliseconds.
    pub from_ms: u64,
    /// Until when, in milliseconds.
    pub until_ms: u64,
}

/// The faults of a run, as they are planned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// One by one.
    pub faults: Vec<Planned>,
    /// And at random.
    pub random: Option<RandomFaults>,
}

/// A fault that befell a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// When.
    pub at: Time,
    /// The call, and what went wrong.
    pub planned: Planned,
    /// Whether it made a difference: an answer was another one, late or missing, what there is was changed, or a
    /// process was disturbed. A stale read that gave what is true, a list with nothing to leave out and a second
    /// delivery without effect made none.
    pub changed: bool,
}

/// So much more often than anything else at random: few calls are reads of a cloud, and few of these come so soon after a
/// change that an earlier answer is another one.
const LAGS_OFTEN: u64 = 20;

/// Where a run parts into several, each with one fault more.
pub(crate) struct Parting {
    /// By call, what may befall it.
    at: BTreeMap<(u64, u32), Vec<Planned>>,
    /// Parts the run in two; whether this is the one with the fault.
    part: Box<dyn FnMut(&Planned) -> bool + Send>,
}

impl Parting {
    pub(crate) fn new(faults: &[Planned], part: impl FnMut(&Planned) -> bool + Send + 'static) -> Self {
        let mut at: BTreeMap<_, Vec<Planned>> = BTreeMap::new();
        for planned in faults {
            at.entry((planned.at.site(), planned.at.nth)).or_default().push(planned.clone());
        }
        Parting { at, part: Box::new(part) }
    }
}

impl std::fmt::Debug for Parting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parting").field("at", &self.at).finish_non_exhaustive()
    }
}

/// The faults of a run, as they fire.
#[derive(Debug, Default)]
pub struct Faults {
    planned: BTreeMap<(u64, u32), Fault>,
    parting: Option<Parting>,
    parted: Option<Planned>,
    random: Option<RandomFaults>,
    fired: Vec<Fired>,
    unfired: usize,
    healed: bool,
}

impl Faults {
    /// The faults of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let planned: BTreeMap<_, _> =
            plan.faults.iter().map(|planned| ((planned.at.site(), planned.at.nth), planned.fault)).collect();
        Faults { unfired: planned.len(), planned, random: plan.random.clone(), ..Faults::default() }
    }

    /// Lets the run part at calls that are still to come.
    pub(crate) fn part(&mut self, parting: Parting) {
        self.parting = Some(parting);
    }

    /// The fault that this run has since it parted from others.
    pub(crate) fn parted(&self) -> Option<&Planned> {
        self.parted.as_ref()
    }

    fn part_at(&mut self, call: (u64, u32)) {
        let Some(Parting { at, part }) = &mut self.parting else { return };
        let here = at.remove(&call).unwrap_or_default();
        if let Some(planned) = here.into_iter().find(|planned| part(planned)) {
            self.planned.insert(call, planned.fault);
            self.unfired += 1;
            self.parted = Some(planned);
            self.parting = None;
        }
    }

    /// What befalls the `nth` call of a site, if anything. `lags`: its answer may be an earlier one.
    pub fn befall(&mut self, now: Time, label: u64, nth: u32, lags: bool) -> Option<Fault> {
        if self.healed {
            return None;
        }
        self.part_at((label, nth));
        if let Some(fault) = self.planned.get(&(label, nth)) {
            self.unfired -= 1;
            return Some(*fault);
        }
        let random = self.random.as_ref()?;
        let within = (random.from_ms..random.until_ms).contains(&now.millis());
        if !within || random.classes.is_empty() {
            return None;
        }
        let draw = hash::draw(random.seed, label, u64::from(nth));
        let often = u64::from(random.per_100k) * LAGS_OFTEN;
        if lags && random.classes.contains(&Class::StaleRead) && (draw >> 20) % 100_000 < often {
            return Some(Fault::StaleRead);
        }
        if draw % 100_000 >= u64::from(random.per_100k) {
            return None;
        }
        let which = usize::try_from(draw >> 40).unwrap_or(0) % random.classes.len();
        random.classes.get(which).map(|class| class.fault(draw >> 20))
    }

    /// Notes that a fault fired.
    pub fn note(&mut self, at: Time, key: Key, fault: Fault, changed: bool) {
        self.fired.push(Fired { at, planned: Planned { at: key, fault }, changed });
    }

    /// Notes that the latest fault has made a difference, whatever was thought before.
    pub fn note_changed(&mut self, label: u64, nth: u32) {
        let of_call = |fired: &&mut Fired| fired.planned.at.nth == nth && fired.planned.at.site() == label;
        if let Some(fired) = self.fired.iter_mut().rev().find(of_call) {
            fired.changed = true;
        }
    }

    /// What fired.
    pub fn fired(&self) -> &[Fired] {
        &self.fired
    }

    /// How many planned faults have not fired: their keys name calls that were not made.
    pub fn unfired(&self) -> usize {
        self.unfired
    }

    /// From now on nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.healed = true;
    }
}
