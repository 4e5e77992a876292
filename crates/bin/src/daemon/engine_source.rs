//! Engines for the agent, made of the blueprint that a service is pinned to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use nix::unistd::{User, geteuid};
use serde_json::{Value, json};
use steadfast_agent::guard::RunAs;
use steadfast_agent::seams::{EngineSource, MadeEngine};
use steadfast_catalog::format::Orchestrator;
use steadfast_catalog::{Catalog, Definition, EngineHost};
use steadfast_core::engine::EngineContext;
use steadfast_core::metadata::Versioned;
use steadfast_core::model::SpecRevision;
use steadfast_core::store::Store;
use steadfast_core::{Environment, Error, ErrorKind, Result};

/// Makes engines of stored blueprints.
#[derive(Debug)]
pub(crate) struct StoredEngines {
    environment: Environment,
    /// None in a process that is given the blueprint.
    store: Option<Store>,
}

impl StoredEngines {
    /// Reads blueprints from `store`.
    pub(crate) fn new(environment: Environment, store: Store) -> Self {
        StoredEngines { environment, store: Some(store) }
    }

    /// Only makes engines of blueprints that it is given.
    pub(crate) fn without_store(environment: Environment) -> Self {
        StoredEngines { environment, store: None }
    }
}

#[async_trait]
impl EngineSource for StoredEngines {
    async fn definition(&self, revision: &SpecRevision) -> Result<Value> {
        let refuse = |kind, message: &str| {
            Error::new(kind, "blueprints", "read", &revision.blueprint.digest, message).without_effect()
        };
        let store =
            self.store.as_ref().ok_or_else(|| refuse(ErrorKind::Internal, "there is no store here"))?;
        let key = store.records().key(["blueprints", &revision.blueprint.digest])?;
        let stored: Option<Versioned<Value>> = store.records().get(&key).await?;
        let stored = stored.ok_or_else(|| refuse(ErrorKind::NotFound, "it is not in the store"))?;
        Ok(json!({ "version": revision.blueprint.version, "blueprint": stored.body }))
    }

    fn engine(&self, definition: &Value, context: EngineContext) -> Result<MadeEngine> {
        let blueprint = Definition::from_stored(&definition["blueprint"])?;
        let version = definition["version"].as_str().unwrap_or_default();
        let blueprint = blueprint.at_version(version).ok_or_else(|| {
            let message = format!("it is not made for version {version:?}");
            Error::new(ErrorKind::Corrupt, "blueprints", "use", blueprint.name(), message).without_effect()
        })?;
        let run_as = run_as(&blueprint)?;
        let mut host = EngineHost::new(self.environment.clone());
        host.user = run_as.map(|user| (user.uid, user.gid));
        Ok(MadeEngine { engine: blueprint.engine(context, host), run_as })
    }
}

/// As whom an engine runs: only root has a choice.
fn run_as(blueprint: &Definition) -> Result<Option<RunAs>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let wanted = blueprint.run_as();
    for name in &wanted.users {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(Some(RunAs { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
        }
    }
    if wanted.unprivileged {
        let message =
            format!("it refuses to run as root, and none of its users exists: {}", wanted.users.join(", "));
        return Err(
            Error::new(ErrorKind::Denied, "blueprints", "use", blueprint.name(), message).without_effect()
        );
    }
    Ok(None)
}

/// The engines whose programs are all here: blueprint → major version, the first that is found.
pub(crate) fn found() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for definition in Catalog::embedded().definitions() {
        let Some(programs) = definition.format().programs.get(&Orchestrator::Process) else { continue };
        let here = |version: &str| {
            programs.values().all(|program| {
                program.paths.iter().any(|path| PathBuf::from(path.replace("{version}", version)).exists())
            })
        };
        if let Some(version) = definition.format().versions.iter().find(|version| here(version)) {
            found.insert(definition.name().to_owned(), version.clone());
        }
    }
    found
}
