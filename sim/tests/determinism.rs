//! No run differs from its repeat: not in this process, not on a fresh thread, not in another process. And when one
//! does, the first event that differs is named.
//!
//! `STEADFAST_SIM_RUNS=1000 cargo test --profile sim -p steadfast-sim --test determinism` repeats a thousand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::disallowed_types, reason = "one test shows what comes of a banned source")]

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::process::{Command, Output};
use std::time::Duration;

use steadfast_core::error::Result;
use steadfast_sim::cast::{Cast, Model, Seat};
use steadfast_sim::run::{Outcome, Scenario, run_with};
use steadfast_sim::search::doctor::{
    Divergence, Print, carry, cases, divergence, events_of, on_fresh_thread,
};
use steadfast_sim::trace::Trace;
use steadfast_sim::world::Ask;

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_steadfast-sim")).arg("doctor").args(arguments).output().unwrap()
}

#[test]
fn runs_repeat_on_fresh_threads_and_in_another_process() {
    let count = env::var("STEADFAST_SIM_RUNS").unwrap_or_else(|_| "4".to_owned());
    let told = doctor(&["--cases", &count, "-o", "json"]);
    assert!(told.status.success(), "{told:?}");
    let report: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let count: u64 = count.parse().unwrap();
    assert_eq!((&report["cases"], &report["runs"]), (&count.into(), &(count * 3).into()), "{report}");
    assert_eq!(report["diverging"], 0, "{report}");
    assert!(report["events"].as_u64() > Some(count * 1_000), "{report}");
}

#[test]
fn the_doctor_names_who_took_from_a_planted_source() {
    for source in ["hash-order", "clock"] {
        let planted = doctor(&["--cases", "1", "--plant", source]);
        let text = String::from_utf8(planted.stdout).unwrap();
        assert_eq!(planted.status.code(), Some(1), "{text}");
        assert!(text.contains("first at entry"), "{text}");
        assert!(text.contains("planted program"), "it names who took from the banned source: {text}");
    }
}

fn parted(one: &Outcome, other: &Outcome) -> Option<Divergence> {
    divergence(0, &events_of(one, 0), &events_of(other, 0))
}

#[test]
fn runs_that_are_the_same_do_not_part() {
    let (cases, carry) = (cases(2, 1), carry(None));
    let of = |nth: usize| on_fresh_thread(&cases[nth], &*carry).unwrap();
    let (first, second) = (of(0), of(0));
    assert!(first.trace.len() > Trace::CHECKPOINT, "there is a checkpoint to pass over");
    assert_eq!((Print::of(&first), parted(&first, &second)), (Print::of(&second), None));
    let other = of(1);
    assert_ne!(first.hash, other.hash);
    let shared = Print::of(&first).shared(&Print::of(&other));
    assert!(parted(&first, &other).unwrap().entry >= shared);
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
    let parted = parted(&first, &second).unwrap();
    assert!(first.trace[parted.entry].at.millis() >= 20_000, "not before the twentieth turn: {parted:?}");
    assert!(parted.one.contains("forgetful") && parted.one.contains("told.tell"), "{parted:?}");
    assert_ne!(parted.one, parted.other);
    let begin = |outcome: &Outcome| outcome.trace[..parted.entry].to_vec();
    assert_eq!(begin(&first), begin(&second), "all before it is the same");
}
