//! The steps of an action, one after the other.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use steadfast_core::engine::{EngineView, Peer};
use steadfast_core::model::Reason;
use steadfast_core::{Error, ErrorKind, Result};

use super::command::{self, Failure, Invocation};
use super::{BlueprintEngine, LOOK_AGAIN, files};
use crate::context::{Context, peer};
use crate::definition::Definition;
use crate::failure::coded;
use crate::format::{Step, Verb};
use crate::probe::Facts;

/// How long a step may take if it does not say: programs that copy data say so.
const USUAL_TIMEOUT: Duration = Duration::from_secs(600);

/// What the steps of one action see beside the member's own context.
#[derive(Debug, Clone, Default)]
pub(super) struct Extras<'a> {
    /// The folder in which data is being made.
    pub(super) dir: Option<&'a Path>,
    /// The member to follow or to copy from.
    pub(super) target: Option<&'a Peer>,
    /// The members that confirm writes.
    pub(super) confirmers: &'a [Peer],
    /// What the engine said last.
    pub(super) seen: Option<(EngineView, Facts)>,
}

impl Extras<'_> {
    pub(super) fn apply(&self, definition: &Definition, context: &mut Context) -> Result<()> {
        if let Some(dir) = self.dir {
            context.set("dir", json!(dir));
        }
        if let Some(target) = self.target {
            context.set("target", peer(target));
        }
        context.set("confirmers", self.confirmers.iter().map(peer).collect::<Vec<Value>>().into());
        if let Some((view, facts)) = &self.seen {
            context.set("view", json!(view));
            context.set("facts", json!(facts));
        }
        context.apply_vars(definition)
    }
}

impl BlueprintEngine {
    /// Runs the steps in order, up to the first that fails.
    pub(super) async fn steps(
        &self,
        operation: &'static str,
        steps: &[Step],
        extras: &mut Extras<'_>,
    ) -> Result<()> {
        for step in steps {
            let mut context = self.context()?;
            extras.apply(&self.definition, &mut context)?;
            if let Some(when) = &step.when
                && !context.holds(&self.definition, when, operation)?
            {
                continue;
            }
            match self.step_as_expected(operation, step, &context, extras).await {
                Err(error) if step.tolerate.iter().any(|text| error.message().contains(text)) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Runs a step, again and again for as long as it says, until its output is what it expects.
    async fn step_as_expected(
        &self,
        operation: &'static str,
        step: &Step,
        context: &Context,
        extras: &mut Extras<'_>,
    ) -> Result<()> {
        let expect = step.expect.as_deref();
        let wanted =
            expect.map(|template| context.render(&self.definition, template, operation)).transpose()?;
        let clock = self.host.environment.clock();
        let begun = clock.monotonic();
        loop {
            let output = self.step(operation, step, context, extras).await?;
            let Some(wanted) = &wanted else { return Ok(()) };
            if output.trim() == wanted.trim() {
                return Ok(());
            }
            if step.within.is_none_or(|within| clock.monotonic().since(begun) >= within.0) {
                let message = format!("expected {:?}, found {:?}", wanted.trim(), output.trim());
                return Err(self.failed(ErrorKind::Unavailable, operation, message));
            }
            clock.sleep(LOOK_AGAIN).await;
        }
    }

    async fn step(
        &self,
        operation: &'static str,
        step: &Step,
        context: &Context,
        extras: &mut Extras<'_>,
    ) -> Result<String> {
        let render = |template: &str| context.render(&self.definition, template, operation);
        let timeout = step.timeout.map_or(USUAL_TIMEOUT, |span| span.0);
        let verb = step.verb().map_err(|problem| self.definition.invalid("read", operation, problem))?;
        match verb {
            Verb::Run(argv) => {
                let mut env = std::collections::BTreeMap::new();
                for (name, template) in &step.env {
                    env.insert(name.clone(), render(template)?);
                }
                let invocation = Invocation {
                    argv: context.render_all(&self.definition, argv, operation)?,
                    env,
                    stdin: step.stdin.as_deref().map(render).transpose()?,
                    user: self.host.user,
                    cwd: None,
                    timeout,
                };
                self.program(operation, invocation).await
            }
            Verb::Write(path) => {
                let template = match (&step.content, &step.template) {
                    (Some(content), _) => content.as_str(),
                    (None, Some(file)) => self.definition.file(file)?,
                    (None, None) => "",
                };
                let path = PathBuf::from(render(path)?);
                self.io(operation, &path, files::write(&path, &render(template)?, 0o600, self.host.user))
            }
            Verb::Mkdir(path) => {
                let path = PathBuf::from(render(path)?);
                self.io(operation, &path, files::make_folder(&path, self.host.user))
            }
            Verb::Remove(path) => {
                let path = PathBuf::from(render(path)?);
                self.io(operation, &path, files::remove_file(&path))
            }
            Verb::StalePid(path) => {
                let path = PathBuf::from(render(path)?);
                let argument = context.text("data_dir");
                self.io(operation, &path, files::forget_stale_pid(&path, argument, self.host.user))
            }
            Verb::Redis(words) => {
                let words = context.render_all(&self.definition, words, operation)?;
                self.prober.redis(&words, timeout).await.map_err(|error| self.spoken(operation, error))
            }
            Verb::Sql(text) => {
                self.prober.sql(&render(text)?, timeout).await.map_err(|error| self.spoken(operation, error))
            }
            Verb::Observe => {
                extras.seen = Some(self.prober.observe(context).await);
                Ok(String::new())
            }
        }
    }

    /// Runs a helper program.
    pub(super) async fn program(&self, operation: &'static str, invocation: Invocation) -> Result<String> {
        let program = invocation.argv.first().cloned().unwrap_or_default();
        match command::run(&self.host.environment, invocation).await {
            Ok(said) => Ok(said.stdout),
            Err(Failure::Missing(path)) => Err(coded(
                ErrorKind::NotFound,
                &Reason::EngineMissing,
                self.definition.name(),
                operation,
                self.subject(),
                format_args!("there is no program {path}; install the engine on this node"),
            )
            .without_effect()),
            Err(failure) => {
                Err(self.failed(ErrorKind::Unavailable, operation, format_args!("{program} {failure}")))
            }
        }
    }

    pub(super) fn io(
        &self,
        operation: &'static str,
        path: &Path,
        result: std::io::Result<()>,
    ) -> Result<String> {
        result.map(|()| String::new()).map_err(|error| self.disk(operation, path, error))
    }

    /// An error of the file system, with the code users know it by.
    pub(super) fn disk(&self, operation: &'static str, path: &Path, error: std::io::Error) -> Error {
        let reason = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Reason::DiskFull,
            std::io::ErrorKind::ReadOnlyFilesystem => Reason::DiskReadOnly,
            std::io::ErrorKind::PermissionDenied => Reason::PermissionDenied,
            _ => Reason::IoError,
        };
        coded(
            ErrorKind::Unavailable,
            &reason,
            self.definition.name(),
            operation,
            self.subject(),
            format_args!("{}: {error}", path.display()),
        )
        .with_source(error)
    }

    pub(super) fn failed(&self, kind: ErrorKind, operation: &'static str, message: impl Display) -> Error {
        Error::new(kind, self.definition.name(), operation, self.subject(), message)
    }

    fn spoken(&self, operation: &'static str, error: crate::probe::ProtocolError) -> Error {
        self.failed(ErrorKind::Unavailable, operation, error)
    }
}
