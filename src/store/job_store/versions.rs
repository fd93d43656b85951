//! The versions of a job.

use futures::{Stream, StreamExt as _};

use super::paths::{JobId, dead_path, late_path, short_random, state_path, version_path};
use super::{JobStore, READS_AT_ONCE};
use crate::core::jobs::{BatchVersion, JobHistory, StagedVersion, is_older};
use crate::error::{ErrorKind, Result};
use crate::store::wire::{read_version, version_bytes};

impl JobStore {
    /// A unique name for the version of log entry `sequence`; names sort by number.
    pub fn version_name(sequence: u64) -> String {
        format!("{sequence:010}-{}", short_random())
    }

    /// Writes a version.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn stage(&self, id: JobId, name: &str, version: &BatchVersion) -> Result<()> {
        let bytes = version_bytes(version)?;
        self.put(&version_path(id, name), bytes).await
    }

    /// Reads a version.
    ///
    /// # Errors
    ///
    /// It is missing, cannot be read, or was written by a newer program.
    pub async fn version(&self, id: JobId, name: &str) -> Result<BatchVersion> {
        self.read_as(&version_path(id, name), read_version).await
    }

    /// Reads versions, some at the same time; returns them in the order of their names.
    ///
    /// # Errors
    ///
    /// As [`Self::version`], at the position of the version that cannot be read.
    pub fn versions(
        &self,
        id: JobId,
        names: Vec<String>,
    ) -> impl Stream<Item = Result<BatchVersion>> + Send + use<> {
        let store = self.clone();
        let read = move |name: String| {
            let store = store.clone();
            async move { store.version(id, &name).await }
        };
        futures::stream::iter(names)
            .map(read)
            .buffered(READS_AT_ONCE)
    }

    /// The versions that were written and never committed.
    ///
    /// # Errors
    ///
    /// As [`Self::version`].
    pub async fn staged(&self, id: JobId, history: &JobHistory) -> Result<Vec<StagedVersion>> {
        self.staged_before(id, history, history.next).await
    }

    /// The versions that the next runner will find: it first appends an entry to the log, by which it takes the job over.
    ///
    /// # Errors
    ///
    /// As [`Self::version`].
    pub async fn staged_for_next(
        &self,
        id: JobId,
        history: &JobHistory,
    ) -> Result<Vec<StagedVersion>> {
        self.staged_before(id, history, history.next + 1).await
    }

    async fn staged_before(
        &self,
        id: JobId,
        history: &JobHistory,
        number: u64,
    ) -> Result<Vec<StagedVersion>> {
        let mut staged = Vec::new();
        for file in self.dir.list(&format!("jobs/{id}/versions")).await? {
            let Some(name) = file.strip_suffix(".json") else {
                continue;
            };
            // If this runner stalled here, another one may have taken the job over and committed: skip versions newer than our
            // log.
            if history.was_committed(name) || !is_older(name, number) {
                continue;
            }
            let version = match self.version(id, name).await {
                Ok(version) => version,
                // A version that was torn while it was written was not committed.
                Err(error) if error.kind() == ErrorKind::Data => continue,
                Err(error) => return Err(error),
            };
            staged.push(StagedVersion {
                name: name.to_owned(),
                batch: version.batch,
                parent: version.parent,
            });
        }
        Ok(staged)
    }

    /// Deletes a version that was not committed, with its state and late rows.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn discard(&self, id: JobId, name: &str) -> Result<()> {
        self.dir.delete(&state_path(id, name)).await?;
        self.dir.delete(&late_path(id, name)).await?;
        self.dir.delete(&dead_path(id, name)).await?;
        self.dir.delete(&version_path(id, name)).await
    }
}

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;
