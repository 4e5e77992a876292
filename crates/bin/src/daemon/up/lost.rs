//! Whoever still runs for a data folder that has been removed, files and all.
//!
//! A removed folder ends nobody by itself: what an engine has in memory, or in files that are removed and still open,
//! is all that is left of its data, and only a person can tell whether that was wanted. But no path leads to these
//! processes any more, and they keep their addresses and ports. They are found by the locks that they hold.

use std::path::Path;
use std::time::Duration;

use steadfast_lock::Lost;

use crate::daemon::supervise::send_away;
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Exit, Failure, Result};
use crate::output::note;

/// How long `up` gets to end its children, and an engine to write what it still can.
const PATIENCE: Duration = Duration::from_secs(60);

/// Refuses a folder for which processes run that cannot find it.
pub(super) fn refuse(data: &DataDir) -> Result<()> {
    if find(data)?.is_empty() {
        return Ok(());
    }
    let root = data.root().display();
    Err(Failure::new(format!("processes of a cluster run whose files were in {root} and have been removed"))
        .remedy(format!(
            "`steadfast down --data {root}` ends them; an engine may still have its data until then"
        ))
        .exit(Exit::Conflict))
}

/// Ends them: `up` first, which would start the others anew, engines last. False: there are none.
pub(super) async fn end(data: &DataDir) -> Result<bool> {
    let mut lost = find(data)?;
    lost.sort_by_key(|lost| rank(data, lost.was()));
    for lock in &lost {
        send_away(&lock.path(), PATIENCE).await?;
    }
    if !lost.is_empty() {
        note(&format!("ended what ran for the removed files in {}", data.root().display()));
    }
    Ok(!lost.is_empty())
}

fn find(data: &DataDir) -> Result<Vec<Lost>> {
    steadfast_lock::lost_below(data.root()).context("look for processes whose files have been removed")
}

/// The earlier, the more it would start anew.
fn rank(data: &DataDir, was: &Path) -> u8 {
    let Ok(below) = was.strip_prefix(data.root()) else { return u8::MAX };
    match below.file_name().and_then(|name| name.to_str()) {
        Some("up.lock") => 0,
        Some("agent.lock") => 1,
        _ if below.starts_with("servers") => 2,
        // The guard's before those that its engine shares with others: whoever is asked by the first is not asked twice.
        Some("lock") if below.starts_with("nodes") => 3,
        _ => 4,
    }
}
