//! What is done to data and to running engines, step by step.

use std::collections::BTreeMap;

use serde::Deserialize;
use steadfast_core::model::Span;

/// What makes and prepares data.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actions {
    /// Makes the group's first data, in the folder `dir`, which is empty and becomes the data folder when all
    /// steps have succeeded.
    #[serde(default)]
    pub initialise: Vec<Step>,
    /// Makes a further member's data in the folder `dir`; `target` is the member to copy from.
    #[serde(default)]
    pub join: Vec<Step>,
    /// Whether joining copies from a primary, and so needs one.
    #[serde(default)]
    pub join_copies: bool,
    /// Before every start, on data that is complete.
    #[serde(default)]
    pub before_start: Vec<Step>,
    /// After these, if the data's history is known to be a part of that of `target`, which the member shall follow.
    #[serde(default)]
    pub before_following: Vec<Step>,
}

/// How data that has left its primary's history is brought back.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// How the two histories are compared.
    pub history: History,
    /// Rewinds the data in place. If it fails, or is cut short, the data is copied anew by `actions.join`.
    #[serde(default)]
    pub rewind: Vec<Step>,
}

/// How the histories of two members are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum History {
    /// By timeline and by the bytes of the write-ahead log.
    Postgresql,
}

/// How the running engine is brought into a role.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Take writes.
    pub primary: RoleFormat,
    /// Follow `target`.
    pub follow: RoleFormat,
    /// Follow nobody and take no writes.
    pub fenced: RoleFormat,
}

/// How a role is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleFormat {
    /// An expression that holds once it is reached. Nothing is done if it holds at the outset.
    pub reached: String,
    /// An expression: the running engine cannot get there, and must be started anew.
    pub needs_restart: Option<String>,
    /// What to do otherwise.
    pub steps: Vec<Step>,
    /// How long it may take until `reached` holds after the steps.
    #[serde(default = "settle")]
    pub settle: Span,
}

fn settle() -> Span {
    Span(std::time::Duration::from_secs(10))
}

/// One step of an action: exactly one of the verbs `run`, `write`, `mkdir`, `remove`,
/// `stale_pid`, `redis`, `sql`, `observe`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Runs a program (templates), without a shell.
    pub run: Option<Vec<String>>,
    /// With `run`: what the program reads (template). The only place for a secret.
    pub stdin: Option<String>,
    /// With `run`: environment variables (templates).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Writes a file at this path (template), whole or not at all.
    pub write: Option<String>,
    /// With `write`: the content (template).
    pub content: Option<String>,
    /// With `write`: or the template file of it.
    pub template: Option<String>,
    /// Makes a folder (template), open to the engine's user only.
    pub mkdir: Option<String>,
    /// Removes a file (template), if it is there.
    pub remove: Option<String>,
    /// Takes a process id out of a lock file (template), if no process of that id has the data folder among its
    /// arguments: after a crash the id may be another process's, and engines then refuse to start.
    pub stale_pid: Option<String>,
    /// Sends a RESP command (templates) to the member.
    pub redis: Option<Vec<String>>,
    /// Runs SQL (template) on the member.
    pub sql: Option<String>,
    /// Looks at the engine again: `view` and `facts` of later steps are new.
    pub observe: Option<bool>,
    /// An expression: the step is left out unless it holds.
    pub when: Option<String>,
    /// The output must be this text (template).
    pub expect: Option<String>,
    /// With `expect`: how long to repeat the step until the output is that text.
    pub within: Option<Span>,
    /// A failure whose message contains one of these is none.
    #[serde(default)]
    pub tolerate: Vec<String>,
    /// How long it may take.
    pub timeout: Option<Span>,
}

/// The verb of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb<'a> {
    /// Run a program.
    Run(&'a [String]),
    /// Write a file.
    Write(&'a str),
    /// Make a folder.
    Mkdir(&'a str),
    /// Remove a file.
    Remove(&'a str),
    /// Take a process id out of a lock file.
    StalePid(&'a str),
    /// Send a RESP command.
    Redis(&'a [String]),
    /// Run SQL.
    Sql(&'a str),
    /// Look again.
    Observe,
}

impl Step {
    /// The step's only verb.
    ///
    /// # Errors
    /// What is wrong if it has none, or several.
    pub fn verb(&self) -> Result<Verb<'_>, String> {
        let verbs: Vec<Verb<'_>> = [
            self.run.as_deref().map(Verb::Run),
            self.write.as_deref().map(Verb::Write),
            self.mkdir.as_deref().map(Verb::Mkdir),
            self.remove.as_deref().map(Verb::Remove),
            self.stale_pid.as_deref().map(Verb::StalePid),
            self.redis.as_deref().map(Verb::Redis),
            self.sql.as_deref().map(Verb::Sql),
            self.observe.map(|_| Verb::Observe),
        ]
        .into_iter()
        .flatten()
        .collect();
        match verbs[..] {
            [verb] => Ok(verb),
            [] => Err("a step has no verb".to_owned()),
            _ => Err("a step has more than one verb".to_owned()),
        }
    }
}
