//! What a guard is told, what it answers, and what it leaves behind: files and lines of JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use steadfast_core::engine::{Command, StopSignal};
use steadfast_core::ids::{Epoch, Generation, Incarnation, MemberName, NodeName, ServiceName};
use steadfast_core::model::Reason;
use steadfast_core::runtime::{Moment, Timestamp};

/// Everything a guard has to know. Written by the agent with mode 0600 before the guard starts, and not changed
/// while it lives. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardSpec {
    /// The member.
    pub member: MemberName,
    /// Its service.
    pub service: ServiceName,
    /// The node.
    pub node: NodeName,
    /// The epoch the member is held under. The engine is not started over a volume that has seen a higher one.
    pub epoch: Epoch,
    /// The generation of the engine.
    pub generation: Generation,
    /// This life of the engine.
    pub incarnation: Incarnation,
    /// What to run.
    pub command: Command,
    /// The user to run it as; none: the guard's own.
    #[serde(default)]
    pub run_as: Option<RunAs>,
    /// The lock that says that the node is alive: taken together with the agent and other guards.
    #[serde(default)]
    pub machine_lock: Option<PathBuf>,
    /// The lock of this member's guard on this node: taken first, and alone.
    pub guard_lock: PathBuf,
    /// The volumes, each taken alone before anything is started.
    #[serde(default)]
    pub volumes: Vec<GuardedVolume>,
    /// How long to wait for locks that somebody else holds, in milliseconds.
    pub lock_wait_ms: u64,
    /// Where the guard listens.
    pub control: PathBuf,
    /// Where the guard says how it ended.
    pub exit: PathBuf,
    /// Where the engine's output goes.
    pub log: LogSpec,
    /// The signal that stops the engine in order.
    pub stop_signal: StopSignal,
    /// How long that may take before the engine is killed, in milliseconds.
    pub stop_grace_ms: u64,
    /// The network namespace that the member's address is in, as the kernel names it; none: the guard is in it as the
    /// child of who knows.
    #[serde(default)]
    pub network: Option<String>,
    /// When the engine is to be killed unless told otherwise, in milliseconds of `CLOCK_BOOTTIME`; none: it runs
    /// on without an agent for ever.
    #[serde(default)]
    pub lease_until_ms: Option<u64>,
}

/// A deadline as guards are told it: in milliseconds of `CLOCK_BOOTTIME`, which this process's own clock is.
pub(crate) fn deadline_ms(at: Moment) -> u64 {
    u64::try_from(at.since_zero().as_millis()).unwrap_or(u64::MAX)
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// What a guard needs of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardedVolume {
    /// The file whose lock makes this the only writer.
    pub lock: PathBuf,
    /// The file with the highest epoch the volume has been opened under.
    pub epoch: PathBuf,
}

/// Where output goes: `current.log`, and older ones as `1.log` (the newest) and so on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The member's folder.
    pub folder: PathBuf,
    /// The size at which a new file is begun, in bytes.
    pub max_bytes: u64,
    /// How many older files are kept.
    pub keep: u32,
}

/// What a guard is asked. One JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// How it is.
    Status,
    /// Stop the engine in order, as the spec says, then kill what is left.
    Stop,
    /// Let the engine run until this time of `CLOCK_BOOTTIME`, in milliseconds. Absolute, so that a message that
    /// was long under way extends nothing; a time that has passed, or an earlier one than is set, is ignored.
    Lease {
        /// The deadline.
        until_ms: u64,
    },
}

/// What a guard answers to everything. One JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// The epoch it holds the member under.
    pub epoch: Epoch,
    /// The generation of the engine.
    pub generation: Generation,
    /// The life of the engine.
    pub incarnation: Incarnation,
    /// How far it is.
    pub stage: GuardStage,
    /// The engine's process, once it is started.
    pub engine_pid: Option<i32>,
    /// How long until the lease ends, in milliseconds; none: there is no lease.
    pub lease_left_ms: Option<u64>,
    /// The guard's own process.
    pub guard_pid: u32,
}

/// How far a guard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardStage {
    /// Waiting for a lock.
    Locking,
    /// The engine runs.
    Running,
    /// The engine was told to stop.
    Stopping,
    /// What is left of the engine's tree is being killed.
    Killing,
}

/// How a guard ended (`exit.json`). Written before the locks are freed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardExit {
    /// The epoch it held the member under.
    pub epoch: Epoch,
    /// The generation of the engine.
    pub generation: Generation,
    /// The life of the engine.
    pub incarnation: Incarnation,
    /// How it ended.
    pub ending: Ending,
    /// Whether the engine had been told to stop.
    pub requested: bool,
    /// When, for people.
    pub at: Timestamp,
}

/// How an engine's life ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
    /// The guard killed it at the end of its lease.
    SelfFenced,
    /// It was never started: a lock was not free in time.
    VolumeBusy {
        /// The lock.
        lock: PathBuf,
        /// The processes that hold it, as far as they can be seen.
        holders: Vec<i32>,
    },
    /// It was never started: a volume has been opened under a higher epoch.
    EpochStale {
        /// The epoch on the volume.
        found: Epoch,
    },
    /// It was never started.
    NotStarted {
        /// Why, as a code.
        reason: Reason,
        /// Why, in words.
        message: String,
    },
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "the engine ended with code {code}"),
            Ending::Signalled(signal) => write!(f, "the engine was ended by signal {signal}"),
            Ending::SelfFenced => write!(f, "the guard killed the engine at the end of its lease"),
            Ending::VolumeBusy { lock, holders } => {
                write!(f, "{} is held by processes {holders:?}", lock.display())
            }
            Ending::EpochStale { found } => write!(f, "the volume has been opened under epoch {found}"),
            Ending::NotStarted { message, .. } => f.write_str(message),
        }
    }
}
