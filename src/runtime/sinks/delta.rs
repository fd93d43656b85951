//! A Delta table as the sink of a job: one commit per batch with rows. Its witness is a number, which the table stores in the same
//! commit; after a RESTORE it is read off the log of the table.
//!
//! Rows are appended, and the commit says which offsets of topics the table covers now; or they are merged by a key; or they replace what
//! a chunk of a run covers. A table that is not only appended to has not every record of a topic, so that it covers none.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;

use crate::core::archive::JobClaims;
use crate::core::jobs::log::sequence_of;
use crate::core::jobs::recovery::BEGINNING;
use crate::core::jobs::{BatchVersion, Identity, JobHistory, SourceProgress};
use crate::core::runs::{Chunk, Finality};
use crate::error::{Error, Result, Subject};
use crate::runtime::sink::{JobLog, JobSink, OpenSink, PendingRows, SinkReport, Witness, own};
use crate::runtime::sinks::numbered;
use crate::store::JobId;
use crate::streaming::BatchPlan;
use crate::tables::delta::{
    Application, ClaimChange, ColumnBounds, Commit, DeltaTableHandle, PreparedChange,
    PreparedWrite, RowsUpTo,
};

/// After so many batches without rows in a row, a commit without rows says how far the job has read.
const BATCHES_WITHOUT_ROWS: u32 = 100;

/// How rows get into the table.
#[derive(Debug, Clone)]
pub(in crate::runtime) enum DeltaWrite {
    /// They are added.
    Append,
    /// They are added by a run, which reads a part of the past: what the table says of the offsets of topics stays.
    AppendPart,
    /// Each takes the place of those with the same values in these columns, and withdrawn rows are deleted by them.
    Merge {
        /// The columns.
        key: Vec<String>,
    },
    /// They take the place of what their chunk covers.
    Replace(CoveredColumns),
}

/// The columns of a table by which the rows that a chunk covers are found.
#[derive(Debug, Clone)]
pub(in crate::runtime) struct CoveredColumns {
    /// The start of a window, or the event time of a row.
    pub(in crate::runtime) start: Option<String>,
    /// The end of a window.
    pub(in crate::runtime) end: Option<String>,
    /// What of a chunk is final.
    pub(in crate::runtime) finality: Finality,
}

impl CoveredColumns {
    /// The bounds of the rows that a chunk covers.
    ///
    /// # Errors
    ///
    /// It is one of sessions, which are found by their key alone.
    fn bounds(&self, chunk: &Chunk) -> Result<Vec<ColumnBounds>> {
        let covered = chunk.covers(self.finality);
        let covered = covered.ok_or_else(|| Error::internal("a replacement of sessions"))?;
        let columns = [(&self.start, covered.starts), (&self.end, covered.ends)];
        let bounds = columns.into_iter().filter_map(|(column, bounds)| {
            let column = column.clone().filter(|_| !bounds.are_open())?;
            Some(ColumnBounds { column, bounds })
        });
        Ok(bounds.collect())
    }
}

/// The table before a takeover.
#[derive(Debug)]
pub(in crate::runtime) struct OpenTable {
    handle: DeltaTableHandle,
    id: JobId,
    /// The name of the job.
    job: String,
    write: DeltaWrite,
}

impl OpenTable {
    /// A table, for the job with this id and name: it merges rows by the table's key, if it has one.
    pub(super) fn new(handle: DeltaTableHandle, id: JobId, job: &str) -> Self {
        let write = match handle.primary_key_names() {
            [] => DeltaWrite::Append,
            key => DeltaWrite::Merge { key: key.to_vec() },
        };
        Self::with(handle, id, job, write)
    }

    /// The same for a job or run that writes rows in this way.
    pub(in crate::runtime) fn with(
        handle: DeltaTableHandle,
        id: JobId,
        job: &str,
        write: DeltaWrite,
    ) -> Self {
        let job = job.to_owned();
        Self {
            handle,
            id,
            job,
            write,
        }
    }
}

#[async_trait]
impl OpenSink for OpenTable {
    /// A takeover is a commit.
    async fn identity_before(&self) -> Result<Option<Identity>> {
        self.handle.identity().await.map(Some)
    }

    async fn witness(&self, log: JobLog<'_>) -> Result<Witness> {
        let application = application_of(self.id, 0);
        let number = self.handle.transaction_version(&application.witness);
        witness_in(&self.handle, &application, number.await?, log).await
    }

