//! Whose tokens are whose: the data folder's own, or those of a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use steadfast_api::auth::{Principal, TokenDigest, TokenTable};
use steadfast_core::Environment;

use crate::cli::read_token;
use crate::data_dir::DataDir;
use crate::exit::{Context as _, Failure, Result};

/// How often new tokens are looked for: `up` gives one to every node it adds.
const ROUND: Duration = Duration::from_secs(1);

/// The table to begin with.
pub(super) fn table(data: &DataDir, file: Option<&Path>) -> Result<TokenTable> {
    entries(data, file).map(TokenTable::new)
}

/// Keeps the table as the files are.
pub(super) fn follow(
    data: &DataDir,
    file: Option<&Path>,
    table: &Arc<TokenTable>,
    environment: &Environment,
) {
    let (data, file, table) = (data.clone(), file.map(PathBuf::from), Arc::clone(table));
    let (environment, tasks) = (environment.clone(), environment.tasks().clone());
    let until = tasks.shutdown();
    tasks.spawn("tokens", async move {
        let mut told = None;
        while !until.is_requested() {
            match entries(&data, file.as_deref()) {
                Ok(entries) => {
                    table.replace(entries);
                    told = None;
                }
                // The table stays as it was.
                Err(failure) => {
                    let text = failure.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(failure = text, "tokens cannot be read; those that were known stay");
                        told = Some(text);
                    }
                }
            }
            tokio::select! {
                () = until.requested() => {}
                () = environment.clock().sleep(ROUND) => {}
            }
        }
    });
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
