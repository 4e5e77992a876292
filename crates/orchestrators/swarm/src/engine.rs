//! The engine of Docker on this machine: its calls, and what their failures mean.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use bollard::errors::Error as DockerError;
use bollard::models::{Node, Service, ServiceSpec, Task, VolumeCreateRequest};
use bollard::query_parameters::{
    ListNodesOptions, ListServicesOptions, ListTasksOptions, UpdateServiceOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use steadfast_core::error::{Error, ErrorKind, Result};
use steadfast_core::runtime::Environment;
use tokio::sync::OnceCell;

/// How long a call may take. A manager asks the one that leads, and waits in vain for one that was lost just now; the next
/// call asks the next one.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The engine that listens on a socket of this machine.
#[derive(Debug)]
pub struct Engine {
    env: Environment,
    way: Way,
    /// With the version of the API that both know, once it has answered.
    client: OnceCell<Docker>,
}

/// How the engine is reached.
#[derive(Debug)]
enum Way {
    Socket(PathBuf),
    Client(Docker),
}

impl Engine {
    /// The engine on `socket`. It need not be there yet.
    pub fn at(env: Environment, socket: impl Into<PathBuf>) -> Self {
        Engine { env, way: Way::Socket(socket.into()), client: OnceCell::new() }
    }

    /// The engine that a client of one's own speaks to.
    pub fn over(env: Environment, client: Docker) -> Self {
        Engine { env, way: Way::Client(client), client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&Docker> {
        let reached = async || {
            let client = match &self.way {
                // Its own patience is longer, and counted by a clock of its own.
                Way::Socket(socket) => {
                    let patience = (TIMEOUT * 2).as_secs();
                    Docker::connect_with_unix(&socket.to_string_lossy(), patience, API_DEFAULT_VERSION)?
                }
                Way::Client(client) => client.clone(),
            };
            self.within(client.negotiate_version()).await
        };
        let refused = |error| self.failed("reach", "its API", &error).without_effect();
        self.client.get_or_try_init(async || reached().await.map_err(refused)).await
    }

    /// What a call is answered, if it is soon enough.
    async fn within<T>(&self, call: impl Future<Output = Result<T, DockerError>>) -> Result<T, DockerError> {
        // The client's futures are large.
        self.env.timeout(TIMEOUT, Box::pin(call)).await.unwrap_or(Err(DockerError::RequestTimeoutError))
    }

    /// Whether the engine answers, whatever it says.
    pub async fn answers(&self) -> bool {
        let Ok(client) = self.client().await else { return false };
        matches!(self.within(client.ping()).await, Ok(_) | Err(DockerError::DockerResponseServerError { .. }))
    }

    /// Has the engine load a volume driver, so that Swarm knows that this node has it: engines look for drivers only when
    /// one is asked for. Idempotent.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn advertise(&self, driver: &str) -> Result<()> {
        let client = self.client().await?;
        let info = self.within(client.info()).await.map_err(|error| self.failed("ask", driver, &error))?;
        let known = info.plugins.and_then(|plugins| plugins.volume).unwrap_or_default();
        if known.iter().any(|known| known == driver) {
            return Ok(());
        }
        // It is loaded to be told that there is no such member.
        let probe = VolumeCreateRequest {
            name: Some("no-member".to_owned()),
            driver: Some(driver.to_owned()),
            ..VolumeCreateRequest::default()
        };
        match self.within(client.create_volume(probe)).await {
            Ok(_) | Err(DockerError::DockerResponseServerError { .. }) => Ok(()),
            Err(error) => Err(self.failed("load", driver, &error)),
        }
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<Node>> {
        let client = self.client().await?;
        let nodes = self.within(client.list_nodes(None::<ListNodesOptions>)).await;
        nodes.map_err(|error| self.failed("list", "nodes", &error).without_effect())
    }

    /// The service of this name; `None` if there is none.
    pub(crate) async fn service(&self, name: &str) -> Result<Option<Service>> {
        let client = self.client().await?;
        match self.within(client.inspect_service(name, None)).await {
            Ok(found) => Ok(Some(found)),
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.failed("inspect", name, &error).without_effect()),
        }
    }

    /// The services with this label.
    pub(crate) async fn services(&self, label: &str) -> Result<Vec<Service>> {
        let options = ListServicesOptions { filters: filter("label", label), status: None };
        let client = self.client().await?;
        let found = self.within(client.list_services(Some(options))).await;
        found.map_err(|error| self.failed("list", label, &error).without_effect())
    }

    /// The tasks of a service, or of those with a label.
    pub(crate) async fn tasks(&self, by: &str, value: &str) -> Result<Vec<Task>> {
        let options = ListTasksOptions { filters: filter(by, value) };
        let client = self.client().await?;
        let found = self.within(client.list_tasks(Some(options))).await;
        found.map_err(|error| self.failed("list tasks of", value, &error).without_effect())
    }

    /// Makes a service. One that somebody else has made meanwhile is looked at with the next try.
    pub(crate) async fn create(&self, spec: ServiceSpec) -> Result<()> {
        let name = spec.name.clone().unwrap_or_default();
        let client = self.client().await?;
        match self.within(client.create_service(spec, None)).await {
            Ok(_) => Ok(()),
            Err(DockerError::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            Err(error) => Err(self.failed("create", name, &error)),
        }
    }

    /// Changes a service as it was found.
    pub(crate) async fn update(&self, found: &Service, spec: ServiceSpec) -> Result<()> {
        let name = spec.name.clone().unwrap_or_default();
        let version = found.version.as_ref().and_then(|version| version.index).unwrap_or_default();
        let version = i32::try_from(version).map_err(|error| {
            Error::new(ErrorKind::Unsupported, "docker", "update", &name, error).without_effect()
        })?;
        let options = UpdateServiceOptions { version, ..UpdateServiceOptions::default() };
        let id = found.id.clone().unwrap_or_default();
        let client = self.client().await?;
        match self.within(client.update_service(&id, spec, options, None)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed("update", name, &error)),
        }
    }

    /// Removes a service. Absent is success.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let client = self.client().await?;
        match self.within(client.delete_service(name)).await {
            Ok(()) => Ok(()),
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", name, &error)),
        }
    }

    fn failed(&self, operation: &'static str, subject: impl std::fmt::Display, error: &DockerError) -> Error {
        let told = |kind, message: &str| Error::new(kind, "docker", operation, &subject, message);
        match error {
            // There is no code for it. It was refused before anything was done.
            DockerError::DockerResponseServerError { message, .. } if message.contains("out of sequence") => {
                told(ErrorKind::Stale, message).without_effect()
            }
            DockerError::DockerResponseServerError { status_code, message } => {
                let kind = match status_code {
                    400 => ErrorKind::Invalid,
                    403 => ErrorKind::Denied,
                    404 => ErrorKind::NotFound,
                    _ => ErrorKind::Unavailable,
                };
                told(kind, message)
            }
            error => {
                let message = match &self.way {
                    Way::Socket(socket) => format!("{}: {error}", socket.display()),
                    Way::Client(_) => error.to_string(),
                };
                told(ErrorKind::Unavailable, &message)
            }
        }
    }
}

fn filter(by: &str, value: &str) -> Option<HashMap<String, Vec<String>>> {
    Some(HashMap::from([(by.to_owned(), vec![value.to_owned()])]))
}
