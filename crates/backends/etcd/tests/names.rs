//! The servers' own names with the records in etcd, against the registry's contract: each rule with an etcd of its own, a
//! server that answers from it, and a second handle that is another machine's.

mod members;

use std::sync::Arc;

use members::Members;
use steadfast_backend_embedded::dns::{DnsOptions, DnsServer, StoreRegistry};
use steadfast_backend_etcd::{EtcdDb, EtcdOptions};
use steadfast_core::Environment;
use steadfast_core::conformance::Harness;
use steadfast_core::conformance::registry::RegistryHarness;

struct Served;

async fn registry(members: &Members, environment: &Environment) -> StoreRegistry {
    let location = format!("etcd://{}/of/tests", members.hosts());
    let options = EtcdOptions::new(location.parse().expect("it is one"));
    let db = EtcdDb::connect(environment.clone(), options).await.expect("it answers");
    let prefix = "steadfast/tests".parse().expect("it is a key");
    StoreRegistry::new(Arc::new(db), environment, prefix).expect("there is room for keys")
}

impl Harness for Served {
    type Backend = StoreRegistry;
    type Guard = (Members, DnsServer);

    async fn open(&self) -> (Self::Guard, StoreRegistry) {
        let members = Members::start(1);
        let environment = Environment::system([5; 32]);
        let registry = registry(&members, &environment).await;
        let options = DnsOptions::new("127.0.0.1:0".parse().expect("it is one"));
        let server = DnsServer::start(&environment, &registry, options).await.expect("it listens");
        ((members, server), registry)
    }

    async fn reopen(&self, (members, _): &Self::Guard) -> StoreRegistry {
        registry(members, &Environment::system([6; 32])).await
    }
}

impl RegistryHarness for Served {}

steadfast_core::registry_conformance!(Served);
