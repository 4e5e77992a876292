//! The key that seals secrets, in a file that nobody else may read.
//!
//! Secrets are sealed with AES-256-GCM under a random nonce, bound to the service and the secret's name. The key
//! never lies in the store: whoever copies the store alone has no secrets, and whoever loses the key file has none
//! either.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use steadfast_core::control::KeyProvider;
use steadfast_core::ids::ServiceId;
use steadfast_core::model::SealedSecret;
use steadfast_core::{Error, ErrorKind, Result};

use crate::failure::io_failure;
use crate::files;

const BACKEND: &str = "key file";

/// What a key file begins with, and the version of its format.
const HEADER: &str = "steadfast-key-v1:";

const KEY_BYTES: usize = 32;

/// Seals and opens secrets with the key in one file.
pub struct FileKeyProvider {
    path: PathBuf,
    key: LessSafeKey,
    key_id: String,
    random: SystemRandom,
}

impl FileKeyProvider {
    /// The key at `path`, which is made with a random key if there is none. Of several processes that make it at
    /// once one wins, and all use its key.
    ///
    /// # Errors
    /// `Denied` if others than its owner may read the file, with the command that mends it; `Corrupt` if it holds
    /// no key; `Denied` or `QuotaExceeded` if it cannot be made.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        let failed = |error| io_failure(BACKEND, "open", path, error).without_effect();
        if !path.try_exists().map_err(failed)? {
            create(path)?;
        }
        Self::open(path)
    }

    /// The key at `path`, which must exist.
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create), and `NotFound` if there is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        let refuse = |kind, message: String| {
            Error::new(kind, BACKEND, "open", path.display(), message).without_effect()
        };
        let shown = path.display();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => refuse(
                ErrorKind::NotFound,
                format!("{shown} does not exist: put back the key that the secrets were sealed with"),
            ),
            _ => io_failure(BACKEND, "open", path, error).without_effect(),
        };
        let mut file = File::open(path).map_err(failed)?;
        // Of the open file, so that what is checked is what is read.
        let mode = file.metadata().map_err(failed)?.mode();
        if mode & 0o077 != 0 {
            let message = format!(
                "{shown} can be read or written by others (mode {:03o}): run `chmod 600 {shown}`, and replace the key \
                 if somebody may have read it",
                mode & 0o777
            );
            return Err(refuse(ErrorKind::Denied, message));
        }
        let text = io::read_to_string(&mut file).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => refuse(ErrorKind::Corrupt, format!("{shown} holds no key")),
            _ => failed(error),
        })?;
        let key = decode(&text).ok_or_else(|| {
            let message = format!("{shown} holds no key: put back the one that the secrets were sealed with");
            refuse(ErrorKind::Corrupt, message)
        })?;
        let unbound = UnboundKey::new(&AES_256_GCM, &key)
            .map_err(|_| refuse(ErrorKind::Internal, "the key has a wrong length".to_owned()))?;
        Ok(FileKeyProvider {
            path: path.to_owned(),
            key: LessSafeKey::new(unbound),
            key_id: key_id(&key),
            random: SystemRandom::new(),
        })
    }

    /// What tells this key from others, without giving it away.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    fn refuse(&self, kind: ErrorKind, operation: &'static str, name: &str, message: &str) -> Error {
        Error::new(kind, BACKEND, operation, name, message).without_effect()
    }
}

impl KeyProvider for FileKeyProvider {
    fn seal(&self, service: &ServiceId, name: &str, plain: &str) -> Result<SealedSecret> {
        let failed = |what: &str| self.refuse(ErrorKind::Internal, "seal", name, what);
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| failed("the system gives no randomness"))?;
        let mut sealed = plain.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context(service, name)),
                &mut sealed,
            )
            .map_err(|_| failed("the secret is too long"))?;
        let mut whole = nonce.to_vec();
        whole.append(&mut sealed);
        Ok(SealedSecret { key_id: self.key_id.clone(), sealed: BASE64.encode(whole) })
    }

    fn open(&self, service: &ServiceId, name: &str, sealed: &SealedSecret) -> Result<String> {
        let corrupt = |what: &str| self.refuse(ErrorKind::Corrupt, "open", name, what);
        if sealed.key_id != self.key_id {
            return Err(corrupt(&format!(
                "it was sealed with the key {}, and {} holds the key {}: put back that key file",
                sealed.key_id,
                self.path.display(),
                self.key_id
            )));
        }
        let whole = BASE64.decode(&sealed.sealed).map_err(|_| corrupt("it is not base64"))?;
        let (nonce, body) =
            whole.split_first_chunk::<NONCE_LEN>().ok_or_else(|| corrupt("it is too short"))?;
        let mut body = body.to_vec();
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context(service, name)), &mut body)
            .map_err(|_| corrupt("it was changed, or sealed for another service or name"))?;
        String::from_utf8(plain.to_vec()).map_err(|_| corrupt("it is not text"))
    }
}

impl std::fmt::Debug for FileKeyProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        f.debug_struct("FileKeyProvider")
            .field("path", &self.path)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// Makes a key file, unless somebody else makes it first. It is linked into place whole.
fn create(path: &Path) -> Result<()> {
    let failed = |error| io_failure(BACKEND, "create", path, error).without_effect();
    let random = SystemRandom::new();
    let no_randomness = |_| {
        let message = "the system gives no randomness";
        Error::new(ErrorKind::Internal, BACKEND, "create", path.display(), message).without_effect()
    };
    let (mut key, mut suffix) = ([0; KEY_BYTES], [0; 8]);
    random.fill(&mut key).map_err(no_randomness)?;
    random.fill(&mut suffix).map_err(no_randomness)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}.new", u64::from_be_bytes(suffix)));
    let temporary = PathBuf::from(temporary);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    let made = file
        .write_all(format!("{HEADER}{}\n", BASE64.encode(key)).as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        });
    let removed = fs::remove_file(&temporary);
    made.and(removed).and_then(|()| files::sync_folder_of(path)).map_err(failed)
}

fn decode(text: &str) -> Option<[u8; KEY_BYTES]> {
    let key = BASE64.decode(text.strip_prefix(HEADER)?.trim_end()).ok()?;
    key.try_into().ok()
}

fn key_id(key: &[u8]) -> String {
    let mut text = b"steadfast key id:".to_vec();
    text.extend_from_slice(key);
    digest(&SHA256, &text).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What a secret is bound to. The length keeps two pairs that read alike when joined apart.
fn context(service: &ServiceId, name: &str) -> Vec<u8> {
    let mut context = service.as_str().len().to_be_bytes().to_vec();
    context.extend_from_slice(service.as_str().as_bytes());
    context.extend_from_slice(name.as_bytes());
    context
}

#[cfg(test)]
mod tests;
