//! Attempts of one commit: a log store that records their outcome.
//!
//! The library tries a commit at one version after the other, and its errors do not say how far it got. This log store
//! wraps the table's own and remembers whether there is an attempt with an unknown outcome.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::object_store::ObjectStore;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::{DeltaResult, DeltaTableError};
use futures::TryStreamExt as _;
use serde_json::Value;
use uuid::Uuid;

use super::duties::Duties;
use super::lineage::{decoded, entries, restores};
use super::write::Rewrite;

/// The log of a table, for one commit.
#[derive(Clone)]
pub(super) struct Attempts {
    log: LogStoreRef,
    open: Arc<AtomicBool>,
    duties: Duties,
    /// Up to this version there is no RESTORE that the writer does not know of.
    checked: Arc<AtomicU64>,
    /// Of a commit that changes rows: the files that it takes out of the table, and how far the commits of others were
    /// checked.
    replaced: Option<Arc<Replaced>>,
}

/// The version and files that a commit that changes rows has read.
struct Replaced {
    rewrite: Rewrite,
    /// Paths of files that it takes out.
    files: HashSet<String>,
    /// Up to this version no other commit has changed the rows that it has read.
    checked: AtomicU64,
    /// Another commit has changed them.
    is_overtaken: AtomicBool,
}

impl Attempts {
    pub(super) fn on(log: LogStoreRef, duties: Duties) -> Self {
        Self {
            log,
            open: Arc::default(),
            duties,
            checked: Arc::new(AtomicU64::new(u64::MAX)),
            replaced: None,
        }
    }

    /// The same for rows that must not follow a RESTORE later than version `checked`: their writer adds them to rows
    /// that it has written before, which the RESTORE may have taken out.
    pub(super) fn of_rows_after(self, checked: u64) -> Self {
        self.checked.store(checked, Ordering::Release);
        self
    }

    /// The same for rows that were read in version `read` and change: no other commit since may have changed rows, or have moved
    /// rows of `files`.
    pub(super) fn of_change(
        mut self,
        rewrite: Rewrite,
        read: u64,
        files: impl IntoIterator<Item = String>,
    ) -> Self {
        self.replaced = Some(Arc::new(Replaced {
            rewrite,
            // The library gives paths of files as they are on disk: entries have them encoded once more.
            files: files.into_iter().collect(),
            checked: AtomicU64::new(read),
            is_overtaken: AtomicBool::new(false),
        }));
        self
    }

    /// Whether another commit has changed rows that this one has read.
    pub(super) fn are_overtaken(&self) -> bool {
        let replaced = self.replaced.as_ref();
        replaced.is_some_and(|replaced| replaced.is_overtaken.load(Ordering::Acquire))
    }

    async fn check_unchanged(&self, version: u64) -> DeltaResult<()> {
        let Some(replaced) = &self.replaced else {
            return Ok(());
        };
        let since = replaced.checked.load(Ordering::Acquire) + 1..version;
        let mut entries = entries(Arc::clone(&self.log), since);
        while let Some((between, entry)) = entries.try_next().await? {
            if entry.is_some_and(|entry| replaced.is_changed_by(&entry)) {
                replaced.is_overtaken.store(true, Ordering::Release);
                return Err(DeltaTableError::generic(format!(
                    "version {between} has changed rows that this statement has read"
                )));
            }
            replaced.checked.store(between, Ordering::Release);
        }
        Ok(())
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

impl Replaced {
    /// Whether a commit has changed rows that were read. Commits that only add rows do not count: their rows come after
    /// this commit.
    fn is_changed_by(&self, entry: &[u8]) -> bool {
        let lines = entry.split(|byte| *byte == b'\n');
        let actions = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let mut adds = false;
        let mut has_read = false;
        for action in actions {
            if let Some(remove) = action.get("remove") {
                let path = remove.get("path").and_then(Value::as_str);
                let is_ours = path.is_some_and(|path| self.files.contains(&decoded(path)));
                // Files that others have only put together: their rows are the same.
                let moves = remove.get("dataChange") == Some(&Value::Bool(false));
                if is_ours || !moves {
                    return true;
                }
            }
            adds |= action.get("add").is_some();
            let info = action.get("commitInfo");
            has_read |=
                info.and_then(|info| info.get("isBlindAppend")) == Some(&Value::Bool(false));
        }
        // Rows that two merges add since neither saw those of the other.
        self.rewrite == Rewrite::Merge && adds && has_read
    }

    /// The entry with the statement's operation. For the library a MERGE has always read all rows, so the commit is
    /// made as an UPDATE and gets its name here.
    fn named(&self, entry: Bytes) -> DeltaResult<Bytes> {
        if self.rewrite != Rewrite::Merge {
            return Ok(entry);
        }
        let mut lines = Vec::new();
        for line in entry.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let mut action: Value = serde_json::from_slice(line)
                .map_err(|json_err| DeltaTableError::SerializeLogJson { json_err })?;
            let info = action.get_mut("commitInfo").and_then(Value::as_object_mut);
            if let Some(info) = info {
                info.insert("operation".to_owned(), "MERGE".into());
            }
            lines.push(action.to_string());
        }
        Ok(lines.join("\n").into())
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
        self.check_unchanged(version).await.map_err(not_tried)?;
        let entry = match entry {
            CommitOrBytes::LogBytes(entry) => {
                let entry = match &self.replaced {
                    Some(replaced) => replaced.named(entry),
                    None => Ok(entry),
                };
                let entry = entry.map_err(not_tried)?;
                let fulfilled = self.duties.fulfil(&self.log, version, entry).await;
                CommitOrBytes::LogBytes(fulfilled.map_err(not_tried)?)
            }
            elsewhere => elsewhere,
        };
        let written = self.log.write_commit_entry(version, entry, operation).await;
        match &written {
            // If the version exists, the store has made sure that it is another writer's.
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
