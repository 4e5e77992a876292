//! Whether an operation that is waited for goes on only when a person acts: then waiting longer is of no use.

use std::time::{Duration, Instant};

use steadfast_api::client::Client;
use steadfast_core::model::{Condition, ConditionKind, Operation, Reason, Truth};

use crate::exit::{Exit, Failure};

/// How often the service's conditions are looked at while its operation is followed.
const ROUND: Duration = Duration::from_secs(1);
/// How long what may well pass by itself has to last before a person is asked.
const LASTING: Duration = Duration::from_secs(15);

/// What it takes to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Time.
    Time,
    /// A person, unless it passes soon: a node may only have been silent for a moment.
    PersonIfItLasts,
    /// A person.
    Person,
}

fn needs(reason: &Reason) -> Needs {
    match reason {
        Reason::AwaitingConfirmation
        | Reason::PausedByOperator
        | Reason::VolumeForeign
        | Reason::VolumeUnexpectedlyEmpty
        | Reason::VolumeCorrupt
        | Reason::DiskReadOnly
        | Reason::EngineMissing
        | Reason::EngineMismatch
        | Reason::VoterAmnesia
        | Reason::ExternalPromoter
        | Reason::ConfigInvalid
        | Reason::FencingInsufficient
        | Reason::CapabilityMissing
        | Reason::VersionTooNew => Needs::Person,
        Reason::FenceUnproven
        | Reason::PlacementNone
        | Reason::DurabilityUnproven
        | Reason::StormBrake
        | Reason::CrashLoop
        | Reason::PortInUse
        | Reason::DiskFull
        | Reason::IoError
        | Reason::QuotaReached
        | Reason::PermissionDenied
        | Reason::CredentialExpired => Needs::PersonIfItLasts,
        _ => Needs::Time,
    }
}

/// What keeps an operation, as seen so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    looked: Option<Instant>,
    /// For which reason it has been blocked, and since when.
    since: Option<(Reason, Instant)>,
}

impl Watch {
    /// Looks, if it is time to: the failure to end with if a person is needed.
    pub(super) async fn look(&mut self, client: &Client, operation: &Operation) -> Option<Failure> {
        if self.looked.is_some_and(|at| at.elapsed() < ROUND) {
            return None;
        }
        self.looked = Some(Instant::now());
        // A look that fails tells nothing; the operation itself is asked for by whoever waits.
        let view = client.service(&operation.service).await.ok()?;
        let blocked = view
            .conditions
            .into_iter()
            .find(|condition| condition.kind == ConditionKind::Blocked && condition.status == Truth::True);
        self.judge(blocked, Instant::now()).map(|(reason, condition)| told(operation, &reason, &condition))
    }

    /// The reason and the condition if they need a person.
    fn judge(&mut self, blocked: Option<Condition>, now: Instant) -> Option<(Reason, Condition)> {
        let Some((condition, reason)) = blocked.and_then(|found| Some((found.clone(), found.reason?))) else {
            self.since = None;
            return None;
        };
        let since = match &self.since {
            Some((last, at)) if *last == reason => *at,
            _ => {
                self.since = Some((reason.clone(), now));
                now
            }
        };
        let person = match needs(&reason) {
            Needs::Person => true,
            Needs::PersonIfItLasts => now.duration_since(since) >= LASTING,
            Needs::Time => false,
        };
        person.then_some((reason, condition))
    }
}

fn told(operation: &Operation, reason: &Reason, condition: &Condition) -> Failure {
    let Operation { id, kind, service, .. } = operation;
    let action = match &condition.next_action {
        Some(action) => format!("do: {action}"),
        None => format!("look at it: steadfast describe {service}"),
    };
    Failure::new(format!("{kind} of {service} waits for a person: {}", condition.message))
        .reason(reason)
        .remedy(format!("{action}\n  it goes on then; wait for it: steadfast op get {id} --wait"))
        .exit(Exit::Blocked)
}

#[cfg(test)]
mod tests {
    use steadfast_core::runtime::Timestamp;

    use super::*;

    fn blocked(reason: Reason) -> Option<Condition> {
        Some(Condition {
            kind: ConditionKind::Blocked,
            status: Truth::True,
            reason: Some(reason),
            message: String::new(),
            since: Timestamp::default(),
            observed_at: Timestamp::default(),
            deadline: None,
            next_action: None,
        })
    }

    #[test]
    fn what_may_pass_has_to_last_and_starts_anew_after_it_has_passed() {
        let (mut watch, begun) = (Watch::default(), Instant::now());
        let mut at = |after: Duration, what| watch.judge(what, begun + after).is_some();
        assert!(!at(Duration::ZERO, blocked(Reason::FenceUnproven)));
        assert!(!at(LASTING / 2, blocked(Reason::FenceUnproven)));
        assert!(!at(LASTING - Duration::from_secs(1), None));
        assert!(!at(LASTING, blocked(Reason::FenceUnproven)));
        assert!(at(LASTING * 2, blocked(Reason::FenceUnproven)));
        assert!(!at(LASTING * 9, blocked(Reason::EngineRecovering)), "that takes time and nothing else");
        assert!(at(LASTING * 9, blocked(Reason::PausedByOperator)), "nobody resumes it but a person");
    }
}
