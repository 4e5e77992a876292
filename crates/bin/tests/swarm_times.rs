//! How long a member of a Docker Swarm is away when its node is cut off, by phases, beside Swarm's own detection and a
//! plain service of Swarm's with a local volume: `make test-swarm` for three times, `make swarm-times` for ten.
#![cfg(all(feature = "etcd", feature = "linux", feature = "swarm"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be"
)]

mod common;
mod docker;
mod lab;
mod load;
#[path = "../../backends/linux/tests/network/mod.rs"]
mod network;

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use common::cluster::has_redis;
use common::{expect, out};
use docker::{IMAGE, has_docker};
use lab::{COUNT, Lab};
use load::Writer;
use network::{eventually, may_make_networks};

/// A lease of 10 s, and 2 s more: what cannot be had sooner.
const FENCING: Duration = Duration::from_secs(12);

/// What a run has taken, each since the cut.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// It was placed on another node: the lease was over.
    placed: Duration,
    /// Its new container was asked for: the new node's agent was asked for its volume.
    asked: Duration,
    /// The claim had its new epoch: fenced.
    moved: Duration,
    /// The container had its volume: the data was prepared.
    mounted: Duration,
    /// The container's guard had come up.
    started: Duration,
    /// A client's write was acknowledged.
    served: Duration,
    /// Swarm took the node to be down.
    down: Duration,
    /// Swarm had its plain service run elsewhere, on an empty volume.
    plain: Duration,
}

#[test]
fn a_member_is_away_for_its_lease_and_a_few_seconds() {
    let test = "a_member_is_away_for_its_lease_and_a_few_seconds";
    if !may_make_networks(test) || !has_redis(test) || !has_docker(test) {
        return;
    }
    let runs = std::env::var("STEADFAST_TIMES").map_or(3, |text| text.parse().unwrap());
    let mut lab = Lab::on_a_swarm();
    lab.up(&["--swarm-image", &format!("redis={IMAGE}")], &["--volume-plugin"]);
    let (_, address) = lab.create("cache");
    let told = lab.cli(0, &["secret", "get", "cache", "password"]);
    expect(&told, 0);
    let writer = Writer::start(lab.network.outside(), "outside", &address, out(&told).trim());
    // One on each node, so that one of them is on the node that is cut off.
    let plain = ["service", "create", "--detach", "--name", "plain", "--replicas", "3"];
    let mount = ["--mount", "type=volume,source=plain,target=/plain", IMAGE];
    let command = ["redis-server", "--port", "0", "--unixsocket", "/plain/socket"];
    lab.docker(0, &[&plain[..], &mount, &command].concat());
    let times: Vec<Times> = (0..runs).map(|run| measure(&lab, &writer, run)).collect();
    print(&times);
}

/// Medians and maxima, as a table of Markdown.
fn print(times: &[Times]) {
    let column = |name: &str, of: &dyn Fn(&Times) -> Duration| {
        let mut all: Vec<f64> = times.iter().map(|times| of(times).as_secs_f64()).collect();
        all.sort_by(f64::total_cmp);
        let median = f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2]);
        println!("| {name} | {median:.1} | {:.1} |", all[all.len() - 1]);
    };
    println!("| {} runs, seconds since the cut | median | maximum |\n|---|---|---|", times.len());
    column("placed elsewhere: the lease is over", &|times| times.placed);
    column("its container asks for its volume", &|times| times.asked);
    column("claimed, with its epoch", &|times| times.moved);
    column("the container has the volume", &|times| times.mounted);
    column("its guard has come up", &|times| times.started);
    column("serves: a client's write is acknowledged", &|times| times.served);
    column("**our own share**: from the asking, or the placing if that was later, to the guard", &|times| {
        times.started.saturating_sub(times.begun())
    });
    column("of it ours alone: claim, volume, address, data, until Docker is told where it is", &|times| {
        times.mounted.saturating_sub(times.begun())
    });
    column("of it Docker's: it makes and starts the container", &|times| {
        times.started.saturating_sub(times.mounted)
    });
    column("the engine's: it reads its data, and is seen to serve", &|times| {
        times.served.saturating_sub(times.started)
    });
    column("all of it, after the lease", &|times| times.served.saturating_sub(FENCING));
    column("Swarm takes the node to be down", &|times| times.down);
    column("a plain service runs elsewhere, without its data", &|times| times.plain);
}

impl Times {
    /// From when on nobody else was waited for.
    fn begun(&self) -> Duration {
        self.asked.max(self.placed)
    }
}

/// What the machine had to do in the last minute, and how many processors it has for that.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let processors = std::thread::available_parallelism().unwrap();
    format!("load {} on {processors} processors", load.split(' ').next().unwrap())
}

