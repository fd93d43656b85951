//! The job beside a run: before each chunk the run looks at its last heartbeat, and waits while the job falls behind.

use std::sync::{Arc, Mutex, PoisonError};

use crate::core::runs::{Precedence, RunSpec, Turn};
use crate::error::{Error, Result};
use crate::runtime::clock::Clock;
use crate::store::{JobId, JobStore};

/// Watches the job of a run, which any process may run.
#[derive(Debug)]
pub(in crate::runtime) struct JobWatch {
    store: JobStore,
    id: JobId,
    /// The name of the job.
    name: String,
    clock: Arc<dyn Clock>,
    precedence: Mutex<Precedence>,
}

impl JobWatch {
    /// Watches the job of `spec`, whose store is `store`; none if the run is not to wait for it.
    ///
    /// # Errors
    ///
    /// The spec has no valid id of a job.
    pub(in crate::runtime) fn of_spec(
        store: &JobStore,
        spec: &RunSpec,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>> {
        if !spec.options.yields {
            return Ok(None);
        }
        Ok(Some(Self {
            store: store.clone(),
            id: job_id(spec)?,
            name: spec.job.clone(),
            clock,
            precedence: Mutex::default(),
        }))
    }

    /// Why the next chunk waits, if it does. While the store does not answer, no chunk waits: no result depends on it.
    pub(in crate::runtime) async fn wait_reason(&self) -> Option<String> {
        let beat = match self.store.heartbeat(self.id).await {
            Ok(beat) => beat,
            Err(error) => {
                tracing::debug!(job = self.name, %error, "its heartbeat cannot be read");
                None
            }
        };
        let now = self.clock.now();
        let mut precedence = self
            .precedence
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match precedence.look(beat.as_ref(), now) {
            Turn::Run => None,
            Turn::Job { backlog } => Some(format!(
                "job {} falls behind, with {backlog} records left in its sources: the next chunk waits for it",
                self.name
            )),
        }
    }
}

/// The id of the job of a run.
///
/// # Errors
///
/// The spec has no valid one.
pub(super) fn job_id(spec: &RunSpec) -> Result<JobId> {
    spec.job_id
        .parse()
        .map_err(|_| Error::internal(format!("'{}' is the id of no job", spec.job_id)))
}
