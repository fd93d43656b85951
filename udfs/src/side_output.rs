//! The side output of a task: rows that its operators give besides those of the query. They are late rows, dead letters, and
//! reports of what a scan has reached.
//!
//! A dead letter has no columns that a filter or a join could read, and a late row is not to be aggregated. So such rows go around
//! the operators in between: an operator at the top of the task puts a [`SideOutput`] into the task's context, the operators below
//! give their rows to it, and the one at the top gives them as rows of its own.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, UInt8Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::PhysicalExpr;

/// The column of side output that says which kind of row it is, as [`Disposition::code`].
pub const DISPOSITION: &str = "disposition";

/// Which kind of row a row of side output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// A row that came too late for a window.
    Late,
    /// A record that could not be used, or was to be left out.
    Dead,
    /// What a scan has reached in a partition.
    Report,
}

impl Disposition {
    /// Its value in the column [`DISPOSITION`].
    pub fn code(self) -> u8 {
        match self {
            Self::Late => 1,
            Self::Dead => 2,
            Self::Report => 3,
        }
    }
}

/// The columns of side output. Any of them may be NULL: each disposition has its own.
///
/// Of all: `disposition`. Of late rows: `topic`, `partition`, `offset`, `value`, the `watermark` that the row met, in microseconds
/// since 1970 UTC, `window_start` and `window_end`. Of dead letters: `table`, `scan`, `topic`, `partition`, `offset`, `timestamp` in
/// milliseconds since 1970 UTC, `key`, `value`, `reason`. Of reports: `table`, `partition`, in `offset` the first offset that was not
/// read, `scan`, `stream`, `start`, `keeps_time`, `watermark`, `unfinished_version`, `unfinished_watermark`, and the last record as
/// `last_offset`, `timestamp` and `last_checksum`.
pub fn side_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new(side_fields())));
    Arc::clone(&SCHEMA)
}

fn side_fields() -> Fields {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        (DISPOSITION, DataType::UInt8),
        ("table", DataType::Utf8),
        ("topic", DataType::Utf8),
        ("partition", DataType::Int32),
        ("offset", DataType::Int64),
        ("timestamp", DataType::Int64),
        ("key", DataType::Binary),
        ("value", DataType::Binary),
        ("reason", DataType::Utf8),
        ("watermark", DataType::Int64),
        ("window_start", time()),
        ("window_end", time()),
        ("scan", DataType::Int32),
        ("stream", DataType::Int32),
        ("start", DataType::Int64),
        ("keeps_time", DataType::Boolean),
        ("unfinished_version", DataType::UInt64),
        ("unfinished_watermark", DataType::Int64),
        ("last_offset", DataType::Int64),
        ("last_checksum", DataType::UInt64),
    ];
    let fields = columns.map(|(name, data_type)| Field::new(name, data_type, true));
    Fields::from(fields.to_vec())
}

/// So many rows of side output with these columns, by name; the others are NULL.
///
/// # Errors
///
/// A column that side output does not have, or that cannot be cast to its type.
pub fn side_rows(
    disposition: Disposition,
    rows: usize,
    columns: &[(&str, ArrayRef)],
) -> Result<RecordBatch> {
    let schema = side_schema();
    for (name, _) in columns {
        if schema.column_with_name(name).is_none() {
            return internal_err!("side output has no column {name}");
        }
    }
    let fields = schema.fields().iter().enumerate();
    let arrays = fields.map(|(place, field)| -> Result<ArrayRef> {
        if field.name() == DISPOSITION {
            return Ok(Arc::new(UInt8Array::from(vec![disposition.code(); rows])));
        }
        match columns.iter().find(|(name, _)| name == field.name()) {
            Some((_, column)) => Ok(cast(column, field.data_type())?),
            None => Ok(nulls(place, field.data_type(), rows)),
        }
    });
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(&schema), arrays)?)
}

/// NULL in so many rows of the column at this place. Batches of the usual size share them: each row of side output has no value in
/// most columns, and is kept until its task ends.
fn nulls(place: usize, of: &DataType, rows: usize) -> ArrayRef {
    const USUAL: usize = 8_192;
    static NULLS: LazyLock<Vec<ArrayRef>> = LazyLock::new(|| {
        let schema = side_schema();
        let fields = schema.fields().iter();
        let nulls = fields.map(|field| new_null_array(field.data_type(), USUAL));
        nulls.collect()
    });
    match NULLS.get(place) {
        Some(nulls) if rows <= USUAL => nulls.slice(0, rows),
        _ => new_null_array(of, rows),
    }
}

/// The side output of a task, an extension of the session configuration in the task's context.
#[derive(Debug, Default)]
pub struct SideOutput {
    rows: Mutex<Vec<RecordBatch>>,
    /// Records that were found to be bad, and records that were looked at, by table.
    tallies: Mutex<HashMap<String, (usize, usize)>>,
}

impl SideOutput {
    /// The side output of a task.
    ///
    /// # Errors
    ///
    /// The task has none: no operator above gives it, and what would go there would be lost (LOSS-1).
    pub fn of(context: &TaskContext) -> Result<Arc<Self>> {
        context.session_config().get_extension().ok_or_else(|| {
            internal_datafusion_err!(
                "late rows and dead letters of this plan would be lost: no operator in its task gives side output"
            )
        })
    }

