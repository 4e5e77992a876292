//! Snapshots of images: of one that somebody writes to, and whoever is killed while one is made or used.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod volumes;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use steadfast_backend_linux::volumes::{Filesystem, ImageVolumes};
use steadfast_core::error::ErrorKind;
use steadfast_core::ids::{SnapshotId, SnapshotName};
use steadfast_core::snapshot::{SnapshotProvider, SnapshotState};
use steadfast_core::volume::{Attachment, VolumeProvider, VolumeSpec};
use volumes::killer::deadly;
use volumes::writer::{Writer, assert_written, assert_written_at_least};
use volumes::{Lab, agent, attached, may_mount, node, seen, server, spec};

const BOTH: [Filesystem; 2] = [Filesystem::Ext4, Filesystem::Xfs];

fn monday() -> SnapshotName {
    "monday".parse().unwrap()
}

fn restored(filesystem: Filesystem) -> VolumeSpec {
    VolumeSpec { member: "m-2".parse().unwrap(), ..spec(filesystem) }
}

async fn state(volumes: &ImageVolumes, snapshot: &SnapshotId) -> SnapshotState {
    volumes.snapshot(snapshot).await.unwrap().unwrap().state
}

/// It stands still for the moment that sharing its blocks takes. What was acknowledged before is in the snapshot, and what
/// is acknowledged later is in the volume.
#[tokio::test]
async fn a_snapshot_under_a_writer_holds_what_was_acknowledged_before() {
    for filesystem in BOTH {
        if !may_mount("a_snapshot_under_a_writer_holds_what_was_acknowledged_before", filesystem) {
            continue;
        }
        let lab = Lab::that_shares_blocks(filesystem);
        let (server, holder, other) = (lab.server(), lab.agent("a"), lab.agent("b"));
        let id = holder.ensure(&lab.spec()).await.unwrap();
        let mount = attached(&holder, "a", &id).await;
        let writer = Writer::on(&mount);
        writer.goes_on().await;
        let before = writer.acknowledged();
        // A server touches no image that is mounted elsewhere: its machine's next round does.
        let snapshot = server.begin_snapshot(&id, &monday()).await.unwrap();
        assert_eq!(state(&server, &snapshot).await, SnapshotState::Pending);
        let early = server.ensure_from(&restored(filesystem), &snapshot).await.unwrap_err();
        assert_eq!(early.kind(), ErrorKind::Busy, "{early}");
        holder.settle().await.unwrap();
        assert_eq!(state(&server, &snapshot).await, SnapshotState::Complete);
        writer.goes_on().await;
        assert_eq!(seen(&holder, &id).await.attachment, Attachment::Attached(node("a")));

        // Mounted beside the volume that it is of, which goes on.
        let copy = server.ensure_from(&restored(filesystem), &snapshot).await.unwrap();
        let at_other = attached(&other, "b", &copy).await;
        assert_written_at_least(&at_other.join("written"), before);
        fs::remove_file(at_other.join("written")).unwrap();
        writer.goes_on().await;
        let acknowledged = writer.end();
        assert_written(&mount.join("written"), acknowledged);

        // Nothing of one depends on another being there.
        server.delete_snapshot(&snapshot).await.unwrap();
        holder.begin_detach(&id, &node("a")).await.unwrap();
        server.delete(&id).await.unwrap();
        fs::write(at_other.join("data"), "goes on").unwrap();
        other.begin_detach(&copy, &node("b")).await.unwrap();
        let at_own = attached(&holder, "a", &copy).await;
        assert_eq!(fs::read_to_string(at_own.join("data")).unwrap(), "goes on");
        holder.begin_detach(&copy, &node("a")).await.unwrap();
        assert_eq!(lab.loops().len(), 1, "that of the folder: {:?}", lab.loops());
    }
}

#[tokio::test]
async fn a_volume_in_use_is_refused_where_blocks_are_not_shared() {
    if !may_mount("a_volume_in_use_is_refused_where_blocks_are_not_shared", Filesystem::Ext4) {
        return;
    }
    let lab = Lab::new(Filesystem::Ext4);
    let holder = lab.agent("a");
    if SnapshotProvider::capabilities(&holder).in_use {
        // This machine's temporary folder shares blocks between files.
        return;
    }
    let id = holder.ensure(&lab.spec()).await.unwrap();
    attached(&holder, "a", &id).await;
    let error = holder.begin_snapshot(&id, &monday()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error.message().starts_with("CapabilityMissing: ") && error.message().contains("stop"),
        "{error}"
    );
    holder.begin_detach(&id, &node("a")).await.unwrap();
    let snapshot = holder.begin_snapshot(&id, &monday()).await.unwrap();
    assert_eq!(state(&holder, &snapshot).await, SnapshotState::Complete);
    lab.assert_nothing_left();
}

