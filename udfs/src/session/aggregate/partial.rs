//! The first half: rows of one partition to intervals with partial states.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, exec_datafusion_err, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PhysicalExpr, PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::accumulators::{Accumulators, SessionAggregateExpr, state_fields};
use super::intervals::Intervals;
use crate::diagnostic::refuse_null_event_times;
use crate::window::{column_name, ticks, timestamps};

/// Aggregates each partition by interval of event time per key.
///
/// Output: the keys, first and last event time of an interval, the aggregates' partial states. Intervals of a key may touch:
/// they are merged by [`SessionMergeExec`](super::SessionMergeExec). When memory is refused, what there is leaves early.
#[derive(Debug, Clone)]
pub struct SessionPartialExec {
    input: Arc<dyn ExecutionPlan>,
    rule: PartialRule,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What is aggregated by what.
#[derive(Debug, Clone)]
pub(super) struct PartialRule {
    pub(super) keys: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) event_time: Arc<dyn PhysicalExpr>,
    pub(super) gap: i64,
    pub(super) aggregates: Vec<SessionAggregateExpr>,
}

impl SessionPartialExec {
    pub(super) fn try_new(input: Arc<dyn ExecutionPlan>, rule: PartialRule) -> Result<Self> {
        let schema = partial_schema(&rule, &input.schema())?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            input.boundedness(),
        );
        Ok(Self {
            input,
            rule,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

/// Keys, `interval_start`, `interval_last`, states.
fn partial_schema(rule: &PartialRule, input: &SchemaRef) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = Vec::new();
    for (number, key) in rule.keys.iter().enumerate() {
        let data_type = key.data_type(input)?;
        fields.push(Arc::new(Field::new(
            format!("key{number}"),
            data_type,
            true,
        )));
    }
    let time = rule.event_time.data_type(input)?;
    for name in ["interval_start", "interval_last"] {
        fields.push(Arc::new(Field::new(name, time.clone(), false)));
    }
    fields.extend(state_fields(&rule.aggregates)?);
    Ok(Arc::new(Schema::new(fields)))
}

impl DisplayAs for SessionPartialExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.rule.keys.iter().map(ToString::to_string).collect();
        let aggregates: Vec<_> = self
            .rule
            .aggregates
            .iter()
            .map(|aggregate| aggregate.function.name().to_owned())
            .collect();
        write!(
            f,
            "SessionPartialExec: keys=[{}], event_time={}, gap={}, aggr=[{}]",
            keys.join(", "),
            self.rule.event_time,
            self.rule.gap,
            aggregates.join(", ")
        )
    }
}

impl ExecutionPlan for SessionPartialExec {
    fn name(&self) -> &str {
        "SessionPartialExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.rule.keys.iter().chain([&self.rule.event_time]), f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("SessionPartialExec takes one child");
        };
        Ok(Arc::new(Self::try_new(input, self.rule.clone())?))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let schema = self.schema();
        let aggregation = Aggregation::try_new(
            self.rule.clone(),
            &input.schema(),
            Arc::clone(&schema),
            &context,
            BaselineMetrics::new(&self.metrics, partition),
            partition,
        )?;
        let steps = stream::try_unfold(Some((aggregation, input)), |state| async move {
            let Some((mut aggregation, mut input)) = state else {
                return Ok(None);
            };
            while let Some(batch) = input.next().await {
                if !aggregation.push(&batch?)? {
                    let batches = aggregation.emit()?;
                    return Ok(Some((batches, Some((aggregation, input)))));
                }
            }
            let batches = aggregation.emit()?;
            Ok::<_, DataFusionError>(Some((batches, None)))
        });
        let output = steps
            .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, output)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The intervals of one partition and what is aggregated over them.
struct Aggregation {
    rule: PartialRule,
    schema: SchemaRef,
    key_schema: SchemaRef,
    time_type: DataType,
    keys: Option<Box<dyn GroupValues>>,
    intervals: Intervals,
    accumulators: Accumulators,
    key_ids: Vec<usize>,
    groups: Vec<usize>,
    reservation: MemoryReservation,
    batch_size: usize,
    baseline: BaselineMetrics,
}

