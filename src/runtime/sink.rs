//! The traits of a sink: what a runner asks of the table that its job writes to, before it owns it and as its owner; the rows of a
//! batch on their way, and what a sink tells about the batches that it has.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;

use crate::core::jobs::{
    BatchVersion, ChangeCounts, Identity, JobHistory, PlannedRange, SourceProgress, StagedVersion,
};
use crate::error::{Error, Result};
use crate::store::{JobId, JobStore};
use crate::streaming::BatchPlan;

/// A sink that this process has opened and does not own.
#[async_trait]
pub(super) trait OpenSink: Send + Sync {
    /// Identity of a sink that a takeover writes to; none if it writes nothing. No row may be written to a sink with another
    /// identity, so it is compared before (IDENT-1).
    ///
    /// # Errors
    ///
    /// The sink does not answer.
    async fn identity_before(&self) -> Result<Option<Identity>>;

    /// What the sink tells about the batches that it has.
    ///
    /// # Errors
    ///
    /// The sink does not answer.
    async fn witness(&self, log: JobLog<'_>) -> Result<Witness>;

    /// Makes this process the owner: every write of an earlier owner fails from now on. `sequence` is the number of the takeover's
    /// log entry.
    ///
    /// # Errors
    ///
    /// The sink does not answer, or refuses.
    async fn take_over(self: Box<Self>, sequence: u64) -> Result<Box<dyn JobSink>>;
}

/// A sink that this runner owns until another process takes it over.
#[async_trait]
pub(super) trait JobSink: Send + Sync {
    /// Identity of the sink now (IDENT-1); none of a sink that nothing else could replace.
    ///
    /// # Errors
    ///
    /// The sink is gone, or does not answer.
    async fn identity(&self) -> Result<Option<Identity>>;

