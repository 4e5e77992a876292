//! How often an engine has ended by itself, and how long to wait before it is started again.

use std::collections::VecDeque;
use std::time::Duration;

use steadfast_core::planted::{self, Planted};
use steadfast_core::runtime::Moment;

use crate::config::AgentTimers;

/// So many ends within [`LOOP_WINDOW`] make a crash loop.
const LOOP_ENDS: usize = 5;
const LOOP_WINDOW: Duration = Duration::from_secs(600);

/// The ends of one member's engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restarts {
    count: u32,
    ends: VecDeque<Moment>,
    not_before: Option<Moment>,
    well_since: Option<Moment>,
}

impl Restarts {
    /// The engine has ended, or could not be started.
    pub(crate) fn ended(&mut self, now: Moment, timers: &AgentTimers) {
        self.well_since = None;
        let doubled = timers.first_delay.saturating_mul(1 << self.count.min(16));
        self.not_before = Some(now.plus(doubled.min(timers.longest_delay)));
        if planted::is(Planted::GivesUp) {
            self.not_before = Some(now.plus(LOOP_WINDOW * 1_000));
        }
        self.count = self.count.saturating_add(1);
        self.ends.push_back(now);
        self.ends.retain(|end| now.since(*end) <= LOOP_WINDOW);
    }

    /// The engine serves. Once it has for long enough, what was before is forgotten.
    pub(crate) fn well(&mut self, now: Moment, timers: &AgentTimers) {
        let since = *self.well_since.get_or_insert(now);
        if now.since(since) >= timers.forgive_after {
            self.count = 0;
            self.ends.clear();
        }
    }

    /// The engine does not serve just now.
    pub(crate) fn not_well(&mut self) {
        self.well_since = None;
    }

    /// It is wanted anew, by a person: the delay is over.
    pub(crate) fn forgive(&mut self) {
        self.not_before = None;
    }

    /// How long it is until it may be started.
    pub(crate) fn delay(&self, now: Moment) -> Duration {
        self.not_before.map_or(Duration::ZERO, |end| end.since(now))
    }

    /// How often it has ended since it was last well for long.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Whether it ends again and again.
    pub(crate) fn is_loop(&self) -> bool {
        self.ends.len() >= LOOP_ENDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_zero(Duration::from_secs(seconds))
    }

    #[test]
    fn the_delay_doubles_up_to_its_limit_and_is_forgotten_after_a_long_health() {
        let timers = AgentTimers::default();
        let mut restarts = Restarts::default();
        assert_eq!(restarts.delay(at(0)), Duration::ZERO);
        let mut delays = Vec::new();
        for _ in 0..8 {
            restarts.ended(at(100), &timers);
            delays.push(restarts.delay(at(100)).as_secs());
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(restarts.is_loop());
        restarts.well(at(200), &timers);
        restarts.well(at(499), &timers);
        assert_eq!(restarts.count(), 8);
        restarts.well(at(500), &timers);
        assert_eq!((restarts.count(), restarts.is_loop()), (0, false));
        restarts.ended(at(600), &timers);
        assert_eq!(restarts.delay(at(600)).as_secs(), 1);
    }

    #[test]
    fn ends_far_apart_are_no_loop() {
        let timers = AgentTimers::default();
        let mut restarts = Restarts::default();
        for time in 0..10 {
            restarts.ended(at(time * 200), &timers);
        }
        assert!(!restarts.is_loop());
    }
}
