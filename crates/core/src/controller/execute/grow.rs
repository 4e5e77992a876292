//! Making a member's volumes larger, and recording how large they were seen to be.

use super::{Executor, Progress};
use crate::controller::Snapshot;
use crate::controller::trouble::reason_of;
use crate::error::Result;
use crate::ids::{MemberName, VolumeId, VolumeName};
use crate::model::{ByteSize, Reason};
use crate::workflow::claim::push_event;

impl Executor<'_> {
    /// How large a volume is, if that can ever change; none otherwise.
    pub(super) async fn size_of(&self, id: &VolumeId) -> Result<Option<u64>> {
        if !self.backends.volumes.capabilities().grow {
            return Ok(None);
        }
        Ok(self.backends.volumes.describe(id).await?.map(|status| status.spec.size_bytes))
    }

    /// Has a volume made larger if it is not seen to be. That this fails is recorded with the member, where it keeps nothing
    /// else from going on.
    pub(super) async fn grow_volume(
        &self,
        snapshot: &mut Snapshot,
        name: &MemberName,
        volume: &VolumeName,
        size_bytes: u64,
    ) -> Result<Progress> {
        let Some(found) = snapshot.facts.members.get(name) else { return Ok(Progress::Stale) };
        let binding = found.record.volumes.iter().find(|binding| &binding.name == volume);
        let Some(id) = binding.and_then(|binding| binding.id.clone()) else { return Ok(Progress::Stale) };
        let mut has = self.size_of(&id).await?;
        let mut failed = None;
        if has.is_none_or(|has| has < size_bytes) {
            match self.backends.volumes.begin_grow(&id, size_bytes).await {
                Ok(()) => has = self.size_of(&id).await?,
                Err(error) => failed = Some(reason_of(&error, Reason::VolumeGrowing)),
            }
        }
        self.change_member(snapshot, name, |record, now| {
            let Some(binding) = record.volumes.iter_mut().find(|binding| &binding.name == volume) else {
                return;
            };
            let before = binding.size_bytes;
            binding.size_bytes = has.or(before);
            binding.growth_failed = failed;
            if let (Some(before), Some(has)) = (before, has)
                && before < has
            {
                let message = format!("volume {volume}: {} instead of {}", ByteSize(has), ByteSize(before));
                push_event(record, now, Reason::SpecChanged, message);
            }
        })
        .await
    }
}
