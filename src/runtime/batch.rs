//! One micro-batch: ranges chosen from facts, run, staged, committed in the sink, committed in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::jobs::version::FORMAT;
use crate::core::jobs::{
    BatchVersion, Lost, PartitionFacts, Partitions, PlannedRange, SourceProgress, choose,
};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::blame::{Aside, Place};
use crate::runtime::source::JobSource;
use crate::session::{BatchSource, JobSinkTable};
use crate::tables::kafka::{PartitionEnds, TopicOffset};
use crate::tables::time::BatchTime;

/// Where the topics of a job end, by table.
pub(super) type Ends = BTreeMap<String, Vec<PartitionEnds>>;

/// Ranges chosen for a batch, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) planned: BTreeMap<String, Vec<PlannedRange>>,
    /// Offsets that are gone and that the user said to skip.
    pub(super) skipped: BTreeMap<String, BTreeMap<i32, SourceProgress>>,
    /// A source begins at its end: where that is has to be kept, or it would be further on next time.
    pub(super) begins: bool,
    /// Records to be set aside, by table.
    pub(super) aside: Aside,
}

impl Ranges {
    /// Chooses what comes after `last`; partitions that are `waiting` are not read.
    pub(super) fn after(
        last: Option<&BatchVersion>,
        ends: &Ends,
        sources: &BTreeMap<String, JobSource>,
        max_rows: u64,
        waiting: &Partitions,
        skipping_lost: bool,
    ) -> Result<Self> {
        let mut ranges = Self::default();
        for (table, partitions) in ends {
            let position = |partition| last.and_then(|last| last.next_offset(table, partition));
            // `scan.startup` is about a table that was never read: later partitions are read from their beginning.
            let is_new = last.is_none_or(|last| !last.sources.contains_key(table));
            let latest = is_new && sources.get(table).is_some_and(JobSource::starts_at_end);
            let facts: Vec<PartitionFacts> = partitions
                .iter()
                .map(|ends| PartitionFacts {
                    partition: ends.partition,
                    position: position(ends.partition),
                    low: ends.low,
                    high: ends.high,
                    waits: waiting
                        .get(table)
                        .is_some_and(|waiting| waiting.contains(&ends.partition)),
                })
                .collect();
            ranges.begins |= latest;
            let chosen = match sources.get(table).and_then(JobSource::planned) {
                Some(planned) => {
                    let waits = facts.iter().any(|facts| facts.waits);
                    let end = if waits { planned.start } else { planned.end };
                    vec![PlannedRange { end, ..planned }]
                }
                None => choose(&facts, latest, max_rows, skipping_lost)
                    .map_err(|lost| lost_offsets(table, &lost))?,
            };
            for (range, facts) in chosen.iter().zip(&facts) {
                if let Some(position) = facts.position.filter(|position| *position != range.start) {
                    let gap = SourceProgress {
                        start: position,
                        end: range.start,
                    };
                    let skipped = ranges.skipped.entry(table.clone()).or_default();
                    skipped.insert(range.partition, gap);
                }
            }
            ranges.planned.insert(table.clone(), chosen);
        }
        Ok(ranges)
    }

    /// Leaves a record out: it becomes a dead letter.
    pub(super) fn set_aside(&mut self, place: &Place, reason: String) {
        let of_table = self.aside.entry(place.table.clone()).or_default();
        Arc::make_mut(of_table).insert((place.partition, place.offset), reason);
    }

    /// Whether there is anything to read, or to remember.
    pub(super) fn is_empty(&self) -> bool {
        !self.begins
            && self.skipped.is_empty()
            && self
                .planned
                .values()
                .flatten()
                .all(|range| range.end <= range.start)
    }

    /// How many offsets it has of the table of which it has most.
    pub(super) fn records(&self) -> u64 {
        let of_table = |ranges: &Vec<PlannedRange>| {
            let lengths = ranges.iter().map(|range| range.end - range.start);
            u64::try_from(lengths.sum::<i64>()).unwrap_or(0)
        };
        self.planned.values().map(of_table).max().unwrap_or(0)
    }

    /// Whether everything up to `ends` was handled when `last` was.
    pub(super) fn is_caught_up(last: Option<&BatchVersion>, ends: &Ends) -> bool {
        ends.iter().all(|(table, partitions)| {
            partitions.iter().all(|ends| {
                let next = last.and_then(|last| last.next_offset(table, ends.partition));
                next.unwrap_or(ends.low) >= ends.high
            })
        })
    }

    /// Offsets up to `ends` that were not read when `last` was.
    pub(super) fn lag(last: Option<&BatchVersion>, ends: &Ends) -> u64 {
        Self::lags(last, ends).map(|(.., lag)| lag).sum()
    }

