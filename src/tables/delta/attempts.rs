//! What became of the attempts of one commit.
//!
//! The library tries a commit at one version after the other, and its errors do not say how far it got. This log store
//! stands before the table's own and remembers whether there is an attempt whose outcome nobody knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::object_store::ObjectStore;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::{DeltaResult, DeltaTableError};
use uuid::Uuid;

use super::duties::Duties;

/// The log of a table, for one commit.
#[derive(Clone)]
pub(super) struct Attempts {
    log: LogStoreRef,
    open: Arc<AtomicBool>,
    duties: Duties,
}

impl Attempts {
    pub(super) fn on(log: LogStoreRef, duties: Duties) -> Self {
        Self {
            log,
            open: Arc::default(),
            duties,
        }
    }

    /// Whether the entry may have been written although no attempt is known to have done it.
    pub(super) fn are_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}

#[async_trait]
impl LogStore for Attempts {
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
        let entry = match entry {
            CommitOrBytes::LogBytes(entry) => {
                let fulfilled = self.duties.fulfil(&self.log, version, entry).await;
                let entry = fulfilled.map_err(|error| TransactionError::LogStoreError {
                    msg: error.to_string(),
                    source: Box::new(error),
                })?;
                CommitOrBytes::LogBytes(entry)
            }
            elsewhere => elsewhere,
        };
        let written = self.log.write_commit_entry(version, entry, operation).await;
        match &written {
            // Of the version that exists the store has made sure that it is another writer's.
            Ok(()) | Err(TransactionError::VersionAlreadyExists(_)) => {}
            Err(_) => self.open.store(true, Ordering::Release),
        }
        written
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
