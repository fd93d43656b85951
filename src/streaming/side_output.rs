//! The two operators through which side output leaves a task: late rows, dead letters, and reports of what scans have reached.
//!
//! [`SideOutputExec`] stands at the top of what may run in another process. It has a partition more than its input, and gives in it
//! what operators below gave to the task's [`SideOutput`]: as rows, in a column that is NULL in all other rows. The
//! [`SplitSideOutputExec`] above it stays with the runner of the job: it takes these rows out again.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use anabranch_udfs::{SideOutput, has_no_expressions, only_child, side_schema};
use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, RecordBatch, RecordBatchOptions, StructArray,
    new_null_array,
};
use datafusion::arrow::compute::{filter_record_batch, is_not_null, is_null};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;

use crate::streaming::drain::read_to_end;

/// The column with side output.
const SIDE_COLUMN: &str = "__side_output";

/// Side output of no row, for a batch of so many rows. It is made once for batches of the usual size.
fn no_side_output(rows: usize) -> ArrayRef {
    const USUAL: usize = 8_192;
    static NONE: LazyLock<ArrayRef> = LazyLock::new(|| new_null_array(&side_type(), USUAL));
    match rows <= USUAL {
        true => NONE.slice(0, rows),
        false => new_null_array(&side_type(), rows),
    }
}

/// Gives the rows of its input, and the side output of its task in a last partition.
///
/// Schema: the input's columns, which may be NULL, then a column of [`side_schema`] that is NULL in the input's rows. The last
/// partition waits for the others, reads what they left unread below [`DrainExec`](crate::streaming::drain::DrainExec), and ends the task.
#[derive(Debug)]
pub struct SideOutputExec {
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    run: Arc<PlanExecution>,
}

/// One execution of all partitions.
#[derive(Debug)]
struct PlanExecution {
    begun: Mutex<StartedExecution>,
    /// Partitions of the input that have not come to their end.
    open: watch::Sender<usize>,
}

#[derive(Debug)]
struct StartedExecution {
    /// The context of the task, with its side output.
    task: Option<(Arc<TaskContext>, Arc<SideOutput>)>,
    partitions: Vec<bool>,
}

impl SideOutputExec {
    /// Over `input`.
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = partitions(&input);
        let columns = input.schema();
        let mut fields: Vec<FieldRef> = columns
            .fields()
            .iter()
            .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)))
            .collect();
        fields.push(Arc::new(Field::new(SIDE_COLUMN, side_type(), true)));
        let schema = Arc::new(Schema::new_with_metadata(
            fields,
            columns.metadata().clone(),
        ));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions + 1),
            EmissionType::Incremental,
            input.properties().boundedness,
        );
        Self {
            input,
            schema,
            properties: Arc::new(properties),
            run: Arc::new(PlanExecution {
                begun: Mutex::new(StartedExecution {
                    task: None,
                    partitions: vec![false; partitions + 1],
                }),
                open: watch::Sender::new(partitions),
            }),
        }
    }
}

fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.properties().partitioning.partition_count()
}

fn side_type() -> DataType {
    DataType::Struct(side_schema().fields().clone())
}

impl PlanExecution {
    /// A partition begins: gives the context in which it runs.
    fn begin(
        &self,
        partition: usize,
        context: &Arc<TaskContext>,
    ) -> Result<(Arc<TaskContext>, Arc<SideOutput>)> {
        let mut begun = lock(&self.begun);
        match begun.partitions.get_mut(partition) {
            Some(has_begun) if !*has_begun => *has_begun = true,
            Some(_) => return internal_err!("SideOutputExec runs partition {partition} twice"),
            None => return internal_err!("SideOutputExec has no partition {partition}"),
        }
        let task = begun.task.get_or_insert_with(|| {
            let output = Arc::new(SideOutput::default());
            (with_side_output(context, &output), output)
        });
        Ok(task.clone())
    }
}

