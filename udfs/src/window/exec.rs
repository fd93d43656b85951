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
    EmissionType, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr,
    PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{AlignedWindows, WindowKind, ticks, timestamps};
use crate::children::{only_child, replaces_children};
use crate::diagnostic::{out_of_range, refuse_null_event_times};

/// Appends `window_start` and `window_end`, and repeats a row for each window that contains it.
#[derive(Debug, Clone)]
pub struct EventWindowExec {
    input: Arc<dyn ExecutionPlan>,
    event_time: Arc<dyn PhysicalExpr>,
    windows: AlignedWindows,
    /// The ends of the windows that are assigned; none if all are.
    ends: Option<(i64, i64)>,
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
            ends: None,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same with those windows alone that end in this range, the last tick of it excluded; `None` stands for all.
    pub(crate) fn with_ends_in(mut self, ends: Option<(i64, i64)>) -> Self {
        self.ends = ends;
        self
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
        )?;
        match self.ends {
            Some((from, to)) => write!(f, ", ends={from}..{to}"),
            None => Ok(()),
        }
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
        let window = Self::new(
            input,
            Arc::clone(&self.event_time),
            self.windows,
            Arc::clone(&self.schema),
        );
        Ok(Arc::new(window.with_ends_in(self.ends)))
    }

    replaces_children!();

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let assigner = Assigner {
            event_time: Arc::clone(&self.event_time),
            windows: self.windows,
            ends: self.ends,
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
    ends: Option<(i64, i64)>,
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
        let is_each_row_once = self.windows.kind() == WindowKind::Tumble && self.ends.is_none();
        for (row, tick) in (0_u32..).zip(ticks(&event_times)?.iter()) {
            let before = ends.len();
            let mut count = self
                .windows
                .assign(*tick, &mut starts, &mut ends)
                .ok_or_else(|| out_of_range(&column_name(&name())))?;
            if let Some((from, to)) = self.ends {
                // They ascend.
                let of_row = ends.get(before..).unwrap_or_default();
                let first = before + of_row.partition_point(|end| *end < from);
                let last = before + of_row.partition_point(|end| *end < to);
                for bounds in [&mut starts, &mut ends] {
                    bounds.truncate(last.max(first));
                    bounds.drain(before..first);
                }
                count = ends.len() - before;
            }
            if !is_each_row_once {
                rows.extend(std::iter::repeat_n(row, count));
            }
        }
        let mut columns: Vec<ArrayRef> = if is_each_row_once {
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

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    #[test]
    fn windows_that_end_elsewhere_are_not_assigned() {
        let time = |name: &str| {
            let of_type = DataType::Timestamp(TimeUnit::Microsecond, None);
            Field::new(name, of_type, false)
        };
        let input = Arc::new(Schema::new(vec![time("t")]));
        let columns = vec![time("t"), time("window_start"), time("window_end")];
        let times = TimestampMicrosecondArray::from_iter_values([-3, 5, 12, 40]);
        let batch = RecordBatch::try_new(input, vec![Arc::new(times)]).unwrap();
        for (kind, size, step, expected) in [
            (WindowKind::Tumble, 10, 10, vec![(5, 0, 10), (12, 10, 20)]),
            (
                WindowKind::Hop,
                30,
                10,
                vec![
                    (-3, -20, 10),
                    (-3, -10, 20),
                    (5, -20, 10),
                    (5, -10, 20),
                    (12, -10, 20),
                ],
            ),
            (
                WindowKind::Cumulate,
                30,
                10,
                vec![(5, 0, 10), (5, 0, 20), (12, 0, 20)],
            ),
        ] {
            let assigner = Assigner {
                event_time: Arc::new(Column::new("t", 0)),
                windows: AlignedWindows::try_new(kind, size, step, 0).unwrap(),
                ends: Some((1, 21)),
                schema: Arc::new(Schema::new(columns.clone())),
            };
            let assigned = assigner.assign(&batch).unwrap();
            let column = |index: usize| {
                let ticks = arrow::compute::cast(assigned.column(index), &DataType::Int64);
                ticks.unwrap().as_primitive::<Int64Type>().values().to_vec()
            };
            let (times, starts, ends) = (column(0), column(1), column(2));
            let bounds = starts.into_iter().zip(ends);
            let found: Vec<_> = times
                .into_iter()
                .zip(bounds)
                .map(|(time, (start, end))| (time, start, end))
                .collect();
            assert_eq!(found, expected, "{kind}");
        }
    }
}
