//! One execution that returns a row per completed session: it holds the sessions' aggregates, and no rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;

use crate::complete::run::{ExecutionState, PlannedSlice, failed_task};
use crate::complete::search::{Intervals, SessionId, TickRange};
use crate::diagnostic::out_of_range;
use crate::session::aggregate::{
    Accumulators, AggregatedIntervals, IntervalAggregation, IntervalBounds, MergeRule, PartialRule,
    output_batch,
};

/// The state of one execution.
pub(in crate::complete) struct AggregateRun {
    run: ExecutionState,
    rule: MergeRule,
    partial: PartialRule,
    /// Accumulators by the session numbers of the search.
    accumulators: Accumulators,
}

/// The partitions of a slice that are being read.
struct SliceReading {
    plan: Arc<dyn ExecutionPlan>,
    partitions: Vec<SpawnedTask<Result<Option<AggregatedIntervals>>>>,
}

/// The intervals of a slice, over all its partitions.
#[derive(Default)]
struct SliceIntervals {
    starts: Vec<i64>,
    lasts: Vec<i64>,
    /// Key numbers of the run.
    keys: Vec<u32>,
    /// Per partition: how many intervals, and their state columns.
    states: Vec<(usize, Vec<ArrayRef>)>,
}

impl AggregateRun {
    pub(in crate::complete) fn try_new(
        run: ExecutionState,
        rule: MergeRule,
        partial: PartialRule,
    ) -> Result<Self> {
        Ok(Self {
            run,
            accumulators: Accumulators::try_new(&rule.aggregates)?,
            rule,
            partial,
        })
    }

    /// Reads all slices needed; returns the sessions.
    pub(in crate::complete) async fn all(mut self) -> Result<Vec<RecordBatch>> {
        let nulls = self.run.look_for_null_event_times();
        self.first().await?;
        loop {
            let planned = self.run.plan_outward().await?;
            if planned.is_empty() {
                break;
            }
            let mut reading = vec![];
            for PlannedSlice { side, slice, plan } in planned {
                reading.push((side, slice, self.begin(slice, plan)?));
            }
            for (side, slice, reading) in reading {
                let read = self.finish(reading).await?;
                let assigned = self.run.search.take_slice(side, slice, read.intervals());
                self.merge(&read, &assigned)?;
            }
        }
        self.run.refuse_null_event_times(nulls).await?;
        self.run.report_capped()?;
        self.sessions()
    }

    async fn first(&mut self) -> Result<()> {
        let slice = self.run.search.first_slice();
        let plan = self.run.plan_first().await?;
        let reading = self.begin(slice, plan)?;
        let read = self.finish(reading).await?;
        let compute = self.run.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        self.run.keys.end_first()?;
        let key_count = self.run.keys.first_count();
        let assigned = self
            .run
            .search
            .take_first(read.intervals(), key_count)
            .ok_or_else(|| out_of_range(&self.rule.event_time))?;
        self.merge(&read, &assigned)
    }

    /// Starts to read a slice, all partitions at once.
    fn begin(&self, slice: TickRange, plan: Arc<dyn ExecutionPlan>) -> Result<SliceReading> {
        let range = self.run.search.range();
        let bounds = IntervalBounds {
            rows: slice.from..slice.to,
            range: range.from..range.to,
        };
        let mut partitions = vec![];
        for partition in 0..plan.output_partitioning().partition_count() {
            let mut input = plan.execute(partition, Arc::clone(&self.run.context))?;
            let mut aggregation = IntervalAggregation::try_new(
                self.partial.clone(),
                &input.schema(),
                Some(bounds.clone()),
            )?;
            let reservation = MemoryConsumer::new(format!("CompleteSessionsExec[{partition}]"))
                .register(self.run.context.memory_pool());
            let compute = self.run.baseline.elapsed_compute().clone();
            let rows_read = self.run.rows_read.clone();
            partitions.push(SpawnedTask::spawn(async move {
                while let Some(batch) = input.next().await {
                    let batch = batch?;
                    let _timer = compute.timer();
                    rows_read.add(batch.num_rows());
                    aggregation.push(&batch)?;
                    reservation.try_resize(aggregation.size())?;
                }
                let _timer = compute.timer();
                aggregation.take()
            }));
        }
        Ok(SliceReading { plan, partitions })
    }

