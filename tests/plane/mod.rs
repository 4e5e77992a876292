//! The control plane of a cluster, server by server: asked over HTTP, looked at in its store, killed and started
//! again one by one.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

pub mod facts;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use base64::Engine as _;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use serde_json::Value;
use steadfast_core::controller::shards::shard_of;
use steadfast_core::lease::Lease;

use crate::support::cluster::Cluster;
use crate::support::{process, until};

/// What a server has answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
}

/// Longer than any server takes to give up itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Result<Reply, String> {
    let failed = |error: std::io::Error| format!("{method} {path} at {address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = body.unwrap_or_default();
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(text.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| format!("{method} {path} at {address}: no answer"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Reply {
        status: status.ok_or_else(|| format!("no HTTP: {head}"))?,
        // Metrics are a text.
        body: serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())),
    })
}

/// What the servers of a cluster answer, each asked by itself.
#[derive(Debug, Clone)]
pub struct Api {
    data: PathBuf,
}

impl Api {
    fn folder(&self, server: &str) -> PathBuf {
        self.data.join("servers").join(server)
    }

    fn secret(&self, file: &str) -> String {
        format!("Bearer {}", fs::read_to_string(self.data.join(file)).unwrap().trim())
    }

    /// Every server that was ever laid out.
    pub fn all(&self) -> Vec<String> {
        let entries = fs::read_dir(self.data.join("servers")).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The servers whose process is there.
    pub fn living(&self) -> Vec<String> {
        let lives = |server: &String| steadfast_lock::is_held(&self.folder(server).join("lock")).unwrap();
        self.all().into_iter().filter(lives).collect()
    }

    /// Where a server listens, or did.
    pub fn address(&self, server: &str) -> SocketAddr {
        until(&format!("{server} has told where it listens"), || {
            let text = fs::read_to_string(self.folder(server).join("endpoint.json"))
                .map_err(|error| error.to_string())?;
            let endpoint: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let url = endpoint["url"].as_str().unwrap_or_default();
            url.trim_start_matches("http://").parse().map_err(|_| format!("{url:?}"))
        })
    }

    /// Asks one server, as the administrator.
    pub fn ask(
        &self,
        server: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Reply, String> {
        let token = self.secret("token");
        let mut all = vec![("authorization", token.as_str()), ("content-type", "application/json")];
        all.extend(headers);
        let path = format!("/v1/clusters/local/{path}");
        request(self.address(server), method, &path, &all, body)
    }

    /// Reads from any living server, until one answers.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> T {
        until(&format!("{path} is answered"), || self.try_read(path))
    }

    fn try_read<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let mut last = "no server lives".to_owned();
        for server in self.living() {
            match self.ask(&server, "GET", path, &[], None) {
                Ok(Reply { status: 200, body }) => {
                    return serde_json::from_value(body).map_err(|error| error.to_string());
                }
                other => last = format!("{server}: {other:?}"),
            }
        }
        Err(last)
    }

