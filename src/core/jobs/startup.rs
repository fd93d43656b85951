//! Where a job begins in sources that it has not read: the forms of `'scan.startup'`, and the offsets that follow from them.
//!
//! A job chooses once: its first batch stores the offsets, and no later run decides again.

use std::collections::BTreeMap;

use super::ends::PartitionEnds;
use super::named_offsets::{NamedOffset, NamedOffsets};
use super::progress::Offsets;
use super::version::BatchVersion;
use crate::core::archive::halves::{ArchiveOffsets, NotThePast, divide};
use crate::core::archive::offset_ranges::OffsetRanges;
use crate::core::archive::one_log::with_archive;

/// Where a job begins in its sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// With all that they have.
    Earliest,
    /// With what comes from now on.
    Latest,
    /// At these offsets. A table that is not named begins as its declaration says.
    Offsets(NamedOffsets),
    /// In each partition at the first record with this timestamp or a later one, in microseconds since 1970 UTC; at the end, if
    /// there is none.
    Time(i64),
    /// Behind the records that the archives of the topics have.
    ArchiveEnd,
}

/// Where a job begins in one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceStart {
    /// At the first record of each partition.
    First,
    /// At the end of each partition.
    End,
    /// At an offset of each partition.
    Offsets(BTreeMap<i32, NamedOffset>),
    /// At the first record with this timestamp or a later one, in milliseconds since 1970 UTC, above 0.
    Time(i64),
    /// Behind the last record that the archive of the topic has of each partition.
    ArchiveEnd,
}

impl Startup {
    /// Where a job begins in a table; `None`: where the table's declaration says.
    pub fn of(&self, table: &str) -> Option<SourceStart> {
        Some(match self {
            Startup::Earliest => SourceStart::First,
            Startup::Latest => SourceStart::End,
            Startup::Offsets(offsets) => SourceStart::Offsets(offsets.get(table)?.clone()),
            // No timestamp of Kafka is before 1970: negative ones have other meanings in its protocol.
            Startup::Time(..=0) => SourceStart::First,
            // Kafka keeps milliseconds: those before the next whole one are earlier.
            Startup::Time(micros) => SourceStart::Time((micros - 1).div_euclid(1_000) + 1),
            Startup::ArchiveEnd => SourceStart::ArchiveEnd,
        })
    }
}

/// A name in offsets that stands for no table of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartNameFault {
    /// The job reads no table and no topic of this name.
    Unknown(String),
    /// Several tables read the topic of this name.
    Ambiguous {
        /// The name.
        topic: String,
        /// The tables.
        tables: Vec<String>,
    },
    /// The table is named twice: by its own name and by that of its topic.
    Twice(String),
    /// The table has no offsets that a user could know: it is not over a topic.
    NoTopic(String),
}

/// Puts the names of tables for those of topics, as Spark writes them. `tables` are the sources of the job, each with its topic
/// if it has one. The name of a table comes before that of a topic.
///
/// # Errors
///
/// A name that is not that of one table.
pub fn by_table(
    offsets: NamedOffsets,
    tables: &[(&str, Option<&str>)],
) -> Result<NamedOffsets, StartNameFault> {
    let mut by_table = NamedOffsets::new();
    for (name, partitions) in offsets {
        let table = match tables.iter().find(|(table, _)| *table == name) {
            Some((_, Some(_))) => name,
            Some((_, None)) => return Err(StartNameFault::NoTopic(name)),
            None => {
                let of_topic = tables
                    .iter()
                    .filter(|(_, topic)| *topic == Some(name.as_str()));
                let of_topic: Vec<&str> = of_topic.map(|(table, _)| *table).collect();
                match of_topic.as_slice() {
                    [] => return Err(StartNameFault::Unknown(name)),
                    [table] => (*table).to_owned(),
                    several => {
                        let tables = several.iter().map(|table| (*table).to_owned());
                        return Err(StartNameFault::Ambiguous {
                            topic: name,
                            tables: tables.collect(),
                        });
                    }
                }
            }
        };
        if by_table.contains_key(&table) {
            return Err(StartNameFault::Twice(table));
        }
        by_table.insert(table, partitions);
    }
    Ok(by_table)
}

/// Why a job cannot begin at the offsets that its statement gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFault {
    /// The topic does not have these partitions.
    NoSuchPartitions(Vec<i32>),
    /// The topic has these partitions, and the statement does not say where they begin.
    NotNamed(Vec<i32>),
    /// The partition no longer has the offset, nor has its archive; or the partition does not have it yet.
    OutOfRange {
        /// The partition.
        partition: i32,
        /// The offset that the statement gives.
        offset: i64,
        /// The first offset that the partition or its archive has.
        low: i64,
        /// The offset of its next record.
        end: i64,
    },
    /// The offset lies in a gap of the archive, and the partition no longer has it.
    InGap {
        /// The partition.
        partition: i32,
        /// The offset that the statement gives.
        offset: i64,
        /// The first offset behind the gap.
        next: i64,
    },
    /// All that the partition has is late enough for the time. The archive has earlier records without their timestamps.
    NoTimestamps {
        /// The partition.
        partition: i32,
    },
    /// The archive has rows that the topic cannot have had.
    NotThePast(NotThePast),
    /// A transaction that is still open is before the offset: this may pass.
    BehindTransaction {
        /// The partition.
        partition: i32,
        /// The offset where the job is to begin.
        offset: i64,
        /// Where readers of committed records end.
        high: i64,
    },
}

