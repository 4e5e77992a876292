//! What brings a user to an engine: connect, exec, logs, secret.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Subcommand;
use futures::StreamExt as _;
use serde::Serialize;
use steadfast_api::control::{LogRequest, PageRequest};
use steadfast_core::ids::{MemberName, ServiceName};

use super::Global;
use super::remote::refused;
use crate::exit::{Context as _, Exit, Failure, Result};
use crate::output;

/// Open the engine's own client on a service, or print how to reach it
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConnectArgs {
    /// The service
    pub(super) service: ServiceName,
    /// Print a URI with every member, the password included, instead
    #[arg(long)]
    pub(super) uri: bool,
    /// Further arguments of the client
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(super) arguments: Vec<OsString>,
}

/// Run a program that knows every member by name, without root
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ExecArgs {
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

/// Print a member's output, kept across moves
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LogsArgs {
    /// The member, as in orders-0
    member: MemberName,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last lines only
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
}

/// What can be asked about secrets.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum SecretVerb {
    /// List the names of a service's secrets
    List {
        /// The service
        service: ServiceName,
    },
    /// Print a secret in the clear
    Get {
        /// The service
        service: ServiceName,
        /// The secret
        name: String,
    },
}

/// The hosts of a cluster, and how one service is reached. Asked before a program takes this one's place.
pub(super) async fn hosts(global: &Global) -> Result<Vec<(String, std::net::IpAddr)>> {
    let client = global.client()?;
    let mut page = PageRequest { after: None, limit: 500 };
    let mut hosts = Vec::new();
    loop {
        let services = client.services(&page).await.map_err(refused)?;
        for view in services.items {
            let addresses =
                view.members.iter().filter_map(|member| Some((member.host.clone(), member.address?)));
            hosts.extend(addresses);
            // The other names: what the service's own stands for, and what follows the primary.
            let primary =
                view.primary.as_ref().and_then(|name| view.members.iter().find(|of| &of.name == name));
            for name in &view.names {
                let member = if name.starts_with("primary.") {
                    primary
                } else if name.starts_with("replicas.") {
                    view.members.iter().find(|of| Some(&of.name) != view.primary.as_ref())
                } else {
                    primary.or(view.members.first())
                };
                hosts.extend(member.and_then(|member| Some((name.clone(), member.address?))));
            }
        }
        match services.next {
            Some(cursor) => page.after = Some(cursor),
            None => return Ok(hosts),
        }
    }
}

/// Becomes the program of `exec`. Returns only what went wrong. Must be called without any other thread.
pub(super) fn exec(global: &Global, args: &ExecArgs) -> Result<Exit> {
    let hosts = super::small_runtime(hosts(global))?;
    Err(crate::namespace::run(&hosts, &args.command))
}

/// Becomes the engine's own client, which gets the password in its environment. Returns only what went wrong, or
/// that the URI is printed.
pub(super) fn connect(global: &Global, args: &ConnectArgs) -> Result<Exit> {
    let view = super::small_runtime(async {
        let client = global.client()?;
        client.connect(&args.service).await.map_err(refused)
    })?;
    if args.uri {
        output::show(global.output, &view, || view.uri.clone())?;
        return Ok(Exit::Done);
    }
    let Some((program, arguments)) = view.client.split_first() else {
        return Err(Failure::new(format!("the blueprint of {} names no client", args.service))
            .remedy("print how to reach it: --uri"));
    };
    // The client knows members by name, wherever the machine's own resolver looks.
    crate::namespace::enter_with_hosts(&view.hosts)?;
    let error = Command::new(program).args(arguments).args(&args.arguments).envs(&view.env).exec();
    Err(Failure::new(format!("run {program}: {error}"))
        .remedy("install the engine's client, or print how to reach it: --uri")
        .exit(if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Error }))
}

pub(super) async fn logs(global: &Global, args: &LogsArgs) -> Result<Exit> {
    let client = global.client()?;
    let request = LogRequest { tail: args.tail, follow: args.follow };
    let mut chunks = client.logs(&args.member, &request).await.map_err(refused)?;
    let print = async {
        while let Some(chunk) = chunks.next().await {
            output::raw(&chunk.map_err(refused)?)?;
        }
        Ok(Exit::Done)
    };
    tokio::select! {
        ended = print => ended,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
        () = output::reader_gone() => Ok(Exit::Done),
    }
}

pub(super) async fn secret(global: &Global, verb: &SecretVerb) -> Result<Exit> {
    let client = global.client()?;
    match verb {
        SecretVerb::List { service } => {
            #[derive(Serialize)]
            struct Names {
                items: Vec<String>,
            }
            let names = Names { items: client.secrets(service).await.map_err(refused)? };
            output::show(global.output, &names, || names.items.join("\n"))?;
        }
        SecretVerb::Get { service, name } => {
            let secret = client.secret(service, name).await.map_err(refused)?;
            output::show(global.output, &secret, || secret.value.clone()).context("print the secret")?;
        }
    }
    Ok(Exit::Done)
}
