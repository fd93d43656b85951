//! Source of a job, a topic or a Delta table: where its partitions end, and how a batch reads its ranges.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::jobs::{BatchVersion, Identity, PlannedRange, RecordMark, SourceProgress};
use crate::error::{Error, Result, Subject};
#[cfg(test)]
use crate::runtime::simulation::SimulatedSource;
use crate::streaming::{BatchSource, JobSinkTable};
use crate::tables::bad_records::SetAside;
use crate::tables::delta::{DeltaJobSource, DeltaStreamProvider, FileRange, StreamLook};
use crate::tables::kafka::{
    KafkaJobSource, KafkaTable, KafkaTableProvider, OffsetRange, PartitionEnds, Startup,
};
use crate::tables::time::BatchTime;

/// A source that a runner reads.
#[derive(Debug)]
pub(super) enum JobSource {
    Kafka {
        source: KafkaJobSource,
        starts_at_end: bool,
    },
    /// The files that are added to a Delta table; one partition.
    Delta {
        source: DeltaJobSource,
        /// The range of the next batch, as of the last look.
        next: Mutex<Option<FileRange>>,
    },
    #[cfg(test)]
    Simulated(SimulatedSource),
}

/// Input for a look at the ends of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'a> {
    /// The table's name.
    pub(super) table: &'a str,
    /// The last version of the job; none if the job has read nothing from the present source.
    pub(super) last: Option<&'a BatchVersion>,
    /// How many records the next batch may have.
    pub(super) max_rows: u64,
    /// Lost offsets that the job may skip, by partition.
    pub(super) skipping: Option<&'a BTreeMap<i32, SourceProgress>>,
}

impl JobSource {
    /// The topic of a table; begins where the table's options say, unless `starts_at_end` is set. Does not connect yet.
    pub(super) fn of_kafka(table: Arc<KafkaTable>, starts_at_end: Option<bool>) -> Result<Self> {
        let is_latest = table.startup() == Startup::Latest;
        Ok(Self::Kafka {
            starts_at_end: starts_at_end.unwrap_or(is_latest),
            source: KafkaJobSource::try_new(table)?,
        })
    }

    /// A Delta table that is read as a stream.
    pub(super) fn of_delta(source: DeltaJobSource) -> Self {
        Self::Delta {
            source,
            next: Mutex::default(),
        }
    }

    /// Identity of the topic or table now (IDENT-1).
    pub(super) async fn identity(&self) -> Result<Identity> {
        match self {
            Self::Kafka { source, .. } => source.identity().await,
            Self::Delta { source, .. } => source.handle().identity().await,
            #[cfg(test)]
            Self::Simulated(source) => source.identity().await,
        }
    }

    /// The partitions that have another record at the place of the one that was read last.
    pub(super) async fn other_records(
        &self,
        marks: &BTreeMap<i32, RecordMark>,
    ) -> Result<Vec<i32>> {
        match self {
            Self::Kafka { source, .. } => {
                let others = source.other_records(marks.clone()).await?;
                Ok(others.into_keys().collect())
            }
            Self::Delta { source, .. } => {
                let mut others = Vec::new();
                for (partition, mark) in marks {
                    if source.is_other(*mark).await? {
                        others.push(*partition);
                    }
                }
                Ok(others)
            }
            #[cfg(test)]
            Self::Simulated(source) => source.other_records(marks).await,
        }
    }

    /// Whether a partition with these ends can still show the record at an offset. A topic no longer has records before its
    /// first offset; a table has its log.
    pub(super) fn can_tell(&self, offset: i64, ends: &PartitionEnds) -> bool {
        let first = match self {
            Self::Delta { .. } => i64::MIN,
            _ => ends.low,
        };
        (first..ends.high).contains(&offset)
    }

    /// Whether the record that was read last is checked before this batch too, and not only when a run begins: a table that is
    /// restored and written to again keeps its id.
    pub(super) fn is_to_be_checked(&self) -> bool {
        match self {
            Self::Delta { next, .. } => lock(next)
                .as_ref()
                .is_some_and(|range| range.end > range.start),
            _ => false,
        }
    }

    /// Where every partition starts and ends now, new ones included.
    pub(super) async fn ends(&self, look: Look<'_>) -> Result<Vec<PartitionEnds>> {
        match self {
            Self::Kafka { source, .. } => source.ends().await,
            Self::Delta { source, next } => {
                let position = look.last.and_then(|last| last.next_offset(look.table, 0));
                let gap = look.skipping.and_then(|gaps| gaps.get(&0));
                let gap = gap.filter(|gap| Some(gap.start) == position);
                let range = source
                    .next(StreamLook {
                        table: look.table,
                        position,
                        max_rows: look.max_rows,
                        skip_to: gap.map(|gap| gap.end),
                    })
                    .await
                    .map_err(|error| {
                        error
                            .context(look.table.to_owned())
                            .within(Subject::table(look.table))
                    })?;
                let ends = PartitionEnds {
                    partition: 0,
                    low: range.start,
                    high: range.high,
                    latest: range.high,
                    unread: Some(range.rows),
                };
                *lock(next) = Some(range);
                Ok(vec![ends])
            }
            #[cfg(test)]
            Self::Simulated(source) => source.ends().await,
        }
    }

