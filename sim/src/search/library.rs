//! The reference runs: one for every workflow that ships. To add one is to add an entry to [`ALL`].

use serde_json::json;

use crate::model::Profile;
use crate::model::host::Cut;
use crate::model::profile::ProverKind;
use crate::run::{Action, Scenario, ServiceFile, Target};

/// The profiles, by name.
pub const PROFILES: &[&str] = &["embedded", "block-storage", "shared-storage", "leases", ON_DISKS];

/// The profile whose volumes are on machines' own disks: no member ever leaves its node by itself, and most references
/// are about members that move.
const ON_DISKS: &str = "local-disks";

/// A reference run.
#[derive(Debug, Clone, Copy)]
pub struct Reference {
    /// Its name.
    pub name: &'static str,
    /// What happens, in a line.
    pub about: &'static str,
    /// From when on its own workflow runs, in milliseconds: before that it only sets the scene, which `create`
    /// covers.
    pub from_ms: u64,
    /// Where it makes sense; empty: wherever volumes are on no machine's own disk.
    pub profiles: &'static [&'static str],
    shape: fn(Scenario) -> Scenario,
}

impl Reference {
    /// The run on a profile.
    pub fn scenario(&self, profile: Profile, seed: u64) -> Scenario {
        let mut scenario = Scenario::calm(self.name, profile, seed);
        scenario.servers = 2;
        scenario.storm_ms = STORM;
        scenario.heal.stable_ms = 10_000;
        (self.shape)(scenario)
    }

    /// Whether its services may have so many members: one that leads itself takes no even number, and one whose disks
    /// may be lost promises nothing for a single copy.
    pub fn admits(&self, replicas: u32) -> bool {
        let odd = !self.name.ends_with("quorum") || matches!(replicas, 3 | 5 | 7);
        odd && (replicas > 1 || !self.is_for(ON_DISKS))
    }

    /// Whether it makes sense on a profile.
    pub fn is_for(&self, profile: &str) -> bool {
        if self.profiles.is_empty() { profile != ON_DISKS } else { self.profiles.contains(&profile) }
    }
}

/// The reference run of this name: one of [`ALL`], or [`OWN`].
pub fn find(name: &str) -> Option<&'static Reference> {
    ALL.iter().chain([&BARE]).find(|reference| reference.name == name)
}

/// The reference of suites: a run of nothing, which a suite puts its own cast into.
pub const OWN: &str = "own";
/// How the scenario of a plan begins that is a suite's: its name follows.
pub const OF_SUITE: &str = "own:";

static BARE: Reference =
    from(0, reference(OWN, "whatever a suite puts into it", |s| Scenario::bare(&s.name, s.seed)));

/// When the service is expected to serve, on any profile.
const SET: u64 = 30_000;
/// The end of most storms.
const STORM: u64 = 75_000;

const fn reference(name: &'static str, about: &'static str, shape: fn(Scenario) -> Scenario) -> Reference {
    Reference { name, about, from_ms: SET, profiles: &[], shape }
}

const fn on(profiles: &'static [&'static str], reference: Reference) -> Reference {
    Reference { profiles, ..reference }
}

const fn from(from_ms: u64, reference: Reference) -> Reference {
    Reference { from_ms, ..reference }
}

fn ask(scenario: Scenario, at_ms: u64, operation: &str) -> Scenario {
    scenario.at(at_ms, Action::Ask(operation.to_owned(), "orders".to_owned()))
}

fn holder(member: &str) -> Target {
    Target::HolderOf(member.to_owned())
}

fn primary() -> Target {
    Target::PrimaryOf("orders".to_owned())
}

fn disk(member: &str) -> Target {
    Target::DiskOf(member.to_owned())
}

/// The disk with a member's volumes is gone, and an operator says so a while later.
fn rebuild(scenario: Scenario, member: &str, said_after_ms: u64) -> Scenario {
    let lost = scenario.at(SET, Action::LoseDisk(disk(member)));
    lost.at(SET + said_after_ms, Action::Rebuild(member.to_owned()))
}

