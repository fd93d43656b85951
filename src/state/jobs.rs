//! Jobs in a data directory: `jobs/names/<name>`, and of each job the log (`jobs/<id>/log/<n>.json`), its versions
//! (`versions/<name>.json`), and what belongs to a version under the same name: keyed state (`state/<name>.arrow`) and late
//! rows (`late/<name>.arrow`).

use bytes::Bytes;

use crate::core::jobs::{BatchVersion, Entry, JobHistory, Staged};
use crate::error::{Error, ErrorKind, Result};
use crate::state::place::DataDir;

/// The identity of a job, minted when it is created: a name that is dropped and made again is another job.
pub type JobId = uuid::Uuid;

/// The jobs of a data directory.
#[derive(Debug, Clone)]
pub struct JobStore {
    dir: DataDir,
}

impl JobStore {
    /// The jobs of `dir`.
    pub fn new(dir: DataDir) -> Self {
        Self { dir }
    }

    /// Where they are.
    pub fn dir(&self) -> &DataDir {
        &self.dir
    }

    /// All jobs that have not been dropped: id and history, by name.
    ///
    /// # Errors
    ///
    /// The store does not answer, or holds something that is no log.
    pub async fn all(&self) -> Result<Vec<(JobId, JobHistory)>> {
        let mut jobs = Vec::new();
        for file in self.dir.list("jobs/names").await? {
            if let Some(job) = self.at(&format!("jobs/names/{file}")).await? {
                jobs.push(job);
            }
        }
        Ok(jobs)
    }

    /// The job of a name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::all`].
    pub async fn find(&self, name: &str) -> Result<Option<(JobId, JobHistory)>> {
        self.at(&named(name)).await
    }

    async fn at(&self, path: &str) -> Result<Option<(JobId, JobHistory)>> {
        let Some(found) = self.dir.read(path).await? else {
            return Ok(None);
        };
        let id = std::str::from_utf8(&found)
            .ok()
            .and_then(|text| text.trim().parse::<JobId>().ok())
            .ok_or_else(|| self.corrupt(path, "it does not hold the id of a job"))?;
        Ok(Some((id, self.history(id).await?)))
    }

