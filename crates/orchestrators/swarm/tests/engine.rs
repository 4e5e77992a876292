//! Engines of Docker that are of no use: what is said of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use steadfast_core::Environment;
use steadfast_core::error::{Effect, ErrorKind};
use steadfast_orchestrator_swarm::Engine;

/// An engine whose newest API is this, for as long as the process lives; and its socket.
fn engine_of(folder: &tempfile::TempDir, version: &'static str) -> PathBuf {
    engine_that_says(folder, version, &[])
}

/// What is answered where the path has this in it: its status and its body.
type Said = (&'static str, u16, &'static str);

/// The same, which says this of itself (`/info`) and of its node in the swarm.
fn engine_that_says(folder: &tempfile::TempDir, version: &'static str, said: &'static [Said]) -> PathBuf {
    let socket = folder.path().join(version);
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut asked, mut line) = (String::new(), String::new());
            stream.read_line(&mut asked).unwrap();
            while stream.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            let versions = format!(r#"{{"ApiVersion":"{version}","MinAPIVersion":"1.12","Version":"any"}}"#);
            let found = said.iter().find(|(path, ..)| asked.contains(path));
            let (status, body) = found.map_or((200, &*versions), |(_, status, body)| (*status, *body));
            let head = format!("HTTP/1.1 {status} \r\ncontent-type: application/json\r\nconnection: close");
            write!(stream.get_mut(), "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    socket
}

#[tokio::test]
async fn an_engine_that_is_too_old_is_named_with_what_it_speaks_and_what_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::system([7; 32]);
    let engine = Engine::at(environment.clone(), engine_of(&folder, "1.40"));
    let trouble = engine.trouble().await.unwrap();
    for part in ["is too old", "1.40", "1.41", "Docker 20.10"] {
        assert!(trouble.contains(part), "{part}: {trouble}");
    }
    let error = engine.advertise("steadfast").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");

    let engine = Engine::at(environment, engine_of(&folder, "1.41"));
    assert_eq!(engine.trouble().await, None);
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named_by_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let engine = Engine::at(Environment::system([7; 32]), &socket);
    assert_eq!(engine.trouble().await.as_deref(), Some("does not answer"));
    let error = engine.advertise("steadfast").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("docker.sock"), "{error}");

    // It is looked for anew each time.
    let listening = engine_of(&folder, "1.43");
    std::fs::rename(listening, &socket).unwrap();
    assert_eq!(engine.trouble().await, None);
}

#[tokio::test]
async fn a_call_that_is_one_too_many_or_too_large_is_told_apart_from_an_engine_that_fails() {
    const BUSY: Said = ("/info", 429, r#"{"message":"too many requests"}"#);
    const LARGE: Said = (
        "/info",
        500,
        r#"{"message":"rpc error: code = ResourceExhausted desc = grpc: received message larger than max"}"#,
    );
    const FAILS: Said = ("/info", 500, r#"{"message":"rpc error: code = Internal desc = no"}"#);
    let folder = tempfile::tempdir().unwrap();
    for (version, said, kind, effect) in [
        ("1.41", &[BUSY], ErrorKind::Throttled, Effect::None),
        ("1.42", &[LARGE], ErrorKind::QuotaExceeded, Effect::Unknown),
        ("1.43", &[FAILS], ErrorKind::Unavailable, Effect::Unknown),
    ] {
        let socket = engine_that_says(&folder, version, said);
        let error =
            Engine::at(Environment::system([7; 32]), socket).advertise("steadfast").await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, effect), "{error:?}");
    }
}

#[tokio::test]
async fn a_label_is_the_swarms_or_else_the_engines() {
    let folder = tempfile::tempdir().unwrap();
    let label = async |version, said| {
        let engine = Engine::at(Environment::system([7; 32]), engine_that_says(&folder, version, said));
        engine.label("zone").await.unwrap()
    };
    const MANAGER: &str =
        r#"{"Swarm":{"NodeID":"n1","ControlAvailable":true},"Labels":["zone=engine","rack=1"]}"#;
    const WORKER: &str =
        r#"{"Swarm":{"NodeID":"n1","ControlAvailable":false},"Labels":["rack=1","zone=engine"]}"#;
    let labelled = ("/nodes/n1", 200, r#"{"ID":"n1","Spec":{"Labels":{"zone":"swarm"}}}"#);
    let plain = ("/nodes/n1", 200, r#"{"ID":"n1","Spec":{"Labels":{}}}"#);
    let node = |node, info| -> &'static [_] { Vec::leak(vec![node, ("/info", 200, info)]) };
    assert_eq!(label("1.41", node(labelled, MANAGER)).await.as_deref(), Some("swarm"));
    assert_eq!(label("1.42", node(plain, MANAGER)).await.as_deref(), Some("engine"));
    assert_eq!(label("1.43", node(labelled, WORKER)).await.as_deref(), Some("engine"), "it is not told");
    assert_eq!(label("1.44", node(labelled, r#"{"Labels":[]}"#)).await, None);
}
