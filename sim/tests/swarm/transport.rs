//! From the client of Docker to the model: a call through the gate, and its answer read from a connection in memory,
//! since the client takes none that has not come over one.

use std::convert::Infallible;

use axum::http::{Request, Response};
use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use bytes::Bytes;
use futures::TryStreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use steadfast_sim::cast::Seat;
use steadfast_sim::wire::Exchange as _;
use tokio::runtime::{EnterGuard, Runtime};

use crate::dockerd::Dockerd;

/// How much of an answer is under way at once, in bytes.
const ROOM: usize = 64 * 1024;

/// The client of Docker sets timers of tokio's, which has to be there. Nothing drives them, so none of them ends:
/// the adapter's own patience is on the run's clock.
pub(crate) struct Context {
    _inside: EnterGuard<'static>,
}

pub(crate) fn context() -> Context {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let runtime: &'static Runtime = Box::leak(Box::new(runtime));
    Context { _inside: runtime.enter() }
}

/// The client, for a program of a run.
pub(crate) fn docker(seat: &Seat) -> Docker {
    let seat = seat.clone();
    let transport = move |request: BollardRequest| Box::pin(exchange(seat.clone(), request));
    Docker::connect_with_custom_transport(
        transport,
        Some("http://docker"),
        u64::MAX / 1_000,
        API_DEFAULT_VERSION,
    )
    .unwrap()
}

async fn exchange(seat: Seat, request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let api = seat.api::<Dockerd>();
    let lost = |error: &dyn std::fmt::Display| Error::from(std::io::Error::other(error.to_string()));
    let answer = api.send(Request::from_parts(head, body)).await.map_err(|error| lost(&error))?;
    let (head, chunks) = answer.into_parts();
    let chunks: Vec<Bytes> = chunks.try_collect().await.map_err(|error| lost(&error))?;
    received(&seat, Response::from_parts(head, Bytes::from(chunks.concat()))).await
}

/// The answer as it comes out of a connection.
async fn received(seat: &Seat, answer: Response<Bytes>) -> Result<Response<Incoming>, Error> {
    let (near, far) = tokio::io::duplex(ROOM);
    let serve = service_fn(move |_: Request<Incoming>| {
        let answer = answer.clone().map(Full::new);
        async move { Ok::<_, Infallible>(answer) }
    });
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), serve);
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await?;
    let tasks = seat.env().tasks();
    tasks.spawn("docker engine", async move { drop(server.await) });
    tasks.spawn("docker connection", async move { drop(connection.await) });
    let request = Request::get("/").body(Full::new(Bytes::new())).map_err(std::io::Error::other)?;
    Ok(requests.send_request(request).await?)
}
