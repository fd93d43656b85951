//! DELETE, UPDATE and MERGE: rows of one version of a table give way to others, in one commit (EXACT-2).
//!
//! The statement's query gives one row for each row that changes: the kind of change, the row's place in the version
//! that was read ([`placed_rows`](super::placed_rows)), and the new values. So each condition and each value is
//! computed once, by the session's SQL. New rows are checked and written like those of an INSERT. Then the files that
//! have changed rows are read again, and their other rows are written as they are; the commit takes the old files out
//! and puts the new ones in.
//!
//! Rows that other writers append meanwhile count as added afterwards. If another commit has changed rows, has moved
//! rows of the same files, or has added rows after reading the table as a MERGE does, nothing is written, and the error says that it
//! is a conflict: the statement may be run again over the newest rows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::{Array, AsArray, BooleanArray, PrimitiveArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use deltalake::DeltaTable;
use deltalake::kernel::Action;
use deltalake::protocol::SaveMode;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use super::check::RowRules;
use super::handle::DeltaTableHandle;
use super::placed_rows::{NumberedFiles, PlacedRows, ROW_FILE, ROW_NUMBER};
use super::provider::DeltaTableProvider;
use super::rules::TableRules;
use super::scan::TableScan;
use super::sink::{WriteStatement, WrittenRows, nullable, sink};
use super::write::{RewriteMode, WriteTarget, WrittenFiles, discard, write_files};
use crate::error::Error;
use crate::tables::boxed_methods::{boxed_insert_into, boxed_scan};

/// The column with the kind of a row's change, as [`RowChange`].
pub const ROW_CHANGE: &str = "change of row";

/// Columns before those of the table.
const PLACES: usize = 3;

/// The change of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange {
    /// It leaves the table.
    Delete = 1,
    /// Another one takes its place.
    Update = 2,
    /// It is new, and has no place.
    Insert = 3,
}

/// A statement that changes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeStatement {
    /// `DELETE`.
    Delete,
    /// `UPDATE`.
    Update,
    /// `MERGE`; whether it only adds rows.
    Merge {
        /// No clause updates or deletes.
        only_inserts: bool,
    },
}

/// The version of a table in which a statement changes rows.
pub struct ChangeTarget {
    /// The provider by which the other parts of the statement read it.
    pub table: Arc<dyn TableProvider>,
    /// Its rows with their places, in the columns [`ROW_FILE`] and [`ROW_NUMBER`].
    pub rows: Arc<dyn TableProvider>,
    /// Takes the changes: [`ROW_CHANGE`], [`ROW_FILE`], [`ROW_NUMBER`] and the table's columns.
    pub changes: Arc<dyn TableProvider>,
    /// The table's columns.
    pub schema: SchemaRef,
    /// The generated columns.
    pub generated: Vec<String>,
}

impl DeltaTableHandle {
    /// The newest version, for a statement that changes its rows.
    ///
    /// # Errors
    ///
    /// A table whose rows cannot be changed; a log that cannot be read.
    pub async fn change(&self, statement: ChangeStatement) -> crate::error::Result<ChangeTarget> {
        let table = self.refresh().await?;
        let rules = self.rules(&table)?;
        let takes_rows = statement != ChangeStatement::Merge { only_inserts: true };
        self.check_changeable(&table, &rules, takes_rows)?;
        let plain = DeltaTableProvider::new(
            TableScan::of(&table).map_err(|error| self.fail(error))?,
            table.clone(),
            Arc::clone(&rules),
            Some(self.clone()),
        );
        let placed = Arc::new(self.placed_rows(table, &rules).await?);
        let places = [ROW_CHANGE, ROW_FILE, ROW_NUMBER];
        let places = places.map(|name| Field::new(name, DataType::Int64, true));
        let schema = Arc::clone(&rules.rows.schema);
        let columns = nullable(&schema);
        let changes = RowChanges {
            writer: self.clone(),
            rows: Arc::clone(&placed),
            rewrite: match statement {
                ChangeStatement::Delete => RewriteMode::Delete,
                ChangeStatement::Update => RewriteMode::Update,
                ChangeStatement::Merge { .. } => RewriteMode::Merge,
            },
            schema: Arc::new(Schema::new(
                places.into_iter().chain(columns).collect::<Vec<_>>(),
            )),
        };
        let generated = rules.rows.generated.iter();
        Ok(ChangeTarget {
            table: Arc::new(plain),
            rows: placed,
            changes: Arc::new(changes),
            schema,
            generated: generated.map(|column| column.name.clone()).collect(),
        })
    }

