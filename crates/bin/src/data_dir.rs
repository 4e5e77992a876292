//! The data folder of an embedded cluster: what lies where, and the refusal of folders that would fail later.
//!
//! | path | what |
//! |---|---|
//! | `cluster.json` | the cluster's configuration |
//! | `token` | the administrator's token (0600) |
//! | `server-token` | the token of servers among each other (0600) |
//! | `tokens/NODE` | the token of a node's agent (0600) |
//! | `key` | the key that seals secrets (0600) |
//! | `store/` | the metadata store |
//! | `servers/ID/` | `endpoint.json`, `lock`, `log` of a server |
//! | `nodes/NODE/` | a node's own files; `down` if the node shall stay dead |
//! | `volumes/` | the members' data |
//! | `logs/MEMBER/` | the engines' output |
//! | `up.lock` | held by the one `up` of the folder |

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use steadfast_backends::embedded::keys::FileKeyProvider;
use steadfast_core::ids::{ClusterName, NodeName, ServerId};

use crate::config::ClusterConfig;
use crate::exit::{Context as _, Exit, Failure, Result};

/// The longest path below the folder that is a unix socket, with room to spare.
const LONGEST_SOCKET: usize = 56;
/// The longest path a unix socket can have (`sun_path` without its final zero).
const SOCKET_PATH: usize = 107;
/// Below this much free space nothing is begun, in bytes.
const LEAST_FREE: u64 = 64 << 20;

/// Root's data folder, if nothing else is said.
const OF_THE_SYSTEM: &str = "/var/lib/steadfast";

/// A data folder, by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// Where a server can be reached (`servers/ID/endpoint.json`). Written when it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// The address of its API.
    pub(crate) url: String,
    /// Its process, for people: nothing is done by this number.
    pub(crate) pid: u32,
    /// Its version.
    pub(crate) version: String,
}

impl DataDir {
    /// The folder that is meant: the one given, or the user's own, which for root is the system's.
    pub(crate) fn locate(given: Option<&Path>) -> Result<DataDir> {
        let path = match given {
            Some(path) => path.to_path_buf(),
            None => {
                let under = |variable: &str, tail: &str| {
                    std::env::var_os(variable)
                        .map(PathBuf::from)
                        .filter(|path| path.is_absolute())
                        .map(|path| path.join(tail))
                };
                // Engines that run as another user do not get into root's home.
                let of_the_system = || nix::unistd::geteuid().is_root().then(|| PathBuf::from(OF_THE_SYSTEM));
                under("XDG_DATA_HOME", "steadfast")
                    .or_else(of_the_system)
                    .or_else(|| under("HOME", ".local/share/steadfast"))
                    .ok_or_else(|| {
                        Failure::usage(
                            "no data folder: neither XDG_DATA_HOME nor HOME is set",
                            "give the folder with --data DIR or STEADFAST_DATA",
                        )
                    })?
            }
        };
        let root = std::path::absolute(&path).context(format!("find the data folder {}", path.display()))?;
        // The same folder has the same addresses, however it is reached. One that is not there has a place all the same.
        let there = fs::canonicalize(&root).or_else(|error| match (root.parent(), root.file_name()) {
            (Some(above), Some(name)) => Ok(fs::canonicalize(above)?.join(name)),
            _ => Err(error),
        });
        Ok(DataDir { root: there.unwrap_or(root) })
    }