    /// What the sink told when it was taken over about the batches that it has.
    ///
    /// # Errors
    ///
    /// The sink does not answer.
    async fn witness(&self, log: JobLog<'_>) -> Result<Witness>;

    /// Stores where the job stands in the sink, so that later takeovers find it.
    ///
    /// # Errors
    ///
    /// The sink does not answer, or another process has taken it over.
    async fn mark(&self, history: &JobHistory) -> Result<()>;

    /// Whether the sink forgets the witness of a job that commits nothing for days.
    fn loses_old_witness(&self) -> bool {
        false
    }

    /// How long a batch may take; none if there is no limit.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Checks that the rows of abandoned batches, which are in these files, can be removed. By default there are no files.
    ///
    /// # Errors
    ///
    /// They cannot be removed, or the sink does not answer.
    async fn check_revert(&self, _files: &[String]) -> Result<()> {
        Ok(())
    }

    /// Stores that the batches behind `last`, the version where the job stands, are abandoned, before their rows are removed; none if
    /// it has no batch. By default the sink stores nothing of what batches have read.
    ///
    /// # Errors
    ///
    /// The sink does not answer, or another process has taken it over.
    async fn forget_after(&mut self, _last: Option<&BatchVersion>) -> Result<()> {
        Ok(())
    }

    /// Removes the files of abandoned batches. By default the sink keeps what it has shown.
    ///
    /// # Errors
    ///
    /// The sink does not answer, or another process has taken it over.
    async fn take_back(&self, _files: &[String]) -> Result<()> {
        Ok(())
    }

    /// What became of the rows of abandoned batches, for the user; `published` is where they are in the partitions of a topic.
    fn abandoned_rows(&self, published: &BTreeMap<i32, SourceProgress>) -> String;

    /// The next rows are those of a batch over these ranges, by table. By default a sink does not look at what batches read.
    fn expects(&self, _ranges: &BTreeMap<String, Vec<PlannedRange>>) {}

    /// Writes the rows of a batch, which the sink does not show yet. `withdrawn` are rows of earlier batches that no longer hold.
    ///
    /// # Errors
    ///
    /// The rows' own error, a row that cannot be written, the sink. [`Self::abort`] is to follow.
    async fn write(
        &self,
        withdrawn: Option<&RecordBatch>,
        batch: &BatchPlan,
    ) -> Result<Box<dyn PendingRows>>;

    /// Computes and encodes the rows of a batch as for a write, but writes nothing that stays.
    ///
    /// # Errors
    ///
    /// As of [`Self::write`].
    async fn rehearse(&self, batch: &BatchPlan) -> Result<()> {
        let pending = self.write(None, batch).await?;
        self.abort(Some(pending)).await;
        Ok(())
    }

    /// Makes the rows visible together with the witness: `name`, the name of the batch's version.
    ///
    /// # Errors
    ///
    /// Another process has taken the sink over; or the sink does not answer: then the outcome is unknown, and only the witness
    /// tells it after the next takeover.
    async fn commit(
        &mut self,
        pending: Box<dyn PendingRows>,
        name: &str,
        version: &BatchVersion,
    ) -> Result<()>;

    /// Aborts uncommitted rows, also those of a write that has failed half-way and given none.
    async fn abort(&self, pending: Option<Box<dyn PendingRows>>);

    /// Aborts them without waiting for the sink: for a batch that was dropped half-way. It is called within a Tokio runtime.
    fn abandon(&self, pending: Option<Box<dyn PendingRows>>);
}

/// Rows that a sink has and does not show to readers yet.
pub(super) trait PendingRows: Any + Send {
    /// What the version of the batch says about them.
    fn written(&self) -> SinkReport;
}

/// What the version of a batch says about the rows of its sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SinkReport {
    /// Rows that the sink has acknowledged.
    pub(super) rows: u64,
    /// Where they are in the partitions of a topic.
    pub(super) published: BTreeMap<i32, SourceProgress>,
    /// Paths of the files that a commit adds to a table.
    pub(super) files: Vec<String>,
    /// The rows of a run by kind, if they were compared with the published ones.
    pub(super) compared: Option<ChangeCounts>,
}

/// The log of a job, by which a sink finds out what its witness means.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobLog<'a> {
    /// The store of jobs.
    pub(super) store: &'a JobStore,
    /// The job.
    pub(super) id: JobId,
    /// What its log says.
    pub(super) history: &'a JobHistory,
    /// Versions that were written and that the log does not name.
    pub(super) staged: &'a [StagedVersion],
}

/// What a sink tells about the batches that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Witness {
    /// The version where the job stands by the sink, `BEGINNING` before the first one; none if the sink does not know.
    pub(super) version: Option<String>,
    /// The last version whose rows the sink has, `BEGINNING` if it has no rows: of a sink that gets no commit of a batch without
    /// rows. None of a sink that gets a commit of every batch.
    pub(super) rows: Option<String>,
    /// The version of the sink that has restored it to an earlier state, if its log no longer shows which rows it has since then.
    pub(super) untold_since: Option<u64>,
}

/// The rows as the type that a sink writes them as.
///
/// # Errors
///
/// Another sink has written them.
pub(super) fn own<P: PendingRows>(pending: Box<dyn PendingRows>) -> Result<P> {
    let pending: Box<dyn Any> = pending;
    let own = pending.downcast::<P>();
    own.map(|own| *own)
        .map_err(|_| Error::internal("the rows were written by another sink"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct InMemory(u64);

    struct InFiles;

    impl PendingRows for InMemory {
        fn written(&self) -> SinkReport {
            SinkReport {
                rows: self.0,
                ..SinkReport::default()
            }
        }
    }

    impl PendingRows for InFiles {
        fn written(&self) -> SinkReport {
            SinkReport::default()
        }
    }

    #[test]
    fn a_sink_takes_back_its_own_rows_and_no_others() {
        let pending = || -> Box<dyn PendingRows> { Box::new(InMemory(7)) };
        assert_eq!(pending().written().rows, 7);
        assert_eq!(own::<InMemory>(pending()).unwrap().0, 7);
        assert!(own::<InFiles>(pending()).is_err());
    }
}
