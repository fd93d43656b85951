//! Event time of a topic's rows in a job (TIME-1, TIME-5): the watermark each row meets, known where rows are read.
//!
//! Only here are rows still in the order of their partition. What later operators need to know of a row travels with it,
//! in one hidden column.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, Int32Array, Int64Array, StringBuilder, StructArray,
    new_null_array,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, TimestampMicrosecondType};
use rdkafka::message::{BorrowedMessage, Message};

use crate::core::jobs::{RowWatermark, RunningWatermark, WatermarkPolicy};
use crate::error::{Error, Result};
use crate::exec::format::BadRow;

/// The hidden column.
pub const ROW_COLUMN: &str = "__row";
/// In it: the watermark that the row met, in microseconds; the lowest number where there was none.
pub const ROW_WATERMARK: &str = "watermark";

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
    /// After this long without a row a partition holds nobody back.
    pub idle_after: Duration,
    /// Rows further past their Kafka timestamp than this are dead letters.
    pub max_ahead: Duration,
}

/// Time in one batch of a job, over the partitions of one table.
#[derive(Debug)]
pub struct BatchTime {
    /// Per partition: what its rows meet, and what it had reached.
    rules: BTreeMap<i32, (RowWatermark, Option<i64>)>,
    reached: Mutex<BTreeMap<i32, Option<i64>>>,
    is_kept: bool,
}

impl BatchTime {
    /// Time for partitions with these rules: what their rows meet, and what they had reached.
    pub fn new(rules: BTreeMap<i32, (RowWatermark, Option<i64>)>) -> Self {
        Self {
            rules,
            reached: Mutex::default(),
            is_kept: true,
        }
    }

    /// No time: rows meet no watermark, whatever the table declares; only where they are is known.
    pub fn not_kept() -> Self {
        Self {
            is_kept: false,
            ..Self::default()
        }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// What the partitions that were read have reached.
    pub fn reached(&self) -> BTreeMap<i32, Option<i64>> {
        self.lock().clone()
    }

    /// The watermark of a partition before its first row, for rows that are `delay` microseconds ahead of it.
    pub(crate) fn running(&self, partition: i32, delay: i64) -> RunningWatermark {
        let unknown = (RowWatermark::From(None), None);
        let (rule, reached) = self.rules.get(&partition).copied().unwrap_or(unknown);
        RunningWatermark::new(rule, reached, delay)
    }

    /// All rows of a partition have passed.
    pub(crate) fn finish(&self, partition: i32, running: &RunningWatermark) {
        self.lock().insert(partition, running.reached());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Option<i64>>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Of rows that may be late: those behind the watermark.
        Field::new("topic", DataType::Utf8, true),
        Field::new("value", DataType::Binary, true),
    ])
}

/// The time of one partition while it is read.
pub(crate) struct PartitionTimer {
    partition: i32,
    running: RunningWatermark,
    max_ahead: i64,
    column: String,
    time: Arc<BatchTime>,
}

impl PartitionTimer {
    pub(crate) fn new(event_time: &EventTime, time: Arc<BatchTime>, partition: i32) -> Self {
        Self {
            partition,
            running: time.running(partition, event_time.delay),
            max_ahead: i64::try_from(event_time.max_ahead.as_micros()).unwrap_or(i64::MAX),
            column: event_time.column.clone(),
            time,
        }
    }

    /// Lets rows pass: gives the hidden column, and adds rows without a time of this world to `bad`.
    pub(crate) fn pass(
        &mut self,
        messages: &[BorrowedMessage<'_>],
        event_times: &ArrayRef,
        bad: &mut Vec<BadRow>,
    ) -> Result<ArrayRef> {
        let Some(times) = event_times.as_primitive_opt::<TimestampMicrosecondType>() else {
            return Err(Error::internal("an event time in another unit"));
        };
        let mut is_bad = vec![false; messages.len()];
        for row in bad.iter() {
            is_bad[row.row] = true;
        }
        let mut watermarks = Vec::with_capacity(messages.len());
        let (mut topics, mut values) = (StringBuilder::new(), BinaryBuilder::new());
        // Rows for which the builders have a value: they catch up with rows in time when one comes that is not.
        let mut built = 0;
        for (row, message) in messages.iter().enumerate() {
            let met = self.running.met();
            watermarks.push(met.unwrap_or(i64::MIN));
            if is_bad[row] {
                continue;
            }
            let fault = if times.is_null(row) {
                Some(format!("the event time {} is NULL", self.column))
            } else {
                self.far_future(message, times.value(row))
            };
            if let Some(reason) = fault {
                bad.push(BadRow { row, reason });
                continue;
            }
            let event_time = times.value(row);
            if met.is_some_and(|met| event_time < met) {
                topics.append_nulls(row - built);
                values.append_nulls(row - built);
                topics.append_value(message.topic());
                values.append_option(message.payload());
                built = row + 1;
            }
            self.running.pass(event_time);
        }
        topics.append_nulls(messages.len() - built);
        values.append_nulls(messages.len() - built);
        bad.sort_unstable_by_key(|row| row.row);
        let late: [ArrayRef; 2] = [Arc::new(topics.finish()), Arc::new(values.finish())];
        row_column(self.partition, messages, watermarks, late)
    }

    /// Tells the batch what the partition has reached.
    pub(crate) fn finish(&self) {
        self.time.finish(self.partition, &self.running);
    }

    fn far_future(&self, message: &BorrowedMessage<'_>, event_time: i64) -> Option<String> {
        let written = message.timestamp().to_millis()?.checked_mul(1_000)?;
        let limit = written.checked_add(self.max_ahead)?;
        (event_time > limit).then(|| {
            format!(
                "the event time {} is more than {} seconds past the record's timestamp",
                self.column,
                self.max_ahead / 1_000_000
            )
        })
    }
}

/// The hidden column of rows that meet no watermark.
pub(crate) fn untimed(partition: i32, messages: &[BorrowedMessage<'_>]) -> Result<ArrayRef> {
    let count = messages.len();
    let late = [DataType::Utf8, DataType::Binary].map(|of| new_null_array(&of, count));
    row_column(partition, messages, vec![i64::MIN; count], late)
}

fn row_column(
    partition: i32,
    messages: &[BorrowedMessage<'_>],
    watermarks: Vec<i64>,
    [topics, values]: [ArrayRef; 2],
) -> Result<ArrayRef> {
    let offsets = Int64Array::from_iter_values(messages.iter().map(Message::offset));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(watermarks)),
        Arc::new(Int32Array::from(vec![partition; messages.len()])),
        Arc::new(offsets),
        topics,
        values,
    ];
    let rows = StructArray::try_new(row_fields(), columns, None)
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(Arc::new(rows))
}
