//! Merge step: from intervals in the order of key and start to sessions.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{SortOptions, cast, concat, take};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, exec_datafusion_err, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, Partitioning, PhysicalExpr, PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::super::buffered::sort_with_spilling;
use super::super::joins;
use super::accumulators::{Accumulators, SessionAggregateExpr};
use super::aggregation::new_keys;
use super::intervals::merge_intervals;
use super::node::SessionColumn;
use crate::children::{only_child, replaces_children};
use crate::diagnostic::out_of_range;
use crate::window::{ticks, timestamps};

/// Merges intervals that are at most the gap apart and returns one row per session.
///
/// Input: the output of [`SessionPartialExec`](super::SessionPartialExec), each key in one partition. Intervals are grouped in
/// memory; if a reservation fails they are sorted by key and start, with spilling, and merged as they pass.
#[derive(Debug, Clone)]
pub struct SessionMergeExec {
    input: Arc<dyn ExecutionPlan>,
    rule: MergeRule,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// How sessions are merged and output.
#[derive(Debug, Clone)]
pub(crate) struct MergeRule {
    /// The number of keys, which are the first columns of the input.
    pub(crate) keys: usize,
    pub(crate) gap: i64,
    pub(crate) aggregates: Vec<SessionAggregateExpr>,
    pub(crate) groups: Vec<SessionColumn>,
    pub(crate) schema: SchemaRef,
    /// The name of the event time, for messages.
    pub(crate) event_time: String,
}

impl SessionMergeExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, rule: MergeRule) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&rule.schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            input.boundedness(),
        );
        Self {
            input,
            rule,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    fn key_columns(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let schema = self.input.schema();
        (0..self.rule.keys)
            .map(|index| Arc::new(Column::new(schema.field(index).name(), index)) as _)
            .collect()
    }
}

impl DisplayAs for SessionMergeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SessionMergeExec: keys={}, gap={}, groups={:?}",
            self.rule.keys, self.rule.gap, self.rule.groups
        )
    }
}

impl ExecutionPlan for SessionMergeExec {
    fn name(&self) -> &str {
        "SessionMergeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![if self.rule.keys == 0 {
            Distribution::SinglePartition
        } else {
            Distribution::KeyPartitioned(self.key_columns())
        }])
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("SessionMergeExec", children)?;
        Ok(Arc::new(Self::new(input, self.rule.clone())))
    }

    replaces_children!();

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let metrics = MergeMetrics {
            baseline: BaselineMetrics::new(&self.metrics, partition),
            sessions: MetricBuilder::new(&self.metrics).counter("sessions", partition),
            sorted_partitions: MetricBuilder::new(&self.metrics)
                .counter("sorted_partitions", partition),
        };
        let grouped = group(self.rule.clone(), input, context, partition, metrics);
        let output = stream::once(grouped).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            output,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The operator's metrics.
struct MergeMetrics {
    baseline: BaselineMetrics,
    sessions: Count,
    /// Partitions that did not fit in memory and were sorted.
    sorted_partitions: Count,
}

/// Merges in memory, or as sorted rows if a reservation fails.
async fn group(
    rule: MergeRule,
    mut input: SendableRecordBatchStream,
    context: Arc<TaskContext>,
    partition: usize,
    metrics: MergeMetrics,
) -> Result<SendableRecordBatchStream> {
    let reservation = MemoryConsumer::new(format!("SessionMergeExec[{partition}]"))
        .with_can_spill(true)
        .register(context.memory_pool());
    let mut held: Vec<RecordBatch> = vec![];
    while let Some(batch) = input.next().await {
        let batch = batch?;
        let wanted = batch.get_array_memory_size() + batch.num_rows() * GROUPING_BYTES;
        let fits = reservation.try_grow(wanted).is_ok();
        held.push(batch);
        if !fits {
            drop(reservation);
            metrics.sorted_partitions.add(1);
            return sorted(rule, held, input, &context, metrics);
        }
    }
    let batch_size = context.session_config().batch_size().max(1);
    let merged = grouped(&rule, &held, &metrics)?;
    drop(held);
    let schema = Arc::clone(&rule.schema);
    let rows = merged.as_ref().map_or(0, RecordBatch::num_rows);
    let pieces = (0..rows).step_by(batch_size).filter_map(move |from| {
        // The reservation for the input covers the output until the output has been passed on.
        let _held = &reservation;
        let merged = merged.as_ref()?;
        Some(Ok(merged.slice(from, batch_size.min(rows - from))))
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(
        schema,
        stream::iter(pieces),
    )))
}

/// Bytes that grouping takes per interval in addition to the interval itself: key, place, session, and the session's own row.
const GROUPING_BYTES: usize = 64;

