//! The same volume in a file of its own: because another node may still have the old one mounted, or because it is to be
//! made larger where that cannot be done to a mounted one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use steadfast_core::ErrorKind;
use steadfast_core::ids::NodeName;
use steadfast_lock::Lock;

use super::{Image, Record, discard};
use crate::volumes::system::{Problem, run, said};

impl Image {
    /// The image as `node` can mount it: another file than the one that another node may have mounted, and as large as it
    /// shall be where a mounted one could not be made so. That this cannot be done keeps nobody from the data.
    pub(super) fn renewed(
        &self,
        record: Record,
        node: &NodeName,
        size_bytes: u64,
        lock: &Lock,
    ) -> Result<Record, Problem> {
        let is_foreign = record.mounted.as_ref().is_some_and(|other| other != node);
        let is_small = record.size_bytes < size_bytes && !record.filesystem.may_grow_mounted();
        let grows = is_small && (is_foreign || !self.is_open(&record)?);
        if grows {
            match self.copy(&record, size_bytes, lock) {
                Ok(grown) => return Ok(grown),
                Err(problem) => self.note_growth(&record, Some(problem.message))?,
            }
        }
        if !is_foreign {
            return Ok(record);
        }
        let record = self.record()?.unwrap_or(record);
        self.copy(&record, record.size_bytes, lock)
    }

    /// The volume in a new file, with `size_bytes` at least. The old one is it until the record says otherwise.
    fn copy(&self, record: &Record, size_bytes: u64, lock: &Lock) -> Result<Record, Problem> {
        let (from, number) = (self.file(record.number), record.number + 1);
        let to = self.file(number);
        discard(&to);
        let before = written(&from)?;
        let copied = || {
            self.copy_file(&from, &to, lock)?;
            if written(&from)? != before {
                let message = format!("VolumeBusy: {} is still being written to", from.display());
                return Err(Problem::new(ErrorKind::Busy, message));
            }
            if size_bytes > record.size_bytes {
                self.grow_unmounted(record, &to, size_bytes, lock)?;
            }
            File::open(&to).and_then(|copy| copy.sync_all()).map_err(|error| Problem::at(&to, error))
        };
        copied().inspect_err(|_| discard(&to))?;
        let growth_failed = record.growth_failed.clone().filter(|_| size_bytes <= record.size_bytes);
        let size_bytes = size_bytes.max(record.size_bytes);
        let taken = Record { number, mounted: None, size_bytes, growth_failed, ..record.clone() };
        self.write(&taken)?;
        discard(&from);
        Ok(taken)
    }

    /// Copies a file: at once where the folder's file system shares blocks, otherwise what is written of it.
    pub(super) fn copy_file(&self, from: &Path, to: &Path, lock: &Lock) -> Result<(), Problem> {
        let copy = |how: [&str; 2]| {
            let arguments = [&how.map(OsStr::new)[..], &[from.as_os_str(), to.as_os_str()]].concat();
            run("cp", "coreutils", &arguments, Some(lock))
        };
        if copy(["--reflink=always", "--"])?.status.success() {
            return Ok(());
        }
        discard(to);
        // A copy that fills the folder would take the room of every other volume.
        self.check_room("a copy", takes(from)?)?;
        let output = copy(["--reflink=never", "--sparse=always"])?;
        if output.status.success() { Ok(()) } else { Err(self.told("cp", &said(&output))) }
    }

    /// That the folder has room for so many bytes, which `what` takes.
    pub(super) fn check_room(&self, what: &str, bytes: u64) -> Result<(), Problem> {
        let space = statvfs(&self.folder).map_err(|error| Problem::at(&self.folder, error.into()))?;
        let free = space.blocks_available().saturating_mul(space.fragment_size());
        if free < bytes {
            let text =
                format!("{what} takes {} MiB, and {} MiB are free", bytes.div_ceil(1 << 20), free >> 20);
            let full = io::Error::new(io::ErrorKind::StorageFull, text);
            return Err(Problem::at(&self.folder, full));
        }
        Ok(())
    }
}

/// How much room a file takes.
pub(super) fn takes(file: &Path) -> Result<u64, Problem> {
    Ok(fs::metadata(file).map_err(|error| Problem::at(file, error))?.blocks() * 512)
}

/// How long a file is and when it was last written to.
fn written(file: &Path) -> Result<(u64, i64, i64), Problem> {
    let metadata = fs::metadata(file).map_err(|error| Problem::at(file, error))?;
    Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}
