//! The remote store against the metadata contract, over a real server with a memory store.

use std::sync::Arc;

use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig};
use steadfast_api::testing::{self, SERVER, TestServer};
use steadfast_backend_remote::RemoteDb;
use steadfast_core::Environment;
use steadfast_core::conformance::Harness;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::metadata::{MetadataCapabilities, MetadataDb};

struct OverHttp;

async fn connect(server: &TestServer) -> RemoteDb {
    let environment = Environment::system([3; 32]);
    let token = Token::new(SERVER).expect("the token is a word");
    let config = ClientConfig::new([server.url()], testing::cluster(), Some(token));
    let client = Client::new(environment.clone(), config).expect("the address is one");
    RemoteDb::connect(environment, client).await.expect("the server answers")
}

impl Harness for OverHttp {
    type Backend = RemoteDb;
    type Guard = TestServer;

    async fn open(&self) -> (TestServer, RemoteDb) {
        let server =
            TestServer::start(|environment| testing::parts(environment, Arc::new(MemoryDb::new()))).await;
        let db = connect(&server).await;
        (server, db)
    }

    async fn reopen(&self, server: &TestServer) -> RemoteDb {
        connect(server).await
    }

    fn sequences(&self) -> u32 {
        // Each opens a server.
        16
    }
}

steadfast_core::metadata_conformance!(OverHttp);

/// What the memory store behind it declares, so that no rule of the suite is passed over.
#[tokio::test]
async fn it_declares_what_the_store_behind_it_can_do() {
    let (_server, db) = OverHttp.open().await;
    let expected =
        MetadataCapabilities { max_value_bytes: MemoryDb::MAX_VALUE_BYTES, watch: true, durable: false };
    assert_eq!(db.capabilities(), expected);
    assert_eq!(MemoryDb::new().capabilities(), expected);
}