    /// Gives rows of [`side_schema`].
    ///
    /// # Errors
    ///
    /// Rows in other columns.
    pub fn give(&self, rows: RecordBatch) -> Result<()> {
        if rows.schema() != side_schema() {
            return internal_err!("side output in other columns: {}", rows.schema());
        }
        lock(&self.rows).push(rows);
        Ok(())
    }

    /// Takes what was given so far.
    pub fn take(&self) -> Vec<RecordBatch> {
        std::mem::take(&mut *lock(&self.rows))
    }

    /// Adds to the records of a table that were found to be bad, and to those that were looked at; gives both sums.
    pub fn tally(&self, table: &str, bad: usize, seen: usize) -> (usize, usize) {
        let mut tallies = lock(&self.tallies);
        let tally = tallies.entry(table.to_owned()).or_default();
        tally.0 += bad;
        tally.1 += seen;
        *tally
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What side output says of a late row: columns of [`side_schema`] by name, each computed from the row.
#[derive(Debug, Clone, Default)]
pub struct LateColumns {
    columns: Vec<(String, Arc<dyn PhysicalExpr>)>,
}

impl LateColumns {
    /// These columns; expressions are over the rows of the operator's input.
    pub fn new(columns: Vec<(String, Arc<dyn PhysicalExpr>)>) -> Self {
        Self { columns }
    }

    /// The expressions.
    pub(crate) fn exprs(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.columns.iter().map(|(_, expr)| expr)
    }

    /// Late rows as rows of side output.
    pub(crate) fn side_rows(&self, late: &RecordBatch) -> Result<RecordBatch> {
        let rows = late.num_rows();
        let columns = self.columns.iter().map(|(name, expr)| {
            let column = expr.evaluate(late)?.into_array(rows)?;
            Ok((name.as_str(), column))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        side_rows(Disposition::Late, rows, &columns)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int64Array};
    use arrow::datatypes::{Int32Type, Int64Type, UInt8Type};
    use datafusion::execution::config::SessionConfig;
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    #[test]
    fn columns_that_are_not_given_are_null() {
        let partitions: ArrayRef = Arc::new(Int64Array::from(vec![3, 4]));
        let rows = side_rows(Disposition::Dead, 2, &[("partition", partitions)]).unwrap();
        assert_eq!(rows.schema(), side_schema());
        let column = |name: &str| rows.column_by_name(name).unwrap();
        assert_eq!(
            column(DISPOSITION).as_primitive::<UInt8Type>().values(),
            &[Disposition::Dead.code(); 2]
        );
        // It is cast to the type of side output.
        assert_eq!(
            column("partition").as_primitive::<Int32Type>().values(),
            &[3, 4]
        );
        assert_eq!(column("offset").null_count(), 2);
    }

    #[test]
    fn safe_1_columns_without_values_take_no_memory() {
        let rows = |count: usize| side_rows(Disposition::Late, count, &[]).unwrap();
        for count in [0, 1, 8_192, 8_193] {
            let rows = rows(count);
            for column in &rows.columns()[1..] {
                assert_eq!((column.len(), column.null_count()), (count, count));
            }
        }
        // Each has a part of the same values.
        let values = |rows: &RecordBatch| {
            let offsets = rows.column_by_name("offset").unwrap();
            offsets.as_primitive::<Int64Type>().values().as_ptr()
        };
        assert_eq!(values(&rows(8_192)), values(&rows(5)));
    }

    #[test]
    fn a_column_that_side_output_does_not_have_is_an_error() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let error = side_rows(Disposition::Late, 1, &[("parttion", column)]).unwrap_err();
        assert!(error.to_string().contains("no column parttion"), "{error}");
    }

    #[test]
    fn late_rows_have_the_requested_columns() {
        let offsets: ArrayRef = Arc::new(Int64Array::from(vec![7, 9]));
        let late = RecordBatch::try_from_iter([("o", offsets)]).unwrap();
        let offset: Arc<dyn PhysicalExpr> = Arc::new(Column::new("o", 0));
        let columns = LateColumns::new(vec![("offset".to_owned(), offset)]);
        let rows = columns.side_rows(&late).unwrap();
        let offsets = rows.column_by_name("offset").unwrap();
        assert_eq!(offsets.as_primitive::<Int64Type>().values(), &[7, 9]);
    }

    #[test]
    fn a_task_without_side_output_is_an_error() {
        let error = SideOutput::of(&TaskContext::default()).unwrap_err();
        assert!(error.to_string().contains("would be lost"), "{error}");
        let output = Arc::new(SideOutput::default());
        let config = SessionConfig::new().with_extension(Arc::clone(&output));
        let context = TaskContext::default().with_session_config(config);
        let of_task = SideOutput::of(&context).unwrap();
        of_task
            .give(side_rows(Disposition::Late, 1, &[]).unwrap())
            .unwrap();
        assert_eq!(output.take().len(), 1);
        assert!(output.take().is_empty(), "it was taken");
    }

    #[test]
    fn tallies_are_kept_by_table() {
        let output = SideOutput::default();
        assert_eq!(output.tally("a", 1, 10), (1, 10));
        assert_eq!(output.tally("b", 0, 5), (0, 5));
        assert_eq!(output.tally("a", 2, 1), (3, 11));
    }
}
