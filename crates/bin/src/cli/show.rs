//! What shows services: list, get, describe, events, why.

use std::collections::BTreeSet;
use std::convert::Infallible;

use clap::Args;
use serde::Serialize;
use steadfast_api::client::Client;
use steadfast_api::control::{EventFilter, PageRequest};
use steadfast_core::control::{EventView, MemberView, ServiceView, Why};
use steadfast_core::ids::{MemberName, ServiceName};
use steadfast_core::model::{Condition, ServiceState, Truth};

use super::Global;
use super::follow::Following;
use super::remote::refused;
use crate::exit::{Exit, Result};
use crate::output::{self, Column, Format, Tone, column, line, number, or_dash, paint, wide};

/// Whether to go on showing.
#[derive(Debug, Clone, Args)]
pub(super) struct WatchOption {
    /// Go on, and show every change
    #[arg(short, long)]
    watch: bool,
}

/// List the services
#[derive(Debug, Clone, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    watch: WatchOption,
}

/// Show a service and its members, or all services
#[derive(Debug, Clone, Args)]
pub(super) struct GetArgs {
    /// The service
    service: Option<ServiceName>,
    #[command(flatten)]
    watch: WatchOption,
}

/// Show all that is known of a service
#[derive(Debug, Clone, Args)]
pub(super) struct DescribeArgs {
    /// The service
    service: ServiceName,
}

/// Show what happened, oldest first
#[derive(Debug, Clone, Args)]
pub(super) struct EventsArgs {
    /// Only of this service
    service: Option<ServiceName>,
    /// Only of this member
    #[arg(long)]
    member: Option<MemberName>,
    /// At most this many, the newest
    #[arg(long, default_value_t = 200)]
    limit: usize,
    #[command(flatten)]
    watch: WatchOption,
}

/// Say why a member is as it is, and what to do
#[derive(Debug, Clone, Args)]
pub(super) struct WhyArgs {
    /// The member, as in orders-0
    member: MemberName,
}

const SERVICES: &[Column] = &[
    column("NAME"),
    column("BLUEPRINT"),
    column("STATE"),
    number("SERVING"),
    column("PRIMARY"),
    wide("REVISION"),
    wide("TERM"),
    wide("OPERATION"),
    wide("INDEX"),
];

const MEMBERS: &[Column] = &[
    column("MEMBER"),
    column("PHASE"),
    column("ROLE"),
    column("NODE"),
    column("ADDRESS"),
    number("EPOCH"),
    number("RESTARTS"),
    column("WAITS FOR"),
    wide("ZONE"),
    wide("HOST"),
    wide("POSITION"),
    wide("LAG"),
    wide("SEEN"),
];

#[derive(Serialize)]
struct Items<'a, T> {
    items: &'a [T],
}

pub(super) async fn list(global: &Global, args: &ListArgs) -> Result<Exit> {
    let format = global.output;
    repeat(global, &args.watch, async |client| {
        let services = all_services(client).await?;
        output::text(format, &Items { items: &services }, || services_table(format, &services))
    })
    .await
}

pub(super) async fn get(global: &Global, args: &GetArgs) -> Result<Exit> {
    let Some(name) = &args.service else {
        return list(global, &ListArgs { watch: args.watch.clone() }).await;
    };
    let format = global.output;
    repeat(global, &args.watch, async |client| {
        let view = client.service(name).await.map_err(refused)?;
        output::text(format, &view, || {
            let service = services_table(format, std::slice::from_ref(&view));
            match format {
                Format::Name => service,
                _ => format!("{service}\n\n{}", members_table(format, &view.members)),
            }
        })
    })
    .await
}

pub(super) async fn describe(global: &Global, args: &DescribeArgs) -> Result<Exit> {
    let client = global.client()?;
    let view = client.service(&args.service).await.map_err(refused)?;
    let filter = EventFilter { service: Some(args.service.clone()), limit: 20, ..EventFilter::default() };
    let events = client.events(&filter).await.map_err(refused)?;
    output::show(global.output, &view, || match global.output {
        Format::Name => view.name.to_string(),
        _ => description(&view, &events),
    })?;
    Ok(Exit::Done)
}

pub(super) async fn events(global: &Global, args: &EventsArgs) -> Result<Exit> {
    let EventsArgs { service, member, limit, watch } = args;
    let filter = EventFilter { service: service.clone(), member: member.clone(), after: None, limit: *limit };
    if !watch.watch {
        let events = global.client()?.events(&filter).await.map_err(refused)?;
        output::show(global.output, &Items { items: &events }, || joined(events.iter().map(event_line)))?;
        return Ok(Exit::Done);
    }
    until_interrupted(async {
        let mut shown = BTreeSet::new();
        let mut following = Following::begin(global).await?;
        loop {
            let events = following.read(async |client| client.events(&filter).await.map_err(refused)).await?;
            for event in events {
                let text = event_line(&event);
                // A number counts within one record: of a service, or of a member.
                if shown.insert((event.service.clone(), event.event.seq, text.clone())) {
                    output::stream_item(global.output, &event, &text)?;
                }
            }
            following.change().await;
        }
    })
    .await
}

pub(super) async fn why(global: &Global, args: &WhyArgs) -> Result<Exit> {
    let client = global.client()?;
    let why = client.why(&args.member).await.map_err(refused)?;
    output::show(global.output, &why, || {
        let Why { member, summary, lines, next_action } = &why;
        let mut text = vec![format!("{}: {summary}", paint(Tone::Strong, member.as_str()))];
        for fact in lines {
            let code = fact.reason.as_ref().map(|reason| format!("{reason}: ")).unwrap_or_default();
            text.push(format!("  {code}{}", fact.text));
        }
        if let Some(action) = next_action {
            text.push(format!("{} {action}", paint(Tone::Warn, "do:")));
        }
        text.join("\n")
    })?;
    Ok(Exit::Done)
}

