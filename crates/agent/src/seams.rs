//! What an agent is given from outside: engines and secrets.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use steadfast_core::engine::{Engine, EngineContext};
use steadfast_core::error::Result;
use steadfast_core::ids::{MemberName, ServiceId};
use steadfast_core::model::SpecRevision;

use crate::guard::RunAs;

/// An engine, and the user it runs as on this node.
#[derive(Debug, Clone)]
pub struct MadeEngine {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The user that the engine's process and files belong to; none: the agent's own.
    pub run_as: Option<RunAs>,
}

/// Makes engines. The binary's uses the catalog.
#[async_trait]
pub trait EngineSource: Debug + Send + Sync + 'static {
    /// The blueprint that `revision` is pinned to, with all its files, as [`engine`](Self::engine) takes it.
    ///
    /// # Errors
    /// What the store says; `NotFound` if it is not there.
    async fn definition(&self, revision: &SpecRevision) -> Result<Value>;

    /// The engine of one member. Does nothing yet.
    ///
    /// # Errors
    /// `Corrupt` or `Invalid` if the blueprint cannot be used.
    fn engine(&self, definition: &Value, context: EngineContext) -> Result<MadeEngine>;
}

/// Gives secrets to the node that holds the member, and to nobody else.
#[async_trait]
pub trait SecretSource: Debug + Send + Sync + 'static {
    /// The secrets of a service, in the clear, for a member that this node holds.
    ///
    /// # Errors
    /// `Denied` if it does not hold it.
    async fn secrets(&self, service: &ServiceId, member: &MemberName) -> Result<BTreeMap<String, String>>;
}

/// No secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSecrets;

#[async_trait]
impl SecretSource for NoSecrets {
    async fn secrets(&self, _service: &ServiceId, _member: &MemberName) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
}
