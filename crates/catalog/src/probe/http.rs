//! An HTTP/1.1 GET that is answered with 2xx.

use steadfast_core::engine::EngineView;
use steadfast_core::model::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Access, ProtocolError};

/// Only the status line is of interest.
const LONGEST: u64 = 4096;

pub(super) async fn observe(access: &Access, path: &str) -> EngineView {
    match access.within(access.timeout, get(access, path)).await {
        Ok(status @ 200..=299) => {
            tracing::trace!(status, "healthy");
            EngineView { alive: true, ready: true, ..EngineView::default() }
        }
        Ok(status) => EngineView {
            alive: true,
            problem: Some((Reason::EngineUnhealthy, format!("GET {path} was answered with {status}"))),
            ..EngineView::default()
        },
        Err(ProtocolError::Unexpected(message)) => EngineView {
            alive: true,
            problem: Some((Reason::EngineUnhealthy, message)),
            ..EngineView::default()
        },
        Err(_) => EngineView::default(),
    }
}

async fn get(access: &Access, path: &str) -> Result<u16, ProtocolError> {
    let mut stream = TcpStream::connect(access.address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", access.address);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let line = String::from_utf8_lossy(&answer);
    let mut words = line.lines().next().unwrap_or_default().split(' ');
    match (words.next(), words.next().and_then(|status| status.parse().ok())) {
        (Some(version), Some(status)) if version.starts_with("HTTP/1.") => Ok(status),
        _ => Err(ProtocolError::Unexpected("the answer is not HTTP".to_owned())),
    }
}
