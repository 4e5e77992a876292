//! What must not be left.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_core::ids::{NodeName, VolumeId};
use steadfast_core::model::{Member, MemberPhase};
use steadfast_core::registry::RecordSet;
use steadfast_core::volume::Attachment;

use super::Rule;
use crate::model::Fact;
use crate::time::Time;
use crate::world::State;

/// Everything that exists is recorded by somebody.
#[derive(Debug)]
pub(super) struct Leaks;

impl Rule for Leaks {
    fn id(&self) -> &'static str {
        "S8"
    }

    fn says(&self) -> &'static str {
        "at the end every volume, attachment, address and name belongs to a member that knows of it"
    }

    fn fact(&mut self, _at: Time, _fact: &Fact, _state: &State) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self, _at: Time, state: &State) -> Result<(), String> {
        let cloud = &state.cloud;
        let mut owners: BTreeMap<String, Owner> = BTreeMap::new();
        for (key, record) in cloud.store.all() {
            if key.segments().nth(2) == Some("members")
                && let Ok(found) = serde_json::from_slice::<Record>(&record.value)
            {
                let Member { id, phase, volumes, unreleased, .. } = found.body;
                let removed = phase == MemberPhase::Removed;
                let kept = volumes.into_iter().filter_map(|binding| binding.id).collect();
                let nodes = unreleased.into_iter().map(|holder| holder.node).collect();
                owners.insert(id.to_string(), Owner { removed, kept, nodes });
            }
        }
        for volume in cloud.volumes.all() {
            let (id, spec) = (&volume.status.id, &volume.status.spec);
            let Some(owner) = owners.get(spec.member.as_str()) else {
                return Err(format!("{id} belongs to {}, which is not recorded", spec.member));
            };
            if !owner.kept.contains(id) {
                return Err(format!("{id} was made for {}, which does not know of it", spec.member_name));
            }
            if let Attachment::Attached(node) = &volume.status.attachment
                && !owner.nodes.contains(node)
            {
                return Err(format!("{id} is attached to {node}, which does not hold {}", spec.member_name));
            }
        }
        for address in cloud.ips.list() {
            match owners.get(address.owner.as_str()) {
                None => return Err(format!("{} belongs to nobody who is recorded", address.address)),
                Some(owner) if owner.removed => {
                    return Err(format!("{} belongs to a member that was removed", address.address));
                }
                Some(_) => {}
            }
        }
        for (name, set) in cloud.dns.all() {
            if let RecordSet::Addresses(set) = set
                && let Some(address) = set.iter().find(|address| cloud.ips.status(**address).is_none())
            {
                return Err(format!("{name} leads to {address}, which is nobody's"));
            }
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Record {
    body: Member,
}

/// What a member's record says of what it has.
struct Owner {
    removed: bool,
    kept: BTreeSet<VolumeId>,
    nodes: BTreeSet<NodeName>,
}
