//! The watch: server-sent events, taken up again where they broke off.

use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_core::{Effect, Environment};

use super::{Chunks, Client, ClientError, ClientResult};
use crate::control::WatchEvent;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One event, as it was sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    id: Option<String>,
    event: String,
    data: String,
}

impl Frame {
    /// The lines of one event. Comments and fields of no use here are passed over.
    fn parse(text: &str) -> Self {
        let mut frame = Frame::default();
        for line in text.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => frame.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut frame.event),
                "data" => {
                    if !frame.data.is_empty() {
                        frame.data.push('\n');
                    }
                    frame.data.push_str(value);
                }
                _ => {}
            }
        }
        frame
    }

    /// The hint it carries. One that is not understood counts as "read everything again": nothing gets lost.
    fn hint(&self) -> Option<WatchEvent> {
        match self.event.as_str() {
            "" | "ready" => None,
            "changed" => Some(serde_json::from_str(&self.data).unwrap_or(WatchEvent::Reset)),
            _ => Some(WatchEvent::Reset),
        }
    }
}

/// An open connection.
struct Connection {
    chunks: Chunks,
    rest: BytesMut,
    silence: Duration,
    environment: Environment,
}

impl Connection {
    async fn open(client: &Client, seen: Option<&str>) -> ClientResult<Self> {
        let mut call = client.get("watch");
        if let Some(seen) = seen {
            call = call.header("last-event-id", seen)?;
        }
        let response = client.transport.stream(call, client.timeout).await?;
        Ok(Connection {
            chunks: response.into_body(),
            rest: BytesMut::new(),
            silence: client.transport.silence,
            environment: client.transport.environment().clone(),
        })
    }

    /// The next event; none once the connection is broken, or silent for longer than heartbeats allow.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
                let text = self.rest.split_to(end + 2);
                return Some(Frame::parse(&String::from_utf8_lossy(&text)));
            }
            let chunk = self.environment.timeout(self.silence, self.chunks.next()).await??.ok()?;
            self.rest.extend_from_slice(&chunk);
        }
    }
}

/// Where a watch stands.
struct Watch {
    client: Client,
    connection: Connection,
    seen: Option<String>,
}

pub(super) async fn watch(client: Client) -> ClientResult<BoxStream<'static, WatchEvent>> {
    let mut connection = Connection::open(&client, None).await?;
    // The first event says that every change from now on is hinted at. A server that cannot hint yet beats until then.
    let opening = async {
        loop {
            match connection.next().await {
                Some(frame) if frame.event.is_empty() => {}
                first => return first,
            }
        }
    };
    let first = client.transport.environment().timeout(client.timeout, opening).await.flatten();
    let Some(first) = first else {
        return Err(ClientError::Answer {
            server: client.server().to_owned(),
            effect: Effect::None,
            message: "the watch ended before it began".to_owned(),
        });
    };
    let watch = Watch { client, connection, seen: first.id };
    Ok(stream::unfold(watch, |mut watch| async move {
        loop {
            match watch.connection.next().await {
                Some(frame) => {
                    let hint = frame.hint();
                    watch.seen = frame.id.or(watch.seen);
                    if let Some(hint) = hint {
                        return Some((hint, watch));
                    }
                }
                None => watch.take_up().await,
            }
        }
    })
    .boxed())
}

impl Watch {
    /// Connects again, however long that takes. The server resets whoever comes back with what it has forgotten,
    /// or what another server has counted.
    async fn take_up(&mut self) {
        let environment = self.client.transport.environment().clone();
        let mut pause = FIRST_PAUSE;
        loop {
            // Even a server that accepts and ends at once must not be asked without a pause.
            environment.clock().sleep(pause).await;
            match Connection::open(&self.client, self.seen.as_deref()).await {
                Ok(connection) => {
                    self.connection = connection;
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "the watch cannot be taken up yet");
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_sent() {
        let frame = Frame::parse(
            "id: e-7\nevent: changed\ndata: {\"event\":\"changed\",\"kind\":\"node\",\"name\":\"n\"}\n",
        );
        assert_eq!(frame.id.as_deref(), Some("e-7"));
        assert_eq!(frame.hint(), Some(WatchEvent::Changed { kind: "node".to_owned(), name: "n".to_owned() }));
        assert_eq!(Frame::parse(": \n").hint(), None);
        assert_eq!(Frame::parse("event: reset\ndata: {}\n").hint(), Some(WatchEvent::Reset));
    }

    #[test]
    fn an_event_of_a_newer_server_resets() {
        assert_eq!(Frame::parse("event: moved\ndata: {}\n").hint(), Some(WatchEvent::Reset));
        assert_eq!(Frame::parse("event: changed\ndata: {]\n").hint(), Some(WatchEvent::Reset));
    }
}
