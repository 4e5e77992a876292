//! `steadfast up`: servers and agents as child processes, kept alive, ended in order.
//!
//! Nothing depends on this process: killed, it leaves everything running, and the next `up` replaces servers and
//! agents by its own, while the members go on serving.

mod layout;
mod lost;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use steadfast_core::ids::{NodeName, ZoneName};
use steadfast_core::model::NodeHealth;
use steadfast_lock::Lock;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::layout::{Layout, NodeEntry, ServerEntry, is_own, lay_out, read_layout};
use super::logging::rotated::{self, RotatedError};
use super::supervise::{Supervised, open_log, send_away};
use super::{Signals, local_volumes};
use crate::cli::{Global, RemoteOptions};
use crate::config::ClusterConfig;
use crate::data_dir::{DataDir, Endpoint};
use crate::exit::{Context as _, Exit, Failure, Result};
use crate::output::{Format, Tone, line, note, note_into, paint};

/// What `up` shall run.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct UpOptions {
    /// How many nodes to run [default: those of last time, or 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: Option<u16>,
    /// How many servers to run [default: those of last time, or 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) servers: Option<u16>,
    /// The zones, given to the nodes in turn [default: those of last time, or a,b,c]
    #[arg(long, value_delimiter = ',', value_name = "ZONE,...")]
    pub(crate) zones: Vec<ZoneName>,
    /// Where the DNS server listens [default: that of last time, or 127.0.0.153:5353]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) dns: Option<SocketAddr>,
    /// A folder in which each node has a disk of its own, for volumes that stay on it [default: that of last time, or
    /// volumes that any node can have]
    #[arg(long, value_name = "DIR")]
    local_volumes: Option<PathBuf>,
    /// Return once everything runs, and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Leave the engines running when this ends
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// The file that standard error goes to: it is begun anew when it is full
    #[arg(long, value_name = "FILE", hide = true)]
    log_file: Option<PathBuf>,
}

/// How long everything may take to answer.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// Runs servers and agents until Ctrl-C or SIGTERM.
pub(crate) async fn up(given: Option<&Path>, options: &UpOptions) -> Result<Exit> {
    // An end that is asked for is an orderly one, however early it comes.
    let mut signals = Signals::new()?;
    if let Some(log) = &options.log_file {
        note_into(RotatedError::new(log.clone(), rotated::LOG_BYTES));
    }
    let (data, config, only) = prepare(given, options).await?;
    if options.detach {
        drop(only);
        return detach(&data, options).await;
    }
    let layout = lay_out(&data, options)?;
    if config.network.is_some() && layout.nodes.len() > 1 {
        return Err(Failure::usage(
            "members' addresses are on a network (network in cluster.json), and `up` plays several machines",
            "run `steadfast serve` and `steadfast agent` on each machine, or `steadfast up --nodes 1`",
        ));
    }
    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    for server in &layout.servers {
        servers.spawn(server_child(&data, server).keep(stopped.clone()));
    }
    let (stop_agents, agents_stopped) = watch::channel(false);
    let mut agents = JoinSet::new();
    for node in &layout.nodes {
        agents.spawn(agent_child(&data, node, &layout).keep(agents_stopped.clone()));
    }
    let run = async {
        match until_ready(&data, &layout).await {
            Ok(()) => introduce(&data, &config, &layout)?,
            Err(failure) => note(&failure.to_string()),
        }
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        ended = run => ended?,
        () = signals.any() => {}
    }
    note(if options.leave_running {
        "stopping servers and agents; the engines stay, and the next `steadfast up` finds them"
    } else {
        "stopping agents, servers and engines, in this order (a second Ctrl-C leaves the engines running)"
    });
    let end = async {
        // Agents first, so that none starts anew what is about to stop; then nobody is left to fail over either.
        stop_agents.send_replace(true);
        while agents.join_next().await.is_some() {}
        stop.send_replace(true);
        while servers.join_next().await.is_some() {}
        if options.leave_running { Ok(()) } else { stop_engines(&data).await }
    };
    tokio::select! {
        ended = end => ended.map(|()| Exit::Done),
        () = signals.any() => {
            note("leaving as it is; `steadfast up` takes over whatever still runs");
            Ok(Exit::Detached)
        }
    }
}