/// All sessions of the intervals in memory; `None` if there are no intervals.
fn grouped(
    rule: &MergeRule,
    held: &[RecordBatch],
    metrics: &MergeMetrics,
) -> Result<Option<RecordBatch>> {
    let compute = metrics.baseline.elapsed_compute().clone();
    let _timer = compute.timer();
    let Some(first) = held.iter().find(|batch| batch.num_rows() > 0) else {
        return Ok(None);
    };
    let width = rule.keys;
    let time_type = first.column(width).data_type().clone();
    let (mut starts, mut lasts, mut key_ids) = (vec![], vec![], vec![]);
    let mut keys = new_keys(&Arc::new(
        first.schema().project(&(0..width).collect::<Vec<_>>())?,
    ))?;
    let mut ids_of_batch = vec![];
    for batch in held {
        starts.extend_from_slice(&ticks(batch.column(width))?);
        lasts.extend_from_slice(&ticks(batch.column(width + 1))?);
        match &mut keys {
            Some(keys) => {
                keys.intern(&batch.columns()[..width], &mut ids_of_batch)?;
                for id in &ids_of_batch {
                    let id =
                        u32::try_from(*id).map_err(|_| exec_datafusion_err!("too many keys"))?;
                    key_ids.push(id);
                }
            }
            None => key_ids.resize(starts.len(), 0),
        }
    }
    let key_count = keys.as_ref().map_or(1, |keys| keys.len());
    let merged = merge_intervals(&starts, &lasts, &key_ids, key_count, rule.gap);
    let count = merged.starts.len();
    let mut accumulators = Accumulators::try_new(&rule.aggregates)?;
    let mut row = 0;
    for batch in held {
        let groups = &merged.sessions[row..row + batch.num_rows()];
        row += batch.num_rows();
        accumulators.merge(&batch.columns()[width + 2..], groups, count)?;
    }
    let key_columns = match keys {
        Some(mut keys) => {
            let places = UInt32Array::from(merged.keys);
            let values = keys.emit(EmitTo::All)?;
            values
                .iter()
                .map(|values| Ok(take(values, &places, None)?))
                .collect::<Result<Vec<_>>>()?
        }
        None => vec![],
    };
    let results = accumulators.evaluate(EmitTo::All)?;
    metrics.sessions.add(count);
    metrics.baseline.record_output(count);
    let (starts, lasts) = (merged.starts, merged.lasts);
    output_batch(rule, &key_columns, starts, lasts, &time_type, results).map(Some)
}

/// Sorts the held and the remaining batches by key and start, spilling as needed, and merges rows as they pass.
fn sorted(
    rule: MergeRule,
    held: Vec<RecordBatch>,
    input: SendableRecordBatchStream,
    context: &Arc<TaskContext>,
    metrics: MergeMetrics,
) -> Result<SendableRecordBatchStream> {
    let options = SortOptions {
        descending: false,
        nulls_first: true,
    };
    let schema = input.schema();
    // The keys, then `interval_start`.
    let columns = (0..=rule.keys).map(|index| {
        let column: Arc<dyn PhysicalExpr> =
            Arc::new(Column::new(schema.field(index).name(), index));
        PhysicalSortExpr::new(column, options)
    });
    let Some(ordering) = LexOrdering::new(columns) else {
        return internal_err!("intervals have a start to sort by");
    };
    let input = sort_with_spilling(held.into_iter(), input, ordering, context)?;
    let output_schema = Arc::clone(&rule.schema);
    let merge = SessionMerge::try_new(rule, &input.schema(), metrics)?;
    let output = stream::try_unfold(Some((merge, input)), |state| async move {
        let Some((mut merge, mut input)) = state else {
            return Ok(None);
        };
        while let Some(batch) = input.next().await {
            merge.push(&batch?)?;
            if let Some(done) = merge.emit(false)? {
                return Ok(Some((done, Some((merge, input)))));
            }
        }
        let rest = merge.emit(true)?;
        Ok::<_, DataFusionError>(rest.map(|rest| (rest, None)))
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(
        output_schema,
        output,
    )))
}

/// The group columns of sessions, which start at `starts` and have their last row at `lasts`; `event_time` is its name for the
/// message.
///
/// # Errors
///
/// A session so far out that its end does not fit a timestamp.
pub(crate) fn session_columns(
    groups: &[SessionColumn],
    keys: &[ArrayRef],
    starts: &ArrayRef,
    lasts: &[i64],
    gap: i64,
    event_time: &str,
) -> Result<Vec<ArrayRef>> {
    let ends = lasts
        .iter()
        .map(|last| {
            last.checked_add(gap)
                .ok_or_else(|| out_of_range(event_time))
        })
        .collect::<Result<Vec<i64>>>()?;
    let ends = timestamps(ScalarBuffer::from(ends), starts.data_type())?;
    let column = |group: &SessionColumn| match group {
        SessionColumn::Key(key) => Arc::clone(&keys[*key]),
        SessionColumn::WindowStart => Arc::clone(starts),
        SessionColumn::WindowEnd => Arc::clone(&ends),
    };
    Ok(groups.iter().map(column).collect())
}