    /// The same for each partition of each table.
    pub(super) fn lags<'a>(
        last: Option<&'a BatchVersion>,
        ends: &'a Ends,
    ) -> impl Iterator<Item = (&'a str, i32, u64)> {
        ends.iter().flat_map(move |(table, partitions)| {
            partitions.iter().map(move |ends| {
                let next = last.and_then(|last| last.next_offset(table, ends.partition));
                let offsets = ends.high - next.unwrap_or(ends.low);
                let lag = match ends.unread {
                    Some(unread) => unread,
                    None => u64::try_from(offsets).unwrap_or(0),
                };
                (table.as_str(), ends.partition, lag)
            })
        })
    }

    /// The sources as a batch over the ranges reads them; with their time, if the job keeps time.
    pub(super) fn of_sources(
        &self,
        sources: &BTreeMap<String, JobSource>,
        times: &BTreeMap<String, Arc<BatchTime>>,
    ) -> Result<BTreeMap<String, BatchSource>> {
        let of_table = |(table, source): (&String, &JobSource)| {
            let ranges = self.planned.get(table).map_or(&[][..], Vec::as_slice);
            let (time, aside) = (times.get(table).cloned(), self.aside.get(table).cloned());
            let batch = source.batch(ranges, time, aside)?;
            Ok((table.clone(), batch))
        };
        sources.iter().map(of_table).collect()
    }

    /// The version after the batch, counts aside: all partitions that were ever read, moved or not.
    pub(super) fn version(
        self,
        last: Option<(&str, &BatchVersion)>,
        batch: u64,
        generation: u64,
        sequence: u64,
    ) -> BatchVersion {
        let mut sources = last.map_or_else(BTreeMap::new, |(_, last)| last.sources.clone());
        for partitions in sources.values_mut() {
            for progress in partitions.values_mut() {
                progress.start = progress.end;
            }
        }
        for (table, ranges) in self.planned {
            let partitions = sources.entry(table).or_default();
            for range in ranges {
                let progress = SourceProgress {
                    start: range.start,
                    end: range.end,
                };
                partitions.insert(range.partition, progress);
            }
        }
        BatchVersion {
            format: FORMAT,
            batch,
            generation,
            sequence,
            parent: last.map(|(name, _)| name.to_owned()),
            sources,
            skipped: self.skipped,
            ..BatchVersion::default()
        }
    }
}

/// The offsets of a version as a Kafka group keeps them, for the topics on the sink's own brokers.
pub(super) fn group_offsets(
    version: &BatchVersion,
    sources: &BTreeMap<String, JobSource>,
    sink: &JobSinkTable,
) -> Vec<TopicOffset> {
    let mut offsets = Vec::new();
    for (table, partitions) in &version.sources {
        let source = sources.get(table);
        let Some(topic) = source.and_then(|source| source.topic_beside(sink)) else {
            continue;
        };
        for (partition, progress) in partitions {
            offsets.push(TopicOffset {
                topic: topic.to_owned(),
                partition: *partition,
                offset: progress.end,
            });
        }
    }
    offsets
}

/// Batches from `first` to `newest` are to be run again: an error if what they read is gone from the topics.
pub(super) fn check_readable(
    first: &BatchVersion,
    newest: &BatchVersion,
    ends: &Ends,
) -> Result<()> {
    for (table, partitions) in ends {
        let Some(read) = first.sources.get(table) else {
            continue;
        };
        let lost = |ends: &PartitionEnds| {
            let from = read.get(&ends.partition)?.start;
            let until = newest.next_offset(table, ends.partition)?;
            let partition = ends.partition;
            if until > ends.high {
                let to = ends.high;
                return Some(Lost {
                    partition,
                    from: until,
                    to,
                });
            }
            let to = ends.low;
            (from < until && from < to).then_some(Lost {
                partition,
                from,
                to,
            })
        };
        let lost: Vec<Lost> = partitions.iter().filter_map(lost).collect();
        if !lost.is_empty() {
            return Err(lost_offsets(table, &lost).with_help(
                "the batches cannot be run again from the topic; REWIND to a later batch, or reprocess from an archive",
            ));
        }
    }
    Ok(())
}

/// LOSS-1: offsets that should be read and are gone.
fn lost_offsets(table: &str, lost: &[Lost]) -> Error {
    let gaps: Vec<String> = lost
        .iter()
        .map(|lost| {
            if lost.to > lost.from {
                format!(
                    "partition {} lacks offsets {} to {}",
                    lost.partition,
                    lost.from,
                    lost.to - 1
                )
            } else {
                format!(
                    "partition {} ends before offset {}, where the job stands: the topic was made anew",
                    lost.partition, lost.from
                )
            }
        })
        .collect();
    Error::new(ErrorKind::Data, format!("{table}: {}", gaps.join("; "))).with_help(
        "RESUME JOB … SKIPPING LOST goes on at the first offset there is and records the gap",
    )
}
