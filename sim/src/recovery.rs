//! How long it takes until clients can write again after a loss: the shipped code, and two others as small models.
//!
//! What is measured is the longest time without an acknowledged write after the loss, of a client that writes ten times a
//! second. Backends, engines and latencies are those of the profile, for all three alike.

use crate::hash;
use crate::model::{Fact, Profile};
use crate::run::{Action, Outcome, Scenario, Target, run};
use crate::time::Time;

/// What is lost, for good but for the control plane, which is started again after a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The process of the member that takes writes.
    Member,
    /// The node it runs on.
    Node,
    /// Every node of that node's zone.
    Zone,
    /// Every server.
    ControlPlane,
}

impl Loss {
    /// Every loss.
    pub const ALL: [Loss; 4] = [Loss::Member, Loss::Node, Loss::Zone, Loss::ControlPlane];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Member => "member",
            Loss::Node => "node",
            Loss::Zone => "zone",
            Loss::ControlPlane => "control plane",
        }
    }
}

/// When the loss is, in milliseconds.
const LOST_AT_MS: u64 = 60_000;
/// When to stop waiting.
const END_MS: u64 = LOST_AT_MS + 300_000;

/// How long the shipped code takes, in milliseconds; none: it does not come back within five minutes.
///
/// # Errors
/// If a scenario cannot be carried out.
pub fn shipped(loss: Loss, profile: &Profile, seed: u64) -> Result<Option<u64>, String> {
    let mut scenario = Scenario::calm(loss.name(), profile.clone(), seed);
    scenario.servers = 2;
    scenario.nodes = 6;
    scenario.zones = 3;
    scenario.clients.every_ms = 100;
    scenario.storm_ms = LOST_AT_MS;
    scenario.heal.within_ms = 1;
    scenario.heal.stable_ms = 1;
    // The same seed comes to the same point: what is lost is found there.
    let leader = leader(&run(&scenario)?).ok_or("nobody leads")?;
    let (member, node) = leader;
    scenario.storm_ms = END_MS;
    let number: u32 = node.rsplit('-').next().and_then(|text| text.parse().ok()).ok_or("no number")?;
    let in_zone = (1..=scenario.nodes).filter(|other| other % scenario.zones == number % scenario.zones);
    let lost: Vec<Action> = match loss {
        Loss::Member => vec![Action::CrashEngine(member)],
        Loss::Node => vec![Action::StopNode(Target::Node(node))],
        Loss::Zone => in_zone.map(|other| Action::StopNode(Target::Node(format!("node-{other}")))).collect(),
        Loss::ControlPlane => vec![Action::CrashServer(0), Action::CrashServer(1)],
    };
    for action in lost {
        scenario = scenario.at(LOST_AT_MS, action);
    }
    Ok(longest_silence(&run(&scenario)?, scenario.clients.every_ms))
}

fn leader(outcome: &Outcome) -> Option<(String, String)> {
    let leads = |(_, fact): &(Time, Fact)| match fact {
        Fact::Leads { member, node, leads: true, .. } => Some((member.to_string(), node.to_string())),
        _ => None,
    };
    outcome.facts.iter().filter(|(at, _)| at.millis() < LOST_AT_MS).filter_map(leads).next_back()
}

/// The longest time between two acknowledgements from the loss on, less what lies between any two.
fn longest_silence(outcome: &Outcome, every_ms: u64) -> Option<u64> {
    let acknowledged = outcome.facts.iter().filter_map(|(at, fact)| match fact {
        Fact::Acknowledged { .. } => Some(at.millis()),
        _ => None,
    });
    let times: Vec<u64> = acknowledged.filter(|at| *at >= LOST_AT_MS && *at < END_MS).collect();
    let last = *times.last()?;
    if last + 30_000 < END_MS {
        return None;
    }
    let before = std::iter::once(&LOST_AT_MS).chain(&times);
    let longest = before.zip(&times).map(|(from, to)| to - from).max()?;
    Some(longest.saturating_sub(every_ms + every_ms / 5))
}

/// An algorithm that is not ours, as a small model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Kubernetes with a StatefulSet: 40 s of grace for a node, 5 min until eviction, 6 min until a volume is
    /// detached by force; a container that ends is started again by its node.
    Kubernetes,
    /// The ancestor under Swarm: three heartbeats of 5 s, a new task after 5 s more, then the plugin detaches,
    /// attaches, each polled every 2 s, and waits for its DNS record, polled every 3 s. Nobody is promoted.
    Ancestor,
}

impl Other {
    /// How long it takes, in milliseconds; none: a member whose zone is lost has nowhere to go with its volume.
    pub fn takes(self, loss: Loss, profile: &Profile, seed: u64) -> Option<u64> {
        let draw = |what: &str, span| hash::draw_in(span, seed, hash::of_text(what), self as u64);
        let start = draw("start", profile.engines.start_ms) + draw("reconcile", profile.engines.reconcile_ms);
        let (detach, attach) =
            (draw("detach", profile.volumes.detach_ms), draw("attach", profile.volumes.attach_ms));
        let polled = |time: u64, every: u64| time.div_ceil(every) * every;
        match (self, loss) {
            (_, Loss::ControlPlane) => Some(0),
            (_, Loss::Zone) if profile.volumes.zonal => None,
            (Other::Kubernetes, Loss::Member) => Some(start + draw("notice", (0, 1_000))),
            // The last heartbeat was up to 10 s ago, and the controller looks every 5 s.
            (Other::Kubernetes, Loss::Node | Loss::Zone) => {
                let noticed = 40_000 - draw("age", (0, 10_000)) + draw("look", (0, 5_000));
                Some(noticed + 300_000 + 360_000 + attach + start)
            }
            (Other::Ancestor, Loss::Member) => {
                Some(5_000 + polled(detach, 2_000) + polled(attach, 2_000) + start)
            }
            (Other::Ancestor, Loss::Node | Loss::Zone) => {
                let noticed = 15_000 - draw("age", (0, 5_000));
                let names = polled(draw("names", (1_000, 15_000)), 3_000);
                Some(noticed + 5_000 + polled(detach, 2_000) + names + polled(attach, 2_000) + start)
            }
        }
    }
}

/// Times, and how many runs had none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distribution {
    times: Vec<u64>,
    never: usize,
}

impl Distribution {
    /// Of these.
    pub fn of(times: impl IntoIterator<Item = Option<u64>>) -> Self {
        let mut distribution = Distribution::default();
        for time in times {
            match time {
                Some(time) => distribution.times.push(time),
                None => distribution.never += 1,
            }
        }
        distribution.times.sort_unstable();
        distribution
    }

    /// The time within which so many of a hundred runs serve again; none: they do not.
    pub fn percentile(&self, percent: usize) -> Option<u64> {
        let all = self.times.len() + self.never;
        let rank = (all * percent).div_ceil(100).max(1);
        self.times.get(rank - 1).copied()
    }

    /// How many runs did not serve again.
    pub fn never(&self) -> usize {
        self.never
    }
}
