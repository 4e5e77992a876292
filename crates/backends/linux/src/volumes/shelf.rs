//! Where snapshots of images lie: apart from the volumes, which they outlive.
//!
//! ```text
//! DIR/ID/snapshot.json  of which volume it is, and whether it is whole; replaced whole, and durable
//! DIR/ID/image          what the volume held; there before the record says that it is whole
//! DIR/lock              held for the length of one change of a record
//! ```
//!
//! The record comes first and goes first: a folder without one is what a crash has left, and no snapshot.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use steadfast_core::ErrorKind;
use steadfast_core::ids::{SnapshotId, SnapshotName, VolumeId};
use steadfast_core::snapshot::{SnapshotState, SnapshotStatus};
use steadfast_core::volume::VolumeSpec;
use steadfast_lock::Lock;

use super::filesystem::Filesystem;
use super::record;
use super::system::{Problem, run};

const RECORD: &str = "snapshot.json";
const IMAGE: &str = "image";
/// The newest format of `snapshot.json` that this build writes and reads.
const FORMAT: u32 = 1;

/// What is in a whole snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) filesystem: Filesystem,
    pub(super) uuid: String,
    pub(super) size_bytes: u64,
}

/// What is on record of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    format: u32,
    pub(super) volume: VolumeId,
    pub(super) name: SnapshotName,
    pub(super) spec: VolumeSpec,
    /// None before it is whole.
    pub(super) content: Option<Content>,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Snapshot {
    pub(super) fn of(volume: VolumeId, name: SnapshotName, spec: VolumeSpec) -> Self {
        Snapshot { format: FORMAT, volume, name, spec, content: None, extra: Map::new() }
    }

    pub(super) fn status(&self, id: SnapshotId) -> SnapshotStatus {
        let Snapshot { volume, name, spec, content, .. } = self.clone();
        let state = if content.is_some() { SnapshotState::Complete } else { SnapshotState::Pending };
        SnapshotStatus { id, volume, name, spec, state }
    }
}

/// The folder of snapshots.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    dir: PathBuf,
    /// Whether two files can share blocks there, so that a copy is made at once.
    pub(super) shares_blocks: bool,
}

impl Shelf {
    pub(super) fn open(dir: &Path) -> Result<Self, Problem> {
        make_folder(dir)?;
        let dir = fs::canonicalize(dir).map_err(|error| Problem::at(dir, error))?;
        let shares_blocks = can_share_blocks(&dir)?;
        Ok(Shelf { dir, shares_blocks })
    }

    /// Follows from volume and name: asked for twice it is the same. No volume's identifier has a colon.
    pub(super) fn id_of(volume: &VolumeId, name: &SnapshotName) -> Result<SnapshotId, Problem> {
        format!("{volume}:{name}").parse().map_err(|error: steadfast_core::ids::InvalidId| {
            Problem::new(ErrorKind::Internal, error.to_string())
        })
    }

    pub(super) fn image(&self, id: &SnapshotId) -> PathBuf {
        self.dir.join(id.as_str()).join(IMAGE)
    }

    fn record_path(&self, id: &SnapshotId) -> PathBuf {
        self.dir.join(id.as_str()).join(RECORD)
    }

    /// What is on record of a snapshot; none if it does not exist.
    pub(super) fn read(&self, id: &SnapshotId) -> Result<Option<Snapshot>, Problem> {
        record::read(&self.record_path(id), FORMAT)
    }

    /// Every snapshot there is, in order.
    pub(super) fn all(&self) -> Result<Vec<(SnapshotId, Snapshot)>, Problem> {
        let entries = fs::read_dir(&self.dir).map_err(|error| Problem::at(&self.dir, error))?;
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| Problem::at(&self.dir, error))?.file_name();
            // Every identifier of our making has a colon.
            let name = name.to_str().filter(|name| name.contains(':'));
            let Some(Ok(id)) = name.map(str::parse::<SnapshotId>) else { continue };
            if let Some(snapshot) = self.read(&id)? {
                found.push((id, snapshot));
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }

    /// What changes of records are made under; none: somebody else has it.
    pub(super) fn lock(&self) -> Result<Option<Lock>, Problem> {
        let path = self.dir.join("lock");
        Lock::try_exclusive(&path).map_err(|error| Problem::at(&path, error))
    }

    /// Records that a snapshot is wanted, unless it is on record.
    pub(super) fn want(&self, _lock: &Lock, id: &SnapshotId, wanted: &Snapshot) -> Result<Snapshot, Problem> {
        if let Some(found) = self.read(id)? {
            return Ok(found);
        }
        make_folder(&self.dir.join(id.as_str()))?;
        self.write(id, wanted)?;
        Ok(wanted.clone())
    }

    /// Records that a snapshot is whole, of which `copy` is the image; not if it was deleted meanwhile.
    pub(super) fn complete(
        &self,
        _lock: &Lock,
        id: &SnapshotId,
        copy: &Path,
        content: Content,
    ) -> Result<(), Problem> {
        let Some(found) = self.read(id)?.filter(|found| found.content.is_none()) else {
            return remove(copy);
        };
        let image = self.image(id);
        fs::rename(copy, &image).map_err(|error| Problem::at(&image, error))?;
        // It may have grown since it was asked for.
        let spec = VolumeSpec { size_bytes: content.size_bytes, ..found.spec.clone() };
        self.write(id, &Snapshot { spec, content: Some(content), ..found })
    }

    /// Removes a snapshot, and what a crash has left of one.
    pub(super) fn delete(&self, _lock: &Lock, id: &SnapshotId) -> Result<(), Problem> {
        let folder = self.dir.join(id.as_str());
        remove(&self.record_path(id))?;
        if folder.is_dir() {
            record::sync(&folder)?;
        }
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Problem::at(&folder, error)),
            _ => Ok(()),
        }
    }

    fn write(&self, id: &SnapshotId, snapshot: &Snapshot) -> Result<(), Problem> {
        record::write(&self.record_path(id), snapshot)?;
        record::sync(&self.dir)
    }
}

/// Tries it with two files of its own.
fn can_share_blocks(dir: &Path) -> Result<bool, Problem> {
    let probe = tempfile_in(dir)?;
    let copy = probe.with_extension("copy");
    let arguments = [OsStr::new("--reflink=always"), OsStr::new("--"), probe.as_os_str(), copy.as_os_str()];
    let shared = run("cp", "coreutils", &arguments, None).map(|output| output.status.success());
    remove(&copy)?;
    remove(&probe)?;
    shared
}

/// A file with a block in it, of this process alone.
fn tempfile_in(dir: &Path) -> Result<PathBuf, Problem> {
    let path = dir.join(format!(".probe-{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::write(&path, [7; 4096]).map_err(|error| Problem::at(&path, error))?;
    Ok(path)
}

fn make_folder(path: &Path) -> Result<(), Problem> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| Problem::at(path, error))
}

fn remove(path: &Path) -> Result<(), Problem> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Problem::at(path, error)),
        _ => Ok(()),
    }
}
