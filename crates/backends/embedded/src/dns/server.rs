//! The sockets of the DNS server.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use steadfast_core::Environment;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::EXPIRE;
use super::answer::{Known, Transport, answer};
use super::registry::StoreRegistry;
use super::table::ZoneTable;
use super::zones::Zones;

/// How a [`DnsServer`] runs.
#[derive(Debug, Clone)]
pub struct DnsOptions {
    /// Where to listen, by UDP and TCP. Port 0 takes one that is free for both.
    pub listen: SocketAddr,
    /// How often all names are read again, in case a hint was lost.
    pub resync: Duration,
    /// How long a TCP connection may be idle, or slow over one message.
    pub idle: Duration,
    /// How long names are told that cannot be read any more; then every question gets SERVFAIL.
    pub expire: Duration,
    /// How many TCP connections there may be at once. Further ones wait to be accepted.
    pub connections: usize,
}

impl DnsOptions {
    /// Listening at `listen`, with a resync every 5 s, names that are told for a day after the store was last read,
    /// connections that may idle for 10 s, and 128 of them.
    pub fn new(listen: SocketAddr) -> Self {
        DnsOptions {
            listen,
            resync: Duration::from_secs(5),
            idle: Duration::from_secs(10),
            expire: EXPIRE,
            connections: 128,
        }
    }
}

/// An authoritative DNS server for the zones of a [`StoreRegistry`], and for the reverse names of its members.
///
/// It runs in tasks of the environment until that one's shutdown, whatever becomes of this value.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
}

impl DnsServer {
    /// Binds the sockets, reads the names and begins to answer. A store that cannot be read now delays that by
    /// 10 s at most: the server starts all the same, answers SERVFAIL, and goes on trying.
    ///
    /// # Errors
    /// If the sockets cannot be bound; `AddrInUse` says that somebody else listens there.
    pub async fn start(
        environment: &Environment,
        registry: &StoreRegistry,
        options: DnsOptions,
    ) -> io::Result<DnsServer> {
        let DnsOptions { listen, resync, idle, expire, connections } = options;
        let (udp, tcp) = bind(listen).await?;
        let address = udp.local_addr()?;
        let zones = registry.zones().clone();
        match environment.timeout(FIRST_LOAD, zones.reload()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(error = error.chain(), "names cannot be read yet"),
            None => tracing::warn!("names cannot be read yet: no answer within {FIRST_LOAD:?}"),
        }
        let serving = Serving {
            zones: zones.clone(),
            environment: environment.clone(),
            own: Some(address.ip()).filter(|ip| !ip.is_unspecified()),
            idle,
            stale: resync * MISSED,
            expire,
        };
        let tasks = environment.tasks();
        tasks.spawn("dns-follow", async move { zones.follow(resync).await });
        tasks.spawn("dns-udp", serving.clone().udp(udp));
        tasks.spawn("dns-tcp", serving.tcp(tcp, connections));
        Ok(DnsServer { address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Display for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dns server at {}", self.address)
    }
}

/// After how many resyncs without the store answers say that they may be out of date.
const MISSED: u32 = 3;
/// How long starting waits for the names.
const FIRST_LOAD: Duration = Duration::from_secs(10);
/// The pause after a socket failed, so that a lasting failure (no descriptors left) does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds one port for both. A port that the system chose for UDP may be taken for TCP: then it chooses again.
async fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const ATTEMPTS: u32 = 16;
    let mut attempt = 1;
    loop {
        let udp = UdpSocket::bind(listen).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error)
                if listen.port() == 0 && error.kind() == io::ErrorKind::AddrInUse && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the tasks share.
#[derive(Debug, Clone)]
struct Serving {
    zones: Arc<Zones>,
    environment: Environment,
    own: Option<IpAddr>,
    idle: Duration,
    /// How old names are that are told with a warning, and that are not told any more.
    stale: Duration,
    expire: Duration,
}

impl Serving {
    /// A message that brings the parser down is dropped, and must not take the server with it.
    fn answer(&self, request: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let answer = || self.zones.with(|table| answer(self.known(table), self.own, request, transport));
        catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
            tracing::error!(length = request.len(), "a message brought the parser down");
            None
        })
    }

    /// What of the table is still told.
    fn known<'a>(&self, table: Option<&'a ZoneTable>) -> Known<'a> {
        let age = self.zones.age();
        Known {
            table: table.filter(|_| age.is_some_and(|age| age <= self.expire)),
            unread: age.filter(|age| *age > self.stale.min(self.expire)),
        }
    }

    async fn udp(self, socket: UdpSocket) {
        let shutdown = self.environment.tasks().shutdown();
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let received = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((length, from)) => {
                    if let Some(reply) = self.answer(&buffer[..length], Transport::Udp)
                        && let Err(error) = socket.send_to(&reply, from).await
                    {
                        tracing::debug!(%from, %error, "an answer could not be sent");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the UDP socket failed to receive");
                    self.environment.clock().sleep(PAUSE).await;
                }
            }
        }
    }

    async fn tcp(self, listener: TcpListener, connections: usize) {
        let shutdown = self.environment.tasks().shutdown();
        let permits = Arc::new(Semaphore::new(connections.max(1)));
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                accepted = accept(&listener, &permits) => accepted,
            };
            match accepted {
                Ok((stream, from, permit)) => {
                    let serving = self.clone();
                    let shutdown = shutdown.clone();
                    self.environment.tasks().spawn("dns-connection", async move {
                        let _permit = permit;
                        tokio::select! {
                            biased;
                            () = shutdown.requested() => {}
                            result = serving.connection(stream) => if let Err(error) = result {
                                tracing::debug!(%from, %error, "a connection failed");
                            },
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.environment.clock().sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers one question after the other, until the other side closes, idles or is too slow.
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        loop {
            match self.environment.timeout(self.idle, read_message(&mut stream, &mut buffer)).await {
                Some(Ok(true)) => {}
                Some(Ok(false)) | None => return Ok(()),
                Some(Err(error)) => return Err(error),
            }
            let Some(reply) = self.answer(&buffer, Transport::Tcp) else { return Ok(()) };
            let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
            let mut framed = Vec::with_capacity(reply.len() + 2);
            framed.extend_from_slice(&length.to_be_bytes());
            framed.extend_from_slice(&reply);
            match self.environment.timeout(self.idle, stream.write_all(&framed)).await {
                Some(result) => result?,
                None => return Ok(()),
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, from) = listener.accept().await?;
    Ok((stream, from, permit))
}

/// Reads one message into `buffer`; `false` if the other side closed before it began one.
async fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    buffer.resize(usize::from(u16::from_be_bytes(length)), 0);
    stream.read_exact(buffer).await?;
    Ok(true)
}
