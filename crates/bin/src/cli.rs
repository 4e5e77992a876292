//! The command line: what can be said, and who does it. Verbs are in files of their own, by family.

mod blocked;
mod catalog;
mod change;
mod client;
mod dns;
mod follow;
mod machine;
mod node;
mod remote;
mod show;
mod spec;
mod store;
mod wait;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::daemon;
use crate::exit::{Context as _, Exit, Result};
use crate::output::{self, Format};
use change::Change;

pub(crate) use node::{kill as kill_node, start as start_node};
#[cfg(feature = "etcd")]
pub(crate) use remote::is_heard_at;
pub(crate) use remote::{RemoteOptions, check_secrecy, read_token, refused};
pub(crate) use show::event_line;

/// A control plane for stateful services that stay themselves: every member keeps its name, its address and its
/// data wherever it runs.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 error, 2 the plan has changes, 3 the wait timed out, 4 blocked: a \
                        person is needed,\n5 not found, 6 conflict or stale index, 64 usage, 130 detached."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The data folder of an embedded cluster [default: $XDG_DATA_HOME/steadfast, else ~/.local/share/steadfast; for
    /// root /var/lib/steadfast]
    #[arg(long, global = true, env = "STEADFAST_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) remote: RemoteOptions,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a cluster on this machine: servers, DNS and nodes as processes of one user
    Up(daemon::up::UpOptions),
    /// End the cluster that `up` runs here: agents, servers and engines
    Down,
    /// Show it: a real client writes while the node under its primary is killed
    Demo(crate::demo::DemoOptions),
    Plan(change::PlanArgs),
    Apply(change::ApplyArgs),
    Create(change::CreateArgs),
    List(show::ListArgs),
    Get(show::GetArgs),
    Describe(show::DescribeArgs),
    /// Restart every member, one after another
    Restart(change::ChangeArgs),
    /// Stop every member; everything is kept
    Stop(change::ChangeArgs),
    /// Start a stopped service
    Start(change::ChangeArgs),
    /// Let nothing unplanned be done to a service
    Pause(change::ServiceArg),
    /// End a pause
    Resume(change::ServiceArg),
    /// Delete a service; its volumes are kept unless its file says otherwise
    Delete(change::ChangeArgs),
    /// Bring a deleted service back
    Undelete(change::ChangeArgs),
    Rebuild(change::RebuildArgs),
    /// Look at operations, or end one early
    #[command(subcommand)]
    Op(change::OpVerb),
    Events(show::EventsArgs),
    Why(show::WhyArgs),
    Logs(client::LogsArgs),
    Connect(client::ConnectArgs),
    Exec(client::ExecArgs),
    /// Look at nodes; kill one of this machine for real
    #[command(subcommand)]
    Node(node::NodeVerb),
    /// Look at blueprints, or check one's own
    #[command(subcommand)]
    Catalog(catalog::CatalogVerb),
    /// Look at a service's secrets
    #[command(subcommand)]
    Secret(client::SecretVerb),
    /// Make what a store elsewhere needs
    #[command(subcommand)]
    Store(store::StoreVerb),
    /// Let the machine's resolver find the members' names
    #[command(subcommand)]
    Dns(dns::DnsVerb),
    /// Run one server: controller, API and DNS (what `up` starts)
    Serve(daemon::serve::ServeOptions),
    /// Run one node's agent (what `up` starts)
    Agent(daemon::agent::AgentOptions),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version of this program
    Version,
}

/// Runs the command line of this process.
pub(crate) fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are results, everything else is a usage error.
        Err(error) if error.use_stderr() => {
            error.print().ok();
            return Exit::Usage;
        }
        Err(result) => {
            return match output::printed(result.print()) {
                Ok(()) => Exit::Done,
                Err(failure) => output::failure(&failure),
            };
        }
    };
    match run(cli) {
        Ok(exit) => exit,
        Err(failure) => output::failure(&failure),
    }
}

fn run(cli: Cli) -> Result<Exit> {
    let Cli { global, verb } = cli;
    match verb {
        Verb::Completions { shell } => machine::completions(shell),
        Verb::Version => machine::version(&global),
        Verb::Dns(verb) => dns::run(&global, &verb),
        Verb::Catalog(verb) => catalog::run(&global, &verb),
        // These become another program, and have no runtime by then.
        Verb::Exec(args) => client::exec(&global, &args),
        Verb::Connect(args) => client::connect(&global, &args),
        verb => {
            if matches!(verb, Verb::Serve(_))
                && let Err(error) = daemon::memory::settle_for_one_arena()
            {
                output::note(&format!("the server takes more memory than it needs: {error}"));
            }
            let runtime = runtime()?;
            let result = runtime.block_on(run_async(&global, verb));
            // A thread that a hanging disk keeps does not keep the process.
            runtime.shutdown_background();
            result
        }
    }
}

async fn run_async(global: &Global, verb: Verb) -> Result<Exit> {
    let data = global.data.as_deref();
    match verb {
        Verb::Up(options) => daemon::up::up(data, &options).await,
        Verb::Down => daemon::up::down(data).await,
        Verb::Serve(options) => Box::pin(daemon::serve::serve(global, options)).await,
        Verb::Agent(options) => Box::pin(daemon::agent::agent(global, options)).await,
        Verb::Demo(options) => Box::pin(crate::demo::demo(global, &options)).await,
        Verb::Plan(args) => change::plan(global, &args).await,
        Verb::Apply(args) => change::apply(global, &args).await,
        Verb::Create(args) => change::create(global, &args).await,
        Verb::List(args) => show::list(global, &args).await,
        Verb::Get(args) => show::get(global, &args).await,
        Verb::Describe(args) => show::describe(global, &args).await,
        Verb::Restart(args) => change::change(global, Change::Restart, &args).await,
        Verb::Stop(args) => change::change(global, Change::Stop, &args).await,
        Verb::Start(args) => change::change(global, Change::Start, &args).await,
        Verb::Delete(args) => change::change(global, Change::Delete, &args).await,
        Verb::Undelete(args) => change::change(global, Change::Undelete, &args).await,
        Verb::Pause(args) => change::pause(global, &args, true).await,
        Verb::Resume(args) => change::pause(global, &args, false).await,
        Verb::Rebuild(args) => change::rebuild(global, &args).await,
        Verb::Op(verb) => change::op(global, &verb).await,
        Verb::Events(args) => show::events(global, &args).await,
        Verb::Why(args) => show::why(global, &args).await,
        Verb::Logs(args) => client::logs(global, &args).await,
        Verb::Node(verb) => node::run(global, &verb).await,
        Verb::Secret(verb) => client::secret(global, &verb).await,
        Verb::Store(verb) => Box::pin(store::run(&verb)).await,
        Verb::Completions { .. }
        | Verb::Version
        | Verb::Dns(_)
        | Verb::Catalog(_)
        | Verb::Exec(_)
        | Verb::Connect(_) => unreachable!("done without a runtime"),
    }
}

/// The runtime of verbs and daemons. The guard has none.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")
}

/// Runs one thing on a runtime without threads that is gone afterwards: what follows may need a single thread.
fn small_runtime<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_holds_together() {
        super::Cli::command().debug_assert();
    }
}
