//! Guards as processes, found again by the lock they hold and the socket they listen on.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{MemberName, ServiceName};
use steadfast_core::runtime::{Environment, Moment};
use steadfast_lock::Lock;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::{GuardProgram, GuardState, Guards};
use crate::guard::{self, GuardExit, GuardSpec, GuardStatus, Request, short_path};
use crate::node_dir::NodeDir;

/// How long a guard may take to answer before it counts as silent.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a guard may take to come up, or a killed tree to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a guard may take to be gone once it has said how it ended.
const ENDING: Duration = Duration::from_secs(2);
const ROUND: Duration = Duration::from_millis(5);

/// The guards below a node's folder.
#[derive(Debug)]
pub struct ProcessGuards {
    env: Environment,
    dir: NodeDir,
    program: GuardProgram,
}

impl ProcessGuards {
    /// The guards of the node in `dir`.
    pub fn new(env: Environment, dir: NodeDir, program: GuardProgram) -> Self {
        ProcessGuards { env, dir, program }
    }

    async fn ask(&self, member: &MemberName, request: &Request) -> io::Result<GuardStatus> {
        let talk = async {
            let (folder, short) = short_path(&self.dir.control(member))?;
            let stream = UnixStream::connect(short).await?;
            drop(folder);
            let mut stream = BufReader::new(stream);
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            if answer.is_empty() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Ok(serde_json::from_str(&answer)?)
        };
        self.env.timeout(ANSWER, talk).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    fn last_exit(&self, member: &MemberName) -> Result<Option<GuardExit>> {
        let path = self.dir.exit(member);
        match fs::read(&path) {
            // Written in one piece, so what does not decode is another version's; nothing is known then.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(ErrorKind::Unavailable, "find", member, &error)),
        }
    }

    /// Everything but the process itself, unless there is one; gives where its errors go.
    pub(crate) fn make_ready(&self, spec: &GuardSpec) -> Result<Stdio> {
        let member = &spec.member;
        let failure = |error| failed(ErrorKind::Unavailable, "start", member, &error).without_effect();
        if steadfast_lock::is_held(&self.dir.guard_lock(member)).map_err(failure)? {
            return Err(
                Error::new(ErrorKind::Busy, "guards", "start", member, "it runs already").without_effect()
            );
        }
        self.lay_out(spec).map_err(failure)
    }

    /// Whether a guard answers now, or has ended since it was made ready.
    pub(crate) async fn has_come_up(&self, member: &MemberName) -> Result<bool> {
        Ok(self.ask(member, &Request::Status).await.is_ok() || self.last_exit(member)?.is_some())
    }

    fn lay_out(&self, spec: &GuardSpec) -> io::Result<Stdio> {
        let folder = self.dir.guard(&spec.member);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let spec_path = self.dir.spec(&spec.member);
        for stale in [self.dir.exit(&spec.member), self.dir.control(&spec.member)] {
            guard::remove_if_there(&stale)?;
        }
        guard::write_durably(&spec_path, &serde_json::to_vec(spec)?)?;
        guard::remove_if_there(&guard::withdrawn(&spec_path))?;
        Ok(fs::File::create(folder.join("guard.err"))?.into())
    }

    /// Waits until the guard answers or has ended.
    async fn comes_up(&self, member: &MemberName, mut child: Child) -> Result<()> {
        let clock = self.env.clock();
        let patience_ends = clock.monotonic().plus(PATIENCE);
        loop {
            if self.ask(member, &Request::Status).await.is_ok() {
                return Ok(());
            }
            let ended =
                child.try_wait().map_err(|error| failed(ErrorKind::Unavailable, "start", member, &error))?;
            if let Some(status) = ended {
                if status.code() == Some(guard::DONE) {
                    return Ok(());
                }
                let said = fs::read_to_string(self.dir.guard(member).join("guard.err")).unwrap_or_default();
                let kind = if status.code() == Some(guard::ANOTHER_LIVES) {
                    ErrorKind::Busy
                } else {
                    ErrorKind::Unavailable
                };
                let message = format!("the guard ended with {status}: {}", said.trim());
                return Err(Error::new(kind, "guards", "start", member, message).without_effect());
            }
            if clock.monotonic() >= patience_ends {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "guards",
                    "start",
                    member,
                    "the guard does not answer",
                ));
            }
            clock.sleep(ROUND).await;
        }
    }
}

