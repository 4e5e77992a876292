//! What is stored and shown: plain data, no behaviour beyond what keeps it consistent.

mod condition;
mod event;
mod member;
mod node;
mod operation;
mod reason;
mod secret;
mod service;
mod spec;

pub use condition::{Condition, ConditionKind, Truth};
pub use event::{Event, EventRing};
pub use member::{
    AddressBinding, Evidence, Holder, Initialised, Member, MemberPhase, MemberStatus, Membership, Position,
    Role, VolumeBinding,
};
pub use node::{FencingLevel, NodeHealth, NodeRecord, NodeStatus};
pub use operation::{Goal, Operation, OperationKind, OperationState, Step, StepState};
pub use reason::Reason;
pub use secret::SealedSecret;
pub use service::{
    Blueprint, Desired, Group, Leadership, MembershipChange, RolePhase, RoleState, RollingOrder, Service,
    ServiceState, SpecRevision, StoredPort, Topology, Trouble, volume_sizes,
};
pub use spec::{
    ByteSize, Durability, FailoverMode, FailoverSpec, FencingSpec, GroupSpec, MOST_REPLICAS, OnDelete,
    PlacementSpec, ServiceSpec, Span, SpecError, Spread, VolumeClaim,
};
