//! A topic with an archive as the source of a run: the part of its past that the run emits, chunk by chunk.
//!
//! By event time, the source has one partition, whose offsets are instants, and it chooses the chunk: all sources of a run stand at the
//! same instant and choose the same. The most rows of a batch are the length of a chunk in microseconds. By offsets, its partitions
//! are those of the topic, and a chunk passes over offsets that are not selected.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::core::archive::{OffsetRange, OffsetRanges, PartitionOffsets};
use crate::core::jobs::{Gaps, Identity, PartitionEnds, PlannedRange, RecordMark, SourceProgress};
use crate::core::runs::{
    Chunk, Chunks, Emission, Grouping, OffsetSet, RunSpec, SourcePin, TIME_AXIS, TimeRanges,
    chunk_progress, next_offsets,
};
use crate::error::{Error, Result};
use crate::runtime::source::{JobSource, PlanReader, Read, SourcePlan, SourcePoll};
use crate::runtime::sources::pinned_past::RunSource;
use crate::streaming::{BatchSource, JobQuery};
use crate::tables::archive::PinnedPast;

/// A source of a run.
#[derive(Debug)]
pub(in crate::runtime) struct ReprocessedSource {
    source: RunSource,
    pin: SourcePin,
    /// The past in the states of the pin, if it need not be opened again: it is of one version of the archive, which does not change.
    pinned: Option<PinnedPast>,
    spec: Arc<RunSpec>,
    /// Offsets that the run does not read, although they are there.
    left_out: PartitionOffsets,
    /// Opened once for each attempt.
    past: OnceCell<PinnedPast>,
}

impl ReprocessedSource {
    /// A source of the query of a run, in the states that its spec has pinned. Records at the offsets `left_out` are not read. Nothing is
    /// connected yet.
    ///
    /// # Errors
    ///
    /// The query does not read the table, or it has no archive; the spec has no such source.
    pub(in crate::runtime) fn new(
        query: &JobQuery,
        table: &str,
        spec: Arc<RunSpec>,
        left_out: &OffsetSet,
    ) -> Result<Self> {
        Self::over(RunSource::of(query, table)?, spec, left_out)
    }

    fn over(source: RunSource, spec: Arc<RunSpec>, left_out: &OffsetSet) -> Result<Self> {
        let pin = spec.sources.get(&source.table).cloned();
        let pin = pin.ok_or_else(|| Error::internal("a source that the run has not pinned"))?;
        let left_out = left_out.of_table(&source.table).cloned();
        Ok(Self {
            source,
            pin,
            pinned: None,
            spec,
            left_out: left_out.unwrap_or_default(),
            past: OnceCell::new(),
        })
    }

    /// The same, which reads the past that was opened when it was pinned, if there is one.
    #[must_use]
    pub(in crate::runtime) fn with_past(self, pinned: Option<PinnedPast>) -> Self {
        Self { pinned, ..self }
    }

    /// What the run reads.
    async fn open(&self) -> Result<PinnedPast> {
        let past = match &self.pinned {
            Some(pinned) => {
                self.source.check_archive(&self.pin).await?;
                pinned.clone()
            }
            None => {
                let keeps_time = self.spec.grouping != Grouping::Rows;
                self.source.past(&self.pin, keeps_time).await?
            }
        };
        let past = past.without(&self.left_out);
        Ok(match &self.spec.emission {
            Emission::Time(_) => past,
            Emission::Offsets(selected) => {
                let nothing = PartitionOffsets::new();
                past.restricted_to(selected.of_table(&self.source.table).unwrap_or(&nothing))
            }
        })
    }
}

#[async_trait]
impl JobSource for ReprocessedSource {
    /// That of the archive, which is the one that was pinned.
    async fn identity(&self) -> Result<Identity> {
        self.source.check_archive(&self.pin).await?;
        Ok(self.pin.archive.identity.clone())
    }

