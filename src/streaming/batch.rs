//! Batches of a job, ready to run: their plans, and what they give besides their rows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_udfs::CompleteSessionsExec;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::catalog::TableProvider;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, collect};

use crate::core::jobs::{PartitionTimes, RecordMark};
use crate::core::runs::{Chunk, LeftGroups};
use crate::error::{Error, Result};
use crate::state::late_rows;
use crate::streaming::drain::DrainedPlan;
use crate::streaming::side_output::SplitSideOutputExec;
use crate::streaming::stateful::FrontPlan;
use crate::streaming::stream_inputs::{BatchSource, check_planned};
use crate::tables::bad_records::BadRecord;
use crate::tables::read_metrics::read;
use crate::tables::side_output::{
    ExpectedReport, ScanReport, check_reports, dead_letters, reports,
};

/// The last record that was read, by table and partition.
pub type LastRecords = BTreeMap<String, BTreeMap<i32, RecordMark>>;

/// The lower half of a batch with windows, ready to run.
#[derive(Debug)]
pub struct FrontBatch {
    /// From records to partial states.
    pub front: FrontPlan,
    /// The task context that it runs in.
    pub context: Arc<TaskContext>,
    pub(super) sides: PlannedSides,
}

impl FrontBatch {
    /// Ends the plan, which has run: reads records that it did not need, because they count all the same, and gives what came
    /// besides its rows.
    ///
    /// # Errors
    ///
    /// What reading says, and a scan that did not come to its end.
    pub async fn finish(&self) -> Result<BatchSides> {
        self.sides.finish(&self.context).await
    }

    /// Records read so far, and the bytes of their keys and values.
    pub fn read(&self) -> (u64, u64) {
        read(&self.front.plan)
    }
}

/// What a batch gave besides its rows.
#[derive(Debug, Default)]
pub struct BatchSides {
    /// Late rows, in the columns of `system.late_rows`; none if there are none.
    pub late: Option<RecordBatch>,
    /// Records that could not be used, with the table of each.
    pub dead_letters: Vec<(String, BadRecord)>,
    /// The last record that was read of each partition.
    pub last_records: LastRecords,
    /// Of a run: the windows and sessions that it leaves out.
    pub left: LeftGroups,
    reports: Vec<ScanReport>,
}

impl BatchSides {
    /// By table and partition, what was reached in time.
    pub fn reached(&self) -> BTreeMap<String, BTreeMap<i32, PartitionTimes>> {
        let mut reached: BTreeMap<String, BTreeMap<i32, PartitionTimes>> = BTreeMap::new();
        for report in &self.reports {
            if let Some(of_partition) = report.reached {
                let of_table = reached.entry(report.table.clone()).or_default();
                of_table.insert(report.partition, of_partition);
            }
        }
        reached
    }
}

/// What is known before a batch runs of what it gives besides its rows.
#[derive(Debug)]
pub(super) struct PlannedSides {
    /// The plan.
    pub(super) split: Arc<SplitSideOutputExec>,
    /// What its scans are to report.
    expected: Vec<ExpectedReport>,
    last_records: LastRecords,
    /// What the plan of a run leaves out.
    left: Arc<Mutex<LeftGroups>>,
}

impl PlannedSides {
    /// Of a plan that gives the rows of a batch of these sources.
    pub(super) fn of(drained: DrainedPlan, sources: BTreeMap<String, BatchSource>) -> Result<Self> {
        let DrainedPlan { plan, expected } = drained;
        check_planned(&expected, &sources)?;
        let sources = sources.into_iter();
        Ok(Self {
            split: Arc::new(SplitSideOutputExec::over(plan)),
            expected,
            last_records: sources
                .map(|(name, source)| (name, source.last_records))
                .collect(),
            left: Arc::default(),
        })
    }

    /// The same of a chunk of a run, whose plan adds to `left` what it leaves out.
    pub(super) fn leaving(self, left: Arc<Mutex<LeftGroups>>) -> Self {
        Self { left, ..self }
    }

    async fn finish(&self, context: &Arc<TaskContext>) -> Result<BatchSides> {
        let side = self.split.finish(context).await?;
        let reports = reports(&side)?;
        // LOSS-1: a batch whose scan has not given all that was planned is not to be written.
        check_reports(&self.expected, &reports)?;
        let mut last_records = self.last_records.clone();
        for report in &reports {
            if let Some(last) = report.last {
                let of_table = last_records.entry(report.table.clone()).or_default();
                of_table.insert(report.partition, last);
            }
        }
        Ok(BatchSides {
            late: late_rows(&side)?,
            dead_letters: dead_letters(&side)?,
            last_records,
            left: self
                .left
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            reports,
        })
    }
}

