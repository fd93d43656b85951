//! The rows of a chunk against the rows that the sink shows: what differs, what the run writes, and the file that keeps both.
//!
//! The file of a chunk has the rows that differ, of the sink and of the run, in the columns that are compared: to be shown, to be compared
//! with the sink again before a plan is applied, and to be compared with what the run writes then.

use std::collections::{BTreeSet, HashMap};
use std::io::Cursor;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, StructArray, UInt64Array,
    new_null_array,
};
use datafusion::arrow::compute::{
    and, cast, concat_batches, filter_record_batch, is_not_null, take_record_batch,
};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::ipc::writer::FileWriter;

use crate::core::jobs::ChangeCounts;
use crate::core::runs::difference::changes::{AFTER, BEFORE, END, KEYS, START};
use crate::core::runs::result_columns::{BothRows, GivenAgain};
use crate::core::runs::{
    ChangeKind, Chunk, ComparedRow, Comparison, Difference, FloatTolerance, Grouping,
    ResultColumns, ResultTimes, RunOptions, TimeRange,
};
use crate::error::{Error, Result};
use crate::runtime::runs::published::{PublishedPast, PublishedRows, no_key};
use crate::runtime::sinks::published::{schema_of, value_columns};
use crate::streaming::JobQuery;

/// Compares rows of a run with rows of its sink.
#[derive(Debug)]
pub struct SinkComparison {
    schema: SchemaRef,
    columns: ResultColumns,
    grouping: Grouping,
    difference: Difference,
    /// The columns that are kept of rows that differ: those of the key, of values and of times.
    kept: BTreeSet<usize>,
}

/// A chunk whose rows were compared.
#[derive(Debug, Clone)]
pub struct ComparedRows {
    /// Its rows by kind.
    pub counts: ChangeCounts,
    /// The rows that the run writes, in the order of their keys.
    pub rows: RecordBatch,
    /// The rows for whose keys it writes tombstones, which come first; none if there are none.
    pub withdrawn: Option<RecordBatch>,
    /// The rows that differ ([`Difference::changes`]).
    pub changes: RecordBatch,
}

impl SinkComparison {
    /// Of a query and its sink. `start` and `end` are the columns of the sink that are the times of results, by lineage.
    ///
    /// # Errors
    ///
    /// The sink has no key, or does not answer; a type of a key that cannot be compared.
    pub async fn of_query(
        query: &JobQuery,
        (start, end): (Option<&str>, Option<&str>),
        grouping: Grouping,
    ) -> Result<Self> {
        let keys = query.sink().primary_key().to_vec();
        if keys.is_empty() {
            return Err(no_key(query.sink_name().unwrap_or("the sink")));
        }
        let schema = schema_of(query.sink()).await?;
        let values = value_columns(query.sink(), &schema).await?;
        let columns = ResultColumns::named(&schema, keys, start, end);
        Self::try_new(schema, columns, &values, grouping)
    }

    /// Of rows of `schema`. They are the same if they agree in the columns `values`.
    ///
    /// # Errors
    ///
    /// A column that the schema does not have; a type of a key that cannot be compared.
    pub fn try_new(
        schema: SchemaRef,
        columns: ResultColumns,
        values: &[usize],
        grouping: Grouping,
    ) -> Result<Self> {
        let (start, end) = (&columns.start, &columns.end);
        let kept = columns.keys.iter().chain(values).chain(start).chain(end);
        let kept = kept.copied().collect();
        let values = values.iter().copied();
        let values = values.filter(|at| !columns.keys.contains(at)).collect();
        let keys = columns.keys.clone();
        let tolerance = FloatTolerance::default();
        let difference = Difference::try_new(Arc::clone(&schema), keys, values, tolerance);
        Ok(Self {
            schema,
            columns,
            grouping,
            difference: difference.map_err(internal)?,
            kept,
        })
    }

    /// The column of the sink with the time by which an index of published rows knows a result ([`ResultColumns::known_by`]).
    pub fn known_by(&self) -> Option<(usize, i64)> {
        self.columns.known_by(self.grouping)
    }

