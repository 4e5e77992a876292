//! A small client of the PostgreSQL protocol: simple queries, SCRAM, and connections to the replication side, on
//! which alone a standby tells the timeline it is on.

use bytes::{BufMut, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Access, ProtocolError};

/// The longest answer that is read: a timeline history is the longest we ask for.
const LONGEST: usize = 16 << 20;

/// A row, as texts.
pub(crate) type Row = Vec<Option<String>>;

/// A connection with the user logged in.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: BytesMut,
}

/// What kind of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// SQL.
    Plain,
    /// SQL and the commands of replication.
    Replication,
}

impl Client {
    pub(crate) async fn connect(access: &Access, database: &str, side: Side) -> Result<Self, ProtocolError> {
        let stream = TcpStream::connect(access.address).await?;
        stream.set_nodelay(true)?;
        let mut client = Client { stream, buffer: BytesMut::new() };
        let mut parameters = vec![
            ("user", access.user.as_str()),
            ("database", database),
            ("client_encoding", "UTF8"),
            ("application_name", "steadfast"),
            // What must not wait for standbys that are not there.
            ("options", "-c synchronous_commit=local"),
        ];
        if side == Side::Replication {
            parameters.push(("replication", "database"));
        }
        let mut request = BytesMut::new();
        frontend::startup_message(parameters, &mut request)?;
        client.stream.write_all(&request).await?;
        client.log_in(access).await?;
        loop {
            match client.message().await? {
                Message::ReadyForQuery(_) => return Ok(client),
                Message::ErrorResponse(body) => return Err(refusal(&body)),
                _ => {}
            }
        }
    }

    /// Runs SQL (or a replication command) and gives the rows of all its statements.
    pub(crate) async fn query(&mut self, text: &str) -> Result<Vec<Row>, ProtocolError> {
        let mut request = BytesMut::new();
        frontend::query(text, &mut request)?;
        self.stream.write_all(&request).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.message().await? {
                Message::DataRow(body) => {
                    let buffer = body.buffer();
                    let mut row = Vec::new();
                    let mut ranges = body.ranges();
                    while let Some(range) = ranges.next()? {
                        row.push(range.map(|range| String::from_utf8_lossy(&buffer[range]).into_owned()));
                    }
                    rows.push(row);
                }
                Message::ErrorResponse(body) => failure = Some(refusal(&body)),
                Message::ReadyForQuery(_) => break,
                Message::CopyInResponse(_) | Message::CopyOutResponse(_) => {
                    return Err(ProtocolError::Unexpected("COPY is not spoken here".to_owned()));
                }
                _ => {}
            }
        }
        failure.map_or(Ok(rows), Err)
    }

    async fn log_in(&mut self, access: &Access) -> Result<(), ProtocolError> {
        let mut request = BytesMut::new();
        let mut scram = None;
        loop {
            request.clear();
            match self.message().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationSasl(body) => {
                    let mut mechanisms = body.mechanisms();
                    let mut offered = false;
                    while let Some(mechanism) = mechanisms.next()? {
                        offered |= mechanism == SCRAM_SHA_256;
                    }
                    if !offered {
                        return Err(ProtocolError::Unexpected("SCRAM-SHA-256 is not offered".to_owned()));
                    }
                    let exchange =
                        ScramSha256::new(access.password.as_bytes(), ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), &mut request)?;
                    scram = Some(exchange);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let exchange = scram.as_mut().ok_or_else(out_of_turn)?;
                    exchange.update(body.data())?;
                    frontend::sasl_response(exchange.message(), &mut request)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    scram.as_mut().ok_or_else(out_of_turn)?.finish(body.data())?;
                }
                Message::ErrorResponse(body) => return Err(refusal(&body)),
                _ => {
                    return Err(ProtocolError::Unexpected(
                        "it asks for a login other than SCRAM-SHA-256".to_owned(),
                    ));
                }
            }
            if !request.is_empty() {
                self.stream.write_all(&request).await?;
            }
        }
    }

    async fn message(&mut self) -> Result<Message, ProtocolError> {
        loop {
            if let Some(message) = Message::parse(&mut self.buffer)? {
                return Ok(message);
            }
            if self.buffer.len() > LONGEST {
                return Err(ProtocolError::Unexpected("the answer is too long".to_owned()));
            }
            let mut part = (&mut self.buffer).limit(64 << 10);
            if self.stream.read_buf(&mut part).await? == 0 {
                return Err(ProtocolError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

fn out_of_turn() -> ProtocolError {
    ProtocolError::Unexpected("the login is out of turn".to_owned())
}

fn refusal(body: &ErrorResponseBody) -> ProtocolError {
    let (mut code, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text(),
            b'M' => message = text(),
            _ => {}
        }
    }
    ProtocolError::Refused { code, message }
}
