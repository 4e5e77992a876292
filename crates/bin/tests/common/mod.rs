//! What the tests of the program share.

#[allow(dead_code, reason = "not every test file has a cluster")]
pub(crate) mod cluster;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test, away from whatever this user has.
pub(crate) fn steadfast(data: &Path) -> Command {
    for_user(Command::new(env!("CARGO_BIN_EXE_steadfast")), data)
}

/// The same by way of another command: with nothing of this process's environment that the program goes by.
pub(crate) fn for_user(mut command: Command, data: &Path) -> Command {
    for variable in [
        "STEADFAST_SERVER",
        "STEADFAST_TOKEN_FILE",
        "STEADFAST_CA_FILE",
        "STEADFAST_CLUSTER",
        "STEADFAST_LOG",
        "STEADFAST_STARTED_AGAIN",
        "MALLOC_ARENA_MAX",
        "NO_COLOR",
        "KEEP",
    ] {
        command.env_remove(variable);
    }
    command.env("STEADFAST_DATA", data).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(data: &Path, arguments: &[&str]) -> Output {
    steadfast(data).args(arguments).output().unwrap()
}

/// What it printed.
pub(crate) fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What it complained about.
pub(crate) fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Checks the exit code, and shows everything if it is another.
pub(crate) fn expect(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", out(output), err(output));
}

/// Waits for something with a generous deadline.
#[allow(dead_code, reason = "not every test file waits")]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not after 60 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}
