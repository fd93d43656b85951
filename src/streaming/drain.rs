//! `DrainExec`, an operator that makes sure that its input is read to the end, even if its parent stops early; and the scans of
//! streams, which stand below it.
//!
//! A join that can give no more rows drops its inputs early. But a batch of a job must read all its records: they move the
//! watermark, and a record that cannot be decoded is a dead letter. And it must read them once: a nested-loop join that runs short
//! of memory begins to read its left side again, and each dead letter would be there twice.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use anabranch_udfs::{has_no_expressions, only_child, passes_rows_on};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt as _};

use crate::tables::side_output::ExpectedReport;
use crate::tables::stream_scans::scan_expected;

/// Message for an operator that reads its input again.
const READ_AGAIN: &str = "a join ran short of memory and began to read the records of a batch a second time: \
     a batch reads each record once";

/// Passes on the rows of its input; [`read_to_end`] reads the rows that the parent did not take.
///
/// A partition that is begun a second time is an error of the memory pool: a smaller batch may do without.
pub struct DrainExec {
    input: Arc<dyn ExecutionPlan>,
    /// State of the read of each partition.
    reads: Vec<Arc<Mutex<DrainState>>>,
}

/// State of the read of one partition.
enum DrainState {
    NotBegun,
    Begun(SendableRecordBatchStream),
    Ended,
}

impl DrainExec {
    /// Wraps `input`.
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.properties().partitioning.partition_count();
        let read = |_| Arc::new(Mutex::new(DrainState::NotBegun));
        Self {
            input,
            reads: (0..partitions).map(read).collect(),
        }
    }

    /// Reads the rest of one partition.
    async fn finish(&self, partition: usize, context: &Arc<TaskContext>) -> Result<()> {
        let Some(read) = self.reads.get(partition) else {
            return Ok(());
        };
        if matches!(*lock(read), DrainState::NotBegun) {
            let stream = self.input.execute(partition, Arc::clone(context))?;
            *lock(read) = DrainState::Begun(stream);
        }
        let mut rest = DrainStream {
            schema: self.schema(),
            read: Arc::clone(read),
        };
        while let Some(batch) = rest.next().await {
            batch?;
        }
        Ok(())
    }
}

/// Reads the rest of the inputs of all [`DrainExec`]s in a plan that has run.
///
/// # Errors
///
/// The errors of the inputs.
pub async fn read_to_end(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<()> {
    let mut left = vec![plan];
    while let Some(plan) = left.pop() {
        if let Some(whole) = plan.downcast_ref::<DrainExec>() {
            let all = (0..whole.reads.len()).map(|partition| whole.finish(partition, context));
            futures::future::try_join_all(all).await?;
        }
        left.extend(plan.children());
    }
    Ok(())
}

/// A plan whose scans of streams are read to their end, even if a join above needs fewer rows.
#[derive(Debug)]
pub(super) struct DrainedPlan {
    /// The plan.
    pub(super) plan: Arc<dyn ExecutionPlan>,
    /// What its scans of streams are to report.
    pub(super) expected: Vec<ExpectedReport>,
}

impl DrainedPlan {
    /// Of a plan whose scans are not wrapped yet.
    pub(super) fn of(plan: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let mut expected = Vec::new();
        let whole = plan.transform_up(|plan| {
            Ok(match scan_expected(&plan) {
                Some(of_scan) => {
                    expected.extend(of_scan);
                    Transformed::yes(Arc::new(DrainExec::new(plan)) as _)
                }
                None => Transformed::no(plan),
            })
        })?;
        Ok(Self {
            plan: whole.data,
            expected,
        })
    }

    /// Gives the rows of this plan. The others are scans whose rows are not needed: they are read as well.
    pub(super) fn beside(mut self, others: Vec<Self>) -> Self {
        let mut scans = Vec::with_capacity(others.len());
        for other in others {
            self.expected.extend(other.expected);
            scans.push(other.plan);
        }
        Self {
            plan: Arc::new(BesideExec::new(self.plan, scans)),
            expected: self.expected,
        }
    }
}

/// Passes on the rows of one input. Its other inputs are scans whose rows are not needed: below [`DrainExec`] they are read by
/// [`read_to_end`].
#[derive(Debug)]
struct BesideExec {
    rows: Arc<dyn ExecutionPlan>,
    others: Vec<Arc<dyn ExecutionPlan>>,
}

impl BesideExec {
    fn new(rows: Arc<dyn ExecutionPlan>, others: Vec<Arc<dyn ExecutionPlan>>) -> Self {
        Self { rows, others }
    }
}

impl DisplayAs for BesideExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BesideExec")
    }
}

impl ExecutionPlan for BesideExec {
    fn name(&self) -> &'static str {
        "BesideExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.rows.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        std::iter::once(&self.rows).chain(&self.others).collect()
    }

    has_no_expressions!();

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut children = children.into_iter();
        let Some(rows) = children.next() else {
            return internal_err!("BesideExec takes a child");
        };
        Ok(Arc::new(Self::new(rows, children.collect())))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.rows.execute(partition, context)
    }
}

/// The rows of a partition from the present place of its read on, whether the parent or [`read_to_end`] reads.
struct DrainStream {
    schema: SchemaRef,
    read: Arc<Mutex<DrainState>>,
}

impl Stream for DrainStream {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut read = lock(&self.read);
        let DrainState::Begun(stream) = &mut *read else {
            return Poll::Ready(None);
        };
        let polled = stream.poll_next_unpin(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            *read = DrainState::Ended;
        }
        polled
    }
}

