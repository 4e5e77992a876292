//! Where an etcd is, as people write it.

use std::fmt;
use std::str::FromStr;

use steadfast_core::metadata::Key;

/// `etcd://[USER@]HOST[:PORT][,HOST[:PORT]…][/PREFIX]`, or `etcds://` for TLS.
///
/// The hosts are members of one etcd cluster; each of them will do. The port is 2379 unless it is given. Every key lies
/// below the prefix, so that one etcd serves several of its users, and each may be kept to its own keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    tls: bool,
    user: Option<String>,
    hosts: Vec<String>,
    prefix: Option<Key>,
}

/// A text that names no etcd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLocation {
    /// Another scheme, or none.
    #[error("{0:?} does not begin with etcd:// or, with TLS, etcds://")]
    Scheme(String),
    /// A secret where others see it. It is not repeated here.
    #[error(
        "a password in a URL can be read by whoever lists processes: leave it out, and give it in a file"
    )]
    Password,
    /// A host that is none.
    #[error("{0:?} is not HOST or HOST:PORT")]
    Host(String),
    /// A user that is none.
    #[error("{0:?} is not a user")]
    User(String),
    /// A prefix that keys cannot lie below.
    #[error("the prefix {0:?} is not made of segments of A-Z a-z 0-9 - _ . : @, joined by '/'")]
    Prefix(String),
}

const PORT: u16 = 2379;

impl Location {
    /// Whether it is spoken to over TLS.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// The user, if etcd asks for one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The hosts with their ports.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// What every key lies below.
    pub fn prefix(&self) -> Option<&Key> {
        self.prefix.as_ref()
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("{}://{host}", if self.tls { "https" } else { "http" })
    }
}

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        let (tls, rest) = match (text.strip_prefix("etcd://"), text.strip_prefix("etcds://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            (None, None) => return Err(InvalidLocation::Scheme(without_secret(text))),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(InvalidLocation::Password),
            Some((user, _)) if user.is_empty() || user.contains(',') => {
                return Err(InvalidLocation::User(user.to_owned()));
            }
            Some((user, hosts)) => (Some(user.to_owned()), hosts),
            None => (None, authority),
        };
        let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
        let path = path.trim_end_matches('/');
        let prefix = match path {
            "" => None,
            path => Some(path.parse().map_err(|_| InvalidLocation::Prefix(path.to_owned()))?),
        };
        Ok(Location { tls, user, hosts, prefix })
    }
}

/// A text that may hold a password before an `@`.
fn without_secret(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"))
}

/// One host, with its port.
fn host(text: &str) -> Result<String, InvalidLocation> {
    let wrong = || InvalidLocation::Host(text.to_owned());
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => {
            name.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) };
            (format!("[{name}]"), port)
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if name.is_empty() || !name.chars().all(plain) {
                return Err(wrong());
            }
            (name.to_owned(), port)
        }
    };
    let port = match port {
        None => PORT,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
    };
    Ok(format!("{name}:{port}"))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "etcds://" } else { "etcd://" })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.hosts.join(","))?;
        match &self.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, InvalidLocation> {
        text.parse()
    }

    #[test]
    fn a_location_is_written_as_it_is_read() {
        for (text, written) in [
            ("etcd://h1", "etcd://h1:2379"),
            ("etcd://h1:1,h2:2/", "etcd://h1:1,h2:2"),
            ("etcds://root@etcd-1.example:2379/a/b", "etcds://root@etcd-1.example:2379/a/b"),
            ("etcd://[::1],[fe80::2]:99/p/", "etcd://[::1]:2379,[fe80::2]:99/p"),
        ] {
            let location = parse(text).unwrap();
            assert_eq!(location.to_string(), written);
            assert_eq!(parse(written).unwrap(), location);
        }
        let location = parse("etcds://u@h/p").unwrap();
        assert_eq!((location.tls(), location.user()), (true, Some("u")));
        assert_eq!(location.url(&location.hosts()[0]), "https://h:2379");
        assert_eq!(location.prefix().unwrap().as_str(), "p");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let part = |text: &str| parse(text).unwrap_err();
        assert_eq!(part("http://h"), InvalidLocation::Scheme("http://h".to_owned()));
        assert_eq!(part("h:2379"), InvalidLocation::Scheme("h:2379".to_owned()));
        assert_eq!(part("etcd://"), InvalidLocation::Host(String::new()));
        assert_eq!(part("etcd://a,,b"), InvalidLocation::Host(String::new()));
        for bad in ["a:0", "a:b", "a:65536", "a b", "::1", "[::1", "[x]", "[::1]2"] {
            assert_eq!(part(&format!("etcd://{bad}")), InvalidLocation::Host(bad.to_owned()));
        }
        assert_eq!(part("etcd://@h"), InvalidLocation::User(String::new()));
        assert_eq!(part("etcd://h/a//b"), InvalidLocation::Prefix("a//b".to_owned()));
        assert_eq!(part("etcd://h/ü"), InvalidLocation::Prefix("ü".to_owned()));
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for text in ["etcd://me:geheim@h", "http://me:geheim@h"] {
            let told = parse(text).unwrap_err().to_string();
            assert!(!told.contains("geheim"), "{told}");
        }
        assert_eq!(parse("etcd://me:geheim@h").unwrap_err(), InvalidLocation::Password);
    }
}
