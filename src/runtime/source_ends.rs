//! Ends of a job's sources as of one look: what of them a version has read, and what it has not.

use std::collections::BTreeMap;

use crate::core::jobs::{BatchVersion, PartitionEnds, Partitions, PlannedRange};
use crate::runtime::source::SourcePlans;

/// Start and end offsets of the partitions of a job's sources, by table.
pub(super) type SourceEnds = BTreeMap<String, Vec<PartitionEnds>>;

/// The ends that these plans were made of.
pub(super) fn of_plans(plans: &SourcePlans) -> SourceEnds {
    plans
        .iter()
        .map(|(table, plan)| (table.clone(), plan.ends.clone()))
        .collect()
}

/// All partitions that exist.
pub(super) fn known(ends: &SourceEnds) -> Partitions {
    ends.iter()
        .map(|(table, partitions)| {
            let numbers = partitions.iter().map(|ends| ends.partition);
            (table.clone(), numbers.collect())
        })
        .collect()
}

/// Whether the version `last` has read everything up to `ends`.
pub(super) fn is_caught_up(last: Option<&BatchVersion>, ends: &SourceEnds) -> bool {
    ends.iter().all(|(table, partitions)| {
        partitions.iter().all(|ends| {
            let next = last.and_then(|last| last.next_offset(table, ends.partition));
            next.unwrap_or(ends.low) >= ends.high
        })
    })
}

/// Number of offsets up to `ends` that come after the version `last`.
pub(super) fn lag(last: Option<&BatchVersion>, ends: &SourceEnds) -> u64 {
    lags(last, ends).map(|(.., lag)| lag).sum()
}

/// The same for each partition of each table.
pub(super) fn lags<'a>(
    last: Option<&'a BatchVersion>,
    ends: &'a SourceEnds,
) -> impl Iterator<Item = (&'a str, i32, u64)> {
    ends.iter().flat_map(move |(table, partitions)| {
        partitions.iter().map(move |ends| {
            let next = last.and_then(|last| last.next_offset(table, ends.partition));
            let offsets = ends.high - next.unwrap_or(ends.low);
            let lag = match ends.unread {
                Some(unread) => unread,
                None => u64::try_from(offsets).unwrap_or(0),
            };
            (table.as_str(), ends.partition, lag)
        })
    })
}

/// How many records up to `ends` a batch of these ranges leaves in the partitions that it reads. Those that wait for others in event time
/// are not read, and do not count.
pub(super) fn left_by(planned: &BTreeMap<String, Vec<PlannedRange>>, ends: &SourceEnds) -> u64 {
    let of_tables = planned.iter().filter_map(|(table, ranges)| {
        let ends = ends.get(table)?;
        // A plan has the ranges of its partitions in the order of their ends.
        let read = ranges
            .iter()
            .zip(ends)
            .filter(|(range, ends)| range.start < range.end && range.end < ends.high);
        let left = read.map(|(range, ends)| match ends.unread {
            // Offsets of files do not count their rows.
            Some(unread) => unread,
            None => u64::try_from(ends.high - range.end).unwrap_or(0),
        });
        Some(left.sum::<u64>())
    });
    of_tables.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_leaves_is_counted_where_it_reads() {
        let ends = |partition, unread| PartitionEnds {
            partition,
            low: 0,
            high: 100,
            latest: 100,
            unread,
            behind_hole: None,
        };
        let range = |partition, start, end| PlannedRange {
            partition,
            start,
            end,
        };
        let ends = SourceEnds::from([
            (
                "t".to_owned(),
                vec![ends(0, None), ends(1, None), ends(2, None)],
            ),
            ("files".to_owned(), vec![ends(0, Some(7))]),
        ]);
        let planned = |of_t: [(i64, i64); 3], of_files: (i64, i64)| {
            let of_t = (0..).zip(of_t);
            let of_t = of_t.map(|(partition, (start, end))| range(partition, start, end));
            let of_t: Vec<PlannedRange> = of_t.collect();
            BTreeMap::from([
                ("t".to_owned(), of_t),
                ("files".to_owned(), vec![range(0, of_files.0, of_files.1)]),
            ])
        };
        // The second is read to its end, and the third waits.
        let left = left_by(&planned([(0, 60), (90, 100), (5, 5)], (0, 100)), &ends);
        assert_eq!(left, 40);
        let left = left_by(&planned([(0, 100), (90, 99), (99, 100)], (0, 50)), &ends);
        assert_eq!(left, 8);
        assert_eq!(left_by(&BTreeMap::new(), &ends), 0);
    }
}