    /// The folder, ready to be written to: made if it is not there, checked, configured.
    pub(crate) fn prepare(
        given: Option<&Path>,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> Result<(DataDir, ClusterConfig)> {
        let data = DataDir::locate(given)?;
        data.check_length()?;
        data.check_passable()?;
        if let Some(above) = data.root.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o711).create(above);
            made.map_err(|error| unusable(above, &error))?;
        }
        data.make_passable("")?;
        let data = DataDir { root: fs::canonicalize(&data.root).context("find the data folder")? };
        data.check_writable()?;
        let before = data.config_if_any()?;
        let mut config = match &before {
            Some(config) => config.clone(),
            None => ClusterConfig::new(default_cluster(), &data.root)?,
        };
        change(&mut config);
        if before.as_ref() != Some(&config) {
            let text = serde_json::to_string_pretty(&config).context("write the configuration")?;
            data.write("cluster.json", &format!("{text}\n"), 0o644)?;
        }
        for folder in ["tokens", "store", "servers", "volumes", "logs"] {
            data.make(folder)?;
        }
        data.make_passable("nodes")?;
        data.token_file("token")?;
        data.token_file("server-token")?;
        Ok((data, config))
    }

    /// The configuration of a folder that must be a cluster's.
    pub(crate) fn config(&self) -> Result<ClusterConfig> {
        self.config_if_any()?.ok_or_else(|| {
            Failure::new(format!("{} is not the data folder of a cluster", self.root.display()))
                .remedy("start one with `steadfast up`, or name its folder with --data DIR or STEADFAST_DATA")
                .exit(Exit::NotFound)
        })
    }

    /// The configuration, if the folder is a cluster's.
    pub(crate) fn config_if_any(&self) -> Result<Option<ClusterConfig>> {
        let file = self.path("cluster.json");
        match fs::read_to_string(&file) {
            Ok(text) => ClusterConfig::parse(&text, &file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::new(format!("read {}: {error}", file.display()))),
        }
    }

    /// A path below the folder.
    pub(crate) fn path(&self, tail: impl AsRef<Path>) -> PathBuf {
        self.root.join(tail)
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the cluster has kept its records in this folder.
    pub(crate) fn has_own_store(&self) -> bool {
        self.path("store/store.redb").exists()
    }

    /// The key that seals the cluster's secrets. It is made only while there are no records, and has to be opened before
    /// the store is: then a server that finds records and no key knows that the key was lost, and not that another
    /// server is about to make it.
    pub(crate) fn sealing_key(&self, config: &ClusterConfig) -> Result<FileKeyProvider> {
        let has_records = config.store.is_some() || self.has_own_store();
        let file = self.path("key");
        if has_records && !file.try_exists().map_err(|error| unusable(&file, &error))? {
            return Err(Failure::new(format!(
                "{} is missing: the secrets of cluster {} are sealed with it, and a new one would not open them",
                file.display(),
                config.cluster
            ))
            .remedy("put it back from a backup, or from the data folder of another machine of this cluster (mode 600)")
            .exit(Exit::NotFound));
        }
        Ok(FileKeyProvider::open_or_create(&file)?)
    }

    /// A server's folder.
    pub(crate) fn server(&self, id: &ServerId) -> PathBuf {
        self.root.join("servers").join(id.as_str())
    }

    /// A node's folder.
    pub(crate) fn node(&self, node: &NodeName) -> PathBuf {
        self.root.join("nodes").join(node.as_str())
    }

    /// The mark that a node shall stay dead.
    pub(crate) fn down_mark(&self, node: &NodeName) -> PathBuf {
        self.node(node).join("down")
    }

    /// The nodes that have a folder, by name.
    pub(crate) fn nodes(&self) -> Result<Vec<NodeName>> {
        self.names("nodes")
    }

    /// The servers that have a folder, by name.
    pub(crate) fn servers(&self) -> Result<Vec<ServerId>> {
        self.names("servers")
    }

    /// Where the servers of this folder said they listen. A server that is dead is still among them.
    pub(crate) fn endpoints(&self) -> Result<Vec<(ServerId, Endpoint)>> {
        let mut found = Vec::new();
        for id in self.servers()? {
            let file = self.server(&id).join("endpoint.json");
            match fs::read_to_string(&file) {
                Ok(text) => {
                    let endpoint = serde_json::from_str(&text).context(format!("read {}", file.display()))?;
                    found.push((id, endpoint));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::new(format!("read {}: {error}", file.display()))),
            }
        }
        Ok(found)
    }

    /// The token in a file of the folder; made if it is not there. Of several processes that make it at once one
    /// does, and all of them get the same.
    pub(crate) fn token_file(&self, name: &str) -> Result<String> {
        let file = self.path(name);
        if !file.exists() {
            let text = format!("{}\n", random_token()?);
            write_new(&file, text.as_bytes(), 0o600).map_err(|error| unusable(&file, &error))?;
        }
        let text = read_secret("token", &file).map_err(|failure| {
            failure.remedy(
                "run as the user who started the cluster, and `chmod 600` on it; if others use this machine, remove \
                 it, and a new one is made",
            )
        })?;
        Ok(text.trim().to_owned())
    }

    /// Makes a folder below this one.
    pub(crate) fn make(&self, tail: impl AsRef<Path>) -> Result<()> {
        let path = self.path(tail);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| unusable(&path, &error))
    }

    /// Makes a folder below this one that engines of another user have to pass through, if there can be any: only
    /// root starts engines as somebody else.
    pub(crate) fn make_passable(&self, tail: impl AsRef<Path>) -> Result<()> {
        self.make(&tail)?;
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let path = self.path(tail);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).map_err(|error| unusable(&path, &error))
    }

    /// Writes a file whole: what was there before stays if anything fails.
    pub(crate) fn write(&self, tail: impl AsRef<Path>, text: &str, mode: u32) -> Result<()> {
        let path = self.path(tail);
        write_whole(&path, text.as_bytes(), mode).map_err(|error| unusable(&path, &error))
    }

    fn names<T: std::str::FromStr>(&self, folder: &str) -> Result<Vec<T>> {
        let path = self.path(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::new(format!("read {}: {error}", path.display()))),
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn check_length(&self) -> Result<()> {
        let length = self.root.as_os_str().len();
        let most = SOCKET_PATH - LONGEST_SOCKET;
        if length > most {
            return Err(Failure::new(format!(
                "the data folder {} is {length} bytes long, and the sockets below it allow {most}",
                self.root.display()
            ))
            .remedy("choose a shorter one with --data DIR"));
        }
        Ok(())
    }

    /// Root starts engines as another user, who has to pass through everything above their data. What does not exist
    /// yet is made so.
    pub(crate) fn check_passable(&self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let closed = first_closed(&self.root).context("look at the data folder's path")?;
        closed.map_or(Ok(()), |(folder, mode)| {
            Err(Failure::new(format!(
                "engines run as another user than root, who cannot pass through {} (its mode is {mode:o})",
                folder.display()
            ))
            .reason("PermissionDenied")
            .remedy(format!(
                "run `chmod o+x {}`, or choose another folder with --data DIR",
                folder.display()
            )))
        })
    }

    fn check_writable(&self) -> Result<()> {
        let space = nix::sys::statvfs::statvfs(&self.root).context("look at the data folder's disk")?;
        let free = space.blocks_available().saturating_mul(space.fragment_size());
        if free < LEAST_FREE {
            return Err(Failure::new(format!(
                "{} has {} MiB left on its disk, and {} MiB are the least to begin with",
                self.root.display(),
                free >> 20,
                LEAST_FREE >> 20
            ))
            .reason("DiskFull")
            .remedy("make room, or choose another folder with --data DIR"));
        }
        // A name of its own: servers that start at the same time each try.
        let probe = self.path(format!(".write-test.{}", std::process::id()));
        write_whole(&probe, b"steadfast", 0o600)
            .and_then(|()| fs::remove_file(&probe))
            .map_err(|error| unusable(&self.root, &error))
    }
}

