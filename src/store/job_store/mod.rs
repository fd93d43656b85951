//! Jobs in a data directory: `jobs/names/<name>`, and of each job the log (`jobs/<id>/log/<n>.json`) with its checkpoints
//! (`checkpoint/<n>.json`), its versions (`versions/<name>.json`), what belongs to a version under the same name: keyed state
//! (`state/<name>.arrow`), late rows (`late/<name>.arrow`) and dead letters (`dead/<name>.arrow`), and of swept versions what they had
//! set aside (`packs/<name>.pack`) and what they had published (`published/<name>.json`). A job that was dropped is named in
//! `jobs/dropped/<id>` until its files are deleted. What stands in the JSON files says `wire`.
//!
//! Each file has methods of [`JobStore`]: `names` of the names, `log` of entries, `checkpoint` of checkpoints and `sweep` of what
//! they let go, `versions` of versions and `batch_files` of the files beside them, `published` of what they had published, `heartbeat`
//! of heartbeats, `run_files` of the files that only a reprocessing run has: its spec (`jobs/<id>/spec.json`) and the rows that it
//! would change (`changes/<name>.arrow`). `paths` says where each file lies.

mod batch_files;
mod checkpoint;
#[cfg(test)]
mod fixture;
mod heartbeat;
mod log;
mod names;
pub(super) mod paths;
mod published;
mod run_files;
mod sweep;
mod versions;

use bytes::Bytes;

use crate::core::jobs::JobHistory;
use crate::error::{Error, Result};
use crate::store::checksum::{check_crc32, crc32};
use crate::store::data_dir::DataDir;
use crate::store::wire::UnreadableFile;
pub use paths::JobId;

/// Entries, versions or specs that are read at the same time.
pub(super) const READS_AT_ONCE: usize = 16;

/// A job, or the error if it cannot be read.
#[derive(Debug)]
pub struct FoundJob {
    /// The name in SQL.
    pub name: String,
    /// Its id and history.
    pub found: Result<(JobId, JobHistory)>,
}

/// The jobs of a data directory.
#[derive(Debug, Clone)]
pub struct JobStore {
    dir: DataDir,
    is_fleeting: bool,
}

impl JobStore {
    /// The jobs of `dir`.
    pub fn new(dir: DataDir) -> Self {
        Self {
            dir,
            is_fleeting: false,
        }
    }

    /// Jobs in memory that end with their process, such as subscriptions.
    pub fn ephemeral() -> Self {
        Self {
            dir: DataDir::in_memory(),
            is_fleeting: true,
        }
    }

    /// Whether late rows and dead letters are deleted with their batches instead of being packed.
    pub fn is_ephemeral(&self) -> bool {
        self.is_fleeting
    }

    /// The data directory that holds them.
    pub(super) fn dir(&self) -> &DataDir {
        &self.dir
    }

    async fn read_as<T>(
        &self,
        path: &str,
        read: impl FnOnce(&[u8]) -> Result<T, UnreadableFile>,
    ) -> Result<T> {
        let bytes = self.get(path).await?;
        read(&bytes).map_err(|why| why.of_file(path, self.dir.shown()))
    }

    async fn get_checked(&self, path: &str, written: Option<u32>) -> Result<Bytes> {
        let bytes = self.get(path).await?;
        if written.is_some() {
            let checked = check_crc32(crc32(&bytes), written);
            checked.map_err(|reason| self.corrupt(path, &reason))?;
        }
        Ok(bytes)
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

    fn corrupt(&self, path: &str, reason: &str) -> Error {
        UnreadableFile::Damaged(reason.to_owned()).of_file(path, self.dir.shown())
    }
}
