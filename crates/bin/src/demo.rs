//! The demonstration: a real client writes by name while the node under the primary is killed, the member comes
//! back on another node with its name, its address and its data, and every acknowledged write is checked.

mod cluster;
mod postgresql;
mod redis;
mod report;
mod session;
mod writer;
mod zookeeper;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use steadfast_api::client::Client;
use steadfast_api::control::{EventFilter, Guard};
use steadfast_core::control::{MemberView, ServiceView};
use steadfast_core::ids::{NodeName, ServiceName};
use steadfast_core::model::{MemberPhase, NodeHealth, Role, ServiceState};

use crate::cli::{Global, kill_node, refused, start_node};
use crate::daemon::Signals;
use crate::exit::{Exit, Failure, Result};
use crate::lookup;
use crate::output::{Format, Tone, note, paint_note};
use cluster::Cluster;
use report::{Phases, Report};
use session::Engine;
use writer::{Target, Writer};

/// What to demonstrate.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoOptions {
    /// Only with this engine [default: PostgreSQL and Redis]
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Print one JSON document for each engine (the same as `-o json`)
    #[arg(long)]
    json: bool,
    /// Leave everything running at the end
    #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    keep: bool,
}

/// How long a service may take to be created: real engines make real data.
const CREATE: Duration = Duration::from_secs(180);
/// How long the return of the member may take.
const RETURN: Duration = Duration::from_secs(120);
/// Writes before the node is killed.
const WARM: usize = 100;
/// Writes after the member serves again.
const AFTER: usize = 100;
const POLL: Duration = Duration::from_millis(10);

/// Runs the demonstration.
pub(crate) async fn demo(global: &Global, options: &DemoOptions) -> Result<Exit> {
    let json = options.json || global.output == Format::Json;
    let engines = match options.engine {
        Some(engine) => vec![engine],
        None => vec![Engine::Redis, Engine::Postgresql],
    };
    // From here on an end that is asked for leaves nothing behind.
    let mut signals = Signals::new()?;
    let Some(cluster) = Cluster::start(global, &mut signals).await? else {
        note("interrupted");
        return Ok(Exit::Detached);
    };
    let run = async {
        let mut exit = Exit::Done;
        for engine in &engines {
            let report = Box::pin(demonstrate(&cluster, *engine)).await?;
            report.print(&cluster, json).await?;
            if !report.holds() {
                exit = Exit::Error;
            }
        }
        Ok(exit)
    };
    let ended = tokio::select! {
        ended = run => ended,
        () = signals.any() => {
            note("interrupted");
            Ok(Exit::Detached)
        }
    };
    // Failures are explained before the evidence goes.
    if let Err(failure) = &ended {
        cluster.explain(failure).await;
    }
    let stopped = if options.keep { cluster.keep() } else { cluster.stop().await };
    ended.and_then(|exit| stopped.map(|()| exit))
}

async fn demonstrate(cluster: &Cluster, engine: Engine) -> Result<Report> {
    let client = &cluster.client;
    let service = create(cluster, engine).await?;
    let view = client.service(&service).await.map_err(refused)?;
    let target = target(cluster, engine, &view).await?;
    step(&format!("a client writes to {} (acknowledged: {})", target.name, engine.acknowledged()));
    let writer = Writer::start(target);
    until_written(&writer, WARM, CREATE).await?;

    let view = client.service(&service).await.map_err(refused)?;
    let before = leader(&view)?.clone();
    let node = before.node.clone().ok_or_else(|| Failure::new(format!("{} is on no node", before.name)))?;
    let address_before = address(cluster, &before).await?;
    let after_seq = newest_event(client, &service).await?;
    step(&format!("{} ({:?}) serves on {node} at {address_before}", before.name, before.role));

    step(&paint_note(Tone::Bad, &format!("killing {node}: its agent, its guards, its engines (SIGKILL)")));
    let begun = Instant::now();
    let killed = kill_node(&cluster.data, &node)?;
    let mut phases = Phases::new(begun);
    phases.reach("node_killed");
    let dead = Instant::now();
    step(&format!("{killed} processes of {node} are gone after {} ms", phases.last()));
    let after = follow_return(client, &service, &before, &node, &mut phases).await?;
    let first = first_acknowledged_after(&writer, dead).await?;
    phases.reach_at("first_acknowledged_write", first);
    tell(&phases);
    let more = writer.acknowledged() + AFTER;
    until_written(&writer, more, RETURN).await?;

    let longest_gap = writer.longest_gap();
    let address_after = address(cluster, &after).await?;
    step("reading every acknowledged write back");
    let (acknowledged, lost) =
        writer.check(RETURN).await.map_err(|error| Failure::new(format!("read the writes back: {error}")))?;
    start_node(&cluster.data, &node)?;
    let filter = EventFilter { service: Some(service.clone()), limit: 500, ..EventFilter::default() };
    let mut events = client.events(&filter).await.map_err(refused)?;
    events.retain(|view| view.event.at > after_seq);
    Ok(Report {
        engine,
        service,
        member: before.name,
        old_node: node,
        new_node: after.node.clone().ok_or_else(|| Failure::new("the member has no node"))?,
        name: before.host.clone(),
        name_after: after.host,
        address_before,
        address_after,
        acknowledged,
        lost,
        longest_gap,
        phases,
        events,
    })
}

