//! Which program guards are.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::guard::FITS;

/// The name of the program that is a guard and nothing else.
const ALONE: &str = "steadfast-guard";

/// The program that is a guard when it is given `guard --spec FILE`.
#[derive(Debug, Clone)]
pub struct GuardProgram {
    path: PathBuf,
    /// Kept open if `path` leads through it.
    _file: Option<Arc<File>>,
}

impl GuardProgram {
    /// This program itself: also if its file was replaced while it runs, so that agent and guard always fit.
    pub fn this() -> Self {
        GuardProgram::at("/proc/self/exe")
    }

    /// Another program.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        GuardProgram { path: path.into(), _file: None }
    }

    /// The guard alone, `steadfast-guard`, that lies beside `program`, if there is one: the same code in a twentieth of
    /// the text, so that less than half as much of it is in memory (docs/benchmarks.md has figures). It is the file
    /// that lies there now, whatever takes its place later.
    ///
    /// # Errors
    /// If it cannot be run, is not of this build, or is somebody's whom this program does not trust: its owner has to be
    /// the program's, and nobody else may write to it.
    pub fn beside(program: &Path) -> io::Result<Option<Self>> {
        let found = program.with_file_name(ALONE);
        let file = match File::open(&found) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let refuse = |why: &str| io::Error::other(format!("{}: {why}", found.display()));
        // Of the open file, so that what is checked is what is run.
        let (its, ours) = (file.metadata()?, program.metadata()?);
        if its.uid() != ours.uid() || its.mode() & 0o022 != 0 {
            return Err(refuse("others than the owner of this program may have written it"));
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let said = said_by(&path)?;
        if said.trim() != FITS {
            return Err(refuse(&format!("it is of build {:?}, and not of {FITS}", said.trim())));
        }
        Ok(Some(GuardProgram { path, _file: Some(Arc::new(file)) }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What a guard says of its build. One that says too much is none.
fn said_by(path: &Path) -> io::Result<String> {
    let mut child = Command::new(path)
        .args(["guard", "--fits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        output.take(256).read_to_string(&mut said)?;
    }
    child.wait()?;
    Ok(said)
}
