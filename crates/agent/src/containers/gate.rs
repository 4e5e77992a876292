//! Which container has a member.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use steadfast_core::ids::MemberName;
use steadfast_core::runtime::Moment;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::guard::{GuardSpec, deadline_ms, remove_if_there, write_durably};
use crate::node_dir::NodeDir;
use crate::sync::lock;

/// Lets one container have what was prepared for a member, and keeps the others out.
///
/// There is an offer while the agent waits for the guard of an engine that is ready to start. Whoever takes it has the
/// member until it gives it back, or until there is another offer, which is made only when nothing of the engine is left.
/// Who has it is written down beside the guard's lock, so that the next agent knows.
#[derive(Debug)]
pub struct Gate {
    dir: NodeDir,
    /// Each member has a lock of its own: what is done for one holds up nobody else.
    doors: Mutex<BTreeMap<MemberName, Arc<Mutex<Option<Door>>>>>,
    news: Notify,
}

/// What is known of a member, once its note was read.
#[derive(Debug, Default)]
struct Door {
    /// What the guard is to be started with, while it is waited for.
    offer: Option<GuardSpec>,
    /// The caller that has the member.
    taken: Option<String>,
    /// When the caller that was given it last had asked.
    asked: Option<Moment>,
}

/// What became of an attempt to take a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    /// The caller has it.
    Taken,
    /// Another caller has it.
    TakenBy,
    /// Nobody is known to have it, and its lock is held: its data is being prepared.
    Prepares,
    /// There is no offer.
    NotOffered,
}

impl Gate {
    /// The gate of a node.
    pub fn new(dir: NodeDir) -> Self {
        Gate { dir, doors: Mutex::default(), news: Notify::new() }
    }

    /// Offers the member of `spec`: nothing of an engine is left, so whoever had it has it no more.
    pub(super) fn offer(&self, spec: &GuardSpec) -> io::Result<()> {
        self.with(&spec.member, |door, note| {
            remove_if_there(note).map(|()| *door = Door { offer: Some(spec.clone()), ..Door::default() })
        })?;
        self.news.notify_waiters();
        Ok(())
    }

    /// Has nobody have the member until it is offered: its data is about to be prepared, which holds the lock that an engine
    /// would. One that runs keeps it.
    pub(crate) fn close(&self, member: &MemberName) -> io::Result<()> {
        if self.runs(member)? {
            return Ok(());
        }
        self.with(member, |door, note| remove_if_there(note).map(|()| *door = Door::default()))
    }

    /// Ends the offer. Who has taken it keeps the member.
    pub(super) fn withdraw(&self, member: &MemberName) {
        self.with(member, |door, _| door.offer = None);
    }

    /// Ends the offer, unless somebody has taken it. `false`: somebody has.
    pub(super) fn withdraw_untaken(&self, member: &MemberName) -> bool {
        self.with(member, |door, _| {
            let untaken = door.taken.is_none();
            if untaken {
                door.offer = None;
            }
            untaken
        })
    }

    /// Whether the member is offered.
    pub(super) fn is_offered(&self, member: &MemberName) -> bool {
        self.with(member, |door, _| door.offer.is_some())
    }

    /// Whether the member's guard runs, or what is left of its engine.
    pub(super) fn runs(&self, member: &MemberName) -> io::Result<bool> {
        steadfast_lock::is_held(&self.dir.guard_lock(member))
    }

    /// Takes the member for the caller `id`. Taking again what one has is success.
    pub(super) fn take(&self, member: &MemberName, id: &str) -> io::Result<Taking> {
        let runs = self.runs(member)?;
        self.with(member, |door, note| {
            let waited_for = runs || door.offer.is_some();
            Ok(match &door.taken {
                Some(taken) if taken == id && waited_for => Taking::Taken,
                Some(_) if waited_for => Taking::TakenBy,
                _ if runs => Taking::Prepares,
                _ if door.offer.is_none() => Taking::NotOffered,
                _ => {
                    // Not for longer than the machine runs: what a crash of it leaves of the engine is nothing.
                    fs::write(note, id)?;
                    door.taken = Some(id.to_owned());
                    Taking::Taken
                }
            })
        })
    }

    /// Gives back what the caller `id` has of the member. What it does not have stays whose it is; so does what runs: a
    /// `docker cp` mounts and unmounts what its container has, in that container's name.
    pub(super) fn give_back(&self, member: &MemberName, id: &str) -> io::Result<()> {
        let runs = self.runs(member)?;
        self.with(member, |door, note| {
            if runs || door.taken.as_deref() != Some(id) {
                return Ok(());
            }
            remove_if_there(note).map(|()| door.taken = None)
        })?;
        self.news.notify_waiters();
        Ok(())
    }

    /// Whether a caller was given the member and has not given it back, which one that has died never does.
    pub(super) fn is_taken(&self, member: &MemberName) -> bool {
        self.with(member, |door, _| door.taken.is_some())
    }

    /// Whether a caller has the member: it was given it, and its engine is waited for or runs.
    pub(super) fn is_mounted(&self, member: &MemberName) -> io::Result<bool> {
        let runs = self.runs(member)?;
        Ok(self.with(member, |door, _| door.taken.is_some() && (runs || door.offer.is_some())))
    }

    /// Notes when the caller that has the member had asked for it.
    pub(super) fn note_asked(&self, member: &MemberName, asked: Moment) {
        self.with(member, |door, _| door.asked = Some(asked));
    }

    /// When the caller that has the member had asked for it; none: that was another agent's to know.
    pub(super) fn asked(&self, member: &MemberName) -> Option<Moment> {
        self.with(member, |door, _| door.asked)
    }

    /// Gives a guard that has not come up yet the node's lease until then. One that has ended is not extended: others
    /// may have the member by now.
    pub(super) fn extend_lease(&self, member: &MemberName, now: Moment, until: Moment) -> io::Result<()> {
        let spec_path = self.dir.spec(member);
        self.with(member, |door, _| {
            let Some(offer) = &mut door.offer else { return Ok(()) };
            let Some(ends) = offer.lease_until_ms else { return Ok(()) };
            if deadline_ms(now) < ends && ends < deadline_ms(until) {
                offer.lease_until_ms = Some(deadline_ms(until));
                write_durably(&spec_path, &serde_json::to_vec(offer)?)?;
            }
            Ok(())
        })
    }

    /// Told when something was offered or given back.
    pub(super) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// Does something at the door of a member. Its disk holds up nobody else's.
    fn with<T>(&self, member: &MemberName, change: impl FnOnce(&mut Door, &Path) -> T) -> T {
        let (door, note) = (self.door(member), self.note(member));
        // Unreadable is not known: then the locks alone keep others out.
        let read = || Door { taken: fs::read_to_string(&note).ok(), ..Door::default() };
        change(lock(&door).get_or_insert_with(read), &note)
    }

    /// Where it is written down who has a member.
    fn note(&self, member: &MemberName) -> PathBuf {
        self.dir.guard(member).join("mounted-by")
    }

    fn door(&self, member: &MemberName) -> Arc<Mutex<Option<Door>>> {
        Arc::clone(lock(&self.doors).entry(member.clone()).or_default())
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
pub(super) mod tests;
