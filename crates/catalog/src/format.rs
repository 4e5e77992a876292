//! The format of `blueprint.toml`. Every table refuses keys it does not know.
//!
//! Texts that are called *template* are minijinja templates, those called *expression* minijinja expressions;
//! `docs/blueprints.md` lists what each may name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use steadfast_core::engine::StopSignal;
use steadfast_core::ids::{BlueprintName, VolumeName};
use steadfast_core::model::{ByteSize, Durability, Leadership, Reason, Span, Topology};

/// A whole `blueprint.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// The name of the blueprint, and of its folder.
    pub name: BlueprintName,
    /// One line on it.
    pub description: String,
    /// The engine's major versions it is made for; the first is the default.
    pub versions: Vec<String>,
    /// Who decides which member leads.
    pub leadership: Leadership,
    /// How members belong together.
    pub topology: Topology,
    /// What peers and clients know members by.
    #[serde(default)]
    pub identity: Identity,
    /// How long the engine may recover without visible progress.
    pub start_deadline: Span,
    /// In which order members are restarted.
    pub rolling: Rolling,
    /// How many members.
    pub replicas: Replicas,
    /// Ports that members listen on.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Volumes of every member.
    pub volumes: Vec<Volume>,
    /// Names of the secrets to generate before first use.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// What users can set.
    #[serde(default)]
    pub options: BTreeMap<String, OptionFormat>,
    /// As whom the engine runs.
    #[serde(default)]
    pub run_as: RunAs,
    /// Programs by orchestrator and name.
    pub programs: BTreeMap<Orchestrator, BTreeMap<String, Program>>,
    /// Where the engine's data lies, and how complete data is told from half-made.
    pub data: Data,
    /// Configuration files.
    #[serde(default)]
    pub files: Vec<File>,
    /// Texts (templates) that others name as `vars.NAME`, so that each is written once.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// How the engine is started.
    pub start: Start,
    /// How the engine is stopped.
    pub stop: Stop,
    /// How the engine is looked at.
    pub probe: Probe,
    /// What makes and prepares data.
    #[serde(default)]
    pub actions: Actions,
    /// How data that has left its primary's history is brought back.
    pub reconcile: Option<Reconcile>,
    /// How the running engine is brought into a role; required with `leadership = "steadfast"`.
    pub roles: Option<Roles>,
    /// What each durability class is made of.
    pub durability: BTreeMap<Durability, DurabilityFormat>,
    /// What the user should know before creating a service.
    #[serde(default)]
    pub advice: Vec<Advice>,
    /// How clients connect.
    pub client: Client,
}

/// What peers and clients know members by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// Their DNS names.
    Name,
    /// Their static addresses.
    #[default]
    Address,
}

/// In which order members are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rolling {
    /// Replicas first, the primary last after a switchover.
    ReplicasFirst,
    /// One after the other, by ordinal; the next only when the last serves.
    OneByOne,
}

/// How many members a service may have.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicas {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
    /// If the service file does not say.
    pub default: u32,
    /// Whether an even number is refused.
    #[serde(default)]
    pub odd: bool,
}

/// A port that members listen on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name, also the SRV service label.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Whether clients use it.
    #[serde(default)]
    pub client: bool,
}

/// A volume of every member.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its size if the service file does not say.
    pub size: ByteSize,
}

/// What kind of value an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptionType {
    /// A whole number.
    Int,
    /// `true` or `false`.
    Bool,
    /// A text on one line; `min` and `max` bound its length.
    String,
    /// One of `values`.
    Enum,
    /// A length of time (`30s`); templates see milliseconds.
    Duration,
    /// A size (`512MiB`); templates see bytes.
    Size,
}

/// Something users can set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionFormat {
    /// What kind of value it takes.
    #[serde(rename = "type")]
    pub kind: OptionType,
    /// Its value if the service file does not give one.
    pub default: Value,
    /// The least value.
    pub min: Option<Value>,
    /// The greatest value.
    pub max: Option<Value>,
    /// The values of an enum.
    #[serde(default)]
    pub values: Vec<String>,
    /// What it does.
    pub description: String,
}

/// As whom the engine runs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunAs {
    /// Whether the engine refuses to run as root.
    #[serde(default)]
    pub unprivileged: bool,
    /// Users to run it as when started by root, the first that exists.
    #[serde(default)]
    pub users: Vec<String>,
}

/// An orchestrator, as far as it matters where programs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orchestrator {
    /// Programs of the node itself.
    Process,
}

