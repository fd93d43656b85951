//! What a runner tells about itself while it runs: the live status of its job, and its metrics.

use std::future::Future;
use std::time::Duration;

use crate::error::Result;
use crate::runtime::clock::Clock;
use crate::runtime::job_status::{JobStatus, JobStatuses};
use crate::runtime::metrics::{JobMetrics, JobState};

/// After so long the status shows that the runner waits for the sink: a sink that can be reached confirms a batch sooner.
const LONG_ANSWER: Duration = Duration::from_secs(10);

/// Where a runner tells of its job.
#[derive(Debug)]
pub(super) struct Observer<'a> {
    pub(super) job: &'a str,
    pub(super) clock: &'a dyn Clock,
    pub(super) statuses: &'a JobStatuses,
    pub(super) metrics: JobMetrics,
}

impl Observer<'_> {
    /// Changes the live status.
    pub(super) fn update_status(&self, change: impl FnOnce(&mut JobStatus)) {
        self.statuses.update(self.job, change);
    }

    /// Waits for an answer; if it takes long, the job's status shows `waiting`.
    ///
    /// # Errors
    ///
    /// The answer's own error.
    pub(super) async fn answered<T>(
        &self,
        waiting: &str,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::pin!(answer);
        tokio::select! {
            done = &mut answer => return done,
            () = self.clock.sleep(LONG_ANSWER) => {}
        }
        self.update_status(|status| status.waiting = Some(waiting.to_owned()));
        self.metrics.state(Some(JobState::Waiting));
        let done = answer.await?;
        self.update_status(|status| status.waiting = None);
        self.metrics.state(Some(JobState::Running));
        Ok(done)
    }
}
