//! The chunks of one run against published rows: when it is planned, and again before it is applied.

use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use tokio::sync::Mutex;

use crate::core::jobs::{ChunkExtent, ComparedChunk, RunEvent};
use crate::core::runs::result_columns::GivenAgain;
use crate::core::runs::{Chunk, Emission, Finality, Grouping, RunSpec, TimeRange, TimeRanges};
use crate::error::Result;
use crate::runtime::runs::comparison::{ComparedRows, KeptChanges, SinkComparison};
use crate::runtime::runs::published::{PublishedPast, PublishedRows};
use crate::store::{JobId, JobStore, RunStore, StoredRun};
use crate::streaming::JobQuery;

/// Compares the chunks of a run with the rows of its sink.
#[derive(Debug)]
pub struct ChunkComparison {
    query: Arc<JobQuery>,
    spec: Arc<RunSpec>,
    comparison: SinkComparison,
    past: PublishedPast,
    emission: TimeRanges,
    /// What was read for the last chunk: of a job that groups no rows, it is the same for the next one.
    read: Mutex<Option<PublishedRows>>,
}

impl ChunkComparison {
    /// Of a run of the job `id`, with the job's query or that of the run. `times` are the columns of the sink that are start and end of
    /// results, by lineage. What was published until now is looked up once.
    ///
    /// # Errors
    ///
    /// The sink has no key, or does not answer; the log of the job cannot be read.
    pub async fn open(
        (jobs, id): (&JobStore, JobId),
        runs: &RunStore,
        query: Arc<JobQuery>,
        spec: Arc<RunSpec>,
        times: (Option<&str>, Option<&str>),
    ) -> Result<Self> {
        let comparison = SinkComparison::of_query(&query, times, spec.grouping).await?;
        let length = match spec.grouping {
            Grouping::Rows => None,
            Grouping::Aligned(windows) => Some(windows.size()),
            Grouping::Sessions { gap } => Some(gap),
        };
        let reach = length.map(|length| length.saturating_add(query.delay()));
        let past = PublishedPast::load((jobs, id), runs, reach, &spec.sink).await?;
        let emission = match &spec.emission {
            Emission::Time(ranges) => ranges.clone(),
            Emission::Offsets(_) => TimeRanges::default(),
        };
        Ok(Self {
            query,
            spec,
            comparison,
            past,
            emission,
            read: Mutex::default(),
        })
    }

    /// How rows are compared.
    pub fn comparison(&self) -> &SinkComparison {
        &self.comparison
    }

    /// Compares the rows of a chunk with those that the sink has now; `chunk` is none of offsets. `has_left`: the chunk has left windows or
    /// sessions out.
    ///
    /// # Errors
    ///
    /// The sink does not answer, or a record there cannot be read; rows of other columns.
    pub async fn compare(
        &self,
        computed: &RecordBatch,
        chunk: Option<&Chunk>,
        has_left: bool,
    ) -> Result<ComparedRows> {
        let range = chunk.map(|chunk| chunk.range);
        let ends = self.comparison.ends_of(computed, range)?;
        let published = self.published(&ends).await?;
        let again = GivenAgain {
            chunk,
            emission: &self.emission,
            finality: Finality::new(self.spec.grouping, self.spec.watermark),
            is_selection: self.spec.selection.is_some(),
            has_left,
        };
        let now = (&self.past, &published);
        self.comparison
            .compare(computed, now, again, self.spec.options)
    }

    /// The rows that the sink has now of results with these ends, and others.
    async fn published(&self, ends: &RangeInclusive<i64>) -> Result<PublishedRows> {
        let mut read = self.read.lock().await;
        let columns = self.comparison.columns();
        let rows = self.past.rows(&self.query, columns, ends, read.take());
        let rows = rows.await?;
        *read = Some(rows.clone());
        Ok(rows)
    }

    /// Keeps what differs in a chunk with the run; gives the event that says so, which is to be appended to the log of the run.
    ///
    /// # Errors
    ///
    /// The store does not answer; types that a file cannot have.
    pub async fn keep(
        &self,
        runs: &RunStore,
        run: &StoredRun,
        extent: ChunkExtent,
        compared: &ComparedRows,
    ) -> Result<RunEvent> {
        self.comparison.keep(runs, run, extent, compared).await
    }

    /// Of how many keys of the kept rows the sink says something else now than it did when they were compared.
    ///
    /// # Errors
    ///
    /// As of [`Self::compare`]; a kept file cannot be read.
    pub async fn keys_moved(&self, runs: &RunStore, run: &StoredRun) -> Result<u64> {
        let compared = run.history.run.iter().flat_map(|run| &run.compared);
        let mut moved = 0_u64;
        for chunk in compared {
            let Some(kept) = kept(runs, run, chunk).await? else {
                continue;
            };
            let ends = self.comparison.ends_of(&kept.results()?, range_of(chunk))?;
            let now = self.published(&ends).await?;
            moved = moved.saturating_add(self.comparison.moved(&kept, &now.rows)?);
        }
        Ok(moved)
    }
}

/// The rows of a compared chunk that differ; none if all are the same.
///
/// # Errors
///
/// The file is missing or damaged, or the store does not answer.
pub async fn kept(
    runs: &RunStore,
    run: &StoredRun,
    chunk: &ComparedChunk,
) -> Result<Option<KeptChanges>> {
    let Some(file) = &chunk.changes else {
        return Ok(None);
    };
    let bytes = runs.changes(run, file).await?;
    KeptChanges::read(&bytes).map(Some)
}

fn range_of(chunk: &ComparedChunk) -> Option<TimeRange> {
    match chunk.extent {
        ChunkExtent::Time { from, to } => TimeRange::try_new(from, to),
        ChunkExtent::Offsets(_) => None,
    }
}
