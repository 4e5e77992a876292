use steadfast_core::Effect;
use steadfast_lock::Lock;

use super::*;

fn environment() -> Environment {
    Environment::system([3; 32])
}

fn open(dir: &Path) -> DirectoryVolumes {
    DirectoryVolumes::open(dir, environment()).unwrap()
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn spec(member: &str) -> VolumeSpec {
    VolumeSpec {
        cluster: "c1".parse().unwrap(),
        member: member.parse().unwrap(),
        member_name: "orders-0".parse().unwrap(),
        name: "data".parse().unwrap(),
        size_bytes: 1 << 30,
        class: "default".to_owned(),
        zone: None,
    }
}

async fn attachment(volumes: &DirectoryVolumes, id: &VolumeId) -> (Attachment, bool) {
    let status = volumes.describe(id).await.unwrap().unwrap();
    (status.attachment, status.in_use)
}

/// Whoever plans a move goes by this.
#[tokio::test]
async fn the_kernel_excludes_on_one_machine_and_nobody_does_on_several() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = open(dir.path());
    assert_eq!(volumes.capabilities().exclusivity, Exclusivity::Storage);
    assert_eq!(volumes.shared().capabilities().exclusivity, Exclusivity::None);
}

#[tokio::test]
async fn a_volume_is_detaching_until_the_engines_tree_has_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = open(dir.path());
    let id = volumes.ensure(&spec("m1")).await.unwrap();
    let (one, two) = (node("node-1"), node("node-2"));
    volumes.begin_attach(&id, &one).await.unwrap();
    let engine = Lock::try_exclusive(&volumes.lock_path(&id)).unwrap().unwrap();

    volumes.begin_detach(&id, &one).await.unwrap();
    volumes.begin_detach(&id, &one).await.unwrap();
    assert_eq!(attachment(&volumes, &id).await, (Attachment::Detaching(one.clone()), true));
    for other in [&one, &two] {
        let error = volumes.begin_attach(&id, other).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Busy, Effect::None));
    }

    drop(engine);
    assert_eq!(attachment(&volumes, &id).await, (Attachment::Free, false));
    volumes.begin_attach(&id, &two).await.unwrap();
    assert_eq!(attachment(&volumes, &id).await, (Attachment::Attached(two), false));
    assert_eq!(volumes.begin_detach(&id, &one).await.unwrap_err().kind(), ErrorKind::Stale);
}

#[tokio::test]
async fn a_free_volume_whose_lock_is_held_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = open(dir.path());
    let id = volumes.ensure(&spec("m1")).await.unwrap();
    let engine = Lock::try_exclusive(&volumes.lock_path(&id)).unwrap().unwrap();
    let attach = volumes.begin_attach(&id, &node("node-1")).await.unwrap_err();
    let delete = volumes.delete(&id).await.unwrap_err();
    assert_eq!((attach.kind(), delete.kind()), (ErrorKind::Busy, ErrorKind::Busy));
    drop(engine);
    volumes.delete(&id).await.unwrap();
    assert_eq!(volumes.describe(&id).await.unwrap(), None);
    volumes.delete(&id).await.unwrap();
}

#[tokio::test]
async fn a_folder_without_a_readable_record_is_corrupt_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = open(dir.path());
    let id = volumes.ensure(&spec("m1")).await.unwrap();
    let record = volumes.folder(&id).join("volume.json");
    for damage in ["", "{\"format\":1}", "{\"format\":99}"] {
        fs::write(&record, damage).unwrap();
        check_corrupt(&volumes, &id, &record).await;
    }
    fs::remove_file(&record).unwrap();
    check_corrupt(&volumes, &id, &record).await;
    assert!(volumes.data_path(&id).is_dir(), "nothing was removed");
}

async fn check_corrupt(volumes: &DirectoryVolumes, id: &VolumeId, record: &Path) {
    let one = node("node-1");
    let errors = [
        volumes.describe(id).await.unwrap_err(),
        volumes.list(&spec("m1").cluster).await.unwrap_err(),
        volumes.ensure(&spec("m1")).await.unwrap_err(),
        volumes.begin_attach(id, &one).await.unwrap_err(),
        volumes.begin_detach(id, &one).await.unwrap_err(),
        volumes.delete(id).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "{error}");
        assert!(error.to_string().contains(record.to_str().unwrap()), "{error}");
    }
}

/// What a crash in the middle of making or deleting a volume leaves is never seen as one, and the next call clears it.
#[tokio::test]
async fn what_a_crash_left_half_made_or_half_deleted_is_not_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = open(dir.path());
    let id = DirectoryVolumes::volume_id(&"m1".parse().unwrap(), &"data".parse().unwrap()).unwrap();
    let staged = dir.path().join("volumes/.staging").join(id.as_str());
    let grave = dir.path().join("volumes/.trash").join(id.as_str());
    for left in [staged.join("data"), grave.join("0/data")] {
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("old"), "old").unwrap();
    }
    fs::create_dir(dir.path().join("volumes/lost+found")).unwrap();
    assert_eq!(volumes.describe(&id).await.unwrap(), None);
    assert!(volumes.list(&spec("m1").cluster).await.unwrap().is_empty());
    assert_eq!(volumes.ensure(&spec("m1")).await.unwrap(), id);
    assert_eq!(fs::read_dir(volumes.data_path(&id)).unwrap().count(), 0, "nothing old is in it");
    volumes.delete(&id).await.unwrap();
    assert!(!grave.exists() && !staged.exists(), "deleting clears what an earlier deletion left");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_process_that_holds_the_meta_lock_is_named_and_does_not_block_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let environment = steadfast_core::testing::TestEnvironment::new(1).environment;
    let volumes = DirectoryVolumes::open(dir.path(), environment).unwrap();
    let id = volumes.ensure(&spec("m1")).await.unwrap();
    let meta = volumes.folder(&id).join("meta.lock");
    let stopped = Lock::try_exclusive(&meta).unwrap().unwrap();
    let error = volumes.begin_attach(&id, &node("node-1")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None));
    assert!(error.to_string().contains(&format!("fuser {}", meta.display())), "{error}");
    assert_eq!(attachment(&volumes, &id).await, (Attachment::Free, false), "looking needs no lock");
    drop(stopped);
    volumes.begin_attach(&id, &node("node-1")).await.unwrap();
}

