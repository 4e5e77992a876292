//! Snapshots of an image, and images that are made of one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde_json::Map;
use steadfast_core::ErrorKind;
use steadfast_core::ids::{NodeName, SnapshotId};
use steadfast_lock::Lock;

use super::copy::takes;
use super::{FORMAT, Image, Record, discard};
use crate::volumes::shelf::{Content, Shelf, Snapshot};
use crate::volumes::system::{Problem, mounted_from, run, said};

/// A link to the snapshot that an image is to be made of: the snapshot may be deleted meanwhile.
const SOURCE: &str = "image.source";

/// Copies a file while the file system in it stands still. One process does all of it: whatever becomes of us, nobody is
/// kept from writing for longer than the copy takes.
const FROZEN_COPY: &str = "fsfreeze -f \"$1\" || exit 1\n\
    cp --reflink=always -- \"$2\" \"$3\"\n\
    copied=$?\n\
    fsfreeze -u \"$1\" || exit 2\n\
    exit $copied";

impl Image {
    /// That a snapshot can be made of it as it is, and that one which there is already is of this very file system.
    pub(in crate::volumes) fn check_snapshot(
        &self,
        shelf: &Shelf,
        known: Option<&Snapshot>,
    ) -> Result<(), Problem> {
        let Some(record) = self.made()? else { return Ok(()) };
        if let Some(content) = known.and_then(|known| known.content.as_ref()) {
            if record.uuid.as_ref() == Some(&content.uuid) {
                return Ok(());
            }
            let message =
                "there is a snapshot of this name of a volume that was before it: delete that one first";
            return Err(Problem::new(ErrorKind::AlreadyExists, message));
        }
        if record.mounted.is_some() && !shelf.shares_blocks {
            let message = "CapabilityMissing: the shared folder's file system shares no blocks between files, so a \
                           volume in use would stand still for as long as it is copied: have it given back first (stop)";
            return Err(Problem::new(ErrorKind::Unsupported, message));
        }
        let takes = if shelf.shares_blocks { 0 } else { takes(&self.file(record.number))? };
        self.check_room("a snapshot", takes)
    }

    /// Makes a snapshot that is on record, if it can be made here: where the image is mounted, or anywhere if it is mounted
    /// nowhere.
    pub(in crate::volumes) fn take_snapshot(
        &self,
        lock: &Lock,
        shelf: &Shelf,
        id: &SnapshotId,
        here: Option<(&NodeName, &Path)>,
    ) -> Result<Option<Content>, Problem> {
        let Some(record) = self.made()? else { return Ok(None) };
        let Some(uuid) = record.uuid.clone() else { return Ok(None) };
        let (from, copy) = (self.file(record.number), shelf.image(id).with_extension("new"));
        discard(&copy);
        match (&record.mounted, here) {
            (None, _) => self.copy_file(&from, &copy, lock)?,
            (Some(node), Some((own, target))) if node == own => {
                let at = mounted_from(target).map_err(|error| Problem::at(target, error))?;
                if at.as_ref() != Some(&from) {
                    return Ok(None);
                }
                self.copy_frozen(target, &from, &copy, lock).inspect_err(|_| discard(&copy))?;
            }
            (Some(_), _) => return Ok(None),
        }
        let synced = File::open(&copy).and_then(|copy| copy.sync_all());
        synced.map_err(|error| Problem::at(&copy, error))?;
        Ok(Some(Content { filesystem: record.filesystem, uuid, size_bytes: record.size_bytes }))
    }

    fn copy_frozen(&self, target: &Path, from: &Path, to: &Path, lock: &Lock) -> Result<(), Problem> {
        // What was frozen by one that was killed in the middle goes on first; if there is none, this fails.
        let thaw = || run("fsfreeze", "util-linux", &[OsStr::new("-u"), target.as_os_str()], Some(lock));
        thaw()?;
        let arguments =
            [OsStr::new("-c"), OsStr::new(FROZEN_COPY), OsStr::new("snapshot"), target.as_os_str()];
        let arguments = [&arguments[..], &[from.as_os_str(), to.as_os_str()]].concat();
        let output = run("sh", "dash", &arguments, Some(lock))?;
        if output.status.success() {
            return Ok(());
        }
        thaw()?;
        Err(self.told("fsfreeze and cp", &said(&output)))
    }

    /// Has the image made of a snapshot, if there is none yet. It is made by the first node that mounts it.
    pub(in crate::volumes) fn begin_from(
        &self,
        _lock: &Lock,
        id: &SnapshotId,
        shelf: &Shelf,
        content: &Content,
    ) -> Result<(), Problem> {
        if let Some(record) = self.record()? {
            if record.source.as_ref() == Some(id) {
                return Ok(());
            }
            let message = "there is a volume that was not made of it";
            return Err(Problem::new(ErrorKind::AlreadyExists, message));
        }
        self.check_unused()?;
        let source = self.folder.join(SOURCE);
        discard(&source);
        let image = shelf.image(id);
        fs::hard_link(&image, &source).map_err(|error| Problem::at(&image, error))?;
        self.write(&Record {
            format: FORMAT,
            filesystem: content.filesystem,
            uuid: None,
            size_bytes: content.size_bytes,
            number: 1,
            mounted: None,
            growth_failed: None,
            source: Some(id.clone()),
            extra: Map::new(),
        })
    }

    /// Whether it was made, or is to be made, of that snapshot.
    pub(in crate::volumes) fn is_made_of(&self, snapshot: &SnapshotId) -> Result<bool, Problem> {
        Ok(self.record()?.is_some_and(|record| record.source.as_ref() == Some(snapshot)))
    }

    /// Makes the image of its source; gives the identifier of the file system in it.
    pub(super) fn restore(&self, begun: &Record, file: &Path, lock: &Lock) -> Result<String, Problem> {
        discard(file);
        let failed = |error| Problem::at(file, error);
        self.copy_file(&self.folder.join(SOURCE), file, lock)?;
        File::open(file).and_then(|copy| copy.sync_all()).map_err(failed)?;
        let uuid = begun.filesystem.uuid(file).map_err(failed)?;
        uuid.ok_or_else(|| {
            let message = format!("VolumeCorrupt: the snapshot holds no {}", begun.filesystem.as_str());
            Problem::new(ErrorKind::Corrupt, message)
        })
    }

    /// Lets go of the snapshot that it was made of.
    pub(super) fn forget_source(&self) -> Result<(), Problem> {
        let source = self.folder.join(SOURCE);
        match fs::remove_file(&source) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Problem::at(&source, error)),
            _ => Ok(()),
        }
    }
}
