//! Offsets of an archive: what its files say of each partition of the topic, and where a read goes over from the archive to the
//! topic (ARCH-1).

use std::collections::BTreeMap;
use std::fmt;

use crate::core::jobs::ends::PartitionEnds;

/// The rows of one partition of the topic, in a file or in a whole archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetSpan {
    /// The lowest offset.
    pub first: i64,
    /// The highest offset.
    pub last: i64,
    /// How many rows there are.
    pub rows: u64,
}

impl OffsetSpan {
    /// Whether it has more rows than offsets, so that one of them is there twice. That it has not proves nothing: an offset may be
    /// missing and another one be there twice.
    pub fn has_duplicates(&self) -> bool {
        i128::from(self.rows) > i128::from(self.last) - i128::from(self.first) + 1
    }

    /// The offset behind the last row.
    fn end(self) -> i64 {
        self.last.saturating_add(1)
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            rows: self.rows.saturating_add(other.rows),
        }
    }
}

/// What one file has of each partition of the topic.
pub type FileSpans = BTreeMap<i32, OffsetSpan>;

/// The offsets of one version of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveOffsets {
    partitions: BTreeMap<i32, OffsetSpan>,
}

impl ArchiveOffsets {
    /// Those of the files of a version.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a FileSpans>) -> Self {
        let mut partitions: BTreeMap<i32, OffsetSpan> = BTreeMap::new();
        for (partition, span) in files.into_iter().flatten() {
            partitions
                .entry(*partition)
                .and_modify(|known| *known = known.and(*span))
                .or_insert(*span);
        }
        Self { partitions }
    }

    /// The partitions with rows, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = (i32, OffsetSpan)> {
        self.partitions
            .iter()
            .map(|(partition, span)| (*partition, *span))
    }

    /// What it has of a partition; none without rows of it.
    pub fn of_partition(&self, partition: i32) -> Option<OffsetSpan> {
        self.partitions.get(&partition).copied()
    }

    /// The offset behind the last row of a partition: there the topic goes on. None without rows of it.
    pub fn next(&self, partition: i32) -> Option<i64> {
        self.of_partition(partition).map(OffsetSpan::end)
    }

    /// The same for all partitions that have rows.
    pub fn next_offsets(&self) -> BTreeMap<i32, i64> {
        self.partitions()
            .map(|(partition, span)| (partition, span.end()))
            .collect()
    }
}

/// How one partition is read over both halves. The halves have no offset in common: the archive is read from its first offset up to
/// `border`, the topic before that and from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionHalves {
    /// The partition.
    pub partition: i32,
    /// The offsets that the archive gives, its first one included and `border` excluded; none if it has no rows of the partition.
    pub archive: Option<(i64, i64)>,
    /// The offsets that the topic gives behind the archive, the end excluded; all that it has if the archive has none.
    pub topic: (i64, i64),
    /// The offsets that the topic gives before the first one of the archive, the end excluded; none if the archive begins first.
    pub before: Option<(i64, i64)>,
    /// Offsets that neither half has, the end excluded: the topic removed them before they were archived.
    pub lost: Option<(i64, i64)>,
}

/// Why an archive cannot be the past of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotThePast {
    /// The archive has a row that the topic never had: it ends at `end` already.
    Beyond {
        /// The partition.
        partition: i32,
        /// The highest offset in the archive.
        last: i64,
        /// Where the topic ends.
        end: i64,
    },
    /// The archive has rows of a partition that the topic does not have.
    NoPartition {
        /// The partition.
        partition: i32,
    },
}

impl fmt::Display for NotThePast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotThePast::Beyond {
                partition,
                last,
                end,
            } => write!(
                f,
                "it has offset {last} of partition {partition}, and the topic ends at offset {end}"
            ),
            NotThePast::NoPartition { partition } => {
                write!(
                    f,
                    "it has partition {partition}, which the topic does not have"
                )
            }
        }
    }
}

/// Checks that an archive can be the past of a topic with these ends. `archive` has for each partition the offset behind its last one. An archive
/// of another writer may have records of open transactions.
///
/// # Errors
///
/// The archive has offsets that this topic cannot have had: the topic was deleted and created again, its end was cut off, or the archive is
/// another one's.
pub fn check_past(
    archive: impl IntoIterator<Item = (i32, i64)>,
    ends: &[PartitionEnds],
) -> Result<(), NotThePast> {
    for (partition, border) in archive {
        let of_topic = ends.iter().find(|ends| ends.partition == partition);
        let Some(PartitionEnds { latest, .. }) = of_topic else {
            return Err(NotThePast::NoPartition { partition });
        };
        if border > *latest {
            return Err(NotThePast::Beyond {
                partition,
                last: border - 1,
                end: *latest,
            });
        }
    }
    Ok(())
}

