//! What changes services: plan, apply, create, and the verbs on a whole service.

use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;
use steadfast_api::client::Client;
use steadfast_api::control::Guard;
use steadfast_core::control::PlanReport;
use steadfast_core::ids::{MemberName, NodeName, OperationId, ServiceName};
use steadfast_core::model::{Condition, Operation, Truth};

use super::Global;
use super::remote::refused;
use super::spec::{FileOption, SpecFlags};
use super::wait::{self, WaitOptions};
use crate::exit::{Context as _, Exit, Result};
use crate::output::{self, Format, Tone, note, paint, paint_note};

/// Show what applying a service file would do. Exit code 2 says that there are changes
#[derive(Debug, Clone, clap::Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    file: FileOption,
}

/// Make the service of a file
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    file: FileOption,
    #[command(flatten)]
    guard: GuardOptions,
    #[command(flatten)]
    wait: WaitOptions,
}

/// Make a service of flags
#[derive(Debug, Clone, clap::Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    flags: SpecFlags,
    /// Print the service file instead, for `apply -f`
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    guard: GuardOptions,
    #[command(flatten)]
    wait: WaitOptions,
}

/// A change of a whole service.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ChangeArgs {
    /// The service
    service: ServiceName,
    #[command(flatten)]
    guard: GuardOptions,
    #[command(flatten)]
    wait: WaitOptions,
}

/// The service that is meant.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ServiceArg {
    /// The service
    service: ServiceName,
}

#[derive(Debug, Clone, clap::Args)]
struct GuardOptions {
    /// Refuse it if anything has changed since this index (`plan` and `get -o json` tell it)
    #[arg(long, value_name = "INDEX")]
    check_index: Option<String>,
    /// Asking again with the same key gives the operation of the first time
    #[arg(long, value_name = "KEY", hide_short_help = true)]
    idempotency_key: Option<String>,
}

impl GuardOptions {
    fn guard(&self) -> Guard {
        Guard { idempotency_key: self.idempotency_key.clone(), if_index: self.check_index.clone() }
    }
}

/// What can be done to operations.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum OpVerb {
    /// List operations
    List {
        /// Only those of this service
        #[arg(long)]
        service: Option<ServiceName>,
    },
    /// Show an operation
    Get {
        /// The operation
        id: OperationId,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Ask an operation to end early
    Cancel {
        /// The operation
        id: OperationId,
    },
}

/// Which change of a whole service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Restart,
    Stop,
    Start,
    Delete,
    Undelete,
}

pub(super) async fn plan(global: &Global, args: &PlanArgs) -> Result<Exit> {
    let client = global.client()?;
    let report = client.plan(&args.file.read()?).await.map_err(refused)?;
    output::show(global.output, &report, || plan_text(&report))?;
    Ok(if changes(&report) { Exit::Changes } else { Exit::Done })
}

fn changes(report: &PlanReport) -> bool {
    report.changes.iter().any(|change| change.verb != "none")
}

fn plan_text(report: &PlanReport) -> String {
    let PlanReport { index, changes, fencing, outage_rule, guarantee, conditions, warnings } = report;
    let mut text = Vec::new();
    if changes.is_empty() {
        text.push("no changes".to_owned());
    }
    text.extend(
        changes.iter().map(|change| format!("{:<8} {}  {}", change.verb, change.subject, change.detail)),
    );
    text.push(format!("fencing   {fencing}: {outage_rule}"));
    text.push(format!("guarantee {guarantee}"));
    for Condition { kind, status, message, .. } in conditions {
        let tone = if *status == Truth::False { Tone::Warn } else { Tone::Faint };
        text.push(paint(tone, &format!("{kind:?}={status:?}  {message}")));
    }
    text.extend(warnings.iter().map(|warning| paint(Tone::Warn, &format!("warning: {warning}"))));
    text.push(format!("apply exactly this: steadfast apply -f FILE --check-index {index}"));
    text.join("\n")
}

pub(super) async fn apply(global: &Global, args: &ApplyArgs) -> Result<Exit> {
    make(global, &args.file.read()?, &args.guard, &args.wait).await
}

pub(super) async fn create(global: &Global, args: &CreateArgs) -> Result<Exit> {
    let spec = args.flags.spec();
    if args.dry_run {
        let text = toml::to_string(&spec).context("write the service file")?;
        output::show(global.output, &spec, || text.trim_end().to_owned())?;
        return Ok(Exit::Done);
    }
    make(global, &spec, &args.guard, &args.wait).await
}

async fn make(global: &Global, spec: &Value, guard: &GuardOptions, wait: &WaitOptions) -> Result<Exit> {
    let client = global.client()?;
    // Who does not look at the plan first shall read its warnings all the same. What is wrong with the file, `apply`
    // itself says.
    let warnings = client.plan(spec).await.map(|report| report.warnings).unwrap_or_default();
    let operation = client.apply(spec, &guard.guard()).await.map_err(refused)?;
    for warning in warnings {
        note(&paint_note(Tone::Warn, &format!("warning: {warning}")));
    }
    begun(global, &client, operation, wait).await
}

pub(super) async fn change(global: &Global, change: Change, args: &ChangeArgs) -> Result<Exit> {
    let client = global.client()?;
    let (name, guard) = (&args.service, args.guard.guard());
    let operation = match change {
        Change::Restart => client.restart(name, &guard).await,
        Change::Stop => client.stop(name, &guard).await,
        Change::Start => client.start(name, &guard).await,
        Change::Delete => client.delete(name, &guard).await,
        Change::Undelete => client.undelete(name, &guard).await,
    };
    let exit = begun(global, &client, operation.map_err(refused)?, &args.wait).await?;
    if change == Change::Delete && global.output == Format::Table {
        note(&format!(
            "its volumes are kept unless its file says otherwise; `steadfast undelete {name}` brings it back"
        ));
    }
    Ok(exit)
}

