//! Whose cluster the records of a shared store are.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steadfast_backends::embedded::keys::FileKeyProvider;
use steadfast_core::Environment;
use steadfast_core::metadata::{Key, MetadataDb, Records};
use steadfast_core::store::PREFIX;

use crate::config::ClusterConfig;
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Exit, Failure, Result};

/// `folder`: whose cluster it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FolderRecord {
    /// Which key seals the cluster's secrets: it lies in the folder, and nowhere else.
    key: String,
}

/// Sees to it that the records are those of this folder's cluster: another folder has other volumes, and knows
/// nothing of what runs here.
pub(super) async fn belongs(
    db: Arc<dyn MetadataDb>,
    data: &DataDir,
    config: &ClusterConfig,
    sealing: &FileKeyProvider,
    environment: &Environment,
) -> Result<()> {
    let prefix = Key::new([PREFIX, config.cluster.as_str()]).context("name the cluster's records")?;
    let records = Records::new(db, environment.entropy().fork("folder"), prefix);
    let key = records.key(["folder"])?;
    let own = FolderRecord { key: sealing.key_id().to_owned() };
    // Of several servers that begin at once one writes it.
    let _race = records.create(&key, &own).await?;
    match records.get::<FolderRecord>(&key).await? {
        Some(found) if found.body == own => Ok(()),
        _ => Err(Failure::new(format!(
            "{}: cluster {} in it is of another data folder than {}",
            records.db(),
            config.cluster,
            data.root().display()
        ))
        .remedy("give --store another prefix, or --data the folder whose cluster it is")
        .exit(Exit::Conflict)),
    }
}
