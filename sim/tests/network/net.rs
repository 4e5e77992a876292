//! Sockets, time and randomness of simulated hosts, for the server and the client that ship.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{Request, Response, Uri};
use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use steadfast_api::auth::Token;
use steadfast_api::client::{Chunks, Client, ClientConfig, Exchange, ExchangeError};
use steadfast_api::server::{Parts, router};
use steadfast_api::testing;
use steadfast_core::runtime::{Clock, Entropy, Environment, Moment, Tasks, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;
use turmoil::net::{TcpListener, TcpStream};

/// Where every server listens.
pub(crate) const PORT: u16 = 7070;

/// The time of the simulation, which goes on while a host is down.
#[derive(Debug)]
struct HostClock;

/// 2026-01-01T00:00:00Z, in seconds.
const BEGIN: i64 = 1_767_225_600;

#[async_trait]
impl Clock for HostClock {
    fn wall(&self) -> Timestamp {
        Timestamp::constant(BEGIN, 0) + self.monotonic().since_zero()
    }

    fn monotonic(&self) -> Moment {
        Moment::from_zero(turmoil::sim_elapsed().unwrap_or_default())
    }

    #[expect(clippy::disallowed_methods, reason = "a host's runtime is tokio's, in simulated time")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The lives that the hosts of one run have had: no two of them draw the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lives(Arc<AtomicU8>);

impl Lives {
    /// The environment of another life.
    pub(crate) fn next(&self) -> Environment {
        let seed = [self.0.fetch_add(1, Ordering::Relaxed); 32];
        Environment::new(Arc::new(HostClock), Entropy::from_seed(seed), Tasks::new())
    }
}

/// Serves the API until the host ends.
pub(crate) async fn serve(parts: Parts) -> turmoil::Result {
    let listener = Listener(TcpListener::bind(("0.0.0.0", PORT)).await?);
    Ok(axum::serve(listener, router(parts)).await?)
}

struct Listener(TcpListener);

impl axum::serve::Listener for Listener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Ok(accepted) = self.0.accept().await {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A client of these hosts that gives up after so long.
pub(crate) fn client(environment: Environment, token: &str, hosts: &[&str], patience: Duration) -> Client {
    let servers = hosts.iter().map(|host| format!("http://{host}:{PORT}"));
    let mut config =
        ClientConfig::new(servers, testing::cluster(), Some(Token::new(token).expect("the token is a word")));
    config.timeout = patience;
    Client::over(environment, config, Arc::new(Sockets::new())).expect("the addresses are some")
}

/// HTTP over turmoil's sockets, with connections that are kept and used again.
#[derive(Debug)]
struct Sockets(hyper_util::client::legacy::Client<Connector, Full<Bytes>>);

impl Sockets {
    fn new() -> Self {
        let builder = &mut hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        Sockets(builder.pool_timer(TokioTimer::new()).build(Connector))
    }
}

#[async_trait]
impl Exchange for Sockets {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Chunks>, ExchangeError> {
        let response = self.0.request(request.map(Full::new)).await.map_err(|error| {
            if error.is_connect() { ExchangeError::unsent(error) } else { ExchangeError::broken(error) }
        })?;
        Ok(response
            .map(|body| -> Chunks { Box::pin(body.into_data_stream().map_err(ExchangeError::broken)) }))
    }
}

#[derive(Debug, Clone, Copy)]
struct Connector;

/// As long as the client that ships waits for a connection.
const CONNECT: Duration = Duration::from_secs(5);

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let connecting = TcpStream::connect((host, uri.port_u16().unwrap_or(PORT)));
            let stream = tokio::time::timeout(CONNECT, connecting)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(TokioIo::new(Stream(stream)))
        })
    }
}

/// A connection, of which the pool has nothing to know.
struct Stream(TcpStream);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
