//! Files and folders of a member, owned by its engine's user, changed whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The user and group that files belong to; none: our own.
pub(crate) type Owner = Option<(u32, u32)>;

/// Writes a file whole or not at all, durably.
pub(crate) fn write(path: &Path, content: &str, mode: u32, owner: Owner) -> io::Result<()> {
    let beside = with_suffix(path, ".new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode & 0o600).open(&beside)?;
    file.write_all(content.as_bytes())?;
    give(&beside, owner)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Makes a folder for the owner only, if it is not there.
pub(crate) fn make_folder(path: &Path, owner: Owner) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => give(path, owner)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_parent(path)
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a folder with everything in it, if it is there. May take long.
pub(crate) async fn remove_folder(path: &Path) -> io::Result<()> {
    match tokio::fs::remove_dir_all(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a folder another name, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Takes the process id out of a lock file whose first line it is, unless that process has `argument` among its
/// arguments. The rest stays: engines find there what a surviving process of theirs still uses.
pub(crate) fn forget_stale_pid(path: &Path, argument: &str, owner: Owner) -> io::Result<()> {
    // No process ever has this number.
    const NOBODY: &str = "2147483646";
    let content = match fs::read_to_string(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let (pid, rest) = content.split_once('\n').unwrap_or((&content, ""));
    let arguments =
        pid.trim().parse::<u32>().ok().and_then(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
    match arguments {
        Some(arguments) if String::from_utf8_lossy(&arguments).split('\0').any(|word| word == argument) => {
            Ok(())
        }
        _ => write(path, &format!("{NOBODY}\n{rest}"), 0o600, owner),
    }
}

/// `path` with `suffix` at the end of its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn give(path: &Path, owner: Owner) -> io::Result<()> {
    match owner {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