/// The same context with this side output.
fn with_side_output(context: &TaskContext, output: &Arc<SideOutput>) -> Arc<TaskContext> {
    let config = context.session_config().clone();
    Arc::new(TaskContext::new(
        context.task_id(),
        context.session_id(),
        config.with_extension(Arc::clone(output)),
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        context.runtime_env(),
    ))
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says when it is dropped that a partition has come to its end, or is not read any further.
struct OpenPartition(Arc<PlanExecution>);

impl Drop for OpenPartition {
    fn drop(&mut self) {
        self.0
            .open
            .send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// The schema of these columns. An operator may give a column of another type than it has declared, for instance a list whose
/// items may be NULL: it passes as it would without this operator.
fn as_given(schema: &SchemaRef, columns: &[ArrayRef]) -> SchemaRef {
    let fields = || schema.fields().iter().zip(columns);
    if fields().all(|(field, column)| field.data_type() == column.data_type()) {
        return Arc::clone(schema);
    }
    let fields = fields().map(|(field, column)| -> FieldRef {
        let data_type = column.data_type().clone();
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    });
    Arc::new(Schema::new_with_metadata(
        fields.collect::<Vec<_>>(),
        schema.metadata().clone(),
    ))
}

/// The rows of a partition of the input, with the column of side output.
struct InputRows {
    schema: SchemaRef,
    /// Dropped at the end, the stream before what says so.
    input: Option<(SendableRecordBatchStream, OpenPartition)>,
}

impl InputRows {
    fn widened(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        columns.push(no_side_output(rows.num_rows()));
        Ok(RecordBatch::try_new(
            as_given(&self.schema, &columns),
            columns,
        )?)
    }
}

impl Stream for InputRows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((input, _)) = &mut self.input else {
            return Poll::Ready(None);
        };
        let Poll::Ready(polled) = input.poll_next_unpin(context) else {
            return Poll::Pending;
        };
        if !matches!(polled, Some(Ok(_))) {
            self.input = None;
        }
        Poll::Ready(polled.map(|rows| self.widened(&rows?)))
    }
}

impl RecordBatchStream for InputRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// Makes batches of side output: NULL in all columns but the last.
struct SideBatches {
    schema: SchemaRef,
    /// Rows of a batch. One row may be late for thousands of windows, and columns of NULL for all of them would be large; the pool
    /// does not know of them.
    rows: usize,
    /// The other columns, of so many rows.
    others: Vec<ArrayRef>,
}

impl SideBatches {
    fn new(schema: SchemaRef, rows: usize) -> Self {
        let rows = rows.max(1);
        let others = schema.fields().len().saturating_sub(1);
        let others = schema.fields().iter().take(others);
        let others = others.map(|field| new_null_array(field.data_type(), rows));
        Self {
            rows,
            others: others.collect(),
            schema,
        }
    }

    /// The batches of this side output; they share its memory.
    fn of(&self, side: &RecordBatch) -> impl Iterator<Item = Result<RecordBatch>> {
        let starts = (0..side.num_rows()).step_by(self.rows);
        starts.map(|start| {
            let rows = self.rows.min(side.num_rows() - start);
            let others = self.others.iter().map(|other| other.slice(0, rows));
            let mut columns: Vec<ArrayRef> = others.collect();
            columns.push(Arc::new(StructArray::from(side.slice(start, rows))));
            Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
        })
    }
}

impl DisplayAs for SideOutputExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SideOutputExec")
    }
}

impl ExecutionPlan for SideOutputExec {
    fn name(&self) -> &'static str {
        "SideOutputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    has_no_expressions!();

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("SideOutputExec", children)?;
        Ok(Arc::new(Self::new(input)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let (context, output) = self.run.begin(partition, &context)?;
        let schema = Arc::clone(&self.schema);
        if partition < partitions(&self.input) {
            let open = OpenPartition(Arc::clone(&self.run));
            let input = self.input.execute(partition, context)?;
            return Ok(Box::pin(InputRows {
                schema,
                input: Some((input, open)),
            }));
        }
        let (input, run) = (Arc::clone(&self.input), Arc::clone(&self.run));
        let of_rows = Arc::clone(&schema);
        let batch_size = context.session_config().batch_size();
        let side = async move {
            // The sender lives as long as `run` does, so that waiting cannot fail.
            let _ = run.open.subscribe().wait_for(|open| *open == 0).await;
            read_to_end(&input, &context).await?;
            let side = output.take();
            let longest = side.iter().map(RecordBatch::num_rows).max();
            let batches = SideBatches::new(schema, batch_size.min(longest.unwrap_or(0)));
            let side = futures::stream::iter(side).flat_map(move |side| {
                let side: Vec<Result<RecordBatch>> = batches.of(&side).collect();
                futures::stream::iter(side)
            });
            Ok::<_, DataFusionError>(side)
        };
        let side = futures::stream::once(side).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(of_rows, side)))
    }
}

/// Gives the rows of a plan below a [`SideOutputExec`], in the plan's own columns and partitions, and keeps its side output for
/// the runner.
///
/// It stays in the runner's process; what is below it may run elsewhere.
#[derive(Debug)]
pub struct SplitSideOutputExec {
    input: Arc<dyn ExecutionPlan>,
    /// Those of the plan below the operator that gives side output.
    properties: Arc<PlanProperties>,
    kept: Arc<KeptReports>,
}

