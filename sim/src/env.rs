//! The environment of one simulated process: its clocks, its randomness, its tasks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use steadfast_core::runtime::{Clock, Entropy, Environment, Moment, Spawner, Tasks, Timestamp};

use crate::exec::{Exec, ProcessId};
use crate::hash;
use crate::time::Time;

/// How the clocks of a machine run against the world's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClockSkew {
    /// How far the wall clock is ahead, in milliseconds.
    pub wall_ahead_ms: i64,
    /// What the monotonic clock showed when the world began, in milliseconds.
    pub monotonic_at_zero_ms: u64,
    /// How much faster it runs, in parts per million.
    pub drift_ppm: i32,
}

/// The clocks of one machine. Clones are handles on the same ones.
#[derive(Debug, Clone)]
pub struct MachineClock {
    exec: Exec,
    skew: Arc<Mutex<ClockSkew>>,
}

/// 2026-01-01T00:00:00Z, in seconds.
const BEGIN: i64 = 1_767_225_600;

impl MachineClock {
    /// Clocks that run like this.
    pub fn new(exec: Exec, skew: ClockSkew) -> Self {
        MachineClock { exec, skew: Arc::new(Mutex::new(skew)) }
    }

    fn skew(&self) -> ClockSkew {
        *self.skew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the wall clock forward or back.
    pub fn jump(&self, by_ms: i64) {
        let mut skew = self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        skew.wall_ahead_ms = skew.wall_ahead_ms.saturating_add(by_ms);
    }

    /// The moment this machine's monotonic clock shows at a time of the world.
    pub fn moment(&self, at: Time) -> Moment {
        let skew = self.skew();
        let shown = match skew.drift_ppm {
            0 => at.micros(),
            drift => {
                let micros = i128::from(at.micros());
                let shown = micros + micros * i128::from(drift) / 1_000_000;
                u64::try_from(shown.max(0)).unwrap_or(u64::MAX)
            }
        };
        Moment::from_zero(
            Duration::from_millis(skew.monotonic_at_zero_ms).saturating_add(Duration::from_micros(shown)),
        )
    }

    /// The time of the world at which this machine's monotonic clock shows `moment`.
    pub fn time_of(&self, moment: Moment) -> Time {
        let skew = self.skew();
        let shown = moment.since_zero().saturating_sub(Duration::from_millis(skew.monotonic_at_zero_ms));
        Time::ZERO.plus(real(shown, skew.drift_ppm))
    }
}

/// How long a machine's `duration` takes in the world. Rounded up: a wait never ends early.
fn real(duration: Duration, drift_ppm: i32) -> Duration {
    if drift_ppm == 0 {
        return duration;
    }
    let rate = u128::try_from(1_000_000 + i64::from(drift_ppm)).unwrap_or(1).max(1);
    let micros = (duration.as_micros() * 1_000_000).div_ceil(rate);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[async_trait]
impl Clock for MachineClock {
    fn wall(&self) -> Timestamp {
        let passed = i64::try_from(self.exec.now().micros()).unwrap_or(i64::MAX);
        let since = SignedDuration::from_micros(passed)
            .saturating_add(SignedDuration::from_millis(self.skew().wall_ahead_ms));
        let begin = Timestamp::constant(BEGIN, 0);
        begin.saturating_add(since).unwrap_or(begin)
    }

    fn monotonic(&self) -> Moment {
        self.moment(self.exec.now())
    }

    async fn sleep(&self, duration: Duration) {
        self.exec.sleep(real(duration, self.skew().drift_ppm)).await;
    }
}

/// Spawns into one process.
#[derive(Debug)]
struct Into1 {
    exec: Exec,
    process: ProcessId,
}

impl Spawner for Into1 {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.exec.spawn(self.process, name, task);
    }
}

/// The environment of `process`, on the machine with these clocks.
pub fn environment(exec: &Exec, process: ProcessId, clock: &MachineClock, seed: u64) -> Environment {
    let mut key = [0_u8; 32];
    let label = hash::of_text(&exec.name_of(process));
    for (nth, chunk) in (0..).zip(key.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&hash::draw(seed, label, nth).to_le_bytes());
    }
    let spawner = Arc::new(Into1 { exec: exec.clone(), process });
    Environment::new(Arc::new(clock.clone()), Entropy::from_seed(key), Tasks::on(spawner))
}
