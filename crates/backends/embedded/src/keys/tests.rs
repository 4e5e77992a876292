use std::os::unix::fs::PermissionsExt as _;

use steadfast_core::Effect;

use super::*;

fn service(id: &str) -> ServiceId {
    id.parse().unwrap()
}

#[test]
fn a_secret_opens_with_its_key_service_and_name_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let keys = FileKeyProvider::open_or_create(&path).unwrap();
    let sealed = keys.seal(&service("s1"), "password", "hunter2").unwrap();
    let again = FileKeyProvider::open_or_create(&path).unwrap();
    assert_eq!(again.open(&service("s1"), "password", &sealed).unwrap(), "hunter2");
    assert_ne!(keys.seal(&service("s1"), "password", "hunter2").unwrap(), sealed, "the nonce is fresh");

    let other = FileKeyProvider::open_or_create(&folder.path().join("other")).unwrap();
    let mut renamed = sealed.clone();
    renamed.key_id = other.key_id().to_owned();
    for error in [
        keys.open(&service("s2"), "password", &sealed).unwrap_err(),
        keys.open(&service("s1"), "passwor", &sealed).unwrap_err(),
        keys.open(&service("s1p"), "assword", &sealed).unwrap_err(),
        other.open(&service("s1"), "password", &sealed).unwrap_err(),
        other.open(&service("s1"), "password", &renamed).unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[test]
fn a_changed_secret_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let keys = FileKeyProvider::open_or_create(&folder.path().join("key")).unwrap();
    let sealed = keys.seal(&service("s1"), "password", "hunter2").unwrap();
    let bytes = BASE64.decode(&sealed.sealed).unwrap();
    for (at, _) in bytes.iter().enumerate() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let changed = SealedSecret { sealed: BASE64.encode(changed), ..sealed.clone() };
        let error = keys.open(&service("s1"), "password", &changed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
    }
    for cut in ["", "AAAA", "not base64!"] {
        let changed = SealedSecret { sealed: cut.to_owned(), ..sealed.clone() };
        assert_eq!(keys.open(&service("s1"), "password", &changed).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_key_file_that_others_may_read_or_that_holds_no_key_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    drop(FileKeyProvider::open_or_create(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = FileKeyProvider::open_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for content in [&b""[..], b"steadfast-key-v1:AAAA\n", b"\xff\xfe", b"steadfast-key-v2:x"] {
        fs::write(&path, content).unwrap();
        let error = FileKeyProvider::open_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(FileKeyProvider::open(&path).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn processes_that_make_the_key_at_once_end_up_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let makers: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || FileKeyProvider::open_or_create(&path).unwrap().key_id().to_owned())
        })
        .collect();
    let ids: std::collections::BTreeSet<_> = makers.into_iter().map(|maker| maker.join().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}
