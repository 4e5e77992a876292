//! An image that becomes larger, mounted and in use: its file is lengthened, then the loop device, then the file system, and
//! the record last. Each step done again is done, so whoever comes after a crash goes on; and what is longer than its
//! record says is no damage.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::Path;

use steadfast_core::ErrorKind;
use steadfast_core::ids::NodeName;
use steadfast_lock::Lock;

use super::{Image, Record};
use crate::volumes::filesystem::Named;
use crate::volumes::system::{Problem, device_at, mounted_from, run, said};

impl Image {
    /// How large its file system is; none before that was made in full.
    pub(in crate::volumes) fn size_bytes(&self) -> Result<Option<u64>, Problem> {
        Ok(self.made()?.map(|record| record.size_bytes))
    }

    /// How the node that has it mounted has failed to give it `size_bytes`, if it has.
    pub(in crate::volumes) fn growth_failure(&self, size_bytes: u64) -> Result<Option<Problem>, Problem> {
        let small = self.made()?.filter(|record| record.size_bytes < size_bytes);
        let failed = small.and_then(|record| Some((record.mounted?, record.growth_failed?)));
        Ok(failed.map(|(node, message)| {
            let kind = match message.split_once(':') {
                Some(("DiskFull", _)) => ErrorKind::QuotaExceeded,
                Some(("CapabilityMissing", _)) => ErrorKind::Unsupported,
                _ => ErrorKind::Unavailable,
            };
            Problem::new(kind, format!("{message} (on {node})"))
        }))
    }

    /// That there is room for the tables of `size_bytes`.
    pub(in crate::volumes) fn check_growth(&self, size_bytes: u64) -> Result<(), Problem> {
        match self.made()? {
            Some(record) if record.size_bytes < size_bytes => self.check_room_to_grow(&record, size_bytes),
            _ => Ok(()),
        }
    }

    /// Gives it `size_bytes` if `node` has it mounted at `target`. One that is mounted nowhere is given it by the next
    /// mount.
    pub(in crate::volumes) fn grow(
        &self,
        lock: &Lock,
        node: &NodeName,
        target: &Path,
        size_bytes: u64,
    ) -> Result<(), Problem> {
        let small = |record: &Record| record.size_bytes < size_bytes && record.mounted.as_ref() == Some(node);
        let Some(record) = self.made()?.filter(small) else { return Ok(()) };
        let from = mounted_from(target).map_err(|error| Problem::at(target, error))?;
        if from != Some(self.file(record.number)) {
            return Ok(());
        }
        match self.grow_mounted(&record, target, size_bytes, lock) {
            Ok(()) => self.write(&Record { size_bytes, growth_failed: None, ..record }),
            Err(problem) => {
                self.note_growth(&record, Some(problem.message.clone()))?;
                Err(problem)
            }
        }
    }

    fn grow_mounted(
        &self,
        record: &Record,
        target: &Path,
        size_bytes: u64,
        lock: &Lock,
    ) -> Result<(), Problem> {
        if !record.filesystem.may_grow_mounted() {
            let message = format!(
                "CapabilityMissing: a mounted {} grows only with CAP_SYS_RESOURCE: give it to the agent, or have the \
                 volume mounted anew (stop, start)",
                record.filesystem.as_str()
            );
            return Err(Problem::new(ErrorKind::Unsupported, message));
        }
        self.check_room_to_grow(record, size_bytes)?;
        let file = self.file(record.number);
        lengthen(&file, size_bytes)?;
        let device = device_at(target).map_err(|error| Problem::at(target, error))?;
        let device = device.ok_or_else(|| {
            Problem::new(ErrorKind::Busy, "VolumeBusy: it was unmounted by somebody else meanwhile")
        })?;
        self.carry_out("losetup", "mount", &[OsStr::new("-c"), device.as_os_str()], lock)?;
        let (grower, named) = record.filesystem.grower();
        let named = match named {
            Named::Device => device.as_os_str(),
            Named::Mount => target.as_os_str(),
        };
        self.carry_out(grower, record.filesystem.package(), &[named], lock)
    }

    /// Gives `size_bytes` to a copy that is no volume yet.
    pub(super) fn grow_unmounted(
        &self,
        record: &Record,
        copy: &Path,
        size_bytes: u64,
        lock: &Lock,
    ) -> Result<(), Problem> {
        self.check_room_to_grow(record, size_bytes)?;
        lengthen(copy, size_bytes)?;
        // What was not given back in order is repaired first; without having looked at all of it, it is left alone.
        self.check_through(record, &["-f"], copy, lock)?;
        let grower = record.filesystem.grower().0;
        self.carry_out(grower, record.filesystem.package(), &[copy.as_os_str()], lock)
    }

    /// Keeps how growing has failed, for whoever asks for it elsewhere.
    pub(super) fn note_growth(&self, record: &Record, failed: Option<String>) -> Result<(), Problem> {
        if record.growth_failed == failed {
            return Ok(());
        }
        self.write(&Record { growth_failed: failed, ..record.clone() })
    }

    fn check_room_to_grow(&self, record: &Record, size_bytes: u64) -> Result<(), Problem> {
        let takes = record.filesystem.growth_takes(size_bytes.saturating_sub(record.size_bytes));
        self.check_room("making it larger", takes)
    }

    fn carry_out(
        &self,
        program: &str,
        package: &str,
        arguments: &[&OsStr],
        lock: &Lock,
    ) -> Result<(), Problem> {
        let output = run(program, package, arguments, Some(lock))?;
        if output.status.success() { Ok(()) } else { Err(self.told(program, &said(&output))) }
    }

    /// The record of an image that was made in full.
    pub(super) fn made(&self) -> Result<Option<Record>, Problem> {
        Ok(self.record()?.filter(|record| record.uuid.is_some()))
    }
}

/// Makes a file as long as that, if it is shorter. It takes no room before something is written there.
fn lengthen(file: &Path, size_bytes: u64) -> Result<(), Problem> {
    let lengthen = || {
        let opened = OpenOptions::new().write(true).open(file)?;
        if opened.metadata()?.len() < size_bytes {
            opened.set_len(size_bytes)?;
            opened.sync_all()?;
        }
        Ok(())
    };
    lengthen().map_err(|error| Problem::at(file, error))
}
