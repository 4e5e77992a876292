//! A member's output, in files that are begun anew when they grow too long.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use super::LogSpec;

/// The file that is being written.
pub const CURRENT: &str = "current.log";

/// Writes output and never fails: an engine must not end because nobody can store what it says. What could not
/// be written is counted, and the count written once there is room again.
#[derive(Debug)]
pub(super) struct LogWriter {
    spec: LogSpec,
    file: Option<File>,
    written: u64,
    lost: u64,
}

impl LogWriter {
    pub(super) fn open(spec: &LogSpec) -> Self {
        let mut log = LogWriter { spec: spec.clone(), file: None, written: 0, lost: 0 };
        match log.reopen() {
            Ok(()) => {}
            // Tried again with every write.
            Err(_) => log.file = None,
        }
        log
    }

    /// Writes `output` as it is.
    pub(super) fn write(&mut self, output: &[u8]) {
        if self.try_write(output).is_err() {
            self.lost += output.len() as u64;
            self.file = None;
        }
    }

    fn try_write(&mut self, output: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        if self.written > 0 && self.written + output.len() as u64 > self.spec.max_bytes {
            self.rotate()?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("no file is open"));
        };
        if self.lost > 0 {
            writeln!(file, "--- {} bytes of output were lost here: the log could not be written", self.lost)?;
            self.lost = 0;
        }
        file.write_all(output)?;
        self.written += output.len() as u64;
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.spec.folder)?;
        let file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(self.path(CURRENT.to_owned()))?;
        self.written = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let keep = self.spec.keep;
        if keep == 0 {
            fs::remove_file(self.path(CURRENT.to_owned()))?;
        }
        for number in (1..keep).rev() {
            let from = self.path(format!("{number}.log"));
            if from.exists() {
                fs::rename(from, self.path(format!("{}.log", number + 1)))?;
            }
        }
        if keep > 0 {
            fs::rename(self.path(CURRENT.to_owned()), self.path("1.log".to_owned()))?;
        }
        self.reopen()
    }

    fn path(&self, name: String) -> PathBuf {
        self.spec.folder.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_begun_anew_and_the_oldest_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let spec = LogSpec { folder: folder.path().join("orders-0"), max_bytes: 10, keep: 2 };
        let mut log = LogWriter::open(&spec);
        for line in ["first...\n", "second..\n", "third...\n", "fourth..\n"] {
            log.write(line.as_bytes());
        }
        let read = |name: &str| fs::read_to_string(spec.folder.join(name)).unwrap();
        assert_eq!(
            (read(CURRENT), read("1.log"), read("2.log")),
            ("fourth..\n".into(), "third...\n".into(), "second..\n".into())
        );
        assert!(!spec.folder.join("3.log").exists());
    }

    #[test]
    fn another_guard_goes_on_in_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let spec = LogSpec { folder: folder.path().to_owned(), max_bytes: 100, keep: 2 };
        LogWriter::open(&spec).write(b"one\n");
        LogWriter::open(&spec).write(b"two\n");
        assert_eq!(fs::read_to_string(folder.path().join(CURRENT)).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn output_that_cannot_be_written_is_counted_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let spec = LogSpec { folder: folder.path().join("logs"), max_bytes: 100, keep: 2 };
        fs::write(&spec.folder, "in the way").unwrap();
        let mut log = LogWriter::open(&spec);
        log.write(b"lost\n");
        fs::remove_file(&spec.folder).unwrap();
        log.write(b"kept\n");
        let text = fs::read_to_string(spec.folder.join(CURRENT)).unwrap();
        assert!(text.starts_with("--- 5 bytes of output were lost") && text.ends_with("kept\n"), "{text}");
    }
}
