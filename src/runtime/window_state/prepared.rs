//! A batch on its way to the sink: the rows that are to be written and withdrawn, and the group to blame if they cannot be written.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::row::{RowConverter, SortField};

use crate::core::jobs::JobTime;
use crate::core::runs::LeftGroups;
use crate::error::{Error, Result};
use crate::runtime::halving_search::{fault, halve, may_be_caused_by_record};
use crate::runtime::job::ReadyJob;
use crate::runtime::sink::JobSink;
use crate::runtime::version::Input;
use crate::state::StateChange;
use crate::streaming::{BatchPlan, BatchSides, FrontBatch};

/// A batch that was prepared and is not committed yet.
pub(in crate::runtime) enum PreparedBatch {
    /// Of a job without state: its plan, which runs while the sink writes.
    Rows(Arc<BatchPlan>),
    /// Of a job with state: it was run up to the rows that it emits.
    Emitted(Box<Emitted>),
}

/// What a batch has emitted, and its step of the state.
pub(in crate::runtime) struct Emitted {
    pub(super) front: FrontBatch,
    /// The rows to be written.
    pub(super) emitted: RecordBatch,
    /// The rows that earlier batches emitted for the groups that this batch touched.
    pub(super) before: RecordBatch,
    pub(super) log: RecordBatch,
    pub(super) sides: BatchSides,
    pub(super) time: JobTime,
    pub(super) change: StateChange,
    pub(super) rows_after: usize,
}

/// The rows of a batch for its sink.
pub(in crate::runtime) struct Output {
    /// Computes the rows in the sink's columns.
    pub(in crate::runtime) plan: Arc<BatchPlan>,
    /// The rows whose keys are to be withdrawn, in the same columns.
    pub(in crate::runtime) withdrawn: Option<RecordBatch>,
}

impl PreparedBatch {
    /// The rows to be written, and those to be withdrawn.
    ///
    /// # Errors
    ///
    /// Errors of the plan above the aggregate.
    pub(in crate::runtime) async fn output(&self, job: &ReadyJob) -> Result<Output> {
        match self {
            Self::Rows(plan) => Ok(Output {
                plan: Arc::clone(plan),
                withdrawn: None,
            }),
            Self::Emitted(emitted) => emitted.output(job).await,
        }
    }

    /// Ends the plan when its rows are written, and gives what the batch has read.
    ///
    /// # Errors
    ///
    /// What reading says, and a scan that did not come to its end.
    pub(in crate::runtime) async fn finish(&mut self, output: &Output) -> Result<Input> {
        let of_output = output.plan.finish().await?;
        Ok(match self {
            Self::Rows(plan) => {
                let (rows, bytes) = plan.read();
                Input {
                    rows,
                    bytes,
                    last_records: of_output.last_records,
                    bad_records: of_output.dead_letters,
                    left: of_output.left,
                }
            }
            // The plan of the output reads rows in memory.
            Self::Emitted(emitted) => {
                let (rows, bytes) = emitted.front.read();
                Input {
                    rows,
                    bytes,
                    last_records: emitted.sides.last_records.clone(),
                    bad_records: std::mem::take(&mut emitted.sides.dead_letters),
                    left: LeftGroups::default(),
                }
            }
        })
    }

    /// Adds to an error of the plan above the aggregate the group that causes it, if one of them fails alone.
    pub(in crate::runtime) async fn of_group(
        &self,
        job: &ReadyJob,
        sink: &dyn JobSink,
        error: Error,
    ) -> Error {
        match self {
            Self::Rows(_) => error,
            Self::Emitted(emitted) => emitted.of_group(job, sink, error).await,
        }
    }
}