fn measure(lab: &Lab, writer: &Writer, run: usize) -> Times {
    lab.all_ready(0);
    let (on, _) = eventually("it serves", || lab.serving(0, "cache"));
    let near = (on + 1) % COUNT;
    eventually("the plain service runs on each node", || {
        (0..COUNT).all(|at| plain_on(lab, std::iter::once(at)) == 1).then_some(())
    });
    let marker = |at: u8| lab.folder.path().join(format!("docker{at}/data/volumes/plain/_data/marker-{run}"));
    fs::write(marker(on), "").unwrap();
    let (begun, wall) = (Instant::now(), SystemTime::now());
    lab.network.cut(on);
    // It goes on to acknowledge writes to nobody outside.
    std::thread::sleep(Duration::from_secs(2));
    let away = Instant::now();
    let (mut down, mut elsewhere) = (None, None);
    eventually("everything has come about", || {
        let output =
            lab.engine(near).run(lab.machine(near), &["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]);
        if down.is_none() && out(&output).contains(&format!("node-{on} Down")) {
            down = Some(begun.elapsed());
        }
        if elsewhere.is_none() && plain_on(lab, (0..COUNT).filter(|at| *at != on)) == 3 {
            elsewhere = Some(begun.elapsed());
        }
        (down.is_some() && elsewhere.is_some()).then_some(())
    });
    // The client knows when; what Docker was asked above, it may have answered late.
    let served = eventually("a write is acknowledged", || writer.acknowledged_since(away));
    let (now_on, _) = eventually("it serves", || lab.serving(near, "cache"));
    assert_ne!(now_on, on);
    // Swarm alone leaves the volume where it was.
    assert!((0..COUNT).all(|at| marker(at).exists() == (at == on)), "a local volume is its node's");
    let why = lab.json(near, &["why", "cache-0"]).unwrap().to_string();
    let told = |reason: &str| since(&why, reason, wall);
    let said = |text: &str| logged(lab, now_on, text, wall);
    let times = Times {
        placed: told("NodeDead"),
        asked: said("a container asks for its volume"),
        moved: told("MemberMoved"),
        mounted: said("a container has its volume"),
        started: said("its container's guard has come up"),
        served: served.duration_since(begun),
        down: down.unwrap(),
        plain: elsewhere.unwrap(),
    };
    println!("{run}: {}: {times:?}", load());
    lab.network.heal(on);
    lab.all_ready(near);
    // Made again, one on each node: Swarm makes them on those that it takes to be there.
    scale_plain(lab, near, 0);
    eventually("it has none", || (plain_on(lab, 0..COUNT) == 0).then_some(()));
    eventually("the swarm takes every node to be there", || {
        let listed = lab.told_by_docker(near, &["node", "ls", "--format", "{{.Status}}"])?;
        (listed.lines().filter(|status| *status == "Ready").count() == usize::from(COUNT)).then_some(())
    });
    scale_plain(lab, near, 3);
    times
}

/// Swarm may be electing a leader.
fn scale_plain(lab: &Lab, at: u8, replicas: u8) {
    let scaled = format!("plain={replicas}");
    eventually("it is scaled", || {
        let output = lab.engine(at).run(lab.machine(at), &["service", "scale", "--detach", &scaled]);
        output.status.success().then_some(())
    });
}

/// How many containers of the plain service run on these machines. Asked there: while Swarm elects a leader it does not
/// hear what runs.
fn plain_on(lab: &Lab, machines: impl Iterator<Item = u8>) -> usize {
    let filter = "label=com.docker.swarm.service.name=plain";
    machines.map(|at| lab.docker(at, &["ps", "--quiet", "--filter", filter]).lines().count()).sum()
}

/// How long after `wall` the last event with this reason is, as `why` tells.
fn since(why: &str, reason: &str, wall: SystemTime) -> Duration {
    // `{"reason":"NodeDead","text":"2026-01-31T12:00:00.123Z (epoch 1) …"}`
    let at = why.rfind(&format!("\"{reason}\"")).unwrap();
    let time = why[at..].split('T').find(|part| part.as_bytes().get(2) == Some(&b':')).unwrap();
    of_day(time, wall)
}

/// How long after `wall` the agent of a machine has last said so of the member.
fn logged(lab: &Lab, at: u8, text: &str, wall: SystemTime) -> Duration {
    let log = fs::read_to_string(lab.folder.path().join(format!("m{at}.log"))).unwrap();
    let line = log.lines().rfind(|line| line.contains(text) && line.contains("member=cache-0"));
    // `2026-01-31T12:00:00.123456Z  INFO …`
    of_day(line.unwrap().split_once('T').unwrap().1, wall)
}

/// How long after `wall` it was that time of the day, as in `12:00:00.123Z`.
fn of_day(time: &str, wall: SystemTime) -> Duration {
    let time = time.split('Z').next().unwrap();
    let parts: Vec<f64> = time.split(':').map(|part| part.parse().unwrap()).collect();
    let day = Duration::from_secs_f64(parts[0] * 3_600.0 + parts[1] * 60.0 + parts[2]);
    let begun = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let begun_day =
        Duration::from_secs(begun.as_secs() % 86_400) + Duration::from_nanos(begun.subsec_nanos().into());
    // Over midnight it is a day less.
    day.checked_sub(begun_day).unwrap_or_else(|| day + Duration::from_secs(86_400) - begun_day)
}