impl RecordBatchStream for DrainStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

fn lock(read: &Mutex<DrainState>) -> MutexGuard<'_, DrainState> {
    read.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for DrainExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainExec")
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for DrainExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DrainExec")
    }
}

impl ExecutionPlan for DrainExec {
    passes_rows_on!("DrainExec");

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("DrainExec", children)?;
        Ok(Arc::new(Self::new(input)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(read) = self.reads.get(partition) else {
            return internal_err!("DrainExec has no partition {partition}");
        };
        let mut state = lock(read);
        if !matches!(*state, DrainState::NotBegun) {
            return Err(DataFusionError::ResourcesExhausted(READ_AGAIN.to_owned()));
        }
        *state = DrainState::Begun(self.input.execute(partition, context)?);
        drop(state);
        Ok(Box::pin(DrainStream {
            schema: self.schema(),
            read: Arc::clone(read),
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use datafusion::arrow::array::Int64Array;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::JoinType;
    use datafusion::execution::TaskContext;
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::collect;
    use datafusion::physical_plan::joins::NestedLoopJoinExec;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

    use super::*;

    /// Three batches of one row, counted when they are taken.
    #[derive(Debug)]
    struct Counted {
        schema: SchemaRef,
        taken: Arc<AtomicUsize>,
    }

    impl PartitionStream for Counted {
        fn schema(&self) -> &SchemaRef {
            &self.schema
        }

        fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
            let (schema, taken) = (Arc::clone(&self.schema), Arc::clone(&self.taken));
            let batches = futures::stream::iter(0..3).map(move |value| {
                taken.fetch_add(1, Ordering::Relaxed);
                let column = Arc::new(Int64Array::from(vec![value]));
                Ok(RecordBatch::try_new(Arc::clone(&schema), vec![column])?)
            });
            Box::pin(RecordBatchStreamAdapter::new(
                Arc::clone(&self.schema),
                batches,
            ))
        }
    }

    /// A partition of three rows for each of these counters.
    fn scan(taken: &[Arc<AtomicUsize>]) -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, false)]));
        let partition = |taken: &Arc<AtomicUsize>| -> Arc<dyn PartitionStream> {
            Arc::new(Counted {
                schema: Arc::clone(&schema),
                taken: Arc::clone(taken),
            })
        };
        let partitions = taken.iter().map(partition).collect();
        let none: [datafusion::physical_expr::LexOrdering; 0] = [];
        let scan =
            StreamingTableExec::try_new(Arc::clone(&schema), partitions, None, none, false, None);
        Arc::new(scan.unwrap())
    }

    #[tokio::test]
    async fn rows_not_taken_by_the_parent_are_read_once() {
        let taken: Vec<Arc<AtomicUsize>> = (0..3).map(|_| Arc::default()).collect();
        let plan: Arc<dyn ExecutionPlan> = Arc::new(DrainExec::new(scan(&taken)));
        let context = Arc::new(TaskContext::default());
        // One partition is read to its end, one begun and dropped, one never begun.
        let mut first = plan.execute(0, Arc::clone(&context)).unwrap();
        while let Some(batch) = first.next().await {
            batch.unwrap();
        }
        let mut second = plan.execute(1, Arc::clone(&context)).unwrap();
        second.next().await.unwrap().unwrap();
        drop(second);
        read_to_end(&plan, &context).await.unwrap();
        read_to_end(&plan, &context).await.unwrap();
        let taken: Vec<usize> = taken
            .iter()
            .map(|taken| taken.load(Ordering::Relaxed))
            .collect();
        assert_eq!(taken, [3, 3, 3]);
    }
    #[tokio::test]
    async fn loss_1_a_join_that_runs_short_of_memory_reads_no_record_twice() {
        let (stream, table) = (Arc::<AtomicUsize>::default(), Arc::default());
        let left: Arc<dyn ExecutionPlan> =
            Arc::new(DrainExec::new(scan(std::slice::from_ref(&stream))));
        let right = scan(&[table]);
        let join = NestedLoopJoinExec::try_new(left, right, None, &JoinType::Inner, None).unwrap();
        let plan: Arc<dyn ExecutionPlan> = Arc::new(join);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(1)))
            .build_arc()
            .unwrap();
        let context = Arc::new(TaskContext::default().with_runtime(runtime));
        let error = collect(plan, context).await.unwrap_err();
        let error = crate::error::Error::from(error);
        assert!(error.is_exhausted_pool(), "{error}");
        assert_eq!(error.message(), READ_AGAIN);
        let read = stream.load(Ordering::Relaxed);
        assert!((1..=3).contains(&read), "{read} batches were read");
    }

    #[tokio::test]
    async fn a_partition_that_is_dropped_half_way_is_not_begun_again() {
        let taken = Arc::<AtomicUsize>::default();
        let plan: Arc<dyn ExecutionPlan> =
            Arc::new(DrainExec::new(scan(std::slice::from_ref(&taken))));
        let context = Arc::new(TaskContext::default());
        let mut rows = plan.execute(0, Arc::clone(&context)).unwrap();
        rows.next().await.unwrap().unwrap();
        drop(rows);
        let again = plan.execute(0, Arc::clone(&context)).err().unwrap();
        assert!(
            matches!(again, DataFusionError::ResourcesExhausted(_)),
            "{again}"
        );
        // The rest is read all the same.
        read_to_end(&plan, &context).await.unwrap();
        assert_eq!(taken.load(Ordering::Relaxed), 3);
    }
}
