//! Volumes that become larger: while somebody writes, when the folder is full, and where a mounted ext4 may not grow.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod volumes;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use steadfast_backend_linux::volumes::{Filesystem, ImageVolumes};
use steadfast_core::error::{Error, ErrorKind};
use steadfast_core::ids::VolumeId;
use steadfast_core::volume::{Attachment, VolumeProvider};
use volumes::writer::{BLOCK, Writer, assert_written, block};
use volumes::{Lab, agent, attached, may_mount, node, seen};

const BOTH: [Filesystem; 2] = [Filesystem::Ext4, Filesystem::Xfs];

fn assert_says(error: &Error, kind: ErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(words.iter().all(|word| error.message().contains(word)), "{words:?}: {error}");
}

async fn size(volumes: &ImageVolumes, id: &VolumeId) -> u64 {
    seen(volumes, id).await.spec.size_bytes
}

fn room(mount: &Path) -> u64 {
    let space = statvfs(mount).unwrap();
    space.blocks() * space.fragment_size()
}

#[tokio::test]
async fn a_volume_grows_under_a_writer_that_goes_on() {
    for filesystem in BOTH {
        let test = "a_volume_grows_under_a_writer_that_goes_on";
        if !may_mount(test, filesystem) {
            continue;
        }
        let lab = Lab::new(filesystem);
        let (server, holder) = (lab.server(), lab.agent("a"));
        let small = lab.spec().size_bytes;
        let id = holder.ensure(&lab.spec()).await.unwrap();
        if !holder.capabilities().grow {
            // A mounted ext4 grows only with CAP_SYS_RESOURCE, which not every root has: its next mount is tried below.
            assert_eq!(filesystem, Filesystem::Ext4, "XFS asks for nothing more than mounting it");
            let error = holder.begin_grow(&id, small * 2).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            continue;
        }
        let mount = attached(&holder, "a", &id).await;
        let before = room(&mount);
        let writer = Writer::on(&mount);
        writer.goes_on().await;

        // By the node's own word, and by a server's, whose wish the node's next round fulfils.
        holder.begin_grow(&id, small * 2).await.unwrap();
        assert_eq!(size(&server, &id).await, small * 2);
        writer.goes_on().await;
        server.begin_grow(&id, small * 4).await.unwrap();
        assert_eq!(size(&server, &id).await, small * 2, "it cannot be used yet");
        holder.settle().await.unwrap();
        writer.goes_on().await;
        assert_eq!(size(&holder, &id).await, small * 4);
        let after = room(&mount);
        assert!(after > before * 3 && after <= small * 4, "{before} and {after} of {}", small * 4);
        let large = File::create(mount.join("large")).unwrap();
        let reserved = i64::try_from(small * 2).unwrap();
        fallocate(&large, FallocateFlags::empty(), 0, reserved).unwrap();
        drop(large);
        writer.goes_on().await;

        assert_eq!(seen(&holder, &id).await.attachment, Attachment::Attached(node("a")));
        assert_eq!((lab.mounts().len(), lab.loops().len()), (1, 1), "where it was");
        let acknowledged = writer.end();
        assert_written(&mount.join("written"), acknowledged);
        holder.begin_detach(&id, &node("a")).await.unwrap();
        lab.assert_nothing_left();
        let other = lab.agent("b");
        let mount = attached(&other, "b", &id).await;
        assert_written(&mount.join("written"), acknowledged);
        assert_eq!((room(&mount), size(&other, &id).await), (after, small * 4));
        other.begin_detach(&id, &node("b")).await.unwrap();
        lab.assert_nothing_left();
    }
}