pub(super) async fn pause(global: &Global, args: &ServiceArg, pause: bool) -> Result<Exit> {
    let client = global.client()?;
    let name = &args.service;
    let view = if pause { client.pause(name).await } else { client.resume(name).await }.map_err(refused)?;
    output::show(global.output, &view, || {
        format!("{name} is {}", if pause { "paused: nothing unplanned is done to it" } else { "resumed" })
    })?;
    Ok(Exit::Done)
}

/// Say that the disk with a member's volumes is gone for good: it gets its data from the others, on another node
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RebuildArgs {
    /// The member
    member: MemberName,
    /// The node whose disk it was; what is on it is given up
    #[arg(long, value_name = "NODE")]
    lost_disk: NodeName,
}

pub(super) async fn rebuild(global: &Global, args: &RebuildArgs) -> Result<Exit> {
    let client = global.client()?;
    let RebuildArgs { member, lost_disk } = args;
    let view = client.rebuild(member, lost_disk).await.map_err(refused)?;
    output::show(global.output, &view, || {
        format!("{member} is rebuilt on another node; see how far it is: steadfast why {member}")
    })?;
    Ok(Exit::Done)
}

pub(super) async fn op(global: &Global, verb: &OpVerb) -> Result<Exit> {
    let client = global.client()?;
    match verb {
        OpVerb::List { service } => {
            let filter = steadfast_api::control::OperationFilter { service: service.clone(), state: None };
            let mut page = steadfast_api::control::PageRequest { after: None, limit: 500 };
            let mut all = Vec::new();
            loop {
                let found = client.operations(&filter, &page).await.map_err(refused)?;
                all.extend(found.items);
                match found.next {
                    Some(cursor) => page.after = Some(cursor),
                    None => break,
                }
            }
            // Pages are in the order of identities, which tells people nothing.
            all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            print_operations(global.output, &all)?;
            Ok(Exit::Done)
        }
        OpVerb::Get { id, wait } => {
            let operation = client.operation(id).await.map_err(refused)?;
            if wait.wait {
                return followed(global, &client, operation, wait).await;
            }
            output::show(global.output, &operation, || operation_text(&operation))?;
            Ok(Exit::Done)
        }
        OpVerb::Cancel { id } => {
            let operation = client.cancel(id).await.map_err(refused)?;
            output::show(global.output, &operation, || operation_text(&operation))?;
            Ok(Exit::Done)
        }
    }
}

/// Tells of an operation that has begun, and waits for it if that is wanted.
async fn begun(global: &Global, client: &Client, operation: Operation, wait: &WaitOptions) -> Result<Exit> {
    if !wait.wait {
        let Operation { id, kind, service, .. } = &operation;
        output::show(global.output, &operation, || match global.output {
            Format::Name => id.to_string(),
            _ => format!("{kind} of {service} begun: operation {id}"),
        })?;
        if matches!(global.output, Format::Table | Format::Wide) {
            note(&format!("wait for it: steadfast op get {id} --wait"));
        }
        return Ok(Exit::Done);
    }
    followed(global, client, operation, wait).await
}

/// Waits for an operation, and shows it if it has succeeded.
async fn followed(
    global: &Global,
    client: &Client,
    operation: Operation,
    wait: &WaitOptions,
) -> Result<Exit> {
    let id = operation.id.clone();
    let exit = wait::follow(client, operation, wait.timeout.0).await?;
    if exit == Exit::Done {
        let ended = client.operation(&id).await.map_err(refused)?;
        output::show(global.output, &ended, || match global.output {
            Format::Name => ended.id.to_string(),
            _ => format!(
                "{} of {}: {}",
                ended.kind,
                ended.service,
                paint(Tone::Good, &ended.state.to_string())
            ),
        })?;
    }
    Ok(exit)
}

fn print_operations(format: Format, all: &[Operation]) -> Result<()> {
    #[derive(Serialize)]
    struct List<'a> {
        items: &'a [Operation],
    }
    output::show(format, &List { items: all }, || {
        const COLUMNS: &[output::Column] = &[
            output::column("ID"),
            output::column("KIND"),
            output::column("SERVICE"),
            output::column("STATE"),
            output::column("AGE"),
            output::column("WAITS FOR"),
            output::wide("SERVER"),
        ];
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|operation| {
                vec![
                    operation.id.to_string(),
                    operation.kind.to_string(),
                    operation.service.to_string(),
                    operation.state.to_string(),
                    output::since(operation.created_at),
                    output::or_dash(operation.waiting.as_ref().map(|(reason, _)| reason)),
                    output::or_dash(operation.server.as_ref()),
                ]
            })
            .collect();
        output::rows(format, COLUMNS, 0, &rows)
    })
}

fn operation_text(operation: &Operation) -> String {
    let Operation { id, kind, service, state, steps, waiting, failure, .. } = operation;
    let mut text = vec![format!("operation {id}"), format!("  {kind} of {service}: {state}")];
    text.extend(steps.iter().map(|step| format!("  {:<8} {}", format!("{:?}", step.state), step.name)));
    text.extend(waiting.iter().map(|(reason, words)| format!("  waits for {reason}: {words}")));
    text.extend(failure.iter().map(|(reason, words)| format!("  failed: {reason}: {words}")));
    text.join("\n")
}
