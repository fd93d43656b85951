//! Commit protocol of Delta tables: written files become part of the table, or are known not to, or the error says that
//! the outcome is unknown (EXACT-2).
//!
//! Each commit has a name of its own in its entry of the log, the witness. When the library reports a failure after an
//! attempt, the entries since are read before an outcome is reported or a file is deleted. Files are deleted only when
//! it is sure that no entry names them; else they stay for VACUUM.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, PROTOCOL, TransactionError};
use deltalake::kernel::{Action, EagerSnapshot, Transaction};
use deltalake::logstore::{LogStoreRef, ObjectStoreRef};
use deltalake::operations::write::WriterStatsConfig;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt as _;

use super::commit_attempts::CommitAttempts;
use super::feature_actions::FeatureActions;
use super::features::for_commits;
use super::handle::DeltaTableHandle;
use super::rules::TableRules;
use super::spec::{Application, Commit};
use super::write::{
    CommitNotes, RewriteMode, StatsConfig, WriteTarget, WrittenFiles, discard, write_files,
};
use crate::error::{Error, ErrorKind, Result, Subject};

/// The field of an entry with the commit's name: in `commitInfo`, as other writers do it.
pub(super) const COMMIT_ID: &str = "txnId";

/// Files that were written and that no commit names yet.
#[derive(Debug)]
pub struct PreparedWrite {
    table: DeltaTable,
    store: ObjectStoreRef,
    written: WrittenFiles,
}

impl PreparedWrite {
    /// Rows in the files.
    pub fn rows(&self) -> u64 {
        self.written.rows
    }

    /// Paths of the files, relative to the table's root.
    pub fn files(&self) -> Vec<String> {
        let adds = self.written.adds.iter();
        adds.map(|add| add.path.clone()).collect()
    }

    /// Gives the notes that their commit records besides the rows.
    pub(super) fn set_notes(&mut self, notes: CommitNotes) {
        self.written.notes = notes;
    }

    /// Deletes the files again.
    pub async fn discard(self) {
        discard(&self.store, &self.written.adds).await;
    }
}

impl DeltaTableHandle {
    /// Writes the rows of `plan`, whose columns are the table's in order, as one commit.
    ///
    /// With `transaction`, (application id, version) is recorded in the same commit; to find out whether it was
    /// recorded before, the caller asks [`Self::transaction_version`].
    ///
    /// # Errors
    ///
    /// As [`Self::snapshot`]; the plan's own error; a row that breaks a rule of the table; a
    /// conflict with another writer. Nothing is committed then, unless the error says that this cannot
    /// be told.
    pub async fn append(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
        transaction: Option<(String, i64)>,
    ) -> Result<Commit> {
        let table = self.refresh().await?;
        let rules = self.rules(&table)?;
        let input = execute_stream(plan, Arc::clone(&context))?;
        self.write(
            &table,
            &rules,
            input,
            &context,
            SaveMode::Append,
            transaction,
        )
        .await
    }

