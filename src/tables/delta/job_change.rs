//! Writes of a job that take rows out of the table in the same commit that adds its own: an upsert takes out the rows with the same
//! keys, a replacement those within bounds of time (EXACT-2).
//!
//! The new rows are written first: their files do not depend on what the table has. Then the rows to take out are looked for, and the
//! other rows of their files are written as they are. If another writer's commit changes what was read, that second step is done
//! again over the newest version, and the files of new rows stay.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionState;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{Expr, lit};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use deltalake::DeltaTable;
use deltalake::kernel::{Action, Add, Metadata};
use deltalake::protocol::SaveMode;
use futures::StreamExt as _;

use super::change::{TouchedRows, numbers, rest_of_files};
use super::handle::DeltaTableHandle;
use super::offset_claims::ClaimChange;
use super::placed_rows::{PlacedRows, ROW_FILE, ROW_NUMBER, TimeFilters};
use super::row_keys::{CUT_OF_TIMES, KeySet, KeyedRows};
use super::spec::{Application, Commit};
use super::write::{RewriteMode, WriteTarget, WrittenFiles, discard};
use crate::core::runs::TimeBounds;
use crate::error::{Error, Result, Subject};

/// How often a commit is tried whose reading other writers' commits overtake.
const ATTEMPTS: u32 = 20;

/// Bounds of a column of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnBounds {
    /// The column, of type `TIMESTAMP`.
    pub column: String,
    /// The bounds of its values.
    pub bounds: TimeBounds,
}

/// Which rows of the table give way to those of a job.
#[derive(Debug)]
pub(super) enum TakenRows {
    /// Those with these keys.
    OfKeys(KeySet),
    /// Those within all of these bounds.
    Within(Vec<ColumnBounds>),
}

/// Rows of a job that wait for their commit, which takes others out of the table.
pub struct PreparedChange {
    writer: DeltaTableHandle,
    state: Arc<SessionState>,
    context: Arc<TaskContext>,
    taken: TakenRows,
    target: WriteTarget,
    added: WrittenFiles,
    /// What the table was declared as when the files of `added` were written.
    declared: Metadata,
    rest: RestOfFiles,
}

/// What a version of the table needs besides the new rows.
struct RestOfFiles {
    table: DeltaTable,
    /// Files with those rows of the files to remove that stay in the table.
    kept: Vec<Add>,
    removed: Vec<Action>,
    /// How many rows are taken out.
    taken: u64,
}