/// Creates the service if it is not there from an earlier run, and waits until it is healthy.
async fn create(cluster: &Cluster, engine: Engine) -> Result<ServiceName> {
    let service: ServiceName = format!("demo-{}", engine.blueprint()).parse()?;
    let spec = serde_json::json!({
        "apiVersion": "steadfast/v1",
        "name": service,
        "blueprint": engine.blueprint(),
        "replicas": 3,
    });
    let begun = Instant::now();
    match cluster.client.service(&service).await {
        Ok(view) if view.state != ServiceState::Deleted => step(&format!("{service} is there already")),
        Ok(_) | Err(_) => {
            step(&format!("creating {service}: 3 members of {}", engine.blueprint()));
            cluster.client.apply(&spec, &Guard::default()).await.map_err(refused)?;
        }
    }
    let mut told = String::new();
    loop {
        let view = cluster.client.service(&service).await.map_err(refused)?;
        let now: Vec<String> =
            view.members.iter().map(|member| format!("{} {}", member.name, member.phase)).collect();
        let now = now.join(", ");
        if now != told {
            step(&format!("  {} {now}", view.state));
            told = now;
        }
        if view.state == ServiceState::Healthy {
            step(&format!("{service} is healthy after {:.1} s", begun.elapsed().as_secs_f64()));
            return Ok(service);
        }
        if begun.elapsed() > CREATE {
            return Err(
                Failure::new(format!("{service} is {} after {CREATE:?}", view.state)).exit(Exit::TimedOut)
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The name that takes writes: the one that follows the primary, or the service's own.
async fn target(cluster: &Cluster, engine: Engine, view: &ServiceView) -> Result<Target> {
    let connect = cluster.client.connect(&view.name).await.map_err(refused)?;
    let primary = view.names.iter().find(|name| name.starts_with("primary."));
    let name = primary.or(view.names.first()).cloned();
    Ok(Target {
        engine,
        dns: cluster.config.dns,
        name: name.ok_or_else(|| Failure::new(format!("{} has no name", view.name)))?,
        port: port_of(&connect.uri).unwrap_or(engine.usual_port()),
        env: connect.env,
    })
}

/// The first port of a URI with several hosts.
fn port_of(uri: &str) -> Option<u16> {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let hosts = rest.split(['/', '?']).next()?;
    // A password may have an `@`, escaped or not: hosts have none.
    let first = hosts.rsplit('@').next()?.split(',').next()?;
    first.rsplit_once(':')?.1.parse().ok()
}

/// The member whose node is to be killed: the primary, or where the engine leads itself any voter.
fn leader(view: &ServiceView) -> Result<&MemberView> {
    view.primary
        .as_ref()
        .and_then(|primary| view.members.iter().find(|member| &member.name == primary))
        .or_else(|| view.members.iter().find(|member| member.role == Role::Primary))
        .or_else(|| view.members.iter().find(|member| member.ready))
        .ok_or_else(|| Failure::new(format!("{} has no member that serves", view.name)))
}

/// What the member's name stands for, as DNS says.
async fn address(cluster: &Cluster, member: &MemberView) -> Result<IpAddr> {
    lookup::addresses(cluster.config.dns, &member.host)
        .await?
        .first()
        .copied()
        .ok_or_else(|| Failure::new(format!("{} has no address", member.host)))
}

/// Watches the member come back on another node.
async fn follow_return(
    client: &Client,
    service: &ServiceName,
    before: &MemberView,
    node: &NodeName,
    phases: &mut Phases,
) -> Result<MemberView> {
    let mut changes = std::pin::pin!(tokio::time::sleep(RETURN));
    loop {
        tokio::select! {
            () = &mut changes => {
                return Err(Failure::new(format!("{} does not serve again after {RETURN:?}", before.name))
                    .exit(Exit::TimedOut));
            }
            () = tokio::time::sleep(POLL) => {}
        }
        if !phases.has("node_proven_dead") {
            let nodes = client.nodes().await.map_err(refused)?;
            if nodes.iter().any(|view| &view.name == node && matches!(view.health, NodeHealth::Dead(_))) {
                phases.reach("node_proven_dead");
                tell(phases);
            }
        }
        let view = client.service(service).await.map_err(refused)?;
        let Some(now) = view.members.into_iter().find(|member| member.name == before.name) else { continue };
        if now.node.as_ref() == Some(node) || now.node.is_none() {
            continue;
        }
        if phases.reach_once("placed_elsewhere") {
            tell(phases);
        }
        if now.epoch > before.epoch && phases.reach_once("claimed") {
            tell(phases);
        }
        let moved = now.epoch > before.epoch && !now.stale;
        if moved && now.phase >= MemberPhase::Starting && phases.reach_once("engine_started") {
            tell(phases);
        }
        if moved && now.phase == MemberPhase::Serving && now.ready {
            phases.reach("serving");
            tell(phases);
            return Ok(now);
        }
    }
}

async fn until_written(writer: &Writer, count: usize, limit: Duration) -> Result<()> {
    let begun = Instant::now();
    while writer.acknowledged() < count {
        if begun.elapsed() > limit {
            let last = writer.last_error().unwrap_or_else(|| "no error".to_owned());
            return Err(Failure::new(format!(
                "the client got {} writes acknowledged in {limit:?}, and wants {count}; last error: {last}",
                writer.acknowledged()
            ))
            .exit(Exit::TimedOut));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn first_acknowledged_after(writer: &Writer, dead: Instant) -> Result<Instant> {
    loop {
        if let Some(first) = writer.first_after(dead) {
            return Ok(first);
        }
        if dead.elapsed() > RETURN {
            let last = writer.last_error().unwrap_or_else(|| "no error".to_owned());
            return Err(Failure::new(format!(
                "no write was acknowledged for {RETURN:?}; last error: {last}"
            ))
            .exit(Exit::TimedOut));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn newest_event(client: &Client, service: &ServiceName) -> Result<steadfast_core::runtime::Timestamp> {
    let filter = EventFilter { service: Some(service.clone()), limit: 1, ..EventFilter::default() };
    let events = client.events(&filter).await.map_err(refused)?;
    Ok(events.last().map(|view| view.event.at).unwrap_or_default())
}

fn tell(phases: &Phases) {
    if let Some((name, millis)) = phases.newest() {
        step(&format!("  {:>6} ms  {}", millis, name.replace('_', " ")));
    }
}

/// A step of the demonstration, for whoever watches.
fn step(text: &str) {
    note(&format!("{} {text}", paint_note(Tone::Strong, "==")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_in_uris_of_every_kind() {
        assert_eq!(port_of("redis://:p@a.b:6380,c.d:6380/0"), Some(6380));
        assert_eq!(port_of("postgresql://u:p%40x@a:5433,b:5433/db?target_session_attrs=any"), Some(5433));
        assert_eq!(port_of("a:2181,b:2181,c:2181"), Some(2181));
        assert_eq!(port_of("http://host"), None);
    }
}
