//! The records in DynamoDB.

use std::sync::Arc;

use steadfast_backends::aws::Sdk;
use steadfast_backends::aws::dynamodb::{Capacity, DynamoDb, Made, create_table};
use steadfast_backends::embedded::keys::FileKeyProvider;
use steadfast_backends::remote::SwitchDb;
use steadfast_core::{Environment, ErrorKind};

pub(super) use steadfast_backends::aws::dynamodb::Location;

use super::StoreOptions;
use super::folder::belongs;
use crate::config::ClusterConfig;
use crate::data_dir::DataDir;
use crate::exit::{Failure, Result};

pub(super) fn parse(text: &str) -> Result<Location> {
    text.parse().map_err(|error| {
        Failure::usage(format!("--store: {error}"), "write --store dynamodb://REGION/TABLE/PREFIX")
    })
}

pub(super) async fn open(
    options: &StoreOptions,
    location: Location,
    data: &DataDir,
    config: &ClusterConfig,
    key: &FileKeyProvider,
    environment: &Environment,
) -> Result<SwitchDb> {
    let StoreOptions { store: _, store_password_file, store_ca, store_cert, store_key } = options;
    if [store_password_file, store_ca, store_cert, store_key].into_iter().any(Option::is_some) {
        return Err(Failure::usage(
            format!("--store {location} knows no passwords and certificates, and they are given"),
            "leave out --store-password-file, --store-ca, --store-cert and --store-key: who asks is the role or the \
             profile of AWS that this process has",
        ));
    }
    let sdk = Sdk::new(environment.clone());
    let db = DynamoDb::connect(&sdk, location.clone()).await.map_err(|error| refused(&error))?;
    belongs(Arc::new(db.clone()), data, config, key, environment).await?;
    tracing::info!(store = %location, "the records are in DynamoDB");
    Ok(SwitchDb::local(Arc::new(db)))
}

/// Makes the table, and says what was done.
pub(super) async fn create(location: Location, provisioned: Option<(u32, u32)>) -> Result<String> {
    let capacity = match provisioned {
        Some((reads, writes)) => Capacity::Provisioned { reads, writes },
        None => Capacity::OnDemand,
    };
    let sdk = Sdk::new(Environment::system(crate::data_dir::random()?));
    let made = create_table(&sdk, location.clone(), capacity).await.map_err(|error| refused(&error))?;
    let (region, table) = (location.region(), location.table());
    Ok(match made {
        Made::Now => format!("table {table} in {region} is made: use it with --store {location}"),
        Made::Before => format!("table {table} in {region} is there already: use it with --store {location}"),
    })
}

fn refused(error: &steadfast_core::Error) -> Failure {
    let failure = Failure::new(error.chain());
    match error.kind() {
        ErrorKind::Denied => failure.reason("PermissionDenied").remedy(
            "docs/store.md has the policy that the role of servers needs, and that of who makes the table",
        ),
        ErrorKind::Unavailable | ErrorKind::Throttled => failure
            .reason("StoreUnavailable")
            .remedy("check the region in --store, and AWS_ENDPOINT_URL if it is set"),
        ErrorKind::NotFound => {
            failure.remedy("check region and table in --store, or make it: steadfast store create URL")
        }
        _ => failure
            .remedy("check --store: each table has one region, and is made with `steadfast store create`"),
    }
}