#[tokio::test]
async fn fields_of_a_newer_version_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = open(dir.path());
    let id = volumes.ensure(&spec("m1")).await.unwrap();
    let path = volumes.folder(&id).join("volume.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["label"] = "gold".into();
    fs::write(&path, record.to_string()).unwrap();
    volumes.begin_attach(&id, &node("node-1")).await.unwrap();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["label"], "gold");
    assert_eq!(record["attachment"]["Attached"], "node-1");
}

/// Several processes' worth of handles make, attach, detach and delete the same volumes: between a successful attach
/// and the detach that ends it, nobody else attaches or deletes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_processes_never_share_a_volume() {
    use std::sync::Mutex;
    let dir = tempfile::tempdir().unwrap();
    let holders: Arc<Mutex<std::collections::BTreeMap<VolumeId, NodeName>>> = Arc::default();
    let work = (0..4_u8).map(|n| {
        let (volumes, holders) = (open(dir.path()), Arc::clone(&holders));
        let (me, random) = (node(&format!("node-{n}")), steadfast_core::runtime::Entropy::from_seed([n; 32]));
        tokio::spawn(async move {
            let mut attached = 0;
            for _ in 0..40 {
                let id = volumes.ensure(&spec(&format!("m{}", random.u64() % 2))).await.unwrap();
                match volumes.begin_attach(&id, &me).await {
                    Ok(()) => {
                        attached += 1;
                        assert_eq!(holders.lock().unwrap().insert(id.clone(), me.clone()), None);
                        assert_eq!(attachment(&volumes, &id).await.0, Attachment::Attached(me.clone()));
                        assert_eq!(holders.lock().unwrap().remove(&id), Some(me.clone()));
                        volumes.begin_detach(&id, &me).await.unwrap();
                    }
                    Err(error) => {
                        assert!([ErrorKind::Busy, ErrorKind::NotFound].contains(&error.kind()), "{error:?}");
                        assert_eq!(error.effect(), Effect::None);
                    }
                }
                if random.u64().is_multiple_of(3)
                    && let Err(error) = volumes.delete(&id).await
                {
                    assert_eq!((error.kind(), error.effect()), (ErrorKind::Busy, Effect::None), "{error:?}");
                }
            }
            attached
        })
    });
    let attached = futures::future::join_all(work.collect::<Vec<_>>()).await;
    assert!(attached.into_iter().map(Result::unwrap).sum::<u32>() > 20);
    assert_eq!(fs::read_dir(dir.path().join("volumes/.trash")).unwrap().count(), 0);
}

/// Where engines run as another user: the content is that user's, and that user gets at it. Only root can give it away.
#[tokio::test]
async fn the_content_belongs_to_the_user_it_is_for() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;
    if !nix::unistd::geteuid().is_root() {
        println!("left out: the_content_belongs_to_the_user_it_is_for: only root can give files away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let owner = DataOwner { uid: 65_534, gid: 65_534 };
    let id = open(dir.path()).ensure(&spec("m1")).await.unwrap();
    let volumes = DirectoryVolumes::open_for(dir.path(), environment(), Some(owner)).unwrap();
    assert_eq!(volumes.ensure(&spec("m1")).await.unwrap(), id, "one that exists is given away as well");
    let other = volumes.ensure(&spec("m2")).await.unwrap();
    for id in [id, other] {
        let data = volumes.data_path(&id);
        let found = fs::metadata(&data).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (owner.uid, owner.gid, 0o700));
        let touched = std::process::Command::new("touch")
            .arg(data.join("mine"))
            .uid(owner.uid)
            .gid(owner.gid)
            .status()
            .unwrap();
        assert!(touched.success());
    }
}

mod conformance {
    use std::any::Any;

    use steadfast_core::conformance::Harness;
    use steadfast_core::conformance::volume::VolumeHarness;
    use tempfile::TempDir;

    use super::*;

    struct Directory;

    impl Harness for Directory {
        type Backend = DirectoryVolumes;
        type Guard = TempDir;

        async fn open(&self) -> (TempDir, DirectoryVolumes) {
            let dir = tempfile::tempdir().unwrap();
            let volumes = open(dir.path());
            (dir, volumes)
        }

        async fn reopen(&self, guard: &TempDir) -> DirectoryVolumes {
            open(guard.path())
        }
    }

    impl VolumeHarness for Directory {
        async fn occupy(&self, volumes: &DirectoryVolumes, volume: &VolumeStatus) -> Option<Box<dyn Any>> {
            Some(Box::new(Lock::try_exclusive(&volumes.lock_path(&volume.id)).unwrap().unwrap()))
        }

        fn mark(&self, volume: &VolumeStatus) -> bool {
            fs::write(volume.device.as_ref().unwrap().join("data/mark"), "marked").unwrap();
            true
        }

        fn is_marked(&self, volume: &VolumeStatus) -> bool {
            volume.device.as_ref().unwrap().join("data/mark").exists()
        }
    }

    steadfast_core::volume_conformance!(Directory);
}
