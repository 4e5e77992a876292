//! What every hunt begins with: runs in which the environment misbehaves, and no call does. Without a planted bug all
//! of them are as they should be.

use serde_json::json;

use crate::key::Key;
use crate::model::Profile;
use crate::model::host::Cut;
use crate::run::{Action, Scenario, ServiceFile, Target};

fn primary() -> Target {
    Target::PrimaryOf("orders".to_owned())
}

fn holder(member: &str) -> Target {
    Target::HolderOf(member.to_owned())
}

fn node(name: &str) -> Target {
    Target::Node(name.to_owned())
}

fn ask(operation: &str) -> Action {
    Action::Ask(operation.to_owned(), "orders".to_owned())
}

fn cut(target: Target, for_ms: u64) -> Action {
    Action::CutNode(target, Cut { control: true, peers: false, clients: false }, for_ms)
}

/// A run of two servers, with a storm of so many seconds.
fn storm(name: &str, profile: Profile, seconds: u64) -> Scenario {
    let mut scenario = Scenario::calm(name, profile, 1);
    scenario.servers = 2;
    scenario.storm_ms = seconds * 1_000;
    scenario.heal.within_ms = 180_000;
    scenario.heal.stable_ms = 10_000;
    scenario
}

fn version(blueprint: &str) -> ServiceFile {
    let calm = Scenario::calm("", Profile::embedded(), 1);
    let file = calm.services.into_iter().next();
    let file = file.unwrap_or_else(|| unreachable!("a calm scenario has a service"));
    ServiceFile { blueprint: blueprint.to_owned(), ..file }
}

/// With a client that writes all the time.
fn busy(mut scenario: Scenario) -> Scenario {
    scenario.clients.every_ms = 50;
    scenario
}

/// The `nth` call of a task of a server.
fn at_call(actor: &str, workflow: &str, operation: &str, resource: &str, nth: u32) -> Key {
    let text = str::to_owned;
    Key {
        actor: text(actor),
        workflow: text(workflow),
        operation: text(operation),
        resource: text(resource),
        nth,
    }
}

/// Whose data moves on no lease.
fn nobody(mut scenario: Scenario) -> Scenario {
    for service in &mut scenario.services {
        service.more.insert("fencing".to_owned(), json!({"minimum": "F1", "accept_lease": false}));
    }
    scenario
}

fn quorum(mut scenario: Scenario) -> Scenario {
    for service in &mut scenario.services {
        "quorum".clone_into(&mut service.blueprint);
    }
    scenario
}

fn for_ever(mut scenario: Scenario, dead: &[&str]) -> Scenario {
    scenario.heal.dead = dead.iter().map(|node| (*node).to_owned()).collect();
    scenario
}

/// The scenarios, those that tell most first.
pub fn references() -> Vec<Scenario> {
    let mut all = moves();
    all.extend(leases());
    all.extend(operations());
    all.extend(roles());
    all.extend(processes());
    all.extend(disks());
    all
}

/// How many of the references come first in the enumeration of call sites: those in which most happens.
pub const BUSY: [&str; 8] = [
    "embedded: two switchovers",
    "shared: a member's node is lost",
    "block: stop and start",
    "embedded: restart",
    "leases: the primary is cut off",
    "block: deleted while it is made",
    "embedded: a version that does not work, and back",
    "block: the primary's node is lost",
];

fn moves() -> Vec<Scenario> {
    let lost =
        |scenario: Scenario| for_ever(scenario.at(30_000, Action::StopNode(node("node-2"))), &["node-2"]);
    vec![
        lost(storm("shared: a member's node is lost", Profile::shared_storage(), 60)),
        storm("block: the primary's node is lost", Profile::block_storage(), 90).losing_the_primary(30_000),
        lost(storm("embedded: a member's node is lost", Profile::embedded(), 60)),
        storm("shared: the primary's node stands still", Profile::shared_storage(), 120)
            .at(30_000, Action::PauseNode(primary(), 60_000)),
        storm("shared: nobody can prove anything for a while", Profile::shared_storage(), 90)
            .at(30_000, Action::PauseNode(holder("orders-1"), 20_000))
            .at(36_000, Action::Outage("prover".to_owned(), 8_000)),
        storm("shared: a node that lives is confirmed dead", Profile::shared_storage(), 90)
            .at(30_000, Action::ConfirmDead(node("node-2"))),
        quorum(storm("block: a quorum's node is lost and comes back", Profile::block_storage(), 120))
            .at(30_000, Action::StopNode(node("node-2")))
            .at(70_000, Action::StartNode(node("node-2"))),
    ]
}

