//! The redb file: how it is made, opened, checked and, after a failure of the disk, opened anew.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{
    Builder, Database, DatabaseError, ReadOnlyTable, ReadableDatabase as _, StorageError, TableDefinition,
    TableError, TransactionError,
};
use steadfast_core::metadata::{Key, Version};
use steadfast_core::{Error, ErrorKind, Result};
use tokio::sync::broadcast;

use crate::failure::io_failure;
use crate::files;

/// The records: key → (stamp, value).
pub(super) const RECORDS: TableDefinition<'_, &str, (u128, &[u8])> = TableDefinition::new("records");

/// What is known of the file itself: [`FORMAT_KEY`] and [`SEQUENCE_KEY`].
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The last number given to a write. It lives in the file, so that a version is never given twice.
pub(super) const SEQUENCE_KEY: &str = "sequence";

const FORMAT_KEY: &str = "format";

/// The format that this build writes, and the newest it reads.
pub(super) const FORMAT: u64 = 1;

/// Pages kept in memory, in bytes. Metadata is small; the file may be larger than this.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// What must stay free on the disk beyond the write itself: redb writes changed pages anew before it frees old
/// ones. Below that writes are refused before anything is touched, so that reading goes on.
const RESERVE_BYTES: u64 = 1024 * 1024;

/// The version of one write: its number in the file's life in the upper half, randomness in the lower, so that not
/// even a file that was put back from a copy gives a version twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(pub(super) u128);

impl Stamp {
    pub(super) fn new(sequence: u64, random: u64) -> Self {
        Stamp(u128::from(sequence) << 64 | u128::from(random))
    }

    pub(super) fn version(self) -> Version {
        Version::new(format!("{:032x}", self.0))
    }

    /// The stamp that is shown as `version`; none if this store cannot have given it.
    pub(super) fn parse(version: &Version) -> Option<Self> {
        let text = version.as_str();
        let stamp = Stamp(u128::from_str_radix(text, 16).ok()?);
        (stamp.version().as_str() == text).then_some(stamp)
    }
}

/// Where the bytes are: a file, or what a test puts in its place.
pub(super) trait Medium: fmt::Debug + Send + Sync {
    /// The path, for messages.
    fn path(&self) -> &Path;
    /// Opens the database, and makes it if there is none.
    fn open(&self) -> Result<Database>;
    /// Fails if a write of `bytes` is sure to find no room.
    fn room(&self, bytes: u64) -> io::Result<()>;
}

/// A plain file.
#[derive(Debug)]
pub(super) struct FileMedium {
    path: PathBuf,
}

impl FileMedium {
    pub(super) fn new(path: PathBuf) -> Self {
        FileMedium { path }
    }

    /// Makes the file under another name and links it in whole: no half-made store is ever found, and two that
    /// make it at once end up with one.
    fn make(&self) -> Result<()> {
        let failed = |error| io_failure(self, "create", &self.path, error).without_effect();
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}.new", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
        drop(file.map_err(failed)?);
        let made = self.initialise(&temporary);
        let linked = made.and_then(|()| match fs::hard_link(&temporary, &self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Ok(()),
        });
        let removed = fs::remove_file(&temporary).map_err(failed);
        linked.and(removed)?;
        files::sync_folder_of(&self.path).map_err(failed)
    }

    fn initialise(&self, path: &Path) -> Result<()> {
        let failed = |error| storage_failure(self, &self.path, "create", error).without_effect();
        let database =
            builder().create(path).map_err(|error| self.refuse(error, "create").without_effect())?;
        initialise(&database).map_err(failed)
    }

    /// Why the file cannot be opened.
    fn refuse(&self, error: DatabaseError, operation: &'static str) -> Error {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                let message = format!(
                    "{} is open in {}: stop that process, or reach the store through the server that owns it \
                     (see owner.json beside the file)",
                    self.path.display(),
                    holders(&self.path)
                );
                Error::new(ErrorKind::Busy, self, operation, self.path.display(), message)
            }
            DatabaseError::UpgradeRequired(format) => corrupt(
                self,
                &self.path,
                format!("its file format is {format}, which this build does not read"),
            ),
            DatabaseError::Storage(error) => storage_failure(self, &self.path, operation, error),
            other => corrupt(self, &self.path, other.to_string()),
        }
    }
}

