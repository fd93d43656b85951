//! Heartbeats: which process runs a job.

use super::JobStore;
use super::paths::{JobId, heartbeat_path};
use crate::core::jobs::Heartbeat;
use crate::error::{Error, Result};

impl JobStore {
    /// Says that a process runs the job.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_heartbeat(&self, id: JobId, beat: &Heartbeat) -> Result<()> {
        let bytes = serde_json::to_vec(beat).map_err(|error| Error::internal(error.to_string()))?;
        self.dir.overwrite(&heartbeat_path(id), bytes).await
    }

    /// The last heartbeat of the job; none if it cannot be read.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn heartbeat(&self, id: JobId) -> Result<Option<Heartbeat>> {
        let found = self.dir.read(&heartbeat_path(id)).await?;
        Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Deletes the heartbeat: the process no longer runs the job.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn delete_heartbeat(&self, id: JobId) -> Result<()> {
        self.dir.delete(&heartbeat_path(id)).await
    }
}
