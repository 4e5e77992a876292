//! What tests of anything built on the core need: time that only passes when everybody waits, randomness that is
//! the same every time, and specs to begin with.
//!
//! Not covered by semantic versioning.

mod clock;
mod specs;

use std::sync::Arc;

pub use clock::TestClock;
pub use specs::{FixedBlueprints, blueprint, service_spec};

use crate::runtime::{Entropy, Environment, Tasks};

/// An environment for a test, and its clock.
///
/// In a `#[tokio::test(start_paused = true)]` time passes only when every task waits, and then at once.
///
/// ```
/// use std::time::Duration;
/// use steadfast_core::testing::TestEnvironment;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
/// # runtime.block_on(async {
/// let TestEnvironment { environment, clock } = TestEnvironment::new(1);
/// let before = environment.clock().monotonic();
/// environment.clock().sleep(Duration::from_secs(3600)).await; // Takes no time.
/// assert_eq!(environment.clock().monotonic().since(before), Duration::from_secs(3600));
/// clock.jump(jiff::SignedDuration::from_hours(-24)); // The wall clock only.
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct TestEnvironment {
    /// What is handed to the component under test.
    pub environment: Environment,
    /// Its clock, to set.
    pub clock: Arc<TestClock>,
}

impl TestEnvironment {
    /// A fresh environment. The same seed gives the same randomness.
    pub fn new(seed: u8) -> Self {
        let clock = Arc::new(TestClock::new());
        let environment = Environment::new(clock.clone(), Entropy::from_seed([seed; 32]), Tasks::new());
        TestEnvironment { environment, clock }
    }
}