    async fn take_over(self: Box<Self>, sequence: u64) -> Result<Box<dyn JobSink>> {
        let Self {
            handle,
            id,
            job,
            write,
        } = *self;
        let version = i64::try_from(sequence).unwrap_or(i64::MAX);
        let mut application = application_of(id, version);
        // Refreshes the known state of the table first: if it was deleted and created again, the state known of the old one must
        // not be used.
        handle.identity().await?;
        application.checked = handle.take_over(&application.id, version).await?;
        let number = handle.transaction_version(&application.witness).await?;
        let claims = handle.claims_of(&application).await?;
        Ok(Box::new(TableSink {
            handle,
            application,
            number,
            job,
            write,
            claims,
            without_rows: 0,
        }))
    }
}

/// The table of a runner that owns it.
#[derive(Debug)]
struct TableSink {
    handle: DeltaTableHandle,
    application: Application,
    /// The number that the table stored when it was taken over.
    number: Option<i64>,
    /// The name of the job.
    job: String,
    write: DeltaWrite,
    /// What the table says of the offsets that the job has read.
    claims: JobClaims,
    /// Batches without rows since the last commit.
    without_rows: u32,
}

impl TableSink {
    /// The change of a commit of batch `batch` after which the table says `now`.
    fn change<'a>(&'a self, now: &'a JobClaims, batch: u64) -> ClaimChange<'a> {
        ClaimChange {
            before: &self.claims,
            now,
            job: &self.job,
            batch,
        }
    }

    /// Makes the table say `now`, in a commit without rows.
    async fn claim(&mut self, now: JobClaims, batch: u64) -> Result<()> {
        let change = self.change(&now, batch);
        self.application.checked = self.handle.claim(&self.application, &change).await?;
        self.claims = now;
        self.without_rows = 0;
        Ok(())
    }

    /// Commits rows that take others out of the table.
    async fn commit_change(
        &mut self,
        prepared: PreparedChange,
        version: &BatchVersion,
    ) -> Result<()> {
        // Without a commit nothing can be doubled.
        if prepared.is_empty() {
            return Ok(());
        }
        self.application.version = i64::try_from(version.sequence).unwrap_or(i64::MAX);
        // It may have been appended to before.
        let now = JobClaims::default();
        let change = self.change(&now, version.batch);
        let commit = self
            .handle
            .commit_change(prepared, &self.application, &change)
            .await?;
        self.committed(&commit, now);
        Ok(())
    }

    /// Notes a commit after which the table says `now`.
    fn committed(&mut self, commit: &Commit, now: JobClaims) {
        self.application.owned = self.application.version;
        self.application.checked = commit.version;
        self.claims = now;
        self.without_rows = 0;
    }
}

#[async_trait]
impl JobSink for TableSink {
    async fn identity(&self) -> Result<Option<Identity>> {
        self.handle.identity().await.map(Some)
    }

    async fn witness(&self, log: JobLog<'_>) -> Result<Witness> {
        witness_in(&self.handle, &self.application, self.number, log).await
    }

    /// If the user has decided which rows the table has, it stores that decision, since the log drops it with the next batch,
    /// which may have no rows.
    async fn mark(&self, history: &JobHistory) -> Result<()> {
        if history.assuming.is_none() {
            return Ok(());
        }
        let last = history.last().map(|last| last.version.as_str());
        let number = sequence_of(last.unwrap_or(BEGINNING));
        let number = number.and_then(|number| i64::try_from(number).ok());
        self.handle
            .mark(&self.application, number.unwrap_or(0))
            .await
    }

    async fn check_revert(&self, files: &[String]) -> Result<()> {
        let handle = &self.handle;
        if !files.is_empty() && handle.is_append_only().await? {
            return Err(Error::invalid(format!(
                "Delta table '{}' is append-only: the rows of {} files cannot be removed",
                handle.location(),
                files.len()
            ))
            .about(Subject::location(handle.location()))
            .with_help("'delta.appendOnly' 'false' allows it; a new job with a new table continues from any offset"));
        }
        // Files that a RESTORE or a DELETE has removed need not be removed again.
        let Some(file) = handle.rewritten_file(files).await? else {
            return Ok(());
        };
        Err(Error::invalid(format!(
            "Delta table '{}': files to be removed are no longer in it, and {} was rewritten in version {}",
            handle.location(),
            file.path,
            file.version
        ))
        .about(Subject::location(handle.location()))
        .with_help("OPTIMIZE or a DELETE has rewritten it, and other rows with it: the batches cannot be abandoned"))
    }

