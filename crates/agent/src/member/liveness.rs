//! Whether an engine lives: it answers, or it recovers and is seen to get on.

use std::time::Duration;

use steadfast_core::engine::EngineView;
use steadfast_core::runtime::Moment;

/// An engine's signs of life.
///
/// Time counts only while we look: an agent that was stopped, or starved, must not find its engine dead for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Liveness {
    answered: bool,
    progress: Option<u64>,
    quiet: Duration,
    looked: Option<Moment>,
}

impl Liveness {
    /// Takes in what the engine said. `gap` is the longest time between two looks that counts in full.
    pub(crate) fn saw(&mut self, now: Moment, view: &EngineView, gap: Duration) {
        let since = self.looked.replace(now).map_or(Duration::ZERO, |before| now.since(before));
        let progressed = view.recovering.is_some() && view.recovering != self.progress;
        self.progress = view.recovering;
        let well = view.alive && view.recovering.is_none();
        self.answered |= well;
        if well || progressed {
            self.quiet = Duration::ZERO;
        } else {
            self.quiet = self.quiet.saturating_add(since.min(gap));
        }
    }

    /// How long it has shown no sign of life.
    pub(crate) fn quiet(&self) -> Duration {
        self.quiet
    }

    /// What is wrong, if the engine has shown no sign of life for too long: until its first answer `start`, and
    /// `liveness` from then on.
    pub(crate) fn complaint(&self, start: Duration, liveness: Duration) -> Option<String> {
        // An engine that is recovering has the patience of a start, however often it has answered before.
        let patience = if self.answered && self.progress.is_none() { liveness } else { start };
        (self.quiet >= patience).then(|| {
            let what =
                if self.progress.is_some() { "its recovery does not get on" } else { "it does not answer" };
            format!("{what} since {} s", self.quiet.as_secs())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(2);
    const START: Duration = Duration::from_secs(60);
    const LIVENESS: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Moment {
        Moment::from_zero(Duration::from_secs(seconds))
    }

    fn view(alive: bool, recovering: Option<u64>) -> EngineView {
        EngineView { alive, recovering, ..EngineView::default() }
    }

    /// Looks every second and gives the second of the first complaint.
    fn first_complaint(
        from: u64,
        to: u64,
        liveness: &mut Liveness,
        see: impl Fn(u64) -> EngineView,
    ) -> Option<u64> {
        (from..to).find(|second| {
            liveness.saw(at(*second), &see(*second), GAP);
            liveness.complaint(START, LIVENESS).is_some()
        })
    }

    #[test]
    fn an_engine_that_never_answers_has_the_patience_of_a_start() {
        let mut liveness = Liveness::default();
        assert_eq!(first_complaint(0, 200, &mut liveness, |_| view(false, None)), Some(60));
    }

    #[test]
    fn an_engine_that_has_answered_has_less() {
        let mut liveness = Liveness::default();
        assert_eq!(first_complaint(0, 10, &mut liveness, |_| view(true, None)), None);
        assert_eq!(first_complaint(10, 200, &mut liveness, |_| view(false, None)), Some(24));
    }

    #[test]
    fn a_recovery_that_gets_on_is_never_cut_short() {
        let mut liveness = Liveness::default();
        assert_eq!(first_complaint(0, 10_000, &mut liveness, |second| view(true, Some(second))), None);
        assert_eq!(first_complaint(10_000, 20_000, &mut liveness, |_| view(true, Some(9))), Some(10_060));
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let mut liveness = Liveness::default();
        liveness.saw(at(0), &view(true, None), GAP);
        liveness.saw(at(1_000), &view(false, None), GAP);
        assert_eq!(liveness.complaint(START, LIVENESS), None);
    }
}
