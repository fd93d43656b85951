//! Partial step: from the rows of one partition to intervals with partial states.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{
    EmissionType, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PhysicalExpr, PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::accumulators::state_fields;
use super::aggregation::{IntervalAggregation, PartialRule, key_schema};
use crate::children::{only_child, replaces_children};
use crate::window::timestamps;

/// Aggregates each partition by interval of event time per key.
///
/// Output: the keys, first and last event time of an interval, the aggregates' partial states. Intervals of a key may touch:
/// [`SessionMergeExec`](super::SessionMergeExec) merges them. If a reservation fails, the operator outputs its intervals early.
#[derive(Debug, Clone)]
pub struct SessionPartialExec {
    input: Arc<dyn ExecutionPlan>,
    rule: PartialRule,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SessionPartialExec {
    pub(crate) fn try_new(input: Arc<dyn ExecutionPlan>, rule: PartialRule) -> Result<Self> {
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
    let mut fields: Vec<FieldRef> = key_schema(&rule.keys, input)?.fields().to_vec();
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
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("SessionPartialExec", children)?;
        Ok(Arc::new(Self::try_new(input, self.rule.clone())?))
    }

    replaces_children!();

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let schema = self.schema();
        let aggregation = PartialAggregation::try_new(
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

/// The aggregation of one partition, within the memory it may take.
struct PartialAggregation {
    inner: IntervalAggregation,
    schema: SchemaRef,
    reservation: MemoryReservation,
    batch_size: usize,
    baseline: BaselineMetrics,
}

impl PartialAggregation {
    fn try_new(
        rule: PartialRule,
        input: &SchemaRef,
        schema: SchemaRef,
        context: &TaskContext,
        baseline: BaselineMetrics,
        partition: usize,
    ) -> Result<Self> {
        let reservation = MemoryConsumer::new(format!("SessionPartialExec[{partition}]"))
            .with_can_spill(true)
            .register(context.memory_pool());
        Ok(Self {
            inner: IntervalAggregation::try_new(rule, input, None)?,
            schema,
            reservation,
            batch_size: context.session_config().batch_size(),
            baseline,
        })
    }

    /// Adds a batch. Returns false if there is no memory for more.
    fn push(&mut self, batch: &RecordBatch) -> Result<bool> {
        let compute = self.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        self.inner.push(batch)?;
        Ok(self.reservation.try_resize(self.inner.size()).is_ok())
    }

    /// Returns and drops the intervals so far.
    fn emit(&mut self) -> Result<Vec<RecordBatch>> {
        let compute = self.baseline.elapsed_compute().clone();
        let _timer = compute.timer();
        let Some(intervals) = self.inner.take()? else {
            return Ok(vec![]);
        };
        let rows = intervals.starts.len();
        let places = UInt32Array::from(intervals.keys);
        let fields = self.schema.fields();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.len());
        for values in &intervals.key_values {
            columns.push(take(values, &places, None)?);
        }
        let time_type = fields[columns.len()].data_type();
        columns.push(timestamps(ScalarBuffer::from(intervals.starts), time_type)?);
        columns.push(timestamps(ScalarBuffer::from(intervals.lasts), time_type)?);
        columns.extend(intervals.states);
        let all = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.reservation.free();
        self.baseline.record_output(rows);
        let pieces = (0..rows).step_by(self.batch_size.max(1));
        Ok(pieces
            .map(|from| all.slice(from, self.batch_size.min(rows - from)))
            .collect())
    }
}
