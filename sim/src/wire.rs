//! HTTP in process: clients and servers that ship, and models that answer, with faults on the wire between them.
//!
//! Below a client is one trait, [`Exchange`]: a request, and the head of its answer. [`Wire`] is one for the servers
//! of a run ([`Seat::serve`]), and [`Api`] is one for a model that answers HTTP itself ([`Respond`]). Both are calls
//! through the gate: they have keys (`http.post s1/v1/clusters/sim/services`), latencies, and the faults of every other
//! call. Requests are lost, come late or twice, answers are lost, and whoever asks or answers crashes.
//!
//! The client of the API takes an [`Exchange`] as it is ([`Client::over`](steadfast_api::client::Client::over)). The
//! clients of clouds have such a place, too, and an adapter is a few lines that convert a request, send it and convert
//! the answer:
//!
//! | client | place |
//! |---|---|
//! | AWS SDK | `http_client` of its config: an `HttpConnector` (`aws_smithy_runtime_api`) whose `call` sends |
//! | kube | `kube::Client::new`: a tower service of `http::Request` |
//! | Docker (bollard) | `Docker::connect_with_custom_transport`: a function from `http::Request` |
//!
//! What a run has no word for stays outside: connections that are kept, half-open or slow to close (turmoil has them,
//! `tests/network`). An answer that is on its way when its client is cut off still arrives.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures::channel::{mpsc, oneshot};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
pub use steadfast_api::client::{Chunks, Exchange, ExchangeError};
use steadfast_core::error::{Error, ErrorKind, Result};
use tower::{Service, ServiceExt as _};

use crate::cast::{Model, Seat};
use crate::face;
use crate::time::Time;
use crate::world::{Answer, Ask, Caller};

/// A model that answers HTTP: a cloud's API, as its client speaks it.
pub trait Respond: Model {
    /// Answers a request. One that comes twice is answered twice.
    fn respond(&mut self, now: Time, request: &Request<Bytes>) -> Response<Bytes>;

    /// What a request asks, of which thing, and whether it may change something: its key. By method and path, if the API
    /// is one of resources; an API of actions has to say.
    fn meaning(request: &Request<Bytes>) -> Meaning {
        Meaning::of(request)
    }

    /// What a request is answered that is refused for its rate, or because the service fails on its own side.
    fn refuse(kind: ErrorKind) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(b"on purpose"));
        *response.status_mut() = match kind {
            ErrorKind::Throttled => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        response
    }
}

/// What a request is, by meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// The operation: `http.get`, or what the API calls it.
    pub operation: &'static str,
    /// What it is about, without anything random.
    pub resource: String,
    /// Whether it may change something.
    pub writes: bool,
}

impl Meaning {
    /// By method, host and path; of the query what names a thing (`key`, `prefix`).
    pub fn of<T>(request: &Request<T>) -> Self {
        let operation = match *request.method() {
            Method::GET => "http.get",
            Method::PUT => "http.put",
            Method::POST => "http.post",
            Method::DELETE => "http.delete",
            Method::HEAD => "http.head",
            _ => "http.other",
        };
        let (uri, mut resource) = (request.uri(), String::new());
        resource.push_str(uri.host().unwrap_or_default());
        let mut add = |segment: &str| {
            resource.push('/');
            resource.push_str(if face::is_random(segment) { "*" } else { segment });
        };
        uri.path().split('/').skip(1).for_each(&mut add);
        let named = uri.query().into_iter().flat_map(|query| query.split('&'));
        let named =
            named.filter_map(|pair| pair.strip_prefix("key=").or_else(|| pair.strip_prefix("prefix=")));
        named.flat_map(|name| name.split("%2F")).for_each(add);
        Meaning { operation, resource, writes: !request.method().is_safe() }
    }

    fn ask(&self) -> Ask<'_> {
        Ask { operation: self.operation, resource: &self.resource, writes: self.writes, local: false }
    }
}

/// The way from one program to a model of its run that answers HTTP.
pub struct Api<M> {
    seat: Seat,
    of: PhantomData<fn() -> M>,
}

impl<M> fmt::Debug for Api<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}

#[derive(Debug, Clone)]
struct Heard(Arc<Response<Bytes>>);

impl Answer for Heard {
    fn digest(&self) -> u64 {
        crate::hash::of_debug(&(self.0.status(), self.0.body()))
    }
}

#[async_trait]
impl<M: Respond> Exchange for Api<M> {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Chunks>, ExchangeError> {
        let meaning = M::meaning(&request);
        let effect = move |model: &mut M, now: Time| Ok(Heard(Arc::new(model.respond(now, &request))));
        let response = match self.seat.call(meaning.ask(), effect).await {
            Ok(Heard(response)) => Response::clone(&response),
            Err(error) => match error.kind() {
                kind @ (ErrorKind::Throttled | ErrorKind::Unavailable) => M::refuse(kind),
                _ => return Err(ExchangeError::unsent(error)),
            },
        };
        Ok(response.map(|body| -> Chunks { stream::once(async move { Ok(body) }).boxed() }))
    }
}

