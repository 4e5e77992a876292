//! The protocol by which the engine of Docker asks for volumes: JSON over HTTP on a socket of this machine
//! (<https://docs.docker.com/engine/extend/plugins_volume/>).
//!
//! A volume is a member: it has the member's name, and `Mount` gives the folder that the member's container sees. The
//! engine asks again after a restart, asks for what it never gave back, and gives back what it never had; on several
//! machines each engine creates the same volume. So every call may come at any time and any number of times.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};
use steadfast_core::ids::{MemberName, NodeName, ServiceName};
use steadfast_core::runtime::Environment;
use steadfast_core::store::Store;

use super::Gate;
use super::gate::Taking;
use crate::guard::{remove_if_there, write_durably};
use crate::node_dir::{NodeDir, members_in};

/// How long a container is kept waiting for its member: longer than a lease that has to end first.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one is kept waiting while another container has the member and its engine runs: it may be about to stop.
const OTHERS_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether the container that has a member is gone, which nobody tells.
const ROUND: Duration = Duration::from_millis(100);
/// How long the store may take to say what a member waits for.
const ANSWER: Duration = Duration::from_secs(2);

/// The members of a node as volumes of its engine of Docker.
#[derive(Debug)]
pub struct VolumePlugin {
    env: Environment,
    store: Store,
    node: NodeName,
    dir: NodeDir,
    gate: Arc<Gate>,
}

/// What is asked. Every call sends a part of it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Asked {
    name: String,
    #[serde(rename = "ID")]
    id: String,
    opts: Option<BTreeMap<String, String>>,
}

/// What the engine shows its user.
type Refusal = String;

impl VolumePlugin {
    /// The members of `node`, whose folder is `dir`.
    pub fn new(env: Environment, store: Store, node: NodeName, dir: NodeDir, gate: Arc<Gate>) -> Self {
        VolumePlugin { env, store, node, dir, gate }
    }

    /// What answers the calls.
    pub fn router(self) -> Router {
        Router::new().route("/{call}", post(answer)).with_state(Arc::new(self))
    }

    async fn call(&self, call: &str, asked: &Asked) -> Result<Value, Refusal> {
        tracing::debug!(call, volume = asked.name, caller = asked.id, "asked");
        match call {
            "Plugin.Activate" => Ok(json!({ "Implements": ["VolumeDriver"] })),
            // A volume is the same one on every machine.
            "VolumeDriver.Capabilities" => Ok(json!({ "Capabilities": { "Scope": "global" } })),
            "VolumeDriver.Create" => self.create(asked).await.map(|()| json!({})),
            "VolumeDriver.Get" => Ok(json!({ "Volume": self.volume(&self.known(asked)?)? })),
            "VolumeDriver.List" => {
                let volumes: Result<Vec<Value>, _> =
                    self.list()?.iter().map(|member| self.volume(member)).collect();
                Ok(json!({ "Volumes": volumes? }))
            }
            "VolumeDriver.Path" => Ok(json!({ "Mountpoint": self.mountpoint(&self.known(asked)?)? })),
            "VolumeDriver.Mount" => Ok(json!({ "Mountpoint": self.mount(asked).await? })),
            "VolumeDriver.Unmount" => {
                self.gate.give_back(&member(asked)?, &asked.id).map_err(failed)?;
                Ok(json!({}))
            }
            "VolumeDriver.Remove" => self.remove(asked).map(|()| json!({})),
            other => Err(format!("{other} is not a call of this plugin")),
        }
    }

