//! Attempts of one commit: a log store that records their outcome.
//!
//! The library tries a commit at one version after the other, and its errors do not say how far it got. This log store
//! wraps the table's own and remembers whether there is an attempt with an unknown outcome.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::kernel::transaction::{CommitConflictError, TransactionError};
use deltalake::logstore::object_store::ObjectStore;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::{DeltaResult, DeltaTableError};
use serde_json::Value;
use uuid::Uuid;

use super::feature_actions::FeatureActions;
use super::lineage::{decoded, first_version, restores};
use super::moved_files::MovedFiles;
use super::write::RewriteMode;

/// The log of a table, for one commit.
#[derive(Clone)]
pub(super) struct CommitAttempts {
    log: LogStoreRef,
    open: Arc<AtomicBool>,
    /// None of a commit of the library's own, which moves rows.
    duties: Option<FeatureActions>,
    /// Up to this version there is no RESTORE that the writer does not know of.
    checked: Arc<AtomicU64>,
    /// Of a commit that changes or replaces rows: the files that it takes out of the table, and how far the commits of others
    /// were checked.
    replaced: Option<Arc<ReadVersion>>,
    /// Of a commit that moves rows to other files: how far the files that others took out were checked.
    moved: Option<Arc<MovedFiles>>,
}

/// The version and files that a commit that changes or replaces rows has read.
struct ReadVersion {
    /// None of an INSERT OVERWRITE.
    rewrite: Option<RewriteMode>,
    /// Whether rows that an append adds count as read.
    is_serializable: bool,
    /// Paths of files that it takes out.
    files: HashSet<String>,
    /// Up to this version no other commit has changed the rows that it has read.
    checked: AtomicU64,
    /// Another commit has changed them.
    is_overtaken: AtomicBool,
}

impl CommitAttempts {
    pub(super) fn on(log: LogStoreRef, duties: FeatureActions) -> Self {
        Self {
            duties: Some(duties),
            ..Self::without_duties(log)
        }
    }

    /// For a commit of the library's own that moves rows of version `read` to other files.
    pub(super) fn of_moved_files(log: LogStoreRef, read: u64) -> Self {
        Self {
            moved: Some(Arc::new(MovedFiles::since(read))),
            ..Self::without_duties(log)
        }
    }

    fn without_duties(log: LogStoreRef) -> Self {
        Self {
            log,
            open: Arc::default(),
            duties: None,
            checked: Arc::new(AtomicU64::new(u64::MAX)),
            replaced: None,
            moved: None,
        }
    }

    /// The same for rows that must not follow a RESTORE later than version `checked`: their writer adds them to rows
    /// that it has written before, which the RESTORE may have taken out.
    pub(super) fn of_rows_after(self, checked: u64) -> Self {
        self.checked.store(checked, Ordering::Release);
        self
    }

    /// The same for rows that were read in version `read` and change, or are replaced: no other commit since may have changed rows,
    /// or have moved rows of `files`, or have added rows otherwise than by an append. If the table is serializable, appends count
    /// too.
    pub(super) fn of_change(
        mut self,
        rewrite: Option<RewriteMode>,
        is_serializable: bool,
        read: u64,
        files: impl IntoIterator<Item = String>,
    ) -> Self {
        self.replaced = Some(Arc::new(ReadVersion {
            rewrite,
            is_serializable,
            // The library gives paths of files as they are on disk: entries have them encoded once more.
            files: files.into_iter().collect(),
            checked: AtomicU64::new(read),
            is_overtaken: AtomicBool::new(false),
        }));
        self
    }

    /// Whether another commit has changed rows that this one has read.
    pub(super) fn have_conflict(&self) -> bool {
        let replaced = self.replaced.as_ref();
        replaced.is_some_and(|replaced| replaced.is_overtaken.load(Ordering::Acquire))
    }

    async fn check_unchanged(&self, version: u64) -> DeltaResult<()> {
        let Some(replaced) = &self.replaced else {
            return Ok(());
        };
        let is_changed = |entry: &[u8]| replaced.is_changed_by(entry);
        let changed = first_version(&self.log, &replaced.checked, version, &is_changed);
        let Some(between) = changed.await? else {
            return Ok(());
        };
        replaced.is_overtaken.store(true, Ordering::Release);
        Err(DeltaTableError::generic(format!(
            "version {between} has changed rows that this statement has read"
        )))
    }

    async fn check_restored(&self, version: u64) -> DeltaResult<()> {
        match first_version(&self.log, &self.checked, version, &restores).await? {
            None => Ok(()),
            Some(between) => Err(DeltaTableError::generic(format!(
                "version {between} has restored it to an earlier state"
            ))),
        }
    }

