//! A topic that is read together with its archive (ARCH-1): where a job can read in the two, and which offsets of a batch come from
//! which of them.
//!
//! Offsets are one axis. The archive covers ranges of it, the topic keeps the last part. A job sees the part without a hole that
//! contains its position as if it were one log. At a hole, that log ends, and the job stops there (LOSS-1).

use super::offset_ranges::{OffsetRange, OffsetRanges};
use crate::core::jobs::ends::PartitionEnds;
use crate::core::jobs::ranges::PlannedRange;

/// Whether a job that reads from `position` on needs the archive: the topic no longer has that offset. Without a position it begins
/// at the first record that there is.
pub fn needs_archive(topic: &PartitionEnds, position: Option<i64>) -> bool {
    position.is_none_or(|position| position < topic.low)
}

/// Where a partition starts and ends for a job that stands at `position`: the part of archive and topic without a hole that the
/// position lies in. Without a position it is the first part. `archive` has the offsets that the archive covers: each record that
/// the partition has had there is in the archive.
///
/// If the position lies in a hole, `low` of the result is the first offset behind it. If records come behind a hole at the end of
/// the part, [`behind_hole`](PartitionEnds::behind_hole) says where.
#[must_use]
pub fn with_archive(
    topic: &PartitionEnds,
    archive: &OffsetRanges,
    position: Option<i64>,
) -> PartitionEnds {
    let mut there = archive.clone();
    // Records that are not stable yet are not read.
    there.truncate(topic.high);
    there.insert(OffsetRange::new(topic.low, topic.high));
    let mut parts: Vec<OffsetRange> = there.ranges().collect();
    // The topic's own part counts also if it is empty: the next record comes there.
    if parts.last().is_none_or(|last| last.to < topic.high) {
        parts.push(OffsetRange::new(topic.high, topic.high));
    }
    let index = match position {
        // A job that has read up to a hole stands in it.
        Some(position) => parts.iter().take_while(|part| part.to <= position).count(),
        None => 0,
    };
    // At the end of the last part, or behind it if the log is shorter than before.
    let index = index.min(parts.len() - 1);
    let part = parts[index];
    let next = parts.get(index + 1);
    let unread = next.map(|_| {
        let from = position.unwrap_or(part.from);
        let left = parts[index..].iter();
        let left = left.map(|part| part.to.saturating_sub(part.from.max(from)));
        u64::try_from(left.sum::<i64>()).unwrap_or(0)
    });
    PartitionEnds {
        partition: topic.partition,
        low: part.from,
        high: part.to,
        latest: topic.latest,
        unread,
        behind_hole: next.map(|next| next.from),
    }
}

