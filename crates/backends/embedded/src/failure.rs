//! What an error of the file system means to the caller, in words that name the file and the remedy.

use std::fmt::Display;
use std::io;
use std::path::Path;

use steadfast_core::{Error, ErrorKind};

/// The failure that `error`, met at `path`, amounts to. The effect is unknown: whoever knows better says so.
pub(crate) fn io_failure(
    backend: impl Display,
    operation: &'static str,
    path: &Path,
    error: io::Error,
) -> Error {
    let kind = kind_of(&error);
    let shown = path.display();
    let message = match kind {
        ErrorKind::QuotaExceeded => format!("no space left ({error}): free space where {shown} lies"),
        ErrorKind::Denied if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            format!("{shown} lies on a read-only file system: mount it writable")
        }
        ErrorKind::Denied => {
            format!("{error}: give the user this runs as permission to read and write {shown}")
        }
        ErrorKind::Invalid => format!("{error}: make {shown} a folder"),
        _ => error.to_string(),
    };
    Error::new(kind, backend, operation, shown, message).with_source(error)
}

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::QuotaExceeded
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::NotADirectory => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    }
}
