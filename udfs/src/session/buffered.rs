//! Grouping of sessions in memory, without sorting: the operator holds batches as they come, with the key's dense id and the
//! event time of each row, and returns the rows in the order they came.
//!
//! All memory is reserved. If the pool refuses a reservation, the held and the remaining batches go through a sort that spills,
//! and are cut as sorted rows.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::Array;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, exec_datafusion_err, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt, stream};

use super::exec::{SessionMetrics, SessionRule};
use super::{sessionize, sorted};
use crate::diagnostic::{out_of_range, refuse_null_event_times};
use crate::window::{ticks, timestamps};

/// The input with the session columns appended, in the input's order unless memory ran out.
pub(super) fn stream(
    rule: SessionRule,
    input: SendableRecordBatchStream,
    context: Arc<TaskContext>,
    partition: usize,
    metrics: SessionMetrics,
) -> Result<SendableRecordBatchStream> {
    let schema = Arc::clone(&rule.schema);
    let output = stream::once(group(rule, input, context, partition, metrics)).try_flatten();
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, output)))
}

async fn group(
    rule: SessionRule,
    mut input: SendableRecordBatchStream,
    context: Arc<TaskContext>,
    partition: usize,
    metrics: SessionMetrics,
) -> Result<SendableRecordBatchStream> {
    let mut held = HeldRows::try_new(&rule, &input.schema(), &context, partition)?;
    while let Some(batch) = input.next().await {
        let batch = batch?;
        let compute = metrics.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        if !held.push(&rule, batch)? {
            metrics.sorted_partitions.add(1);
            return sort(
                rule,
                held.into_batches(),
                input,
                &context,
                partition,
                metrics,
            );
        }
    }
    drop(input);
    if !held.reserve_assignment() {
        metrics.sorted_partitions.add(1);
        let nothing = RecordBatchStreamAdapter::new(Arc::clone(&held.schema), stream::empty());
        return sort(
            rule,
            held.into_batches(),
            Box::pin(nothing),
            &context,
            partition,
            metrics,
        );
    }
    held.emit(rule, metrics)
}

/// The held rows of one partition.
struct HeldRows {
    schema: SchemaRef,
    batches: VecDeque<RecordBatch>,
    /// Event time and key id of each row, over all batches.
    times: Vec<i64>,
    key_ids: Vec<u32>,
    /// `None` without keys: all rows have id 0.
    keys: Option<Box<dyn GroupValues>>,
    ids_of_batch: Vec<usize>,
    reservation: MemoryReservation,
}

/// Bytes per row while sessions are assigned, at most: an interval, its number, the window columns.
const ASSIGNMENT_BYTES: usize = 24 + 4 + 2 * 8;
/// Bytes per row while rows are held: event time and key id, with room for a vector's growth.
const HELD_BYTES: usize = 2 * (8 + 4);

