//! The real node.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::MemberName;
use steadfast_core::model::Reason;
use steadfast_core::runtime::Environment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::apart::Apart;
use super::{MountedVolume, NodeHost, Outcome, PrepareJob, Starter, VolumeFacts};
use crate::containers::{Gate, MemberMounts};
use crate::disk;
use crate::guard::signed;
use crate::prepare::{self, Answer};
use crate::seams::EngineSource;

/// How data is prepared.
#[derive(Debug, Clone)]
pub enum Preparer {
    /// By a program that calls [`prepare::run`](crate::prepare::run), with these arguments.
    Program(PathBuf, Vec<String>),
    /// Within this process: its helper programs do not hold the volume's lock, so this is for tests only.
    InProcess(Arc<dyn EngineSource>),
}

/// The node this process runs on.
#[derive(Debug)]
pub struct LocalHost {
    env: Environment,
    preparer: Preparer,
    apart: Apart,
    mounts: Option<MemberMounts>,
    gate: Option<Arc<Gate>>,
    starter: Option<Arc<Starter>>,
}

impl LocalHost {
    /// The node this process runs on.
    pub fn new(env: Environment, preparer: Preparer) -> Self {
        LocalHost { env, preparer, apart: Apart::default(), mounts: None, gate: None, starter: None }
    }

    /// Engines run in containers: volumes are mounted where these find them, and no container has a member at `gate` while
    /// its data is prepared.
    #[must_use]
    pub fn with_containers(self, mounts: MemberMounts, gate: Arc<Gate>) -> Self {
        LocalHost { mounts: Some(mounts), gate: Some(gate), ..self }
    }

    /// Engines are started here by somebody else.
    #[must_use]
    pub fn with_starter(self, starter: Arc<Starter>) -> Self {
        LocalHost { starter: Some(starter), ..self }
    }
}

#[async_trait]
impl NodeHost for LocalHost {
    async fn mount(
        &self,
        member: &MemberName,
        volume: MountedVolume,
    ) -> Result<MountedVolume, (Reason, String)> {
        let Some(mounts) = self.mounts.clone() else { return Ok(volume) };
        let (member, place) = (member.clone(), volume.folder.clone());
        let mounted = self.apart.look(&place, move || mounts.mount(&member, &volume)).await;
        mounted.unwrap_or_else(|| Err(disk::silent()))
    }

    async fn unmount(&self, member: &MemberName) -> Result<(), (Reason, String)> {
        self.mounts.as_ref().map_or(Ok(()), |mounts| mounts.unmount(member))
    }

    async fn volume(&self, volume: &MountedVolume) -> Result<VolumeFacts, (Reason, String)> {
        let seen = volume.clone();
        let looked = self.apart.look(&volume.folder, move || facts(&seen)).await;
        looked.unwrap_or_else(|| Err(disk::silent()))
    }

    async fn ports_taken(&self, address: IpAddr, ports: &BTreeMap<String, u16>) -> Vec<u16> {
        let taken = |port: &u16| {
            TcpListener::bind((address, *port)).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        };
        ports.values().copied().filter(taken).collect()
    }

    fn stalled(&self) -> Option<String> {
        self.starter.as_ref()?.stalled()
    }

    async fn disk(&self, folder: &Path) -> Option<(Reason, String)> {
        let seen = folder.to_owned();
        let looked = self.apart.look(folder, move || disk::complaint(&seen)).await;
        looked.unwrap_or_else(|| Some(disk::silent()))
    }

    async fn prepare(&self, job: &PrepareJob) -> Result<Outcome> {
        if let Some(gate) = &self.gate {
            let member = &job.context.member.name;
            gate.close(member).map_err(|error| {
                Error::new(ErrorKind::Unavailable, "agent", "prepare", member, error).without_effect()
            })?;
        }
        match &self.preparer {
            Preparer::InProcess(source) => prepare::perform(&self.env, source.as_ref(), job, false).await,
            Preparer::Program(program, arguments) => {
                let answer = run(program, arguments, job).await.map_err(|error| {
                    Error::new(
                        ErrorKind::Unavailable,
                        "agent",
                        "prepare",
                        &job.context.member.name,
                        format!("the program that prepares data failed: {error}"),
                    )
                })?;
                match answer {
                    Answer::Done(outcome) => Ok(outcome),
                    Answer::Failed { kind, backend, message } => {
                        Err(Error::new(kind, backend, "prepare", &job.context.member.name, message))
                    }
                }
            }
        }
    }
}

/// What a volume holds. It may take as long as the disk likes.
fn facts(volume: &MountedVolume) -> Result<VolumeFacts, (Reason, String)> {
    let failure = |path: &Path, error: &io::Error| {
        (disk::reason_of(error), format!("cannot read {}: {error}", path.display()))
    };
    let path = volume.identity();
    let identity = match fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| {
            (Reason::VolumeCorrupt, format!("{} cannot be understood: {error}", path.display()))
        })?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failure(&path, &error)),
    };
    let data = volume.data();
    let empty = match is_empty(&data) {
        Ok(empty) => empty,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failure(&data, &error)),
    };
    let epoch = signed(&volume.guarded().epoch)?;
    Ok(VolumeFacts { identity, empty, epoch })
}

/// Whether there is nothing in a folder but what the file system itself puts there. What cannot be read is not empty.
fn is_empty(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn run(program: &Path, arguments: &[String], job: &PrepareJob) -> io::Result<Answer> {
    let mut child = Command::new(program)
        .arg0("steadfast")
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("it has no input or output"));
    };
    // Through a pipe: the job holds secrets.
    input.write_all(&serde_json::to_vec(job)?).await?;
    drop(input);
    let mut answer = Vec::new();
    output.read_to_end(&mut answer).await?;
    let status = child.wait().await?;
    serde_json::from_slice(&answer)
        .map_err(|error| io::Error::other(format!("it ended with {status} and no answer: {error}")))
}
