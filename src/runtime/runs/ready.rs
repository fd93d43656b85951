//! A run made ready for the runner: its query over the tables of its spec, and the tables that it reads and writes.

use std::sync::Arc;

use crate::core::jobs::Retention;
use crate::core::runs::{Emission, RunSpec};
use crate::error::Result;
use crate::runtime::clock::MachineClock;
use crate::runtime::definitions::{JobDefinition, job_definition};
use crate::runtime::environment::Environment;
use crate::runtime::job::ReadyJob;
use crate::runtime::options::{JobOptions, OnExpressionError, Trigger};
use crate::runtime::runs::host::RunHost;
use crate::runtime::runs::tables::RunTables;
use crate::store::StoredRun;
use crate::streaming::{JobQuery, RunFacts};

/// How long a chunk is if the statement does not say, in microseconds of event time.
const CHUNK: i64 = 3_600_000_000;

/// Makes a run ready.
///
/// # Errors
///
/// Its statement or its tables cannot be read, opened, or planned.
pub(super) async fn ready(host: &RunHost<'_>, run: &StoredRun) -> Result<ReadyJob> {
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
    let clock = Arc::new(MachineClock);
    Ok(ReadyJob {
        id: run.id,
        name: spec.run_id.clone(),
        text: spec.text.clone(),
        tables: spec.tables.clone(),
        options,
        query: Arc::new(query),
        environment: Environment {
            tables: Arc::new(RunTables {
                spec,
                clock: Arc::clone(&clock) as _,
            }),
            clock,
        },
    })
}

/// How a run of a job with these options runs. The runner counts offsets, which are instants where chunks are cut by event time.
pub(super) fn options_of(spec: &RunSpec, of_job: JobOptions) -> JobOptions {
    let (max_rows, max_bytes) = match &spec.emission {
        Emission::Offsets(_) => (of_job.max_rows, of_job.max_bytes),
        Emission::Time(_) => {
            let length = spec.options.chunk.unwrap_or(CHUNK);
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
