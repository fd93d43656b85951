//! The operator that says from which window on a row of a slice counts, and gives what is late to the side output (TIME-2).

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{filter_record_batch, take_arrays};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{ReplaceChildrenOptions, apply_expression_roots};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use futures::StreamExt;

use crate::children::{only_child, replaces_children};
use crate::diagnostic::out_of_range;
use crate::side_output::{LateColumns, SideOutput};
use crate::window::{Slices, ticks, timestamps};

/// The column that the operator appends.
pub const FIRST_WINDOW_END: &str = "first_window_end";

/// The columns with a row's slice, and its watermark.
#[derive(Debug, Clone)]
pub struct SliceRule {
    /// The slices.
    pub slices: Slices,
    /// The column with the start of a row's slice.
    pub start: usize,
    /// The column with its end.
    pub end: usize,
    /// Computes the watermark that a row met, as BIGINT in the event time's unit; the lowest number means no watermark.
    pub watermark: Arc<dyn PhysicalExpr>,
}

/// Passes each row on once, with the end of the first window that it counts for: the first that has its slice and ends after
/// the watermark that the row met. For each window before that, the row goes to the side output of the task, with the window in the
/// place of the slice.
///
/// Schema: the input's columns, then [`FIRST_WINDOW_END`] of the slice's type, not null.
#[derive(Debug, Clone)]
pub struct SliceRowsExec {
    input: Arc<dyn ExecutionPlan>,
    rule: SliceRule,
    late: LateColumns,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl SliceRowsExec {
    /// Rows of `input`; side output has `late` of those that are late.
    pub fn new(input: Arc<dyn ExecutionPlan>, rule: SliceRule, late: LateColumns) -> Self {
        let schema = input.schema();
        let time = schema.field(rule.start).data_type().clone();
        let mut fields = schema.fields().to_vec();
        fields.push(Arc::new(Field::new(FIRST_WINDOW_END, time, false)));
        let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
        let properties = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            properties.output_partitioning().clone(),
            properties.emission_type,
            properties.boundedness,
        );
        Self {
            input,
            rule,
            late,
            schema,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for SliceRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows = self.rule.slices.windows();
        write!(
            f,
            "SliceRowsExec: windows of {} size={} that end after {}",
            windows.kind(),
            windows.size(),
            self.rule.watermark
        )
    }
}

impl ExecutionPlan for SliceRowsExec {
    fn name(&self) -> &str {
        "SliceRowsExec"
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

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let rule = [&self.rule.watermark];
        apply_expression_roots(rule.into_iter().chain(self.late.exprs()), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("SliceRowsExec", children)?;
        Ok(Arc::new(Self::new(
            input,
            self.rule.clone(),
            self.late.clone(),
        )))
    }

    replaces_children!();

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let side = SideOutput::of(&context)?;
        let batch_size = context.session_config().batch_size().max(1);
        let input = self.input.execute(partition, context)?;
        let (rule, late) = (self.rule.clone(), self.late.clone());
        let schema = Arc::clone(&self.schema);
        let output = input.map(move |batch| {
            let batch = batch?;
            let (passed, missed) = rule.pass(&batch, &schema)?;
            // A row may have missed thousands of windows: no array is made of the rows of all of them.
            for missed in missed.in_parts(batch_size) {
                let missed = rule.missed(&batch, missed)?;
                side.give(late.side_rows(&missed)?)?;
            }
            Ok(passed)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            output,
        )))
    }
}

/// Rows of a batch that are late, each once for each window that it has missed.
#[derive(Debug, Default)]
struct Missed {
    rows: Vec<u32>,
    /// The windows, by number.
    windows: Vec<i64>,
}

impl Missed {
    /// The same in parts of so many rows, and a last one of fewer.
    fn in_parts(&self, rows: usize) -> impl Iterator<Item = (&[u32], &[i64])> {
        self.rows.chunks(rows).zip(self.windows.chunks(rows))
    }
}

