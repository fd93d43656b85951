//! Checkpoints of a log, and the entries that they let go.

use super::JobStore;
use super::paths::{JobId, checkpoint_path, log_folder, number_of};
use crate::core::jobs::{JobHistory, PassedCheckpoints, passed_by};
use crate::error::Result;
use crate::store::wire::{checkpoint_bytes, read_checkpoint};

impl JobStore {
    /// Writes a checkpoint of the history so far, and deletes the entries that the checkpoint before has passed.
    /// [`Self::history`] starts from the new one. Returns the history in the checkpoint before; none if there is none, or if
    /// another process has written a newer checkpoint: then nothing is deleted.
    ///
    /// The process may stop at any step, and several processes may do this at the same time: only entries that a remaining
    /// checkpoint has passed are deleted.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn compact(&self, id: JobId, history: &JobHistory) -> Result<Option<JobHistory>> {
        let bytes = checkpoint_bytes(history)?;
        // The same entries give the same checkpoint: one that is there is as good.
        self.dir
            .create(&checkpoint_path(id, history.next), bytes)
            .await?;
        let checkpoints = self.checkpoints(id).await?;
        let Some(PassedCheckpoints { before, older }) = passed_by(history.next, &checkpoints)
        else {
            return Ok(None);
        };
        // A reader of the checkpoint before still finds the entries after it.
        let passed = self.checkpoint(id, before).await?;
        // Entries are deleted in order, so that a remaining entry always has those that follow it.
        for name in self.dir.list(&log_folder(id)).await? {
            if number_of(&name).is_some_and(|number| number < before) {
                self.dir
                    .delete(&format!("{}/{name}", log_folder(id)))
                    .await?;
            }
        }
        for number in older {
            self.dir.delete(&checkpoint_path(id, *number)).await?;
        }
        Ok(Some(passed))
    }

    /// The number of the newest checkpoint.
    pub(super) async fn last_checkpoint(&self, id: JobId) -> Result<Option<u64>> {
        Ok(self.checkpoints(id).await?.pop())
    }

    /// The numbers of all checkpoints, ascending.
    async fn checkpoints(&self, id: JobId) -> Result<Vec<u64>> {
        let names = self.dir.list(&format!("jobs/{id}/checkpoint")).await?;
        Ok(names.iter().filter_map(|name| number_of(name)).collect())
    }

    pub(super) async fn checkpoint(&self, id: JobId, number: u64) -> Result<JobHistory> {
        let read = |bytes: &[u8]| read_checkpoint(bytes, number);
        self.read_as(&checkpoint_path(id, number), read).await
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
