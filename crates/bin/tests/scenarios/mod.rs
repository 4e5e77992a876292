//! What goes wrong on a Docker Swarm, and what comes of it.

use std::time::Duration;

use Act::{
    Accept, Activate, BackUp, ConfirmDead, Continue, Cut, Deafen, Drain, Everything, GoesOn, Heal,
    HealBothWays, KillAgent, KillContainer, KillDocker, KillEngine, KillEtcd, KillNode, Moves, Mute,
    NobodyServes, OwnerChanges, PutBack, Refused, Reimage, Restarts, Serves, StartAgent, StartDocker,
    StartEtcd, Stop, Why, WhyAtLast,
};
use Whose::{EtcdLeaders, Members, MembersNow, Owners, Same, SwarmLeaders};

/// Longer than a lease with its margin, than Swarm's own detection, and than the patience with a node that starts nothing.
const LONG: Duration = Duration::from_secs(60);

/// A machine, by what it is when a scenario begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose {
    /// The member is on it.
    Members,
    /// The member is on it now, wherever it was in the beginning.
    MembersNow,
    /// The one that was named last.
    Same,
    /// Its engine of Docker leads the swarm.
    SwarmLeaders,
    /// Its member of etcd leads.
    EtcdLeaders,
    /// Its server looks after the service.
    Owners,
}

/// A process of the member.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    Agent,
    Guard,
    Engine,
    Docker,
}

/// What is done, or waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// Guard and engine, everything of the container.
    KillContainer,
    KillEngine,
    KillAgent(Whose),
    StartAgent(Whose),
    KillDocker(Whose),
    StartDocker(Whose),
    KillEtcd(Whose),
    StartEtcd(Whose),
    Cut(Whose),
    Heal(Whose),
    /// It hears, and is not heard.
    Mute(Whose),
    /// It is heard, and does not hear.
    Deafen(Whose),
    /// Both ways again.
    HealBothWays(Whose),
    /// Installed anew, under its old name.
    Reimage(Whose),
    /// A backup of etcd is made.
    BackUp,
    /// etcd is put back to it.
    PutBack,
    /// Everything of a machine but its server and its etcd.
    KillNode(Whose),
    /// An operator says that it is off.
    ConfirmDead(Whose),
    /// No engine of it runs anywhere.
    NobodyServes,
    /// Every server refuses to go on with it, and says why.
    Refused,
    /// The servers are told to go on with it.
    Accept,
    Stop(Of),
    /// Whatever was stopped.
    Continue,
    Drain(Whose),
    Activate(Whose),
    /// Agents, servers, engines of Docker with their containers, etcd: killed, and started again.
    Everything,
    /// It serves on another machine than when the scenario began, or than when it was last said that it does.
    Moves,
    /// Writes are acknowledged again.
    Serves,
    /// For so long the same engine goes on, and writes are acknowledged all the time.
    GoesOn(Duration),
    /// The engine is another one.
    Restarts,
    /// `steadfast why` says so.
    Why(&'static str),
    /// `steadfast why` comes to say so.
    WhyAtLast(&'static str),
    /// Another server looks after the service.
    OwnerChanges,
}

pub(crate) const SCENARIOS: &[(&str, &[Act])] = &[
    ("container killed", &[KillContainer, Restarts]),
    ("engine killed", &[KillEngine, Restarts]),
    (
        "agent killed",
        &[
            KillAgent(Members),
            GoesOn(Duration::from_secs(5)),
            StartAgent(Members),
            GoesOn(LONG.saturating_sub(Duration::from_secs(45))),
        ],
    ),
    (
        "docker killed, its container lives",
        &[KillDocker(Members), GoesOn(LONG), StartDocker(Members), Serves],
    ),
    (
        "docker killed with its container",
        &[KillDocker(Members), KillContainer, Moves, Why("OrchestratorUnavailable"), StartDocker(Members)],
    ),
    (
        "docker killed and back, with its container",
        &[KillDocker(Members), KillContainer, StartDocker(Members), Serves],
    ),
    ("cut off while it writes, and healed", &[Cut(Members), Moves, Why("LeaseExpired"), Heal(Members)]),
    ("two cut off in turn", &[Cut(Members), Moves, Heal(Members), Cut(MembersNow), Moves, Heal(Same)]),
    ("hears, and is not heard", &[Mute(Members), Moves, Why("LeaseExpired"), HealBothWays(Members)]),
    ("is heard, and does not hear", &[Deafen(Members), Moves, Why("LeaseExpired"), HealBothWays(Members)]),
    ("installed anew under its old name", &[Reimage(Members), Serves]),
    (
        "docker killed where its server looks after the service",
        &[KillDocker(Owners), OwnerChanges, KillContainer, Serves, StartDocker(Owners)],
    ),
    (
        "leader of the swarm killed",
        &[KillDocker(SwarmLeaders), KillContainer, Serves, StartDocker(SwarmLeaders)],
    ),
    ("leader of etcd killed", &[KillEtcd(EtcdLeaders), KillContainer, Serves, StartEtcd(EtcdLeaders)]),
    ("engine stopped and continued", &[Stop(Of::Engine), Restarts]),
    ("guard stopped and continued", &[Stop(Of::Guard), Restarts]),
    ("agent stopped and continued", &[Stop(Of::Agent), Moves, Continue]),
    ("docker stopped and continued", &[Stop(Of::Docker), GoesOn(LONG), Continue, Serves]),
    ("node drained", &[Drain(Members), Moves, Activate(Members)]),
    ("everything stopped and started", &[Everything, Serves]),
];

/// All of etcd is put back to a backup that is a move old, and the servers are told to go on with it. The member's record
/// is of the node that it was on before, and the volume is another's: that node gives it back, and the member goes on under
/// an epoch above the one that the volume bears.
pub(crate) const OLDER: (&str, &[Act]) = (
    "etcd put back from an older backup",
    &[BackUp, Cut(Members), Moves, Heal(Members), PutBack, Refused, Accept, Serves, WhyAtLast("EpochStale")],
);

/// The same, and the node that the records do not know to have held it is dead: nothing says so but a person.
pub(crate) const OLDER_AND_DEAD: (&str, &[Act]) = (
    "etcd put back from an older backup, and the node of the volume dead",
    &[
        BackUp,
        Cut(Members),
        Moves,
        Heal(Members),
        KillNode(MembersNow),
        PutBack,
        Refused,
        Accept,
        // Off: its kernel would go on to answer for the address.
        Cut(MembersNow),
        WhyAtLast("VolumeBusy"),
        NobodyServes,
        ConfirmDead(MembersNow),
        Serves,
    ],
);

/// Whether a scenario of this name shall be run.
pub(crate) fn is_chosen(name: &str) -> bool {
    let only = std::env::var("STEADFAST_SCENARIO").unwrap_or_default();
    only.split('|').any(|text| name.contains(text))
}
