//! The table: how it is made, and how it is known to be ours.
//!
//! One item of the table names the format of all others. It is made last, so a table with it is whole, and one without
//! it is nobody's of ours.

use std::time::Duration;

use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ProvisionedThroughput,
    ScalarAttributeType, TableDescription, TableStatus,
};
use steadfast_core::{ErrorKind, Result};

use super::Location;
use super::failure::{Failure, foreign};
use super::requests::{Failed, KEY, Requests, STORE, text};
use crate::Sdk;

/// The partition and the key of the item that names the format. Stores' partitions begin with a slash.
const MARK: &str = "steadfast";
const FORMAT_ATTRIBUTE: &str = "format";
/// The format of items that this build reads and writes.
const FORMAT: u32 = 1;

/// How long a table may take to be made; it takes some 10 s.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_secs(1);

/// What is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capacity {
    /// Each request.
    #[default]
    OnDemand,
    /// So much a second, used or not.
    Provisioned {
        /// Units of 4 KiB, consistently read.
        reads: u32,
        /// Units of 1 KiB.
        writes: u32,
    },
}

/// What there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Made {
    /// The table was made.
    Now,
    /// It was there, and ours.
    Before,
}

/// Makes the table of a store, or sees to it that the one that is there is ours; whatever another call has left half-made
/// is finished. The table is protected against deletion.
///
/// # Errors
/// `Invalid` if a table of that name is somebody else's; it is left as it is. Else as
/// [`DynamoDb::connect`](super::DynamoDb::connect).
pub async fn create_table(sdk: &Sdk, location: Location, capacity: Capacity) -> Result<Made> {
    let requests = Requests::new(sdk, location).await?;
    let clock = requests.environment().clock();
    let begun = clock.monotonic();
    let mut made = Made::Before;
    loop {
        match describe(&requests).await? {
            None => {
                begin(&requests, capacity).await?;
                made = Made::Now;
            }
            Some(table) => {
                if !has_our_key(&table) {
                    return Err(not_ours(&requests));
                }
                if table.table_status() == Some(&TableStatus::Active) {
                    break;
                }
            }
        }
        if clock.monotonic().since(begun) > PATIENCE {
            let failure = Failure::refused(
                ErrorKind::Unavailable,
                format!("the table is not active after {PATIENCE:?}; run it again"),
            );
            return Err(requests.error(failure, "create", &"the table"));
        }
        clock.sleep(PAUSE).await;
    }
    if mark(&requests).await?.is_none() {
        if made == Made::Before && has_items(&requests).await? {
            return Err(not_ours(&requests));
        }
        set_mark(&requests).await?;
        made = Made::Now;
    }
    check(&requests).await?;
    Ok(made)
}

/// Sees to it that the table is there, is ours, and has a format that this build knows.
pub(crate) async fn check(requests: &Requests) -> Result<()> {
    let refused =
        |kind, message| Err(requests.error(Failure::refused(kind, message), "connect", &"the store"));
    match mark(requests).await? {
        Some(FORMAT) => Ok(()),
        Some(other) => refused(
            ErrorKind::Corrupt,
            format!("the table has format {other}, and this build knows {FORMAT}: run the newer version"),
        ),
        None => refused(
            ErrorKind::NotFound,
            format!(
                "the table is there, and not made for a store{}; one that was left half-made is finished by it",
                foreign(requests.location())
            ),
        ),
    }
}

async fn mark(requests: &Requests) -> Result<Option<u32>> {
    let item = requests.item("connect", &"the store", MARK, MARK).await?;
    let format = item.and_then(|mut item| item.remove(FORMAT_ATTRIBUTE));
    Ok(format.and_then(|format| format.as_n().ok().and_then(|format| format.parse().ok())))
}

