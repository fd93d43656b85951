//! One execution that returns the rows of completed sessions: it holds them until their sessions are known.

use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;

use super::run::{ExecutionState, PlannedSlice};
use super::search::{Direction, Intervals, SessionId, TickRange};
use crate::diagnostic::out_of_range;
use crate::window::{ticks, timestamps};

/// The state of one execution.
pub(super) struct RowsRun {
    run: ExecutionState,
    /// The rows' columns, then the window's.
    schema: SchemaRef,
    held: Vec<HeldRows>,
}

/// Rows of the result and the session of each.
struct HeldRows {
    rows: RecordBatch,
    sessions: Vec<SessionId>,
}

/// Rows of a slice that may belong to the result, with event time and key of each, over all batches.
#[derive(Default)]
struct SliceRows {
    batches: Vec<RecordBatch>,
    ticks: Vec<i64>,
    keys: Vec<u32>,
}

impl RowsRun {
    pub(super) fn new(run: ExecutionState, schema: SchemaRef) -> Self {
        Self {
            run,
            schema,
            held: vec![],
        }
    }

    /// Reads the range and a margin around it; returns the rows of the sessions that are complete.
    pub(super) async fn first(&mut self) -> Result<Vec<RecordBatch>> {
        let nulls = self.run.look_for_null_event_times();
        self.read_first().await?;
        self.run.refuse_null_event_times(nulls).await?;
        self.emit_closed()
    }

    /// Reads outward on both sides until no session is open there; returns the other rows.
    pub(super) async fn rest(&mut self) -> Result<Vec<RecordBatch>> {
        loop {
            let planned = self.run.plan_outward().await?;
            if planned.is_empty() {
                break;
            }
            let mut reading = vec![];
            for PlannedSlice { side, slice, plan } in planned {
                let input = self
                    .run
                    .reader
                    .execute(Arc::clone(&plan), &self.run.context)?;
                reading.push((side, slice, plan, input));
            }
            for (side, slice, plan, input) in reading {
                self.read_slice(side, slice, input).await?;
                self.run.finish_slice(plan.as_ref());
            }
        }
        self.run.report_capped()?;
        let held = std::mem::take(&mut self.held);
        held.iter().map(|held| self.windowed(held)).collect()
    }