#[derive(Debug)]
struct KeptReports {
    schema: SchemaRef,
    side: Mutex<Vec<RecordBatch>>,
    /// By partition of the rows.
    begun: Mutex<Vec<bool>>,
}

impl SplitSideOutputExec {
    /// `plan` with both operators above it.
    pub fn over(plan: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::clone(plan.properties());
        Self::new(Arc::new(SideOutputExec::new(plan)), properties)
    }

    fn new(input: Arc<dyn ExecutionPlan>, properties: Arc<PlanProperties>) -> Self {
        let kept = KeptReports {
            schema: Arc::clone(properties.eq_properties.schema()),
            side: Mutex::default(),
            begun: Mutex::new(vec![false; properties.partitioning.partition_count()]),
        };
        Self {
            input,
            properties,
            kept: Arc::new(kept),
        }
    }

    /// After its partitions have run: reads the rest of the plan, and gives its side output, in batches of [`side_schema`].
    ///
    /// # Errors
    ///
    /// What the rest of the plan says.
    pub async fn finish(&self, context: &Arc<TaskContext>) -> Result<Vec<RecordBatch>> {
        let rows = self.properties.partitioning.partition_count();
        for partition in 0..rows {
            let has_begun = lock(&self.kept.begun).get(partition).copied();
            if has_begun == Some(false) {
                drop(self.execute(partition, Arc::clone(context))?);
            }
        }
        for partition in rows..partitions(&self.input) {
            let mut rest = self.input.execute(partition, Arc::clone(context))?;
            while let Some(batch) = rest.next().await {
                if self.kept.split(&batch?)?.num_rows() > 0 {
                    return internal_err!("SplitSideOutputExec met rows among side output");
                }
            }
        }
        Ok(std::mem::take(&mut *lock(&self.kept.side)))
    }
}

impl KeptReports {
    /// The rows of a batch in the plan's own columns; its side output is kept.
    fn split(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let Some((side, _)) = batch.columns().split_last() else {
            return internal_err!("rows without a column of side output");
        };
        let rows = if side.null_count() == batch.num_rows() {
            batch.clone()
        } else {
            let Some(side) = side.as_struct_opt() else {
                return internal_err!("a column of side output that is not a struct");
            };
            let given = RecordBatch::try_new_with_options(
                side_schema(),
                side.columns().to_vec(),
                &RecordBatchOptions::new().with_row_count(Some(side.len())),
            )?;
            // Most batches have side output alone: it is kept as it is, without a copy.
            let kept = match side.null_count() {
                0 => given,
                _ => filter_record_batch(&given, &is_not_null(side)?)?,
            };
            lock(&self.side).push(kept);
            filter_record_batch(batch, &is_null(side)?)?
        };
        let own: Vec<usize> = (0..self.schema.fields().len()).collect();
        let rows = rows.project(&own)?;
        let declared = RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            rows.columns().to_vec(),
            &RecordBatchOptions::new().with_row_count(Some(rows.num_rows())),
        );
        // What an operator gives otherwise than it has declared passes as it is.
        Ok(declared.unwrap_or(rows))
    }
}

impl DisplayAs for SplitSideOutputExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SplitSideOutputExec")
    }
}

