//! An emulator of DynamoDB behind a door of ours: a process of its own on a free port, ended with the test, and the door
//! counts every request, and does to it what a test wants done.
//!
//! What the emulator cannot show: reads that are behind, throttling, a table that takes a while to be made, who may do
//! what. Those answers are the door's, in the form that AWS gives them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

pub mod door;

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use door::Door;

/// How long anything may take before a test fails. Conditions are polled, so this is not waited for.
const DEADLINE: Duration = Duration::from_secs(180);

/// An emulator, and the door to it.
#[derive(Debug)]
pub struct Emulator {
    folder: tempfile::TempDir,
    process: Child,
    address: SocketAddr,
    door: Door,
}

impl Emulator {
    /// One that answers.
    pub fn start() -> Emulator {
        let folder = tempfile::Builder::new().prefix("dynamodb.").tempdir().unwrap();
        let begun = Instant::now();
        // Somebody else may take the port in between: then it ends, and another is tried.
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut process = launch(folder.path(), port);
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            while process.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    let emulator = Emulator { folder, process, address, door: Door::open(address) };
                    // It learns what DynamoDB is when it is first asked, which takes it seconds on a busy machine.
                    let answer = emulator.ask("ListTables", "{}");
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    return emulator;
                }
                assert!(begun.elapsed() < DEADLINE, "{}", log(folder.path()));
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(begun.elapsed() < DEADLINE, "{}", log(folder.path()));
        }
    }

    /// What stands between the test and it.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Where it is behind the door.
    fn upstream(&self) -> SocketAddr {
        self.address
    }

    /// Its answer to a request that does not come by the door: for what a test looks at itself.
    pub fn ask(&self, operation: &str, body: &str) -> String {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\
             x-amz-target: DynamoDB_20120810.{operation}\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=test/20260101/eu-central-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n{body}",
            self.address,
            body.len()
        );
        String::from_utf8(door::forward(self.address, request.as_bytes()).unwrap()).unwrap()
    }

    /// Where it is asked, by way of the door.
    pub fn url(&self) -> String {
        format!("http://{}", self.door.address())
    }

    /// The variables that send a program to it, and nowhere else.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let of = |name, value: &str| (name, value.to_owned());
        vec![
            of("AWS_ENDPOINT_URL_DYNAMODB", &self.url()),
            of("AWS_ACCESS_KEY_ID", "test"),
            of("AWS_SECRET_ACCESS_KEY", "test"),
            of("AWS_EC2_METADATA_DISABLED", "true"),
            of("AWS_CONFIG_FILE", "/dev/null"),
            of("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ]
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn launch(folder: &Path, port: u16) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let program = program();
    let mut command = Command::new(&program);
    // Of the variables of this process none that it goes by: it has many.
    command.env_clear().env("HOME", folder).env("TMPDIR", folder).env("PATH", "/usr/bin:/bin");
    command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string()).env("SERVICES", "dynamodb");
    // What it would otherwise tidy up when it ends.
    command.env("DOCKER_HOST", format!("unix://{}", folder.join("no-docker").display()));
    command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command
        .spawn()
        .unwrap_or_else(|error| panic!("start {}: {error}: scripts/install-emulators", program.display()))
}

fn log(folder: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(folder.join("log")).unwrap_or_default()).into_owned()
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("target/emulators/bin/ministack"))
        .find(|program| program.exists())
        .unwrap_or_else(|| PathBuf::from("ministack"))
}