    /// Asks one server's store, as a server does.
    pub fn ask_store(
        &self,
        server: &str,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Result<Reply, String> {
        let token = self.secret("server-token");
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        request(self.address(server), method, &format!("/v1/clusters/local/store/{path}"), &headers, body)
    }

    /// The records below a prefix, as the store has them.
    pub fn records<T: DeserializeOwned>(&self, prefix: &str) -> BTreeMap<String, T> {
        until(&format!("the records of {prefix} are read"), || {
            let path = format!("scan?limit=1000&prefix=steadfast/local/{prefix}");
            let mut last = "no server lives".to_owned();
            for server in self.living() {
                match self.ask_store(&server, "GET", &path, None) {
                    Ok(Reply { status: 200, body }) => {
                        assert_eq!(body["more"], false, "more than a page");
                        let items = body["items"].as_array().unwrap();
                        return Ok(items
                            .iter()
                            .map(|item| {
                                let text = item["value"].as_str().unwrap();
                                let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
                                let mut record: Value = serde_json::from_slice(&bytes).unwrap();
                                let body = serde_json::from_value(record["body"].take()).unwrap();
                                (item["key"].as_str().unwrap().to_owned(), body)
                            })
                            .collect());
                    }
                    other => last = format!("{server}: {other:?}"),
                }
            }
            Err(last)
        })
    }

    /// The server that owns the store, by its own word.
    pub fn owner(&self) -> String {
        until("one server owns the store", || {
            let owns = |server: &String| {
                let token = self.secret("token");
                let headers = [("authorization", token.as_str())];
                let page = request(self.address(server), "GET", "/metrics", &headers, None);
                page.is_ok_and(|page| {
                    let page = page.body;
                    page.as_str()
                        .unwrap_or_default()
                        .contains("steadfast_server_owns_store{cluster=\"local\"} 1")
                })
            };
            match self.living().into_iter().filter(owns).collect::<Vec<_>>().as_slice() {
                [one] => Ok(one.clone()),
                others => Err(format!("{others:?}")),
            }
        })
    }

    /// The server whose lease is on the share that a service falls in.
    pub fn worker(&self, service: &str) -> String {
        let shard = format!("steadfast/local/leases/{}", shard_of(&service.parse().unwrap()));
        until(&format!("a living server works on {service}"), || {
            let leases: BTreeMap<String, Lease> = self.records("leases");
            let holder = leases.get(&shard).and_then(|lease| lease.holder.clone());
            match holder.filter(|holder| self.living().iter().any(|server| server == holder.as_str())) {
                Some(holder) => Ok(holder.to_string()),
                None => Err(format!("{leases:?}")),
            }
        })
    }

    /// Waits until every share of the work is a living server's.
    pub fn all_work_is_taken(&self) {
        until("every share of the work is taken", || {
            let leases: BTreeMap<String, Lease> = self.records("leases");
            let living = self.living();
            let taken = |lease: &Lease| {
                lease
                    .holder
                    .as_ref()
                    .is_some_and(|holder| living.iter().any(|server| server == holder.as_str()))
            };
            if leases.values().all(taken) { Ok(()) } else { Err(format!("{leases:?}")) }
        });
    }
}

/// The servers of a cluster, and their processes.
pub struct Servers<'a> {
    cluster: &'a Cluster,
    api: Api,
    started: RefCell<Vec<Child>>,
}

impl std::ops::Deref for Servers<'_> {
    type Target = Api;
    fn deref(&self) -> &Api {
        &self.api
    }
}

impl<'a> Servers<'a> {
    pub fn of(cluster: &'a Cluster) -> Self {
        let api = Api { data: cluster.data().to_owned() };
        Servers { cluster, api, started: RefCell::default() }
    }

    /// Kills a server (SIGKILL), and waits until it is gone.
    pub fn kill(&self, server: &str) {
        self.send(server, Signal::SIGKILL);
        self.is_gone(server);
    }

    /// Ends a server in order.
    pub fn stop(&self, server: &str) {
        self.send(server, Signal::SIGTERM);
        self.is_gone(server);
    }

    /// Sends a signal to a server's process.
    pub fn send(&self, server: &str, signal: Signal) {
        process::signal(self.cluster.server_pid(server), signal);
    }

    fn is_gone(&self, server: &str) {
        until(&format!("{server} is gone"), || {
            if self.living().iter().any(|living| living == server) {
                Err("it lives".to_owned())
            } else {
                Ok(())
            }
        });
    }

    /// Starts a server again where it listened, with nobody to look after it.
    pub fn start(&self, server: &str) {
        let address = self.address(server).to_string();
        let log = File::options().append(true).create(true).open(self.folder(server).join("log")).unwrap();
        let mut command = self.cluster.command(["serve", "--id", server, "--listen", &address]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.started.borrow_mut().push(child);
        until(&format!("{server} serves again"), || {
            // Readiness of its own: the endpoint of its last life is removed when it starts.
            match self.living().iter().any(|living| living == server)
                && self.folder(server).join("endpoint.json").exists()
            {
                true => self.ask(server, "GET", "nodes", &[], None).map(drop),
                false => Err("not yet".to_owned()),
            }
        });
    }
}

impl Drop for Servers<'_> {
    fn drop(&mut self) {
        // Whoever is left is ours to end: killed servers are what this is about.
        for child in self.started.get_mut() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
