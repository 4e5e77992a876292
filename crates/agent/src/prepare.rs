//! Preparing a member's data, in a process of its own that holds the member's locks.
//!
//! What makes data (`initdb`, `pg_basebackup`) writes to the volume as much as the engine does. So it runs below a
//! process that has taken the very locks a guard takes, and passes them on: if the agent dies, the volume stays
//! locked until the last of them is gone.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_core::engine::Engine;
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::model::Reason;
use steadfast_core::runtime::Environment;
use steadfast_lock::Lock;

use crate::disk::reason_of;
use crate::guard::{Ending, RunAs, sign, write_durably};
use crate::host::{FirstData, Identity, MountedVolume, Outcome, PrepareJob};
use crate::seams::EngineSource;

/// What the process says at its end, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done(Outcome),
    Failed { kind: ErrorKind, backend: String, message: String },
}

/// Reads a job from standard input, does it, and writes the answer to standard output. Gives the exit code.
///
/// The process must not have started anything before: everything it starts inherits the member's locks.
pub async fn run(env: &Environment, source: &dyn EngineSource) -> i32 {
    let answer = match read_job() {
        Ok(job) => match perform(env, source, &job, true).await {
            Ok(outcome) => Answer::Done(outcome),
            Err(error) => Answer::Failed {
                kind: error.kind(),
                backend: error.backend().to_owned(),
                message: error.message().to_owned(),
            },
        },
        Err(error) => Answer::Failed {
            kind: ErrorKind::Invalid,
            backend: "prepare".to_owned(),
            message: format!("cannot read the job: {error}"),
        },
    };
    let written =
        serde_json::to_vec(&answer).map_err(io::Error::from).and_then(|line| io::stdout().write_all(&line));
    i32::from(written.is_err())
}

fn read_job() -> io::Result<PrepareJob> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Does a job. With `pass_on`, everything that this process starts from now on holds the member's locks.
pub(crate) async fn perform(
    env: &Environment,
    source: &dyn EngineSource,
    job: &PrepareJob,
    pass_on: bool,
) -> Result<Outcome> {
    let _locks = take_locks(env, job, pass_on).await?;
    let made = source.engine(&job.definition, job.context.clone())?;
    let engine = made.engine.as_ref();
    make_folder(job, &job.context.run_dir, made.run_as)?;
    let mut identities = Vec::new();
    for volume in &job.volumes {
        make_folder(job, &volume.data(), made.run_as)?;
        identities.push((volume, identity(job, volume)?));
    }
    let engine_version = engine.version().await?;
    for (_, identity) in &identities {
        check_version(job, identity, &engine_version)?;
    }
    let mut remarks = Vec::new();
    let prepared = match &job.first {
        Some(FirstData::Initialise) => Some(engine.initialise().await?),
        Some(FirstData::Join(from)) => Some(engine.join(from.as_ref()).await?),
        None => None,
    };
    remarks.extend(prepared.into_iter().flat_map(|prepared| prepared.remarks));
    for (volume, identity) in identities {
        complete(job, volume, identity, &engine_version)?;
    }
    write_config(job, engine, made.run_as)?;
    remarks.extend(engine.reconcile_data(&job.wanted).await?);
    // Data that was copied anew has its source's files.
    write_config(job, engine, made.run_as)?;
    Ok(Outcome { engine_version, remarks })
}

async fn take_locks(env: &Environment, job: &PrepareJob, pass_on: bool) -> Result<Vec<Lock>> {
    const ROUND: Duration = Duration::from_millis(10);
    let clock = env.clock();
    let patience_ends = clock.monotonic().plus(Duration::from_millis(job.lock_wait_ms));
    if let Some(folder) = job.guard_lock.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| disk(job, "make", folder, &error))?;
    }
    let volumes = job.volumes.iter().map(|volume| (volume.guarded().lock, Some(volume.guarded())));
    let mut locks = Vec::new();
    for (path, volume) in std::iter::once((job.guard_lock.clone(), None)).chain(volumes) {
        let lock = loop {
            match Lock::try_exclusive(&path).map_err(|error| disk(job, "lock", &path, &error))? {
                Some(lock) => break lock,
                None if clock.monotonic() >= patience_ends => return Err(busy(job, &path)),
                None => clock.sleep(ROUND).await,
            }
        };
        if pass_on {
            lock.pass_to_children().map_err(|error| disk(job, "pass on", &path, &error))?;
        }
        if let Some(volume) = volume {
            sign(&volume, job.context.epoch).map_err(|ending| refusal(job, &ending))?;
        }
        locks.push(lock);
    }
    Ok(locks)
}

