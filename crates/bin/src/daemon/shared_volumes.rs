//! The folder of volumes that several machines share, known by a mark: an empty mount point is not taken for it.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::ClusterConfig;
use crate::data_dir::write_whole;
use crate::exit::{Exit, Failure, Result};

/// The file that says whose volumes these are.
const MARK: &str = "steadfast-cluster";

/// Makes the folder this cluster's.
pub(super) fn mark(folder: &Path, config: &ClusterConfig) -> Result<()> {
    if read(folder)?.is_some() {
        return check(folder, config);
    }
    write_whole(&mark_of(folder), format!("{}\n", config.cluster).as_bytes(), 0o644).map_err(|error| {
        Failure::new(format!("--shared-volumes: write into {}: {error}", folder.display()))
            .remedy("mount the shared folder there, writable for this user, and try again")
    })
}

/// Sees to it that the folder is there, and this cluster's.
pub(super) fn check(folder: &Path, config: &ClusterConfig) -> Result<()> {
    match read(folder)? {
        Some(cluster) if cluster == config.cluster.as_str() => Ok(()),
        Some(cluster) => Err(Failure::new(format!(
            "shared_volumes: the volumes in {} are of cluster {cluster}, and this is {}",
            folder.display(),
            config.cluster
        ))
        .remedy("give a folder of its own with --shared-volumes DIR")
        .exit(Exit::Conflict)),
        None => Err(Failure::new(format!("shared_volumes: {} is not there", mark_of(folder).display()))
            .remedy("mount the folder that the machines of the cluster share, and try again")),
    }
}

fn mark_of(folder: &Path) -> PathBuf {
    folder.join(MARK)
}

fn read(folder: &Path) -> Result<Option<String>> {
    let mark = mark_of(folder);
    match std::fs::read_to_string(&mark) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(format!("shared_volumes: read {}: {error}", mark.display()))),
    }
}