/// The folder highest above `path` that other users cannot pass through, and its mode.
fn first_closed(path: &Path) -> io::Result<Option<(&Path, u32)>> {
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    for folder in above.into_iter().rev() {
        let mode = match fs::metadata(folder) {
            Ok(metadata) => metadata.permissions().mode() & 0o7777,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if mode & 0o001 == 0 {
            return Ok(Some((folder, mode)));
        }
    }
    Ok(None)
}

/// What a file holds that nobody else may read; `what` says in failures what it is for.
pub(crate) fn read_secret(what: &str, file: &Path) -> Result<String> {
    let read = || {
        let mode = fs::metadata(file)?.permissions().mode();
        io::Result::Ok((mode & 0o777, fs::read_to_string(file)?))
    };
    let (mode, text) =
        read().map_err(|error| Failure::new(format!("{what}: read {}: {error}", file.display())))?;
    if mode & 0o077 != 0 {
        let message = format!("{what}: others may read {} (its mode is {mode:o})", file.display());
        return Err(Failure::new(message).reason("PermissionDenied").remedy("run `chmod 600` on it"));
    }
    Ok(text)
}

/// Writes a file whole and durably: under another name first, then put in its place.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    place(path, bytes, mode, |draft| fs::rename(draft, path))
}

/// The same, and leaves what is there already as it is: whoever was first has decided.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    place(path, bytes, mode, |draft| {
        match fs::hard_link(draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::remove_file(draft)
    })
}

