//! The past of a partition as a run reads it: a version of the archive and fixed ends of the topic (ARCH-1). Each offset comes from one
//! of the two.

use std::collections::BTreeMap;

use super::offset_ranges::{OffsetRange, OffsetRanges};
use crate::core::jobs::ends::PartitionEnds;

/// Offsets by partition.
pub type PartitionOffsets = BTreeMap<i32, OffsetRanges>;

/// The offsets that are in both; none of a partition without one.
pub fn common_offsets(one: &PartitionOffsets, other: &PartitionOffsets) -> PartitionOffsets {
    let common = one.iter().filter_map(|(partition, offsets)| {
        let common = offsets.within(other.get(partition)?);
        (!common.is_empty()).then_some((*partition, common))
    });
    common.collect()
}

/// Where the offsets of one partition come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PastParts {
    /// From the archive.
    pub archive: OffsetRanges,
    /// From the topic: the archive does not have them.
    pub topic: OffsetRanges,
}

impl PastParts {
    /// The offsets that come from the topic, and that it no longer has: it begins at `low`.
    #[must_use]
    pub fn lost(&self, low: i64) -> OffsetRanges {
        let mut lost = self.topic.clone();
        lost.truncate(low);
        lost
    }
}

/// Where the past of a partition begins: with the first offset that archive or topic have. `covered` has the offsets that the archive
/// covers.
pub fn first_of_past(covered: &OffsetRanges, topic: &PartitionEnds) -> i64 {
    covered
        .first()
        .map_or(topic.low, |first| first.min(topic.low))
}

/// Divides the offsets of `past` between the archive, which covers `covered`, and the topic, which fills its holes and gives what comes
/// behind it.
#[must_use]
pub fn divide_past(covered: &OffsetRanges, past: OffsetRange) -> PastParts {
    let mut archive = covered.clone();
    archive.truncate(past.to);
    archive.remove(OffsetRange::new(i64::MIN, past.from));
    PastParts {
        archive,
        topic: covered.missing_in(past),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn offsets(ranges: &OffsetRanges) -> BTreeSet<i64> {
        let ranges = ranges.ranges();
        ranges.flat_map(|range| range.from..range.to).collect()
    }

    #[test]
    fn the_past_begins_with_the_first_offset_that_there_is() {
        let covered = |from, to| [OffsetRange::new(from, to)].into_iter().collect();
        let topic = PartitionEnds {
            partition: 0,
            low: 10,
            high: 30,
            latest: 30,
            unread: None,
            behind_hole: None,
        };
        assert_eq!(first_of_past(&covered(3, 20), &topic), 3);
        assert_eq!(first_of_past(&covered(15, 20), &topic), 10);
        assert_eq!(first_of_past(&OffsetRanges::default(), &topic), 10);
    }

    proptest! {
        /// ARCH-1: the parts share no offset and have all of the past, each from one that has it.
        #[test]
        fn arch_1_each_offset_comes_from_one_that_has_it(
            ranges in prop::collection::vec((0_i64..50, 0_i64..15), 0..6),
            from in 0_i64..40,
            length in 0_i64..40,
            low in 0_i64..70,
        ) {
            let covered: OffsetRanges =
                ranges.iter().map(|(from, length)| OffsetRange::new(*from, from + length)).collect();
            let past = OffsetRange::new(from, from + length);
            let parts = divide_past(&covered, past);
            let (archive, topic) = (offsets(&parts.archive), offsets(&parts.topic));
            let is_archived = |offset: &i64| covered.contains(OffsetRange::new(*offset, offset + 1));
            prop_assert!(archive.iter().all(is_archived));
            prop_assert!(!topic.iter().any(is_archived));
            let lost: BTreeSet<i64> = topic.iter().filter(|offset| **offset < low).copied().collect();
            prop_assert_eq!(offsets(&parts.lost(low)), lost);
            let all: Vec<i64> = archive.iter().chain(&topic).copied().collect();
            prop_assert_eq!(all.len() as i64, length);
            prop_assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), (past.from..past.to).collect());
        }
    }
}
