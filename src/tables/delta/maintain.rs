//! OPTIMIZE, VACUUM and the table's history.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::delta_datafusion::create_session;
use deltalake::kernel::CommitInfo;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::logstore::LogStoreRef;
use deltalake::operations::optimize::{Metrics, OptimizeType};
use deltalake::operations::vacuum::VacuumMode;
use deltalake::table::config::TablePropertiesExt as _;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt as _;
use serde_json::Value;

use super::commit::{COMMIT_ID, find_commit, is_conflict};
use super::commit_attempts::CommitAttempts;
use super::handle::DeltaTableHandle;
use super::scan::binary_partitions;
use crate::error::{Error, Result, Subject};
use crate::store::{ABANDONED, unfinished_files};
use crate::tables::parquet::read_int96_in_microseconds;

/// `OPTIMIZE t [ZORDER BY (…)]`.
#[derive(Debug, Clone, Default)]
pub struct OptimizeSpec {
    /// The columns to order by; empty merges small files only.
    pub zorder_by: Vec<String>,
}

/// `VACUUM t [RETAIN n HOURS] [DRY RUN]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct VacuumSpec {
    /// Files that left the table earlier than this many hours ago are deleted; `None` takes the
    /// table's own retention.
    pub retain_hours: Option<u64>,
    /// Only list the files that would be deleted.
    pub dry_run: bool,
}

