//! What a member waits for, and how long until it is looked at again.

use std::time::Duration;

use steadfast_core::model::{MemberPhase, Reason};
use steadfast_core::planted::{self, Planted};

use super::MemberTask;
use super::decide::{Process, View, Wanted};
use crate::guard::{GuardStage, GuardStatus};

/// Pauses from quick to slow, while nothing changes.
#[derive(Debug, Default)]
pub(super) struct Slowing(u32);

impl Slowing {
    /// The next pause: twice the last one.
    pub(super) fn next(&mut self, first: Duration, longest: Duration) -> Duration {
        let pause = first.saturating_mul(1 << self.0.min(6));
        self.0 = self.0.saturating_add(1);
        pause.min(longest)
    }

    /// Something has changed.
    pub(super) fn begin_anew(&mut self) {
        self.0 = 0;
    }
}

impl MemberTask {
    /// How long to wait, and what for.
    pub(super) fn wait(&mut self, view: &View) -> Duration {
        let timers = self.parts().config.timers;
        match &view.process {
            // Mostly that is soon done; a database that writes out its memory takes minutes.
            Process::Guarded(GuardStatus {
                stage: GuardStage::Locking | GuardStage::Stopping | GuardStage::Killing,
                ..
            }) => self.guard_looks.next(Duration::from_millis(10), timers.look_closely),
            Process::Guarded(_) | Process::Orphans => timers.look_closely,
            Process::Silent(_) => {
                self.status.ready = false;
                self.status.blocked = Some((Reason::EngineUnhealthy, "its guard does not answer".to_owned()));
                timers.look
            }
            Process::None if view.wanted == Wanted::Stop => {
                self.status.phase = MemberPhase::Stopped;
                self.status.blocked = None;
                timers.resync
            }
            // Nothing is there, and whether anything shall be is not known: whoever hears of it wakes this task.
            Process::None if view.wanted == Wanted::Unknown => self.growing_pause(),
            Process::None => {
                let delay = self.restarts.delay(self.now());
                self.status.phase = MemberPhase::Starting;
                if self.restarts.is_loop() && !self.refused {
                    let text = format!(
                        "its engine has failed {} times; it is started again in {} s: steadfast logs {}",
                        self.restarts.count(),
                        delay.as_secs(),
                        self.name
                    );
                    self.status.blocked = Some((Reason::CrashLoop, text));
                }
                delay.clamp(Duration::from_millis(10), timers.look)
            }
        }
    }

    pub(super) fn growing_pause(&mut self) -> Duration {
        if planted::is(Planted::HotLoop) {
            return Duration::from_millis(1);
        }
        let longest = self.parts().config.timers.look;
        self.waits.next(Duration::from_millis(20), longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_until_something_changes() {
        let mut slowing = Slowing::default();
        let (first, longest) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut next = || slowing.next(first, longest).as_millis();
        assert_eq!([next(), next(), next(), next(), next(), next()], [10, 20, 40, 80, 100, 100]);
        slowing.begin_anew();
        assert_eq!(slowing.next(first, longest), first);
    }
}
