//! What to do next about a member, as a pure function of what is known.

use steadfast_core::ids::{Epoch, Generation};
use steadfast_core::planted::{self, Planted};

use crate::guard::{GuardStage, GuardStatus};

/// Whether the member shall run here, as far as the records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The records could not be read yet: what runs goes on, and nothing begins.
    Unknown,
    /// It shall run here, in this generation or a later one.
    Run(Generation),
    /// It shall be stopped here, its holdings given back.
    Stop,
}

/// Who holds the member, as far as the record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// This life of this node, under this epoch.
    Ours(Epoch),
    /// Somebody else, or nobody.
    NotOurs,
    /// Not known.
    Unknown,
}

/// What is there of the member's guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Process {
    /// Nothing.
    None,
    /// A guard that answers.
    Guarded(GuardStatus),
    /// A guard that does not answer; `true`: for longer than it may.
    Silent(bool),
    /// No guard, but something of the engine.
    Orphans,
}

/// Everything the next step depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// Whether it shall run.
    pub wanted: Wanted,
    /// Who holds it.
    pub holding: Holding,
    /// What runs.
    pub process: Process,
    /// Whether this node is among those that have held it and given nothing back.
    pub unreleased: bool,
    /// Whether an assignment is there, so that the member is still this node's business.
    pub assigned: bool,
    /// Whether the delay after the engine's last end is over.
    pub may_start: bool,
    /// What is wrong with the engine so that it has to be killed.
    pub unhealthy: Option<String>,
    /// Whether the engine has to be stopped and its data brought into line before it goes on.
    pub diverged: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, for now.
    Wait,
    /// Claim the member, prepare its data, start its engine.
    BringUp,
    /// Look at the engine, and bring it into its role.
    Observe,
    /// Stop the engine in order.
    Stop,
    /// Kill guard and engine.
    Kill {
        /// Why.
        why: String,
        /// Whether the engine is to blame, so that restarts are counted.
        engine_failed: bool,
    },
    /// Give back what the node holds of the member.
    Release,
    /// The member is no longer this node's business.
    Forget,
}

/// The next step.
pub(super) fn next(view: &View) -> Step {
    match &view.process {
        Process::Orphans => Step::Kill {
            why: "its guard is gone, and processes of its engine are left".to_owned(),
            engine_failed: true,
        },
        Process::Silent(true) => {
            Step::Kill { why: "its guard does not answer".to_owned(), engine_failed: false }
        }
        Process::Silent(false) => Step::Wait,
        Process::Guarded(status) => next_for_guarded(view, status),
        Process::None => match view.wanted {
            Wanted::Unknown => Step::Wait,
            Wanted::Run(_) if view.may_start => Step::BringUp,
            Wanted::Run(_) => Step::Wait,
            Wanted::Stop if view.unreleased => Step::Release,
            Wanted::Stop if view.assigned => Step::Wait,
            Wanted::Stop => Step::Forget,
        },
    }
}

fn next_for_guarded(view: &View, status: &GuardStatus) -> Step {
    let stopping = matches!(status.stage, GuardStage::Stopping | GuardStage::Killing);
    let generation = match view.wanted {
        _ if stopping => return Step::Wait,
        Wanted::Unknown => return Step::Wait,
        Wanted::Stop if planted::is(Planted::ReleaseBeforeStop) && view.unreleased => return Step::Release,
        Wanted::Stop => return Step::Stop,
        Wanted::Run(generation) => generation,
    };
    let still_ours = match view.holding {
        // Not known for now: what runs under its locks goes on.
        Holding::Unknown => true,
        Holding::Ours(epoch) => epoch == status.epoch,
        Holding::NotOurs => false,
    };
    if !still_ours || status.generation < generation || view.diverged {
        return Step::Stop;
    }
    match (&view.unhealthy, status.stage) {
        (_, GuardStage::Locking) => Step::Wait,
        (Some(why), _) => Step::Kill { why: why.clone(), engine_failed: true },
        (None, _) => Step::Observe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(epoch: u64, generation: u64, stage: GuardStage) -> Process {
        Process::Guarded(GuardStatus {
            epoch: Epoch(epoch),
            generation: Generation(generation),
            incarnation: "e1".parse().unwrap(),
            stage,
            engine_pid: Some(7),
            lease_left_ms: None,
            guard_pid: 6,
        })
    }

    fn running() -> View {
        View {
            wanted: Wanted::Run(Generation(1)),
            holding: Holding::Ours(Epoch(3)),
            process: guarded(3, 1, GuardStage::Running),
            unreleased: true,
            assigned: true,
            may_start: true,
            unhealthy: None,
            diverged: false,
        }
    }

    #[test]
    fn a_live_engine_of_the_same_epoch_is_adopted() {
        assert_eq!(next(&running()), Step::Observe);
        assert_eq!(next(&View { holding: Holding::Unknown, ..running() }), Step::Observe);
    }

    #[test]
    fn nothing_begins_and_nothing_ends_while_the_records_are_unknown() {
        let view = View { wanted: Wanted::Unknown, holding: Holding::Unknown, ..running() };
        assert_eq!(next(&view), Step::Wait);
        assert_eq!(next(&View { process: Process::None, ..view }), Step::Wait);
    }

    #[test]
    fn an_engine_of_another_epoch_or_an_older_generation_is_stopped() {
        assert_eq!(next(&View { holding: Holding::Ours(Epoch(4)), ..running() }), Step::Stop);
        assert_eq!(next(&View { holding: Holding::NotOurs, ..running() }), Step::Stop);
        assert_eq!(next(&View { wanted: Wanted::Run(Generation(2)), ..running() }), Step::Stop);
        assert_eq!(next(&View { diverged: true, ..running() }), Step::Stop);
        let later = View { process: guarded(3, 5, GuardStage::Running), ..running() };
        assert_eq!(next(&later), Step::Observe);
    }

    #[test]
    fn an_engine_that_is_stopping_is_waited_for() {
        for stage in [GuardStage::Stopping, GuardStage::Killing] {
            let view = View { wanted: Wanted::Stop, process: guarded(3, 1, stage), ..running() };
            assert_eq!(next(&view), Step::Wait);
        }
    }

    #[test]
    fn what_is_left_of_an_engine_is_killed_before_anything_else() {
        let orphans = View { process: Process::Orphans, wanted: Wanted::Stop, ..running() };
        assert!(matches!(next(&orphans), Step::Kill { engine_failed: true, .. }));
        assert_eq!(next(&View { process: Process::Silent(false), ..running() }), Step::Wait);
        let silent = View { process: Process::Silent(true), ..running() };
        assert!(matches!(next(&silent), Step::Kill { engine_failed: false, .. }));
        let sick = View { unhealthy: Some("no answer".to_owned()), ..running() };
        assert!(matches!(next(&sick), Step::Kill { engine_failed: true, .. }));
    }

    #[test]
    fn an_ended_engine_is_started_again_after_its_delay() {
        let ended = View { process: Process::None, ..running() };
        assert_eq!(next(&ended), Step::BringUp);
        assert_eq!(next(&View { may_start: false, ..ended }), Step::Wait);
    }

    #[test]
    fn a_stopped_member_is_released_and_then_forgotten() {
        let stopped = View { process: Process::None, wanted: Wanted::Stop, ..running() };
        assert_eq!(next(&stopped), Step::Release);
        let released = View { unreleased: false, ..stopped };
        assert_eq!(next(&released), Step::Wait, "it is still assigned, as stopped");
        assert_eq!(next(&View { assigned: false, ..released }), Step::Forget);
    }
}
