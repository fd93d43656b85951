//! The simulated topic and its archive: their rows are in memory, and scans read them by offsets.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;

use super::jobs::SOURCE;
use super::world::Process;
use crate::core::archive::{OffsetRanges, border, with_archive};
use crate::core::jobs::startup::start_at_end;
use crate::core::jobs::{
    BatchVersion, Identity, PartitionEnds, PartitionTimes, PlannedRange, RecordMark,
};
use crate::error::{Error, Result};
use crate::runtime::source::{JobSource, PlanReader, Read, SourcePlan, SourcePoll};
use crate::streaming::BatchSource;
use crate::tables::bad_records::BadRecord;
use crate::tables::kafka::KafkaTable;
use crate::tables::side_output::{BatchOutlet, BatchScan, ExpectedReport, ScanProgress};
use crate::tables::test_scan::TestTable;
use crate::tables::time::{BatchTime, row_field};

/// A second, in microseconds.
pub(super) const SECOND: i64 = 1_000_000;
/// The declared delay of the watermark, in seconds.
pub(super) const DELAY: i64 = 5;

/// A record with a key, an event time in seconds and a value. One that `is_bad` cannot be decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// A number that no other record has.
    pub(super) serial: u64,
    /// When it was written, in milliseconds since the schedule began.
    pub(super) at: u64,
    pub(super) key: Option<i64>,
    pub(super) time: i64,
    pub(super) value: i64,
    pub(super) is_bad: bool,
}

/// One partition: all records that were ever written to it. Retention has deleted those before `low`.
#[derive(Debug, Clone, Default)]
pub(super) struct Partition {
    pub(super) low: i64,
    pub(super) rows: Vec<Row>,
    /// Records of an open transaction and all that came after them: a reader of committed records does not get them yet.
    pub(super) open: Vec<Row>,
    /// The offsets of committed records that are in the archive.
    pub(super) archived: OffsetRanges,
}

impl Partition {
    pub(super) fn high(&self) -> i64 {
        i64::try_from(self.rows.len()).unwrap()
    }

    fn latest(&self) -> i64 {
        self.high() + i64::try_from(self.open.len()).unwrap()
    }

    /// The producer commits its transaction.
    pub(super) fn commit(&mut self) {
        self.rows.append(&mut self.open);
    }
}

/// The topic as the brokers have it.
#[derive(Debug, Clone, Default)]
pub(super) struct Topic {
    pub(super) partitions: Vec<Partition>,
    /// Whether the brokers give topics ids.
    pub(super) gives_ids: bool,
    /// The topics of this name that were deleted, the oldest first, each with the number that the next entry of the job's log
    /// had then: versions with a higher number have not read that topic.
    pub(super) deleted: Vec<(u64, Vec<Partition>)>,
    /// Whether the job begins at the end of the topic; otherwise it begins at the first records.
    pub(super) starts_at_end: bool,
    /// Where runners wanted to begin at the end, by partition, while the job had committed nothing.
    pub(super) begins: Vec<BTreeMap<i32, i64>>,
}

impl Topic {
    pub(super) fn identity(&self) -> Identity {
        Identity::Topic {
            topic: "simulated".to_owned(),
            cluster: Some("world".to_owned()),
            id: self.gives_ids.then(|| self.deleted.len().to_string()),
        }
    }

    fn archive(&self) -> SimulatedArchive {
        let partitions = || (0..).zip(&self.partitions);
        let covered = partitions().map(|(number, log)| (number, log.archived.clone()));
        SimulatedArchive {
            covered: covered.filter(|(_, covered)| !covered.is_empty()).collect(),
            lows: partitions()
                .map(|(number, log)| (number, log.low))
                .collect(),
        }
    }

    /// Which topic of this name a version has read: how many had been deleted before. A batch that was chosen before the topic was
    /// created again may get the same number as one that was chosen after it, so the id that it has stored decides. Without ids no
    /// process runs meanwhile, and the number tells.
    pub(super) fn read_by(&self, version: &BatchVersion) -> usize {
        match version.identities.get(SOURCE) {
            Some(Identity::Topic { id: Some(id), .. }) => id.parse().unwrap(),
            _ => {
                let deleted = self.deleted.iter();
                deleted.filter(|(next, _)| version.sequence > *next).count()
            }
        }
    }