#[async_trait]
impl Guards for ProcessGuards {
    async fn list(&self) -> Result<Vec<(MemberName, ServiceName)>> {
        let folder = self.dir.guards();
        let guarded = self
            .dir
            .guarded()
            .map_err(|error| failed(ErrorKind::Unavailable, "list", folder.display(), &error))?;
        let with_service = guarded.into_iter().filter_map(|member| {
            // Without a spec no guard was ever started there.
            let spec: GuardSpec = serde_json::from_slice(&fs::read(self.dir.spec(&member)).ok()?).ok()?;
            Some((member, spec.service))
        });
        Ok(with_service.collect())
    }

    async fn find(&self, member: &MemberName) -> Result<GuardState> {
        let lock = self.dir.guard_lock(member);
        let clock = self.env.clock();
        let patience_ends = clock.monotonic().plus(ENDING);
        loop {
            let silent = match self.ask(member, &Request::Status).await {
                Ok(status) => return Ok(GuardState::Alive(status)),
                Err(error) => error.kind() == io::ErrorKind::TimedOut,
            };
            let held = steadfast_lock::is_held(&lock)
                .map_err(|error| failed(ErrorKind::Unavailable, "find", member, &error))?;
            let exit = self.last_exit(member)?;
            if !held {
                return Ok(GuardState::Absent(exit));
            }
            if silent {
                return Ok(GuardState::Silent);
            }
            // Nobody listens, and the lock is held. A guard that has said how it ended is about to let go.
            if exit.is_none() || clock.monotonic() >= patience_ends {
                return Ok(GuardState::Orphans);
            }
            clock.sleep(ROUND).await;
        }
    }

    async fn start(&self, spec: &GuardSpec) -> Result<()> {
        let member = &spec.member;
        let errors = self.make_ready(spec)?;
        let child = Command::new(self.program.path())
            .arg0("steadfast")
            .args(["guard", "--spec"])
            .arg(self.dir.spec(member))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(|error| failed(ErrorKind::Unavailable, "start", member, &error).without_effect())?;
        self.comes_up(member, child).await
    }

    async fn withdraw(&self, member: &MemberName) -> Result<()> {
        let failure = |error| failed(ErrorKind::Unavailable, "withdraw", member, &error);
        let spec = self.dir.spec(member);
        if !spec.exists() {
            return Ok(());
        }
        // Under the lock that a guard takes before it looks whether it still may.
        match Lock::try_exclusive(&self.dir.guard_lock(member)).map_err(failure)? {
            Some(_held) => guard::write_durably(&guard::withdrawn(&spec), b"").map_err(failure),
            None => {
                let text = "a guard has begun";
                Err(Error::new(ErrorKind::Busy, "guards", "withdraw", member, text).without_effect())
            }
        }
    }

    async fn stop(&self, member: &MemberName) -> Result<()> {
        match self.ask(member, &Request::Stop).await {
            Ok(_) => Ok(()),
            Err(error) => match self.find(member).await? {
                GuardState::Absent(_) => Ok(()),
                GuardState::Alive(_) | GuardState::Silent | GuardState::Orphans => {
                    Err(failed(ErrorKind::Unavailable, "stop", member, &error))
                }
            },
        }
    }

    async fn kill(&self, member: &MemberName) -> Result<()> {
        let clock = self.env.clock();
        let patience_ends = clock.monotonic().plus(PATIENCE);
        let lock = self.dir.guard_lock(member);
        let failure = |error: io::Error| failed(ErrorKind::Unavailable, "kill", member, &error);
        loop {
            steadfast_lock::kill_holders(&[&lock]).map_err(failure)?;
            if !steadfast_lock::is_held(&lock).map_err(failure)? {
                return Ok(());
            }
            if clock.monotonic() >= patience_ends {
                let left = steadfast_lock::holders(&lock).map_err(failure)?;
                let message = format!("processes {left:?} do not die");
                return Err(Error::new(ErrorKind::Busy, "guards", "kill", member, message));
            }
            clock.sleep(ROUND).await;
        }
    }

    async fn extend_lease(&self, member: &MemberName, until: Moment) -> Result<()> {
        self.ask(member, &Request::Lease { until_ms: guard::deadline_ms(until) })
            .await
            .map(drop)
            .map_err(|error| failed(ErrorKind::Unavailable, "extend lease of", member, &error))
    }

    async fn forget(&self, member: &MemberName) -> Result<()> {
        let folder = self.dir.guard(member);
        remove_folder(&folder)
            .and_then(|()| remove_folder(&self.dir.run(member)))
            .map_err(|error| failed(ErrorKind::Unavailable, "forget", member, &error))
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(
    kind: ErrorKind,
    operation: &'static str,
    subject: impl std::fmt::Display,
    error: &io::Error,
) -> Error {
    let source = io::Error::new(error.kind(), error.to_string());
    Error::new(kind, "guards", operation, subject, error).with_source(source)
}
