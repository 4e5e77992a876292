//! Volumes on the nodes' own disks: whether a cluster has them.

use std::path::Path;

use super::volumes::has_volumes;
use crate::config::ClusterConfig;
use crate::data_dir::DataDir;
use crate::exit::{Failure, Result};

/// Has volumes lie on the nodes' own disks. Those that lie elsewhere do not move.
pub(super) fn choose(data: &DataDir, config: &mut ClusterConfig, wanted: &Path) -> Result<()> {
    let before = match (&config.local_volumes, &config.shared_volumes) {
        (Some(before), _) if before == wanted => return Ok(()),
        (Some(before), _) | (None, Some(before)) => Some(before.clone()),
        (None, None) => Some(data.path("volumes")).filter(|folder| has_volumes(folder)),
    };
    let refuse = |why: String, remedy: &str| {
        Err(Failure::usage(format!("--local-volumes {}: {why}", wanted.display()), remedy))
    };
    if let Some(before) = before {
        let why = format!("the volumes of this cluster are in {}, and do not move", before.display());
        return refuse(why, "leave it out, or give the folder of another cluster with --data DIR");
    }
    if !wanted.is_absolute() {
        return refuse(
            "is no absolute path".to_owned(),
            "give the path that the folder has on every machine",
        );
    }
    config.local_volumes = Some(wanted.to_owned());
    Ok(())
}