impl Aggregation {
    fn try_new(
        rule: PartialRule,
        input: &SchemaRef,
        schema: SchemaRef,
        context: &TaskContext,
        baseline: BaselineMetrics,
        partition: usize,
    ) -> Result<Self> {
        let key_fields: Vec<FieldRef> = schema.fields()[..rule.keys.len()].to_vec();
        let key_schema = Arc::new(Schema::new(key_fields));
        let reservation = MemoryConsumer::new(format!("SessionPartialExec[{partition}]"))
            .with_can_spill(true)
            .register(context.memory_pool());
        Ok(Self {
            keys: new_keys(&key_schema)?,
            intervals: Intervals::new(rule.gap),
            accumulators: Accumulators::try_new(&rule.aggregates)?,
            time_type: rule.event_time.data_type(input)?,
            key_schema,
            schema,
            rule,
            key_ids: vec![],
            groups: vec![],
            reservation,
            batch_size: context.session_config().batch_size(),
            baseline,
        })
    }

    /// Takes a batch in. False if there is no memory for more.
    fn push(&mut self, batch: &RecordBatch) -> Result<bool> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(true);
        }
        let compute = self.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let times = self.rule.event_time.evaluate(batch)?.into_array(rows)?;
        refuse_null_event_times(&times, &column_name(&self.rule.event_time.to_string()))?;
        let times = ticks(&times)?;
        match &mut self.keys {
            Some(keys) => {
                let columns = self
                    .rule
                    .keys
                    .iter()
                    .map(|key| key.evaluate(batch)?.into_array(rows))
                    .collect::<Result<Vec<_>>>()?;
                keys.intern(&columns, &mut self.key_ids)?;
                self.intervals.grow_keys(keys.len());
            }
            None => {
                self.key_ids.clear();
                self.key_ids.resize(rows, 0);
                self.intervals.grow_keys(1);
            }
        }
        self.groups.clear();
        for (key, tick) in self.key_ids.iter().zip(times.iter()) {
            let interval = self
                .intervals
                .place(*key, *tick)
                .ok_or_else(|| exec_datafusion_err!("too many sessions"))?;
            self.groups.push(interval);
        }
        self.accumulators
            .update(batch, &self.groups, self.intervals.len())?;
        let size = self.intervals.size()
            + self.accumulators.size()
            + self.keys.as_ref().map_or(0, |keys| keys.size());
        Ok(self.reservation.try_resize(size).is_ok())
    }

    /// The intervals so far, which are forgotten.
    fn emit(&mut self) -> Result<Vec<RecordBatch>> {
        let compute = self.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let intervals = std::mem::replace(&mut self.intervals, Intervals::new(self.rule.gap));
        let rows = intervals.len();
        if rows == 0 {
            return Ok(vec![]);
        }
        let (interval_keys, starts, lasts) = intervals.into_parts();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        if let Some(keys) = &mut self.keys {
            let places = UInt32Array::from(interval_keys);
            for (values, field) in keys.emit(EmitTo::All)?.iter().zip(self.key_schema.fields()) {
                let values = take(values, &places, None)?;
                columns.push(arrow::compute::cast(&values, field.data_type())?);
            }
        }
        columns.push(timestamps(ScalarBuffer::from(starts), &self.time_type)?);
        columns.push(timestamps(ScalarBuffer::from(lasts), &self.time_type)?);
        columns.extend(self.accumulators.states()?);
        let all = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.keys = new_keys(&self.key_schema)?;
        self.accumulators = Accumulators::try_new(&self.rule.aggregates)?;
        self.reservation.free();
        self.baseline.record_output(rows);
        let pieces = (0..rows).step_by(self.batch_size.max(1));
        Ok(pieces
            .map(|from| all.slice(from, self.batch_size.min(rows - from)))
            .collect())
    }
}

/// Numbers the values of key columns; none if there are no keys.
pub(crate) fn new_keys(schema: &SchemaRef) -> Result<Option<Box<dyn GroupValues>>> {
    if schema.fields().is_empty() {
        return Ok(None);
    }
    new_group_values(Arc::clone(schema), &GroupOrdering::None).map(Some)
}
