//! Sets of offsets, by table and partition.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::core::archive::offset_ranges::{OffsetRange, OffsetRanges};
use crate::core::archive::past::{PartitionOffsets, common_offsets};
use crate::core::jobs::progress::Gaps;

/// Offsets by table and partition; none without an offset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OffsetSet(BTreeMap<String, PartitionOffsets>);

impl OffsetSet {
    /// The offsets of these ranges, which come in any order and may overlap. Empty ranges are left out.
    pub fn of(ranges: impl IntoIterator<Item = (String, i32, Range<i64>)>) -> Self {
        let mut set = Self::default();
        for (table, partition, Range { start, end }) in ranges {
            set.insert(&table, partition, OffsetRange::new(start, end));
        }
        set
    }

    /// The offsets that a chunk has read.
    pub fn read_by(chunk: &Gaps) -> Self {
        let ranges = chunk.iter().flat_map(|(table, partitions)| {
            let of_table = partitions.iter();
            of_table.map(move |(partition, of)| (table.clone(), *partition, of.start..of.end))
        });
        Self::of(ranges)
    }

    /// Adds the offsets of a range.
    pub fn insert(&mut self, table: &str, partition: i32, range: OffsetRange) {
        if range.is_empty() {
            return;
        }
        let of_table = match self.0.get_mut(table) {
            Some(of_table) => of_table,
            None => self.0.entry(table.to_owned()).or_default(),
        };
        of_table.entry(partition).or_default().insert(range);
    }

    /// Adds offsets of a table.
    pub fn extend(&mut self, table: &str, offsets: &PartitionOffsets) {
        for (partition, ranges) in offsets {
            for range in ranges.ranges() {
                self.insert(table, *partition, range);
            }
        }
    }

    /// The ranges of all partitions of all tables.
    pub fn ranges(&self) -> impl Iterator<Item = (&str, i32, OffsetRange)> {
        self.0.iter().flat_map(|(table, partitions)| {
            partitions.iter().flat_map(move |(partition, ranges)| {
                let ranges = ranges.ranges();
                ranges.map(move |range| (table.as_str(), *partition, range))
            })
        })
    }

    /// The tables that have an offset in it.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The offsets of a table by partition.
    pub fn of_table(&self, table: &str) -> Option<&PartitionOffsets> {
        self.0.get(table)
    }

    /// Whether it has this offset.
    pub fn contains(&self, table: &str, partition: i32, offset: i64) -> bool {
        let ranges = self.of_table(table).and_then(|of| of.get(&partition));
        ranges.is_some_and(|ranges| ranges.has(offset))
    }

    /// Whether it has no offset.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of ranges.
    pub fn range_count(&self) -> usize {
        let partitions = self.0.values().flat_map(BTreeMap::values);
        partitions.map(OffsetRanges::len).sum()
    }

    /// The number of offsets.
    pub fn len(&self) -> u64 {
        let partitions = self.0.values().flat_map(BTreeMap::values);
        partitions.map(OffsetRanges::count).sum()
    }

    /// Its offsets that the other one does not have.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for (table, partitions) in &self.0 {
            let of_table = partitions.iter().filter_map(|(partition, own)| {
                let mut own = own.clone();
                let removed = other.of_table(table).and_then(|of| of.get(partition));
                removed
                    .into_iter()
                    .flat_map(OffsetRanges::ranges)
                    .for_each(|range| own.remove(range));
                (!own.is_empty()).then_some((*partition, own))
            });
            let of_table: BTreeMap<i32, OffsetRanges> = of_table.collect();
            if !of_table.is_empty() {
                left.0.insert(table.clone(), of_table);
            }
        }
        left
    }

    /// The offsets that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (table, partitions) in &self.0 {
            if let Some(others) = other.of_table(table) {
                both.extend(table, &common_offsets(partitions, others));
            }
        }
        both
    }
}

impl fmt::Display for OffsetSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Ranges that are shown.
        const SHOWN: usize = 10;
        let text = |(table, partition, range): (&str, i32, OffsetRange)| {
            let OffsetRange { from, to } = range;
            format!("{table} {partition}: {from} to {to}")
        };
        let shown: Vec<String> = self.ranges().take(SHOWN).map(text).collect();
        f.write_str(&shown.join(", "))?;
        match self.range_count().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_set() -> impl Strategy<Value = Vec<(String, i32, Range<i64>)>> {
        let range = (prop::bool::ANY, 0_i32..2, 0_i64..40, 0_i64..9);
        let range = range.prop_map(|(is_other, partition, start, length)| {
            let table = if is_other { "u" } else { "t" };
            (table.to_owned(), partition, start..start + length)
        });
        prop::collection::vec(range, 0..8)
    }

    proptest! {
        #[test]
        fn sets_are_those_of_their_offsets(one in any_set(), two in any_set()) {
            let has = |set: &[(String, i32, Range<i64>)], table: &str, partition: i32, offset: i64| {
                set.iter().any(|(of, number, range)| {
                    of == table && *number == partition && range.contains(&offset)
                })
            };
            let (first, second) = (OffsetSet::of(one.clone()), OffsetSet::of(two.clone()));
            let both = first.intersection(&second);
            prop_assert_eq!(&both, &second.intersection(&first));
            let without = first.without(&second);
            prop_assert_eq!(&without, &first.without(&both));
            prop_assert_eq!(without.len() + both.len(), first.len());
            let mut count = 0;
            for (table, partition, offset) in ["t", "u"]
                .into_iter()
                .flat_map(|table| (0..2).flat_map(move |partition| (0..50).map(move |at| (table, partition, at))))
            {
                let found: Vec<_> = first.ranges().map(|(of, number, range)| (of.to_owned(), number, range.from..range.to)).collect();
                let common: Vec<_> = both.ranges().map(|(of, number, range)| (of.to_owned(), number, range.from..range.to)).collect();
                let is_in = has(&one, table, partition, offset);
                prop_assert_eq!(has(&found, table, partition, offset), is_in);
                let is_in_other = has(&two, table, partition, offset);
                prop_assert_eq!(has(&common, table, partition, offset), is_in && is_in_other);
                prop_assert_eq!(without.contains(table, partition, offset), is_in && !is_in_other);
                prop_assert_eq!(first.contains(table, partition, offset), is_in);
                count += u64::from(is_in);
            }
            prop_assert_eq!(first.len(), count);
            for partitions in ["t", "u"].iter().filter_map(|table| first.of_table(table)) {
                prop_assert!(partitions.values().all(|ranges| !ranges.is_empty()));
            }
        }
    }

    #[test]
    fn a_set_is_shown_with_its_partitions() {
        let set = OffsetSet::of([("t".to_owned(), 1, 5..9), ("t".to_owned(), 0, 3..4)]);
        assert_eq!(set.to_string(), "t 0: 3 to 4, t 1: 5 to 9");
        let many = (0..12).map(|at| ("t".to_owned(), 0, at * 5..at * 5 + 1));
        assert!(OffsetSet::of(many).to_string().ends_with(" and 2 more"));
    }
}
