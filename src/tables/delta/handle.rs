//! One table: opened or created once, read and written many times.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, PROTOCOL, TransactionError};
use deltalake::kernel::{Action, EagerSnapshot, Metadata, StructField, Transaction};
use deltalake::logstore::{
    CommitOrBytes, LogStoreRef, ObjectStoreRef, extract_version_from_filename,
};
use deltalake::operations::write::WriterStatsConfig;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use futures::TryStreamExt as _;

use super::create::{check_declared, new_fields};
use super::error::{delta_error, not_a_table};
use super::location::Location;
use super::options::{DeltaOptions, WriteOptions};
use super::provider::DeltaTableProvider;
use super::rules::{COMPUTED_IN_UTC, TableRules, generated_texts, scan_of};
use super::stream::{AddedFile, DeltaStream};
use super::write::{StatsConfig, WriteTarget, Written, discard, write_files};
use super::{Application, Commit, DeltaSpec, TimeTravel};
use crate::core::jobs::WatermarkPolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::tables::time::{EventTime, check_event_time};

/// A Delta table. Cheap to clone; clones share the newest known version.
#[derive(Clone)]
pub struct DeltaTableHandle {
    inner: Arc<Inner>,
}

struct Inner {
    location: Location,
    write: WriteOptions,
    /// How jobs read it, if they read it as a stream.
    stream: Option<DeltaStream>,
    event_time: Option<EventTime>,
    /// The newest version seen. Updated in place, never replaced by an older one.
    newest: tokio::sync::Mutex<DeltaTable>,
    /// The rules of the metadata they were made from.
    rules: Mutex<Option<(Metadata, Arc<TableRules>)>>,
}

/// Files that were written and that no commit names yet.
#[derive(Debug)]
pub struct PreparedWrite {
    table: DeltaTable,
    store: ObjectStoreRef,
    written: Written,
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

    /// Deletes the files again.
    pub async fn discard(self) {
        discard(&self.store, &self.written.adds).await;
    }
}

impl DeltaTableHandle {
    /// Opens the table at the location, or creates it if there is none and columns are declared.
    ///
    /// Two that create the same table at the same time both get it, if they declare the same.
    ///
    /// # Errors
    ///
    /// A location that cannot hold a table, options that are unknown or wrong, a declaration that
    /// differs from the table, a log that cannot be read, a store that does not answer.
    pub async fn create_or_open(spec: DeltaSpec) -> Result<Self> {
        let location = Location::parse(&spec.location)?;
        let options = DeltaOptions::parse(&spec.options)?;
        let event_time = event_time(&spec, &options)?;
        let shown = location.shown.clone();
        let fail = |error| delta_error(&shown, error);
        if location
            .folder
            .as_ref()
            .is_some_and(|folder| !folder.exists())
            && spec.columns.is_none()
        {
            return Err(not_a_table(&shown));
        }
        let log_store = build_log_store(&location, &options).map_err(fail)?;
        let table = DeltaTable::new(log_store);
        if !table.verify_deltatable_existence().await.map_err(fail)? {
            let Some(columns) = &spec.columns else {
                return Err(not_a_table(&shown));
            };
            let fields = new_fields(columns, &spec.partition_by)?;
            if let Some(folder) = &location.folder {
                std::fs::create_dir_all(folder).map_err(|error| {
                    Error::from(error).context(format!("the folder '{shown}' cannot be created"))
                })?;
            }
            let mut properties = options.properties.clone();
            if columns.iter().any(|column| column.generated.is_some()) {
                properties.insert(COMPUTED_IN_UTC.to_owned(), "UTC".to_owned());
            }
            let first = first_commit(
                fields,
                &spec.partition_by,
                properties,
                location.url.as_str(),
            );
            let first = first.await.map_err(fail)?;
            match table
                .log_store()
                .write_commit_entry(0, first, uuid::Uuid::new_v4())
                .await
            {
                // Someone else was faster: theirs is the table, and is checked below.
                Ok(()) | Err(TransactionError::VersionAlreadyExists(_)) => {}
                Err(error) => return Err(fail(error.into())),
            }
        }
        let mut table = table;
        table.load().await.map_err(fail)?;
        let handle = Self {
            inner: Arc::new(Inner {
                location,
                write: options.write,
                stream: options.stream,
                event_time,
                newest: tokio::sync::Mutex::new(table.clone()),
                rules: Mutex::new(None),
            }),
        };
        let rules = handle.rules(&table)?;
        check_declared(
            &spec,
            &rules.rows.schema,
            &rules.rows.generated,
            &rules.partition_by,
        )?;
        if let Some(event_time) = handle.event_time() {
            check_event_time(&rules.rows.schema, &event_time.column)?;
        }
        Ok(handle)
    }

