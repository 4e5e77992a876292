//! One volume's image: made, mounted, taken over and unmounted, each step under its lock and right to repeat.
//!
//! ```text
//! FOLDER/image.json   what it holds, which file is it now, and where it may be mounted; replaced whole, and durable
//! FOLDER/image.N      the file; N grows with each time that it is taken over
//! FOLDER/image.lock   held for the length of one change, by the programs that carry it out as well
//! ```
//!
//! A file that the record does not name was never the volume, or is no more. A file system is only ever made in a file
//! that the record tells is being made, and the record only says so if there was none: nothing is formatted twice.

mod copy;
mod grow;
mod snapshot;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use steadfast_core::ErrorKind;
use steadfast_core::ids::{NodeName, SnapshotId};
use steadfast_lock::Lock;

use super::filesystem::Filesystem;
use super::record;
use super::system::{Problem, find, has_loop, missing, mounted_from, run, said};

const RECORD: &str = "image.json";
const LOCK: &str = "image.lock";
/// The newest format of `image.json` that this build writes and reads.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    format: u32,
    filesystem: Filesystem,
    /// The identifier in the file system itself; none before it was made in full.
    uuid: Option<String>,
    size_bytes: u64,
    /// Which file it is.
    number: u64,
    /// The node that has mounted it, or is about to; none once that has unmounted it.
    mounted: Option<NodeName>,
    /// Why it could not be made as large as it shall be, until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    growth_failed: Option<String>,
    /// The snapshot that it was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<SnapshotId>,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// What this machine has of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is mounted.
    Mounted,
    /// Something is being done to it.
    Working,
    /// The kernel has it, but not as it should: an earlier file of it, or one whose mount is somebody else's to end.
    Lingering,
    /// Nothing.
    Absent,
}