    async fn forget_after(&mut self, last: Option<&BatchVersion>) -> Result<()> {
        if !matches!(self.write, DeltaWrite::Append) {
            return Ok(());
        }
        let now = self.claims.up_to(last);
        match now == self.claims {
            true => Ok(()),
            false => self.claim(now, last.map_or(0, |last| last.batch)).await,
        }
    }

    async fn take_back(&self, files: &[String]) -> Result<()> {
        self.handle.remove_files(files, &self.application).await
    }

    fn abandoned_rows(&self, _: &BTreeMap<i32, SourceProgress>) -> String {
        match &self.write {
            DeltaWrite::Append | DeltaWrite::AppendPart => {
                "their rows are no longer in the table".to_owned()
            }
            DeltaWrite::Merge { key } => format!(
                "what they merged stays in the table until a row with the same {} takes its place",
                key.join(", ")
            ),
            DeltaWrite::Replace(_) => {
                "what they replaced stays replaced until it is replaced again".to_owned()
            }
        }
    }

    /// A merge deletes withdrawn rows.
    async fn write(
        &self,
        withdrawn: Option<&RecordBatch>,
        batch: &BatchPlan,
    ) -> Result<Box<dyn PendingRows>> {
        let (plan, context) = (Arc::clone(&batch.plan), Arc::clone(&batch.context));
        let handle = &self.handle;
        Ok(match &self.write {
            DeltaWrite::Append | DeltaWrite::AppendPart => {
                Box::new(handle.prepare(plan, context).await?)
            }
            DeltaWrite::Merge { key } => {
                let prepared = handle.prepare_upsert(key, withdrawn, plan, context);
                Box::new(prepared.await?)
            }
            DeltaWrite::Replace(columns) => {
                let chunk = batch.chunk.as_ref();
                let chunk =
                    chunk.ok_or_else(|| Error::internal("a replacement without a chunk"))?;
                let covered = columns.bounds(chunk)?;
                let prepared = handle.prepare_replacement(covered, plan, context);
                Box::new(prepared.await?)
            }
        })
    }

    async fn rehearse(&self, batch: &BatchPlan) -> Result<()> {
        let (plan, context) = (Arc::clone(&batch.plan), Arc::clone(&batch.context));
        if let DeltaWrite::Merge { key } = &self.write {
            return self.handle.rehearse_upsert(key, plan, context).await;
        }
        self.handle.prepare(plan, context).await?.discard().await;
        Ok(())
    }

    async fn commit(
        &mut self,
        pending: Box<dyn PendingRows>,
        _: &str,
        version: &BatchVersion,
    ) -> Result<()> {
        let now = match &self.write {
            DeltaWrite::Append => self.claims.after(&self.job, version),
            DeltaWrite::AppendPart => self.claims.clone(),
            DeltaWrite::Merge { .. } | DeltaWrite::Replace(_) => {
                return self.commit_change(own(pending)?, version).await;
            }
        };
        let prepared: PreparedWrite = own(pending)?;
        // A batch without rows cannot be doubled, so it needs no commit; the next one covers what it has read. Where the job begins
        // in a partition, and offsets that it skips, are stored at once: a later batch would not know of them.
        if prepared.rows() == 0 {
            self.without_rows += 1;
            let is_due = self.without_rows >= BATCHES_WITHOUT_ROWS && now != self.claims;
            return match is_due || now.since(&self.claims).has_lost() || now.begins(&self.claims) {
                true => self.claim(now, version.batch).await,
                false => Ok(()),
            };
        }
        self.application.version = i64::try_from(version.sequence).unwrap_or(i64::MAX);
        let change = self.change(&now, version.batch);
        let prepared = prepared.claiming(&self.application, &change);
        let commit = self
            .handle
            .commit_prepared(prepared, &self.application)
            .await?;
        self.committed(&commit, now);
        Ok(())
    }

    async fn abort(&self, pending: Option<Box<dyn PendingRows>>) {
        if let Some(files) = files_of(pending) {
            files.discard().await;
        }
    }

    fn abandon(&self, pending: Option<Box<dyn PendingRows>>) {
        if let Some(files) = files_of(pending)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(files.discard());
        }
    }
}