impl DeltaTableHandle {
    /// Writes the rows of `plan`, whose columns are the table's in order, to files that are not in the table yet; their commit takes
    /// out the rows with the same values in the columns `key`, and with those of the rows in `withdrawn`. If several rows have the same
    /// key, the last one counts.
    ///
    /// # Errors
    ///
    /// A table whose rows cannot be changed; NULL in a column of the key; otherwise as [`Self::prepare`]. Nothing is left behind
    /// then.
    pub async fn prepare_upsert(
        &self,
        key: &[String],
        withdrawn: Option<&RecordBatch>,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<PreparedChange> {
        let table = self.refresh().await?;
        let schema = plan.schema();
        let keyed = self.keyed_rows(&table, key, withdrawn, plan, &context);
        let (rows, keys) = keyed.await?.finish()?;
        let rows = rows.into_stream(schema);
        self.prepare_change(table, TakenRows::OfKeys(keys), rows, context)
            .await
    }

    /// Checks and encodes the rows of a [`Self::prepare_upsert`], and leaves no file behind.
    ///
    /// # Errors
    ///
    /// As of [`Self::prepare_upsert`].
    pub async fn rehearse_upsert(
        &self,
        key: &[String],
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<()> {
        let table = self.refresh().await?;
        let rules = self.rules(&table)?;
        let schema = plan.schema();
        let keyed = self.keyed_rows(&table, key, None, plan, &context);
        let (rows, _) = keyed.await?.finish()?;
        let rows = rows.into_stream(schema);
        let (target, written) = self.write_rows(&table, &rules, rows, &context).await?;
        discard(&target.store, &written.adds).await;
        Ok(())
    }

    /// Writes the rows of `plan`, whose columns are the table's in order, to files that are not in the table yet; their commit takes
    /// out the rows that are within all of `covered`.
    ///
    /// # Errors
    ///
    /// A table whose rows cannot be changed; bounds of a column that is no time; otherwise as [`Self::prepare`]. Nothing is left
    /// behind then.
    pub async fn prepare_replacement(
        &self,
        covered: Vec<ColumnBounds>,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<PreparedChange> {
        let table = self.refresh().await?;
        let rules = self.rules(&table)?;
        check_bounds(&covered, &rules.rows.schema)?;
        let rows = execute_stream(plan, Arc::clone(&context))?;
        self.prepare_change(table, TakenRows::Within(covered), rows, context)
            .await
    }

    /// Adds prepared rows to the table and takes out those that give way, in one commit, as the application that owns the table
    /// (EXACT-2). If another writer has changed the table meanwhile, the rows that give way are looked for again.
    ///
    /// # Errors
    ///
    /// As [`Self::commit_prepared`]; other writers commit all the time.
    pub async fn commit_change(
        &self,
        mut prepared: PreparedChange,
        application: &Application,
        change: &ClaimChange<'_>,
    ) -> Result<Commit> {
        for _ in 1..ATTEMPTS {
            match self.try_commit(&mut prepared, application, change).await? {
                Some(commit) => return Ok(commit),
                None => prepared.look_again().await?,
            }
        }
        let last = self.try_commit(&mut prepared, application, change).await?;
        if last.is_none() {
            prepared.discard().await;
        }
        last.ok_or_else(|| {
            Error::unavailable(format!(
                "Delta table '{}': other writers have changed its rows {ATTEMPTS} times while this batch looked for those that it replaces",
                self.location()
            ))
            .about(Subject::location(self.location()))
            .with_help("nothing was written, and the batch is run again; run OPTIMIZE and other writers less often")
        })
    }

    /// One attempt; none if another writer was faster.
    async fn try_commit(
        &self,
        prepared: &mut PreparedChange,
        application: &Application,
        change: &ClaimChange<'_>,
    ) -> Result<Option<Commit>> {
        let newest = self.refresh().await?;
        let snapshot = self.owned_snapshot(&newest, application).await?;
        // The table was put back to an earlier version: a commit after the version that was read would leave a gap in the log.
        if newest.version() < prepared.rest.table.version() {
            return Ok(None);
        }
        let read = prepared.rest.table.snapshot();
        let read = read.map_err(|error| self.fail(error))?.snapshot();
        if prepared.declared != *snapshot.metadata() {
            prepared.discard_files().await;
            return Err(Error::unavailable(format!(
                "Delta table '{}' was changed while its rows were written",
                self.location()
            ))
            .about(Subject::location(self.location())));
        }
        let added = prepared.added.adds.iter();
        let mut written = WrittenFiles {
            adds: added.chain(&prepared.rest.kept).cloned().collect(),
            rows: prepared.added.rows + prepared.rest.taken,
            removed: prepared.rest.removed.clone(),
            checked: Some(application.checked),
            rewrite: Some(RewriteMode::Merge),
            notes: change.notes(application),
        };
        let transactions = application.transactions();
        let committed = self.try_finish(
            &prepared.rest.table,
            read,
            &mut written,
            SaveMode::Append,
            &transactions,
        );
        match committed.await {
            Ok(version) => Ok(Some(Commit {
                version,
                added: written.adds.into_iter().map(|add| add.path).collect(),
                rows: written.rows,
            })),
            Err(failed) if failed.is_undecided => Err(failed.error),
            Err(failed) if failed.error.is_conflict() => Ok(None),
            Err(failed) => {
                prepared.discard_files().await;
                Err(failed.error)
            }
        }
    }

    /// The rows of a batch by their key, and the keys that are withdrawn.
    async fn keyed_rows(
        &self,
        table: &DeltaTable,
        key: &[String],
        withdrawn: Option<&RecordBatch>,
        plan: Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
    ) -> Result<KeyedRows> {
        let rules = self.rules(table)?;
        let mut keyed = KeyedRows::try_new(&rules.rows.schema, key, context.memory_pool())?;
        let mut rows = execute_stream(plan, Arc::clone(context))?;
        while let Some(rows) = rows.next().await {
            keyed.add(rows?).map_err(|error| self.of_table(error))?;
        }
        if let Some(withdrawn) = withdrawn {
            keyed.withdraw(withdrawn)?;
        }
        Ok(keyed)
    }

    fn of_table(&self, error: Error) -> Error {
        error
            .context(format!("Delta table '{}'", self.location()))
            .within(Subject::location(self.location()))
    }

    async fn prepare_change(
        &self,
        table: DeltaTable,
        taken: TakenRows,
        rows: SendableRecordBatchStream,
        context: Arc<TaskContext>,
    ) -> Result<PreparedChange> {
        let rules = self.rules(&table)?;
        self.check_changeable(&table, &rules, true)?;
        let declared = table.snapshot().map_err(|error| self.fail(error))?;
        let declared = declared.snapshot().metadata().clone();
        let (target, added) = self.write_rows(&table, &rules, rows, &context).await?;
        let state = Arc::new(state_of(&context));
        let rest = rest_of(self, &state, &context, &taken, &target, table).await;
        match rest {
            Ok(rest) => Ok(PreparedChange {
                writer: self.clone(),
                state,
                context,
                taken,
                target,
                added,
                declared,
                rest,
            }),
            Err(error) => {
                discard(&target.store, &added.adds).await;
                Err(error)
            }
        }
    }
}

impl PreparedChange {
    /// Rows to write, and keys that are withdrawn. Of a replacement that writes no row, those that it takes out: its commit changes the
    /// table, and has to be told from none.
    pub fn rows(&self) -> u64 {
        let removed = match &self.taken {
            TakenRows::OfKeys(keys) => keys.withdrawn(),
            TakenRows::Within(_) if self.added.rows == 0 => self.rest.taken,
            TakenRows::Within(_) => 0,
        };
        self.added.rows + removed
    }

    /// Whether its commit would change no row of the table.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0 && self.rest.taken == 0
    }

    /// Deletes its files again.
    pub async fn discard(self) {
        self.discard_files().await;
    }

    async fn discard_files(&self) {
        discard(&self.target.store, &self.added.adds).await;
        discard(&self.target.store, &self.rest.kept).await;
    }

    /// Looks in the newest version for the rows that give way.
    async fn look_again(&mut self) -> Result<()> {
        discard(&self.target.store, &self.rest.kept).await;
        self.rest.kept.clear();
        let (writer, state, context) = (&self.writer, &self.state, &self.context);
        let rest = async {
            let table = writer.refresh().await?;
            rest_of(writer, state, context, &self.taken, &self.target, table).await
        };
        match rest.await {
            Ok(rest) => self.rest = rest,
            Err(error) => {
                self.discard_files().await;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PreparedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedChange")
            .field("location", &self.writer.location())
            .finish_non_exhaustive()
    }
}

/// A session for the reading of files, over the runtime that a plan runs in.
fn state_of(context: &TaskContext) -> SessionState {
    SessionStateBuilder::new()
        .with_config(context.session_config().clone())
        .with_runtime_env(context.runtime_env())
        .with_default_features()
        .build()
}

/// Looks in a version of the table for the rows that give way, and writes the other rows of their files.
async fn rest_of(
    writer: &DeltaTableHandle,
    state: &SessionState,
    context: &Arc<TaskContext>,
    taken: &TakenRows,
    target: &WriteTarget,
    table: DeltaTable,
) -> Result<RestOfFiles> {
    let rules = writer.rules(&table)?;
    let placed = writer.placed_rows(table.clone(), &rules).await?;
    let touched = taken.find(writer, state, context, &placed).await?;
    let count = touched.count();
    let rest = rest_of_files(writer, &placed, state, target, touched.files, context);
    let (kept, removed) = rest.await?;
    Ok(RestOfFiles {
        table,
        kept: kept.adds,
        removed,
        taken: count,
    })
}

impl TakenRows {
    /// The rows of a version that give way.
    async fn find(
        &self,
        writer: &DeltaTableHandle,
        state: &SessionState,
        context: &Arc<TaskContext>,
        placed: &PlacedRows,
    ) -> Result<TouchedRows> {
        let reservation = MemoryConsumer::new("DeltaChanges").register(context.memory_pool());
        let mut touched = TouchedRows::new(writer.location().to_owned(), reservation);
        if self.is_empty() {
            return Ok(touched);
        }
        let schema = placed.schema_of(&self.columns())?;
        let filters = self.filters(&schema)?;
        let files = placed.candidates(state, &filters, TimeFilters::Widened)?;
        let plan = placed.plan(state, schema, &files).await?;
        let mut rows = execute_stream(plan, Arc::clone(context))?;
        while let Some(rows) = rows.next().await {
            let rows = rows?;
            let gives_way = self.has(&rows)?;
            let files = numbers(&rows, ROW_FILE)?;
            let places = numbers(&rows, ROW_NUMBER)?;
            for row in gives_way.values().set_indices() {
                touched.delete(files.value(row), places.value(row))?;
            }
        }
        Ok(touched)
    }

    /// Whether no row of any table gives way.
    fn is_empty(&self) -> bool {
        match self {
            Self::OfKeys(keys) => keys.is_empty(),
            Self::Within(covered) => covered.iter().any(|of| is_never(of.bounds)),
        }
    }

    /// The columns by which they are found.
    fn columns(&self) -> Vec<&str> {
        match self {
            Self::OfKeys(keys) => keys.columns().collect(),
            Self::Within(covered) => covered.iter().map(|of| of.column.as_str()).collect(),
        }
    }

    /// Which of these rows give way. None of the answers is NULL.
    fn has(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        match self {
            Self::OfKeys(keys) => keys.contained(rows),
            Self::Within(covered) => within(covered, rows),
        }
    }

    /// Predicates by which files are left out; those on times are wider than what is looked for.
    fn filters(&self, schema: &SchemaRef) -> Result<Vec<Expr>> {
        let mut filters = Vec::new();
        match self {
            Self::OfKeys(keys) => {
                for (column, values) in keys.columns().zip(keys.values()) {
                    let of = Expr::Column(Column::new_unqualified(column));
                    filters.extend(values.filters(&of));
                }
            }
            Self::Within(covered) => {
                for ColumnBounds { column, bounds } in covered {
                    let of = Expr::Column(Column::new_unqualified(column));
                    let field = schema.field_with_name(column);
                    let of_type = field.map_err(DataFusionError::from)?.data_type();
                    let from = bounds.from.map(|from| from.saturating_sub(CUT_OF_TIMES));
                    let to = bounds.to.map(|to| to.saturating_add(CUT_OF_TIMES));
                    let from = from.and_then(|from| time_of(from, of_type));
                    let to = to.and_then(|to| time_of(to, of_type));
                    filters.extend(from.map(|from| of.clone().gt_eq(lit(from))));
                    filters.extend(to.map(|to| of.lt_eq(lit(to))));
                }
            }
        }
        Ok(filters)
    }
}

fn is_never(bounds: TimeBounds) -> bool {
    matches!((bounds.from, bounds.to), (Some(from), Some(to)) if from >= to)
}

fn time_of(time: i64, of_type: &DataType) -> Option<ScalarValue> {
    match of_type {
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            Some(ScalarValue::TimestampMicrosecond(Some(time), zone.clone()))
        }
        _ => None,
    }
}

/// Checks that these are columns of time, and that they are some.
fn check_bounds(covered: &[ColumnBounds], schema: &SchemaRef) -> Result<()> {
    if covered.is_empty() {
        return Err(Error::internal("a replacement without bounds"));
    }
    for ColumnBounds { column, .. } in covered {
        let field = schema.field_with_name(column).map_err(|_| {
            Error::invalid(format!("column '{column}' is no longer in the table"))
                .about(Subject::column(column))
        })?;
        if time_of(0, field.data_type()).is_none() {
            return Err(Error::unsupported(format!(
                "column '{column}' of type {} has no times by which rows are replaced",
                field.data_type()
            ))
            .about(Subject::column(column)));
        }
    }
    Ok(())
}

/// Which rows are within all bounds. A row without a time is not.
fn within(covered: &[ColumnBounds], rows: &RecordBatch) -> Result<BooleanArray> {
    let columns = covered.iter().map(|ColumnBounds { column, bounds }| {
        let times = rows.column_by_name(column);
        let times =
            times.and_then(|times: &ArrayRef| times.as_primitive_opt::<TimestampMicrosecondType>());
        let times = times.ok_or_else(|| Error::internal(format!("rows without {column}")))?;
        Ok((times, *bounds))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let is_within = |row: usize| {
        let mut columns = columns.iter();
        columns.all(|(times, bounds)| times.is_valid(row) && bounds.contains(times.value(row)))
    };
    let within = BooleanBuffer::collect_bool(rows.num_rows(), is_within);
    Ok(BooleanArray::new(within, None))
}

#[cfg(test)]
#[path = "job_change_tests.rs"]
mod tests;
