//! Windows or keys of a job at run time. A job without them keeps no state: then all of this does nothing, and a batch gives the rows
//! of its query.

pub(super) mod keyed;
mod prepared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::jobs::{BatchVersion, Partitions};
use crate::error::{Error, Result};
use crate::runtime::batch::BatchRanges;
use crate::runtime::job::ReadyJob;
use crate::runtime::sink::JobSink;
use crate::runtime::source::SourcePlans;
use crate::runtime::version::StateFacts;
use crate::runtime::window_state::keyed::{KeyedState, StateUpdate};
use crate::runtime::window_state::prepared::PreparedBatch;
use crate::store::JobStore;
use crate::streaming::LastRecords;

/// The state and time of a job, as they are after the last batch.
pub(super) struct WindowState {
    /// None of a job that keeps no state.
    pub(super) state: Option<KeyedState>,
}

/// What of a batch takes effect on the state when the batch is committed.
pub(super) struct Staged(Option<StateUpdate>);

impl WindowState {
    /// Loads the state of a version; empty if the job has committed nothing.
    ///
    /// # Errors
    ///
    /// A file of state cannot be read; the state was made by another text of the job.
    pub(super) async fn load(
        store: &JobStore,
        job: &ReadyJob,
        version: Option<&BatchVersion>,
    ) -> Result<Self> {
        let state = match job.query.stream() {
            Some(query) => Some(KeyedState::load(store, job, query, version).await?),
            None => None,
        };
        Ok(Self { state })
    }

    /// Whether the job keeps state.
    pub(super) fn keep_state(&self) -> bool {
        self.state.is_some()
    }

    /// Rows of state.
    pub(super) fn rows(&self) -> usize {
        self.state.as_ref().map_or(0, KeyedState::rows)
    }

    /// Bytes of state in memory.
    pub(super) fn bytes(&self) -> usize {
        self.state.as_ref().map_or(0, KeyedState::bytes)
    }

    /// The job's watermark, in microseconds since 1970 UTC.
    pub(super) fn watermark(&self) -> Option<i64> {
        self.state.as_ref()?.watermark()
    }

    /// Resets a table that has another identity now: its partitions begin at the job's watermark.
    pub(super) fn forget_table(&mut self, table: &str) {
        if let Some(state) = &mut self.state {
            state.forget_table(table);
        }
    }

    /// Whether the watermark is already past windows that are still open.
    pub(super) fn is_behind(&self) -> bool {
        self.state.as_ref().is_some_and(KeyedState::is_behind)
    }

    /// Whether a batch without records would move the watermark, or close windows that it has passed.
    pub(super) fn would_move(&self, known: &Partitions, idle: &Partitions) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|state| state.would_move(known, idle))
    }

    /// The partitions that are too far ahead of the others to be read now; none if the job has no `max_drift`.
    pub(super) fn waiting(&self, idle: &Partitions, max_drift: Option<Duration>) -> Partitions {
        match (&self.state, max_drift) {
            (Some(state), Some(max_drift)) => state.waiting(idle, max_drift),
            _ => Partitions::new(),
        }
    }

    /// Prepares a batch: with state it is run up to the rows it emits, without it is planned. `clock` gets the last records that
    /// were read and returns the batch's time, in milliseconds since 1970 UTC. Changes no state.
    ///
    /// # Errors
    ///
    /// Errors of the plan, of a source, and of the records themselves.
    pub(super) async fn prepare(
        &self,
        job: &ReadyJob,
        plans: &SourcePlans,
        ranges: &BatchRanges,
        known: &Partitions,
        idle: &Partitions,
        clock: impl FnOnce(&LastRecords) -> i64,
    ) -> Result<PreparedBatch> {
        Ok(match &self.state {
            Some(state) => {
                let emitted = state.prepare(job, plans, ranges, known, idle, clock);
                PreparedBatch::Emitted(Box::new(emitted.await?))
            }
            None => {
                let sources = ranges.of_plans(plans, &BTreeMap::new())?;
                PreparedBatch::Rows(Arc::new(job.query.batch(sources).await?))
            }
        })
    }

    /// Runs the steps of a batch that process records, and keeps no result.
    ///
    /// # Errors
    ///
    /// As of the batch.
    pub(super) async fn rehearse(
        &self,
        job: &ReadyJob,
        plans: &SourcePlans,
        ranges: &BatchRanges,
        sink: &dyn JobSink,
    ) -> Result<()> {
        match &self.state {
            Some(state) => state.rehearse(job, plans, ranges).await,
            None => {
                let sources = ranges.of_plans(plans, &BTreeMap::new())?;
                let plan = job.query.batch(sources).await?;
                sink.rehearse(&plan).await
            }
        }
    }

    /// Writes the state and late rows of a batch under `name`, the name of its version.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub(super) async fn stage(
        &self,
        store: &JobStore,
        job: &ReadyJob,
        prepared: PreparedBatch,
        name: &str,
    ) -> Result<(StateFacts, Staged)> {
        match (&self.state, prepared, job.query.stream()) {
            (Some(state), PreparedBatch::Emitted(emitted), Some(query)) => {
                let staged = state.stage(store, job.id, query, *emitted, name);
                let (facts, applied) = staged.await?;
                Ok((facts, Staged(Some(applied))))
            }
            (None, PreparedBatch::Rows(_), _) => Ok((StateFacts::default(), Staged(None))),
            _ => Err(Error::internal("the batch was prepared with other state")),
        }
    }

    /// Applies the changes of a committed batch.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn apply(&mut self, staged: Staged) -> Result<()> {
        match (&mut self.state, staged.0) {
            (Some(state), Some(applied)) => state.apply(applied),
            _ => Ok(()),
        }
    }
}
