//! The metadata contract over DynamoDB.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use bytes::Bytes;
use futures::stream::BoxStream;
use steadfast_core::metadata::{
    CasOutcome, Hint, Key, MetadataCapabilities, MetadataDb, Page, Precondition, Record, Version,
};
use steadfast_core::{Error, ErrorKind, Result};
use tokio::sync::broadcast;

use super::Location;
use super::failure::Failure;
use super::look::{Change, Looks};
use super::requests::{Failed, KEY, Requests, STORE, VALUE, VERSION, text};
use super::table;
use crate::Sdk;

/// The longest value the store takes: 396 KiB. With key, prefix and version it is below the 400 KiB of an item, which is
/// DynamoDB's own limit and cannot be raised.
pub const MAX_VALUE_BYTES: usize = 396 * 1024;

/// The most keys of one page; DynamoDB ends a page after 1 MiB at the latest.
const LONGEST_PAGE: usize = 1_000;

/// Metadata in a DynamoDB table. Clones share its connections; watches end with the last of them.
///
/// A version is drawn at random (100 bits) for each write. A write that was sent and not answered is settled by one
/// read: if its version is there, it was applied; if not, it is told as `Unavailable` with an unknown effect, since it
/// may come yet. A request ends within 4 s, a write that has to be settled within 8 s; none is repeated here.
#[derive(Clone)]
pub struct DynamoDb {
    inner: Arc<Inner>,
}

struct Inner {
    requests: Arc<Requests>,
    partition: String,
    looks: Looks,
    /// Never sent on: watches end when it is dropped.
    _alive: broadcast::Sender<Infallible>,
}

impl DynamoDb {
    /// The store at `location`, whose table has to be there, and to be ours: so that a wrong name, region or role is
    /// told now.
    ///
    /// # Errors
    /// `Denied` without credentials, or if they do not suffice; `NotFound` if there is no such table in the region;
    /// `Invalid` if it is somebody else's; `Unavailable` if DynamoDB does not answer. The message says what to do.
    pub async fn connect(sdk: &Sdk, location: Location) -> Result<Self> {
        let partition = location.partition();
        let requests = Arc::new(Requests::new(sdk, location).await?);
        table::check(&requests).await?;
        let (alive, _) = broadcast::channel(1);
        let looks = Looks::new(Arc::clone(&requests), partition.clone(), &alive);
        Ok(DynamoDb { inner: Arc::new(Inner { requests, partition, looks, _alive: alive }) })
    }

    async fn read(&self, operation: &'static str, key: &Key) -> Result<Option<Record>> {
        let Inner { requests, partition, .. } = &*self.inner;
        let item = requests.item(operation, key, partition, key.as_str()).await?;
        item.map(|mut item| requests.record(operation, key, &mut item)).transpose()
    }

    /// What became of a write with this version that was not answered.
    async fn settle(&self, key: &Key, version: Version, failure: Failure) -> Result<CasOutcome> {
        if failure.may_have_happened
            && let Ok(Some(found)) = self.read("put", key).await
            && found.version == version
        {
            return Ok(CasOutcome::Applied(version));
        }
        Err(self.inner.requests.error(failure, "put", key))
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, key: &Key, message: String) -> Error {
        self.inner.requests.error(Failure::refused(kind, message), operation, key)
    }
}

#[async_trait]
impl MetadataDb for DynamoDb {
    fn capabilities(&self) -> MetadataCapabilities {
        MetadataCapabilities { max_value_bytes: MAX_VALUE_BYTES, watch: true, durable: true }
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.read("get", key).await
    }

