//! The chunks of one run against published rows: when it is planned, and again before it is applied.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use tokio::sync::Mutex;

use crate::core::jobs::{ChangesFile, ChunkExtent, ComparedChunk};
use crate::core::runs::result_columns::GivenAgain;
use crate::core::runs::{
    Chunk, Emission, Finality, Grouping, OffsetSet, RunOptions, RunSpec, TimeRange, TimeRanges,
};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::runs::comparison::{ComparedRows, KeptChanges, PlannedRows, SinkComparison};
use crate::runtime::runs::published::{PublishedLogs, PublishedPast, PublishedRows};
use crate::runtime::sinks;
use crate::store::{JobId, JobStore, RunStore, StoredRun};
use crate::streaming::JobQuery;

/// About the bytes that a row takes in the maps of a comparison besides its key.
const ENTRY_BYTES: usize = 96;

/// Compares the chunks of a run with the rows of its sink.
#[derive(Debug)]
pub struct ChunkComparison {
    query: Arc<JobQuery>,
    spec: Arc<RunSpec>,
    comparison: SinkComparison,
    logs: PublishedLogs,
    emission: TimeRanges,
    /// The run with the chunks that were compared before; none while it is planned.
    planned: Option<StoredRun>,
    published: Mutex<ReadRows>,
}

/// The part of its run that a chunk is.
#[derive(Debug, Clone, Copy)]
pub enum ChunkPart<'a> {
    /// The results of a range of event time.
    Time(&'a Chunk),
    /// The rows of records at these offsets.
    Offsets(&'a OffsetSet),
}

impl<'a> ChunkPart<'a> {
    /// The part of a chunk that is cut by event time, if it is one, and otherwise has read these offsets.
    pub fn of(chunk: Option<&'a Chunk>, read: &'a OffsetSet) -> Self {
        chunk.map_or(Self::Offsets(read), Self::Time)
    }

    fn chunk(self) -> Option<&'a Chunk> {
        match self {
            Self::Time(chunk) => Some(chunk),
            Self::Offsets(_) => None,
        }
    }
}

/// Where published rows are by the last look at the logs, and those that were read for the last chunk: of a job that groups no rows, they
/// are the same for the next one, if nothing was published since.
#[derive(Debug)]
struct ReadRows {
    past: PublishedPast,
    rows: Option<PublishedRows>,
    memory: MemoryReservation,
}

impl ReadRows {
    fn rows(&self) -> Result<&PublishedRows> {
        let rows = self.rows.as_ref();
        rows.ok_or_else(|| Error::internal("a comparison without published rows"))
    }
}

impl ChunkComparison {
    /// Of a run of the job `id`, with the job's query or that of the run. `times` are the columns of the sink that are start and end of
    /// results, by lineage. `planned` is the run if it is written: nothing is gone then that is not gone by its plan.
    ///
    /// # Errors
    ///
    /// The sink has no key, or does not answer.
    pub async fn open(
        (jobs, id): (&JobStore, JobId),
        runs: &RunStore,
        query: Arc<JobQuery>,
        spec: Arc<RunSpec>,
        times: (Option<&str>, Option<&str>),
        planned: Option<&StoredRun>,
    ) -> Result<Self> {
        let comparison = SinkComparison::of_query(&query, times, spec.grouping).await?;
        let length = match spec.grouping {
            Grouping::Rows => None,
            Grouping::Aligned(windows) => Some(windows.size()),
            Grouping::Sessions { gap } => Some(gap),
        };
        let emission = match &spec.emission {
            Emission::Time(ranges) => ranges.clone(),
            Emission::Offsets(_) => TimeRanges::default(),
        };
        let context = query.reading_state().task_ctx();
        let consumer = MemoryConsumer::new("published rows of a comparison");
        let published = ReadRows {
            past: PublishedPast::default(),
            rows: None,
            memory: consumer.register(context.memory_pool()),
        };
        Ok(Self {
            comparison,
            logs: PublishedLogs {
                jobs: jobs.clone(),
                job: id,
                runs: runs.clone(),
                reach: length.map(|length| length.saturating_add(query.delay())),
                spec: Arc::clone(&spec),
            },
            query,
            spec,
            emission,
            planned: planned.cloned(),
            published: Mutex::new(published),
        })
    }

