//! Random operation sequences on a [`MetadataDb`], compared with a map.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::super::{Harness, id};
use crate::metadata::{CasOutcome, Key, MetadataDb, Precondition, Record, Version};

/// The keys that operations are tried on: alike enough to be mistaken for one another.
const NAMES: [&str; 6] = ["a", "a/b", "a/b/c", "ab", "a-b", "b"];
const PREFIXES: [&str; 3] = ["a", "a/b", "b"];

#[derive(Debug, Clone)]
enum Operation {
    Get(usize),
    Create(usize, u8),
    /// Over the version that is this many writes old.
    Update(usize, u8, usize),
    Delete(usize, usize),
    Scan(usize, Option<usize>, usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let name = 0..NAMES.len();
    // Mostly the current version, now and then an earlier one.
    let age = prop_oneof![4 => Just(0_usize), 1 => 1..4_usize];
    prop_oneof![
        2 => name.clone().prop_map(Operation::Get),
        4 => (name.clone(), any::<u8>()).prop_map(|(name, value)| Operation::Create(name, value)),
        4 => (name.clone(), any::<u8>(), age.clone()).prop_map(|(n, v, age)| Operation::Update(n, v, age)),
        3 => (name.clone(), age).prop_map(|(name, age)| Operation::Delete(name, age)),
        2 => (0..PREFIXES.len(), proptest::option::of(name), 1..5_usize)
            .prop_map(|(prefix, after, limit)| Operation::Scan(prefix, after, limit)),
    ]
}

/// Any sequence of operations ends, step by step, as it would on a map; a failing one is made as short as it
/// can be before it is shown.
pub async fn operations_agree_with_a_map<H: Harness<Backend: MetadataDb>>(harness: &H) {
    let (_guard, db) = harness.open().await;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &harness.seed());
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let mut tried = 0_u32;
    for _ in 0..harness.sequences() {
        let mut tree = vec(operation(), 1..40).new_tree(&mut runner).expect("no operation is filtered out");
        let Err(mut failure) = attempt(&db, &tree.current(), &mut tried).await else { continue };
        let mut shortest = tree.current();
        // As proptest does it: simplify while it still fails, step back when it no longer does.
        let mut changed = tree.simplify();
        while changed {
            match attempt(&db, &tree.current(), &mut tried).await {
                Err(still) => {
                    (failure, shortest) = (still, tree.current());
                    changed = tree.simplify();
                }
                Ok(()) => changed = tree.complicate(),
            }
        }
        panic!("{failure}\nafter {shortest:#?}");
    }
}

/// One sequence, in a namespace of its own.
async fn attempt(db: &impl MetadataDb, operations: &[Operation], tried: &mut u32) -> Result<(), String> {
    *tried += 1;
    let mut model = Model { root: format!("model/{tried}"), records: BTreeMap::new(), seen: BTreeMap::new() };
    for operation in operations {
        model.step(db, operation).await.map_err(|problem| format!("{operation:?}: {problem}"))?;
    }
    Ok(())
}

struct Model {
    root: String,
    records: BTreeMap<Key, Record>,
    /// Every version a key has had, oldest first.
    seen: BTreeMap<Key, Vec<Version>>,
}

impl Model {
    fn key(&self, name: &str) -> Key {
        id(format!("{}/{name}", self.root))
    }

    fn aged(&self, key: &Key, age: usize) -> Option<Version> {
        self.seen.get(key).and_then(|versions| versions.iter().rev().nth(age)).cloned()
    }

    async fn step(&mut self, db: &impl MetadataDb, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::Get(name) => {
                let key = self.key(NAMES[*name]);
                agree(&db.get(&key).await.map_err(text)?, &self.records.get(&key).cloned())
            }
            Operation::Create(name, value) => {
                let key = self.key(NAMES[*name]);
                let holds = !self.records.contains_key(&key);
                self.put(db, key, *value, Precondition::Absent, holds).await
            }
            Operation::Update(name, value, age) => {
                let key = self.key(NAMES[*name]);
                let Some(version) = self.aged(&key, *age) else { return Ok(()) };
                let holds = self.records.get(&key).is_some_and(|record| record.version == version);
                self.put(db, key, *value, Precondition::Version(version), holds).await
            }
            Operation::Delete(name, age) => {
                let key = self.key(NAMES[*name]);
                let Some(version) = self.aged(&key, *age) else { return Ok(()) };
                let holds = self.records.get(&key).is_some_and(|record| record.version == version);
                let expected =
                    if holds { CasOutcome::Applied(version.clone()) } else { CasOutcome::Conflict };
                if holds {
                    self.records.remove(&key);
                }
                agree(&db.delete(&key, &version).await.map_err(text)?, &expected)
            }
            Operation::Scan(prefix, after, limit) => {
                let prefix = self.key(PREFIXES[*prefix]);
                let after = after.map(|name| self.key(NAMES[name]));
                let page = db.scan(&prefix, after.as_ref(), *limit).await.map_err(text)?;
                let under = self.records.iter().filter(|(key, _)| {
                    key.is_under(&prefix) && after.as_ref().is_none_or(|after| *key > after)
                });
                let all: Vec<(Key, Record)> =
                    under.map(|(key, record)| (key.clone(), record.clone())).collect();
                agree(&page.more, &(all.len() > *limit))?;
                agree(&page.items, &all.into_iter().take(*limit).collect())
            }
        }
    }

    async fn put(
        &mut self,
        db: &impl MetadataDb,
        key: Key,
        value: u8,
        precondition: Precondition,
        holds: bool,
    ) -> Result<(), String> {
        let value = Bytes::from(vec![value; usize::from(value)]);
        let version = match db.put(&key, value.clone(), precondition).await.map_err(text)? {
            CasOutcome::Applied(version) if holds => version,
            CasOutcome::Conflict if !holds => return Ok(()),
            outcome => return Err(format!("{outcome:?}, though the precondition holds is {holds}")),
        };
        let seen = self.seen.entry(key.clone()).or_default();
        let earlier: BTreeSet<&str> = seen.iter().map(Version::as_str).collect();
        if earlier.contains(version.as_str()) {
            return Err(format!("{version:?} is used again"));
        }
        seen.push(version.clone());
        self.records.insert(key, Record { version, value });
        Ok(())
    }
}

fn agree<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("found {found:?}, expected {expected:?}")) }
}

fn text(error: crate::Error) -> String {
    format!("{error:?}")
}