/// The sources' providers, by name.
pub(super) fn streams_of(
    sources: &BTreeMap<String, BatchSource>,
) -> BTreeMap<String, Arc<dyn TableProvider>> {
    let streams = sources.iter();
    let streams = streams.map(|(name, source)| (name.clone(), Arc::clone(&source.provider)));
    streams.collect()
}

/// One batch, ready to run.
#[derive(Debug)]
pub struct BatchPlan {
    /// Computes the rows in the order of the sink's columns.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The task context that it runs in.
    pub context: Arc<TaskContext>,
    /// The chunk of a run that it gives; none of a job, and of a run that is read by offsets.
    pub chunk: Option<Chunk>,
    /// None of a plan that reads no stream.
    pub(super) sides: Option<PlannedSides>,
}

impl BatchPlan {
    /// Ends the plan, which has run: reads records that it did not need, because they count all the same, and gives what came
    /// besides its rows.
    ///
    /// # Errors
    ///
    /// What reading says, and a scan that did not come to its end.
    pub async fn finish(&self) -> Result<BatchSides> {
        match &self.sides {
            Some(sides) => sides.finish(&self.context).await,
            None => Ok(BatchSides::default()),
        }
    }

    /// The same batch with rows that its plan has computed already.
    ///
    /// # Errors
    ///
    /// Rows in other columns.
    pub fn with_rows(self, rows: RecordBatch) -> Result<Self> {
        let schema = self.plan.schema();
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?;
        Ok(Self { plan, ..self })
    }

    /// The same batch with these rows, in the columns of its plan. This batch is to be ended, not the one that is given.
    ///
    /// # Errors
    ///
    /// Rows in other columns.
    pub fn giving(&self, rows: RecordBatch) -> Result<Self> {
        let schema = rows.schema();
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?;
        Ok(Self {
            plan,
            context: Arc::clone(&self.context),
            sides: None,
            chunk: self.chunk,
        })
    }

    /// Runs the plan, and gives all of its rows.
    ///
    /// # Errors
    ///
    /// Those of the rows.
    pub async fn rows(&self) -> Result<RecordBatch> {
        let schema = self.plan.schema();
        let rows = collect(Arc::clone(&self.plan), Arc::clone(&self.context)).await?;
        concat_batches(&schema, &rows).map_err(|error| Error::internal(error.to_string()))
    }

    /// Whether the plan, which has run, has left windows or sessions out.
    pub fn has_left(&self) -> bool {
        let left = self.sides.iter().map(|sides| &sides.left);
        let mut left = left.map(|left| left.lock().unwrap_or_else(PoisonError::into_inner));
        left.any(|left| left.count() > 0)
    }

    /// The rows of the batch in the order of these columns: none is given before all are computed. Rows that are in this order already stay
    /// in theirs. This batch is to be ended, not the one that is given.
    ///
    /// # Errors
    ///
    /// A column that the rows do not have.
    pub fn sorted_by(&self, columns: &[usize]) -> Result<Self> {
        let schema = self.plan.schema();
        let ascending = |index: &usize| {
            let name = schema.field(*index).name();
            PhysicalSortExpr::new_default(Arc::new(Column::new(name, *index)))
        };
        let plan = match LexOrdering::new(columns.iter().map(ascending)) {
            Some(order) if self.is_in(&order)? => Arc::clone(&self.plan),
            Some(order) => {
                let all = Arc::new(CoalescePartitionsExec::new(Arc::clone(&self.plan)));
                Arc::new(SortExec::new(order, all)) as _
            }
            None => Arc::clone(&self.plan),
        };
        Ok(Self {
            plan,
            context: Arc::clone(&self.context),
            sides: None,
            chunk: self.chunk,
        })
    }

    /// Whether all rows come in this order.
    fn is_in(&self, order: &LexOrdering) -> Result<bool> {
        let properties = self.plan.properties();
        let is_one = properties.partitioning.partition_count() == 1;
        Ok(is_one && properties.eq_properties.ordering_satisfy(order.clone())?)
    }

    /// Records read so far, and the bytes of their keys and values.
    pub fn read(&self) -> (u64, u64) {
        let (records, bytes) = read(&self.plan);
        (records + rows_of_sessions(&self.plan), bytes)
    }
}

/// Rows that the operators which complete sessions have read so far: they run the scans themselves.
fn rows_of_sessions(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    if plan.is::<CompleteSessionsExec>() {
        let rows = plan.metrics().and_then(|of| of.sum_by_name("rows_read"));
        return rows.map_or(0, |rows| rows.as_usize() as u64);
    }
    plan.children().into_iter().map(rows_of_sessions).sum()
}
