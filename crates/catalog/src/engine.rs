//! The engine of one member, as its blueprint says.
//!
//! Data is made in a folder beside the data folder and takes its name when all steps have succeeded: what was
//! half made when we died is removed, never used. Nothing here deletes complete data, but for a copy made anew,
//! and that only once it is complete itself.

pub(crate) mod command;
mod data;
mod files;
mod history;
mod host;
mod steps;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use steadfast_core::engine::{
    Command, ConfigFile, Engine, EngineContext, EngineView, Peer, Prepared, StopSignal, WantedRole,
};
use steadfast_core::model::Reason;
use steadfast_core::{ErrorKind, Result};

use self::command::Invocation;
use self::history::Kinship;
pub use self::host::EngineHost;
use self::steps::Extras;
use crate::context::Context;
use crate::definition::Definition;
use crate::failure::{DIVERGED, coded};
use crate::format::{RoleFormat, VersionCommand};
use crate::probe::Prober;

/// How often a role that is on its way is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a program may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// The engine of one member.
pub(crate) struct BlueprintEngine {
    definition: Definition,
    context: EngineContext,
    host: EngineHost,
    prober: Prober,
}

impl fmt::Debug for BlueprintEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlueprintEngine")
            .field("definition", &self.definition)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Engine for BlueprintEngine {
    fn config(&self) -> Result<Vec<ConfigFile>> {
        let context = self.context()?;
        let mut rendered = Vec::new();
        for file in &self.definition.format().files {
            let path = PathBuf::from(context.render(&self.definition, &file.path, "files.path")?);
            let (template, name) = match (&file.content, &file.template) {
                (Some(content), _) => (content.as_str(), "files.content"),
                (None, Some(name)) => (self.definition.file(name)?, name.as_str()),
                (None, None) => ("", "files"),
            };
            let content = context.render(&self.definition, template, name)?;
            let mode = u32::from_str_radix(&file.mode, 8)
                .map_err(|error| self.definition.invalid("read", "files.mode", error))?;
            rendered.push(ConfigFile { path, content, mode });
        }
        Ok(rendered)
    }

    fn start_command(&self) -> Result<Command> {
        let context = self.context()?;
        let start = &self.definition.format().start;
        let argv = context.render_all(&self.definition, &start.argv, "start.argv")?;
        let program = argv.first().map(PathBuf::from).unwrap_or_default();
        if !program.exists() {
            return Err(self.missing("start", &program.display().to_string()));
        }
        let mut env = BTreeMap::new();
        for (name, template) in &start.env {
            env.insert(name.clone(), context.render(&self.definition, template, "start.env")?);
        }
        let cwd = start
            .cwd
            .as_ref()
            .map(|template| context.render(&self.definition, template, "start.cwd"))
            .transpose()?
            .map(PathBuf::from);
        Ok(Command { argv, env, cwd })
    }

    async fn version(&self) -> Result<String> {
        let version = self.exact_version().await?;
        let wanted = self.definition.version();
        if major_matches(&version, wanted) {
            Ok(version)
        } else {
            Err(coded(
                ErrorKind::Unsupported,
                &Reason::EngineMismatch,
                self.definition.name(),
                "version",
                self.subject(),
                format_args!("version {wanted} is wanted, this node has {version}; install {wanted}"),
            )
            .without_effect())
        }
    }

    async fn initialise(&self) -> Result<Prepared> {
        let engine_version = self.version().await?;
        let actions = &self.definition.format().actions;
        self.make_data("initialise", &actions.initialise, None).await?;
        Ok(Prepared { engine_version, remarks: Vec::new() })
    }

    async fn join(&self, from: Option<&Peer>) -> Result<Prepared> {
        let engine_version = self.version().await?;
        let actions = &self.definition.format().actions;
        if actions.join_copies && from.is_none() {
            return Err(self
                .failed(ErrorKind::Unavailable, "join", "there is no primary to copy from yet")
                .without_effect());
        }
        self.make_data("join", &actions.join, from).await?;
        Ok(Prepared { engine_version, remarks: Vec::new() })
    }

    async fn reconcile_data(&self, wanted: &WantedRole) -> Result<Vec<(Reason, String)>> {
        self.bring_into_line(wanted).await
    }

    async fn observe(&self) -> EngineView {
        match self.context() {
            Ok(context) => self.prober.observe(&context).await.0,
            Err(error) => EngineView {
                problem: Some((Reason::ConfigInvalid, error.message().to_owned())),
                ..EngineView::default()
            },
        }
    }

    async fn assume(&self, wanted: &WantedRole) -> Result<()> {
        let Some(roles) = &self.definition.format().roles else { return Ok(()) };
        let (operation, role, mut extras) = match wanted {
            WantedRole::Primary { replicas } => {
                ("promote", &roles.primary, Extras { confirmers: replicas, ..Extras::default() })
            }
            WantedRole::Follow(target) => {
                ("follow", &roles.follow, Extras { target: Some(target), ..Extras::default() })
            }
            WantedRole::Fenced => ("fence", &roles.fenced, Extras::default()),
        };
        self.reach(operation, role, &mut extras).await
    }

    fn stop(&self) -> (StopSignal, u64) {
        let stop = self.definition.format().stop;
        (stop.signal, u64::try_from(stop.grace.0.as_millis()).unwrap_or(u64::MAX))
    }
}

