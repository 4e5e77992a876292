//! What carries a request to a server: HTTP over sockets, or whatever stands in for it.

use std::error::Error;
use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use axum::http::{Request, Response};
use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;

/// The body of an answer, as it comes.
pub type Chunks = BoxStream<'static, Result<Bytes, ExchangeError>>;

/// Carries requests to servers. What a client does about failures, time and several servers is above it.
#[async_trait]
pub trait Exchange: Debug + Send + Sync + 'static {
    /// Sends a request, whose address is absolute, and returns with the head of the answer, whatever its status.
    ///
    /// # Behavior
    /// - Waits for an answer as long as it takes: the caller has a bound. To find nobody there has one of its own, since
    ///   another server may be.
    /// - Sends once: a request that may have been read is not sent again.
    /// - Dropping the future gives up; what was sent may still happen.
    ///
    /// # Errors
    /// If there is no answer. Only [`ExchangeError::unsent`] says that nobody can have read the request.
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Chunks>, ExchangeError>;
}

/// Why there is no answer, or no more of it. Reads as what caused it.
#[derive(Debug, Clone)]
pub struct ExchangeError {
    sent: bool,
    cause: Arc<dyn Error + Send + Sync>,
}

impl ExchangeError {
    /// Nobody can have read the request.
    pub fn unsent(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        ExchangeError { sent: false, cause: Arc::from(cause.into()) }
    }

    /// The request was sent, or may have been.
    pub fn broken(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        ExchangeError { sent: true, cause: Arc::from(cause.into()) }
    }

    /// Whether somebody may have read the request.
    pub fn may_be_sent(&self) -> bool {
        self.sent
    }

    /// What happened, from the outside to the root.
    pub(super) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl Error for ExchangeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

/// HTTP over sockets.
#[derive(Debug)]
pub(super) struct Sockets(pub(super) reqwest::Client);

#[async_trait]
impl Exchange for Sockets {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Chunks>, ExchangeError> {
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let mut answer = self.0.execute(request).await.map_err(failed)?;
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        let chunks: Chunks = Box::pin(answer.bytes_stream().map_err(failed));
        let mut response = Response::new(chunks);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

fn failed(error: reqwest::Error) -> ExchangeError {
    let unsent = error.is_connect() || error.is_builder();
    // The address is no part of the message: the server is named already, and a query may be long.
    let error = error.without_url();
    if unsent { ExchangeError::unsent(error) } else { ExchangeError::broken(error) }
}