fn place(path: &Path, bytes: &[u8], mode: u32, put: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        put(&draft)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| {
        // The draft may not be there; what is wrong is said by the failure itself.
        fs::remove_file(&draft).ok();
    })
}

/// Random bytes of the system.
pub(crate) fn random() -> Result<[u8; 32]> {
    ring::rand::generate(&ring::rand::SystemRandom::new())
        .map(ring::rand::Random::expose)
        .map_err(|_| Failure::new("the system gives no random bytes"))
}

fn random_token() -> Result<String> {
    Ok(random()?[..20].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The cluster of a folder that names none.
pub(crate) fn default_cluster() -> ClusterName {
    "local".parse().expect("a label")
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("{} cannot be written: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => failure
            .reason("DiskReadOnly")
            .remedy("choose a folder on a disk that can be written with --data DIR"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            failure.reason("DiskFull").remedy("make room, or choose another folder with --data DIR")
        }
        io::ErrorKind::PermissionDenied => failure
            .reason("PermissionDenied")
            .remedy("choose a folder of your own with --data DIR, or run as its owner"),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            failure.remedy("a file is in the way: choose another folder with --data DIR")
        }
        _ => failure.remedy("choose another folder with --data DIR"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_prepared_once_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let (data, config) = DataDir::prepare(Some(folder.path()), |_| {}).unwrap();
        let token = data.token_file("token").unwrap();
        let (again, same) = DataDir::prepare(Some(folder.path()), |_| {}).unwrap();
        assert_eq!((data.root(), &config), (again.root(), &same));
        assert_eq!(again.token_file("token").unwrap(), token);
        let mode = fs::metadata(data.path("token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_first_token_stays_and_one_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (data, _) = DataDir::prepare(Some(folder.path()), |_| {}).unwrap();
        let token = data.token_file("token").unwrap();
        write_new(&data.path("token"), b"another\n", 0o600).unwrap();
        assert_eq!(data.token_file("token").unwrap(), token);
        fs::set_permissions(data.path("token"), fs::Permissions::from_mode(0o640)).unwrap();
        let error = DataDir::prepare(Some(folder.path()), |_| {}).unwrap_err();
        assert!(error.message.contains("others may read"), "{error}");
        assert!(error.remedy.unwrap().contains("chmod 600"));
        let drafts = fs::read_dir(folder.path()).unwrap().flatten();
        let left: Vec<_> =
            drafts.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_folder_that_is_closed_above_the_data_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let closed = folder.path().join("closed");
        let data = closed.join("open").join("data");
        fs::create_dir_all(&data).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(first_closed(&data).unwrap(), Some((closed.as_path(), 0o750)));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(first_closed(&data).unwrap(), None, "the data folder itself is ours to open");
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(80));
        let error = DataDir::prepare(Some(&long), |_| {}).unwrap_err();
        assert!(error.message.contains("bytes long"), "{error}");
        assert!(!long.exists());
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = DataDir::prepare(Some(&file), |_| {}).unwrap_err();
        assert!(error.message.contains("file"), "{error}");
        assert!(error.remedy.is_some());
    }
}
