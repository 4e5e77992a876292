//! ZooKeeper: `create` of one node each, in the protocol as it is (jute, big-endian, length first).

use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::session::{PATIENCE, Session};

/// A connection to any voter.
#[derive(Debug)]
pub(super) struct ZookeeperSession {
    stream: TcpStream,
    xid: i32,
}

const FOLDER: &str = "/steadfast-demo";
const CREATE: i32 = 1;
const GET_CHILDREN: i32 = 8;
const NODE_EXISTS: i32 = -110;
/// Longer answers than this are not ours.
const LONGEST: usize = 64 << 20;

impl ZookeeperSession {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, String> {
        let connect = async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|error| format!("connect to {address}: {error}"))?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let mut session = ZookeeperSession { stream, xid: 0 };
            let mut hello = Vec::new();
            put_int(&mut hello, 0);
            hello.extend_from_slice(&0_i64.to_be_bytes());
            put_int(&mut hello, 10_000);
            hello.extend_from_slice(&0_i64.to_be_bytes());
            put_int(&mut hello, 16);
            hello.extend_from_slice(&[0; 16]);
            hello.push(0);
            session.send(&hello).await?;
            session.receive().await?;
            match session.call(CREATE, &create_body(FOLDER)).await? {
                (0 | NODE_EXISTS, _) => Ok(session),
                (code, _) => Err(format!("create {FOLDER}: code {code}")),
            }
        };
        tokio::time::timeout(PATIENCE, connect)
            .await
            .unwrap_or_else(|_| Err(format!("{address} does not answer")))
    }

    async fn call(&mut self, kind: i32, body: &[u8]) -> Result<(i32, Vec<u8>), String> {
        self.xid += 1;
        let mut request = Vec::new();
        put_int(&mut request, self.xid);
        put_int(&mut request, kind);
        request.extend_from_slice(body);
        self.send(&request).await?;
        let answer = self.receive().await?;
        // xid, zxid, code.
        let xid = int_at(&answer, 0)?;
        if xid != self.xid {
            return Err(format!("answer {xid} to question {}", self.xid));
        }
        Ok((int_at(&answer, 12)?, answer.get(16..).unwrap_or_default().to_vec()))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut framed = Vec::new();
        put_int(&mut framed, i32::try_from(bytes.len()).map_err(|error| error.to_string())?);
        framed.extend_from_slice(bytes);
        self.stream.write_all(&framed).await.map_err(|error| error.to_string())
    }

    async fn receive(&mut self) -> Result<Vec<u8>, String> {
        let length = self.stream.read_i32().await.map_err(|error| error.to_string())?;
        let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST);
        let mut bytes = vec![0; length.ok_or("an answer of no length that can be")?];
        self.stream.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

#[async_trait]
impl Session for ZookeeperSession {
    async fn write(&mut self, number: u64) -> Result<(), String> {
        let body = create_body(&format!("{FOLDER}/{number}"));
        match tokio::time::timeout(PATIENCE, self.call(CREATE, &body)).await {
            Ok(Ok((0, _))) => Ok(()),
            Ok(Ok((code, _))) => Err(format!("create: code {code}")),
            Ok(Err(error)) => Err(format!("create: {error}")),
            Err(_) => Err(format!("create: no answer within {PATIENCE:?}")),
        }
    }

    async fn read_all(&mut self) -> Result<Vec<u64>, String> {
        let mut body = Vec::new();
        put_text(&mut body, FOLDER);
        body.push(0);
        let (code, answer) = self.call(GET_CHILDREN, &body).await?;
        if code != 0 {
            return Err(format!("getChildren: code {code}"));
        }
        let mut at = 4;
        let mut found = Vec::new();
        for _ in 0..int_at(&answer, 0)? {
            let length = usize::try_from(int_at(&answer, at)?).map_err(|error| error.to_string())?;
            let name = answer.get(at + 4..at + 4 + length).ok_or("an answer that is cut off")?;
            found.push(String::from_utf8_lossy(name).parse().map_err(|_| "a child that is no number")?);
            at += 4 + length;
        }
        Ok(found)
    }
}

/// Path, no data, everything allowed to anybody, lasting.
fn create_body(path: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, path);
    put_int(&mut body, 0);
    put_int(&mut body, 1);
    put_int(&mut body, 31);
    put_text(&mut body, "world");
    put_text(&mut body, "anyone");
    put_int(&mut body, 0);
    body
}

fn put_int(bytes: &mut Vec<u8>, number: i32) {
    bytes.extend_from_slice(&number.to_be_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    // Texts here are short.
    put_int(bytes, i32::try_from(text.len()).unwrap_or(i32::MAX));
    bytes.extend_from_slice(text.as_bytes());
}

fn int_at(bytes: &[u8], at: usize) -> Result<i32, String> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(i32::from_be_bytes).ok_or_else(|| "an answer that is cut off".to_owned())
}
