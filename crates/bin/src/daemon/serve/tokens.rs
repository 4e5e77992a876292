//! Whose tokens are whose: the data folder's own, or those of a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steadfast_api::auth::{Principal, Principals, TokenDigest, TokenTable};
use steadfast_core::Environment;
use steadfast_core::runtime::Moment;

use crate::cli::read_token;
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Failure, Result};

/// How often the files are read, so that a token that was taken away opens nothing for longer.
const ROUND: Duration = Duration::from_secs(1);
/// How long after that they may be read again because of a token that is unknown: whoever guesses does not have the
/// server read all the time.
const AGAIN: Duration = Duration::from_millis(50);

/// The tokens of the files, which change while a server runs: `up` and agents write one for a node.
#[derive(Debug)]
pub(super) struct TokenFiles {
    data: DataDir,
    file: Option<PathBuf>,
    environment: Environment,
    table: TokenTable,
    read: Mutex<Read>,
}

/// The last time that the files were read.
#[derive(Debug)]
struct Read {
    at: Moment,
    /// What was wrong with them, once it is in the log.
    told: Option<String>,
}

impl TokenFiles {
    /// The tokens to begin with.
    pub(super) fn new(data: &DataDir, file: Option<&Path>, environment: &Environment) -> Result<Self> {
        let at = environment.clock().monotonic();
        Ok(TokenFiles {
            table: TokenTable::new(entries(data, file)?),
            data: data.clone(),
            file: file.map(PathBuf::from),
            environment: environment.clone(),
            read: Mutex::new(Read { at, told: None }),
        })
    }

    /// Keeps the table as the files are.
    pub(super) fn follow(self: Arc<Self>) {
        let (environment, tasks) = (self.environment.clone(), self.environment.tasks().clone());
        let until = tasks.shutdown();
        tasks.spawn("tokens", async move {
            while !until.is_requested() {
                self.read_again(Duration::ZERO);
                tokio::select! {
                    () = until.requested() => {}
                    () = environment.clock().sleep(ROUND) => {}
                }
            }
        });
    }

    /// Reads the files, unless they were read less than `pause` ago.
    fn read_again(&self, pause: Duration) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.environment.clock().monotonic();
        if now.since(read.at) < pause {
            return;
        }
        read.at = now;
        match entries(&self.data, self.file.as_deref()) {
            Ok(entries) => {
                self.table.replace(entries);
                read.told = None;
            }
            // The table stays as it was.
            Err(failure) => {
                let text = failure.to_string();
                if read.told.as_ref() != Some(&text) {
                    tracing::warn!(failure = text, "tokens cannot be read; those that were known stay");
                    read.told = Some(text);
                }
            }
        }
    }
}

impl Principals for TokenFiles {
    fn find(&self, digest: &TokenDigest) -> Option<Principal> {
        self.table.find(digest).or_else(|| {
            // It may have been written since.
            self.read_again(AGAIN);
            self.table.find(digest)
        })
    }
}

fn entries(data: &DataDir, file: Option<&Path>) -> Result<Vec<(TokenDigest, Principal)>> {
    let servers = (read_token(&data.path("server-token"))?.digest(), Principal::Server);
    let mut entries = vec![servers];
    if let Some(file) = file {
        let text = fs::read_to_string(file).context(format!("read {}", file.display()))?;
        entries.extend(parse(&text, file)?);
        return Ok(entries);
    }
    entries.push((read_token(&data.path("token"))?.digest(), Principal::Admin));
    for entry in fs::read_dir(data.path("tokens")).context("read the nodes' tokens")?.flatten() {
        // A draft that is being written has no node's name.
        let Some(node) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        entries.push((read_token(&entry.path())?.digest(), Principal::Node(node)));
    }
    Ok(entries)
}

fn parse(text: &str, file: &Path) -> Result<Vec<(TokenDigest, Principal)>> {
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = line.split_once(char::is_whitespace).and_then(|(who, digest)| {
            let principal = match who {
                "admin" => Principal::Admin,
                "reader" => Principal::Reader,
                "server" => Principal::Server,
                node => Principal::Node(node.strip_prefix("node:")?.parse().ok()?),
            };
            Some((TokenDigest::from_bytes(digest_bytes(digest.trim())?), principal))
        });
        entries.push(entry.ok_or_else(|| {
            Failure::new(format!("{}:{number}: this is no token's line", file.display())).remedy(
                "write `admin`, `reader`, `server` or `node:NAME`, a space, and the token's SHA-256 in hexadecimal",
            )
        })?);
    }
    Ok(entries)
}

fn digest_bytes(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_just_written_is_known_and_one_that_was_removed_is_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (data, _) = DataDir::prepare(Some(folder.path()), |_| {}).unwrap();
        let environment = Environment::system([7; 32]);
        let tokens = TokenFiles::new(&data, None, &environment).unwrap();
        let digest = TokenDigest::of(&data.token_file("tokens/node-9").unwrap());
        // Nothing follows the files here. Until a moment after they were read, they are not read again.
        let found = std::iter::repeat_with(|| tokens.find(&digest)).find_map(|found| found);
        assert_eq!(found, Some(Principal::Node("node-9".parse().unwrap())));

        fs::remove_file(data.path("tokens/node-9")).unwrap();
        tokens.read_again(Duration::ZERO);
        assert_eq!(tokens.find(&digest), None);
    }

    #[test]
    fn tokens_that_cannot_be_read_leave_those_that_were_known() {
        let folder = tempfile::tempdir().unwrap();
        let (data, _) = DataDir::prepare(Some(folder.path()), |_| {}).unwrap();
        let tokens = TokenFiles::new(&data, None, &Environment::system([7; 32])).unwrap();
        let digest = TokenDigest::of(&data.token_file("token").unwrap());
        fs::remove_file(data.path("server-token")).unwrap();
        tokens.read_again(Duration::ZERO);
        assert_eq!(tokens.find(&digest), Some(Principal::Admin));
        assert!(tokens.read.lock().unwrap().told.is_some());
    }

    #[test]
    fn a_file_of_digests_is_read_and_a_wrong_line_is_named() {
        let digest: String =
            TokenDigest::of("secret").as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let file = Path::new("tokens");
        let entries = parse(&format!("# who\nadmin {digest}\n\nnode:node-1  {digest}\n"), file).unwrap();
        assert_eq!(entries[0], (TokenDigest::of("secret"), Principal::Admin));
        assert_eq!(entries[1].1, Principal::Node("node-1".parse().unwrap()));
        for bad in ["admin", "root 00", &format!("node:UPPER {digest}"), &format!("admin {digest}0")] {
            let error = parse(bad, file).unwrap_err();
            assert!(error.message.starts_with("tokens:1"), "{error}");
        }
    }
}
