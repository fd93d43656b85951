//! Micro-batches of a job: the choice of offset ranges, and the version that a batch leaves behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::jobs::{
    BatchVersion, Gaps, Lost, PartitionFacts, Partitions, PlannedRange, Reported, SourceProgress,
    choose,
};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::blame::{Aside, Place};
use crate::runtime::identities::Identities;
use crate::runtime::source::JobSource;
use crate::streaming::{BatchSource, JobSinkTable};
use crate::tables::kafka::{PartitionEnds, TopicOffset};
use crate::tables::time::BatchTime;

/// Start and end offsets of the partitions of a job's sources, by table.
pub(super) type Ends = BTreeMap<String, Vec<PartitionEnds>>;

/// Ranges chosen for a batch, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) planned: BTreeMap<String, Vec<PlannedRange>>,
    /// Offsets that are lost or not needed, and that the user allows the job to skip.
    pub(super) skipped: Gaps,
    /// The batch has to be committed even without records: a source begins at its end, or the user has accepted another one. If
    /// no version stored that, the next run would decide differently.
    pub(super) begins: bool,
    /// Identities of the sources.
    identities: Identities,
    /// Records that the scans set aside as dead letters, by table.
    pub(super) aside: Aside,
}

/// Input for the choice of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    /// The last version of the job.
    pub(super) last: Option<&'a BatchVersion>,
    pub(super) ends: &'a Ends,
    pub(super) sources: &'a BTreeMap<String, JobSource>,
    pub(super) max_rows: u64,
    /// Partitions that wait for others in event time and are not read.
    pub(super) waiting: &'a Partitions,
    /// Lost offsets that the job may skip.
    pub(super) skipping: &'a Gaps,
    /// Identities of the sources.
    pub(super) identities: &'a Identities,
}