/// A program of the engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Absolute paths to look at, in order; `{version}` is the engine's major version.
    pub paths: Vec<String>,
    /// How it tells its version. Exactly one program of a blueprint has this.
    pub version: Option<VersionCommand>,
}

/// How a program tells its version.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionCommand {
    /// Its arguments (templates). If `program` is given, that one is run.
    pub args: Vec<String>,
    /// The program to run instead, for engines that are no programs of their own (Java archives).
    pub program: Option<String>,
    /// The version begins after this text in the output.
    pub after: String,
    /// It ends before any of these characters, or white space.
    #[serde(default)]
    pub until: String,
}

/// Where the engine's data lies.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Its folder (template), below a volume.
    pub dir: String,
    /// A file below it (relative) that complete data has.
    pub complete: String,
    /// A file below it (relative) that holds the engine's major version, to compare.
    pub version_file: Option<String>,
    /// Data without any of these files (relative; `*` at the end stands for any ending) has been lost.
    #[serde(default)]
    pub present_any: Vec<String>,
    /// The code for that.
    #[serde(default = "unexpectedly_empty")]
    pub lost: Reason,
}

fn unexpectedly_empty() -> Reason {
    Reason::VolumeUnexpectedlyEmpty
}

/// A configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where (template giving an absolute path).
    pub path: String,
    /// The template file, in the blueprint's folder.
    pub template: Option<String>,
    /// Or the template itself.
    pub content: Option<String>,
    /// The permission bits, in octal; with secrets, `0600`.
    #[serde(default = "private")]
    pub mode: String,
}

fn private() -> String {
    "0600".to_owned()
}

/// How the engine is started.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The program and its arguments (templates); none may hold a secret.
    pub argv: Vec<String>,
    /// Environment variables (templates); none may hold a secret.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The working folder (template).
    pub cwd: Option<String>,
}

/// How the engine is stopped.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The signal.
    pub signal: StopSignal,
    /// How long that may take.
    pub grace: Span,
}

/// How the engine is looked at: a protocol with its parameters.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// RESP.
    Redis(RedisProbe),
    /// The PostgreSQL protocol.
    Postgresql(PostgresqlProbe),
    /// Four-letter words.
    Zookeeper(PortProbe),
    /// An HTTP request that is answered with 2xx.
    Http(HttpProbe),
    /// A connection that is accepted.
    Tcp(PortProbe),
    /// A command that ends with 0.
    Command(CommandProbe),
}

/// Parameters of a RESP probe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisProbe {
    /// The port's name.
    pub port: String,
    /// The ACL user.
    pub user: String,
    /// The name of its secret.
    pub password: String,
    /// A command that answers with the number of the history's branch and the replication id it began with.
    pub lineage: Option<Vec<String>>,
    /// How long an answer may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

/// Parameters of a PostgreSQL probe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresqlProbe {
    /// The port's name.
    pub port: String,
    /// The role, a superuser.
    pub user: String,
    /// The name of its secret.
    pub password: String,
    /// The database.
    pub database: String,
    /// A replica that is further behind than this is not ready.
    pub ready_lag: ByteSize,
    /// How long an answer may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

/// Parameters of a probe that needs a port only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortProbe {
    /// The port's name.
    pub port: String,
    /// How long an answer may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

/// Parameters of an HTTP probe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// The port's name.
    pub port: String,
    /// The path (template).
    pub path: String,
    /// How long an answer may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

/// Parameters of a command probe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandProbe {
    /// The program and its arguments (templates).
    pub argv: Vec<String>,
    /// How long it may take.
    #[serde(default = "short")]
    pub timeout: Span,
}

fn short() -> Span {
    Span(std::time::Duration::from_secs(2))
}

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

/// What a durability class is made of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DurabilityFormat {
    /// An expression over `replicas`: how many replicas confirm a write besides the primary.
    pub confirming_replicas: String,
    /// What templates see as `settings`. Both classes have the same.
    #[serde(default)]
    pub settings: BTreeMap<String, Value>,
    /// What is promised, against which failure, and what is not.
    pub guarantee: String,
}

/// What the user should know before creating a service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advice {
    /// An expression over `replicas`, `durability` and `options`.
    pub when: String,
    /// The advice.
    pub text: String,
}

/// How clients connect.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The engine's own client (templates); none may hold a secret.
    pub argv: Vec<String>,
    /// Environment variables it understands (templates).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A URI with every member (template).
    pub uri: String,
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