impl ExecutionPlan for SplitSideOutputExec {
    fn name(&self) -> &'static str {
        "SplitSideOutputExec"
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
        vec![false]
    }

    has_no_expressions!();

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("SplitSideOutputExec", children)?;
        Ok(Arc::new(Self::new(input, Arc::clone(&self.properties))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        match lock(&self.kept.begun).get_mut(partition) {
            Some(has_begun) => *has_begun = true,
            None => return internal_err!("SplitSideOutputExec has no partition {partition}"),
        }
        let input = self.input.execute(partition, context)?;
        let kept = Arc::clone(&self.kept);
        let rows = input.map(move |batch| kept.split(&batch?));
        let schema = Arc::clone(&self.kept.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::{Disposition, side_rows};
    use datafusion::arrow::array::{Int32Array, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::physical_plan::collect_partitioned;
    use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
    use datafusion::prelude::SessionConfig;

    use super::*;
    use crate::streaming::drain::DrainExec;

    /// Rows with the numbers from `first` to 2 behind it, each of its own batch. With each it gives a late row of that offset.
    #[derive(Debug)]
    struct Counting {
        schema: SchemaRef,
        first: i64,
    }

    impl PartitionStream for Counting {
        fn schema(&self) -> &SchemaRef {
            &self.schema
        }

        fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
            let output = SideOutput::of(&context);
            let schema = Arc::clone(&self.schema);
            let batches = futures::stream::iter(self.first..self.first + 3).map(move |number| {
                let column: ArrayRef = Arc::new(Int64Array::from(vec![number]));
                let late = side_rows(Disposition::Late, 1, &[("offset", Arc::clone(&column))])?;
                match &output {
                    Ok(output) => output.give(late)?,
                    Err(error) => return internal_err!("{error}"),
                }
                Ok(RecordBatch::try_new(Arc::clone(&schema), vec![column])?)
            });
            let schema = Arc::clone(&self.schema);
            Box::pin(RecordBatchStreamAdapter::new(schema, batches))
        }
    }

    fn plan(partitions: i64) -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, false)]));
        let partition = |number: i64| -> Arc<dyn PartitionStream> {
            Arc::new(Counting {
                schema: Arc::clone(&schema),
                first: 10 * number,
            })
        };
        let partitions = (0..partitions).map(partition).collect();
        let none: [datafusion::physical_expr::LexOrdering; 0] = [];
        let scan =
            StreamingTableExec::try_new(Arc::clone(&schema), partitions, None, none, false, None);
        Arc::new(DrainExec::new(Arc::new(scan.unwrap())))
    }

    fn numbers(batches: &[RecordBatch], column: &str) -> Vec<i64> {
        let mut numbers: Vec<i64> = batches
            .iter()
            .flat_map(|batch| {
                let column = batch.column_by_name(column).unwrap();
                column.as_primitive::<Int64Type>().values().to_vec()
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    const OF_TWO: [i64; 6] = [0, 1, 2, 10, 11, 12];

    #[tokio::test]
    async fn side_output_is_split_from_the_rows() {
        let inner = plan(2);
        let split = Arc::new(SplitSideOutputExec::over(Arc::clone(&inner)));
        assert_eq!(split.schema(), inner.schema());
        let context = Arc::new(TaskContext::default());
        let run = collect_partitioned(Arc::clone(&split) as _, Arc::clone(&context));
        let rows = run.await.unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(numbers(&rows.concat(), "v"), OF_TWO);
        let side = split.finish(&context).await.unwrap();
        assert_eq!(numbers(&side, "offset"), OF_TWO);
    }

    #[tokio::test]
    async fn the_last_partition_has_the_side_output_of_all_others() {
        // As another process would run it.
        let plan: Arc<dyn ExecutionPlan> = Arc::new(SideOutputExec::new(plan(2)));
        let run = collect_partitioned(Arc::clone(&plan), Arc::new(TaskContext::default()));
        let mut partitions = run.await.unwrap();
        assert_eq!(partitions.len(), 3);
        let side = partitions.pop().unwrap();
        assert_eq!(numbers(&partitions.concat(), "v"), OF_TWO);
        for batch in partitions.iter().flatten() {
            assert_eq!(batch.column(1).null_count(), batch.num_rows());
        }
        let given: Vec<RecordBatch> = side
            .iter()
            .map(|batch| {
                assert_eq!(batch.column(0).null_count(), batch.num_rows());
                RecordBatch::from(batch.column(1).as_struct().clone())
            })
            .collect();
        assert_eq!(numbers(&given, "offset"), OF_TWO);
    }

    #[tokio::test]
    async fn unread_partitions_give_their_side_output() {
        // One partition is begun and dropped, the other one is never begun.
        let split = SplitSideOutputExec::over(plan(2));
        let context = Arc::new(TaskContext::default());
        let mut first = split.execute(0, Arc::clone(&context)).unwrap();
        assert_eq!(numbers(&[first.next().await.unwrap().unwrap()], "v"), [0]);
        drop(first);
        let side = split.finish(&context).await.unwrap();
        assert_eq!(numbers(&side, "offset"), OF_TWO);
    }

    #[tokio::test]
    async fn the_last_partition_waits_for_rows_that_are_still_read() {
        let plan = SideOutputExec::new(plan(1));
        let context = Arc::new(TaskContext::default());
        let mut side = plan.execute(1, Arc::clone(&context)).unwrap();
        assert!(futures::poll!(side.next()).is_pending(), "not begun");
        let mut rows = plan.execute(0, context).unwrap();
        rows.next().await.unwrap().unwrap();
        assert!(futures::poll!(side.next()).is_pending(), "not at its end");
        let rest: Vec<RecordBatch> = rows.try_collect().await.unwrap();
        assert_eq!(numbers(&rest, "v"), [1, 2], "no row went elsewhere");
        let side: Vec<RecordBatch> = side.try_collect().await.unwrap();
        assert_eq!(side.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    }

    #[tokio::test]
    async fn rows_and_side_output_in_one_batch_are_separated() {
        let side = SideOutputExec::new(plan(1));
        let kept = SplitSideOutputExec::over(plan(1)).kept;
        let late = side_rows(Disposition::Late, 2, &[]).unwrap();
        let batches = SideBatches::new(Arc::clone(&side.schema), 8_192);
        let given = batches.of(&late).next().unwrap().unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![5]));
        let none = no_side_output(1);
        let row = RecordBatch::try_new(Arc::clone(&side.schema), vec![column, none]).unwrap();
        let both = datafusion::arrow::compute::concat_batches(&side.schema, &[given, row]).unwrap();
        assert_eq!(numbers(&[kept.split(&both).unwrap()], "v"), [5]);
        assert_eq!(lock(&kept.side)[0], late);
    }

    #[test]
    fn safe_1_batches_of_side_output_are_small_and_share_its_memory() {
        let side = SideOutputExec::new(plan(1));
        let batches = SideBatches::new(Arc::clone(&side.schema), 10);
        for rows in [0, 1, 10, 11, 95] {
            let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
            let late = side_rows(Disposition::Late, offsets.len(), &[("offset", offsets)]);
            let late = late.unwrap();
            let given: Vec<RecordBatch> = batches.of(&late).map(Result::unwrap).collect();
            assert!(given.iter().all(|batch| batch.num_rows() <= 10));
            let kept = SplitSideOutputExec::over(plan(1)).kept;
            for batch in &given {
                assert_eq!(kept.split(batch).unwrap().num_rows(), 0);
            }
            let kept = lock(&kept.side);
            assert_eq!(numbers(&kept, "offset"), (0..rows).collect::<Vec<_>>());
            // Each has a part of the same values.
            let values = |batch: &RecordBatch| {
                let column = batch.column_by_name("offset").unwrap();
                column.as_primitive::<Int64Type>().values().clone()
            };
            let all = values(&late);
            for (start, kept) in (0..).step_by(10).zip(kept.iter()) {
                assert!(std::ptr::eq(&all[start], &values(kept)[0]));
            }
        }
    }

    #[tokio::test]
    async fn side_output_comes_in_batches_of_the_session() {
        let plan = SideOutputExec::new(plan(1));
        let config = SessionConfig::new().with_batch_size(2);
        let context = Arc::new(TaskContext::default().with_session_config(config));
        let mut rows = plan.execute(0, Arc::clone(&context)).unwrap();
        let (_, output) = lock(&plan.run.begun).task.clone().unwrap();
        let many = side_rows(Disposition::Late, 5, &[]).unwrap();
        output.give(many).unwrap();
        while let Some(batch) = rows.next().await {
            batch.unwrap();
        }
        drop(rows);
        let side = plan.execute(1, context).unwrap();
        let side: Vec<RecordBatch> = side.try_collect().await.unwrap();
        let rows: Vec<usize> = side.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [2, 2, 1, 1, 1, 1]);
    }

    #[tokio::test]
    async fn columns_with_other_nullability_pass() {
        let split = SplitSideOutputExec::over(plan(1));
        let (wide, own) = (split.input.schema(), Arc::clone(&split.kept.schema));
        let schema = Schema::new(vec![Field::new("v", DataType::Int32, true)]);
        let column: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
        let given = RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap();
        let input = futures::stream::iter([Ok(given.clone())]);
        let mut rows = InputRows {
            schema: wide,
            input: Some((
                Box::pin(RecordBatchStreamAdapter::new(own, input)),
                OpenPartition(Arc::new(PlanExecution {
                    begun: Mutex::new(StartedExecution {
                        task: None,
                        partitions: Vec::new(),
                    }),
                    open: watch::Sender::new(1),
                })),
            )),
        };
        let widened = rows.next().await.unwrap().unwrap();
        assert_eq!(
            split.kept.split(&widened).unwrap().columns(),
            given.columns()
        );
    }

    #[test]
    fn batches_of_any_size_have_no_side_output_in_their_rows() {
        for rows in [0, 1, 8_192, 8_193] {
            let none = no_side_output(rows);
            assert_eq!((none.len(), none.null_count()), (rows, rows));
            assert_eq!(none.data_type(), &side_type());
        }
    }

    #[tokio::test]
    async fn a_partition_does_not_run_twice() {
        let plan = SideOutputExec::new(plan(1));
        let context = Arc::new(TaskContext::default());
        let _first = plan.execute(0, Arc::clone(&context)).unwrap();
        let again = plan.execute(0, context).err().unwrap();
        assert!(again.to_string().contains("twice"), "{again}");
    }
}
