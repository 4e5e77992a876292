//! An etcd that speaks TLS, demands certificates, users and passwords, and takes small requests only.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod members;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt as _;
use members::{Members, Tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use steadfast_backend_etcd::{EtcdDb, EtcdOptions, Identity, Password};
use steadfast_core::metadata::{CasOutcome, Hint, Key, MetadataDb, Precondition, Version};
use steadfast_core::{Effect, Environment, Error, ErrorKind};

/// An authority, and what it has signed for an address.
fn certificates(folder: &Path, address: Ipv4Addr) -> Tls {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([address.to_string()]).unwrap().signed_by(&key, &issuer).unwrap();
    fs::create_dir(folder).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    Tls {
        authority: write("authority.pem", authority.pem()),
        certificate: write("chain.pem", leaf.pem()),
        key: write("key.pem", key.serialize_pem()),
    }
}

async fn connect(options: EtcdOptions) -> Result<EtcdDb, Error> {
    EtcdDb::connect(Environment::system([5; 32]), options).await
}

fn options(location: &str) -> EtcdOptions {
    EtcdOptions::new(location.parse().unwrap())
}

fn with_tls(location: &str, tls: &Tls) -> EtcdOptions {
    let (certificate, key) = (fs::read(&tls.certificate).unwrap(), fs::read(&tls.key).unwrap());
    EtcdOptions {
        authorities: Some(fs::read(&tls.authority).unwrap()),
        identity: Some(Identity { certificate, key }),
        ..options(location)
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, named: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{error:?}");
    assert!(error.to_string().contains(named), "{named:?}: {error:?}");
    assert!(!error.chain().contains("geheim"), "{error:?}");
}

async fn create(db: &EtcdDb, key: &Key) -> Version {
    match db.put(key, Bytes::from("x"), Precondition::Absent).await.unwrap() {
        CasOutcome::Applied(version) => version,
        CasOutcome::Conflict => panic!("nobody else writes"),
    }
}

#[tokio::test]
async fn tls_and_passwords_are_spoken_and_strangers_are_told_why_not() {
    let members = Members::prepare(1);
    let tls = certificates(&members.folder().join("own"), members.address());
    let foreign = certificates(&members.folder().join("foreign"), members.address());
    let mut members = members.run(Some(tls.clone()));
    let host = members.host(0);
    let (plain, secure) = (format!("etcd://{host}"), format!("etcds://{host}/safe"));
    let key: Key = "a/b".parse().unwrap();

    let db = connect(with_tls(&secure, &tls)).await.unwrap();
    let version = create(&db, &key).await;
    refused(connect(options(&plain)).await, ErrorKind::Unavailable, "TLS");
    let distrustful =
        EtcdOptions { authorities: with_tls(&secure, &foreign).authorities, ..with_tls(&secure, &tls) };
    refused(connect(distrustful).await, ErrorKind::Unavailable, "certificate");
    let nameless = EtcdOptions { identity: None, ..with_tls(&secure, &tls) };
    refused(connect(nameless).await, ErrorKind::Unavailable, &host);

    let as_user = |user: &str, password: &str| EtcdOptions {
        password: Some(Password::new(password)),
        ..with_tls(&format!("etcds://{user}@{host}/safe"), &tls)
    };
    refused(connect(as_user("worker", "geheim")).await, ErrorKind::Denied, "authentication is not enabled");
    for arguments in [
        &["user", "add", "root:geheim-1"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "steadfast"],
        &["role", "grant-permission", "steadfast", "--prefix=true", "readwrite", "safe/"],
        &["user", "add", "worker:geheim-2"],
        &["user", "grant-role", "worker", "steadfast"],
        &["auth", "enable"],
    ] {
        members.control(arguments);
    }
    refused(connect(as_user("worker", "geheim-1")).await, ErrorKind::Denied, "the password is wrong");
    refused(connect(with_tls(&secure, &tls)).await, ErrorKind::Denied, "etcdserver");
    let elsewhere = EtcdOptions {
        location: format!("etcds://worker@{host}/other").parse().unwrap(),
        ..as_user("worker", "geheim-2")
    };
    refused(connect(elsewhere).await, ErrorKind::Denied, "readwrite permission on the prefix");

    let db = connect(as_user("worker", "geheim-2")).await.unwrap();
    assert_eq!(db.get(&key).await.unwrap().unwrap().version, version);
    let mut hints = db.watch(&"a".parse().unwrap()).await.unwrap();
    // A member that has begun anew knows of no login.
    members.kill(0);
    members.begin(0);
    let after: Key = "a/after".parse().unwrap();
    while db.get(&after).await.map_or(true, |found| found.is_none()) {
        match db.put(&after, Bytes::from("x"), Precondition::Absent).await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
        }
    }
    let hint = tokio::time::timeout(std::time::Duration::from_secs(60), hints.next()).await.unwrap();
    assert_eq!(hint, Some(Hint::Changed(after)));
}

#[tokio::test]
async fn certificates_that_do_not_read_are_refused() {
    let broken =
        EtcdOptions { authorities: Some(b"no certificate".to_vec()), ..options("etcds://127.0.0.1:1") };
    let error = connect(broken).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unavailable), "{error:?}");
}

#[tokio::test]
async fn a_value_that_this_etcd_does_not_take_is_refused_with_the_flag_to_change() {
    let mut members = Members::prepare(1);
    members.arguments = vec!["--max-request-bytes", "10000"];
    let members = members.run(None);
    let db = connect(options(&format!("etcd://{}", members.host(0)))).await.unwrap();
    let key: Key = "a/b".parse().unwrap();
    let long = Bytes::from(vec![0; 20_000]);
    refused(db.put(&key, long, Precondition::Absent).await, ErrorKind::Invalid, "--max-request-bytes");
    let longer = Bytes::from(vec![0; steadfast_backend_etcd::MAX_VALUE_BYTES + 1]);
    refused(db.put(&key, longer, Precondition::Absent).await, ErrorKind::Invalid, "1048576");
    assert_eq!(db.get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn pages_of_long_values_are_made_shorter_than_what_was_asked_for() {
    let members = Members::start(1);
    let db = connect(options(&format!("etcd://{}", members.host(0)))).await.unwrap();
    let long = Bytes::from(vec![7; steadfast_backend_etcd::MAX_VALUE_BYTES]);
    for n in 0..20 {
        let key: Key = format!("a/{n:02}").parse().unwrap();
        let outcome = db.put(&key, long.clone(), Precondition::Absent).await.unwrap();
        assert!(matches!(outcome, CasOutcome::Applied(_)));
    }
    let prefix: Key = "a".parse().unwrap();
    let (mut found, mut more) = (Vec::new(), true);
    while more {
        let page = db.scan(&prefix, found.last(), 500).await.unwrap();
        assert!(!page.items.is_empty() && page.items.len() < 20, "{} at once", page.items.len());
        more = page.more;
        found.extend(page.items.into_iter().map(|(key, _)| key));
    }
    assert_eq!(found.len(), 20);
}