    /// Writes the rows of `plan` to files that are not in the table yet: see [`Self::commit`] and [`Self::discard`].
    ///
    /// # Errors
    ///
    /// As [`Self::append`]; nothing is left behind then.
    pub async fn prepare(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<PreparedWrite> {
        let table = self.refresh().await?;
        let rules = self.rules(&table)?;
        let input = execute_stream(plan, Arc::clone(&context))?;
        let (target, written) = self.write_rows(&table, &rules, input, &context).await?;
        Ok(PreparedWrite {
            table,
            store: target.store,
            written,
        })
    }

    /// Adds prepared files to the table in one commit, as the application that owns it (EXACT-2).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Cancelled`] if another writer has taken the application over; a conflict, or a RESTORE that the
    /// application does not know of, and nothing is committed; a store that does not answer: then the outcome is
    /// unknown, and [`Self::transaction_version`] can tell it.
    pub async fn commit_prepared(
        &self,
        prepared: PreparedWrite,
        application: &Application,
    ) -> Result<Commit> {
        let table = self.refresh().await?;
        let snapshot = self.owned_snapshot(&table, application).await?;
        let before = prepared
            .table
            .snapshot()
            .map_err(|error| self.fail(error))?;
        if before.metadata() != snapshot.metadata() {
            prepared.discard().await;
            return Err(Error::unavailable(format!(
                "Delta table '{}' was changed while its rows were written",
                self.location()
            ))
            .about(Subject::location(self.location())));
        }
        let PreparedWrite {
            store, mut written, ..
        } = prepared;
        written.checked = Some(application.checked);
        self.finish(
            &table,
            snapshot,
            &store,
            written,
            SaveMode::Append,
            &application.transactions(),
        )
        .await
    }

    /// Records that `application.version` owns the table from now on, in a commit without rows. Later commits of the
    /// previous owner fail. Gives the table's version that records this.
    ///
    /// # Errors
    ///
    /// Another writer did the same at the same time; a store that does not answer.
    pub async fn take_over(&self, application: &str, version: i64) -> Result<u64> {
        let table = self.refresh().await?;
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        let owner = [(application.to_owned(), version)];
        self.record(&table, snapshot, WrittenFiles::default(), &owner)
            .await
    }

    /// Records which version of the job the table has, in a commit without rows, as the application that owns it.
    ///
    /// # Errors
    ///
    /// As [`Self::commit_prepared`].
    pub async fn mark(&self, application: &Application, version: i64) -> Result<()> {
        let table = self.refresh().await?;
        let snapshot = self.owned_snapshot(&table, application).await?;
        let transactions = [
            (application.id.clone(), application.owned),
            (application.witness.clone(), version),
        ];
        self.record(&table, snapshot, WrittenFiles::default(), &transactions)
            .await
            .map(drop)
    }

    /// Commits these numbers of applications, and what `written` notes; it has no rows. Gives the table's version.
    pub(super) async fn record(
        &self,
        table: &DeltaTable,
        snapshot: &EagerSnapshot,
        written: WrittenFiles,
        transactions: &[(String, i64)],
    ) -> Result<u64> {
        let store = table.log_store().object_store(None);
        let mode = SaveMode::Append;
        self.finish(table, snapshot, &store, written, mode, transactions)
            .await
            .map(|commit| commit.version)
    }

    /// The newest snapshot, if the application is still the one that took the table over.
    pub(super) async fn owned_snapshot<'a>(
        &self,
        table: &'a DeltaTable,
        application: &Application,
    ) -> Result<&'a EagerSnapshot> {
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        let log_store = table.log_store();
        let owner = snapshot
            .transaction_version(log_store.as_ref(), &application.id)
            .await
            .map_err(|error| self.fail(error))?;
        if owner != Some(application.owned) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                "another runner has taken the job over",
            ));
        }
        Ok(snapshot)
    }

    /// Writes `input` and commits it on top of `table`; no rows to append make no commit.
    pub(super) async fn write(
        &self,
        table: &DeltaTable,
        rules: &TableRules,
        input: SendableRecordBatchStream,
        context: &TaskContext,
        mode: SaveMode,
        transaction: Option<(String, i64)>,
    ) -> Result<Commit> {
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        let (target, written) = self.write_rows(table, rules, input, context).await?;
        // Nothing to append is nothing to commit: a statement run by a timer must not fill the log.
        if let (true, SaveMode::Append, None, Some(version)) =
            (written.adds.is_empty(), mode, &transaction, table.version())
        {
            return Ok(Commit {
                version,
                added: Vec::new(),
                rows: 0,
            });
        }
        let transactions: Vec<(String, i64)> = transaction.into_iter().collect();
        self.finish(table, snapshot, &target.store, written, mode, &transactions)
            .await
    }

    /// Writes `input` to files that no commit names yet.
    pub(super) async fn write_rows(
        &self,
        table: &DeltaTable,
        rules: &TableRules,
        input: SendableRecordBatchStream,
        context: &TaskContext,
    ) -> Result<(WriteTarget, WrittenFiles)> {
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        if let Some(reason) = &rules.unwritable {
            return Err(Error::unsupported(format!(
                "Delta table '{}' can be read, but not written: {reason}",
                self.location()
            ))
            .about(Subject::location(self.location())));
        }
        let for_commits = for_commits(snapshot).map_err(|error| self.fail(error))?;
        PROTOCOL
            .can_write_to(for_commits.as_ref().unwrap_or(snapshot))
            .map_err(|error| self.fail(error.into()).context("rows cannot be written"))?;
        let properties = snapshot.table_properties();
        let target = WriteTarget {
            location: self.location().to_owned(),
            store: table.log_store().object_store(None),
            rules: Arc::clone(&rules.rows),
            partition_by: rules.partition_by.clone(),
            mapped: rules.mapped.clone(),
            stats: StatsConfig(Arc::new(WriterStatsConfig::from_config(
                snapshot.table_configuration(),
            ))),
            target_file_size: self
                .write_options()
                .target_file_size(properties.target_file_size),
            options: self.write_options().clone(),
        };
        let written = write_files(&target, input, context).await?;
        Ok((target, written))
    }

    /// Commits files that were written, or deletes them again if it is sure that they are not in the table.
    pub(super) async fn finish(
        &self,
        table: &DeltaTable,
        snapshot: &EagerSnapshot,
        store: &ObjectStoreRef,
        mut written: WrittenFiles,
        mode: SaveMode,
        transactions: &[(String, i64)],
    ) -> Result<Commit> {
        let committed = self.try_finish(table, snapshot, &mut written, mode, transactions);
        match committed.await {
            Ok(version) => Ok(Commit {
                version,
                added: written.adds.into_iter().map(|add| add.path).collect(),
                rows: written.rows,
            }),
            Err(failed) => {
                if !failed.is_undecided {
                    discard(store, &written.adds).await;
                }
                Err(failed.error)
            }
        }
    }

    /// Commits files that were written, and leaves them where they are if that fails. Gives the table's version.
    #[expect(
        clippy::disallowed_methods,
        reason = "each commit has a name by which it is found"
    )]
    pub(super) async fn try_finish(
        &self,
        table: &DeltaTable,
        snapshot: &EagerSnapshot,
        written: &mut WrittenFiles,
        mode: SaveMode,
        transactions: &[(String, i64)],
    ) -> std::result::Result<u64, FailedCommit> {
        let log = table.log_store();
        if mode == SaveMode::Overwrite {
            written.removed = all_files(snapshot, &log)
                .await
                .map_err(|error| FailedCommit::not_made(self.fail(error)))?;
        }
        let duties = FeatureActions::of(snapshot, &log, !written.adds.is_empty()).await;
        let duties = duties.map_err(|error| FailedCommit::not_made(self.fail(error)))?;
        let mut attempts = CommitAttempts::on(Arc::clone(&log), duties);
        if let Some(checked) = written.checked {
            attempts = attempts.of_rows_after(checked);
        }
        // An INSERT OVERWRITE replaces all rows of the version that it has read: rows that a MERGE has added since depend on them. Files
        // that a job takes back may have been put together with others since.
        let replaces =
            mode == SaveMode::Overwrite || written.rewrite.is_some() || !written.removed.is_empty();
        if replaces {
            let removed = written.removed.iter().filter_map(|action| match action {
                Action::Remove(remove) => Some(remove.path.clone()),
                _ => None,
            });
            let configuration = snapshot.metadata().configuration();
            let level = configuration.get("delta.isolationLevel");
            let is_serializable =
                level.is_some_and(|level| level.eq_ignore_ascii_case("Serializable"));
            attempts = attempts.of_change(
                written.rewrite,
                is_serializable,
                snapshot.version(),
                removed,
            );
        }
        let id = uuid::Uuid::new_v4().to_string();
        let committed = self
            .commit(&attempts, snapshot, written, mode, transactions, &id)
            .await;
        let error = match committed {
            Ok(version) => return Ok(version),
            Err(error) => error,
        };
        match find_commit(&log, snapshot.version(), &id).await {
            Ok(Some((version, _))) => Ok(version),
            Ok(None) if !attempts.are_undecided() => {
                let is_overtaken = replaces && (attempts.have_conflict() || is_conflict(&error));
                Err(FailedCommit::not_made(match is_overtaken {
                    true => self.conflict_error(mode),
                    false => self.fail(error),
                }))
            }
            Ok(None) | Err(_) => Err(FailedCommit {
                error: self.undecided_commit(error, &id),
                is_undecided: true,
            }),
        }
    }

    /// The error of rows that another writer has changed meanwhile.
    fn conflict_error(&self, mode: SaveMode) -> Error {
        let done = match mode {
            SaveMode::Overwrite => "replaced",
            _ => "read",
        };
        Error::unavailable(format!(
            "Delta table '{}': another writer has changed rows while this statement {done} them",
            self.location()
        ))
        .with_help("nothing was written; run the statement again")
        .mark_conflict()
    }

    /// The error of a commit with an unknown outcome.
    fn undecided_commit(&self, error: DeltaTableError, id: &str) -> Error {
        let cause = self.fail(error);
        Error::unavailable(format!(
            "it is unknown whether the commit was made: {}",
            cause.message()
        ))
        .about_cause(&cause)
        .with_help(format!(
            "look for \"{COMMIT_ID}\":\"{id}\" in the newest files of {}/_delta_log when the store answers again: if one has it, all is \
             in the table; if none has it, run the statement again. Nothing was deleted",
            self.location().trim_end_matches('/')
        ))
    }

    /// One commit, with its name.
    async fn commit(
        &self,
        attempts: &CommitAttempts,
        snapshot: &EagerSnapshot,
        written: &WrittenFiles,
        mode: SaveMode,
        transactions: &[(String, i64)],
        id: &str,
    ) -> std::result::Result<u64, DeltaTableError> {
        let WrittenFiles {
            adds,
            rows,
            removed,
            notes,
            ..
        } = written;
        let log_store: LogStoreRef = Arc::new(attempts.clone());
        let mut actions: Vec<Action> = adds.iter().cloned().map(Action::Add).collect();
        actions.extend(removed.iter().cloned());
        let partition_by = snapshot.metadata().partition_columns().to_vec();
        let operation = match written.rewrite {
            None => DeltaOperation::Write {
                mode,
                partition_by: (!partition_by.is_empty()).then_some(partition_by),
                predicate: None,
            },
            // Conditions are in our SQL, which the library does not read.
            Some(RewriteMode::Delete) => DeltaOperation::Delete { predicate: None },
            Some(RewriteMode::Update | RewriteMode::Merge) => {
                DeltaOperation::Update { predicate: None }
            }
        };
        let bytes: i64 = adds.iter().map(|add| add.size).sum();
        let mut metrics = serde_json::json!({
            "numFiles": adds.len().to_string(),
            "numOutputRows": rows.to_string(),
            "numOutputBytes": bytes.to_string(),
        });
        if let Some(rewrite) = written.rewrite {
            let changed = match rewrite {
                RewriteMode::Delete => "numDeletedRows",
                RewriteMode::Update => "numUpdatedRows",
                RewriteMode::Merge => "numChangedRows",
            };
            metrics = serde_json::json!({
                "numAddedFiles": adds.len().to_string(),
                "numRemovedFiles": removed.len().to_string(),
                "numAddedBytes": bytes.to_string(),
                changed: rows.to_string(),
            });
        }
        let mut metadata: Vec<(String, serde_json::Value)> = vec![
            ("operationMetrics".to_owned(), metrics),
            (COMMIT_ID.to_owned(), id.into()),
        ];
        if written.rewrite.is_some() {
            metadata.push(("isBlindAppend".to_owned(), false.into()));
        }
        metadata.extend(notes.info.iter().cloned());
        let mut properties = CommitProperties::default().with_metadata(metadata);
        for (id, version) in transactions.iter().chain(&notes.transactions) {
            properties = properties.with_application_transaction(Transaction::new(id, *version));
        }
        let for_commits = for_commits(snapshot)?;
        if for_commits.is_some() {
            // It would be one of another protocol.
            properties = properties
                .with_create_checkpoint(false)
                .with_cleanup_expired_logs(Some(false));
        }
        let based_on = for_commits.as_ref().unwrap_or(snapshot);
        let prepared = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(based_on), log_store, operation)
            .into_prepared_commit_future()
            .await?;
        let committed = prepared.await?;
        let version = committed.version;
        // The rows are in the table from here on: a checkpoint that fails is no failed INSERT.
        if let Err(error) = committed.await {
            tracing::warn!(location = self.location(), version, %error, "after the commit");
        }
        Ok(version)
    }
}

