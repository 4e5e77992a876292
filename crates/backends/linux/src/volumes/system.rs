//! The programs and the kernel's tables that mounting is done with.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use steadfast_core::ErrorKind;
use steadfast_lock::Lock;

/// Why something was not done: what the caller makes an error of.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    pub(super) source: Option<io::Error>,
}

impl Problem {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Problem { kind, message: message.into(), source: None }
    }

    /// What `error`, met at `path`, comes to.
    pub(super) fn at(path: &Path, error: io::Error) -> Self {
        let shown = path.display();
        let (kind, message) = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                ErrorKind::QuotaExceeded,
                format!("DiskFull: no space left ({error}): free space where {shown} lies"),
            ),
            io::ErrorKind::ReadOnlyFilesystem => (
                ErrorKind::Denied,
                format!("DiskReadOnly: {shown} lies on a read-only file system: mount it writable"),
            ),
            io::ErrorKind::PermissionDenied => {
                (ErrorKind::Denied, format!("PermissionDenied: {shown}: {error}: run as root"))
            }
            _ => (ErrorKind::Unavailable, format!("IoError: {shown}: {error}")),
        };
        Problem { kind, message, source: Some(error) }
    }
}

/// Where the program is; none if it is not installed. Those for file systems are not in every user's `PATH`.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// That a program is missing, and how it comes.
pub(super) fn missing(program: &str, package: &str) -> Problem {
    let message = format!(
        "CapabilityMissing: {program} is not installed on this machine; on Debian: apt-get install {package}"
    );
    Problem::new(ErrorKind::Unsupported, message)
}

/// Runs a program to its end. It has the lock as its input: if we are killed, nobody begins before it has ended.
pub(super) fn run(
    program: &str,
    package: &str,
    arguments: &[&OsStr],
    lock: Option<&Lock>,
) -> Result<Output, Problem> {
    let found = find(program).ok_or_else(|| missing(program, package))?;
    let failed = |error| Problem::at(&found, error);
    let input = lock.map(|lock| lock.as_fd().try_clone_to_owned()).transpose().map_err(failed)?;
    Command::new(&found)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .output()
        .map_err(failed)
}

/// What a program that failed has said, on one line.
pub(super) fn said(output: &Output) -> String {
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}

/// The number of the capability that changing the size of a mounted ext4 takes (`capability.h`).
pub(super) const CAP_SYS_RESOURCE: u32 = 24;

/// Whether this process has a capability. One of which the kernel says nothing counts as there: then it refuses itself.
pub(super) fn has_capability(number: u32) -> bool {
    let told = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = told.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.is_none_or(|effective| effective >> number & 1 == 1)
}

/// The file that the file system mounted at `target` lies in; none if nothing is mounted there. A device that is no loop
/// device is told as itself.
pub(super) fn mounted_from(target: &Path) -> io::Result<Option<PathBuf>> {
    let Some(device) = device_at(target)? else { return Ok(None) };
    let name = device.file_name().unwrap_or_default();
    Ok(Some(backing_of(name)?.unwrap_or(device)))
}

/// The device that the file system mounted at `target` lies on; none if nothing is mounted there.
pub(super) fn device_at(target: &Path) -> io::Result<Option<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    // What is mounted last at a place covers what was there.
    let of_target = table.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let end = fields.iter().position(|field| *field == b"-")?;
        (unescaped(fields.get(4)?) == target.as_os_str().as_bytes()).then(|| unescaped(fields[end + 2]))
    });
    Ok(of_target.map(|device| PathBuf::from(std::ffi::OsString::from_vec(device))))
}

/// Whether a loop device of this kernel has the file open.
pub(super) fn has_loop(image: &Path) -> io::Result<bool> {
    for device in fs::read_dir("/sys/block")? {
        if backing_of(&device?.file_name())?.as_deref() == Some(image) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The file of a loop device, as the kernel names it; none if it is no loop device, or has none.
fn backing_of(device: &OsStr) -> io::Result<Option<PathBuf>> {
    if !device.as_bytes().starts_with(b"loop") {
        return Ok(None);
    }
    match fs::read(Path::new("/sys/block").join(device).join("loop/backing_file")) {
        Ok(mut text) => {
            text.truncate(text.trim_ascii_end().len());
            Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(text))))
        }
        // It may be let go between the two looks.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A path as the kernel's table has it, with blanks and the like as `\040`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_kernels_table_are_read_with_their_blanks() {
        assert_eq!(unescaped(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescaped(br"/a\04"), br"/a\04");
    }
}
