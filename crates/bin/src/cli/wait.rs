//! Waiting for an operation: progress for people, a limit, and leaving it alone.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use steadfast_api::client::Client;
use steadfast_api::control::WatchEvent;
use steadfast_core::model::{Operation, OperationState, Span, StepState};

use super::remote::refused;
use crate::exit::{Exit, Failure, Result, needs_a_person};
use crate::output::{Tone, note, paint_note};

/// Whether and how long to wait.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct WaitOptions {
    /// Wait until it is done
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait at most; the operation goes on afterwards (exit code 3)
    #[arg(long, default_value = "10m", value_name = "TIME", requires = "wait")]
    pub(super) timeout: Span,
}

/// Hints about changes, with a pulse in case one was missed.
pub(super) struct Changes {
    hints: Option<BoxStream<'static, WatchEvent>>,
}

const PULSE: Duration = Duration::from_secs(1);
/// Changes come in flocks: one look covers those that come this close together.
const GATHER: Duration = Duration::from_millis(30);

impl Changes {
    /// Listens from now on. Without hints there is still the pulse.
    pub(super) async fn listen(client: &Client) -> Self {
        Changes { hints: client.watch().await.ok() }
    }

    /// Waits until something may have changed.
    pub(super) async fn next(&mut self) {
        let hint = match &mut self.hints {
            Some(hints) => tokio::time::timeout(PULSE, hints.next()).await.unwrap_or(Some(WatchEvent::Reset)),
            None => {
                tokio::time::sleep(PULSE).await;
                return;
            }
        };
        match hint {
            Some(_) => tokio::time::sleep(GATHER).await,
            None => self.hints = None,
        }
    }
}

/// Follows an operation to its end, its limit, or Ctrl-C.
pub(super) async fn follow(client: &Client, operation: Operation, limit: Duration) -> Result<Exit> {
    let id = operation.id.clone();
    let mut progress = Progress { begun: Instant::now(), told: None };
    let run = async {
        let mut changes = Changes::listen(client).await;
        let mut operation = operation;
        loop {
            progress.tell(&operation);
            if let Some(end) = end_of(&operation) {
                return end;
            }
            changes.next().await;
            operation = client.operation(&operation.id).await.map_err(refused)?;
        }
    };
    let timed = tokio::time::timeout(limit, run);
    tokio::select! {
        ended = timed => match ended {
            Ok(end) => end,
            Err(_) => {
                let last = client.operation(&id).await.map_err(refused)?;
                Ok(after_limit(&last, limit))
            }
        },
        _ = tokio::signal::ctrl_c() => {
            note(&format!("detached; the operation goes on: steadfast op get {id} --wait"));
            Ok(Exit::Detached)
        }
    }
}

fn end_of(operation: &Operation) -> Option<Result<Exit>> {
    let told = || operation.failure.as_ref();
    match operation.state {
        OperationState::Succeeded => Some(Ok(Exit::Done)),
        OperationState::Failed | OperationState::Cancelled | OperationState::Superseded => {
            let words = told().map(|(_, words)| format!(": {words}")).unwrap_or_default();
            let text = format!("{} of {} is {}{words}", operation.kind, operation.service, operation.state);
            let mut failure =
                Failure::new(text).remedy(format!("look at it: steadfast describe {}", operation.service));
            if let Some((reason, _)) = told() {
                failure = failure.reason(reason);
            }
            if operation.state != OperationState::Failed {
                failure = failure.exit(Exit::Conflict);
            }
            Some(Err(failure))
        }
        OperationState::Waiting => match &operation.waiting {
            Some((reason, words)) if needs_a_person(reason) => {
                Some(Err(Failure::new(format!("{} of {} waits: {words}", operation.kind, operation.service))
                    .reason(reason)
                    .exit(Exit::Blocked)))
            }
            _ => None,
        },
        OperationState::Pending | OperationState::Running => None,
    }
}

fn after_limit(operation: &Operation, limit: Duration) -> Exit {
    let waits =
        operation.waiting.as_ref().map(|(reason, words)| format!(" ({reason}: {words})")).unwrap_or_default();
    note(&format!(
        "{} of {} is {}{waits} after {}; it goes on: steadfast op get {} --wait",
        operation.kind,
        operation.service,
        operation.state,
        Span(limit),
        operation.id
    ));
    Exit::TimedOut
}

/// One line whenever something has moved.
struct Progress {
    begun: Instant,
    told: Option<String>,
}

impl Progress {
    fn tell(&mut self, operation: &Operation) {
        let done = operation.steps.iter().filter(|step| step.state == StepState::Done).count();
        let step = operation.steps.iter().find(|step| step.state != StepState::Done);
        let mut text = format!("{} {}: {}", operation.kind, operation.service, operation.state);
        if let Some(step) = step {
            text.push_str(&format!(", step {}/{} {}", done + 1, operation.steps.len(), step.name));
        }
        if let Some((reason, words)) = &operation.waiting {
            text.push_str(&format!(", waits for {reason}: {words}"));
        }
        if self.told.as_ref() != Some(&text) {
            let at = format!("{:>6.1}s", self.begun.elapsed().as_secs_f64());
            note(&format!("{}  {text}", paint_note(Tone::Faint, &at)));
            self.told = Some(text);
        }
    }
}