    /// Checks that rows can be written to the table, and if `takes_rows` says so, be taken out of it.
    pub(super) fn check_changeable(
        &self,
        table: &DeltaTable,
        rules: &TableRules,
        takes_rows: bool,
    ) -> crate::error::Result<()> {
        if let Some(reason) = &rules.unwritable {
            return Err(Error::unsupported(format!(
                "Delta table '{}' can be read, but not written: {reason}",
                self.location()
            )));
        }
        if !takes_rows {
            return Ok(());
        }
        let snapshot = table.snapshot().map_err(|error| self.fail(error))?;
        let properties = snapshot.snapshot().table_properties();
        if properties.append_only.unwrap_or(false) {
            return Err(Error::unsupported(format!(
                "Delta table '{}' is append-only: its rows cannot be replaced or deleted",
                self.location()
            ))
            .with_help("its property delta.appendOnly says so"));
        }
        let configuration = snapshot.metadata().configuration();
        for (property, what) in [
            ("delta.enableRowTracking", "row tracking"),
            ("delta.enableChangeDataFeed", "the change data feed"),
        ] {
            let is_on = configuration.get(property);
            if is_on.is_some_and(|on| on.eq_ignore_ascii_case("true")) {
                return Err(Error::unsupported(format!(
                    "Delta table '{}' has {what}, which DELETE, UPDATE and MERGE do not keep",
                    self.location()
                ))
                .with_help(format!(
                    "set {property} to false with another writer, or use that one"
                )));
            }
        }
        Ok(())
    }

    /// The rows of a version with their places.
    pub(super) async fn placed_rows(
        &self,
        table: DeltaTable,
        rules: &Arc<TableRules>,
    ) -> crate::error::Result<PlacedRows> {
        let files = self.added_files(&table).await?;
        let files = files.into_iter().map(|file| file.path).collect();
        let files = NumberedFiles::new(&table, files);
        let scan = TableScan::of(&table).map_err(|error| self.fail(error))?;
        Ok(PlacedRows::new(table, Arc::clone(rules), scan, files))
    }
}

/// Takes the changes of a version's rows.
#[derive(Debug)]
struct RowChanges {
    writer: DeltaTableHandle,
    rows: Arc<PlacedRows>,
    rewrite: RewriteMode,
    schema: SchemaRef,
}

impl RowChanges {
    fn change(
        &self,
        session: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let state = session.as_any().downcast_ref::<SessionState>();
        let state = state.ok_or_else(|| Error::internal("a session of another kind"))?;
        let change = Change {
            writer: self.writer.clone(),
            rows: Arc::clone(&self.rows),
            rewrite: self.rewrite,
            schema: Arc::clone(&self.schema),
            state: Arc::new(state.clone()),
        };
        Ok(sink(input, Arc::clone(&self.schema), change))
    }
}

impl TableProvider for RowChanges {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    boxed_scan!(|_table, _, _, _, _| {
        let refused = Error::internal("changes of rows are written, not read");
        std::future::ready(Err(refused.into())).boxed()
    });

    boxed_insert_into!(|table, session, input, _| {
        std::future::ready(table.change(session, input)).boxed()
    });
}

/// One statement that changes rows.
struct Change {
    writer: DeltaTableHandle,
    rows: Arc<PlacedRows>,
    rewrite: RewriteMode,
    schema: SchemaRef,
    /// Plans the second reading of files.
    state: Arc<SessionState>,
}

