//! Which of the tasks that were woken goes first.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::hash;

/// Which of the tasks that were woken goes first. Whichever it is, every run follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// First come, first served.
    #[default]
    Fifo,
    /// Any of them, drawn from this seed.
    Random(u64),
    /// The one of highest priority. Priorities are drawn from this seed, and drawn anew from time to time, so that a
    /// task that comes late each time comes early now and then (as in probabilistic concurrency testing).
    Priority(u64),
}

/// So many polls long priorities stay.
const SPAN: u64 = 200;

impl Schedule {
    /// Whether it is the plain one.
    pub fn is_fifo(&self) -> bool {
        *self == Schedule::Fifo
    }

    /// Takes the next task out of those that are ready.
    pub(super) fn take(self, ready: &mut VecDeque<usize>, polls: u64) -> Option<usize> {
        let draw = |seed, what| hash::draw(seed, what, polls / SPAN);
        let index = match self {
            Schedule::Fifo => 0,
            Schedule::Random(seed) => {
                let count = u64::try_from(ready.len()).unwrap_or(u64::MAX).max(1);
                usize::try_from(hash::draw(seed, 0, polls) % count).unwrap_or(0)
            }
            Schedule::Priority(seed) => {
                let highest = ready.iter().enumerate().max_by_key(|(_, task)| draw(seed, **task as u64));
                highest.map_or(0, |(index, _)| index)
            }
        };
        ready.remove(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(schedule: Schedule) -> Vec<usize> {
        let mut ready: VecDeque<usize> = (0..20).collect();
        (0..).map_while(|polls| schedule.take(&mut ready, polls)).collect()
    }

    #[test]
    fn each_task_goes_once_in_an_order_that_follows_from_the_seed() {
        assert_eq!(order(Schedule::Fifo), (0..20).collect::<Vec<_>>());
        for make in [Schedule::Random as fn(u64) -> Schedule, Schedule::Priority] {
            let first = order(make(1));
            assert_eq!(first, order(make(1)));
            assert_ne!(first, order(make(2)));
            let mut all = first;
            all.sort_unstable();
            assert_eq!(all, order(Schedule::Fifo));
        }
    }
}
