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