/// A commit that is not known to have been made.
pub(super) struct FailedCommit {
    pub(super) error: Error,
    /// It may have been made all the same: its files must stay.
    pub(super) is_undecided: bool,
}

impl FailedCommit {
    fn not_made(error: Error) -> Self {
        Self {
            error,
            is_undecided: false,
        }
    }
}

/// Removals of all files of a version.
async fn all_files(
    snapshot: &EagerSnapshot,
    log: &LogStoreRef,
) -> std::result::Result<Vec<Action>, DeltaTableError> {
    snapshot
        .file_views(log.as_ref(), None)
        .map_ok(|file| Action::Remove(file.remove_action(true)))
        .try_collect()
        .await
}

/// Whether a commit failed since another writer was faster with something that does not go together with it.
pub(super) fn is_conflict(error: &DeltaTableError) -> bool {
    let DeltaTableError::Transaction { source } = error else {
        return false;
    };
    matches!(source, TransactionError::CommitConflict(_))
}

/// The version after `since` whose entry has the name `id`, and the entry.
///
/// Entries are read one by one: a list may be old, and the library reads the log by a list.
///
/// # Errors
///
/// An entry cannot be read.
pub(super) async fn find_commit(
    log: &LogStoreRef,
    since: u64,
    id: &str,
) -> std::result::Result<Option<(u64, Bytes)>, DeltaTableError> {
    let mut version = since + 1;
    while let Some(entry) = log.read_commit_entry(version).await? {
        if entry.windows(id.len()).any(|part| part == id.as_bytes()) {
            return Ok(Some((version, entry)));
        }
        version += 1;
    }
    Ok(None)
}