impl Ranges {
    /// Chooses the ranges after the last version.
    pub(super) fn choose(by: Choice<'_>) -> Result<Self> {
        let mut ranges = Self {
            identities: by.identities.clone(),
            begins: by.identities.is_to_be_kept(),
            ..Self::default()
        };
        let nothing = BTreeMap::new();
        for (table, partitions) in by.ends {
            // Positions in another topic or table do not apply to this one.
            let last = by.last.filter(|_| !by.identities.is_new(table));
            let position = |partition| last.and_then(|last| last.next_offset(table, partition));
            // `scan.startup` applies to a table that was never read: partitions that are added later are read from their
            // beginning.
            let is_new = last.is_none_or(|last| !last.sources.contains_key(table));
            let latest = is_new && by.sources.get(table).is_some_and(JobSource::starts_at_end);
            let facts: Vec<PartitionFacts> = partitions
                .iter()
                .map(|ends| PartitionFacts {
                    partition: ends.partition,
                    position: position(ends.partition),
                    low: ends.low,
                    high: ends.high,
                    waits: by
                        .waiting
                        .get(table)
                        .is_some_and(|waiting| waiting.contains(&ends.partition)),
                    is_same: by.identities.is_same(table),
                })
                .collect();
            ranges.begins |= latest;
            let skipping = by.skipping.get(table).unwrap_or(&nothing);
            let chosen = match by.sources.get(table).and_then(JobSource::planned) {
                Some(planned) => {
                    let waits = facts.iter().any(|facts| facts.waits);
                    let end = if waits { planned.start } else { planned.end };
                    vec![PlannedRange { end, ..planned }]
                }
                None => choose(&facts, latest, by.max_rows, skipping)
                    .map_err(|lost| lost_offsets(table, &lost))?,
            };
            for (range, facts) in chosen.iter().zip(&facts) {
                let from = match facts.position {
                    // If the source replaces another one, the skipped offsets begin at its first one.
                    None if by.identities.is_new(table) => facts.low,
                    None => continue,
                    Some(position) => position,
                };
                if from != range.start {
                    let gap = SourceProgress {
                        start: from,
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

    /// Sets a record aside: it becomes a dead letter.
    pub(super) fn set_aside(&mut self, place: &Place, reason: String) {
        let of_table = self.aside.entry(place.table.clone()).or_default();
        Arc::make_mut(of_table).insert((place.partition, place.offset), reason);
    }

    /// Whether the batch has neither records to read nor facts to store.
    pub(super) fn is_empty(&self) -> bool {
        !self.begins
            && self.skipped.is_empty()
            && self
                .planned
                .values()
                .flatten()
                .all(|range| range.end <= range.start)
    }

    /// The number of offsets of the table that has most of them.
    pub(super) fn records(&self) -> u64 {
        let of_table = |ranges: &Vec<PlannedRange>| {
            let lengths = ranges.iter().map(|range| range.end - range.start);
            u64::try_from(lengths.sum::<i64>()).unwrap_or(0)
        };
        self.planned.values().map(of_table).max().unwrap_or(0)
    }

    /// Whether the version `last` has read everything up to `ends`.
    pub(super) fn is_caught_up(last: Option<&BatchVersion>, ends: &Ends) -> bool {
        ends.iter().all(|(table, partitions)| {
            partitions.iter().all(|ends| {
                let next = last.and_then(|last| last.next_offset(table, ends.partition));
                next.unwrap_or(ends.low) >= ends.high
            })
        })
    }

    /// Number of offsets up to `ends` that come after the version `last`.
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

    /// The sources restricted to these ranges; with event time, if the job keeps time.
    pub(super) fn of_sources(
        &self,
        sources: &BTreeMap<String, JobSource>,
        times: &BTreeMap<String, Arc<BatchTime>>,
    ) -> Result<BTreeMap<String, BatchSource>> {
        let of_table = |(table, source): (&String, &JobSource)| {
            let ranges = self.planned.get(table).map_or(&[][..], Vec::as_slice);
            let (time, aside) = (times.get(table).cloned(), self.aside.get(table).cloned());
            let batch = source.batch(table, ranges, time, aside)?;
            Ok((table.clone(), batch))
        };
        sources.iter().map(of_table).collect()
    }

    /// The version after the batch, without its counts: with all existing partitions, read or not.
    pub(super) fn version(
        self,
        last: Option<(&str, &BatchVersion)>,
        batch: u64,
        generation: u64,
        sequence: u64,
    ) -> BatchVersion {
        let mut marks = last.map_or_else(BTreeMap::new, |(_, last)| last.marks.clone());
        marks.retain(|table, _| !self.identities.is_accepted(table));
        // Each existing partition has a planned range: the others no longer exist.
        let sources = self.planned.into_iter().map(|(table, ranges)| {
            let partitions = ranges.into_iter().map(|range| {
                let progress = SourceProgress {
                    start: range.start,
                    end: range.end,
                };
                (range.partition, progress)
            });
            (table, partitions.collect())
        });
        let sources: Gaps = sources.collect();
        let has = |of: &Gaps, table: &String, partition: &i32| {
            of.get(table).is_some_and(|of| of.contains_key(partition))
        };
        marks.retain(|table, marks| {
            // If the end was cut off, another record may soon have the offset of the mark.
            marks.retain(|partition, _| {
                has(&sources, table, partition) && !has(&self.skipped, table, partition)
            });
            !marks.is_empty()
        });
        BatchVersion {
            batch,
            generation,
            sequence,
            parent: last.map(|(name, _)| name.to_owned()),
            sources,
            marks,
            identities: self.identities.sources(),
            sink: self.identities.sink(),
            skipped: self.skipped,
            ..BatchVersion::default()
        }
    }
}

/// The offsets of a version as commits for the Kafka group, for topics on the sink's own brokers.
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

/// Checks that the batches from `first` to `newest` can be run again: an error if the topics no longer have their records.
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
                return Some(Lost {
                    partition,
                    from: until,
                    to: ends.high,
                    is_short: true,
                });
            }
            let to = ends.low;
            (from < until && from < to).then_some(Lost {
                partition,
                from,
                to,
                is_short: false,
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

/// LOSS-1: error for offsets that were not read and are lost.
fn lost_offsets(table: &str, lost: &[Lost]) -> Error {
    let gaps: Vec<String> = lost
        .iter()
        .map(|lost| match lost {
            Lost {
                is_short: false, ..
            } => format!(
                "partition {} lacks offsets {} to {}",
                lost.partition,
                lost.from,
                lost.to - 1
            ),
            Lost { to: 0, .. } => format!(
                "partition {} ends before offset {}, where the job stands: the topic was made anew, or its end was cut off",
                lost.partition, lost.from
            ),
            _ => format!(
                "partition {} ends before offset {}, where the job stands: its end was cut off from offset {} on",
                lost.partition, lost.from, lost.to
            ),
        })
        .collect();
    let mut report = Reported::default();
    let of_partition = |lost: &Lost| {
        let gap = SourceProgress {
            start: lost.from,
            end: lost.to,
        };
        (lost.partition, gap)
    };
    let partitions = lost.iter().map(of_partition).collect();
    report.lost.insert(table.to_owned(), partitions);
    Error::new(ErrorKind::Data, format!("{table}: {}", gaps.join("; "))).about(Subject::table(table))
        .with_help(
            "RESUME JOB … SKIPPING LOST goes on at the first offset there is, or where the end was cut off, and records the gap; \
             it holds for what is reported here",
        )
        .with_report(report)
}
