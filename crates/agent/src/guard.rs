//! The guard: the parent of one engine, which owns the engine's process tree, its volume locks and its deadline.
//!
//! A guard is a small process without threads, started by the agent and independent of it from then on: agents
//! come and go and find it again through its control socket. It takes the locks, starts the engine, keeps what
//! the engine says, reaps, and when the engine's main process ends kills whatever is left of the tree before it
//! lets go of the locks. With a lease it kills the tree at the last deadline it was given; without one it never
//! needs an agent.
//!
//! ```text
//! Locking ──▶ Running ──▶ Stopping ──▶ Killing ──▶ exit.json, locks freed
//!    └──────────┴── end of the engine, of its lease, or of patience ──┘
//! ```
//!
//! What must never happen: an engine started without every lock, or over a volume that has seen a higher epoch;
//! a lock freed while something of the tree can still write; a lease extended after it has ended.
//!
//! Nothing here is asynchronous: the parent-death signal follows the thread that started the engine, and a
//! single thread that sleeps in `poll` cannot be starved by another task.

mod clock;
mod control;
mod exec;
mod locks;
mod log;
mod protocol;
mod supervise;
mod tree;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::Pid;

pub(crate) use control::short_path;
pub(crate) use locks::{sign, signed};
pub use log::CURRENT;
pub(crate) use protocol::deadline_ms;
pub use protocol::{
    Ending, GuardExit, GuardSpec, GuardStage, GuardStatus, GuardedVolume, LogSpec, Request, RunAs,
};

/// The exit code of a guard that did its work, however the engine ended.
pub const DONE: i32 = 0;
/// The exit code of a guard that could not begin: its reason is on standard error.
pub const FAILED: i32 = 70;
/// The exit code of a guard that found another one, or what is left of one, alive for the same member.
pub const ANOTHER_LIVES: i32 = 75;

/// What agent and guard have to agree in, if they are two programs: the version, and the form of spec, requests and
/// answers. Raise the number whenever an older guard would miss something in a newer one's.
pub const FITS: &str = concat!("steadfast-guard ", env!("CARGO_PKG_VERSION"), " form 2");

/// What `steadfast guard ARGUMENTS` does: `--spec FILE` guards; `--exec FILE --parent PID`, used by the guard
/// itself, becomes the engine; `--fits` says which agents it fits. Gives the process's exit code.
pub fn run_from_arguments(arguments: &[String]) -> i32 {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--spec", spec] => run(Path::new(spec)),
        ["--exec", spec, "--parent", parent] => match (read_spec(Path::new(spec)), parent.parse()) {
            (Ok(spec), Ok(parent)) => {
                complain(&exec::become_engine(&spec, Pid::from_raw(parent)));
                exec::NOT_REACHED
            }
            (Err(error), _) => {
                complain(&format!("cannot read {spec}: {error}"));
                exec::NOT_REACHED
            }
            (_, Err(error)) => {
                complain(&format!("{parent} is not a process: {error}"));
                exec::NOT_REACHED
            }
        },
        ["--fits"] => match writeln!(io::stdout(), "{FITS}") {
            Ok(()) => DONE,
            Err(_) => FAILED,
        },
        _ => {
            complain("use: guard --spec FILE");
            64
        }
    }
}

/// The program that is a guard and nothing else. It is called as the one that is more: `guard ARGUMENTS`.
pub fn alone() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let code = match arguments.split_first() {
        Some((verb, rest)) if verb == "guard" => run_from_arguments(rest),
        _ => run_from_arguments(&arguments),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Guards the engine of the spec in `spec_path` until nothing of it is left. Gives the process's exit code.
pub fn run(spec_path: &Path) -> i32 {
    let spec = match read_spec(spec_path) {
        Ok(spec) => spec,
        Err(error) => {
            complain(&format!("cannot read {}: {error}", spec_path.display()));
            return FAILED;
        }
    };
    match supervise::Guard::begin(spec, spec_path) {
        Ok(Some(guard)) => match guard.run() {
            Ok(()) => DONE,
            Err(error) => {
                complain(&format!("the guard failed: {error}"));
                FAILED
            }
        },
        Ok(None) => ANOTHER_LIVES,
        Err(error) => {
            complain(&format!("cannot begin: {error}"));
            FAILED
        }
    }
}

fn read_spec(path: &Path) -> io::Result<GuardSpec> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The network namespace that this process is in, as the kernel names it.
pub(crate) fn own_network() -> io::Result<String> {
    fs::read_link("/proc/self/ns/net").map(|name| name.to_string_lossy().into_owned())
}

/// The file that says that no guard may begin with this spec any more.
pub(crate) fn withdrawn(spec_path: &Path) -> PathBuf {
    spec_path.with_file_name("withdrawn")
}

/// Writes `bytes` so that a reader sees the old file or the new one, also after a loss of power.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let folder = path.parent().ok_or_else(|| io::Error::other("a file needs a folder"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}

/// Removes a file. Not there: success.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn complain(message: &str) {
    // Standard error is all there is; if even that is gone nobody can be told.
    drop(writeln!(io::stderr(), "steadfast guard: {message}"));
}