    /// The partitions of a topic of this name, by how many were deleted before it.
    pub(super) fn partitions_of(&self, topic: usize) -> &[Partition] {
        match self.deleted.get(topic) {
            Some((_, partitions)) => partitions,
            None => &self.partitions,
        }
    }
}

/// The topic as one process sees it.
#[derive(Debug, Clone)]
pub(super) struct SimulatedSource {
    process: Process,
    table: Arc<KafkaTable>,
}

impl SimulatedSource {
    pub(super) fn new(process: Process, table: Arc<KafkaTable>) -> Self {
        Self { process, table }
    }

    /// Where a job begins that has read nothing; `None`: at the first records.
    fn begin(&self, look: SourcePoll<'_>, ends: &[PartitionEnds]) -> Option<BTreeMap<i32, i64>> {
        let mut state = self.process.world.lock();
        if !state.topic.starts_at_end {
            return None;
        }
        let begins = match look.began_at {
            Some(began_at) => began_at.clone(),
            None => start_at_end(ends),
        };
        state.topic.begins.push(begins.clone());
        Some(begins)
    }

    /// Asks the broker; the call may fail.
    async fn ask<T>(&self, what: &str, answer: impl FnOnce(&Topic) -> T) -> Result<T> {
        self.process.step().await;
        if self.process.fails(|rates| rates.source) {
            self.process.note(format_args!("{what}: no answer"));
            return Err(away());
        }
        let answer = answer(&self.process.world.lock().topic);
        self.process.step().await;
        Ok(answer)
    }

    /// The offsets that are in the archive, and the first offset that the topic has, by partition.
    async fn archive(&self) -> Result<SimulatedArchive> {
        let archive = self.process.world.lock().topic.archive();
        match archive.covered.is_empty() {
            true => Ok(archive),
            false => self.ask("the archive", Topic::archive).await,
        }
    }
}

/// The archive as of one look.
#[derive(Debug, Default)]
struct SimulatedArchive {
    /// By partition; none of those of which nothing is archived.
    covered: BTreeMap<i32, OffsetRanges>,
    /// The first offset that the topic has.
    lows: BTreeMap<i32, i64>,
}

impl SimulatedArchive {
    /// Whether the topic has lost records since, which were perhaps archived before.
    fn is_outdated(&self, ends: &[PartitionEnds]) -> bool {
        let mut ends = ends.iter();
        ends.any(|ends| self.lows.get(&ends.partition) != Some(&ends.low))
    }
}

#[async_trait]
impl JobSource for SimulatedSource {
    async fn identity(&self) -> Result<Identity> {
        let hides = self.process.world.lock().hidden.identities;
        self.ask("the topic's id", |topic| match hides {
            true => Topic::default().identity(),
            false => topic.identity(),
        })
        .await
    }

