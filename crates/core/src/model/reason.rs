//! Why: the closed list of reason codes that users see.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A reason code. Closed per release and only ever added to; a code of a newer release is kept and
        /// shown verbatim.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
            /// A code this build does not know.
            Other(String),
        }

        impl Reason {
            /// Every code of this release.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),+];

            /// The code as users see it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Reason::$name => stringify!($name),)+
                    Reason::Other(code) => code,
                }
            }
        }

        impl Reason {
            /// The code that a backend's message begins with, as in `DiskFull: …`, and the rest of it.
            pub fn of_message(message: &str) -> Option<(Reason, &str)> {
                let (code, text) = message.split_once(": ")?;
                Some((Reason::ALL.iter().find(|reason| reason.as_str() == code)?.clone(), text))
            }
        }

        impl FromStr for Reason {
            type Err = Infallible;

            fn from_str(text: &str) -> Result<Self, Infallible> {
                Ok(match text {
                    $(stringify!($name) => Reason::$name,)+
                    other => Reason::Other(other.to_owned()),
                })
            }
        }
    };
}

reasons! {
    /// The service or member was created.
    Created,
    /// The service's spec changed.
    SpecChanged,
    /// A restart was asked for.
    RestartRequested,
    /// A stop was asked for.
    StopRequested,
    /// A start was asked for.
    StartRequested,
    /// A deletion was asked for.
    DeleteRequested,
    /// A deletion was undone.
    Undeleted,
    /// An engine ended by itself.
    EngineExited,
    /// An engine does not answer as it should.
    EngineUnhealthy,
    /// An engine ends again and again; it is restarted with growing delay, and not moved.
    CrashLoop,
    /// A node is dead, with proof.
    NodeDead,
    /// A node was drained.
    NodeDrained,
    /// A member moved to another node.
    MemberMoved,
    /// A lease was lost.
    LeaseLost,
    /// A guard stopped its engine at the end of its lease.
    SelfFenced,
    /// A member was promoted to primary.
    Promoted,
    /// Leadership was handed over in order.
    Switchover,
    /// A member came back.
    Returned,
    /// A member's history was rewound to its primary's.
    Rewound,
    /// A member's data was copied anew from its primary, or had from the other voters.
    Recloned,
    /// Something was not as recorded, and was repaired.
    DriftRepaired,
    /// An operation was taken over by another server.
    OperationResumed,
    /// An operator overrode a refusal.
    OperatorOverride,
    /// An earlier holder is not yet proven unable to write.
    FenceUnproven,
    /// A volume is in use.
    VolumeBusy,
    /// A volume is being detached.
    VolumeDetaching,
    /// A volume is being attached.
    VolumeAttaching,
    /// A volume is being made larger.
    VolumeGrowing,
    /// An address is held by somebody else.
    AddressHeldElsewhere,
    /// A name has not changed yet.
    NamePending,
    /// No node can take the member.
    PlacementNone,
    /// A node takes no more volumes.
    AttachLimit,
    /// The step would take away the quorum.
    QuorumAtRisk,
    /// A replica is behind.
    ReplicaLagging,
    /// It is not proven that no acknowledged write would be lost.
    DurabilityUnproven,
    /// The disruption budget is spent.
    BudgetSpent,
    /// A backup runs.
    BackupRunning,
    /// The first initialisation runs.
    BootstrapRunning,
    /// An engine is recovering.
    EngineRecovering,
    /// Another operation runs on the service.
    OperationExclusive,
    /// The metadata store does not answer.
    StoreUnavailable,
    /// The orchestrator does not answer.
    OrchestratorUnavailable,
    /// A backend of volumes, addresses or names does not do what it is asked.
    BackendUnavailable,
    /// A backend refuses for its rate.
    Throttled,
    /// Too many nodes are unknown: nothing unplanned is moved.
    StormBrake,
    /// An operator paused the service.
    PausedByOperator,
    /// A person must confirm.
    AwaitingConfirmation,
    /// The caller's epoch is no longer the member's.
    EpochStale,
    /// The caller's role term is no longer the service's.
    RoleTermStale,
    /// A volume belongs to another member.
    VolumeForeign,
    /// A volume that must hold data is empty.
    VolumeUnexpectedlyEmpty,
    /// A volume's content is damaged.
    VolumeCorrupt,
    /// A disk is full.
    DiskFull,
    /// A disk is read-only.
    DiskReadOnly,
    /// A disk answers with errors.
    IoError,
    /// The engine's program is not on the node.
    EngineMissing,
    /// The engine on the node does not fit the data.
    EngineMismatch,
    /// A voter has lost its disk and must not vote again under its old id.
    VoterAmnesia,
    /// Something else promotes members of this service.
    ExternalPromoter,
    /// A port is taken.
    PortInUse,
    /// A configuration is not valid.
    ConfigInvalid,
    /// The change cannot be made to a running service.
    ChangeUnsupported,
    /// The cluster cannot fence as the service demands.
    FencingInsufficient,
    /// A backend lacks a capability.
    CapabilityMissing,
    /// A quota is reached.
    QuotaReached,
    /// A permission is missing.
    PermissionDenied,
    /// A credential has expired.
    CredentialExpired,
    /// A record was written by a newer version.
    VersionTooNew,
    /// A quorum lies in one zone.
    QuorumInOneZone,
    /// There is less redundancy than declared.
    RedundancyLost,
    /// A synchronous standby is missing.
    SyncStandbyMissing,
    /// A bug.
    Internal,
}

#[cfg(feature = "schema")]
crate::schema::text!(Reason, "A reason code, in PascalCase. Newer servers may have further ones.");

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

crate::text::is_text!(Reason);
