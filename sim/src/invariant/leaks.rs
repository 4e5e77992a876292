//! What must not be left.

use std::collections::BTreeSet;

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
        "at the end every volume and address belongs to a member that is recorded"
    }

    fn fact(&mut self, _at: Time, _fact: &Fact, _state: &State) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self, _at: Time, state: &State) -> Result<(), String> {
        let cloud = &state.cloud;
        let mut recorded: BTreeSet<String> = BTreeSet::new();
        for (key, record) in cloud.store.all() {
            if key.segments().nth(2) == Some("members")
                && let Ok(value) = serde_json::from_slice::<serde_json::Value>(&record.value)
                && let Some(id) = value["body"]["id"].as_str()
            {
                recorded.insert(id.to_owned());
            }
        }
        let volumes =
            cloud.volumes.all().map(|v| (v.status.id.to_string(), v.status.spec.member.to_string()));
        let addresses = cloud.ips.list().into_iter().map(|a| (a.address.to_string(), a.owner.to_string()));
        match volumes.chain(addresses).find(|(_, owner)| !recorded.contains(owner)) {
            Some((what, owner)) => Err(format!("{what} belongs to {owner}, which is not recorded")),
            None => Ok(()),
        }
    }
}
