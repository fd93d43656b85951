//! Event times in the part of a past that the topic gives. A topic cannot be asked for an event time, and each chunk of a run would read
//! that part again: it is read once, and then chunks read the blocks that have their times.

use std::collections::BTreeMap;

use datafusion::arrow::array::{
    Array as _, AsArray as _, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use crate::core::archive::{OffsetRange, OffsetRanges, PartitionOffsets, common_offsets};
use crate::error::{Error, Result};

/// So many offsets are one block.
const BLOCK: i64 = 4_096;

/// Fewer offsets are just read.
const LEAST: u64 = 4 * BLOCK as u64;

/// The lowest and the highest event time of each block that has a row, by partition and number.
#[derive(Debug, Default)]
pub(super) struct TailTimes {
    blocks: BTreeMap<(i32, i64), (i64, i64)>,
}

/// Whether there are so many offsets that it pays to know their times.
pub(super) fn is_worth_it(offsets: &PartitionOffsets) -> bool {
    offsets.values().map(OffsetRanges::count).sum::<u64>() >= LEAST
}

impl TailTimes {
    /// The part of `offsets` whose blocks may have a row in one of the ranges of time, both ends included.
    pub(super) fn within(
        &self,
        offsets: &PartitionOffsets,
        times: &[(Option<i64>, Option<i64>)],
    ) -> PartitionOffsets {
        let has = |(low, high): (i64, i64)| {
            times.iter().any(|(from, to)| {
                from.is_none_or(|from| from <= high) && to.is_none_or(|to| low <= to)
            })
        };
        let mut blocks = PartitionOffsets::new();
        for ((partition, number), bounds) in &self.blocks {
            if has(*bounds) {
                let from = number.saturating_mul(BLOCK);
                let block = OffsetRange::new(from, from.saturating_add(BLOCK));
                blocks.entry(*partition).or_default().insert(block);
            }
        }
        common_offsets(offsets, &blocks)
    }

    /// Adds rows of event time, partition and offset.
    pub(super) fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        let (times, partitions, offsets) = columns(rows)?;
        for row in 0..rows.num_rows() {
            if times.is_null(row) {
                continue;
            }
            let time = times.value(row);
            let place = (partitions.value(row), offsets.value(row).div_euclid(BLOCK));
            let known = self.blocks.entry(place).or_insert((time, time));
            *known = (known.0.min(time), known.1.max(time));
        }
        Ok(())
    }
}

/// Event time, partition and offset of rows.
pub(super) fn columns(
    rows: &RecordBatch,
) -> Result<(&TimestampMicrosecondArray, &Int32Array, &Int64Array)> {
    let other = || Error::internal("times and places in other columns");
    let [times, partitions, offsets] = rows.columns() else {
        return Err(other());
    };
    let times = times.as_primitive_opt::<TimestampMicrosecondType>();
    let partitions = partitions.as_primitive_opt::<Int32Type>();
    let offsets = offsets.as_primitive_opt::<Int64Type>();
    match (times, partitions, offsets) {
        (Some(times), Some(partitions), Some(offsets)) => Ok((times, partitions, offsets)),
        _ => Err(other()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::ArrayRef;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_row_of_a_range_is_left_out(
            rows in prop::collection::vec((0_i32..2, 0_i64..6 * BLOCK, prop::option::of(0_i64..100)), 0..40),
            from in 0_i64..100,
            length in 0_i64..40,
        ) {
            let columns: [(&str, ArrayRef); 3] = [
                ("t", Arc::new(rows.iter().map(|row| row.2).collect::<TimestampMicrosecondArray>())),
                ("p", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0)))),
                ("o", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
            ];
            let columns = columns.map(|(name, column)| (name, column, true));
            let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            let mut times = TailTimes::default();
            times.add(&batch).unwrap();
            let whole: OffsetRanges = [OffsetRange::new(BLOCK / 2, 5 * BLOCK)].into_iter().collect();
            let all: PartitionOffsets = [(0, whole.clone()), (1, whole)].into();
            let range = (Some(from), Some(from + length));
            let found = times.within(&all, &[range]);
            let is_in = |offsets: &PartitionOffsets, partition: i32, offset: i64| {
                let of = offsets.get(&partition);
                of.is_some_and(|of| of.has(offset))
            };
            let is_asked = |time: Option<i64>| time.is_some_and(|time| (from..=from + length).contains(&time));
            for (partition, offset, time) in &rows {
                if is_asked(*time) && is_in(&all, *partition, *offset) {
                    prop_assert!(is_in(&found, *partition, *offset));
                }
            }
            for (partition, offsets) in &found {
                prop_assert!(offsets.within(&all[partition]) == *offsets);
            }
            if rows.is_empty() {
                prop_assert!(found.is_empty());
            }
            prop_assert_eq!(times.within(&all, &[]), PartitionOffsets::new());
        }
    }
}