    /// The range of the next batch, if the source itself chooses it.
    pub(super) fn planned(&self) -> Option<PlannedRange> {
        match self {
            Self::Kafka { .. } => None,
            Self::Delta { next, .. } => lock(next).as_ref().map(|range| PlannedRange {
                partition: 0,
                start: range.start,
                end: range.end,
            }),
            #[cfg(test)]
            Self::Simulated(_) => None,
        }
    }

    /// Whether a job that never read it begins at its end.
    pub(super) fn starts_at_end(&self) -> bool {
        match self {
            Self::Kafka { starts_at_end, .. } => *starts_at_end,
            Self::Delta { source, .. } => source.stream().starts_at_end,
            #[cfg(test)]
            Self::Simulated(_) => false,
        }
    }

    /// The topic of a table, if each record has an offset of its own.
    pub(super) fn topic(&self) -> Option<&str> {
        match self {
            Self::Kafka { source, .. } => Some(source.table().topic()),
            Self::Delta { .. } => None,
            #[cfg(test)]
            Self::Simulated(_) => None,
        }
    }

    /// The topic, if it is on the brokers of the sink, so that they can store its offsets.
    pub(super) fn topic_beside(&self, sink: &JobSinkTable) -> Option<&str> {
        match (self, sink) {
            (Self::Kafka { source, .. }, JobSinkTable::Kafka(sink)) => {
                let table = source.table();
                table.shares_cluster(sink).then(|| table.topic())
            }
            (Self::Kafka { .. }, JobSinkTable::Delta(_) | JobSinkTable::Subscriber)
            | (Self::Delta { .. }, _) => None,
            #[cfg(test)]
            (Self::Simulated(_), _) => None,
        }
    }

    /// The table, which the job calls `name`, as a batch sees it that reads these ranges; with `time`, it says what is to know of
    /// every row's time. Records of a topic that are to be set `aside` are dead letters.
    pub(super) fn batch(
        &self,
        name: &str,
        ranges: &[PlannedRange],
        time: Option<Arc<BatchTime>>,
        aside: Option<Arc<SetAside>>,
    ) -> Result<BatchSource> {
        let reported: Vec<PlannedRange> = ranges
            .iter()
            .filter(|range| range.end > range.start)
            .copied()
            .collect();
        match self {
            Self::Kafka { source, .. } => {
                let ranges = ranges.iter().map(|range| OffsetRange {
                    partition: range.partition,
                    start: range.start,
                    end: range.end,
                });
                let (table, pool) = (Arc::clone(source.table()), Some(Arc::clone(source.pool())));
                let provider = KafkaTableProvider::for_batch(table, ranges.collect(), pool);
                let provider = provider
                    .with_name(name)
                    .with_aside(aside.unwrap_or_default());
                let provider = match time {
                    Some(time) => provider.with_time(time),
                    None => provider,
                };
                Ok(BatchSource {
                    provider: Arc::new(provider),
                    ranges: reported,
                    last_records: BTreeMap::new(),
                })
            }
            Self::Delta { source, next } => {
                let planned = ranges.first().map(|range| (range.start, range.end));
                let range = match (lock(next).clone(), planned) {
                    (Some(range), Some((start, end))) if start == range.start => match end {
                        end if end == range.end => Some(range),
                        end if end == start => Some(range.waiting()),
                        _ => None,
                    },
                    _ => None,
                };
                let range = range.ok_or_else(|| Error::internal("files that nobody chose"))?;
                let mark = range.mark.filter(|_| range.end > range.start);
                // Without time there is nothing to say of versions that have no files.
                let is_scanned = range.has_files() || time.is_some();
                let provider = DeltaStreamProvider::try_new(range, name)?;
                let provider = match time {
                    Some(time) => provider.with_time(time, source.handle()),
                    None => provider,
                };
                Ok(BatchSource {
                    provider: Arc::new(provider),
                    ranges: if is_scanned { reported } else { Vec::new() },
                    last_records: mark.map(|mark| (0, mark)).into_iter().collect(),
                })
            }
            #[cfg(test)]
            Self::Simulated(source) => source.batch(name, ranges, time),
        }
    }
}

fn lock(next: &Mutex<Option<FileRange>>) -> std::sync::MutexGuard<'_, Option<FileRange>> {
    next.lock().unwrap_or_else(PoisonError::into_inner)
}