/// Cuts a range in two: offsets from its start up to the result come from the archive, those from there on from the topic. The archive
/// gives as much as it covers without a hole.
pub fn border(archive: &OffsetRanges, range: &PlannedRange) -> i64 {
    let all = OffsetRange::new(range.start, range.end);
    let missing = archive.missing_in(all).first();
    missing.unwrap_or(range.end.max(range.start))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::core::jobs::{PartitionFacts, SourceProgress, choose};

    fn covered(ranges: &[(i64, i64)]) -> OffsetRanges {
        let ranges = ranges.iter();
        ranges
            .map(|(from, to)| OffsetRange::new(*from, *to))
            .collect()
    }

    fn topic(low: i64, high: i64) -> PartitionEnds {
        PartitionEnds {
            partition: 0,
            low,
            high,
            latest: high,
            unread: None,
            behind_hole: None,
        }
    }

    fn planned(start: i64, end: i64) -> PlannedRange {
        PlannedRange {
            partition: 0,
            start,
            end,
        }
    }

    #[test]
    fn archive_and_topic_are_one_log_where_they_meet() {
        for border in [40, 45, 100] {
            let ends = with_archive(&topic(40, 100), &covered(&[(10, border)]), None);
            assert_eq!(ends, topic(10, 100), "{border}");
        }
        // Without an archive the topic is all there is.
        let ends = with_archive(&topic(40, 100), &covered(&[]), Some(60));
        assert_eq!(ends, topic(40, 100));
        // The last record is in the archive alone: the topic is empty, and its next record is read.
        let ends = with_archive(&topic(40, 40), &covered(&[(10, 40)]), Some(40));
        assert_eq!(ends, topic(10, 40));
        assert!(ends.is_at_end(40));
    }

    #[test]
    fn loss_1_a_hole_ends_what_is_read_until_the_job_stands_at_it() {
        let archive = covered(&[(0, 20), (30, 50)]);
        let topic = topic(60, 100);
        let first = PartitionEnds {
            low: 0,
            high: 20,
            unread: Some(20 + 20 + 40),
            behind_hole: Some(30),
            ..topic
        };
        assert_eq!(with_archive(&topic, &archive, None), first);
        assert_eq!(with_archive(&topic, &archive, Some(0)), first);
        let at_ten = with_archive(&topic, &archive, Some(10));
        assert_eq!((at_ten.low, at_ten.high, at_ten.unread), (0, 20, Some(70)));
        assert!(!at_ten.is_at_end(20));
        // At the hole, and within it, records come from offset 30 on.
        for position in [20, 25] {
            let behind = with_archive(&topic, &archive, Some(position));
            assert_eq!((behind.low, behind.high), (30, 50), "{position}");
            assert_eq!(behind.behind_hole, Some(60));
        }
        let last = with_archive(&topic, &archive, Some(70));
        assert_eq!(last, topic);
    }

    #[test]
    fn loss_1_the_topic_fills_a_hole_of_the_archive() {
        let archive = covered(&[(0, 20), (30, 50)]);
        let ends = with_archive(&topic(15, 100), &archive, Some(3));
        assert_eq!(ends, topic(0, 100));
        assert_eq!(border(&archive, &planned(3, 40)), 20);
        assert_eq!(border(&archive, &planned(22, 40)), 22);
        assert_eq!(border(&archive, &planned(30, 40)), 40);
    }

    #[test]
    fn records_that_are_not_stable_yet_are_not_read() {
        let open = PartitionEnds {
            latest: 105,
            ..topic(40, 100)
        };
        assert_eq!(with_archive(&open, &covered(&[(0, 105)]), None).high, 100);
    }

    #[test]
    fn a_position_behind_the_end_is_found_by_the_choice_of_ranges() {
        let ends = with_archive(&topic(10, 30), &covered(&[(0, 20)]), Some(40));
        assert_eq!((ends.low, ends.high), (0, 30));
    }

    /// A partition: ranges that the archive covers, and ends of the topic.
    fn partitions() -> impl Strategy<Value = (Vec<(i64, i64)>, i64, i64)> {
        let ranges = prop::collection::vec((0_i64..60, 0_i64..25), 0..5);
        (ranges, 0_i64..60, 0_i64..30).prop_map(|(ranges, low, length)| {
            let ranges = ranges.into_iter();
            let ranges = ranges.map(|(start, length)| (start, start + length));
            (ranges.collect(), low, low + length)
        })
    }

    proptest! {
        /// ARCH-1, LOSS-1: a job that skips what it reports as lost reads each offset that is in one of the two once, in order, from
        /// one that has it; and it reports all others.
        #[test]
        fn each_offset_is_read_from_one_that_has_it(
            (ranges, low, high) in partitions(),
            begins in prop::option::of(0_i64..60),
            max_rows in 1_u64..30,
        ) {
            let archive = covered(&ranges);
            let topic = topic(low, high);
            let begins = begins.filter(|begins| *begins <= high);
            let is_archived = |offset: i64| ranges.iter().any(|(start, end)| (*start..*end).contains(&offset));
            let is_kept = |offset: i64| (low..high).contains(&offset);
            let (mut position, mut skipping) = (begins, BTreeMap::new());
            let (mut read, mut lost) = (Vec::new(), BTreeSet::new());
            for _ in 0..200 {
                let ends = with_archive(&topic, &archive, position);
                let facts = PartitionFacts {
                    partition: 0,
                    position,
                    low: ends.low,
                    high: ends.high,
                    waits: false,
                    is_same: true,
                };
                let range = match choose(&[facts], max_rows, &skipping) {
                    Ok(ranges) => ranges[0],
                    Err(gaps) => {
                        prop_assert!(!gaps[0].is_short);
                        prop_assert_eq!(Some(gaps[0].from), position);
                        lost.extend(gaps[0].from..gaps[0].to);
                        skipping = BTreeMap::from([(0, SourceProgress { start: gaps[0].from, end: gaps[0].to })]);
                        continue;
                    }
                };
                if position.is_some_and(|position| ends.is_at_end(position)) {
                    break;
                }
                let border = border(&archive, &range);
                prop_assert!((range.start..=range.end).contains(&border));
                for offset in range.start..range.end {
                    let has_it = match offset < border {
                        true => is_archived(offset),
                        false => is_kept(offset),
                    };
                    prop_assert!(has_it);
                    read.push(offset);
                }
                position = Some(range.end);
            }
            prop_assert_eq!(position, Some(high));
            let first = (0..high).find(|offset| is_archived(*offset) || is_kept(*offset));
            let first = begins.or(first).unwrap_or(high);
            let is_there = |offset: &i64| is_archived(*offset) || is_kept(*offset);
            let (there, gone): (Vec<i64>, Vec<i64>) = (first..high).partition(is_there);
            prop_assert_eq!(read, there);
            prop_assert_eq!(lost, gone.into_iter().collect::<BTreeSet<i64>>());
        }

        /// The count of offsets that are still to be read leaves out the holes.
        #[test]
        fn unread_offsets_are_those_that_are_there(
            (ranges, low, high) in partitions(),
            position in 0_i64..90,
        ) {
            let position = position.min(high);
            let ends = with_archive(&topic(low, high), &covered(&ranges), Some(position));
            let is_there = |offset: &i64| {
                (low..high).contains(offset)
                    || ranges.iter().any(|(start, end)| (*start..*end).contains(offset))
            };
            let there = (position..high).filter(is_there).count() as u64;
            let told = ends.unread.unwrap_or_else(|| {
                u64::try_from(ends.high - position.max(ends.low)).unwrap()
            });
            prop_assert_eq!(told, there);
        }
    }
}
