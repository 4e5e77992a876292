//! The guard's clock: runs on while the machine is suspended, and means the same to every process of the machine.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time of `CLOCK_BOOTTIME`.
pub(super) fn boot_time() -> Duration {
    // The clock exists on every Linux this runs on; were it missing, a lease would count as over.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}