    async fn other_records(&self, marks: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>> {
        let hides = self.process.world.lock().hidden.identities;
        self.ask("the last records", |topic| {
            if hides {
                return Vec::new();
            }
            let differs = |(partition, mark): (&i32, &RecordMark)| {
                let log = topic.partitions.get(usize::try_from(*partition).ok()?)?;
                let row = log.rows.get(usize::try_from(mark.offset).ok()?)?;
                let is_there = mark.offset >= log.low;
                (is_there && mark_of(mark.offset, row) != *mark).then_some(*partition)
            };
            marks.iter().filter_map(differs).collect()
        })
        .await
    }

    async fn plan(&self, look: SourcePoll<'_>) -> Result<SourcePlan> {
        let hidden = self.process.world.lock().hidden;
        // As of before the topic: it ends behind all that is archived.
        let archive = match hidden.archive {
            true => SimulatedArchive::default(),
            false => self.archive().await?,
        };
        let ends = self.ask("the ends", |topic| {
            let of_topic = |(number, partition): (i32, &Partition)| PartitionEnds {
                partition: number,
                low: partition.low,
                high: partition.high(),
                latest: match hidden.open_transactions {
                    true => partition.high(),
                    false => partition.latest(),
                },
                unread: None,
                behind_hole: None,
            };
            let ends = (0..).zip(&topic.partitions).map(of_topic);
            ends.collect::<Vec<PartitionEnds>>()
        });
        let ends = ends.await?;
        let is_archived = !self.process.world.lock().topic.archive().covered.is_empty();
        if is_archived && !hidden.archive && archive.is_outdated(&ends) {
            return Err(away());
        }
        let begins_at = look.is_first().then(|| self.begin(look, &ends)).flatten();
        let extended = |ends: &PartitionEnds| {
            let begins = || begins_at.as_ref()?.get(&ends.partition).copied();
            let position = match look.last.filter(|_| !look.is_first()) {
                Some(last) => last.next_offset(look.table, ends.partition),
                None => begins(),
            };
            match archive.covered.get(&ends.partition) {
                Some(covered) => with_archive(ends, covered, position),
                None => *ends,
            }
        };
        Ok(SourcePlan {
            ends: ends.iter().map(extended).collect(),
            chosen: None,
            begins_at,
            checks_marks: false,
            reader: Arc::new(SimulatedReader {
                source: self.clone(),
                archive: archive.covered,
            }),
        })
    }
}

/// Reads the topic, and the archive as it was when a batch was planned.
#[derive(Debug)]
struct SimulatedReader {
    source: SimulatedSource,
    archive: BTreeMap<i32, OffsetRanges>,
}

impl PlanReader for SimulatedReader {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        let fields = self.source.table.schema.fields().iter().cloned();
        let hidden = read.time.is_some().then(|| Arc::new(row_field()));
        let schema: SchemaRef = Arc::new(Schema::new(fields.chain(hidden).collect::<Vec<_>>()));
        let scan = BatchScan {
            table: read.table.into(),
            scan: 0,
            aside: Arc::default(),
            only: None,
        };
        let reported = read.reported();
        let expected = reported.iter().map(|range| ExpectedReport {
            table: read.table.into(),
            scan: 0,
            partition: range.partition,
            stream: 0,
            start: range.start,
            end: range.end,
        });
        let expected: Vec<ExpectedReport> = expected.collect();
        let scans: Vec<Arc<dyn PartitionStream>> = reported
            .iter()
            .map(|range| {
                let archive = self.archive.get(&range.partition);
                let scan = Scan {
                    source: self.source.clone(),
                    range: *range,
                    border: archive.map_or(range.start, |archive| border(archive, range)),
                    time: read.time.clone(),
                    scan: scan.clone(),
                    schema: Arc::clone(&schema),
                };
                Arc::new(scan) as _
            })
            .collect();
        Ok(BatchSource {
            provider: if scans.is_empty() {
                Arc::new(MemTable::try_new(schema, vec![vec![]])?)
            } else {
                let rows = Arc::new(StreamingTable::try_new(schema, scans)?);
                Arc::new(TestTable { rows, expected })
            },
            ranges: reported,
            last_records: BTreeMap::new(),
            chunk: None,
        })
    }
}

fn mark_of(offset: i64, row: &Row) -> RecordMark {
    RecordMark {
        offset,
        timestamp: None,
        checksum: row.serial,
    }
}

fn away() -> Error {
    Error::unavailable("the simulated broker does not answer")
}

/// A scan of a range of one partition.
#[derive(Debug, Clone)]
struct Scan {
    source: SimulatedSource,
    range: PlannedRange,
    /// Offsets below it come from the archive, the others from the topic.
    border: i64,
    time: Option<Arc<BatchTime>>,
    scan: BatchScan,
    schema: SchemaRef,
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let scan = self.clone();
        let batch = async move {
            let outlet = BatchOutlet::open(scan.scan.clone(), &context)?;
            scan.read(&outlet).await.map_err(DataFusionError::from)
        };
        let schema = Arc::clone(&self.schema);
        Box::pin(RecordBatchStreamAdapter::new(
            schema,
            futures::stream::once(batch),
        ))
    }
}

