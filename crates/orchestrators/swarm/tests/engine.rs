//! Engines of Docker that are of no use: what is said of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use steadfast_core::Environment;
use steadfast_core::error::ErrorKind;
use steadfast_orchestrator_swarm::Engine;

/// An engine whose newest API is this, for as long as the process lives; and its socket.
fn engine_of(folder: &tempfile::TempDir, version: &'static str) -> PathBuf {
    engine_that_says(folder, version, &[])
}

/// The same, which says this of itself (`/info`) and of its node in the swarm.
fn engine_that_says(
    folder: &tempfile::TempDir,
    version: &'static str,
    said: &'static [(&'static str, &'static str)],
) -> PathBuf {
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
            let body = said.iter().find(|(path, _)| asked.contains(path)).map(|(_, body)| (*body).to_owned());
            let body = body.unwrap_or(versions);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
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
    let labelled = ("/nodes/n1", r#"{"ID":"n1","Spec":{"Labels":{"zone":"swarm"}}}"#);
    let plain = ("/nodes/n1", r#"{"ID":"n1","Spec":{"Labels":{}}}"#);
    let node = |node, info| -> &'static [_] { Vec::leak(vec![node, ("/info", info)]) };
    assert_eq!(label("1.41", node(labelled, MANAGER)).await.as_deref(), Some("swarm"));
    assert_eq!(label("1.42", node(plain, MANAGER)).await.as_deref(), Some("engine"));
    assert_eq!(label("1.43", node(labelled, WORKER)).await.as_deref(), Some("engine"), "it is not told");
    assert_eq!(label("1.44", node(labelled, r#"{"Labels":[]}"#)).await, None);
}