    async fn put(&self, key: &Key, value: Bytes, precondition: Precondition) -> Result<CasOutcome> {
        if value.len() > MAX_VALUE_BYTES {
            let message = format!(
                "the value has {} bytes, and the store takes {MAX_VALUE_BYTES}: an item of DynamoDB has at most 400 KiB",
                value.len()
            );
            return Err(self.error(ErrorKind::Invalid, "put", key, message));
        }
        let Inner { requests, partition, looks, .. } = &*self.inner;
        let version = Version::new(requests.environment().entropy().token());
        let request = requests
            .client()
            .put_item()
            .table_name(requests.location().table())
            .item(STORE, text(partition))
            .item(KEY, text(key.as_str()))
            .item(VERSION, text(version.as_str()))
            .item(VALUE, AttributeValue::B(Blob::new(value)))
            // Whoever repeats a request on its way may let it conflict with itself: then it finds its own version.
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let request = match &precondition {
            Precondition::Absent => request
                .condition_expression("attribute_not_exists(#key)")
                .expression_attribute_names("#key", KEY),
            Precondition::Version(expected) => request
                .condition_expression("#version = :expected")
                .expression_attribute_names("#version", VERSION)
                .expression_attribute_values(":expected", text(expected.as_str())),
        };
        let outcome = match requests.send(request.send()).await {
            Ok(_) => Ok(CasOutcome::Applied(version)),
            Err(Failed { failure, error }) => match error.as_deref() {
                Some(PutItemError::ConditionalCheckFailedException(conflict)) => {
                    let found = conflict.item().and_then(|item| item.get(VERSION)?.as_s().ok());
                    let own = found.is_some_and(|found| found == version.as_str());
                    Ok(if own { CasOutcome::Applied(version) } else { CasOutcome::Conflict })
                }
                _ => self.settle(key, version, failure).await,
            },
        };
        looks.tell(key, Change::Put, &outcome);
        outcome
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<CasOutcome> {
        let Inner { requests, partition, looks, .. } = &*self.inner;
        let request = requests
            .client()
            .delete_item()
            .table_name(requests.location().table())
            .key(STORE, text(partition))
            .key(KEY, text(key.as_str()))
            .condition_expression("#version = :expected")
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":expected", text(version.as_str()));
        let outcome = match requests.send(request.send()).await {
            Ok(_) => Ok(CasOutcome::Applied(version.clone())),
            Err(Failed { failure, error }) => match error.as_deref() {
                Some(DeleteItemError::ConditionalCheckFailedException(_)) => Ok(CasOutcome::Conflict),
                // It leaves nothing behind that would tell whose deletion it was.
                _ => Err(requests.error(failure, "delete", key)),
            },
        };
        looks.tell(key, Change::Delete, &outcome);
        outcome
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        let Inner { requests, partition, .. } = &*self.inner;
        let Some((first, last)) = range(prefix, after) else { return Ok(Page::default()) };
        let limit = limit.clamp(1, LONGEST_PAGE);
        let mut items = Vec::new();
        let mut start = None;
        loop {
            // One more than is asked for: whether there is more has to be known, and the end of a page does not say it.
            let wanted = limit + 1 - items.len();
            let request = requests
                .client()
                .query()
                .table_name(requests.location().table())
                .consistent_read(true)
                .key_condition_expression("#store = :store AND #key BETWEEN :first AND :last")
                .expression_attribute_names("#store", STORE)
                .expression_attribute_names("#key", KEY)
                .expression_attribute_values(":store", text(partition))
                .expression_attribute_values(":first", text(&first))
                .expression_attribute_values(":last", text(&last))
                .limit(i32::try_from(wanted).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start);
            let answer = requests.read("scan", prefix, request.send()).await?;
            for mut item in answer.items.unwrap_or_default() {
                let key =
                    item.remove(KEY).and_then(|key| key.as_s().ok().and_then(|key| key.parse::<Key>().ok()));
                let key = key.ok_or_else(|| {
                    let message = "an item whose key is none of ours: something else writes there";
                    self.error(ErrorKind::Corrupt, "scan", prefix, message.to_owned())
                })?;
                let record = requests.record("scan", &key, &mut item)?;
                items.push((key, record));
            }
            start = answer.last_evaluated_key.filter(|start| !start.is_empty());
            // A long page ends early. Its last item is left for the next one: so there certainly is more.
            if start.is_none() || items.len() > 1 {
                break;
            }
        }
        let more = items.len() > limit || start.is_some();
        items.truncate(if more { limit.min(items.len() - 1) } else { limit });
        Ok(Page { items, more })
    }

    async fn watch(&self, prefix: &Key) -> Result<BoxStream<'static, Hint>> {
        self.inner.looks.watch(prefix).await
    }
}

/// The first and the last text that a key under `prefix`, after `after`, can be. None if there is none.
///
/// Of the characters of keys '-' is the least, and '~' is behind all of them.
fn range(prefix: &Key, after: Option<&Key>) -> Option<(String, String)> {
    let (first, last) = (format!("{prefix}/"), format!("{prefix}/~"));
    let first = match after {
        Some(after) => first.max(format!("{after}-")),
        None => first,
    };
    (first <= last).then_some((first, last))
}

impl fmt::Display for DynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.requests.fmt(f)
    }
}

impl fmt::Debug for DynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDb").field("location", self.inner.requests.location()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_what_lies_under_the_prefix_and_after_the_last_key() {
        let key = |text: &str| text.parse::<Key>().unwrap();
        let within = |found: &Option<(String, String)>, text: &str| {
            found.as_ref().is_some_and(|(first, last)| (first.as_str()..=last.as_str()).contains(&text))
        };
        let all = range(&key("a"), None);
        for (text, inside) in [
            ("a/-", true),
            ("a/z/z", true),
            ("a/@", true),
            ("a", false),
            ("a0", false),
            ("a-/b", false),
            ("a.b", false),
        ] {
            assert_eq!(within(&all, text), inside, "{text}");
        }
        let later = range(&key("a"), Some(&key("a/b")));
        for (text, inside) in [("a/b", false), ("a/a", false), ("a/b-", true), ("a/b/c", true), ("a/c", true)]
        {
            assert_eq!(within(&later, text), inside, "{text}");
        }
        assert_eq!(range(&key("a"), Some(&key("A"))), all);
        assert_eq!(range(&key("a"), Some(&key("b"))), None);
    }
}
