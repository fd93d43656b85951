//! The sink of a run: that of its job, under the identity that the run rests on, with rows in the order of their keys and at the pace
//! that the run may have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use tokio::time::Instant;

use crate::core::jobs::{
    BatchVersion, ChangeCounts, Identity, IdentityMatch, JobHistory, PlannedRange, SourceProgress,
};
use crate::core::runs::{OffsetSet, RunSpec};
use crate::error::{Error, Result};
use crate::runtime::clock::Clock;
use crate::runtime::runs::chunk_comparison::{ChunkComparison, ChunkPart};
use crate::runtime::sink::{JobLog, JobSink, OpenSink, PendingRows, SinkReport, Witness, own};
use crate::streaming::BatchPlan;

/// The sink before a takeover.
pub(in crate::runtime) struct OpenRunSink {
    pub(in crate::runtime) inner: Box<dyn OpenSink>,
    /// The columns of the key, in whose order rows are written.
    pub(in crate::runtime) key: Vec<usize>,
    pub(in crate::runtime) spec: Arc<RunSpec>,
    pub(in crate::runtime) comparison: Option<Arc<ChunkComparison>>,
    pub(in crate::runtime) clock: Arc<dyn Clock>,
}

#[async_trait]
impl OpenSink for OpenRunSink {
    async fn identity_before(&self) -> Result<Option<Identity>> {
        let now = self.inner.identity_before().await?;
        check_identity(&self.spec, now.as_ref())?;
        Ok(now)
    }

    async fn witness(&self, log: JobLog<'_>) -> Result<Witness> {
        self.inner.witness(log).await
    }

    async fn take_over(self: Box<Self>, sequence: u64) -> Result<Box<dyn JobSink>> {
        let Self {
            inner,
            key,
            spec,
            comparison,
            clock,
        } = *self;
        Ok(Box::new(RunSink {
            inner: inner.take_over(sequence).await?,
            key,
            spec,
            comparison,
            clock,
            next: Mutex::default(),
            pace: Mutex::default(),
        }))
    }
}

/// The sink of a runner that owns the run.
struct RunSink {
    inner: Box<dyn JobSink>,
    key: Vec<usize>,
    spec: Arc<RunSpec>,
    comparison: Option<Arc<ChunkComparison>>,
    clock: Arc<dyn Clock>,
    /// What the next chunk reads.
    next: Mutex<OffsetSet>,
    /// When the last chunk was begun, and how many rows it has written.
    pace: Mutex<Option<(Instant, u64)>>,
}

/// The rows of a chunk on their way to the sink.
struct ChunkRows {
    rows: Box<dyn PendingRows>,
    /// All rows of the chunk by kind, if they were compared.
    compared: Option<ChangeCounts>,
}

impl PendingRows for ChunkRows {
    fn written(&self) -> SinkReport {
        SinkReport {
            compared: self.compared,
            ..self.rows.written()
        }
    }
}

/// The rows as the sink of the job knows them.
fn rows_of(pending: Option<Box<dyn PendingRows>>) -> Option<Box<dyn PendingRows>> {
    let own = own::<ChunkRows>(pending?).ok()?;
    Some(own.rows)
}

impl RunSink {
    /// What the next chunk reads.
    fn next(&self) -> OffsetSet {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.clone()
    }

    /// Waits until the next chunk may be written.
    async fn wait(&self) {
        let last = *self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some((began, rows)), Some(pace)) = (last, self.spec.options.max_rows_per_second) {
            let due = Duration::from_secs_f64(rows as f64 / pace.max(1) as f64);
            let left = due.saturating_sub(self.clock.since(began));
            self.clock.sleep(left).await;
        }
    }
}

#[async_trait]
impl JobSink for RunSink {
    async fn identity(&self) -> Result<Option<Identity>> {
        let now = self.inner.identity().await?;
        check_identity(&self.spec, now.as_ref())?;
        Ok(now)
    }

    async fn witness(&self, log: JobLog<'_>) -> Result<Witness> {
        self.inner.witness(log).await
    }

    async fn mark(&self, history: &JobHistory) -> Result<()> {
        self.inner.mark(history).await
    }

    fn loses_old_witness(&self) -> bool {
        self.inner.loses_old_witness()
    }

    fn timeout(&self) -> Option<Duration> {
        self.inner.timeout()
    }

    async fn check_revert(&self, files: &[String]) -> Result<()> {
        self.inner.check_revert(files).await
    }

    async fn forget_after(&mut self, last: Option<&BatchVersion>) -> Result<()> {
        self.inner.forget_after(last).await
    }

    async fn take_back(&self, files: &[String]) -> Result<()> {
        self.inner.take_back(files).await
    }

    fn abandoned_rows(&self, published: &BTreeMap<i32, SourceProgress>) -> String {
        self.inner.abandoned_rows(published)
    }

    fn expects(&self, ranges: &BTreeMap<String, Vec<PlannedRange>>) {
        let ranges = ranges.iter().flat_map(|(table, ranges)| {
            let ranges = ranges.iter();
            ranges.map(move |of| (table.clone(), of.partition, of.start..of.end))
        });
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = OffsetSet::of(ranges);
    }

    async fn write(
        &self,
        withdrawn: Option<&RecordBatch>,
        batch: &BatchPlan,
    ) -> Result<Box<dyn PendingRows>> {
        self.wait().await;
        let began = self.clock.instant();
        // All rows are computed before the first one is written: readers of the topic wait while a transaction is open.
        let pending = match &self.comparison {
            None => {
                let sorted = batch.sorted_by(&self.key)?;
                ChunkRows {
                    rows: self.inner.write(withdrawn, &sorted).await?,
                    compared: None,
                }
            }
            Some(comparison) => {
                let rows = batch.rows().await?;
                let has_left = batch.has_left();
                let next = self.next();
                let part = ChunkPart::of(batch.chunk.as_ref(), &next);
                let compared = comparison.compare(&rows, part, has_left).await?;
                let differing = batch.giving(compared.rows)?;
                let withdrawn = compared.withdrawn.as_ref();
                ChunkRows {
                    rows: self.inner.write(withdrawn, &differing).await?,
                    compared: Some(compared.counts),
                }
            }
        };
        let rows = pending.written().rows;
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = Some((began, rows));
        Ok(Box::new(pending))
    }

    async fn rehearse(&self, batch: &BatchPlan) -> Result<()> {
        self.inner.rehearse(batch).await
    }

    async fn commit(
        &mut self,
        pending: Box<dyn PendingRows>,
        name: &str,
        version: &BatchVersion,
    ) -> Result<()> {
        let ChunkRows { rows, .. } = own(pending)?;
        self.inner.commit(rows, name, version).await
    }

    async fn abort(&self, pending: Option<Box<dyn PendingRows>>) {
        self.inner.abort(rows_of(pending)).await;
    }

    fn abandon(&self, pending: Option<Box<dyn PendingRows>>) {
        self.inner.abandon(rows_of(pending));
    }
}

/// Refuses a sink that is not the one that the run was made for: before its first chunk, no version says which one that was.
fn check_identity(spec: &RunSpec, now: Option<&Identity>) -> Result<()> {
    match now {
        Some(now) if spec.sink.compare(now) == IdentityMatch::Other => Err(Error::data(format!(
            "the sink of run '{}' was replaced by another one: {}",
            spec.run_id,
            spec.sink.difference(now)
        ))
        .with_help("ABORT RUN ends it; a run with another run_id writes to the new sink")),
        _ => Ok(()),
    }
}
