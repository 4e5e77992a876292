//! How an agent behaves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use steadfast_core::ids::{NodeName, ZoneName};

/// How an agent behaves.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The node.
    pub node: NodeName,
    /// Its zone.
    pub zone: ZoneName,
    /// Its labels, for placement.
    pub labels: BTreeMap<String, String>,
    /// The engines found on it: blueprint name → version.
    pub engines: BTreeMap<String, String>,
    /// The agent's version.
    pub version: String,
    /// The folder with a folder of logs for each member, kept across moves.
    pub logs: PathBuf,
    /// The times.
    pub timers: AgentTimers,
    /// Whether engines are killed when the node's lease has ended (F1). Without, they serve on when neither agent
    /// nor store is there.
    pub fence_by_lease: bool,
}

/// How long things take, or may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentTimers {
    /// The node's lease. Renewed three times as often.
    pub lease: Duration,
    /// How often everything is read again without a hint.
    pub resync: Duration,
    /// How often a serving engine is looked at.
    pub look: Duration,
    /// How often an engine that starts, or stops, is looked at.
    pub look_closely: Duration,
    /// How long an engine may take to answer one look.
    pub answer: Duration,
    /// How long an engine that has answered may fail to, before it is killed and started anew.
    pub liveness: Duration,
    /// How long a guard may fail to answer, before it is killed.
    pub guard_silence: Duration,
    /// How long a guard waits for a volume that somebody else uses, before the agent looks into it.
    pub lock_wait: Duration,
    /// The first delay of a restart; doubled with each.
    pub first_delay: Duration,
    /// The longest delay of a restart.
    pub longest_delay: Duration,
    /// How long an engine has to be well for earlier restarts to be forgotten.
    pub forgive_after: Duration,
}

impl Default for AgentTimers {
    fn default() -> Self {
        AgentTimers {
            lease: Duration::from_secs(6),
            resync: Duration::from_secs(10),
            look: Duration::from_secs(1),
            look_closely: Duration::from_millis(100),
            answer: Duration::from_secs(5),
            liveness: Duration::from_secs(15),
            guard_silence: Duration::from_secs(15),
            lock_wait: Duration::from_secs(5),
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(60),
            forgive_after: Duration::from_secs(300),
        }
    }
}
