//! What is on record of an image or a snapshot: one file of JSON beside it, replaced whole, and durable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use steadfast_core::ErrorKind;

use super::system::Problem;

/// What every record has, whatever its format.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The record at `path`, in a format up to `newest`; none if there is no such file.
pub(super) fn read<T: DeserializeOwned>(path: &Path, newest: u32) -> Result<Option<T>, Problem> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Problem::at(path, error)),
    };
    let unread =
        |why: String| Problem::new(ErrorKind::Corrupt, format!("VolumeCorrupt: {} {why}", path.display()));
    let undecoded = |error| unread(format!("does not decode ({error}): put back a copy of it"));
    // First of all: the rest of a newer one may be anything.
    let Format { format } = serde_json::from_slice(&content).map_err(undecoded)?;
    if format > newest {
        let why = format!("has format {format}, and this build reads up to {newest}: run a newer one");
        return Err(unread(why));
    }
    serde_json::from_slice(&content).map(Some).map_err(undecoded)
}

/// Replaces the record at `path`, or makes it. Whoever reads it has the old one or the new one, also after a crash.
pub(super) fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), Problem> {
    let draft = path.with_extension("json.new");
    let replace = || {
        let content = serde_json::to_vec_pretty(record)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    replace().map_err(|error| Problem::at(path, error))?;
    path.parent().map_or(Ok(()), sync)
}

/// Makes what was renamed in a folder, or removed from it, durable.
pub(super) fn sync(folder: &Path) -> Result<(), Problem> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Problem::at(folder, error))
}