async fn all_services(client: &Client) -> Result<Vec<ServiceView>> {
    let mut page = PageRequest { after: None, limit: 500 };
    let mut all = Vec::new();
    loop {
        let found = client.services(&page).await.map_err(refused)?;
        all.extend(found.items);
        match found.next {
            Some(cursor) => page.after = Some(cursor),
            None => return Ok(all),
        }
    }
}

/// Shows once, or whatever changes until Ctrl-C, or until nobody reads it any more.
pub(super) async fn repeat(
    global: &Global,
    watch: &WatchOption,
    text: impl AsyncFn(&Client) -> Result<String>,
) -> Result<Exit> {
    if !watch.watch {
        match text(&global.client()?).await?.as_str() {
            "" => {}
            text => line(text)?,
        }
        return Ok(Exit::Done);
    }
    until_interrupted(async {
        let mut following = Following::begin(global).await?;
        let mut last = None;
        loop {
            let now = following.read(&text).await?;
            if last.as_ref() != Some(&now) {
                output::frame(&now)?;
                last = Some(now);
            }
            following.change().await;
        }
    })
    .await
}

async fn until_interrupted(follow: impl Future<Output = Result<Infallible>>) -> Result<Exit> {
    tokio::select! {
        ended = follow => match ended? {},
        _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
        () = output::reader_gone() => Ok(Exit::Done),
    }
}

fn services_table(format: Format, services: &[ServiceView]) -> String {
    let row = |view: &ServiceView| {
        vec![
            view.name.to_string(),
            view.blueprint.clone(),
            view.state.to_string(),
            format!("{}/{}", view.serving, view.replicas),
            or_dash(view.primary.as_ref()),
            view.revision.to_string(),
            or_dash(view.role_term),
            or_dash(view.operation.as_ref()),
            view.index.clone(),
        ]
    };
    output::rows(format, SERVICES, 0, &services.iter().map(row).collect::<Vec<_>>())
}

fn members_table(format: Format, members: &[MemberView]) -> String {
    let row = |view: &MemberView| {
        vec![
            view.name.to_string(),
            if view.stale { format!("{} (stale)", view.phase) } else { view.phase.to_string() },
            view.role.to_string(),
            or_dash(view.node.as_ref()),
            or_dash(view.address),
            view.epoch.to_string(),
            view.restarts.to_string(),
            or_dash(view.blocked.as_ref().map(|(reason, _)| reason)),
            or_dash(view.zone.as_ref()),
            view.host.clone(),
            or_dash(view.position),
            or_dash(view.lag),
            view.observed_ms_ago.map_or_else(|| "-".to_owned(), output::age),
        ]
    };
    output::rows(format, MEMBERS, 0, &members.iter().map(row).collect::<Vec<_>>())
}

fn description(view: &ServiceView, events: &[EventView]) -> String {
    let tone = match view.state {
        ServiceState::Healthy => Tone::Good,
        ServiceState::Unavailable => Tone::Bad,
        ServiceState::Stopped | ServiceState::Deleted => Tone::Faint,
        _ => Tone::Warn,
    };
    let mut text = vec![
        format!("{}  {}", paint(Tone::Strong, view.name.as_str()), paint(tone, &view.state.to_string())),
        format!("  blueprint  {}  revision {}  index {}", view.blueprint, view.revision, view.index),
        format!("  wanted     {:?}, {} members, {} serve", view.desired, view.replicas, view.serving),
        format!("  names      {}", view.names.join("  ")),
    ];
    if let Some(operation) = &view.operation {
        text.push(format!("  operation  {operation}"));
    }
    text.push("conditions".to_owned());
    text.extend(view.conditions.iter().map(condition_line));
    text.push("members".to_owned());
    text.push(indented(&members_table(Format::Table, &view.members)));
    for member in &view.members {
        if let Some((reason, words)) = &member.blocked {
            text.push(format!("  {} waits for {reason}: {words}", member.name));
        }
        for holder in &member.unreleased {
            text.push(format!("  {} is not proven released by {holder}", member.name));
        }
    }
    text.push("volumes".to_owned());
    text.extend(view.volumes.iter().map(|volume| format!("  {volume}")));
    text.push("events".to_owned());
    text.extend(events.iter().map(|event| format!("  {}", event_line(event))));
    text.join("\n")
}

fn condition_line(condition: &Condition) -> String {
    let Condition { kind, status, reason, message, since, next_action, .. } = condition;
    let tone = match status {
        Truth::True => Tone::Good,
        Truth::False => Tone::Warn,
        Truth::Unknown => Tone::Faint,
    };
    let reason = reason.as_ref().map(|reason| format!(" {reason}")).unwrap_or_default();
    let action = next_action.as_ref().map(|action| format!(" (do: {action})")).unwrap_or_default();
    let head = paint(tone, &format!("{kind:?}={status:?}"));
    format!("  {head}{reason} for {}: {message}{action}", output::since(*since))
}

/// One event on one line.
pub(crate) fn event_line(view: &EventView) -> String {
    let EventView { service, event } = view;
    let who = event.member.as_ref().map_or_else(|| service.to_string(), ToString::to_string);
    let epoch = event.epoch.map(|epoch| format!(" epoch {epoch}")).unwrap_or_default();
    // Milliseconds are enough for people, and line up.
    let at = event.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
    format!("{at}  {who:<16} {:<18} {}{epoch}", event.reason, event.message)
}

fn joined(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}

fn indented(text: &str) -> String {
    joined(text.lines().map(|line| format!("  {line}")))
}