/// Ends the `up` of a folder, in order, and waits until it is gone, and what still runs for files of it that have been
/// removed.
pub(crate) async fn down(given: Option<&Path>) -> Result<Exit> {
    let data = DataDir::locate(given)?;
    // First: it might be an `up` that makes the folder anew.
    let lost = lost::end(&data).await?;
    if lost && data.config_if_any()?.is_none() {
        return Ok(Exit::Done);
    }
    data.config()?;
    let lock = data.path("up.lock");
    // Longer than the engines are given to stop.
    send_away(&lock, Duration::from_secs(90)).await?;
    // An `up` that was killed, now or before, has left its children.
    for path in leftovers(&data)? {
        send_away(&path, Duration::from_secs(10)).await?;
    }
    stop_engines(&data).await?;
    Ok(Exit::Done)
}

/// The folder, which this `up` alone has from now on, free of what an earlier one has left running. What the options
/// say is written into its configuration once nothing speaks against it.
async fn prepare(given: Option<&Path>, options: &UpOptions) -> Result<(DataDir, ClusterConfig, Lock)> {
    if let Some(dns) = options.dns
        && !dns.ip().is_loopback()
    {
        return Err(Failure::usage(
            format!("--dns {dns} is not a loopback address"),
            "the members' own addresses are loopback addresses: give one of 127.0.0.0/8",
        ));
    }
    lost::refuse(&DataDir::locate(given)?)?;
    let (data, before) = DataDir::prepare(given, |_| {})?;
    let only = only_one(&data)?;
    // What an earlier `up` left behind holds its ports.
    for path in leftovers(&data)? {
        send_away(&path, Duration::from_secs(10)).await?;
    }
    let dns = options.dns.unwrap_or(before.dns);
    if before.names.is_none() {
        check_free(dns)?;
    }
    let mut wanted = before;
    if let Some(folder) = &options.local_volumes {
        local_volumes::choose(&data, &mut wanted, folder)?;
    }
    let (data, config) = DataDir::prepare(given, |config| {
        config.dns = dns;
        config.local_volumes = wanted.local_volumes;
    })?;
    Ok((data, config, only))
}

/// Refuses an address for DNS at which somebody else listens: the cluster would run without its names.
fn check_free(dns: SocketAddr) -> Result<()> {
    UdpSocket::bind(dns).and_then(|_| TcpListener::bind(dns)).map(drop).map_err(|error| {
        let failure = Failure::new(format!("the DNS server cannot listen on {dns}: {error}"));
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure
                .reason("PortInUse")
                .remedy("another program listens there: give another address with --dns ADDRESS:PORT")
                .exit(Exit::Conflict),
            std::io::ErrorKind::PermissionDenied => {
                failure.reason("PermissionDenied").remedy("give a port above 1023 with --dns ADDRESS:PORT")
            }
            _ => failure.remedy("give another address with --dns ADDRESS:PORT"),
        }
    })
}

fn only_one(data: &DataDir) -> Result<Lock> {
    let path = data.path("up.lock");
    Lock::try_exclusive(&path).context(format!("take {}", path.display()))?.ok_or_else(|| {
        Failure::new(format!("another `steadfast up` runs on {}", data.root().display()))
            .remedy("use that one, end it with `steadfast down`, or give another folder with --data DIR")
            .exit(Exit::Conflict)
    })
}

/// The locks of servers and agents, whoever holds them.
fn leftovers(data: &DataDir) -> Result<Vec<PathBuf>> {
    let mut locks: Vec<PathBuf> = data.nodes()?.iter().map(|node| agent_lock(data, node)).collect();
    locks.extend(data.servers()?.iter().map(|id| data.server(id).join("lock")));
    Ok(locks)
}

fn agent_lock(data: &DataDir, node: &NodeName) -> PathBuf {
    steadfast_agent::node_dir::NodeDir::new(data.node(node)).agent_lock()
}