/// What answers the requests to a host.
type Handler = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// The servers of a run, by host. To be added to the [`Cast`](crate::cast::Cast) as a model.
#[derive(Default)]
pub struct Servers(BTreeMap<String, (Caller, Handler)>);

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Model for Servers {}

impl Seat {
    /// Answers the requests to `host` from now on, for as long as this program lives.
    ///
    /// # Errors
    /// `NotFound` if the run has no [`Servers`].
    pub async fn serve<S>(&self, host: &str, service: S) -> Result<()>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>,
        S: Clone + Send + Sync + 'static,
    {
        let handler: Handler = Arc::new(move |request| {
            let answering = service.clone().oneshot(request);
            answering.map(|answer| answer.unwrap_or_else(|never| match never {})).boxed()
        });
        let (caller, name) = (self.caller.clone(), host.to_owned());
        let effect = move |servers: &mut Servers, _: Time| {
            servers.0.insert(name.clone(), (caller.clone(), Arc::clone(&handler)));
            Ok(())
        };
        let ask = Ask { operation: "http.listen", resource: &host, writes: true, local: true };
        self.call(ask, effect).await
    }

    /// The way to the servers of the run.
    pub fn wire(&self) -> Arc<Wire> {
        Arc::new(Wire(self.clone()))
    }

    /// The way to a model that answers HTTP.
    pub fn api<M: Respond>(&self) -> Arc<Api<M>> {
        Arc::new(Api { seat: self.clone(), of: PhantomData })
    }
}

/// The way from one program to the servers of its run.
#[derive(Debug)]
pub struct Wire(Seat);

/// A request has come to its server, which answers when it likes.
#[derive(Debug, Clone)]
struct Delivered;

impl Answer for Delivered {}

#[async_trait]
impl Exchange for Wire {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Chunks>, ExchangeError> {
        let meaning = Meaning::of(&request);
        let host = request.uri().host().unwrap_or_default().to_owned();
        let (answer, answered) = oneshot::channel();
        // The first to come is who is listened to; what comes again is answered to nobody.
        let answer = Mutex::new(Some(answer));
        let effect = move |servers: &mut Servers, _: Time| {
            let refused = || {
                let text = format!("nobody answers at {host}");
                Error::new(ErrorKind::Unavailable, "wire", "connect", &host, text).without_effect()
            };
            let (server, handler) = servers.0.get(&host).ok_or_else(refused)?;
            let exec = server.world().exec();
            if !exec.is_alive(server.process()) {
                return Err(refused());
            }
            let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            let handling = handler(request.clone().map(Body::from));
            exec.spawn(server.process(), "http", Box::pin(reply(handling, answer)));
            Ok(Delivered)
        };
        match self.0.call(meaning.ask(), effect).await {
            Ok(Delivered) => answered.await.map_err(|_| ExchangeError::broken("the connection was reset")),
            // Somebody in between may say so, who does not know what became of it.
            Err(error) if error.kind() == ErrorKind::Throttled => Ok(busy()),
            Err(error) => Err(ExchangeError::unsent(error)),
        }
    }
}

fn busy() -> Response<Chunks> {
    let mut response = Response::new(stream::empty().boxed() as Chunks);
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response
}

/// A part of a body; without [`End`](Piece::End) it has been cut off.
enum Piece {
    Chunk(Result<Bytes, ExchangeError>),
    End,
}

/// Handles a request, as a task of its server, and sends the answer piece by piece.
async fn reply(
    handling: BoxFuture<'static, Response<Body>>,
    answer: Option<oneshot::Sender<Response<Chunks>>>,
) {
    let response = handling.await;
    let Some(answer) = answer else { return };
    let (pieces, body) = mpsc::unbounded();
    let (head, data) = response.into_parts();
    if answer.send(Response::from_parts(head, chunks(body))).is_err() {
        return;
    }
    let mut data = data.into_data_stream();
    while let Some(chunk) = data.next().await {
        if pieces.unbounded_send(Piece::Chunk(chunk.map_err(ExchangeError::broken))).is_err() {
            return;
        }
    }
    // Nobody may be listening any more.
    pieces.unbounded_send(Piece::End).ok();
}

fn chunks(pieces: mpsc::UnboundedReceiver<Piece>) -> Chunks {
    stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.next().await {
            Some(Piece::Chunk(chunk)) => Some((chunk, Some(pieces))),
            Some(Piece::End) => None,
            None => Some((Err(ExchangeError::broken("the connection was reset")), None)),
        }
    })
    .boxed()
}