fn node(name: &str) -> Target {
    Target::Node(name.to_owned())
}

/// Whatever is off when things are repaired stays off.
fn for_good(mut scenario: Scenario) -> Scenario {
    scenario.heal.dead = (1..=scenario.nodes).map(|index| format!("node-{index}")).collect();
    scenario
}

fn storm(mut scenario: Scenario, storm_ms: u64) -> Scenario {
    scenario.storm_ms = storm_ms;
    scenario
}

/// One zone a node, so that volumes of zones cannot follow.
fn pinned(mut scenario: Scenario) -> Scenario {
    scenario.zones = 3;
    scenario.nodes = 3;
    scenario
}

fn quorum(mut scenario: Scenario) -> Scenario {
    for service in &mut scenario.services {
        service.blueprint = "quorum".to_owned();
    }
    scenario
}

/// One that leads itself, and has members that follow without a vote until they have caught up.
fn learning(scenario: Scenario) -> Scenario {
    let mut scenario = quorum(scenario);
    for service in &mut scenario.services {
        service.more.insert("options".to_owned(), json!({"learners": true}));
    }
    scenario
}

/// A service of so many members, and a node for each of up to five.
fn members(mut scenario: Scenario, replicas: u32) -> Scenario {
    scenario.nodes = 5;
    for service in &mut scenario.services {
        service.replicas = replicas;
    }
    scenario
}

/// Every service is brought to another version of its engine.
fn upgrade(scenario: Scenario, at_ms: u64, version: &str) -> Scenario {
    let files = scenario.services.clone();
    files.into_iter().fold(scenario, |scenario, file| {
        let blueprint = format!("{}@{version}", file.blueprint);
        scenario.at(at_ms, Action::Upgrade(ServiceFile { blueprint, ..file }))
    })
}

/// With clients that write all the time.
fn busy(mut scenario: Scenario) -> Scenario {
    scenario.clients.every_ms = 100;
    scenario
}

