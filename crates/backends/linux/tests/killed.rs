//! A server or an agent is killed before, while and after it runs each program that makes, copies, checks, mounts,
//! unmounts and enlarges a volume. Whoever comes next goes on; nothing is lost, and nothing stays behind.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod volumes;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;
use steadfast_backend_linux::volumes::Filesystem;
use steadfast_core::ids::VolumeId;
use steadfast_core::volume::{Attachment, VolumeProvider};
use volumes::killer::deadly;
use volumes::{Lab, agent, attached, may_mount, node, seen, server, spec};

const FOLDER: &str = "STEADFAST_TEST_FOLDER";
const FILESYSTEM: &str = "STEADFAST_TEST_FILESYSTEM";
const DATA: &str = "what was acknowledged";
const TEST: &str = "whoever_is_killed_at_any_program_leaves_nothing_that_the_next_cannot_go_on_from";

/// What a volume's life calls for, from its making to a move off a machine that fell silent.
const PROGRAMS: [&str; 9] =
    ["mkfs.ext4", "mkfs.xfs", "fsck.ext4", "mount", "umount", "cp", "losetup", "resize2fs", "xfs_growfs"];
const WHEN: [&str; 3] = ["before", "while", "after"];

/// A volume is made, used on one machine, given back and used again twice as large, and taken over by another machine.
async fn live(folder: &Path, filesystem: Filesystem) {
    let (first, second) = (agent(folder, "a", filesystem).unwrap(), agent(folder, "b", filesystem).unwrap());
    let id = first.ensure(&spec(filesystem)).await.unwrap();
    if seen(&first, &id).await.attachment.holder() != Some(&node("b")) {
        let mount = attached(&first, "a", &id).await;
        let (data, acknowledged) = (mount.join("data"), folder.join("acknowledged"));
        if acknowledged.exists() {
            assert_eq!(fs::read_to_string(&data).unwrap(), DATA);
        } else {
            fs::write(&data, DATA).unwrap();
            File::open(&data).unwrap().sync_all().unwrap();
            fs::write(acknowledged, "").unwrap();
        }
        first.begin_detach(&id, &node("a")).await.unwrap();
        let large = spec(filesystem).size_bytes * 2;
        server(folder, filesystem).begin_grow(&id, large).await.unwrap();
        attached(&first, "a", &id).await;
        assert_eq!(seen(&first, &id).await.spec.size_bytes, large);
        second.begin_detach(&id, &node("a")).await.unwrap();
    }
    attached(&second, "b", &id).await;
}

#[tokio::test]
async fn whoever_is_killed_at_any_program_leaves_nothing_that_the_next_cannot_go_on_from() {
    let of = |name: &str| {
        let known = [Filesystem::Ext4, Filesystem::Xfs].into_iter().find(|known| known.as_str() == name);
        known.unwrap()
    };
    if let Some(folder) = std::env::var_os(FOLDER) {
        return live(Path::new(&folder), of(&std::env::var(FILESYSTEM).unwrap())).await;
    }
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs] {
        if !may_mount(TEST, filesystem) {
            continue;
        }
        let mut killed = BTreeSet::new();
        for program in PROGRAMS {
            for when in WHEN {
                // The second time it is another step that calls it.
                for call in 1..=2 {
                    if survive(filesystem, program, when, call).await {
                        killed.insert((program, when));
                    }
                }
            }
        }
        // Each has programs of its own that make and enlarge it, and XFS is not checked. An ext4 that may not grow
        // while it is mounted has no device that would have to.
        let lab = Lab::new(filesystem);
        let programs = if lab.agent("a").capabilities().grow { 6 } else { 5 };
        let programs = programs + usize::from(filesystem == Filesystem::Ext4);
        assert_eq!(killed.len(), programs * WHEN.len(), "{killed:?}");
    }
}

/// Says whether it was killed there: a program may not be called so often.
async fn survive(filesystem: Filesystem, program: &str, when: &str, call: u32) -> bool {
    let lab = Lab::new(filesystem);
    let programs = deadly(lab.path(), program, when, call);
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env(FOLDER, lab.path())
        .env(FILESYSTEM, filesystem.as_str())
        .env("PATH", path)
        .output()
        .unwrap();
    let step = format!("{} {when} call {call} of {program}", filesystem.as_str());
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{step}: {output:?}");
    let reached = !lab.path().join("calls").exists()
        || fs::read_to_string(lab.path().join("calls")).unwrap().lines().count() < call as usize;
    assert_eq!(killed, !reached, "{step}: {output:?}");

    // Its child may run on: the lock is its own by now, and is waited for.
    live(lab.path(), filesystem).await;
    let (first, second) = (lab.agent("a"), lab.agent("b"));
    let id: VolumeId = first.ensure(&lab.spec()).await.unwrap();
    let mount = seen(&second, &id).await.device.expect("it is on the second machine");
    assert_eq!(fs::read_to_string(mount.join("data")).unwrap(), DATA, "{step}");
    let (large, space) = (spec(filesystem).size_bytes * 2, statvfs(&mount).unwrap());
    assert_eq!(seen(&second, &id).await.spec.size_bytes, large, "{step}");
    assert!(space.blocks() * space.fragment_size() > large / 4 * 3, "{step}: {space:?}");
    first.settle().await.unwrap();
    assert_eq!((lab.mounts().len(), lab.loops().len()), (1, 1), "{step}");
    assert_eq!(lab.images(&id).len(), 1, "{step}: {:?}", lab.images(&id));
    second.begin_detach(&id, &node("b")).await.unwrap();
    assert_eq!(seen(&second, &id).await.attachment, Attachment::Free, "{step}");
    lab.assert_nothing_left();
    second.delete(&id).await.unwrap();
    killed
}
