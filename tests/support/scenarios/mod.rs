//! What is done to a service of whatever engine, and what must hold afterwards. Each scenario is written once.

mod killed;

pub use killed::*;

use super::checks::Identity;
use super::cluster::Cluster;
use super::engine::Engine;
use super::writer::Writer;

/// The service that scenarios are about.
pub const SERVICE: &str = "s";

/// A service with a client that writes to it.
pub struct Stage {
    // In the order of dropping: the client before the cluster it writes to.
    pub writer: Writer,
    pub cluster: Cluster,
    pub identity: Identity,
    pub engine: &'static Engine,
}

impl Stage {
    /// Three members on three nodes.
    pub fn new(engine: &'static Engine) -> Stage {
        Stage::on(Cluster::start(), engine, &[])
    }

    /// A service of the engine's blueprint on this cluster.
    pub fn on(cluster: Cluster, engine: &'static Engine, arguments: &[&str]) -> Stage {
        cluster.create(SERVICE, engine.blueprint, arguments);
        let identity = cluster.identity(SERVICE);
        let writer = Writer::start(&cluster, engine, SERVICE);
        Stage { writer, cluster, identity, engine }
    }

    /// What must hold after every scenario: writes go on, every acknowledged one is there, the members are
    /// themselves. Then the cluster is ended, and nothing may be left of it.
    pub fn end(self) {
        self.writer.goes_on();
        self.cluster.settled(&self.identity);
        self.writer.finish();
    }
}

/// One test for each scenario that is named.
#[macro_export]
macro_rules! scenarios {
    ($engine:expr; $($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                $crate::support::scenarios::$name(&$engine);
            }
        )+
    };
}