const FOLDER: &str = "STEADFAST_TEST_FOLDER";
const TEST: &str = "whoever_is_killed_while_a_snapshot_is_made_or_used_leaves_nothing_frozen_or_half_made";
const DATA: &str = "what was acknowledged";

/// The volume is used on one machine, a snapshot is made of it, and another machine uses what is made of that.
async fn live(folder: &Path) {
    let filesystem = Filesystem::Ext4;
    let of = |name| agent(folder, name, filesystem).unwrap();
    let (server, first, second) = (server(folder, filesystem), of("a"), of("b"));
    let id = first.ensure(&spec(filesystem)).await.unwrap();
    let snapshot = first.begin_snapshot(&id, &monday()).await.unwrap();
    while state(&server, &snapshot).await != SnapshotState::Complete {
        first.settle().await.unwrap();
    }
    let copy = server.ensure_from(&restored(filesystem), &snapshot).await.unwrap();
    let mount = attached(&second, "b", &copy).await;
    assert_eq!(fs::read_to_string(mount.join("data")).unwrap(), DATA);
}

#[tokio::test]
async fn whoever_is_killed_while_a_snapshot_is_made_or_used_leaves_nothing_frozen_or_half_made() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return live(Path::new(&folder)).await;
    }
    if !may_mount(TEST, Filesystem::Ext4) {
        return;
    }
    let mut killed = BTreeSet::new();
    for program in ["sh", "fsfreeze", "cp"] {
        for when in ["before", "while", "after"] {
            // The first calls try what the folder can do, and thaw what nobody has frozen.
            for call in 1..=5 {
                if survive(program, when, call).await {
                    killed.insert((program, when));
                }
            }
        }
    }
    assert_eq!(killed.len(), 9, "{killed:?}");
}

/// Gives a volume back. A frozen file system stays with the kernel for ever; one that somebody else's new mount namespace
/// has got a copy of, until that ends.
async fn give_back(agent: &ImageVolumes, machine: &str, volume: &str, step: &str) {
    let begun = Instant::now();
    while let Err(error) = agent.begin_detach(&volume.parse().unwrap(), &node(machine)).await {
        assert_eq!(error.kind(), ErrorKind::Busy, "{step}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(180), "{step}: {error}");
        tokio::task::yield_now().await;
    }
}

/// Says whether anybody was killed there: a program may not be called so often.
async fn survive(program: &str, when: &str, call: u32) -> bool {
    let step = format!("{when} call {call} of {program}");
    let lab = Lab::that_shares_blocks(Filesystem::Ext4);
    let first = lab.agent("a");
    let id = first.ensure(&lab.spec()).await.unwrap();
    let mount = attached(&first, "a", &id).await;
    fs::write(mount.join("data"), DATA).unwrap();
    File::open(mount.join("data")).unwrap().sync_all().unwrap();
    let programs = deadly(lab.path(), program, when, call);
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", TEST]).env(FOLDER, lab.path()).env("PATH", path).output().unwrap();
    let calls = fs::read_to_string(lab.path().join("calls")).unwrap_or_default();
    let reached = calls.lines().count() >= call as usize;
    // Of what the frozen copy calls, the caller is that copy, and the agent is told that it has failed.
    assert_eq!(reached, !output.status.success(), "{step}: {output:?}");
    assert!(program != "sh" || !reached || output.status.signal() == Some(9), "{step}: {output:?}");

    live(lab.path()).await;
    fs::write(mount.join("data"), "and more").unwrap();
    File::open(mount.join("data")).unwrap().sync_all().unwrap();
    let images = lab.images(&"m-2.data".parse().unwrap());
    assert_eq!(images.len(), 1, "{step}: {images:?}");
    let kept = fs::read_dir(lab.shared().join("snapshots/m-1.data:monday")).unwrap();
    let kept: BTreeSet<_> = kept.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(kept, BTreeSet::from(["image".into(), "snapshot.json".into()]), "{step}");
    for (machine, volume) in [("a", "m-1.data"), ("b", "m-2.data")] {
        give_back(&lab.agent(machine), machine, volume, &step).await;
    }
    assert_eq!(lab.loops().len(), 1, "{step}: {:?}", lab.loops());
    reached
}
