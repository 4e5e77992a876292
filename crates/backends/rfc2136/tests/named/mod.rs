//! A real BIND: `named` in a temporary folder, at an address that no other test has, ended with the test.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails. Conditions are polled, so this is not waited for.
const DEADLINE: Duration = Duration::from_secs(90);

/// The key that may update and transfer the zones.
pub const KEY: &str =
    r#"key "steadfast" { algorithm hmac-sha256; secret "pRP5FapFoJ95JEL06sv4PQwTqQ+tsOAnKQdBYtpQ6oE="; };"#;
/// A key that the server knows, and that may do nothing.
pub const POOR: &str =
    r#"key "poor" { algorithm hmac-sha256; secret "dGhpcyBvbmUgbWF5IGRvIG5vdGhpbmcgYXQgYWxs"; };"#;

/// The zones it has.
pub const ZONES: [&str; 2] = ["conformance.steadfast.internal", "other.steadfast.internal"];

/// The file of each of them, as it begins: no name besides its own.
const ZONE: &str = "$TTL 5\n@ SOA ns.invalid. root.invalid. 1 60 60 600 5\n@ NS ns.invalid.\n";

/// A server. Its process is killed when it is dropped.
#[derive(Debug)]
pub struct Named {
    folder: tempfile::TempDir,
    address: SocketAddr,
    /// Keeps its port from other tests: two servers may listen at one address, and each would have some of the questions.
    _port: TcpListener,
    process: Option<Child>,
}

impl Named {
    /// A server that answers.
    pub fn start() -> Named {
        // It listens on addresses of interfaces only, so others may take the port first.
        (0..5).find_map(|_| Named::try_start().ok()).expect("a port is free for named")
    }

    fn try_start() -> Result<Named, String> {
        let folder = tempfile::Builder::new().prefix("named.").tempdir().unwrap();
        // At another address than its own.
        let reserved = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 53), 0)).unwrap();
        let port = reserved.local_addr().unwrap().port();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let path = folder.path().display().to_string();
        let mut text = format!(
            "options {{ directory \"{path}\"; pid-file none; session-keyfile none; recursion no; \
             listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; dnssec-validation no; \
             managed-keys-directory \"{path}\"; notify no; querylog no; }};\ncontrols {{ }};\n{KEY}\n{POOR}\n"
        );
        for zone in ZONES {
            let file = format!("{path}/{zone}");
            fs::write(&file, ZONE).unwrap();
            text += &format!(
                "zone \"{zone}\" {{ type primary; check-names ignore; file \"{file}\"; allow-update {{ key steadfast; }}; \
                 allow-transfer {{ key steadfast; }}; }};\n"
            );
        }
        fs::write(folder.path().join("named.conf"), text).unwrap();
        let mut named = Named { folder, address, _port: reserved, process: None };
        named.try_begin().map(|()| named)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it again, with what it has on disk.
    pub fn begin(&mut self) {
        self.try_begin().unwrap();
    }

    fn try_begin(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "it runs");
        let log = self.folder.path().join("named.log");
        let mut command = Command::new("/usr/sbin/named");
        command.arg("-f").arg("-4").args(["-n", "1", "-c"]).arg(self.folder.path().join("named.conf"));
        command.arg("-L").arg(&log).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = command.spawn();
        let mut process =
            started.unwrap_or_else(|error| panic!("start named: {error}: scripts/install-packages bind"));
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = process.try_wait().unwrap();
            let told = fs::read_to_string(&log).unwrap_or_default();
            if ended.is_some() || told.contains("address in use") || begun.elapsed() > DEADLINE {
                process.kill().unwrap();
                process.wait().unwrap();
                return Err(format!("named does not answer: {ended:?}\n{told}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
        Ok(())
    }

    /// Kills (SIGKILL) it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.kill();
    }
}