impl Medium for FileMedium {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> Result<Database> {
        let exists = self
            .path
            .try_exists()
            .map_err(|error| io_failure(self, "open", &self.path, error).without_effect())?;
        if !exists {
            self.make()?;
        }
        // A file that something else has written to can trip redb's own assertions.
        let opened = catch_unwind(AssertUnwindSafe(|| builder().open(&self.path)));
        match opened {
            Ok(Ok(database)) => Ok(database),
            Ok(Err(error)) => Err(self.refuse(error, "open").without_effect()),
            Err(_) => Err(corrupt(self, &self.path, "its pages contradict each other")),
        }
    }

    fn room(&self, bytes: u64) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let disk = nix::sys::statvfs::statvfs(folder)?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        if free < RESERVE_BYTES.saturating_add(bytes.saturating_mul(2)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl fmt::Display for FileMedium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redb({})", self.path.display())
    }
}

/// The open file, as readers and the writer share it.
#[derive(Debug)]
pub(super) struct Shared {
    medium: Box<dyn Medium>,
    /// The failure stands in for the database while it cannot be opened.
    database: RwLock<Result<Database>>,
    hints: broadcast::Sender<Key>,
}

impl Shared {
    pub(super) fn open(medium: Box<dyn Medium>, hints: broadcast::Sender<Key>) -> Result<Self> {
        let database = open_checked(&*medium)?;
        Ok(Shared { medium, database: RwLock::new(Ok(database)), hints })
    }

    pub(super) fn path(&self) -> &Path {
        self.medium.path()
    }

    pub(super) fn room(&self, bytes: u64) -> Result<()> {
        self.medium.room(bytes).map_err(|error| io_failure(self, "put", self.path(), error).without_effect())
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Key> {
        self.hints.subscribe()
    }

    /// Tells the watchers; that there may be none is no failure.
    pub(super) fn hint(&self, key: Key) {
        let _watchers: Result<usize, _> = self.hints.send(key);
    }

    /// Runs `look` on a snapshot.
    pub(super) fn read<T>(
        &self,
        operation: &'static str,
        subject: &Key,
        look: impl FnOnce(&ReadOnlyTable<&'static str, (u128, &'static [u8])>) -> Result<T, StorageError>,
    ) -> Result<T> {
        self.with(|database| {
            let read = || look(&snapshot(database)?);
            read().map_err(|error| {
                let failure = storage_failure(self, self.path(), operation, error).without_effect();
                tracing::debug!(%subject, error = %failure, "read failed");
                failure
            })
        })
    }

    /// Runs `use_it` on the open database; while it cannot be opened the answer is why.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            Ok(database) => use_it(database),
            Err(error) => Err(error.clone()),
        }
    }

    /// The last number given to a write.
    pub(super) fn sequence(&self) -> Result<u64> {
        self.with(|database| {
            let read = || -> Result<u64, StorageError> {
                let transaction = database.begin_read().map_err(of_transaction)?;
                let table = transaction.open_table(META).map_err(of_table)?;
                Ok(table.get(SEQUENCE_KEY)?.map_or(0, |found| found.value()))
            };
            read().map_err(|error| storage_failure(self, self.path(), "open", error).without_effect())
        })
    }

    /// Closes and opens the file: redb refuses to go on after an error of the disk until this is done.
    pub(super) fn reopen(&self) -> Result<()> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // The old one must be closed before the file can be opened again.
        *database = Err(Error::new(
            ErrorKind::Unavailable,
            self,
            "open",
            self.path().display(),
            "the store is being opened anew after a failure of the disk",
        )
        .without_effect());
        *database = open_checked(&*self.medium);
        database.as_ref().map(|_| ()).map_err(Error::clone)
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redb({})", self.path().display())
    }
}

