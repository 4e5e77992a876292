//! The engine of the fuzz targets in `tests/`: damages good inputs, and finds the smallest one that fails.
//!
//! Runs on stable Rust as ordinary tests: a bounded number of inputs, always the same, in `make test`; new ones for
//! a given time in `make fuzz`. What it lacks against a fuzzer that is guided by coverage it makes up for by
//! starting from inputs that reach every part of a parser, and by the words of its language.
//!
//! - `FUZZ_CASES`: how many inputs; the default is the target's own
//! - `FUZZ_SECONDS`: new inputs for this long
//! - `FUZZ_SEED`: the first batch of a long run, as it was printed

use std::fmt;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// How long one input may take before that is a failure: no parser needs more for a page of text.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest input.
const LONGEST: usize = 64 * 1024;
/// How many inputs a long run takes in one batch.
const BATCH: u32 = 1000;

/// What a target starts from.
#[derive(Debug, Clone, Default)]
pub struct Material {
    /// Good inputs.
    pub seeds: Vec<Vec<u8>>,
    /// Words of the language, to be put anywhere.
    pub words: Vec<Vec<u8>>,
}

impl Material {
    /// Material of texts.
    pub fn of(seeds: &[&str], words: &[&str]) -> Self {
        let bytes = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        Material { seeds: bytes(seeds), words: bytes(words) }
    }
}

