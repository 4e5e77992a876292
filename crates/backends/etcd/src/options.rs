//! As whom an etcd is spoken to, and how it proves who it is.

use std::fmt;
use std::time::Duration;

use crate::Location;

/// How to reach an etcd.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Where it is.
    pub location: Location,
    /// The password of the location's user.
    pub password: Option<Password>,
    /// The certificates to trust, in PEM, instead of the system's. Only with TLS.
    pub authorities: Option<Vec<u8>>,
    /// The certificate to show. Only with TLS.
    pub identity: Option<Identity>,
    /// A revision that this etcd is known to have come to, as [`EtcdDb::revision`](crate::EtcdDb::revision) told
    /// earlier; 0 if nothing is known. One that is below it was put back from an older backup, and is refused.
    pub at_least: i64,
    /// For how long a connection may be silent before it is asked whether it is there, which it has 5 s to answer: 10 s
    /// unless told otherwise. etcd refuses to be asked more often than every 5 s.
    pub silence: Duration,
}

impl EtcdOptions {
    /// An etcd that asks for no user; with TLS, one whose certificate the system trusts.
    pub fn new(location: Location) -> Self {
        let (password, authorities, identity) = (None, None, None);
        let silence = Duration::from_secs(10);
        EtcdOptions { location, password, authorities, identity, at_least: 0, silence }
    }
}

/// A password. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        Password(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A client's certificate and its key, in PEM. The key is not shown.
#[derive(Clone)]
pub struct Identity {
    /// The certificate chain.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}
