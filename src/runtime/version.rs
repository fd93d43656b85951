//! The version that a batch leaves behind, made in one place of all facts about the batch.

use std::collections::BTreeMap;

use crate::core::jobs::{
    BatchVersion, ClockReading, Gaps, JobTime, LeftGroups, OperatorState, SourceProgress,
};
use crate::runtime::batch::BatchRanges;
use crate::runtime::sink::SinkReport;
use crate::streaming::LastRecords;
use crate::tables::bad_records::BadRecord;

/// All facts about a batch of which its version is made. A fact that is missing does not compile.
pub(super) struct BatchFacts<'a> {
    /// The version that the batch builds on, with its name.
    pub(super) last: Option<(&'a str, &'a BatchVersion)>,
    pub(super) number: BatchNumber,
    /// What was chosen to be read.
    pub(super) ranges: BatchRanges,
    /// What was read.
    pub(super) input: Input,
    pub(super) dead_letters: DeadLetterFile,
    pub(super) written: SinkReport,
    pub(super) state: StateFacts,
    pub(super) time: TimeFacts,
}

/// The place of a batch in the log of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchNumber {
    pub(super) batch: u64,
    pub(super) generation: u64,
    /// The number of the log entry that commits it.
    pub(super) sequence: u64,
}

/// What a batch has read.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) rows: u64,
    /// Bytes of the keys and values of records.
    pub(super) bytes: u64,
    /// The last record of each partition.
    pub(super) last_records: LastRecords,
    /// Records that could not be used, with the table of each.
    pub(super) bad_records: Vec<(String, BadRecord)>,
    /// Windows and sessions that the chunk of a run left out.
    pub(super) left: LeftGroups,
}

/// The dead letters of a batch, in a file of the version's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DeadLetterFile {
    pub(super) count: u64,
    /// The checksum of the file; none if there are no dead letters.
    pub(super) crc32: Option<u32>,
}

/// What a batch has made of the state of its job; nothing if it has none.
#[derive(Debug, Default)]
pub(super) struct StateFacts {
    pub(super) time: Option<JobTime>,
    /// By the id of the operator.
    pub(super) operators: BTreeMap<String, OperatorState>,
    pub(super) late_rows: u64,
    /// The checksum of the file of late rows; none if there are none.
    pub(super) late_crc32: Option<u32>,
}

/// When a batch was run.
#[derive(Debug)]
pub(super) struct TimeFacts {
    /// The job's clock when the sources were looked at.
    pub(super) clock: ClockReading,
    /// How long each partition had been silent by then, in milliseconds, by table; empty for a job without state.
    pub(super) silent: BTreeMap<String, BTreeMap<i32, u64>>,
    /// By the wall clock, in milliseconds since 1970 UTC.
    pub(super) started_at: i64,
    /// How long it took until its files were written, in milliseconds.
    pub(super) took: u64,
}

impl BatchFacts<'_> {
    /// The version after the batch: with all existing partitions, read or not.
    pub(super) fn version(self) -> BatchVersion {
        let identities = &self.ranges.identities;
        let mut marks = self
            .last
            .map_or_else(BTreeMap::new, |(_, last)| last.marks.clone());
        marks.retain(|table, _| !identities.is_accepted(table));
        // Each existing partition has a planned range: the others no longer exist.
        let sources = self.ranges.planned.into_iter().map(|(table, ranges)| {
            let partitions = ranges.into_iter().map(|range| {
                let progress = SourceProgress {
                    start: range.start,
                    end: range.end,
                };
                (range.partition, progress)
            });
            (table, partitions.collect())
        });
        let (sources, skipped): (Gaps, Gaps) = (sources.collect(), self.ranges.skipped);
        let has = |of: &Gaps, table: &String, partition: &i32| {
            of.get(table).is_some_and(|of| of.contains_key(partition))
        };
        marks.retain(|table, marks| {
            // If the end was cut off, another record may soon have the offset of the mark.
            marks.retain(|partition, _| {
                has(&sources, table, partition) && !has(&skipped, table, partition)
            });
            !marks.is_empty()
        });
        for (table, read) in self.input.last_records {
            if !read.is_empty() {
                marks.entry(table).or_default().extend(read);
            }
        }
        BatchVersion {
            batch: self.number.batch,
            generation: self.number.generation,
            sequence: self.number.sequence,
            parent: self.last.map(|(name, _)| name.to_owned()),
            sources,
            skipped,
            identities: identities.sources(),
            marks,
            sink: identities.sink(),
            rows_in: self.input.rows,
            bytes_in: self.input.bytes,
            rows_out: self.written.rows,
            published: self.written.published,
            files: self.written.files,
            dead_letters: self.dead_letters.count,
            dead_letters_crc32: self.dead_letters.crc32,
            // A version has them in a file since format 2.
            inline_dead_letters: Vec::new(),
            time: self.state.time,
            operators: self.state.operators,
            late_rows: self.state.late_rows,
            late_crc32: self.state.late_crc32,
            left: self.input.left,
            compared: self.written.compared,
            clock: Some(self.time.clock),
            silent: self.time.silent,
            started_at: self.time.started_at,
            took: self.time.took,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{PlannedRange, RecordMark, SteadyTime};

    fn mark(offset: i64) -> RecordMark {
        RecordMark {
            offset,
            timestamp: None,
            checksum: 7,
        }
    }

    fn facts(last: &BatchVersion) -> BatchFacts<'_> {
        let range = |partition, start, end| PlannedRange {
            partition,
            start,
            end,
        };
        let mut ranges = BatchRanges::default();
        let of_t = vec![range(0, 5, 8), range(1, 3, 3), range(2, 9, 9)];
        ranges.planned.insert("t".to_owned(), of_t);
        let gap = SourceProgress { start: 4, end: 9 };
        ranges.skipped = BTreeMap::from([("t".to_owned(), [(2, gap)].into())]);
        BatchFacts {
            last: Some(("0000000001-a", last)),
            number: BatchNumber {
                batch: 2,
                generation: 1,
                sequence: 3,
            },
            ranges,
            input: Input {
                rows: 3,
                last_records: BTreeMap::from([("t".to_owned(), [(0, mark(7))].into())]),
                ..Input::default()
            },
            dead_letters: DeadLetterFile::default(),
            written: SinkReport::default(),
            state: StateFacts::default(),
            time: TimeFacts {
                clock: ClockReading {
                    at: 0,
                    steady: SteadyTime {
                        boot: String::new(),
                        at: 0,
                    },
                },
                silent: BTreeMap::new(),
                started_at: 0,
                took: 0,
            },
        }
    }

    /// IDENT-1: a partition keeps the mark of its last record while nothing is read of it, and loses it when records were skipped or
    /// the partition is gone.
    #[test]
    fn ident_1_marks_are_of_records_that_the_positions_follow() {
        let marks = [0, 1, 2, 3].map(|partition| (partition, mark(2)));
        let last = BatchVersion {
            marks: BTreeMap::from([
                ("t".to_owned(), marks.into()),
                ("u".to_owned(), marks.into()),
            ]),
            ..BatchVersion::default()
        };
        let version = facts(&last).version();
        let expected = BTreeMap::from([(0, mark(7)), (1, mark(2))]);
        assert_eq!(version.marks, BTreeMap::from([("t".to_owned(), expected)]));
        assert_eq!(version.parent.as_deref(), Some("0000000001-a"));
        assert_eq!(version.next_offset("t", 0), Some(8));
        assert_eq!(version.skipped["t"][&2].end, 9);
        assert_eq!(
            (version.batch, version.sequence, version.rows_in),
            (2, 3, 3)
        );
    }
}
