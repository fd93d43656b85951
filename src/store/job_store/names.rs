//! The jobs of a data directory by their names: how one is found, created, and dropped.

use futures::{StreamExt as _, TryStreamExt as _};

use super::paths::{JobId, dropped_path, entry_path, name_of, named, spec_path};
use super::{FoundJob, JobStore, READS_AT_ONCE};
use crate::core::jobs::{JobHistory, LogEntry};
use crate::error::{Error, ErrorKind, Result};

impl JobStore {
    /// The names of all jobs that have not been dropped.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn names(&self) -> Result<Vec<String>> {
        let files = self.dir.list("jobs/names").await?;
        Ok(files.iter().map(|file| name_of(file)).collect())
    }

    /// All jobs that have not been dropped, by name. A job that cannot be read does not hide the others.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn all(&self) -> Result<Vec<FoundJob>> {
        self.found(self.names().await?).await
    }

    /// The jobs of these names; names without a job are left out.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn found(&self, names: Vec<String>) -> Result<Vec<FoundJob>> {
        let found = futures::stream::iter(names)
            .map(|name| async move {
                let found = self.find(&name).await;
                match found {
                    Ok(None) => Ok(None),
                    Ok(Some(found)) => Ok(Some(FoundJob {
                        name,
                        found: Ok(found),
                    })),
                    Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
                    Err(error) => Ok(Some(FoundJob {
                        name,
                        found: Err(error),
                    })),
                }
            })
            .buffered(READS_AT_ONCE);
        found
            .try_filter_map(|job| std::future::ready(Ok(job)))
            .try_collect()
            .await
    }

    /// The job of a name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::all`].
    pub async fn find(&self, name: &str) -> Result<Option<(JobId, JobHistory)>> {
        self.at(&named(name)).await
    }

    /// The id of the job with this name, without reading its log.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub async fn id_of(&self, name: &str) -> Result<Option<JobId>> {
        self.id_at(&named(name)).await
    }

    async fn id_at(&self, path: &str) -> Result<Option<JobId>> {
        let Some(found) = self.dir.read(path).await? else {
            return Ok(None);
        };
        let id = std::str::from_utf8(&found)
            .ok()
            .and_then(|text| {
                let id = text.trim().parse::<JobId>().ok()?;
                // The text must be as it was written: a capital letter in it means damage.
                (id.to_string() == text.trim()).then_some(id)
            })
            .ok_or_else(|| self.corrupt(path, "it does not hold the id of a job"))?;
        Ok(Some(id))
    }

    async fn at(&self, path: &str) -> Result<Option<(JobId, JobHistory)>> {
        let Some(id) = self.id_at(path).await? else {
            return Ok(None);
        };
        let history = self.history(id).await;
        // A job's log is written before its name.
        if history.is_err() && self.dir.list(&format!("jobs/{id}")).await?.is_empty() {
            return Err(self.corrupt(path, "it refers to a job that does not exist"));
        }
        Ok(Some((id, history?)))
    }

    /// Creates a job; `None` if the name is taken.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn create(&self, created: &LogEntry, name: &str) -> Result<Option<JobId>> {
        self.create_with(created, name, None).await
    }

    /// Creates a job with the file of its spec, if it has one; `None` if the name is taken.
    #[expect(
        clippy::disallowed_methods,
        reason = "a job of a name that another one had is another job"
    )]
    pub(super) async fn create_with(
        &self,
        created: &LogEntry,
        name: &str,
        spec: Option<Vec<u8>>,
    ) -> Result<Option<JobId>> {
        let id = JobId::new_v4();
        // Log and spec are written first: so a name always leads to a job.
        if !self.append(id, 0, created).await? {
            return Err(Error::internal("a new job's log exists already"));
        }
        let has_spec = spec.is_some();
        if let Some(spec) = spec {
            self.put(&spec_path(id), spec).await?;
        }
        let taken = self
            .dir
            .create(&named(name), id.to_string().into_bytes())
            .await?;
        if !taken {
            if has_spec {
                self.dir.delete(&spec_path(id)).await?;
            }
            self.dir.delete(&entry_path(id, 0)).await?;
            return Ok(None);
        }
        Ok(Some(id))
    }

    /// Frees the name of a job that was dropped. Its log and versions stay until [`Self::sweep_dropped`] deletes them. If this
    /// process stalled after the drop, another job may have taken the name: then the name stays.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn forget(&self, name: &str, id: JobId) -> Result<()> {
        let path = named(name);
        let found = self.dir.read(&path).await?;
        let is_its_own = found.is_some_and(|found| found.trim_ascii() == id.to_string().as_bytes());
        if !is_its_own {
            return Ok(());
        }
        // The list of dropped jobs is written first, so that the job can be found at any time: by its name, or in that list.
        self.dir.create(&dropped_path(id), Vec::new()).await?;
        self.dir.delete(&path).await
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
