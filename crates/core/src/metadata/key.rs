//! Keys: paths of plain segments.

use std::fmt;

/// A key, or a prefix of keys: segments joined by `/`.
///
/// Segments are of `A-Z a-z 0-9 - _ . : @`, not empty, and neither `.` nor `..`; a key is at most 512 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

crate::text::is_text!(Key);

/// A text that is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a key: use 1 to 512 bytes of segments of A-Z a-z 0-9 - _ . : @, joined by '/'")]
pub struct InvalidKey(String);

impl Key {
    /// The key of these segments.
    ///
    /// # Errors
    /// If a segment has a character that keys don't have, or the whole is too long.
    pub fn new<S: AsRef<str>>(segments: impl IntoIterator<Item = S>) -> Result<Self, InvalidKey> {
        joined(String::new(), segments).try_into()
    }

    /// The key of these segments under this one.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn below<S: AsRef<str>>(&self, segments: impl IntoIterator<Item = S>) -> Result<Self, InvalidKey> {
        // Room for what most keys add.
        let mut text = String::with_capacity(self.0.len() + 64);
        text.push_str(&self.0);
        let text = joined(text, segments);
        // This key is one already.
        let added = text.get(self.0.len()..).unwrap_or_default();
        let good = added.is_empty() || added.strip_prefix('/').is_some_and(is_good);
        if good && text.len() <= LONGEST { Ok(Key(text)) } else { Err(invalid(&text)) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether this key lies under `prefix`, by whole segments.
    pub fn is_under(&self, prefix: &Key) -> bool {
        self.0.strip_prefix(&prefix.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

#[cfg(feature = "schema")]
crate::schema::text!(Key, "Segments of A-Z a-z 0-9 - _ . : @, joined by /; at most 512 bytes.");

/// The most bytes of a key.
const LONGEST: usize = 512;

/// Whether a text is segments of a key.
fn is_good(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'@');
    text.split('/')
        .all(|segment| !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain))
}

fn invalid(text: &str) -> InvalidKey {
    InvalidKey(text.chars().take(80).collect())
}

impl std::str::FromStr for Key {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;
    fn try_from(text: String) -> Result<Self, InvalidKey> {
        if text.len() <= LONGEST && is_good(&text) { Ok(Key(text)) } else { Err(invalid(&text)) }
    }
}

fn joined<S: AsRef<str>>(mut text: String, segments: impl IntoIterator<Item = S>) -> String {
    for segment in segments {
        if !text.is_empty() {
            text.push('/');
        }
        text.push_str(segment.as_ref());
    }
    text
}

// Keys are ordered as their text is, so a map of keys can be searched by text.
impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