impl Scan {
    async fn read(&self, outlet: &BatchOutlet) -> Result<RecordBatch> {
        let process = &self.source.process;
        process.step().await;
        if process.fails(|rates| rates.source) {
            process.note("a scan: no answer");
            return Err(away());
        }
        let rows = self.rows()?;
        process.step().await;
        let bad: Vec<BadRecord> = rows
            .iter()
            .filter(|(_, row)| row.is_bad)
            .map(|(offset, row)| self.bad(*offset, row))
            .collect();
        outlet.give_bad(&bad, rows.len())?;
        if rows.len() > process.world.lock().room {
            process.note("a scan: no room");
            return Err(DataFusionError::ResourcesExhausted("no room".to_owned()).into());
        }
        let last = rows.last().map(|(offset, row)| mark_of(*offset, row));
        let good: Vec<(i64, Row)> = rows.into_iter().filter(|(_, row)| !row.is_bad).collect();
        let (batch, reached) = self.batch(&good)?;
        if process.world.lock().hidden.reports {
            return Ok(batch);
        }
        outlet.report(&ScanProgress {
            partition: self.range.partition,
            stream: 0,
            start: self.range.start,
            next: self.range.end,
            reached,
            last,
        })?;
        Ok(batch)
    }

    fn rows(&self) -> Result<Vec<(i64, Row)>> {
        let PlannedRange {
            partition,
            start,
            end,
        } = self.range;
        let state = self.source.process.world.lock();
        let log = state
            .topic
            .partitions
            .get(usize::try_from(partition).unwrap());
        let from = self.border;
        let is_there = |log: &&Partition| {
            (from == end && start < end) || (log.low..=log.high()).contains(&from)
        };
        let archives = log.is_some_and(|log| !log.archived.is_empty());
        let Some(log) = log.filter(is_there) else {
            let gone =
                format!("topic 'simulated' no longer has offset {from} of partition {partition}");
            // The next plan finds it in the archive, or reports that it is lost.
            return Err(match archives {
                true => Error::unavailable(gone),
                false => Error::data(gone),
            });
        };
        let rows = (0..).zip(&log.rows).map(|(offset, row)| (offset, *row));
        Ok(rows
            .filter(|(offset, _)| (start..end).contains(offset))
            .collect())
    }

    fn bad(&self, offset: i64, row: &Row) -> BadRecord {
        BadRecord {
            topic: "simulated".to_owned(),
            partition: self.range.partition,
            offset,
            timestamp: None,
            key: None,
            value: Some(row.value.to_string().into_bytes()),
            reason: "it is bad".to_owned(),
        }
    }

    /// The rows as the columns `k`, `event_time`, `v`, `p`, `o`, and the hidden column of the watermark; and what they have
    /// reached.
    fn batch(&self, rows: &[(i64, Row)]) -> Result<(RecordBatch, Option<PartitionTimes>)> {
        let count = rows.len();
        let keys: Int64Array = rows.iter().map(|(_, row)| row.key).collect();
        let times = rows.iter().map(|(_, row)| row.time * SECOND);
        let values = rows.iter().map(|(_, row)| row.value);
        let offsets = Int64Array::from_iter_values(rows.iter().map(|(offset, _)| *offset));
        let partitions = Int32Array::from(vec![self.range.partition; count]);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(keys),
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
            Arc::new(Int64Array::from_iter_values(values)),
            Arc::new(partitions.clone()),
            Arc::new(offsets.clone()),
        ];
        let mut reached = None;
        if let Some(time) = &self.time {
            let mut running = time.running(self.range.partition, DELAY * SECOND);
            let met: Vec<i64> = rows
                .iter()
                .map(|(_, row)| {
                    let met = running.met().unwrap_or(i64::MIN);
                    running.pass(row.time * SECOND);
                    met
                })
                .collect();
            reached = Some(running.reached().into());
            let DataType::Struct(fields) = row_field().data_type().clone() else {
                return Err(Error::internal("the hidden column is no struct"));
            };
            let parts: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(met)),
                Arc::new(partitions),
                Arc::new(offsets),
                Arc::new(Int64Array::from(vec![0; count])),
                Arc::new(StringArray::from(vec!["simulated"; count])),
                Arc::new(BinaryArray::from(vec![&b"raw"[..]; count])),
            ];
            columns.push(Arc::new(StructArray::new(fields, parts, None)));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let batch = batch.map_err(|error| Error::internal(error.to_string()))?;
        Ok((batch, reached))
    }
}