impl Change {
    async fn change(
        &self,
        changes: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> crate::error::Result<WrittenRows> {
        let (table, rules) = (&self.rows.table, &self.rows.rules);
        let location = self.writer.location();
        let pool = context.memory_pool();
        let reservation = MemoryConsumer::new("DeltaChanges").register(pool);
        let touched = Arc::new(Mutex::new(TouchedRows::new(
            location.to_owned(),
            reservation,
        )));
        let taken_by = Arc::clone(&touched);
        let new = changes.map(move |batch| {
            let new = lock(&taken_by).take(&batch?);
            new.map_err(DataFusionError::from)
        });
        let columns: Vec<usize> = (PLACES..self.schema.fields().len()).collect();
        let of_table = Arc::new(
            self.schema
                .project(&columns)
                .map_err(DataFusionError::from)?,
        );
        let new = Box::pin(RecordBatchStreamAdapter::new(of_table, new));
        let (target, new) = self.writer.write_rows(table, rules, new, context).await?;
        let touched = std::mem::take(&mut lock(&touched).files);
        let count = new.rows + touched.values().map(|rows| rows.deleted.count).sum::<u64>();
        if touched.is_empty() && new.adds.is_empty() {
            return Ok(WrittenRows::default());
        }
        let rest = rest_of_files(
            &self.writer,
            &self.rows,
            &self.state,
            &target,
            touched,
            context,
        );
        let (kept, removed) = match rest.await {
            Ok(rest) => rest,
            Err(error) => {
                discard(&target.store, &new.adds).await;
                return Err(error);
            }
        };
        let written = WrittenFiles {
            adds: new.adds.into_iter().chain(kept.adds).collect(),
            rows: count,
            removed,
            rewrite: Some(self.rewrite),
            ..WrittenFiles::default()
        };
        let snapshot = table.snapshot();
        let snapshot = snapshot
            .map_err(|error| self.writer.fail(error))?
            .snapshot();
        let mode = SaveMode::Append;
        let commit = self
            .writer
            .finish(table, snapshot, &target.store, written, mode, &[]);
        Ok(commit.await?.into())
    }
}

/// Writes the rows of the files that do not change; gives their new files, and the actions that take the old ones out.
pub(super) async fn rest_of_files(
    writer: &DeltaTableHandle,
    placed: &PlacedRows,
    state: &SessionState,
    target: &WriteTarget,
    touched: BTreeMap<i64, ChangedRows>,
    context: &Arc<TaskContext>,
) -> crate::error::Result<(WrittenFiles, Vec<Action>)> {
    let numbers: Vec<i64> = touched.keys().copied().collect();
    if numbers.is_empty() {
        return Ok((WrittenFiles::default(), Vec::new()));
    }
    let paths = numbers
        .iter()
        .filter_map(|number| placed.files.path(*number));
    let paths: Vec<String> = paths.map(str::to_owned).collect();
    let present = writer.files(&placed.table, &paths).await?;
    if present.len() != numbers.len() {
        return Err(Error::internal(
            "a file with changed rows is not in the version",
        ));
    }
    let schema = placed.schema();
    let plan = placed.plan(state, schema, &numbers);
    let rows = execute_stream(plan.await?, Arc::clone(context))?;
    let expected: u64 = touched.values().map(|rows| rows.all.count).sum();
    let touched = Arc::new(touched);
    let found = Arc::new(Mutex::new(0_u64));
    let (changed, counted) = (Arc::clone(&touched), Arc::clone(&found));
    let kept = rows.map(move |rows| {
        let (kept, count) = unchanged(&rows?, &changed)?;
        *lock(&counted) += count;
        Ok::<_, DataFusionError>(kept)
    });
    let kept = Box::pin(RecordBatchStreamAdapter::new(
        Arc::clone(&target.rules.schema),
        kept,
    ));
    // Unchanged rows keep the table's rules as they are: computing their generated columns again could change them.
    let as_they_are = WriteTarget {
        rules: Arc::new(RowRules {
            schema: Arc::clone(&target.rules.schema),
            generated: Vec::new(),
            constraints: Vec::new(),
        }),
        ..target.clone()
    };
    let kept = write_files(&as_they_are, kept, context).await?;
    if *lock(&found) != expected {
        discard(&target.store, &kept.adds).await;
        return Err(Error::internal(
            "rows that change were not found again in their files",
        ));
    }
    Ok((kept, present.into_values().collect()))
}

/// The rows of a batch that do not change, without their places; and how many do.
fn unchanged(
    rows: &RecordBatch,
    touched: &BTreeMap<i64, ChangedRows>,
) -> Result<(RecordBatch, u64)> {
    let files = numbers(rows, ROW_FILE)?;
    let places = numbers(rows, ROW_NUMBER)?;
    let is_kept = files.values().iter().zip(places.values());
    let is_kept: BooleanArray = is_kept
        .map(|(file, place)| Some(!touched.get(file).is_some_and(|rows| rows.all.has(*place))))
        .collect();
    let count = rows.num_rows() - is_kept.true_count();
    let columns: Vec<usize> = (0..rows.num_columns() - 2).collect();
    let kept = filter_record_batch(&rows.project(&columns)?, &is_kept)?;
    Ok((kept, count as u64))
}

/// A column of numbers.
pub(super) fn numbers<'a>(
    rows: &'a RecordBatch,
    name: &str,
) -> Result<&'a PrimitiveArray<Int64Type>> {
    let column = rows.column_by_name(name);
    let column = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
    Ok(column.ok_or_else(|| Error::internal(format!("rows without the {name}")))?)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which rows of a version change, so far.