/// Tries `check` on the seeds themselves, and then on `cases` damaged ones (or as the environment says).
///
/// # Panics
/// If `check` panics or takes longer than 20 s, with the smallest input that was found to do so.
pub fn fuzz(target: &str, material: &Material, cases: u32, check: impl Fn(&[u8])) {
    for seed in &material.seeds {
        check(seed);
    }
    let begun = Instant::now();
    let (mut tried, mut slowest) = (0u64, Duration::ZERO);
    let mut run = |batch: u64, cases: u32| {
        slowest = slowest.max(run_batch(target, material, batch, cases, &check));
        tried += u64::from(cases);
    };
    match number("FUZZ_SECONDS") {
        None => {
            let cases = number("FUZZ_CASES").and_then(|cases| u32::try_from(cases).ok()).unwrap_or(cases);
            run(0, cases);
        }
        Some(seconds) => {
            let first = number("FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 32);
            let mut batch = first;
            while begun.elapsed() < Duration::from_secs(seconds) {
                run(batch, BATCH);
                batch = batch.wrapping_add(1);
            }
        }
    }
    told(format_args!(
        "{target}: {tried} inputs in {:.1} s, the slowest took {slowest:?}",
        begun.elapsed().as_secs_f64()
    ));
}

#[expect(clippy::print_stdout, reason = "who runs it must see how much was tried")]
fn told(what: fmt::Arguments<'_>) {
    println!("{what}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(error) => panic!("{variable}={text}: {error}"),
    }
}

fn run_batch(target: &str, material: &Material, batch: u64, cases: u32, check: &impl Fn(&[u8])) -> Duration {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&batch.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let slowest = std::cell::Cell::new(Duration::ZERO);
    let found = runner.run(&input(material), |Input(bytes)| {
        let begun = Instant::now();
        check(&bytes);
        let took = begun.elapsed();
        slowest.set(slowest.get().max(took));
        if took > PATIENCE { Err(TestCaseError::fail(format!("took {took:?}"))) } else { Ok(()) }
    });
    match found {
        Ok(()) => slowest.get(),
        Err(TestError::Fail(why, input)) => {
            panic!(
                "{target} fails (FUZZ_SEED={batch} FUZZ_SECONDS=1): {why}\nthe smallest input found:\n{input:?}"
            )
        }
        Err(TestError::Abort(why)) => panic!("{target} was given up: {why}"),
    }
}

/// An input that shows itself so that it can be pasted into a test.
#[derive(Clone)]
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// One damage.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Word(Index, Index),
    Replace(Index, u8, Index),
    Delete(Index, u8),
    Repeat(Index, u8, u8),
    Nest(Index, u8, u16),
    Splice(Index, Index, Index, u8),
    Truncate(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        2 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => (at(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        4 => (at(), at()).prop_map(|(at, word)| Damage::Word(at, word)),
        4 => (at(), any::<u8>(), at()).prop_map(|(at, length, word)| Damage::Replace(at, length, word)),
        2 => (at(), any::<u8>()).prop_map(|(at, length)| Damage::Delete(at, length)),
        1 => (at(), any::<u8>(), any::<u8>()).prop_map(|(at, length, times)| Damage::Repeat(at, length, times)),
        1 => (at(), any::<u8>(), 1..2000u16).prop_map(|(at, kind, depth)| Damage::Nest(at, kind, depth)),
        2 => (at(), at(), at(), any::<u8>())
            .prop_map(|(at, seed, from, length)| Damage::Splice(at, seed, from, length)),
        1 => at().prop_map(Damage::Truncate),
    ]
}

fn input(material: &Material) -> impl Strategy<Value = Input> + use<> {
    let material = material.clone();
    (any::<Index>(), vec(damage(), 0..12)).prop_map(move |(seed, damages)| {
        let mut bytes = pick(&material.seeds, &seed).to_vec();
        for damage in &damages {
            apply(&mut bytes, damage, &material);
        }
        bytes.truncate(LONGEST);
        Input(bytes)
    })
}

fn pick<'a>(from: &'a [Vec<u8>], which: &Index) -> &'a [u8] {
    if from.is_empty() { &[] } else { from[which.index(from.len())].as_slice() }
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage, material: &Material) {
    let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
    let range = |at: &Index, length: u8, bytes: &[u8]| {
        let from = place(at, bytes);
        from..from.saturating_add(usize::from(length)).min(bytes.len())
    };
    match damage {
        Damage::Set(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Damage::Flip(at, bit) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Set(..) | Damage::Flip(..) => {}
        Damage::Insert(at, inserted) => {
            let at = place(at, bytes);
            bytes.splice(at..at, inserted.iter().copied());
        }
        Damage::Word(at, word) => {
            let at = place(at, bytes);
            bytes.splice(at..at, pick(&material.words, word).iter().copied());
        }
        Damage::Replace(at, length, word) => {
            let range = token(bytes, range(at, length % 16, bytes));
            bytes.splice(range, pick(&material.words, word).iter().copied());
        }
        Damage::Delete(at, length) => {
            bytes.drain(range(at, *length, bytes));
        }
        Damage::Repeat(at, length, times) => {
            let range = range(at, *length, bytes);
            let part = bytes[range.clone()].repeat(usize::from(*times));
            bytes.splice(range, part);
        }
        Damage::Nest(at, kind, depth) => {
            const OPENINGS: [&[u8]; 6] = [b"[", b"{", b"(", b"{\"a\":", b"{a=", b"a."];
            let opening = OPENINGS[usize::from(*kind) % OPENINGS.len()].repeat(usize::from(*depth));
            let at = place(at, bytes);
            bytes.splice(at..at, opening);
        }
        Damage::Splice(at, seed, from, length) => {
            let other = pick(&material.seeds, seed);
            let part = other[range(from, *length, other)].to_vec();
            let at = place(at, bytes);
            bytes.splice(at..at, part);
        }
        Damage::Truncate(at) => bytes.truncate(place(at, bytes)),
    }
}

/// Grown to whole words, so that one value takes the place of another.
fn token(bytes: &[u8], range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let start = range.start - bytes[..range.start].iter().rev().take_while(|byte| plain(byte)).count();
    let end = range.end + bytes[range.end..].iter().take_while(|byte| plain(byte)).count();
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_bug_is_found_and_made_small() {
        let material = Material::of(&["alpha = 1\nbeta = 2\n"], &["boom"]);
        let found = std::panic::catch_unwind(|| {
            run_batch("planted", &material, 7, 20_000, &|bytes: &[u8]| {
                assert!(!bytes.windows(4).any(|window| window == b"boom"), "planted");
            })
        });
        let message = *found.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("planted") && message.contains("boom"), "{message}");
    }

    #[test]
    fn the_same_batch_tries_the_same_inputs() {
        let material = Material::of(&["alpha = 1\nbeta = 2\n"], &["gamma"]);
        let inputs = || {
            let seen = std::cell::RefCell::new(Vec::new());
            run_batch("same", &material, 3, 50, &|bytes: &[u8]| seen.borrow_mut().push(bytes.to_vec()));
            seen.into_inner()
        };
        assert_eq!(inputs(), inputs());
    }
}
