//! A provider of volumes of one's own: folders on a disk, one record each. It needs nothing but the contract, and the
//! conformance suite says whether it keeps it: `cargo test -p steadfast-core --all-features --example volume_provider`.
//! `docs/volume-provider.md` goes through it.

use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use steadfast_core::ids::{ClusterName, NodeName, VolumeId};
use steadfast_core::volume::{
    Attachment, Exclusivity, Reach, VolumeCapabilities, VolumeProvider, VolumeSpec, VolumeStatus,
    cannot_abandon, cannot_grow,
};
use steadfast_core::{Error, ErrorKind, Result};

/// Volumes that are folders below `root`, each with its record beside it.
#[derive(Debug, Clone)]
struct Shelf {
    root: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record {
    spec: VolumeSpec,
    attachment: Attachment,
}

impl Shelf {
    /// A change waits for the one before, in whatever process that is.
    fn alone(&self, id: &VolumeId) -> Result<File> {
        let lock = File::create(self.root.join("lock")).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|error| self.failed("lock", id, error).without_effect())
    }

    fn path(&self, id: &VolumeId) -> PathBuf {
        self.root.join(format!("{id}.json"))
    }

    fn read(&self, id: &VolumeId) -> Result<Option<Record>> {
        match fs::read(self.path(id)) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Error::new(ErrorKind::Corrupt, self, "read", id, error).without_effect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", id, error).without_effect()),
        }
    }

    /// Replaces the record whole. Whether a failure has done it is not known, and that is what the error says.
    fn write(&self, id: &VolumeId, record: &Record) -> Result<()> {
        let draft = self.root.join("draft");
        let written = serde_json::to_vec(record).map_err(std::io::Error::from).and_then(|text| {
            fs::write(&draft, text)?;
            File::open(&draft)?.sync_all()?;
            fs::rename(&draft, self.path(id))?;
            File::open(&self.root)?.sync_all()
        });
        written.map_err(|error| self.failed("write", id, error))
    }

    /// Attaches or detaches: reads, decides, writes, and nobody comes between.
    fn change(
        &self,
        id: &VolumeId,
        next: impl FnOnce(&Attachment) -> Result<Attachment, ErrorKind>,
    ) -> Result<()> {
        let _alone = self.alone(id)?;
        let refuse = |kind, why: &str| Error::new(kind, self, "change", id, why).without_effect();
        let record = self.read(id)?.ok_or_else(|| refuse(ErrorKind::NotFound, "it does not exist"))?;
        let next = next(&record.attachment)
            .map_err(|kind| refuse(kind, &format!("it is {:?}", record.attachment)))?;
        self.write(id, &Record { attachment: next, ..record })
    }

    fn failed(&self, operation: &'static str, id: &VolumeId, error: std::io::Error) -> Error {
        Error::new(ErrorKind::Unavailable, self, operation, id, &error).with_source(error)
    }
}

impl fmt::Display for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shelf({})", self.root.display())
    }
}

#[async_trait]
impl VolumeProvider for Shelf {
    fn capabilities(&self) -> VolumeCapabilities {
        // Nothing keeps a node that was told to detach from writing on: so the old one has to be fenced first.
        let exclusivity = Exclusivity::None;
        VolumeCapabilities {
            exclusivity,
            reach: Reach::Cluster,
            attach_limit: None,
            grow: false,
            snapshot: false,
        }
    }

    async fn ensure(&self, spec: &VolumeSpec) -> Result<VolumeId> {
        // The identifier follows from what finds the volume again: a crash right after leaks nothing.
        let id: VolumeId = format!("{}.{}", spec.member, spec.name).parse().map_err(|error| {
            Error::new(ErrorKind::Internal, self, "name", &spec.member, error).without_effect()
        })?;
        let _alone = self.alone(&id)?;
        if self.read(&id)?.is_none() {
            // The record last: a volume is there when it is whole.
            fs::create_dir_all(self.root.join(id.as_str()))
                .map_err(|error| self.failed("make", &id, error))?;
            self.write(&id, &Record { spec: spec.clone(), attachment: Attachment::Free })?;
        }
        Ok(id)
    }

