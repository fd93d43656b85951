//! Offset ranges of a batch (LOSS-1): from the end of the last batch to the end of the topic, within limits.

use std::collections::BTreeMap;

use super::progress::SourceProgress;

/// Facts about a partition when the ranges of a batch are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionFacts {
    /// The partition.
    pub partition: i32,
    /// The position of the job in it, or the offset where the job begins in it; `None`: it has not been read yet, and is read from
    /// its first offset.
    pub position: Option<i64>,
    /// The first offset that the topic still has.
    pub low: i64,
    /// The offset after the last stable one.
    pub high: i64,
    /// The batch does not read it: other partitions have to catch up in event time first.
    pub waits: bool,
    /// It is known to be the same log as before, so records before its end were read.
    pub is_same: bool,
}

/// Offsets `start..end` of a partition that a batch reads; an empty range only stores the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedRange {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub start: i64,
    /// The offset after the last.
    pub end: i64,
}

/// Offsets that the job has not read and that the topic no longer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostOffsets {
    /// The partition.
    pub partition: i32,
    /// The first lost offset: the position of the job.
    pub from: i64,
    /// The offset where the job could continue: the first one that the topic has. If the log is shorter than before, this lies
    /// below `from`: the end of the log if it is known to be the same log.
    pub to: i64,
    /// The log ends before `from`.
    pub is_short: bool,
}

/// Chooses the ranges of a batch of at most `max_rows` offsets over all partitions, one range for each partition.
///
/// A partition without a position starts at its first offset. If not all offsets fit, the partitions advance at the same pace: each
/// gets an equal share, and other partitions use the part of it that one does not need. A partition that waits stays at its
/// position.
///
/// # Errors
///
/// LOSS-1: partitions whose next offset no longer exists. `skipping` holds, by partition, the gaps that were reported and that
/// the user allows the job to skip: the job continues at the end of such a gap. A gap that has grown since is not covered.
pub fn choose(
    facts: &[PartitionFacts],
    max_rows: u64,
    skipping: &BTreeMap<i32, SourceProgress>,
) -> Result<Vec<PlannedRange>, Vec<LostOffsets>> {
    let mut lost = Vec::new();
    let mut ranges: Vec<PlannedRange> = facts
        .iter()
        .map(|known| {
            let is_there = |offset: i64| (known.low..=known.high).contains(&offset);
            let skipped = skipping.get(&known.partition);
            let skipped = skipped.filter(|gap| Some(gap.start) == known.position);
            let start = match (known.position, skipped.map(|gap| gap.end)) {
                (None, _) => known.low,
                // Records that arrived after the report are not skipped, even if they have offsets of the gap.
                (Some(_), Some(end)) if is_there(end) => end,
                (Some(position), None) if is_there(position) => position,
                (Some(position), _) => {
                    let is_short = position > known.high;
                    let to = match is_short && known.is_same {
                        true => known.high,
                        false => known.low,
                    };
                    lost.push(LostOffsets {
                        partition: known.partition,
                        from: position,
                        to,
                        is_short,
                    });
                    to
                }
            };
            PlannedRange {
                partition: known.partition,
                start,
                end: match known.waits {
                    true => start,
                    false => known.high.max(start),
                },
            }
        })
        .collect();
    if !lost.is_empty() {
        return Err(lost);
    }
    share(&mut ranges, max_rows);
    Ok(ranges)
}

