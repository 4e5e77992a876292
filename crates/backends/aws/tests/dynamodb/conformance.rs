//! The metadata contract: each rule with an emulator of its own.

use steadfast_backend_aws::dynamodb::{DynamoDb, MAX_VALUE_BYTES};
use steadfast_core::conformance::Harness;
use steadfast_core::metadata::{MetadataCapabilities, MetadataDb as _};

use crate::emulator::Emulator;
use crate::{connect, store};

struct OneTable;

impl Harness for OneTable {
    type Backend = DynamoDb;
    type Guard = Emulator;

    async fn open(&self) -> (Emulator, DynamoDb) {
        store().await
    }

    async fn reopen(&self, emulator: &Emulator) -> DynamoDb {
        connect(emulator).await
    }

    fn sequences(&self) -> u32 {
        // Each operation is a request.
        12
    }
}

steadfast_core::metadata_conformance!(OneTable);

#[tokio::test]
async fn it_declares_what_it_can_do() {
    let (_emulator, db) = store().await;
    let expected = MetadataCapabilities { max_value_bytes: MAX_VALUE_BYTES, watch: true, durable: true };
    assert_eq!(db.capabilities(), expected);
}