impl PendingRows for PreparedWrite {
    fn written(&self) -> SinkReport {
        SinkReport {
            rows: self.rows(),
            files: self.files(),
            ..SinkReport::default()
        }
    }
}

/// Which files hold a row of a batch is known when they are committed, and a later batch moves it.
impl PendingRows for PreparedChange {
    fn written(&self) -> SinkReport {
        SinkReport {
            rows: self.rows(),
            ..SinkReport::default()
        }
    }
}

/// Files that no commit names.
enum UncommittedFiles {
    Appended(Box<PreparedWrite>),
    Changed(Box<PreparedChange>),
}

impl UncommittedFiles {
    async fn discard(self) {
        match self {
            Self::Appended(prepared) => prepared.discard().await,
            Self::Changed(prepared) => prepared.discard().await,
        }
    }
}

/// The files that were written; none if a write has failed, since it leaves nothing behind.
fn files_of(pending: Option<Box<dyn PendingRows>>) -> Option<UncommittedFiles> {
    let pending: Box<dyn Any> = pending?;
    match pending.downcast::<PreparedWrite>() {
        Ok(prepared) => Some(UncommittedFiles::Appended(prepared)),
        Err(other) => other.downcast().ok().map(UncommittedFiles::Changed),
    }
}

/// The application of a job in a Delta log, with this number as its owner.
fn application_of(id: JobId, version: i64) -> Application {
    Application {
        id: format!("anabranch/{id}"),
        owned: version,
        version,
        witness: format!("anabranch/{id}/rows"),
        checked: 0,
    }
}

/// What a table tells that stores `number`, which a RESTORE does not change.
async fn witness_in(
    handle: &DeltaTableHandle,
    application: &Application,
    number: Option<i64>,
    log: JobLog<'_>,
) -> Result<Witness> {
    let files = numbered::files_of(number, log).await;
    // If the table has the last files, it has those before them too: no rows follow a RESTORE that the job was not aware of.
    let has_last = !files.is_empty() && handle.missing_files(&files).await?.is_empty();
    let found = match number {
        Some(_) if !has_last => handle.rows_up_to(&application.witness).await?,
        number => RowsUpTo::Number(number),
    };
    Ok(match found {
        RowsUpTo::Number(number) => numbered::witness_of(number, log),
        RowsUpTo::Unknown(restored_in) => Witness {
            untold_since: Some(restored_in),
            ..numbered::witness_of(number, log)
        },
    })
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::{AlignedWindows, WindowKind};

    use super::*;
    use crate::core::runs::{Chunks, Grouping, TimeBounds, TimeRange};

    #[test]
    fn a_chunk_replaces_rows_by_the_columns_that_the_table_has() {
        let windows = AlignedWindows::try_new(WindowKind::Hop, 30, 10, 0).unwrap();
        let grouping = Grouping::Aligned(windows);
        let range = TimeRange::try_new(20, 60).unwrap();
        let chunk = Chunks::new(grouping, range.into()).next(None, 20).unwrap();
        let bounds = |column: &str, from: i64, to: i64| ColumnBounds {
            column: column.to_owned(),
            bounds: TimeBounds {
                from: Some(from),
                to: Some(to),
            },
        };
        let covered = |start: Option<&str>, end: Option<&str>, watermark: i64| {
            let columns = CoveredColumns {
                start: start.map(str::to_owned),
                end: end.map(str::to_owned),
                finality: Finality::new(grouping, Some(watermark)),
            };
            columns.bounds(&chunk).unwrap()
        };
        // Windows that end after 20 and by 40.
        let (starts, ends) = (bounds("s", -9, 11), bounds("e", 21, 41));
        assert_eq!(covered(Some("s"), None, 90), std::slice::from_ref(&starts));
        assert_eq!(covered(Some("s"), Some("e"), 90), [starts, ends]);
        // The one that ends at 40 is not final yet.
        assert_eq!(covered(None, Some("e"), 39), [bounds("e", 21, 40)]);
        // A row has no end.
        let chunk = Chunks::new(Grouping::Rows, range.into())
            .next(None, 5)
            .unwrap();
        let columns = CoveredColumns {
            start: Some("t".to_owned()),
            end: Some("e".to_owned()),
            finality: Finality::new(Grouping::Rows, None),
        };
        assert_eq!(columns.bounds(&chunk).unwrap(), [bounds("t", 20, 25)]);
    }
}