    /// A provider over one version of the table, which it reads for as long as it lives.
    ///
    /// Only the provider of [`TimeTravel::Latest`] can be inserted into.
    ///
    /// # Errors
    ///
    /// The version does not exist (any more), or the log cannot be read.
    pub async fn snapshot(&self, at: TimeTravel) -> Result<Arc<dyn TableProvider>> {
        let newest = self.refresh().await?;
        let table = match at {
            TimeTravel::Latest => newest,
            TimeTravel::Version(version) => self.at_version(newest, version).await?,
            TimeTravel::Timestamp(time) => {
                let version = self.version_at(&newest, time).await?;
                self.at_version(newest, version).await?
            }
        };
        let rules = self.rules(&table)?;
        let scan = scan_of(&table).map_err(|error| self.fail(error))?;
        let writer = (at == TimeTravel::Latest).then(|| self.clone());
        Ok(Arc::new(DeltaTableProvider::new(
            scan, table, rules, writer,
        )))
    }

    /// Writes the rows of `plan`, whose columns are the table's in order, as one commit.
    ///
    /// With `transaction`, (application id, version) is recorded in the same commit; whether it was
    /// before is for the caller to ask [`Self::transaction_version`].
    ///
    /// # Errors
    ///
    /// As [`Self::snapshot`]; the plan's own error; a row that breaks a rule of the table; a
    /// conflict with another writer. Nothing is committed then.
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
    /// [`ErrorKind::Cancelled`] if another writer has taken the application over; a conflict; a store that does not answer:
    /// then it cannot be told whether it was committed, and [`Self::transaction_version`] can say.
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
            )));
        }
        let PreparedWrite { store, written, .. } = prepared;
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

    /// Records that `application.version` owns the table from now on, in a commit without rows. What the owner before
    /// commits later fails.
    ///
    /// # Errors
    ///
    /// Another writer did the same at the same time; a store that does not answer.
    pub async fn take_over(&self, application: &str, version: i64) -> Result<()> {
        let table = self.refresh().await?;
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        let store = table.log_store().object_store(None);
        let transactions = [(application.to_owned(), version)];
        let nothing = Written::default();
        self.finish(
            &table,
            snapshot,
            &store,
            nothing,
            SaveMode::Append,
            &transactions,
        )
        .await
        .map(|_| ())
    }

    /// Those of `paths` that are no files of the newest version.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn missing_files(&self, paths: &[String]) -> Result<Vec<String>> {
        let table = self.refresh().await?;
        let present = self.files(&table, paths).await?;
        let missing = paths.iter().filter(|path| !present.contains_key(*path));
        Ok(missing.cloned().collect())
    }

    /// Whether rows cannot be taken out of the table.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn is_append_only(&self) -> Result<bool> {
        let table = self.refresh().await?;
        let snapshot = table.snapshot().map_err(|error| self.fail(error))?;
        Ok(snapshot
            .snapshot()
            .table_properties()
            .append_only
            .unwrap_or(false))
    }

    /// Takes those of `paths` that are files of the table out of it, in one commit, as the application that owns it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Cancelled`] if another writer has taken the application over; a table that is append-only.
    pub async fn remove_files(&self, paths: &[String], application: &Application) -> Result<()> {
        let table = self.refresh().await?;
        let snapshot = self.owned_snapshot(&table, application).await?;
        let removed: Vec<Action> = self.files(&table, paths).await?.into_values().collect();
        if removed.is_empty() {
            return Ok(());
        }
        let store = table.log_store().object_store(None);
        let written = Written {
            removed,
            ..Written::default()
        };
        // What the witness names stays: no rows were added.
        let transactions = [(application.id.clone(), application.owned)];
        self.finish(
            &table,
            snapshot,
            &store,
            written,
            SaveMode::Append,
            &transactions,
        )
        .await
        .map(|_| ())
    }

    /// The files among `paths` that the table has, each with the action that removes it.
    async fn files(&self, table: &DeltaTable, paths: &[String]) -> Result<HashMap<String, Action>> {
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        let log_store = table.log_store();
        let wanted: HashSet<&str> = paths.iter().map(String::as_str).collect();
        snapshot
            .file_views(log_store.as_ref(), None)
            .map_ok(|file| file.remove_action(true))
            .try_filter_map(|remove| {
                let found = wanted
                    .contains(remove.path.as_str())
                    .then(|| (remove.path.clone(), Action::Remove(remove)));
                futures::future::ready(Ok(found))
            })
            .try_collect()
            .await
            .map_err(|error| self.fail(error))
    }

    /// The newest snapshot, if the application is still the one that took the table over.
    async fn owned_snapshot<'a>(
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

    /// The version that the newest commit of the application `id` recorded, if there is one.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn transaction_version(&self, id: &str) -> Result<Option<i64>> {
        let table = self.refresh().await?;
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        let log_store = table.log_store();
        snapshot
            .transaction_version(log_store.as_ref(), id)
            .await
            .map_err(|error| self.fail(error))
    }

    /// The location as it was given.
    pub fn location(&self) -> &str {
        &self.inner.location.shown
    }

    /// How a job reads the table as a stream; none if it reads it whole, as it is.
    pub fn stream(&self) -> Option<DeltaStream> {
        self.inner.stream
    }

    /// Of a table that jobs read as a stream: its event time column and watermark.
    pub fn event_time(&self) -> Option<&EventTime> {
        self.inner.event_time.as_ref()
    }

    /// Whether it is at the same place as `other`.
    pub fn is_same(&self, other: &Self) -> bool {
        self.inner.location.url == other.inner.location.url
    }

    /// The files of a version of the table.
    pub(super) async fn added_files(&self, table: &DeltaTable) -> Result<Vec<AddedFile>> {
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        let log_store = table.log_store();
        snapshot
            .file_views(log_store.as_ref(), None)
            .map_ok(|file| AddedFile {
                path: file.path().into_owned(),
                rows: file.num_records().map(|rows| rows as u64),
                bytes: file.size().unsigned_abs(),
                modified_at: file.modification_time(),
            })
            .try_collect()
            .await
            .map_err(|error| self.fail(error))
    }

    /// The newest version there is now.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn version(&self) -> Result<u64> {
        let table = self.refresh().await?;
        table
            .version()
            .ok_or_else(|| Error::internal("a loaded table has no version"))
    }

    /// The columns of the newest version, in the Arrow types that a scan gives.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn schema(&self) -> Result<SchemaRef> {
        Ok(Arc::clone(&self.newest_rules().await?.rows.schema))
    }

    /// The partition columns of the newest version, in order.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn partition_columns(&self) -> Result<Vec<String>> {
        Ok(self.newest_rules().await?.partition_by.clone())
    }

    /// Name and expression of each generated column of the newest version.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn generated_columns(&self) -> Result<Vec<(String, String)>> {
        let table = self.refresh().await?;
        generated_texts(&table).map_err(|error| self.fail(error))
    }

    async fn newest_rules(&self) -> Result<Arc<TableRules>> {
        let table = self.refresh().await?;
        self.rules(&table)
    }

    /// The newest version, after a look at the log.
    pub(super) async fn refresh(&self) -> Result<DeltaTable> {
        let mut newest = self.inner.newest.lock().await;
        newest
            .update_state()
            .await
            .map_err(|error| self.fail(error))?;
        Ok(newest.clone())
    }

    /// The error of something done to this table.
    pub(super) fn fail(&self, error: DeltaTableError) -> Error {
        delta_error(self.location(), error)
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
    async fn write_rows(
        &self,
        table: &DeltaTable,
        rules: &TableRules,
        input: SendableRecordBatchStream,
        context: &TaskContext,
    ) -> Result<(WriteTarget, Written)> {
        let snapshot = table
            .snapshot()
            .map_err(|error| self.fail(error))?
            .snapshot();
        if let Some(reason) = &rules.unwritable {
            return Err(Error::unsupported(format!(
                "Delta table '{}' can be read, but not written: {reason}",
                self.location()
            )));
        }
        PROTOCOL
            .can_write_to(snapshot)
            .map_err(|error| self.fail(error.into()))?;
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
                .inner
                .write
                .target_file_size(properties.target_file_size),
            options: self.inner.write.clone(),
        };
        let written = write_files(&target, input, context).await?;
        Ok((target, written))
    }

    /// Commits files that were written, or deletes them again.
    async fn finish(
        &self,
        table: &DeltaTable,
        snapshot: &EagerSnapshot,
        store: &ObjectStoreRef,
        written: Written,
        mode: SaveMode,
        transactions: &[(String, i64)],
    ) -> Result<Commit> {
        match self
            .commit(table, snapshot, &written, mode, transactions)
            .await
        {
            Ok(version) => Ok(Commit {
                version,
                added: written.adds.into_iter().map(|add| add.path).collect(),
                rows: written.rows,
            }),
            Err((error, surely_not_committed)) => {
                if surely_not_committed {
                    discard(store, &written.adds).await;
                }
                Err(self.fail(error))
            }
        }
    }

    /// One commit. An error also says whether it is sure that nothing was committed: a store that
    /// stops answering leaves that open, and then the files must stay.
    async fn commit(
        &self,
        table: &DeltaTable,
        snapshot: &EagerSnapshot,
        written: &Written,
        mode: SaveMode,
        transactions: &[(String, i64)],
    ) -> std::result::Result<u64, (DeltaTableError, bool)> {
        let Written {
            adds,
            rows,
            removed,
        } = written;
        let log_store = table.log_store();
        let mut actions: Vec<Action> = adds.iter().cloned().map(Action::Add).collect();
        actions.extend(removed.iter().cloned());
        if mode == SaveMode::Overwrite {
            let removed: Vec<Action> = snapshot
                .file_views(log_store.as_ref(), None)
                .map_ok(|file| Action::Remove(file.remove_action(true)))
                .try_collect()
                .await
                .map_err(|error| (error, true))?;
            actions.extend(removed);
        }
        let partition_by = snapshot.metadata().partition_columns().to_vec();
        let operation = DeltaOperation::Write {
            mode,
            partition_by: (!partition_by.is_empty()).then_some(partition_by),
            predicate: None,
        };
        let bytes: i64 = adds.iter().map(|add| add.size).sum();
        let metrics = serde_json::json!({
            "numFiles": adds.len().to_string(),
            "numOutputRows": rows.to_string(),
            "numOutputBytes": bytes.to_string(),
        });
        let mut properties =
            CommitProperties::default().with_metadata([("operationMetrics".to_owned(), metrics)]);
        for (id, version) in transactions {
            properties = properties.with_application_transaction(Transaction::new(id, *version));
        }
        let prepared = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(snapshot), log_store, operation)
            .into_prepared_commit_future()
            .await
            .map_err(|error| (error, true))?;
        let committed = prepared.await.map_err(|error| {
            let sure = matches!(
                &error,
                DeltaTableError::Transaction {
                    source: TransactionError::CommitConflict(_)
                        | TransactionError::MaxCommitAttempts(_)
                        | TransactionError::DeltaTableAppendOnly
                        | TransactionError::UnsupportedTableFeatures(_)
                }
            );
            (error, sure)
        })?;
        let version = committed.version;
        // The rows are in the table from here on: a checkpoint that fails is no failed INSERT.
        if let Err(error) = committed.await {
            tracing::warn!(location = self.location(), version, %error, "after the commit");
        }
        Ok(version)
    }

    pub(super) async fn at_version(&self, newest: DeltaTable, version: u64) -> Result<DeltaTable> {
        match newest.version() {
            Some(latest) if latest == version => return Ok(newest),
            Some(latest) if latest < version => {
                return Err(Error::not_found(format!(
                    "Delta table '{}' has no version {version}; the newest is {latest}",
                    self.location()
                )));
            }
            _ => {}
        }
        let mut table = DeltaTable::new(newest.log_store());
        table.load_version(version).await.map_err(|error| {
            self.fail(error)
                .context(format!("version {version} cannot be read"))
        })?;
        Ok(table)
    }

    /// The newest version that was committed at or before `time` (microseconds).
    async fn version_at(&self, newest: &DeltaTable, time: i64) -> Result<u64> {
        let log_store = newest.log_store();
        let store = log_store.object_store(None);
        let mut commits: Vec<(u64, i64)> = store
            .list(Some(log_store.log_path()))
            .try_filter_map(|file| {
                let name = file.location.as_ref();
                let version = name
                    .ends_with(".json")
                    .then(|| extract_version_from_filename(name))
                    .flatten();
                let at = file.last_modified.timestamp_micros();
                futures::future::ready(Ok(version.map(|version| (version, at))))
            })
            .try_collect()
            .await
            .map_err(|error| self.fail(error.into()))?;
        commits.sort_unstable();
        // Clocks of writers may differ: a version is never older than the one before it.
        let mut last = i64::MIN;
        let mut found = None;
        for (version, at) in &commits {
            last = last.max(*at);
            if last <= time {
                found = Some(*version);
            }
        }
        found.ok_or_else(|| {
            let first = commits.first().map(|(version, at)| {
                let at = chrono::DateTime::from_timestamp_micros(*at)
                    .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
                format!(
                    "; the oldest is version {version} of {}",
                    at.unwrap_or_default()
                )
            });
            Error::not_found(format!(
                "Delta table '{}' has no version that old{}",
                self.location(),
                first.unwrap_or_default()
            ))
        })
    }

    fn rules(&self, table: &DeltaTable) -> Result<Arc<TableRules>> {
        let snapshot = table.snapshot().map_err(|error| self.fail(error))?;
        let mut cached = self
            .inner
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((metadata, rules)) = &*cached
            && metadata == snapshot.metadata()
        {
            return Ok(Arc::clone(rules));
        }
        let rules = Arc::new(TableRules::of(table).map_err(|error| self.fail(error))?);
        *cached = Some((snapshot.metadata().clone(), Arc::clone(&rules)));
        Ok(rules)
    }
}