/// The offset where each partition begins. As in Spark, each partition that the topic has must be named. `archived` has what the archive of
/// the topic covers, by partition.
///
/// # Errors
///
/// The partitions are not those of the topic, or neither one nor its archive has its offset.
pub fn start_offsets(
    named: &BTreeMap<i32, NamedOffset>,
    ends: &[PartitionEnds],
    archived: &BTreeMap<i32, OffsetRanges>,
) -> Result<BTreeMap<i32, i64>, StartFault> {
    let there: BTreeMap<i32, &PartitionEnds> =
        ends.iter().map(|ends| (ends.partition, ends)).collect();
    let unknown = named.keys().filter(|number| !there.contains_key(number));
    let unknown: Vec<i32> = unknown.copied().collect();
    if !unknown.is_empty() {
        return Err(StartFault::NoSuchPartitions(unknown));
    }
    let missing = there.keys().filter(|number| !named.contains_key(number));
    let missing: Vec<i32> = missing.copied().collect();
    if !missing.is_empty() {
        return Err(StartFault::NotNamed(missing));
    }
    let mut begins = BTreeMap::new();
    let nothing = OffsetRanges::default();
    for (partition, start) in named {
        let Some(ends) = there.get(partition) else {
            continue;
        };
        let archived = archived.get(partition).unwrap_or(&nothing);
        let first = with_archive(ends, archived, None).low;
        let offset = match *start {
            NamedOffset::First => first,
            NamedOffset::End => ends.high,
            NamedOffset::At(offset) if (ends.low..=ends.high).contains(&offset) => offset,
            NamedOffset::At(offset) if (first..ends.low).contains(&offset) => {
                if !archived.has(offset) {
                    return Err(StartFault::InGap {
                        partition: *partition,
                        offset,
                        next: with_archive(ends, archived, Some(offset)).low,
                    });
                }
                offset
            }
            NamedOffset::At(offset) if (ends.high..=ends.latest).contains(&offset) => {
                return Err(StartFault::BehindTransaction {
                    partition: *partition,
                    offset,
                    high: ends.high,
                });
            }
            NamedOffset::At(offset) => {
                return Err(StartFault::OutOfRange {
                    partition: *partition,
                    offset,
                    low: first,
                    end: ends.latest,
                });
            }
        };
        begins.insert(*partition, offset);
    }
    Ok(begins)
}

/// The end of each partition.
pub fn start_at_end(ends: &[PartitionEnds]) -> BTreeMap<i32, i64> {
    ends.iter()
        .map(|ends| (ends.partition, ends.high))
        .collect()
}

/// Where partitions begin by time: `found` has for each the first record that is late enough, if there is one. The others begin at
/// their ends as they were before these records were looked for: a record that has come since may be late enough.
pub fn start_at_time(found: &[(i32, Option<i64>)], before: &[PartitionEnds]) -> BTreeMap<i32, i64> {
    let mut begins = start_at_end(before);
    let found = found.iter();
    begins.extend(found.filter_map(|(partition, offset)| Some((*partition, (*offset)?))));
    begins
}

/// Checks that a start by time does not leave out records that the archive alone has, and has without their timestamps: of the topic's own
/// records the first one must be too early. `found` and `first` have for each partition the first record that is late enough, and the
/// first one of all.
///
/// # Errors
///
/// A partition where that cannot be known.
pub fn check_found_by_time(
    found: &[(i32, Option<i64>)],
    first: &[(i32, Option<i64>)],
    ends: &[PartitionEnds],
    archived: &BTreeMap<i32, OffsetRanges>,
) -> Result<(), StartFault> {
    let of = |offsets: &[(i32, Option<i64>)], partition| {
        let mut offsets = offsets.iter().filter(|(of, _)| *of == partition);
        offsets.next().and_then(|(_, offset)| *offset)
    };
    for PartitionEnds { partition, low, .. } in ends {
        let archived = archived.get(partition).and_then(OffsetRanges::first);
        let has_earlier = archived.is_some_and(|first| first < *low);
        let is_too_early = of(first, *partition)
            .is_some_and(|first| of(found, *partition).is_none_or(|found| found > first));
        if has_earlier && !is_too_early {
            return Err(StartFault::NoTimestamps {
                partition: *partition,
            });
        }
    }
    Ok(())
}

/// Where partitions begin behind an archive: a partition that it has no rows of begins at its first record. The topic may have
/// removed records that come next. The ends are asked for after the version of the archive was pinned.
///
/// # Errors
///
/// The archive has rows that this topic cannot have had, or records of a transaction that is still open.
pub fn start_behind_archive(
    archive: &ArchiveOffsets,
    ends: &[PartitionEnds],
) -> Result<BTreeMap<i32, i64>, StartFault> {
    let halves = divide(archive, ends).map_err(StartFault::NotThePast)?;
    let mut begins = BTreeMap::new();
    for (half, ends) in halves.iter().zip(ends) {
        let border = half.archive.map(|(_, border)| border);
        let offset = border.unwrap_or(ends.low);
        if offset > ends.high {
            return Err(StartFault::BehindTransaction {
                partition: ends.partition,
                offset,
                high: ends.high,
            });
        }
        begins.insert(ends.partition, offset);
    }
    Ok(begins)
}

/// Where a job began, by the first version that it committed.
pub fn began_at(first: &BatchVersion) -> Offsets {
    let tables = first.sources.iter();
    let starts = tables.map(|(table, partitions)| {
        let starts = partitions.iter();
        let starts = starts.map(|(partition, read)| (*partition, read.start));
        (table.clone(), starts.collect())
    });
    starts.collect()
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