fn server_child(data: &DataDir, server: &ServerEntry) -> Supervised {
    let folder = data.server(&server.id);
    let arguments: [OsString; 7] = [
        "serve".into(),
        "--data".into(),
        data.root().into(),
        "--id".into(),
        server.id.as_str().into(),
        "--listen".into(),
        server.listen.to_string().into(),
    ];
    Supervised {
        name: server.id.to_string(),
        arguments: arguments.into(),
        log: folder.join("log"),
        lock: folder.join("lock"),
        down_mark: None,
    }
}

fn agent_child(data: &DataDir, entry: &NodeEntry, layout: &Layout) -> Supervised {
    let urls: Vec<String> = layout.servers.iter().map(|server| format!("http://{}", server.listen)).collect();
    let arguments: [OsString; 9] = [
        "agent".into(),
        "--data".into(),
        data.root().into(),
        "--node".into(),
        entry.node.as_str().into(),
        "--zone".into(),
        entry.zone.as_str().into(),
        "--servers".into(),
        urls.join(",").into(),
    ];
    Supervised {
        name: entry.node.to_string(),
        arguments: arguments.into(),
        log: data.node(&entry.node).join("log"),
        lock: agent_lock(data, &entry.node),
        down_mark: Some(data.down_mark(&entry.node)),
    }
}

/// Whether everything that `up` shall run does, in a folder that may not be prepared yet.
pub(crate) async fn is_ready(data: &DataDir) -> Result<bool> {
    let held = steadfast_lock::is_held(&data.path("up.lock")).context("look for the running `up`")?;
    let layout = if held { read_layout(data)? } else { Layout::default() };
    Ok(!layout.nodes.is_empty() && missing(data, &layout).await?.is_empty())
}

