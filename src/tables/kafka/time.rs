//! Event time of a topic's rows in a job (TIME-1, TIME-5): computes the watermark that each row meets, where rows are
//! read.
//!
//! Only here are rows still in the order of their partition.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BinaryBuilder, Int64Array, StringBuilder, TimestampMicrosecondArray,
};

use crate::core::jobs::{PartitionTimes, RunningWatermark};
use crate::error::Result;
use crate::formats::BadRow;
use crate::tables::kafka::definition::KafkaTable;
use crate::tables::kafka::fetcher::Record;
use crate::tables::time::{
    BatchTime, EventTime, event_times, far_future, in_time, latest_event_time, null_time,
    row_column,
};

/// Which rows a job that keeps time sets aside by their event time (NULL-1, TIME-5).
pub(crate) struct TimeRule {
    event_time: EventTime,
}

impl TimeRule {
    /// That of a table with an event time.
    pub(crate) fn of(table: &KafkaTable) -> Option<Self> {
        let event_time = table.event_time()?.clone();
        Some(Self { event_time })
    }

    /// Adds rows without a time of this world to `bad`.
    pub(crate) fn check(
        &self,
        messages: &[impl Record],
        column: &ArrayRef,
        bad: &mut Vec<BadRow>,
    ) -> Result<()> {
        let times = event_times(column)?;
        let known: Vec<usize> = bad.iter().map(|row| row.row).collect();
        let faults = messages.iter().enumerate().filter_map(|(row, message)| {
            let is_known = known.binary_search(&row).is_ok();
            self.fault(message, times, row).filter(|_| !is_known)
        });
        bad.extend(faults.collect::<Vec<_>>());
        bad.sort_unstable_by_key(|row| row.row);
        Ok(())
    }

    /// Why a row has no time of this world, if it has none.
    fn fault(
        &self,
        message: &impl Record,
        times: &TimestampMicrosecondArray,
        row: usize,
    ) -> Option<BadRow> {
        let reason = match times.is_null(row) {
            true => null_time(&self.event_time),
            false => self.far_future(message, times.value(row))?,
        };
        Some(BadRow {
            row,
            reason,
            column: Some(self.event_time.column.clone()),
        })
    }

    fn far_future(&self, message: &impl Record, event_time: i64) -> Option<String> {
        let limit = latest_event_time(&self.event_time, message.timestamp().to_millis()?)?;
        (event_time > limit).then(|| far_future(&self.event_time, "the record's timestamp"))
    }
}

/// The time of one partition while it is read.
pub(crate) struct PartitionTimer {
    partition: i32,
    running: RunningWatermark,
    rule: TimeRule,
}

impl PartitionTimer {
    /// Of a partition of `table`, if the table has an event time and the batch keeps it.
    pub(crate) fn of(table: &KafkaTable, time: Option<&BatchTime>, partition: i32) -> Option<Self> {
        let time = time.filter(|time| time.is_kept())?;
        let rule = TimeRule::of(table)?;
        Some(Self {
            partition,
            running: time.running(partition, rule.event_time.delay),
            rule,
        })
    }

    /// Lets rows pass: gives the hidden column, and adds rows without a time of this world to `bad`.
    pub(crate) fn pass(
        &mut self,
        messages: &[impl Record],
        column: &ArrayRef,
        bad: &mut Vec<BadRow>,
    ) -> Result<ArrayRef> {
        let times = event_times(column)?;
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
            if let Some(fault) = self.rule.fault(message, times, row) {
                bad.push(fault);
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
        row_column(self.partition, offsets(messages), None, watermarks, late)
    }

    /// What the partition has reached with the rows that have passed.
    pub(crate) fn reached(&self) -> PartitionTimes {
        self.running.reached().into()
    }
}

/// The hidden column of rows that meet no watermark.
pub(crate) fn untimed(partition: i32, messages: &[impl Record]) -> Result<ArrayRef> {
    let count = messages.len();
    let watermarks = vec![i64::MIN; count];
    row_column(
        partition,
        offsets(messages),
        None,
        watermarks,
        in_time(count),
    )
}

fn offsets(messages: &[impl Record]) -> Int64Array {
    Int64Array::from_iter_values(messages.iter().map(Record::offset))
}