    /// Compares the rows of a chunk with those that the sink has now. `has_left`: the chunk has left windows or sessions out.
    ///
    /// # Errors
    ///
    /// The sink does not answer, or a record there cannot be read; rows of other columns; too little memory.
    pub async fn compare(
        &self,
        computed: &RecordBatch,
        part: ChunkPart<'_>,
        has_left: bool,
    ) -> Result<ComparedRows> {
        let chunk = part.chunk();
        let range = chunk.map(|chunk| chunk.range);
        let plan = self.plan_of(part).await?;
        let mut published = self.published.lock().await;
        published.past.refresh(&self.logs).await?;
        self.read(&mut published, computed, range).await?;
        let ReadRows { past, memory, .. } = &*published;
        let rows = published.rows()?;
        let planned = plan.as_ref().map_or(0, PlannedRows::size);
        let _working = working_memory(memory, computed, &rows.rows, planned)?;
        let again = GivenAgain {
            chunk,
            emission: &self.emission,
            finality: Finality::new(self.spec.grouping, self.spec.watermark),
            is_selection: self.spec.selection.is_some(),
            has_left,
        };
        let options = RunOptions {
            withdraw: sinks::removes_gone(self.query.sink(), self.spec.options),
            ..self.spec.options
        };
        self.comparison
            .compare(computed, (past, rows), again, (options, plan.as_ref()))
    }

    /// Reads the rows that the sink has now in the place of these results, and others, by the last look at the logs.
    async fn read(
        &self,
        published: &mut ReadRows,
        results: &RecordBatch,
        range: Option<TimeRange>,
    ) -> Result<()> {
        let ReadRows { past, rows, memory } = published;
        let ends = self.comparison.ends_of(results, range)?;
        let end = self.comparison.known_by();
        let before = rows.take();
        let read = past.rows(&self.query, end, &ends, (before, &*memory));
        let mut read = read
            .await
            .map_err(|error| too_many(error, self.spec.grouping))?;
        // The next chunk of windows needs others.
        if !matches!(self.spec.grouping, Grouping::Rows) {
            read.records = None;
        }
        *rows = Some(read);
        Ok(())
    }

    /// What the plan of the run says of a chunk, if it has compared that.
    async fn plan_of(&self, part: ChunkPart<'_>) -> Result<Option<PlannedRows>> {
        let Some(run) = &self.planned else {
            return Ok(None);
        };
        let compared = run.history.run.iter().flat_map(|run| &run.compared);
        let found = match part {
            ChunkPart::Time(chunk) => by_time(compared, chunk.range),
            ChunkPart::Offsets(of) => by_offsets(compared, of),
        };
        let Some(PlannedChunks { chunks, is_whole }) = found else {
            return Ok(None);
        };
        let mut changes = Vec::new();
        for chunk in chunks {
            changes.extend(self.kept(run, chunk).await?);
        }
        self.comparison.planned(&changes, is_whole).map(Some)
    }

    /// Keeps what differs in a chunk with the run; none if all rows are the same. The event that names the file is to be appended to the log
    /// of the run.
    ///
    /// # Errors
    ///
    /// The store does not answer; types that a file cannot have.
    pub async fn keep(
        &self,
        run: &StoredRun,
        compared: &ComparedRows,
    ) -> Result<Option<ChangesFile>> {
        let rows = compared.changes.num_rows() as u64;
        if rows == 0 {
            return Ok(None);
        }
        let file = self.comparison.file(compared)?;
        self.logs.runs.put_changes(run, rows, file).await.map(Some)
    }

    /// Of how many keys of the kept rows the sink says something else now than it did when they were compared.
    ///
    /// # Errors
    ///
    /// As of [`Self::compare`]; a kept file cannot be read.
    pub async fn keys_moved(&self, run: &StoredRun) -> Result<u64> {
        let compared = run.history.run.iter().flat_map(|run| &run.compared);
        let mut published = self.published.lock().await;
        published.past.refresh(&self.logs).await?;
        let mut moved = 0_u64;
        for chunk in compared {
            let Some(kept) = self.kept(run, chunk).await? else {
                continue;
            };
            let results = self.comparison.in_sink_columns(&kept.results()?)?;
            self.read(&mut published, &results, range_of(chunk)).await?;
            let now = &published.rows()?.rows;
            let _working = working_memory(&published.memory, &results, now, 0)?;
            moved = moved.saturating_add(self.comparison.moved(&kept, now)?);
        }
        Ok(moved)
    }

