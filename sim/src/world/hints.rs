//! Hints of the store, on their way to those who watch.

use futures::channel::mpsc;
use steadfast_core::metadata::{Hint, Key};

use super::{Caller, State, World};
use crate::fault::{Class, Fault, HINT};
use crate::hash;
use crate::time::Time;
use crate::trace::{Entry, FACT, Stage};

/// Those who watch.
#[derive(Default)]
pub(super) struct Watchers {
    all: Vec<Watcher>,
    begun: u64,
}

struct Watcher {
    caller: Caller,
    prefix: Key,
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
        watchers.all.push(Watcher { caller, prefix, sender, number, missed: false });
        receiver
    }

    pub(super) fn send_hints(&self, state: &mut State, now: Time) {
        if state.cloud.store.changed.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut state.cloud.store.changed);
        state.watchers.all.retain(|watcher| !watcher.sender.is_closed());
        let mut watchers = std::mem::take(&mut state.watchers.all);
        for key in &changed {
            for watcher in watchers.iter_mut().filter(|watcher| key.is_under(&watcher.prefix)) {
                if watcher.caller.is_cut(state) {
                    watcher.missed = true;
                } else if !self.is_missed(state, now, watcher, key) {
                    let label = hash::of_text(key.as_str()) ^ watcher.number;
                    let takes = hash::draw_in(state.cloud.profile.hint_ms, self.0.seed, label, now.micros());
                    let (sender, hint) = (watcher.sender.clone(), Hint::Changed(key.clone()));
                    // Whoever watched may be gone.
                    self.0.exec.at(now.plus_millis(takes), move || drop(sender.unbounded_send(hint)));
                }
            }
        }
        state.watchers.all = watchers;
    }

    /// Whether a planned fault swallows this hint.
    fn is_missed(&self, state: &mut State, now: Time, watcher: &Watcher, key: &Key) -> bool {
        let role = crate::face::RoleOf(key);
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
        let mut watchers = std::mem::take(&mut state.watchers.all);
        for watcher in &mut watchers {
            if watcher.missed && !watcher.caller.is_cut(&state) {
                watcher.missed = false;
                drop(watcher.sender.unbounded_send(Hint::Reset));
            }
        }
        state.watchers.all = watchers;
    }
}
