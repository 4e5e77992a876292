//! Time, randomness and tasks: the only way to any of them is an [`Environment`].
//!
//! The production environment is made in the binary ([`Environment::system`]); the simulator makes its own.

mod clock;
mod entropy;
mod tasks;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use clock::{Clock, Moment, SystemClock, Timestamp};
pub use entropy::Entropy;
pub use tasks::{Shutdown, Spawner, Tasks};

/// Where a component takes its time, its randomness and its tasks from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Environment {
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    tasks: Tasks,
}

impl Environment {
    /// An environment of these parts.
    pub fn new(clock: Arc<dyn Clock>, entropy: Entropy, tasks: Tasks) -> Self {
        Environment { clock, entropy, tasks }
    }

    /// The environment of a real process: the system's clocks, and randomness from a seed that the binary
    /// drew from the operating system once.
    pub fn system(seed: [u8; 32]) -> Self {
        Environment::new(Arc::new(SystemClock::new()), Entropy::from_seed(seed), Tasks::new())
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The source of randomness.
    pub fn entropy(&self) -> &Entropy {
        &self.entropy
    }

    /// The spawner of tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Waits for `future`, but no longer than `limit`; `None` says that the limit came first.
    ///
    /// The future is dropped then: what it had begun may still happen.
    pub async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.clock.sleep(limit) => None,
        }
    }
}
