//! The faces of tier 1: core's contracts, and the agent's seams, over the models.

mod backends;
mod engines;
mod host;

use std::fmt;

use steadfast_core::metadata::Key;

pub use backends::{SimDb, SimIps, SimProver, SimRegistry, SimVolumes};
pub use engines::{SimEngine, SimEngines};
pub use host::{SimGuards, SimHost};

/// A key of the store by meaning: without the cluster's prefix, and without what is random.
#[derive(Debug, Clone, Copy)]
pub struct RoleOf<'a>(pub &'a Key);

impl fmt::Display for RoleOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Most keys are plain, and are asked for all the time.
        let after_prefix = self.0.as_str().splitn(3, '/').nth(2);
        if let Some(rest) = after_prefix
            && rest.split('/').all(|segment| segment.len() < RANDOM && segment != "servers")
        {
            return f.write_str(rest);
        }
        let mut before = None;
        for segment in self.0.segments().skip(2) {
            if before.is_some() {
                f.write_str("/")?;
            }
            // A server's life has a name of its own, with the time of its start in it.
            let life = segment.rsplit_once('-').filter(|_| before == Some("servers"));
            let meaning = life.map_or(segment, |(server, _)| server);
            f.write_str(if is_random(meaning) { "*" } else { meaning })?;
            before = Some(segment);
        }
        Ok(())
    }
}

/// What is random is as long as this at least.
const RANDOM: usize = 20;

/// Whether a text looks like one of [`Entropy::token`](steadfast_core::runtime::Entropy::token).
pub(crate) fn is_random(text: &str) -> bool {
    text.len() >= RANDOM
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte))
}