/// How redb is set up: one process at a time, and every page verified at open. Metadata is small, so that is soon
/// done, and a damaged file is refused at the start instead of being trusted until something falls over it.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Makes the tables of an empty database.
pub(super) fn initialise(database: &Database) -> Result<(), StorageError> {
    let transaction = database.begin_write().map_err(of_transaction)?;
    {
        let mut meta = transaction.open_table(META).map_err(of_table)?;
        meta.insert(FORMAT_KEY, FORMAT)?;
        meta.insert(SEQUENCE_KEY, 0)?;
        transaction.open_table(RECORDS).map_err(of_table)?;
    }
    transaction.commit().map_err(of_commit)
}

/// What a failure of redb's amounts to. The effect is unknown: whoever knows better says so.
pub(super) fn storage_failure(
    backend: impl fmt::Display,
    path: &Path,
    operation: &'static str,
    error: StorageError,
) -> Error {
    match error {
        StorageError::Io(error)
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            corrupt(backend, path, error.to_string())
        }
        StorageError::Io(error) => io_failure(backend, operation, path, error),
        StorageError::Corrupted(message) => corrupt(backend, path, message),
        other => Error::new(ErrorKind::Unavailable, backend, operation, path.display(), other),
    }
}

pub(super) fn of_transaction(error: TransactionError) -> StorageError {
    match error {
        TransactionError::Storage(error) => error,
        other => StorageError::Corrupted(other.to_string()),
    }
}

pub(super) fn of_table(error: TableError) -> StorageError {
    match error {
        TableError::Storage(error) => error,
        other => StorageError::Corrupted(other.to_string()),
    }
}

pub(super) fn of_commit(error: redb::CommitError) -> StorageError {
    match error {
        redb::CommitError::Storage(error) => error,
        other => StorageError::Io(io::Error::other(other.to_string())),
    }
}

fn snapshot(database: &Database) -> Result<ReadOnlyTable<&'static str, (u128, &'static [u8])>, StorageError> {
    database.begin_read().map_err(of_transaction)?.open_table(RECORDS).map_err(of_table)
}

fn open_checked(medium: &dyn Medium) -> Result<Database> {
    let database = medium.open()?;
    let backend = format!("redb({})", medium.path().display());
    let read = || -> Result<Option<u64>, StorageError> {
        let transaction = database.begin_read().map_err(of_transaction)?;
        let meta = transaction.open_table(META).map_err(of_table)?;
        transaction.open_table(RECORDS).map_err(of_table)?;
        Ok(meta.get(FORMAT_KEY)?.map(|found| found.value()))
    };
    let format =
        read().map_err(|error| storage_failure(&backend, medium.path(), "open", error).without_effect())?;
    match format {
        Some(FORMAT) => Ok(database),
        Some(format) if format > FORMAT => {
            let message = format!(
                "{} has format {format}, and this build reads up to {FORMAT}: run the version that wrote it, or a \
                 newer one",
                medium.path().display()
            );
            Err(Error::new(ErrorKind::Corrupt, &backend, "open", medium.path().display(), message)
                .without_effect())
        }
        _ => Err(corrupt(&backend, medium.path(), "it has no format record")),
    }
}

fn corrupt(backend: impl fmt::Display, path: &Path, what: impl fmt::Display) -> Error {
    let message = format!(
        "{} cannot be read as a store ({what}): put back a copy of it, or move it away to begin with an empty store",
        path.display()
    );
    Error::new(ErrorKind::Corrupt, backend, "open", path.display(), message).without_effect()
}

/// The processes that have `path` open, in words.
fn holders(path: &Path) -> String {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let others: Vec<String> = steadfast_lock::holders(path)
        .unwrap_or_default()
        .into_iter()
        .filter(|pid| *pid != own)
        .map(|pid| match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim()),
            Err(_) => format!("process {pid}"),
        })
        .collect();
    if others.is_empty() { "this process or one of another user".to_owned() } else { others.join(", ") }
}
