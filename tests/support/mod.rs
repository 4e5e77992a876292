//! Real clusters for the end-to-end tests: `steadfast up` in a folder of its own, driven through the command line
//! and the engines' own clients, and looked at from outside.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

pub mod checks;
pub mod cluster;
pub mod dns;
pub mod engine;
pub mod guards;
pub mod postgresql;
pub mod process;
pub mod redis;
pub mod redis_cluster;
pub mod scenarios;
pub mod writer;
pub mod zookeeper;

use std::time::{Duration, Instant};

/// How long anything may take before a test fails. Conditions are polled, so this is not waited for.
pub const DEADLINE: Duration = Duration::from_secs(180);

const POLL: Duration = Duration::from_millis(50);

/// Looks again and again until there is a result; panics with the last reason why there was none.
pub fn until<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    until_within(DEADLINE, what, look)
}

/// As [`until`], with a deadline of its own.
pub fn until_within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if begun.elapsed() > deadline => {
                panic!("after {deadline:?} still not so: {what}: {reason}")
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Holds for as long as `time`, looked at again and again: for what must not happen.
pub fn holds_for(time: Duration, what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if let Err(reason) = look() {
            panic!("it did not hold: {what}: {reason}");
        }
        std::thread::sleep(POLL);
    }
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
