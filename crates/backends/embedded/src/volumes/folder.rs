//! One attempt at each change, on a thread that may block.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use steadfast_core::ids::{ClusterName, VolumeId, VolumeName};
use steadfast_core::volume::{Attachment, VolumeSpec, VolumeStatus};
use steadfast_core::{Error, ErrorKind, Observed, Result};
use steadfast_lock::Lock;

use super::{DataOwner, exists};
use crate::failure::io_failure;
use crate::files;

/// The engine tree's lock.
pub(super) const LOCK: &str = "lock";
/// The content.
pub(super) const DATA: &str = "data";

const RECORD: &str = "volume.json";
const META_LOCK: &str = "meta.lock";

/// The newest format of `volume.json` that this build writes and reads.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct VolumeRecord {
    format: u32,
    spec: VolumeSpec,
    attachment: Attachment,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// How one attempt under a lock ended.
#[derive(Debug)]
pub(super) enum Attempt<T> {
    /// It had the lock.
    Done(T),
    /// Somebody else has this lock right now.
    Held(PathBuf),
}

/// The folder that holds the volumes.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    owner: Option<DataOwner>,
}

impl Root {
    pub(super) fn new(path: PathBuf, owner: Option<DataOwner>) -> Self {
        Root { path, owner }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self, id: &VolumeId) -> PathBuf {
        self.path.join(id.as_str())
    }

    /// Where volumes are made before they are moved into place whole. No volume is called so: names have a dot
    /// within, and an identifier of our making begins with a member's.
    pub(super) fn staging(&self) -> PathBuf {
        self.path.join(".staging")
    }

    /// Where deleted volumes are moved whole before they are removed.
    pub(super) fn trash(&self) -> PathBuf {
        self.path.join(".trash")
    }

    pub(super) fn folder_mode(&self) -> u32 {
        if self.owner.is_some() { 0o711 } else { 0o700 }
    }