    /// What was pinned does not change.
    async fn other_records(&self, _: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>> {
        Ok(Vec::new())
    }

    async fn plan(&self, look: SourcePoll<'_>) -> Result<SourcePlan> {
        let past = self.past.get_or_try_init(|| self.open()).await?;
        self.source.check_topic(&self.pin, past).await?;
        match &self.spec.emission {
            Emission::Time(emission) => {
                let past = past.clone();
                chunk_by_time(look, self.spec.grouping, emission, |range, chunk| {
                    Arc::new(ChunkReader { past, range, chunk })
                })
            }
            Emission::Offsets(selected) => {
                let reader = SelectedReader { past: past.clone() };
                Ok(chunk_by_offsets(look, selected, Arc::new(reader)))
            }
        }
    }

    fn topic(&self) -> Option<&str> {
        // By event time, offsets of batches are instants.
        match &self.spec.emission {
            Emission::Time(_) => None,
            Emission::Offsets(_) => Some(self.source.topic.table().topic()),
        }
    }
}

/// Chooses the next chunk of a run by event time; `reader` reads it, by what it is in the version of its batch.
///
/// # Errors
///
/// The run emits nothing.
pub(in crate::runtime) fn chunk_by_time(
    look: SourcePoll<'_>,
    grouping: Grouping,
    emission: &TimeRanges,
    reader: impl FnOnce(PlannedRange, Option<Chunk>) -> Arc<dyn PlanReader>,
) -> Result<SourcePlan> {
    let ranges = emission.as_slice();
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return Err(Error::internal("a run that emits nothing"));
    };
    let position = look
        .last
        .and_then(|last| last.next_offset(look.table, TIME_AXIS));
    let chunks = Chunks::new(grouping, emission.clone());
    let length = i64::try_from(look.max_rows).unwrap_or(i64::MAX);
    let chunk = chunks.next(position, length);
    let progress = match &chunk {
        Some(chunk) => chunk_progress(position, chunk.range),
        None => SourceProgress {
            start: last.to(),
            end: last.to(),
        },
    };
    let at = position.unwrap_or(first.from());
    let left = ranges.iter().map(|range| {
        let left = range.to().saturating_sub(range.from().max(at));
        u64::try_from(left).unwrap_or(0)
    });
    let range = PlannedRange {
        partition: TIME_AXIS,
        start: progress.start,
        end: progress.end,
    };
    Ok(SourcePlan {
        ends: vec![PartitionEnds {
            partition: TIME_AXIS,
            low: first.from(),
            high: last.to(),
            latest: last.to(),
            unread: Some(left.fold(0, u64::saturating_add)),
            behind_hole: None,
        }],
        chosen: Some(vec![range]),
        begins_at: None,
        checks_marks: false,
        reader: reader(range, chunk),
    })
}

/// Reads a chunk of event time.
#[derive(Debug)]
struct ChunkReader {
    past: PinnedPast,
    /// What the chunk is in the version of its batch.
    range: PlannedRange,
    chunk: Option<Chunk>,
}

impl PlanReader for ChunkReader {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        match (read.ranges, &self.chunk) {
            ([range], Some(chunk)) if *range == self.range => Ok(BatchSource {
                provider: Arc::new(self.past.clone()),
                ranges: Vec::new(),
                last_records: BTreeMap::new(),
                chunk: Some(*chunk),
            }),
            _ => Err(Error::internal("a chunk that the plan does not have")),
        }
    }
}

/// Chooses the next chunk of a run by offsets, which `reader` reads.
pub(in crate::runtime) fn chunk_by_offsets(
    look: SourcePoll<'_>,
    selected: &OffsetSet,
    reader: Arc<dyn PlanReader>,
) -> SourcePlan {
    let nothing = PartitionOffsets::new();
    let of_table = selected.of_table(look.table).unwrap_or(&nothing);
    let none = Gaps::new();
    let position = look.last.map_or(&none, |last| &last.sources);
    // It is of one table.
    let chunk = next_offsets(selected, position, look.max_rows);
    let chunk = chunk.as_ref().and_then(|chunk| chunk.get(look.table));
    let mut ends = Vec::with_capacity(of_table.len());
    let mut chosen = Vec::with_capacity(of_table.len());
    for (partition, offsets) in of_table {
        let (Some(low), Some(high)) = (offsets.first(), offsets.end()) else {
            continue;
        };
        let next = look
            .last
            .and_then(|last| last.next_offset(look.table, *partition));
        let next = next.unwrap_or(low);
        let of_chunk = chunk.and_then(|chunk| chunk.get(partition));
        let SourceProgress { start, end } = of_chunk.copied().unwrap_or(SourceProgress {
            start: next,
            end: next,
        });
        let mut left = offsets.clone();
        left.remove(OffsetRange::new(i64::MIN, next));
        ends.push(PartitionEnds {
            partition: *partition,
            low,
            high,
            latest: high,
            unread: Some(left.count()),
            behind_hole: None,
        });
        chosen.push(PlannedRange {
            partition: *partition,
            start,
            end,
        });
    }
    SourcePlan {
        ends,
        chosen: Some(chosen),
        begins_at: None,
        checks_marks: false,
        reader,
    }
}

/// Reads the selected records in ranges of offsets.
#[derive(Debug)]
struct SelectedReader {
    past: PinnedPast,
}

impl PlanReader for SelectedReader {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        let ranges = read.ranges.iter().map(|range| {
            let range_of_offsets = OffsetRange::new(range.start, range.end);
            let offsets: OffsetRanges = [range_of_offsets].into_iter().collect();
            (range.partition, offsets)
        });
        let part = self.past.restricted_to(&ranges.collect());
        let part = part.with_dead_letters(read.table, read.aside.unwrap_or_default());
        Ok(BatchSource {
            provider: Arc::new(part),
            // A chunk passes over offsets: no scan reports all of its range.
            ranges: Vec::new(),
            last_records: BTreeMap::new(),
            chunk: None,
        })
    }
}
