//! A run made ready for the runner: its query over the tables of its spec, and the tables that it reads and writes.

use std::sync::Arc;

use crate::core::jobs::Retention;
use crate::core::runs::{Emission, EmitRows, RunSpec};
use crate::error::Result;
use crate::runtime::clock::{Clock, MachineClock};
use crate::runtime::definitions::{JobDefinition, job_definition};
use crate::runtime::environment::Environment;
use crate::runtime::job::ReadyJob;
use crate::runtime::options::{JobOptions, OnExpressionError, Trigger};
use crate::runtime::runs::chunk_comparison::ChunkComparison;
use crate::runtime::runs::host::RunHost;
use crate::runtime::runs::job_watch::{JobWatch, job_id};
use crate::runtime::runs::tables::RunTables;
use crate::runtime::sinks;
use crate::runtime::sources::Pasts;
use crate::store::StoredRun;
use crate::streaming::{JobQuery, RunFacts};

/// A run that this process can plan or run.
pub(super) struct ReadyRun {
    pub(super) job: ReadyJob,
    /// Compares its chunks with its sink; none of a sink without a key.
    pub(super) comparison: Option<Arc<ChunkComparison>>,
}

/// What a run is made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is planned: each chunk is compared.
    Plan,
    /// It is written: chunks are compared if that decides what is written.
    Write,
    /// It is taken over to be ended: nothing is compared.
    End,
}

/// Makes a run ready. It reads `pasts` of its sources, which this statement has pinned for it, and opens the others.
///
/// # Errors
///
/// Its statement or its tables cannot be read, opened, or planned.
pub(super) async fn ready(
    host: &RunHost<'_>,
    run: &StoredRun,
    purpose: Purpose,
    pasts: Pasts,
) -> Result<ReadyRun> {
    let spec = Arc::new(run.spec.clone());
    let session = host.session_with(&spec.tables).await?;
    let JobDefinition {
        options,
        insert,
        emit,
    } = job_definition(&spec.text)?;
    let options = options_of(&spec, JobOptions::parse(&options)?);
    let facts = RunFacts::from(&*spec);
    let query = JobQuery::reprocessing(&session, insert, emit, facts).await?;
    host.jobs.check_delivery(query.sink())?;
    let query = Arc::new(query);
    let (is_compared, planned) = match purpose {
        Purpose::Plan => (true, None),
        Purpose::Write => {
            let removes_gone = sinks::removes_gone(query.sink(), spec.options);
            let plan = run.history.run.as_ref();
            let is_planned = plan.is_some_and(|run| !run.compared.is_empty());
            let is_compared = spec.options.emit == EmitRows::Changed
                || removes_gone
                || (is_planned && !spec.options.overwrite);
            (is_compared, Some(run))
        }
        Purpose::End => (false, None),
    };
    let comparison = match is_compared && !query.sink().primary_key().is_empty() {
        true => Some(Arc::new(comparison(host, &spec, &query, planned).await?)),
        false => None,
    };
    let clock: Arc<dyn Clock> = Arc::new(MachineClock);
    let watch = JobWatch::of_spec(&host.jobs.store, &spec, Arc::clone(&clock))?;
    let job = ReadyJob {
        id: run.id,
        name: spec.run_id.clone(),
        text: spec.text.clone(),
        tables: spec.tables.clone(),
        options,
        query,
        environment: Environment {
            tables: Arc::new(RunTables {
                spec,
                comparison: comparison.clone(),
                clock: Arc::clone(&clock),
                watch,
                pasts,
            }),
            clock,
        },
    };
    Ok(ReadyRun { job, comparison })
}

/// Compares the chunks of a run with what its job and its runs have published until then.
async fn comparison(
    host: &RunHost<'_>,
    spec: &Arc<RunSpec>,
    query: &Arc<JobQuery>,
    planned: Option<&StoredRun>,
) -> Result<ChunkComparison> {
    let id = job_id(spec)?;
    let times = query.time_columns()?;
    ChunkComparison::open(
        (&host.jobs.store, id),
        &host.store,
        Arc::clone(query),
        Arc::clone(spec),
        (times.start.as_deref(), times.end.as_deref()),
        planned,
    )
    .await
}

/// How a run of a job with these options runs. The runner counts offsets, which are instants where chunks are cut by event time.
pub(in crate::runtime) fn options_of(spec: &RunSpec, of_job: JobOptions) -> JobOptions {
    let (max_rows, max_bytes) = match &spec.emission {
        Emission::Offsets(_) => (of_job.max_rows, of_job.max_bytes),
        Emission::Time(ranges) => {
            let length = spec.options.chunk;
            let length = length.unwrap_or_else(|| crate::core::runs::usual_length(ranges));
            (u64::try_from(length).unwrap_or(1).max(1), u64::MAX)
        }
    };
    let on_expression_error = match &spec.emission {
        Emission::Offsets(_) => of_job.on_expression_error,
        Emission::Time(_) => OnExpressionError::Fail,
    };
    JobOptions {
        trigger: Trigger::AsFastAsPossible,
        max_rows,
        max_bytes,
        // All of its chunks stay: they say which rows of the sink are its own.
        retention: Retention {
            versions: u64::MAX,
            age: i64::MAX,
        },
        max_drift: None,
        on_expression_error,
        startup: None,
        ..of_job
    }
}
