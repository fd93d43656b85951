//! Ranges of offsets of one partition.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Offsets `from..to` of one partition: `to` is the offset after the last. It is empty if `to` is not above `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetRange {
    /// The first offset.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
}

impl OffsetRange {
    /// The range `from..to`.
    pub fn new(from: i64, to: i64) -> Self {
        Self { from, to }
    }

    /// Whether it has no offset.
    pub fn is_empty(self) -> bool {
        self.to <= self.from
    }

    /// The number of offsets.
    pub fn count(self) -> u64 {
        match self.is_empty() {
            true => 0,
            false => self.to.abs_diff(self.from),
        }
    }

    /// The offsets of both; empty if they share none.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            to: self.to.min(other.to),
        }
    }
}

/// A set of offsets of one partition, as ranges in order. Ranges that overlap or touch are one: as many ranges are kept as the set
/// has gaps, and one more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffsetRanges {
    /// The offset after the last of each range, by its first offset.
    ends: BTreeMap<i64, i64>,
}

impl OffsetRanges {
    /// Adds the offsets of a range.
    pub fn insert(&mut self, range: OffsetRange) {
        if range.is_empty() {
            return;
        }
        let OffsetRange { mut from, mut to } = range;
        // All ranges that overlap it or touch it become a part of it, from the last one on.
        while let Some((start, end)) = self.at_or_before(to)
            && end >= from
        {
            self.ends.remove(&start);
            from = from.min(start);
            to = to.max(end);
        }
        self.ends.insert(from, to);
    }

    /// Removes the offsets of a range.
    pub fn remove(&mut self, range: OffsetRange) {
        if range.is_empty() {
            return;
        }
        while let Some((start, end)) = self.at_or_before(range.to.saturating_sub(1))
            && end > range.from
        {
            self.ends.remove(&start);
            if end > range.to {
                self.ends.insert(range.to, end);
            }
            if start < range.from {
                self.ends.insert(start, range.from);
                return;
            }
        }
    }

    /// Removes all offsets from `from` on.
    pub fn truncate(&mut self, from: i64) {
        self.remove(OffsetRange::new(from, i64::MAX));
    }

    /// Whether it has no offset.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many ranges it is.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has all offsets of a range.
    pub fn contains(&self, range: OffsetRange) -> bool {
        range.is_empty()
            || self
                .at_or_before(range.from)
                .is_some_and(|(_, end)| end >= range.to)
    }

    /// Whether it has this offset.
    pub fn has(&self, offset: i64) -> bool {
        let range = self.at_or_before(offset);
        range.is_some_and(|(_, end)| offset < end)
    }

    /// The first offset, if there is one.
    pub fn first(&self) -> Option<i64> {
        self.ends.first_key_value().map(|(from, _)| *from)
    }

    /// The offset after the last, if there is one.
    pub fn end(&self) -> Option<i64> {
        self.ends.last_key_value().map(|(_, to)| *to)
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = OffsetRange> {
        self.ends
            .iter()
            .map(|(from, to)| OffsetRange::new(*from, *to))
    }

    /// The offsets of a range that it does not have.
    #[must_use]
    pub fn missing_in(&self, range: OffsetRange) -> Self {
        let mut missing = Self::default();
        missing.insert(range);
        let start = self
            .at_or_before(range.from)
            .map_or(range.from, |(start, _)| start);
        let known = self.ends.range((Bound::Included(start), Bound::Unbounded));
        for (from, to) in known.take_while(|(from, _)| **from < range.to) {
            missing.remove(OffsetRange::new(*from, *to));
        }
        missing
    }

    /// The number of offsets.
    pub fn count(&self) -> u64 {
        self.ranges().map(OffsetRange::count).sum()
    }

    /// The offsets of both.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        let mut common = self.clone();
        for range in self.ranges() {
            let missing = other.missing_in(range);
            missing.ranges().for_each(|missing| common.remove(missing));
        }
        common
    }

    /// Not more than `most` ranges, at least one, that have all of these offsets: the widest gaps stay.
    #[must_use]
    pub fn coarse(&self, most: usize) -> Self {
        if self.len() <= most.max(1) {
            return self.clone();
        }
        let ends = self.ends.values();
        let gaps = ends.zip(self.ends.keys().skip(1));
        let mut gaps: Vec<OffsetRange> = gaps
            .map(|(to, next)| OffsetRange::new(*to, *next))
            .collect();
        gaps.sort_unstable_by_key(|gap| std::cmp::Reverse(gap.count()));
        let mut coarse = self.clone();
        let narrow = gaps.into_iter().skip(most.max(1) - 1);
        narrow.for_each(|gap| coarse.insert(gap));
        coarse
    }

    /// The last range that begins at or before an offset: where it begins and ends.
    fn at_or_before(&self, offset: i64) -> Option<(i64, i64)> {
        let mut before = self.ends.range(..=offset);
        before.next_back().map(|(from, to)| (*from, *to))
    }
}

/// Adds the offsets of rows to the ranges of their partitions: row `i` has `offsets[i]` of `partitions[i]`. Rows come in any order;
/// rows that ascend within their partition are cheaper.
pub fn add_rows(ranges: &mut BTreeMap<i32, OffsetRanges>, partitions: &[i32], offsets: &[i64]) {
    let rows = partitions.iter().copied().zip(offsets.iter().copied());
    let mut rows: Vec<(i32, i64)> = rows.collect();
    if !rows.is_sorted() {
        rows.sort_unstable();
    }
    for run in rows.chunk_by(|(partition, offset), (next_partition, next)| {
        partition == next_partition && next.saturating_sub(1) <= *offset
    }) {
        if let ([(partition, from), ..], [.., (_, last)]) = (run, run) {
            let run = OffsetRange::new(*from, last.saturating_add(1));
            ranges.entry(*partition).or_default().insert(run);
        }
    }
}