impl HeldRows {
    fn try_new(
        rule: &SessionRule,
        schema: &SchemaRef,
        context: &TaskContext,
        partition: usize,
    ) -> Result<Self> {
        let fields = rule
            .keys
            .iter()
            .enumerate()
            .map(|(index, key)| {
                Ok(Field::new(
                    format!("key_{index}"),
                    key.data_type(schema)?,
                    true,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let keys = if fields.is_empty() {
            None
        } else {
            Some(new_group_values(
                Arc::new(Schema::new(fields)),
                &GroupOrdering::None,
            )?)
        };
        let reservation = MemoryConsumer::new(format!("SessionExec[{partition}]"))
            .with_can_spill(true)
            .register(context.memory_pool());
        Ok(Self {
            schema: Arc::clone(schema),
            batches: VecDeque::new(),
            times: vec![],
            key_ids: vec![],
            keys,
            ids_of_batch: vec![],
            reservation,
        })
    }

    /// Holds a batch. Returns false if there is no memory for its rows' bookkeeping; the batch is held even then, to be passed
    /// to the sort.
    fn push(&mut self, rule: &SessionRule, batch: RecordBatch) -> Result<bool> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(true);
        }
        let times = rule.event_time.evaluate(&batch)?.into_array(rows)?;
        refuse_null_event_times(&times, &rule.event_time_name())?;
        let known = self.keys.as_ref().map_or(0, |keys| keys.len());
        let wanted = batch.get_array_memory_size() + rows * HELD_BYTES;
        // Row numbers are 32 bits wide in the assignment.
        let fits = u32::try_from(self.times.len() + rows).is_ok();
        if !fits || self.reservation.try_grow(wanted).is_err() {
            self.batches.push_back(batch);
            return Ok(false);
        }
        let columns = rule
            .keys
            .iter()
            .map(|key| key.evaluate(&batch)?.into_array(rows))
            .collect::<Result<Vec<_>>>()?;
        self.batches.push_back(batch);
        self.times.extend_from_slice(&ticks(&times)?);
        match &mut self.keys {
            None => self.key_ids.resize(self.times.len(), 0),
            Some(keys) => {
                let before = if known == 0 { 0 } else { keys.size() };
                keys.intern(&columns, &mut self.ids_of_batch)?;
                for id in &self.ids_of_batch {
                    self.key_ids.push(
                        u32::try_from(*id).map_err(|_| exec_datafusion_err!("too many keys"))?,
                    );
                }
                if keys.len() > known {
                    let grown = keys.size().saturating_sub(before);
                    return Ok(self.reservation.try_grow(grown).is_ok());
                }
            }
        }
        Ok(true)
    }

    fn reserve_assignment(&self) -> bool {
        let keys = self.keys.as_ref().map_or(1, |keys| keys.len());
        let wanted = self.times.len() * ASSIGNMENT_BYTES + 2 * 8 * (keys + 1);
        self.reservation.try_grow(wanted).is_ok()
    }

    /// The batches alone, in the order they came; the reservation for the other data is released.
    fn into_batches(self) -> VecDeque<RecordBatch> {
        self.batches
    }

    fn emit(self, rule: SessionRule, metrics: SessionMetrics) -> Result<SendableRecordBatchStream> {
        let Self {
            mut batches,
            times,
            key_ids,
            keys,
            reservation,
            schema,
            ..
        } = self;
        let timer = metrics.baseline.elapsed_compute().clone();
        let timer = timer.timer();
        let key_count = keys.map_or(1, |keys| keys.len());
        let (starts, ends, sessions) = sessionize(&times, &key_ids, key_count, rule.gap)
            .ok_or_else(|| out_of_range(&rule.event_time_name()))?;
        drop((times, key_ids, timer));
        metrics.sessions.add(sessions);
        let data_type = rule.schema.field(schema.fields().len()).data_type();
        let starts = timestamps(ScalarBuffer::from(starts), data_type)?;
        let ends = timestamps(ScalarBuffer::from(ends), data_type)?;
        let output_schema = Arc::clone(&rule.schema);
        let mut row = 0;
        let output = stream::iter(std::iter::from_fn(move || {
            let batch = batches.pop_front()?;
            let rows = batch.num_rows();
            let mut columns = batch.columns().to_vec();
            columns.push(starts.slice(row, rows));
            columns.push(ends.slice(row, rows));
            row += rows;
            reservation.shrink(batch.get_array_memory_size().min(reservation.size()));
            metrics.baseline.record_output(rows);
            Some(RecordBatch::try_new(Arc::clone(&output_schema), columns).map_err(Into::into))
        }));
        Ok(Box::pin(RecordBatchStreamAdapter::new(rule.schema, output)))
    }
}

/// Sorts `held`, then the rest of `input`, by keys and event time, spilling as needed, and cuts.
fn sort(
    rule: SessionRule,
    held: VecDeque<RecordBatch>,
    input: SendableRecordBatchStream,
    context: &Arc<TaskContext>,
    partition: usize,
    metrics: SessionMetrics,
) -> Result<SendableRecordBatchStream> {
    let Some(ordering) = rule.ordering() else {
        return internal_err!("sessions have an event time to sort by");
    };
    let sorted = sort_with_spilling(held.into_iter(), input, ordering, context)?;
    sorted::stream(rule, sorted, context, partition, metrics)
}

/// `held`, then the rest of `input`, in order.
pub(super) fn sort_with_spilling(
    held: impl Iterator<Item = RecordBatch> + Send + 'static,
    input: SendableRecordBatchStream,
    ordering: LexOrdering,
    context: &Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let schema = input.schema();
    let rest = stream::iter(held.map(Ok)).chain(input);
    let rest: SendableRecordBatchStream =
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rest));
    let once = SingleReadSource {
        schema: Arc::clone(&schema),
        stream: Mutex::new(Some(rest)),
    };
    let source =
        StreamingTableExec::try_new(schema, vec![Arc::new(once)], None, vec![], false, None)?;
    SortExec::new(ordering, Arc::new(source)).execute(0, Arc::clone(context))
}

/// A stream as a source that can be read once.
struct SingleReadSource {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for SingleReadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for SingleReadSource {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let taken = self.stream.lock().ok().and_then(|mut stream| stream.take());
        taken.unwrap_or_else(|| {
            let error = exec_datafusion_err!("a partition of sessions was read twice");
            let failed = stream::once(async move { Err(error) });
            Box::pin(RecordBatchStreamAdapter::new(
                Arc::clone(&self.schema),
                failed,
            ))
        })
    }
}