/// Every reference run.
pub const ALL: &[Reference] = &[
    from(0, reference("create", "a service of three members is created", |s| storm(s, 40_000))),
    from(
        0,
        reference("create-quorum", "a service that leads itself is created", |s| storm(quorum(s), 40_000)),
    ),
    reference("delete", "a service is deleted", |s| ask(s, SET, "delete")),
    from(
        45_000,
        reference("undelete", "a deleted service is brought back", |s| {
            ask(ask(s, SET, "delete"), 45_000, "undelete")
        }),
    ),
    reference("restart", "every member is restarted, one after another", |s| {
        storm(ask(s, SET, "restart"), 90_000)
    }),
    reference("stop", "a service is stopped and started again", |s| {
        ask(ask(s, SET, "stop"), 45_000, "start")
    }),
    reference(
        "pause",
        "nothing unplanned is done to a service for a while, and a member loses its node",
        |s| {
            let lost = ask(s, SET, "pause").at(SET + 2_000, Action::StopNode(holder("orders-1")));
            for_good(ask(lost, 45_000, "resume"))
        },
    ),
    reference("lost-replica", "the node of a replica is lost for good", |s| {
        for_good(s.at(SET, Action::StopNode(holder("orders-1"))))
    }),
    reference("lost-primary", "the node of the primary is lost for good", |s| {
        for_good(s.at(SET, Action::StopNode(primary())))
    }),
    reference("lost-member-quorum", "a member of a quorum loses its node for good", |s| {
        for_good(quorum(s).at(SET, Action::StopNode(holder("orders-1"))))
    }),
    reference("node-back", "the primary's node is lost, and comes back after the member has moved", |s| {
        s.at(SET, Action::StopNode(primary())).at(55_000, Action::StartAllNodes)
    }),
    on(
        &["block-storage"],
        reference(
            "promotion",
            "the primary's zone is lost, another member is promoted, the zone comes back",
            |s| {
                // Its clients have heard of the primary by now, and what it takes last comes to nobody else: it has to
                // forget that.
                let at_ms = SET + 15_000;
                let alone = Cut { peers: true, ..Cut::default() };
                let cut = pinned(s).at(at_ms - 1_500, Action::CutNode(primary(), alone, 1_500));
                let lost = cut.at(at_ms, Action::StopNode(primary()));
                storm(lost.at(100_000, Action::StartAllNodes), 125_000)
            },
        ),
    ),
    on(
        &["embedded", "shared-storage", "leases"],
        reference("zone-loss", "every node of a zone is lost for good", |s| {
            for_good(s.at(SET, Action::StopNode(node("node-1"))).at(SET, Action::StopNode(node("node-4"))))
        }),
    ),
    reference("lost-server", "the server that works on the service is lost while a member moves", |s| {
        let lost = s.at(SET, Action::StopNode(holder("orders-2"))).at(SET + 3_000, Action::CrashServer(0));
        for_good(lost.at(SET + 5_000, Action::PauseServer(1, 8_000)))
    }),
    reference("engine-crash", "the engines of a primary and of a replica end by themselves", |s| {
        let first = s.at(SET, Action::CrashEngine("orders-0".to_owned()));
        first.at(SET + 10_000, Action::CrashEngine("orders-1".to_owned()))
    }),
    reference("store-outage", "the store fails for a while", |s| {
        s.at(SET, Action::Outage("metadata".to_owned(), 12_000))
    }),
    on(
        &["shared-storage"],
        reference(
            "confirmed-dead",
            "nobody proves that a node is dead, until an operator says so",
            |mut s| {
                s.profile.prover = ProverKind::Nobody;
                let lost = s.at(SET, Action::StopNode(node("node-2")));
                let mut s = for_good(lost.at(SET + 15_000, Action::ConfirmDead(node("node-2"))));
                for service in &mut s.services {
                    service
                        .more
                        .insert("fencing".to_owned(), json!({"minimum": "F1", "accept_lease": false}));
                }
                s
            },
        ),
    ),
    on(
        &["block-storage"],
        reference(
            "wrong-word",
            "an operator says that a node is dead, which is only cut off, and goes on writing for its clients",
            |s| {
                let alone = Cut { control: true, peers: true, clients: false };
                let cut = busy(s).at(SET, Action::CutNode(primary(), alone, 60_000));
                storm(cut.at(SET + 8_000, Action::ConfirmDead(primary())), 100_000)
            },
        ),
    ),
    reference("switchover", "leadership is handed over in order, and back", |s| {
        ask(ask(busy(s), SET, "switchover to orders-1"), 45_000, "switchover to orders-0")
    }),
    reference("switchover-lost", "the primary's node is lost for good while it hands over", |s| {
        let lost = ask(busy(s), SET, "switchover").at(SET + 150, Action::StopNode(primary()));
        storm(for_good(lost), 100_000)
    }),
    reference("upgrade", "every member gets another version, the primary last", |s| {
        storm(upgrade(busy(s), SET, "2"), 90_000)
    }),
    reference("upgrade-quorum", "a service that leads itself gets another version", |s| {
        storm(upgrade(quorum(busy(s)), SET, "2"), 90_000)
    }),
    reference("upgrade-back", "a version does not work, and is taken back", |s| {
        storm(ask(upgrade(s, SET, "2-broken"), SET + 12_000, "roll_back"), 90_000)
    }),
    reference("upgrade-lost-node", "a replica's node is lost for good in the middle of an upgrade", |s| {
        let lost = upgrade(s, SET, "2").at(SET + 4_000, Action::StopNode(holder("orders-1")));
        storm(for_good(lost), 110_000)
    }),
    reference("scale-out", "a service of three members gets two more", |s| {
        storm(ask(members(busy(s), 3), SET, "scale to 5"), 80_000)
    }),
    from(
        40_000,
        reference("scale-in", "two of five members go", |s| {
            storm(ask(members(busy(s), 5), 40_000, "scale to 3"), 90_000)
        }),
    ),
    reference("scale-in-leader", "the member that leads goes, and the one after it", |s| {
        let led = ask(members(busy(s), 3), SET, "switchover to orders-2");
        storm(ask(led, SET + 10_000, "scale to 1"), 90_000)
    }),
    reference("scale-out-quorum", "a service that leads itself gets two members more", |s| {
        storm(ask(quorum(members(busy(s), 3)), SET, "scale to 5"), 80_000)
    }),
    from(
        40_000,
        reference(
            "scale-in-quorum",
            "two of five members go of a service that leads itself, and a node is lost",
            |s| {
                let fewer = ask(quorum(members(busy(s), 5)), 40_000, "scale to 3");
                storm(fewer.at(45_000, Action::StopNode(holder("orders-0"))), 110_000)
            },
        ),
    ),
    reference(
        "scale-back",
        "a service that is getting more members is to have fewer, and loses its primary",
        |s| {
            let turned = ask(ask(members(s, 3), SET, "scale to 5"), SET + 7_000, "scale to 2");
            storm(for_good(turned.at(SET + 8_000, Action::StopNode(primary()))), 130_000)
        },
    ),
    on(
        &[ON_DISKS],
        reference("disk-back", "the primary's node is lost, and comes back with its disk", |s| {
            let lost = busy(s).at(SET, Action::StopNode(primary()));
            storm(lost.at(90_000, Action::StartAllNodes), 105_000)
        }),
    ),
    on(
        &[ON_DISKS],
        reference("disk-back-quorum", "a voter's node is lost, and comes back with its disk", |s| {
            let lost = quorum(busy(s)).at(SET, Action::StopNode(holder("orders-1")));
            storm(lost.at(60_000, Action::StartAllNodes), 75_000)
        }),
    ),
    on(
        &[ON_DISKS],
        reference("rebuild", "a replica's disk is gone with its node, and it is rebuilt elsewhere", |s| {
            storm(for_good(rebuild(busy(s), "orders-1", 5_000)), 80_000)
        }),
    ),
    on(
        &[ON_DISKS],
        reference(
            "rebuild-primary",
            "the primary's disk is gone: another one is promoted, it is rebuilt, and its node comes back as if new",
            |s| {
                let rebuilt = rebuild(busy(s), "orders-0", 5_000);
                storm(rebuilt.at(100_000, Action::StartAllNodes), 120_000)
            },
        ),
    ),
    on(
        &[ON_DISKS],
        reference(
            "rebuild-disk-back",
            "a replica's node is lost and its disk given up, which is whole; it comes back, and the primary's is lost",
            |s| {
                let lost = busy(s).at(SET, Action::StopNode(disk("orders-1")));
                let given_up = lost.at(SET + 25_000, Action::Rebuild("orders-1".to_owned()));
                let back = given_up.at(70_000, Action::StartAllNodes).at(75_000, Action::StopNode(primary()));
                storm(back.at(120_000, Action::StartAllNodes), 135_000)
            },
        ),
    ),
    on(
        &[ON_DISKS],
        reference(
            "rebuild-quorum",
            "a voter's disk is gone with its node: it learns elsewhere, and votes again",
            |s| storm(for_good(rebuild(learning(busy(s)), "orders-1", 5_000)), 90_000),
        ),
    ),
    on(
        &[ON_DISKS],
        reference(
            "rebuild-in-turn-quorum",
            "a voter is rebuilt, and the next one's disk is gone: the first one's vote is needed",
            |s| {
                let first = rebuild(learning(busy(s)), "orders-0", 5_000);
                let lost = first.at(90_000, Action::LoseDisk(disk("orders-1")));
                let second = lost.at(95_000, Action::Rebuild("orders-1".to_owned()));
                storm(second.at(70_000, Action::StartAllNodes), 140_000)
            },
        ),
    ),
];
