//! Where the API listens: TCP, TCP with TLS, or a unix socket.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::exit::{Context as _, Exit, Failure, Result};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listen {
    /// At an address.
    Tcp(SocketAddr),
    /// At a unix socket.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Listen::Unix(path))
            } else {
                Err("a unix socket needs an absolute path, as in unix:/run/steadfast.sock".to_owned())
            };
        }
        text.parse()
            .map(Listen::Tcp)
            .map_err(|_| format!("{text:?} is neither ADDRESS:PORT, as in 127.0.0.1:7070, nor unix:/PATH"))
    }
}

/// A bound listener and the address that clients use.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, String),
    Tls(TlsListener, String),
    Unix(UnixListener, String),
}

impl Listener {
    pub(super) fn url(&self) -> &str {
        match self {
            Listener::Tcp(_, url) | Listener::Tls(_, url) | Listener::Unix(_, url) => url,
        }
    }
}

impl Listen {
    /// Refuses to be heard beyond this machine without TLS and tokens of its own.
    pub(super) fn check(&self, tls: bool, tokens: bool) -> Result<()> {
        match self {
            Listen::Tcp(address) if !(address.ip().is_loopback() || tls && tokens) => Err(Failure::usage(
                format!("--listen {address} is heard beyond this machine, and that needs TLS and tokens"),
                "give --tls-cert, --tls-key and --tokens, or listen on 127.0.0.1 or unix:PATH",
            )),
            Listen::Tcp(_) | Listen::Unix(_) => Ok(()),
        }
    }

    /// Binds it.
    pub(super) async fn bind(&self, tls: Option<TlsAcceptor>) -> Result<Listener> {
        match self {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(|error| refused(address, &error))?;
                let address = listener.local_addr().context("look at the listener")?;
                Ok(match tls {
                    Some(acceptor) => Listener::Tls(
                        TlsListener::new(listener, acceptor, address),
                        format!("https://{address}"),
                    ),
                    None => Listener::Tcp(listener, format!("http://{address}")),
                })
            }
            Listen::Unix(path) => {
                let listener = on_socket(path, "--listen unix:PATH").await?;
                Ok(Listener::Unix(listener, format!("unix://{}", path.display())))
            }
        }
    }
}

/// Listens on a socket of this machine, for this user alone; `option` is how its path is given.
pub(in crate::daemon) async fn on_socket(path: &Path, option: &str) -> Result<UnixListener> {
    make_room(path, option).await?;
    let listener = UnixListener::bind(path).map_err(|error| refused(path.display(), &error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .context(format!("protect {}", path.display()))?;
    Ok(listener)
}

/// Removes a socket that nobody listens at any more.
async fn make_room(path: &Path, option: &str) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::new(format!("look at {}: {error}", path.display()))),
        Ok(found) if !found.file_type().is_socket() => {
            Err(Failure::new(format!("{} is there and is no socket", path.display()))
                .remedy(format!("give another path with {option}")))
        }
        Ok(_) => match tokio::net::UnixStream::connect(path).await {
            Ok(_) => Err(refused(path.display(), &io::ErrorKind::AddrInUse.into())),
            Err(_) => fs::remove_file(path).context(format!("remove {}", path.display())),
        },
    }
}

fn refused(what: impl std::fmt::Display, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("listen on {what}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => failure
            .reason("PortInUse")
            .remedy("another program listens there: give another address with --listen")
            .exit(Exit::Conflict),
        io::ErrorKind::PermissionDenied => {
            failure.reason("PermissionDenied").remedy("give a port above 1023 with --listen")
        }
        _ => failure.remedy("give another address with --listen"),
    }
}

/// What speaks TLS with this certificate; none without one.
pub(super) fn tls(certificate: Option<&Path>, key: Option<&Path>) -> Result<Option<TlsAcceptor>> {
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .context(format!("read the certificate {}", certificate.display()))?;
    let secret = PrivateKeyDer::from_pem_file(key).context(format!("read the key {}", key.display()))?;
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("set up TLS")?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .context(format!("use the certificate {}", certificate.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// Serves the API until `shutdown`.
pub(super) async fn run(
    listener: Listener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener, _) => axum::serve(listener, router).with_graceful_shutdown(shutdown).await,
        Listener::Tls(listener, _) => axum::serve(listener, router).with_graceful_shutdown(shutdown).await,
        Listener::Unix(listener, _) => axum::serve(listener, router).with_graceful_shutdown(shutdown).await,
    }
}

/// TCP with TLS. Each handshake has a task of its own, so that a slow one holds up nobody else.
#[derive(Debug)]
pub(super) struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

const HANDSHAKE: Duration = Duration::from_secs(10);
const HANDSHAKES: usize = 256;

impl TlsListener {
    fn new(listener: TcpListener, acceptor: TlsAcceptor, address: SocketAddr) -> Self {
        let (send, ready) = mpsc::channel(HANDSHAKES);
        let task = tokio::spawn(async move {
            let slots = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES));
            while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
                // As axum does for TCP: what fails here is the connection's matter, or passes.
                let Ok((stream, peer)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (acceptor, send) = (acceptor.clone(), send.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        // Nobody takes it only if the server ends.
                        Ok(Ok(stream)) => drop(send.send((stream, peer)).await),
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "handshake failed"),
                        Err(_) => tracing::debug!(%peer, "handshake took too long"),
                    }
                });
            }
        });
        TlsListener { ready, address, task }
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The accepting task ends only with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_those_of_the_world_need_tls_and_tokens() {
        let world: Listen = "0.0.0.0:7070".parse().unwrap();
        assert_eq!(world.check(true, false).unwrap_err().exit, Exit::Usage);
        assert!(world.check(true, true).is_ok());
        assert!("127.0.0.1:0".parse::<Listen>().unwrap().check(false, false).is_ok());
        assert!("unix:/tmp/x.sock".parse::<Listen>().unwrap().check(false, false).is_ok());
        for bad in ["unix:x.sock", "localhost", "7070", ""] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
