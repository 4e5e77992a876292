//! Taking what an engine must hold before it is started: all of it, or nothing is started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use steadfast_core::ids::Epoch;
use steadfast_core::model::Reason;
use steadfast_lock::Lock;

use super::{Ending, GuardSpec, GuardedVolume};
use crate::disk::reason_of;

/// The locks that are held so far.
#[derive(Debug, Default)]
pub(super) struct Held {
    machine: Option<Lock>,
    volumes: Vec<(PathBuf, Lock)>,
}

/// How one round of taking locks ended.
#[derive(Debug)]
pub(super) enum Taken {
    /// Everything is held, and every volume bears our epoch.
    All,
    /// This one is held by somebody else.
    Busy(PathBuf),
    /// It can never be.
    Refused(Ending),
}

impl Held {
    /// Takes what is free. Volumes that are held are not let go again: of two who want the same the later one
    /// gives up as a whole.
    pub(super) fn take(&mut self, spec: &GuardSpec) -> Taken {
        if self.machine.is_none()
            && let Some(path) = &spec.machine_lock
        {
            match Lock::try_shared(path).and_then(passed_on) {
                Ok(Some(lock)) => self.machine = Some(lock),
                Ok(None) => return Taken::Busy(path.clone()),
                Err(error) => return refused("take", path, &error),
            }
        }
        for volume in &spec.volumes {
            if self.volumes.iter().any(|(path, _)| path == &volume.lock) {
                continue;
            }
            match Lock::try_exclusive(&volume.lock).and_then(passed_on) {
                Ok(Some(lock)) => self.volumes.push((volume.lock.clone(), lock)),
                Ok(None) => return Taken::Busy(volume.lock.clone()),
                Err(error) => return refused("take", &volume.lock, &error),
            }
            if let Err(ending) = sign(volume, spec.epoch) {
                return Taken::Refused(ending);
            }
        }
        Taken::All
    }

    /// The locks that only this tree holds.
    pub(super) fn own(&self) -> impl Iterator<Item = &Path> {
        self.volumes.iter().map(|(path, _)| path.as_path())
    }
}

/// Puts `epoch` on a volume whose lock is held; refuses if it bears a higher one.
pub(crate) fn sign(volume: &GuardedVolume, epoch: Epoch) -> Result<(), Ending> {
    let path = &volume.epoch;
    match signed(path).map_err(|(reason, message)| Ending::NotStarted { reason, message })? {
        Some(found) if found > epoch => Err(Ending::EpochStale { found }),
        Some(found) if found == epoch => Ok(()),
        Some(_) | None => super::write_durably(path, format!("{epoch}\n").as_bytes())
            .map_err(|error| not_started("write", path, &error)),
    }
}

/// The epoch that a volume bears, in the file at `path`.
pub(crate) fn signed(path: &Path) -> Result<Option<Epoch>, (Reason, String)> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(number) => Ok(Some(Epoch(number))),
            Err(_) => Err((Reason::VolumeCorrupt, format!("{} does not hold a number", path.display()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err((reason_of(&error), format!("cannot read {}: {error}", path.display()))),
    }
}

fn passed_on(lock: Option<Lock>) -> io::Result<Option<Lock>> {
    if let Some(lock) = &lock {
        lock.pass_to_children()?;
    }
    Ok(lock)
}

fn refused(verb: &str, path: &Path, error: &io::Error) -> Taken {
    Taken::Refused(not_started(verb, path, error))
}

fn not_started(verb: &str, path: &Path, error: &io::Error) -> Ending {
    Ending::NotStarted {
        reason: reason_of(error),
        message: format!("cannot {verb} {}: {error}", path.display()),
    }
}
