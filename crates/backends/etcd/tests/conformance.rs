//! The store in etcd against the metadata contract: each rule with an etcd of its own.

mod members;

use members::Members;
use steadfast_backend_etcd::{EtcdDb, EtcdOptions, MAX_VALUE_BYTES};
use steadfast_core::Environment;
use steadfast_core::conformance::Harness;
use steadfast_core::metadata::{MetadataCapabilities, MetadataDb};

struct OneMember;

async fn connect(members: &Members) -> EtcdDb {
    let location = format!("etcd://{}/of/tests", members.hosts());
    let options = EtcdOptions::new(location.parse().expect("it is one"));
    EtcdDb::connect(Environment::system([3; 32]), options).await.expect("it answers")
}

impl Harness for OneMember {
    type Backend = EtcdDb;
    type Guard = Members;

    async fn open(&self) -> (Members, EtcdDb) {
        let members = Members::start(1);
        let db = connect(&members).await;
        (members, db)
    }

    async fn reopen(&self, members: &Members) -> EtcdDb {
        connect(members).await
    }

    fn sequences(&self) -> u32 {
        // Each write is flushed to disk.
        16
    }
}

steadfast_core::metadata_conformance!(OneMember);

#[tokio::test]
async fn it_declares_what_it_can_do() {
    let (_members, db) = OneMember.open().await;
    let expected = MetadataCapabilities { max_value_bytes: MAX_VALUE_BYTES, watch: true, durable: true };
    assert_eq!(db.capabilities(), expected);
}
