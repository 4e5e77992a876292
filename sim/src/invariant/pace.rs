//! How often anything may be asked.

use super::Rule;
use crate::model::Fact;
use crate::time::Time;
use crate::world::State;

/// Nobody asks for the same thing again and again without a pause.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Time,
    /// By the site's index: they only become more.
    calls: Vec<u32>,
}

const WINDOW_MS: u128 = 5_000;
/// Of one caller about one thing, in a second.
const MOST: u128 = 40;

impl Rule for Pace {
    fn id(&self) -> &'static str {
        "S14"
    }

    fn says(&self) -> &'static str {
        "no process asks for the same thing more than forty times a second, for longer than five"
    }

    fn fact(&mut self, at: Time, _fact: &Fact, state: &State) -> Result<(), String> {
        let passed = at.since(self.since).as_millis();
        if passed < WINDOW_MS {
            return Ok(());
        }
        self.since = at;
        let mut most: Option<String> = None;
        self.calls.resize(state.sites.all().len(), 0);
        for (site, before) in state.sites.all().iter().zip(&mut self.calls) {
            let before = std::mem::replace(before, site.calls);
            let calls = u128::from(site.calls - before);
            if calls * 1_000 > MOST * passed {
                most = Some(format!("{} {calls} times in {passed} ms", site.key(0)));
            }
        }
        most.map_or(Ok(()), Err)
    }
}