/// A volume's folder, with its image.
#[derive(Debug, Clone)]
pub(super) struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image in `folder`, which exists.
    pub(super) fn of(folder: &Path) -> Result<Self, Problem> {
        // As the kernel names it.
        let folder = fs::canonicalize(folder).map_err(|error| Problem::at(folder, error))?;
        Ok(Image { folder })
    }

    /// What every change is made under; none: somebody else has it.
    pub(super) fn lock(&self) -> Result<Option<Lock>, Problem> {
        let path = self.folder.join(LOCK);
        Lock::try_exclusive(&path).map_err(|error| Problem::at(&path, error))
    }

    /// Makes the image if there is none yet. What was made once, and is not there, is not made again.
    pub(super) fn make(&self, lock: &Lock, filesystem: Filesystem, size_bytes: u64) -> Result<(), Problem> {
        let begun = match self.record()? {
            Some(Record { uuid: Some(_), source: Some(_), .. }) => return self.forget_source(),
            Some(Record { uuid: Some(_), .. }) => return Ok(()),
            Some(begun) => begun,
            None => {
                self.check_unused()?;
                let (uuid, mounted, growth_failed, source) = (None, None, None, None);
                let (format, number, extra) = (FORMAT, 1, Map::new());
                Record { format, filesystem, uuid, size_bytes, number, mounted, growth_failed, source, extra }
            }
        };
        let least = begun.filesystem.least_bytes();
        if size_bytes < least {
            let message = format!(
                "ConfigInvalid: {} MiB are too few for {}: ask for {} MiB or more",
                size_bytes >> 20,
                begun.filesystem.as_str(),
                least >> 20
            );
            return Err(Problem::new(ErrorKind::Invalid, message));
        }
        self.write(&begun)?;
        let file = self.file(begun.number);
        let made = match begun.source {
            Some(_) => self.restore(&begun, &file, lock),
            None => self.format(&begun, &file, lock),
        };
        let uuid = made.inspect_err(|_| discard(&file))?;
        self.write(&Record { uuid: Some(uuid), ..begun })?;
        self.forget_source()
    }

    /// That there is no data which an image would hide, and no image that has lost its record.
    fn check_unused(&self) -> Result<(), Problem> {
        for (name, remedy) in [
            ("identity.json", "it was made as a folder, and has data: write \"folder\" as volume_kind"),
            ("image.1", "there is an image, and image.json that tells of it is gone: put it back"),
        ] {
            if self.folder.join(name).exists() {
                let message = format!("VolumeForeign: {}: {remedy}", self.folder.display());
                return Err(Problem::new(ErrorKind::Corrupt, message));
            }
        }
        Ok(())
    }

    /// Makes the file system in a file that is no volume yet; gives its identifier.
    fn format(&self, begun: &Record, file: &Path, lock: &Lock) -> Result<String, Problem> {
        let (filesystem, failed) = (begun.filesystem, |error| Problem::at(file, error));
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
        let opened = opened.map_err(failed)?;
        opened.set_len(begun.size_bytes).map_err(failed)?;
        let (maker, options) = filesystem.maker();
        let mut arguments: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        arguments.push(file.as_os_str());
        let output = run(maker, filesystem.package(), &arguments, Some(lock))?;
        if !output.status.success() {
            return Err(self.told(maker, &said(&output)));
        }
        opened.sync_all().map_err(failed)?;
        let uuid = filesystem.uuid(file).map_err(failed)?;
        uuid.ok_or_else(|| self.told(maker, "it has left no file system"))
    }

    /// Mounts it at `target` for `node`, which it is attached to, with `size_bytes` if that can be. One that another node
    /// may still have mounted is copied first: what that node writes from then on goes into a file that is the volume no
    /// more.
    pub(super) fn mount(
        &self,
        lock: &Lock,
        node: &NodeName,
        target: &Path,
        size_bytes: u64,
    ) -> Result<(), Problem> {
        let message = "IoError: its image is not made yet";
        let mut record = self.record()?.ok_or_else(|| Problem::new(ErrorKind::Unavailable, message))?;
        if let Some(from) = mounted_from(target).map_err(|error| Problem::at(target, error))? {
            if from == self.file(record.number) && record.mounted.as_ref() == Some(node) {
                return Ok(());
            }
            unmount(target, Some(lock))?;
        }
        self.check(&record)?;
        record = self.renewed(record, node, size_bytes, lock)?;
        record.mounted = Some(node.clone());
        self.write(&record)?;
        let file = self.file(record.number);
        self.repair(&record, &file, lock)?;
        let made = DirBuilder::new().recursive(true).mode(0o711).create(target);
        made.map_err(|error| Problem::at(target, error))?;
        let options = record.filesystem.mount_options();
        let arguments = ["-t", record.filesystem.as_str(), "-o", options].map(OsStr::new);
        let arguments = [&arguments[..], &[file.as_os_str(), target.as_os_str()]].concat();
        let output = run("mount", "mount", &arguments, Some(lock))?;
        if output.status.success() {
            return Ok(());
        }
        let text = said(&output);
        if text.contains("superblock") || text.contains("wrong fs type") || text.contains("Structure needs") {
            return Err(corrupt(&file, &text));
        }
        Err(self.told("mount", &text))
    }

    /// Unmounts what `node` has mounted at `target`.
    pub(super) fn unmount(&self, lock: &Lock, node: &NodeName, target: &Path) -> Result<(), Problem> {
        unmount(target, Some(lock))?;
        if let Some(record) = self.record()?
            && record.mounted.as_ref() == Some(node)
        {
            if self.is_open(&record)? {
                return Err(lingers(target));
            }
            self.write(&Record { mounted: None, ..record })?;
        }
        remove_folder(target)
    }

    /// What this machine, which is `node`, has of it at `target`.
    pub(super) fn presence(&self, node: &NodeName, target: &Path) -> Result<Presence, Problem> {
        let Some(record) = self.record()? else { return Ok(Presence::Absent) };
        let ours = record.mounted.as_ref() == Some(node);
        match mounted_from(target).map_err(|error| Problem::at(target, error))? {
            Some(from) if ours && from == self.file(record.number) => return Ok(Presence::Mounted),
            Some(_) => return Ok(Presence::Lingering),
            None => {}
        }
        let lock = self.folder.join(LOCK);
        if steadfast_lock::is_held(&lock).map_err(|error| Problem::at(&lock, error))? {
            return Ok(Presence::Working);
        }
        Ok(if ours && self.is_open(&record)? { Presence::Lingering } else { Presence::Absent })
    }

    /// That the file is what the record says, as far as can be seen without mounting it.
    fn check(&self, record: &Record) -> Result<(), Problem> {
        let file = self.file(record.number);
        let length = match fs::metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(&file, "it is not there"));
            }
            Err(error) => return Err(Problem::at(&file, error)),
        };
        if length < record.size_bytes {
            return Err(corrupt(&file, &format!("it has {length} of {} bytes", record.size_bytes)));
        }
        match record.filesystem.uuid(&file).map_err(|error| Problem::at(&file, error))? {
            found if found.is_some() && found == record.uuid => Ok(()),
            Some(uuid) => {
                let message = format!(
                    "VolumeForeign: {} holds the file system {uuid}, and this volume's is {}: put the right file back",
                    file.display(),
                    record.uuid.as_deref().unwrap_or("not made yet")
                );
                Err(Problem::new(ErrorKind::Corrupt, message))
            }
            None => Err(corrupt(&file, &format!("it holds no {}", record.filesystem.as_str()))),
        }
    }

    /// Repairs what a crash leaves, which loses nothing. What needs a person is refused.
    fn repair(&self, record: &Record, file: &Path, lock: &Lock) -> Result<(), Problem> {
        // Mounted before under this kernel, and still: nothing of it is to be repaired, and nothing may be.
        if self.is_open(record)? { Ok(()) } else { self.check_through(record, &[], file, lock) }
    }

    /// Has the file system checked and repaired that nobody has mounted, with further options.
    fn check_through(
        &self,
        record: &Record,
        further: &[&str],
        file: &Path,
        lock: &Lock,
    ) -> Result<(), Problem> {
        let Some((repairer, options)) = record.filesystem.repairer() else { return Ok(()) };
        let mut arguments: Vec<&OsStr> = options.iter().chain(further).map(OsStr::new).collect();
        arguments.push(file.as_os_str());
        let output = run(repairer, record.filesystem.package(), &arguments, Some(lock))?;
        match output.status.code() {
            Some(0..4) => Ok(()),
            Some(code) if code & 4 != 0 => Err(corrupt(file, &said(&output))),
            _ => Err(self.told(repairer, &said(&output))),
        }
    }

    fn is_open(&self, record: &Record) -> Result<bool, Problem> {
        let file = self.file(record.number);
        has_loop(&file).map_err(|error| Problem::at(&file, error))
    }

    fn file(&self, number: u64) -> PathBuf {
        self.folder.join(format!("image.{number}"))
    }

    fn record(&self) -> Result<Option<Record>, Problem> {
        record::read(&self.folder.join(RECORD), FORMAT)
    }

    fn write(&self, record: &Record) -> Result<(), Problem> {
        record::write(&self.folder.join(RECORD), record)
    }

    /// That a program could not do its work, by what it said.
    fn told(&self, program: &str, text: &str) -> Problem {
        if text.contains("No space left") || text.contains("Disk quota exceeded") {
            return Problem::at(&self.folder, io::Error::new(io::ErrorKind::StorageFull, text));
        }
        if text.contains("permission denied") || text.contains("must be superuser") {
            let message = format!("PermissionDenied: {program}: {text}: mounting needs root (CAP_SYS_ADMIN)");
            return Problem::new(ErrorKind::Denied, message);
        }
        Problem::new(ErrorKind::Unavailable, format!("IoError: {program}: {text}"))
    }
}

