//! One execution of COMPLETE_SESSIONS: reads slices, holds rows, emits sessions.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder,
};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::StreamExt;

use super::notice::{CompletionNotices, SessionsCapped};
use super::search::{Search, Session, SessionId, Side, Slice};
use super::slices::{SliceReader, count_files};
use crate::diagnostic::{null_event_time, out_of_range};
use crate::window::{column_name, show_tick, ticks, timestamps};

/// The state of one execution.
pub(super) struct Run {
    search: Search,
    reader: SliceReader,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    event_time: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    converter: RowConverter,
    /// The dense number of each key seen in the first slice, by its row encoding.
    ids: HashMap<Arc<[u8]>, u32>,
    /// The row encoding of each key, by its number.
    key_rows: Vec<Arc<[u8]>>,
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

/// Stands for a key that the first slice did not have.
const UNKNOWN_KEY: u32 = u32::MAX;

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
            .map(|key| Ok(SortField::new(key.data_type(&schema)?)))
            .collect::<Result<Vec<_>>>()?;
        let counter = |name: &'static str| MetricBuilder::new(&shown.metrics).global_counter(name);
        Ok(Self {
            search,
            reader,
            keys,
            event_time,
            schema,
            converter: RowConverter::new(fields)?,
            ids: HashMap::new(),
            key_rows: vec![],
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

    /// NULL-1: fails if a row of the input has no event time.
    pub(super) async fn refuse_null_event_times(&mut self) -> Result<()> {
        let Some(plan) = self.reader.plan_null_event_times().await? else {
            return Ok(());
        };
        let mut input = self.reader.execute(Arc::clone(&plan), &self.context)?;
        while let Some(batch) = input.next().await {
            if batch?.num_rows() > 0 {
                return Err(null_event_time(&self.event_time_name()));
            }
        }
        count_files(plan.as_ref(), &self.files_read);
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
            let (ticks, keys) = (self.ticks(&batch)?, self.number_keys(&batch, true)?);
            self.reservation.try_grow(held_bytes(&batch))?;
            rows.push(batch, &ticks, keys);
        }
        self.finish_slice(plan.as_ref());
        let compute = self.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let key_count = self.key_rows.len().max(1);
        let assigned = self
            .search
            .take_first(&rows.ticks, &rows.keys, key_count)
            .ok_or_else(|| out_of_range(&self.event_time_name()))?;
        hold(&mut self.held, &self.reservation, rows, &assigned)
    }

    /// Reads outward on both sides until no session is open there.
    pub(super) async fn extend(&mut self) -> Result<()> {
        for side in [Side::Before, Side::After] {
            while let Some(slice) = self.search.next_slice(side) {
                self.read_slice(side, slice).await?;
            }
        }
        Ok(())
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
        let columns = if self.keys.is_empty() {
            vec![]
        } else {
            let parser = self.converter.parser();
            let rows = sessions
                .iter()
                .map(|session| parser.parse(&self.key_rows[session.key as usize]));
            self.converter.convert_rows(rows)?
        };
        let data_type = self.window_type();
        sessions
            .iter()
            .enumerate()
            .map(|(row, session)| {
                let mut name = String::new();
                for (key, column) in self.keys.iter().zip(&columns) {
                    let value = ScalarValue::try_from_array(column, row)?;
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

    async fn read_slice(&mut self, side: Side, slice: Slice) -> Result<()> {
        let open = self.open_key_values(side)?;
        let plan = self.reader.plan_slice(slice, Some(&open)).await?;
        let mut input = self.reader.execute(Arc::clone(&plan), &self.context)?;
        let mut rows = Rows::default();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            let compute = self.baseline.elapsed_compute().clone();
            let _timer = compute.timer();
            self.rows_read.add(batch.num_rows());
            let (ticks, keys) = (self.ticks(&batch)?, self.number_keys(&batch, false)?);
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
        self.finish_slice(plan.as_ref());
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

    /// The number of each row's key; a new key gets one if `grow`, else [`UNKNOWN_KEY`].
    fn number_keys(&mut self, batch: &RecordBatch, grow: bool) -> Result<Vec<u32>> {
        if self.keys.is_empty() {
            return Ok(vec![0; batch.num_rows()]);
        }
        let columns = self
            .keys
            .iter()
            .map(|key| key.evaluate(batch)?.into_array(batch.num_rows()))
            .collect::<Result<Vec<_>>>()?;
        let rows = self.converter.convert_columns(&columns)?;
        let mut numbers = Vec::with_capacity(batch.num_rows());
        for row in &rows {
            let bytes: &[u8] = row.as_ref();
            let number = match self.ids.get(bytes) {
                Some(number) => *number,
                None if grow => self.new_key(bytes)?,
                None => UNKNOWN_KEY,
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    fn new_key(&mut self, bytes: &[u8]) -> Result<u32> {
        let number = u32::try_from(self.key_rows.len())
            .ok()
            .filter(|number| *number != UNKNOWN_KEY)
            .ok_or_else(|| exec_datafusion_err!("too many keys"))?;
        let bytes: Arc<[u8]> = Arc::from(bytes);
        self.reservation.try_grow(bytes.len() + KEY_OVERHEAD)?;
        self.ids.insert(Arc::clone(&bytes), number);
        self.key_rows.push(bytes);
        Ok(number)
    }

    /// The key columns of the keys that are open on `side`.
    fn open_key_values(&self, side: Side) -> Result<Vec<ArrayRef>> {
        if self.keys.is_empty() {
            return Ok(vec![]);
        }
        let parser = self.converter.parser();
        let rows = self
            .search
            .open_keys(side)
            .map(|key| parser.parse(&self.key_rows[key as usize]));
        Ok(self.converter.convert_rows(rows)?)
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

/// What a key costs beside its bytes: entries in a map and a vector, and a count of references.
const KEY_OVERHEAD: usize = 96;

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
