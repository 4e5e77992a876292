//! A small proxy of HTTP/1.1 that counts requests by operation, and befalls those that a test names.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Befall {
    /// Carried out, and the answer is lost: the connection ends.
    LoseAnswer,
    /// Not carried out: the connection ends.
    LoseRequest,
    /// Carried out, and told to have failed.
    FailAfter(u16, &'static str, &'static str),
    /// Not carried out, and answered with this status, code and message.
    Refuse(u16, &'static str, &'static str),
    /// Carried out twice, as by somebody on the way who repeats it; the second answer comes.
    Twice,
    /// Carried out when the test says so, by [`Door::release`]; the connection ends at once.
    Late,
}

/// The door. It is gone when the process is.
#[derive(Debug, Clone)]
pub struct Door {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What befalls the next requests of an operation; `None` lets one pass.
    plans: BTreeMap<String, VecDeque<Option<Befall>>>,
    counts: BTreeMap<String, u64>,
    late: Vec<Vec<u8>>,
}

impl Door {
    pub(super) fn open(to: SocketAddr) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = Door { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&door.state);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, state) = (connection.unwrap(), Arc::clone(&state));
                // A connection that ends is nobody's failure.
                std::thread::spawn(move || serve(connection, to, &state).ok());
            }
        });
        door
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets so many of the next requests of an operation pass, and befalls the one after them.
    pub fn befall(&self, operation: &str, after: usize, befall: Befall) {
        let mut state = self.state.lock().unwrap();
        let plan = state.plans.entry(operation.to_owned()).or_default();
        plan.extend(std::iter::repeat_n(None, after));
        plan.push_back(Some(befall));
    }

    /// How many requests there were, by operation.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.state.lock().unwrap().counts.clone()
    }

    /// Whether everything that was planned has befallen a request.
    pub fn is_done(&self) -> bool {
        self.state.lock().unwrap().plans.values().all(VecDeque::is_empty)
    }

    /// Carries out what was late, and tells how each was answered.
    pub fn release(&self, to: &super::Emulator) -> Vec<u16> {
        let late = std::mem::take(&mut self.state.lock().unwrap().late);
        let upstream = to.upstream();
        late.iter().map(|request| status(&forward(upstream, request).unwrap())).collect()
    }
}

fn serve(connection: TcpStream, to: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let mut answers = connection.try_clone()?;
    let mut requests = BufReader::new(connection);
    while let Some((head, body)) = message(&mut requests)? {
        let operation = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("x-amz-target:"))
            .and_then(|line| line.rsplit('.').next())
            .map_or_else(|| "?".to_owned(), |operation| operation.trim().to_owned());
        let befall = {
            let mut state = state.lock().unwrap();
            *state.counts.entry(operation.clone()).or_default() += 1;
            state.plans.get_mut(&operation).and_then(VecDeque::pop_front).flatten()
        };
        let request = [head.as_bytes(), &body].concat();
        match befall {
            None => answers.write_all(&forward(to, &request)?)?,
            Some(Befall::LoseAnswer) => return forward(to, &request).map(drop),
            Some(Befall::Twice) => {
                forward(to, &request)?;
                answers.write_all(&forward(to, &request)?)?;
            }
            Some(Befall::LoseRequest) => return Ok(()),
            Some(Befall::Late) => {
                state.lock().unwrap().late.push(request);
                return Ok(());
            }
            Some(Befall::FailAfter(status, code, text)) => {
                forward(to, &request)?;
                answers.write_all(&failure(status, code, text))?;
            }
            Some(Befall::Refuse(status, code, text)) => answers.write_all(&failure(status, code, text))?,
        }
    }
    Ok(())
}

/// A failure as DynamoDB tells it.
fn failure(status: u16, code: &str, text: &str) -> Vec<u8> {
    let body = format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"{text}"}}"#);
    format!(
        "HTTP/1.1 {status} Told\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The answer to one request, whole, on a connection of its own.
pub(super) fn forward(to: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(to)?;
    upstream.write_all(request)?;
    let mut answer = BufReader::new(upstream);
    let (head, body) = message(&mut answer)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok([head.as_bytes(), &body].concat())
}

fn status(answer: &[u8]) -> u16 {
    String::from_utf8_lossy(answer).split(' ').nth(1).unwrap().parse().unwrap()
}

/// One message with its head's end; none at the end of the connection. Both sides tell the length of what they send.
fn message(from: &mut BufReader<TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let begin = head.len();
        if from.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        let line = head[begin..].trim().to_ascii_lowercase();
        assert!(!line.starts_with("transfer-encoding:"), "a message without a length");
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some((head, body)))
}
