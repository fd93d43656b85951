//! The log of a table for a commit that moves rows to other files: each file is taken out once.
//!
//! The library compares the files that a commit removes with those of other commits only if these have changed rows. So of two
//! OPTIMIZE at the same time, both would add the rows of the files that they have put together.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::kernel::transaction::{CommitConflictError, TransactionError};
use deltalake::logstore::object_store::ObjectStore;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::{DeltaResult, DeltaTableError};
use futures::TryStreamExt as _;
use serde_json::Value;
use uuid::Uuid;

use super::lineage::{decoded, entries};

/// The log of a table, for one commit.
pub(super) struct MovedFiles {
    log: LogStoreRef,
    /// Up to this version no other commit has removed files of this one.
    checked: AtomicU64,
}

impl MovedFiles {
    /// For a commit of files that version `read` has.
    pub(super) fn since(read: u64, log: LogStoreRef) -> Self {
        Self {
            log,
            checked: AtomicU64::new(read),
        }
    }

    /// Whether another commit before `version` has removed a file that `entry` removes.
    async fn are_taken(&self, version: u64, entry: &[u8]) -> DeltaResult<bool> {
        let files = removed(entry);
        let since = self.checked.load(Ordering::Acquire) + 1..version;
        let mut entries = entries(Arc::clone(&self.log), since);
        while let Some((between, entry)) = entries.try_next().await? {
            let is_taken = |entry: Bytes| !files.is_disjoint(&removed(&entry));
            if entry.is_some_and(is_taken) {
                return Ok(true);
            }
            self.checked.store(between, Ordering::Release);
        }
        Ok(false)
    }
}

/// The paths of the files that an entry removes.
fn removed(entry: &[u8]) -> HashSet<String> {
    let lines = entry.split(|byte| *byte == b'\n');
    let actions = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let paths = actions.filter_map(|action| {
        let path = action.pointer("/remove/path")?.as_str()?;
        Some(decoded(path))
    });
    paths.collect()
}

#[async_trait]
impl LogStore for MovedFiles {
    fn name(&self) -> String {
        self.log.name()
    }

    async fn refresh(&self) -> DeltaResult<()> {
        self.log.refresh().await
    }

    async fn read_commit_entry(&self, version: u64) -> DeltaResult<Option<Bytes>> {
        self.log.read_commit_entry(version).await
    }

    async fn write_commit_entry(
        &self,
        version: u64,
        entry: CommitOrBytes,
        operation: Uuid,
    ) -> Result<(), TransactionError> {
        if let CommitOrBytes::LogBytes(bytes) = &entry {
            let taken = self.are_taken(version, bytes).await;
            let taken = taken.map_err(|error| TransactionError::LogStoreError {
                msg: error.to_string(),
                source: Box::new(error),
            })?;
            if taken {
                return Err(TransactionError::CommitConflict(
                    CommitConflictError::ConcurrentDeleteDelete,
                ));
            }
        }
        self.log.write_commit_entry(version, entry, operation).await
    }

    async fn abort_commit_entry(
        &self,
        version: u64,
        entry: CommitOrBytes,
        operation: Uuid,
    ) -> Result<(), TransactionError> {
        self.log.abort_commit_entry(version, entry, operation).await
    }

    async fn get_latest_version(&self, start: u64) -> Result<u64, DeltaTableError> {
        self.log.get_latest_version(start).await
    }

    fn object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.log.object_store(operation)
    }

    fn root_object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.log.root_object_store(operation)
    }

    fn config(&self) -> &LogStoreConfig {
        self.log.config()
    }
}
