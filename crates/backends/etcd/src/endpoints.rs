//! The members of an etcd cluster, asked one at a time: whoever answered last is asked next, and who fails is left. The
//! first is this machine's own, if there is one: it is not lost by the loss of another machine. So it is gone back to, as
//! soon as it answers again. Watches are where requests are.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, TlsOptions};
use steadfast_core::{Environment, Error, Result};
use tokio::sync::{Mutex, watch};

use crate::failure::Failure;
use crate::options::EtcdOptions;

/// How long one member gets for one request, the login included.
const LIMIT: Duration = Duration::from_secs(3);
/// For how long requests that had no effect are begun anew: an election takes less. With the last one's `LIMIT` this
/// is below the time that callers give one attempt.
const PATIENCE: Duration = Duration::from_secs(6);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The pauses after every member has failed.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// How often this machine's own member, once it was left, is asked whether it is back.
const RETURN: Duration = Duration::from_secs(1);
/// How long a silent connection that is asked whether it is there may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// One etcd cluster.
pub(crate) struct Endpoints {
    options: EtcdOptions,
    environment: Environment,
    members: Vec<Member>,
    /// This machine's own.
    home: Option<usize>,
    /// Who is asked next.
    current: watch::Sender<usize>,
    /// Whether it is being tried to go back home.
    returns: AtomicBool,
}

struct Member {
    url: String,
    /// Made when it is first needed, since logging in is a request, too.
    client: Mutex<Option<Client>>,
}

impl Endpoints {
    pub(crate) fn new(environment: Environment, options: EtcdOptions) -> Self {
        let location = &options.location;
        let member = |host: &String| Member { url: location.url(host), client: Mutex::new(None) };
        let members = location.hosts().iter().map(member).collect();
        let home = location.hosts().iter().position(|host| is_here(host));
        let current = watch::Sender::new(home.unwrap_or_default());
        Endpoints { environment, members, home, current, returns: AtomicBool::new(false), options }
    }

