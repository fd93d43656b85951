//! What became of the attempts of one commit.
//!
//! The library tries a commit at one version after the other, and its errors do not say how far it got. This log store
//! stands before the table's own and remembers whether there is an attempt whose outcome nobody knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::object_store::ObjectStore;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::{DeltaResult, DeltaTableError};
use futures::TryStreamExt as _;
use uuid::Uuid;

use super::duties::Duties;
use super::lineage::{entries, restores};

/// The log of a table, for one commit.
#[derive(Clone)]
pub(super) struct Attempts {
    log: LogStoreRef,
    open: Arc<AtomicBool>,
    duties: Duties,
    /// Up to this version there is no RESTORE that the writer does not know of.
    checked: Arc<AtomicU64>,
}

impl Attempts {
    pub(super) fn on(log: LogStoreRef, duties: Duties) -> Self {
        Self {
            log,
            open: Arc::default(),
            duties,
            checked: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    /// The same for rows that must not follow a RESTORE later than version `checked`: their writer takes them for an addition to
    /// what it has written before.
    pub(super) fn of_rows_after(self, checked: u64) -> Self {
        self.checked.store(checked, Ordering::Release);
        self
    }

    async fn check_restored(&self, version: u64) -> DeltaResult<()> {
        let checked = self.checked.load(Ordering::Acquire);
        let since = checked.saturating_add(1)..version;
        let mut entries = entries(Arc::clone(&self.log), since);
        while let Some((between, entry)) = entries.try_next().await? {
            if entry.is_some_and(|entry| restores(&entry)) {
                return Err(DeltaTableError::generic(format!(
                    "version {between} has restored it to an earlier state"
                )));
            }
            self.checked.store(between, Ordering::Release);
        }
        Ok(())
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
        let not_tried = |error: DeltaTableError| TransactionError::LogStoreError {
            msg: match &error {
                DeltaTableError::Generic(text) => text.clone(),
                other => other.to_string(),
            },
            source: Box::new(error),
        };
        self.check_restored(version).await.map_err(not_tried)?;
        let entry = match entry {
            CommitOrBytes::LogBytes(entry) => {
                let fulfilled = self.duties.fulfil(&self.log, version, entry).await;
                CommitOrBytes::LogBytes(fulfilled.map_err(not_tried)?)
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
