//! Who calls: bearer tokens, of which only digests are kept.

use std::fmt::{self, Debug};
use std::sync::{PoisonError, RwLock};

use sha2::{Digest, Sha256};
use steadfast_core::ids::NodeName;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// A caller, by what its token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Everything an operator can do.
    Admin,
    /// Whatever changes nothing and shows no secret.
    Reader,
    /// The agent of one node: the store within its rights, and the secrets of the members it holds.
    Node(NodeName),
    /// Another server: the store, whole.
    Server,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Admin => f.write_str("admin"),
            Principal::Reader => f.write_str("reader"),
            Principal::Node(node) => write!(f, "node {node}"),
            Principal::Server => f.write_str("server"),
        }
    }
}

/// The SHA-256 of a token. Tokens have at least 100 random bits, so no salt and no slow hash is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    pub fn of(token: &str) -> Self {
        TokenDigest(Sha256::digest(token.as_bytes()).into())
    }

    /// A digest that was kept.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        TokenDigest(bytes)
    }

    /// The digest, to be kept.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenDigest").finish_non_exhaustive()
    }
}

/// A bearer token in the clear. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token. Surrounding white space, as of a file's last line, is no part of it.
    ///
    /// # Errors
    /// If nothing is left, or something that no header can carry.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(Token(text.to_owned()))
    }

    /// The token itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What a server keeps of it.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(&self.0)
    }
}

impl Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is one word of printable ASCII characters")]
pub struct InvalidToken;

/// Who a token belongs to.
pub trait Principals: Debug + Send + Sync + 'static {
    /// The owner of the token with this digest.
    ///
    /// # Behavior
    /// - How long it takes does not tell where among the known ones a digest is, nor how much of a wrong one is right.
    fn find(&self, digest: &TokenDigest) -> Option<Principal>;
}

/// Digests and their owners, in memory. Can be changed while the server runs.
#[derive(Debug, Default)]
pub struct TokenTable {
    entries: RwLock<Vec<(TokenDigest, Principal)>>,
}

impl TokenTable {
    /// A table of these.
    pub fn new(entries: impl IntoIterator<Item = (TokenDigest, Principal)>) -> Self {
        TokenTable { entries: RwLock::new(entries.into_iter().collect()) }
    }

    /// Puts these in the place of all there were.
    pub fn replace(&self, entries: impl IntoIterator<Item = (TokenDigest, Principal)>) {
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries.into_iter().collect();
    }

    /// Adds one.
    pub fn add(&self, digest: TokenDigest, principal: Principal) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).push((digest, principal));
    }
}

impl Principals for TokenTable {
    fn find(&self, digest: &TokenDigest) -> Option<Principal> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        // Every entry is compared, and the place found is kept without a branch on it.
        let mut found = Choice::from(0);
        let mut place = 0_u64;
        for (index, (known, _)) in (0_u64..).zip(entries.iter()) {
            let same = known.0.ct_eq(&digest.0);
            place.conditional_assign(&index, same);
            found |= same;
        }
        let index = usize::try_from(place).ok()?;
        if bool::from(found) { entries.get(index).map(|(_, principal)| principal.clone()) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_knows_its_tokens_and_no_others() {
        let table = TokenTable::new([
            (TokenDigest::of("one"), Principal::Admin),
            (TokenDigest::of("two"), Principal::Node("node-1".parse().unwrap())),
        ]);
        assert_eq!(table.find(&TokenDigest::of("one")), Some(Principal::Admin));
        assert_eq!(table.find(&TokenDigest::of("two")), Some(Principal::Node("node-1".parse().unwrap())));
        assert_eq!(table.find(&TokenDigest::of("three")), None);
        table.replace([(TokenDigest::of("three"), Principal::Reader)]);
        assert_eq!(table.find(&TokenDigest::of("one")), None);
        assert_eq!(table.find(&TokenDigest::of("three")), Some(Principal::Reader));
    }

    #[test]
    fn tokens_are_trimmed_and_never_shown() {
        let token = Token::new("  s3cret\n").unwrap();
        assert_eq!(token.reveal(), "s3cret");
        assert!(!format!("{token:?} {:?}", token.digest()).contains("s3cret"));
        assert!(Token::new(" \n").is_err());
        assert!(Token::new("two words").is_err());
    }
}