impl BlueprintEngine {
    pub(crate) fn new(definition: Definition, context: EngineContext, host: EngineHost) -> Self {
        let prober = Prober::new(&definition, &context, &host);
        BlueprintEngine { definition, context, host, prober }
    }

    fn subject(&self) -> &str {
        self.context.member.name.as_str()
    }

    /// What templates see of the member.
    fn context(&self) -> Result<Context> {
        let programs = self
            .definition
            .format()
            .programs
            .values()
            .flat_map(BTreeMap::keys)
            .map(|name| (name.clone(), self.program_path(name)))
            .collect();
        Context::of(&self.definition, &self.context, &programs)
    }

    /// Where a program is; if it is nowhere, the first place to look at, so that an error can name it.
    fn program_path(&self, name: &str) -> PathBuf {
        if let Some(path) = self.host.programs.get(name) {
            return path.clone();
        }
        let candidates = self.definition.program_paths(name).unwrap_or_default();
        let found = candidates.iter().find(|path| path.exists());
        found.or(candidates.first()).cloned().unwrap_or_else(|| PathBuf::from(name))
    }

    async fn exact_version(&self) -> Result<String> {
        let programs = self.definition.format().programs.values().flatten();
        let mut told = programs.filter_map(|(name, program)| Some((name, program.version.as_ref()?)));
        let (name, version) = told
            .next()
            .ok_or_else(|| self.definition.invalid("version", "programs", "none tells the version"))?;
        let program = self.program_path(name);
        if !program.exists() {
            return Err(self.missing("version", &program.display().to_string()));
        }
        let context = self.context()?;
        let runner = version.program.as_deref().map_or(program, |runner| self.program_path(runner));
        let mut argv = vec![runner.display().to_string()];
        argv.extend(context.render_all(&self.definition, &version.args, "programs.version")?);
        let invocation =
            Invocation { argv, user: self.host.user, timeout: VERSION_TIMEOUT, ..Invocation::default() };
        let output = self.program("version", invocation).await?;
        parse_version(&output, version).ok_or_else(|| {
            self.failed(
                ErrorKind::Unsupported,
                "version",
                format_args!("no version in {:?}", output.chars().take(200).collect::<String>()),
            )
            .without_effect()
        })
    }

    fn missing(&self, operation: &'static str, path: &str) -> steadfast_core::Error {
        coded(
            ErrorKind::NotFound,
            &Reason::EngineMissing,
            self.definition.name(),
            operation,
            self.subject(),
            format_args!("there is no program {path}; install the engine on this node"),
        )
        .without_effect()
    }

