//! What images are for: a size, one kernel at a time, and nothing lost or left behind, whatever happens.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod volumes;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use steadfast_backend_linux::volumes::{Filesystem, ImageVolumes};
use steadfast_core::error::{Effect, Error, ErrorKind};
use steadfast_core::ids::VolumeId;
use steadfast_core::volume::{Attachment, VolumeProvider, VolumeSpec};
use volumes::{Lab, agent, attached, may_mount, node, seen};

const EXT4: Filesystem = Filesystem::Ext4;

fn assert_says(error: &Error, kind: ErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(words.iter().all(|word| error.message().contains(word)), "{words:?}: {error}");
}

async fn refused_attach(agent: &ImageVolumes, id: &VolumeId) -> Error {
    agent.begin_attach(id, &node("a")).await.unwrap_err()
}

#[tokio::test]
async fn a_full_volume_is_full_for_its_member_alone() {
    for filesystem in [EXT4, Filesystem::Xfs] {
        if !may_mount("a_full_volume_is_full_for_its_member_alone", filesystem) {
            continue;
        }
        let lab = Lab::new(filesystem);
        let agent = lab.agent("a");
        let id = agent.ensure(&lab.spec()).await.unwrap();
        let mount = attached(&agent, "a", &id).await;
        let mut file = File::create(mount.join("data")).unwrap();
        let chunk = vec![7; 1 << 20];
        let mut written = 0;
        let error = loop {
            match file.write_all(&chunk) {
                Ok(()) => written += chunk.len() as u64,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let size = lab.spec().size_bytes;
        assert!(written <= size && written > size / 2, "{written} of {size}");
        // Whatever is beside it goes on.
        fs::write(lab.shared().join("beside"), &chunk).unwrap();
        drop(file);
        agent.begin_detach(&id, &node("a")).await.unwrap();
        lab.assert_nothing_left();
        let mut kept = Vec::new();
        let mount = attached(&agent, "a", &id).await;
        File::open(mount.join("data")).unwrap().read_to_end(&mut kept).unwrap();
        assert!(kept.len() as u64 >= written && kept.iter().all(|byte| *byte == 7));
    }
}

/// The old machine is cut off with the volume mounted. What its kernel writes after that is nobody's.
#[tokio::test]
async fn a_volume_that_was_taken_over_is_out_of_the_old_kernels_reach() {
    for filesystem in [EXT4, Filesystem::Xfs] {
        if !may_mount("a_volume_that_was_taken_over_is_out_of_the_old_kernels_reach", filesystem) {
            continue;
        }
        let lab = Lab::new(filesystem);
        let (old, new) = (lab.agent("a"), lab.agent("b"));
        let id = old.ensure(&lab.spec()).await.unwrap();
        let at_old = attached(&old, "a", &id).await;
        let mut file = File::create(at_old.join("data")).unwrap();
        file.write_all(b"acknowledged").unwrap();
        file.sync_all().unwrap();

        new.begin_detach(&id, &node("a")).await.unwrap();
        let at_new = attached(&new, "b", &id).await;
        assert_eq!(fs::read_to_string(at_new.join("data")).unwrap(), "acknowledged");
        file.write_all(b", and what nobody has acknowledged").unwrap();
        file.sync_all().unwrap();
        fs::write(at_new.join("data"), "and more").unwrap();
        assert_eq!(lab.loops().len(), 2);

        // It hears of it, and has it in use: nothing is done to either.
        let error = old.settle().await.unwrap_err();
        assert_says(&error, ErrorKind::Busy, &["VolumeBusy", "fuser"]);
        drop(file);
        old.settle().await.unwrap();
        assert!(!at_old.exists());
        assert_eq!((lab.mounts().len(), lab.loops().len()), (1, 1));
        lab.image(&id);

        new.begin_detach(&id, &node("b")).await.unwrap();
        lab.assert_nothing_left();
        let at_old = attached(&old, "a", &id).await;
        assert_eq!(fs::read_to_string(at_old.join("data")).unwrap(), "and more");
        assert_eq!(lab.images(&id).len(), 1);
    }
}

/// Its new start finds by record that the volume is its own, and mounts it again.
#[tokio::test]
async fn a_machine_that_begins_anew_mounts_its_volumes_again() {
    if !may_mount("a_machine_that_begins_anew_mounts_its_volumes_again", EXT4) {
        return;
    }
    let lab = Lab::new(EXT4);
    let (own, other) = (lab.agent("a"), lab.agent("b"));
    let id = own.ensure(&lab.spec()).await.unwrap();
    let mount = attached(&own, "a", &id).await;
    fs::write(mount.join("data"), "kept").unwrap();
    assert!(Command::new("umount").arg(&mount).status().unwrap().success());

    let again = lab.agent("a");
    assert_eq!(seen(&again, &id).await.attachment, Attachment::Free, "a claim sees that it has to attach it");
    assert_eq!(seen(&other, &id).await.attachment, Attachment::Attached(node("a")));
    again.settle().await.unwrap();
    assert_eq!(fs::read_to_string(attached(&again, "a", &id).await.join("data")).unwrap(), "kept");
    assert_eq!(lab.images(&id).len(), 1);

    // Nothing stays where it was deleted.
    other.begin_detach(&id, &node("a")).await.unwrap();
    other.delete(&id).await.unwrap();
    again.settle().await.unwrap();
    lab.assert_nothing_left();
}

#[tokio::test]
async fn a_foreign_or_damaged_image_is_refused_and_left_as_it_is() {
    if !may_mount("a_foreign_or_damaged_image_is_refused_and_left_as_it_is", EXT4) {
        return;
    }
    type Damage = fn(&Path);
    let damages: [(&str, Damage, &[&str]); 5] = [
        ("another's", make_anew, &["VolumeForeign", "put the right file back"]),
        ("no file system", |image| zeros(image, 0, 4096), &["VolumeCorrupt", "holds no ext4"]),
        ("cut short", |image| shorten(image), &["VolumeCorrupt", "bytes"]),
        ("gone", |image| fs::remove_file(image).unwrap(), &["VolumeCorrupt", "not there"]),
        // The tables of groups, and what they tell of: only fsck, which says so in the superblock, can find that.
        ("damaged within", |image| zeros(image, 2048, 2 << 20), &["VolumeCorrupt", "fsck"]),
    ];
    for (what, damage, words) in damages {
        let lab = Lab::new(EXT4);
        let agent = lab.agent("a");
        let id = agent.ensure(&lab.spec()).await.unwrap();
        fs::write(attached(&agent, "a", &id).await.join("data"), "kept").unwrap();
        agent.begin_detach(&id, &node("a")).await.unwrap();
        let image = lab.image(&id);
        damage(&image);
        let before = fs::read(&image).ok();
        for _ in 0..2 {
            assert_says(&refused_attach(&agent, &id).await, ErrorKind::Corrupt, words);
        }
        // Asked for again it is not made anew either.
        agent.ensure(&lab.spec()).await.unwrap();
        assert!(fs::read(&image).ok() == before || what == "damaged within", "{what}: it was written to");
        lab.assert_nothing_left();
    }
}

fn make_anew(image: &Path) {
    assert!(Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-F"]).arg(image).status().unwrap().success());
}

fn zeros(image: &Path, at: u64, count: usize) {
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(&vec![0; count], at).unwrap();
}

fn shorten(image: &Path) {
    OpenOptions::new().write(true).open(image).unwrap().set_len(1 << 20).unwrap();
}

#[tokio::test]
async fn a_folder_with_data_gets_no_image_over_it() {
    if !may_mount("a_folder_with_data_gets_no_image_over_it", EXT4) {
        return;
    }
    let lab = Lab::new(EXT4);
    let agent = lab.agent("a");
    let id = agent.ensure(&lab.spec()).await.unwrap();
    // As it is where volumes were made as folders before.
    fs::write(lab.volume(&id).join("identity.json"), "{}").unwrap();
    assert_says(&refused_attach(&agent, &id).await, ErrorKind::Corrupt, &["VolumeForeign", "volume_kind"]);
    assert!(lab.images(&id).is_empty());
}

#[tokio::test]
async fn an_image_whose_record_is_gone_is_not_made_anew() {
    if !may_mount("an_image_whose_record_is_gone_is_not_made_anew", EXT4) {
        return;
    }
    let lab = Lab::new(EXT4);
    let agent = lab.agent("a");
    let id = agent.ensure(&lab.spec()).await.unwrap();
    fs::write(attached(&agent, "a", &id).await.join("data"), "kept").unwrap();
    agent.begin_detach(&id, &node("a")).await.unwrap();
    let record = lab.volume(&id).join("image.json");
    let told = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    assert_says(&refused_attach(&agent, &id).await, ErrorKind::Corrupt, &["VolumeForeign", "image.json"]);
    fs::write(&record, told).unwrap();
    assert_eq!(fs::read_to_string(attached(&agent, "a", &id).await.join("data")).unwrap(), "kept");
}

#[tokio::test]
async fn a_full_shared_folder_is_told_and_leaves_nothing_half_done() {
    if !may_mount("a_full_shared_folder_is_told_and_leaves_nothing_half_done", EXT4) {
        return;
    }
    let lab = Lab::new(EXT4);
    let size = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(lab.shared());
        assert!(mount.status().unwrap().success());
    };
    size("size=32k");
    let (old, new) = (lab.agent("a"), lab.agent("b"));
    let id = old.ensure(&lab.spec()).await.unwrap();
    let error = refused_attach(&old, &id).await;
    assert_says(&error, ErrorKind::QuotaExceeded, &["DiskFull", "free space"]);
    assert!(lab.images(&id).is_empty() && lab.loops().is_empty());
    size("remount,size=12m");
    let at_old = attached(&old, "a", &id).await;
    let mut file = File::create(at_old.join("data")).unwrap();
    file.write_all(&vec![9; 8 << 20]).unwrap();
    file.sync_all().unwrap();

    // Taking over needs room for a copy.
    new.begin_detach(&id, &node("a")).await.unwrap();
    let error = new.begin_attach(&id, &node("b")).await.unwrap_err();
    assert_says(&error, ErrorKind::QuotaExceeded, &["DiskFull", "free space"]);
    assert_eq!(lab.images(&id).len(), 1, "nothing is left of the copy");
    assert_eq!(seen(&new, &id).await.attachment, Attachment::Free, "it is to be tried again");
    size("remount,size=64m");
    let at_new = attached(&new, "b", &id).await;
    assert_eq!(fs::read(at_new.join("data")).unwrap(), vec![9; 8 << 20]);
    drop(file);
    old.settle().await.unwrap();
    new.begin_detach(&id, &node("b")).await.unwrap();
    assert!(lab.loops().is_empty());
}

#[tokio::test]
async fn a_volume_too_small_for_its_file_system_is_refused_with_the_least() {
    for filesystem in [EXT4, Filesystem::Xfs] {
        if may_mount("a_volume_too_small_for_its_file_system_is_refused_with_the_least", filesystem) {
            let lab = Lab::new(filesystem);
            let least = filesystem.least_bytes();
            let small = VolumeSpec { size_bytes: least - 1, ..lab.spec() };
            let agent = lab.agent("a");
            let id = agent.ensure(&small).await.unwrap();
            let error = refused_attach(&agent, &id).await;
            assert!(lab.images(&id).is_empty());
            assert_says(
                &error,
                ErrorKind::Invalid,
                &["ConfigInvalid", &format!("{} MiB or more", least >> 20)],
            );
        }
    }
}

/// A process that keeps the mount in a mount namespace of its own keeps the kernel's file system, too.
#[tokio::test]
async fn a_volume_is_not_given_back_while_any_namespace_has_it_mounted() {
    if !may_mount("a_volume_is_not_given_back_while_any_namespace_has_it_mounted", EXT4) {
        return;
    }
    let lab = Lab::new(EXT4);
    let agent = lab.agent("a");
    let id = agent.ensure(&lab.spec()).await.unwrap();
    attached(&agent, "a", &id).await;
    let mut other = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    other.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();

    let error = agent.begin_detach(&id, &node("a")).await.unwrap_err();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_says(&error, ErrorKind::Busy, &["VolumeBusy", "mount namespace", "mountinfo"]);
    assert_eq!(
        lab.server().describe(&id).await.unwrap().unwrap().attachment,
        Attachment::Attached(node("a"))
    );
    // The kernel takes its time to end the namespace.
    while agent.begin_detach(&id, &node("a")).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen(&agent, &id).await.attachment, Attachment::Free);
    lab.assert_nothing_left();
}

#[tokio::test]
async fn a_missing_program_is_named_with_its_package() {
    if !may_mount("a_missing_program_is_named_with_its_package", EXT4) {
        return;
    }
    let lab = Lab::new(EXT4);
    // On this thread alone, and gone with it.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let mount =
        |arguments: &[&str]| assert!(Command::new("mount").args(arguments).status().unwrap().success());
    mount(&["--make-rprivate", "/"]);
    let program = fs::canonicalize("/usr/sbin/mkfs.ext4").unwrap();
    mount(&["--bind", "/dev/null", program.to_str().unwrap()]);
    let error = agent(lab.path(), "a", EXT4).unwrap_err();
    assert_says(&error, ErrorKind::Unsupported, &["mkfs.ext4", "apt-get install e2fsprogs"]);
    assert_eq!(error.effect(), Effect::None);
}

const AS_NOBODY: &str = "STEADFAST_TEST_AS_NOBODY";

#[tokio::test]
async fn whoever_is_not_root_is_told_so_before_anything_is_mounted() {
    if let Some(folder) = std::env::var_os(AS_NOBODY) {
        let error = agent(Path::new(&folder), "a", EXT4).unwrap_err();
        assert_says(&error, ErrorKind::Denied, &["PermissionDenied", "root"]);
        assert_eq!(error.effect(), Effect::None);
        return;
    }
    if !may_mount("whoever_is_not_root_is_told_so_before_anything_is_mounted", EXT4) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("this-test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    for path in [folder.path(), &copy] {
        Command::new("chown").arg("65534:65534").arg(path).status().unwrap();
    }
    fs::create_dir(folder.path().join("shared")).unwrap();
    Command::new("chown").arg("65534:65534").arg(folder.path().join("shared")).status().unwrap();
    let output = Command::new(&copy)
        .args(["--exact", "whoever_is_not_root_is_told_so_before_anything_is_mounted"])
        .env(AS_NOBODY, folder.path())
        .current_dir(folder.path())
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

const SLOW: &str = "STEADFAST_TEST_SLOW";

/// A copy that takes long is begun, seen to be under way, and told of when it has failed.
#[tokio::test]
async fn a_copy_that_fails_when_nobody_waits_for_it_any_more_is_told_of() {
    let test = "a_copy_that_fails_when_nobody_waits_for_it_any_more_is_told_of";
    if !may_mount(test, EXT4) {
        return;
    }
    let Some(folder) = std::env::var_os(SLOW) else {
        let lab = Lab::new(EXT4);
        let programs = lab.path().join("programs");
        fs::create_dir(&programs).unwrap();
        // It waits for somebody to write a line.
        let pipe = lab.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let cp = format!(
            "#!/bin/sh\n[ $1 = --reflink=never ] && read line < '{}'\necho No space left on device >&2\nexit 1\n",
            pipe.display()
        );
        fs::write(programs.join("cp"), cp).unwrap();
        assert!(Command::new("chmod").arg("755").arg(programs.join("cp")).status().unwrap().success());
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", test]).env(SLOW, lab.path()).env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    };
    let folder = Path::new(&folder);
    let (old, new) = (agent(folder, "a", EXT4).unwrap(), agent(folder, "b", EXT4).unwrap());
    let id = old.ensure(&volumes::spec(EXT4)).await.unwrap();
    attached(&old, "a", &id).await;
    new.begin_detach(&id, &node("a")).await.unwrap();
    new.begin_attach(&id, &node("b")).await.unwrap();
    assert_eq!(seen(&new, &id).await.attachment, Attachment::Attaching(node("b")));
    fs::write(folder.join("pipe"), "go on\n").unwrap();
    while seen(&new, &id).await.attachment != Attachment::Free {
        tokio::task::yield_now().await;
    }
    let error = new.begin_attach(&id, &node("b")).await.unwrap_err();
    assert_says(&error, ErrorKind::QuotaExceeded, &["DiskFull", "free space"]);
}