impl DeltaTableHandle {
    /// Merges small files, or rewrites all files in an order in which rows that are close in the
    /// given columns stand together. `runtime` gives the memory and the disk to spill to.
    ///
    /// One row: `files_added`, `files_removed`, `files_considered`, `partitions_optimized`,
    /// `bytes_added`, `bytes_removed`, all `BIGINT`.
    ///
    /// # Errors
    ///
    /// A column to order by that is missing or a partition column; a conflict with a writer
    /// that removed files; the store's errors.
    #[expect(
        clippy::disallowed_methods,
        reason = "each commit has a name by which it is found"
    )]
    pub async fn optimize(
        &self,
        spec: &OptimizeSpec,
        runtime: Option<Arc<RuntimeEnv>>,
    ) -> Result<RecordBatch> {
        let schema = self.schema().await?;
        let partition_by = self.partition_columns().await?;
        for name in &spec.zorder_by {
            if schema.field_with_name(name).is_err() {
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let error = Error::invalid(format!("ZORDER BY: no column named {name}"))
                    .about(Subject::column(name));
                return Err(match crate::core::suggest::closest(name, names) {
                    Some(close) => error.with_help(format!("did you mean \"{close}\"?")),
                    None => error,
                });
            }
            if partition_by.contains(name) {
                return Err(Error::invalid(format!(
                    "ZORDER BY: '{name}' is a partition column, and its rows are already together"
                ))
                .about(Subject::text(name)));
            }
        }
        if let Some(name) = binary_partitions(&schema, &partition_by).first() {
            // The library would write the values in another spelling.
            return Err(Error::unsupported(format!(
                "OPTIMIZE of a table that is partitioned by a column of type BINARY is not supported: '{name}' is one"
            ))
            .about(Subject::location(self.location())));
        }
        let table = self.refresh().await?;
        // The library's own planner has to plan this: it looks for its own nodes in the plan.
        let state = create_session().state();
        let mut config = state.config().clone();
        read_int96_in_microseconds(config.options_mut());
        let state = SessionStateBuilder::new_from_existing(state).with_config(config);
        let state = match runtime {
            Some(runtime) => state.with_runtime_env(runtime).build(),
            None => state.build(),
        };
        let kind = if spec.zorder_by.is_empty() {
            OptimizeType::Compact
        } else {
            OptimizeType::ZOrder(spec.zorder_by.clone())
        };
        let id = uuid::Uuid::new_v4().to_string();
        let log = table.log_store();
        let since = table.version().unwrap_or_default();
        let attempts = CommitAttempts::of_moved_files(Arc::clone(&log), since);
        let mut table = DeltaTable::new(Arc::new(attempts));
        let loaded = table.load_version(since).await;
        loaded.map_err(|error| self.fail(error))?;
        let optimized = table
            .optimize()
            .with_type(kind)
            .with_session_state(Arc::new(state))
            .with_commit_properties(named(&id))
            .await;
        let metrics = match optimized {
            Ok((_, metrics)) => metrics,
            Err(error) => self.optimized(&log, since, &id, error).await?,
        };
        let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        one_row(&[
            ("files_added", count(metrics.num_files_added)),
            ("files_removed", count(metrics.num_files_removed)),
            (
                "files_considered",
                count(metrics.total_considered_files as u64),
            ),
            ("partitions_optimized", count(metrics.partitions_optimized)),
            ("bytes_added", metrics.files_added.total_size),
            ("bytes_removed", metrics.files_removed.total_size),
        ])
    }

    /// The metrics of an OPTIMIZE that ended with `error`, if it was committed all the same.
    async fn optimized(
        &self,
        log: &LogStoreRef,
        since: u64,
        id: &str,
        error: DeltaTableError,
    ) -> Result<Metrics> {
        let entry = match find_commit(log, since, id).await {
            Ok(Some((_, entry))) => entry,
            Ok(None) if is_conflict(&error) => return Err(self.fail(error)),
            Ok(None) | Err(_) => {
                return Err(self.fail(error).with_help(
                    "it is unknown whether the files were replaced; no row is lost or doubled either way: run it again",
                ));
            }
        };
        let lines = entry.split(|byte| *byte == b'\n');
        let mut actions = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let metrics = actions.find_map(|action| {
            let metrics = action.pointer("/commitInfo/operationMetrics")?;
            serde_json::from_value(metrics.clone()).ok()
        });
        metrics.ok_or_else(|| Error::internal("OPTIMIZE was committed without its metrics"))
    }

    /// Deletes files that no version within the retention needs, and those of failed writes. In a local folder it also
    /// deletes the unfinished files of writers that were ended, once they are older than the retention and than a day.
    ///
    /// One row per file: `path VARCHAR` (relative to the table), `deleted BOOLEAN` (false in a dry
    /// run).
    ///
    /// # Errors
    ///
    /// A retention shorter than the table's own; the store's errors.
    #[expect(
        clippy::disallowed_methods,
        reason = "each commit has a name by which it is found"
    )]
    pub async fn vacuum(&self, spec: &VacuumSpec) -> Result<RecordBatch> {
        let table = self.refresh().await?;
        let snapshot = table.snapshot().map_err(|error| self.fail(error))?;
        let own = snapshot.table_config().deleted_file_retention_duration();
        let own_hours = own.as_secs() / 3_600;
        let mut retention = own;
        let mut vacuum = table
            .vacuum()
            .with_dry_run(spec.dry_run)
            .with_commit_properties(named(&uuid::Uuid::new_v4().to_string()))
            .with_mode(VacuumMode::Full);
        if let Some(hours_given) = spec.retain_hours {
            if hours_given < own_hours {
                return Err(Error::invalid(format!(
                    "RETAIN {hours_given} HOURS is shorter than the {own_hours} hours for which the table keeps deleted files"
                ))
                .with_help(
                    "running queries and time travel need them; the table property \
                     'delta.deletedFileRetentionDuration' says how long",
                ));
            }
            let hours = i64::try_from(hours_given)
                .ok()
                .and_then(chrono::Duration::try_hours);
            let period = hours.ok_or_else(|| Error::invalid("RETAIN: too many hours"))?;
            vacuum = vacuum.with_retention_period(period);
            retention = Duration::from_secs(hours_given.saturating_mul(3_600));
        }
        let vacuumed = vacuum.await.map_err(|error| self.fail(error));
        let (_, metrics) = vacuumed.map_err(|error| match spec.dry_run {
            true => error,
            false => partial_vacuum_error(error),
        })?;
        let deleted = metrics.files_deleted.into_iter();
        let mut files: Vec<(String, bool)> = deleted.map(|path| (path, !metrics.dry_run)).collect();
        if let Some(folder) = self.folder().map(Path::to_owned) {
            let is_dry_run = spec.dry_run;
            let vacuum = move || vacuum_unfinished(&folder, retention, is_dry_run);
            let unfinished = tokio::task::spawn_blocking(vacuum).await;
            files.extend(unfinished.map_err(|error| Error::internal(error.to_string()))?);
        }
        files.sort_unstable();
        let (paths, deleted): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        batch(vec![
            ("path", Arc::new(StringArray::from(paths)) as ArrayRef),
            ("deleted", Arc::new(BooleanArray::from(deleted))),
        ])
    }

    /// The commits the log still has, newest first: `version BIGINT`, `timestamp TIMESTAMP`,
    /// `operation VARCHAR`, `parameters VARCHAR` and `metrics VARCHAR` (JSON), `engine VARCHAR`.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn history(&self) -> Result<RecordBatch> {
        let table = self.refresh().await?;
        let newest = table.version().unwrap_or_default();
        let commits: Vec<CommitInfo> = table
            .history(None)
            .try_collect()
            .await
            .map_err(|error| self.fail(error))?;
        let versions = (0..commits.len() as u64).map(|back| newest.saturating_sub(back) as i64);
        // Time travel uses the time in an entry.
        let times = commits.iter().map(|commit| {
            let time = commit.in_commit_timestamp.or(commit.timestamp);
            time.map(|ms| ms.saturating_mul(1_000))
        });
        let json = |value: Option<serde_json::Value>| value.map(|value| value.to_string());
        let parameters = commits.iter().map(|commit| {
            json(
                commit
                    .operation_parameters
                    .as_ref()
                    .and_then(|p| serde_json::to_value(p).ok()),
            )
        });
        let metrics = commits
            .iter()
            .map(|commit| json(commit.info.get("operationMetrics").cloned()));
        let engine = commits.iter().map(|commit| {
            let client = commit.info.get("clientVersion").and_then(|v| v.as_str());
            commit.engine_info.as_deref().or(client)
        });
        let text = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
        batch(vec![
            (
                "version",
                Arc::new(Int64Array::from_iter_values(versions)) as ArrayRef,
            ),
            (
                "timestamp",
                Arc::new(TimestampMicrosecondArray::from_iter(times).with_timezone("UTC")),
            ),
            (
                "operation",
                text(
                    commits
                        .iter()
                        .map(|commit| commit.operation.as_deref())
                        .collect(),
                ),
            ),
            ("parameters", Arc::new(StringArray::from_iter(parameters))),
            ("metrics", Arc::new(StringArray::from_iter(metrics))),
            ("engine", text(engine.collect())),
        ])
    }
}