    /// The times by which an index of published rows knows these results of a chunk over `range`, and those that were published in their
    /// place.
    ///
    /// # Errors
    ///
    /// A time that is out of range.
    pub fn ends_of(
        &self,
        results: &RecordBatch,
        range: Option<TimeRange>,
    ) -> Result<RangeInclusive<i64>> {
        let results = as_schema(results, &self.schema)?;
        Ok(self.times(&results)?.ends_of(range))
    }

    fn times(&self, rows: &RecordBatch) -> Result<ResultTimes> {
        self.columns.times(rows, self.grouping).map_err(internal)
    }

    /// Compares the rows of a chunk with those of the sink, which are those of [`Self::ends_of`]. If there is a `plan`, nothing is gone that
    /// is not gone by it: the plan has found which rows the run may remove, and by now the log of the job may no longer say it.
    ///
    /// # Errors
    ///
    /// Rows of other columns than the sink has; a type that cannot be compared; the sink says something else for a key than it did when the
    /// plan was made, unless the run may overwrite it.
    pub fn compare(
        &self,
        computed: &RecordBatch,
        (past, published): (&PublishedPast, &PublishedRows),
        again: GivenAgain<'_>,
        (options, plan): (RunOptions, Option<&PlannedRows>),
    ) -> Result<ComparedRows> {
        let computed = as_schema(computed, &self.schema)?;
        let rows = as_schema(&published.rows, &self.schema)?;
        let is_readable = self.readable(&computed, (past, published), again.chunk)?;
        let difference = &self.difference;
        let found = difference.compare(&rows, &computed, &is_readable);
        let mut found = found.map_err(internal)?;
        let both = BothRows {
            published: &rows,
            computed: &computed,
        };
        let gone = self.columns.gone(both, again, self.grouping, &found.gone);
        found.gone = gone.map_err(internal)?;
        let settled = published.settled as u64;
        match plan {
            None => found.gone.retain(|at| *at < settled),
            Some(plan) => {
                // Chunks of offsets come one after the other, and a later one may have a row with the key of an earlier one.
                let own = match again.chunk {
                    Some(_) => 0,
                    None => settled,
                };
                let moved = self.keep_to(plan, &mut found, both, (settled, own))?;
                if moved > 0 && !options.overwrite {
                    return Err(moved_since(moved));
                }
            }
        }
        let emitted = found.emitted(options.emit, options.withdraw);
        let changes = difference.changes(&found, &rows, &computed);
        let withdrawn = taken(&rows, &emitted.withdrawn)?;
        Ok(ComparedRows {
            counts: found.counts(),
            rows: taken(&computed, &emitted.rows)?,
            withdrawn: (withdrawn.num_rows() > 0).then_some(withdrawn),
            changes: changes.map_err(internal)?,
        })
    }

    /// What the files of chunks say that a plan has compared. `is_whole`: the last rows of all keys that they do not have were the same.
    ///
    /// # Errors
    ///
    /// A file is not whole, or has other columns than the sink.
    pub fn planned(&self, kept: &[KeptChanges], is_whole: bool) -> Result<PlannedRows> {
        let joined = |part: fn(&KeptChanges) -> Result<RecordBatch>| -> Result<RecordBatch> {
            let schema = nullable(&self.schema);
            let mut parts = vec![RecordBatch::new_empty(Arc::clone(&schema))];
            for kept in kept {
                parts.push(self.in_sink_columns(&part(kept)?)?);
            }
            concat_batches(&schema, &parts).map_err(internal)
        };
        Ok(PlannedRows {
            changed: joined(KeptChanges::changed)?,
            new: joined(KeptChanges::unpublished)?,
            gone: joined(KeptChanges::gone)?,
            is_whole,
        })
    }

