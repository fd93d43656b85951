//! One table: opened or created once, read and written many times.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use deltalake::kernel::transaction::TransactionError;
use deltalake::kernel::{Action, Metadata, StructField};
use deltalake::logstore::{CommitOrBytes, LogStoreRef};
use deltalake::protocol::SaveMode;
use deltalake::table::config::TablePropertiesExt as _;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt as _;

use super::added_file::AddedFile;
use super::commit_times::{VersionAtTime, version_at};
use super::create::{check_declared, check_new_key, new_fields};
use super::error::{delta_error, not_a_table};
use super::location::{Location, without_credentials};
use super::options::{DeltaOptions, WriteOptions};
use super::own_task::on_own_task;
use super::rules::{COMPUTED_IN_UTC, TableRules, generated_texts};
use super::seen_commit::SeenCommit;
use super::spec::{DeltaSpec, DeltaStream};
use super::store::build_log_store;
use super::upsert_key::UpsertKey;
use crate::core::jobs::WatermarkPolicy;
use crate::error::{Error, Result, Subject};
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
    /// The columns by which jobs upsert rows.
    primary_key: UpsertKey,
    /// The newest version seen. Updated in place; replaced by an older one only if the table was put back to it.
    newest: tokio::sync::Mutex<DeltaTable>,
    /// The rules of the metadata they were made from.
    rules: Mutex<Option<(Metadata, Arc<TableRules>)>>,
    /// The commit by which the table is recognized.
    seen: tokio::sync::Mutex<Option<SeenCommit>>,
}

