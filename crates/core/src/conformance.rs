//! The contracts as tests: one function per rule, run for every backend, the memory ones included.
//!
//! Not covered by semantic versioning: a rule may be added in any release. Whoever writes a backend says how a
//! fresh one is opened, and a macro makes a test of each rule:
//!
//! ```
//! use steadfast_core::conformance::Harness;
//! use steadfast_core::metadata::memory::MemoryDb;
//!
//! struct Mine;
//!
//! impl Harness for Mine {
//!     type Backend = MemoryDb;
//!     type Guard = MemoryDb; // A real backend has its folder or namespace here, removed when dropped.
//!     async fn open(&self) -> (MemoryDb, MemoryDb) {
//!         let db = MemoryDb::new();
//!         (db.clone(), db)
//!     }
//!     async fn reopen(&self, guard: &MemoryDb) -> MemoryDb {
//!         guard.clone()
//!     }
//! }
//!
//! steadfast_core::metadata_conformance!(Mine);
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(steadfast_core::conformance::metadata::create_is_exclusive(&Mine));
//! ```
//!
//! | contract | macro | harness |
//! |---|---|---|
//! | [`MetadataDb`](crate::metadata::MetadataDb) | `metadata_conformance!` | [`Harness`] |
//! | [`Registry`](crate::registry::Registry) | `registry_conformance!` | [`registry::RegistryHarness`] |
//! | [`VolumeProvider`](crate::volume::VolumeProvider) | `volume_conformance!` | [`volume::VolumeHarness`] |
//! | [`SnapshotProvider`](crate::snapshot::SnapshotProvider) | `snapshot_conformance!` | [`volume::VolumeHarness`] |
//! | [`IpProvider`](crate::ip::IpProvider) | `ip_conformance!` | [`ip::IpHarness`] |
//! | [`Orchestrator`](crate::orchestrator::Orchestrator) | `orchestrator_conformance!` | [`orchestrator::OrchestratorHarness`] |
//!
//! Each test is a `#[tokio::test]`; another attribute goes in front of the harness, as in
//! `metadata_conformance!(#[tokio::test(flavor = "multi_thread")] Mine)`. A rule that the declared capabilities
//! leave out prints a line and passes, so pin what the backend declares in a test of its own.

pub mod ip;
pub mod metadata;
pub mod orchestrator;
pub mod registry;
pub mod snapshot;
pub mod volume;

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use crate::error::{Effect, Error, ErrorKind};
use crate::runtime::Environment;

/// How a backend under test is opened.
pub trait Harness {
    /// The backend.
    type Backend;
    /// What the backend needs for as long as it is tested: a folder, a namespace, a server.
    type Guard;

    /// A backend in a fresh namespace: nothing that another test wrote is in it.
    fn open(&self) -> impl Future<Output = (Self::Guard, Self::Backend)>;

    /// A second handle on the same data, as another process would have.
    fn reopen(&self, guard: &Self::Guard) -> impl Future<Output = Self::Backend>;

    /// Where the random operation sequences begin.
    fn seed(&self) -> [u8; 32] {
        [7; 32]
    }

    /// How many random operation sequences are tried.
    fn sequences(&self) -> u32 {
        48
    }
}

/// How long the backend gets for what it does by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// The outcome of `future`, which must come.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match Environment::system([0; 32]).timeout(PATIENCE, future).await {
        Some(output) => output,
        None => panic!("{what} did not come within {PATIENCE:?}"),
    }
}

/// A short pause between two looks at something that changes by itself.
async fn pause() {
    Environment::system([0; 32]).clock().sleep(Duration::from_millis(10)).await;
}

#[expect(clippy::print_stdout, reason = "who runs the suite must see what it left out")]
fn skip(rule: &str, backend: &impl Display, why: &str) {
    println!("skipped: {rule}: {backend} {why}");
}

/// The error that a refused call must end with: of this kind, and known to have had no effect.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind) {
    match result {
        Ok(value) => panic!("must be refused as {kind:?}, and was {value:?}"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error:?}");
            assert_eq!(error.effect(), Effect::None, "a refusal had no effect, and says so: {error:?}");
        }
    }
}

/// An identifier that the suite itself wrote.
fn id<T: std::str::FromStr<Err: Display>>(text: impl AsRef<str>) -> T {
    match text.as_ref().parse() {
        Ok(id) => id,
        Err(error) => panic!("{error}"),
    }
}

/// One test per rule of one contract.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    (#[$attribute:meta] $contract:ident, $harness:expr, $($rule:ident)*) => {
        $(
            #[$attribute]
            async fn $rule() {
                $crate::conformance::$contract::$rule(&$harness).await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    /// The rules in these files, and those that the macro in the first makes tests of, in order.
    fn rules_and_tests(sources: &[&'static str]) -> (Vec<&'static str>, Vec<&'static str>) {
        let lines = sources.iter().flat_map(|source| source.lines());
        let functions = lines.filter_map(|line| line.strip_prefix("pub async fn "));
        let mut rules: Vec<&str> = functions.filter_map(|rest| rest.split(['<', '(']).next()).collect();
        let (_, tests) = sources[0].split_once("macro_rules!").expect("each contract has its macro");
        let (_, tests) = tests.split_once("$harness,").expect("the macro names its harness");
        let (tests, _) = tests.split_once("\n        }").expect("the macro ends");
        let mut tests: Vec<&str> = tests.split_whitespace().collect();
        rules.sort_unstable();
        tests.sort_unstable();
        (rules, tests)
    }

    #[test]
    fn every_rule_is_a_test() {
        let metadata = [
            include_str!("conformance/metadata.rs"),
            include_str!("conformance/metadata/watch.rs"),
            include_str!("conformance/metadata/model.rs"),
        ];
        let volume = [
            include_str!("conformance/volume.rs"),
            include_str!("conformance/volume/growth.rs"),
            include_str!("conformance/volume/reach.rs"),
        ];
        let others = [
            include_str!("conformance/registry.rs"),
            include_str!("conformance/snapshot.rs"),
            include_str!("conformance/ip.rs"),
            include_str!("conformance/orchestrator.rs"),
        ];
        for sources in [&metadata[..], &volume].into_iter().chain(others.chunks(1)) {
            let (rules, tests) = rules_and_tests(sources);
            assert!(!rules.is_empty());
            assert_eq!(rules, tests);
        }
    }
}
