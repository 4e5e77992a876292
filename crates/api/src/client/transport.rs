//! Sending: which server, how long, and when to go on to the next.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Request, Response, StatusCode};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use serde::de::DeserializeOwned;
use steadfast_core::ids::ClusterName;
use steadfast_core::{Effect, Environment};

use super::exchange::{Chunks, Exchange, ExchangeError, Sockets};
use super::{ClientConfig, ClientError, ClientResult};
use crate::auth::Token;
use crate::problem::{self, Problem};
use crate::wire::DIRECT;

/// How long a connection may take to come about: short, since another server may be there.
const CONNECT: Duration = Duration::from_secs(5);
/// How often all servers are asked, and the pause in between.
const ROUNDS: usize = 2;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Transport {
    environment: Environment,
    cluster: ClusterName,
    servers: Vec<Server>,
    preferred: AtomicUsize,
    token: Option<Token>,
    direct: bool,
    pub(super) silence: Duration,
}

#[derive(Debug)]
struct Server {
    name: String,
    /// What addresses begin with; for a socket the host is of no meaning.
    base: String,
    exchange: Arc<dyn Exchange>,
}

/// One call, to whichever server.
#[derive(Debug, Clone)]
pub(super) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Call { method, path: path.into(), query: Vec::new(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(super) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> ClientResult<Self> {
        let value = HeaderValue::from_str(value)
            .map_err(|error| ClientError::Config { field: name, message: error.to_string() })?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    pub(super) fn json<T: serde::Serialize>(mut self, body: &T) -> ClientResult<Self> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| ClientError::Config { field: "body", message: error.to_string() })?;
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = bytes.into();
        Ok(self)
    }

    fn reads(&self) -> bool {
        self.method.is_safe()
    }

    /// What it may have done if it was sent and its answer did not come.
    fn effect(&self) -> Effect {
        if self.reads() { Effect::None } else { Effect::Unknown }
    }
}

impl Transport {
    /// Over sockets, or over `exchange`.
    pub(super) fn new(
        environment: Environment,
        config: ClientConfig,
        exchange: Option<Arc<dyn Exchange>>,
    ) -> ClientResult<Self> {
        if config.servers.is_empty() {
            return Err(ClientError::Config { field: "servers", message: "there is none".to_owned() });
        }
        let server = |name: &String| match &exchange {
            Some(exchange) => Server::over(name, Arc::clone(exchange)),
            None => Server::new(name, config.authorities.as_deref()),
        };
        let servers = config.servers.iter().map(server).collect::<ClientResult<_>>()?;
        let ClientConfig { cluster, token, direct, silence, .. } = config;
        Ok(Transport {
            environment,
            cluster,
            servers,
            preferred: AtomicUsize::new(0),
            token,
            direct,
            silence,
        })
    }

    pub(super) fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(super) fn preferred(&self) -> &str {
        &self.servers[self.preferred.load(Ordering::Relaxed)].name
    }

