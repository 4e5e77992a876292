//! Questions and answers with the server, over TCP, each signed and verified.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::Message;

use hickory_proto::rr::{RData, Record, TSigVerifier};
use steadfast_core::Environment;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::TsigKey;
use crate::failure::Failure;

/// How long connecting, and each answer, may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A server that is asked.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) environment: Environment,
    pub(crate) address: SocketAddr,
    pub(crate) key: TsigKey,
}

impl Server {
    /// A message's number, which its answer repeats.
    pub(crate) fn id(&self) -> u16 {
        let [a, b, ..] = self.environment.entropy().bytes();
        u16::from_be_bytes([a, b])
    }

    /// Connects. Fails without effect.
    pub(crate) async fn connect(&self) -> Result<Connection<'_>, Failure> {
        let connecting = self.environment.timeout(LIMIT, TcpStream::connect(self.address)).await;
        let stream = match connecting {
            None => return Err(Failure::silence(LIMIT).before()),
            Some(stream) => stream.map_err(|error| Failure::network(&error).before())?,
        };
        Ok(Connection { server: self, stream })
    }
}

/// A connection with the server.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    server: &'a Server,
    stream: TcpStream,
}

impl Connection<'_> {
    /// Asks, and gives the one answer.
    pub(crate) async fn ask(&mut self, message: Message) -> Result<Message, Failure> {
        let mut asked = self.send(message).await?;
        self.receive(&mut asked).await
    }

    /// Asks for a whole zone, and gives every record between the two that begin and end it (RFC 5936 §2.2).
    pub(crate) async fn transfer(&mut self, message: Message) -> Result<Vec<Record>, Failure> {
        let mut asked = self.send(message).await?;
        let mut records: Vec<Record> = Vec::new();
        loop {
            let answer = self.receive(&mut asked).await?;
            if answer.answers.is_empty() {
                return Err(Failure::not_an_answer("a part of the zone that holds nothing"));
            }
            records.extend(answer.answers);
            let is_border =
                |record: Option<&Record>| matches!(record.map(|record| &record.data), Some(RData::SOA(_)));
            if !is_border(records.first()) {
                return Err(Failure::not_an_answer("a zone that begins with no SOA"));
            }
            if records.len() > 1 && is_border(records.last()) {
                return Ok(records);
            }
        }
    }

    async fn send(&mut self, mut message: Message) -> Result<Asked, Failure> {
        let now = self.server.environment.clock().wall().as_second();
        let now = u64::try_from(now).map_err(|_| Failure::request("the clock is before 1970"))?;
        let verifier = message.finalize(self.server.key.signer(), now).map_err(Failure::request)?;
        let verifier = verifier.ok_or_else(|| Failure::request("its answer could not be verified"))?;
        let bytes = message.to_vec().map_err(Failure::request)?;
        let length = u16::try_from(bytes.len()).map_err(|_| Failure::request("it is over 65,535 bytes"))?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(bytes);
        let sent = self.server.environment.timeout(LIMIT, self.stream.write_all(&framed)).await;
        sent.ok_or_else(|| Failure::silence(LIMIT))?.map_err(|error| Failure::network(&error))?;
        Ok(Asked { id: message.metadata.id, verifier })
    }

    /// The next answer to what was asked: success, or a prerequisite that does not hold.
    async fn receive(&mut self, asked: &mut Asked) -> Result<Message, Failure> {
        let read = async {
            let mut bytes = vec![0; usize::from(self.stream.read_u16().await?)];
            self.stream.read_exact(&mut bytes).await?;
            Ok(bytes)
        };
        let bytes = self.server.environment.timeout(LIMIT, read).await;
        let bytes =
            bytes.ok_or_else(|| Failure::silence(LIMIT))?.map_err(|error| Failure::network(&error))?;
        let verified = asked.verifier.verify(&bytes);
        let signed = verified.is_ok();
        // What cannot be verified is read for what it complains of, and for nothing else.
        let (answer, complaint) = match verified {
            Ok(answer) => (answer.into_message(), None),
            Err(error) => (Message::from_vec(&bytes).map_err(Failure::not_an_answer)?, Some(error)),
        };
        if answer.metadata.id != asked.id {
            return Err(Failure::not_an_answer("it answers another question"));
        }
        let code = answer.metadata.response_code;
        let well = code == hickory_proto::op::ResponseCode::NoError || crate::message::is_unexpected(code);
        match complaint {
            None if well => Ok(answer),
            Some(error) if well => Err(Failure::not_an_answer(error)),
            None | Some(_) => Err(Failure::of(&answer, signed)),
        }
    }
}

/// What is waiting for an answer.
struct Asked {
    id: u16,
    verifier: TSigVerifier,
}
