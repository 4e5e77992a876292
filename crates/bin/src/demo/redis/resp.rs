//! A Redis client as small as it can be: one connection, one command at a time, the protocol as it is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// `+OK` and the like.
    Status(String),
    /// A number.
    Number(i64),
    /// A value; none if there is none.
    Bulk(Option<Vec<u8>>),
    /// Several answers in one.
    Array(Vec<Reply>),
    /// An error of the server.
    Error(String),
}

/// A connection. After any error it is of no more use: the next answer may belong to the last question.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    patience: Duration,
}

/// Longer values than this are not ours.
const LONGEST: usize = 64 << 20;
/// Answers are not nested deeper than this.
const DEEPEST: u32 = 4;

impl Connection {
    /// Connects and, with a password, authenticates.
    pub(super) async fn open(
        address: SocketAddr,
        password: Option<&str>,
        patience: Duration,
    ) -> Result<Connection, String> {
        let stream = tokio::time::timeout(patience, TcpStream::connect(address))
            .await
            .map_err(|_| format!("{address} does not answer"))?
            .map_err(|error| format!("connect to {address}: {error}"))?;
        // Small commands one at a time: waiting to fill a packet only costs.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut connection = Connection { stream: BufReader::new(stream), patience };
        if let Some(password) = password {
            match connection.call(&["AUTH", password]).await? {
                Reply::Status(_) => {}
                other => return Err(format!("{address} refuses to authenticate: {other:?}")),
            }
        }
        Ok(connection)
    }

    /// One command and its answer.
    pub(super) async fn call(&mut self, command: &[&str]) -> Result<Reply, String> {
        let mut request = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            request.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
        }
        let name = command.first().copied().unwrap_or_default();
        tokio::time::timeout(self.patience, self.exchange(&request))
            .await
            .map_err(|_| format!("{name}: no answer within {:?}", self.patience))?
            .map_err(|error| format!("{name}: {error}"))
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Reply, String> {
        self.stream.write_all(request).await.map_err(|error| error.to_string())?;
        self.reply(0).await
    }

    async fn reply(&mut self, depth: u32) -> Result<Reply, String> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).ok_or("an empty line for an answer")?;
        let length = || rest.parse::<usize>().map_err(|_| format!("{rest:?} is not a length"));
        match kind {
            "+" => Ok(Reply::Status(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => rest.parse().map(Reply::Number).map_err(|_| format!("{rest:?} is not a number")),
            "$" if rest == "-1" => Ok(Reply::Bulk(None)),
            "$" => {
                let length = length()?;
                if length > LONGEST {
                    return Err(format!("a value of {length} bytes"));
                }
                let mut value = vec![0; length + 2];
                self.stream.read_exact(&mut value).await.map_err(|error| error.to_string())?;
                value.truncate(length);
                Ok(Reply::Bulk(Some(value)))
            }
            "*" if depth < DEEPEST => {
                let mut parts = Vec::new();
                for _ in 0..length()? {
                    parts.push(Box::pin(self.reply(depth + 1)).await?);
                }
                Ok(Reply::Array(parts))
            }
            _ => Err(format!("{line:?} is not an answer")),
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("the server closed the connection".to_owned());
        }
        Ok(line.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn answers_of_every_kind_are_told_apart() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(
                    b"+OK\r\n:3\r\n*2\r\n$1\r\n0\r\n*1\r\n:7\r\n$5\r\na\r\nbc\r\n$-1\r\n-READONLY no\r\n",
                )
                .await
                .unwrap();
            let mut seen = String::new();
            BufReader::new(stream).read_line(&mut seen).await.unwrap();
            seen
        });
        let mut connection = Connection::open(address, None, Duration::from_secs(30)).await.unwrap();
        assert_eq!(connection.call(&["SET", "k", "v"]).await.unwrap(), Reply::Status("OK".to_owned()));
        assert_eq!(server.await.unwrap(), "*3\r\n");
        assert_eq!(connection.exchange(b"").await.unwrap(), Reply::Number(3));
        let nested =
            Reply::Array(vec![Reply::Bulk(Some(b"0".to_vec())), Reply::Array(vec![Reply::Number(7)])]);
        assert_eq!(connection.exchange(b"").await.unwrap(), nested);
        assert_eq!(connection.exchange(b"").await.unwrap(), Reply::Bulk(Some(b"a\r\nbc".to_vec())));
        assert_eq!(connection.exchange(b"").await.unwrap(), Reply::Bulk(None));
        assert_eq!(connection.exchange(b"").await.unwrap(), Reply::Error("READONLY no".to_owned()));
        assert!(connection.exchange(b"").await.is_err());
    }
}
