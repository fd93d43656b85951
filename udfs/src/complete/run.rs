//! One execution of COMPLETE_SESSIONS: reads slices, holds rows, emits sessions.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::GroupValues;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder,
};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::StreamExt;

use super::notice::{CompletionNotices, SessionsCapped};
use super::search::{Search, Session, SessionId, Side, Slice};
use super::slices::{SliceReader, count_files};
use crate::diagnostic::{null_event_time, out_of_range};
use crate::session::new_keys;
use crate::window::{column_name, show_tick, ticks, timestamps};

/// The state of one execution.
pub(super) struct Run {
    search: Search,
    reader: SliceReader,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    event_time: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    key_schema: SchemaRef,
    /// Numbers keys; those of the first slice come first.
    numbers: Option<Box<dyn GroupValues>>,
    /// The values of the first slice's keys, by number: a column per key column.
    key_values: Vec<ArrayRef>,
    /// How many keys the first slice has.
    key_count: usize,
    numbers_of_batch: Vec<usize>,
    held: Vec<Held>,
    reservation: MemoryReservation,
    context: Arc<TaskContext>,
    baseline: BaselineMetrics,
    slices: Count,
    rows_read: Count,
    files_read: Count,
    capped_sessions: Count,
    /// What the plan shows once it has run.
    capped: Arc<OnceLock<SessionsCapped>>,
}

/// What EXPLAIN ANALYZE shows of a run.
#[derive(Clone, Default)]
pub(super) struct Shown {
    pub(super) metrics: ExecutionPlanMetricsSet,
    /// The sessions that had to be cut.
    pub(super) capped: Arc<OnceLock<SessionsCapped>>,
}

/// A look for a NULL event time: the plan that looked, and whether there is one; none if there can be none.
pub(super) type NullCheck = SpawnedTask<Result<Option<(Arc<dyn ExecutionPlan>, bool)>>>;

fn failed_task(error: impl std::fmt::Display) -> DataFusionError {
    exec_datafusion_err!("a slice could not be planned: {error}")
}

/// Rows of the result and the session of each.
struct Held {
    rows: RecordBatch,
    sessions: Vec<SessionId>,
}

/// Rows of a slice that matter, with event time and key of each, over all batches.
#[derive(Default)]
struct Rows {
    batches: Vec<RecordBatch>,
    ticks: Vec<i64>,
    keys: Vec<u32>,
}

