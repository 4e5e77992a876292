//! Waiting for an operation: progress for people, a limit, and leaving it alone.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use steadfast_api::client::Client;
use steadfast_api::control::WatchEvent;
use steadfast_core::model::{Operation, OperationState, Span, StepState};

use tokio::signal::unix::{SignalKind, signal};

use super::blocked;
use super::remote::{is_silence, refused};
use crate::exit::{Context as _, Exit, Failure, Result};
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
    hints: Hints,
}

enum Hints {
    /// A server is being asked, which may take as long as that server has no store.
    Opening(BoxFuture<'static, Option<BoxStream<'static, WatchEvent>>>),
    Open(BoxStream<'static, WatchEvent>),
    None,
}

const PULSE: Duration = Duration::from_secs(1);
/// Changes come in flocks: one look covers those that come this close together.
const GATHER: Duration = Duration::from_millis(30);

impl Changes {
    /// Listens from now on, or as soon as a server lets it. Without hints there is still the pulse.
    pub(super) async fn listen(client: &Client) -> Self {
        let mut changes = Changes { hints: Hints::opening(client) };
        changes.next_hint().await;
        changes
    }

    /// Waits until something may have changed.
    pub(super) async fn next(&mut self, client: &Client) {
        if let Hints::None = self.hints {
            tokio::time::sleep(PULSE).await;
            // The server that told may be gone, and another one there.
            self.hints = Hints::opening(client);
            return;
        }
        self.next_hint().await;
    }

    /// Waits for a hint, or for the watch to be open, no longer than a pulse.
    async fn next_hint(&mut self) {
        match &mut self.hints {
            Hints::Open(hints) => match tokio::time::timeout(PULSE, hints.next()).await {
                Ok(Some(_)) => tokio::time::sleep(GATHER).await,
                Ok(None) => self.hints = Hints::None,
                // Nothing was told for as long as a pulse.
                Err(_) => {}
            },
            Hints::Opening(opening) => {
                if let Ok(opened) = tokio::time::timeout(PULSE, opening).await {
                    self.hints = opened.map_or(Hints::None, Hints::Open);
                }
            }
            Hints::None => {}
        }
    }
}

impl Hints {
    fn opening(client: &Client) -> Self {
        let client = client.clone();
        Hints::Opening(async move { client.watch().await.ok() }.boxed())
    }
}

/// Follows an operation to its end, its limit, or Ctrl-C.
pub(super) async fn follow(client: &Client, operation: Operation, limit: Duration) -> Result<Exit> {
    // Before anything is said: whoever reads it may answer with Ctrl-C at once.
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut last = operation;
    let id = last.id.clone();
    tokio::select! {
        ended = tokio::time::timeout(limit, to_its_end(client, &mut last)) => match ended {
            Ok(end) => end,
            Err(_) => Ok(after_limit(&last, limit)),
        },
        _ = interrupt.recv() => {
            note(&format!("detached; the operation goes on: steadfast op get {id} --wait"));
            Ok(Exit::Detached)
        }
    }
}

async fn to_its_end(client: &Client, last: &mut Operation) -> Result<Exit> {
    let mut progress = Progress { begun: Instant::now(), told: None };
    let mut changes = Changes::listen(client).await;
    let mut blocked = blocked::Watch::default();
    loop {
        progress.tell(last);
        if let Some(end) = end_of(last) {
            return end;
        }
        if let Some(failure) = blocked.look(client, last).await {
            return Err(failure);
        }
        changes.next(client).await;
        match client.operation(&last.id).await {
            Ok(now) => *last = now,
            // A server's answer is one; its silence may be that of a server which is being replaced.
            Err(error) if is_silence(&error) => progress.say(&format!("{error}; still trying")),
            Err(error) => return Err(refused(error)),
        }
    }
}

/// How it has ended, if it has.
fn end_of(operation: &Operation) -> Option<Result<Exit>> {
    match operation.state {
        OperationState::Succeeded => Some(Ok(Exit::Done)),
        OperationState::Failed | OperationState::Cancelled | OperationState::Superseded => {
            let told = operation.failure.as_ref();
            let words = told.map(|(_, words)| format!(": {words}")).unwrap_or_default();
            let text = format!("{} of {} is {}{words}", operation.kind, operation.service, operation.state);
            let mut failure =
                Failure::new(text).remedy(format!("look at it: steadfast describe {}", operation.service));
            if let Some((reason, _)) = told {
                failure = failure.reason(reason);
            }
            if operation.state != OperationState::Failed {
                failure = failure.exit(Exit::Conflict);
            }
            Some(Err(failure))
        }
        OperationState::Pending | OperationState::Running | OperationState::Waiting => None,
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
        self.say(&progress_line(operation));
    }

    fn say(&mut self, text: &str) {
        if self.told.as_deref() != Some(text) {
            let at = format!("{:>6.1}s", self.begun.elapsed().as_secs_f64());
            note(&format!("{}  {text}", paint_note(Tone::Faint, &at)));
            self.told = Some(text.to_owned());
        }
    }
}

fn progress_line(operation: &Operation) -> String {
    let Operation { kind, service, state, steps, .. } = operation;
    let done = steps.iter().filter(|step| step.state == StepState::Done).count();
    // Steps need not be taken in the order they are listed in: a restart begins with the replicas.
    let in_state = |state| steps.iter().find(|step| step.state == state);
    let step = in_state(StepState::Running).or_else(|| in_state(StepState::Pending));
    let mut text = format!("{kind} {service}: {state}");
    if let Some(step) = step {
        text.push_str(&format!(", {done} of {} steps done, {}", steps.len(), step.name));
    }
    if let Some((reason, words)) = &operation.waiting {
        text.push_str(&format!(", waits for {reason}: {words}"));
    }
    text
}
