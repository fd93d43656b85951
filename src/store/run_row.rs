//! A run in one row: what it emits, and how far it has come.

use crate::core::jobs::heartbeat::is_recent;
use crate::core::jobs::{ChangeCounts, ChunkExtent, Gaps, LeftGroups, RunHistory};
use crate::core::runs::{
    Chunks, Emission, RunSpec, RunState, TimeRange, chunk_extent, compared_to, extent_text,
    next_offsets, position_of,
};
use crate::error::Result;
use crate::store::run_store::{CommittedChunk, RunStore, StoredRun};

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
    /// When a process that writes it has last said so.
    pub heartbeat_at: Option<i64>,
    /// What that process waits for, if it does.
    pub waiting: Option<String>,
    /// Chunks whose rows were compared with the published ones: by the plan, or when they were written.
    pub chunks_compared: u64,
    /// Chunks that are in the sink.
    pub chunks: u64,
    /// Records read for them.
    pub rows_in: u64,
    /// Rows that the sink has acknowledged.
    pub rows_out: u64,
    /// The rows of these chunks by kind.
    pub counts: ChangeCounts,
    /// The windows and sessions that it leaves out, of all attempts.
    pub left: LeftGroups,
    /// The last chunk, for the user: in the sink, or compared as long as the sink has none.
    pub position: Option<String>,
    /// Which part of what it emits is in the sink, or compared as long as the sink has none; of 1,000.
    pub done: u32,
}

impl RunRow {
    /// Why it has failed, or what the process waits for that plans or writes it.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            RunState::Failed { reason, .. } => Some(reason),
            RunState::Planning | RunState::Running => self.waiting.as_deref(),
            RunState::Planned | RunState::Complete | RunState::Aborted => None,
        }
    }

    /// The row at `now`, in milliseconds since 1970 UTC: a process that has given no heartbeat for a while waits for nothing any more.
    #[must_use]
    pub fn as_of(self, now: i64) -> Self {
        let is_alive = self.heartbeat_at.is_some_and(|at| is_recent(at, now));
        Self {
            waiting: self.waiting.filter(|_| is_alive),
            ..self
        }
    }
}

/// Where a run stands, and how much of it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPosition {
    /// The last chunk; none before the first.
    pub last: Option<ChunkExtent>,
    /// Whether nothing is left.
    pub is_complete: bool,
    /// Of 1,000.
    pub done: u32,
}

/// Where the sink of a run stands, by the last version of the run.
///
/// # Errors
///
/// The version cannot be read.
pub async fn run_position(store: &RunStore, run: &StoredRun) -> Result<RunPosition> {
    let last = match run.history.last() {
        Some(last) => Some(store.jobs().version(run.id, &last.version).await?),
        None => None,
    };
    let emission = &run.spec.emission;
    let extent = last
        .as_ref()
        .and_then(|version| chunk_extent(emission, version));
    let read = last.map(|version| version.sources).unwrap_or_default();
    Ok(position_at(&run.spec, extent, &read))
}

/// Where a run stands whose last chunk is `last`. One by offsets has read the offsets of `read`.
fn position_at(spec: &RunSpec, last: Option<ChunkExtent>, read: &Gaps) -> RunPosition {
    let (is_complete, done) = match &spec.emission {
        Emission::Time(ranges) => {
            let at = position_of(last.as_ref());
            let chunks = Chunks::new(spec.grouping, ranges.clone());
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
            let passed = offsets.ranges().map(|(table, partition, range)| {
                let end = read.get(table).and_then(|of| of.get(&partition));
                let end = end.map_or(range.from, |of| of.end.clamp(range.from, range.to));
                i128::from(end - range.from)
            });
            let passed = passed.sum();
            let is_complete = next_offsets(offsets, read, 1).is_none();
            (is_complete, part(passed, i128::from(offsets.len())))
        }
    };
    RunPosition {
        last,
        is_complete,
        done,
    }
}

/// So many thousandths are `passed` of `all`.
fn part(passed: i128, all: i128) -> u32 {
    let thousandths = (passed * 1_000).checked_div(all).unwrap_or(1_000);
    u32::try_from(thousandths).unwrap_or(1_000)
}

/// What a run leaves out: by its plan, or by the chunks in its sink if these have come further.
fn left_out(events: Option<&RunHistory>, chunks: &[CommittedChunk]) -> LeftGroups {
    let compared = events.into_iter().flat_map(|run| &run.compared);
    let planned = sum(compared.map(|chunk| &chunk.left));
    let written = sum(chunks.iter().map(|chunk| &chunk.left));
    match planned.count() > written.count() {
        true => planned,
        false => written,
    }
}

/// How many chunks were compared, and their rows by kind: by the plan of a run, or by the chunks in its sink if it has no plan, or if these
/// have come further (`is_further`).
fn compared(
    events: Option<&RunHistory>,
    chunks: &[CommittedChunk],
    is_further: bool,
) -> (u64, ChangeCounts) {
    let planned = events.map_or(0, |run| run.compared.len());
    let written = chunks.iter().filter_map(|chunk| chunk.compared);
    let (count, counts) = match planned == 0 || is_further {
        true => (written.clone().count(), sum_of_counts(written)),
        false => (0, ChangeCounts::default()),
    };
    match count {
        // Chunks that an earlier release has written do not say it.
        0 => (
            planned as u64,
            events.map(RunHistory::counts).unwrap_or_default(),
        ),
        count => (count as u64, counts),
    }
}

fn sum_of_counts(of_chunks: impl Iterator<Item = ChangeCounts>) -> ChangeCounts {
    of_chunks.fold(ChangeCounts::default(), ChangeCounts::plus)
}

fn sum<'c>(of_chunks: impl Iterator<Item = &'c LeftGroups>) -> LeftGroups {
    let mut sum = LeftGroups::default();
    of_chunks.for_each(|left| sum.add_all(left.clone()));
    sum
}

/// The row of a run.
///
/// # Errors
///
/// A version cannot be read.
pub async fn run_row(store: &RunStore, run: &StoredRun) -> Result<RunRow> {
    let (spec, history) = (&run.spec, &run.history);
    let chunks = store.chunks(run).await?;
    let heartbeat = store.jobs().heartbeat(run.id).await?;
    let planned = {
        let (last, read) = compared_to(history);
        position_at(spec, last.cloned(), &read)
    };
    let planned_part = planned.done;
    let RunPosition { last, done, .. } = match chunks.is_empty() {
        false => run_position(store, run).await?,
        true => planned,
    };
    let events = history.run.as_ref();
    let (chunks_compared, counts) = compared(events, &chunks, done > planned_part);
    let heartbeat_at = heartbeat.as_ref().map(|beat| beat.at);
    let waiting = heartbeat
        .filter(|beat| history.owner.as_ref() == Some(&beat.owner))
        .and_then(|beat| beat.waiting);
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
        heartbeat_at,
        waiting,
        chunks_compared,
        chunks: chunks.len() as u64,
        rows_in: chunks.iter().map(|chunk| chunk.rows_in).sum(),
        rows_out: chunks.iter().map(|chunk| chunk.rows_out).sum(),
        counts,
        left: left_out(events, &chunks),
        position: last.map(|extent| extent_text(&extent)),
        done,
    })
}