async fn set_mark(requests: &Requests) -> Result<()> {
    let request = requests.client().put_item().table_name(requests.location().table());
    let request = request
        .item(STORE, text(MARK))
        .item(KEY, text(MARK))
        .item(FORMAT_ATTRIBUTE, AttributeValue::N(FORMAT.to_string()))
        .condition_expression("attribute_not_exists(#store)")
        .expression_attribute_names("#store", STORE);
    match requests.send(request.send()).await {
        Ok(_) => Ok(()),
        Err(Failed { failure, error }) => match error.as_deref() {
            // Somebody else has made it.
            Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(()),
            _ => Err(requests.error(failure, "create", &"the table")),
        },
    }
}

async fn describe(requests: &Requests) -> Result<Option<TableDescription>> {
    let request = requests.client().describe_table().table_name(requests.location().table());
    match requests.send(request.send()).await {
        Ok(answer) => Ok(answer.table),
        Err(Failed { failure, .. }) if failure.kind == ErrorKind::NotFound => Ok(None),
        Err(Failed { failure, .. }) => {
            Err(requests.error(permitted(failure), "create", &"the table").without_effect())
        }
    }
}

async fn begin(requests: &Requests, capacity: Capacity) -> Result<()> {
    let attribute = |name: &str, kind: KeyType| {
        let definition =
            AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
        let key = KeySchemaElement::builder().attribute_name(name).key_type(kind);
        (
            definition.build().expect("it has a name and a type"),
            key.build().expect("it has a name and a type"),
        )
    };
    let (store, partition) = attribute(STORE, KeyType::Hash);
    let (key, sort) = attribute(KEY, KeyType::Range);
    let request = requests
        .client()
        .create_table()
        .table_name(requests.location().table())
        .attribute_definitions(store)
        .attribute_definitions(key)
        .key_schema(partition)
        .key_schema(sort)
        .deletion_protection_enabled(true);
    let request = match capacity {
        Capacity::OnDemand => request.billing_mode(BillingMode::PayPerRequest),
        Capacity::Provisioned { reads, writes } => {
            let throughput = ProvisionedThroughput::builder()
                .read_capacity_units(reads.into())
                .write_capacity_units(writes.into());
            let throughput = throughput.build().expect("it has both");
            request.billing_mode(BillingMode::Provisioned).provisioned_throughput(throughput)
        }
    };
    match requests.send(request.send()).await {
        Ok(_) => Ok(()),
        // It is looked at again, and so is found if it was made.
        Err(Failed { failure, .. }) if failure.may_have_happened => Ok(()),
        Err(Failed { failure, error }) => match error.as_deref() {
            // Somebody else makes it.
            Some(CreateTableError::ResourceInUseException(_)) => Ok(()),
            _ => Err(requests.error(permitted(failure), "create", &"the table")),
        },
    }
}

fn has_our_key(table: &TableDescription) -> bool {
    let key = table.key_schema().iter().map(|part| (part.attribute_name(), part.key_type()));
    let texts = table.attribute_definitions().iter().filter(|attribute| {
        [STORE, KEY].contains(&attribute.attribute_name())
            && attribute.attribute_type() == &ScalarAttributeType::S
    });
    key.eq([(STORE, &KeyType::Hash), (KEY, &KeyType::Range)]) && texts.count() == 2
}

async fn has_items(requests: &Requests) -> Result<bool> {
    let request =
        requests.client().scan().table_name(requests.location().table()).consistent_read(true).limit(1);
    let answer = requests.send(request.send()).await;
    let answer = answer
        .map_err(|failed| requests.error(permitted(failed.failure), "create", &"the table").without_effect());
    Ok(answer?.count() > 0)
}

fn not_ours(requests: &Requests) -> steadfast_core::Error {
    let message = format!("there is a table of this name{}", foreign(requests.location()));
    requests.error(Failure::refused(ErrorKind::Invalid, message), "create", &"the table")
}

/// Making a table takes more rights than using it.
fn permitted(mut failure: Failure) -> Failure {
    if failure.kind == ErrorKind::Denied {
        failure.message.push_str(", and to make it dynamodb:CreateTable, DescribeTable and Scan");
    }
    failure
}