impl Run {
    pub(super) fn try_new(
        search: Search,
        reader: SliceReader,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        event_time: Arc<dyn PhysicalExpr>,
        schema: SchemaRef,
        context: Arc<TaskContext>,
        shown: &Shown,
    ) -> Result<Self> {
        let fields = keys
            .iter()
            .enumerate()
            .map(|(number, key)| {
                Ok(Field::new(
                    format!("key{number}"),
                    key.data_type(&schema)?,
                    true,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let key_schema = Arc::new(Schema::new(fields));
        let counter = |name: &'static str| MetricBuilder::new(&shown.metrics).global_counter(name);
        Ok(Self {
            search,
            reader,
            keys,
            event_time,
            schema,
            numbers: new_keys(&key_schema)?,
            key_schema,
            key_values: vec![],
            key_count: 0,
            numbers_of_batch: vec![],
            held: vec![],
            reservation: MemoryConsumer::new("CompleteSessionsExec")
                .register(context.memory_pool()),
            baseline: BaselineMetrics::new(&shown.metrics, 0),
            slices: counter("slices"),
            rows_read: counter("rows_read"),
            files_read: counter("files_read"),
            capped_sessions: counter("capped_sessions"),
            capped: Arc::clone(&shown.capped),
            context,
        })
    }

    /// NULL-1: begins to look for a row of the input that has no event time, beside everything else.
    pub(super) fn look_for_null_event_times(&self) -> NullCheck {
        let (reader, context) = (self.reader.clone(), Arc::clone(&self.context));
        SpawnedTask::spawn(async move {
            let Some(plan) = reader.plan_null_event_times().await? else {
                return Ok(None);
            };
            let mut input = reader.execute(Arc::clone(&plan), &context)?;
            while let Some(batch) = input.next().await {
                if batch?.num_rows() > 0 {
                    return Ok(Some((plan, true)));
                }
            }
            Ok(Some((plan, false)))
        })
    }

    /// Fails if there was such a row.
    pub(super) async fn refuse_null_event_times(&mut self, check: NullCheck) -> Result<()> {
        let found = check.join().await.map_err(failed_task)??;
        if let Some((plan, has_null)) = found {
            count_files(plan.as_ref(), &self.files_read);
            if has_null {
                return Err(null_event_time(&self.event_time_name()));
            }
        }
        Ok(())
    }

    /// Reads the range and a gap around it.
    pub(super) async fn read_first(&mut self) -> Result<()> {
        let slice = self.search.first_slice();
        let plan = self.reader.plan_slice(slice, None).await?;
        let mut input = self.reader.execute(Arc::clone(&plan), &self.context)?;
        let mut rows = Rows::default();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            let compute = self.baseline.elapsed_compute().clone();
            let _timer = compute.timer();
            self.rows_read.add(batch.num_rows());
            let (ticks, keys) = (self.ticks(&batch)?, self.number_keys(&batch)?);
            self.reservation.try_grow(held_bytes(&batch))?;
            rows.push(batch, &ticks, keys);
        }
        self.finish_slice(plan.as_ref());
        let compute = self.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        self.keep_keys()?;
        let assigned = self
            .search
            .take_first(&rows.ticks, &rows.keys, self.key_count)
            .ok_or_else(|| out_of_range(&self.event_time_name()))?;
        hold(&mut self.held, &self.reservation, rows, &assigned)
    }

    /// Reads outward on both sides until no session is open there.
    pub(super) async fn extend(&mut self) -> Result<()> {
        loop {
            // Planning a slice takes about as long as reading it: both sides at once.
            let mut planning = vec![];
            for side in [Side::Before, Side::After] {
                if let Some(slice) = self.search.next_slice(side) {
                    let open = self.open_key_values(side)?;
                    let reader = self.reader.clone();
                    let plan =
                        SpawnedTask::spawn(
                            async move { reader.plan_slice(slice, Some(&open)).await },
                        );
                    planning.push((side, slice, plan));
                }
            }
            if planning.is_empty() {
                return Ok(());
            }
            let mut reading = vec![];
            for (side, slice, plan) in planning {
                let plan = plan.join().await.map_err(failed_task)??;
                let input = self.reader.execute(Arc::clone(&plan), &self.context)?;
                reading.push((side, slice, plan, input));
            }
            for (side, slice, plan, input) in reading {
                self.read_slice(side, slice, input).await?;
                self.finish_slice(plan.as_ref());
            }
        }
    }

    /// Counts and reports the sessions that are open although all that may be was read.
    pub(super) fn report_capped(&self) -> Result<()> {
        let open = self.search.open_sessions();
        let mut sessions: Vec<Session> = (0..open.len())
            .filter(|id| open[*id])
            .map(|id| self.search.session(id))
            .collect();
        if sessions.is_empty() {
            return Ok(());
        }
        let count = sessions.len();
        self.capped_sessions.add(count);
        sessions.sort_unstable_by_key(|session| (session.start, session.key));
        sessions.truncate(SessionsCapped::MAX_NAMED);
        let Slice { from, to } = self.search.read();
        let data_type = self.window_type();
        let capped = SessionsCapped {
            sessions: count,
            named: self.names(&sessions)?,
            searched: (show_tick(from, data_type), show_tick(to, data_type)),
        };
        let notices = self
            .context
            .session_config()
            .get_extension::<CompletionNotices>();
        if let Some(notices) = notices {
            notices.push(capped.clone());
        }
        // A plan that runs again keeps what it said first: the version it reads is the same.
        self.capped.get_or_init(|| capped);
        Ok(())
    }

    /// Key, first and last row of each session.
    fn names(&self, sessions: &[Session]) -> Result<Vec<String>> {
        let data_type = self.window_type();
        sessions
            .iter()
            .map(|session| {
                let mut name = String::new();
                for (key, values) in self.keys.iter().zip(&self.key_values) {
                    let value = ScalarValue::try_from_array(values, session.key as usize)?;
                    name += &format!("{}={value} ", column_name(&key.to_string()));
                }
                let (start, last) = (session.start, session.last);
                Ok(format!(
                    "{name}from {} to {}",
                    show_tick(start, data_type),
                    show_tick(last, data_type)
                ))
            })
            .collect()
    }

    /// The rows of sessions that are open on no side, which are held no longer.
    pub(super) fn emit_closed(&mut self) -> Result<Vec<RecordBatch>> {
        let open = self.search.open_sessions();
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
        self.reservation.resize(bytes + leaving);
        Ok(batches)
    }

    /// The rows that are still held.
    pub(super) fn emit_rest(&mut self) -> Result<Vec<RecordBatch>> {
        let held = std::mem::take(&mut self.held);
        held.iter().map(|held| self.windowed(held)).collect()
    }

    async fn read_slice(
        &mut self,
        side: Side,
        slice: Slice,
        mut input: SendableRecordBatchStream,
    ) -> Result<()> {
        let mut rows = Rows::default();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            let compute = self.baseline.elapsed_compute().clone();
            let _timer = compute.timer();
            self.rows_read.add(batch.num_rows());
            let (ticks, keys) = (self.ticks(&batch)?, self.number_keys(&batch)?);
            let wanted: Vec<u32> = (0_u32..)
                .zip(&keys)
                .filter(|(_, key)| self.search.is_open(**key, side))
                .map(|(row, _)| row)
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let batch = take_record_batch(&batch, &UInt32Array::from(wanted.clone()))?;
            self.reservation.try_grow(held_bytes(&batch))?;
            let ticks: Vec<i64> = wanted.iter().map(|row| ticks[*row as usize]).collect();
            rows.push(
                batch,
                &ticks,
                wanted.iter().map(|row| keys[*row as usize]).collect(),
            );
        }
        let compute = self.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let assigned = self.search.take_slice(side, slice, &rows.ticks, &rows.keys);
        hold(&mut self.held, &self.reservation, rows, &assigned)
    }

    fn finish_slice(&self, plan: &dyn ExecutionPlan) {
        self.slices.add(1);
        count_files(plan, &self.files_read);
    }

    fn ticks(&self, batch: &RecordBatch) -> Result<ScalarBuffer<i64>> {
        ticks(
            &self
                .event_time
                .evaluate(batch)?
                .into_array(batch.num_rows())?,
        )
    }

    /// The number of each row's key.
    fn number_keys(&mut self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let rows = batch.num_rows();
        let Some(numbers) = &mut self.numbers else {
            return Ok(vec![0; rows]);
        };
        let columns = self
            .keys
            .iter()
            .map(|key| key.evaluate(batch)?.into_array(rows))
            .collect::<Result<Vec<_>>>()?;
        let known = numbers.len();
        numbers.intern(&columns, &mut self.numbers_of_batch)?;
        self.reservation
            .try_grow((numbers.len() - known) * KEY_BYTES)?;
        self.numbers_of_batch
            .iter()
            .map(|number| u32::try_from(*number).map_err(|_| exec_datafusion_err!("too many keys")))
            .collect()
    }

    /// Keeps the values of the first slice's keys; their numbers stay.
    fn keep_keys(&mut self) -> Result<()> {
        let Some(numbers) = &mut self.numbers else {
            self.key_count = 1;
            return Ok(());
        };
        self.key_count = numbers.len();
        if self.key_count > 0 {
            self.key_values = numbers.emit(EmitTo::All)?;
            let mut again = new_keys(&self.key_schema)?;
            if let Some(again) = &mut again {
                again.intern(&self.key_values, &mut self.numbers_of_batch)?;
            }
            self.numbers = again;
        }
        Ok(())
    }

    /// The key columns of the keys that are open on `side`.
    fn open_key_values(&self, side: Side) -> Result<Vec<ArrayRef>> {
        let places: UInt32Array = self.search.open_keys(side).map(Some).collect();
        self.key_values
            .iter()
            .map(|values| Ok(take(values, &places, None)?))
            .collect()
    }

    fn windowed(&self, held: &Held) -> Result<RecordBatch> {
        let gap = self.search.gap();
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for id in &held.sessions {
            let session = self.search.session(*id);
            starts.push(session.start);
            ends.push(
                session
                    .last
                    .checked_add(gap)
                    .ok_or_else(|| out_of_range(&self.event_time_name()))?,
            );
        }
        let mut columns = held.rows.columns().to_vec();
        columns.push(timestamps(ScalarBuffer::from(starts), self.window_type())?);
        columns.push(timestamps(ScalarBuffer::from(ends), self.window_type())?);
        self.baseline.record_output(held.rows.num_rows());
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// The type of the window columns, which come last.
    fn window_type(&self) -> &DataType {
        self.schema
            .field(self.schema.fields().len() - 1)
            .data_type()
    }

    fn event_time_name(&self) -> String {
        column_name(&self.event_time.to_string())
    }
}

/// About what a key costs: its values twice, and an entry in a table.
const KEY_BYTES: usize = 96;

impl Rows {
    fn push(&mut self, batch: RecordBatch, ticks: &[i64], keys: Vec<u32>) {
        self.batches.push(batch);
        self.ticks.extend_from_slice(ticks);
        self.keys.extend(keys);
    }
}

impl Held {
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

/// Keeps the rows that have a session, and gives back the memory of the others.
fn hold(
    held: &mut Vec<Held>,
    reservation: &MemoryReservation,
    rows: Rows,
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
            held.push(Held { rows, sessions });
        }
    }
    Ok(())
}

/// Bytes of a batch and of what is kept for each of its rows.
fn held_bytes(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size() + batch.num_rows() * (8 + 4 + 16 + 16)
}