/// Divides a read between an archive and its topic. `ends` are the partitions of the topic as they are asked for *after* the version
/// of the archive was pinned: so an archive that only has records of this topic never goes beyond them.
///
/// # Errors
///
/// The archive has rows that this topic cannot have had: the topic was deleted and created again, or the archive is another one's.
pub fn divide(
    archive: &ArchiveOffsets,
    ends: &[PartitionEnds],
) -> Result<Vec<PartitionHalves>, NotThePast> {
    check_past(archive.next_offsets(), ends)?;
    let halves = ends.iter().map(|ends| {
        let PartitionEnds {
            partition,
            low,
            high,
            ..
        } = *ends;
        let Some(span) = archive.of_partition(partition) else {
            // Nothing says that earlier records were ever to be kept.
            return PartitionHalves {
                partition,
                archive: None,
                topic: (low, high),
                before: None,
                lost: None,
            };
        };
        let border = span.end();
        let start = low.max(border);
        let first = span.first.min(high);
        PartitionHalves {
            partition,
            archive: Some((span.first, border)),
            topic: (start, high.max(start)),
            before: (low < first).then_some((low, first)),
            lost: (low > border).then_some((border, low)),
        }
    });
    Ok(halves.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn spans(rows: &BTreeSet<(i32, i64)>) -> FileSpans {
        let mut spans = FileSpans::new();
        for (partition, offset) in rows {
            let one = OffsetSpan {
                first: *offset,
                last: *offset,
                rows: 1,
            };
            spans
                .entry(*partition)
                .and_modify(|known| *known = known.and(one))
                .or_insert(one);
        }
        spans
    }

    #[test]
    fn more_rows_than_offsets_are_duplicates() {
        let span = |first, last, rows| OffsetSpan { first, last, rows };
        assert!(!span(3, 5, 3).has_duplicates());
        assert!(!span(3, 5, 2).has_duplicates());
        assert!(span(3, 5, 4).has_duplicates());
        assert!(!span(i64::MIN, i64::MAX, u64::MAX).has_duplicates());
        let both = span(3, 5, 3).and(span(5, 9, 5));
        assert_eq!(both, span(3, 9, 8));
        assert!(both.has_duplicates());
    }

    fn ends(partition: i32, low: i64, high: i64, latest: i64) -> PartitionEnds {
        PartitionEnds {
            partition,
            low,
            high,
            latest,
            unread: None,
            behind_hole: None,
        }
    }

    #[test]
    fn another_topic_is_recognized() {
        let archive = ArchiveOffsets::of(&[spans(&[(0, 4), (1, 2)].into())]);
        assert_eq!(
            divide(&archive, &[ends(0, 0, 9, 9)]),
            Err(NotThePast::NoPartition { partition: 1 })
        );
        let (partition, last, end) = (0, 4, 4);
        assert_eq!(
            divide(&archive, &[ends(0, 0, 4, 4), ends(1, 0, 9, 9)]),
            Err(NotThePast::Beyond {
                partition,
                last,
                end
            })
        );
        let halves = [ends(0, 0, 5, 5), ends(1, 0, 3, 3), ends(2, 0, 0, 0)];
        assert!(divide(&archive, &halves).is_ok());
        // A writer that does not wait for transactions to end has archived a record of an open one.
        let halves = divide(&archive, &[ends(0, 0, 2, 9), ends(1, 0, 3, 3)]).unwrap();
        assert_eq!((halves[0].archive, halves[0].topic), (Some((4, 5)), (5, 5)));
    }

    proptest! {
        /// ARCH-1 by coordinates: both halves together have each record of a topic that never forgot once, wherever the archive
        /// begins and ends and the topic begins. If neither has a record, `divide` gives its offset as lost, or it is from before both,
        /// or the archive has no row of the partition.
        #[test]
        fn halves_have_each_record_once(
            logs in prop::collection::vec(
                (prop::collection::btree_set(0..40_i64, 0..30), (0..20_i64, 0..45_i64), 0..45_i64),
                1..4,
            ),
            cut in 1..5_usize,
        ) {
            let mut archived = Vec::new();
            let mut there = Vec::new();
            let mut topics: Vec<BTreeSet<i64>> = Vec::new();
            for (partition, (log, (begin, border), low)) in (0..).zip(&logs) {
                let is_archived = |offset: &&i64| (begin..border).contains(offset);
                let rows: BTreeSet<(i32, i64)> =
                    log.iter().filter(is_archived).map(|o| (partition, *o)).collect();
                archived.push(rows);
                there.push(ends(partition, *low, 45, 45));
                topics.push(log.iter().filter(|offset| *offset >= low).copied().collect());
            }
            let all: Vec<(i32, i64)> = archived.iter().flatten().copied().collect();
            let files: Vec<FileSpans> =
                all.chunks(cut).map(|rows| spans(&rows.iter().copied().collect())).collect();
            let halves = divide(&ArchiveOffsets::of(&files), &there).unwrap();
            for (half, (log, _, low)) in halves.iter().zip(&logs) {
                let index = usize::try_from(half.partition).unwrap();
                let (first, border) = half.archive.unwrap_or((i64::MIN, i64::MIN));
                let of_topic = |(start, end): (i64, i64)| {
                    topics[index].iter().copied().filter(move |offset| (start..end).contains(offset))
                };
                let mut read: Vec<i64> = half.before.into_iter().flat_map(of_topic).collect();
                read.extend(archived[index].iter().map(|(_, offset)| *offset)
                    .filter(|offset| (first..border).contains(offset)));
                read.extend(of_topic(half.topic));
                let lost = |offset: &i64| match half.archive {
                    Some((first, _)) => {
                        let is_lost = half.lost.is_some_and(|(from, to)| (from..to).contains(offset));
                        is_lost || *offset < first.min(*low)
                    }
                    None => offset < low,
                };
                let expected: Vec<i64> = log.iter().copied().filter(|offset| !lost(offset)).collect();
                prop_assert_eq!(read, expected);
            }
        }
    }
}