    /// The rows of a compared chunk that differ; none if all are the same.
    async fn kept(&self, run: &StoredRun, chunk: &ComparedChunk) -> Result<Option<KeptChanges>> {
        let Some(file) = &chunk.changes else {
            return Ok(None);
        };
        let bytes = self.logs.runs.changes(run, file).await?;
        KeptChanges::read(&bytes).map(Some)
    }
}

/// The memory that a comparison of these rows takes besides the published ones, as long as it is held: the computed rows, their keys and
/// those of the published ones, and the rows that differ, once to be kept and once to be written.
fn working_memory(
    memory: &MemoryReservation,
    computed: &RecordBatch,
    published: &RecordBatch,
    planned: usize,
) -> Result<MemoryReservation> {
    let of_computed = computed.get_array_memory_size().saturating_mul(4);
    let of_published = published.get_array_memory_size();
    let rows = computed.num_rows().saturating_add(published.num_rows());
    let bytes = of_computed
        .saturating_add(of_published)
        .saturating_add(planned.saturating_mul(2))
        .saturating_add(rows.saturating_mul(ENTRY_BYTES));
    let working = memory.new_empty();
    let grown = working.try_grow(bytes).map_err(Error::from);
    grown.map_err(|error| error.context("the comparison of a chunk with published rows"))?;
    Ok(working)
}

/// The error of published rows that do not fit into memory: where a chunk is compared with all of them, a shorter one helps nothing.
fn too_many(error: Error, grouping: Grouping) -> Error {
    match (error.kind(), grouping) {
        (ErrorKind::Exhausted, Grouping::Rows) => Error::invalid(format!(
            "the rows that were published do not fit into memory, and rows of a run are compared with all of them: {}",
            error.message()
        ))
        .with_help(
            "raise --memory-limit; EMIT ALL without 'withdraw' writes all rows, and compares none",
        )
        .without_row(),
        (ErrorKind::Exhausted, Grouping::Aligned(_) | Grouping::Sessions { .. }) => {
            error.context("the published rows of a chunk")
        }
        _ => error,
    }
}

/// The chunks of a plan that have the rows of another chunk.
#[derive(Debug, PartialEq)]
struct PlannedChunks<'a> {
    chunks: Vec<&'a ComparedChunk>,
    /// The last row of each key is the same in them and in the other chunk.
    is_whole: bool,
}

/// Those that have all results of a range, if there are such.
fn by_time<'a>(
    compared: impl Iterator<Item = &'a ComparedChunk>,
    range: TimeRange,
) -> Option<PlannedChunks<'a>> {
    let chunks = compared.filter_map(|chunk| Some((chunk, range_of(chunk)?)));
    let chunks = chunks.filter(|(_, of)| range.from() < of.to() && of.from() < range.to());
    let (chunks, ranges): (Vec<&ComparedChunk>, Vec<TimeRange>) = chunks.unzip();
    is_covered(range, ranges).then_some(PlannedChunks {
        chunks,
        is_whole: true,
    })
}

/// Those that have rows of these offsets, if there are such.
fn by_offsets<'a>(
    compared: impl Iterator<Item = &'a ComparedChunk>,
    of: &OffsetSet,
) -> Option<PlannedChunks<'a>> {
    let mut all = OffsetSet::default();
    let mut chunks = Vec::new();
    for chunk in compared {
        let ChunkExtent::Offsets(extent) = &chunk.extent else {
            continue;
        };
        let read = OffsetSet::read_by(extent);
        if read.intersection(of).is_empty() {
            continue;
        }
        let ranges = read.ranges();
        ranges.for_each(|(table, partition, range)| all.insert(table, partition, range));
        chunks.push(chunk);
    }
    (!chunks.is_empty()).then_some(PlannedChunks {
        chunks,
        is_whole: all == *of,
    })
}