/// That the programs which making and mounting need are there.
pub(super) fn check_programs(filesystem: Filesystem) -> Result<(), Problem> {
    let repairer = filesystem.repairer().map(|(program, _)| program);
    let of_filesystem =
        [Some(filesystem.maker().0), Some(filesystem.grower().0), repairer].into_iter().flatten();
    of_filesystem
        .map(|program| (program, filesystem.package()))
        .chain(["mount", "umount", "losetup"].map(|program| (program, "mount")))
        .find(|(program, _)| find(program).is_none())
        .map_or(Ok(()), |(program, package)| Err(missing(program, package)))
}

/// Unmounts what is at `target`; what is there already more than once, as often.
fn unmount(target: &Path, lock: Option<&Lock>) -> Result<(), Problem> {
    while mounted_from(target).map_err(|error| Problem::at(target, error))?.is_some() {
        let output = run("umount", "mount", &[target.as_os_str()], lock)?;
        if !output.status.success() {
            let message = format!(
                "VolumeBusy: {} cannot be unmounted ({}): see with `fuser -vm {0}` who uses it",
                target.display(),
                said(&output)
            );
            return Err(Problem::new(ErrorKind::Busy, message));
        }
    }
    Ok(())
}

fn lingers(target: &Path) -> Problem {
    let message = format!(
        "VolumeBusy: {} is unmounted here, and still in the mount namespace of another process: see with \
         `grep -l {0} /proc/*/mountinfo` of which",
        target.display()
    );
    Problem::new(ErrorKind::Busy, message)
}

/// Unmounts a volume that was deleted meanwhile: there is no lock to take, and no record to change.
pub(super) fn unmount_deleted(target: &Path) -> Result<(), Problem> {
    unmount(target, None)?;
    remove_folder(target)
}

/// Removes the place that something was mounted at, which is empty.
fn remove_folder(target: &Path) -> Result<(), Problem> {
    match fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Problem::at(target, error)),
        _ => Ok(()),
    }
}

/// Removes a file that is no volume. One that stays takes room, and nothing else.
fn discard(file: &Path) {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %file.display(), %error, "left behind: remove it by hand");
        }
        _ => {}
    }
}

fn corrupt(file: &Path, why: &str) -> Problem {
    let message = format!(
        "VolumeCorrupt: {}: {why}: look at it with fsck, or put a copy of it back; nothing is formatted",
        file.display()
    );
    Problem::new(ErrorKind::Corrupt, message)
}