fn busy(job: &PrepareJob, path: &Path) -> Error {
    let holders = steadfast_lock::holders(path).unwrap_or_default();
    let message = format!("{} is held by processes {holders:?}", path.display());
    failed(job, ErrorKind::Busy, &Reason::VolumeBusy, message)
}

fn refusal(job: &PrepareJob, ending: &Ending) -> Error {
    let reason = match ending {
        Ending::EpochStale { .. } => Reason::EpochStale,
        Ending::NotStarted { reason, .. } => reason.clone(),
        Ending::VolumeBusy { .. } => Reason::VolumeBusy,
        Ending::Exited(_) | Ending::Signalled(_) | Ending::SelfFenced => Reason::Internal,
    };
    failed(job, ErrorKind::Stale, &reason, ending.to_string())
}

/// The identity of a volume whose lock is held: written if there is none. The caller has looked before that the
/// volume is not somebody else's; here it is looked at again, under the lock.
fn identity(job: &PrepareJob, volume: &MountedVolume) -> Result<Identity> {
    let path = volume.identity();
    match fs::read(&path) {
        Ok(bytes) => {
            let identity: Identity = serde_json::from_slice(&bytes).map_err(|error| {
                failed(
                    job,
                    ErrorKind::Corrupt,
                    &Reason::VolumeCorrupt,
                    format!("{}: {error}", path.display()),
                )
            })?;
            if identity.member == job.member {
                Ok(identity)
            } else {
                let message = format!("{} belongs to member {}", path.display(), identity.member);
                Err(failed(job, ErrorKind::Stale, &Reason::VolumeForeign, message))
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let identity = Identity {
                member: job.member.clone(),
                service: job.service.clone(),
                volume: volume.name.clone(),
                epoch: job.context.epoch,
                architecture: std::env::consts::ARCH.to_owned(),
                engine_version: None,
                initialised: false,
            };
            write_identity(job, volume, &identity)?;
            Ok(identity)
        }
        Err(error) => Err(disk(job, "read", &path, &error)),
    }
}

/// The major version of the data and of the engine must be the same.
fn check_version(job: &PrepareJob, identity: &Identity, version: &str) -> Result<()> {
    let major = |version: &str| version.split('.').next().unwrap_or_default().to_owned();
    match &identity.engine_version {
        Some(before) if identity.initialised && major(before) != major(version) => {
            let message = format!(
                "the data was last used by engine {before}, and this node has {version}; install {before}, or \
                 upgrade the service",
            );
            Err(failed(job, ErrorKind::Unsupported, &Reason::EngineMismatch, message))
        }
        _ => Ok(()),
    }
}

/// Marks a volume's data as made.
fn complete(job: &PrepareJob, volume: &MountedVolume, before: Identity, version: &str) -> Result<()> {
    let after = Identity {
        epoch: job.context.epoch,
        engine_version: Some(version.to_owned()),
        initialised: true,
        ..before.clone()
    };
    if before == after { Ok(()) } else { write_identity(job, volume, &after) }
}

fn write_identity(job: &PrepareJob, volume: &MountedVolume, identity: &Identity) -> Result<()> {
    let path = volume.identity();
    serde_json::to_vec_pretty(identity)
        .map_err(io::Error::from)
        .and_then(|bytes| write_durably(&path, &bytes))
        .map_err(|error| disk(job, "write", &path, &error))
}

fn write_config(job: &PrepareJob, engine: &dyn Engine, run_as: Option<RunAs>) -> Result<()> {
    for file in engine.config()? {
        let same = fs::read(&file.path).is_ok_and(|old| old == file.content.as_bytes());
        if same {
            continue;
        }
        write_durably(&file.path, file.content.as_bytes())
            .and_then(|()| give(&file.path, run_as))
            .and_then(|()| fs::set_permissions(&file.path, Permissions::from_mode(file.mode)))
            .map_err(|error| disk(job, "write", &file.path, &error))?;
    }
    Ok(())
}

fn make_folder(job: &PrepareJob, folder: &Path, run_as: Option<RunAs>) -> Result<()> {
    // A volume's provider may have made it for ourselves: who the engine runs as is known here only.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| give(folder, run_as))
        .map_err(|error| disk(job, "make", folder, &error))
}

fn give(path: &Path, run_as: Option<RunAs>) -> io::Result<()> {
    run_as.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid)))
}

fn disk(job: &PrepareJob, verb: &str, path: &Path, error: &io::Error) -> Error {
    let message = format!("cannot {verb} {}: {error}", path.display());
    failed(job, ErrorKind::Unavailable, &reason_of(error), message)
}

fn failed(job: &PrepareJob, kind: ErrorKind, reason: &Reason, message: String) -> Error {
    Error::new(kind, "agent", "prepare", &job.context.member.name, format!("{reason}: {message}"))
}