    /// Keeps of the gone rows those that the plan has as gone. Counts the keys for which the sink has another row than it had when the plan was
    /// made: a row that was the same then counts if it differs now; a gone one counts if it is one of the first `settled` rows. The first
    /// `own` rows of the sink are those that the run has written itself, and do not count.
    fn keep_to(
        &self,
        plan: &PlannedRows,
        found: &mut Comparison,
        rows: BothRows<'_>,
        (settled, own): (u64, u64),
    ) -> Result<u64> {
        let of_kind = |kind: ChangeKind| found.rows.iter().filter(move |row| row.kind == kind);
        let changed = of_kind(ChangeKind::Changed).filter_map(|row| row.published);
        let changed = changed.filter(|at| *at >= own);
        let changed = UInt64Array::from(changed.collect::<Vec<u64>>());
        let changed = taken(rows.published, &changed)?;
        let was_new = self.against(&plan.new, &changed)?;
        let changed = self.against(&plan.changed, &changed)?;
        let others = changed.iter().zip(&was_new).filter(|(row, was_new)| {
            let is_planned = row.published.is_some() || was_new.published.is_some();
            row.kind != ChangeKind::Same && (plan.is_whole || is_planned)
        });
        let new = of_kind(ChangeKind::New).map(|row| row.computed);
        let new = UInt64Array::from(new.collect::<Vec<u64>>());
        let new = taken(rows.computed, &new)?;
        let had_row = self.against(&plan.changed, &new)?;
        let new = self.against(&plan.new, &new)?;
        let unplanned = new.iter().zip(&had_row).filter(|(row, had_row)| {
            row.published.is_none() && (plan.is_whole || had_row.published.is_some())
        });
        let was_gone = UInt64Array::from(found.gone.clone());
        let was_gone = self.against(&plan.gone, &taken(rows.published, &was_gone)?)?;
        let of_kind = |kind: ChangeKind| was_gone.iter().filter(move |row| row.kind == kind);
        let place = |row: &ComparedRow| {
            let at = usize::try_from(row.computed).ok()?;
            found.gone.get(at).copied()
        };
        let again = of_kind(ChangeKind::Changed).filter_map(place);
        let again = again.filter(|at| *at < settled);
        let moved = others.count() + unplanned.count() + again.count();
        let gone: Vec<u64> = of_kind(ChangeKind::Same).filter_map(place).collect();
        found.gone = gone;
        Ok(moved as u64)
    }

    /// Compares rows of different keys with those of a plan.
    fn against(&self, plan: &RecordBatch, rows: &RecordBatch) -> Result<Vec<ComparedRow>> {
        let is_readable = BooleanArray::from(vec![true; rows.num_rows()]);
        let found = self.difference.compare(plan, rows, &is_readable);
        Ok(found.map_err(internal)?.rows)
    }

    /// Of each computed row, whether the sink has all that was published where it belongs.
    fn readable(
        &self,
        computed: &RecordBatch,
        (past, published): (&PublishedPast, &PublishedRows),
        chunk: Option<&Chunk>,
    ) -> Result<BooleanArray> {
        let times = self.times(computed)?;
        let count = computed.num_rows();
        let all = times.ends_of(chunk.map(|chunk| chunk.range));
        if past.is_readable(published, &all) {
            return Ok(BooleanArray::from(vec![true; count]));
        }
        let mut known: HashMap<i64, bool> = HashMap::new();
        let is_readable = (0..count).map(|row| {
            let end = times.known_by(row);
            end.is_some_and(|end| {
                let of_end = known.entry(end);
                *of_end.or_insert_with(|| past.is_readable(published, &(end..=end)))
            })
        });
        Ok(is_readable.collect::<Vec<bool>>().into())
    }

    /// The file of the rows of a chunk that differ.
    ///
    /// # Errors
    ///
    /// Types that a file cannot have.
    pub fn file(&self, compared: &ComparedRows) -> Result<Vec<u8>> {
        let of = &compared.changes;
        let place = |column: usize| self.kept.iter().position(|kept| *kept == column);
        let keys = self.columns.keys.iter();
        let keys: Vec<String> = keys
            .filter_map(|at| place(*at).map(|at| at.to_string()))
            .collect();
        let mut metadata = HashMap::from([(KEYS.to_owned(), keys.join(","))]);
        for (name, column) in [(START, self.columns.start), (END, self.columns.end)] {
            metadata.extend(
                column
                    .and_then(place)
                    .map(|at| (name.to_owned(), at.to_string())),
            );
        }
        let write = || -> Result<Vec<u8>, ArrowError> {
            let columns = of.columns().iter().map(|column| self.kept_columns(column));
            let columns = columns.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
            let schema = of.schema();
            let fields = schema.fields().iter().zip(&columns).map(|(field, column)| {
                let field = field.as_ref().clone();
                field.with_data_type(column.data_type().clone())
            });
            let fields: Vec<Field> = fields.collect();
            let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
            let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
            let mut writer = FileWriter::try_new(Vec::new(), &schema)?;
            writer.write(&rows)?;
            writer.into_inner()
        };
        write().map_err(internal)
    }