    /// Tells whenever it is another member that is asked.
    pub(crate) fn follow(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    /// The URL of the member that is asked next.
    pub(crate) fn member(&self) -> &str {
        &self.members[*self.current.borrow()].url
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Asks until a member answers. What may have happened is asked once, unless it only reads; what certainly had no
    /// effect is asked again, of the next member, for as long as an election takes.
    pub(crate) async fn call<T, F>(
        self: &Arc<Self>,
        access: Access,
        operation: &'static str,
        subject: &(dyn fmt::Display + Sync),
        request: impl Fn(Client) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let clock = self.environment.clock();
        let begun = clock.monotonic();
        let (mut failures, mut pause) = (0, FIRST_PAUSE);
        loop {
            let at = *self.current.borrow();
            let member = &self.members[at];
            let failure = match self.attempt(member, &request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            tracing::debug!(member = member.url, operation, failure = failure.message, "etcd has failed");
            if failure.stale_login {
                *member.client.lock().await = None;
            }
            if failure.elsewhere {
                self.leave(at);
            }
            let harmless = access == Access::Read || !failure.may_have_happened;
            if !harmless || !failure.elsewhere || clock.monotonic().since(begun) > PATIENCE {
                return Err(self.error(failure, harmless, &member.url, operation, subject));
            }
            failures += 1;
            if failures % self.members.len() == 0 {
                clock.sleep(pause).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }

    async fn attempt<T, F>(&self, member: &Member, request: &impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let begun = self.environment.clock().monotonic();
        let client = match self.environment.timeout(LIMIT, self.client(member)).await {
            None => return Err(Failure::silence(LIMIT).before()),
            Some(client) => client.map_err(|error| Failure::of(&error).before())?,
        };
        let left = LIMIT.saturating_sub(self.environment.clock().monotonic().since(begun));
        match self.environment.timeout(left, request(client)).await {
            None => Err(Failure::silence(LIMIT)),
            Some(answer) => answer.map_err(|error| Failure::of(&error)),
        }
    }

    async fn client(&self, member: &Member) -> Result<Client, etcd_client::Error> {
        let mut slot = member.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = Client::connect([&member.url], Some(self.connect_options())).await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    fn connect_options(&self) -> ConnectOptions {
        let EtcdOptions { location, password, authorities, identity, silence, .. } = &self.options;
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_keep_alive(*silence, KEEP_ALIVE)
            .with_keep_alive_while_idle(false)
            // A member that is cut off says so at once, instead of keeping us waiting.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = location.user() {
            connect = connect.with_user(user, password.as_ref().map_or("", |password| password.reveal()));
        }
        if location.tls() {
            let mut tls = match authorities {
                Some(authorities) => TlsOptions::new().ca_certificate(Certificate::from_pem(authorities)),
                None => TlsOptions::new().with_native_roots(),
            };
            if let Some(identity) = identity {
                tls = tls.identity(etcd_client::Identity::from_pem(&identity.certificate, &identity.key));
            }
            connect = connect.with_tls(tls);
        }
        connect
    }

    /// Asks another member from now on, unless somebody else has moved on already.
    fn leave(self: &Arc<Self>, at: usize) {
        let next = (at + 1) % self.members.len();
        self.current.send_if_modified(|current| {
            let moves = *current == at && next != at;
            if moves {
                *current = next;
            }
            moves
        });
        if let Some(home) = self.home
            && *self.current.borrow() != home
            && !self.returns.swap(true, Ordering::AcqRel)
        {
            self.return_to(home);
        }
    }

    /// Has this machine's own member be asked again once it answers, with the consent of a majority. Until then nobody
    /// waits for it.
    fn return_to(self: &Arc<Self>, home: usize) {
        let endpoints = Arc::downgrade(self);
        let environment = self.environment.clone();
        let until = environment.tasks().shutdown();
        self.environment.tasks().spawn("etcd's own member", async move {
            loop {
                tokio::select! {
                    biased;
                    () = until.requested() => return,
                    () = environment.clock().sleep(RETURN) => {}
                }
                let Some(endpoints) = endpoints.upgrade() else { return };
                let answered = tokio::select! {
                    biased;
                    () = until.requested() => return,
                    answered = endpoints.answers(home) => answered,
                };
                if answered {
                    // Whoever leaves it from now on has it tried anew.
                    endpoints.returns.store(false, Ordering::Release);
                    endpoints.current.send_replace(home);
                    return;
                }
            }
        });
    }

    /// Whether a member answers what only a majority knows.
    async fn answers(&self, at: usize) -> bool {
        let member = &self.members[at];
        // Where the user may read.
        let key = self.options.location.prefix().map_or_else(String::new, |prefix| format!("{prefix}/"));
        let ask = |mut client: Client| {
            let key = format!("{key}steadfast/");
            async move { client.get(key, Some(GetOptions::new().with_count_only())).await }
        };
        match self.attempt(member, &ask).await {
            Ok(_) => true,
            Err(failure) => {
                if failure.stale_login {
                    *member.client.lock().await = None;
                }
                false
            }
        }
    }

    fn error(
        &self,
        failure: Failure,
        harmless: bool,
        url: &str,
        operation: &'static str,
        subject: &(dyn fmt::Display + Sync),
    ) -> Error {
        let message = format!("{url}: {}", failure.message);
        let error = Error::new(failure.kind, self, operation, subject, message);
        if harmless { error.without_effect() } else { error }
    }
}

/// Whether a host is an address of this machine: nobody can bind another one's.
fn is_here(host: &str) -> bool {
    let address = host.parse::<SocketAddr>().map(|address| address.ip());
    address.is_ok_and(|address| UdpSocket::bind((address, 0)).is_ok())
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store at {}", self.options.location)
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("location", &self.options.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_of_this_machine_is_asked_first() {
        for (location, first) in [
            ("etcd://203.0.113.1,127.0.0.1:2380,127.0.0.1/a", 1),
            ("etcd://203.0.113.1,203.0.113.2", 0),
            ("etcd://db.example:2379,127.0.0.1:2379", 1),
        ] {
            let options = EtcdOptions::new(location.parse().unwrap());
            let endpoints = Endpoints::new(Environment::system([1; 32]), options);
            assert_eq!(*endpoints.current.borrow(), first, "{location}");
        }
    }
}