/// Cuts ranges to `max_rows` offsets in all: ranges below the equal share stay whole, the others get equal lengths. A range that is
/// not empty keeps at least one offset.
pub fn share(ranges: &mut [PlannedRange], max_rows: u64) {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    let length =
        |range: &PlannedRange| u64::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
    order.sort_by_key(|index| length(&ranges[*index]));
    let mut left = max_rows;
    let count = order.len() as u64;
    for (place, index) in (0_u64..).zip(order) {
        let range = &mut ranges[index];
        // No partition starves: each gets at least one offset, even above the limit.
        let fair = (left / (count - place)).max(1);
        let taken = length(range).min(fair);
        range.end = range
            .start
            .saturating_add(i64::try_from(taken).unwrap_or(i64::MAX));
        left = left.saturating_sub(taken);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(partition: i32, position: Option<i64>, low: i64, high: i64) -> PartitionFacts {
        PartitionFacts {
            partition,
            position,
            low,
            high,
            waits: false,
            is_same: false,
        }
    }

    fn nothing() -> BTreeMap<i32, SourceProgress> {
        BTreeMap::new()
    }

    fn gap(partition: i32, start: i64, end: i64) -> BTreeMap<i32, SourceProgress> {
        [(partition, SourceProgress { start, end })].into()
    }

    fn ends(ranges: &[PlannedRange]) -> Vec<(i64, i64)> {
        ranges
            .iter()
            .map(|range| (range.start, range.end))
            .collect()
    }

    #[test]
    fn partitions_start_at_their_position_or_their_first_offset() {
        for (position, start) in [(None, 5), (Some(5), 5), (Some(7), 7), (Some(9), 9)] {
            let chosen = choose(&[facts(0, position, 5, 9)], 100, &nothing());
            assert_eq!(ends(&chosen.unwrap()), [(start, 9)]);
        }
    }

    #[test]
    fn unused_batch_capacity_goes_to_other_partitions() {
        let all = [
            facts(0, Some(0), 0, 1_000),
            facts(1, Some(10), 0, 12),
            facts(2, Some(0), 0, 1_000),
        ];
        assert_eq!(
            ends(&choose(&all, 102, &nothing()).unwrap()),
            [(0, 50), (10, 12), (0, 50)]
        );
    }

    #[test]
    fn a_waiting_partition_leaves_its_capacity_to_others() {
        let waits = PartitionFacts {
            waits: true,
            ..facts(1, Some(10), 0, 1_000)
        };
        let all = [facts(0, Some(0), 0, 1_000), waits];
        assert_eq!(
            ends(&choose(&all, 100, &nothing()).unwrap()),
            [(0, 100), (10, 10)]
        );
        // A partition that waits reports its lost offsets all the same.
        let lost = PartitionFacts {
            position: Some(3),
            low: 5,
            ..waits
        };
        assert!(choose(&[lost], 100, &nothing()).is_err());
    }

    #[test]
    fn loss_1_lost_offsets_stop_the_job_unless_they_are_skipped() {
        let retained = [facts(0, Some(3), 5, 9), facts(1, Some(9), 0, 9)];
        let lost = LostOffsets {
            partition: 0,
            from: 3,
            to: 5,
            is_short: false,
        };
        assert_eq!(choose(&retained, 100, &nothing()), Err(vec![lost]));
        assert_eq!(
            ends(&choose(&retained, 100, &gap(0, 3, 5)).unwrap()),
            [(5, 9), (9, 9)]
        );
        // A log that is shorter than the position counts as another log, unless it is known to be the same.
        let anew = [facts(0, Some(30), 0, 4)];
        let lost = LostOffsets {
            partition: 0,
            from: 30,
            to: 0,
            is_short: true,
        };
        assert_eq!(choose(&anew, 100, &nothing()), Err(vec![lost]));
        // The end of the same log was cut off: the records before it were read.
        let cut = [PartitionFacts {
            is_same: true,
            ..anew[0]
        }];
        assert_eq!(
            choose(&cut, 100, &nothing()),
            Err(vec![LostOffsets { to: 4, ..lost }])
        );
    }

    #[test]
    fn loss_1_only_reported_losses_are_skipped() {
        // The gap has grown since it was reported.
        let grown = [facts(0, Some(3), 8, 9)];
        assert!(choose(&grown, 100, &gap(0, 3, 5)).is_err());
        // The report was about another place, or about another partition.
        assert!(choose(&grown, 100, &gap(0, 2, 8)).is_err());
        assert!(choose(&grown, 100, &gap(1, 3, 8)).is_err());
        // A log that was cut off at 4 and has been written to since: the new records are read.
        for high in [4, 7, 30, 50] {
            let cut = [PartitionFacts {
                is_same: true,
                ..facts(0, Some(30), 0, high)
            }];
            let chosen = choose(&cut, 1_000, &gap(0, 30, 4)).unwrap();
            assert_eq!(ends(&chosen), [(4, high)]);
        }
    }

    proptest! {
        #[test]
        fn ranges_are_contiguous_and_reach_the_end(
            highs in prop::collection::vec(0_i64..500, 1..6),
            max_rows in 1_u64..300,
        ) {
            let mut positions: Vec<Option<i64>> = vec![None; highs.len()];
            let mut batches = 0;
            while positions.iter().zip(&highs).any(|(position, high)| *position != Some(*high)) {
                let facts: Vec<PartitionFacts> = positions
                    .iter()
                    .zip(&highs)
                    .zip(0..)
                    .map(|((position, high), partition)| facts(partition, *position, 0, *high))
                    .collect();
                let ranges = choose(&facts, max_rows, &nothing()).unwrap();
                let total: i64 = ranges.iter().map(|range| range.end - range.start).sum();
                prop_assert!(total as u64 <= max_rows.max(highs.len() as u64));
                for (range, position) in ranges.iter().zip(&mut positions) {
                    prop_assert_eq!(range.start, position.unwrap_or(0));
                    *position = Some(range.end);
                }
                batches += 1;
                prop_assert!(batches <= 3_000);
            }
        }
    }
}
