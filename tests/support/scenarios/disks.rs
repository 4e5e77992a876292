//! Disks that are full or read-only, for data and for the store: file systems of their own, in a mount namespace
//! of the test's thread.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use steadfast_core::model::{Reason, ServiceState};

use super::{SERVICE, Stage};
use crate::support::cluster::{Cluster, Layout};
use crate::support::engine::Engine;
use crate::support::{is_root, process, until};

const NONE: Option<&str> = None;

/// A file system of so many MiB over a folder, in a namespace of this thread and what it starts.
struct Disk(PathBuf);

impl Disk {
    fn over(folder: &Path, mebibytes: u32) -> Disk {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
        fs::create_dir_all(folder).unwrap();
        let options = format!("size={mebibytes}m,mode=711");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Disk(folder.to_owned())
    }

    /// Fills what is left of it. Removing the file makes room again.
    fn fill(&self) -> PathBuf {
        let path = self.0.join(".filler");
        let mut file = File::create(&path).unwrap();
        // A page at a time, so that not even one is left.
        let error = (0..).find_map(|_| file.write_all(&[1; 4096]).err()).unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        path
    }

    fn remount(&self, read_only: bool) {
        let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        until("the disk is remounted", || {
            mount(NONE, &self.0, NONE, MsFlags::MS_REMOUNT | flags, NONE).map_err(|error| error.to_string())
        });
    }
}

fn may_mount(name: &str) -> bool {
    if !is_root() {
        eprintln!("left out: {name}: it mounts file systems, which takes root");
    }
    is_root()
}

/// A service whose volumes, or whose store, lie on a disk of their own.
fn on_disk(engine: &'static Engine, folder: &str, mebibytes: u32) -> (Disk, Stage) {
    let mut cluster = Cluster::prepare(Layout { nodes: 3, servers: 1, ..Layout::default() });
    let disk = Disk::over(&cluster.data().join(folder), mebibytes);
    cluster.mounted(disk.0.clone());
    cluster.up();
    (disk, Stage::on(cluster, engine, &[]))
}

pub fn a_full_disk_is_named_and_everything_goes_on_once_there_is_room(engine: &'static Engine) {
    if !may_mount("a full disk") {
        return;
    }
    let (disk, stage) = on_disk(engine, "volumes", 1024);
    let leader = stage.cluster.leader(SERVICE);
    let filler = disk.fill();
    // Whether it ends by itself or only refuses writes is the engine's matter: users see what is wrong.
    let shown = stage.blocked(leader.name.as_str(), &[Reason::DiskFull]);
    assert_eq!((&shown.node, shown.epoch), (&leader.node, leader.epoch), "it does not move");
    fs::remove_file(filler).unwrap();
    stage.writer.goes_on();
    finish(stage);
}

pub fn a_read_only_disk_is_named_and_everything_goes_on_once_it_can_be_written(engine: &'static Engine) {
    if !may_mount("a read-only disk") {
        return;
    }
    let (disk, stage) = on_disk(engine, "volumes", 1024);
    let leader = stage.cluster.leader(SERVICE);
    stage.cluster.ok(["stop", SERVICE, "--wait", "--timeout", "3m"]);
    disk.remount(true);
    stage.cluster.ok(["start", SERVICE]);
    stage.blocked(leader.name.as_str(), &[Reason::DiskReadOnly]);
    disk.remount(false);
    stage.writer.goes_on();
    finish(stage);
}

pub fn a_full_store_refuses_changes_and_the_engines_serve_on(engine: &'static Engine) {
    if !may_mount("a full store") {
        return;
    }
    let (disk, stage) = on_disk(engine, "store", 96);
    let (lives, broken) = (stage.lives(), stage.writer.broken());
    let filler = disk.fill();
    until("a change is refused for the store's disk", || {
        // The store may have room within its file for a while.
        let answer = stage.cluster.run(["pause", SERVICE]);
        let again = stage.cluster.run(["resume", SERVICE]);
        if format!("{}{}", answer.err, again.err).contains("no space left") {
            Ok(())
        } else {
            Err(format!("{answer:?}, {again:?}"))
        }
    });
    until("why names the store before all else", || {
        let why = stage.cluster.run(["why", &format!("{SERVICE}-0")]);
        let first = why.out.lines().nth(1).unwrap_or_default();
        let named = first.contains("StoreUnavailable") && first.contains("no space left");
        if named { Ok(()) } else { Err(format!("{why:?}")) }
    });
    stage.writer.goes_on();
    fs::remove_file(filler).unwrap();
    until("changes are taken again", || match stage.cluster.run(["resume", SERVICE]) {
        answer if answer.code == 0 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    stage.cluster.is_up();
    stage.cluster.settled(&stage.identity);
    assert_eq!(stage.lives(), lives, "every engine is the same process as before");
    assert_eq!(stage.writer.broken(), broken, "no write has failed");
    finish(stage);
}

pub fn a_read_only_store_is_named_and_the_engines_serve_on(engine: &'static Engine) {
    if !may_mount("a read-only store") {
        return;
    }
    let (disk, stage) = on_disk(engine, "store", 96);
    let (lives, broken) = (stage.lives(), stage.writer.broken());
    // Only a store that nobody has open can be remounted: the server is killed again and again until it is.
    until("the store is read-only", || {
        let server = stage.cluster.data().join("servers/server-1/lock");
        for pid in steadfast_lock::holders(&server).unwrap() {
            process::signal(pid, Signal::SIGKILL);
        }
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(NONE, &disk.0, NONE, flags, NONE).map_err(|error| error.to_string())
    });
    until("the server says why it does not begin", || {
        let log = fs::read_to_string(stage.cluster.data().join("servers/server-1/log")).unwrap();
        if log.contains("DiskReadOnly") || log.contains("Read-only") {
            Ok(())
        } else {
            Err(log.lines().last().unwrap_or_default().to_owned())
        }
    });
    stage.writer.goes_on();
    disk.remount(false);
    stage.cluster.is_up();
    stage.cluster.settled(&stage.identity);
    assert_eq!(stage.lives(), lives, "every engine is the same process as before");
    assert_eq!(stage.writer.broken(), broken, "no write has failed");
    finish(stage);
}

/// The checks of every scenario, once it is healthy again.
fn finish(stage: Stage) {
    until("it is healthy", || match stage.cluster.service(SERVICE).state {
        ServiceState::Healthy => Ok(()),
        other => Err(format!("{other:?}")),
    });
    stage.end();
}
