//! Files that only a reprocessing run has: its spec, and the rows that differ from the published ones.

use bytes::Bytes;

use super::JobStore;
use super::paths::{JobId, changes_path, spec_path};
use crate::core::jobs::{ChangesFile, LogEntry};
use crate::core::runs::RunSpec;
use crate::error::Result;
use crate::store::checksum::crc32;
use crate::store::wire::{read_run_spec, run_spec_bytes};

impl JobStore {
    /// Creates a run with its spec; `None` if its run id is taken.
    pub(in crate::store) async fn create_run(
        &self,
        created: &LogEntry,
        spec: &RunSpec,
    ) -> Result<Option<JobId>> {
        let bytes = run_spec_bytes(spec)?;
        self.create_with(created, &spec.run_id, Some(bytes)).await
    }

    /// The spec of a run.
    pub(in crate::store) async fn run_spec(&self, id: JobId) -> Result<RunSpec> {
        self.read_as(&spec_path(id), read_run_spec).await
    }

    /// Writes the changes of a chunk. Gives the file as the event of the chunk names it.
    pub(in crate::store) async fn put_run_changes(
        &self,
        id: JobId,
        number: u64,
        rows: u64,
        bytes: Vec<u8>,
    ) -> Result<ChangesFile> {
        // A process that stalls and one that goes on in its place give their files different names.
        let name = Self::version_name(number);
        let crc32 = crc32(&bytes);
        self.put(&changes_path(id, &name), bytes).await?;
        Ok(ChangesFile { name, rows, crc32 })
    }

    /// Deletes the changes of all chunks of a run.
    pub(in crate::store) async fn delete_run_changes(&self, id: JobId) -> Result<()> {
        for name in self.run_changes_names(id).await? {
            self.dir.delete(&changes_path(id, &name)).await?;
        }
        Ok(())
    }

    /// The names of the files of changes of a run, in order.
    pub(in crate::store) async fn run_changes_names(&self, id: JobId) -> Result<Vec<String>> {
        let files = self.dir.list(&format!("jobs/{id}/changes")).await?;
        let names = files.iter().filter_map(|file| file.strip_suffix(".arrow"));
        Ok(names.map(str::to_owned).collect())
    }

    /// Reads the changes of a chunk.
    pub(in crate::store) async fn run_changes(
        &self,
        id: JobId,
        file: &ChangesFile,
    ) -> Result<Bytes> {
        let path = changes_path(id, &file.name);
        self.get_checked(&path, Some(file.crc32)).await
    }
}
