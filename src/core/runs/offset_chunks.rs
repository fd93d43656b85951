//! Chunks of a run that emits rows by their offsets.

use super::offset_set::OffsetSet;
use crate::core::archive::offset_ranges::{OffsetRange, OffsetRanges};
use crate::core::jobs::progress::{Gaps, SourceProgress};
use crate::core::jobs::ranges::{PlannedRange, share};

/// The next chunk: of each partition the offsets from where the run stands up to an end, with at most `max_rows` offsets of `emission`
/// in all. Offsets between that are not in `emission` are passed over. `position` are the offsets after the last chunk, empty before
/// the first. None if the run is complete.
///
/// Partitions of one table advance at the same pace, as those of a job do; tables one after the other.
pub fn next_offsets(emission: &OffsetSet, position: &Gaps, max_rows: u64) -> Option<Gaps> {
    for table in emission.tables() {
        let Some(partitions) = emission.of_table(table) else {
            continue;
        };
        let at = |partition: i32| {
            let of_table = position.get(table);
            of_table.and_then(|of| of.get(&partition)).map(|of| of.end)
        };
        // The offsets of a partition that are emitted, numbered from 0: those that are left.
        let mut chosen: Vec<PlannedRange> = partitions
            .iter()
            .map(|(partition, ranges)| PlannedRange {
                partition: *partition,
                start: at(*partition).map_or(0, |offset| signed(before(ranges, offset))),
                end: signed(ranges.count()),
            })
            .collect();
        if chosen.iter().all(|of| of.start == of.end) {
            continue;
        }
        share(&mut chosen, max_rows);
        let ends = chosen.iter().filter_map(|range| {
            let ranges = partitions.get(&range.partition)?;
            let first = ranges.first()?;
            let start = at(range.partition).unwrap_or(first);
            let end = match range.end > range.start {
                true => offset_at(ranges, range.end - 1)? + 1,
                false => start,
            };
            Some((range.partition, SourceProgress { start, end }))
        });
        return Some([(table.to_owned(), ends.collect())].into());
    }
    None
}

/// The position after a chunk.
#[must_use]
pub fn advanced(mut position: Gaps, chunk: &Gaps) -> Gaps {
    for (table, partitions) in chunk {
        let known = position.entry(table.clone()).or_default();
        known.extend(partitions.iter().map(|(partition, of)| (*partition, *of)));
    }
    position
}

/// How many offsets of the ranges are before one.
fn before(ranges: &OffsetRanges, offset: i64) -> u64 {
    let earlier = OffsetRange::new(i64::MIN, offset);
    let counts = ranges.ranges().map(|range| range.within(earlier).count());
    counts.sum()
}

/// The offset of a number.
fn offset_at(ranges: &OffsetRanges, number: i64) -> Option<i64> {
    let mut left = u64::try_from(number).ok()?;
    for range in ranges.ranges() {
        match left.checked_sub(range.count()) {
            Some(more) => left = more,
            None => return range.from.checked_add_unsigned(left),
        }
    }
    None
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::jobs::ChunkExtent;

    #[test]
    fn a_chunk_passes_over_what_is_not_selected() {
        let selected = OffsetSet::of([("t".to_owned(), 0, 5..7), ("t".to_owned(), 0, 90..91)]);
        let chunk = |position: &Gaps, rows| next_offsets(&selected, position, rows);
        let first = chunk(&Gaps::new(), 2).unwrap();
        assert_eq!(first["t"][&0], SourceProgress { start: 5, end: 7 });
        let second = chunk(&first, 2).unwrap();
        assert_eq!(second["t"][&0], SourceProgress { start: 7, end: 91 });
        assert_eq!(chunk(&second, 2), None);
    }

    proptest! {
        /// RUN-2 for offsets: chunks of any sizes follow each other, and have each selected offset once.
        #[test]
        fn run_2_each_offset_is_in_one_chunk(
            ranges in prop::collection::vec((prop::bool::ANY, 0_i32..3, 0_i64..60, 1_i64..9), 1..9),
            sizes in prop::collection::vec(1_u64..12, 1..6),
        ) {
            let of = ranges.iter().map(|(is_other, partition, start, length)| {
                let table = if *is_other { "u" } else { "t" };
                (table.to_owned(), *partition, *start..start + length)
            });
            let emission = OffsetSet::of(of);
            let (mut position, mut read, mut sizes) = (Gaps::new(), Vec::new(), sizes.iter().cycle());
            let mut before: Vec<ChunkExtent> = Vec::new();
            while let Some(chunk) = next_offsets(&emission, &position, *sizes.next().unwrap()) {
                for (table, partitions) in &chunk {
                    for (partition, SourceProgress { start, end }) in partitions {
                        let of = &emission.of_table(table).unwrap()[partition];
                        let selected = (*start..*end).filter(|offset| of.contains(OffsetRange::new(*offset, *offset + 1)));
                        read.extend(selected.map(|offset| (table.clone(), *partition, offset)));
                    }
                }
                let extent = ChunkExtent::Offsets(chunk.clone());
                prop_assert!(extent.follows(before.iter()));
                before.push(extent);
                position = advanced(position, &chunk);
                prop_assert!(read.len() as u64 <= emission.len());
            }
            read.sort_unstable();
            let all = emission.ranges().flat_map(|(table, partition, range)| {
                (range.from..range.to).map(move |offset| (table.to_owned(), partition, offset))
            });
            prop_assert_eq!(read, all.collect::<Vec<_>>());
        }
    }
}
