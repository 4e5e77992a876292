//! Redis, in its protocol as it is.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::engine::{Engine, PATIENCE, Session};

pub const REDIS: Engine = Engine {
    blueprint: "redis",
    port: 6379,
    program: "redis-server",
    led_by_us: true,
    precious: "redis/appendonlydir",
    open: |address, env| {
        let session = Redis::open(address, env.get("REDISCLI_AUTH").map(String::as_str))?;
        Ok(Box::new(session))
    },
};

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Number(i64),
    Nothing,
    Many(Vec<Reply>),
    Error(String),
}

/// A connection.
#[derive(Debug)]
pub struct Redis(BufReader<TcpStream>);

impl Redis {
    pub fn open(address: SocketAddr, password: Option<&str>) -> Result<Redis, String> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .map_err(|error| format!("connect to {address}: {error}"))?;
        for set in [stream.set_read_timeout(Some(PATIENCE)), stream.set_nodelay(true)] {
            set.map_err(|error| error.to_string())?;
        }
        let mut redis = Redis(BufReader::new(stream));
        if let Some(password) = password {
            match redis.call(&["AUTH", password])? {
                Reply::Text(_) => {}
                other => return Err(format!("AUTH: {other:?}")),
            }
        }
        Ok(redis)
    }

    /// One command and its answer.
    pub fn call(&mut self, command: &[&str]) -> Result<Reply, String> {
        self.0.get_mut().write_all(&encode(command)).map_err(|error| error.to_string())?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply, String> {
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(|error| error.to_string())?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or("the server closed the connection")?;
        let number = || rest.parse::<i64>().map_err(|_| format!("{line:?} is no answer"));
        Ok(match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Number(number()?),
            "$" => {
                let Ok(length) = usize::try_from(number()?) else { return Ok(Reply::Nothing) };
                let mut value = vec![0; length + 2];
                self.0.read_exact(&mut value).map_err(|error| error.to_string())?;
                value.truncate(length);
                Reply::Text(String::from_utf8_lossy(&value).into_owned())
            }
            "*" => Reply::Many((0..number()?).map(|_| self.reply()).collect::<Result<_, _>>()?),
            _ => return Err(format!("{line:?} is no answer")),
        })
    }
}

/// A command as it goes over the wire, and as it lies in an append-only file.
pub fn encode(command: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for part in command {
        bytes.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
    }
    bytes
}

impl Session for Redis {
    fn write(&mut self, number: u64) -> Result<(), String> {
        match self.call(&["SADD", "numbers", &number.to_string()])? {
            Reply::Number(_) => Ok(()),
            other => Err(format!("SADD: {other:?}")),
        }
    }

    fn read_all(&mut self) -> Result<Vec<u64>, String> {
        match self.call(&["SMEMBERS", "numbers"])? {
            Reply::Many(found) => found
                .iter()
                .map(|number| match number {
                    Reply::Text(text) => text.parse().map_err(|_| format!("{text:?} is no number")),
                    other => Err(format!("SMEMBERS: {other:?}")),
                })
                .collect(),
            other => Err(format!("SMEMBERS: {other:?}")),
        }
    }
}