impl SliceRule {
    /// The rows that count for a window, and those that are late for one.
    fn pass(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<(RecordBatch, Missed)> {
        let rows = batch.num_rows();
        let starts = batch.column(self.start);
        if starts.null_count() > 0 {
            // NULL-1: a source that tracks event time removes such rows before they come here.
            return Err(exec_datafusion_err!("a row without an event time"));
        }
        let time = starts.data_type().clone();
        let watermarks = self.watermark.evaluate(batch)?.into_array(rows)?;
        let watermarks = watermarks.as_primitive::<Int64Type>().values();
        let mut first_ends = Vec::with_capacity(rows);
        let mut is_late = vec![false; rows];
        let mut missed = Missed::default();
        let mut known = None;
        for (row, (start, watermark)) in (0_u32..).zip(ticks(starts)?.iter().zip(watermarks)) {
            // Neighbouring rows are mostly in one slice.
            let (of, first_end) = match known {
                Some((of_start, of, first_end)) if of_start == *start => (of, first_end),
                _ => self
                    .windows(*start)
                    .ok_or_else(|| out_of_range(batch.schema().field(self.start).name()))?,
            };
            known = Some((*start, of, first_end));
            if first_end > *watermark {
                first_ends.push(first_end);
                continue;
            }
            let open = self.slices.ended(None, Some(*watermark)).end.min(of.1);
            missed.rows.extend((of.0..open).map(|_| row));
            missed.windows.extend(of.0..open);
            is_late[row as usize] = open == of.1;
            first_ends.push(self.slices.start(open).unwrap_or(i64::MAX));
        }
        let mut columns = batch.columns().to_vec();
        columns.push(timestamps(ScalarBuffer::from(first_ends), &time)?);
        let passed = RecordBatch::try_new(Arc::clone(schema), columns)?;
        if missed.rows.is_empty() {
            return Ok((passed, missed));
        }
        let in_time: BooleanArray = is_late.iter().map(|is_late| Some(!is_late)).collect();
        Ok((filter_record_batch(&passed, &in_time)?, missed))
    }

    /// The windows of the slice that begins at `start`, from the first one up to the one after the last, and the end of the
    /// first.
    fn windows(&self, start: i64) -> Option<((i64, i64), i64)> {
        let windows = self.slices.windows_of(self.slices.number(start)?)?;
        let first_end = self.slices.start(windows.start)?;
        Some(((windows.start, windows.end), first_end))
    }

    /// The rows of a batch with these windows instead of their slices.
    fn missed(
        &self,
        batch: &RecordBatch,
        (rows, windows): (&[u32], &[i64]),
    ) -> Result<RecordBatch> {
        let time = batch.column(self.start).data_type();
        let bound = |tick: Option<i64>| {
            tick.ok_or_else(|| out_of_range(batch.schema().field(self.start).name()))
        };
        let column =
            |ticks: Vec<i64>| -> Result<ArrayRef> { timestamps(ScalarBuffer::from(ticks), time) };
        let starts = windows.iter().map(|window| {
            let first = self.slices.first_slice(*window);
            bound(first.and_then(|first| self.slices.start(first)))
        });
        let starts = column(starts.collect::<Result<_>>()?)?;
        let ends = windows
            .iter()
            .map(|window| bound(self.slices.start(*window)));
        let ends = column(ends.collect::<Result<_>>()?)?;
        let mut columns = take_arrays(batch.columns(), &UInt32Array::from(rows.to_vec()), None)?;
        columns[self.start] = starts;
        columns[self.end] = ends;
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::config::SessionConfig;
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_plan::collect;

    use super::*;
    use crate::window::{AlignedWindows, WINDOW_END, WINDOW_START, WindowKind};

    #[tokio::test]
    async fn safe_1_rows_that_missed_many_windows_are_given_in_small_batches() {
        const WINDOWS: i64 = 1_000;
        let windows = AlignedWindows::try_new(WindowKind::Hop, WINDOWS, 1, 0).unwrap();
        // The first row is late for all its windows, the second for the first 100, the third for none.
        let starts = vec![0, WINDOWS, 3 * WINDOWS];
        let watermark = WINDOWS + 100;
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let times = |ticks: Vec<i64>| timestamps(ScalarBuffer::from(ticks), &time).unwrap();
        let ends = starts.iter().map(|start| start + 1).collect();
        let watermarks: ArrayRef = Arc::new(Int64Array::from(vec![watermark; 3]));
        let rows = RecordBatch::try_from_iter([
            ("start", times(starts)),
            ("end", times(ends)),
            ("watermark", watermarks),
        ])
        .unwrap();
        let schema = rows.schema();
        let rule = SliceRule {
            slices: windows.slices().unwrap(),
            start: 0,
            end: 1,
            watermark: col("watermark", &schema).unwrap(),
        };
        let late = LateColumns::new(vec![
            (WINDOW_START.to_owned(), col("start", &schema).unwrap()),
            (WINDOW_END.to_owned(), col("end", &schema).unwrap()),
        ]);
        let input = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None).unwrap();
        let plan = Arc::new(SliceRowsExec::new(input, rule, late));
        let side = Arc::new(SideOutput::default());
        let config = SessionConfig::new().with_batch_size(64);
        let config = config.with_extension(Arc::clone(&side));
        let context = Arc::new(TaskContext::default().with_session_config(config));
        let passed = collect(plan, context).await.unwrap();
        let passed: usize = passed.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(passed, 2);
        let given = side.take();
        assert!(given.iter().all(|given| given.num_rows() <= 64));
        let ends = given.iter().flat_map(|given| {
            let ends = given.column_by_name(WINDOW_END).unwrap();
            let ends = ends.as_primitive::<TimestampMicrosecondType>();
            ends.values().to_vec()
        });
        let ends: Vec<i64> = ends.collect();
        let missed = (1..=WINDOWS).chain(WINDOWS + 1..=watermark);
        assert_eq!(ends, missed.collect::<Vec<_>>());
    }
}