    /// Makes a job; `None` if the name is taken.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn create(&self, created: &Entry, name: &str) -> Result<Option<JobId>> {
        let id = JobId::new_v4();
        // The log first: a name always leads to a job.
        if !self.append(id, 0, created).await? {
            return Err(Error::internal("a new job's log exists already"));
        }
        let taken = self
            .dir
            .create(&named(name), id.to_string().into_bytes())
            .await?;
        if !taken {
            self.dir.delete(&entry_path(id, 0)).await?;
            return Ok(None);
        }
        Ok(Some(id))
    }

    /// Frees a name. The job's log and versions stay until they are swept.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn forget(&self, name: &str) -> Result<()> {
        self.dir.delete(&named(name)).await
    }

    /// Writes entry `number` of a log; false if somebody else has written it.
    ///
    /// # Errors
    ///
    /// The store does not answer: the entry may be there or not.
    pub async fn append(&self, id: JobId, number: u64, entry: &Entry) -> Result<bool> {
        let bytes =
            serde_json::to_vec(entry).map_err(|error| Error::internal(error.to_string()))?;
        self.dir.create(&entry_path(id, number), bytes).await
    }

    /// Whether nobody has written entry `number` of a log yet.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn is_free(&self, id: JobId, number: u64) -> Result<bool> {
        Ok(self.dir.read(&entry_path(id, number)).await?.is_none())
    }

    /// What follows from a job's log.
    ///
    /// # Errors
    ///
    /// The store does not answer, an entry is missing or cannot be read.
    pub async fn history(&self, id: JobId) -> Result<JobHistory> {
        let folder = format!("jobs/{id}/log");
        let mut entries = Vec::new();
        for (number, name) in (0_u64..).zip(self.dir.list(&folder).await?) {
            let path = entry_path(id, number);
            if !path.ends_with(&name) {
                return Err(self.corrupt(&path, "it is missing"));
            }
            let bytes = self.get(&path).await?;
            let entry: Entry = serde_json::from_slice(&bytes)
                .map_err(|error| self.corrupt(&path, &error.to_string()))?;
            entries.push(entry);
        }
        JobHistory::of(&entries)
            .ok_or_else(|| self.corrupt(&entry_path(id, 0), "the log does not begin with it"))
    }

    /// A name for the version of log entry `sequence` that nobody else has; names sort by number.
    pub fn version_name(sequence: u64) -> String {
        format!("{sequence:010}-{}", short_random())
    }

    /// Writes a version.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn stage(&self, id: JobId, name: &str, version: &BatchVersion) -> Result<()> {
        let bytes =
            serde_json::to_vec(version).map_err(|error| Error::internal(error.to_string()))?;
        self.put(&version_path(id, name), bytes).await
    }

    /// Writes a file of keyed state.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_state(&self, id: JobId, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.put(&state_path(id, name), bytes).await
    }

    /// Reads a file of keyed state.
    ///
    /// # Errors
    ///
    /// It is missing, or the store does not answer.
    pub async fn state(&self, id: JobId, name: &str) -> Result<Bytes> {
        self.get(&state_path(id, name)).await
    }

    /// Writes the late rows of a version.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_late(&self, id: JobId, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.put(&late_path(id, name), bytes).await
    }

    /// Reads the late rows of a version.
    ///
    /// # Errors
    ///
    /// They are missing, or the store does not answer.
    pub async fn late(&self, id: JobId, name: &str) -> Result<Bytes> {
        self.get(&late_path(id, name)).await
    }

    async fn get(&self, path: &str) -> Result<Bytes> {
        let found = self.dir.read(path).await?;
        found.ok_or_else(|| self.corrupt(path, "it is missing"))
    }

    async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        if self.dir.create(path, bytes).await? {
            return Ok(());
        }
        Err(Error::internal(format!("{path} exists already")))
    }

    /// Reads a version.
    ///
    /// # Errors
    ///
    /// It is missing, cannot be read, or was written by a newer program.
    pub async fn version(&self, id: JobId, name: &str) -> Result<BatchVersion> {
        let path = version_path(id, name);
        let bytes = self.get(&path).await?;
        let version: BatchVersion = serde_json::from_slice(&bytes)
            .map_err(|error| self.corrupt(&path, &error.to_string()))?;
        if version.format > crate::core::jobs::version::FORMAT {
            return Err(Error::unsupported(format!(
                "version {name} was written by a newer program (format {})",
                version.format
            )));
        }
        Ok(version)
    }

    /// The versions that were written and never committed.
    ///
    /// # Errors
    ///
    /// As [`Self::version`].
    pub async fn staged(&self, id: JobId, history: &JobHistory) -> Result<Vec<Staged>> {
        let mut staged = Vec::new();
        for file in self.dir.list(&format!("jobs/{id}/versions")).await? {
            let Some(name) = file.strip_suffix(".json") else {
                continue;
            };
            if history.was_committed(name) {
                continue;
            }
            let version = match self.version(id, name).await {
                Ok(version) => version,
                // What was torn when it was written was not committed.
                Err(error) if error.kind() == ErrorKind::Data => continue,
                Err(error) => return Err(error),
            };
            staged.push(Staged {
                name: name.to_owned(),
                batch: version.batch,
                parent: version.parent,
            });
        }
        Ok(staged)
    }

    /// Deletes a version that was not committed, and what belongs to it.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn discard(&self, id: JobId, name: &str) -> Result<()> {
        self.dir.delete(&state_path(id, name)).await?;
        self.dir.delete(&late_path(id, name)).await?;
        self.dir.delete(&version_path(id, name)).await
    }

    fn corrupt(&self, path: &str, reason: &str) -> Error {
        Error::data(format!(
            "{path} in the data directory '{}' cannot be read: {reason}",
            self.dir.shown()
        ))
    }
}

