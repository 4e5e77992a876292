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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steadfast_core::Environment;
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(answer: &'static str) -> EngineView {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let access = Access {
            environment: Environment::system([1; 32]),
            address: listener.local_addr().unwrap(),
            user: String::new(),
            password: String::new(),
            timeout: Duration::from_secs(10),
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(observe(&access, "/health"), serve).0
    }

    #[tokio::test]
    async fn the_status_decides() {
        let view = answered("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(view.alive && view.ready, "{view:?}");
        for bad in ["HTTP/1.1 503 Busy\r\n\r\n", "+PONG\r\n", "\u{0}"] {
            let view = answered(bad).await;
            assert!(view.alive && !view.ready && view.problem.is_some(), "{bad}: {view:?}");
        }
    }
}
