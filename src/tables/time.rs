//! Event time of a stream's rows in a job: its declaration, and the hidden column with which each row carries its place
//! and watermark from the scan to later operators.
//!
//! The order of rows is known only where they are read: the sources fill the column there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{
    ArrayRef, AsArray, Int32Array, Int64Array, StructArray, TimestampMicrosecondArray,
    new_null_array,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, TimestampMicrosecondType};

use crate::core::jobs::{PartitionTime, RowWatermark, RunningWatermark, WatermarkPolicy};
use crate::error::{Error, Result, Subject};

/// The start of a row's window, also if the query does not select it.
pub(crate) const HIDDEN_START: &str = "__window_start";
/// The end of a row's window.
pub(crate) const HIDDEN_END: &str = "__window_end";

/// The hidden column.
pub const ROW_COLUMN: &str = "__row";
/// In it: the watermark that the row met, in microseconds; the lowest number where there was none.
pub const ROW_WATERMARK: &str = "watermark";

/// In it: the number that tells rows with the same offset apart.
pub const ROW_IN_FILE: &str = "row";

/// The hidden column of the partition of a row, where a run reads it.
pub const PARTITION_COLUMN: &str = "__partition";
/// The hidden column of the offset of a row, where a run reads it.
pub const OFFSET_COLUMN: &str = "__offset";

/// `WATERMARK FOR column AS column - delay`, with the options about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTime {
    /// The event time column.
    pub column: String,
    /// The watermark's expression, as SQL.
    pub expr: String,
    /// How far the watermark is behind the highest event time, in microseconds.
    pub delay: i64,
    /// Which partition holds the job.
    pub policy: WatermarkPolicy,
    /// After this long without a row a partition no longer holds the watermark back.
    pub idle_after: Duration,
    /// Rows further past their record's timestamp than this, or past the time their file was written, are dead letters.
    pub max_ahead: Duration,
}

/// Time in one batch of a job, over the partitions of one table: what its scans need to know before they begin.
#[derive(Debug)]
pub struct BatchTime {
    /// Per partition: the watermark that its rows meet, and its time before.
    rules: BTreeMap<i32, (RowWatermark, PartitionTime)>,
    is_kept: bool,
}

impl BatchTime {
    /// Time for partitions with these rules: the watermark that their rows meet, and their time before the batch.
    pub fn new(rules: BTreeMap<i32, (RowWatermark, PartitionTime)>) -> Self {
        Self {
            rules,
            is_kept: true,
        }
    }

    /// No time: rows meet no watermark, also if the table declares one; only their places are kept.
    pub fn without_time() -> Self {
        Self {
            is_kept: false,
            ..Self::default()
        }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The watermark of a partition before its first row, for rows that are `delay` microseconds ahead of it.
    pub(crate) fn running(&self, partition: i32, delay: i64) -> RunningWatermark {
        let (rule, before) = self.rule(partition);
        RunningWatermark::new(rule, before.watermark, delay)
    }

    /// The watermark that the rows of a partition meet, and its time before the batch.
    pub(crate) fn rule(&self, partition: i32) -> (RowWatermark, PartitionTime) {
        let unknown = (RowWatermark::From(None), PartitionTime::default());
        self.rules.get(&partition).copied().unwrap_or(unknown)
    }
}

impl Default for BatchTime {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

/// The hidden column's definition.
pub(crate) fn row_field() -> Field {
    Field::new(ROW_COLUMN, DataType::Struct(row_fields()), false)
}

fn row_fields() -> Fields {
    Fields::from(vec![
        Field::new(ROW_WATERMARK, DataType::Int64, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        // Where rows of a file have one offset, the number of the row in the file.
        Field::new(ROW_IN_FILE, DataType::Int64, false),
        // For rows that may be late, which are those behind the watermark.
        Field::new("topic", DataType::Utf8, true),
        Field::new("value", DataType::Binary, true),
    ])
}

/// The hidden column of rows of one partition: per row its offset, its number in a file if offsets are of files, and the
/// watermark that it met; and of rows that may be late, topic and value.
pub(crate) fn row_column(
    partition: i32,
    offsets: Int64Array,
    rows: Option<Int64Array>,
    watermarks: Vec<i64>,
    [topics, values]: [ArrayRef; 2],
) -> Result<ArrayRef> {
    let count = offsets.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(watermarks)),
        Arc::new(Int32Array::from(vec![partition; count])),
        Arc::new(offsets),
        Arc::new(rows.unwrap_or_else(|| Int64Array::from(vec![0; count]))),
        topics,
        values,
    ];
    let rows = StructArray::try_new(row_fields(), columns, None)
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(Arc::new(rows))
}

/// Topic and value of rows of which none is late.
pub(crate) fn in_time(count: usize) -> [ArrayRef; 2] {
    [DataType::Utf8, DataType::Binary].map(|of| new_null_array(&of, count))
}

/// How event times come: the only form that jobs compute with.
pub(crate) fn event_times(column: &ArrayRef) -> Result<&TimestampMicrosecondArray> {
    let times = column.as_primitive_opt::<TimestampMicrosecondType>();
    times.ok_or_else(|| Error::internal("an event time in another unit"))
}

/// The latest event time of a row whose record was written at `written`, in milliseconds since 1970 UTC (TIME-5).
pub(crate) fn latest_event_time(event_time: &EventTime, written: i64) -> Option<i64> {
    let ahead = i64::try_from(event_time.max_ahead.as_micros()).unwrap_or(i64::MAX);
    written.checked_mul(1_000)?.checked_add(ahead)
}

/// Why a row without an event time is set aside (NULL-1).
pub(crate) fn null_time(event_time: &EventTime) -> String {
    format!("the event time {} is NULL", event_time.column)
}

/// Why a row of a time far in the future is set aside.
pub(crate) fn far_future(event_time: &EventTime, written: &str) -> String {
    format!(
        "the event time {} is more than {} seconds past {written}",
        event_time.column,
        event_time.max_ahead.as_secs()
    )
}

/// The column that a `WATERMARK FOR` names must be a time.
pub(crate) fn check_event_time(schema: &Schema, column: &str) -> Result<()> {
    match schema.field_with_name(column) {
        Ok(field) if matches!(field.data_type(), DataType::Timestamp(..)) => Ok(()),
        Ok(_) => Err(
            Error::invalid(format!("WATERMARK needs a TIMESTAMP, and {column} is none"))
                .about(Subject::column(column)),
        ),
        Err(_) => Err(
            Error::invalid(format!("WATERMARK names {column}, which is not a column"))
                .about(Subject::column(column)),
        ),
    }
}