    /// Waits for the intervals of a slice.
    async fn finish(&mut self, reading: SliceReading) -> Result<SliceIntervals> {
        let mut read = SliceIntervals::default();
        for partition in reading.partitions {
            let Some(intervals) = partition.join().await.map_err(failed_task)?? else {
                continue;
            };
            let compute = self.run.baseline.elapsed_compute().clone();
            let _timer = compute.timer();
            self.run.reservation.try_grow(held_bytes(&intervals))?;
            let known = self.run.keys.len();
            let key_count = intervals
                .key_values
                .first()
                .map_or(1, |values| values.len());
            let numbers = self.run.keys.number(&intervals.key_values, key_count)?;
            self.run
                .reservation
                .try_grow((self.run.keys.len() - known) * KEY_BYTES)?;
            let keys = intervals.keys.iter().map(|key| numbers[*key as usize]);
            read.keys.extend(keys);
            read.states.push((intervals.starts.len(), intervals.states));
            read.starts.extend(intervals.starts);
            read.lasts.extend(intervals.lasts);
        }
        self.run.finish_slice(reading.plan.as_ref());
        Ok(read)
    }

    /// Merges the states of the intervals that have a session.
    fn merge(&mut self, read: &SliceIntervals, assigned: &[Option<SessionId>]) -> Result<()> {
        let count = self.run.search.session_count();
        let mut before = 0;
        for (intervals, states) in &read.states {
            let assigned = &assigned[before..before + intervals];
            before += intervals;
            let (kept, sessions): (Vec<u32>, Vec<SessionId>) = (0_u32..)
                .zip(assigned)
                .filter_map(|(interval, session)| session.map(|session| (interval, session)))
                .unzip();
            if kept.is_empty() {
                continue;
            }
            let places = UInt32Array::from(kept);
            let states = states
                .iter()
                .map(|column| Ok(take(column, &places, None)?))
                .collect::<Result<Vec<_>>>()?;
            self.accumulators.merge(&states, &sessions, count)?;
        }
        // The input of this slice is not needed any more.
        let keys = self.run.keys.len() * KEY_BYTES;
        let held = self.accumulators.size() + count * SESSION_BYTES + keys;
        self.run.reservation.try_resize(held)
    }

    /// The sessions, in batches.
    fn sessions(mut self) -> Result<Vec<RecordBatch>> {
        let compute = self.run.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let count = self.run.search.session_count();
        if count == 0 {
            return Ok(vec![]);
        }
        let sessions: Vec<_> = (0..count).map(|id| self.run.search.session(id)).collect();
        let places: UInt32Array = sessions.iter().map(|session| Some(session.key)).collect();
        let rows = output_batch(
            &self.rule,
            &self.run.keys.values(&places)?,
            sessions.iter().map(|session| session.start).collect(),
            sessions.iter().map(|session| session.last).collect(),
            &self.run.time_type,
            self.accumulators.evaluate(EmitTo::All)?,
        )?;
        self.run.baseline.record_output(count);
        let batch_size = self.run.context.session_config().batch_size().max(1);
        let pieces = (0..count).step_by(batch_size);
        Ok(pieces
            .map(|from| rows.slice(from, batch_size.min(count - from)))
            .collect())
    }
}

impl SliceIntervals {
    fn intervals(&self) -> Intervals<'_> {
        Intervals {
            starts: &self.starts,
            lasts: &self.lasts,
            keys: &self.keys,
        }
    }
}

/// Approximate bytes per key: its values twice, and an entry in a table.
const KEY_BYTES: usize = 96;

/// Bytes that the search holds per session.
const SESSION_BYTES: usize = 32;

/// Bytes that merging takes per interval in addition to its states: key, bounds, place, session.
const INTERVAL_BYTES: usize = 64;

/// Bytes of intervals and of the data derived from them.
fn held_bytes(intervals: &AggregatedIntervals) -> usize {
    let columns = intervals.key_values.iter().chain(&intervals.states);
    let bytes: usize = columns.map(|column| column.get_array_memory_size()).sum();
    bytes + intervals.starts.len() * INTERVAL_BYTES
}
