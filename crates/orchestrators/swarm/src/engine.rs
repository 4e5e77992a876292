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

/// The oldest API that has everything that is asked for here and that was tried: that of Docker 20.10.
const OLDEST: (usize, usize) = (1, 41);

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
        self.client.get_or_try_init(async || self.recent(reached().await.map_err(refused)?)).await
    }

    /// A client of an engine that is not too old.
    fn recent(&self, client: Docker) -> Result<Docker> {
        let version = client.client_version();
        if (version.major_version, version.minor_version) >= OLDEST {
            return Ok(client);
        }
        let (major, minor) = OLDEST;
        let message = format!(
            "{}: it speaks version {version} of its API; {major}.{minor} or newer is needed: install Docker 20.10 or newer",
            self.place()
        );
        Err(Error::new(ErrorKind::Unsupported, "docker", "use", "its API", message).without_effect())
    }

    fn place(&self) -> String {
        match &self.way {
            Way::Socket(socket) => socket.display().to_string(),
            Way::Client(_) => "the engine".to_owned(),
        }
    }

    /// What a call is answered, if it is soon enough.
    async fn within<T>(&self, call: impl Future<Output = Result<T, DockerError>>) -> Result<T, DockerError> {
        // The client's futures are large.
        self.env.timeout(TIMEOUT, Box::pin(call)).await.unwrap_or(Err(DockerError::RequestTimeoutError))
    }

    /// Why the engine is of no use, in words that stay the same for as long as that is so; none: it answers, whatever it
    /// says.
    pub async fn trouble(&self) -> Option<String> {
        let silent = || Some("does not answer".to_owned());
        match self.client().await {
            Ok(client) => match self.within(client.ping()).await {
                Ok(_) | Err(DockerError::DockerResponseServerError { .. }) => None,
                Err(_) => silent(),
            },
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                Some(format!("is too old: {}", error.message()))
            }
            Err(_) => silent(),
        }
    }

    /// The value of a label of this node: the swarm's, which managers alone are told, or else the engine's own.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn label(&self, label: &str) -> Result<Option<String>> {
        let client = self.client().await?;
        let failed = |error| self.failed("read the label", label, &error).without_effect();
        let info = self.within(client.info()).await.map_err(failed)?;
        if let Some(swarm) = info.swarm
            && swarm.control_available == Some(true)
            && let Some(id) = swarm.node_id
        {
            let node = self.within(client.inspect_node(&id)).await.map_err(failed)?;
            let labels = node.spec.and_then(|spec| spec.labels).unwrap_or_default();
            if let Some(value) = labels.get(label) {
                return Ok(Some(value.clone()));
            }
        }
        let own = info.labels.unwrap_or_default();
        let found = own.iter().filter_map(|own| own.split_once('=')).find(|(name, _)| *name == label);
        Ok(found.map(|(_, value)| value.to_owned()))
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
            // Of whoever stands before the engine; it has none itself.
            DockerError::DockerResponseServerError { status_code: 429, message } => {
                told(ErrorKind::Throttled, message).without_effect()
            }
            // What managers tell each other is at most 4 MiB large; trying again would not help.
            DockerError::DockerResponseServerError { message, .. } if message.contains("larger than max") => {
                told(ErrorKind::QuotaExceeded, message)
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
            error => told(ErrorKind::Unavailable, &format!("{}: {error}", self.place())),
        }
    }
}

fn filter(by: &str, value: &str) -> Option<HashMap<String, Vec<String>>> {
    Some(HashMap::from([(by.to_owned(), vec![value.to_owned()])]))
}