pub(super) struct TouchedRows {
    location: String,
    /// By the number of their file.
    pub(super) files: BTreeMap<i64, ChangedRows>,
    reservation: MemoryReservation,
}

/// Rows of one file that change.
#[derive(Default)]
pub(super) struct ChangedRows {
    all: RowSet,
    deleted: RowSet,
}

/// A set of rows of a file.
#[derive(Default)]
struct RowSet {
    words: Vec<u64>,
    count: u64,
}

impl RowSet {
    fn has(&self, row: i64) -> bool {
        let Ok(row) = usize::try_from(row) else {
            return false;
        };
        let word = self.words.get(row / 64).copied().unwrap_or_default();
        word & (1 << (row % 64)) != 0
    }

    /// Adds a row; whether it is new.
    fn add(&mut self, row: usize) -> bool {
        let (word, bit) = (row / 64, 1 << (row % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

impl TouchedRows {
    pub(super) fn new(location: String, reservation: MemoryReservation) -> Self {
        Self {
            location,
            files: BTreeMap::new(),
            reservation,
        }
    }

    /// How many rows change.
    pub(super) fn count(&self) -> u64 {
        self.files.values().map(|rows| rows.all.count).sum()
    }

    /// Notes that a row leaves the table.
    pub(super) fn delete(&mut self, file: i64, place: i64) -> crate::error::Result<()> {
        let place = usize::try_from(place);
        let place = place.map_err(|_| Error::internal("a row without a place"))?;
        let of_file = self.files.entry(file).or_default();
        let before = of_file.all.bytes();
        of_file.all.add(place);
        let more = of_file.all.bytes() - before;
        Ok(self.reservation.try_grow(more)?)
    }

    /// Notes the rows that a batch changes; gives those to write, with the table's columns.
    fn take(&mut self, changes: &RecordBatch) -> crate::error::Result<RecordBatch> {
        let what = numbers(changes, ROW_CHANGE)?;
        let files = numbers(changes, ROW_FILE)?;
        let places = numbers(changes, ROW_NUMBER)?;
        let mut is_new = Vec::with_capacity(what.len());
        for row in 0..what.len() {
            let change = what.is_valid(row).then(|| what.value(row));
            let inserts = change == Some(RowChange::Insert as i64);
            let deletes = change == Some(RowChange::Delete as i64);
            if !inserts && !deletes && change != Some(RowChange::Update as i64) {
                return Err(Error::internal("a row without a change"));
            }
            is_new.push(!deletes);
            if inserts {
                continue;
            }
            let place = usize::try_from(places.value(row)).ok();
            let place = place.filter(|_| files.is_valid(row) && places.is_valid(row));
            let place = place.ok_or_else(|| Error::internal("a changed row without a place"))?;
            let of_file = self.files.entry(files.value(row)).or_default();
            let before = of_file.all.bytes() + of_file.deleted.bytes();
            let is_first = of_file.all.add(place);
            let again = match deletes {
                true if is_first => !of_file.deleted.add(place),
                // A row may be deleted for several reasons.
                true => !of_file.deleted.has(places.value(row)),
                false => !is_first,
            };
            let after = of_file.all.bytes() + of_file.deleted.bytes();
            self.reservation.try_grow(after - before)?;
            if again {
                return Err(Error::data(format!(
                    "Delta table '{}': several rows of the source change the same row, and it can have one new value",
                    self.location
                ))
                .with_help("group the source by what it is matched by, so that each row is matched once"));
            }
        }
        let columns: Vec<usize> = (PLACES..changes.num_columns()).collect();
        let rows = changes.project(&columns).map_err(DataFusionError::from)?;
        let rows = filter_record_batch(&rows, &BooleanArray::from(is_new));
        Ok(rows.map_err(DataFusionError::from)?)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = self.writer.location();
        write!(f, "DeltaChanges(location={location}, {:?})", self.rewrite)
    }
}

impl WriteStatement for Change {
    fn counter(&self) -> &'static str {
        "rows_changed"
    }

    fn write<'a>(
        &'a self,
        rows: SendableRecordBatchStream,
        context: &'a Arc<TaskContext>,
    ) -> BoxFuture<'a, crate::error::Result<WrittenRows>> {
        self.change(rows, context).boxed()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use datafusion::arrow::array::Int64Array;
    use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};

    use super::*;

    fn touched() -> TouchedRows {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        TouchedRows::new("t".to_owned(), MemoryConsumer::new("t").register(&pool))
    }

    /// A kind, a file's number with the row's number in it, and a value.
    type ChangedRow = (RowChange, Option<(i64, i64)>, i64);

    fn changes(rows: &[ChangedRow]) -> RecordBatch {
        let column = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as _;
        let of = |of: fn((i64, i64)) -> i64| rows.iter().map(|row| row.1.map(of)).collect();
        let what = rows.iter().map(|row| Some(row.0 as i64)).collect();
        RecordBatch::try_from_iter_with_nullable([
            (ROW_CHANGE, column(what), true),
            (ROW_FILE, column(of(|place| place.0)), true),
            (ROW_NUMBER, column(of(|place| place.1)), true),
            (
                "a",
                column(rows.iter().map(|row| Some(row.2)).collect()),
                true,
            ),
        ])
        .unwrap()
    }

    #[test]
    fn row_changes_are_recorded_and_new_rows_passed_on() {
        let mut touched = touched();
        let new = touched
            .take(&changes(&[
                (RowChange::Delete, Some((0, 70)), 0),
                (RowChange::Update, Some((1, 3)), 10),
                (RowChange::Insert, None, 20),
                (RowChange::Delete, Some((0, 70)), 0),
            ]))
            .unwrap();
        let values = numbers(&new, "a").unwrap();
        assert_eq!(values.values().as_ref(), &[10, 20]);
        let first = &touched.files[&0];
        assert!(first.all.has(70) && !first.all.has(69) && !first.all.has(700));
        assert_eq!((first.all.count, first.deleted.count), (1, 1));
        let second = &touched.files[&1];
        assert_eq!((second.all.count, second.deleted.count), (1, 0));
        assert!(touched.reservation.size() > 0);
    }

    #[test]
    fn a_row_has_one_new_value() {
        for second in [RowChange::Update, RowChange::Delete] {
            let mut touched = touched();
            let twice = [
                (RowChange::Update, Some((0, 1)), 1),
                (second, Some((0, 1)), 2),
            ];
            let error = touched.take(&changes(&twice)).unwrap_err();
            assert!(error.message().contains("the same row"), "{error}");
        }
    }

    #[test]
    fn rows_that_change_are_left_out_of_the_rest() {
        let mut touched = touched();
        touched
            .take(&changes(&[(RowChange::Delete, Some((4, 1)), 0)]))
            .unwrap();
        let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as _;
        let rows = RecordBatch::try_from_iter([
            ("a", column(vec![7, 8, 9])),
            (ROW_FILE, column(vec![4, 4, 5])),
            (ROW_NUMBER, column(vec![0, 1, 1])),
        ])
        .unwrap();
        let (kept, count) = unchanged(&rows, &touched.files).unwrap();
        assert_eq!(count, 1);
        assert_eq!(numbers(&kept, "a").unwrap().values().as_ref(), &[7, 9]);
        assert_eq!(kept.num_columns(), 1);
    }
}