    async fn read_first(&mut self) -> Result<()> {
        let plan = self.run.plan_first().await?;
        let mut input = self
            .run
            .reader
            .execute(Arc::clone(&plan), &self.run.context)?;
        let mut rows = SliceRows::default();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            let compute = self.run.baseline.elapsed_compute().clone();
            let _timer = compute.timer();
            let (ticks, keys) = self.ticks_and_keys(&batch)?;
            self.run.reservation.try_grow(held_bytes(&batch))?;
            rows.push(batch, &ticks, keys);
        }
        self.run.finish_slice(plan.as_ref());
        let compute = self.run.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        self.run.keys.end_first()?;
        let intervals = Intervals::of_rows(&rows.ticks, &rows.keys);
        let assigned = self
            .run
            .search
            .take_first(intervals, self.run.keys.first_count())
            .ok_or_else(|| out_of_range(&self.run.event_time_name()))?;
        hold(&mut self.held, &self.run.reservation, rows, &assigned)
    }

    async fn read_slice(
        &mut self,
        side: Direction,
        slice: TickRange,
        mut input: SendableRecordBatchStream,
    ) -> Result<()> {
        let mut rows = SliceRows::default();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            let compute = self.run.baseline.elapsed_compute().clone();
            let _timer = compute.timer();
            let (ticks, keys) = self.ticks_and_keys(&batch)?;
            let wanted: Vec<u32> = (0_u32..)
                .zip(&keys)
                .filter(|(_, key)| self.run.search.is_open(**key, side))
                .map(|(row, _)| row)
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let batch = take_record_batch(&batch, &UInt32Array::from(wanted.clone()))?;
            self.run.reservation.try_grow(held_bytes(&batch))?;
            let ticks: Vec<i64> = wanted.iter().map(|row| ticks[*row as usize]).collect();
            rows.push(
                batch,
                &ticks,
                wanted.iter().map(|row| keys[*row as usize]).collect(),
            );
        }
        let compute = self.run.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let intervals = Intervals::of_rows(&rows.ticks, &rows.keys);
        let assigned = self.run.search.take_slice(side, slice, intervals);
        hold(&mut self.held, &self.run.reservation, rows, &assigned)
    }

    /// Event time and key of each row, which is counted.
    fn ticks_and_keys(&mut self, batch: &RecordBatch) -> Result<(ScalarBuffer<i64>, Vec<u32>)> {
        let run = &mut self.run;
        run.rows_read.add(batch.num_rows());
        let times = run.event_time.evaluate(batch)?;
        let times = ticks(&times.into_array(batch.num_rows())?)?;
        let known = run.keys.len();
        let keys = run.keys.number_rows(batch)?;
        run.reservation
            .try_grow((run.keys.len() - known) * KEY_BYTES)?;
        Ok((times, keys))
    }

    /// Returns and releases the rows of sessions that are open on neither side.
    fn emit_closed(&mut self) -> Result<Vec<RecordBatch>> {
        let open = self.run.search.open_sessions();
        let mut batches = vec![];
        let mut kept = vec![];
        for held in std::mem::take(&mut self.held) {
            let (open_rows, closed_rows): (Vec<u32>, Vec<u32>) = (0..)
                .take(held.sessions.len())
                .partition(|row| open[held.sessions[*row as usize]]);
            if open_rows.is_empty() {
                batches.push(self.windowed(&held)?);
                continue;
            }
            if !closed_rows.is_empty() {
                batches.push(self.windowed(&held.pick(&closed_rows)?)?);
            }
            kept.push(held.pick(&open_rows)?);
        }
        self.held = kept;
        let bytes = self
            .held
            .iter()
            .map(|held| held_bytes(&held.rows))
            .sum::<usize>();
        let leaving = batches
            .iter()
            .map(RecordBatch::get_array_memory_size)
            .sum::<usize>();
        self.run.reservation.resize(bytes + leaving);
        Ok(batches)
    }

    fn windowed(&self, held: &HeldRows) -> Result<RecordBatch> {
        let gap = self.run.search.gap();
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for id in &held.sessions {
            let session = self.run.search.session(*id);
            starts.push(session.start);
            ends.push(
                session
                    .last
                    .checked_add(gap)
                    .ok_or_else(|| out_of_range(&self.run.event_time_name()))?,
            );
        }
        let time_type = &self.run.time_type;
        let mut columns = held.rows.columns().to_vec();
        columns.push(timestamps(ScalarBuffer::from(starts), time_type)?);
        columns.push(timestamps(ScalarBuffer::from(ends), time_type)?);
        self.run.baseline.record_output(held.rows.num_rows());
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Approximate bytes per key: its values twice, and an entry in a table.
const KEY_BYTES: usize = 96;

impl SliceRows {
    fn push(&mut self, batch: RecordBatch, ticks: &[i64], keys: Vec<u32>) {
        self.batches.push(batch);
        self.ticks.extend_from_slice(ticks);
        self.keys.extend(keys);
    }
}

impl HeldRows {
    fn pick(&self, rows: &[u32]) -> Result<Self> {
        Ok(Self {
            rows: take_record_batch(&self.rows, &UInt32Array::from(rows.to_vec()))?,
            sessions: rows
                .iter()
                .map(|row| self.sessions[*row as usize])
                .collect(),
        })
    }
}

/// Keeps the rows that have a session, and releases the memory of the others.
fn hold(
    held: &mut Vec<HeldRows>,
    reservation: &MemoryReservation,
    rows: SliceRows,
    assigned: &[Option<SessionId>],
) -> Result<()> {
    let mut before = 0;
    for batch in rows.batches {
        let sessions = &assigned[before..before + batch.num_rows()];
        before += batch.num_rows();
        let (kept, sessions): (Vec<u32>, Vec<SessionId>) = (0_u32..)
            .zip(sessions)
            .filter_map(|(row, session)| session.map(|session| (row, session)))
            .unzip();
        let was = held_bytes(&batch);
        let rows = if kept.len() == batch.num_rows() {
            batch
        } else {
            take_record_batch(&batch, &UInt32Array::from(kept))?
        };
        reservation.shrink(
            was.saturating_sub(held_bytes(&rows))
                .min(reservation.size()),
        );
        if rows.num_rows() > 0 {
            held.push(HeldRows { rows, sessions });
        }
    }
    Ok(())
}

/// Bytes of a batch and of the data kept for each of its rows.
fn held_bytes(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size() + batch.num_rows() * (8 + 4 + 16 + 16)
}
