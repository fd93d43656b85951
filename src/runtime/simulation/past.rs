//! The past of the simulated topic as a run has pinned it: what the archive had then, and the topic up to its ends of then. Records that
//! retention deletes later are lost to the run if the archive did not have them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;

use super::jobs::SOURCE;
use super::oracle::RowPosition;
use super::source::{Row, SECOND};
use super::world::{Process, World};
use crate::core::archive::{OffsetRange, PastParts, divide_past, first_of_past};
use crate::core::jobs::{Identity, PartitionEnds, PlannedRange, RecordMark};
use crate::core::runs::{Chunk, Emission, OffsetSet, RunSpec};
use crate::error::{Error, Result};
use crate::runtime::source::{JobSource, PlanReader, Read, SourcePlan, SourcePoll};
use crate::runtime::sources::reprocessed::{chunk_by_offsets, chunk_by_time};
use crate::streaming::BatchSource;

/// A record with its partition and offset.
pub(super) type PlacedRow = (i32, i64, Row);

/// What a run reads of a topic and its archive.
#[derive(Clone)]
pub(super) struct PinnedTopic {
    /// The world that has the topic.
    world: Arc<World>,
    parts: BTreeMap<i32, PastParts>,
}

impl PinnedTopic {
    /// Pins the topic of a world as it is now.
    pub(super) fn of(world: &Arc<World>) -> Self {
        let state = world.lock();
        let partitions = (0..).zip(&state.topic.partitions);
        let parts = partitions.map(|(number, log)| {
            let ends = PartitionEnds {
                partition: number,
                low: log.low,
                high: log.high(),
                latest: log.high(),
                unread: None,
                behind_hole: None,
            };
            let from = first_of_past(&log.archived, &ends).min(ends.high);
            let past = OffsetRange::new(from, ends.high);
            (number, divide_past(&log.archived, past))
        });
        Self {
            world: Arc::clone(world),
            parts: parts.collect(),
        }
    }

    /// Whether the topic has lost records that the archive did not have.
    pub(super) fn is_lost(&self) -> bool {
        let state = self.world.lock();
        self.parts.iter().any(|(number, parts)| {
            let log = &state.topic.partitions[usize::try_from(*number).unwrap()];
            !parts.lost(log.low).is_empty()
        })
    }

    /// The numbers of the partitions.
    pub(super) fn partitions(&self) -> impl Iterator<Item = i32> + '_ {
        self.parts.keys().copied()
    }

    /// The records that can be decoded, also those that the topic no longer has.
    pub(super) fn rows(&self) -> Vec<PlacedRow> {
        let state = self.world.lock();
        let mut rows = Vec::new();
        for (number, parts) in &self.parts {
            let log = &state.topic.partitions[usize::try_from(*number).unwrap()];
            for range in parts.archive.ranges().chain(parts.topic.ranges()) {
                for offset in range.from..range.to {
                    let row = log.rows[usize::try_from(offset).unwrap()];
                    if !row.is_bad {
                        rows.push((*number, offset, row));
                    }
                }
            }
        }
        rows
    }
}

impl fmt::Debug for PinnedTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedTopic")
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

/// The rows that a run reads: those that are selected, or all of them, without those that are left out.
pub(super) fn read_by_run(
    mut rows: Vec<PlacedRow>,
    selected: Option<&OffsetSet>,
    left_out: &OffsetSet,
) -> Vec<PlacedRow> {
    rows.retain(|(partition, offset, _)| {
        let is_in = |set: &OffsetSet| set.contains(SOURCE, *partition, *offset);
        selected.is_none_or(is_in) && !is_in(left_out)
    });
    rows
}

/// The source of a run as one process sees it: all that is pinned, by event time or by offsets.
#[derive(Debug)]
pub(super) struct SimulatedPast {
    pub(super) process: Process,
    pub(super) spec: Arc<RunSpec>,
    pub(super) past: PinnedTopic,
    /// The columns of the job's table.
    pub(super) schema: SchemaRef,
}

