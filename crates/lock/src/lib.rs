//! Kernel locks that a whole process tree inherits.
//!
//! A [`Lock`] is an open-file-description lock (`F_OFD_SETLK`, Linux): it belongs to the open file, not to a
//! process. Whoever inherits the descriptor holds it too, and the kernel frees it when the **last** of them is
//! gone: not when a pid file says so, nor when the parent dies while a busy child lives on. So a lock that is
//! free proves that nobody of that tree is left, and [`is_held`] asks without taking it.
//!
//! What it does not prove: anything about another machine. On a network file system the kernel that holds the
//! lock is the server's, with rules of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A held lock. Dropping it closes this process's descriptor; the lock is free once every inheritor's is closed.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock for this tree alone; `None` if anyone holds it.
    ///
    /// # Errors
    /// If the file cannot be opened or made.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Lock>> {
        Lock::try_take(path, libc::F_WRLCK)
    }

    /// Takes the lock together with others who share it; `None` if somebody holds it exclusively.
    ///
    /// # Errors
    /// If the file cannot be opened or made.
    pub fn try_shared(path: &Path) -> io::Result<Option<Lock>> {
        Lock::try_take(path, libc::F_RDLCK)
    }

    /// Lets every process started from now on inherit the lock.
    ///
    /// Only a process that starts nothing else may call this: every child inherits.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pass_to_children(&self) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    }

    /// Whether the file has been removed: the lock is held, and keeps nobody out any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn is_lost(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }

    fn try_take(path: &Path, kind: i32) -> io::Result<Option<Lock>> {
        let file = open(path)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(kind))) {
            Ok(_) => Ok(Some(Lock { file })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether anyone holds the lock, exclusively or shared. Takes nothing. A file that does not exist is not held.
///
/// # Errors
/// If the file cannot be opened: then nothing is known.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut probe = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok(i32::from(probe.l_type) != libc::F_UNLCK)
}

/// The processes that hold the lock: the tree that shares it. Found by the lock itself, so a reused pid is never
/// mistaken for a holder, and neither is a process that has the file open to ask ([`is_held`]) or to wait.
/// Processes of other users are seen by root only.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn holders(path: &Path) -> io::Result<BTreeSet<i32>> {
    let wanted = match fs::metadata(path) {
        Ok(metadata) => (metadata.dev(), metadata.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let holders = everything_open()?.filter(|opened| {
        fs::metadata(&opened.descriptor).is_ok_and(|open| (open.dev(), open.ino()) == wanted)
            && opened.has_lock()
    });
    Ok(holders.map(|opened| opened.pid).collect())
}

/// A file that a process has open.
struct Opened {
    pid: i32,
    /// `/proc/PID/fd/N`, a link to the file.
    descriptor: PathBuf,
}

impl Opened {
    /// Whether this open file has a lock of its own: the kernel lists only that description's.
    fn has_lock(&self) -> bool {
        let number = self.descriptor.file_name().unwrap_or_default();
        let description = Path::new("/proc").join(self.pid.to_string()).join("fdinfo").join(number);
        fs::read_to_string(description)
            .is_ok_and(|text| text.lines().any(|line| line.starts_with("lock:") && line.contains("OFDLCK")))
    }
}

/// What every process has open. A process may end meanwhile, or be another user's: then it is not ours to see.
fn everything_open() -> io::Result<impl Iterator<Item = Opened>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            processes.push((pid, entry.path().join("fd")));
        }
    }
    Ok(processes.into_iter().flat_map(|(pid, folder)| {
        let descriptors = fs::read_dir(folder).into_iter().flatten().flatten();
        descriptors.map(move |descriptor| Opened { pid, descriptor: descriptor.path() })
    }))
}

/// Kills (SIGKILL) every process that holds one of these locks, but this one, and says which were signalled.
/// One round: who forked meanwhile is found by the next, so call it again until nobody is left.
///
/// Each process is pinned before it is looked at again, so a number that is reused in between hits nobody.
///
/// # Errors
/// If `/proc` cannot be read. A process that may not be signalled is left out.
pub fn kill_holders(paths: &[&Path]) -> io::Result<BTreeSet<i32>> {
    kill_where(paths, |_| true)
}

/// As [`kill_holders`], but only of these.
///
/// # Errors
/// As [`kill_holders`].
pub fn kill_holders_among(paths: &[&Path], chosen: &BTreeSet<i32>) -> io::Result<BTreeSet<i32>> {
    kill_where(paths, |pid| chosen.contains(&pid))
}

