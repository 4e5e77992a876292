//! Hints of the store, on their way to those who watch.

use std::collections::BTreeMap;

use futures::channel::mpsc;
use steadfast_core::metadata::{Hint, Key};

use super::{Caller, State, World};
use crate::face::RoleOf;
use crate::fault::{Class, Fault, HINT};
use crate::hash;
use crate::time::Time;
use crate::trace::{Entry, FACT, Stage};

/// Those who watch.
#[derive(Default)]
pub(super) struct Watchers {
    by_prefix: ByPrefix,
    begun: u64,
}

/// There are some for each node, and a change concerns few of them.
type ByPrefix = BTreeMap<Key, Vec<Watcher>>;

struct Watcher {
    caller: Caller,
    sender: mpsc::UnboundedSender<Hint>,
    number: u64,
    /// Whether hints were lost while it was cut off.
    missed: bool,
}

impl World {
    /// Begins to watch a prefix.
    pub(crate) fn watch(&self, caller: &Caller, prefix: &Key) -> mpsc::UnboundedReceiver<Hint> {
        let (sender, receiver) = mpsc::unbounded();
        let mut state = self.state();
        let watchers = &mut state.watchers;
        watchers.begun += 1;
        let number = watchers.begun;
        let (caller, prefix) = (caller.clone(), prefix.clone());
        let watcher = Watcher { caller, sender, number, missed: false };
        watchers.by_prefix.entry(prefix).or_default().push(watcher);
        receiver
    }

    pub(super) fn send_hints(&self, state: &mut State, now: Time) {
        if state.cloud.store.changed.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut state.cloud.store.changed);
        let mut watchers = std::mem::take(&mut state.watchers.by_prefix);
        for key in &changed {
            let role = RoleOf(key).to_string();
            let text = hash::of_text(key.as_str());
            for (number, prefix, index) in begun_in_order(&mut watchers, key) {
                let Some(watcher) = watchers.get_mut(prefix).and_then(|all| all.get_mut(index)) else {
                    continue;
                };
                if watcher.caller.is_cut(state) {
                    watcher.missed = true;
                } else if !self.is_missed(state, now, watcher, &role) {
                    let takes =
                        hash::draw_in(state.cloud.profile.hint_ms, self.0.seed, text ^ number, now.micros());
                    let (sender, hint) = (watcher.sender.clone(), Hint::Changed(key.clone()));
                    // Whoever watched may be gone.
                    self.0.exec.at(now.plus_millis(takes), move || drop(sender.unbounded_send(hint)));
                }
            }
        }
        state.watchers.by_prefix = watchers;
    }

    /// Whether a planned fault swallows this hint.
    fn is_missed(&self, state: &mut State, now: Time, watcher: &Watcher, role: &str) -> bool {
        let (site, nth) = state.sites.count(watcher.caller.actor(), "watch", HINT, &role, (false, false));
        let index = u32::try_from(site).unwrap_or(FACT);
        let Some(site) = state.sites.all().get(site) else { return false };
        let entry = Entry::new(now, index, nth, Stage::Asked, 0);
        state.trace.push(entry, site.label);
        let missed =
            state.faults.befall(now, site.label, nth, false).is_some_and(|f| f.class() == Class::MissedEvent);
        if missed {
            let key = site.key(nth);
            state.faults.note(now, key, Fault::MissedEvent, true);
        }
        missed
    }

    /// Tells those whose connection is back that they may have missed something.
    pub(crate) fn reconnect_watchers(&self) {
        let mut state = self.state();
        let mut watchers = std::mem::take(&mut state.watchers.by_prefix);
        let mut all: Vec<&mut Watcher> = watchers.values_mut().flatten().collect();
        all.sort_unstable_by_key(|watcher| watcher.number);
        for watcher in all {
            if watcher.missed && !watcher.caller.is_cut(&state) {
                watcher.missed = false;
                drop(watcher.sender.unbounded_send(Hint::Reset));
            }
        }
        state.watchers.by_prefix = watchers;
    }
}

/// Those whose prefix a key is under, in the order in which they have begun: their number, prefix and place. Those that
/// watch no more are left out for good.
fn begun_in_order<'a>(watchers: &mut ByPrefix, key: &'a Key) -> Vec<(u64, &'a str, usize)> {
    let mut found = Vec::new();
    for prefix in key.as_str().match_indices('/').filter_map(|(end, _)| key.as_str().get(..end)) {
        let Some(all) = watchers.get_mut(prefix) else { continue };
        all.retain(|watcher| !watcher.sender.is_closed());
        found.extend(all.iter().enumerate().map(|(index, watcher)| (watcher.number, prefix, index)));
    }
    found.sort_unstable();
    found
}
