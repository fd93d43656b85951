//! What statements about runs answer with: values, which others show.

use crate::core::jobs::{ChangeCounts, ChunkExtent, ComparedChunk, RunHistory};
use crate::core::runs::{
    Chunks, Emission, LeftGroups, RunState, TimeRange, next_offsets, position_of,
};
use crate::core::runs::{chunk_extent, time_range::time_text};
use crate::error::Result;
use crate::store::{CommittedChunk, RunStore, StoredRun};

/// A run as a list of runs shows it. Times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Its name.
    pub run_id: String,
    /// The name of the job.
    pub job: String,
    /// How far it has come.
    pub state: RunState,
    /// The range as it was asked for.
    pub asked: String,
    /// What it reads, for the user.
    pub reads: String,
    /// What it emits, for the user.
    pub emits: String,
    /// `ALL` or `CHANGED`.
    pub emit: String,
    /// The version of the text by which its rows are marked.
    pub text_version: String,
    /// When it was made.
    pub created_at: i64,
    /// Since when it is in its stage; none before its first event.
    pub since: Option<i64>,
    /// The process that has taken it over last.
    pub owner: Option<String>,
    /// Chunks that were compared.
    pub chunks_compared: u64,
    /// Chunks that are in the sink.
    pub chunks: u64,
    /// Records read for them.
    pub rows_in: u64,
    /// Rows that the sink has acknowledged.
    pub rows_out: u64,
    /// The compared rows by kind.
    pub counts: ChangeCounts,
    /// Where it stands, for the user; none before the first chunk.
    pub position: Option<String>,
    /// Which part of what it emits is done, of 1,000.
    pub done: u32,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPreview {
    /// Names and values, in the order to show them.
    pub items: Vec<(&'static str, String)>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The answer to a statement that makes or moves a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutcome {
    /// The run.
    pub run: RunRow,
    /// What the statement has done, for the user.
    pub said: String,
    /// What it left out, as far as this process has computed it.
    pub left: LeftGroups,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A run with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDescription {
    /// The run.
    pub run: RunRow,
    /// What it rests on: names and values, in the order to show them.
    pub items: Vec<(&'static str, String)>,
    /// The statements of its tables and of its job.
    pub definition: Vec<String>,
    /// The chunks that were compared.
    pub compared: Vec<ComparedChunk>,
    /// The chunks that are in the sink.
    pub chunks: Vec<CommittedChunk>,
}

/// Where a run stands, and how much of it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunPosition {
    /// The last chunk; none before the first.
    pub(super) last: Option<ChunkExtent>,
    /// Whether nothing is left.
    pub(super) is_complete: bool,
    /// Of 1,000.
    pub(super) done: u32,
}

/// Where a run stands by its last version.
///
/// # Errors
///
/// The version cannot be read.
pub(super) async fn position(store: &RunStore, run: &StoredRun) -> Result<RunPosition> {
    let last = match run.history.last() {
        Some(last) => Some(store.jobs().version(run.id, &last.version).await?),
        None => None,
    };
    let emission = &run.spec.emission;
    let extent = last
        .as_ref()
        .and_then(|version| chunk_extent(emission, version));
    let (is_complete, done) = match emission {
        Emission::Time(ranges) => {
            let at = position_of(extent.as_ref());
            let chunks = Chunks::new(run.spec.grouping, ranges.clone());
            let lengths = |of: &dyn Fn(&TimeRange) -> i64| -> i128 {
                let ranges = ranges.as_slice().iter();
                ranges.map(|range| i128::from(of(range))).sum()
            };
            let all = lengths(&|range| range.to().saturating_sub(range.from()));
            let passed = lengths(&|range| match at {
                Some(at) => at
                    .clamp(range.from(), range.to())
                    .saturating_sub(range.from()),
                None => 0,
            });
            (chunks.is_complete(at), part(passed, all))
        }
        Emission::Offsets(offsets) => {
            let read = last.map(|version| version.sources).unwrap_or_default();
            let passed = offsets.ranges().map(|(table, partition, range)| {
                let end = read.get(table).and_then(|of| of.get(&partition));
                let end = end.map_or(range.from, |of| of.end.clamp(range.from, range.to));
                i128::from(end - range.from)
            });
            let passed = passed.sum();
            let is_complete = next_offsets(offsets, &read, 1).is_none();
            (is_complete, part(passed, i128::from(offsets.len())))
        }
    };
    Ok(RunPosition {
        last: extent,
        is_complete,
        done,
    })
}

/// So many thousandths are `passed` of `all`.
fn part(passed: i128, all: i128) -> u32 {
    let thousandths = (passed * 1_000).checked_div(all).unwrap_or(1_000);
    u32::try_from(thousandths).unwrap_or(1_000)
}

/// The row of a run.
///
/// # Errors
///
/// A version cannot be read.
pub(super) async fn row(store: &RunStore, run: &StoredRun) -> Result<RunRow> {
    let chunks = store.chunks(run).await?;
    let RunPosition { last, done, .. } = position(store, run).await?;
    let (spec, history) = (&run.spec, &run.history);
    let events = history.run.as_ref();
    Ok(RunRow {
        run_id: spec.run_id.clone(),
        job: spec.job.clone(),
        state: run.state(),
        asked: spec.asked.to_string(),
        reads: spec.emission.read_text(spec.grouping),
        emits: spec.emission.emitted_text(spec.grouping),
        emit: spec.options.emit.to_string(),
        text_version: spec.text_version(),
        created_at: history.created_at,
        since: events.map(|run| run.since),
        owner: history.owner.clone(),
        chunks_compared: events.map_or(0, |run| run.compared.len() as u64),
        chunks: chunks.len() as u64,
        rows_in: chunks.iter().map(|chunk| chunk.rows_in).sum(),
        rows_out: chunks.iter().map(|chunk| chunk.rows_out).sum(),
        counts: events.map(RunHistory::counts).unwrap_or_default(),
        position: last.map(|extent| extent_text(&extent)),
        done,
    })
}

/// What a chunk covers, for the user.
pub(super) fn extent_text(extent: &ChunkExtent) -> String {
    match extent {
        ChunkExtent::Time { from, to } => format!("{} to {}", time_text(*from), time_text(*to)),
        ChunkExtent::Offsets(tables) => {
            let partitions = tables.iter().flat_map(|(table, partitions)| {
                let partitions = partitions.iter();
                partitions.map(move |(partition, of)| {
                    format!("{table} {partition}: {} to {}", of.start, of.end)
                })
            });
            partitions.collect::<Vec<_>>().join(", ")
        }
    }
}
