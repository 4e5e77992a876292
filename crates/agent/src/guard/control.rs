//! The guard's control socket: lines of JSON, from processes of the same user.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::{GuardStatus, Request};

const MOST_CLIENTS: usize = 16;
const LONGEST_LINE: usize = 4096;

/// Listens, and keeps the connections.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) listener: UnixListener,
    pub(super) clients: Vec<Client>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: UnixStream,
    unread: Vec<u8>,
    closed: bool,
}

impl Control {
    /// Listens at `path`. Whatever was there is gone: the caller holds the lock that makes it the only guard.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        super::remove_if_there(path)?;
        let (folder, short) = short_path(path)?;
        let listener = UnixListener::bind(short)?;
        drop(folder);
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Control { listener, clients: Vec::new() })
    }

    /// Takes in who has called.
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            // One too many is turned away: agents ask one thing at a time.
            if self.clients.len() < MOST_CLIENTS && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, unread: Vec::new(), closed: false });
            }
        }
    }

    /// The complete requests that have come in, with the client that asked.
    pub(super) fn requests(&mut self) -> Vec<(usize, Request)> {
        let mut found = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            client.read();
            while let Some(line) = client.line() {
                match serde_json::from_slice(&line) {
                    Ok(request) => found.push((index, request)),
                    // Who does not speak our language is left alone.
                    Err(_) => client.closed = true,
                }
            }
        }
        found
    }

    /// Answers a client.
    pub(super) fn answer(&mut self, index: usize, status: &GuardStatus) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let written = serde_json::to_vec(status).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            // An answer fits into any socket's buffer: one that does not belongs to a client that never reads.
            client.stream.write_all(&line)
        });
        client.closed |= written.is_err();
    }

    /// Forgets those who have hung up.
    pub(super) fn forget_closed(&mut self) {
        self.clients.retain(|client| !client.closed);
    }
}

impl Client {
    fn read(&mut self) {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.closed = true;
                    return;
                }
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
            if self.unread.len() > LONGEST_LINE {
                self.closed = true;
                return;
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        let rest = self.unread.split_off(end + 1);
        Some(std::mem::replace(&mut self.unread, rest))
    }
}

/// A way to `path` that is short enough for a socket's address (108 bytes), however long the path is. It leads
/// through the folder, which has to stay open until the address was used.
pub(crate) fn short_path(path: &Path) -> io::Result<(File, PathBuf)> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a socket needs a folder"))?;
    let name = path.file_name().ok_or_else(|| io::Error::other("a socket needs a name"))?;
    let folder = File::open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((folder, short))
}
