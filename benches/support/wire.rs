//! The least client that HTTP allows: one connection that is kept, one request at a time, and of the answer the status
//! and the whole body, which it doesn't decode. It takes hardly any of the time that it measures.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// A connection to a server, for one caller.
pub(crate) struct Wire {
    stream: TcpStream,
    host: String,
    token: String,
    /// What was read last. Longer than that: it only grows.
    answer: Vec<u8>,
}

impl Wire {
    /// Connects to the server at `http://HOST:PORT`.
    pub(crate) fn connect(url: &str, token: &str) -> Self {
        let host = url.strip_prefix("http://").expect("a plain address").to_owned();
        let stream = TcpStream::connect(&host).expect("the server listens");
        stream.set_nodelay(true).expect("a socket takes it");
        Wire { stream, host, token: token.to_owned(), answer: vec![0; 64 << 10] }
    }

    /// The body of the answer to a GET, which has to be a 200.
    pub(crate) fn get(&mut self, path: &str) -> &[u8] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\naccept: */*\r\n\r\n",
            self.host, self.token
        );
        self.stream.write_all(request.as_bytes()).expect("the server reads");
        let mut read = 0;
        let body = loop {
            read += self.read(read);
            if let Some(end) = self.answer[..read].windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&self.answer[..body]).expect("a head is text");
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|text| text.parse().ok()).expect("the server tells the length");
        let end = body + length;
        self.answer.resize(self.answer.len().max(end), 0);
        while read < end {
            read += self.read(read);
        }
        &self.answer[body..end]
    }

    fn read(&mut self, from: usize) -> usize {
        let read = self.stream.read(&mut self.answer[from..]).expect("the server answers");
        assert_ne!(read, 0, "the server ended the connection, or its head is too long");
        read
    }
}

/// Where a server listens that answers whatever a [`Wire`] asks with `size` bytes, without a look at the request. It
/// takes one connection, and ends with it.
pub(crate) fn nothing_served(size: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        stream.set_nodelay(true).expect("a socket takes it");
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + size, b'x');
        let mut request = [0; 4096];
        // A request is one segment: the client writes it at once, and less than that.
        while stream.read(&mut request).is_ok_and(|read| read > 0) {
            stream.write_all(&answer).expect("the client reads");
        }
    });
    format!("http://{address}")
}
