//! A shared key, as BIND's tools write it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::rr::Name;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;

/// By how many seconds the clocks of both sides may differ (RFC 8945 §10 recommends this).
const FUDGE: u16 = 300;
/// The shortest secret that is taken, in bytes. RFC 8945 §6 advises at least the length of the digest; half of the
/// smallest is what older tools made.
const SHORTEST: usize = 16;

/// A key that this side and the server share. Its secret is in no output.
#[derive(Clone)]
pub struct TsigKey {
    signer: TSigner,
}

/// A text that is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}: write it with: tsig-keygen -a hmac-sha256 NAME")]
pub struct InvalidKey(String);

impl TsigKey {
    /// The key's name, which the server knows it by.
    pub fn name(&self) -> String {
        self.signer.signer_name().to_ascii().trim_end_matches('.').to_owned()
    }

    pub(crate) fn signer(&self) -> &TSigner {
        &self.signer
    }
}

impl FromStr for TsigKey {
    type Err = InvalidKey;

    /// One `key` statement of BIND's configuration, as `tsig-keygen` prints it and `nsupdate -k` reads it:
    ///
    /// ```text
    /// key "steadfast" {
    ///         algorithm hmac-sha256;
    ///         secret "…";
    /// };
    /// ```
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let wrong = |what: &str| InvalidKey(what.to_owned());
        let words = words(text);
        let mut words = words.iter().map(String::as_str);
        if words.next() != Some("key") {
            return Err(wrong("it does not begin with: key \"NAME\" {"));
        }
        let name = words.next().filter(|name| *name != "{").ok_or_else(|| wrong("the key has no name"))?;
        let name = Name::from_ascii(name).map_err(|_| wrong("the key's name is no domain name"))?;
        if words.next() != Some("{") {
            return Err(wrong("there is no { after the key's name"));
        }
        let (mut algorithm, mut secret) = (None, None);
        loop {
            let field = words.next().ok_or_else(|| wrong("there is no } at its end"))?;
            let slot = match field {
                "}" => break,
                ";" => continue,
                "algorithm" => &mut algorithm,
                "secret" => &mut secret,
                // Not told what it is: it may be the secret.
                _ => return Err(wrong("it has a field besides algorithm and secret")),
            };
            let value = words.next().filter(|value| !matches!(*value, ";" | "}"));
            *slot = Some(value.ok_or_else(|| wrong("a field has no value"))?.to_owned());
        }
        if words.any(|word| word != ";") {
            return Err(wrong("something follows the first key"));
        }
        let algorithm = algorithm.ok_or_else(|| wrong("it names no algorithm"))?;
        let algorithm = match algorithm.to_ascii_lowercase().as_str() {
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            _ => return Err(wrong("its algorithm is none of hmac-sha256, hmac-sha384 and hmac-sha512")),
        };
        let secret = secret.ok_or_else(|| wrong("it has no secret"))?;
        let secret = STANDARD.decode(secret).map_err(|_| wrong("its secret is not base64"))?;
        if secret.len() < SHORTEST {
            return Err(wrong(&format!(
                "its secret has {} bytes, and {SHORTEST} is the least",
                secret.len()
            )));
        }
        let signer = TSigner::new(secret, algorithm, name, FUDGE).map_err(|_| wrong("it cannot sign"))?;
        Ok(TsigKey { signer })
    }
}

/// The words and signs of a statement, without quotes and comments.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut end = |word: &mut String| {
        if !word.is_empty() {
            words.push(std::mem::take(word));
        }
    };
    for line in text.lines() {
        let mut quoted = false;
        for sign in line.chars() {
            match sign {
                '"' => quoted = !quoted,
                '#' if !quoted && word.is_empty() => break,
                // Within a word it is base64.
                '/' if !quoted && word == "/" => {
                    word.clear();
                    break;
                }
                '{' | '}' | ';' if !quoted => {
                    end(&mut word);
                    end(&mut sign.to_string());
                }
                sign if sign.is_whitespace() && !quoted => end(&mut word),
                sign => word.push(sign),
            }
        }
        end(&mut word);
    }
    words
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TsigKey").field("name", &self.name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "pRP5FapFoJ95JEL06sv4PQ//Q+tsOAnKQdBYtpQ6oHU=";

    fn refused(text: &str) -> String {
        text.parse::<TsigKey>().unwrap_err().to_string()
    }

    #[test]
    fn what_tsig_keygen_writes_is_read() {
        let text = format!("key \"steadfast\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n");
        let key: TsigKey = text.parse().unwrap();
        assert_eq!(key.name(), "steadfast");
        assert_eq!(key.signer().key().len(), 32);
        assert!(!format!("{key:?}").contains("pRP5"), "{key:?}");
    }

    #[test]
    fn it_may_be_written_by_hand() {
        let text =
            format!("# ours\nkey steadfast.example.{{ secret {SECRET}; // one\n algorithm HMAC-SHA512 ;}}");
        assert_eq!(text.parse::<TsigKey>().unwrap().name(), "steadfast.example");
    }

    #[test]
    fn what_is_no_key_is_refused_by_name_and_not_repeated() {
        let cases = [
            ("", "begin"),
            ("steadfast", "begin"),
            ("key {", "name"),
            ("key \"a\" { algorithm hmac-sha256; };", "no secret"),
            ("key \"a\" { secret \"c2VjcmV0\"; };", "no algorithm"),
            ("key \"a\" { algorithm hmac-md5; secret \"c2VjcmV0\"; };", "hmac-sha256"),
            ("key \"a\" { algorithm hmac-sha256; secret \"c2VjcmV0\"; };", "6 bytes"),
            ("key \"a\" { algorithm hmac-sha256; secret \"c2VjcmV0", "no }"),
            ("key \"a\" { algorithm hmac-sha256; secret \"?c2VjcmV0\"; };", "base64"),
            ("key \"a\" { c2VjcmV0; };", "besides"),
            ("key \"a\" { secret ; };", "no value"),
        ];
        for (text, says) in cases {
            let message = refused(text);
            assert!(message.contains(says), "{text:?}: {message}");
            assert!(message.contains("tsig-keygen") && !message.contains("c2VjcmV0"), "{text:?}: {message}");
        }
        let one = format!("key \"a\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};");
        assert!(refused(&format!("{one}\n{one}")).contains("first key"));
    }
}
