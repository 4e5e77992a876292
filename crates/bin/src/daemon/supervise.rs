//! Keeping child processes alive: one task per child, restarts with growing delay, and an orderly end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::logging::rotated;
use crate::exit::{Context as _, Failure, Result};
use crate::output::note;

/// A program that shall run for as long as nobody says otherwise.
#[derive(Debug, Clone)]
pub(super) struct Supervised {
    /// What people call it.
    pub(super) name: String,
    /// Its arguments; the program is this one.
    pub(super) arguments: Vec<OsString>,
    /// Where its output goes.
    pub(super) log: PathBuf,
    /// The lock it holds while it lives: whoever holds it already is sent away first.
    pub(super) lock: PathBuf,
    /// While this file is there it is left dead.
    pub(super) down_mark: Option<PathBuf>,
}

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Who lived this long has earned a quick restart.
const LONG_LIFE: Duration = Duration::from_secs(30);
/// How long an orderly end may take before it is a kill.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// What says to commands of users whom to ask, and as whom. Servers and agents are told by their arguments, and an
/// agent that took an administrator's token for its own could do nothing with it.
const OF_USERS: [&str; 4] =
    ["STEADFAST_SERVER", "STEADFAST_CLUSTER", "STEADFAST_TOKEN_FILE", "STEADFAST_CA_FILE"];

/// This program: what lies where it was started from, which may be a newer build by now, or else the very file that
/// runs, which has no name any more.
fn this_program() -> Result<PathBuf> {
    static STARTED_FROM: OnceLock<PathBuf> = OnceLock::new();
    let path = match STARTED_FROM.get() {
        Some(path) => path,
        None => {
            let path = std::env::current_exe().context("find this program")?;
            STARTED_FROM.get_or_init(|| path)
        }
    };
    Ok(if path.exists() { path.clone() } else { PathBuf::from("/proc/self/exe") })
}

impl Supervised {
    /// Keeps it alive until `stop` turns true, and ends it then.
    pub(super) async fn keep(self, mut stop: watch::Receiver<bool>) {
        let mut delay = FIRST_DELAY;
        loop {
            if !self.wait_until_wanted(&mut stop).await {
                return;
            }
            let begun = Instant::now();
            match self.one_life(&mut stop).await {
                Ok(None) => return,
                Ok(Some(ending)) if self.is_marked_down() => {
                    note(&format!("{} is down ({ending})", self.name))
                }
                Ok(Some(ending)) => {
                    note(&format!("{} ended ({ending}); its log is {}", self.name, self.log.display()));
                }
                Err(failure) => note(&format!("{}: {failure}", self.name)),
            }
            if begun.elapsed() >= LONG_LIFE {
                delay = FIRST_DELAY;
            }
            if tokio::time::timeout(delay, stopped(&mut stop)).await.is_ok() {
                return;
            }
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    fn is_marked_down(&self) -> bool {
        self.down_mark.as_ref().is_some_and(|mark| mark.exists())
    }

    /// False: it shall stop before it was wanted again.
    async fn wait_until_wanted(&self, stop: &mut watch::Receiver<bool>) -> bool {
        while self.is_marked_down() {
            if tokio::time::timeout(POLL, stopped(stop)).await.is_ok() {
                return false;
            }
        }
        !*stop.borrow()
    }

    /// How it ended by itself; none: it was told to.
    async fn one_life(&self, stop: &mut watch::Receiver<bool>) -> Result<Option<String>> {
        // What an earlier `up` left behind makes room for a process of this build.
        send_away(&self.lock, PATIENCE).await?;
        let mut child = self.start()?;
        tokio::select! {
            ended = child.wait() => {
                let status = ended.context(format!("wait for {}", self.name))?;
                Ok(Some(status.to_string()))
            }
            () = stopped(stop) => {
                end(&mut child).await.context(format!("stop {}", self.name))?;
                Ok(None)
            }
        }
    }

    fn start(&self) -> Result<Child> {
        let program = this_program()?;
        let log = open_log(&self.log)?;
        let error_log = log.try_clone().context("share the log")?;
        let mut command = Command::new(program);
        for variable in OF_USERS {
            command.env_remove(variable);
        }
        command
            .args(&self.arguments)
            .arg("--log-file")
            .arg(&self.log)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log)
            // A group of its own: Ctrl-C at the terminal reaches `up`, which ends things in order.
            .process_group(0)
            .spawn()
            .context(format!("start {}", self.name))
    }
}

/// Ends whoever holds `lock`: asks first, kills after `patience`. Nobody: success.
pub(crate) async fn send_away(lock: &Path, patience: Duration) -> Result<()> {
    let look = || steadfast_lock::is_held(lock).context(format!("look at {}", lock.display()));
    if !look()? {
        return Ok(());
    }
    terminate_holders(lock)?;
    let asked = Instant::now();
    while look()? {
        if asked.elapsed() > patience {
            steadfast_lock::kill_holders(&[lock])
                .context(format!("kill the holders of {}", lock.display()))?;
        }
        if asked.elapsed() > patience * 3 {
            return Err(Failure::new(format!(
                "{} stays held by a process that cannot be killed",
                lock.display()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Asks every holder of `lock` to end. Each is pinned before it is looked at again, so a number that is used again
/// hits nobody.
fn terminate_holders(lock: &Path) -> Result<()> {
    let holders = || steadfast_lock::holders(lock).context(format!("find the holders of {}", lock.display()));
    let pinned: Vec<_> = holders()?
        .into_iter()
        .filter_map(|pid| {
            let handle = rustix::process::pidfd_open(
                rustix::process::Pid::from_raw(pid)?,
                rustix::process::PidfdFlags::empty(),
            );
            Some((pid, handle.ok()?))
        })
        .collect();
    let still = holders()?;
    for (pid, handle) in pinned {
        if still.contains(&pid) {
            // One that has ended by itself meanwhile is what was wanted.
            rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::TERM).ok();
        }
    }
    Ok(())
}

async fn end(child: &mut Child) -> std::io::Result<()> {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else {
        return Ok(());
    };
    // Not reaped yet, so the number is still its own.
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => child.kill().await,
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone will never say it: then it counts as said.
    stop.wait_for(|stop| *stop).await.map(drop).unwrap_or_default();
}

/// Opens the log of a process that is about to start; one that is full already is begun anew.
pub(super) fn open_log(path: &Path) -> Result<std::fs::File> {
    let tried = || format!("open the log {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context(tried())?;
    }
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > rotated::LOG_BYTES) {
        return rotated::begin_anew(path).context(tried());
    }
    rotated::open(path).context(tried())
}