    /// Brings the running engine into a role: looks first, and looks again until it is there.
    async fn reach(&self, operation: &'static str, role: &RoleFormat, extras: &mut Extras<'_>) -> Result<()> {
        if self.reached(operation, role, extras).await? {
            let stuck =
                extras.seen.as_ref().is_some_and(|(view, _)| !view.ready && view.recovering.is_none());
            return if stuck { self.check_history(extras, IfUnknown::Ignore).await } else { Ok(()) };
        }
        if let Some(needs_restart) = &role.needs_restart {
            let mut context = self.context()?;
            extras.apply(&self.definition, &mut context)?;
            if context.holds(&self.definition, needs_restart, operation)? {
                let message = "the running engine cannot take this role: it must be started anew";
                return Err(self.failed(ErrorKind::Stale, DIVERGED, message).without_effect());
            }
        }
        // A standby of another history must not receive a byte: it would take it for its own.
        self.check_history(extras, IfUnknown::Wait).await?;
        self.steps(operation, &role.steps, extras).await?;
        let clock = self.host.environment.clock();
        let begun = clock.monotonic();
        while !self.reached(operation, role, extras).await? {
            if clock.monotonic().since(begun) >= role.settle.0 {
                return Err(self.failed(
                    ErrorKind::Unavailable,
                    operation,
                    "it has not taken effect in time",
                ));
            }
            clock.sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Whether the engine can follow: if its data has left the history of the member to follow, it must be stopped
    /// and its data brought into line.
    async fn check_history(&self, extras: &Extras<'_>, unknown: IfUnknown) -> Result<()> {
        let Some(target) = extras.target else { return Ok(()) };
        match self.kinship(target).await {
            Ok(Kinship::Diverged { from, to }) => Err(self
                .failed(
                    ErrorKind::Stale,
                    DIVERGED,
                    format_args!(
                        "{}: the data has left the history of {} at {from} and goes on to {to}",
                        Reason::EngineUnhealthy,
                        target.name
                    ),
                )
                .without_effect()),
            Ok(Kinship::Gone { from }) => Err(self
                .failed(
                    ErrorKind::Stale,
                    DIVERGED,
                    format_args!(
                        "{}: {} no longer has what follows {from}: a new copy is needed",
                        Reason::EngineUnhealthy,
                        target.name
                    ),
                )
                .without_effect()),
            Ok(Kinship::Unknown(why)) if unknown == IfUnknown::Wait => {
                let message = format!("the history of {} cannot be compared yet: {why}", target.name);
                Err(self.failed(ErrorKind::Unavailable, "follow", message).without_effect())
            }
            Ok(Kinship::Same | Kinship::Unknown(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn reached(
        &self,
        operation: &'static str,
        role: &RoleFormat,
        extras: &mut Extras<'_>,
    ) -> Result<bool> {
        let mut context = self.context()?;
        let (view, facts) = self.prober.observe(&context).await;
        if !view.alive || facts.is_empty() {
            let why = view.problem.map_or_else(|| "the engine does not answer".to_owned(), |(_, text)| text);
            return Err(self.failed(ErrorKind::Unavailable, operation, why));
        }
        extras.seen = Some((view, facts));
        extras.apply(&self.definition, &mut context)?;
        context.holds(&self.definition, &role.reached, operation)
    }
}

/// What to do while two histories cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfUnknown {
    Wait,
    Ignore,
}

/// Whether `exact` is of the major version `wanted`: `15.20` is of `15`, `150` is not.
fn major_matches(exact: &str, wanted: &str) -> bool {
    exact
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || !rest.starts_with(|next: char| next.is_ascii_digit()))
}

fn parse_version(output: &str, rule: &VersionCommand) -> Option<String> {
    let (_, rest) = output.split_once(&rule.after)?;
    let version = rest.split(|next: char| next.is_whitespace() || rule.until.contains(next)).next()?;
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_and_compared_by_its_major() {
        let rule = VersionCommand {
            args: Vec::new(),
            program: None,
            after: "v=".to_owned(),
            until: "-,".to_owned(),
        };
        assert_eq!(parse_version("Redis server v=7.0.15 sha=0", &rule).as_deref(), Some("7.0.15"));
        assert_eq!(parse_version("Redis server v=7.0.15-1~deb", &rule).as_deref(), Some("7.0.15"));
        assert_eq!(parse_version("Redis server", &rule), None);
        assert!(major_matches("7.0.15", "7"));
        assert!(major_matches("15", "15"));
        assert!(!major_matches("70.1", "7"));
        assert!(!major_matches("6.2", "7"));
    }
}
