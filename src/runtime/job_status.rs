//! What a running job is told, and what it tells whoever looks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::runtime::metrics::Metrics;

/// Tells running jobs to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop {
    sender: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            sender: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Stop {
    /// Stops the jobs: the batch in hand is taken back, nothing is lost.
    pub fn stop(&self) {
        self.sender.send_replace(true);
    }

    /// Until somebody says so.
    pub(crate) async fn wait(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as this.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }
}

/// How running jobs are doing, for whoever looks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct JobStatuses {
    of_job: Arc<Mutex<BTreeMap<String, JobStatus>>>,
}

/// How a running job is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobStatus {
    /// What it has done since it was started here.
    pub report: Report,
    /// Records that are there and that no batch has read.
    pub lag: u64,
    /// How long the last batch took.
    pub last_batch: Duration,
    /// The watermark of a job with windows, in microseconds since 1970 UTC.
    pub watermark: Option<i64>,
    /// Rows of keyed state.
    pub state_rows: u64,
    /// What it waits for, if it does: a fault to pass, a sink to confirm a batch.
    pub waiting: Option<String>,
}

impl JobStatuses {
    /// All jobs by name.
    pub fn all(&self) -> BTreeMap<String, JobStatus> {
        self.lock().clone()
    }

    /// What a job waits for, if it does.
    pub(super) fn waiting(&self, job: &str) -> Option<String> {
        self.lock().get(job)?.waiting.clone()
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
    /// Tells it to end.
    pub stop: Stop,
    /// Where jobs say how they are doing.
    pub statuses: JobStatuses,
    /// Where they count what they do, if somebody wants to know.
    pub metrics: Option<Metrics>,
}

/// What a run of a job did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Batches committed.
    pub batches: u64,
    /// Records read.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
}
