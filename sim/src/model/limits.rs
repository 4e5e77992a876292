//! How many calls providers take: token buckets, from a dated file with a source for each number.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::time::Time;

/// The file: tables of buckets, by provider.
const FILE: &str = include_str!("../../data/limits.toml");

/// A bucket as the file describes it, with where its numbers come from.
#[derive(Debug, Clone, Deserialize)]
pub struct Described {
    /// What it is called.
    pub name: String,
    /// The operations that take a token of it.
    pub operations: Vec<String>,
    /// How many tokens it holds.
    pub burst: u64,
    /// How many it gets each second.
    pub per_second: u64,
    /// Where the numbers were read.
    pub source: String,
    /// When.
    pub read: toml::value::Datetime,
}

/// A bucket of tokens; a call takes one.
#[derive(Debug, Clone)]
struct Bucket {
    name: String,
    burst: u64,
    per_second: u64,
    /// In thousandths, so that it fills by the millisecond.
    tokens: u64,
    filled: Time,
}

impl Bucket {
    fn new(name: &str, burst: u64, per_second: u64) -> Self {
        Bucket { name: name.to_owned(), burst, per_second, tokens: burst * 1000, filled: Time::ZERO }
    }

    fn take(&mut self, now: Time) -> bool {
        let passed = now.millis().saturating_sub(self.filled.millis());
        let full = self.burst * 1000;
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(self.per_second)).min(full);
        self.filled = now;
        let has = self.tokens >= 1000;
        if has {
            self.tokens -= 1000;
        }
        has
    }
}

/// The buckets of a world.
#[derive(Debug, Default)]
pub struct Limits {
    buckets: Vec<Bucket>,
    by_operation: BTreeMap<String, Vec<usize>>,
    /// Limits that a scenario sets on a contract, and until when.
    contracts: BTreeMap<String, (Bucket, Time)>,
    refused: u64,
}

/// What is known of the limits of each provider.
pub fn described() -> &'static BTreeMap<String, Vec<Described>> {
    static DESCRIBED: LazyLock<BTreeMap<String, Vec<Described>>> =
        LazyLock::new(|| toml::from_str(FILE).unwrap_or_default());
    &DESCRIBED
}

impl Limits {
    /// The limits of a provider in the file; without one, or with one that it does not know, there are none.
    pub fn of(provider: Option<&str>) -> Self {
        let mut limits = Limits::default();
        let found = provider.and_then(|provider| described().get(provider));
        for bucket in found.into_iter().flatten() {
            for operation in &bucket.operations {
                limits.by_operation.entry(operation.clone()).or_default().push(limits.buckets.len());
            }
            limits.buckets.push(Bucket::new(&bucket.name, bucket.burst, bucket.per_second));
        }
        limits
    }

    /// Limits a contract (`metadata`, `volume`…) until then.
    pub fn limit(&mut self, contract: &str, burst: u64, per_second: u64, now: Time, until: Time) {
        let mut bucket = Bucket::new(contract, burst, per_second);
        bucket.filled = now;
        self.contracts.insert(contract.to_owned(), (bucket, until));
    }

    /// Takes a call; gives the bucket that has nothing left for it.
    pub fn refuses(&mut self, operation: &str, now: Time) -> Option<String> {
        let contract = operation.split_once('.').map_or(operation, |(contract, _)| contract);
        let mut empty = None;
        if let Some((bucket, until)) = self.contracts.get_mut(contract)
            && now < *until
            && !bucket.take(now)
        {
            empty = Some(bucket.name.clone());
        }
        for index in self.by_operation.get(operation).into_iter().flatten() {
            if let Some(bucket) = self.buckets.get_mut(*index)
                && !bucket.take(now)
            {
                empty = Some(bucket.name.clone());
            }
        }
        self.refused += u64::from(empty.is_some());
        empty
    }

    /// How many calls were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Lifts what a scenario has set.
    pub fn lift(&mut self) {
        self.contracts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_source_and_a_date() {
        let file: BTreeMap<String, Vec<Described>> = toml::from_str(FILE).unwrap();
        for bucket in file.values().flatten() {
            assert!(bucket.burst > 0 && bucket.per_second > 0 && !bucket.operations.is_empty(), "{bucket:?}");
            assert!(!bucket.source.is_empty() && bucket.read.date.is_some(), "{bucket:?}");
        }
        assert!(file.contains_key("aws"));
    }

    #[test]
    fn a_bucket_gives_its_burst_and_fills_at_its_rate() {
        let mut limits = Limits::of(Some("aws"));
        let mut taken = |at| limits.refuses("registry.upsert", Time::from_millis(at)).is_none();
        assert_eq!((0..60).filter(|_| taken(0)).count(), 50);
        assert_eq!((0..60).filter(|_| taken(1_000)).count(), 10);
        assert_eq!((0..60).filter(|_| taken(60_000)).count(), 50, "no more than its burst");
        assert_eq!(limits.refused(), 10 + 50 + 10);
    }

    #[test]
    fn a_limit_of_a_scenario_ends() {
        let mut limits = Limits::default();
        limits.limit("metadata", 1, 1, Time::ZERO, Time::from_secs(10));
        assert_eq!(limits.refuses("metadata.put", Time::ZERO), None);
        assert_eq!(limits.refuses("metadata.get", Time::ZERO), Some("metadata".to_owned()));
        assert_eq!(limits.refuses("volume.list", Time::ZERO), None);
        assert_eq!(limits.refuses("metadata.get", Time::from_secs(11)), None);
    }
}
