//! What a failing disk means, in reason codes.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use steadfast_core::model::Reason;

/// The code for a failure to read or write a file.
pub fn reason_of(error: &io::Error) -> Reason {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => Reason::DiskFull,
        Some(Errno::EROFS) => Reason::DiskReadOnly,
        Some(Errno::EACCES | Errno::EPERM) => Reason::PermissionDenied,
        _ => Reason::IoError,
    }
}

/// What is said of a disk that does not answer.
pub(crate) fn silent() -> (Reason, String) {
    (Reason::IoError, "its disk does not answer".to_owned())
}

/// What is wrong with the disk that `folder` is on, if it can be seen from outside: no space left, or no writing.
pub fn complaint(folder: &Path) -> Option<(Reason, String)> {
    let stat = match statvfs(folder) {
        Ok(stat) => stat,
        Err(errno) => {
            return Some((Reason::IoError, format!("cannot look at {}: {errno}", folder.display())));
        }
    };
    if stat.flags().contains(FsFlags::ST_RDONLY) {
        return Some((
            Reason::DiskReadOnly,
            format!("the disk of {} is read-only: remount it for writing", folder.display()),
        ));
    }
    if stat.blocks_available() == 0 {
        return Some((
            Reason::DiskFull,
            format!("the disk of {} is full: make room on it", folder.display()),
        ));
    }
    None
}