impl FromIterator<OffsetRange> for OffsetRanges {
    fn from_iter<T: IntoIterator<Item = OffsetRange>>(ranges: T) -> Self {
        let mut all = Self::default();
        all.extend(ranges);
        all
    }
}

impl Extend<OffsetRange> for OffsetRanges {
    fn extend<T: IntoIterator<Item = OffsetRange>>(&mut self, ranges: T) {
        for range in ranges {
            self.insert(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The offsets one by one.
    fn offsets(ranges: &OffsetRanges) -> BTreeSet<i64> {
        ranges
            .ranges()
            .flat_map(|range| range.from..range.to)
            .collect()
    }

    fn range() -> impl Strategy<Value = OffsetRange> {
        (0_i64..40, -2_i64..12).prop_map(|(from, length)| OffsetRange::new(from, from + length))
    }

    proptest! {
        #[test]
        fn ranges_are_a_set_of_offsets(
            steps in prop::collection::vec((range(), 0_u8..4), 0..30),
            asked in range(),
        ) {
            let mut ranges = OffsetRanges::default();
            let mut oracle = BTreeSet::new();
            for (range, step) in steps {
                match step {
                    0 => {
                        ranges.remove(range);
                        oracle.retain(|offset| !(range.from..range.to).contains(offset));
                    }
                    1 => {
                        ranges.truncate(range.from);
                        oracle.retain(|offset| *offset < range.from);
                    }
                    _ => {
                        ranges.insert(range);
                        oracle.extend(range.from..range.to);
                    }
                }
                prop_assert_eq!(offsets(&ranges), oracle.clone());
                let kept: Vec<OffsetRange> = ranges.ranges().collect();
                prop_assert!(kept.iter().all(|range| !range.is_empty()));
                // Two ranges that touch are one.
                prop_assert!(kept.windows(2).all(|pair| pair[0].to < pair[1].from));
            }
            prop_assert_eq!(ranges.first(), oracle.first().copied());
            prop_assert_eq!(ranges.end(), oracle.last().map(|last| last + 1));
            prop_assert_eq!(ranges.is_empty(), oracle.is_empty());
            let wanted: BTreeSet<i64> = (asked.from..asked.to).collect();
            prop_assert_eq!(ranges.contains(asked), wanted.is_subset(&oracle));
            prop_assert_eq!(ranges.has(asked.from), oracle.contains(&asked.from));
            let missing: BTreeSet<i64> = wanted.difference(&oracle).copied().collect();
            prop_assert_eq!(offsets(&ranges.missing_in(asked)), missing);
            prop_assert_eq!(ranges.count(), u64::try_from(oracle.len()).unwrap());
        }

        #[test]
        fn offsets_of_both_are_in_each(
            one in prop::collection::vec(range(), 0..8),
            other in prop::collection::vec(range(), 0..8),
        ) {
            let (one, other): (OffsetRanges, OffsetRanges) =
                (one.into_iter().collect(), other.into_iter().collect());
            let common: BTreeSet<i64> = offsets(&one).intersection(&offsets(&other)).copied().collect();
            prop_assert_eq!(offsets(&one.within(&other)), common);
            prop_assert_eq!(one.within(&other), other.within(&one));
        }
    }

    proptest! {
        #[test]
        fn coarse_ranges_have_all_offsets_and_keep_the_widest_gaps(
            of in prop::collection::vec(range(), 0..12),
            most in 0_usize..6,
        ) {
            let ranges: OffsetRanges = of.into_iter().collect();
            let coarse = ranges.coarse(most);
            prop_assert!(coarse.len() <= most.max(1));
            prop_assert!(offsets(&ranges).is_subset(&offsets(&coarse)));
            prop_assert_eq!((coarse.first(), coarse.end()), (ranges.first(), ranges.end()));
            let gaps = |of: &OffsetRanges| {
                let whole = OffsetRange::new(of.first().unwrap_or(0), of.end().unwrap_or(0));
                let mut gaps: Vec<u64> = of.missing_in(whole).ranges().map(OffsetRange::count).collect();
                gaps.sort_unstable_by(|one, other| other.cmp(one));
                gaps
            };
            let mut widest = gaps(&ranges);
            widest.truncate(most.max(1) - 1);
            prop_assert_eq!(gaps(&coarse), widest);
        }
    }

    proptest! {
        #[test]
        fn rows_in_any_order_are_ranges_of_their_partitions(
            rows in prop::collection::vec((0_i32..3, 0_i64..30), 0..80),
            cut in 1_usize..20,
        ) {
            let mut ranges = BTreeMap::new();
            for batch in rows.chunks(cut) {
                let (partitions, of): (Vec<i32>, Vec<i64>) = batch.iter().copied().unzip();
                add_rows(&mut ranges, &partitions, &of);
            }
            let found: BTreeSet<(i32, i64)> = ranges
                .iter()
                .flat_map(|(partition, of)| offsets(of).into_iter().map(|offset| (*partition, offset)))
                .collect();
            prop_assert_eq!(found, rows.into_iter().collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn the_highest_offsets_are_ranges_too() {
        let mut ranges = OffsetRanges::default();
        ranges.insert(OffsetRange::new(i64::MAX - 1, i64::MAX));
        ranges.insert(OffsetRange::new(0, i64::MAX - 1));
        assert_eq!(ranges.end(), Some(i64::MAX));
        ranges.truncate(3);
        assert_eq!(
            ranges.ranges().collect::<Vec<_>>(),
            [OffsetRange::new(0, 3)]
        );
    }
}
