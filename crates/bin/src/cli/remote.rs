//! The way to a server: which one, as whom, and what its refusals mean here.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use steadfast_api::auth::Token;
use steadfast_api::client::{Client, ClientConfig, ClientError};
use steadfast_core::Environment;
use steadfast_core::ids::ClusterName;

use super::Global;
use crate::data_dir::{self, DataDir};
use crate::exit::{Context as _, Exit, Failure, Result};

/// Where the servers are, and who asks.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct RemoteOptions {
    /// The servers, instead of those of the data folder: http://…, https://… or unix:///PATH
    #[arg(long, global = true, env = "STEADFAST_SERVER", value_delimiter = ',', value_name = "URL,...")]
    pub(crate) server: Vec<String>,
    /// The cluster that those servers serve
    #[arg(long, global = true, env = "STEADFAST_CLUSTER", value_name = "NAME", hide_short_help = true)]
    pub(crate) cluster: Option<ClusterName>,
    /// A file with the token to show, instead of the data folder's own
    #[arg(long, global = true, env = "STEADFAST_TOKEN_FILE", value_name = "FILE", hide_short_help = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates to trust instead of the system's, in PEM
    #[arg(long, global = true, env = "STEADFAST_CA_FILE", value_name = "FILE", hide_short_help = true)]
    pub(crate) ca_file: Option<PathBuf>,
}

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl RemoteOptions {
    /// The certificates to trust instead of the system's.
    pub(crate) fn authorities(&self) -> Result<Option<Vec<u8>>> {
        let read = |file: &PathBuf| {
            fs::read(file).map_err(|error| {
                Failure::new(format!("read {}: {error}", file.display()))
                    .remedy("give the authority's certificate in PEM with --ca-file")
            })
        };
        self.ca_file.as_ref().map(read).transpose()
    }
}

impl Global {
    /// A client of the cluster that is meant.
    pub(crate) fn client(&self) -> Result<Client> {
        let data = DataDir::locate(self.data.as_deref())?;
        let RemoteOptions { server: servers, cluster, token_file, .. } = &self.remote;
        let own: Vec<String> = data.endpoints()?.into_iter().map(|(_, endpoint)| endpoint.url).collect();
        let (servers, own_cluster) = if servers.is_empty() {
            (own.clone(), Some(data.config()?.cluster))
        } else {
            (servers.clone(), data.config_if_any()?.map(|config| config.cluster))
        };
        if servers.is_empty() {
            return Err(Failure::new(format!("no server has run on {} yet", data.root().display()))
                .remedy("start the cluster with `steadfast up`, or name its servers with --server"));
        }
        let cluster = match cluster.clone().or(own_cluster) {
            Some(cluster) => cluster,
            None => data_dir::default_cluster(),
        };
        // The folder's own token is nobody else's business, whoever is named with --server.
        let is_own = |server: &String| own.iter().any(|url| url == server.trim_end_matches('/'));
        let token = match token_file {
            Some(file) => Some(read_token(file)?),
            None if servers.iter().all(is_own) && data.path("token").exists() => {
                Some(read_token(&data.path("token"))?)
            }
            None => None,
        };
        if token.is_some() {
            check_secrecy(&servers)?;
        }
        let mut config = ClientConfig::new(servers, cluster, token);
        config.timeout = PATIENCE;
        config.authorities = self.remote.authorities()?;
        let environment = Environment::system(data_dir::random()?);
        Client::new(environment, config).map_err(refused)
    }
}

/// The token in a file.
pub(crate) fn read_token(file: &Path) -> Result<Token> {
    let text = fs::read_to_string(file).map_err(|error| {
        let failure = Failure::new(format!("read {}: {error}", file.display()));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => failure
                .reason("PermissionDenied")
                .remedy("run as the user who started the cluster, or give another file with --token-file"),
            _ => failure.remedy("give the token's file with --token-file"),
        }
    })?;
    Token::new(&text).context(format!("read {}", file.display()))
}

/// Refuses to send a token over a network that others may listen on. Servers refuse to be heard there, too.
pub(crate) fn check_secrecy(servers: &[String]) -> Result<()> {
    match servers.iter().find(|server| is_heard(server)) {
        None => Ok(()),
        Some(server) => Err(Failure::usage(
            format!("{server} would carry the token in the clear to another machine"),
            "write https://, or let a tunnel end at 127.0.0.1",
        )),
    }
}

fn is_heard(server: &str) -> bool {
    let Some(rest) = server.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    is_heard_at(authority.rsplit('@').next().unwrap_or(authority))
}

/// Whether what is sent to `HOST:PORT` leaves this machine.
pub(crate) fn is_heard_at(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

const DISTRUST: &str = "give the certificate of the authority that signed the server's with --ca-file FILE, and ask \
                        the server by a name or address that its certificate has";

/// Whether a server was not spoken to because its certificate is not trusted.
fn distrusts(error: &ClientError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        // An error of the system hides the one it was made of from `source`.
        let inner = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        let tls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// What a call that failed means to a user.
pub(crate) fn refused(error: ClientError) -> Failure {
    Failure { is_silence: is_silence(&error), ..told(error) }
}

/// Whether a call failed for want of an answer, which may be that of a server that is being replaced.
pub(crate) fn is_silence(error: &ClientError) -> bool {
    match error.problem() {
        Some(problem) => matches!(problem.status, 502..=504),
        None => {
            matches!(error, ClientError::Unreachable { .. } | ClientError::Answer { .. }) && !distrusts(error)
        }
    }
}

fn told(error: ClientError) -> Failure {
    let Some(problem) = error.problem() else {
        let failure = Failure::new(&error);
        return match &error {
            ClientError::Config { .. } => failure.exit(Exit::Usage),
            _ if distrusts(&error) => failure.remedy(DISTRUST),
            _ => failure.remedy("start the cluster with `steadfast up`, or look into its servers' logs"),
        };
    };
    let exit = match problem.status {
        400 => Exit::Usage,
        404 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        _ => Exit::Error,
    };
    let message = if problem.errors.is_empty() {
        problem.detail.clone()
    } else {
        let lines: Vec<String> = problem
            .errors
            .iter()
            .map(|error| format!("{}: {}\n  {}", error.field, error.problem, error.remedy))
            .collect();
        lines.join("\n")
    };
    let mut failure = Failure::new(message).reason(&problem.code).exit(exit);
    if problem.status == 401 {
        return failure.remedy("give a file with a token that the server knows with --token-file FILE");
    }
    if problem.errors.is_empty()
        && let Some(remedy) = &problem.remedy
    {
        failure = failure.remedy(remedy);
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_clear_stays_on_this_machine() {
        for fine in [
            "http://127.0.0.1:7070",
            "http://127.3.2.1",
            "http://[::1]:7070/",
            "http://localhost:1",
            "https://10.0.0.1",
            "unix:///run/s.sock",
        ] {
            assert!(!is_heard(fine), "{fine}");
        }
        for heard in [
            "http://10.0.0.1:7070",
            "http://[fe80::1]:7070",
            "http://example.org",
            "http://127.0.0.1@example.org",
            "http://127.0.0.1.example.org:7070",
        ] {
            assert!(is_heard(heard), "{heard}");
        }
    }
}
