//! Helper programs: run without a shell, as the engine's user, in a process group of their own that ends with us.
//!
//! One that outlives us all the same (we were killed) still holds the locks that the caller passes on to what it
//! starts: nobody gets at the data before it has ended.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use steadfast_core::Environment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// A program to run.
#[derive(Default)]
pub(crate) struct Invocation {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// Its whole environment, beside a plain `PATH` and `LC_ALL=C`.
    pub(crate) env: BTreeMap<String, String>,
    /// What it reads.
    pub(crate) stdin: Option<String>,
    /// The user and group it runs as; none: our own.
    pub(crate) user: Option<(u32, u32)>,
    /// Its working folder.
    pub(crate) cwd: Option<PathBuf>,
    /// How long it may take.
    pub(crate) timeout: Duration,
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Why a program did not do what it was run for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no such program.
    Missing(String),
    /// It could not be started or talked to.
    Io(io::Error),
    /// It ended with an error.
    Ended { status: String, said: Said },
    /// It took too long, and was ended.
    TimedOut,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Missing(program) => write!(f, "{program} is not there"),
            Failure::Io(error) => write!(f, "{error}"),
            Failure::Ended { status, said } => {
                let lines: Vec<&str> = said.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
                let tail = lines[lines.len().saturating_sub(4)..].join(" | ");
                write!(f, "ended with {status}: {tail}")
            }
            Failure::TimedOut => f.write_str("took too long and was ended"),
        }
    }
}

/// Runs a program to its end.
pub(crate) async fn run(environment: &Environment, invocation: Invocation) -> Result<Said, Failure> {
    let Invocation { argv, env, stdin, user, cwd, timeout } = invocation;
    let (program, arguments) = argv.split_first().ok_or_else(|| Failure::Missing("(nothing)".to_owned()))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .envs(env)
        .current_dir(cwd.unwrap_or_else(|| PathBuf::from("/")))
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: a helper's own children end with it.
        .process_group(0)
        .kill_on_drop(true);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Missing(program.clone()),
        _ => Failure::Io(error),
    })?;
    let group = Group::of(&child);
    let work = async {
        let mut stdout = child.stdout.take();
        let mut stderr = child.stderr.take();
        let (fed, out, err) =
            tokio::join!(feed(child.stdin.take(), stdin), read(&mut stdout), read(&mut stderr));
        let status = child.wait().await?;
        // A program that has ended well need not have read all of its input.
        if !status.success() || matches!(&fed, Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            drop(fed);
        } else {
            fed?;
        }
        Ok::<_, io::Error>((status, Said { stdout: out?, stderr: err? }))
    };
    let outcome = environment.timeout(timeout, work).await;
    match &outcome {
        // Reaped: its number may be somebody else's by now.
        Some(Ok(_)) => group.ended(),
        Some(Err(_)) | None => drop(group),
    }
    match outcome {
        None => Err(Failure::TimedOut),
        Some(Err(error)) => Err(Failure::Io(error)),
        Some(Ok((status, said))) if status.success() => Ok(said),
        Some(Ok((status, said))) => Err(Failure::Ended { status: status.to_string(), said }),
    }
}

async fn feed(pipe: Option<tokio::process::ChildStdin>, text: Option<String>) -> io::Result<()> {
    if let (Some(mut pipe), Some(text)) = (pipe, text) {
        pipe.write_all(text.as_bytes()).await?;
        pipe.shutdown().await?;
    }
    Ok(())
}

async fn read(pipe: &mut Option<impl AsyncReadExt + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends the process group when dropped. The leader is not reaped before that, so the number is still its own.
struct Group(i32);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        Group(child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default())
    }

    fn ended(mut self) {
        self.0 = 0;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        kill(self.0);
    }
}

fn kill(group: i32) {
    // 0 and 1 would mean our own group and everybody.
    if group > 1
        && let Err(error) = killpg(Pid::from_raw(group), Signal::SIGKILL)
        && error != nix::errno::Errno::ESRCH
    {
        tracing::warn!(group, %error, "a helper program could not be ended");
    }
}