/// `WATERMARK FOR` with its options.
fn event_time(spec: &DeltaSpec, options: &DeltaOptions) -> Result<Option<EventTime>> {
    let Some((column, expr, delay)) = spec.watermark.clone() else {
        return Ok(None);
    };
    if options.stream.is_none() {
        return Err(
            Error::invalid("WATERMARK is for a Delta table that jobs read as a stream")
                .with_help("say 'scan.mode' 'stream' as well"),
        );
    }
    Ok(Some(EventTime {
        column,
        expr,
        delay,
        // It is one partition.
        policy: WatermarkPolicy::Lowest,
        idle_after: options.idle_after,
        max_ahead: options.max_ahead,
    }))
}

impl fmt::Debug for DeltaTableHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaTableHandle")
            .field("location", &self.location())
            .finish()
    }
}

/// The bytes of version 0 of a new table.
///
/// The library's own CREATE goes on with version 1 when another writer has made version 0, and so
/// creates a table twice. It makes the table in memory here; the one step that must be atomic is
/// the caller's.
async fn first_commit(
    fields: Vec<StructField>,
    partition_by: &[String],
    properties: BTreeMap<String, String>,
    location: &str,
) -> std::result::Result<CommitOrBytes, DeltaTableError> {
    let draft = DeltaTable::new_in_memory()
        .create()
        .with_columns(fields)
        .with_partition_columns(partition_by.iter().cloned())
        .with_configuration(
            properties
                .into_iter()
                .map(|(name, value)| (name, Some(value))),
        )
        .with_raise_if_key_not_exists(false)
        .with_save_mode(SaveMode::ErrorIfExists)
        .await?;
    let entry = draft.log_store().read_commit_entry(0).await?;
    let entry = entry.ok_or_else(|| DeltaTableError::generic("the table was not drafted"))?;
    let lines = entry
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut action: serde_json::Value = serde_json::from_slice(line)?;
            if let Some(info) = action.pointer_mut("/commitInfo/operationParameters/location") {
                *info = location.into();
            }
            serde_json::to_string(&action)
        })
        .collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(CommitOrBytes::LogBytes(lines.join("\n").into()))
}

fn build_log_store(
    location: &Location,
    options: &DeltaOptions,
) -> std::result::Result<LogStoreRef, DeltaTableError> {
    if location.folder.is_none() {
        deltalake::aws::register_handlers(None);
    }
    let mut storage = options.storage.clone();
    let endpoint = storage
        .get("aws_endpoint")
        .cloned()
        .or_else(|| std::env::var("AWS_ENDPOINT_URL").ok())
        .or_else(|| std::env::var("AWS_ENDPOINT").ok());
    // Whoever names a plain endpoint means it.
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        storage
            .entry("aws_allow_http".to_owned())
            .or_insert_with(|| "true".to_owned());
    }
    DeltaTableBuilder::from_url(location.url.clone())?
        .with_storage_options(storage)
        .build_storage()
}