    pub(super) fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        let folder = self.folder(id);
        let Some(record) = self.record("describe", id)? else { return Ok(None) };
        // The lock is looked at last: a detach that is recorded was over at the moment the lock was seen free. The
        // other way round, an engine that starts in between would be taken for gone.
        let in_use = self.in_use("describe", id)?;
        let attachment = settled(record.attachment, in_use);
        let lock = Some(folder.join(LOCK));
        let device = Some(folder);
        let (id, spec) = (id.clone(), record.spec);
        Ok(Some(VolumeStatus { id, spec, attachment, node: None, in_use, device, lock }))
    }

    pub(super) fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        let failed = |error| io_failure(self, "list", &self.path, error).without_effect();
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.to_str().and_then(volume_id));
        }
        ids.sort();
        let mut found = Vec::new();
        for id in ids {
            // One that is being deleted meanwhile is just not there.
            found.extend(self.describe(&id)?.filter(|status| status.spec.cluster == *cluster));
        }
        Ok(found)
    }

    /// Makes the volume if it does not exist, in a folder of its own that is then moved into place.
    pub(super) fn ensure(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Attempt<()>> {
        let failed = |path: &Path, error| io_failure(self, "ensure", path, error).without_effect();
        let folder = self.folder(id);
        let lock_path = self.staging().join("lock");
        if self.check_existing(id, spec)? {
            return Ok(Attempt::Done(()));
        }
        let Some(_lock) = Lock::try_exclusive(&lock_path).map_err(|error| failed(&lock_path, error))? else {
            return Ok(Attempt::Held(lock_path));
        };
        if self.check_existing(id, spec)? {
            return Ok(Attempt::Done(()));
        }
        let staged = self.staging().join(id.as_str());
        // What a crash has left here was never a volume.
        remove_tree(&staged).map_err(|error| failed(&staged, error))?;
        self.stage(&staged, spec).map_err(|error| failed(&staged, error))?;
        // From here on it may exist.
        let moved = fs::rename(&staged, &folder).and_then(|()| files::sync_folder(&self.path));
        moved.map_err(|error| io_failure(self, "ensure", &folder, error))?;
        Ok(Attempt::Done(()))
    }

    /// Changes the attachment as `decide` says, given the present one and whether the lock is held.
    pub(super) fn change(
        &self,
        operation: &'static str,
        id: &VolumeId,
        decide: impl Fn(&Attachment, bool) -> Result<Option<Attachment>, (ErrorKind, String)>,
    ) -> Result<Attempt<()>> {
        self.rewrite(operation, id, |record| {
            let in_use = self.in_use(operation, id)?;
            let present = settled(record.attachment.clone(), in_use);
            // What is recorded may lag behind what is: a change that has nothing to do still records what it saw.
            let next = decide(&present, in_use)
                .map_err(|(kind, message)| Error::new(kind, self, operation, id, message).without_effect())?;
            Ok(VolumeRecord { attachment: next.unwrap_or(present), ..record.clone() })
        })
    }

    /// Records that it is larger. A folder has whatever room there is.
    pub(super) fn grow(&self, id: &VolumeId, size_bytes: u64) -> Result<Attempt<()>> {
        self.rewrite("grow", id, |record| {
            let spec =
                VolumeSpec { size_bytes: record.spec.size_bytes.max(size_bytes), ..record.spec.clone() };
            Ok(VolumeRecord { spec, ..record.clone() })
        })
    }

    /// Replaces the record of a volume by what follows from it, and nobody comes between.
    fn rewrite(
        &self,
        operation: &'static str,
        id: &VolumeId,
        next: impl FnOnce(&VolumeRecord) -> Result<VolumeRecord>,
    ) -> Result<Attempt<()>> {
        let missing =
            || Error::new(ErrorKind::NotFound, self, operation, id, "it does not exist").without_effect();
        let folder = self.folder(id);
        let _lock = match self.meta_lock(operation, &folder)? {
            Attempt::Done(Some(lock)) => lock,
            Attempt::Done(None) => return Err(missing()),
            Attempt::Held(path) => return Ok(Attempt::Held(path)),
        };
        let record = self.record(operation, id)?.ok_or_else(missing)?;
        let next = next(&record)?;
        if next != record {
            let path = folder.join(RECORD);
            self.write_record(&folder, &next).map_err(|error| io_failure(self, operation, &path, error))?;
        }
        Ok(Attempt::Done(()))
    }

    /// Moves the volume away whole, unless it is attached or in use.
    pub(super) fn delete(&self, id: &VolumeId) -> Result<Attempt<()>> {
        let failed = |path: &Path, error| io_failure(self, "delete", path, error).without_effect();
        let busy =
            |message: String| Error::new(ErrorKind::Busy, self, "delete", id, message).without_effect();
        let folder = self.folder(id);
        let _meta = match self.meta_lock("delete", &folder)? {
            Attempt::Done(Some(lock)) => lock,
            Attempt::Done(None) => return Ok(Attempt::Done(())),
            Attempt::Held(path) => return Ok(Attempt::Held(path)),
        };
        // Held until the folder is out of the way, so that no engine starts on it meanwhile.
        let lock_path = folder.join(LOCK);
        let Some(_engine) = Lock::try_exclusive(&lock_path).map_err(|error| failed(&lock_path, error))?
        else {
            return Err(busy("its lock is held: an engine is using it".to_owned()));
        };
        let Some(record) = self.record("delete", id)? else { return Ok(Attempt::Done(())) };
        if let Some(holder) = settled(record.attachment, false).holder() {
            return Err(busy(format!("it is attached to {holder}: detach it first")));
        }
        let grave = self.grave(id).map_err(|error| failed(&self.trash(), error))?;
        let moved = fs::rename(&folder, &grave).and_then(|()| files::sync_folder(&self.path));
        moved.map_err(|error| io_failure(self, "delete", &folder, error))?;
        Ok(Attempt::Done(()))
    }

    /// Removes what is left of a deleted volume. Repeating a deletion repeats this, so that a failure leaks nothing.
    pub(super) fn empty_trash(&self, id: &VolumeId) -> Result<()> {
        let graves = self.trash().join(id.as_str());
        remove_tree(&graves).map_err(|error| io_failure(self, "delete", &graves, error))
    }

    /// Whether the volume exists and may be had with this spec.
    fn check_existing(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<bool> {
        let Some(found) = self.record("ensure", id)? else { return Ok(false) };
        if found.spec.cluster != spec.cluster {
            let message = format!("it belongs to the cluster {}", found.spec.cluster);
            return Err(Error::new(ErrorKind::AlreadyExists, self, "ensure", id, message).without_effect());
        }
        let folder = self.folder(id);
        self.give_away(&folder)
            .map_err(|error| io_failure(self, "ensure", &folder, error).without_effect())?;
        Ok(true)
    }

    fn stage(&self, staged: &Path, spec: &VolumeSpec) -> io::Result<()> {
        files::make_folder(staged, self.folder_mode())?;
        let data = staged.join(DATA);
        files::make_folder(&data, 0o700)?;
        self.give_away(staged)?;
        let record = VolumeRecord {
            format: FORMAT,
            spec: spec.clone(),
            attachment: Attachment::Free,
            extra: Map::new(),
        };
        self.write_record(staged, &record)?;
        for lock in [LOCK, META_LOCK] {
            fs::write(staged.join(lock), b"")?;
        }
        files::sync_folder(&data)?;
        files::sync_folder(staged)
    }

    /// Gives the content of `folder` to the user it is for, who must be able to pass through to it. Only the folders:
    /// what lies in them was made by that user.
    fn give_away(&self, folder: &Path) -> io::Result<()> {
        let Some(DataOwner { uid, gid }) = self.owner else { return Ok(()) };
        self.open_way(folder)?;
        let data = folder.join(DATA);
        let present = fs::metadata(&data)?;
        if (present.uid(), present.gid()) == (uid, gid) { Ok(()) } else { chown(data, Some(uid), Some(gid)) }
    }

    /// Lets the user that the content is for pass through `folder`, whatever the mask of this process is.
    pub(super) fn open_way(&self, folder: &Path) -> io::Result<()> {
        if self.owner.is_some() && fs::metadata(folder)?.mode() & 0o011 != 0o011 {
            fs::set_permissions(folder, fs::Permissions::from_mode(self.folder_mode()))?;
        }
        Ok(())
    }

    /// The lock for changes of one volume; none if the volume does not exist.
    fn meta_lock(&self, operation: &'static str, folder: &Path) -> Result<Attempt<Option<Lock>>> {
        let path = folder.join(META_LOCK);
        let failed = |error| io_failure(self, operation, &path, error).without_effect();
        if !exists(folder).map_err(failed)? {
            return Ok(Attempt::Done(None));
        }
        match Lock::try_exclusive(&path) {
            Ok(Some(lock)) => {
                // A volume that was deleted and made anew in between has another lock than the one taken here.
                let same = is_file_at(&lock, &path).map_err(failed)?;
                Ok(if same { Attempt::Done(Some(lock)) } else { Attempt::Held(path) })
            }
            Ok(None) => Ok(Attempt::Held(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Attempt::Done(None)),
            Err(error) => Err(failed(error)),
        }
    }

    fn in_use(&self, operation: &'static str, id: &VolumeId) -> Result<bool> {
        let path = self.folder(id).join(LOCK);
        steadfast_lock::is_held(&path)
            .map_err(|error| io_failure(self, operation, &path, error).without_effect())
    }

    /// What is recorded of a volume; none if it does not exist.
    fn record(&self, operation: &'static str, id: &VolumeId) -> Result<Option<VolumeRecord>> {
        let folder = self.folder(id);
        let path = folder.join(RECORD);
        let failed = |error| io_failure(self, operation, &path, error).without_effect();
        let corrupt = |what: String| {
            let shown = path.display();
            let message = format!("{shown} {what}: put back a copy of it, or move the folder away");
            Error::new(ErrorKind::Corrupt, self, operation, shown, message).without_effect()
        };
        let content = match self.read_record(&folder, &path).map_err(failed)? {
            Observed::Present(content) => content,
            Observed::Absent => return Ok(None),
            Observed::Unknown => return Err(corrupt("is missing".to_owned())),
        };
        let head: Head = serde_json::from_slice(&content)
            .map_err(|error| corrupt(format!("does not decode ({error})")))?;
        if head.format > FORMAT {
            let message = format!(
                "{} has format {}, and this build reads up to {FORMAT}: run the version that wrote it, or a newer one",
                path.display(),
                head.format
            );
            let error = Error::new(ErrorKind::Corrupt, self, operation, path.display(), message);
            return Err(error.without_effect());
        }
        let record: VolumeRecord = serde_json::from_slice(&content)
            .map_err(|error| corrupt(format!("does not decode ({error})")))?;
        Ok(Some(record))
    }

    /// The record's bytes; absent if there is no such volume, unknown if there is a folder without a record: volumes
    /// appear and disappear whole, so that is a damaged one.
    fn read_record(&self, folder: &Path, path: &Path) -> io::Result<Observed<Vec<u8>>> {
        // It may have been made, or deleted and made anew, between the two looks.
        for _ in 0..5 {
            match fs::read(path) {
                Ok(content) => return Ok(Observed::Present(content)),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) if !exists(folder)? => return Ok(Observed::Absent),
                Err(_) => {}
            }
        }
        Ok(Observed::Unknown)
    }

    fn write_record(&self, folder: &Path, record: &VolumeRecord) -> io::Result<()> {
        let content = serde_json::to_vec_pretty(record)?;
        files::replace(&folder.join(RECORD), &folder.join("volume.json.new"), &content, 0o600)
    }

    /// A fresh place for a deleted volume.
    fn grave(&self, id: &VolumeId) -> io::Result<PathBuf> {
        let graves = self.trash().join(id.as_str());
        files::make_folder(&graves, 0o700)?;
        let mut number = 0_u32;
        loop {
            let grave = graves.join(number.to_string());
            if !exists(&grave)? {
                return Ok(grave);
            }
            number += 1;
        }
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory volumes({})", self.path.display())
    }
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// What is, given what is recorded: a detach is over when the lock is free.
fn settled(recorded: Attachment, in_use: bool) -> Attachment {
    match recorded {
        Attachment::Detaching(_) if !in_use => Attachment::Free,
        other => other,
    }
}

/// The volume that a folder's name stands for; none for what is not ours (`lost+found`).
fn volume_id(name: &str) -> Option<VolumeId> {
    let (member, volume) = name.rsplit_once('.')?;
    (!member.is_empty() && volume.parse::<VolumeName>().is_ok()).then(|| name.parse().ok()).flatten()
}

fn is_file_at(lock: &Lock, path: &Path) -> io::Result<bool> {
    use std::os::fd::AsFd as _;
    let held = nix::sys::stat::fstat(lock.as_fd())?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.st_dev, held.st_ino)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a folder with all that is in it. That somebody else removes it at the same time is no failure.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if exists(path)? {
                remove_tree(path)
            } else {
                Ok(())
            }
        }
        other => other,
    }
}