/// Whether these ranges, in order, have all of a range.
fn is_covered(range: TimeRange, of: impl IntoIterator<Item = TimeRange>) -> bool {
    let mut at = range.from();
    for of in of {
        if of.from() <= at {
            at = at.max(of.to());
        }
    }
    at >= range.to()
}

fn range_of(chunk: &ComparedChunk) -> Option<TimeRange> {
    match chunk.extent {
        ChunkExtent::Time { from, to } => TimeRange::try_new(from, to),
        ChunkExtent::Offsets(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};

    use super::*;
    use crate::core::jobs::{ChangeCounts, SourceProgress};
    use crate::core::runs::LeftGroups;

    #[test]
    fn a_comparison_counts_in_the_pool() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100_000));
        let memory = MemoryConsumer::new("t").register(&pool);
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let rows = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let working = working_memory(&memory, &rows, &rows, 0).unwrap();
        assert!(working.size() > 5 * rows.get_array_memory_size());
        assert_eq!(pool.reserved(), working.size());
        drop(working);
        assert_eq!(pool.reserved(), 0);
        let short = || working_memory(&memory, &rows, &rows, 100_000).unwrap_err();
        let error = short();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        let said = "the comparison of a chunk with published rows";
        assert!(error.message().contains(said), "{error}");
        // A shorter chunk of sessions has fewer published rows, one of rows has not.
        let of_sessions = too_many(short(), Grouping::Sessions { gap: 5 });
        assert_eq!(of_sessions.kind(), ErrorKind::Exhausted);
        let of_rows = too_many(short(), Grouping::Rows);
        assert_eq!(of_rows.kind(), ErrorKind::Invalid);
        assert!(of_rows.help().unwrap().contains("--memory-limit"));
        let other = too_many(Error::unavailable("no broker"), Grouping::Rows);
        assert_eq!(other.message(), "no broker");
    }

    #[test]
    fn a_plan_that_is_not_complete_says_nothing_of_what_it_lacks() {
        let range = |from, to| TimeRange::try_new(from, to).unwrap();
        let planned = [range(0, 10), range(10, 25), range(40, 50)];
        for (of, expected) in [
            (range(0, 25), true),
            (range(3, 12), true),
            (range(40, 50), true),
            (range(20, 26), false),
            (range(24, 41), false),
            (range(30, 35), false),
        ] {
            assert_eq!(is_covered(of, planned), expected, "{of}");
        }
        assert!(!is_covered(range(0, 1), []));
    }

    #[test]
    fn chunks_of_a_plan_are_found_by_their_offsets() {
        let set = |ranges: &[(i32, i64, i64)]| {
            let ranges = ranges.iter();
            OffsetSet::of(ranges.map(|(at, from, to)| ("t".to_owned(), *at, *from..*to)))
        };
        let planned = |ranges: &[(i32, i64, i64)]| {
            let ranges = ranges.iter();
            let progress = ranges.map(|(at, start, end)| {
                let (start, end) = (*start, *end);
                (*at, SourceProgress { start, end })
            });
            ComparedChunk {
                extent: ChunkExtent::Offsets([("t".to_owned(), progress.collect())].into()),
                counts: ChangeCounts::default(),
                changes: None,
                left: LeftGroups::default(),
            }
        };
        let all = [
            planned(&[(0, 0, 5), (1, 0, 5)]),
            planned(&[(0, 5, 9), (1, 5, 5)]),
            planned(&[(0, 9, 20), (1, 5, 8)]),
        ];
        let found = |ranges: &[(i32, i64, i64)]| {
            let found = by_offsets(all.iter(), &set(ranges))?;
            Some((found.chunks.len(), found.is_whole))
        };
        assert_eq!(found(&[(0, 0, 5), (1, 0, 5)]), Some((1, true)));
        assert_eq!(found(&[(0, 0, 9), (1, 0, 5)]), Some((2, true)));
        assert_eq!(found(&[(0, 9, 20), (1, 5, 8)]), Some((1, true)));
        // A record of the other partition may be the last one of a key.
        assert_eq!(found(&[(0, 0, 5)]), Some((1, false)));
        assert_eq!(found(&[(0, 3, 7), (1, 0, 5)]), Some((2, false)));
        assert_eq!(found(&[(0, 20, 30)]), None);
        assert_eq!(found(&[(2, 0, 3)]), None);
    }
}
