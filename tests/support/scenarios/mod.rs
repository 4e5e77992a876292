//! What is done to a service of whatever engine, and what must hold afterwards. Each scenario is written once.

mod clock;
mod crashes;
mod disks;
mod failovers;
mod killed;
mod operations;
mod starts;
mod stopped;

#[allow(unused_imports, reason = "not every engine's clock is set")]
pub use clock::*;
pub use crashes::*;
pub use disks::*;
#[allow(unused_imports, reason = "not every engine is led by us")]
pub use failovers::*;
pub use killed::*;
pub use operations::*;
pub use starts::*;
pub use stopped::*;

use std::path::PathBuf;

use steadfast_core::control::MemberView;
use steadfast_core::model::{MemberPhase, Reason};

use super::checks::Identity;
use super::cluster::Cluster;
use super::engine::Engine;
use super::writer::{Target, Writer};
use super::{process, until};

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

    pub fn target(&self) -> Target {
        Target::of(&self.cluster, self.engine, SERVICE)
    }

    pub fn member(&self, name: &str) -> MemberView {
        self.cluster.member(SERVICE, name)
    }

    /// A member that does not lead.
    pub fn follower(&self) -> MemberView {
        let leader = self.cluster.leader(SERVICE).name;
        self.cluster.service(SERVICE).members.into_iter().rfind(|member| member.name != leader).unwrap()
    }

    /// The folder of the member's data on its volume.
    pub fn volume(&self, member: &str) -> PathBuf {
        let volume = &self.member(member).volumes[0];
        self.cluster.data().join("volumes").join(volume.as_str()).join("data")
    }

    /// The process of every member's engine, with its time of start.
    pub fn lives(&self) -> Vec<(i32, Option<u64>)> {
        let members = self.cluster.service(SERVICE).members;
        let engines = members.iter().map(|member| self.cluster.guard(member.name.as_str()).engine());
        engines.map(|pid| (pid, process::started(pid))).collect()
    }

    /// Waits until another life of the member's engine serves.
    pub fn new_life(&self, member: &str, old: &str) -> MemberView {
        until(&format!("{member} serves in another life"), || {
            let view = self.member(member);
            let another = view.incarnation.as_ref().is_some_and(|life| life.as_str() != old);
            if another && serves(&view) { Ok(view) } else { Err(format!("{view:?}")) }
        })
    }

    /// Waits until the member serves on another node.
    pub fn elsewhere(&self, member: &str, node: &str) -> MemberView {
        until(&format!("{member} serves elsewhere than on {node}"), || {
            let view = self.member(member);
            let moved = view.node.as_ref().is_some_and(|now| now.as_str() != node);
            if moved && serves(&view) { Ok(view) } else { Err(format!("{view:?}")) }
        })
    }

    /// Waits until users are shown that the member waits for one of these, and gives what they are shown.
    pub fn blocked(&self, member: &str, reasons: &[Reason]) -> MemberView {
        until(&format!("{member} is shown to wait for one of {reasons:?}"), || {
            let view = self.member(member);
            match &view.blocked {
                Some((reason, _)) if reasons.contains(reason) => Ok(view),
                _ => Err(format!("{view:?}")),
            }
        })
    }
}

/// Whether the member serves, as was seen just now.
pub fn serves(view: &MemberView) -> bool {
    view.phase == MemberPhase::Serving && view.ready && !view.stale
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
