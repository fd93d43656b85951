//! Heartbeats: while a job runs, its process writes them to the data directory, for SHOW JOBS of other processes.

use std::time::Duration;

use crate::core::jobs::Heartbeat;
use crate::core::jobs::heartbeat::HEARTBEAT_EVERY;
use crate::runtime::job_status::JobStatuses;
use crate::runtime::owner::now;
use crate::store::{JobId, JobStore};

/// How often the status is checked for a change.
const LOOK: Duration = Duration::from_millis(250);

/// The heartbeats of one runner.
pub(super) struct HeartbeatTask {
    pub(super) store: JobStore,
    pub(super) id: JobId,
    pub(super) name: String,
    pub(super) owner: String,
    pub(super) statuses: JobStatuses,
}

impl HeartbeatTask {
    /// Writes heartbeats until the future is dropped. A heartbeat that cannot be written is skipped: no decision depends on it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a heartbeat shows the state in real time; no decision waits for it"
    )]
    pub(super) async fn beat(&self) {
        let mut said: Option<Heartbeat> = None;
        loop {
            let beat = Heartbeat {
                owner: self.owner.clone(),
                waiting: self.statuses.waiting(&self.name),
                opening: false,
                backlog: self.statuses.backlog(&self.name),
                at: now(),
            };
            let is_due = said.as_ref().is_none_or(|said| {
                said.waiting != beat.waiting || (beat.at - said.at).abs() >= HEARTBEAT_EVERY
            });
            if is_due {
                if let Err(error) = self.store.put_heartbeat(self.id, &beat).await {
                    tracing::debug!(job = self.name, %error, "no heartbeat was written");
                }
                said = Some(beat);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Deletes the last heartbeat if it is this runner's.
    pub(super) async fn stop(&self) {
        let last = self.store.heartbeat(self.id).await;
        if let Ok(Some(last)) = last
            && last.owner == self.owner
        {
            let _ = self.store.delete_heartbeat(self.id).await;
        }
    }
}