/// Deletes unfinished files of writers that were ended; gives their paths below the table's folder, and whether each
/// file was deleted. The files of a running writer are kept for a day, for every retention. Hidden folders, other than
/// the log, are not of the table. Blocks.
fn vacuum_unfinished(folder: &Path, retention: Duration, is_dry_run: bool) -> Vec<(String, bool)> {
    let found = unfinished_files(folder, retention.max(ABANDONED));
    let of_table = found.iter().filter_map(|path| {
        let relative = path.strip_prefix(folder).ok()?.to_str()?;
        let is_hidden = |part: &str| part.starts_with(['.', '_']) && !part.contains('=');
        let is_of_table =
            relative.starts_with("_delta_log/") || !relative.split('/').any(is_hidden);
        is_of_table.then_some((path, relative))
    });
    of_table
        .map(|(path, relative)| {
            let is_deleted = !is_dry_run && std::fs::remove_file(path).is_ok();
            (relative.to_owned(), is_deleted)
        })
        .collect()
}

/// VACUUM deletes before its last commit: also if that one fails, files may be gone.
fn partial_vacuum_error(error: Error) -> Error {
    let failed = Error::new(error.kind(), error.message()).about_cause(&error);
    failed.with_help(
        "files that no version within the retention needs may have been deleted, and no others: run it again",
    )
}

/// Properties of a commit with its unique name, by which it is found in the log.
fn named(id: &str) -> CommitProperties {
    CommitProperties::default().with_metadata([(COMMIT_ID.to_owned(), id.into())])
}

fn one_row(values: &[(&str, i64)]) -> Result<RecordBatch> {
    batch(
        values
            .iter()
            .map(|(name, value)| (*name, Arc::new(Int64Array::from(vec![*value])) as ArrayRef))
            .collect(),
    )
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| {
            let data_type = match column.data_type() {
                DataType::Timestamp(..) => {
                    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
                }
                other => other.clone(),
            };
            Field::new(*name, data_type, true)
        })
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(DataFusionError::from)?)
}

#[cfg(test)]
mod tests {
    use deltalake::kernel::transaction::TransactionError;

    use super::*;
    use crate::tables::delta::error::delta_error;

    #[test]
    fn a_failed_vacuum_reports_possible_deletions() {
        let source = TransactionError::MaxCommitAttempts(15);
        let error = delta_error("t", DeltaTableError::Transaction { source });
        assert!(
            error
                .help()
                .is_some_and(|help| help.starts_with("nothing was written"))
        );
        let failed = partial_vacuum_error(error);
        assert!(
            failed
                .help()
                .is_some_and(|help| help.contains("may have been deleted"))
        );
        assert!(failed.message().contains("15 attempts"), "{failed}");
    }
}