    /// Notes that the engine knows a volume. There must be a member of its name.
    async fn create(&self, asked: &Asked) -> Result<(), Refusal> {
        let member = member(asked)?;
        let note = self.note(&member);
        if note.exists() {
            return Ok(());
        }
        let service = asked.opts.as_ref().and_then(|opts| opts.get("service"));
        let service = service.ok_or("say of which service it is a member, with the option service")?;
        let service: ServiceName = service.parse().map_err(|error| format!("service {service}: {error}"))?;
        match self.store.member(&service, &member).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(format!("service {service} has no member {member}")),
            Err(error) => return Err(error.to_string()),
        }
        fs::create_dir_all(self.notes())
            .and_then(|()| write_durably(&note, service.as_str().as_bytes()))
            .map_err(failed)
    }

    /// Waits until there is a member to mount, and takes it.
    async fn mount(&self, asked: &Asked) -> Result<PathBuf, Refusal> {
        let member = member(asked)?;
        let clock = self.env.clock();
        let begun = clock.monotonic();
        tracing::info!(%member, container = asked.id, "a container asks for its volume");
        loop {
            let news = self.gate.news();
            tokio::pin!(news);
            // Counted among those to be told before it is looked, so that nothing is missed.
            news.as_mut().enable();
            let taking = self.gate.take(&member, &asked.id).map_err(failed)?;
            if taking == Taking::Taken {
                self.gate.note_asked(&member, begun);
                let waited_ms = clock.monotonic().since(begun).as_millis();
                tracing::info!(%member, container = asked.id, waited_ms, "a container has its volume");
                return self.dir.member(&member).ok_or_else(|| "engines are no containers here".to_owned());
            }
            let patience = if taking == Taking::TakenBy { OTHERS_PATIENCE } else { PATIENCE };
            if clock.monotonic().since(begun) >= patience {
                return Err(match taking {
                    Taking::TakenBy => format!("another container has {member} on {}", self.node),
                    Taking::Taken | Taking::Prepares | Taking::NotOffered => self.why(&member).await,
                });
            }
            tokio::select! {
                biased;
                () = news => {}
                () = clock.sleep(ROUND) => {}
            }
        }
    }

    /// Why a member is not prepared here.
    async fn why(&self, member: &MemberName) -> Refusal {
        let status = match self.env.timeout(ANSWER, self.store.node_status(&self.node)).await {
            Some(Ok(status)) => status,
            Some(Err(error)) => return error.to_string(),
            None => return "StoreUnavailable: the store does not answer".to_owned(),
        };
        let said = status.and_then(|status| status.body.members.get(member).cloned());
        match said.map(|said| said.blocked) {
            Some(Some((reason, message))) => format!("{reason}: {message}"),
            Some(None) => format!("{member} is not prepared on {} yet", self.node),
            None => format!("{member} is not placed on {}: steadfast why {member}", self.node),
        }
    }

    /// Forgets a volume. The member and its data are not the engine's to delete.
    fn remove(&self, asked: &Asked) -> Result<(), Refusal> {
        let member = member(asked)?;
        if self.gate.runs(&member).map_err(failed)? {
            return Err(format!("{member} runs on {}", self.node));
        }
        if self.gate.is_mounted(&member).map_err(failed)? {
            return Err(format!("a container that is about to start has {member} on {}", self.node));
        }
        remove_if_there(&self.note(&member)).map_err(failed)
    }

    fn known(&self, asked: &Asked) -> Result<MemberName, Refusal> {
        let member = member(asked)?;
        if self.note(&member).exists() { Ok(member) } else { Err(format!("no such volume: {member}")) }
    }

    fn list(&self) -> Result<Vec<MemberName>, Refusal> {
        members_in(&self.notes()).map_err(failed)
    }

    fn volume(&self, member: &MemberName) -> Result<Value, Refusal> {
        Ok(json!({ "Name": member, "Mountpoint": self.mountpoint(member)?, "Status": {} }))
    }

    /// Where it is mounted; empty: it is not, whatever a container that has died did not give back.
    fn mountpoint(&self, member: &MemberName) -> Result<PathBuf, Refusal> {
        let mounted = self.gate.is_mounted(member).map_err(failed)?;
        Ok(self.dir.member(member).filter(|_| mounted).unwrap_or_default())
    }

    fn notes(&self) -> PathBuf {
        self.dir.path().join("volumes")
    }

    fn note(&self, member: &MemberName) -> PathBuf {
        self.notes().join(member.as_str())
    }
}

async fn answer(
    State(plugin): State<Arc<VolumePlugin>>,
    Path(call): Path<String>,
    // The engine sends no content type.
    body: Bytes,
) -> Response {
    let asked = match body.is_empty() {
        true => Ok(Asked::default()),
        false => serde_json::from_slice(&body).map_err(|error| format!("{call}: {error}")),
    };
    let answered = match asked {
        Ok(asked) => plugin.call(&call, &asked).await,
        Err(refusal) => Err(refusal),
    };
    let (status, body) = match answered {
        Ok(answer) => (StatusCode::OK, answer),
        Err(refusal) => {
            tracing::info!(call, refusal, "refused");
            (StatusCode::INTERNAL_SERVER_ERROR, json!({ "Err": refusal }))
        }
    };
    (status, [("content-type", "application/vnd.docker.plugins.v1.2+json")], body.to_string()).into_response()
}

/// The member that a volume is.
fn member(asked: &Asked) -> Result<MemberName, Refusal> {
    asked.name.parse().map_err(|error| format!("volume {:?} is no member: {error}", asked.name))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn failed(error: io::Error) -> Refusal {
    error.to_string()
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
