//! The store in DynamoDB, on an emulator.
#![cfg(feature = "dynamodb")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "dynamodb/conformance.rs"]
mod conformance;
mod emulator;
#[path = "dynamodb/everywhere.rs"]
mod everywhere;
#[path = "dynamodb/faults.rs"]
mod faults;
#[path = "dynamodb/table.rs"]
mod table;
#[path = "dynamodb/watch.rs"]
mod watch;

use std::sync::atomic::{AtomicU8, Ordering};

use aws_credential_types::Credentials;
use emulator::Emulator;
use steadfast_backend_aws::Sdk;
use steadfast_backend_aws::dynamodb::{Capacity, DynamoDb, Location, Made, create_table};
use steadfast_core::Environment;
use steadfast_core::metadata::{CasOutcome, Key, Version};

/// What one process has. Each draws other versions, as processes do.
fn sdk(emulator: &Emulator) -> Sdk {
    static SEEDS: AtomicU8 = AtomicU8::new(0);
    let seed = [SEEDS.fetch_add(1, Ordering::Relaxed); 32];
    let somebody = Credentials::new("test", "test", None, None, "test");
    Sdk::new(Environment::system(seed)).with_endpoint(emulator.url()).with_credentials(somebody)
}

fn location() -> Location {
    "dynamodb://eu-central-1/steadfast/of/tests".parse().unwrap()
}

async fn connect(emulator: &Emulator) -> DynamoDb {
    DynamoDb::connect(&sdk(emulator), location()).await.unwrap()
}

/// An emulator with a table, and the store in it.
async fn store() -> (Emulator, DynamoDb) {
    let emulator = Emulator::start();
    let made = create_table(&sdk(&emulator), location(), Capacity::OnDemand).await.unwrap();
    assert_eq!(made, Made::Now);
    let db = connect(&emulator).await;
    (emulator, db)
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

#[track_caller]
fn applied(outcome: CasOutcome) -> Version {
    match outcome {
        CasOutcome::Applied(version) => version,
        CasOutcome::Conflict => panic!("nobody else wrote, so there is no conflict"),
    }
}