/// Waits until every server listens and takes every node that shall live for ready.
async fn until_ready(data: &DataDir, layout: &Layout) -> Result<()> {
    let begun = Instant::now();
    loop {
        let missing = missing(data, layout).await?;
        if missing.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > READY_PATIENCE {
            return Err(Failure::new(format!("not up after {READY_PATIENCE:?}: {}", missing.join(", ")))
                .remedy(format!(
                    "look into the logs under {}; it is still being tried",
                    data.root().display()
                )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn missing(data: &DataDir, layout: &Layout) -> Result<Vec<String>> {
    let held = |lock: &Path| steadfast_lock::is_held(lock).context(format!("look at {}", lock.display()));
    let endpoints = data.endpoints()?;
    let mut missing = Vec::new();
    for server in &layout.servers {
        let told = endpoints.iter().any(|(id, _)| id == &server.id);
        if !told || !held(&data.server(&server.id).join("lock"))? {
            missing.push(server.id.to_string());
        }
    }
    let living =
        || layout.nodes.iter().map(|entry| &entry.node).filter(|node| !data.down_mark(node).exists());
    for node in living() {
        if !held(&agent_lock(data, node))? {
            missing.push(node.to_string());
        }
    }
    if missing.is_empty() {
        // Whoever is told that it is up makes a service, whose members would all go where a server has seen a node.
        for (id, Endpoint { url, .. }) in endpoints {
            if layout.servers.iter().any(|server| server.id == id) {
                let seen = ready_nodes(data, url).await;
                missing.extend(
                    living().filter(|node| !seen.contains(node)).map(|node| format!("{node} at {id}")),
                );
            }
        }
    }
    Ok(missing)
}

/// The nodes that a server takes for ready; one that does not answer, none.
async fn ready_nodes(data: &DataDir, server: String) -> BTreeSet<NodeName> {
    let remote = RemoteOptions { server: vec![server], ..RemoteOptions::default() };
    let global = Global { data: Some(data.root().to_owned()), output: Format::default(), remote };
    let nodes = match global.client() {
        Ok(client) => client.nodes().await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    nodes.into_iter().filter(|node| node.health == NodeHealth::Ready).map(|node| node.name).collect()
}

fn introduce(data: &DataDir, config: &ClusterConfig, layout: &Layout) -> Result<()> {
    let strong = |text: &str| paint(Tone::Strong, text);
    line(&format!("{} cluster {} in {}", strong("steadfast is up:"), config.cluster, data.root().display()))?;
    for (id, Endpoint { url, .. }) in data.endpoints()? {
        if layout.servers.iter().any(|server| server.id == id) {
            line(&format!("  {id:<10} {url}"))?;
        }
    }
    for NodeEntry { node, zone } in &layout.nodes {
        let down =
            if data.down_mark(node).exists() { "  down: `steadfast node start` revives it" } else { "" };
        line(&format!("  {node:<10} zone {zone}{down}"))?;
    }
    let ClusterConfig { dns, zone, loopback, fencing, .. } = config;
    line(&format!("  {:<10} {dns} answers for {zone}", "dns"))?;
    line(&format!(
        "  {:<10} members get {loopback}; fencing {fencing}: a volume's lock is the kernel's",
        "addresses"
    ))?;
    let given = if is_own(data) { String::new() } else { format!(" --data {}", data.root().display()) };
    line(&strong("try:"))?;
    for text in [
        format!("steadfast{given} create cache --blueprint redis --replicas 3 --wait"),
        format!("steadfast{given} get cache -o wide"),
        format!(
            "steadfast{given} node kill node-1      # and `steadfast{given} get cache --watch` beside it"
        ),
        format!("steadfast{given} why cache-0"),
        format!("dig @{} -p {} cache-0.{zone}", dns.ip(), dns.port()),
    ] {
        line(&format!("  {text}"))?;
    }
    line(if layout.nodes.is_empty() {
        ""
    } else {
        "Ctrl-C stops agents, servers and engines. kill -9 leaves the members serving; the next `up` finds them."
    })
}

/// Stops every engine in order, all at once.
async fn stop_engines(data: &DataDir) -> Result<()> {
    let mut nodes = JoinSet::new();
    for node in data.nodes()? {
        let folder = data.node(&node);
        nodes.spawn(async move { crate::daemon::engines::stop_all(&folder).await });
    }
    let mut failures = Vec::new();
    while let Some(ended) = nodes.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => failures.push(failure.to_string()),
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Failure::new(failures.join("\n"))) }
}

/// Starts `up` in the background, and returns once it is ready.
async fn detach(data: &DataDir, options: &UpOptions) -> Result<Exit> {
    let mut arguments = Vec::new();
    if let Some(nodes) = options.nodes {
        arguments.extend(["--nodes".to_owned(), nodes.to_string()]);
    }
    if let Some(servers) = options.servers {
        arguments.extend(["--servers".to_owned(), servers.to_string()]);
    }
    if !options.zones.is_empty() {
        let zones: Vec<&str> = options.zones.iter().map(ZoneName::as_str).collect();
        arguments.extend(["--zones".to_owned(), zones.join(",")]);
    }
    if let Some(folder) = &options.local_volumes {
        arguments.extend(["--local-volumes".to_owned(), folder.display().to_string()]);
    }
    if options.leave_running {
        arguments.push("--leave-running".to_owned());
    }
    let mut child = start_in_background(data.root(), &arguments)?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("look at `up`")? {
            return Err(Failure::new(format!("`up` ended at once ({status})"))
                .remedy(format!("look into {}", up_log(data.root()).display())));
        }
        if is_ready(data).await? {
            introduce(data, &data.config()?, &read_layout(data)?)?;
            let process = child.id().map(|id| format!(" (process {id})")).unwrap_or_default();
            line(&format!("it runs in the background{process}; `steadfast down` ends it"))?;
            return Ok(Exit::Done);
        }
        if begun.elapsed() > READY_PATIENCE {
            return Err(Failure::new(format!("not up after {READY_PATIENCE:?}"))
                .remedy(format!("look into {}; it is still being tried", up_log(data.root()).display())));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Where an `up` in the background says what it does.
pub(crate) fn up_log(folder: &Path) -> PathBuf {
    folder.join("up.log")
}

/// `up` on a folder, out of reach of the terminal's Ctrl-C.
pub(crate) fn start_in_background(folder: &Path, arguments: &[String]) -> Result<Child> {
    let log = up_log(folder);
    let output = open_log(&log)?;
    let errors = output.try_clone().context("share the log")?;
    Command::new(std::env::current_exe().context("find this program")?)
        .arg("up")
        .arg("--data")
        .arg(folder)
        .arg("--log-file")
        .arg(log)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context("start `up` in the background")
}