impl SimulatedPast {
    async fn ask(&self, what: &str) -> Result<()> {
        self.process.step().await;
        if self.process.fails(|rates| rates.source) {
            self.process.note(format_args!("{what}: no answer"));
            return Err(Error::unavailable("the simulated archive does not answer"));
        }
        self.process.step().await;
        Ok(())
    }
}

#[async_trait]
impl JobSource for SimulatedPast {
    async fn identity(&self) -> Result<Identity> {
        self.ask("the archive's id").await?;
        Ok(self.spec.sources[SOURCE].archive.identity.clone())
    }

    async fn other_records(&self, _: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>> {
        Ok(Vec::new())
    }

    async fn plan(&self, look: SourcePoll<'_>) -> Result<SourcePlan> {
        self.ask("the archive").await?;
        if self.past.is_lost() {
            return Err(Error::data(
                "topic 'simulated' no longer has records that the run has pinned",
            ));
        }
        let process = self.process.clone();
        let hides = process.world.lock().hidden.pins;
        let past = match hides {
            true => PinnedTopic::of(&self.past.world),
            false => self.past.clone(),
        };
        let selected = match &self.spec.emission {
            Emission::Time(_) => None,
            Emission::Offsets(selected) => Some(selected),
        };
        let rows = read_by_run(past.rows(), selected, &self.spec.left_out);
        let schema = Arc::clone(&self.schema);
        match &self.spec.emission {
            Emission::Time(emission) => {
                chunk_by_time(look, self.spec.grouping, emission, |range, chunk| {
                    Arc::new(PastReader {
                        process,
                        past,
                        schema,
                        rows,
                        chunk: chunk.map(|chunk| (range, chunk)),
                    })
                })
            }
            Emission::Offsets(selected) => {
                let reader = PastReader {
                    process,
                    past,
                    schema,
                    rows,
                    chunk: None,
                };
                Ok(chunk_by_offsets(look, selected, Arc::new(reader)))
            }
        }
    }
}

/// Reads a chunk.
#[derive(Debug)]
struct PastReader {
    process: Process,
    past: PinnedTopic,
    schema: SchemaRef,
    rows: Vec<PlacedRow>,
    /// Of a run by event time: what the version of its batch says, and the chunk.
    chunk: Option<(PlannedRange, Chunk)>,
}

impl PlanReader for PastReader {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        if self.past.is_lost() {
            self.process.note("pinned records are lost");
            // The next plan reports it.
            return Err(Error::unavailable("pinned records are lost"));
        }
        let rows: Vec<PlacedRow> = match self.chunk {
            Some((range, _)) => {
                assert_eq!(read.ranges, [range]);
                self.rows.clone()
            }
            None => {
                let is_in = |range: &PlannedRange, (partition, offset): RowPosition| {
                    range.partition == partition && (range.start..range.end).contains(&offset)
                };
                let rows = self.rows.iter().filter(|(partition, offset, _)| {
                    let mut ranges = read.ranges.iter();
                    ranges.any(|range| is_in(range, (*partition, *offset)))
                });
                rows.copied().collect()
            }
        };
        Ok(BatchSource {
            provider: Arc::new(table_of(&self.schema, &rows)?),
            ranges: Vec::new(),
            last_records: BTreeMap::new(),
            chunk: self.chunk.map(|(_, chunk)| chunk),
        })
    }
}

/// The rows as the columns `k`, `event_time`, `v`, `p`, `o`.
fn table_of(schema: &SchemaRef, rows: &[PlacedRow]) -> Result<MemTable> {
    let keys: Int64Array = rows.iter().map(|(.., row)| row.key).collect();
    let times = rows.iter().map(|(.., row)| row.time * SECOND);
    let values = rows.iter().map(|(.., row)| row.value);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(keys),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        Arc::new(Int64Array::from_iter_values(values)),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    let batch = RecordBatch::try_new(Arc::clone(schema), columns);
    let batch = batch.map_err(|error| Error::internal(error.to_string()))?;
    Ok(MemTable::try_new(Arc::clone(schema), vec![vec![batch]])?)
}