    /// The address of something of the cluster.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v1/clusters/{}/{rest}", self.cluster)
    }

    /// A call whose answer is JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, call: Call, timeout: Duration) -> ClientResult<T> {
        let effect = call.effect();
        let bytes = self.bytes(call, timeout).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.misunderstood(effect, &error))
    }

    /// A call whose answer is text.
    pub(super) async fn text(&self, call: Call, timeout: Duration) -> ClientResult<String> {
        let effect = call.effect();
        let bytes = self.bytes(call, timeout).await?;
        String::from_utf8(bytes.into()).map_err(|error| self.misunderstood(effect, &error))
    }

    async fn bytes(&self, call: Call, timeout: Duration) -> ClientResult<Bytes> {
        let effect = call.effect();
        let answer = async {
            let response = self.send(&call).await?;
            whole(response).await.map_err(|error| unreachable(self.preferred().to_owned(), effect, error))
        };
        self.within(timeout, effect, answer).await
    }

    fn misunderstood(&self, effect: Effect, error: &dyn std::error::Error) -> ClientError {
        ClientError::Answer { server: self.preferred().to_owned(), effect, message: error.to_string() }
    }

    /// A call whose answer is a stream: returns with its head.
    pub(super) async fn stream(&self, call: Call, timeout: Duration) -> ClientResult<Response<Chunks>> {
        self.within(timeout, Effect::None, self.send(&call)).await
    }

    async fn within<T>(
        &self,
        timeout: Duration,
        effect: Effect,
        future: impl Future<Output = ClientResult<T>>,
    ) -> ClientResult<T> {
        match self.environment.timeout(timeout, future).await {
            Some(result) => result,
            None => Err(ClientError::Unreachable {
                server: self.preferred().to_owned(),
                effect,
                message: format!("no answer within {} seconds", timeout.as_secs_f64()),
                source: None,
            }),
        }
    }

    /// Asks one server after another until one has answered.
    async fn send(&self, call: &Call) -> ClientResult<Response<Chunks>> {
        let mut last = None;
        for round in 0..ROUNDS {
            if round > 0 {
                self.environment.clock().sleep(PAUSE).await;
            }
            let first = self.preferred.load(Ordering::Relaxed);
            for offset in 0..self.servers.len() {
                let index = (first + offset) % self.servers.len();
                let error = match self.ask(&self.servers[index], call).await {
                    Ok(response) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(response);
                    }
                    Err(error) => error,
                };
                if !may_ask_another(&error, call) {
                    return Err(error);
                }
                tracing::debug!(server = self.servers[index].name, %error, "asking the next server");
                // What a server says is worth more than another's silence.
                if last.is_none() || error.problem().is_some() {
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(ClientError::Config { field: "servers", message: "there is none".to_owned() }))
    }

    async fn ask(&self, server: &Server, call: &Call) -> ClientResult<Response<Chunks>> {
        let effect = call.effect();
        let response = server.exchange.send(self.request(server, call)?).await.map_err(|error| {
            let effect = if error.may_be_sent() { effect } else { Effect::None };
            unreachable(server.name.clone(), effect, error)
        })?;
        if response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        Err(refusal(server, effect, response).await)
    }

    fn request(&self, server: &Server, call: &Call) -> ClientResult<Request<Bytes>> {
        let wrong = |field: &'static str, message: String| ClientError::Config { field, message };
        let mut url = reqwest::Url::parse(&format!("{}{}", server.base, call.path))
            .map_err(|error| wrong("servers", error.to_string()))?;
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = Request::new(call.body.clone());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() =
            url.as_str().parse().map_err(|error| wrong("servers", format!("{url}: {error}")))?;
        let headers = request.headers_mut();
        *headers = call.headers.clone();
        if let Some(token) = &self.token {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
                .map_err(|error| wrong("token", error.to_string()))?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        if self.direct {
            headers.insert(HeaderName::from_static(DIRECT), HeaderValue::from_static("1"));
        }
        Ok(request)
    }
}

/// The whole body of an answer.
async fn whole(response: Response<Chunks>) -> Result<Bytes, ExchangeError> {
    let mut chunks = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.try_next().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// What an answer that is no success says.
async fn refusal(server: &Server, effect: Effect, response: Response<Chunks>) -> ClientError {
    let status = response.status();
    let is_problem = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(problem::MEDIA_TYPE.as_bytes()));
    let bytes = match whole(response).await {
        Ok(bytes) => bytes,
        Err(error) => return unreachable(server.name.clone(), effect, error),
    };
    let told = if is_problem { serde_json::from_slice::<Problem>(&bytes).ok() } else { None };
    match told {
        Some(problem) => ClientError::Problem(Box::new(problem)),
        // Somebody between the server and us may have answered.
        None => ClientError::Answer {
            server: server.name.clone(),
            effect,
            message: format!("status {status} without a problem"),
        },
    }
}

/// Whether asking another server can do nothing twice, and can help.
fn may_ask_another(error: &ClientError, call: &Call) -> bool {
    let harmless = call.reads() || error.effect() == Effect::None;
    let helps = match error {
        ClientError::Problem(problem) => matches!(problem.status, 503 | 504),
        ClientError::Unreachable { .. } | ClientError::Answer { .. } => true,
        ClientError::Config { .. } => false,
    };
    harmless && helps
}

pub(super) fn unreachable(server: String, effect: Effect, error: ExchangeError) -> ClientError {
    ClientError::Unreachable { server, effect, message: error.chain(), source: Some(Arc::new(error)) }
}

impl Server {
    fn new(name: &str, authorities: Option<&[u8]>) -> ClientResult<Self> {
        let wrong = |message: String| ClientError::Config { field: "servers", message };
        let trimmed = name.trim_end_matches('/');
        // Environment variables with proxies are for the wide world, and a control plane is next door.
        let builder = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).tcp_nodelay(true);
        let (base, builder) = if let Some(path) = name.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(wrong(format!(
                    "{name:?} needs an absolute path, as in unix:///run/steadfast.sock"
                )));
            }
            ("http://localhost".to_owned(), plain(builder)?.unix_socket(PathBuf::from(path)))
        } else if trimmed.starts_with("http://") {
            (trimmed.to_owned(), plain(builder)?)
        } else if trimmed.starts_with("https://") {
            (trimmed.to_owned(), secured(builder, authorities)?)
        } else {
            return Err(wrong(format!("{name:?} begins with neither http://, https:// nor unix://")));
        };
        if let Err(error) = reqwest::Url::parse(&base) {
            return Err(wrong(format!("{name:?} is not an address: {error}")));
        }
        let http = builder.build().map_err(|error| wrong(format!("{name:?}: {error}")))?;
        Ok(Server { name: trimmed.to_owned(), base, exchange: Arc::new(Sockets(http)) })
    }

    /// A server that `exchange` finds by its address.
    fn over(name: &str, exchange: Arc<dyn Exchange>) -> ClientResult<Self> {
        let base = name.trim_end_matches('/').to_owned();
        match reqwest::Url::parse(&base) {
            Ok(_) => Ok(Server { name: base.clone(), base, exchange }),
            Err(error) => {
                let message = format!("{name:?} is not an address: {error}");
                Err(ClientError::Config { field: "servers", message })
            }
        }
    }
}

/// Without TLS: an empty set of trusted certificates spares reading the system's.
fn plain(builder: reqwest::ClientBuilder) -> ClientResult<reqwest::ClientBuilder> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Config { field: "tls", message: error.to_string() })?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(builder.tls_backend_preconfigured(tls))
}

fn secured(
    builder: reqwest::ClientBuilder,
    authorities: Option<&[u8]>,
) -> ClientResult<reqwest::ClientBuilder> {
    // One provider per process; whoever was first has chosen, and either will do.
    drop(rustls::crypto::ring::default_provider().install_default());
    let Some(pem) = authorities else { return Ok(builder.https_only(true)) };
    let wrong =
        |error: reqwest::Error| ClientError::Config { field: "authorities", message: error.to_string() };
    let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(wrong)?;
    Ok(builder.https_only(true).tls_certs_only(certificates))
}
