//! The folder that a member's container sees.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use steadfast_core::ids::MemberName;
use steadfast_core::model::Reason;

use crate::disk::reason_of;
use crate::host::MountedVolume;
use crate::node_dir::NodeDir;
use crate::sync::lock;

/// Puts together what the containers of members see, by bind mounts.
#[derive(Debug, Clone)]
pub struct MemberMounts {
    members: PathBuf,
    machine_lock: PathBuf,
    logs: PathBuf,
    program: Arc<Program>,
}

impl MemberMounts {
    /// The folders below `members` for the members of the node in `dir`; `logs` is the folder with those of all members.
    pub fn new(dir: &NodeDir, members: impl Into<PathBuf>, logs: impl Into<PathBuf>) -> Self {
        MemberMounts {
            members: members.into(),
            machine_lock: dir.machine_lock(),
            logs: logs.into(),
            program: Arc::new(Program { kept: dir.path().join("program"), copied: Mutex::default() }),
        }
    }

    fn folder(&self, member: &MemberName) -> PathBuf {
        self.members.join(member.as_str())
    }

    fn volumes(&self, member: &MemberName) -> PathBuf {
        self.folder(member).join("volumes")
    }

    /// Mounts what every container needs. Idempotent.
    pub(super) fn mount_own(&self, member: &MemberName) -> io::Result<()> {
        let (folder, log) = (self.folder(member), self.logs.join(member.as_str()));
        passable(&folder)?;
        fs::create_dir_all(&log)?;
        bind(&self.machine_lock, &folder.join("machine.lock"))?;
        bind(&log, &folder.join("log"))?;
        bind(&self.program.file(&std::env::current_exe()?)?, &folder.join("steadfast"))
    }

    /// Mounts a volume, and its lock if that is elsewhere. Idempotent; gives where they are.
    pub(crate) fn mount(
        &self,
        member: &MemberName,
        volume: &MountedVolume,
    ) -> Result<MountedVolume, (Reason, String)> {
        let volumes = self.volumes(member);
        let folder = volumes.join(volume.name.as_str());
        let lock = if volume.lock.starts_with(&volume.folder) {
            None
        } else {
            Some(volumes.join(format!("{}.lock", volume.name)))
        };
        passable(&self.folder(member))
            .and_then(|()| passable(&volumes))
            .and_then(|()| bind(&volume.folder, &folder))
            .and_then(|()| lock.as_ref().map_or(Ok(()), |lock| bind(&volume.lock, lock)))
            .map_err(|error| {
                let message =
                    format!("cannot mount {} at {}: {error}", volume.folder.display(), folder.display());
                (reason_of(&error), message)
            })?;
        Ok(MountedVolume::new(volume.name.clone(), folder, lock))
    }

    /// Undoes every mount of a member of which nothing runs here. Nothing there: success.
    pub(crate) fn unmount(&self, member: &MemberName) -> Result<(), (Reason, String)> {
        let folder = self.folder(member);
        self.take_down(member, &folder).map_err(|error| {
            (Reason::VolumeBusy, format!("cannot unmount what is in {}: {error}", folder.display()))
        })
    }

    fn take_down(&self, member: &MemberName, folder: &Path) -> io::Result<()> {
        let volumes = self.volumes(member);
        let entries = match fs::read_dir(&volumes) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        for entry in entries {
            remove(&entry.path())?;
        }
        for own in ["machine.lock", "log", "steadfast", "volumes"] {
            remove(&folder.join(own))?;
        }
        Ok(())
    }
}

/// This program, as a file to mount: also if another one took the place of its file while it runs, as an upgrade does, so
/// that agent and guard always fit.
#[derive(Debug)]
struct Program {
    /// Where a copy is kept then: a file without a name cannot be mounted.
    kept: PathBuf,
    /// Whether this process has made the copy.
    copied: Mutex<bool>,
}

impl Program {
    /// The file, given where the program was started from.
    fn file(&self, started_from: &Path) -> io::Result<PathBuf> {
        const RUNNING: &str = "/proc/self/exe";
        let running = fs::metadata(RUNNING)?;
        if fs::metadata(started_from).is_ok_and(|found| same(&found, &running)) {
            return Ok(started_from.to_owned());
        }
        let mut copied = lock(&self.copied);
        if !*copied {
            // Containers that have the copy of an earlier agent keep it.
            let new = self.kept.with_extension("new");
            fs::copy(RUNNING, &new)?;
            fs::rename(&new, &self.kept)?;
            *copied = true;
        }
        Ok(self.kept.clone())
    }
}

/// Mounts `source` at `target`, which is made if need be, unless it is mounted there already. What else was mounted
/// there is unmounted.
fn bind(source: &Path, target: &Path) -> io::Result<()> {
    let wanted = fs::metadata(source)?;
    loop {
        match fs::metadata(target) {
            Ok(found) if same(&found, &wanted) => return Ok(()),
            Ok(_) if unmount(target)? => {}
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if wanted.is_dir() {
                    fs::create_dir(target)?;
                } else {
                    fs::File::create(target)?;
                }
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(nix::mount::mount(Some(source), target, None::<&Path>, MsFlags::MS_BIND, None::<&Path>)?)
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Unmounts what is at `target`; `false`: nothing is mounted there.
fn unmount(target: &Path) -> io::Result<bool> {
    // A container that is about to go may still have it: nothing of an engine runs in it.
    match umount2(target, MntFlags::MNT_DETACH) {
        Ok(()) => Ok(true),
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a mount point with everything that is mounted there. Never what lies in a folder: it may be data.
fn remove(target: &Path) -> io::Result<()> {
    while unmount(target)? {}
    let removed = match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => fs::remove_dir(target),
        Ok(_) => fs::remove_file(target),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a folder that engines may pass through, whoever they run as.
fn passable(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o711))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_while_it_runs_is_still_the_one_that_is_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let program = Program { kept: folder.path().join("program"), copied: Mutex::default() };
        let own = std::env::current_exe().unwrap();
        assert_eq!(program.file(&own).unwrap(), own);
        assert!(!program.kept.exists());

        let replaced = folder.path().join("steadfast");
        fs::write(&replaced, "another").unwrap();
        for started_from in [replaced, folder.path().join("steadfast (deleted)")] {
            let file = program.file(&started_from).unwrap();
            assert_eq!(fs::metadata(&file).unwrap().len(), fs::metadata(&own).unwrap().len());
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o111, 0o111, "it can be run");
        }
    }
}
