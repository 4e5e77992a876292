//! A member's output: the guard's files, oldest first, and then what comes.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use steadfast_agent::guard::CURRENT;
use steadfast_api::control::{ControlResult, LogRequest, Logs};
use steadfast_core::control::ControlError;
use steadfast_core::ids::MemberName;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use crate::data_dir::DataDir;

/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// How often a file that is at its end is looked at again.
const ROUND: Duration = Duration::from_millis(200);

/// The output that this machine keeps.
#[derive(Debug)]
pub(super) struct KeptLogs(pub(super) DataDir);

impl Logs for KeptLogs {
    fn stream(
        &self,
        member: &MemberName,
        request: LogRequest,
    ) -> ControlResult<BoxStream<'static, io::Result<Bytes>>> {
        let folder = self.0.path("logs").join(member.as_str());
        if !folder.is_dir() {
            return Err(ControlError::NotFound {
                kind: "output of member",
                name: member.to_string(),
                remedy: "list the members: steadfast get SERVICE -o wide".to_owned(),
            });
        }
        Ok(stream(folder, request))
    }
}

/// The output in `folder`.
fn stream(folder: PathBuf, request: LogRequest) -> BoxStream<'static, io::Result<Bytes>> {
    let begin = async move {
        let files = files(&folder).await?;
        let mut reader = Reader { folder, files, open: None, follow: request.follow };
        let first = match request.tail {
            Some(lines) => Some(reader.tail(usize::try_from(lines).unwrap_or(usize::MAX)).await?),
            None => None,
        };
        io::Result::Ok((reader, first))
    };
    stream::once(begin)
        .flat_map(|begun| match begun {
            Ok((reader, first)) => {
                let first = stream::iter(first.filter(|bytes| !bytes.is_empty()).map(Ok));
                first.chain(stream::unfold(reader, Reader::next)).boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        })
        .boxed()
}

/// The files, oldest first: `N.log` down to `1.log`, then the one that is being written.
async fn files(folder: &Path) -> io::Result<VecDeque<PathBuf>> {
    let mut older = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u32>().ok()) {
            older.push((number, entry.path()));
        }
    }
    older.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let mut files: VecDeque<PathBuf> = older.into_iter().map(|(_, path)| path).collect();
    files.push_back(folder.join(CURRENT));
    Ok(files)
}

struct Reader {
    folder: PathBuf,
    /// What is still to be opened.
    files: VecDeque<PathBuf>,
    open: Option<File>,
    follow: bool,
}

impl Reader {
    /// The last lines of everything; the reader stands at the end then.
    async fn tail(&mut self, lines: usize) -> io::Result<Bytes> {
        let mut last: VecDeque<Vec<u8>> = VecDeque::new();
        let mut partial = Vec::new();
        let follow = std::mem::replace(&mut self.follow, false);
        while let Some(chunk) = self.chunk().await? {
            for byte in chunk {
                partial.push(byte);
                if byte == b'\n' {
                    last.push_back(std::mem::take(&mut partial));
                    if last.len() > lines {
                        last.pop_front();
                    }
                }
            }
        }
        self.follow = follow;
        if !partial.is_empty() && lines > 0 {
            last.push_back(partial);
            if last.len() > lines {
                last.pop_front();
            }
        }
        Ok(last.into_iter().flatten().collect::<Vec<u8>>().into())
    }

    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        match self.chunk().await {
            Ok(chunk) => chunk.map(|chunk| (Ok(chunk), self)),
            Err(error) => {
                self.follow = false;
                self.files.clear();
                self.open = None;
                Some((Err(error), self))
            }
        }
    }

    /// What comes next; none at the end.
    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(file) = &mut self.open {
                let mut buffer = vec![0; CHUNK];
                let length = file.read(&mut buffer).await?;
                if length > 0 {
                    buffer.truncate(length);
                    return Ok(Some(buffer.into()));
                }
                if self.files.is_empty() {
                    if !self.follow {
                        return Ok(None);
                    }
                    if self.was_rotated().await? {
                        self.files.push_back(self.folder.join(CURRENT));
                    } else {
                        tokio::time::sleep(ROUND).await;
                        continue;
                    }
                }
                self.open = None;
            }
            let Some(path) = self.files.pop_front() else { return Ok(None) };
            match File::open(&path).await {
                Ok(file) => self.open = Some(file),
                // Dropped by the rotation, or not begun yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if self.files.is_empty() && self.follow {
                        self.files.push_back(path);
                        tokio::time::sleep(ROUND).await;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the file that was being written has become an older one.
    async fn was_rotated(&self) -> io::Result<bool> {
        let Some(file) = &self.open else { return Ok(false) };
        let own = file.metadata().await?;
        match tokio::fs::metadata(self.folder.join(CURRENT)).await {
            Ok(current) => Ok((current.dev(), current.ino()) != (own.dev(), own.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(folder: &Path, tail: Option<u64>) -> String {
        let request = LogRequest { tail, follow: false };
        let chunks: Vec<_> = stream(folder.to_owned(), request).collect().await;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.unwrap()).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn older_files_come_first_and_a_tail_crosses_them() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("2.log", "a\nb\n"), ("1.log", "c\n"), (CURRENT, "d\ne")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(all(folder.path(), None).await, "a\nb\nc\nd\ne");
        assert_eq!(all(folder.path(), Some(3)).await, "c\nd\ne");
        assert_eq!(all(folder.path(), Some(0)).await, "");
    }

    #[tokio::test]
    async fn following_goes_on_behind_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let current = folder.path().join(CURRENT);
        std::fs::write(&current, "one\n").unwrap();
        let mut lines = stream(folder.path().to_owned(), LogRequest { tail: Some(1), follow: true });
        assert_eq!(lines.next().await.unwrap().unwrap(), "one\n");
        std::fs::rename(&current, folder.path().join("1.log")).unwrap();
        std::fs::write(&current, "two\n").unwrap();
        let next = tokio::time::timeout(Duration::from_secs(30), lines.next()).await.unwrap();
        assert_eq!(next.unwrap().unwrap(), "two\n");
    }
}
