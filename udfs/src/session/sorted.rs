//! Cutting of sessions from rows that come in the order of key and event time.
//!
//! The end of a session is known with its last row, so the operator holds the rows of the current session, with their memory
//! reserved; all others pass.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::buffer::ScalarBuffer;
use arrow::compute::partition;
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt, stream};

use super::exec::{SessionMetrics, SessionRule};
use super::joins;
use crate::diagnostic::{out_of_range, refuse_null_event_times};
use crate::window::{ticks, timestamps};

/// The input with the session columns appended, in the input's order.
pub(super) fn stream(
    rule: SessionRule,
    input: SendableRecordBatchStream,
    context: &TaskContext,
    partition: usize,
    metrics: SessionMetrics,
) -> Result<SendableRecordBatchStream> {
    let reservation =
        MemoryConsumer::new(format!("SessionExec[{partition}]")).register(context.memory_pool());
    let input_schema = input.schema();
    let fields = rule
        .keys
        .iter()
        .map(|key| Ok(SortField::new(key.data_type(&input_schema)?)))
        .collect::<Result<Vec<_>>>()?;
    let schema = Arc::clone(&rule.schema);
    let cutter = SessionCutter {
        converter: RowConverter::new(fields)?,
        rule,
        open: None,
        ready: VecDeque::new(),
        reservation,
        metrics,
    };
    let output = stream::try_unfold(
        (cutter, input, false),
        |(mut cutter, mut input, ended)| async move {
            let mut ended = ended;
            loop {
                if let Some(batch) = cutter.ready.pop_front() {
                    cutter.metrics.baseline.record_output(batch.num_rows());
                    return Ok(Some((batch, (cutter, input, ended))));
                }
                if ended {
                    return Ok(None);
                }
                match input.next().await {
                    Some(batch) => cutter.push(&batch?)?,
                    None => {
                        ended = true;
                        cutter.close()?;
                    }
                }
            }
        },
    );
    Ok(Box::pin(RecordBatchStreamAdapter::new(
        schema,
        output.into_stream(),
    )))
}

struct SessionCutter {
    rule: SessionRule,
    converter: RowConverter,
    open: Option<OpenSession>,
    ready: VecDeque<RecordBatch>,
    reservation: MemoryReservation,
    metrics: SessionMetrics,
}

/// The current session, which may continue in the next batch.
struct OpenSession {
    key: Option<OwnedRow>,
    start: i64,
    last: i64,
    rows: Vec<RecordBatch>,
}

impl SessionCutter {
    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let timer = self.metrics.baseline.elapsed_compute().clone();
        let _timer = timer.timer();
        let times = self
            .rule
            .event_time
            .evaluate(batch)?
            .into_array(batch.num_rows())?;
        refuse_null_event_times(&times, &self.rule.event_time_name())?;
        let times = ticks(&times)?;
        let keys = self
            .rule
            .keys
            .iter()
            .map(|key| key.evaluate(batch)?.into_array(batch.num_rows()))
            .collect::<Result<Vec<_>>>()?;

        let starts = self.session_starts(&keys, &times)?;
        let first_start = starts.first().copied().unwrap_or(batch.num_rows());
        if first_start > 0 {
            self.continue_open(batch.slice(0, first_start), times[first_start - 1])?;
        }
        let Some(&last_start) = starts.last() else {
            return Ok(());
        };
        self.close()?;
        self.emit_whole(batch, &times, &starts)?;
        let tail = batch.slice(last_start, batch.num_rows() - last_start);
        self.reservation.try_grow(tail.get_array_memory_size())?;
        self.open = Some(OpenSession {
            key: self.key_at(&keys, batch.num_rows() - 1)?,
            start: times[last_start],
            last: times[batch.num_rows() - 1],
            rows: vec![tail],
        });
        Ok(())
    }

    /// The rows of a batch at which a session starts, ascending.
    fn session_starts(&self, keys: &[ArrayRef], times: &[i64]) -> Result<Vec<usize>> {
        let ranges = if keys.is_empty() {
            std::iter::once(0..times.len()).collect()
        } else {
            partition(keys)?.ranges()
        };
        let mut starts = Vec::new();
        for range in ranges {
            let continues = range.start == 0
                && match &self.open {
                    Some(open) => {
                        open.key == self.key_at(keys, 0)?
                            && joins(open.last, times[0], self.rule.gap)
                    }
                    None => false,
                };
            if !continues {
                starts.push(range.start);
            }
            for row in range.start + 1..range.end {
                if !joins(times[row - 1], times[row], self.rule.gap) {
                    starts.push(row);
                }
            }
        }
        Ok(starts)
    }

    fn key_at(&self, keys: &[ArrayRef], row: usize) -> Result<Option<OwnedRow>> {
        if keys.is_empty() {
            return Ok(None);
        }
        let keys: Vec<_> = keys.iter().map(|key| key.slice(row, 1)).collect();
        Ok(Some(self.converter.convert_columns(&keys)?.row(0).owned()))
    }

    fn continue_open(&mut self, rows: RecordBatch, last: i64) -> Result<()> {
        if let Some(open) = &mut self.open {
            self.reservation.try_grow(rows.get_array_memory_size())?;
            open.rows.push(rows);
            open.last = last;
        }
        Ok(())
    }

    /// Emits the current session, which has ended.
    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let end = open
            .last
            .checked_add(self.rule.gap)
            .ok_or_else(|| out_of_range(&self.rule.event_time_name()))?;
        self.metrics.sessions.add(1);
        for rows in open.rows {
            let count = rows.num_rows();
            self.emit(&rows, vec![open.start; count], vec![end; count])?;
        }
        self.reservation.free();
        Ok(())
    }

    /// Emits the sessions that start and end within the batch.
    fn emit_whole(&mut self, batch: &RecordBatch, times: &[i64], starts: &[usize]) -> Result<()> {
        let (Some(&first), Some(&last)) = (starts.first(), starts.last()) else {
            return Ok(());
        };
        if first == last {
            return Ok(());
        }
        let mut window_starts = Vec::with_capacity(last - first);
        let mut window_ends = Vec::with_capacity(last - first);
        for bounds in starts.windows(2) {
            let rows = bounds[1] - bounds[0];
            let end = times[bounds[1] - 1]
                .checked_add(self.rule.gap)
                .ok_or_else(|| out_of_range(&self.rule.event_time_name()))?;
            window_starts.extend(std::iter::repeat_n(times[bounds[0]], rows));
            window_ends.extend(std::iter::repeat_n(end, rows));
        }
        self.metrics.sessions.add(starts.len() - 1);
        self.emit(
            &batch.slice(first, last - first),
            window_starts,
            window_ends,
        )
    }

    fn emit(&mut self, rows: &RecordBatch, starts: Vec<i64>, ends: Vec<i64>) -> Result<()> {
        let data_type = self.rule.schema.field(rows.num_columns()).data_type();
        let mut columns = rows.columns().to_vec();
        columns.push(timestamps(ScalarBuffer::from(starts), data_type)?);
        columns.push(timestamps(ScalarBuffer::from(ends), data_type)?);
        self.ready.push_back(RecordBatch::try_new(
            Arc::clone(&self.rule.schema),
            columns,
        )?);
        Ok(())
    }
}