fn leases() -> Vec<Scenario> {
    let lost = storm("leases: wall clocks are set back while a node is lost", Profile::leases(), 70)
        .at(30_000, Action::StopNode(node("node-2")))
        .at(31_000, Action::JumpServerClock(0, -3_600_000))
        .at(31_000, Action::JumpServerClock(1, -3_600_000));
    let set_back =
        |scenario: Scenario, name: &&str| scenario.at(31_000, Action::JumpClock(node(name), -3_600_000));
    let clocks = for_ever(["node-1", "node-3", "node-4"].iter().fold(lost, set_back), &["node-2"]);
    vec![
        storm("leases: the primary is cut off", Profile::leases(), 90).at(30_000, cut(primary(), 50_000)),
        nobody(storm("leases: nobody accepts them", Profile::leases(), 90))
            .at(30_000, cut(primary(), 50_000)),
        storm("leases: most nodes are cut off", Profile::leases(), 80)
            .at(30_000, cut(node("node-1"), 40_000))
            .at(30_000, cut(node("node-2"), 40_000))
            .at(30_000, cut(node("node-3"), 40_000)),
        clocks,
    ]
}

fn operations() -> Vec<Scenario> {
    let mut gone = storm("block: deleted", Profile::block_storage(), 80).at(40_000, ask("delete"));
    let mut early = storm("block: deleted while it is made", Profile::block_storage(), 60)
        .at(1_500, ask("delete"))
        .at(1_200, Action::CrashServer(0))
        .at(1_200, Action::CrashServer(1));
    for service in gone.services.iter_mut().chain(&mut early.services) {
        service.more.insert("volumes".to_owned(), json!([{"name": "data", "on_delete": "delete"}]));
    }
    let recording = |scenario: Scenario| {
        let at = |server: &str| at_call(server, "worker", "ip.allocate", "*", 1);
        scenario.when(at("server@s1"), Action::CrashServer(0)).when(at("server@s2"), Action::CrashServer(1))
    };
    let mut unrecorded =
        recording(storm("block: deleted before it is recorded what was made", Profile::block_storage(), 60))
            .at(9_000, ask("delete"));
    unrecorded.services.clone_from(&gone.services);
    vec![
        recording(storm("block: a server ends before it records what it made", Profile::block_storage(), 60)),
        unrecorded,
        storm("block: a server ends before it answers", Profile::block_storage(), 100)
            .at(30_000, ask("restart"))
            .at(30_450, Action::CrashServer(0)),
        storm("block: stop and start", Profile::block_storage(), 90)
            .at(30_000, ask("stop"))
            .at(50_000, ask("start")),
        storm("embedded: restart", Profile::embedded(), 90).at(30_000, ask("restart")),
        storm("shared: stopped", Profile::shared_storage(), 60).at(30_000, ask("stop")),
        gone,
        early,
        storm("embedded: upgrade", Profile::embedded(), 90).at(30_000, Action::Upgrade(version("plain@2"))),
        storm("embedded: a version that does not work, and back", Profile::embedded(), 120)
            .at(30_000, Action::Upgrade(version("plain@2-broken")))
            .at(60_000, ask("roll_back")),
        handed_over_to_who_is_cut_off(),
        storm("embedded: the store is away before a request is answered", Profile::embedded(), 90)
            .at(30_000, ask("restart"))
            .when(
                at_call("server@s1", "user", "metadata.put", "services/orders", 1),
                Action::Outage("metadata".to_owned(), 12_000),
            ),
        storm("embedded: restart, and the servers crash", Profile::embedded(), 90)
            .at(30_000, ask("restart"))
            .at(30_020, Action::CrashServer(0))
            .at(30_300, Action::CrashServer(1)),
    ]
}

/// Somebody is to lead who has been cut off a moment ago, and does not say so yet. Agents look at engines once a second,
/// so one of these moments is between two looks.
fn handed_over_to_who_is_cut_off() -> Scenario {
    let peers = Cut { peers: true, ..Cut::default() };
    let scenario = busy(storm("embedded: switchover while a replica is cut off", Profile::embedded(), 120));
    [(29_400, "orders-1"), (49_650, "orders-2"), (69_900, "orders-0"), (90_150, "orders-1")].into_iter().fold(
        scenario,
        |scenario, (at, member)| {
            scenario
                .at(at, Action::CutNode(holder(member), peers, 10_000))
                .at(at + 40, ask(&format!("switchover to {member}")))
        },
    )
}