impl DeltaTableHandle {
    /// Whether there is a table at the location.
    ///
    /// # Errors
    ///
    /// A location or options that are wrong, a store that does not answer.
    pub async fn is_there(spec: &DeltaSpec) -> Result<bool> {
        let location = Location::parse(&spec.location)?;
        let options = DeltaOptions::parse(&spec.options)?;
        if location
            .folder
            .as_ref()
            .is_some_and(|folder| !folder.exists())
        {
            return Ok(false);
        }
        let fail = |error| delta_error(&location.shown, error);
        let log_store = build_log_store(&location, &options).map_err(fail)?;
        let table = DeltaTable::new(log_store);
        table.verify_deltatable_existence().await.map_err(fail)
    }

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
        Self::over(log_store, spec, location, options).await
    }

    /// The same, over the log in a given store.
    #[expect(
        clippy::disallowed_methods,
        reason = "each commit has a name by which it is found"
    )]
    pub(super) async fn over(
        log_store: LogStoreRef,
        spec: DeltaSpec,
        location: Location,
        options: DeltaOptions,
    ) -> Result<Self> {
        let event_time = event_time(&spec, &options)?;
        let shown = location.shown.clone();
        let fail = |error| delta_error(&shown, error);
        let table = DeltaTable::new(log_store);
        if !table.verify_deltatable_existence().await.map_err(fail)? {
            let Some(columns) = &spec.columns else {
                return Err(not_a_table(&shown));
            };
            let fields = new_fields(columns, &spec.partition_by)?;
            check_new_key(columns, &spec.primary_key)?;
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
                // Another process has created the table first; its table is checked below.
                Ok(()) | Err(TransactionError::VersionAlreadyExists(_)) => {}
                Err(error) => match table.log_store().read_commit_entry(0).await {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        return Err(fail(error.into()).with_help(
                            "it is unknown whether the table was created; the same statement again continues with it if it was",
                        ));
                    }
                },
            }
        }
        let mut table = table;
        table.load().await.map_err(fail)?;
        let rules = TableRules::of(&table).map_err(fail)?;
        check_declared(
            &spec,
            &rules.rows.schema,
            &rules.rows.generated,
            &rules.partition_by,
        )?;
        let snapshot = table.snapshot().map_err(fail)?;
        let metadata = snapshot.metadata().clone();
        let generated = rules.rows.generated.iter();
        let generated: Vec<&str> = generated.map(|column| column.name.as_str()).collect();
        let primary_key = UpsertKey::of(&spec.primary_key, &rules.rows.schema, &generated)?;
        if let Some(event_time) = &event_time {
            check_event_time(&rules.rows.schema, &event_time.column)?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                location,
                write: options.write,
                stream: options.stream,
                event_time,
                primary_key,
                newest: tokio::sync::Mutex::new(table),
                rules: Mutex::new(Some((metadata, Arc::new(rules)))),
                seen: tokio::sync::Mutex::new(None),
            }),
        })
    }

    /// The paths among `paths` that are no files of the newest version.
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

    /// How long `VACUUM` keeps files that are no longer needed.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn file_retention(&self) -> Result<Duration> {
        let table = self.refresh().await?;
        let snapshot = table.snapshot().map_err(|error| self.fail(error))?;
        let properties = snapshot.snapshot().table_properties();
        Ok(properties.deleted_file_retention_duration())
    }

    /// The files among `paths` that the table has, each with the action that removes it.
    pub(super) async fn files(
        &self,
        table: &DeltaTable,
        paths: &[String],
    ) -> Result<HashMap<String, Action>> {
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

    /// The version that the newest commit of the application `id` recorded, if there is one.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn transaction_version(&self, id: &str) -> Result<Option<i64>> {
        let table = self.refresh().await?;
        self.recorded(&table, id).await
    }

    /// The same in one version of the table.
    pub(super) async fn recorded(&self, table: &DeltaTable, id: &str) -> Result<Option<i64>> {
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

    /// The folder, if it is one of this machine.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.inner.location.folder.as_deref()
    }

    /// How a job reads the table as a stream; none if it reads it whole, as it is.
    pub fn stream(&self) -> Option<DeltaStream> {
        self.inner.stream
    }

    /// The event time column and watermark of a table that jobs read as a stream.
    pub fn event_time(&self) -> Option<&EventTime> {
        self.inner.event_time.as_ref()
    }

    /// Where the columns are by which jobs upsert rows; none if they append them.
    pub fn primary_key(&self) -> &[usize] {
        &self.inner.primary_key.positions
    }

    /// The names of those columns.
    pub fn primary_key_names(&self) -> &[String] {
        &self.inner.primary_key.names
    }

    /// Checks that jobs can upsert rows, if they are to.
    ///
    /// # Errors
    ///
    /// A table whose rows cannot be replaced; a log that cannot be read.
    pub async fn check_upserts(&self) -> Result<()> {
        if self.primary_key().is_empty() {
            return Ok(());
        }
        let table = self.refresh().await?;
        let rules = self.rules(&table)?;
        self.check_changeable(&table, &rules, true)
    }

    /// Whether it has the same location as `other`.
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

    /// How this handle writes files.
    pub(super) fn write_options(&self) -> &WriteOptions {
        &self.inner.write
    }

    async fn newest_rules(&self) -> Result<Arc<TableRules>> {
        let table = self.refresh().await?;
        self.rules(&table)
    }

    /// The newest version, after a read of the log. Each call reads it again, one after the other.
    pub(super) async fn refresh(&self) -> Result<DeltaTable> {
        let handle = self.clone();
        on_own_task(async move { handle.read_log().await }).await
    }

    async fn read_log(&self) -> Result<DeltaTable> {
        let mut newest = self.inner.newest.lock().await;
        let before = newest.version();
        let updated = newest.update_state().await;
        // The table may have been put back to an earlier version. A list of the log can be old; that the known commit is gone
        // is no matter of lists. Where the log ends at or before the checkpoint that is known, the library finds nothing new.
        let is_ahead = updated.is_ok() && newest.version() != before;
        if !is_ahead && !self.has_commit(&newest).await? {
            let mut table = DeltaTable::new(newest.log_store());
            match (table.load().await, updated) {
                (Ok(()), _) => *newest = table,
                (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(self.fail(error)),
            }
        } else if let Err(error) = updated {
            return Err(self.fail(error));
        }
        Ok(newest.clone())
    }

    /// The commit by which the table is recognized.
    pub(super) fn seen(&self) -> &tokio::sync::Mutex<Option<SeenCommit>> {
        &self.inner.seen
    }

    /// The newest version seen, without a read of the log.
    pub(super) async fn known(&self) -> DeltaTable {
        self.inner.newest.lock().await.clone()
    }

    /// Replaces the table's state by one that was loaded from the log: the state before may be another table's.
    pub(super) async fn replace(&self, table: DeltaTable) {
        *self.inner.newest.lock().await = table;
    }

    /// The URL that the library opens, as far as it may be shown.
    pub(super) fn url_without_credentials(&self) -> String {
        without_credentials(&self.inner.location.url)
    }

    /// The error of something done to this table.
    pub(super) fn fail(&self, error: DeltaTableError) -> Error {
        delta_error(self.location(), error)
    }

    pub(super) async fn at_version(&self, newest: DeltaTable, version: u64) -> Result<DeltaTable> {
        match newest.version() {
            Some(latest) if latest == version => return Ok(newest),
            Some(latest) if latest < version => {
                return Err(Error::not_found(format!(
                    "Delta table '{}' has no version {version}; the newest is {latest}",
                    self.location()
                ))
                .about(Subject::location(self.location())));
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
    pub(super) async fn version_at(&self, newest: &DeltaTable, time: i64) -> Result<u64> {
        let snapshot = newest.snapshot().map_err(|error| self.fail(error))?;
        let found = version_at(&newest.log_store(), snapshot.snapshot(), time).await;
        let oldest = match found.map_err(|error| self.fail(error))? {
            VersionAtTime::Version(version) => return Ok(version),
            VersionAtTime::Older(oldest) => oldest,
        };
        let oldest = oldest.map(|(version, at)| {
            let at = chrono::DateTime::from_timestamp_micros(at)
                .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
            format!(
                "; the oldest is version {version} of {}",
                at.unwrap_or_default()
            )
        });
        Err(Error::not_found(format!(
            "Delta table '{}' has no version that old{}",
            self.location(),
            oldest.unwrap_or_default()
        ))
        .about(Subject::location(self.location())))
    }

    pub(super) fn rules(&self, table: &DeltaTable) -> Result<Arc<TableRules>> {
        let snapshot = table.snapshot().map_err(|error| self.fail(error))?;
        if let Some((metadata, rules)) = &*self.known_rules()
            && metadata == snapshot.metadata()
        {
            return Ok(Arc::clone(rules));
        }
        // Made without the lock: the thread of a statement may wait for memory here.
        let rules = Arc::new(TableRules::of(table).map_err(|error| self.fail(error))?);
        let known = (snapshot.metadata().clone(), Arc::clone(&rules));
        let before = self.known_rules().replace(known);
        drop(before);
        Ok(rules)
    }

    fn known_rules(&self) -> MutexGuard<'_, Option<(Metadata, Arc<TableRules>)>> {
        let rules = self.inner.rules.lock();
        rules.unwrap_or_else(PoisonError::into_inner)
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
                .with_help("set 'scan.mode' 'stream' as well"),
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
/// The library's own CREATE continues with version 1 when another writer has made version 0, and so
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
