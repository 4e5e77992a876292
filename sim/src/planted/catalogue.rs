//! Where each bug is known from, and what it teaches.

use super::Planted;

/// What is known of a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Where it is known from.
    pub from: &'static str,
    /// What it teaches.
    pub teaches: &'static str,
}

/// What is known of `bug`.
#[expect(clippy::too_many_lines, reason = "a list")]
pub fn known(bug: Planted) -> Known {
    let known = |from, teaches| Known { from, teaches };
    match bug {
        Planted::DetachBeforeOwnership => known(
            "FireCamp (W-20): two drivers, one detaches the volume of the rightful owner, then loses its swap",
            "an epoch before any side effect: whoever loses finds out before it touches anything",
        ),
        Planted::AddressBeforeOwnership => known(
            "FireCamp (W-10, W-22): address and name moved before the volume was",
            "the same holds for addresses",
        ),
        Planted::EpochNotRaised => known(
            "Neon RFC 025: why generations are issued by one transaction",
            "two lives under one number cannot be told apart by any storage",
        ),
        Planted::NoFence => known(
            "OpenShift documentation of out-of-service: corruption if the node still runs",
            "a holder is let go of by proof, never by opinion",
        ),
        Planted::BlindAttach => known(
            "moto, hetznercloud/csi-driver#89: an attachment in use is taken for one's own",
            "attached means attached here",
        ),
        Planted::NoSwap => known(
            "FireCamp (W-17, W-40): ConfigMaps and the memory store had no compare-and-swap",
            "all safety of many servers rests on the swap",
        ),
        Planted::OnlyItsOwnWord => known(
            "Swarm: only the node's own report releases its volume (moby/moby#45547)",
            "a dead node cannot say so: somebody else has to be able to",
        ),
        Planted::SilenceIsDeath => known(
            "kubernetes/kubernetes#74689: eviction of unreachable nodes",
            "silence makes suspicion; death takes proof",
        ),
        Planted::NoAnswerIsDeath => {
            known("gates that open when the check fails (peers' health checks)", "Unknown never opens a gate")
        }
        Planted::WallClockLease => known(
            "leases by wall clock: client-go leader election's warning",
            "clocks of two machines are never compared, and wall clocks never measure",
        ),
        Planted::LeaseAcceptedByNobody => known(
            "Nomad: a down node is assumed clean (csi_endpoint.go)",
            "who risks two writers has to have said so",
        ),
        Planted::LeaseKeptByZombie => known(
            "cloudnative-pg#7407, #7465: an isolated primary goes on accepting writes",
            "who cannot renew stops in time by itself",
        ),
        Planted::GuardWithoutLease => known(
            "Patroni before its watchdog: the agent hangs, the engine goes on",
            "the deadline lies with the engine's parent, not with the agent",
        ),
        Planted::GuardsForgotten => known(
            "FireCamp (W-23): what was mounted was forgotten when the plugin was restarted",
            "what runs is found again by looking, not by remembering",
        ),
        Planted::GivesUp => {
            known("FireCamp (4.1): ten times two seconds, then an error", "nothing is tried a last time")
        }
        Planted::HintsAlone => known(
            "Sieve: unobserved states (46 bugs in 10 controllers)",
            "hints make it fast; looking makes it right",
        ),
        Planted::AmnesiacMember => known(
            "Raft and ZooKeeper voters on an empty disk; cloudstax/firecamp#14",
            "data that was made once is never made again under the same name",
        ),
        Planted::ReleaseWithoutDetach => {
            known("rexray#913, #1026: the volume stays in use", "given back means that it can be taken")
        }
        Planted::ReleaseBeforeStop => known(
            "mariadb-operator#643, k8ssandra/cass-operator#256: volumes before decommission",
            "the engine is gone before anything of it is given back",
        ),
        Planted::DeleteBeforeStop => known(
            "cloudnative-pg#8442: secrets and volumes of an engine that still runs",
            "deletion ends with what others can reuse",
        ),
        Planted::NameLeft => {
            known("FireCamp (W-10): rows that nobody cleans", "a name is withdrawn before its address")
        }
        Planted::NoStormBrake => known(
            "Cluster API unhealthyLessThanOrEqualTo; mass evictions",
            "if most of it looks dead, it is the looking",
        ),
        Planted::StaleName => known(
            "AWS us-east-1, October 2025: a slow actor overwrites newer DNS; FireCamp (W-22)",
            "a change of a name carries what it replaces",
        ),
        Planted::NameBeforeRole => known(
            "Zalando and CloudNativePG: the service points to a pod that is not primary yet",
            "names follow what is, not what is meant",
        ),
        Planted::VolumeWithoutToken => known(
            "FireCamp (W-03): volumes leaked on a crash between create and record",
            "what may be asked twice is made once",
        ),
        Planted::UnrecordedLeft => known(
            "FireCamp (W-04, W-10): orphaned by a crash, never cleaned",
            "clean-up also looks for what was never written down",
        ),
        Planted::FirstPageIsAll => known(
            "FireCamp (W-38): GetServiceTask reads the first hundred tasks",
            "a list without its end is Unknown",
        ),
        Planted::TooFewSurvivors => known(
            "asynchronous promotions of Postgres and Redis operators",
            "the survivors have to meet every set that may have confirmed",
        ),
        Planted::FirstSurvivor => known(
            "promotion by priority or term instead of position (MySQL and Redis failover scripts)",
            "the one that is farthest leads",
        ),
        Planted::ReturnsAsPrimary => known(
            "canonical/postgresql-operator#712: the old primary comes back as one",
            "return and promotion exclude each other by one swap",
        ),
        Planted::UnknownPrimaryIsDown => known(
            "Patroni's failsafe mode, and life before it",
            "a primary of which nothing is known may be serving",
        ),
        Planted::PrimaryFirst => known(
            "StatefulSet order; FireCamp (3.12): reverse ordinal whoever leads",
            "the primary goes last",
        ),
        Planted::AllAtOnce => known(
            "cloudnative-pg#7727, elastic/cloud-on-k8s#2595: every instance is restarted together",
            "one at a time, each by fresh evidence",
        ),
        Planted::ToldIsThere => {
            known("strimzi#3710, #8326: the roll goes on before the broker is back", "told is not done")
        }
        Planted::RestartsAgain => known(
            "FireCamp (3.11): a manager that crashes forgets what it has restarted",
            "what is to be reached is recorded, not what is to be done",
        ),
        Planted::RollbackTrap => known(
            "kubernetes/kubernetes#67250: a bad rollout cannot be undone without deleting pods",
            "what does not serve has nothing to lose",
        ),
        Planted::HandoverTooEarly => known(
            "switchovers by script: promote, then see",
            "the old primary stops, the new one has everything, and only then it leads",
        ),
        Planted::CountsAtOnce => known(
            "Redis documentation, replication without persistence: who comes back empty is taken for a copy",
            "what was confirmed before is forgotten with the disk: who has not caught up speaks for nothing",
        ),
        Planted::RebuiltBeside => known(
            "Kubernetes documentation of force deletion: a StatefulSet's Pod is made anew beside itself",
            "a person's word is about the disk, and says nothing of who still runs on it",
        ),
        Planted::AbandonedInName => known(
            "Kubernetes documentation of Retain: a released volume still has its last claimant's data",
            "what is made anew has another identity, since what was before may come back",
        ),
        Planted::VotesAtOnce => known(
            "ZOOKEEPER-2325: a server whose snapshots are gone starts with nothing, and with its vote",
            "a vote rests on what its voter remembers: with the disk it is gone",
        ),
        Planted::VotesTooEarly => known(
            "etcd documentation of learners: a member counts before it has the log",
            "who learns says itself when it has caught up",
        ),
        Planted::KeyIgnored => known(
            "FireCamp (W-01): the same create twice is refused or made twice",
            "a repeated request is the same request",
        ),
        Planted::HotLoop => known(
            "percona/percona-server-mongodb-operator#2136: a thousand calls a second",
            "every repetition waits, and longer each time",
        ),
    }
}