    /// Whether the entry may have been written although no attempt is known to have done it.
    pub(super) fn are_undecided(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}

impl ReadVersion {
    /// Whether a commit has changed rows that were read.
    ///
    /// Rows that an append adds come after this commit. Rows of a commit that has read the table, such as a MERGE, may depend on
    /// rows that this commit changes, and this commit has not seen them: no order of the two gives what both have written.
    /// Where the isolation level is `Serializable`, the order is that of the log, and appends count too.
    fn is_changed_by(&self, entry: &[u8]) -> bool {
        let lines = entry.split(|byte| *byte == b'\n');
        let actions = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let mut adds = false;
        let mut info = None;
        // Files that were only put together: their rows are the same.
        let moves = |file: &Value| file.get("dataChange") == Some(&Value::Bool(false));
        for mut action in actions {
            if let Some(remove) = action.get("remove") {
                let path = remove.get("path").and_then(Value::as_str);
                let is_ours = path.is_some_and(|path| self.files.contains(&decoded(path)));
                if is_ours || !moves(remove) {
                    return true;
                }
            }
            adds |= action.get("add").is_some_and(|add| !moves(add));
            info = action.get_mut("commitInfo").map(Value::take).or(info);
        }
        adds && (self.is_serializable || may_have_read(info.as_ref()))
    }

    /// The entry with the statement's operation. For the library a MERGE has always read all rows, so the commit is
    /// made as an UPDATE and gets its name here.
    fn named(&self, entry: Bytes) -> DeltaResult<Bytes> {
        if self.rewrite != Some(RewriteMode::Merge) {
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

/// Whether a commit that only adds rows may have read rows of the table. Its writer says it; else its operation tells: only
/// an append reads none.
fn may_have_read(info: Option<&Value>) -> bool {
    let Some(info) = info else {
        return true;
    };
    if let Some(is_blind) = info.get("isBlindAppend").and_then(Value::as_bool) {
        return !is_blind;
    }
    let mode = |name| info.pointer(name).and_then(Value::as_str);
    let mode = match info.get("operation").and_then(Value::as_str) {
        Some("WRITE") => mode("/operationParameters/mode"),
        Some("STREAMING UPDATE") => mode("/operationParameters/outputMode"),
        _ => None,
    };
    mode != Some("Append")
}

#[async_trait]
impl LogStore for CommitAttempts {
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
                let mut entry = entry.map_err(not_tried)?;
                if let Some(moved) = &self.moved {
                    let are_taken = moved.are_taken(&self.log, version, &entry);
                    if are_taken.await.map_err(not_tried)? {
                        let conflict = CommitConflictError::ConcurrentDeleteDelete;
                        return Err(TransactionError::CommitConflict(conflict));
                    }
                }
                if let Some(duties) = &self.duties {
                    let fulfilled = duties.add_actions(&self.log, version, entry).await;
                    entry = fulfilled.map_err(not_tried)?;
                }
                CommitOrBytes::LogBytes(entry)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replaced(is_serializable: bool) -> ReadVersion {
        ReadVersion {
            rewrite: Some(RewriteMode::Update),
            is_serializable,
            files: HashSet::from(["ours".to_owned()]),
            checked: AtomicU64::new(0),
            is_overtaken: AtomicBool::new(false),
        }
    }

    fn add(data_change: bool) -> Value {
        json!({"add": {"path": "new", "dataChange": data_change}})
    }

    fn remove(path: &str, data_change: bool) -> Value {
        json!({"remove": {"path": path, "dataChange": data_change}})
    }

    fn operation(name: &str, parameters: Value) -> Value {
        json!({"commitInfo": {"operation": name, "operationParameters": parameters}})
    }

    #[test]
    fn appends_alone_come_after_a_change() {
        let append = || operation("WRITE", json!({"mode": "Append"}));
        let said = |is_blind: bool| json!({"commitInfo": {"isBlindAppend": is_blind}});
        // Entries, whether each changes rows that were read, and whether it does in a serializable table.
        let entries = [
            (vec![append(), add(true)], false, true),
            (vec![add(true), append()], false, true),
            (vec![said(true), add(true)], false, true),
            (
                vec![
                    operation("STREAMING UPDATE", json!({"outputMode": "Append"})),
                    add(true),
                ],
                false,
                true,
            ),
            (vec![said(false), add(true)], true, true),
            (
                vec![
                    json!({"commitInfo": {"operation": "WRITE", "operationParameters": {"mode": "Append"}, "isBlindAppend": false}}),
                    add(true),
                ],
                true,
                true,
            ),
            (vec![operation("MERGE", json!({})), add(true)], true, true),
            (
                vec![operation("WRITE", json!({"mode": "Overwrite"})), add(true)],
                true,
                true,
            ),
            (
                vec![
                    operation("STREAMING UPDATE", json!({"outputMode": "Complete"})),
                    add(true),
                ],
                true,
                true,
            ),
            (vec![add(true)], true, true),
            (vec![operation("MERGE", json!({}))], false, false),
            (vec![append()], false, false),
            (
                vec![said(false), add(false), remove("other", false)],
                false,
                false,
            ),
            (
                vec![said(false), add(false), remove("ours", false)],
                true,
                true,
            ),
            (vec![append(), remove("other", true)], true, true),
        ];
        for (actions, changes, changes_serializable) in entries {
            let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
            let entry = lines.join("\n");
            let is_changed = |is_serializable| {
                let replaced = replaced(is_serializable);
                replaced.is_changed_by(entry.as_bytes())
            };
            assert_eq!(is_changed(false), changes, "{entry}");
            assert_eq!(is_changed(true), changes_serializable, "{entry}");
        }
    }
}
