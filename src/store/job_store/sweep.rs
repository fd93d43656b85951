//! Deletes the files of batches that no reader needs any more, and those of jobs that were dropped.

use super::JobStore;
use super::paths::{DROPPED, JobId, LAST_NUMBER, checkpoint_path, dropped_path};
use crate::core::jobs::{DeletableFiles, JobHistory, JobPhase};
use crate::error::Result;

impl JobStore {
    /// Deletes the files that no reader needs any more, now that a checkpoint has passed the one that holds `passed`, which
    /// [`Self::compact`] returned. Returns the number of deleted files.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn sweep(&self, id: JobId, passed: &JobHistory) -> Result<u64> {
        let Some(first) = passed.batches.first() else {
            return Ok(0);
        };
        let deletable = DeletableFiles::by(passed, &self.version(id, &first.version).await?);
        let mut deleted = self.sweep_published(id).await?;
        for (folder, ending) in [
            ("versions", ".json"),
            ("late", ".arrow"),
            ("dead", ".arrow"),
            ("state", ".arrow"),
            ("packs", ".pack"),
        ] {
            let path = format!("jobs/{id}/{folder}");
            for file in self.dir.list(&path).await? {
                let Some(name) = file.strip_suffix(ending) else {
                    continue;
                };
                let goes = match folder {
                    "packs" => deletable.has_pack(name),
                    "state" => deletable.has_state(name),
                    _ => deletable.has_version(name),
                };
                if goes {
                    self.dir.delete(&format!("{path}/{file}")).await?;
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }

    /// Deletes the files of dropped jobs whose names [`Self::forget`] has freed, by this DROP JOB or by earlier ones that died
    /// before they deleted the files. Reads no other job.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn sweep_dropped(&self) -> Result<()> {
        for file in self.dir.list(DROPPED).await? {
            let Ok(id) = file.parse::<JobId>() else {
                continue;
            };
            // A damaged job is left for the consistency check.
            let Ok(history) = self.history(id).await else {
                continue;
            };
            if history.phase == JobPhase::Dropped {
                self.clear(id, history).await?;
                self.dir.delete(&dropped_path(id)).await?;
            }
        }
        Ok(())
    }

    /// Deletes the files of a job that was dropped. A checkpoint that says so stays, behind every number that a runner may
    /// still use: so its writes have no effect.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn clear(&self, id: JobId, mut history: JobHistory) -> Result<()> {
        if history.checkpoint < LAST_NUMBER {
            history.next = LAST_NUMBER;
            self.compact(id, &history).await?;
        }
        let tombstone = checkpoint_path(id, LAST_NUMBER);
        let folder = format!("jobs/{id}");
        for file in self.dir.list(&folder).await? {
            let path = format!("{folder}/{file}");
            if path != tombstone {
                self.dir.delete(&path).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
