//! The agent's seam to the engines of the model.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use steadfast_agent::seams::{EngineSource, MadeEngine};
use steadfast_core::engine::{
    Command, ConfigFile, Engine, EngineContext, EngineView, Peer, Prepared, StopSignal, WantedRole,
};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::ids::{MemberName, NodeName};
use steadfast_core::model::{Durability, Leadership, Reason, SpecRevision};

use super::host::{ask, disk_answers, volume_of_engine};
use crate::hash::{self, Hasher};
use crate::model::Cloud;
use crate::model::engine::Launch;
use crate::world::{Answer, Caller};

impl Answer for EngineView {
    fn digest(&self) -> u64 {
        let EngineView { alive, ready, role, follows, position, lag, recovering, problem, voters } = self;
        let mut hasher = Hasher::default();
        hasher.word(u64::from(*alive) << 1 | u64::from(*ready));
        hasher.word(*role as u64);
        hasher.word(match follows {
            None => 0,
            Some(IpAddr::V4(address)) => u64::from(address.to_bits()),
            Some(IpAddr::V6(address)) => hash::of_debug(address),
        });
        for number in [position.map(|at| at.timeline), position.map(|at| at.offset), *lag, *recovering] {
            hasher.word(number.map_or(0, |number| number.wrapping_add(1)));
        }
        if let Some((reason, text)) = problem {
            hasher.bytes(reason.as_str().as_bytes());
            hasher.bytes(text.as_bytes());
        }
        if let Some(voters) = voters {
            hasher.word(hash::of_debug(voters));
        }
        hasher.finish()
    }
}

/// Engines of the model.
#[derive(Debug)]
pub struct SimEngines {
    caller: Caller,
    node: NodeName,
}

impl SimEngines {
    /// The engines of `node`.
    pub fn new(caller: Caller, node: NodeName) -> Self {
        SimEngines { caller, node }
    }
}

#[async_trait]
impl EngineSource for SimEngines {
    async fn definition(&self, revision: &SpecRevision) -> Result<Value> {
        let blueprint = &revision.blueprint;
        Ok(json!({
            "quorum": blueprint.leadership == Leadership::Engine,
            "confirming": blueprint.confirming_replicas,
            "version": blueprint.version,
        }))
    }

    fn engine(&self, definition: &Value, context: EngineContext) -> Result<MadeEngine> {
        let (caller, node) = (self.caller.clone(), self.node.clone());
        let members = || context.peers.iter().map(|peer| peer.name.clone()).collect();
        let quorum = definition["quorum"].as_bool().unwrap_or_default().then(members);
        let asked = usize::try_from(definition["confirming"].as_u64().unwrap_or_default()).unwrap_or(0);
        let confirming = if context.durability == Durability::Strict { asked } else { 0 };
        let launch = Launch {
            member: context.member.name.clone(),
            service: context.service.clone(),
            address: context.member.address,
            confirming,
            quorum,
            learner: context.learner,
            version: definition["version"].as_str().unwrap_or_default().to_owned(),
        };
        Ok(MadeEngine { engine: Arc::new(SimEngine { caller, node, launch }), run_as: None })
    }
}

/// An engine of the model, as its agent speaks to it.
#[derive(Debug)]
pub struct SimEngine {
    caller: Caller,
    node: NodeName,
    launch: Launch,
}

fn prepared() -> Prepared {
    Prepared { engine_version: "1.0".to_owned(), remarks: Vec::new() }
}

#[async_trait]
impl Engine for SimEngine {
    fn config(&self) -> Result<Vec<ConfigFile>> {
        Ok(Vec::new())
    }

    fn start_command(&self) -> Result<Command> {
        let launch = serde_json::to_string(&self.launch).map_err(|error| {
            Error::new(ErrorKind::Internal, "engine", "start", &self.launch.member, error).without_effect()
        })?;
        Ok(Command { argv: vec!["/simulated/engine".to_owned(), launch], ..Command::default() })
    }

    async fn version(&self) -> Result<String> {
        Ok("1.0".to_owned())
    }

    // The host of the model makes and mends data by itself: these are never asked.
    async fn initialise(&self) -> Result<Prepared> {
        Ok(prepared())
    }

    async fn join(&self, _from: Option<&Peer>) -> Result<Prepared> {
        Ok(prepared())
    }

    async fn reconcile_data(&self, _wanted: &WantedRole) -> Result<Vec<(Reason, String)>> {
        Ok(Vec::new())
    }

    async fn observe(&self) -> EngineView {
        let (node, member) = (self.node.clone(), self.launch.member.clone());
        if let Some(volume) = volume_of_engine(&self.caller, &node, &member) {
            disk_answers(&self.caller, &volume).await;
        }
        let ask = ask("engine.observe", &self.launch.member, false);
        let view = self.caller.call(ask, move |cloud, _| Ok(cloud.observe_engine(&node, &member)));
        view.await.unwrap_or_default()
    }

    async fn assume(&self, wanted: &WantedRole) -> Result<()> {
        let (node, member, wanted) = (self.node.clone(), self.launch.member.clone(), wanted.clone());
        let confirming = self.launch.confirming;
        if let Some(volume) = volume_of_engine(&self.caller, &node, &member) {
            disk_answers(&self.caller, &volume).await;
        }
        let ask = ask("engine.assume", &self.launch.member, true);
        let effect =
            move |cloud: &mut Cloud, now| cloud.assume_role(now, &node, &member, &wanted, confirming);
        self.caller.call(ask, effect).await
    }

    async fn admit(&self, voters: &[Peer], version: u64) -> Result<u64> {
        let (node, member) = (self.node.clone(), self.launch.member.clone());
        let wanted: BTreeSet<MemberName> = voters.iter().map(|peer| peer.name.clone()).collect();
        let ask = ask("engine.admit", &self.launch.member, true);
        self.caller.call(ask, move |cloud, _| cloud.admit(&node, &member, wanted.clone(), version)).await
    }

    fn stop(&self) -> (StopSignal, u64) {
        (StopSignal::Term, 10_000)
    }
}
