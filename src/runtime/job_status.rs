//! Stop signal, live status and report of running jobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::runtime::metrics::Metrics;

/// Stop signal for running jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StopSignal {
    sender: Arc<watch::Sender<bool>>,
}

impl Default for StopSignal {
    fn default() -> Self {
        Self {
            sender: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl StopSignal {
    /// Stops the jobs: each aborts its current batch; no record is lost.
    pub fn stop(&self) {
        self.sender.send_replace(true);
    }

    /// Waits until the jobs have to stop.
    pub(crate) async fn wait(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as this.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }
}

/// Live status of running jobs, for observers such as SHOW JOBS. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct JobStatuses {
    of_job: Arc<Mutex<BTreeMap<String, JobStatus>>>,
    of_run: Arc<Mutex<BTreeMap<String, JobStatus>>>,
}

/// Status of one running job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobStatus {
    /// Its work since it was started in this process.
    pub report: RunReport,
    /// Records in the sources that no batch has read.
    pub lag: u64,
    /// Records that were there when the last batch was chosen, and that it leaves to later ones; none before the first look.
    pub backlog: Option<u64>,
    /// How long the last batch took.
    pub last_batch: Duration,
    /// The watermark of a job with windows, in microseconds since 1970 UTC.
    pub watermark: Option<i64>,
    /// Rows of keyed state.
    pub state_rows: u64,
    /// The fault or the answer of the sink that it waits for, if it waits.
    pub waiting: Option<String>,
}

impl JobStatuses {
    /// All jobs by name.
    pub fn all(&self) -> BTreeMap<String, JobStatus> {
        self.lock().clone()
    }

    /// Those of reprocessing runs, by run id: a run may have the name of a job.
    #[must_use]
    pub fn of_runs(&self) -> Self {
        Self {
            of_job: Arc::clone(&self.of_run),
            of_run: Arc::clone(&self.of_run),
        }
    }

    /// The reason why a job waits, if it does.
    pub(super) fn waiting(&self, job: &str) -> Option<String> {
        self.lock().get(job)?.waiting.clone()
    }

    /// The records that the last batch of a job has left in the sources, if it has looked at them.
    pub(super) fn backlog(&self, job: &str) -> Option<u64> {
        self.lock().get(job)?.backlog
    }

    pub(super) fn update(&self, job: &str, change: impl FnOnce(&mut JobStatus)) {
        change(self.lock().entry(job.to_owned()).or_default());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, JobStatus>> {
        self.of_job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How jobs are run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// A job ends when all that was there at its start is committed.
    pub until_caught_up: bool,
    /// The stop signal of the jobs.
    pub stop: StopSignal,
    /// Status that the jobs update.
    pub statuses: JobStatuses,
    /// Metrics that the jobs update, if there are any.
    pub metrics: Option<Metrics>,
}

/// Totals of one run of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Batches committed.
    pub batches: u64,
    /// Records read.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
}