/// The group columns and the aggregates' results of sessions.
pub(crate) fn output_batch(
    rule: &MergeRule,
    keys: &[ArrayRef],
    starts: Vec<i64>,
    lasts: Vec<i64>,
    time_type: &DataType,
    results: Vec<ArrayRef>,
) -> Result<RecordBatch> {
    let starts = timestamps(ScalarBuffer::from(starts), time_type)?;
    let (groups, event_time) = (&rule.groups, &rule.event_time);
    let groups = session_columns(groups, keys, &starts, &lasts, rule.gap, event_time)?;
    let columns = groups
        .into_iter()
        .chain(results)
        .zip(rule.schema.fields())
        .map(|(column, field)| Ok(cast(&column, field.data_type())?))
        .collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(&rule.schema), columns)?)
}

/// Sessions being merged from sorted rows; the last one may still grow.
struct SessionMerge {
    rule: MergeRule,
    converter: RowConverter,
    accumulators: Accumulators,
    /// For each session that was not output yet: first and last event time, and keys in arrays that together have a row for
    /// each.
    starts: Vec<i64>,
    lasts: Vec<i64>,
    keys: Vec<Vec<ArrayRef>>,
    /// The key of the last session.
    open: Option<OwnedRow>,
    time_type: DataType,
    metrics: MergeMetrics,
}

impl SessionMerge {
    fn try_new(rule: MergeRule, input: &SchemaRef, metrics: MergeMetrics) -> Result<Self> {
        let fields = input.fields()[..rule.keys]
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        Ok(Self {
            converter: RowConverter::new(fields)?,
            accumulators: Accumulators::try_new(&rule.aggregates)?,
            starts: vec![],
            lasts: vec![],
            keys: vec![vec![]; rule.keys],
            open: None,
            time_type: input.field(rule.keys).data_type().clone(),
            rule,
            metrics,
        })
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let compute = self.metrics.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let width = self.rule.keys;
        let starts = ticks(batch.column(width))?;
        let lasts = ticks(batch.column(width + 1))?;
        let keys = &batch.columns()[..width];
        let rows = if width == 0 {
            None
        } else {
            Some(self.converter.convert_columns(keys)?)
        };
        let mut groups = Vec::with_capacity(batch.num_rows());
        let mut first_rows = Vec::new();
        for row in 0..batch.num_rows() {
            let same_key = match (&rows, row) {
                (None, 0) => self.open.is_some() || !self.starts.is_empty(),
                (None, _) => true,
                (Some(rows), 0) => self
                    .open
                    .as_ref()
                    .is_some_and(|open| open.row() == rows.row(0)),
                (Some(rows), row) => rows.row(row) == rows.row(row - 1),
            };
            let joined = same_key
                && self.lasts.last().is_some_and(|last| {
                    starts[row] <= *last || joins(*last, starts[row], self.rule.gap)
                });
            if joined {
                if let Some(last) = self.lasts.last_mut() {
                    *last = lasts[row].max(*last);
                }
            } else {
                self.starts.push(starts[row]);
                self.lasts.push(lasts[row]);
                first_rows.push(u32::try_from(row).unwrap_or(u32::MAX));
            }
            groups.push(self.starts.len() - 1);
        }
        if let (Some(rows), false) = (&rows, batch.num_rows() == 0) {
            self.open = Some(rows.row(batch.num_rows() - 1).owned());
        }
        let first_rows = UInt32Array::from(first_rows);
        for (pieces, key) in self.keys.iter_mut().zip(keys) {
            pieces.push(take(key, &first_rows, None)?);
        }
        self.accumulators
            .merge(&batch.columns()[width + 2..], &groups, self.starts.len())
    }

    /// The sessions that are complete: all, or all but the last.
    fn emit(&mut self, is_end: bool) -> Result<Option<RecordBatch>> {
        let compute = self.metrics.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let held = self.starts.len();
        let count = if is_end { held } else { held.saturating_sub(1) };
        if count == 0 {
            return Ok(None);
        }
        let emit = if is_end {
            EmitTo::All
        } else {
            EmitTo::First(count)
        };
        let starts: Vec<i64> = self.starts.drain(..count).collect();
        let lasts: Vec<i64> = self.lasts.drain(..count).collect();
        let mut keys = Vec::with_capacity(self.keys.len());
        for pieces in &mut self.keys {
            let refs: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            let all = concat(&refs)?;
            *pieces = vec![all.slice(count, all.len() - count)];
            keys.push(all.slice(0, count));
        }
        let results = self.accumulators.evaluate(emit)?;
        self.metrics.sessions.add(count);
        self.metrics.baseline.record_output(count);
        output_batch(&self.rule, &keys, starts, lasts, &self.time_type, results).map(Some)
    }
}