    async fn describe(&self, id: &VolumeId) -> Result<Option<VolumeStatus>> {
        let device = Some(self.root.join(id.as_str()));
        Ok(self.read(id)?.map(|Record { spec, attachment }| VolumeStatus {
            id: id.clone(),
            spec,
            attachment,
            node: None,
            in_use: false,
            device,
            lock: None,
        }))
    }

    async fn list(&self, cluster: &ClusterName) -> Result<Vec<VolumeStatus>> {
        let entries = fs::read_dir(&self.root).map_err(|error| {
            Error::new(ErrorKind::Unavailable, self, "list", cluster, error).without_effect()
        })?;
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            let Some(id) = id else { continue };
            found.extend(self.describe(&id).await?.filter(|status| status.spec.cluster == *cluster));
        }
        Ok(found)
    }

    async fn begin_attach(&self, id: &VolumeId, node: &NodeName) -> Result<()> {
        self.change(id, |now| match now.holder() {
            Some(holder) if holder != node => Err(ErrorKind::Busy),
            _ => Ok(Attachment::Attached(node.clone())),
        })
    }

    async fn begin_detach(&self, id: &VolumeId, expected: &NodeName) -> Result<()> {
        self.change(id, |now| match now.holder() {
            Some(holder) if holder != expected => Err(ErrorKind::Stale),
            _ => Ok(Attachment::Free),
        })
    }

    async fn begin_grow(&self, id: &VolumeId, _size_bytes: u64) -> Result<()> {
        Err(cannot_grow(self, id))
    }

    async fn delete(&self, id: &VolumeId) -> Result<()> {
        let _alone = self.alone(id)?;
        let Some(record) = self.read(id)? else { return Ok(()) };
        if let Some(holder) = record.attachment.holder() {
            let why = format!("it is attached to {holder}");
            return Err(Error::new(ErrorKind::Busy, self, "delete", id, why).without_effect());
        }
        // The data first: what a crash leaves is still listed, and is deleted by the next call.
        match fs::remove_dir_all(self.root.join(id.as_str())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.failed("delete", id, error));
            }
            _ => {}
        }
        fs::remove_file(self.path(id)).map_err(|error| self.failed("delete", id, error))
    }

    async fn abandon(&self, id: &VolumeId) -> Result<()> {
        Err(cannot_abandon(self, id))
    }
}

/// A binary of one's own gives it to [`Backends`](steadfast_core::backends::Backends); here it only says what it is.
#[expect(clippy::print_stdout, reason = "an example shows something")]
fn main() {
    let shelf = Shelf { root: std::env::temp_dir() };
    println!("{shelf}: {:?}", shelf.capabilities());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use steadfast_core::conformance::Harness;
    use steadfast_core::conformance::volume::VolumeHarness;

    use super::*;

    /// Removes its folder.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("it was ours");
        }
    }

    struct Fresh;

    impl Harness for Fresh {
        type Backend = Shelf;
        type Guard = Folder;

        async fn open(&self) -> (Folder, Shelf) {
            static OPENED: AtomicU32 = AtomicU32::new(0);
            let number = OPENED.fetch_add(1, Ordering::Relaxed);
            let root = std::env::temp_dir().join(format!("shelf-{}-{number}", std::process::id()));
            fs::create_dir(&root).expect("nobody else has this name");
            (Folder(root.clone()), Shelf { root })
        }

        async fn reopen(&self, folder: &Folder) -> Shelf {
            Shelf { root: folder.0.clone() }
        }
    }

    impl VolumeHarness for Fresh {
        fn mark(&self, volume: &VolumeStatus) -> bool {
            volume.device.as_ref().is_some_and(|folder| fs::write(folder.join("mark"), "here").is_ok())
        }

        fn is_marked(&self, volume: &VolumeStatus) -> bool {
            volume.device.as_ref().is_some_and(|folder| folder.join("mark").exists())
        }
    }

    steadfast_core::volume_conformance!(Fresh);
}
