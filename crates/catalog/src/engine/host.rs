//! What an engine needs of the node it runs on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use steadfast_core::Environment;

/// What an engine needs of the node it runs on.
#[derive(Debug, Clone)]
pub struct EngineHost {
    /// Time, for every wait.
    pub environment: Environment,
    /// The user and group that helper programs run as and that data and files belong to; none: our own.
    pub user: Option<(u32, u32)>,
    /// Programs that lie elsewhere than the blueprint says, by their name in it.
    pub programs: BTreeMap<String, PathBuf>,
}

impl EngineHost {
    /// A host whose engines run as ourselves, with their programs where the blueprint says.
    pub fn new(environment: Environment) -> Self {
        EngineHost { environment, user: None, programs: BTreeMap::new() }
    }
}