    /// A column of changes as it is kept: rows without the columns that are not compared.
    fn kept_columns(&self, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let Some(rows) = column.as_struct_opt() else {
            return Ok(Arc::clone(column));
        };
        let of_row = rows.fields().iter().zip(rows.columns()).zip(0..);
        let kept = of_row.filter(|(_, at)| self.kept.contains(at));
        let (fields, columns): (Vec<_>, Vec<_>) = kept
            .map(|((field, column), _)| (Arc::clone(field), Arc::clone(column)))
            .unzip();
        let nulls = rows.nulls().cloned();
        let rows = StructArray::try_new_with_length(fields.into(), columns, nulls, rows.len())?;
        Ok(Arc::new(rows))
    }

    /// Rows of a file in the columns of the sink; columns that a file does not keep are NULL. Earlier files have all columns.
    ///
    /// # Errors
    ///
    /// The file lacks a column that is compared, or has one that the sink does not have.
    pub fn in_sink_columns(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let of_file = rows.schema();
        let mut names = of_file.fields().iter().map(|field| field.name());
        if let Some(name) = names.find(|name| self.schema.index_of(name).is_err()) {
            return Err(not_kept(&format!("the sink has no column {name}")));
        }
        let columns = self.schema.fields().iter().zip(0..);
        let columns = columns.map(|(field, at)| match rows.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type()).map_err(internal),
            None if self.kept.contains(&at) => {
                Err(not_kept(&format!("it has no column {}", field.name())))
            }
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        RecordBatch::try_new(nullable(&self.schema), columns).map_err(internal)
    }

    /// How many of the keys of kept rows the sink says something else of than it did when they were compared; `now` are the rows of the sink
    /// that [`KeptChanges::results`] are to be found among.
    ///
    /// # Errors
    ///
    /// The rows have other columns.
    pub fn moved(&self, kept: &KeptChanges, now: &RecordBatch) -> Result<u64> {
        let now = as_schema(now, &self.schema)?;
        let published = self.against(&now, &self.in_sink_columns(&kept.published()?)?)?;
        let others = published.iter().filter(|row| row.kind != ChangeKind::Same);
        let added = self.against(&now, &self.in_sink_columns(&kept.unpublished()?)?)?;
        let appeared = added.iter().filter(|row| row.published.is_some());
        Ok((others.count() + appeared.count()) as u64)
    }
}

/// What a plan says of a part of a run.
#[derive(Debug, Clone)]
pub struct PlannedRows {
    /// The rows of the sink in whose place the run has others.
    changed: RecordBatch,
    /// The rows of the run whose keys the sink did not have.
    new: RecordBatch,
    /// The rows of the sink that are gone.
    gone: RecordBatch,
    /// Rows with all other keys were the same.
    is_whole: bool,
}

impl PlannedRows {
    /// The bytes that it takes.
    pub fn size(&self) -> usize {
        let parts = [&self.changed, &self.new, &self.gone];
        let sizes = parts.map(RecordBatch::get_array_memory_size);
        sizes.iter().sum()
    }
}

/// The rows of a chunk that differ, as they are kept.
#[derive(Debug, Clone)]
pub struct KeptChanges {
    changes: RecordBatch,
}

impl KeptChanges {
    /// Of the bytes of a file.
    ///
    /// # Errors
    ///
    /// They are not those of such a file.
    pub fn read(bytes: &Bytes) -> Result<Self> {
        let read = || -> Result<RecordBatch, ArrowError> {
            let reader = FileReader::try_new(Cursor::new(bytes), None)?;
            let schema = reader.schema();
            let batches = reader.collect::<Result<Vec<_>, ArrowError>>()?;
            concat_batches(&schema, &batches)
        };
        let kept = Self {
            changes: read().map_err(|error| not_kept(&error))?,
        };
        kept.rows_of(BEFORE)?;
        kept.rows_of(AFTER)?;
        Ok(kept)
    }