impl Emitted {
    /// The rows to be written, and the rows whose keys are to be withdrawn, both in the sink's columns.
    async fn output(&self, job: &ReadyJob) -> Result<Output> {
        let plan = job.query.back(&self.emitted).await?;
        if self.before.num_rows() == 0 {
            return Ok(Output {
                plan: Arc::new(plan),
                withdrawn: None,
            });
        }
        let now = collect(&plan).await?;
        let before = collect(&job.query.back(&self.before).await?).await?;
        let withdrawn = without(&before, &now, job.query.sink().primary_key())?;
        // Writes exactly the rows that were compared.
        Ok(Output {
            plan: Arc::new(plan.with_rows(now)?),
            withdrawn,
        })
    }

    /// Adds to an error of the plan above the aggregate the group that causes it, if one of them fails alone.
    async fn of_group(&self, job: &ReadyJob, sink: &dyn JobSink, error: Error) -> Error {
        if !may_be_caused_by_record(&error) {
            return error;
        }
        match self.failing_group(job, sink).await {
            Ok(Some((group, error))) => error
                .with_help(
                    "a group cannot be set aside: change the expression with CREATE OR REPLACE JOB, then RESUME JOB",
                )
                .context(group)
                .mark_record(),
            // No single group is to blame, or the search failed.
            Ok(None) | Err(_) => error,
        }
    }

    /// The first group for which no row can be written, and its error.
    async fn failing_group(
        &self,
        job: &ReadyJob,
        sink: &dyn JobSink,
    ) -> Result<Option<(String, Error)>> {
        let rows = self.emitted.num_rows() as u64;
        if rows == 0 || self.fault(job, sink, 0, rows).await?.is_none() {
            return Ok(None);
        }
        let found = halve(0, rows, |from, to| self.fault(job, sink, from, to)).await?;
        let alone = self.fault(job, sink, found, found + 1).await?;
        let query = job.query.stream();
        Ok(query
            .zip(alone)
            .map(|(query, error)| (query.group_of(&self.emitted, row(found)), error)))
    }

    /// The error of a range of the emitted rows, if they fail without the others. No result is kept.
    async fn fault(
        &self,
        job: &ReadyJob,
        sink: &dyn JobSink,
        from: u64,
        to: u64,
    ) -> Result<Option<Error>> {
        let rows = self.emitted.slice(row(from), row(to - from));
        let written = async {
            let plan = job.query.back(&rows).await?;
            sink.rehearse(&plan).await
        };
        fault(written).await
    }
}

/// A position among rows in memory.
fn row(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

async fn collect(plan: &BatchPlan) -> Result<RecordBatch> {
    let schema = plan.plan.schema();
    let batches =
        datafusion::physical_plan::collect(Arc::clone(&plan.plan), Arc::clone(&plan.context))
            .await?;
    concat_batches(&schema, &batches).map_err(|error| Error::internal(error.to_string()))
}

/// The rows of `before` whose key, in these columns, is in no row of `now`; none if there are no such rows.
fn without(before: &RecordBatch, now: &RecordBatch, key: &[usize]) -> Result<Option<RecordBatch>> {
    let internal = |error: ArrowError| Error::internal(error.to_string());
    let fields = key
        .iter()
        .map(|index| SortField::new(before.column(*index).data_type().clone()))
        .collect();
    let converter = RowConverter::new(fields).map_err(internal)?;
    let columns = |rows: &RecordBatch| -> Vec<ArrayRef> {
        key.iter()
            .map(|index| Arc::clone(rows.column(*index)))
            .collect()
    };
    let kept = converter.convert_columns(&columns(now)).map_err(internal)?;
    let kept: HashSet<&[u8]> = kept.iter().map(|row| row.data()).collect();
    let candidates = converter
        .convert_columns(&columns(before))
        .map_err(internal)?;
    let mut seen = HashSet::new();
    let gone: BooleanArray = candidates
        .iter()
        .map(|row| Some(!kept.contains(row.data()) && seen.insert(row.data())))
        .collect();
    if gone.true_count() == 0 {
        return Ok(None);
    }
    filter_record_batch(before, &gone)
        .map(Some)
        .map_err(internal)
}
