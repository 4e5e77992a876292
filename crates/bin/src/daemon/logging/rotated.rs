//! Logs that are begun anew when they grow too long, while whoever writes them runs on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// How long a log becomes before it is begun anew.
pub(crate) const LOG_BYTES: u64 = 16 << 20;
/// How many older logs are kept beside it: `log.1` is the newest of them.
pub(crate) const KEPT: u32 = 4;

/// Standard error, which goes to a file.
#[derive(Debug)]
pub(crate) struct RotatedError {
    path: PathBuf,
    most_bytes: u64,
}

impl RotatedError {
    pub(crate) fn new(path: PathBuf, most_bytes: u64) -> Self {
        RotatedError { path, most_bytes }
    }

    /// Begins the file anew if it is full. Standard output goes where standard error goes.
    fn make_room(&self, more: usize) -> io::Result<()> {
        // Others write to it, too: a panic, or a child that has been given this process's own.
        let written = u64::try_from(rustix::fs::fstat(io::stderr())?.st_size).unwrap_or_default();
        if written == 0 || written.saturating_add(more as u64) <= self.most_bytes {
            return Ok(());
        }
        let file = begin_anew(&self.path)?;
        nix::unistd::dup2_stdout(&file)?;
        nix::unistd::dup2_stderr(&file)?;
        Ok(())
    }
}

impl Write for RotatedError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let made = self.make_room(line.len());
        let mut error = io::stderr().lock();
        if let Err(problem) = made {
            // A log that is too long is better than none, and it is tried again with the next line.
            writeln!(error, "this log cannot be begun anew: {problem}")?;
        }
        error.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Moves a log and those before it along, the oldest away, and opens a new one.
pub(crate) fn begin_anew(path: &Path) -> io::Result<File> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..KEPT).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::rename(path, numbered(1)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    open(path)
}

/// Opens a log to write on.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