fn roles() -> Vec<Scenario> {
    let peers = Cut { control: false, peers: true, clients: false };
    vec![
        nobody(storm("leases: a replica lags, and the primary hangs", Profile::leases(), 150))
            .at(45_000, Action::CutNode(holder("orders-1"), peers, 30_000))
            .at(54_900, Action::HangDisk("orders-0".to_owned(), 60_000))
            .at(55_000, Action::CrashEngine("orders-0".to_owned())),
        nobody(storm("leases: a replica lags, and the rest hang", Profile::leases(), 150))
            .at(45_000, Action::CutNode(holder("orders-1"), peers, 30_000))
            .at(54_900, Action::HangDisk("orders-2".to_owned(), 60_000))
            .at(54_900, Action::HangDisk("orders-0".to_owned(), 60_000))
            .at(55_000, Action::CrashEngine("orders-2".to_owned()))
            .at(55_000, Action::CrashEngine("orders-0".to_owned())),
        storm("embedded: two switchovers", Profile::embedded(), 70)
            .at(30_000, ask("switchover to orders-1"))
            .at(36_000, ask("switchover to orders-2")),
        storm("embedded: the primary comes back while nobody can be chosen", Profile::embedded(), 170)
            .at(29_000, cut(holder("orders-1"), 120_000))
            .at(29_990, Action::HangDisk("orders-0".to_owned(), 45_000))
            .at(30_000, Action::CrashEngine("orders-0".to_owned())),
        storm("shared: the primary is lost, and a server is paused", Profile::shared_storage(), 150)
            .losing_the_primary(30_000)
            .at(58_000, Action::PauseServer(0, 25_000)),
        storm("block: the primary is cut off from the store", Profile::block_storage(), 110)
            .at(30_000, cut(primary(), 60_000)),
    ]
}

fn disk(member: &str) -> Target {
    Target::DiskOf(member.to_owned())
}

fn rebuild(member: &str) -> Action {
    Action::Rebuild(member.to_owned())
}

/// One that leads itself, and whose voters come back without a vote once they have lost everything.
fn learning(scenario: Scenario) -> Scenario {
    let mut scenario = quorum(scenario);
    for service in &mut scenario.services {
        service.more.insert("options".to_owned(), json!({"learners": true}));
    }
    scenario
}

fn disks() -> Vec<Scenario> {
    let local = |name: &str, seconds| storm(name, Profile::local_disks(), seconds);
    vec![
        local("disks: a replica's is lost, and given up", 90)
            .at(30_000, Action::LoseDisk(disk("orders-2")))
            .at(35_000, rebuild("orders-2")),
        nobody(local("disks: one of a node that lives is given up", 100))
            .at(
                30_000,
                Action::CutNode(
                    holder("orders-2"),
                    Cut { control: true, peers: true, clients: true },
                    50_000,
                ),
            )
            .at(33_000, rebuild("orders-2")),
        forgotten(),
        learning(local("disks: a voter's is lost, and given up", 90))
            .at(30_000, Action::LoseDisk(disk("orders-2")))
            .at(35_000, rebuild("orders-2")),
    ]
}

/// A replica has what the other one does not have yet, loses it with its disk, and is to be given it again by the
/// primary, which ends before it has.
fn forgotten() -> Scenario {
    let peers = Cut { peers: true, ..Cut::default() };
    let at = |operation: &str| at_call("agent@node-4", "member", operation, "orders-2", 0);
    storm(
        "disks: a replica that is rebuilt, one that lags, and a primary that hangs",
        Profile::local_disks(),
        170,
    )
    .at(45_000, Action::CutNode(holder("orders-1"), peers, 110_000))
    .at(55_000, Action::LoseDisk(disk("orders-2")))
    .at(60_000, rebuild("orders-2"))
    .when(at("host.prepared"), Action::HangDisk("orders-0".to_owned(), 80_000))
    .when(at("guards.start"), Action::CrashEngine("orders-0".to_owned()))
}

fn processes() -> Vec<Scenario> {
    let mut amnesia = quorum(storm("embedded: a quorum loses a member's data", Profile::embedded(), 60))
        .at(30_000, Action::LoseData("orders-1".to_owned()))
        .at(30_100, Action::CrashEngine("orders-1".to_owned()));
    amnesia.heal.blocked.insert("orders-1".to_owned(), "VoterAmnesia".to_owned());
    vec![
        storm("embedded: agents and engines crash", Profile::embedded(), 80)
            .at(25_000, Action::CrashAgent(primary()))
            .at(30_000, Action::CrashAgent(holder("orders-1")))
            .at(35_000, Action::CrashEngine("orders-2".to_owned())),
        amnesia,
        storm("block: the store is away", Profile::block_storage(), 80)
            .at(2_000, Action::Outage("volume".to_owned(), 10_000))
            .at(30_000, Action::Outage("metadata".to_owned(), 10_000)),
    ]
}
