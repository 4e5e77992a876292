//! A disk in memory that fails on command and loses what was not flushed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Database, StorageBackend};

use super::super::database::{Medium, builder, initialise};
use super::*;

const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// What reads see.
    content: Vec<u8>,
    /// What the last flush left.
    flushed: Vec<u8>,
    /// The sectors written since.
    dirty: BTreeSet<usize>,
    /// How many flushes there were.
    pub(super) flushes: usize,
    /// What goes wrong.
    pub(super) fails: Option<Fault>,
    /// Whether it is so full that every write is refused beforehand.
    pub(super) no_room: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// How many more writes and flushes succeed.
    pub(super) after: u32,
    /// What comes then.
    pub(super) kind: io::ErrorKind,
    /// Whether it comes once, or for ever.
    pub(super) once: bool,
}

impl Disk {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn open(&self) -> Result<RedbStore> {
        RedbStore::start(Box::new(DiskMedium(self.clone())), entropy(), None)
    }

    /// What a disk has after a power failure: the last flush, and any of the sectors written since.
    pub(super) fn after_power_failure(&self, random: &Entropy) -> Disk {
        let state = self.state();
        let mut content = state.flushed.clone();
        if random.u64().is_multiple_of(2) {
            content.resize(state.content.len(), 0);
        }
        for sector in &state.dirty {
            let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
            let to = to.min(state.content.len()).min(content.len());
            if from < to && random.u64().is_multiple_of(2) {
                content[from..to].copy_from_slice(&state.content[from..to]);
            }
        }
        let flushed = content.clone();
        Disk(Arc::new(Mutex::new(State { content, flushed, ..State::default() })))
    }
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        let Some(fault) = &mut self.fails else { return Ok(()) };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let kind = fault.kind;
        if fault.once {
            self.fails = None;
        }
        Err(kind.into())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let state = self.state();
        let found = state.content.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.content.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.flushes += 1;
        state.flushed = state.content.clone();
        state.dirty.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let mut state = self.state();
        state.step()?;
        state.content[from..from + data.len()].copy_from_slice(data);
        state.dirty.extend(from / SECTOR..=(from + data.len() - 1) / SECTOR);
        Ok(())
    }
}

#[derive(Debug)]
struct DiskMedium(Disk);

impl Medium for DiskMedium {
    fn path(&self) -> &Path {
        Path::new("/disk/store.redb")
    }

    fn open(&self) -> Result<Database> {
        let failed = |error: redb::Error| {
            let path = PathBuf::from(self.path()).display().to_string();
            Error::new(ErrorKind::Unavailable, "disk", "open", path, error).without_effect()
        };
        let fresh = self.0.state().content.is_empty();
        let database = builder().create_with_backend(self.0.clone()).map_err(|error| failed(error.into()))?;
        if fresh {
            initialise(&database).map_err(|error| failed(error.into()))?;
        }
        Ok(database)
    }

    fn room(&self, _bytes: u64) -> io::Result<()> {
        if self.0.state().no_room { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}