fn named(name: &str) -> String {
    // Any name that SQL allows, in letters that every store takes as they are.
    let plain: String = name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            other => format!(".{other:02x}"),
        })
        .collect();
    format!("jobs/names/{plain}")
}

fn entry_path(id: JobId, number: u64) -> String {
    format!("jobs/{id}/log/{number:010}.json")
}

fn version_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/versions/{name}.json")
}

fn state_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/state/{name}.arrow")
}

fn late_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/late/{name}.arrow")
}

fn short_random() -> String {
    let mut name = uuid::Uuid::new_v4().simple().to_string();
    name.truncate(12);
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn store(dir: &std::path::Path) -> JobStore {
        JobStore::new(DataDir::open(&dir.display().to_string()).unwrap())
    }

    fn created(name: &str) -> Entry {
        Entry::Created {
            name: name.into(),
            text: "CREATE JOB …".into(),
            tables: vec![],
            at: 0,
        }
    }

    fn takeover(owner: &str) -> Entry {
        Entry::Takeover {
            owner: owner.into(),
            at: 0,
        }
    }

    #[tokio::test]
    async fn a_name_is_one_job_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let odd = "a/b.c%d é";
        let first = store.create(&created(odd), odd).await.unwrap().unwrap();
        assert_eq!(store.create(&created(odd), odd).await.unwrap(), None);
        assert_eq!(store.find(odd).await.unwrap().unwrap().0, first);
        assert_eq!(store.all().await.unwrap().len(), 1);
        store.forget(odd).await.unwrap();
        let second = store.create(&created(odd), odd).await.unwrap().unwrap();
        assert_ne!(first, second);
    }

    #[tokio::test]
    async fn of_two_that_write_the_same_entry_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let mut writers = Vec::new();
        for writer in 0..8 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                store
                    .append(id, 1, &takeover(&format!("runner {writer}")))
                    .await
                    .unwrap()
            }));
        }
        let mut won = 0;
        for writer in writers {
            won += usize::from(writer.await.unwrap());
        }
        assert_eq!(won, 1);
        let history = store.history(id).await.unwrap();
        assert_eq!(history.next, 2);
        assert!(history.owner.unwrap().starts_with("runner"));
    }

    #[tokio::test]
    async fn versions_are_staged_and_torn_ones_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        let version = BatchVersion {
            format: 1,
            batch: 1,
            generation: 0,
            sequence: 1,
            parent: None,
            sources: BTreeMap::new(),
            skipped: BTreeMap::new(),
            rows_in: 3,
            bytes_in: 0,
            rows_out: 3,
            published: BTreeMap::new(),
            files: vec![],
            dead_letters: vec![],
            time: None,
            state: vec![],
            fingerprint: None,
            late_rows: 0,
            started_at: 0,
            took: 0,
        };
        let name = JobStore::version_name(1);
        store.stage(id, &name, &version).await.unwrap();
        assert_eq!(store.version(id, &name).await.unwrap(), version);
        std::fs::write(
            dir.path().join(format!("jobs/{id}/versions/torn.json")),
            "{\"format\":",
        )
        .unwrap();
        let history = store.history(id).await.unwrap();
        let staged = store.staged(id, &history).await.unwrap();
        assert_eq!(staged.len(), 1);
        assert_eq!(staged[0].name, name);
        let error = store.version(id, "torn").await.unwrap_err();
        assert!(error.message().contains("torn.json"), "{error}");
        store.discard(id, &name).await.unwrap();
        assert_eq!(store.staged(id, &history).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_gap_in_a_log_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = store.create(&created("j"), "j").await.unwrap().unwrap();
        store.append(id, 2, &takeover("late")).await.unwrap();
        let error = store.history(id).await.unwrap_err();
        assert!(error.message().contains("0000000001.json"), "{error}");
    }
}
