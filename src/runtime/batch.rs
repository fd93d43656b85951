//! Micro-batches of a job: the choice of offset ranges, and the sources restricted to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::jobs::{
    BatchVersion, Gaps, LostOffsets, PartitionEnds, PartitionFacts, Partitions, PlannedRange,
    ReportedChange, SourceProgress, choose,
};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::identities::Identities;
use crate::runtime::set_aside_records::{RecordPosition, SetAsideRecords};
use crate::runtime::source::{Read, SourcePlan, SourcePlans};
use crate::runtime::source_ends::SourceEnds;
use crate::streaming::BatchSource;
use crate::tables::time::BatchTime;

/// Ranges chosen for a batch, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BatchRanges {
    pub(super) planned: BTreeMap<String, Vec<PlannedRange>>,
    /// Offsets that are lost or not needed, and that the user allows the job to skip.
    pub(super) skipped: Gaps,
    /// The batch has to be committed even without records: a source does not begin with its first record, or the user has accepted
    /// another one. If no version stored that, the next run would decide differently.
    pub(super) begins: bool,
    /// Identities of the sources.
    pub(super) identities: Identities,
    /// Records that the scans set aside as dead letters, by table.
    pub(super) aside: SetAsideRecords,
}

/// Input for the choice of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchChoice<'a> {
    /// The last version of the job.
    pub(super) last: Option<&'a BatchVersion>,
    /// What the sources have.
    pub(super) plans: &'a SourcePlans,
    pub(super) max_rows: u64,
    /// Partitions that wait for others in event time and are not read.
    pub(super) waiting: &'a Partitions,
    /// Lost offsets that the job may skip.
    pub(super) skipping: &'a Gaps,
    /// Identities of the sources.
    pub(super) identities: &'a Identities,
}

impl BatchRanges {
    /// Chooses the ranges after the last version.
    pub(super) fn choose(by: BatchChoice<'_>) -> Result<Self> {
        let mut ranges = Self {
            identities: by.identities.clone(),
            begins: by.identities.must_be_stored(),
            ..Self::default()
        };
        let nothing = BTreeMap::new();
        for (table, plan) in by.plans {
            // Positions in another topic or table do not apply to this one.
            let last = by.last.filter(|_| !by.identities.is_new(table));
            let position = |partition| last.and_then(|last| last.next_offset(table, partition));
            // `scan.startup` applies to a table that was never read: partitions that are added later are read from their
            // beginning.
            let is_new = last.is_none_or(|last| !last.sources.contains_key(table));
            let begins_at = plan.begins_at.as_ref().filter(|_| is_new);
            let facts: Vec<PartitionFacts> = plan
                .ends
                .iter()
                .map(|ends| PartitionFacts {
                    partition: ends.partition,
                    position: position(ends.partition)
                        .or_else(|| begins_at?.get(&ends.partition).copied()),
                    low: ends.low,
                    high: ends.high,
                    // The first batch reads nothing of such a table: it stores where the job begins, so that this is decided
                    // once, also if the job fails at the first record.
                    waits: begins_at.is_some()
                        || by
                            .waiting
                            .get(table)
                            .is_some_and(|waiting| waiting.contains(&ends.partition)),
                    is_same: by.identities.is_same(table),
                })
                .collect();
            ranges.begins |= begins_at.is_some();
            let skipping = by.skipping.get(table).unwrap_or(&nothing);
            let chosen = match &plan.chosen {
                Some(of_source) => {
                    let waits = facts.iter().any(|facts| facts.waits);
                    let of_source = of_source.iter().map(|range| PlannedRange {
                        end: if waits { range.start } else { range.end },
                        ..*range
                    });
                    of_source.collect()
                }
                None => choose(&facts, by.max_rows, skipping)
                    .map_err(|lost| lost_offsets(table, &lost, "", SKIP))?,
            };
            for (range, facts) in chosen.iter().zip(&facts) {
                let from = match facts.position {
                    // If the source replaces another one, the skipped offsets begin at its first one.
                    _ if by.identities.is_new(table) => facts.low,
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
    pub(super) fn set_aside(&mut self, place: &RecordPosition, reason: String) {
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

    /// The sources restricted to these ranges of their plans; with event time, if the job keeps time.
    pub(super) fn of_plans(
        &self,
        plans: &SourcePlans,
        times: &BTreeMap<String, Arc<BatchTime>>,
    ) -> Result<BTreeMap<String, BatchSource>> {
        let of_table = |(table, plan): (&String, &SourcePlan)| {
            let batch = plan.reader.batch(Read {
                table,
                ranges: self.planned.get(table).map_or(&[][..], Vec::as_slice),
                time: times.get(table).cloned(),
                aside: self.aside.get(table).cloned(),
            })?;
            Ok((table.clone(), batch))
        };
        plans.iter().map(of_table).collect()
    }
}

/// Checks that the batches from `first` to `newest` can be run again: an error if the topics no longer have their records.
pub(super) fn check_readable(
    first: &BatchVersion,
    newest: &BatchVersion,
    ends: &SourceEnds,
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
                return Some(match ends.behind_hole {
                    Some(behind) => LostOffsets {
                        partition,
                        from: ends.high,
                        to: behind,
                        is_short: false,
                    },
                    None => LostOffsets {
                        partition,
                        from: until,
                        to: ends.high,
                        is_short: true,
                    },
                });
            }
            let to = ends.low;
            (from < until && from < to).then_some(LostOffsets {
                partition,
                from,
                to,
                is_short: false,
            })
        };
        let lost: Vec<LostOffsets> = partitions.iter().filter_map(lost).collect();
        if !lost.is_empty() {
            const HELP: &str = "the batches cannot be run again from the topic; REWIND to a later batch, or reprocess from an archive";
            return Err(lost_offsets(table, &lost, "", HELP));
        }
    }
    Ok(())
}

/// What helps a job whose next offsets are lost.
const SKIP: &str = "RESUME JOB … SKIPPING LOST continues at the first available offset, or where it was truncated, and records the gap; \
                    it holds for what is reported here";

/// LOSS-1: error for offsets that were not read and are lost; the message ends with `said`.
pub(super) fn lost_offsets(table: &str, lost: &[LostOffsets], said: &str, help: &str) -> Error {
    let gaps: Vec<String> = lost
        .iter()
        .map(|lost| match lost {
            LostOffsets {
                is_short: false, ..
            } => format!(
                "partition {} lacks offsets {} to {}",
                lost.partition,
                lost.from,
                lost.to - 1
            ),
            LostOffsets { to: 0, .. } => format!(
                "partition {} ends before offset {}, where the job stands: the topic was recreated or truncated",
                lost.partition, lost.from
            ),
            _ => format!(
                "partition {} ends before offset {}, where the job stands: it was truncated at offset {}",
                lost.partition, lost.from, lost.to
            ),
        })
        .collect();
    let mut report = ReportedChange::default();
    let of_partition = |lost: &LostOffsets| {
        let gap = SourceProgress {
            start: lost.from,
            end: lost.to,
        };
        (lost.partition, gap)
    };
    let partitions = lost.iter().map(of_partition).collect();
    report.lost.insert(table.to_owned(), partitions);
    Error::new(
        ErrorKind::Data,
        format!("{table}: {}{said}", gaps.join("; ")),
    )
    .about(Subject::table(table))
    .with_help(help)
    .with_report(report)
}