/// What was recorded and not carried out is told by the node, and then by whoever is asked again; nothing is changed.
#[tokio::test]
async fn a_folder_without_room_is_told_and_the_volume_stays_as_it_was() {
    let filesystem = Filesystem::Xfs;
    if !may_mount("a_folder_without_room_is_told_and_the_volume_stays_as_it_was", filesystem) {
        return;
    }
    let lab = Lab::new(filesystem);
    let resize = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(lab.shared());
        assert!(mount.status().unwrap().success());
    };
    resize("size=1g");
    let (server, holder) = (lab.server(), lab.agent("a"));
    let (small, id) = (lab.spec().size_bytes, holder.ensure(&lab.spec()).await.unwrap());
    let mount = attached(&holder, "a", &id).await;
    let data = File::create(mount.join("data")).unwrap();
    data.write_all_at(&block(7), 0).unwrap();
    data.sync_all().unwrap();
    // Asked for while there was room, which is gone before it is carried out.
    server.begin_grow(&id, small * 2).await.unwrap();
    let filler = lab.shared().join("filler");
    let space = statvfs(&lab.shared()).unwrap();
    let rest = i64::try_from(space.blocks_available() * space.fragment_size() - (1 << 20)).unwrap();
    fallocate(File::create(&filler).unwrap(), FallocateFlags::empty(), 0, rest).unwrap();

    let full = ["DiskFull", "making it larger takes", "free space"];
    assert_says(&holder.settle().await.unwrap_err(), ErrorKind::QuotaExceeded, &full);
    let told = server.begin_grow(&id, small * 2).await.unwrap_err();
    assert_says(&told, ErrorKind::QuotaExceeded, &["DiskFull", "(on a)"]);
    let more = server.begin_grow(&id, small * 3).await.unwrap_err();
    assert_says(&more, ErrorKind::QuotaExceeded, &full);
    assert_eq!(size(&server, &id).await, small);

    data.write_all_at(&block(8), BLOCK as u64).unwrap();
    data.sync_all().unwrap();
    fs::remove_file(&filler).unwrap();
    holder.settle().await.unwrap();
    server.begin_grow(&id, small * 2).await.unwrap();
    assert_eq!(size(&server, &id).await, small * 2);
    assert_eq!(fs::read(mount.join("data")).unwrap(), [block(7), block(8)].concat());
    drop(data);
    holder.begin_detach(&id, &node("a")).await.unwrap();
    assert!(lab.loops().is_empty());
}

const WITHOUT: &str = "STEADFAST_TEST_WITHOUT_SYS_RESOURCE";

/// An agent without `CAP_SYS_RESOURCE`, as in most containers: the kernel refuses to make a mounted ext4 larger.
#[tokio::test]
async fn an_ext4_that_may_not_grow_mounted_grows_when_it_is_mounted_next() {
    let test = "an_ext4_that_may_not_grow_mounted_grows_when_it_is_mounted_next";
    if !may_mount(test, Filesystem::Ext4) {
        return;
    }
    let Some(folder) = std::env::var_os(WITHOUT) else {
        let lab = Lab::new(Filesystem::Ext4);
        let mut child = Command::new("setpriv");
        child.args(["--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]);
        let child = child.arg(std::env::current_exe().unwrap()).args(["--exact", test]);
        let output = child.env(WITHOUT, lab.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        lab.assert_nothing_left();
        return;
    };
    let folder = Path::new(&folder);
    let of = |name| agent(folder, name, Filesystem::Ext4).unwrap();
    let (server, holder, other) = (volumes::server(folder, Filesystem::Ext4), of("a"), of("b"));
    let spec = volumes::spec(Filesystem::Ext4);
    let (small, id) = (spec.size_bytes, holder.ensure(&spec).await.unwrap());
    let mount = attached(&holder, "a", &id).await;
    fs::write(mount.join("data"), "kept").unwrap();
    assert!(!holder.capabilities().grow);
    assert_says(
        &holder.begin_grow(&id, small * 2).await.unwrap_err(),
        ErrorKind::Unsupported,
        &["CapabilityMissing"],
    );

    server.begin_grow(&id, small * 2).await.unwrap();
    let words = ["CapabilityMissing", "CAP_SYS_RESOURCE", "mounted anew"];
    assert_says(&holder.settle().await.unwrap_err(), ErrorKind::Unsupported, &words);
    let told = server.begin_grow(&id, small * 2).await.unwrap_err();
    assert_says(&told, ErrorKind::Unsupported, &["CapabilityMissing", "(on a)"]);
    assert_eq!(size(&server, &id).await, small);

    // Mounted anew, by itself and by another machine that takes it over.
    holder.begin_detach(&id, &node("a")).await.unwrap();
    let mount = attached(&holder, "a", &id).await;
    let after = room(&mount);
    assert!(after > small * 3 / 2 && after <= small * 2, "{after}");
    assert_eq!(size(&server, &id).await, small * 2);
    server.begin_grow(&id, small * 4).await.unwrap();
    other.begin_detach(&id, &node("a")).await.unwrap();
    let mount = attached(&other, "b", &id).await;
    assert!(room(&mount) > small * 3);
    assert_eq!(size(&server, &id).await, small * 4);
    server.begin_grow(&id, small * 4).await.unwrap();
    assert_eq!(fs::read_to_string(mount.join("data")).unwrap(), "kept");
    holder.settle().await.unwrap();
    other.begin_detach(&id, &node("b")).await.unwrap();
}