    /// All results that are kept, of the run and of the sink.
    ///
    /// # Errors
    ///
    /// The file is not whole.
    pub fn results(&self) -> Result<RecordBatch> {
        let computed = filtered(&self.rows_of(AFTER)?, &self.has(AFTER)?)?;
        concat_batches(&computed.schema(), [&computed, &self.published()?]).map_err(internal)
    }

    /// The rows that the sink had.
    fn published(&self) -> Result<RecordBatch> {
        filtered(&self.rows_of(BEFORE)?, &self.has(BEFORE)?)
    }

    /// The rows that the sink had, and that the run has in another form.
    fn changed(&self) -> Result<RecordBatch> {
        let both = and(&self.has(BEFORE)?, &self.has(AFTER)?).map_err(internal)?;
        filtered(&self.rows_of(BEFORE)?, &both)
    }

    /// The rows that the sink had, and that the run does not have.
    fn gone(&self) -> Result<RecordBatch> {
        filtered(&self.rows_of(BEFORE)?, &not(&self.has(AFTER)?))
    }

    /// The rows whose keys the sink did not have.
    fn unpublished(&self) -> Result<RecordBatch> {
        filtered(&self.rows_of(AFTER)?, &not(&self.has(BEFORE)?))
    }

    fn column(&self, name: &str) -> Result<ArrayRef> {
        let column = self.changes.column_by_name(name);
        column
            .map(Arc::clone)
            .ok_or_else(|| not_kept(&format!("it has no column {name}")))
    }

    /// The rows of the sink or of the run, all NULL where there is none.
    fn rows_of(&self, name: &str) -> Result<RecordBatch> {
        let column = self.column(name)?;
        let rows = column.as_struct_opt();
        let rows = rows.ok_or_else(|| not_kept(&format!("column {name} has no rows")))?;
        let schema = Arc::new(Schema::new(rows.fields().clone()));
        RecordBatch::try_new(schema, rows.columns().to_vec()).map_err(internal)
    }

    /// Where there is a row of the sink, or of the run.
    fn has(&self, name: &str) -> Result<BooleanArray> {
        is_not_null(&self.column(name)?).map_err(internal)
    }
}

/// The columns of rows as those of `schema`, by position.
fn as_schema(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if rows.num_columns() != schema.fields().len() {
        return Err(Error::internal(format!(
            "rows of {} were compared as rows of {schema}",
            rows.schema()
        )));
    }
    let nullable = nullable(schema);
    let columns = rows.columns().iter().zip(nullable.fields());
    let columns: Result<Vec<ArrayRef>, ArrowError> = columns
        .map(|(column, field)| cast(column, field.data_type()))
        .collect();
    RecordBatch::try_new(nullable, columns.map_err(internal)?).map_err(internal)
}

/// The same columns, all of which may be NULL.
fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

fn taken(rows: &RecordBatch, at: &UInt64Array) -> Result<RecordBatch> {
    take_record_batch(rows, at).map_err(internal)
}

fn filtered(rows: &RecordBatch, by: &BooleanArray) -> Result<RecordBatch> {
    filter_record_batch(rows, by).map_err(internal)
}

/// The opposite of marks without NULL.
fn not(marks: &BooleanArray) -> BooleanArray {
    BooleanArray::new(!marks.values(), None)
}

/// The error for rows that differ now and did not when the run was planned.
fn moved_since(keys: u64) -> Error {
    Error::invalid(format!(
        "the plan does not show {keys} of the rows that the run would change now: the sink has changed since, or a table without versions \
         that the run joins"
    ))
    .with_help("plan it again with another 'run_id'")
    .without_row()
}

fn not_kept(reason: &dyn std::fmt::Display) -> Error {
    Error::data(format!(
        "the rows that a run would change cannot be read: {reason}"
    ))
    .with_help("plan the run again under another run_id")
}

fn internal(error: ArrowError) -> Error {
    Error::internal(error.to_string())
}

#[cfg(test)]
#[path = "comparison_tests.rs"]
mod tests;
