//! Physical operator of TUMBLE, HOP and CUMULATE: vectorized, and keeps the order of rows.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_arrays;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr,
    PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{AlignedWindows, WindowKind, ticks, timestamps};
use crate::children::only_child;
use crate::diagnostic::{out_of_range, refuse_null_event_times};

/// Appends `window_start` and `window_end`, and repeats a row for each window that contains it.
#[derive(Debug, Clone)]
pub struct EventWindowExec {
    input: Arc<dyn ExecutionPlan>,
    event_time: Arc<dyn PhysicalExpr>,
    windows: AlignedWindows,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl EventWindowExec {
    /// An operator with output `schema`: the input's columns and the two window columns.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        event_time: Arc<dyn PhysicalExpr>,
        windows: AlignedWindows,
        schema: SchemaRef,
    ) -> Self {
        let orderings: Vec<_> = input
            .properties()
            .equivalence_properties()
            .oeq_class()
            .iter()
            .map(|ordering| ordering.iter().cloned().collect::<Vec<_>>())
            .collect();
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(Arc::clone(&schema), orderings),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            input.boundedness(),
        );
        Self {
            input,
            event_time,
            windows,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for EventWindowExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows = &self.windows;
        write!(
            f,
            "EventWindowExec: {} event_time={}, size={}, step={}, offset={}",
            windows.kind(),
            self.event_time,
            windows.size(),
            windows.step(),
            windows.offset()
        )
    }
}

impl ExecutionPlan for EventWindowExec {
    fn name(&self) -> &str {
        "EventWindowExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![self.windows.kind() != WindowKind::Tumble]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots([&self.event_time], f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("EventWindowExec", children)?;
        Ok(Arc::new(Self::new(
            input,
            Arc::clone(&self.event_time),
            self.windows,
            Arc::clone(&self.schema),
        )))
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
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let assigner = Assigner {
            event_time: Arc::clone(&self.event_time),
            windows: self.windows,
            schema: Arc::clone(&self.schema),
        };
        // A row becomes up to `windows_per_row` rows: cut the input so that the output keeps to
        // the session's batch size.
        let per_row = usize::try_from(self.windows.windows_per_row()).unwrap_or(usize::MAX);
        let chunk = (context.session_config().batch_size() / per_row).max(1);
        let output = self
            .input
            .execute(partition, context)?
            .map_ok(move |batch| stream::iter(slices(&batch, chunk).map(Ok)))
            .try_flatten()
            .map(move |batch: Result<RecordBatch>| {
                let _timer = metrics.elapsed_compute().timer();
                let windowed = assigner.assign(&batch?)?;
                metrics.record_output(windowed.num_rows());
                Ok(windowed)
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            output,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// `batch` in pieces of at most `rows` rows; at least one piece.
fn slices(batch: &RecordBatch, rows: usize) -> impl Iterator<Item = RecordBatch> + use<> {
    let batch = batch.clone();
    (0..batch.num_rows().max(1))
        .step_by(rows)
        .map(move |start| batch.slice(start, rows.min(batch.num_rows() - start)))
}

struct Assigner {
    event_time: Arc<dyn PhysicalExpr>,
    windows: AlignedWindows,
    schema: SchemaRef,
}

impl Assigner {
    fn assign(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let event_times = self
            .event_time
            .evaluate(batch)?
            .into_array(batch.num_rows())?;
        let name = || self.event_time.to_string();
        refuse_null_event_times(&event_times, &column_name(&name()))?;
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        let mut rows: Vec<u32> = Vec::new();
        for (row, tick) in (0_u32..).zip(ticks(&event_times)?.iter()) {
            let count = self
                .windows
                .assign(*tick, &mut starts, &mut ends)
                .ok_or_else(|| out_of_range(&column_name(&name())))?;
            if self.windows.kind() != WindowKind::Tumble {
                rows.extend(std::iter::repeat_n(row, count));
            }
        }
        let mut columns: Vec<ArrayRef> = if self.windows.kind() == WindowKind::Tumble {
            batch.columns().to_vec()
        } else {
            take_arrays(batch.columns(), &UInt32Array::from(rows), None)?
        };
        columns.push(timestamps(
            ScalarBuffer::from(starts),
            event_times.data_type(),
        )?);
        columns.push(timestamps(
            ScalarBuffer::from(ends),
            event_times.data_type(),
        )?);
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// A physical column displays as `name@index`: a user only needs the name.
pub(crate) fn column_name(display: &str) -> String {
    match display.rsplit_once('@') {
        Some((name, index)) if index.chars().all(|c| c.is_ascii_digit()) => name.to_owned(),
        _ => display.to_owned(),
    }
}
