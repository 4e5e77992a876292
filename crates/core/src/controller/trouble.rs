//! What passes over a service fail at, on its record: whoever asks any server why is told, and not the log of one of them
//! alone.

use std::time::Duration;

use jiff::SignedDuration;

use super::{Controller, Executor, Failures, Snapshot};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::ids::ServiceName;
use crate::model::{Reason, Service, Trouble};
use crate::plan::Action;

/// For how long passes have to fail before it is told, unless trying again cannot help: what is over soon is nobody's
/// matter.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long what was told last stands, whatever else fails meanwhile: words that change each time are not written each
/// time.
const STANDS: SignedDuration = SignedDuration::from_secs(30);

/// A pass that has failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// What stands for an error that names no better reason; none: it is the store's, which takes no note of it.
    otherwise: Option<Reason>,
}

impl From<Error> for Failure {
    /// One of looking, which is the store's.
    fn from(error: Error) -> Self {
        Failure { error, otherwise: None }
    }
}

impl Failure {
    /// One of carrying out an action.
    pub(super) fn of(action: &Action, error: Error) -> Self {
        let otherwise = match action {
            Action::Apply(_) | Action::ReleaseFor { .. } => Some(Reason::OrchestratorUnavailable),
            Action::Provision { .. } | Action::SetName { .. } | Action::RemoveName { .. } => {
                Some(Reason::BackendUnavailable)
            }
            _ => None,
        };
        Failure { error, otherwise }
    }

    /// What to tell of it, if passes have failed for so long.
    fn told(&self, lasting: Duration) -> Option<(Reason, String)> {
        let otherwise = self.otherwise.clone()?;
        let error = &self.error;
        if lasting < PATIENCE && error.retry() != Retry::Never {
            return None;
        }
        let (reason, text) = reason_of(error, otherwise);
        let (backend, operation, subject) = (error.backend(), error.operation(), error.subject());
        Some((reason, format!("{backend}: {operation} {subject} failed: {text}")))
    }
}

/// Why something could not be done, as a code and in words.
pub(super) fn reason_of(error: &Error, otherwise: Reason) -> (Reason, String) {
    if let Some((reason, text)) = Reason::of_message(error.message()) {
        return (reason, text.to_owned());
    }
    let reason = match error.kind() {
        ErrorKind::Unsupported => Reason::CapabilityMissing,
        ErrorKind::Denied => Reason::PermissionDenied,
        ErrorKind::QuotaExceeded => Reason::QuotaReached,
        ErrorKind::Throttled => Reason::Throttled,
        ErrorKind::Busy => Reason::VolumeBusy,
        ErrorKind::Corrupt => Reason::VolumeCorrupt,
        _ => otherwise,
    };
    (reason, error.message().to_owned())
}

impl Controller {
    /// Takes down what passes over a service fail at, if it is worth telling.
    pub(super) async fn note_failure(&self, service: &ServiceName, failure: &Failure, failures: Failures) {
        let lasting = self.env.clock().monotonic().since(failures.since);
        let Some((reason, message)) = failure.told(lasting) else { return };
        if self.shards.permit(service).is_none() {
            return;
        }
        // With the next failure it is tried again.
        if let Err(error) = self.record_trouble(service, reason, message).await {
            tracing::debug!(%service, error = %error.chain(), "what fails could not be recorded");
        }
    }

    async fn record_trouble(&self, service: &ServiceName, reason: Reason, message: String) -> Result<()> {
        let Some(found) = self.store.service(service).await? else { return Ok(()) };
        let now = self.env.clock().wall();
        let known = found.body.trouble.as_ref();
        let stands = |known: &Trouble| {
            let age = now.duration_since(known.at);
            (SignedDuration::ZERO..STANDS).contains(&age)
                || (&known.reason, &known.message) == (&reason, &message)
        };
        if known.is_some_and(stands) {
            return Ok(());
        }
        let known = known.filter(|known| known.reason == reason);
        let since = known.map_or(now, |known| known.since);
        let mut changed = Service::clone(&found.body);
        if known.is_none() {
            changed.events.push(now, reason.clone(), None, message.clone());
        }
        changed.trouble = Some(Trouble { reason, message, since, at: now });
        let key = self.store.service_key(service)?;
        // Changed by somebody else meanwhile: with the next failure, then.
        self.store.write_over(&key, &found.version, &*found.body, &changed).await.map(drop)
    }
}

impl Executor<'_> {
    /// Takes down that nothing fails any more.
    pub(super) async fn end_trouble(&self, snapshot: &mut Snapshot) -> Result<()> {
        if snapshot.facts.service.trouble.is_none() {
            return Ok(());
        }
        // Stale: what somebody else has written is looked at next, and this with it.
        self.change_service(snapshot, |service, _| service.trouble = None).await.map(drop)
    }
}
