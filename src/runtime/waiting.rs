//! Jobs that are to run in this process and cannot be begun: what they read or write cannot be opened, or their log cannot be
//! read. They are kept, and say why they wait.

use crate::core::jobs::heartbeat::is_fresh;
use crate::core::jobs::{Heartbeat, JobHistory, Phase};
use crate::error::Result;
use crate::runtime::metrics::{JobMetrics, JobState};
use crate::runtime::statements::{Jobs, now, owner};
use crate::runtime::told::RunOptions;

impl Jobs {
    /// The history of a job that is there and that no statement of this process has made ready yet; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The store does not answer, or the job's log cannot be read.
    pub async fn not_ready(&self, name: &str) -> Result<Option<JobHistory>> {
        if self.ready.lock().await.contains_key(name) {
            return Ok(None);
        }
        let found = self.store.find(name).await?;
        let found = found.map(|(_, history)| history);
        Ok(found.filter(|history| history.phase != Phase::Dropped))
    }

    /// Says that a job cannot be begun here and why: in its sign of life, for `SHOW JOBS` of any process, and in what this
    /// process tells of its jobs.
    ///
    /// # Errors
    ///
    /// The store does not answer, or the job's log cannot be read; what this process tells is told all the same.
    pub async fn say_waiting(&self, name: &str, reason: &str, options: &RunOptions) -> Result<()> {
        let metrics = JobMetrics::try_new(options.metrics.as_ref(), name)?;
        let found = self.store.find(name).await;
        let state = match found.as_ref().map(Option::as_ref) {
            Ok(None) => None,
            Ok(Some((_, history))) => match &history.phase {
                Phase::Active => Some(JobState::Waiting),
                Phase::Paused(None) => Some(JobState::Paused),
                Phase::Paused(Some(_)) => Some(JobState::Failed),
                Phase::Dropped => None,
            },
            Err(_) => Some(JobState::Waiting),
        };
        metrics.state(state);
        let waiting = (state == Some(JobState::Waiting)).then(|| reason.to_owned());
        let beat = Heartbeat {
            owner: owner(),
            waiting: waiting.clone(),
            opening: true,
            at: now(),
        };
        let is_waiting = waiting.is_some();
        options
            .statuses
            .update(name, |status| status.waiting = waiting);
        let Some((id, history)) = found? else {
            return Ok(());
        };
        // Another process may run the job: its sign of life says more.
        let last = self.store.heartbeat(id).await?;
        let is_run = last.is_some_and(|last| {
            !last.opening && is_fresh(&last, beat.at) && history.owner.as_ref() == Some(&last.owner)
        });
        match is_waiting && !is_run {
            true => self.store.put_heartbeat(id, &beat).await,
            false => Ok(()),
        }
    }
}
