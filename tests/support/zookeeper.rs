//! ZooKeeper, in its protocol as it is: jute, big-endian, the length first.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::engine::{Engine, PATIENCE, Session};

pub const ZOOKEEPER: Engine = Engine {
    blueprint: "zookeeper",
    port: 2181,
    program: "QuorumPeerMain",
    led_by_us: false,
    precious: "zookeeper/version-2",
    open: |address, _| Ok(Box::new(Zookeeper::open(address)?)),
};

const FOLDER: &str = "/numbers";
const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const SYNC: i32 = 9;
const NODE_EXISTS: i32 = -110;

/// A session with one voter.
#[derive(Debug)]
pub struct Zookeeper {
    stream: TcpStream,
    calls: i32,
    /// The number of the voter that made the session.
    pub voter: u8,
}

impl Zookeeper {
    pub fn open(address: SocketAddr) -> Result<Zookeeper, String> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .map_err(|error| format!("connect to {address}: {error}"))?;
        for set in [stream.set_read_timeout(Some(PATIENCE)), stream.set_nodelay(true)] {
            set.map_err(|error| error.to_string())?;
        }
        let mut session = Zookeeper { stream, calls: 0, voter: 0 };
        let mut hello = Vec::new();
        put_int(&mut hello, 0);
        hello.extend_from_slice(&0_i64.to_be_bytes());
        put_int(&mut hello, 10_000);
        hello.extend_from_slice(&0_i64.to_be_bytes());
        put_int(&mut hello, 16);
        hello.extend_from_slice(&[0; 16]);
        hello.push(0);
        session.send(&hello)?;
        // The version, the timeout, the session's number, which begins with that of the voter.
        session.voter = *session.receive()?.get(8).ok_or("an answer that is cut off")?;
        match session.call(CREATE, &create(FOLDER))? {
            (0 | NODE_EXISTS, _) => Ok(session),
            (code, _) => Err(format!("create {FOLDER}: code {code}")),
        }
    }

    /// What a node of the tree holds.
    pub fn read(&mut self, path: &str) -> Result<String, String> {
        let mut body = Vec::new();
        put_text(&mut body, path);
        body.push(0);
        let (code, answer) = self.call(GET_DATA, &body)?;
        if code != 0 {
            return Err(format!("getData {path}: code {code}"));
        }
        let length = usize::try_from(int_at(&answer, 0)?).map_err(|error| error.to_string())?;
        let data = answer.get(4..4 + length).ok_or("an answer that is cut off")?;
        Ok(String::from_utf8_lossy(data).into_owned())
    }

    fn call(&mut self, kind: i32, body: &[u8]) -> Result<(i32, Vec<u8>), String> {
        self.calls += 1;
        let mut request = Vec::new();
        put_int(&mut request, self.calls);
        put_int(&mut request, kind);
        request.extend_from_slice(body);
        self.send(&request)?;
        let answer = self.receive()?;
        // The number of the call, the transaction, the code.
        match int_at(&answer, 0)? {
            number if number == self.calls => {
                Ok((int_at(&answer, 12)?, answer.get(16..).unwrap_or_default().to_vec()))
            }
            number => Err(format!("answer {number} to question {}", self.calls)),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut framed = Vec::new();
        put_int(&mut framed, i32::try_from(bytes.len()).expect("requests are short"));
        framed.extend_from_slice(bytes);
        self.stream.write_all(&framed).map_err(|error| error.to_string())
    }

    fn receive(&mut self) -> Result<Vec<u8>, String> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|error| error.to_string())?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(|error| error.to_string())?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

impl Session for Zookeeper {
    fn write(&mut self, number: u64) -> Result<(), String> {
        match self.call(CREATE, &create(&format!("{FOLDER}/{number}")))? {
            (0, _) => Ok(()),
            (code, _) => Err(format!("create: code {code}")),
        }
    }

    fn read_all(&mut self) -> Result<Vec<u64>, String> {
        let mut folder = Vec::new();
        put_text(&mut folder, FOLDER);
        // A follower may be behind: it catches up with what was acknowledged first.
        match self.call(SYNC, &folder)? {
            (0, _) => {}
            (code, _) => return Err(format!("sync: code {code}")),
        }
        folder.push(0);
        let (code, answer) = self.call(GET_CHILDREN, &folder)?;
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
fn create(path: &str) -> Vec<u8> {
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
    put_int(bytes, i32::try_from(text.len()).expect("texts are short"));
    bytes.extend_from_slice(text.as_bytes());
}

fn int_at(bytes: &[u8], at: usize) -> Result<i32, String> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(i32::from_be_bytes).ok_or_else(|| "an answer that is cut off".to_owned())
}
