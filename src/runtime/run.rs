//! A run of a job: its runner beside its heartbeats, and what becomes of a panic.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;

use crate::core::jobs::LogEntry;
use crate::error::{Error, Result};
use crate::runtime::heartbeat::HeartbeatTask;
use crate::runtime::job::ReadyJob;
use crate::runtime::job_status::{RunOptions, RunReport};
use crate::runtime::owner::now;
use crate::runtime::runner::JobRunner;
use crate::runtime::takeover::append_to;
use crate::store::{JobId, JobStore};

/// Runs a job and writes its heartbeats.
pub(super) async fn run_job(
    store: JobStore,
    job: Arc<ReadyJob>,
    options: RunOptions,
) -> Result<RunReport> {
    let runner = JobRunner::try_new(&store, &job, &options)?;
    let heart = HeartbeatTask {
        store: store.clone(),
        id: job.id,
        name: job.name.clone(),
        owner: runner.owner().to_owned(),
        statuses: options.statuses.clone(),
    };
    let run = AssertUnwindSafe(runner.run()).catch_unwind();
    let outcome = tokio::select! {
        outcome = run => outcome.map_err(|panic| panic_message(&*panic)),
        () = heart.beat() => Ok(Err(Error::internal("the heartbeats have ended"))),
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(said) => Err(panicked(&store, job.id, &heart.owner, &said).await),
    };
    heart.stop().await;
    outcome
}

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it gave no message").to_owned()
}

/// Records a panic of this program in the job's log, unless another process runs the job by now.
async fn panicked(store: &JobStore, id: JobId, owner: &str, said: &str) -> Error {
    let error = Error::internal(format!("the program has failed: {said}"));
    let paused = LogEntry::Paused {
        reason: Some(error.message().to_owned()),
        reported: None,
        at: now(),
    };
    if let Ok(history) = store.history(id).await
        && history.owner.as_deref() == Some(owner)
        && let Err(failure) = append_to(store, id, history, &paused).await
    {
        tracing::warn!(%failure, "the job's log does not say why it ended");
    }
    error
}
