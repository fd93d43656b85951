//! Coordinates that a scan of an archive has given, so that no record is given twice.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use datafusion::arrow::array::{Int32Array, Int64Array};

/// Offsets in one block: a bit each.
const BLOCK: i64 = 1 << 16;
const WORDS: usize = 1 << 10;

/// A block of offsets of a partition.
struct Block {
    /// Without it all offsets of the block were given.
    bits: Option<Box<[u64; WORDS]>>,
    count: i64,
}

impl Block {
    fn new() -> Self {
        Self {
            bits: Some(Box::new([0; WORDS])),
            count: 0,
        }
    }

    /// Adds an offset, by its place in the block; false if it is there already.
    fn add(&mut self, place: usize) -> bool {
        let Some(bits) = &mut self.bits else {
            return false;
        };
        let (word, bit) = (place / 64, 1_u64 << (place % 64));
        if bits[word] & bit != 0 {
            return false;
        }
        bits[word] |= bit;
        self.count += 1;
        if self.count == BLOCK {
            self.bits = None;
        }
        true
    }
}

/// Coordinates that were given, exactly: one bit for each offset between those that were given near each other, and nothing for 65,536
/// offsets in a row.
#[derive(Default)]
pub(super) struct SeenOffsets {
    blocks: Mutex<HashMap<(i32, i64), Block>>,
}

impl std::fmt::Debug for SeenOffsets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeenOffsets").finish_non_exhaustive()
    }
}

impl SeenOffsets {
    /// Adds the coordinates of rows, which have no NULL; gives the first row whose coordinates were there already.
    pub(super) fn add(&self, partitions: &Int32Array, offsets: &Int64Array) -> Option<usize> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = partitions.values().iter().zip(offsets.values().iter());
        let mut rows = keys.enumerate().peekable();
        while let Some((_, (partition, offset))) = rows.peek() {
            let key = (**partition, offset.div_euclid(BLOCK));
            let block = blocks.entry(key).or_insert_with(Block::new);
            let in_block = |(_, (partition, offset)): &(usize, (&i32, &i64))| {
                (**partition, offset.div_euclid(BLOCK)) == key
            };
            // Neighbouring rows are of one block.
            while let Some((row, (_, offset))) = rows.next_if(in_block) {
                let place = usize::try_from(offset.rem_euclid(BLOCK)).unwrap_or(0);
                if !block.add(place) {
                    return Some(row);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_block_needs_no_bits() {
        let seen = SeenOffsets::default();
        let offsets = Int64Array::from_iter_values(0..2 * BLOCK);
        let partitions = Int32Array::from_value(3, offsets.len());
        assert_eq!(seen.add(&partitions, &offsets), None);
        let blocks = seen.blocks.lock().unwrap();
        assert!(blocks.len() == 2 && blocks.values().all(|block| block.bits.is_none()));
        drop(blocks);
        let again = Int64Array::from(vec![BLOCK + 7]);
        assert_eq!(seen.add(&Int32Array::from(vec![3]), &again), Some(0));
        assert_eq!(seen.add(&Int32Array::from(vec![4]), &again), None);
    }

    proptest! {
        /// The same as a set, in any order and cut into batches anyhow.
        #[test]
        fn duplicates_are_found_as_in_a_set(
            rows in prop::collection::vec((0..3_i32, prop_oneof![0..40_i64, 65_500..65_570_i64, -3..3_i64]), 0..60),
            cut in 1..10_usize,
        ) {
            let seen = SeenOffsets::default();
            let mut oracle = BTreeSet::new();
            for batch in rows.chunks(cut) {
                let expected = batch.iter().position(|row| !oracle.insert(*row));
                let partitions = Int32Array::from_iter_values(batch.iter().map(|row| row.0));
                let offsets = Int64Array::from_iter_values(batch.iter().map(|row| row.1));
                prop_assert_eq!(seen.add(&partitions, &offsets), expected);
                if expected.is_some() {
                    break;
                }
            }
        }
    }
}