fn kill_where(paths: &[&Path], chosen: impl Fn(i32) -> bool) -> io::Result<BTreeSet<i32>> {
    let every = || -> io::Result<BTreeSet<i32>> {
        let mut all = BTreeSet::new();
        for path in paths {
            all.extend(holders(path)?);
        }
        Ok(all)
    };
    let own = i32::try_from(std::process::id()).ok();
    let pinned: Vec<_> = every()?
        .into_iter()
        .filter(|pid| Some(*pid) != own && chosen(*pid))
        .filter_map(|pid| {
            let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            Some((pid, handle))
        })
        .collect();
    if pinned.is_empty() {
        return Ok(BTreeSet::new());
    }
    let still = every()?;
    Ok(pinned
        .into_iter()
        .filter(|(pid, handle)| still.contains(pid) && pidfd_send_signal(handle, Signal::KILL).is_ok())
        .map(|(pid, _)| pid)
        .collect())
}

/// A held lock whose file has been removed: its holders live, and no path leads to them any more.
#[derive(Debug)]
pub struct Lost {
    was: PathBuf,
    file: File,
}

impl Lost {
    /// Where the file was.
    pub fn was(&self) -> &Path {
        &self.was
    }

    /// A way to the file for this process, for as long as this value lives: what asks for a lock's path takes it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// The locks that are held of files that were below `folder`, an absolute path without symbolic links, and have been
/// removed. Those of other users are seen by root only.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn lost_below(folder: &Path) -> io::Result<Vec<Lost>> {
    const REMOVED: &[u8] = b" (deleted)";
    let mut found = BTreeMap::new();
    for opened in everything_open()? {
        let Ok(name) = fs::read_link(&opened.descriptor) else { continue };
        let Some(was) = name.as_os_str().as_bytes().strip_suffix(REMOVED) else { continue };
        let was = PathBuf::from(OsStr::from_bytes(was));
        if !was.starts_with(folder) || !opened.has_lock() {
            continue;
        }
        // The process may have ended by now.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&opened.descriptor) else { continue };
        let metadata = file.metadata()?;
        // A file may be called so and be there.
        if metadata.nlink() == 0 {
            found.entry((metadata.dev(), metadata.ino())).or_insert(Lost { was, file });
        }
    }
    Ok(found.into_values().collect())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).expect("lock types are small"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("SEEK_SET is 0"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_lock_excludes_and_is_seen_without_being_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let lock = Lock::try_exclusive(&path).unwrap().unwrap();
        assert!(is_held(&path).unwrap());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        assert!(Lock::try_shared(&path).unwrap().is_none());
        drop(lock);
        assert!(!is_held(&path).unwrap());
    }

    #[test]
    fn shared_holders_keep_an_exclusive_one_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::try_shared(&path).unwrap().unwrap();
        let second = Lock::try_shared(&path).unwrap().unwrap();
        drop(first);
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(second);
        assert!(Lock::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    fn killing_the_holders_spares_everybody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        // Has the file open, but not the lock.
        let mut bystander =
            Command::new("sleep").arg("60").stdin(File::create(&path).unwrap()).spawn().unwrap();
        let lock = Lock::try_exclusive(&path).unwrap().unwrap();
        // Passed as its input and to nobody else: other tests start processes at the same time.
        let inherited = lock.as_fd().try_clone_to_owned().unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(inherited).spawn().unwrap();
        let killed = kill_holders(&[&path]).unwrap();
        let spared = bystander.try_wait().unwrap().is_none();
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(killed, BTreeSet::from([i32::try_from(child.id()).unwrap()]));
        assert!(spared);
    }

    #[test]
    fn holders_of_a_lock_whose_file_is_removed_are_found_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (path, beside) = (root.join("lock"), root.join("open (deleted)"));
        let lock = Lock::try_exclusive(&path).unwrap().unwrap();
        let _there = Lock::try_exclusive(&beside).unwrap().unwrap();
        let inherited = lock.as_fd().try_clone_to_owned().unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(inherited).spawn().unwrap();
        drop(lock);
        assert!(lost_below(&root).unwrap().is_empty(), "it is there");
        fs::remove_file(&path).unwrap();
        assert!(lost_below(&root.join("elsewhere")).unwrap().is_empty());
        let lost = lost_below(&root).unwrap();
        let [lost] = &lost[..] else { panic!("{lost:?}") };
        assert_eq!(lost.was(), path);
        let pid = BTreeSet::from([i32::try_from(child.id()).unwrap()]);
        assert_eq!(holders(&lost.path()).unwrap(), pid);
        assert_eq!(kill_holders(&[&lost.path()]).unwrap(), pid);
        child.wait().unwrap();
        assert!(!is_held(&lost.path()).unwrap());
        assert!(lost_below(&root).unwrap().is_empty());
    }

    #[test]
    fn the_lock_is_held_until_the_last_inheritor_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::try_exclusive(&path).unwrap().unwrap();
        lock.pass_to_children().unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        drop(lock);
        assert!(is_held(&path).unwrap(), "the child inherited it");
        assert!(holders(&path).unwrap().contains(&i32::try_from(child.id()).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_held(&path).unwrap());
    }
}
