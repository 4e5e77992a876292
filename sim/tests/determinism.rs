//! No run differs from its repeat: not in this process, not on a fresh thread, not in another process. And when one
//! does, the first event that differs is named.
//!
//! `STEADFAST_SIM_RUNS=1000 cargo test --release -p steadfast-sim --test determinism` does it a thousand times.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_types, reason = "one test shows what comes of a banned source")]

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::process::Command;
use std::time::Duration;

use steadfast_core::error::Result;
use steadfast_sim::cast::{Cast, Model, Seat};
use steadfast_sim::determinism::{divergence, hashes, sample};
use steadfast_sim::run::{Outcome, Scenario, run, run_with};
use steadfast_sim::world::Ask;

/// How many runs are repeated.
fn runs() -> u64 {
    env::var("STEADFAST_SIM_RUNS").map_or(4, |text| text.parse().unwrap())
}

const ASKED: &str = "STEADFAST_SIM_HASHES";
const MARK: &str = "hashes:";

/// Also what another process is asked to run by the test below: it prints the hashes then.
#[test]
fn hashes_of_samples_are_the_same_again() {
    let count = env::var(ASKED).map_or(2, |text| text.parse().unwrap());
    let first = hashes(0, count).unwrap();
    println!("{MARK} {first:x?}");
    if env::var_os(ASKED).is_none() {
        assert_eq!(first, hashes(0, count).unwrap());
        assert_ne!(first[0], first[1], "different samples are different runs");
    }
}

#[test]
fn runs_repeat_on_a_fresh_thread_and_in_another_process() {
    let count = runs();
    let here = hashes(0, count).unwrap();
    let there = std::thread::spawn(move || hashes(0, count).unwrap()).join().unwrap();
    assert_eq!(here, there, "on another thread");
    let told = Command::new(env::current_exe().unwrap())
        .args(["--exact", "hashes_of_samples_are_the_same_again", "--nocapture"])
        .env(ASKED, count.to_string())
        .output()
        .unwrap();
    assert!(told.status.success(), "{told:?}");
    let text = String::from_utf8(told.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once(MARK)).unwrap_or_else(|| panic!("{text}")).1;
    assert_eq!(line.trim(), format!("{here:x?}"), "in another process");
}

#[test]
fn runs_that_are_the_same_do_not_part() {
    let (first, second) = (run(&sample(1)).unwrap(), run(&sample(1)).unwrap());
    assert!(first.trace.len() > 1000, "there is a checkpoint to pass over");
    assert_eq!(divergence(&first, &second), None);
    let other = run(&sample(5)).unwrap();
    assert!(divergence(&first, &other).is_some());
}

/// How often a number was told.
#[derive(Debug, Default)]
struct Told(u64);

impl Model for Told {}

/// A program that takes what it does from the keys of a hash map, as one with a `HashMap` does when it iterates.
async fn forgetful(seat: Seat) {
    for turn in 0.. {
        seat.env().clock().sleep(Duration::from_secs(1)).await;
        let drawn = RandomState::new().hash_one(turn);
        let number = if turn < 20 { 1 } else { drawn };
        let ask = Ask { operation: "told.tell", resource: &number, writes: true, local: false };
        let effect = |told: &mut Told, _| -> Result<()> {
            told.0 += 1;
            Ok(())
        };
        seat.call(ask, effect).await.unwrap();
    }
}

#[test]
fn the_first_event_that_differs_is_named_when_somebody_uses_what_is_random() {
    let cast = Cast::new().model(Told::default).program("forgetful", forgetful);
    let scenario = Scenario::bare("told", 1);
    let (first, second) = (run_with(&scenario, &cast).unwrap(), run_with(&scenario, &cast).unwrap());
    let parted = divergence(&first, &second).unwrap();
    assert!(parted.at.millis() >= 20_000, "not before the twentieth turn: {parted:?}");
    let (one, other) = (parted.first.unwrap(), parted.second.unwrap());
    assert!(one.contains("forgetful") && one.contains("told.tell"), "{one}");
    assert_ne!(one, other);
    let begin = |outcome: &Outcome| outcome.trace[..parted.entry].to_vec();
    assert_eq!(begin(&first), begin(&second), "all before it is the same");
}
